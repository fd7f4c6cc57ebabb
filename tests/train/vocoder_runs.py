"""A voice of six units, each a tone, and vocoders small enough to learn it in seconds."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from llama_omni.data.flac import encode_flac
from llama_omni.data.schema import Row, Sound
from llama_omni.data.shards import FORMAT, write_manifest, write_shard
from llama_omni.model.vocoder import VocoderConfig
from llama_omni.train.processes import Processes
from llama_omni.train.vocoder import train_vocoder
from llama_omni.train.vocoder_data import SpeechSegments
from llama_omni.train.vocoder_settings import VocoderSettings

SMALL = {"num_units": 6, "embedding_dim": 16, "duration_hidden_dim": 8}
LIGHT = VocoderConfig(
    generator="convnext-istft",
    convnext_dim=16,
    convnext_hidden_dim=32,
    convnext_blocks=[1, 1],
    **SMALL,
)
HIFIGAN = VocoderConfig(
    initial_channels=32,
    resblock_kernel_sizes=[3],
    resblock_dilations=[[1]],
    **SMALL,
)
CONFIGS = {"light": LIGHT, "hifigan": HIFIGAN}
QUICK = VocoderSettings(
    max_steps=20,
    batch_size=4,
    segment_s=0.3,
    learning_rate=3e-3,
    held_out=2,
    samples=1,
    save_every=6,
    eval_every=10,
    log_every=1,
    device="cpu",
    tensorboard=False,
)


def spoken_row(number, *, frames=None, **fields):
    rng = np.random.default_rng(number)
    units = rng.permutation(6)
    durations = rng.integers(2, 7, 6) if frames is None else np.full(6, frames)
    hertz = 150.0 * (1 + np.repeat(units, durations * 320))
    sound = 0.3 * np.sin(2 * np.pi * np.cumsum(hertz) / 16_000) + 0.01 * rng.standard_normal(
        len(hertz)
    )
    flac = Sound(bytes=encode_flac(sound.astype(np.float32)), path="a.flac")
    plain = {
        "id": f"row-{number}",
        "split": "train",
        "source": "test",
        "intent": None,
        "question": "q",
        "question_audio": flac,
        "question_voice": "a",
        "question_s": 0.1,
        "answer": "a",
        "answer_audio": flac,
        "answer_voice": "b",
        "answer_s": len(sound) / 16_000,
        "units": units.tolist(),
        "durations": durations.tolist(),
    }
    return Row(**{**plain, **fields})


def write_set(folder, rows):
    shard = write_shard(folder, "data/train-00000.parquet", "train", rows)
    write_manifest(folder, {"format": FORMAT, "shards": [asdict(shard)]})
    return folder


def write_voice(folder) -> Path:
    """A data set of 14 answers, two without units or sound."""
    rows = [spoken_row(number) for number in range(12)]
    rows += [spoken_row(12, units=None, durations=None), spoken_row(13, answer_audio=None)]
    return write_set(folder, rows)


def run(voice, output, settings=QUICK, config=LIGHT, **changes):
    return train_vocoder(voice, replace(settings, **changes), output, config=config)


def lines(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def losses_of(output):
    return [row["loss"] for row in lines(output) if "loss" in row]


def segments_of(voice, cache=None, **changes):
    asked = {"num_units": 6, "hop": 320, "max_hours": 1.0, "held_out": 2, "seed": 0}
    return SpeechSegments(voice, cache or voice / "cache", **(asked | changes))


def alone():
    return Processes(rank=0, world=1, device=torch.device("cpu"))
