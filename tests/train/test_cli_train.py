"""The command, from a data set and two parts of a model to a folder that answers."""

import json
import shutil
import weakref
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import LlamaForCausalLM
from typer.testing import CliRunner

import llama_omni
from llama_omni.checkpoint.native import load_model, random_model
from llama_omni.cli_train import train_app
from llama_omni.data.flac import encode_flac
from llama_omni.data.schema import HistoryRow, Row, Sound
from llama_omni.data.shards import FORMAT, shard_name, write_manifest, write_shard
from llama_omni.model.encoder import SpeechEncoder
from llama_omni.model.presets import preset
from llama_omni.model.tokenizer import random_tokenizer
from llama_omni.model.vocoder import UnitVocoder, vocoder_preset
from llama_omni.train import stages


def row(number: int, split: str) -> Row:
    rng = np.random.default_rng(number)
    sound = Sound(bytes=encode_flac(rng.normal(0, 0.1, 8000).astype(np.float32)), path="q.flac")
    earlier = HistoryRow(question="before", answer="yes", question_audio=sound)
    return Row(
        id=f"row-{number}",
        split=split,
        source="test",
        intent=None,
        question="how many",
        question_audio=sound,
        question_voice="noise",
        question_s=0.5,
        answer=f"it is {number}",
        units=list(range(number, number + 12)),
        history=(earlier,) if number % 2 else (),
    )


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A data set, a language model with its tokeniser, an encoder, and a vocoder."""
    folder = tmp_path_factory.mktemp("parts")
    shards = [
        write_shard(folder / "data", shard_name(s, 0), s, [row(i, s) for i in numbers])
        for s, numbers in (("train", range(8)), ("test", range(8, 10)))
    ]
    entries = [asdict(shard) for shard in shards]
    write_manifest(folder / "data", {"format": FORMAT, "shards": entries})
    torch.manual_seed(0)
    config = preset("tiny")
    LlamaForCausalLM(config.llm).save_pretrained(folder / "llm")
    random_tokenizer(config).inner.save_pretrained(folder / "llm")
    SpeechEncoder(config.encoder).save_pretrained(folder / "encoder")
    UnitVocoder(vocoder_preset("tiny")).save_pretrained(folder / "vocoder")
    return folder


def call(*arguments):
    return CliRunner().invoke(train_app, [str(argument) for argument in arguments])


QUICK = [
    item
    for stage in ("stage1", "stage2")
    for change in ("max_steps=2", "batch_size=2", "tensorboard=false", "max_new_tokens=4")
    for item in ("--set", f"{stage}.{change}")
]


def test_recipe_trains_both_stages_into_a_model_that_answers(parts, tmp_path):
    given = ["--data", parts / "data", "--llm", parts / "llm", "--encoder", parts / "encoder"]
    given += ["--vocoder", parts / "vocoder", "-o", tmp_path / "run", *QUICK]
    given += ["--set", f"stage2.state_cache={tmp_path / 'cache'}"]
    result = call("tiny", *given)
    assert result.exit_code == 0, f"{result.output}{result.exception}"
    final = tmp_path / "run/stage2/final"
    recipe = json.loads((final / "recipe.json").read_text())
    assert recipe["stage1"]["max_steps"] == 2
    assert len(list((tmp_path / "run/stage2/samples/step-00000002").glob("*.wav"))) == 2
    assistant = llama_omni.load(final, device="cpu")
    reply = assistant.reply(np.zeros(8000, np.float32), max_new_tokens=3)
    assert len(reply.token_ids) == 3
    again = call("tiny", *given)
    assert again.exit_code == 0, again.output


def test_stage_two_alone_goes_on_with_the_stage_one_of_its_folder(parts, tmp_path):
    given = ["--data", parts / "data", "--llm", parts / "llm", "--encoder", parts / "encoder"]
    given += ["-o", tmp_path / "run", *QUICK]
    assert call("tiny", *given, "--stage", "1").exit_code == 0
    result = call("tiny", *given, "--stage", "2")
    assert result.exit_code == 0, f"{result.output}{result.exception}"
    assert f"stage 2 begins with {tmp_path / 'run/stage1/best'}" in result.output
    named = ["--model", tmp_path / "run/stage1/final", "-o", tmp_path / "run", "--stage", "2"]
    chosen = call("tiny", "--data", parts / "data", *named, *QUICK)
    assert f"stage 2 begins with {tmp_path / 'run/stage1/final'}" in chosen.output
    before, after = (load_model(tmp_path / "run" / s / "best") for s in ("stage1", "stage2"))
    for name in ("adapter", "llm"):
        states = [getattr(model, name).state_dict() for model in (before, after)]
        assert_close(states[1], states[0])


def test_model_goes_on_with_a_new_encoder(parts, tmp_path):
    given = ["--data", parts / "data", "--encoder", parts / "encoder", *QUICK]
    whole = call("tiny", *given, "--llm", parts / "llm", "-o", tmp_path / "run")
    assert whole.exit_code == 0, f"{whole.output}{whole.exception}"
    before = load_model(tmp_path / "run/stage2/final")
    torch.manual_seed(1)
    SpeechEncoder(before.config.encoder).save_pretrained(tmp_path / "other")
    model = ["--model", tmp_path / "run/stage2/final", "-o", tmp_path / "renewed", "--stage", "1"]
    result = call("tiny", *given, *model, "--encoder", tmp_path / "other")
    assert result.exit_code == 0, f"{result.output}{result.exception}"
    after = load_model(tmp_path / "renewed/stage1/final")
    other = SpeechEncoder.from_pretrained(tmp_path / "other")
    assert_close(after.encoder.state_dict(), other.state_dict())
    assert_close(after.speech_decoder.state_dict(), before.speech_decoder.state_dict())


def test_stage_goes_on_with_its_own_data_set_and_tokens_alone(parts, tmp_path):
    given = ["--llm", parts / "llm", "--encoder", parts / "encoder", "-o", tmp_path / "run"]
    given += [*QUICK, "--stage", "1", "--set", "stage1.held_out_rows=0"]
    begun = call("tiny", *given, "--data", parts / "data", "--set", "stage1.stop_after_s=1e-9")
    assert "stopped at step 1" in begun.output
    assert not (tmp_path / "run/stage1/best").exists()
    shards = [
        write_shard(tmp_path / "other", shard_name(s, 0), s, [row(i, s) for i in numbers])
        for s, numbers in (("train", range(1, 9)), ("test", range(9, 11)))
    ]
    entries = [asdict(shard) for shard in shards]
    write_manifest(tmp_path / "other", {"format": FORMAT, "shards": entries})
    refused = call("tiny", *given, "--data", tmp_path / "other")
    assert refused.exit_code == 2
    assert "got a run with data_hash=" in refused.output
    assert call("tiny", *given, "--data", parts / "data").exit_code == 0


def test_model_of_stage_one_is_gone_when_stage_two_begins(parts, tmp_path, monkeypatch):
    seen: list[weakref.ref] = []

    def watched(run):
        def train(start, *arguments, **options):
            assert not any(model() for model in seen)
            seen.append(weakref.ref(start.model))
            return run(start, *arguments, **options)

        return train

    for name in ("train_stage_one", "train_stage_two"):
        monkeypatch.setattr(stages, name, watched(getattr(stages, name)))
    given = ["--data", parts / "data", "--llm", parts / "llm", "--encoder", parts / "encoder"]
    result = call("tiny", *given, "-o", tmp_path / "run", *QUICK)
    assert result.exit_code == 0, f"{result.output}{result.exception}"
    assert len(seen) == 2


def with_units(parts, folder, count):
    """The same data set, whose manifest says that it has so many units."""
    shutil.copytree(parts / "data", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    write_manifest(folder, manifest | {"units": {"K": count}})
    return folder


def test_model_has_as_many_units_as_the_data_set(parts, tmp_path):
    data = with_units(parts, tmp_path / "data", 21)
    given = ["--data", data, "--llm", parts / "llm", "--encoder", parts / "encoder"]
    given += ["-o", tmp_path / "run", *QUICK, "--stage", "1"]
    refused = call("tiny", *given, "--vocoder", parts / "vocoder")
    assert refused.exit_code == 2
    assert "got 21 of the model, 200 of the vocoder, 21 of the data set" in refused.output
    assert not (tmp_path / "run").exists()
    result = call("tiny", *given)
    assert result.exit_code == 0, f"{result.output}{result.exception}"
    assert load_model(tmp_path / "run/stage1/final").config.speech_decoder.num_units == 21


def test_model_of_other_units_learns_to_write_but_not_to_speak(parts, tmp_path):
    model = random_model(preset("tiny"))
    model.save_pretrained(tmp_path / "model")
    random_tokenizer(model.config).inner.save_pretrained(tmp_path / "model")
    (tmp_path / "model/kmeans.npy").write_bytes(b"centres")
    data = with_units(parts, tmp_path / "data", 21)
    given = ["--data", data, "--model", tmp_path / "model", "-o", tmp_path / "run", *QUICK]
    for stage in ("2", "both"):
        refused = call("tiny", *given, "--stage", stage)
        assert refused.exit_code == 2
        assert "got 200 of the model, none of the vocoder, 21 of the" in refused.output
    result = call("tiny", *given, "--stage", "1")
    assert result.exit_code == 0, f"{result.output}{result.exception}"
    manifest = json.loads((data / "manifest.json").read_text())
    write_manifest(data, manifest | {"units": {"K": 200, "kmeans_sha256": "0" * 64}})
    refused = call("tiny", *given, "--stage", "2")
    assert "kmeans.npy must be the centres of the units of" in refused.output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--stage", "3"], "--stage must be 1, 2, both, got '3'"),
        (["--set", "stage1.speed=3"], "no field 'speed'"),
        (["--set", "stage1.device=cuda:99"], "device 'cuda:99' must exist"),
        (["--threads", "0"], "threads must be 1 to "),
        (["--llm", "nowhere"], "llm must be a folder or a hub id"),
        (["--encoder", "nowhere.pt"], "nowhere.pt"),
        (["--data", "nowhere"], "nowhere must hold a data set"),
        (["--model", "m"], "m must be a folder with a model"),
        (["--stage", "2"], "--stage 2 must begin with a model after stage 1, got --llm"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(parts, tmp_path, change, message):
    given = {"--data": parts / "data", "--llm": parts / "llm", "--encoder": parts / "encoder"}
    given |= {"-o": tmp_path / "run"}
    arguments = [item for pair in given.items() for item in pair]
    result = call("tiny", *arguments, *QUICK, *change)
    assert result.exit_code == 2
    assert message in result.output
    assert result.output.count("\n") == 1
