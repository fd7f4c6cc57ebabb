import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import WhisperConfig

from llama_omni.errors import CheckpointError, ConfigError, InputError, TrainingError
from llama_omni.model.encoder import SpeechEncoder
from llama_omni.train.augment import AugmentSettings
from llama_omni.train.encoder import (
    EncoderSettings,
    EncoderTask,
    alphabet_of,
    edit_distance,
    train_encoder,
)
from llama_omni.train.encoder_model import CTCEncoder
from llama_omni.train.runner import train
from llama_omni.train.settings import TrainSettings
from llama_omni.train.spoken_rows import Joined, SpokenRow, SpokenRows
from llama_omni.train.tokenizer import train_tokenizer
from tests.data.data_tools import make_dataset, make_row

QUIET = AugmentSettings(
    silence_s=0.0, speed=0.0, equaliser_db=0.0, reverb_share=0.0, noise_share=0.0,
    telephone_share=0.0, clip_share=0.0, level_db=(-6.0, -6.0), warp_share=0.0, time_masks=0,
    mel_masks=0,
)  # fmt: skip
WORDS = ("one", "two", "six", "ten")
TEXTS = [f"{a} {b}" for a in WORDS for b in WORDS if a < b] + ["Two, one?", "ten six"]


def spoken(text):
    """Say each word as a chord of its own; the rows differ in length."""
    pieces = [np.zeros(1600)]
    for word in text.lower().replace(",", "").replace("?", "").split():
        t = np.arange(3200 + 320 * len(pieces)) / 16000
        place = WORDS.index(word)
        pieces += [sum(np.sin(2 * np.pi * f * t) for f in (300 + 250 * place, 3000 - 400 * place))]
    sound = 0.2 * np.concatenate(pieces).astype(np.float32)
    return SimpleNamespace(audio=sound, question=text, voice=f"chords:{TEXTS.index(text) % 2}")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return train_tokenizer(TEXTS, folder, num_tokens=300, vocab_size=310)


def config_for():
    return WhisperConfig(
        num_mel_bins=20,
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        max_source_positions=100,
        dropout=0.0,
    )


def task_for(tokenizer, *, samples=None, augment=QUIET, **settings):
    torch.manual_seed(0)
    rows = [spoken(text) for text in TEXTS]
    task = EncoderTask(
        config_for(),
        tokenizer,
        alphabet=alphabet_of(TEXTS),
        held_out={"seen": rows},
        settings=EncoderSettings(aux_layer=1, augment=augment, **settings),
        samples=samples,
    )
    return task, rows


def settings_for(**changes):
    values = {"batch_size": 8, "max_steps": 300, "learning_rate": 4e-3, "eval_every": 0}
    return TrainSettings(**{**values, "device": "cpu", "tensorboard": False, **changes})


def run(task, rows, output, **changes):
    lengths = [len(row.audio) for row in rows]
    return train(task, rows, lengths, settings_for(**changes), output)


def test_task_learns_eight_transcripts_by_heart(tokenizer, tmp_path):
    task, rows = task_for(tokenizer, samples=tmp_path / "samples")
    result = run(task, rows, tmp_path / "run")
    assert result.metrics["wer_seen"] == result.metrics["sentence_error_seen"] == 0.0
    assert {"sentence_error_seen/chords:0", "sentence_error_seen/chords:1"} <= set(result.metrics)
    lines = (tmp_path / "samples/step-300.jsonl").read_text().splitlines()
    assert len(lines) == len(rows)
    assert '"said": "two one", "heard": "two one"' in "".join(lines)


def test_resumed_run_gives_the_same_weights(tokenizer, tmp_path):
    varied = {"augment": AugmentSettings(), "clean_steps": 1, "ramp_steps": 3}
    whole, rows = task_for(tokenizer, **varied)
    run(whole, rows, tmp_path / "whole", max_steps=6, batch_size=4)
    begun, rows = task_for(tokenizer, **varied)
    cut = run(begun, rows, tmp_path / "cut", max_steps=6, batch_size=4, stop_after_s=1e-9)
    assert not cut.done
    resumed, rows = task_for(tokenizer, **varied)
    run(resumed, rows, tmp_path / "cut", max_steps=6, batch_size=4)
    expected = whole.model.state_dict()
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_product_is_read_by_the_speech_encoder(tokenizer, tmp_path):
    task, rows = task_for(tokenizer)
    folder = tmp_path / "product"
    folder.mkdir()
    task.save(folder)
    batch = task.collate(rows[:2])
    mel, lengths = batch["mel"], batch["mel_lengths"]
    task.model.eval()
    expected = task.model.encoder(mel, lengths)
    encoder = SpeechEncoder.from_pretrained(folder).eval()
    torch.testing.assert_close(encoder(mel, lengths), expected)
    again = CTCEncoder.load(folder).eval()
    assert again.recognise(mel, lengths) == task.model.recognise(mel, lengths)


