"""What turning text into speech must know of a language, as tables."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Currency:
    """A currency in words."""

    one: str
    many: str
    small_one: str = ""  # of its hundredth part; empty: there is none
    small_many: str = ""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpeechLanguage:
    """One language that is written in Latin letters without marks, and in English punctuation."""

    code: str  # as num2words calls it
    point: str  # of decimals
    minus: str
    to: str  # between the ends of a range
    joint: str  # "and"
    either: str  # "or"
    percent: str
    oh: str  # the zero of 3:05
    of_clock: str  # after a full hour
    blank: str  # a line of underscores
    dot: str  # within a web address
    slash: str
    month_day: str  # with {month} and {day}
    day_month: str
    scales: Mapping[str, str]  # letters after a number: "k"; capitals after sums of money only
    magnitudes: tuple[str, ...]  # words that belong to a sum of money: "million"
    powers: Mapping[str, str]
    power: str  # of any other exponent
    fractions: Mapping[int, tuple[str, str]]  # denominator: one, many; others are ordinals
    currencies: Mapping[str, Currency]  # by sign or code
    units: Mapping[str, tuple[str, str]]  # after a number: one, many
    feet: str  # of 5'10
    symbols: Mapping[str, str]  # anywhere
    operators: Mapping[str, str]  # between numbers
    months: tuple[str, ...]
    short_months: Mapping[str, int]  # 1 is the first
    before_year: frozenset[str]  # words after which four digits are a year
    abbreviations: Mapping[str, str]  # with their full stop
    spelled: frozenset[str]  # acronyms said letter by letter although they hold vowels
    openers: tuple[str, ...]  # fillers before a question
    plural: Callable[[str], str]  # of a number word, for decades
