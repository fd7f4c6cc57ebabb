"""Festival: one process that lives as long as its synthesizer and speaks many sentences.

Festival takes 0.2 s to start, longer than most sentences take to synthesize. It reads Scheme on its
standard input; each request is one form, followed by one that prints a new mark, so that
an error in the first never hides the end of the answer. A text is only ever a string literal.
"""

import contextlib
import os
import secrets
import selectors
import subprocess
import tempfile
import time
import weakref
from pathlib import Path

from llama_omni.backends.tts_common import (
    TIMEOUT_S,
    ascii_text,
    check_request,
    decode_sound,
    find_program,
    last_words,
)
from llama_omni.errors import ToolError
from llama_omni.interfaces import Audio, Voice

INSTALL = "apt install festival"

_FREE = "permissive (free to use, change and sell; keep the notices)"
_VOICES = {  # festival's name, rate in Hz, licence, Debian package
    "kal": ("kal_diphone", 16_000, f"CMU/CSTR {_FREE}", "festvox-kallpc16k"),
    "ked": ("ked_diphone", 16_000, f"CSTR {_FREE}", "festvox-kdlpc16k"),
    "slt_hts": ("cmu_us_slt_arctic_hts", 32_000, f"CMU {_FREE}", "festvox-us-slt-hts"),
}
_HEAP = 1_000_000  # Lisp cells: its own ten million let sounds pile up to gigabytes unswept
_DIPHONE_STRETCH = 1.1  # the diphone voices' own default
_DIPHONE_F0_HZ = 105  # likewise


class FestivalSynthesizer:
    """Speak with Festival's voices kal, ked and slt_hts, those of them that are installed.

    Pitch works for kal and ked; festival ignores it for the statistical voice slt_hts. A process
    that died is started again; close() ends it. Not for several threads at once.
    """

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        self._program = find_program("festival", install=INSTALL)
        self._timeout_s = timeout_s
        self._folder = tempfile.TemporaryDirectory(prefix="festival-")
        self._wave = Path(self._folder.name) / "speech.wav"
        self._process: subprocess.Popen[bytes] | None = None
        self._stop = lambda: None
        try:
            self._voices = self._find_voices()
        except ToolError:
            self.close()
            raise

    @property
    def voices(self) -> tuple[Voice, ...]:
        """The voices that this festival finds."""
        return self._voices

    def _find_voices(self) -> tuple[Voice, ...]:
        said = self._ask("(print (voice.list))").decode("utf-8", "replace")
        names = said.replace("(", " ").replace(")", " ").split()
        found = [(short, row) for short, row in _VOICES.items() if row[0] in names]
        if not found:
            packages = " ".join(row[3] for row in _VOICES.values())
            raise ToolError(f"festival must have a voice of ours, got none; apt install {packages}")
        return tuple(
            Voice(name=f"festival:{short}", sample_rate=rate, licence=licence)
            for short, (_, rate, licence, _) in found
        )

    def say(self, text: str, *, voice: str, speed: float = 1.0, pitch: float = 1.0) -> Audio:
        """Return the sound of a text, (S,) at 16 kHz; the same every time."""
        found = check_request(text, voice=voice, voices=self.voices, speed=speed, pitch=pitch)
        short = found.name.removeprefix("festival:")
        # Choosing the voice anew resets all that speed and pitch of another request have set.
        forms = [f"(voice_{_VOICES[short][0]})"]
        if short == "slt_hts":  # of its engine's options, this festival hears the speed alone
            rate = f'(list (list "-r" {speed:.6f}))'
            forms += [f"(set! hts_engine_params (append hts_engine_params {rate}))"]
        else:
            mean = _DIPHONE_F0_HZ * pitch
            forms += [
                f"(Param.set 'Duration_Stretch {_DIPHONE_STRETCH / speed:.6f})",
                f"(set! int_lr_params (cons (list 'target_f0_mean {mean:.6f}) "
                "(cdr int_lr_params)))",
            ]
        forms += [
            f"(set! spoken (utt.synth (Utterance Text {_literal(ascii_text(text))})))",
            f"(utt.save.wave spoken {_literal(str(self._wave))} 'riff)",
        ]
        self._wave.unlink(missing_ok=True)
        said = self._ask_again(f"(begin {' '.join(forms)} t)")
        if not self._wave.is_file():
            raise ToolError(f"festival must say {text[:60]!r}, got: {last_words(said)}")
        return decode_sound(self._wave.read_bytes(), source=f"festival with {text[:60]!r}")

    def close(self) -> None:
        """End the process and remove its folder; the synthesizer is of no use afterwards."""
        self._end()
        self._folder.cleanup()

    def _ask_again(self, form: str) -> bytes:
        """Ask; once more of a new process if the old one was found dead or died of it."""
        try:
            return self._ask(form)
        except _DiedError:
            return self._ask(form)

    def _ask(self, form: str) -> bytes:
        """Let festival evaluate a form and return what it printed, errors included."""
        process = self._running()
        assert process.stdin is not None
        mark = f"[end of answer {secrets.token_hex(8)}]"
        try:
            process.stdin.write(f'{form}\n(format t "{mark}\\n")\n(fflush nil)\n'.encode())
            process.stdin.flush()
        except OSError:
            pass  # it is dead: what it said last is still to be read
        return self._read(process, mark.encode())

    def _read(self, process: subprocess.Popen[bytes], mark: bytes) -> bytes:
        assert process.stdout is not None
        said = b""
        deadline = time.monotonic() + self._timeout_s
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            while mark not in said:
                left = deadline - time.monotonic()
                if left <= 0 or not ready.select(left):
                    self._end()
                    raise ToolError(
                        f"festival must answer within {self._timeout_s:g} s, "
                        f"got: {last_words(said)}"
                    )
                piece = os.read(process.stdout.fileno(), 65_536)
                if not piece:
                    self._end()
                    raise _DiedError(
                        f"festival must go on, got status {process.returncode}: {last_words(said)}"
                    )
                said += piece
        return said.replace(mark, b"")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        if not Path(self._folder.name).is_dir():
            raise ToolError("this festival must still be open, got one that was closed")
        try:
            self._process = subprocess.Popen(
                [self._program, "--heap", str(_HEAP), "--pipe"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "HOME": self._folder.name},  # nobody's own .festivalrc
            )
        except OSError as error:
            raise ToolError(f"festival must be a program that runs, got {error}") from error
        self._stop = weakref.finalize(self, _end_process, self._process)
        return self._process

    def _end(self) -> None:
        self._stop()
        self._process = None


class _DiedError(ToolError):
    """The process ended before it had answered."""


def _literal(text: str) -> str:
    """Write a text as a Scheme string: nothing inside of it is ever read as Scheme."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()
