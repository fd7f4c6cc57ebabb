import json
import logging
import platform
from contextlib import closing

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.run import main
from llama_omni.bench import BenchSettings, run_bench
from llama_omni.bench.costs import (
    Cost,
    adapt_cost,
    encode_cost,
    prefill_cost,
    speech_step_cost,
    step_cost,
    vocode_cost,
    written_step_cost,
)
from llama_omni.bench.first_audio import PHASES, phase_seconds
from llama_omni.bench.memory import cache_bytes_per_token
from llama_omni.bench.per_token import PROMPT_POSITIONS, _LongReply, affordable
from llama_omni.bench.roofline import Rates, roofline
from llama_omni.bench.settings import Spread
from llama_omni.bench.subject import random_subject, spoken_question
from llama_omni.checkpoint import empty_model
from llama_omni.engine.cache import SpeechCache
from llama_omni.errors import ConfigError, OutputError
from llama_omni.interfaces import Timings
from llama_omni.model.presets import preset
from llama_omni.model.vocoder import UnitVocoder, vocoder_preset

LEAST = BenchSettings(
    repeats=1,
    questions_s=(0.5,),
    chunk_sizes=(10, None),
    positions=(2, 4),
    steps=1,
    reply_tokens=2,
    loadings=1,
)
H100 = {"flops_per_s": 800e12, "bytes_per_s": 3.35e12}


