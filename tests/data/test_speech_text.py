"""Text as a voice says it: examples of each rule, and what holds for any text."""

import re
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama_omni.data.domain import tiny_records
from llama_omni.data.speech_text import speakable, unspeakable
from llama_omni.errors import ConfigError, MissingExtraError

WORD = "[A-Za-z]+(?:['-][A-Za-z]+)*(?:(?<=s)'(?= [A-Za-z]))?"
SPOKEN = re.compile(rf"(?:{WORD}(?:[.,?!]? {WORD})*[.,?!]?)?")

EXAMPLES = [
    # numbers
    ("It has 1,234,567 parts.", "It has one million two hundred and thirty-four thousand five "
     "hundred and sixty-seven parts."),
    ("Pi is 3.14, not .5.", "Pi is three point one four, not point five."),
    ("Agent 007 dialled 12345678901234567.", "Agent zero zero seven dialled one two three four "
     "five six seven eight nine zero one two three four five six seven."),
    ("-5 and - 5", "minus five and, five"),
    ("the 1st, 2nd and 33rd", "the first, second and thirty-third"),
    ("1/2 cup, 2\u00bd cups, 3/4, 2 2/3", "one half cup, two and one half cups, three quarters, "
     "two and two thirds"),
    ("Python 3.11.2", "Python three point eleven point two"),
    ("10k runs", "ten thousand runs"),
    ("\u0663 \uff15", "three five"),
    ("MP3, 3D, COVID-19, 10-year-old", "M P three, three D, COVID-nineteen, ten-year-old"),
    # years, dates, times
    ("In 1500, 1500 people; in 1984.", "In fifteen hundred, one thousand five hundred people, in "
     "nineteen eighty-four."),
    ("the 1990s and the '90s and the 80s", "the nineteen nineties and the nineties and the "
     "eighties"),
    ("2024-03-05, 3/5/2024, Mar. 5th 2024", "March fifth, twenty twenty-four, March fifth, twenty "
     "twenty-four, March fifth, twenty twenty-four"),
    ("5 March 1999 and the 1st of May", "the fifth of March, nineteen ninety-nine and the first of "
     "May"),
    ("at 3:30 pm, 3:05, 15:00, 3pm or 10 a.m. today", "at three thirty P M, three oh five, fifteen "
     "o'clock, three P M or ten A M today"),
    ("a ratio of 3:1", "a ratio of three to one"),
    # money, shares, measures
    ("$5.50, $1, $0.99, \u00a32.01", "five dollars and fifty cents, one dollar, ninety-nine cents, "
     "two pounds and one penny"),
    ("$3.2 million, $5k, 5\u20ac, 10 USD", "three point two million dollars, five thousand "
     "dollars, five euros, ten dollars"),
    ("5-10% or 10\u201320 kg or $5-10", "five to ten percent or ten to twenty kilograms or five "
     "dollars to ten dollars"),
    ("1 km, 5km, 5 m\u00b2, 60 km/h", "one kilometer, five kilometers, five square meters, sixty "
     "kilometers per hour"),
    ("20\u00b0C, \u22125 \u00b0F, 45\u00b0", "twenty degrees Celsius, minus five degrees "
     "Fahrenheit, forty-five degrees"),
    ("5'10\" tall", "five feet ten tall"),
    ("Call 555-123-4567", "Call five five five, one two three, four five six seven"),
    # sums
    ("3 + 4 = 7; 3*4; 10 / 2; 8-3=5; 3 x 4", "three plus four equals seven, three times four, ten "
     "over two, eight minus three equals five, three times four"),
    ("x\u00b2 + y^3 = 2^10", "x squared plus y cubed equals two to the power of ten"),
    ("10^5, 2 ** 8 m, 5**2 = 25, 7\u00b2", "ten to the power of five, two to the power of "
     "eight meters, five squared equals twenty-five, seven squared"),
    ("3 * 10^5 km or 10^2 km, 10^6 in all", "three times ten to the power of five kilometers or "
     "ten to the power of two kilometers, ten to the power of six in all"),
    ("10^-3, 10\u207b\u00b3, 2^0.5, 2^1/2", "ten to the power of minus three, ten to the power of "
     "minus three, two to the power of zero point five, two to the power of one half"),
    ("4\u00b3 * 2 + 2^1024", "four cubed times two plus two to the power of one thousand and "
     "twenty-four"),
    ("Press Ctrl^C", "Press Ctrl C"),
    ("2^n, e^{-x}, x^n", "two to the power of n, e to the power of minus x, x to the power of n"),
    ("2**3 and 4**5, **2** 3", "two cubed and four to the power of five, two three"),
    ("2^10-1 = 1023", "two to the power of ten minus one equals one thousand and twenty-three"),
    ("~5 \u2264 6 \u2248 \u03c0", "about five at most six is about pi"),
    # letters
    ("Dr. Smith vs. Mr. Hu, e.g. today, etc.", "Doctor Smith versus Mister Hu, for example today, "
     "and so on"),
    ("NASA and the FBI, CDs, the U.S. and J.K. Rowling", "NASA and the F B I, C Ds, the U S and J "
     "K Rowling"),
    ("See example.com or me@site.org", "See example dot com or me at site dot org"),
    ("AT&T and/or he/she", "AT and T and or he or she"),
    ("WHERE HAVE THEY GONE? TELL ME NOW", "Where have they gone? Tell me now"),
    # marks
    ("caf\u00e9 na\u00efve Stra\u00dfe \u0141\u00f3d\u017a", "cafe naive Strasse Lodz"),
    ("Yes \U0001f600! No\u2026 maybe\u2014or (not) [x].", "Yes! No, maybe, or, not, x."),
    ("\u201cIt\u2019s\u201d 'so' ___", "It's so blank"),
    ("April Fools\u2019 Day and 'the cats' too", "April Fools Day and the cats too"),
    ("April Fools\u2019 Day at the dogs'.", "April Fools' Day at the dogs."),
    ("What?!?! No... Well", "What? No. Well"),
    # Markdown
    ("# Title\n\n**Bold**, *it*, `code` and [link](/x)", "Title. Bold, it, code and link"),
    ("Do:\n1. Eat\n2. Sleep\n\n- rest\n* run", "Do. Eat. Sleep. rest. run"),
    ("a<br>b <b>c</b> &amp; d", "a. b c and d"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), EXAMPLES, ids=[text[:24] for text, _ in EXAMPLES])
