"""Numbers of every kind, replaced by words within a text.

One pass per kind, the narrow kinds first, so that what is left for the last pass is a plain
number. No digit is left.
"""

import re
from collections.abc import Callable, Iterable
from functools import cache, partial

from llama_omni.data.speech_language import SpeechLanguage
from llama_omni.data.speech_words import NumberWords

Match = re.Match[str]
Rule = tuple[re.Pattern[str], Callable[[Match], str | None]]

NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\.?\d)"
HALF = r"(?P<half>[ap]\.m\.|[ap]m\b)"
ENDING = "(?:st|nd|rd|th)"  # of ordinals, as English writes them


def read_numbers(text: str, language: SpeechLanguage) -> str:
    """Return the text with every number in words; its digits are those of ASCII.

    Raises:
        MissingExtraError: the package `num2words` is not installed.
    """
    if not any(character.isdigit() or character == "^" for character in text):
        return text
    for pattern, write in _rules(language):
        text = pattern.sub(partial(_kept_apart, write=write), text)
    return text


def _kept_apart(match: Match, write: Callable[[Match], str | None]) -> str:
    """Return what replaces a match, with a space to each word beside it; None leaves it."""
    words = write(match)
    if words is None:
        return match.group()
    before = match.string[match.start() - 1 : match.start()]
    after = match.string[match.end() : match.end() + 1]
    return f"{' ' if before.isalnum() else ''}{words}{' ' if after.isalnum() else ''}"


def _any(choices: Iterable[str]) -> str:
    """A pattern for the longest of these that fits."""
    return "|".join(re.escape(choice) for choice in sorted(choices, key=len, reverse=True))


@cache
def _rules(language: SpeechLanguage) -> list[Rule]:
    words = NumberWords(language)
    return [
        (re.compile(pattern), write)
        for pattern, write in [
            *_powers(language, words),
            *_dates(language, words),
            *_times(language, words),
            *_ranges(language, words),
            *_amounts(language, words),
            *_plain(language, words),
        ]
    ]


_Rules = list[tuple[str, Callable[[Match], str | None]]]


def _powers(language: SpeechLanguage, words: NumberWords) -> _Rules:
    """Say the sign; exponents stay numbers, which units and fractions may follow or be."""
    number, named = r"(?<=[\d)]) ?\^ ?", _any(language.powers)
    words_too = _any(set(language.units) & language.before_year) or "(?!)"  # "10^5 in words"
    return [
        (r"(?<=[\w)]) ?\^ ?\{([^{}]{1,20})\}", lambda m: f"^{m[1]}"),
        (r"(?<=[\d)])( ?\^ ?\d+) ?[-\u2212] ?(?=\d)", lambda m: f"{m[1]} {language.minus} "),
        (
            rf"{number}({named})(?![\d^]|[.,/]\d| ?\^| ?(?:{_any(language.units)})(?![\w^]))",
            lambda m: f" {language.powers[m[1]]}",
        ),
        (
            rf"{number}(\d{{4,}}|\d+(?= (?:{words_too})\b))(?![\d.,]*\d)",  # and no year
            lambda m: f" {language.power} {words.number(m[1])}",
        ),
        (
            r"(?:(?<=[\d)])|(?<=\b[A-Za-z])) ?\^ ?([-\u2212])?(?=[A-Za-z]\b)",
            lambda m: f" {language.power} {f'{language.minus} ' if m[1] else ''}",
        ),
        (rf"{number}(?=[-\u2212]?\.?\d)", lambda _: f" {language.power} "),
        (r"(?<=[A-Za-z]) ?\^ ?(?=[-\u2212]\d)", lambda _: f" {language.power} "),
    ]


def _dates(language: SpeechLanguage, words: NumberWords) -> _Rules:
    months = _any([*language.months, *language.short_months])
    first, last = language.month_day, language.day_month

    def american(match: Match) -> str | None:
        month, day, year = match.groups()
        if int(month) > 12:
            month, day = day, month
        return words.date(day, month, year, first)

    return [
        (r"(?<![\d.,])(\d{3}0)'?s\b", lambda m: words.decade(m[1])),
        (r"(?:'|(?<=the )|(?<=The ))([2-9]0)s\b", lambda m: words.decade(m[1])),
        (
            r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b",
            lambda m: words.date(m[3], m[2], m[1], first),
        ),
        (r"\b(\d{1,2})/(\d{1,2})/(\d{4})\b", american),
        (
            rf"\b({months})\.? (\d{{1,2}}){ENDING}?\b(?!:)(?:,? (\d{{4}})\b)?",
            lambda m: words.date(m[2], m[1], m[3], first),
        ),
        (
            rf"\b(?:the )?(\d{{1,2}}){ENDING}? (?:of )?({months})\b(?:,? (\d{{4}})\b)?",
            lambda m: words.date(m[1], m[2], m[3], last),
        ),
    ]


