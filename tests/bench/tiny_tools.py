"""A data set of eight questions with answers known by hand, and stand-ins that know them."""

from dataclasses import dataclass, field, replace

import numpy as np

from llama_omni.bench.tiny import TinySettings, measure_tiny
from llama_omni.bench.tiny.settings import Rules
from llama_omni.data.flac import encode_flac
from llama_omni.data.schema import HistoryRow, Row, Sound
from llama_omni.data.shards import FORMAT, write_manifest, write_shard
from llama_omni.interfaces import Reply, Timings

NO = "I only know a few things."
RULES = Rules(
    accepts=lambda answer, reply: answer.lower().rstrip(".") == reply.lower().rstrip("."),
    refusal=NO,
    gate=frozenset({"sum", "capital"}),
    trained=frozenset({"capital"}),
)


@dataclass(frozen=True)
class Case:
    """One question; sounds are told apart by their length alone, from the case's number."""

    number: int
    split: str
    intent: str
    answer: str
    reply: str
    heard: str  # in the reply
    source: str = ""  # heard in the source voice
    vocoded: str = ""  # heard in vocoded units
    units: tuple[int, ...] = (1, 2, 3, 4)
    voice: str = "fake:a"
    history: bool = False

    @property
    def id(self):
        return f"row-{self.number}"


CASES = (
    Case(1, "train", "sum", "one plus one is two", "", ""),
    Case(2, "test_seen", "sum", "It is two.", "it is two", "it is two", "it is two", "it is too"),
    Case(3, "test_seen", "sum", "It is six.", "It is seven.", "it is heaven", voice="fake:b"),
    Case(
        4, "test_seen", "capital", "Paris in May.", "Paris in May.", "paris",
        "paris in may", "paris in may", (1, 3, 4),
    ),
    Case(5, "test_seen", "spelling", "c a t", "c a t", "c a t", "c t", "c a t", history=True),
    Case(6, "test_unseen", "capital", "Rome.", NO, "i only know a few things", voice="fake:z"),
    Case(7, "outside", "outside", NO, NO, ""),
    Case(8, "outside", "outside", NO, "Rome.", ""),
)  # fmt: skip
BY_NUMBER = {case.number: case for case in CASES}


def sound(length):
    return np.full(length, 0.1, np.float32)


def make_data(folder, cases):
    def row(case):
        earlier = Sound(bytes=encode_flac(sound(9000)), path="h.flac")
        return Row(
            id=case.id,
            split=case.split,
            source="test",
            intent=case.intent,
            question=f"question {case.number}",
            question_audio=Sound(bytes=encode_flac(sound(3200 + case.number)), path="q.flac"),
            question_voice=case.voice,
            question_s=0.2,
            answer=case.answer,
            answer_audio=Sound(bytes=encode_flac(sound(5000 + case.number)), path="a.flac"),
            answer_voice="fake:answer",
            answer_s=0.3,
            units=[case.number, 2, 3, 4],
            durations=[1, 2, 3, 4],
            history=(HistoryRow(question="before", answer="x", question_audio=earlier),)
            if case.history
            else (),
        )

    shards = []
    for split in dict.fromkeys(case.split for case in cases):
        rows = [row(case) for case in cases if case.split == split]
        shards.append(write_shard(folder, f"data/{split}-00000.parquet", split, rows))
    names = ("file", "split", "rows", "bytes", "sha256")
    entries = [{name: getattr(shard, name) for name in names} for shard in shards]
    write_manifest(folder, {"format": FORMAT, "shards": entries})
    return folder


@dataclass
class FakeAssistant:
    """Knows which case a question is by its length; dies at a question if asked to."""

    dies_at: int | None = None
    asked: list[int] = field(default_factory=list)
    sample_rate: int = 16_000

    def conversation(self, system=None):
        return self

    def close(self):
        pass

    def stream(self, question, options=None, **changes):
        raise NotImplementedError

    def reply(self, question, options=None, **changes):
        number = len(question) - 3200
        self.asked.append(number)
        if number == self.dies_at:
            raise KeyboardInterrupt
        case = BY_NUMBER.get(number)
        return Reply(
            text=case.reply if case else NO,
            audio=sound(4000 + number),
            sample_rate=16_000,
            token_ids=(),
            units=case.units if case else (),
            unit_tokens=(),
            sample_tokens=(),
            lagging_words=None,
            finish_reason="stop",
            timings=Timings(first_audio_s=0.01 * number, decode_s=0.1 * (4000 + number) / 16_000),
        )


@dataclass
class FakeRecognizer:
    heard: list[int] = field(default_factory=list)

    def transcribe(self, audio):
        self.heard.append(len(audio))
        thousands, number = divmod(len(audio), 1000)
        case = BY_NUMBER[number]
        return {4: case.heard, 5: case.source, 6: case.vocoded}[thousands]


def vocode(units):
    return sound(6000 + units[0])


def measure(data, folder, assistant=None, recognizer=None, **changes):
    settings = TinySettings(
        data=data, output=folder / "results" / "tiny", work=folder / "work", rules=RULES
    )
    return measure_tiny(
        replace(settings, **changes),
        assistant or FakeAssistant(),
        vocode=vocode,
        recognizers={"generic": recognizer or FakeRecognizer()},
        command="python runs/tiny_results.py",
    )


def of(estimate):
    return estimate["events"], estimate["cases"]
