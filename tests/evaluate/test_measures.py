"""The measures, on replies worked by hand."""

import numpy as np
import pytest

from llama_omni import audio
from llama_omni.errors import ConfigError
from llama_omni.evaluate.accuracy import AccuracyMeasure, by_category, is_right
from llama_omni.evaluate.asr_error import (
    AsrControlMeasure,
    AsrMeasure,
    compare,
    count_errors,
    normalise,
)
from llama_omni.evaluate.measure_settings import MeasureSettings
from llama_omni.evaluate.measures import MEASURES, make_measures
from llama_omni.evaluate.records import EvalItem, Measure, ReplyRow
from llama_omni.evaluate.text_rates import TextMeasure, is_refusal, is_unspeakable
from llama_omni.evaluate.timing import TimingMeasure
from llama_omni.evaluate.transcripts import Transcripts
from llama_omni.interfaces import Timings

ITEM = EvalItem(id="q", instruction="What is it?", references=("seven",))


class Hears:
    """A recogniser that hears what it is told, in turn."""

    def __init__(self, *words):
        self.words, self.heard = list(words), 0

    def transcribe(self, audio):
        self.heard += 1
        return self.words.pop(0)


def reply(folder, name="a", text="It is seven.", **changes):
    tone = (0.1 * np.sin(np.arange(1600) / (5 + len(name)))).astype(np.float32)
    (folder / "audio").mkdir(exist_ok=True)
    audio.save(folder / "audio" / f"{name}.flac", tone, 16_000)
    known = {"item": "q", "condition": "s2sif-10", "text": text, "audio": f"audio/{name}.flac"}
    return ReplyRow(**{**known, "sample_rate": 16_000, "duration_s": 2.0, **changes})


def scores(measure, rows, folder):
    known = [(row, ITEM, measure.value(row, ITEM, folder)) for row in rows]
    return {score.name: score for score in measure.scores(known, seed=0)}


def test_errors_are_those_of_jiwers_own_example():
    # From its documentation: one substitution and one deletion in three words.
    found = count_errors("hello world now", "hello duck")
    assert (found["word_errors"], found["words"]) == (2, 3)
    assert count_errors("", "two words") == {
        "word_errors": 2, "words": 0, "char_errors": 9, "chars": 0,
    }  # fmt: skip
    assert count_errors("one", "")["word_errors"] == 1


def test_whispers_normaliser_forgives_what_is_only_written_otherwise():
    assert normalise("Mr. Smith has twenty-one.") == normalise("mister smith has 21")
    found = compare("The colour is Twenty-One!", "the color is twenty one")
    assert found["word_errors"] == 0
    assert found["raw_word_errors"] == 4
    assert found["raw_words"] == 4


def test_asr_rates_are_of_the_corpus_and_not_means(tmp_path):
    rows = [reply(tmp_path, "a", "one two three four"), reply(tmp_path, "bb", "go")]
    measure = AsrMeasure(Transcripts("fake", lambda: Hears("one two three four", "no")))
    found = scores(measure, rows, tmp_path)
    # "one two three four" is the number 1234 to the normaliser, a word of four characters.
    assert found["asr_wer"].value == pytest.approx(100 * 1 / 2)
    assert found["asr_wer_raw"].value == pytest.approx(100 * 1 / 5)
    assert found["heard_as_written"].value == 50
    assert found["asr_wer"].low <= found["asr_wer"].value <= found["asr_wer"].high
    assert found["asr_wer"].count == 2


def test_a_reply_without_sound_lacks_all_its_words(tmp_path):
    silent = reply(tmp_path, text="three whole words", audio=None)
    measure = AsrMeasure(Transcripts("fake", lambda: pytest.fail("nothing to hear")))
    assert measure.applies(silent)
    assert scores(measure, [silent], tmp_path)["asr_wer"].value == 100
    assert not measure.applies(ReplyRow(item="q", condition="s2tif"))


def test_a_sound_is_recognised_once_and_remembered(tmp_path):
    row = reply(tmp_path)
    first = Hears("it is seven")
    assert Transcripts("fake", lambda: first).of(row, tmp_path) == "it is seven"
    with (tmp_path / "transcripts.jsonl").open("a") as file:
        file.write('{"recognizer": "fa')  # killed in the writing
    again = Transcripts("fake", lambda: pytest.fail("opened again"))
    assert again.of(row, tmp_path) == "it is seven"
    other = Hears("it is heaven")
    assert Transcripts("other", lambda: other).of(row, tmp_path) == "it is heaven"
    assert Transcripts("fake", lambda: pytest.fail("no")).of(row, tmp_path) == "it is seven"
    silent = ReplyRow(item="q", condition="s2tif")
    assert Transcripts("fake", lambda: pytest.fail("no")).of(silent, tmp_path) == ""


def test_control_says_the_same_text_clearly(tmp_path):
    said = []

    class Says:
        def say(self, text, *, voice):
            said.append((text, voice))
            return np.full(1600, 0.1, np.float32)

    measure = AsrControlMeasure(("fake", lambda: Hears("it is eleven")), ("flite:rms", Says))
    assert measure.missing is None
    found = scores(measure, [reply(tmp_path)], tmp_path)
    assert said == [("It is seven.", "flite:rms")]
    assert found["asr_wer_control"].value == pytest.approx(100 / 3)


