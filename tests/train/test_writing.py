import errno
import os

import pytest
import typer
from safetensors import SafetensorError
from typer.testing import CliRunner

from llama_omni.cli_errors import one_line_errors
from llama_omni.errors import OutputError, TrainingError
from llama_omni.files import write_text
from llama_omni.train.checkpoints import write_folder
from llama_omni.train.writing import writing

RUST = "Error while serializing: I/O error: No space left on device (os error 28)"
TORCH = "[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FULL, "out must be writable, got: No space left on device"),
        (
            PermissionError(errno.EACCES, "Permission denied", "a/b"),
            "a/b must be readable and writable, got: Permission denied",
        ),
        (SafetensorError(RUST), "out must be writable, got: No space left on device"),
        (Exception(RUST), "out must be writable, got: No space left on device"),
        (RuntimeError(TORCH), f"out must be writable, got: {TORCH}"),
        (OutputError("as it was"), "as it was"),
    ],
    ids=["full", "forbidden", "safetensors", "tokenizers", "torch", "said before"],
)
def test_disk_that_refuses_is_one_kind_of_error(error, message):
    with pytest.raises(OutputError) as caught, writing("out"):
        raise error
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file", "a"),
        RuntimeError("[enforce fail at inline_container.cc:1] . PytorchStreamReader failed"),
        Exception("not found (os error 2)"),
        TrainingError("no"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_pass_as_they_are(error):
    with pytest.raises(type(error)) as caught, writing("out"):
        raise error
    assert caught.value is error


def test_text_is_replaced_at_once(tmp_path, monkeypatch):
    path = tmp_path / "new/settings.json"
    write_text(path, "one")

    def full(_):
        raise FULL

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"settings.json must be writable, got: No space left"):
        write_text(path, "two")
    assert path.read_text() == "one"


@pytest.mark.parametrize("error", [FULL, SafetensorError(RUST)], ids=["system", "safetensors"])
def test_product_that_cannot_be_written_leaves_the_one_before(tmp_path, error):
    write_folder(tmp_path / "best", lambda folder: (folder / "a").write_text("one"))

    def fail(folder):
        (folder / "a").write_text("two")
        raise error

    with pytest.raises(OutputError, match=r"best must be writable, got: .*No space left on device"):
        write_folder(tmp_path / "best", fail)
    assert (tmp_path / "best/a").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_command_on_a_full_disk_ends_in_one_line():
    app = typer.Typer()

    @app.command()
    def work():
        with one_line_errors(debug=False):
            raise FULL

    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2
    expected = "llama-omni: error: the output must be writable, got: No space left on device\n"
    assert result.output == expected
