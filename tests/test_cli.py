import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer

import llama_omni
from llama_omni import cli
from llama_omni.cli_options import PRESETS
from llama_omni.cli_view import Player, json_line, printable, summary
from llama_omni.errors import CheckpointError, MissingExtraError, OutputError
from llama_omni.interfaces import AudioDelta, Reply, ReplyDone, TextDelta, Timings

GOLDEN = Path(__file__).parent / "golden"
QUESTIONS = Path(__file__).parents[2] / "shared" / "questions"
COMMAND = [sys.executable, "-m", "llama_omni.cli"]
TINY = ["--preset", "tiny", "--random-weights", "--max-new-tokens", "8"]


class FakeAssistant:
    """Says hello in two words and two pieces of sound; remembers what it was asked."""

    sample_rate = 16000

    def __init__(self, words=("Hello", " world"), fail=None, finish="stop"):
        self.words, self.fail, self.finish = words, fail, finish
        self.asked, self.closed = [], 0

    def stream(self, question, options=None):
        self.asked.append((question, options))
        sound = np.full(1600, 0.25, np.float32)
        try:
            for i, word in enumerate(self.words):
                yield TextDelta(text=word, first_token=i, end_token=i + 1)
                if self.fail is not None and question is self.asked[0][0]:
                    raise self.fail
                yield AudioDelta(
                    audio=sound,
                    sample_rate=16000,
                    first_sample=1600 * i,
                    end_sample=1600 * (i + 1),
                    first_token=i,
                    end_token=i + 1,
                )
            yield ReplyDone(reply=make_reply(self.words, sound, self.finish))
        finally:
            self.closed += 1

    def reply(self, question, options=None):
        raise NotImplementedError

    def conversation(self, system=None):
        raise NotImplementedError


