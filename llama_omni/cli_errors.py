"""How every command ends where something was refused: one line on the standard error, exit code 2.

Also what a command says beside its result.
"""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from llama_omni.errors import LlamaOmniError
from llama_omni.train.writing import writing

REFUSED, INTERRUPTED = 2, 130  # exit codes


@contextmanager
def one_line_errors(debug: bool) -> Iterator[None]:
    """End the command with one line and an exit code where something was refused."""
    try:
        with writing("the output"):
            yield
    except LlamaOmniError as error:
        if debug:
            traceback.print_exception(error)
        say_error(" ".join(str(error).split()))
        raise typer.Exit(REFUSED) from error
    except KeyboardInterrupt as error:
        note("interrupted")
        raise typer.Exit(INTERRUPTED) from error


def say_error(message: str) -> None:
    """Say what was refused."""
    sys.stdout.flush()
    typer.echo(f"llama-omni: error: {message}", err=True)


def note(message: str) -> None:
    """Say something that is no error and no result."""
    typer.echo(f"llama-omni: {message}", err=True)


def hush_transformers() -> None:
    """Keep its remarks off the screen, and its progress bars where nobody is looking."""
    from transformers.utils import logging as remarks

    remarks.set_verbosity_error()
    if not sys.stderr.isatty():
        remarks.disable_progress_bar()
