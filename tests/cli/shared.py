"""What the tests of the command line share: a stand-in assistant and questions."""

import re
import sys
from pathlib import Path

import numpy as np
import soundfile

from llama_omni.interfaces import AudioDelta, Reply, ReplyDone, TextDelta, Timings

GOLDEN = Path(__file__).parents[1] / "golden"
QUESTIONS = Path(__file__).parents[3] / "shared" / "questions"
COMMAND = [sys.executable, "-m", "llama_omni.cli"]
TINY = ["--preset", "tiny", "--random-weights", "--max-new-tokens", "8"]


class FakeAssistant:
    """Says hello in two words and two pieces of sound; remembers what it was asked."""

    sample_rate = 16000

    def __init__(self, words=("Hello", " world"), fail=None, finish="stop"):
        self.words, self.fail, self.finish = words, fail, finish
        self.asked, self.closed = [], 0

    def stream(self, question, options=None):
        self.asked.append((question, options))
        sound = np.full(1600, 0.25, np.float32)
        try:
            for i, word in enumerate(self.words):
                yield TextDelta(text=word, first_token=i, end_token=i + 1)
                if self.fail is not None and question is self.asked[0][0]:
                    raise self.fail
                yield AudioDelta(
                    audio=sound,
                    sample_rate=16000,
                    first_sample=1600 * i,
                    end_sample=1600 * (i + 1),
                    first_token=i,
                    end_token=i + 1,
                )
            yield ReplyDone(reply=make_reply(self.words, sound, self.finish))
        finally:
            self.closed += 1

    def reply(self, question, options=None):
        raise NotImplementedError

    def conversation(self, system=None):
        raise NotImplementedError


def make_reply(words=("Hello", " world"), sound=None, finish="stop"):
    sound = np.zeros(0, np.float32) if sound is None else np.tile(sound, len(words))
    return Reply(
        text="".join(words),
        audio=sound,
        sample_rate=16000,
        token_ids=tuple(range(len(words))),
        units=(7,) * (len(sound) // 320),
        unit_tokens=(0,) * (len(sound) // 320),
        sample_tokens=((0, 1), (1, 2)) if len(sound) else (),
        lagging_words=1 if len(sound) else None,
        finish_reason=finish,
        timings=Timings(first_audio_s=0.045 if len(sound) else None, decode_s=0.1, total_s=0.1),
    )


def make_question(path, rate=16000, channels=1, seconds=1.0, **options):
    sound = 0.1 * np.sin(np.arange(int(rate * seconds)) / 9)
    soundfile.write(path, np.stack([sound] * channels, 1), rate, **options)
    return path


def plain(text):
    """Take the frames and the line breaks out of a help text."""
    return " ".join(re.sub("[\u2500-\u257f]", " ", text).split())