def make_reply(words=("Hello", " world"), sound=None, finish="stop"):
    sound = np.zeros(0, np.float32) if sound is None else np.tile(sound, len(words))
    return Reply(
        text="".join(words),
        audio=sound,
        sample_rate=16000,
        token_ids=tuple(range(len(words))),
        units=(7,) * (len(sound) // 320),
        unit_tokens=(0,) * (len(sound) // 320),
        sample_tokens=((0, 1), (1, 2)) if len(sound) else (),
        lagging_words=1 if len(sound) else None,
        finish_reason=finish,
        timings=Timings(first_audio_s=0.045 if len(sound) else None, total_s=0.1),
    )


@pytest.fixture
def assistant(monkeypatch):
    fake = FakeAssistant()
    fake.loads = []

    def load(model, **options):
        fake.loads.append((model, options))
        return fake

    monkeypatch.setattr(cli, "_load", load)
    return fake


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return run


@pytest.fixture
def question(tmp_path):
    return make_question(tmp_path / "question.wav")


def make_question(path, rate=16000, channels=1, seconds=1.0, **options):
    sound = 0.1 * np.sin(np.arange(int(rate * seconds)) / 9)
    soundfile.write(path, np.stack([sound] * channels, 1), rate, **options)
    return path


def plain(text):
    """Take the frames and the line breaks out of a help text."""
    return " ".join(re.sub("[\u2500-\u257f]", " ", text).split())


# Answers


def test_ask_streams_text_then_sums_up_and_saves(run, assistant, question, tmp_path):
    code, out, err = run("ask", question, "-o", tmp_path / "answer.wav")
    assert (code, err) == (0, "")
    assert out == (
        "Hello world\n"
        "time to first audio 45 ms, real-time factor 0.50, lagging words 1\n"
        "2 tokens, 10 units, 0.20 s of sound at 16000 Hz\n"
        f"sound in {tmp_path / 'answer.wav'}\n"
    )
    samples, rate = soundfile.read(tmp_path / "answer.wav")
    assert (len(samples), rate) == (3200, 16000)
    assert assistant.closed == 1


def test_ask_shows_text_before_the_reply_is_complete(monkeypatch, capsys, question):
    seen = []

    class Watching(FakeAssistant):
        def stream(self, question, options=None):
            for event in super().stream(question, options):
                yield event
                seen.append(capsys.readouterr().out)

    monkeypatch.setattr(cli, "_load", lambda model, **options: Watching())
    assert cli.main(["ask", str(question)]) == 0
    assert seen[:3] == ["Hello", "", " world"]


def test_ask_hands_its_options_on(run, assistant, question):
    code, _, err = run(
        *("ask", question, "--model", "folder", "--device", "cpu", "--dtype", "float16"),
        *("--chunk-size", "40", "--lookahead", "3", "--max-new-tokens", "9"),
        *("--temperature", "0.5", "--top-p", "0.9", "--seed", "4", "--system", "Be brief."),
    )
    assert (code, err) == (0, "")
    assert assistant.loads == [
        (
            "folder",
            {
                "preset": None,
                "random_weights": False,
                "device": "cpu",
                "dtype": "float16",
                "seed": 4,
                "system": "Be brief.",
            },
        )
    ]
    turn, options = assistant.asked[0]
    assert turn.audio.shape == (16000,)
    assert options == llama_omni.ReplyOptions(
        chunk_size=40, lookahead=3, max_new_tokens=9, temperature=0.5, top_p=0.9, seed=4
    )


def test_chunk_size_inf_is_one_chunk(run, assistant, question):
    run("ask", question, "--chunk-size", "inf")
    assert assistant.asked[0][1].chunk_size is None


def test_random_weights_are_told(run, assistant, question):
    _, _, err = run("ask", question, "--preset", "tiny", "--random-weights")
    assert err == "llama-omni: random weights: words and sound mean nothing\n"


def test_ask_a_written_question(run, assistant):
    code, out, _ = run("ask", "--text", "Why?")
    assert code == 0
    assert out.startswith("Hello world\n")
    assert assistant.asked[0][0].text == "Why?"


def test_json_is_one_object_a_reply_and_nothing_else(run, assistant, question, tmp_path):
    second = make_question(tmp_path / "second.flac")
    code, out, err = run("ask", question, second, "-o", tmp_path / "out", "--json")
    assert (code, err) == (0, "")
    replies = [json.loads(line) for line in out.splitlines()]
    assert [reply["input"] for reply in replies] == [str(question), str(second)]
    assert replies[0] == {
        "input": str(question),
        "text": "Hello world",
        "units": [7] * 10,
        "token_ids": [0, 1],
        "timings": {
            "mel_s": 0.0,
            "encode_s": 0.0,
            "adapt_s": 0.0,
            "prefill_s": 0.0,
            "decode_s": 0.0,
            "vocode_s": 0.0,
            "first_token_s": None,
            "first_chunk_units_s": None,
            "first_vocode_s": None,
            "first_audio_s": 0.045,
            "total_s": 0.1,
        },
        "output": str(tmp_path / "out" / "question.wav"),
        "sample_rate": 16000,
        "duration_s": 0.2,
        "real_time_factor": 0.5,
        "lagging_words": 1,
        "finish_reason": "stop",
    }


def test_several_inputs_share_a_folder_and_one_model(run, assistant, question, tmp_path):
    second = make_question(tmp_path / "second.flac")
    code, out, _ = run("ask", question, second, "-o", tmp_path / "out")
    assert code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["question.wav", "second.wav"]
    assert len(assistant.loads) == 1
    assert out.startswith(f"{question}:\nHello world\n")
    assert f"\n{second}:\nHello world\n" in out


def test_one_failing_input_does_not_lose_the_others(run, assistant, question, tmp_path):
    assistant.fail = OutputError("the reply must fit, got too much")
    third = make_question(tmp_path / "third.wav")
    inputs = [tmp_path / "missing.wav", question, third]
    code, out, err = run("ask", *inputs, "-o", tmp_path / "out", "--json")
    assert code == 2
    assert [json.loads(line)["input"] for line in out.splitlines()] == [str(third)]
    assert err.splitlines() == [
        f"llama-omni: error: {inputs[0]} must be a readable file, got no such file",
        f"llama-omni: error: {question}: the reply must fit, got too much",
    ]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["third.wav"]


def test_a_bad_question_is_told_before_a_model_is_loaded(run, assistant, tmp_path):
    code, _, _ = run("ask", tmp_path / "missing.wav")
    assert (code, assistant.loads) == (2, [])


def test_a_model_that_cannot_be_loaded_ends_the_command(run, monkeypatch, question, tmp_path):
    def load(model, **options):
        raise CheckpointError("model.safetensors must be whole, got\nhalf of it")

    monkeypatch.setattr(cli, "_load", load)
    second = make_question(tmp_path / "b.wav")
    code, out, err = run("ask", question, second, "-o", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err == "llama-omni: error: model.safetensors must be whole, got half of it\n"


def test_a_reply_without_sound_is_an_empty_wav(run, monkeypatch, question, tmp_path):
    monkeypatch.setattr(cli, "_load", lambda model, **options: FakeAssistant(words=()))
    code, out, _ = run("ask", question, "-o", tmp_path / "answer.wav")
    assert code == 0
    assert "time to first audio none, real-time factor none, lagging words none" in out
    assert soundfile.info(str(tmp_path / "answer.wav")).frames == 0


def test_a_cut_reply_says_so(run, monkeypatch, question):
    monkeypatch.setattr(cli, "_load", lambda model, **options: FakeAssistant(finish="length"))
    assert "cut at --max-new-tokens" in run("ask", question)[1]


def test_a_slow_first_audio_is_in_seconds():
    timings = Timings(first_audio_s=1.755)
    reply = Reply(
        text="",
        audio=np.zeros(16, np.float32),
        sample_rate=16000,
        token_ids=(),
        units=(),
        unit_tokens=(),
        sample_tokens=(),
        lagging_words=0,
        finish_reason="stop",
        timings=timings,
    )
    assert summary(reply, None).startswith("time to first audio 1.75 s")
    assert json.loads(json_line("Why?", reply, None))["output"] is None


def test_words_cannot_take_over_the_terminal(run, monkeypatch, question):
    words = ("a\x1b[2J", "b\tc\n\u4e16")
    monkeypatch.setattr(cli, "_load", lambda model, **options: FakeAssistant(words=words))
    assert run("ask", question)[1].startswith("a\ufffd[2Jb\tc\n\u4e16\n")
    assert printable("\r\x00\x9b\x7f") == "\ufffd" * 4
    assert printable("\u00a0\u3000\u200d") == "\u00a0\u3000\u200d"


# Refusals


def bad_outputs(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "sub").mkdir()
    make_question(tmp_path / "sub" / "question.wav")
    make_question(tmp_path / "other.wav")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param([], "ask must be given INPUTS or --text, got neither", id="nothing"),
        pytest.param(["Q", "--text", "a"], "INPUTS or --text, got both", id="both"),
        pytest.param(["--text", " "], "--text must hold a question", id="space"),
        pytest.param(["Q", "other.wav"], "--output must name a folder for 2 inputs", id="no-o"),
        pytest.param(
            ["Q", "other.wav", "-o", "a.wav"], "must name a folder for 2 inputs", id="o-file"
        ),
        pytest.param(
            ["Q", "other.wav", "-o", "file"], "file must be a folder, got File exists", id="o-is"
        ),
        pytest.param(
            ["Q", "sub/question.wav", "-o", "out"], "must have different names", id="same-stem"
        ),
        pytest.param(["Q", "-o", "."], "must not replace a question", id="onto-input"),
        pytest.param(["Q", "-o", "Q"], "must not replace a question", id="same-file"),
        pytest.param(["Q", "-o", "no/a.wav"], "in a writable folder, got No such", id="no-folder"),
        pytest.param(["Q", "-o", "file/a.wav"], "in a writable folder, got Not a", id="in-file"),
        pytest.param(["Q", "-o", "a.aac"], "must end with .wav, .flac, .ogg, .mp3", id="suffix"),
        pytest.param(["Q", "-o", "no/out"], "no/out must be a folder, got No such", id="deep"),
        pytest.param(["Q", "--chunk-size", "0"], "chunk_size must be at least 1", id="chunk-0"),
        pytest.param(["Q", "--chunk-size", "x"], "number of units or inf, got 'x'", id="chunk-x"),
        pytest.param(["Q", "--lookahead", "-1"], "lookahead must be at least 0", id="lookahead"),
        pytest.param(["Q", "--top-p", "0"], "top_p must be above 0", id="top-p"),
        pytest.param(["Q", "--temperature", "nan"], "temperature must be 0 or more", id="nan"),
        pytest.param(["Q", "--max-new-tokens", "0"], "max_new_tokens must be at", id="no-tokens"),
        pytest.param(["Q", "--dtype", "int8"], "Invalid value for '--dtype'", id="dtype"),
        pytest.param(["Q", "--seed", "x"], "Invalid value for '--seed'", id="seed"),
        pytest.param(["Q", "--nope"], "No such option: --nope", id="option"),
    ],
)
def test_refusals_are_one_line_and_exit_code_2(
    run, assistant, question, tmp_path, monkeypatch, arguments, message
):
    bad_outputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = question.read_bytes()
    code, out, err = run("ask", *["question.wav" if a == "Q" else a for a in arguments])
    assert (code, out) == (2, "")
    assert err.startswith("llama-omni: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not assistant.asked
    assert question.read_bytes() == before


def test_an_unknown_command_is_one_line_and_exit_code_2(run):
    code, out, err = run("answer")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "No such command 'answer'" in err


def test_debug_shows_where_an_error_came_from(run, assistant, tmp_path):
    code, _, err = run("ask", tmp_path / "missing.wav", "--debug")
    assert code == 2
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("llama-omni: error: ")


def test_a_bug_is_not_dressed_up_as_a_refusal(run, assistant, question):
    assistant.fail = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        run("ask", question)


# Interruption


def test_ctrl_c_cancels_the_reply_and_writes_nothing(run, assistant, question, tmp_path):
    assistant.fail = KeyboardInterrupt()
    (tmp_path / "answer.wav").write_text("old")
    code, out, err = run("ask", question, "-o", tmp_path / "answer.wav")
    assert (code, out, err) == (130, "Hello\n", "llama-omni: interrupted\n")
    assert assistant.closed == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["answer.wav", "question.wav"]
    assert (tmp_path / "answer.wav").read_text() == "old"


def test_ctrl_c_while_showing_closes_the_stream(run, assistant, question, monkeypatch):
    def interrupt(text):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "printable", interrupt)
    assert run("ask", question)[0] == 130
    assert assistant.closed == 1


# Sound devices


class FakeSpeakers(types.ModuleType):
    """Stands for the package sounddevice."""

    class PortAudioError(Exception):
        pass

    def __init__(self, fail=None):
        super().__init__("sounddevice")
        self.heard, self.opened, self.fail = [], [], fail

    def query_devices(self, kind):
        if self.fail == "device":
            raise self.PortAudioError("Error querying device -1")

    def OutputStream(self, **options):
        self.opened.append(options)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def write(self, samples):
        if self.fail == "write":
            raise self.PortAudioError("Device unavailable")
        self.heard.append(samples)


@pytest.fixture
def speakers(monkeypatch):
    fake = FakeSpeakers()
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    return fake


def test_play_gives_each_piece_to_the_speakers(run, assistant, speakers, question):
    code, _, err = run("ask", question, "--play")
    assert (code, err) == (0, "")
    assert speakers.opened == [{"samplerate": 16000, "channels": 1, "dtype": "float32"}]
    assert [len(piece) for piece in speakers.heard] == [1600, 1600]


def test_play_does_not_hold_up_the_reply(speakers, monkeypatch):
    monkeypatch.setattr(speakers, "write", lambda samples: time.sleep(0.05))
    player = Player()
    start = time.monotonic()
    for _ in range(4):
        player.play(np.zeros(16, np.float32), 16000)
    queued = time.monotonic() - start
    player.finish()
    assert queued < 0.05
    assert time.monotonic() - start >= 0.2


def test_play_without_a_device_is_told_before_the_reply(run, assistant, speakers, question):
    speakers.fail = "device"
    code, _, err = run("ask", question, "--play")
    assert code == 2
    assert err == (
        "llama-omni: error: --play must have a sound device, got: Error querying device -1\n"
    )
    assert not assistant.asked


def test_a_device_that_fails_later_does_not_lose_the_file(
    run, assistant, speakers, question, tmp_path
):
    speakers.fail = "write"
    code, _, err = run("ask", question, "--play", "-o", tmp_path / "answer.wav")
    assert code == 2
    assert "--play must have a sound device, got: Device unavailable" in err
    assert (tmp_path / "answer.wav").exists()


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (ImportError("no"), MissingExtraError, r"pip install 'llama-omni\[play\]'"),
        (OSError("PortAudio library not found"), OutputError, "PortAudio library not found"),
    ],
)
def test_play_names_what_is_missing(monkeypatch, failure, error, message):
    def fail(name):
        raise failure

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(error, match=message):
        Player()