def test_what_is_absent_says_how_to_get_it():
    settings = MeasureSettings()
    for name in ("asr", "asr_control"):
        (measure,) = make_measures([name], settings)
        assert isinstance(measure, Measure)
        assert "--asr" in measure.missing
    assert make_measures(["timing"], settings)[0].missing is None
    with pytest.raises(ConfigError, match="must be of timing, text, accuracy, asr, asr_control"):
        make_measures(["bleu"], settings)
    names = [measure.name for measure in make_measures([*MEASURES], settings)]
    assert names == [*MEASURES]


def test_times_are_means_medians_and_sums(tmp_path):
    def timed(first_s, **changes):
        at = {"first_audio_s": first_s, "total_s": 1.0, "prefill_s": 0.02, "decode_s": 0.5}
        return reply(tmp_path, timings=at, lagging_words=2, tokens=10, **changes)

    rows = [timed(0.1), timed(0.2, duration_s=6.0), timed(0.6, units=(1, 2, 3, 4))]
    found = scores(TimingMeasure(), rows, tmp_path)
    assert found["first_audio_ms"].value == pytest.approx(300)
    assert found["first_audio_median_ms"].value == pytest.approx(200)
    assert found["decoding_s"].value == 1
    assert found["tokens_per_second"].value == pytest.approx(20)
    assert found["words_per_second"].value == pytest.approx(9 / 10)  # 3 words each in 10 s
    assert found["real_time_factor"].value == pytest.approx(3 * 0.52 / 10)
    assert found["units_per_second"].value == pytest.approx(4 / 2)
    assert found["lagging_words"].value == 2
    assert "first_vocode_ms" not in found  # nobody told
    assert {*Timings.__dataclass_fields__} >= {*rows[0].timings}


def test_a_system_that_tells_only_totals_has_no_phases(tmp_path):
    row = reply(tmp_path, timings={"first_audio_s": 0.3, "total_s": 2.0})
    found = scores(TimingMeasure(), [row], tmp_path)
    assert {"hear_ms", "prefill_ms", "real_time_factor"}.isdisjoint(found)
    assert found["first_audio_ms"].value == pytest.approx(300)


def test_rates_count_failures_too(tmp_path):
    rows = [
        reply(tmp_path),
        reply(tmp_path, text=" "),
        reply(tmp_path, text="I cannot do that", finish_reason="length", audio=None),
        ReplyRow(item="q", condition="s2sif-10", error="timed out"),
    ]
    found = scores(TextMeasure(), rows, tmp_path)
    assert found["failed_rate"].value == 25
    assert found["empty_rate"].value == pytest.approx(100 / 3)
    assert found["silent_rate"].value == pytest.approx(100 / 3)
    assert found["cut_rate"].value == pytest.approx(100 / 3)
    assert found["refusal_rate"].value == pytest.approx(100 / 3)
    assert found["words_per_reply"].value == pytest.approx(3.5)


def test_refusals_and_what_cannot_be_spoken():
    assert is_refusal("I am sorry, I only know a few simple things.")
    assert is_refusal("I'm sorry, but I can't help.")
    assert is_refusal("Sorry, I don't know.")
    assert is_refusal("I can not do that.")
    assert is_refusal("I'm just an AI.")
    assert not is_refusal("I am sorry to hear that.")
    assert not is_refusal("I cannot wait to tell you about cats.")
    assert not is_refusal("I am sorry I can be slow, but it is five.")
    assert is_unspeakable("1. **Bold**")
    assert is_unspeakable("See https://a.b")
    assert is_unspeakable("\u4f60\u597d")
    assert not is_unspeakable("It\u2019s 5 o'clock \u2013 caf\u00e9.")


@pytest.mark.parametrize(
    ("said", "references", "right"),
    [
        ("It is seven.", ("seven",), True),
        ("It is 7!", ("seven",), True),
        ("It is seventy.", ("seven",), False),
        ("The answer: Eiffel Tower.", ("the Eiffel tower",), True),
        ("Paris", ("Rome", "Paris"), True),
        ("Paris", ("?",), False),
        ("Paris", (), False),
    ],
)
def test_an_answer_holds_a_reference_as_whole_words(said, references, right):
    assert is_right(said, EvalItem(id="q", instruction="", references=references)) is right


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("Cat is spelled C, A, T.", True),
        ("cat is spelled c a t", True),
        ("Cat is spelled C, T.", False),
        ("Cat is spelled C, A, T. Dog is not.", False),
        ("", False),
    ],
)
def test_where_the_answer_is_one_sentence_all_its_words_count(said, right):
    references = ("Cat is spelled C, A, T.",)
    item = EvalItem(id="q", instruction="", references=references, match="same")
    assert is_right(said, item) is right


def test_accuracy_of_text_and_of_speech(tmp_path):
    rows = [reply(tmp_path, "a"), reply(tmp_path, "bb", "It is six.")]
    measure = AccuracyMeasure(Transcripts("fake", lambda: Hears("it is heaven", "it is six")))
    found = scores(measure, rows, tmp_path)
    assert found["accuracy_text"].value == 50
    assert found["accuracy_speech"].value == 0
    failed = [*rows, ReplyRow(item="q", condition="s2sif-10", error="timed out")]
    found = scores(AccuracyMeasure(None), failed, tmp_path)
    assert found["accuracy_text"].value == pytest.approx(100 / 3)  # no answer is a wrong one
    unheard = scores(AccuracyMeasure(None), rows, tmp_path)
    assert unheard.keys() == {"accuracy_text"}
    known = [(row, ITEM, {"text": i == 0}) for i, row in enumerate(rows)]
    assert by_category(known, "text") == {"": (0.5, 2)}
    assert by_category(known, "speech") == {}
