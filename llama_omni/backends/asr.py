"""Recognisers by name. They check synthetic speech from outside; none of them is trained here."""

from llama_omni.errors import ConfigError
from llama_omni.interfaces import Recognizer

NAMES = (
    "pocketsphinx, pocketsphinx:FILE.lm (an ARPA language model, see backends/ngram.py), "
    "whisper:FOLDER_OR_HUB_ID"
)


def open_recognizer(spec: str, *, device: str = "auto") -> Recognizer:
    """Return the recogniser that a text names.

    Args:
        spec: one of `NAMES`.
        device: that a Whisper runs on.

    Raises:
        ConfigError: there is no such recogniser.
        MissingExtraError: its package is not installed.
        InputError: the model cannot be read.
    """
    program, colon, option = spec.partition(":")
    if program == "whisper" and option:
        from llama_omni.backends.asr_whisper import WhisperRecognizer

        return WhisperRecognizer(option, device=device)
    if program != "pocketsphinx" or (colon and not option):
        raise ConfigError(f"recognizer must be one of {NAMES}; got {spec!r}")
    from llama_omni.backends.asr_pocketsphinx import PocketsphinxRecognizer

    return PocketsphinxRecognizer(option or None)
