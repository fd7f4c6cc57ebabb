import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from llama_omni.model.vocoder import UnitVocoder, vocoder_preset
from tests.cli.shared import COMMAND, GOLDEN, QUESTIONS, TINY, make_question


def refused(code, out, err):
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("llama-omni: error: ")
    return err


def test_ask_a_real_assistant_end_to_end(run, question, tmp_path):
    code, out, err = run("ask", question, *TINY, "-o", tmp_path / "answer.wav", "--json")
    assert code == 0
    assert err == "llama-omni: random weights: words and sound mean nothing\n"
    reply = json.loads(out)
    samples, rate = soundfile.read(reply["output"])
    assert len(reply["token_ids"]) == 8
    assert reply["finish_reason"] == "length"
    assert rate == reply["sample_rate"]
    assert len(samples) == pytest.approx(reply["duration_s"] * rate)
    if reply["units"]:
        assert 0 < reply["timings"]["first_audio_s"] <= reply["timings"]["total_s"]


def test_the_same_seed_gives_the_same_reply(run, question):
    arguments = ["ask", question, *TINY, "--json", "--temperature", "1", "--seed"]
    first, again, other = (
        json.loads(run(*arguments, seed)[1])["token_ids"] for seed in ("3", "3", "4")
    )
    assert first == again != other


def test_odd_but_usable_questions_are_answered(run, tmp_path):
    inputs = [
        make_question(tmp_path / "stereo.wav", channels=2),
        make_question(tmp_path / "low.wav", rate=8000),
        make_question(tmp_path / "high.wav", rate=48000),
        make_question(tmp_path / "flac.flac"),
        make_question(tmp_path / "ogg.ogg"),
        make_question(tmp_path / "mp3.mp3"),
        make_question(tmp_path / "short.wav", seconds=0.1),
        make_question(tmp_path / "long.wav", seconds=30.0),
    ]
    silence = tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(16000), 16000)
    inputs.append(silence)
    code, out, err = run("ask", *inputs, *TINY, "-o", tmp_path / "out", "--json")
    assert code == 0, err
    replies = [json.loads(line) for line in out.splitlines()]
    assert [reply["input"] for reply in replies] == [str(path) for path in inputs]
    assert all(Path(reply["output"]).exists() for reply in replies)


def write_two_hours(path):
    soundfile.write(path, np.zeros(16000), 16000)
    size = 2 * 3600 * 16000 * 2
    with path.open("r+b") as file:
        file.seek(40)
        file.write(size.to_bytes(4, "little"))
        file.truncate(44 + size)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda p: None, "got no such file", id="missing"),
        pytest.param(lambda p: p.mkdir(), "must be an audio file, got a folder", id="folder"),
        pytest.param(lambda p: p.write_text("words " * 99), "must be audio (WAV, FLAC", id="text"),
        pytest.param(lambda p: p.touch(), "must hold audio, got an empty file", id="empty"),
        pytest.param(
            lambda p: soundfile.write(p, np.full(16000, np.nan), 16000, subtype="FLOAT"),
            "must hold finite samples, got nan",
            id="nan",
        ),
        pytest.param(
            lambda p: soundfile.write(p, np.zeros(800), 16000),
            "must be at least 0.1 s long, got 0.05 s",
            id="short",
        ),
        pytest.param(write_two_hours, "must be at most 30 s long, got 7200.0 s", id="two-hours"),
    ],
)
def test_bad_questions_are_refused(run, tmp_path, make, message):
    path = tmp_path / "question.wav"
    make(path)
    err = refused(*run("ask", path, *TINY, "-o", tmp_path / "answer.wav"))
    assert str(path) in err
    assert message in err
    assert not (tmp_path / "answer.wav").exists()


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        pytest.param(["--preset", "huge", "--random-weights"], ["tiny", "1b", "8b"], id="preset"),
        pytest.param([*TINY, "--device", "toaster"], ["'toaster'"], id="device"),
        pytest.param(["--preset", "tiny"], ["--random-weights"], id="no-weights"),
        pytest.param(["--model", "no/such/folder"], ["no/such/folder"], id="no-model"),
    ],
)
def test_impossible_models_are_refused(run, question, arguments, messages):
    err = refused(*run("ask", question, *arguments))
    for message in messages:
        assert message in err


