import json

import numpy as np
import soundfile

import llama_omni
from llama_omni import cli
from llama_omni.cli_view import json_line, summary
from llama_omni.errors import CheckpointError, OutputError
from llama_omni.interfaces import Reply, Timings
from llama_omni.terminal.screen import printable
from tests.cli.shared import FakeAssistant, make_question


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
                "threads": None,
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
            "decode_s": 0.1,
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


def test_a_reply_without_sound_says_so_and_writes_no_file(run, monkeypatch, question, tmp_path):
    monkeypatch.setattr(cli, "_load", lambda model, **options: FakeAssistant(words=()))
    file = tmp_path / "answer.wav"
    file.write_bytes(b"of an older answer")
    code, out, err = run("ask", question, "-o", file)
    assert (code, err) == (0, "")
    assert not file.exists()
    assert "time to first audio none, real-time factor none, lagging words none" in out
    assert out.endswith("0 units, 0.00 s of sound at 16000 Hz\nno sound: the model said no units\n")
    code, out, _ = run("ask", question, "-o", file, "--json")
    assert (code, json.loads(out)["output"]) == (0, None)
    assert not file.exists()
    assert "no sound" not in run("ask", question)[1]  # nobody asked for a file


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


def test_no_speech_answers_in_writing(run, assistant, question):
    code, _, _ = run("ask", question, "--no-speech", "--threads", "3")
    assert code == 0
    assert assistant.asked[0][1].speech is False
    assert assistant.loads[0][1]["threads"] == 3


def test_no_speech_has_nothing_to_save(run, assistant, question, tmp_path):
    code, out, err = run("ask", question, "--no-speech", "-o", tmp_path / "a.wav")
    assert (code, out) == (2, "")
    assert "--no-speech makes no sound" in err
