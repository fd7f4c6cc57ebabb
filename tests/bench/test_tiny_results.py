import importlib.util
import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from llama_omni import audio
from llama_omni.bench.tiny import TinySettings, fingerprint, measure_tiny, vocode_with
from llama_omni.bench.tiny.journal import Journal
from llama_omni.bench.tiny.numbers import rate, sequence_errors, share, word_errors
from llama_omni.bench.tiny.page import quoted
from llama_omni.bench.tiny.settings import Rules, domain_rules
from llama_omni.data.flac import encode_flac
from llama_omni.data.schema import HistoryRow, Row, Sound
from llama_omni.data.shards import FORMAT, write_manifest, write_shard
from llama_omni.errors import ConfigError, InputError
from llama_omni.interfaces import Reply, Timings
from llama_omni.loading import load

ROOT = Path(__file__).parents[2]
NO = "I only know a few things."
RULES = Rules(
    accepts=lambda answer, reply: answer.lower().rstrip(".") == reply.lower().rstrip("."),
    refusal=NO,
    gate=frozenset({"sum", "capital"}),
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


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), CASES)


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


@pytest.fixture(scope="module")
def result(data, tmp_path_factory):
    return measure(data, tmp_path_factory.mktemp("out"))


@pytest.fixture
def scores(result):
    return result["scores"]


def of(estimate):
    return estimate["events"], estimate["cases"]


def test_accuracy_by_hand(scores):
    seen, unseen = (scores["accuracy"][split] for split in ("test_seen", "test_unseen"))
    assert of(seen["gate"]) == (2, 3)
    assert of(seen["later"]) == (1, 1)
    assert of(unseen["gate"]) == (0, 1)
    assert unseen["later"] is None
    assert {name: of(one) for name, one in seen["gate_by_intent"].items()} == {
        "capital": (1, 1),
        "sum": (1, 2),
    }
    assert {name: of(one) for name, one in seen["gate_by_voice"].items()} == {
        "fake:a": (2, 2),
        "fake:b": (0, 1),
    }
    assert of(unseen["gate_refused"]) == (1, 1)
    assert of(scores["outside_refused"]) == (1, 2)
    assert [row["question"] for row in scores["wrong"]] == ["question 3", "question 6"]
    assert [row["reply"] for row in scores["outside_accepted"]] == ["Rome."]


def test_recognition_compares_the_same_texts_by_hand(scores):
    columns = scores["recognition"]["generic"]["columns"]
    # Cases 2, 4 and 5 say the answer's words: 3 + 3 + 3 words.
    assert of(columns["source"]) == (1, 9)
    assert of(columns["vocoded"]) == (1, 9)
    assert of(columns["reply"]) == (2, 9)
    # All five: "seven" as "heaven" is one more, of 3 + 6 more words.
    assert of(scores["recognition"]["generic"]["own"]) == (3, 18)
    assert of(scores["recognition"]["generic"]["same"]) == (3, 5)


def test_unit_errors_and_times_by_hand(scores):
    # Replies 2 and 5 give 1 2 3 4 for N 2 3 4: one edit each; reply 4 gives 1 3 4 for 4 2 3 4: two.
    assert of(scores["unit_error_rate"]) == (4, 12)
    # Case 5 has a turn before and does not count: cases 2, 3, 4, 6, 7, 8.
    assert scores["timings"]["replies"] == 6
    assert scores["timings"]["first_audio_s"] == pytest.approx(0.05)
    assert scores["timings"]["real_time_factor"] == pytest.approx(0.1)
    assert scores["cut"] == 0


def test_page_numbers_picture_and_samples_are_written(data, tmp_path):
    measure(data, tmp_path)
    folder = tmp_path / "results"
    page = (folder / "tiny.md").read_text()
    assert "| right, voices of the training | 66.7 [" in page
    assert "| out of domain, refused | 50.0 [0.0, 100.0] | 2 |" in page
    assert "| generic LM | 11.1 [" in page
    assert json.loads((folder / "tiny.json").read_text())["scores"]["cut"] == 0
    assert (folder / "tiny.png").stat().st_size > 1000
    links = [part.split(")")[0] for part in page.split("](")[1:]]
    assert len(links) > 8
    for link in links:
        assert (folder / link).is_file(), link
    assert len(audio.load(folder / "samples/tiny-1-source.flac")) == 5002
    assert len(audio.load(folder / "samples/tiny-1-vocoded.flac")) == 6002
    assert str(tmp_path) not in page


