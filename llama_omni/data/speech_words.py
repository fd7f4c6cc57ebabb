"""Single numbers, sums of money, dates and times in words."""

from llama_omni.data.speech_language import SpeechLanguage
from llama_omni.errors import MissingExtraError

LONGEST = 15  # digits; longer numbers are read out one by one
FRACTIONS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 20, 32, 64, 100)  # denominators with a name


class NumberWords:
    """What one language calls its numbers; all arguments are as written, in ASCII digits.

    Methods that may meet a number that is no date, time or fraction return None for it.

    Raises:
        MissingExtraError: the package `num2words` is not installed.
    """

    def __init__(self, language: SpeechLanguage) -> None:
        try:
            from num2words import num2words
        except ImportError as error:
            raise MissingExtraError("num2words", "data", "writing numbers in words") from error
        self._language = language
        self._num2words = num2words

    def number(self, text: str) -> str:
        """Say "1,234.5"."""
        whole, _, decimals = text.replace(",", "").partition(".")
        if len(whole) > LONGEST or (len(whole) > 1 and whole[0] == "0"):
            words = self.digits(whole)
        else:
            words = self._say(int(whole))
        return f"{words} {self._language.point} {self.digits(decimals)}" if decimals else words

    def digits(self, text: str) -> str:
        """Say digit by digit."""
        return " ".join(self._say(int(digit)) for digit in text)

    def ordinal(self, text: str) -> str:
        """Say "3" as "third"."""
        return self._say(int(text), "ordinal") if len(text) <= LONGEST else self.digits(text)

    def counted(self, amount: str, one: str, many: str) -> str:
        """Say so many of something."""
        return f"{self.number(amount)} {one if amount == '1' else many}"

    def year(self, text: str) -> str:
        """Say "1984" as "nineteen eighty-four"."""
        return self._say(int(text), "year") if int(text) else self._say(0)

    def decade(self, text: str) -> str:
        """Say "1990" as "nineteen nineties"."""
        words = self.year(text) if len(text) > 2 else self.number(text)
        return self._language.plural(words)

    def date(self, day: str, month: str | int, year: str | None, pattern: str) -> str | None:
        """Say a date, its month by name, short name or number."""
        language = self._language
        if isinstance(month, str) and not month.isdecimal():
            name = month
            if month not in language.months:
                name = language.months[language.short_months[month] - 1]
        elif 1 <= int(month) <= len(language.months):
            name = language.months[int(month) - 1]
        else:
            return None
        if not 1 <= int(day) <= 31:
            return None
        said = pattern.format(month=name, day=self.ordinal(day))
        return f"{said}, {self.year(year)}" if year else said

    def time(self, hour: str, minute: str, half: str | None) -> str | None:
        """Say a time of day; `half` is "a.m.", "pm" or nothing."""
        if int(hour) > 24:
            return None
        said = [self._say(int(hour))]
        if int(minute or 0):
            short = self._say(int(minute))
            said.append(f"{self._language.oh} {short}" if int(minute) < 10 else short)
        elif not half:
            said.append(self._language.of_clock)
        return " ".join([*said, *(half or "").replace(".", "").upper()])

    def money(self, sign: str, amount: str, scale: str | None) -> str:
        """Say a sum; `scale` is "million", "k" or nothing."""
        currency = self._language.currencies[sign]
        if scale:
            word = self._language.scales.get(scale, scale)
            return f"{self.number(amount)} {word} {currency.many}"
        whole, _, cents = amount.partition(".")
        if len(cents) != 2 or not currency.small_one:
            return self.counted(amount, currency.one, currency.many)
        parts = []
        if whole != "0" or not int(cents):
            parts.append(self.counted(whole, currency.one, currency.many))
        if int(cents):
            small = str(int(cents))
            parts.append(self.counted(small, currency.small_one, currency.small_many))
        return f" {self._language.joint} ".join(parts)

    def fraction(self, whole: str | None, above: str, below: str) -> str | None:
        """Say "1/2", or "3 1/2" with its whole part."""
        if len(below) > 3 or int(below) not in FRACTIONS or not 0 < int(above) < int(below):
            return None
        ordinal = self.ordinal(below)
        one, many = self._language.fractions.get(int(below), (ordinal, f"{ordinal}s"))
        said = self.counted(above, one, many)
        return f"{self.number(whole)} {self._language.joint} {said}" if whole else said

    def _say(self, value: int, kind: str = "cardinal") -> str:
        words = self._num2words(value, lang=self._language.code, to=kind)
        return str(words).replace(",", "")