class Clock:
    """A clock that moves by one second each time it is read."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


@pytest.fixture(scope="module")
def subject():
    return random_subject("tiny", device="cpu", dtype="float32", clock=Clock())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results") / "new"
    result = run_bench(preset="tiny", device="cpu", threads=1, output=folder, settings=LEAST)
    return result, folder


# Arithmetic, against numbers worked out by hand for the 8b preset (decimal, FLOP and bytes).


def test_encoder_of_8b_takes_2_8_ms_of_an_h100():
    cost = encode_cost(preset("8b").encoder, mel_frames=3000, size=2)
    # 2 x 3000 x 3 x 128 x 1280 + 2 x 1500 x 3 x 1280^2, and 32 layers of
    # 2 x 1500 x 12 x 1280^2 + 4 x 1500^2 x 1280
    assert cost.flops == 2_949_120_000 + 14_745_600_000 + 32 * (58_982_400_000 + 11_520_000_000)
    assert cost.floor_s(**H100) * 1e3 == pytest.approx(2.84, abs=0.01)


def test_prefill_of_8b_takes_7_9_ms_of_an_h100_for_450_positions():
    cost = prefill_cost(preset("8b").llm, positions=450, size=2)
    # a layer: 2 x 4096^2 + 2 x 4096 x 1024 + 3 x 4096 x 14336 = 218,103,808
    assert cost.flops == 2 * 450 * 32 * 218_103_808 + 4 * 32 * 4096 * 101_475
    assert cost.bytes == 2 * 32 * 218_103_808 + 450 * 128 * 1024  # 128 KiB a position
    assert cost.floor_s(**H100) * 1e3 == pytest.approx(7.92, abs=0.01)


def test_step_of_8b_reads_its_weights_in_4_7_ms_of_an_h100():
    config = preset("8b")
    thinking = written_step_cost(config.llm, positions=0, size=2)
    assert thinking.bytes == 2 * (32 * 218_103_808 + 4096 * 128_256)
    speaking = speech_step_cost(config.speech_decoder, llm_dim=4096, tokens=0, size=2)
    # two inputs of 4096^2, two layers of 4 x 4096^2 + 3 x 4096 x 11008, 1,001 labels
    assert speaking.bytes == 2 * (33_554_432 + 2 * 202_375_168 + 4096 * 1001)
    assert (thinking + speaking).floor_s(**H100) * 1e3 == pytest.approx(4.74, abs=0.01)


def test_vocoder_weights_of_8b_are_those_of_the_released_one():
    cost = vocode_cost(vocoder_preset("8b"), units=10, frames=17, size=1)
    assert cost.bytes == pytest.approx(13.485e6 - 1000 * 128, rel=0.01)  # but for its embeddings


def test_floor_is_the_slower_of_computing_and_moving():
    assert Cost(10, 1).floor_s(flops_per_s=5.0, bytes_per_s=1.0) == 2
    assert Cost(1, 10).floor_s(flops_per_s=1.0, bytes_per_s=2.0) == 5


@pytest.mark.parametrize("name", ["tiny", "1b", "8b"])
def test_costs_read_every_matrix_of_the_model_once(name):
    config = preset(name)
    model = empty_model(config)

    def matrices(module):
        return sum(p.numel() for p in module.parameters() if p.dim() > 1)

    encoder = encode_cost(config.encoder, mel_frames=100, size=1).bytes
    positions = model.encoder.embed_positions.weight.numel()
    assert encoder == matrices(model.encoder) - positions
    body = prefill_cost(config.llm, positions=0, size=1).bytes
    assert body == matrices(model.llm.get_decoder()) - model.get_input_embeddings().weight.numel()
    head = written_step_cost(config.llm, positions=0, size=1).bytes - body
    assert head == model.get_output_embeddings().weight.numel()
    speech = speech_step_cost(
        config.speech_decoder, llm_dim=config.llm.hidden_size, tokens=0, size=1
    )
    places = model.speech_decoder.frame_embedding.weight.numel()
    assert speech.bytes == matrices(model.speech_decoder) - places
    with torch.device("meta"):
        vocoder = UnitVocoder(vocoder_preset(name))
    vocode = vocode_cost(vocoder.config, units=1, frames=1, size=1).bytes
    assert vocode == matrices(vocoder) - vocoder.embedding.weight.numel()


# Arithmetic, against what torch counts while the tiny model runs.


def counted(work):
    # Torch counts attention only where it is made of products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        with torch.inference_mode():
            work()
    return counter.get_total_flops()


def test_costs_of_a_question_are_what_torch_counts(subject):
    model, config = subject.assistant.model, subject.assistant.model.config
    encode = encode_cost(config.encoder, mel_frames=300, size=4).flops
    assert counted(lambda: model.encoder(torch.zeros(1, 80, 300))) == encode
    adapt = adapt_cost(config.adapter, encoder_dim=160, llm_dim=256, features=150, size=4).flops
    assert counted(lambda: model.adapter(torch.zeros(1, 150, 160))) == adapt
    vocoder = subject.assistant.vocoder
    units = torch.arange(10)
    frames = int(vocoder.durations(units[None]).sum())
    vocode = vocode_cost(vocoder.config, units=10, frames=frames, size=4).flops
    assert counted(lambda: vocoder(units)) == pytest.approx(vocode, rel=0.01)


@pytest.mark.parametrize("tokens", [1, 3, 40])
def test_cost_of_a_step_is_what_torch_counts(subject, tokens):
    stepper, config = subject.assistant.stepper, subject.assistant.model.config
    step = step_cost(config, prompt_positions=PROMPT_POSITIONS, tokens=tokens, size=4).flops
    with closing(_LongReply(subject, tokens=64)) as reply:
        reply.streaming_s(tokens)  # computes the place table, which is kept
        row = reply._stand_at(tokens, reply._speech_slot)
        assert counted(lambda: stepper.step([row], [0])) == pytest.approx(step, rel=0.01)


def test_cache_bytes_in_costs_are_those_that_storage_takes(subject):
    stepper, config = subject.assistant.stepper, subject.assistant.model.config

    def moved(tokens):
        cost = speech_step_cost(config.speech_decoder, llm_dim=256, tokens=tokens, size=4)
        return cost.bytes

    place_table = config.speech_decoder.upsample_factor * 256 * 4
    per_token = cache_bytes_per_token(stepper.speech_cache) + place_table
    assert moved(101) - moved(100) == per_token
    assert cache_bytes_per_token(stepper.llm_cache) == 4 * 2 * 2 * 64 * 4


def test_first_layer_rows_keep_little_more_than_half_of_a_full_cache():
    model = empty_model(preset("8b"), dtype=torch.bfloat16)
    cache = SpeechCache(
        model.speech_decoder, dtype=torch.bfloat16, device=torch.device("meta"), max_tokens=256
    )
    per_token = cache_bytes_per_token(cache)
    assert per_token == 400 * 1024 + 2 * 4096 * 2 + 25 * 4  # of 800 KiB


# How it is measured.


def test_phases_add_up_to_the_time_to_first_audio():
    timings = Timings(
        mel_s=1.0,
        encode_s=2.0,
        adapt_s=3.0,
        prefill_s=4.0,
        first_token_s=15.0,
        first_vocode_s=6.0,
        first_audio_s=30.0,
    )
    phases = phase_seconds(timings)
    assert tuple(phases) == PHASES
    assert sum(phases.values()) == 30
    assert phases["first_token"] == 5
    assert phases["steps"] == 9


def test_random_subject_has_no_stop_tokens(subject):
    assert subject.assistant.model.config.stop_token_ids == ()


def test_reply_that_only_says_stop_tokens_still_has_all_its_tokens(written):
    result, _ = written
    assert [row["tokens"] for row in result["first_audio"]] == [1, LEAST.reply_tokens]
    assert result["speech_cost"]["reply_tokens"] == LEAST.reply_tokens
    assert result["speech_cost"]["units"] == 21  # floor(2 x 10.8)
    assert result["speech_cost"]["same_tokens"]


def test_long_reply_stands_where_the_step_that_makes_a_token_begins(subject):
    stepper = subject.assistant.stepper
    with closing(_LongReply(subject, tokens=64)) as reply:
        assert reply.streaming_s(50) == 1.0  # the clock's next reading
        assert list(stepper.speech_cache.lengths.values()) == [50]
        assert list(stepper.llm_cache.lengths.values()) == [PROMPT_POSITIONS + 49]
    assert stepper.speech_cache.lengths == {}
    assert stepper.llm_cache.lengths == {}


@pytest.mark.parametrize(
    ("position", "taken", "fits"),
    [
        (32, {32: [], 64: []}, True),
        (64, {32: [2.0], 64: []}, True),
        (64, {32: [3.0], 64: []}, False),
        (64, {32: [], 64: [4.0]}, True),
        (64, {32: [], 64: [4.0, 4.0]}, False),
        (128, {32: [0.5], 64: [3.0], 128: []}, False),
    ],
    ids=["nothing known", "short", "long", "again", "spent", "longest counts"],
)
def test_recomputing_stays_within_its_budget(position, taken, fits):
    assert affordable(position, taken, 10.0) is fits


def test_spread_is_median_lowest_and_highest():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(median=2.0, low=1.0, high=3.0, runs=3)


def test_spoken_question_is_sound_of_that_length():
    question = spoken_question(1.5)
    assert len(question) == 24_000
    assert 0.05 < abs(question).max() < 1.0


def test_roofline_puts_a_floor_beside_each_measured_phase(subject, written):
    result, _ = written
    rates = Rates(bytes_per_s=1e9, flops_per_s=1e9)
    rows = roofline(subject, rates, result["first_audio"], result["per_token"])["rows"]
    assert [row["phase"] for row in rows] == [
        "encode, question of 0.5 s",
        "adapt, question of 0.5 s",
        "prefill, question of 0.5 s",
        "vocode, Omega 10",
        "vocode, Omega infinity",
        "step at token 2",
        "step at token 4",
    ]
    for row in rows:
        assert row["floor_s"] == max(row["flops"], row["bytes"]) / 1e9
        assert row["over_floor"] == row["measured_s"] / row["floor_s"]


# What is written, and what is refused.


def test_result_names_hardware_versions_command_date_and_threads(written):
    _, folder = written
    result = json.loads((folder / "tiny-cpu-float32.json").read_text())
    page = (folder / "tiny-cpu-float32.md").read_text()
    machine = result["machine"]
    assert machine["threads"] == 1
    for told in (machine["cpu"], machine["date"], torch.__version__, result["command"]):
        assert told in page
    assert "python -m benchmarks.run --preset tiny --device cpu" in result["command"]
    assert result["first_audio"][0]["first_audio_s"]["runs"] == 1


def test_result_says_that_weights_are_random_and_units_follow_a_schedule(written):
    _, folder = written
    page = (folder / "tiny-cpu-float32.md").read_text()
    assert "fixed schedule of 10.8 a token" in page
    assert "no stop tokens" in page


def test_result_tells_no_names_of_this_machine(written):
    _, folder = written
    for path in folder.glob("*.*"):
        if path.suffix != ".png":
            assert str(folder) not in path.read_text()
            assert platform.node() not in path.read_text()


def test_plot_is_drawn(written):
    _, folder = written
    assert (folder / "tiny-cpu-float32.png").read_bytes().startswith(b"\x89PNG")


def test_bench_goes_on_without_matplotlib(monkeypatch, tmp_path, caplog, written):
    result, _ = written
    monkeypatch.setattr("llama_omni.bench._measure", lambda *_: dict(result))
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with caplog.at_level(logging.INFO, logger="llama_omni.bench"):
        run_bench(preset="tiny", output=tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".md"]
    assert "evaluate" in caplog.text


def test_unwritable_folder_is_refused_before_anything_is_measured(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OutputError, match="must be a writable folder"):
        run_bench(preset="tiny", output=file / "results")


def test_command_refuses_an_unknown_preset_in_one_line(capsys):
    assert main(["--preset", "huge"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "tiny, 1b, 8b" in error or "8b, 1b, tiny" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"questions_s": ()}, "questions_s must be lengths above 0"),
        ({"positions": (0,)}, "positions must be at least 1"),
    ],
    ids=["repeats", "questions", "positions"],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        BenchSettings(**change)
