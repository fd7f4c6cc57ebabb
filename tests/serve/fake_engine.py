"""An engine without a model: answers any question with counted words and a tone, at a set pace."""

import asyncio

import numpy as np

from llama_omni.errors import EngineError, InputError
from llama_omni.history import History
from llama_omni.interfaces import AudioDelta, Reply, ReplyDone, ReplyOptions, TextDelta, Turn

RATE = 16_000
PIECE = 3_200  # samples of a word's sound: 0.2 s


class FakeEngine:
    """Counts what it is asked; `pace_s` is between words, `words` are in a reply."""

    def __init__(self, *, words=3, pace_s=0.0, ready=True):
        self.words, self.pace_s, self.ready = words, pace_s, ready
        self.sample_rate = RATE
        self.talks, self.failure = [], None
        self.restarts = 0

    def conversation(self, system=None):
        self.talks.append(FakeConversation(self))
        return self.talks[-1]

    @property
    def open(self):
        return [talk for talk in self.talks if not talk.closed]


class FakeConversation:
    def __init__(self, engine):
        self.engine, self.history = engine, History()
        self.asked, self.heard, self.replaced, self.abandoned = [], [], 0, []
        self.stopped, self.closed = set(), False
        self.questions = {}

    @property
    def turns(self):
        return self.history.turns

    def prepare(self, question, options=None, *, generation=None, history=None):
        chosen = self.history.prepare(question, generation=generation)
        self.asked.append((*self.turns, question))
        self.questions[chosen] = options or ReplyOptions()
        return chosen

    def commit(self, generation=None):
        if not self.history.commit(generation):
            raise InputError(f"no reply {generation}")
        return self._events(generation, self.questions[generation])

    async def _events(self, generation, options):
        audio = []
        for place in range(self.engine.words):
            await asyncio.sleep(self.engine.pace_s)
            if self.engine.failure is not None:
                self.history.fail(generation)
                raise self.engine.failure
            if generation in self.stopped:
                break
            yield self._note(
                generation,
                TextDelta(text=f" w{place}", first_token=place, end_token=place + 1),
            )
            if options.speech:
                audio.append(tone(place))
                first = place * PIECE
                yield self._note(
                    generation,
                    AudioDelta(
                        audio=audio[-1],
                        sample_rate=RATE,
                        first_sample=first,
                        end_sample=first + PIECE,
                        first_token=place,
                        end_token=place + 1,
                    ),
                )
        done = place + (generation not in self.stopped)
        yield self._note(
            generation, ReplyDone(reply=reply(done, audio, generation in self.stopped))
        )

    def _note(self, generation, event):
        self.history.note(generation, event)
        return event

    def abandon(self, generation=None):
        self.abandoned.append(generation)
        self.history.abandon(generation)

    def cancel(self, generation=None):
        self.stopped.add(generation)
        self.history.cancel(generation)

    def truncate(self, samples, generation=None):
        self.heard.append(samples)
        self.cancel(generation)
        return self.history.truncate(samples, generation)

    def add(self, turn):
        self.history.add(turn)

    def replace(self, turns):
        self.replaced += 1
        self.history.replace(turns)

    def close(self):
        self.closed = True


def tone(place):
    time = np.arange(PIECE) / RATE
    return (0.3 * np.sin(2 * np.pi * 100 * (2 + place % 8) * time)).astype(np.float32)


def reply(num_tokens, audio, cancelled):
    sound = np.concatenate([np.zeros(0, np.float32), *audio])
    return Reply(
        text="".join(f" w{place}" for place in range(num_tokens)),
        audio=sound,
        sample_rate=RATE,
        token_ids=tuple(range(100, 100 + num_tokens)),
        units=(1,) * num_tokens,
        unit_tokens=tuple(range(num_tokens)),
        sample_tokens=(),
        lagging_words=1,
        finish_reason="cancelled" if cancelled else "stop",
    )


GONE = EngineError("the engine has ended")
QUESTION = Turn(role="user", text="What is two and two?")
