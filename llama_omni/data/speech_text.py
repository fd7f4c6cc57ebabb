"""Text as a voice says it: words and the punctuation of sentences, nothing else.

`unspeakable` names what no rule can turn into speech; `speakable` turns the rest. In English the
result holds unaccented letters, spaces, apostrophes and hyphens of words, and `. , ? !`. For other
languages there are no tables: their texts stay as they are written, and numbers are the voice's.
"""

import html
import re
import unicodedata
from functools import cache

from llama_omni.data.speech_english import ENGLISH
from llama_omni.data.speech_language import SpeechLanguage
from llama_omni.data.speech_numbers import read_numbers
from llama_omni.errors import ConfigError

LANGUAGES: dict[str, SpeechLanguage] = {"en": ENGLISH}  # those that have tables
_CODE_OF_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
MAX_PASSES = 8
MAX_DIGITS = 60  # in one text; more is a table of numbers, whatever it looks like
MAX_DIGIT_RUN = 16
MAX_WORD = 40  # letters, where words have spaces between them
_ENDLESS = re.compile(rf"[^\W\d_\u0e00-\uffff\U00010000-\U0010ffff]{{{MAX_WORD + 1}}}")

_QUOTES = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u00b4`\u2032", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033", '"'),
        **dict.fromkeys("\u2010\u2011\ufe63\uff0d", "-"),
        **dict.fromkeys("\u2012", "\u2013"),
        **dict.fromkeys("\u2015", "\u2014"),
        **dict.fromkeys("\u00b5", "\u03bc"),
        "\u2026": "...",
    }
)
_FOLDED = str.maketrans(
    {
        **{"\u00df": "ss", "\u00e6": "ae", "\u00c6": "Ae", "\u0153": "oe", "\u0152": "Oe"},
        **{"\u00f8": "o", "\u00d8": "O", "\u0142": "l", "\u0141": "L", "\u0111": "d"},
        **{"\u0110": "D", "\u00fe": "th", "\u00de": "Th", "\u00f0": "d", "\u00d0": "D"},
        **{"\u0131": "i", "\u1e9e": "SS"},
    }
)
_SUPERSCRIPT = re.compile("[\u207a\u207b]?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+")
_POWER = re.compile(r"(?<=\d)( ?)\*\*\1(?=[-\u2212]?\d)")  # as programs write it; not bold type
_FENCE = re.compile(r"```|~~~")
_CODE = re.compile(
    r"^\s*(?:def |class |import |from \w+ import |#include|public |function |var |let |const |"
    r"return\b|SELECT .* FROM |<\w+[ >]|</\w+>).*$|[;{}]\s*$|=>|\w\(\)|==|&&|\|\|",
    re.MULTILINE,
)
_TABLE = re.compile(r"^[^\n|]*\|[^\n|]*\|.*$", re.MULTILINE)
_LINK = re.compile(r"https?://\S+|\bwww\.\S+", re.IGNORECASE)
_FORMULA = re.compile(r"\\[a-zA-Z]+|\$\$|\$(?=\S)[^$\n]*[\\^_{][^$\n]*(?<=\S)\$(?!\d)")
_TAG = re.compile(r"</?[a-zA-Z][^<>\n]*>")
_DOMAIN = re.compile(
    r"(?<![\w.@])(?:[\w.+-]+@)?(?:[\w-]+\.)+(?:com|org|net|edu|gov|io|info|co\.uk|uk|de|ai|tv)"
    r"(?:/[\w./-]*\w)?(?![\w@])"
)


def speakable(text: str, language: str = "en") -> str:
    """Return the text as a voice says it; what cannot be said is left out.

    Doing it twice changes nothing. Ask `unspeakable` first whether the rest still makes sense.

    Raises:
        ConfigError: this is no code of a language.
        MissingExtraError: the package `num2words` is not installed.
    """
    known = find_language(language)
    if known is None:
        while (plain := html.unescape(text)) != text:
            text = plain
        return " ".join(text.split())
    for _ in range(MAX_PASSES):
        before, text = text, _once(text, known)
        if text == before:
            break
    return text


