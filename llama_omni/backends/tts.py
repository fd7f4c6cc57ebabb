"""Find a synthesizer by the name a recipe gives it.

| spec | what speaks |
| --- | --- |
| `flite`, `festival`, `espeak-ng` | Debian's classic voices, all that are installed |
| `flite:rms`, `espeak-ng:en-gb+m3` | one voice of these |
| `vits:FOLDER_OR_HUB_ID` | a VITS model through Transformers; `#3` offers one speaker alone |
| `endpoint:BASE_URL#MODEL` | a server that speaks OpenAI's `/v1/audio/speech` |
| `endpoint:BASE_URL#MODEL?voices=A,B` | one that lists no voices |
| `flite,festival,espeak-ng` | several: each voice is spoken by the one that has it |
"""

import re
from collections.abc import Callable, Sequence
from urllib.parse import parse_qsl

from llama_omni.backends.tts_common import TIMEOUT_S, check_request
from llama_omni.backends.tts_endpoint import EndpointSynthesizer, SpeechEndpointOptions
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


def open_synthesizer(
    spec: str, *, timeout_s: float = TIMEOUT_S, seed: int = 0, device: str = "cpu"
) -> Synthesizer:
    """Open what a spec names; close() it at the end.

    Args:
        spec: See this module's table.
        timeout_s: How long one utterance may take; a VITS model has no such limit.
        seed: Of the noise in VITS; the others draw none.
        device: Where VITS runs.

    Raises:
        ConfigError: No such kind of synthesizer; lists those that there are.
        ToolError: The program or server is absent; says how to install it.
        InputError: The program has no such voice.
    """
    specs = _NEXT.split(spec)
    opened: list[Synthesizer] = []
    try:
        for item in specs:
            opened.append(_open_one(item, timeout_s, seed, device))
    except BaseException:
        for synthesizer in opened:
            synthesizer.close()
        raise
    return opened[0] if len(opened) == 1 else _Several(opened)


def _open_one(spec: str, timeout_s: float, seed: int, device: str) -> Synthesizer:
    kind, _, rest = spec.partition(":")
    if kind in _PROGRAMS:
        program = _PROGRAMS[kind][0](timeout_s=timeout_s)
        return _only(program, spec) if rest else program
    if kind == "vits" and rest:
        from llama_omni.backends.tts_vits import VitsSynthesizer  # loads torch

        name, speaker = _speaker(rest)
        return VitsSynthesizer(name, speaker=speaker, seed=seed, device=device)
    if kind == "endpoint" and rest:
        return EndpointSynthesizer(_endpoint(rest, timeout_s))
    raise ConfigError(f"voice program must be one of {_KNOWN}, got {spec!r}")


def _speaker(rest: str) -> tuple[str, int | None]:
    name, mark, number = rest.rpartition("#")
    if not mark:
        return rest, None
    if not number.isdecimal() or not name:
        raise ConfigError(f"a VITS speaker must be written as #NUMBER, got 'vits:{rest}'")
    return name, int(number)


def _endpoint(rest: str, timeout_s: float) -> SpeechEndpointOptions:
    base_url, _, end = rest.partition("#")
    model, _, query = end.partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(given) - {"voices", "key", "format"})
    if unknown or not model:
        raise ConfigError(
            "an endpoint must be written as endpoint:BASE_URL#MODEL, and after it may stand "
            f"?voices=A,B&key=VARIABLE&format=pcm, got 'endpoint:{rest}'"
        )
    return SpeechEndpointOptions(
        base_url=base_url,
        model=model,
        voices=tuple(name for name in given.get("voices", "").split(",") if name),
        api_key_env=given.get("key", "OPENAI_API_KEY"),
        response_format=given.get("format", "wav"),
        timeout_s=timeout_s,
    )


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
        known = self._speakers.get(voice)  # there can be thousands: no list of them a sentence
        voices = self.voices if known is None else (known[0],)
        check_request(text, voice=voice, voices=voices, speed=speed, pitch=pitch)
        return self._speakers[voice][1].say(text, voice=voice, speed=speed, pitch=pitch)

    def close(self) -> None:
        """Close all."""
        for member in self._members:
            member.close()