def test_row_does_not_depend_on_its_batch(tokenizer):
    task, rows = task_for(tokenizer, augmented=0.0)  # else the level of either batch may vary
    task.model.eval()
    rows = sorted(rows, key=lambda row: len(row.audio))
    alone, both = task.collate(rows[:1]), task.collate([rows[0], rows[-1]])
    first = task.model(alone["mel"], alone["mel_lengths"])[1]
    second = task.model(both["mel"], both["mel_lengths"])[1][:1, : first.shape[1]]
    torch.testing.assert_close(second, first, atol=1e-5, rtol=1e-4)


def test_sound_is_varied_more_and_more(tokenizer):
    task, rows = task_for(
        tokenizer, augment=AugmentSettings(), clean_steps=10, ramp_steps=10, augmented=1.0
    )
    clean = [task.mel(row.audio) for row in rows]

    def changed(step):
        np.random.seed(step)
        task.begin_step(step)
        batch = task.collate(rows)
        kept = zip(batch["mel"], batch["mel_lengths"].tolist(), clean, strict=True)
        return sum(n != c.shape[1] or not torch.equal(m[:, :n], c) for m, n, c in kept)

    assert changed(9) == 0
    assert changed(25) == len(rows)
    assert 0 < sum(changed(step) for step in range(12, 18)) < 6 * len(rows)


def test_loss_is_a_sum_over_the_normaliser(tokenizer):
    task, rows = task_for(tokenizer)
    parts = [task.collate([row]) for row in rows]
    total = torch.tensor(float(sum(task.count(part) for part in parts)))
    together = task.loss(task.collate(rows), total).loss
    apart = sum(task.loss(part, total).loss for part in parts)
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


def test_encoder_is_trained_from_a_data_set_and_goes_on(tokenizer, tmp_path):
    data, folder = tmp_path / "data", tmp_path / "tokenizer"
    splits = {name: [[make_row(i, name) for i in range(6)]] for name in ("train", "test_seen")}
    make_dataset(data, splits)
    tokenizer.inner.save_pretrained(folder)

    def run(**changes):
        return train_encoder(
            data,
            folder,
            tmp_path / "run",
            config=config_for(),
            settings=EncoderSettings(aux_layer=1, clean_steps=2, ramp_steps=2),
            training=settings_for(max_steps=4, batch_size=4, metric="wer", **changes),
            held_out=("test_seen",),
        )

    assert run(stop_after_s=1e-9).step == 1
    result = run()
    assert result.done
    assert result.best == result.metrics["wer"] == result.metrics["wer_test_seen"]
    assert run() == result
    encoder = SpeechEncoder.from_pretrained(tmp_path / "run/best")
    assert encoder.config.d_model == 32
    assert len(list((tmp_path / "run/samples16").glob("*/rows-00000.json"))) == 2


def test_sounds_are_varied_alike_however_a_step_is_divided(tokenizer, tmp_path):
    losses = []
    for size in (8, 2):
        varied = {"augment": AugmentSettings(noise_share=1.0, babble_share=1.0), "clean_steps": 0}
        task, rows = task_for(tokenizer, ramp_steps=0, **varied)
        changes = {"max_steps": 3, "accumulation": 8 // size, "log_every": 1}
        run(task, rows, tmp_path / str(size), batch_size=size, **changes)
        found = map(json.loads, (tmp_path / str(size) / "metrics.jsonl").read_text().splitlines())
        losses.append([line["loss"] for line in found if "loss" in line])
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)


