"""Hearing a question: sound -> speech embeddings, with the time of each part."""

import torch

from llama_omni.audio import HOP
from llama_omni.engine.context import SpokenTurn
from llama_omni.engine.phases import Phases
from llama_omni.interfaces import Audio
from llama_omni.model.omni import OmniModel


@torch.inference_mode()
def listen(model: OmniModel, sound: Audio, phases: Phases) -> SpokenTurn:
    """Turn 16 kHz sound into speech embeddings, timing each part."""
    waveform = torch.from_numpy(sound).to(model.device)[None]
    with phases("mel_s"):
        mel, lengths = model.mel(waveform)
    with phases("encode_s"):
        features = model.encoder(mel.to(model.dtype), lengths)
    with phases("adapt_s"):
        embeddings = model.adapt(features, lengths)[0]
    return SpokenTurn.of(sound, embeddings)


def speech_positions(model: OmniModel, samples: int) -> int:
    """Return P, the LLM positions that a question of so many samples will take."""
    mel_frames = model.encoder.window if model.config.pad_to_window else samples // HOP
    return (mel_frames + 1) // 2 // model.config.adapter.stack
