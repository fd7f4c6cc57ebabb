"""How a word that no dictionary holds is likely said, in the 39 sounds of ARPAbet.

espeak-ng says it where it is installed; else a few rules of English spelling do. Good enough to
recognise a rare name by, and no more.
"""

import re
import shutil
import subprocess
import unicodedata

PROGRAM = "espeak-ng"
TIMEOUT_S = 10

# espeak-ng's own names of the sounds of American English; what is not here is skipped.
_ESPEAK = {
    "@": "AH", "@L": "AH L", "@-": "AH", "0": "AA", "3": "ER", "3:": "ER", "a": "AE", "aa": "AE",
    "a#": "AH", "A": "AA", "A:": "AA", "A@": "AA R", "aI": "AY", "aI@": "AY ER", "aI3": "AY ER",
    "aU": "AW", "e": "EY", "e@": "EH R", "eI": "EY", "E": "EH", "i": "IY", "i:": "IY",
    "i@": "IY AH", "i@3": "IH R", "I": "IH", "I2": "IH", "I#": "IH", "o@": "AO R", "O": "AO",
    "O:": "AO", "O2": "AO", "O@": "AO R", "OI": "OY", "oU": "OW", "u:": "UW", "U": "UH",
    "U@": "UH R", "V": "AH", "b": "B", "d": "D", "D": "DH", "dZ": "JH", "f": "F", "g": "G",
    "h": "HH", "j": "Y", "k": "K", "l": "L", "m": "M", "n": "N", "n-": "AH N", "N": "NG", "p": "P",
    "r": "R", "r-": "R", "s": "S", "S": "SH", "t": "T", "t#": "T", "t2": "T", "?": "T", "tS": "CH",
    "T": "TH", "v": "V", "w": "W", "x": "K", "z": "Z", "Z": "ZH",
}  # fmt: skip
# The longest that fits is read first.
_LETTERS = {
    "tion": "SH AH N", "sion": "ZH AH N", "igh": "AY", "tch": "CH", "dge": "JH", "qu": "K W",
    "ch": "CH", "sh": "SH", "th": "TH", "ph": "F", "wh": "W", "ck": "K", "ng": "NG", "kn": "N",
    "wr": "R", "ee": "IY", "ea": "IY", "ie": "IY", "ei": "EY", "ey": "IY", "ai": "EY", "ay": "EY",
    "oo": "UW", "ou": "AW", "ow": "OW", "oa": "OW", "oi": "OY", "oy": "OY", "au": "AO", "aw": "AO",
    "ew": "UW", "ue": "UW", "er": "ER", "ir": "ER", "ur": "ER", "ar": "AA R", "or": "AO R",
    "bb": "B", "cc": "K", "dd": "D", "ff": "F", "gg": "G", "ll": "L", "mm": "M", "nn": "N",
    "pp": "P", "rr": "R", "ss": "S", "tt": "T", "zz": "Z", "ce": "S EH", "ci": "S IH", "cy": "S IY",
    "a": "AE", "b": "B", "c": "K", "d": "D", "e": "EH", "f": "F", "g": "G", "h": "HH", "i": "IH",
    "j": "JH", "k": "K", "l": "L", "m": "M", "n": "N", "o": "AA", "p": "P", "q": "K", "r": "R",
    "s": "S", "t": "T", "u": "AH", "v": "V", "w": "W", "x": "K S", "y": "IY", "z": "Z",
}  # fmt: skip


def guess_pronunciation(word: str, *, program: str = PROGRAM) -> str:
    """Return the sounds of one word, such as "K AE T"; nothing where no letter has a sound.

    Args:
        word: as people write it; accents are dropped where the rules must read it.
        program: espeak-ng, by name or path; one that is not there leaves it to the rules.
    """
    return _by_espeak(word, program) or _by_rules(word)


def _by_espeak(word: str, program: str) -> str:
    found = shutil.which(program)
    if found is None or not any(letter.isalnum() for letter in word):
        return ""
    command = [found, "-q", "-x", "--sep= ", "-v", "en-us", "--stdin"]
    try:
        said = subprocess.run(
            command, input=word, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    sounds = re.sub(r"[',%=|]", "", said).split()  # without its marks of stress
    return " ".join(_ESPEAK[name] for name in sounds if name in _ESPEAK)


def _by_rules(word: str) -> str:
    plain = unicodedata.normalize("NFKD", word.lower())
    plain = re.sub(r"[^a-z]", "", plain)
    if len(plain) > 3 and plain.endswith("e") and plain[-2] not in "aeiouy":
        plain = plain[:-1]  # mute
    pieces = re.findall("|".join(sorted(_LETTERS, key=len, reverse=True)), plain)
    return " ".join(_LETTERS[piece] for piece in pieces)