def test_the_same_replies_give_the_same_files(data, tmp_path):
    made = []
    for name in ("a", "b"):
        measure(data, tmp_path / name)
        files = sorted((tmp_path / name / "results").rglob("*.*"))
        made.append({path.name: path.read_bytes() for path in files if path.suffix != ".json"})
    for one in made:  # how busy the machine was differs
        lines = one["tiny.md"].decode().splitlines()
        one["tiny.md"] = [line for line in lines if "load average" not in line]
    assert made[0] == made[1]


def test_samples_are_of_every_split_right_ones_first(result):
    chosen = [row["key"] for row in result["samples"]]
    assert chosen[:3] == ["test_seen/row-2", "test_seen/row-4", "test_seen/row-5"]
    assert chosen[3:] == ["test_seen/row-3", "test_unseen/row-6"]  # for want of more


def test_stale_samples_are_replaced(data, tmp_path):
    measure(data, tmp_path)
    assert (tmp_path / "results/samples/tiny-3-reply.flac").exists()
    measure(data, tmp_path, samples=1)
    names = sorted(path.name for path in (tmp_path / "results/samples").iterdir())
    sounds = ("question", "reply", "source", "vocoded")
    assert names == [f"tiny-1-{sound}.flac" for sound in sounds]


def test_a_run_that_was_stopped_goes_on_and_does_nothing_twice(data, result, tmp_path):
    first = FakeAssistant(dies_at=4)
    with pytest.raises(KeyboardInterrupt):
        measure(data, tmp_path, first)
    assert first.asked == [2, 3, 4]
    with (tmp_path / "work/replies.jsonl").open("a") as file:
        file.write('{"key": "test_seen/row-4", "rep')  # cut while it was written
    second, recognizer = FakeAssistant(), FakeRecognizer()
    found = measure(data, tmp_path, second, recognizer)
    assert second.asked == [4, 5800, 5, 6, 7, 8]  # 5800: the earlier turn of case 5
    assert found["scores"] == result["scores"]
    third, again = FakeAssistant(), FakeRecognizer()
    assert measure(data, tmp_path, third, again)["scores"] == result["scores"]
    assert (third.asked, again.heard) == ([], [])
    assert len(recognizer.heard) == len(set(recognizer.heard)) == 5 + 2 * 3


def test_a_recogniser_that_was_stopped_goes_on(data, result, tmp_path):
    class Dies(FakeRecognizer):
        def transcribe(self, audio):
            if len(self.heard) == 4:
                raise KeyboardInterrupt
            return super().transcribe(audio)

    first, second = Dies(), FakeRecognizer()
    with pytest.raises(KeyboardInterrupt):
        measure(data, tmp_path, recognizer=first)
    assert measure(data, tmp_path, recognizer=second)["scores"] == result["scores"]
    assert len({*first.heard, *second.heard}) == len(first.heard) + len(second.heard) == 11


def test_limit_takes_the_first_of_each_split_and_a_longer_run_keeps_them(data, tmp_path):
    first, second = FakeAssistant(), FakeAssistant()
    found = measure(data, tmp_path, first, limit=1, heard=1)
    assert first.asked == [2, 6, 7]
    assert of(found["scores"]["accuracy"]["test_seen"]["gate"]) == (1, 1)
    measure(data, tmp_path, second)
    assert second.asked == [3, 4, 5800, 5, 8]


def test_real_voices_are_quoted(data, tmp_path):
    folder = tmp_path / "voices"
    folder.mkdir()
    with pytest.raises(InputError, match="must hold recordings"):
        measure(data, tmp_path, questions=folder)
    audio.save(folder / "b.wav", sound(3208), 16_000)
    audio.save(folder / "a.wav", sound(3999), 16_000)
    found = measure(data, tmp_path, questions=folder)["scores"]["real"]
    assert [(row["file"], row["refused"]) for row in found] == [("a.wav", True), ("b.wav", False)]
    page = (tmp_path / "results/tiny.md").read_text()
    assert "Refused: 1 of 2." in page
    assert "| b.wav | 0.2 | no | Rome. |" in page


