import subprocess
import sys
from statistics import mean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_omni.errors import ConfigError, InputError, MissingExtraError
from llama_omni.interfaces import AudioDelta, TextDelta
from llama_omni.metrics import (
    bootstrap_interval,
    cer,
    count_words,
    lagging_words,
    spoken_words,
    wer,
)

SOUND = AudioDelta(
    audio=np.zeros(320, np.float32),
    sample_rate=16000,
    first_sample=0,
    end_sample=320,
    first_token=0,
    end_token=1,
)


def write(text):
    return TextDelta(text=text, first_token=0, end_token=1)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        pytest.param("", 0, id="empty"),
        pytest.param(" \n", 0, id="space"),
        pytest.param("Sure, here is how.", 4, id="punctuation-sticks"),
        pytest.param("well - so - what...", 3, id="lone-dash-is-no-word"),
        pytest.param("the user's e-mail costs 3.50", 5, id="inner-marks-do-not-split"),
        pytest.param("Hello wor", 2, id="begun-word-counts"),
        pytest.param("\u4f60\u597d\uff0c\u4e16\u754c", 4, id="han-characters"),
        pytest.param("\u7528Python\u5199 3\u884c", 5, id="mixed"),
    ],
)
def test_count_words(text, count):
    assert count_words(text) == count


@given(st.text("aZ9 .,-\n\u4e16", max_size=40), st.integers(0, 40))
def test_words_of_a_beginning_are_never_more(text, cut):
    assert count_words(text[:cut]) <= count_words(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("Twenty-one o'clock!", ["twenty", "one", "o'clock"], id="hyphen"),
        pytest.param("It\u2019s 'fine', dogs' too", ["it's", "fine", "dogs", "too"], id="quotes"),
        pytest.param("Sa\u0303o Paulo: 3.5 %", ["s\u00e3o", "paulo", "3", "5"], id="accents"),
        pytest.param("\u4f60\u597dhello", ["\u4f60", "\u597d", "hello"], id="unspaced"),
        pytest.param("\u0939\u093f\u0928", ["\u0939\u093f\u0928"], id="vowel signs"),
        pytest.param(" - ' \n", [], id="nothing"),
    ],
)
def test_spoken_words(text, words):
    assert spoken_words(text) == words


@pytest.mark.parametrize(
    ("events", "count"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param([write("Only text")], None, id="no-sound"),
        pytest.param([SOUND, write("late")], 0, id="sound-first"),
        pytest.param([write("Su"), write("re, he"), SOUND, write("re is how.")], 2, id="between"),
        pytest.param([write("One"), SOUND, write(" two"), SOUND], 1, id="first-sound-counts"),
    ],
)
def test_lagging_words(events, count):
    assert lagging_words(iter(events)) == count


def test_error_rates_by_hand():
    references, hypotheses = ["the cat sat", "on it"], ["the hat sat down", "on it"]
    assert wer(references, hypotheses) == pytest.approx(2 / 5)  # cat -> hat, + down
    assert cer(references, hypotheses) == pytest.approx(6 / 16)  # c -> h, + " down"


def test_error_rate_of_an_empty_hypothesis_is_one():
    assert wer(["all lost"], [""]) == 1.0


@pytest.mark.parametrize(
    ("references", "hypotheses", "message"),
    [
        (["a"], [], "must be as many as references, 1, got 0"),
        ([], [], "at least one word, got none"),
        ([" "], ["a"], "at least one word, got none"),
    ],
)
def test_error_rates_refuse_what_they_cannot_compare(references, hypotheses, message):
    with pytest.raises(InputError, match=message):
        wer(references, hypotheses)


def test_a_missing_jiwer_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'llama-omni\[evaluate\]'"):
        cer(["a"], ["a"])


def test_bootstrap_interval_of_equal_values_is_a_point():
    assert bootstrap_interval([3.0] * 8, mean, seed=0) == (3.0, 3.0)


def test_bootstrap_interval_is_the_same_for_the_same_seed_only():
    values = list(range(50))
    first = bootstrap_interval(values, mean, seed=1)
    assert first == bootstrap_interval(values, mean, seed=1)
    assert first != bootstrap_interval(values, mean, seed=2)


def test_bootstrap_interval_of_a_mean_has_the_width_of_theory():
    values = np.random.default_rng(0).normal(10.0, 2.0, 400).tolist()
    low, high = bootstrap_interval(values, mean, seed=0, num_resamples=500)
    assert low < mean(values) < high
    assert high - low == pytest.approx(2 * 1.96 * 2.0 / 400**0.5, rel=0.15)


def test_bootstrap_interval_grows_with_confidence():
    values = list(range(50))
    inner = bootstrap_interval(values, mean, seed=0, confidence=0.5)
    outer = bootstrap_interval(values, mean, seed=0, confidence=0.99)
    assert outer[0] < inner[0] < inner[1] < outer[1]


def test_bootstrap_interval_takes_pairs():
    pairs = [("a b", "a b"), ("a b", "a c")] * 10
    low, high = bootstrap_interval(
        pairs, lambda some: wer(*zip(*some, strict=True)), seed=0, num_resamples=100
    )
    assert 0.0 < low < 0.25 < high < 0.5


@pytest.mark.parametrize(
    ("values", "options", "error", "message"),
    [
        ([], {}, InputError, "values must hold at least one item"),
        ([1], {"confidence": 1.0}, ConfigError, "confidence must be between 0 and 1"),
        ([1], {"num_resamples": 0}, ConfigError, "num_resamples must be at least 1"),
    ],
)
def test_bootstrap_interval_refuses(values, options, error, message):
    with pytest.raises(error, match=message):
        bootstrap_interval(values, mean, seed=0, **options)


def test_metrics_imports_no_torch():
    code = "import sys, llama_omni.metrics; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