def test_speakable_says(text, said):
    assert speakable(text) == said


PIECES = st.one_of(
    st.sampled_from([text for text, _ in EXAMPLES]),
    st.text(max_size=12),
    st.text("0123456789.,:/-$%^*x'\u2013\u00bd\u00b2 stndkmUS", max_size=12),
    st.text("aAbBUSZ.'-/_*#`<>()[]|~ \n?!&;", max_size=12),
    st.integers(0, 10**20).map(str),
)
TEXTS = st.lists(PIECES, max_size=5).map("".join)


@given(TEXTS)
@settings(max_examples=150, deadline=None)
@example("1" * 400)
@example("A.B.C." * 20)
def test_speakable_holds_no_signs_and_is_idempotent(text):
    said = speakable(text)
    assert SPOKEN.fullmatch(said), said
    assert speakable(said) == said
    assert speakable(text) == said


@given(TEXTS)
@settings(max_examples=100, deadline=None)
def test_what_can_be_said_can_still_be_said_once_cleaned(text):
    said = speakable(text)
    if said and unspeakable(text) is None:
        assert unspeakable(said) in (None, "a word of endless length")


def test_texts_of_the_tiny_domain_stay_as_they_are():
    for record in tiny_records(0, 2000):
        assert speakable(record.question) == record.question
        assert speakable(record.answer) == record.answer
        assert unspeakable(record.question) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Run this:\n```python\nprint(1)\n```", "code"),
        ("import os\nfrom sys import path\nx = 1;\n", "code"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "a table"),
        ("See https://example.com/x?y=1", "a web address"),
        ("Solve $x_1^2 = 4$ now", "a formula"),
        (r"Take \frac{1}{2}", "a formula"),
        ("\u041f\u0440\u0438\u0432\u0435\u0442", "letters that are Cyrillic"),
        ("say \u4f60\u597d", "letters that are Cjk"),
        ("1" * 17, "too many digits"),
        ("12 34 " * 20, "too many digits"),
        ("a" * 41, "a word of endless length"),
        ("", "nothing to say"),
        ("\U0001f600 ...", "nothing to say"),
        ("What is 5 \u03c0 in the caf\u00e9?", None),
        ("It costs $5 - or 4 \u20ac.", None),
        ("I'll pay $5 for _x_ and $6 for y", None),
        ("Where do you come from? I import goods; they return them.", None),
    ],
)
def test_unspeakable_gives_a_reason(text, reason):
    assert unspeakable(text) == reason


def test_what_is_no_language_is_refused():
    for function in (speakable, unspeakable):
        with pytest.raises(ConfigError, match=r"language must be a code .* got 'German'"):
            function("hello", "German")


def test_accent_of_english_has_the_tables_of_english():
    assert speakable("5 caf\u00e9s", "en-US") == "five cafes"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Wie hei\u00dft \u00d6sterreichs Hauptstadt?", "de"),
        ("\u8718\u86db\u6709\u51e0\u6761\u817f\uff1f", "zh"),
        ("\u5929" * 60, "zh"),  # no spaces, yet not one word
        ("\u0421\u043a\u043e\u043b\u044c\u043a\u043e?", "ru"),
    ],
)
def test_language_without_tables_keeps_its_letters(text, language):
    assert unspeakable(text, language) is None
    assert speakable(f" {text} ", language) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [("```x```", "code"), ("?!", "nothing to say"), ("\u00e4" * 41, "a word of endless length")],
)
def test_language_without_tables_has_its_limits_too(text, reason):
    assert unspeakable(text, "de") == reason


def test_absent_package_is_named(monkeypatch):
    from llama_omni.data import speech_numbers

    monkeypatch.setitem(sys.modules, "num2words", None)
    speech_numbers._rules.cache_clear()
    assert speakable("no numbers") == "no numbers"
    with pytest.raises(MissingExtraError, match=r"llama-omni\[data\]"):
        speakable("5")
