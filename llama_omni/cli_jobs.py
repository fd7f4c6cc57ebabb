"""What `ask` has to do: which question gets which output, settled before any work is done."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_omni import audio
from llama_omni.errors import InputError, OutputError
from llama_omni.interfaces import Turn


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One question, spoken in a file or written, and where the sound of its answer goes."""

    path: Path | None = None
    text: str | None = None
    output: Path | None = None

    @property
    def name(self) -> str:
        """The file, or the written question."""
        return str(self.path) if self.path is not None else self.text or ""

    def read(self) -> Turn:
        """Return the question.

        Raises:
            AudioError: The file cannot be used.
        """
        if self.path is None:
            return Turn(role="user", text=self.text)
        return Turn(role="user", audio=audio.load(self.path))


def plan(inputs: Sequence[Path], text: str | None, output: Path | None) -> list[Job]:
    """Pair questions with outputs, and make the folder that outputs share.

    Raises:
        InputError: There is no question, or both kinds.
        OutputError: An output could not be written, or would replace a question or another output.
    """
    if bool(inputs) == (text is not None):
        raise InputError(
            f"ask must be given INPUTS or --text, got {'both' if inputs else 'neither'}"
        )
    if text is not None and not text.strip():
        raise InputError("--text must hold a question, got only space")
    paths = inputs or [None]
    if output is None and len(paths) == 1:
        return [Job(path=paths[0], text=text)]
    if output is None:
        raise OutputError(f"--output must name a folder for {len(paths)} inputs, got none")
    if max(len(os.fsencode(part)) for part in output.parts or ("",)) > 255:
        raise OutputError(f"--output must have a shorter name, got {len(output.name)} characters")
    if output.exists() and not (output.is_dir() or output.is_file()):
        raise OutputError(f"{output} must be a file or a folder, got neither (a device?)")
    if output.is_dir() or not output.suffix:
        names = [f"{path.stem if path else 'answer'}.wav" for path in paths]
        jobs = [
            Job(path=p, text=text, output=output / n) for p, n in zip(paths, names, strict=True)
        ]
    elif len(paths) == 1:
        jobs = [Job(path=paths[0], text=text, output=output)]
    else:
        raise OutputError(f"--output must name a folder for {len(paths)} inputs, got {output}")
    _check_outputs(jobs, output)
    return jobs


def _check_outputs(jobs: Sequence[Job], output: Path) -> None:
    questions = {job.path.resolve() for job in jobs if job.path is not None}
    taken: dict[str, str] = {}
    for job in jobs:
        assert job.output is not None
        key = str(job.output).casefold()  # some file systems do not tell a.wav from A.wav
        if key in taken:
            raise OutputError(
                f"inputs must have different names to share a folder, got {taken[key]} "
                f"and {job.name}"
            )
        taken[key] = job.name
        if job.output.resolve() in questions:
            raise OutputError(f"{job.output} must not replace a question, got it as an input too")
    try:
        if not output.suffix:
            output.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output} must be a folder, got {error.strerror}") from error
    for job in jobs:
        assert job.output is not None
        audio.check_output(job.output)
