"""What every synthesizer does alike: check what is asked, run a program, tidy the sound.

A text reaches a program as one argument or on its standard input, never through a shell, and a
voice is looked up in a list before its name is used, so that neither can be read as a command.
"""

import io
import shutil
import subprocess
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from itertools import takewhile

import numpy as np

from llama_omni import audio
from llama_omni.errors import AudioError, InputError, MissingExtraError, ToolError
from llama_omni.interfaces import Audio, Voice

MAX_CHARS = 5_000  # about five minutes of speech: no longer text is one utterance
MARGIN_S = 0.1  # silence kept before the first and after the last sound
TIMEOUT_S = 60.0  # a program that is silent for longer has hung
SPEEDS = (0.5, 2.0)
PITCHES = (0.5, 2.0)

_SILENCE_DB = -45.0  # below the loudest frame: under most consonants, above breath and dither
_FRAME_S = 0.01
_LONGEST_S = 3_600.0
_ASCII = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201a": "'",
        "\u201b": "'",
        "\u2032": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u201e": '"',
        "\u00ab": '"',
        "\u00bb": '"',
        "\u2010": "-",
        "\u2011": "-",
        "\u2012": "-",
        "\u2013": " - ",
        "\u2014": " - ",
        "\u2212": "-",
        "\u00df": "ss",
        "\u00e6": "ae",
        "\u00c6": "AE",
        "\u0153": "oe",
        "\u0152": "OE",
        "\u00f8": "o",
        "\u00d8": "O",
        "\u0142": "l",
        "\u0141": "L",
        "\u00f0": "d",
        "\u00fe": "th",
        "\u0131": "i",
    }
)


def check_request(
    text: str, *, voice: str, voices: Iterable[Voice], speed: float, pitch: float
) -> Voice:
    """Return the voice that is asked for.

    Raises:
        InputError: The voice is unknown, the text holds nothing to say or too much, or speed or
            pitch lie outside of what is still speech.
    """
    found = next((item for item in voices if item.name == voice), None)
    if found is None:
        names = [item.name for item in voices]
        raise InputError(f"voice must be one of {some_of(names, like=voice)}, got {voice!r}")
    if not any(char.isalnum() for char in text):
        raise InputError(f"text must hold something to say, got {text!r}")
    if len(text) > MAX_CHARS:
        raise InputError(f"text must have at most {MAX_CHARS} characters, got {len(text)}")
    for name, value, (low, high) in (("speed", speed, SPEEDS), ("pitch", pitch, PITCHES)):
        if not low <= value <= high:
            raise InputError(f"{name} must be from {low:g} to {high:g}, got {value}")
    return found


def plain_text(text: str) -> str:
    """Write a text on one line without control characters, for any program."""
    composed = unicodedata.normalize("NFC", text)
    spaced = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in composed)
    return " ".join(spaced.split())


def ascii_text(text: str) -> str:
    """Write a text in ASCII, for programs that know nothing else: accents go, quotes straighten.

    Raises:
        InputError: A character has no such form; spell it out before.
    """
    parts = unicodedata.normalize("NFKD", plain_text(text).translate(_ASCII))
    bare = "".join(char for char in parts if not unicodedata.combining(char)).translate(_ASCII)
    for char in bare:
        if not char.isascii():
            name = unicodedata.name(char, "a character without a name")
            raise InputError(
                f"text must be writable in ASCII for this voice, got {char!r} ({name}); "
                "spell it out in words"
            )
    return " ".join(bare.split())


def find_program(program: str, *, install: str) -> str:
    """Return the path of a program.

    Raises:
        ToolError: It is not on PATH; says how to install it.
    """
    path = shutil.which(program)
    if path is None:
        raise ToolError(f"the program {program} must be on PATH, found none; {install}")
    return path


def run_program(
    command: Sequence[str], *, stdin: bytes = b"", timeout_s: float = TIMEOUT_S
) -> bytes:
    """Run a program to its end and return its standard output.

    Raises:
        ToolError: It cannot start, takes too long, or fails; with what it said.
    """
    name = command[0].rpartition("/")[2]
    try:
        done = subprocess.run(
            list(command), input=stdin, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{name} must answer within {timeout_s:g} s, got nothing") from error
    except OSError as error:
        raise ToolError(f"{name} must be a program that runs, got {error}") from error
    if done.returncode:
        said = last_words(done.stderr)
        raise ToolError(f"{name} must end with status 0, got {done.returncode}: {said}")
    return done.stdout


def last_words(output: bytes) -> str:
    """Return the end of what a program said, for a message."""
    return output.decode("utf-8", "replace").strip()[-500:] or "(it said nothing)"


def decode_sound(data: bytes, *, source: str) -> Audio:
    """Decode a file of sound (WAV, FLAC, OGG or MP3) that a program or a server gave.

    Returns:
        (S,) at 16 kHz, trimmed by `tidy`.

    Raises:
        ToolError: It is no sound, or holds none.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise MissingExtraError("soundfile", "data", "reading synthesized speech") from error
    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        raise ToolError(f"{source} must give a file of sound, got: {reason}") from error
    return tidy(samples.mean(axis=1), rate, source=source)


def tidy(samples: Audio, sample_rate: int, *, source: str) -> Audio:
    """Resample speech to 16 kHz and cut long silence at both ends; its level stays.

    Only sound above full scale is turned down, to just below it.

    Raises:
        ToolError: There is no sound in it.
    """
    try:
        checked = audio.check(
            samples, sample_rate=sample_rate, min_s=0.0, max_s=_LONGEST_S, name="speech"
        )
    except AudioError as error:
        raise ToolError(f"{source} must give usable sound, got: {error}") from error
    sound = audio.resample(checked, sample_rate, audio.SAMPLE_RATE)  # (S,)
    frame = round(_FRAME_S * audio.SAMPLE_RATE)
    whole = sound[: len(sound) // frame * frame].reshape(-1, frame)  # (N, frame)
    power = np.mean(np.square(whole, dtype=np.float64), axis=1)  # (N,)
    loudest = float(power.max(initial=0.0))
    if loudest < 1e-8:
        raise ToolError(
            f"{source} must give sound, got {len(sound) / audio.SAMPLE_RATE:.2f} s of silence"
        )
    heard = np.flatnonzero(power > loudest * 10 ** (_SILENCE_DB / 10))
    margin = round(MARGIN_S * audio.SAMPLE_RATE)
    first = max(0, int(heard[0]) * frame - margin)
    end = (int(heard[-1]) + 1) * frame + margin
    kept = sound[first:end]
    peak = float(np.abs(kept).max())
    return np.ascontiguousarray(kept * (0.999 / peak) if peak > 1.0 else kept, dtype=np.float32)


def some_of(names: Collection[str], *, like: str) -> str:
    """Write down the twelve names that begin most like what was asked for, and how many more."""

    def place(name: str) -> tuple[int, str]:
        pairs = zip(name, like, strict=False)
        return -sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)), name

    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(sorted(names, key=place)[:12]) + more
