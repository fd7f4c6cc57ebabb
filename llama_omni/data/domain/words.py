"""Numbers, articles and lists in words, as a voice says them."""

from collections.abc import Sequence

from llama_omni.errors import InputError

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
ORDINALS = tuple(_ORDINALS.split())


def number(value: int) -> str:
    """Return 0 to 1,999 in words: 22 is "twenty-two", 107 is "one hundred and seven"."""
    if not 0 <= value < 2000:
        raise InputError(f"a number of the domain must be 0 to 1999, got {value}")
    if value >= 1000:
        rest = value - 1000
        joint = "" if not rest else f"{' and' if rest < 100 else ''} {number(rest)}"
        return "one thousand" + joint
    if value >= 100:
        hundreds, rest = divmod(value, 100)
        return f"{_SMALL[hundreds]} hundred" + (f" and {number(rest)}" if rest else "")
    if value < 20:
        return _SMALL[value]
    tens, ones = divmod(value, 10)
    return _TENS[tens - 2] + (f"-{_SMALL[ones]}" if ones else "")


def listed(words: Sequence[str]) -> str:
    """Join words as a sentence does: "red, green and blue"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def with_article(noun: str) -> str:
    """Put "a" or "an" before a noun."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def sentence(text: str) -> str:
    """Begin a text with a capital letter."""
    return text[:1].upper() + text[1:]
