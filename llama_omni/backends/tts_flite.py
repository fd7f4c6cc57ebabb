"""Flite: CMU's small English voices; one process for each utterance, in a few milliseconds."""

from llama_omni.backends.tts_common import (
    TIMEOUT_S,
    ascii_text,
    check_request,
    decode_sound,
    find_program,
    run_program,
)
from llama_omni.errors import ToolError
from llama_omni.interfaces import Audio, Voice

INSTALL = "apt install flite"

_LICENCE = "CMU/CSTR permissive (free to use, change and sell; keep the notices)"
_RATES = {"kal": 8_000, "kal16": 16_000, "awb": 16_000, "rms": 16_000, "slt": 16_000}
_DIPHONES = ("kal", "kal16")  # the voices whose pitch flite lets one set
_DIPHONE_STRETCH = 1.1  # their own default; the statistical voices' is 1
_DIPHONE_F0_HZ = 95.0  # their own default


class FliteSynthesizer:
    """Speak with Flite's built-in voices.

    Pitch works for kal and kal16; flite ignores it for the statistical voices awb, rms and slt.
    """

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        self._program = find_program("flite", install=INSTALL)
        self._timeout_s = timeout_s
        self._voices = self._find_voices()

    @property
    def voices(self) -> tuple[Voice, ...]:
        """The English voices that this flite was built with."""
        return self._voices

    def _find_voices(self) -> tuple[Voice, ...]:
        said = run_program([self._program, "-lv"], timeout_s=self._timeout_s).decode()
        names = said.partition(":")[2].split()
        known = [name for name in _RATES if name in names]
        if not known:
            raise ToolError(f"flite must list one of its voices {', '.join(_RATES)}, got {said!r}")
        return tuple(
            Voice(name=f"flite:{name}", sample_rate=_RATES[name], licence=_LICENCE)
            for name in known
        )

    def say(self, text: str, *, voice: str, speed: float = 1.0, pitch: float = 1.0) -> Audio:
        """Return the sound of a text, (S,) at 16 kHz; the same every time."""
        found = check_request(text, voice=voice, voices=self.voices, speed=speed, pitch=pitch)
        name = found.name.removeprefix("flite:")
        command = [self._program, "-voice", name]
        if speed != 1.0:
            stretch = (_DIPHONE_STRETCH if name in _DIPHONES else 1.0) / speed
            command += ["--setf", f"duration_stretch={stretch:.6f}"]
        if pitch != 1.0 and name in _DIPHONES:
            command += ["--setf", f"int_f0_target_mean={_DIPHONE_F0_HZ * pitch:.6f}"]
        command += ["-t", ascii_text(text), "-o", "/dev/stdout"]
        sound = run_program(command, timeout_s=self._timeout_s)
        return decode_sound(sound, source=f"flite with {text[:60]!r}")

    def close(self) -> None:
        """Do nothing: no process is left behind."""
