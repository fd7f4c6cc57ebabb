"""eSpeak NG: a formant synthesizer of a hundred languages, with many variants of each voice.

A voice is `espeak-ng:LANGUAGE` or `espeak-ng:LANGUAGE+VARIANT`, such as `espeak-ng:en-gb+m3` or
`espeak-ng:de`; `espeak-ng --voices` lists the languages.
"""

import math

from llama_omni.backends.tts_common import (
    TIMEOUT_S,
    check_request,
    decode_sound,
    find_program,
    plain_text,
    run_program,
)
from llama_omni.errors import ToolError
from llama_omni.interfaces import Audio, Voice

INSTALL = "apt install espeak-ng"

_LICENCE = "GPL-3.0-or-later (program and voice data; its output is not covered by it)"
_RATE = 22_050
_WORDS_PER_MINUTE = 175  # espeak-ng's default speed
_MIDDLE_PITCH, _HIGHEST_PITCH = 50, 99  # 50 steps are an octave


class EspeakSynthesizer:
    """Speak with espeak-ng's languages and accents, plain or in one of its variants."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        self._program = find_program("espeak-ng", install=INSTALL)
        self._timeout_s = timeout_s
        self._voices = self._find_voices()

    @property
    def voices(self) -> tuple[Voice, ...]:
        """Every language and accent that is installed, plain and with each variant."""
        return self._voices

    def _find_voices(self) -> tuple[Voice, ...]:
        languages = sorted({row[1] for row in self._list("")} - {"variant"})
        if not languages:
            raise ToolError("espeak-ng must list a voice, got none; " + INSTALL)
        variants = sorted(
            row[4].removeprefix("!v/")
            for row in self._list("variant")
            if row[4].startswith("!v/") and len(row) == 5  # a blank in a name makes it longer
        )
        names = [
            f"{language}{end}"
            for language in languages
            for end in ["", *("+" + v for v in variants)]
        ]
        return tuple(
            Voice(name=f"espeak-ng:{name}", sample_rate=_RATE, licence=_LICENCE) for name in names
        )

    def _list(self, language: str) -> list[list[str]]:
        """Return priority, language, age and gender, name, file and more of each voice."""
        wanted = f"--voices={language}" if language else "--voices"
        said = run_program([self._program, wanted], timeout_s=self._timeout_s)
        rows = [line.split() for line in said.decode("utf-8", "replace").splitlines()[1:]]
        return [row for row in rows if len(row) >= 5]

    def say(self, text: str, *, voice: str, speed: float = 1.0, pitch: float = 1.0) -> Audio:
        """Return the sound of a text, (S,) at 16 kHz; the same every time."""
        found = check_request(text, voice=voice, voices=self.voices, speed=speed, pitch=pitch)
        step = round(_MIDDLE_PITCH + _MIDDLE_PITCH * math.log2(pitch))
        command = [
            self._program,
            *("-v", found.name.removeprefix("espeak-ng:")),
            *("-s", str(round(_WORDS_PER_MINUTE * speed))),
            *("-p", str(min(max(step, 0), _HIGHEST_PITCH))),
            *("-b", "1", "--stdin", "--stdout"),
        ]
        # Double brackets would be read as phoneme names.
        spoken = plain_text(text).replace("[", "(").replace("]", ")")
        sound = run_program(command, stdin=spoken.encode(), timeout_s=self._timeout_s)
        return decode_sound(sound, source=f"espeak-ng with {text[:60]!r}")

    def close(self) -> None:
        """Do nothing: no process is left behind."""