@pytest.mark.parametrize("split", ["test_seen", "test_unseen", "outside"])
def test_a_missing_split_is_named(split, tmp_path):
    folder = make_data(tmp_path, [case for case in CASES if case.split != split])
    with pytest.raises(InputError, match=f"no split '{split}' in .*; it has train"):
        measure(folder, tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("limit", 0, "limit must be at least 1, got 0"),
        ("heard", 0, "heard must be at least 1, got 0"),
        ("max_new_tokens", 0, "max_new_tokens must be at least 1, got 0"),
        ("samples", -1, "samples must be 0 or more, got -1"),
    ],
)
def test_impossible_settings_are_refused(field, value, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        TinySettings(data=tmp_path, output=tmp_path, work=tmp_path, rules=RULES, **{field: value})


def test_a_journal_of_something_else_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": 1}\n')
    with pytest.raises(InputError, match=r"a.jsonl, line 1 must be a row .*; delete the file"):
        Journal(tmp_path / "a.jsonl")


def test_estimates_by_hand():
    assert share([]) is None
    assert rate([(0, 0)]) is None
    one = share([True, True, False, True])
    assert (one.value, one.events, one.cases, one.items) == (0.75, 3, 4, 4)
    assert 0.0 <= one.low < 0.75 < one.high == 1.0
    assert rate([(1, 2), (0, 6)]).value == 1 / 8
    assert word_errors("It's two.", "its two three") == (2, 2)
    assert sequence_errors([1, 2, 3], []) == (3, 3)
    assert sequence_errors([], [1]) == (1, 0)
    assert sequence_errors([1, 2, 3], [11, 2, 3, 3]) == (2, 3)


def test_words_of_a_reply_cannot_break_a_table():
    assert quoted("a | b\n[x](y) <i>") == r"a \| b \[x\](y) \<i\>"
    assert quoted(" ") == "(nothing)"


def test_the_domain_has_rules():
    rules = domain_rules()
    assert rules.refuses(rules.refusal.lower())
    assert "addition" in rules.gate


def test_fingerprint_changes_with_weights_and_data(data, tmp_path):
    model, copy = tmp_path / "model", tmp_path / "copy"
    model.mkdir()
    (model / "a.safetensors").write_bytes(b"1")
    first = fingerprint(model, data)
    assert first == fingerprint(model, data) != fingerprint(None, data)
    (model / "a.safetensors").write_bytes(b"2")
    assert fingerprint(model, data) != first
    shutil.copytree(data, copy)
    (copy / "manifest.json").write_text((data / "manifest.json").read_text() + "\n")
    assert fingerprint(model, copy) != fingerprint(model, data)


@pytest.fixture
def command():
    spec = importlib.util.spec_from_file_location("runs", ROOT / "runs/tiny_results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_command_measures_random_weights_from_end_to_end(command, data, tmp_path, capsys):
    pytest.importorskip("pocketsphinx")
    words = ["--random-weights", "--data", str(data), "-o", str(tmp_path / "tiny")]
    words += ["--work", str(tmp_path / "work"), "--limit", "1", "--samples", "1"]
    words += ["--max-new-tokens", "4"]
    assert command(words) == 0
    assert "# What the tiny model can do" in capsys.readouterr().out
    page = (tmp_path / "tiny.md").read_text()
    assert "tiny preset, RANDOM weights" in page
    assert "python runs/tiny_results.py --random-weights" in page
    assert str(tmp_path) not in page
    assert list(tmp_path.glob("work/*/answers-*.lm"))


def test_command_refuses_what_is_no_data_set_or_model(command, data, tmp_path, capsys):
    assert command(["--data", str(tmp_path)]) == 2
    assert "must hold a data set" in capsys.readouterr().err
    assert command(["--data", str(data), "--model", str(tmp_path / "none")]) == 2
    assert "--model must be a folder" in capsys.readouterr().err


def test_true_units_are_spoken_with_the_assistants_vocoder():
    assistant = load(preset="tiny", random_weights=True)
    spoken = vocode_with(assistant)([1, 2, 3])
    assert spoken.dtype == np.float32
    assert len(spoken) >= 3 * audio.UNIT_HOP
