"""What the clients say: spoken questions, some with a pause inside, and where they end."""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np

from llama_omni import audio
from llama_omni.backends.tts import open_synthesizer
from llama_omni.data.domain import tiny_records
from llama_omni.errors import InputError, ToolError
from llama_omni.interfaces import Audio

EXAMPLE = Path(__file__).parents[3] / "examples" / "question.wav"
CACHE = Path(tempfile.gettempdir()) / "llama-omni-questions"
PROGRAM = "flite"
QUESTIONS = 16
_FRAME_S = 0.02
_LOUD = 0.02  # of the loudest frame's level: 34 dB below it
_FADE_S = 0.005
NOISE = 3e-4  # level of a quiet room


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Utterance:
    """A question as it is spoken. It begins and ends with its voice, without silence around."""

    sound: Audio  # (S,)
    sample_rate: int
    pauses: tuple[tuple[float, float], ...] = ()  # (begin, end) of pauses inside, in seconds

    @property
    def lasts_s(self) -> float:
        """Seconds to its true end."""
        return len(self.sound) / self.sample_rate


def questions(*, file: Path | None = None, sample_rate: int, say: str = PROGRAM) -> list[Utterance]:
    """Return spoken questions: a file, else the tiny model's domain spoken by a program.

    Args:
        file: one recorded question, in place of all others.
        sample_rate: of what is returned.
        say: the program; where it is not installed, the question in `examples/` is the only one.

    Raises:
        InputError: there is neither a program nor an example.
        AudioError: the file cannot be used.
    """
    if file is None:
        try:
            sounds = _spoken(say)
        except ToolError as error:
            if not EXAMPLE.is_file():
                raise InputError(
                    f"a question must be spoken or recorded, got neither: {error}; or give "
                    "--question FILE"
                ) from error
            sounds = [audio.load(EXAMPLE)]
    else:
        sounds = [audio.load(file)]
    found = [audio.resample(trimmed(one), audio.SAMPLE_RATE, sample_rate) for one in sounds]
    return [Utterance(sound=sound, sample_rate=sample_rate) for sound in found]


def trimmed(sound: Audio, sample_rate: int = audio.SAMPLE_RATE) -> Audio:
    """Cut off the silence before and after a voice.

    Raises:
        InputError: it is silent.
    """
    levels, size = _levels(sound, sample_rate)
    loud = np.flatnonzero(levels > _LOUD * levels.max(initial=0.0))
    if not len(loud):
        raise InputError("a question must hold a voice, got silence")
    return sound[loud[0] * size : (loud[-1] + 1) * size]


def paused(
    utterance: Utterance, random: Random, *, share: float, lasts: Sequence[float]
) -> Utterance:
    """Put a pause into a share of the utterances, where they are quietest in their middle half.

    Args:
        utterance: without pauses.
        random: draws whether, and how long.
        share: of utterances that get one.
        lasts: shortest and longest, in seconds.
    """
    drawn, seconds = random.random(), random.uniform(*lasts)  # alike, whatever the share is
    rate = utterance.sample_rate
    levels, size = _levels(utterance.sound, rate)
    if drawn >= share or len(levels) < 4:
        return utterance
    first, end = len(levels) // 4, max(3 * len(levels) // 4, len(levels) // 4 + 1)
    place = (first + int(np.argmin(levels[first:end]))) * size + size // 2
    before, after = utterance.sound[:place].copy(), utterance.sound[place:].copy()
    ramp = np.linspace(0.0, 1.0, round(_FADE_S * rate), dtype=np.float32)
    before[-len(ramp) :] *= ramp[::-1]
    after[: len(ramp)] *= ramp
    silence = room(random, round(seconds * rate))
    return Utterance(
        sound=np.concatenate([before, silence, after]),
        sample_rate=rate,
        pauses=((place / rate, (place + len(silence)) / rate),),
    )


def room(random: Random, samples: int) -> Audio:
    """Return the sound of a quiet room: what a microphone hears while nobody speaks."""
    noise = np.random.default_rng(random.getrandbits(32)).standard_normal(samples)
    return (NOISE * noise).astype(np.float32)


def _levels(sound: Audio, sample_rate: int) -> tuple[np.ndarray, int]:
    """Return the level of each whole frame, and a frame's samples."""
    size = round(_FRAME_S * sample_rate)
    frames = sound[: len(sound) // size * size].reshape(-1, size)
    return np.sqrt(np.square(frames).mean(axis=1)), size


def _spoken(program: str) -> list[Audio]:
    """Let a program speak questions of the tiny model's domain; each is spoken once a machine."""
    records = (one for one in tiny_records(0, 200, split="test_seen") if not one.history)
    texts = [record.question for record in islice(records, QUESTIONS)]
    synthesizer = open_synthesizer(program)
    try:
        voices = [voice.name for voice in synthesizer.voices]
        sounds = []
        for number, text in enumerate(texts):
            voice = voices[number % len(voices)]
            name = hashlib.sha256(f"{voice}|{text}".encode()).hexdigest()[:16]
            file = CACHE / f"{name}.wav"
            if not file.is_file():
                CACHE.mkdir(parents=True, exist_ok=True)
                audio.save(file, synthesizer.say(text, voice=voice), audio.SAMPLE_RATE)
            sounds.append(audio.load(file))
        return sounds
    finally:
        synthesizer.close()