def test_a_released_checkpoint_is_converted_and_asked(run, question, tmp_path):
    native = tmp_path / "native"
    arguments = ["-o", native, "--speech-encoder", GOLDEN / "omni" / "whisper.pt"]
    arguments += ["--vocoder", GOLDEN / "vocoder" / "g.pt"]
    code, out, err = run("convert", GOLDEN / "omni", *arguments)
    assert (code, out, err) == (0, f"model in {native}\n", "")
    code, out, err = run("ask", question, "--model", native, "--max-new-tokens", "8", "--json")
    assert (code, err) == (0, "")
    assert 1 <= len(json.loads(out)["token_ids"]) <= 8
    assert "must be a new or empty folder" in refused(*run("convert", GOLDEN / "omni", *arguments))


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """Make a native folder of several shards."""
    from llama_omni.checkpoint import random_model
    from llama_omni.model.presets import preset

    folder = tmp_path_factory.mktemp("native")
    random_model(preset("tiny")).save_pretrained(folder, max_shard_size="8MB")
    return folder


def test_a_checkpoint_with_a_missing_shard_is_refused(run, question, native, tmp_path):
    broken = shutil.copytree(native, tmp_path / "broken")
    shard = min(broken.glob("*.safetensors"))
    shard.unlink()
    assert shard.name in refused(*run("ask", question, "--model", broken))


def test_a_truncated_shard_is_refused(run, question, native, tmp_path):
    broken = shutil.copytree(native, tmp_path / "broken")
    shard = min(broken.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:100_000])
    assert shard.name in refused(*run("ask", question, "--model", broken))


def test_the_command_itself_refuses_without_a_traceback(tmp_path):
    done = subprocess.run([*COMMAND, "ask", tmp_path / "no.wav"], capture_output=True, text=True)
    assert f"{tmp_path / 'no.wav'} must be a readable file" in refused(
        done.returncode, done.stdout, done.stderr
    )


def interrupt(command, folder):
    """Start a command that answers for long, interrupt it in mid-reply, and check what is left."""
    process = subprocess.Popen(
        [*map(str, command), "-o", folder / "answer.wav"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.read(1)  # the reply has begun
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.decode().splitlines()[-1] == "llama-omni: interrupted"
    assert b"Traceback" not in err
    assert not list(folder.iterdir())


SLOW_TALKER = """
import sys, time, llama_omni.cli, llama_omni.interfaces
class Slow:
    def stream(self, question, options=None):
        yield llama_omni.interfaces.TextDelta(text="Well", first_token=0, end_token=1)
        time.sleep(60)
llama_omni.cli._load = lambda model, **options: Slow()
sys.exit(llama_omni.cli.main(sys.argv[1:]))
"""


def test_ctrl_c_ends_the_process_with_one_line_and_no_file(question, tmp_path):
    (tmp_path / "out").mkdir()
    interrupt([sys.executable, "-c", SLOW_TALKER, "ask", question], tmp_path / "out")


@pytest.mark.slow
def test_ctrl_c_ends_a_real_reply_with_one_line_and_no_file(question, tmp_path):
    (tmp_path / "out").mkdir()
    options = ["--preset", "tiny", "--random-weights", "--max-new-tokens", "100000"]
    interrupt([*COMMAND, "ask", question, *options, "--chunk-size", "inf"], tmp_path / "out")


@pytest.mark.skipif(not QUESTIONS.is_dir(), reason="the recorded questions are not here")
def test_ten_recorded_questions_are_answered(run, tmp_path):
    inputs = sorted(QUESTIONS.glob("*.wav"))
    assert len(inputs) == 10
    code, out, err = run("ask", *inputs, *TINY, "-o", tmp_path, "--json")
    assert code == 0, err
    replies = [json.loads(line) for line in out.splitlines()]
    assert [Path(reply["input"]).stem for reply in replies] == [path.stem for path in inputs]
    for reply in replies:
        assert soundfile.info(reply["output"]).samplerate == reply["sample_rate"]
        assert reply["duration_s"] == pytest.approx(soundfile.info(reply["output"]).duration)


def test_a_truncated_vocoder_is_refused(run, question, native, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(native, folder)
    weights = folder / "vocoder" / "model.safetensors"
    if not weights.exists():
        (folder / "vocoder").mkdir(exist_ok=True)
        UnitVocoder(vocoder_preset("tiny")).save_pretrained(folder / "vocoder")
    weights.write_bytes(weights.read_bytes()[:-100])
    code, out, err = run("ask", question, "--model", folder)
    refused(code, out, err)
    assert "vocoder/model.safetensors" in err


def test_more_threads_than_cores_are_refused(run, question):
    code, out, err = run("ask", question, *TINY, "--threads", "100000")
    refused(code, out, err)
    assert "threads must be 1 to" in err