# Other commands


def test_convert_hands_its_arguments_on(run, monkeypatch, tmp_path):
    calls = []

    def convert(*, progress, **options):
        progress(1, 2, "model.layers.0")
        calls.append(options)

    monkeypatch.setattr("llama_omni.model.checkpoint.convert", convert)
    code, out, _ = run(
        *("convert", "released", "-o", tmp_path / "native", "--speech-encoder", "large-v3.pt"),
        *("--vocoder", "g_1", "--vocoder-config", "v.json", "--kmeans", "k.npy", "--trust-pickle"),
    )
    assert (code, out) == (0, f"model in {tmp_path / 'native'}\n")
    assert calls == [
        {
            "source": Path("released"),
            "output": tmp_path / "native",
            "speech_encoder": Path("large-v3.pt"),
            "vocoder": Path("g_1"),
            "vocoder_config": Path("v.json"),
            "kmeans": Path("k.npy"),
            "trust_pickle": True,
            "dtype": "auto",
        }
    ]


def test_convert_refuses_in_one_line(run, monkeypatch):
    def convert(**_):
        raise CheckpointError("model.norm must be there, got nothing")

    monkeypatch.setattr("llama_omni.model.checkpoint.convert", convert)
    code, out, err = run("convert", "released", "-o", "native")
    assert (code, out) == (2, "")
    assert err == "llama-omni: error: model.norm must be there, got nothing\n"


