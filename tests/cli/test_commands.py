import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import typer

import llama_omni
from llama_omni import cli
from llama_omni.cli_options import PRESETS
from llama_omni.errors import CheckpointError
from tests.cli.shared import COMMAND, plain


def test_convert_hands_its_arguments_on(run, monkeypatch, tmp_path):
    calls = []

    def convert(*, progress, **options):
        progress(1, 2, "model.layers.0")
        calls.append(options)

    monkeypatch.setattr("llama_omni.checkpoint.convert", convert)
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

    monkeypatch.setattr("llama_omni.checkpoint.convert", convert)
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
    for words in ("0.1 to 30 s", "UNITS|inf", "each lasts 20 ms or more", "in text tokens"):
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
