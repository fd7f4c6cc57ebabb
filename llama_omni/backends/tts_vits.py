"""VITS through Transformers: `facebook/mms-tts-eng`, `kakao-enterprise/vits-ljs`, or a folder.

VITS draws noise for rhythm and tone. Here it is seeded by the seed, the speaker and the text, so
that a sentence sounds the same whenever and wherever it is said on one kind of device.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import VitsModel, VitsTokenizer
from transformers.utils.hub import cached_file

from llama_omni.backends.tts_common import check_request, plain_text, tidy
from llama_omni.errors import InputError, ToolError
from llama_omni.interfaces import Audio, Voice

_UNUSED = "posterior_encoder."  # of training alone; some folders leave it out


class VitsSynthesizer:
    """Speak with a VITS model, in the voice of any of its speakers.

    Pitch is ignored: the model has no such knob.

    Args:
        name: A local folder in Transformers' layout, or an id of its hub.
        speaker: Offer this one alone of the model's speakers; None offers all.
        seed: Another seed gives another rhythm and tone.
        device: Where it runs.

    Raises:
        ToolError: The folder or id holds no such model, or misses weights.
        InputError: The model has no such speaker.
    """

    def __init__(
        self, name: str, *, speaker: int | None = None, seed: int = 0, device: str = "cpu"
    ) -> None:
        self._name, self._seed = name, seed
        self._model, self._tokenizer = _load(name)
        nn.Module.to(self._model, torch.device(device)).eval()
        count = int(self._model.config.num_speakers)
        if speaker is not None and not 0 <= speaker < count:
            raise InputError(f"vits:{name} must have speakers 0 to {count - 1}, got #{speaker}")
        rate, licence = int(self._model.config.sampling_rate), _licence(name)
        offered = range(count) if speaker is None else [speaker]
        plain = count == 1 and speaker is None
        self._speakers = {f"vits:{name}" + ("" if plain else f"#{i}"): i for i in offered}
        self._voices = tuple(
            Voice(name=voice, sample_rate=rate, licence=licence) for voice in self._speakers
        )

    @property
    def voices(self) -> tuple[Voice, ...]:
        """One for each speaker: `vits:NAME`, or `vits:NAME#3` where there are several."""
        return self._voices

    def say(self, text: str, *, voice: str, speed: float = 1.0, pitch: float = 1.0) -> Audio:
        """Return the sound of a text, (S,) at 16 kHz; the same every time on one device."""
        check_request(text, voice=voice, voices=self._voices, speed=speed, pitch=pitch)
        speaker, written = self._speakers[voice], plain_text(text)
        ids = self._encode(written)  # (1, C)
        model, device = self._model, self._model.device
        others = [device] if device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices=others):
            torch.manual_seed(_noise_seed(self._seed, speaker, written))
            output = model(
                input_ids=ids.to(device),
                attention_mask=torch.ones_like(ids).to(device),
                speaker_id=speaker if model.config.num_speakers > 1 else None,
                speaking_rate=model.config.speaking_rate * speed,
            )
        samples = output.waveform[0].float().cpu().numpy()  # (S,)
        source = f"vits:{self._name} with {text[:60]!r}"
        return tidy(samples, model.config.sampling_rate, source=source)

    def close(self) -> None:
        """Do nothing: the memory goes with the object."""

    def _encode(self, text: str) -> torch.Tensor:
        """Return the (1, C) character or phoneme ids of a text, and lose no word of it."""
        tokenizer = self._tokenizer
        if not tokenizer.phonemize and not tokenizer.is_uroman:
            known = tokenizer.get_vocab()
            lost = [c for c in text if c.isalnum() and c not in known and c.lower() not in known]
            if lost:  # the tokenizer itself would drop them without a word
                raise InputError(
                    f"text must be written in the letters of vits:{self._name}, "
                    f"got {lost[0]!r} in {text[:60]!r}; spell it out in words"
                )
        try:
            ids: Any = tokenizer(text, return_tensors="pt")["input_ids"]
        except (ImportError, RuntimeError) as error:
            raise ToolError(
                f"vits:{self._name} reads phonemes and needs a phonemizer, got: {error}; "
                "pip install phonemizer and apt install espeak-ng"
            ) from error
        if ids.shape[-1] <= 1:
            raise InputError(f"text must hold something to say, got {text!r}")
        return ids


def _load(name: str) -> tuple[VitsModel, VitsTokenizer]:
    folder = Path(name)
    if folder.is_dir() and not (folder / "vocab.json").is_file():
        raise ToolError(f"{name} must hold a vocab.json, found none")
    try:
        loaded: Any = VitsModel.from_pretrained(name, output_loading_info=True)
        model, info = loaded
        tokenizer = VitsTokenizer.from_pretrained(name)
    except Exception as error:  # whatever a damaged folder makes the library say
        said = " ".join(str(error).split())[:300]
        raise ToolError(
            f"vits:{name} must be a folder or a hub id of a VITS model, got: {said}"
        ) from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(_UNUSED))
    if missing:
        raise ToolError(
            f"vits:{name} must hold every weight, missing {len(missing)}, such as {missing[0]}"
        )
    return model, tokenizer


def _licence(name: str) -> str:
    """Return the licence that the model's card states, "unknown" where it states none."""
    card = cached_file(
        name,
        "README.md",
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    text = Path(card).read_text(encoding="utf-8", errors="replace") if card else ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license: *(\S.*?) *$", front.group(1), re.MULTILINE) if front else None
    return found.group(1) if found else "unknown"


def _noise_seed(seed: int, speaker: int, text: str) -> int:
    digest = hashlib.sha256(f"{seed}\0{speaker}\0{text}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1
