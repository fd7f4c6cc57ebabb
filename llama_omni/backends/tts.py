"""Find a synthesizer by the name a recipe gives it.

| spec | what speaks |
| --- | --- |
| `flite`, `festival`, `espeak-ng` | Debian's classic voices, all that are installed |
| `flite:rms`, `espeak-ng:en-gb+m3` | one voice of these |
| `vits:FOLDER_OR_HUB_ID` | a VITS model through Transformers; `#3` picks a speaker |
| `endpoint:BASE_URL#MODEL` | any server that speaks OpenAI's `/v1/audio/speech` |
| `flite,festival,espeak-ng` | several: each voice is spoken by the one that has it |
"""

import re
from collections.abc import Callable, Sequence

from llama_omni.backends.tts_common import TIMEOUT_S, check_request
from llama_omni.backends.tts_espeak import INSTALL as INSTALL_ESPEAK
from llama_omni.backends.tts_espeak import EspeakSynthesizer
from llama_omni.backends.tts_festival import INSTALL as INSTALL_FESTIVAL
from llama_omni.backends.tts_festival import FestivalSynthesizer
from llama_omni.backends.tts_flite import INSTALL as INSTALL_FLITE
from llama_omni.backends.tts_flite import FliteSynthesizer
from llama_omni.errors import ConfigError, InputError
from llama_omni.interfaces import Audio, Synthesizer, Voice

_PROGRAMS: dict[str, tuple[Callable[..., Synthesizer], str]] = {
    "flite": (FliteSynthesizer, INSTALL_FLITE),
    "festival": (FestivalSynthesizer, INSTALL_FESTIVAL),
    "espeak-ng": (EspeakSynthesizer, INSTALL_ESPEAK),
}
_KNOWN = (
    ", ".join(f"{name} ({install})" for name, (_, install) in _PROGRAMS.items())
    + ", vits:FOLDER_OR_HUB_ID, endpoint:BASE_URL#MODEL"
)
_NEXT = re.compile(r",(?=(?:flite|festival|espeak-ng|vits|endpoint)(?:[:,]|$))")


def open_synthesizer(spec: str, *, timeout_s: float = TIMEOUT_S) -> Synthesizer:
    """Open what a spec names; close() it at the end.

    Args:
        spec: See this module's table.
        timeout_s: How long one utterance may take.

    Raises:
        ConfigError: No such kind of synthesizer; lists those that there are.
        ToolError: The program or server is absent; says how to install it.
        InputError: The program has no such voice.
    """
    specs = _NEXT.split(spec)
    opened: list[Synthesizer] = []
    try:
        for item in specs:
            opened.append(_open_one(item, timeout_s))
    except BaseException:
        for synthesizer in opened:
            synthesizer.close()
        raise
    return opened[0] if len(opened) == 1 else _Several(opened)


def _open_one(spec: str, timeout_s: float) -> Synthesizer:
    kind, _, rest = spec.partition(":")
    if kind in _PROGRAMS:
        program = _PROGRAMS[kind][0](timeout_s=timeout_s)
        return _only(program, spec) if rest else program
    raise ConfigError(f"voice program must be one of {_KNOWN}, got {spec!r}")


def _only(program: Synthesizer, voice: str) -> Synthesizer:
    try:
        check_request("a", voice=voice, voices=program.voices, speed=1.0, pitch=1.0)
    except InputError:
        program.close()
        raise
    return _Several([program], names=[voice])


class _Several:
    """Several synthesizers as one, or some voices of one."""

    def __init__(self, members: Sequence[Synthesizer], *, names: Sequence[str] = ()) -> None:
        self._members = tuple(members)
        self._speakers = {
            voice.name: (voice, member)
            for member in members
            for voice in member.voices
            if not names or voice.name in names
        }

    @property
    def voices(self) -> tuple[Voice, ...]:
        """The voices of all."""
        return tuple(voice for voice, _ in self._speakers.values())

    def say(self, text: str, *, voice: str, speed: float = 1.0, pitch: float = 1.0) -> Audio:
        """Return the sound of a text, by the member that has the voice."""
        check_request(text, voice=voice, voices=self.voices, speed=speed, pitch=pitch)
        return self._speakers[voice][1].say(text, voice=voice, speed=speed, pitch=pitch)

    def close(self) -> None:
        """Close all."""
        for member in self._members:
            member.close()
