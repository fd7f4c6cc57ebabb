"""A batch engine around a small model with random weights, and a loop that drives it."""

import numpy as np
import torch

from llama_omni.engine.batch import BatchEngine
from llama_omni.engine.settings import EngineSettings
from llama_omni.engine.step import Stepper
from llama_omni.interfaces import AudioDelta, ReplyDone, ReplyFailed, ReplyOptions
from llama_omni.model.tokenizer import TextTokenizer
from llama_omni.model.vocoder import UnitVocoder, vocoder_preset
from tests.small import small_model

WORDS = [chr(ord("a") + i % 26) * (1 + i // 26) for i in range(50)]


class Letters(TextTokenizer):
    """A tokeniser for a vocabulary of 50: each character of a prompt is one id, by its code."""

    def __init__(self):
        self.bos_token_id = 0

    def encode(self, text):
        return [0] + [2 + ord(letter) % 47 for letter in text]

    def decode(self, ids):
        return "".join(" " + WORDS[i] for i in ids)


def sound(seed, seconds=0.6):
    """Speak noise of some length; 16 kHz."""
    size = int(16_000 * seconds)
    return (0.1 * np.random.default_rng(seed).standard_normal(size)).astype(np.float32)


def make_parts():
    """Build the model and the vocoder that all engines of a module share."""
    model = small_model(max_positions=512, prompt="compact")
    for parameter in model.llm.parameters():  # so that every question has an answer of its own
        parameter.data += 0.3 * torch.randn_like(parameter)
    torch.manual_seed(1)
    config = vocoder_preset("tiny")
    config.num_units = 7
    return model, UnitVocoder(config).eval()


class Clock:
    """Time that passes only when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def make_engine(parts, *, clock=None, **settings):
    """Build an engine; time stands still unless a clock is given."""
    model, vocoder = parts
    return BatchEngine(
        Stepper(model),
        Letters(),
        vocoder,
        settings=EngineSettings(**settings),
        clock=clock or Clock(),
    )


def options(**changes):
    """Give options that make short replies."""
    return ReplyOptions(**{"max_new_tokens": 12, "chunk_size": 5, **changes})


def ask(engine, conversation, question, chosen=None, **more):
    """Prepare and commit at once."""
    generation = engine.prepare(conversation, question, chosen or options(), **more)
    engine.commit(conversation, generation)
    return generation


class Seen:
    """What an engine's steps gave, by conversation and generation."""

    def __init__(self):
        self.events = {}

    def take(self, happened):
        for item in happened:
            key = (item.conversation, item.generation)
            assert not self.ended(*key), "an event after the last one"
            self.events.setdefault(key, []).append(item.event)

    def ended(self, conversation, generation):
        events = self.events.get((conversation, generation), [])
        return bool(events) and isinstance(events[-1], ReplyDone | ReplyFailed)

    def last(self, conversation, generation):
        return self.events[conversation, generation][-1]

    def reply(self, conversation, generation):
        return self.last(conversation, generation).reply

    def sounds(self, conversation, generation):
        events = self.events.get((conversation, generation), [])
        return [event for event in events if isinstance(event, AudioDelta)]


def run(engine, seen=None, *, steps=2_000):
    """Step until nothing is left to do."""
    seen = seen or Seen()
    for _ in range(steps):
        if not engine.has_work:
            return seen
        seen.take(engine.step())
    raise AssertionError("the engine does not come to an end")


def alone(parts, question, chosen=None, *, history=()):
    """Answer one question with nobody else there."""
    engine = make_engine(parts)
    engine.open(1)
    engine.replace(1, history)
    generation = ask(engine, 1, question, chosen)
    reply = run(engine).reply(1, generation)
    engine.close(1)
    return reply


def check_empty(engine):
    """Hold that nothing was left behind by conversations that are closed."""
    stepper = engine._stepper
    assert not stepper.llm_cache.lengths
    assert not stepper.speech_cache.lengths
    assert not engine._admission._needs
    assert not engine._jobs
