"""Prompts for language models that write or rewrite a data set's texts, from files.

A file has a part `[system]` and a part `[user]`; `{name}` stands for a value. The two that ship,
`rewrite` and `respond`, follow the paper's steps in words of our own.

Source:
    Section on InstructS2S-200K: rewritten instructions hold fillers, numbers in words, and little
    else; answers hold nothing that a voice cannot say, and are brief.
"""

import re
from collections.abc import Mapping
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
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"prompt must be one of {', '.join(SHIPPED)} or a readable text file, got {name}"
        ) from error
    before, *parts = _PART.split(text)
    names = parts[::2]
    if before.strip() or names != ["system", "user"]:
        raise ConfigError(f"{path} must have the parts [system] and [user], got {names}")
    system, user = (part.strip() for part in parts[1::2])
    if not system:
        raise ConfigError(f"{path} must say something under [system], got nothing")
    for place in _PLACE.findall(system + user):
        if place not in KNOWN:
            known = ", ".join(f"{{{one}}}" for one in KNOWN)
            raise ConfigError(f"{path} must hold only the places {known}, got {{{place}}}")
    for place in NEEDED:
        if f"{{{place}}}" not in user:
            raise ConfigError(f"{path} must hold {{{place}}} under [user], got none")
    return Prompt(name=str(name), system=system, user=user)