def unspeakable(text: str, language: str = "en") -> str | None:
    """Return why a text cannot be said, None where it can.

    Raises:
        ConfigError: this is no code of a language.
    """
    known = find_language(language)
    if _FENCE.search(text) or len(_CODE.findall(text)) >= 3:
        return "code"
    if len(_TABLE.findall(text)) >= 2:
        return "a table"
    if _LINK.search(text):
        return "a web address"
    if _FORMULA.search(text):
        return "a formula"
    if known is not None and (script := _foreign(text, known)):
        return f"letters that are {script}"
    digits = [len(run) for run in re.findall(r"\d+", text)]
    if digits and (max(digits) > MAX_DIGIT_RUN or sum(digits) > MAX_DIGITS):
        return "too many digits"
    if _ENDLESS.search(text):
        return "a word of endless length"
    if not any(character.isalnum() for character in text):
        return "nothing to say"
    return None


def is_marked(text: str) -> bool:
    """Whether letters of a text have accents or are of another script, which English has not."""
    return any(letter.isalpha() and not letter.isascii() for letter in text)


def find_language(code: str) -> SpeechLanguage | None:
    """Return the tables of a language, also by the code of an accent; None where there are none.

    Raises:
        ConfigError: this is no code of a language.
    """
    if not _CODE_OF_LANGUAGE.fullmatch(code):
        raise ConfigError(f"language must be a code such as en, de or pt-BR, got {code!r}")
    return LANGUAGES.get(code.partition("-")[0])


def _foreign(text: str, language: SpeechLanguage) -> str | None:
    """Name the script of the first letter that is neither Latin nor a known symbol."""
    for character in unicodedata.normalize("NFKC", text):
        if character.isascii() or not character.isalpha() or character in language.symbols:
            continue
        name = unicodedata.name(character, "UNKNOWN")
        if not name.startswith(("LATIN", "MODIFIER", "MASCULINE", "FEMININE")):
            return name.split()[0].capitalize()
    return None


def _once(text: str, language: SpeechLanguage) -> str:
    text = _plain_characters(text)
    text = _without_markup(text, language)
    text = _DOMAIN.sub(lambda match: _address(match.group(), language), text)
    text = read_numbers(text, language)
    text = _abbreviations(language).sub(
        lambda match: language.abbreviations[match.group()] + " ", text
    )
    text = _acronyms(text, language)
    text = _symbols(text, language)
    return _punctuated(text)


def _plain_characters(text: str) -> str:
    """Write the same characters in the simplest way: ASCII digits, quotes and hyphens."""
    text = html.unescape(text).translate(_QUOTES)
    text = _SUPERSCRIPT.sub(lambda match: f"^{unicodedata.normalize('NFKC', match.group())}", text)
    plain = []
    for character in text:
        simple = unicodedata.normalize("NFKC", character)
        if "\u2044" in simple:  # a fraction in one sign
            simple = f" {simple}"
        plain.append(simple)
    text = unicodedata.normalize("NFKC", "".join(plain)).translate(_QUOTES)
    kept = []
    for character in text:
        kind = unicodedata.category(character)
        if kind == "Nd":
            kept.append(str(unicodedata.digit(character)))
        elif kind in ("Cc", "Zs", "Zl", "Zp") and character != "\n":
            kept.append(" ")
        elif kind[0] != "C" or character == "\n":
            kept.append(character)
    return re.sub(" +", " ", "".join(kept))


