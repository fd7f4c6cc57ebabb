"""Any server that speaks OpenAI's `/v1/audio/speech`: CosyVoice, Kokoro, vLLM, OpenAI itself."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llama_omni import audio
from llama_omni.backends.tts_common import check_request, decode_sound, plain_text, tidy
from llama_omni.errors import AudioError, ConfigError, MissingExtraError, ToolError
from llama_omni.interfaces import Audio, Voice

_UNKNOWN_RATE = 24_000  # what most such servers make; WAV says its own


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechEndpointOptions:
    """Where the server is, what it is asked for, and how hard it is tried."""

    base_url: str  # up to and including the version: "https://api.openai.com/v1"
    model: str
    voices: tuple[str, ...] = ()  # the server's names; empty asks the server for its list
    api_key_env: str = "OPENAI_API_KEY"  # environment variable; local servers need none
    response_format: str = "wav"  # or "pcm"
    pcm_rate: int = _UNKNOWN_RATE  # Hz of "pcm", which does not say
    licence: str = "unknown"  # of what the server's voices say; for a data set's card
    retries: int = 5  # after the first try, with exponential backoff
    timeout_s: float = 120.0  # of one try

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"base_url must begin with http:// or https://, got {self.base_url}")
        if not self.model:
            raise ConfigError("model must be a name that the server knows, got an empty one")
        if self.response_format not in ("wav", "pcm"):
            raise ConfigError(f"response_format must be wav or pcm, got {self.response_format}")
        if self.retries < 0:
            raise ConfigError(f"retries must be at least 0, got {self.retries}")
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout_s must be above 0, got {self.timeout_s}")


class EndpointSynthesizer:
    """Speak with a server's voices, named `endpoint:MODEL/VOICE`.

    Pitch is ignored: the protocol has none. Whether the same text sounds the same again is the
    server's affair. For any number of threads.

    Raises:
        MissingExtraError: The package `openai` is not installed.
        ToolError: The voices are not given, and the server does not list them.
    """

    def __init__(self, options: SpeechEndpointOptions) -> None:
        try:
            import openai
        except ImportError as error:
            raise MissingExtraError("openai", "data", "a speech endpoint") from error
        self._openai, self._options = openai, options
        self._key = os.environ.get(options.api_key_env) or "none"
        self._client = openai.OpenAI(
            base_url=options.base_url,
            api_key=self._key,
            timeout=options.timeout_s,
            max_retries=options.retries,
        )
        try:
            names = options.voices or self._ask_voices()
        except ToolError:
            self.close()
            raise
        self._names = {f"endpoint:{options.model}/{name}": name for name in names}
        self._voices = tuple(
            Voice(name=name, sample_rate=options.pcm_rate, licence=options.licence)
            for name in self._names
        )

    @property
    def voices(self) -> tuple[Voice, ...]:
        """The voices that were given, or that the server listed."""
        return self._voices

    def say(self, text: str, *, voice: str, speed: float = 1.0, pitch: float = 1.0) -> Audio:
        """Return the sound of a text, (S,) at 16 kHz."""
        check_request(text, voice=voice, voices=self._voices, speed=speed, pitch=pitch)
        options = self._options
        form: Any = options.response_format
        asked = f"(asked: {text[:60]!r})"
        try:
            data = self._client.audio.speech.create(
                model=options.model,
                voice=self._names[voice],
                input=plain_text(text),
                response_format=form,
                speed=speed,
            ).content
        except self._openai.OpenAIError as error:
            raise self._error("audio/speech", f"{self._words(error)} {asked}") from error
        source = f"{self._address('audio/speech')} {asked}"
        if form == "wav":
            return decode_sound(data, source=source)
        try:
            samples = audio.pcm16_decode(data)  # (S,)
        except AudioError as error:
            raise ToolError(f"{source} must give 16 bit PCM, got: {error}") from error
        return tidy(np.ascontiguousarray(samples), options.pcm_rate, source=source)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ask_voices(self) -> Sequence[str]:
        """Ask for the list that Kokoro, CosyVoice and other local servers give."""
        try:
            body: Any = self._client.get("/audio/voices", cast_to=object)
        except self._openai.OpenAIError as error:
            found = f"{self._words(error)}; name the voices: endpoint:BASE_URL#MODEL?voices=A,B"
            raise self._error("audio/voices", found) from error
        listed = body.get("voices") if isinstance(body, dict) else body
        rows = listed if isinstance(listed, list) else []
        names = [row.get("id") or row.get("name") if isinstance(row, dict) else row for row in rows]
        found = [name for name in names if isinstance(name, str) and name]
        if not found:
            raise self._error(
                "audio/voices", "no list; name the voices: endpoint:BASE_URL#MODEL?voices=A,B"
            )
        return found

    def _address(self, path: str) -> str:
        return f"{self._options.base_url.rstrip('/')}/{path}"

    def _error(self, path: str, found: str) -> ToolError:
        return ToolError(
            f"{self._address(path)} must answer model {self._options.model!r}, got: {found}"
        )

    def _words(self, error: Exception) -> str:
        """Say an error in one line, without the key, and add what would help."""
        text, below = str(error) or type(error).__name__, error.__cause__
        if isinstance(error, self._openai.APIConnectionError) and below is not None:
            text = f"{text} ({below or type(below).__name__})"
        text = " ".join(text.split())[:300]
        status = getattr(error, "status_code", None)
        if status in (401, 403):
            text += f"; the key is read from the variable {self._options.api_key_env}"
        if status == 404:
            text += "; base_url must end in the API's version, and the model must exist"
        return text.replace(self._key, "***") if len(self._key) > 4 else text
