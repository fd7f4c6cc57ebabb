"""Prompts for language models that write or rewrite a data set's texts, from files.

A file has a part `[system]` and a part `[user]`; `{name}` stands for a value. The two that ship,
`rewrite` and `respond`, follow the paper's steps in words of our own.

Source:
    Section on InstructS2S-200K: rewritten instructions hold fillers, numbers in words, and little
    else; answers hold nothing that a voice cannot say, and are brief.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_omni.errors import ConfigError

FOLDER = Path(__file__).parent / "prompts"
SHIPPED = ("rewrite", "respond")
NEEDED = ("question",)  # must be in the user's part
KNOWN = ("question", "max_words")

_PART = re.compile(r"^\[(\w+)\]\s*$", re.MULTILINE)
_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What a model is told and asked, with places for values."""

    name: str
    system: str
    user: str

    def messages(self, values: Mapping[str, object]) -> tuple[str, str]:
        """Return the system's and the user's turn; values are put in as they are."""
        system, user = (
            _PLACE.sub(lambda match: str(values[match[1]]), text)
            for text in (self.system, self.user)
        )
        return system, user


def load_prompt(name: str | Path) -> Prompt:
    """Read a prompt that ships, by name, or any other, by path.

    Raises:
        ConfigError: there is no such prompt, or a part or a place of it is missing or unknown.
    """
    path = FOLDER / f"{name}.txt" if str(name) in SHIPPED else Path(name)
    try:
        return read_prompt(path, name=str(name), needed=NEEDED, known=KNOWN)
    except OSError as error:
        raise ConfigError(
            f"prompt must be one of {', '.join(SHIPPED)} or a readable text file, got {name}"
        ) from error


def read_prompt(path: Path, *, name: str, needed: Sequence[str], known: Sequence[str]) -> Prompt:
    """Read a prompt from a file.

    Args:
        path: the file.
        name: what the prompt is called.
        needed: places that the user's part must hold.
        known: places that there may be.

    Raises:
        OSError: the file cannot be opened.
        ConfigError: it is no text, or a part or a place of it is missing or unknown.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} must be text in UTF-8, got other bytes") from error
    before, *parts = _PART.split(text)
    names = parts[::2]
    if before.strip() or names != ["system", "user"]:
        raise ConfigError(f"{path} must have the parts [system] and [user], got {names}")
    system, user = (part.strip() for part in parts[1::2])
    if not system:
        raise ConfigError(f"{path} must say something under [system], got nothing")
    for place in _PLACE.findall(system + user):
        if place not in known:
            places = ", ".join(f"{{{one}}}" for one in known)
            raise ConfigError(f"{path} must hold only the places {places}, got {{{place}}}")
    for place in needed:
        if f"{{{place}}}" not in user:
            raise ConfigError(f"{path} must hold {{{place}}} under [user], got none")
    return Prompt(name=name, system=system, user=user)