def _times(language: SpeechLanguage, words: NumberWords) -> _Rules:
    return [
        (
            rf"(?i)\b(\d{{1,2}}):([0-5]\d)(?::\d\d)?(?: ?{HALF}|\b)",
            lambda m: words.time(m[1], m[2], m["half"]),
        ),
        (rf"(?i)\b(\d{{1,2}}) ?{HALF}", lambda m: words.time(m[1], "", m["half"])),
        (r"(?<=\d):(?=\d)", lambda _: f" {language.to} "),
        (
            r"(?:\+?1[- ])?(?:\(\d{3}\) ?|\b\d{3}-)\d{3}-\d{4}\b",  # a telephone
            lambda m: ", ".join(map(words.digits, re.findall(r"\d+", m.group()))),
        ),
    ]


def _ranges(language: SpeechLanguage, words: NumberWords) -> _Rules:
    del words
    signs = _any(sign for sign in language.currencies if not sign.isalpha())
    return [
        (
            rf"({signs})({NUMBER}) ?[-\u2013] ?(?=\d)",  # the sign counts for both ends
            lambda m: f"{m[1]}{m[2]} {language.to} {m[1]}",
        ),
        (r"(?<=\d)-(?=\d+ ?=)", lambda _: f" {language.minus} "),
        (rf"(?<=[\d%])(?:-| ?\u2013 ?)(?=(?:{signs})?\d)", lambda _: f" {language.to} "),
        (rf"(?<![\w)])[-\u2212](?=(?:{signs})?\.?\d)", lambda _: f"{language.minus} "),
    ]


def _amounts(language: SpeechLanguage, words: NumberWords) -> _Rules:
    signs = _any(sign for sign in language.currencies if not sign.isalpha())
    codes = rf"(?:{_any(sign for sign in language.currencies if sign.isalpha())})\b"
    scales, magnitudes = _any(language.scales), _any(language.magnitudes)
    scale = rf"(?: ?(?P<word>{magnitudes})\b|(?P<letter>{scales})\b)?"

    def money(match: Match) -> str:
        return words.money(match["sign"], match["amount"], match["word"] or match["letter"])

    return [
        (rf"(?P<sign>{signs}) ?(?P<amount>{NUMBER}){scale}", money),
        (rf"(?P<amount>{NUMBER}){scale} ?(?P<sign>{signs}|{codes})", money),
        (r"\b(\d)'(\d{1,2})(?:\"|'')?(?!\d)", lambda m: f"{m[1]} {language.feet} {m[2]}"),
        (
            r"(?<![\d.,/])(?:(\d+) )?(\d+)[/\u2044](\d+)(?![\d/])",
            lambda m: words.fraction(m[1], m[2], m[3]),
        ),
        (
            rf"({NUMBER})[ -]?({_any(language.units)})(?![\w^])",
            lambda m: words.counted(m[1], *language.units[m[2]]),
        ),
    ]


def _plain(language: SpeechLanguage, words: NumberWords) -> _Rules:
    small = _any(scale for scale in language.scales if scale.islower())
    operators = _any(language.operators)
    powers = "".join(rf"|(?<={re.escape(said)})" for said in language.powers.values())

    def power(match: Match) -> str:
        said = language.powers.get(match[1]) or f"{language.power} {words.number(match[1])}"
        return f" {said}"

    def year(match: Match) -> str | None:
        before, digits = match[1] or "", match[2]
        known = before.strip().lower() in language.before_year
        if "1900" <= digits < "2100" or (known and "1000" <= digits < "2100"):
            return f"{before}{words.year(digits)}"
        return None

    return [
        (r"\^ ?(\d+)", power),
        (
            rf"({NUMBER})({small})\b",
            lambda m: f"{words.number(m[1])} {language.scales[m[2]]}",
        ),
        (rf"(?i)(\d+){ENDING}\b", lambda m: words.ordinal(m[1])),
        (
            r"\d+(?:\.\d+){2,}",  # a version, or an address in a network
            lambda m: f" {language.point} ".join(map(words.number, m.group().split("."))),
        ),
        (
            rf"(?:(?<=[\d)]){powers})( ?)({operators}|\u2044)\1(?=[\d(])",
            lambda m: f" {language.operators.get(m[2], language.operators['/'])} ",
        ),
        (r"\bNo\. ?(?=\d)", lambda _: f"{language.symbols['#']} "),
        (r"\b([^\W\d_]+ )?(?<![\d.,])(\d{4})(?![.,]?\d)", year),
        (r"(?<!\w)\.(\d+)", lambda m: f"{language.point} {words.digits(m[1])}"),
        (NUMBER, lambda m: words.number(m.group())),
        (r"\d+", lambda m: words.number(m.group())),
    ]
