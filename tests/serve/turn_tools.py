"""A voice that is a level, a clock that is the sound, and speech from the system's programs."""

import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
import soxr

from llama_omni.serve.turns import TurnDetector, TurnSettings

RATE = 16_000


class LevelVad:
    """Takes a chunk for speech as likely as its mean level says."""

    def __init__(self):
        self.num_asked = self.num_resets = 0

    def probability(self, chunk):
        self.num_asked += 1
        assert chunk.shape == (512,)
        return float(np.abs(chunk).mean())

    def reset(self):
        self.num_resets += 1


def levels(*parts, rate=RATE):
    """Sound from (ms, level) pairs; a level of 0.9 is certain speech. Signs alternate slowly."""
    pieces = [np.full(ms * rate // 1000, level, np.float32) for ms, level in parts]
    return np.concatenate(pieces)


def chunks(*parts):
    """The same, with lengths in chunks of 32 ms."""
    return levels(*((32 * count, level) for count, level in parts))


def detector(vad=None, **changes):
    settings = {"sample_rate": RATE, "prefix_padding_ms": 96, "min_speech_ms": 64} | changes
    return TurnDetector(TurnSettings(**settings), vad or LevelVad())


def cut(sound, places):
    """Cut at the given places (any order, repeats make empty pieces)."""
    edges = [0, *sorted(min(place, len(sound)) for place in places), len(sound)]
    return [sound[a:b] for a, b in pairwise(edges)]


def run(listener, sound, step=320):
    return [
        event
        for piece in np.split(sound, range(step, len(sound), step))
        for event in listener.feed(piece)
    ]


def names(events):
    return [type(event).__name__ for event in events]


def only(events, kind):
    return [event for event in events if isinstance(event, kind)]


def plain(events):
    """Events as comparable values, sound as bytes."""
    return [
        (
            type(event).__name__,
            *(
                value.tobytes() if isinstance(value, np.ndarray) else value
                for value in (getattr(event, name) for name in event.__slots__)
            ),
        )
        for event in events
    ]


PROGRAMS = {
    "flite": lambda text, file: ["flite", "-voice", "rms", "-t", text, "-o", file],
    "espeak-ng": lambda text, file: ["espeak-ng", "-s", "150", "-w", file, text],
}


def say(program, text, folder: Path, rate=RATE):
    """Speech without the program's own silence around it, or None where it is not installed."""
    if not shutil.which(program):
        return None
    file = str(folder / f"{program}.wav")
    subprocess.run(PROGRAMS[program](text, file), check=True, capture_output=True)
    sound, source = soundfile.read(file, dtype="float32")
    loud = np.flatnonzero(np.abs(sound) > 0.01)
    sound = sound[loud[0] : loud[-1] + 1]
    return soxr.resample(sound, source, rate).astype(np.float32) * 0.8


def room(ms, rate=RATE, level=1e-3, seed=0):
    """A quiet room: white noise at -60 dB of full scale."""
    noise = np.random.default_rng(seed).standard_normal(ms * rate // 1000)
    return (level * noise).astype(np.float32)