def _without_markup(text: str, language: SpeechLanguage) -> str:
    """Take Markdown and tags away, and end every line that is an item or a heading."""
    text = _POWER.sub("^", text)
    text = re.sub(r"!\[[^\]\n]*\]\([^)\n]*\)", " ", text)
    text = re.sub(r"\[([^\]\n]*)\]\([^)\n]*\)", r"\1", text)
    text = re.sub(r"<(?:br|p|/p|li|/li)\s*/?>", "\n", text)
    text = _TAG.sub(" ", text)
    text = re.sub(r"^[ ]*(?:>+|#+|[-*+\u2022\u2023\u25e6]|\d{1,3}[.)])(?=\s)", "", text, flags=re.M)
    text = re.sub(r"^[ ]*[-*_=]{3,}[ ]*$", "", text, flags=re.M)
    text = re.sub(r"_{3,}", f" {language.blank} ", text)
    text = re.sub(r"(\*\*|__|~~)(?=\S)(.+?)(?<=\S)\1", r"\2", text)
    text = re.sub(r"(?<![\w*])([*_])(?=\S)([^*_\n]+?)(?<=\S)\1(?![\w*])", r"\2", text)
    text = re.sub(r"[ ]*:[ ]*(?=\n|$)", ".", text)
    text = re.sub(r"(?<=[^\s.?!,])[ ]*\n\s*(?=\S)", ". ", text)
    return re.sub(r"\s+", " ", text)


def _address(text: str, language: SpeechLanguage) -> str:
    for sign, word in ((".", language.dot), ("/", language.slash), ("@", language.symbols["@"])):
        text = text.replace(sign, f" {word} ")
    return re.sub(r"[-_+]+", " ", text)


@cache
def _abbreviations(language: SpeechLanguage) -> re.Pattern[str]:
    known = "|".join(map(re.escape, sorted(language.abbreviations, key=len, reverse=True)))
    return re.compile(rf"(?<![\w.])(?:{known})(?!\w)")


def _acronyms(text: str, language: SpeechLanguage) -> str:
    """Say letter by letter what has no vowel or is known to be said so; lower what shouts."""
    long = re.findall(r"[A-Za-z]{4,}", text)
    if len(long) >= 3 and all(word.isupper() for word in long):
        text = re.sub(r"[A-Z]{2,}", lambda match: match.group().lower(), text)
        text = re.sub(r"(?:^|[.?!] )[a-z]", lambda match: match.group().upper(), text)
    text = re.sub(
        r"(?<![\w.])(?:[A-Za-z]\.){2,}",
        lambda match: match.group().replace(".", " ").upper(),
        text,
    )
    return re.sub(r"\b([A-Z]{2,5})(s?)\b", lambda match: _spelled(match, language), text)


def _spelled(match: re.Match[str], language: SpeechLanguage) -> str:
    letters, plural = match.groups()
    if letters in language.spelled or not set(letters) & set("AEIOUY"):
        return " ".join(letters) + plural
    return match.group()


def _symbols(text: str, language: SpeechLanguage) -> str:
    """Put words for signs that have some, and drop every other sign and mark."""
    text = re.sub(
        rf"\b{language.joint}/{language.either}\b", f"{language.joint} {language.either}", text
    )
    text = re.sub(r"(?<=[A-Za-z])/(?=[A-Za-z])", f" {language.either} ", text)
    text = re.sub(r"(?<=[A-Za-z])\.(?=[a-z])", f" {language.dot} ", text)
    for sign, word in language.symbols.items():
        text = text.replace(sign, f" {word} ")
    text = re.sub(r"[\u2013\u2014()\[\]{};:]|--+|(?<=\s)-(?=\s)", ", ", text)
    text = text.translate(_FOLDED)
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    text = re.sub(r'"', "", text)
    return re.sub(r"[^A-Za-z'.,?!-]+", " ", text)


def _punctuated(text: str) -> str:
    """Keep one mark between words, the strongest, and signs of words within words only."""
    # An apostrophe after an s is an owner's ("dogs' home"), unless another one opened a quotation.
    owner = "(?!(?<=s)' [A-Za-z])" if not re.search(r"(?<![A-Za-z])'", text) else ""
    text = re.sub(rf"(?<![A-Za-z])['-]+|{owner}['-]+(?![A-Za-z])", " ", text)
    text = re.sub(r"['-]+", lambda match: match.group()[0], text)
    text = re.sub(r"[\s.,?!]+", _strongest, text).strip()
    return re.sub(r"^[.,?! ]+|,$", "", text)


def _strongest(match: re.Match[str]) -> str:
    marks = match.group()
    if not marks.strip():
        return " "
    if "..." in marks and match.string[match.end() : match.end() + 1].islower():
        return ", "
    return next(mark for mark in "?!.," if mark in marks) + " "
