"""Rows of the layouts in which others published spoken conversations.

| layout | a row | what is taken |
| --- | --- | --- |
| InstructS2S-200K | `conversation`: turns `from`, `text`, `speech`, `unit` | texts and sound |
| inference files | `speech`, `conversations`: turns `from`, `value` | sound asked, text answered |
| forks for training | the same with `tgt_units`, text or list | also the units |

The `unit` of InstructS2S-200K are CosyVoice2's tokens, not units that we can train on: they are
left out, and the answer's units are made again from its sound. `tgt_units` come without sound and
are kept as they are, repeats merged. Of a longer conversation the last exchange is the record, and
what came before is its history.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_omni.data.items import Item, KeepSound, sound_of
from llama_omni.data.records import Exchange, Record
from llama_omni.data.schema import MAX_UNIT
from llama_omni.data.tables import Located
from llama_omni.errors import InputError
from llama_omni.model.units import reduce_units

if TYPE_CHECKING:
    from llama_omni.data.sources import Source

_SPEECH = "<speech>"
_Sound = Callable[[Any], str | None]  # what a row has, to what an item calls it


def read_released(located: Located, name: str, source: "Source", keep: KeepSound) -> Item:
    """Return a row of any of these layouts as an item whose sound exists.

    Args:
        located: The row.
        name: Its id, where the row has none that can name a file.
        source: Where it is from; sound is looked for beside its file.
        keep: Keeps sound that lies in the row itself.

    Raises:
        InputError: It is of none of these layouts, or its turns do not alternate.
    """
    row, where = located.row, located.where
    root = Path(source.path)
    root = root if root.is_dir() else root.parent
    sound = partial(sound_of, name="'speech'", where=where, folder=root, keep=keep)
    given = str(row.get("id", ""))
    known: dict[str, Any] = {
        "id": given if re.fullmatch(r"[A-Za-z0-9._-]{1,200}", given) else name,
        "source": source.label,
        "split": source.split,
    }
    if "conversation" in row:
        return _conversation(_turns(row["conversation"], where), known, sound, where)
    if "conversations" in row:
        return _instruction(row, _turns(row["conversations"], where), known, sound, where)
    raise InputError(
        f"{where} must have a column 'conversation' or 'conversations'; it has {', '.join(row)}"
    )


def _conversation(
    turns: list[Mapping[str, Any]], known: dict[str, Any], sound: _Sound, where: str
) -> Item:
    roles = [turn.get("from") for turn in turns]
    if not turns or roles != ["human", "gpt"] * (len(turns) // 2):
        raise InputError(f"{where}: turns must alternate human, gpt, got {roles}")
    texts = [_string(turn.get("text"), "text", where) for turn in turns]
    sounds = [sound(turn.get("speech")) for turn in turns]
    past = range(0, len(turns) - 2, 2)
    history = tuple(Exchange(question=texts[i], answer=texts[i + 1]) for i in past)
    return Item(
        record=Record(question=texts[-2], answer=texts[-1], history=history, **known),
        question_sound=sounds[-2],
        answer_sound=sounds[-1],
        history_sounds=tuple(sounds[i] for i in past),
    )


def _instruction(
    row: Mapping[str, Any],
    turns: list[Mapping[str, Any]],
    known: dict[str, Any],
    sound: _Sound,
    where: str,
) -> Item:
    asked = sound(row.get("speech"))
    if asked is None:
        raise InputError(f"{where} must have a column 'speech'; it has {', '.join(row)}")
    said = {turn.get("from"): _string(turn.get("value"), "value", where) for turn in turns}
    question = said.get("human", "")
    return Item(
        # With <speech> the text is the prompt's, and what was asked is known from its sound alone.
        record=Record(
            question="" if _SPEECH in question else question, answer=said.get("gpt"), **known
        ),
        question_sound=asked,
        units=_units(row.get("tgt_units"), where),
    )


def _turns(value: Any, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        raise InputError(f"{where}: a conversation must be a list of turns, got {value!r:.80}")
    return value


def _string(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: a turn's {name!r} must be text, got {value!r:.80}")
    return value.strip()


def _units(value: Any, where: str) -> tuple[int, ...] | None:
    """Read units as text ("12 7 9", with or without commas) or as a list."""
    if value is None:
        return None
    items = re.split(r"[\s,]+", value.strip()) if isinstance(value, str) else value
    try:
        units = [int(str(item).strip("<>[]")) for item in items if str(item).strip("[]")]
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: tgt_units must be whole numbers, got {value!r:.80}") from error
    if any(not 0 <= unit <= MAX_UNIT for unit in units):
        raise InputError(
            f"{where}: tgt_units must be 0 to {MAX_UNIT}, got {min(units)} to {max(units)}"
        )
    return tuple(reduce_units(units))
