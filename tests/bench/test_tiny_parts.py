"""Estimates, rules and settings of the tiny model's results."""

import pytest

from llama_omni.bench.tiny import TinySettings
from llama_omni.bench.tiny.numbers import rate, sequence_errors, share, word_errors
from llama_omni.bench.tiny.page import quoted
from llama_omni.bench.tiny.settings import domain_rules
from llama_omni.data.domain import tiny_records
from llama_omni.errors import ConfigError
from tests.bench.tiny_tools import RULES


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
    assert rules.trained == {"ability", "season", "small_talk", "weekend"}
    trained = {(one.history, one.question) for one in tiny_records(3, 3000)}
    tested = tiny_records(3, 500, split="test_seen")
    both = {one.intent for one in tested if (one.history, one.question) in trained}
    assert both == rules.trained
