import pytest

from llama_omni import cli
from tests.cli.shared import make_question


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


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("a" * 300 + ".wav", "--output must have a shorter name, got 304 characters"),
        ("/dev/null", "must be a file or a folder, got neither"),
    ],
    ids=["too-long", "device"],
)
def test_impossible_outputs_are_refused(run, assistant, question, output, message):
    code, out, err = run("ask", question, "-o", output)
    assert (code, out) == (2, "")
    assert message in err
    assert assistant.asked == []


def test_unknown_preset_is_refused_before_anything_is_loaded(run, assistant, question):
    code, _, err = run("ask", question, "--preset", "huge", "--random-weights")
    assert code == 2
    assert "--preset must be one of tiny, 1b, 8b, got 'huge'" in err
    assert assistant.loads == []


def test_too_long_a_question_name_is_refused(run, assistant):
    code, _, err = run("ask", "q" * 300 + ".wav")
    assert code == 2
    assert "must be a readable file, got File name too long" in err