def test_bench_hands_its_arguments_on(run, monkeypatch):
    calls = []
    fake = types.ModuleType("llama_omni.bench")
    fake.run_bench = lambda **options: calls.append(options)
    monkeypatch.setitem(sys.modules, "llama_omni.bench", fake)
    code, _, err = run("bench", "--preset", "1b", "--dtype", "float32", "-o", "out", "--quick")
    assert (code, err) == (0, "")
    assert calls == [
        {
            "preset": "1b",
            "device": "auto",
            "dtype": "float32",
            "output": Path("out"),
            "quick": True,
        }
    ]


def test_version(run):
    assert run("--version") == (0, f"llama-omni {llama_omni.__version__}\n", "")


def test_no_arguments_show_the_help(run):
    code, out, _ = run()
    assert code == 0
    assert "ask" in out
    assert "convert" in out


@pytest.mark.parametrize("command", ["ask", "convert", "bench"])
def test_every_command_and_option_is_explained(run, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(command, "--help")
    assert code == 0
    described = typer.main.get_command(cli.app).commands[command]
    assert described.help
    for parameter in described.params:
        assert parameter.help, parameter.name
        assert parameter.help.split()[0] in out
        assert len(parameter.help) < 140


def test_help_names_units_of_quantities(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = plain(run("ask", "--help")[1])
    for words in ("0.1 to 30 s", "UNITS|inf", "20 ms of sound each", "in text tokens"):
        assert words in out


@pytest.mark.parametrize(
    ("words", "completed"),
    [("co", ["convert"]), ("ask --preset t", ["tiny"]), ("ask --dtype b", ["bfloat16"])],
)
def test_shell_completion(words, completed):
    environment = {
        **os.environ,
        "_LLAMA_OMNI_COMPLETE": "complete_bash",
        "COMP_WORDS": f"llama-omni {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    done = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == completed


def test_presets_are_those_of_the_model():
    from llama_omni.model.presets import PRESET_NAMES

    assert set(PRESETS) == set(PRESET_NAMES)


def test_cli_imports_no_torch():
    code = "import sys, llama_omni.cli; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# The real thing: nothing below stands for anything else


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
    from llama_omni.model.checkpoint import random_model
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