def test_other_data_settings_or_tokens_are_refused_in_a_run_that_began(tokenizer, tmp_path):
    make_dataset(tmp_path / "data", {"train": [[make_row(i) for i in range(6)]]})
    make_dataset(tmp_path / "other", {"train": [[make_row(i) for i in range(1, 7)]]})
    tokenizer.inner.save_pretrained(tmp_path / "tokenizer")
    longer = copy.deepcopy(tokenizer)
    longer.inner.add_tokens(["another"])
    longer.inner.save_pretrained(tmp_path / "longer")

    deep = config_for()
    deep.encoder_layers += 1

    def run(data="data", words="tokenizer", config=None, **changes):
        return train_encoder(
            tmp_path / data,
            tmp_path / words,
            tmp_path / "run",
            config=config or config_for(),
            settings=EncoderSettings(aux_layer=1, **changes),
            training=settings_for(max_steps=2, batch_size=4, stop_after_s=1e-9),
            held_out=(),
        )

    run()
    for changes, message in (
        ({"data": "other"}, "data_hash="),
        ({"words": "longer"}, "tokenizer_hash="),
        ({"config": deep}, "speech_encoder.encoder_layers=2 for 3"),
        ({"clean_steps": 7}, "encoder.clean_steps=500 for 7"),
    ):
        with pytest.raises(TrainingError, match=f"got a run with {message}"):
            run(**changes)
    assert run(batch_size=3).done


class FakeRows(SpokenRows):
    def __init__(self, *seconds):
        self.seconds = np.array(seconds)
        self.ids = self.questions = [f"row {value}" for value in seconds]

    def __getitem__(self, row):
        return SpokenRow(id=self.ids[row], audio=np.zeros(1, np.float32), question="", voice="")


def test_what_does_not_fit_the_window_is_left_out():
    rows = Joined([FakeRows(1.0, 3.0), FakeRows(2.0, 2.5)], longest_s=2.2)
    assert (rows.ids, len(rows), rows.num_left_out) == (["row 1.0", "row 2.0"], 2, 2)
    assert [rows[0].id, rows[1].id] == rows.questions == rows.ids
    assert rows.seconds.tolist() == [1.0, 2.0]
    with pytest.raises(InputError, match=r"at most 0\.5 s, which the encoder hears; all of 2"):
        Joined([FakeRows(1.0, 3.0)], longest_s=0.5)


def test_sound_that_would_outgrow_the_window_stays_plain(tokenizer):
    slow = AugmentSettings(silence_s=5.0)
    task, rows = task_for(tokenizer, augment=slow, augmented=1.0)
    task.begin_step(10**6)
    for seed in range(5):
        np.random.seed(seed)
        assert int(task.collate(rows)["mel_lengths"].max()) <= task.model.encoder.window


def test_encoder_begins_with_what_an_earlier_run_made(tokenizer, tmp_path):
    data, folder = tmp_path / "data", tmp_path / "tokenizer"
    splits = {name: [[make_row(i, name) for i in range(4)]] for name in ("train", "test_seen")}
    make_dataset(data, splits)
    tokenizer.inner.save_pretrained(folder)

    def run(output, config=None, **changes):
        return train_encoder(
            data,
            folder,
            tmp_path / output,
            config=config or config_for(),
            settings=EncoderSettings(aux_layer=1, clean_steps=0, ramp_steps=0, augmented=0.0),
            training=settings_for(max_steps=1, batch_size=4, metric="wer", **changes),
            held_out=("test_seen",),
            start=None if output == "first" else tmp_path / "first/final",
        )

    run("first")
    run("second", learning_rate=1e-12)
    one, two = (CTCEncoder.load(tmp_path / name / "final") for name in ("first", "second"))
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, atol=1e-6, rtol=0)
    other = config_for()
    other.encoder_ffn_dim = 96
    with pytest.raises(ConfigError, match="must have this run's shape"):
        run("third", other)


def test_damaged_product_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="must hold a pretrained encoder"):
        CTCEncoder.load(tmp_path)


def test_layer_that_does_not_exist_is_refused():
    config = WhisperConfig(encoder_layers=2, d_model=8, encoder_attention_heads=1)
    with pytest.raises(ConfigError, match="aux_layer must be 1 to 2, got 3"):
        CTCEncoder(config, alphabet="ab", vocab_size=10, aux_layer=3)


def test_alphabet_holds_what_is_heard():
    assert alphabet_of(["Ça va?", "Two-one!"]) == " aenotvwç"


@pytest.mark.parametrize(
    ("reference", "hypothesis", "distance"),
    [("", "", 0), ("abc", "abc", 0), ("abc", "axc", 1), ("abc", "bc", 1), ("", "ab", 2)],
)
def test_edit_distance_counts_changes(reference, hypothesis, distance):
    assert edit_distance(reference, hypothesis) == distance
