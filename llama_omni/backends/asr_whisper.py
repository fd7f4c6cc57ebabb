"""Whisper through Transformers, any size: the recogniser of the paper's ASR-WER (large-v3)."""

import logging
from typing import Any

import numpy as np

from llama_omni import audio as sound
from llama_omni.errors import ConfigError, InputError
from llama_omni.interfaces import Audio

WINDOW_S = 30  # that Whisper hears at a time
LONGEST_S = 3_600.0

logger = logging.getLogger(__name__)


class WhisperRecognizer:
    """Write down speech, greedily; sound above 30 s is heard window by window, by timestamps.

    Args:
        model: a folder in Transformers' layout, or a hub id such as openai/whisper-large-v3.
        device: "auto", "cpu", "cuda".
        language: that is spoken; None has Whisper guess. An English-only model takes none.

    Raises:
        ConfigError: there is no such device.
        InputError: there is no such model.
    """

    def __init__(self, model: str, *, device: str = "auto", language: str | None = "en") -> None:
        import torch
        from transformers import AutoProcessor, WhisperForConditionalGeneration

        self._name = model
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._device = torch.device(device)
        except RuntimeError as error:
            raise ConfigError(f"--device must be auto, cpu or cuda, got {device!r}") from error
        dtype = torch.float16 if self._device.type == "cuda" else torch.float32
        try:
            self._processor: Any = AutoProcessor.from_pretrained(model)
            found: Any = WhisperForConditionalGeneration.from_pretrained(model, dtype=dtype)
        # A folder of another kind fails in any of these ways, at whatever it lacks first.
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            why = " ".join(str(error).split())[:300]
            raise InputError(
                f"{model} must be a Whisper model, a folder or a hub id, got: {why}"
            ) from error
        if found.config.model_type != "whisper" or not hasattr(self._processor, "tokenizer"):
            raise InputError(f"{model} must be a Whisper model, got a {found.config.model_type}")
        self._model = found.to(self._device).eval()
        self._dtype = dtype
        settings = self._model.generation_config
        if getattr(settings, "no_timestamps_token_id", None) is None:
            raise InputError(
                f"{model} must hold a generation_config.json with Whisper's tokens, got none; "
                "take that of a newer copy"
            )
        many = bool(getattr(settings, "is_multilingual", True))
        self._options = {"language": language, "task": "transcribe"} if many else {}

    def transcribe(self, audio: Audio) -> str:
        """Return the words of 16 kHz sound as Whisper writes them, punctuation and all.

        Raises:
            AudioError: the sound cannot be used.
            InputError: the model's generation_config.json lacks what this sound needs.
        """
        samples = sound.check(audio, min_s=0.0, max_s=LONGEST_S)
        if not len(samples):
            return ""
        long = len(samples) > WINDOW_S * sound.SAMPLE_RATE
        features = self._processor.feature_extractor(
            samples.astype(np.float32),
            sampling_rate=sound.SAMPLE_RATE,
            return_tensors="pt",
            return_attention_mask=True,
            truncation=not long,
            padding="longest" if long else "max_length",
        )
        try:
            tokens = self._generate(features, long)
        except ValueError as error:  # of a generation_config.json that lacks what this sound needs
            raise InputError(f"{self._name} cannot hear this sound: {error}") from error
        return self._processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()

    def _generate(self, features: Any, long: bool) -> Any:
        import torch

        with torch.inference_mode():
            return self._model.generate(
                features.input_features.to(self._device, self._dtype),
                attention_mask=features.attention_mask.to(self._device),
                return_timestamps=long,
                do_sample=False,
                num_beams=1,
                **self._options,
            )
