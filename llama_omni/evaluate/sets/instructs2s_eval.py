"""InstructS2S-Eval: the paper's 199 instructions, from AlpacaEval, spoken here.

Source:
    Section 4.1 of the paper: AlpacaEval's subsets helpful_base and vicuna, without the questions
    about mathematics and code. 129 + 80 - 10 are 199, as the paper says; the authors' own list and
    their recordings are not published.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llama_omni import audio
from llama_omni.errors import InputError, MissingExtraError
from llama_omni.evaluate.records import EvalItem
from llama_omni.interfaces import Audio, Synthesizer

COUNT = 199
SUBSETS = ("helpful_base", "vicuna")

# How Vicuna's questions of the categories coding (7) and math (3) begin; AlpacaEval's file names
# no categories.
_LEFT_OUT = (
    "develop a c++ program that reads a text file",
    "implement a python function to find the longest common subsequence",
    "implement a regular expression in python to validate an email",
    "write a program to find the nth fibonacci",
    "implement a binary search algorithm",
    "implement a queue data structure using two stacks",
    "implement a program to find the common elements in two arrays",
    "given that f(x) =",
    "solve for x in the equation",
    "if the endpoints of a line segment are",
)


class InstructS2SEval:
    """The set, spoken by one voice.

    Args:
        source: AlpacaEval's evaluation set: a JSON or JSON-lines file with the columns
            `instruction` and `dataset`, or a hub id such as tatsu-lab/alpaca_eval.
        voice: speaks, such as flite:slt; the paper's was CosyVoice.
        open_synthesizer: opens the voice's program, by the name before its colon.

    Raises:
        InputError: the file lacks a column, or its two subsets less mathematics and code are not
            199 instructions; or there is no voice.
    """

    name = "InstructS2S-Eval"

    def __init__(
        self,
        source: str,
        *,
        voice: str,
        open_synthesizer: Callable[[str], Synthesizer] | None,
    ) -> None:
        if not voice or open_synthesizer is None:
            raise InputError("instructs2s_eval must be spoken: give --voice, such as flite:slt")
        self._voice, self._open = voice, open_synthesizer
        self._synthesizer: Synthesizer | None = None
        self.items = select(read_rows(source))
        self.notes = (
            f"AlpacaEval's {' and '.join(SUBSETS)} without mathematics and code, {COUNT} "
            "instructions as in the paper; the authors' own list is not published.",
            f"Spoken by {voice}.",
        )

    def speech(self, item: EvalItem) -> Audio:
        """Speak an instruction, at 16 kHz.

        Raises:
            ToolError: the voice is absent or fails.
        """
        if self._synthesizer is None:
            self._synthesizer = self._open(self._voice.partition(":")[0])
        said = self._synthesizer.say(item.instruction, voice=self._voice)
        return audio.check(said, max_s=float("inf"))


def select(rows: list[dict[str, Any]]) -> tuple[EvalItem, ...]:
    """Return the paper's instructions of AlpacaEval's rows.

    Raises:
        InputError: a column is missing, or they are not 199.
    """
    counts = dict.fromkeys(SUBSETS, 0)
    items, left_out = [], 0
    for number, row in enumerate(rows, 1):
        for column in ("instruction", "dataset"):
            if not isinstance(row.get(column), str):
                raise InputError(f"row {number} must have the column {column}, got {[*row]}")
        subset = row["dataset"]
        if subset not in SUBSETS:
            continue
        counts[subset] += 1
        if subset == "vicuna" and _is_left_out(row):
            left_out += 1
            continue
        items.append(
            EvalItem(
                id=f"{subset}-{counts[subset]:03d}",
                instruction=row["instruction"].strip(),
                category=subset,
            )
        )
    if left_out != len(_LEFT_OUT) or len(items) != COUNT:
        raise InputError(
            f"helpful_base and vicuna must hold {COUNT} instructions beside {len(_LEFT_OUT)} about "
            f"mathematics and code, got {len(items)} beside {left_out}; is it AlpacaEval's whole "
            "evaluation set?"
        )
    return tuple(items)


def read_rows(source: str) -> list[dict[str, Any]]:
    """Read AlpacaEval's file, or its data set on the hub.

    Raises:
        InputError: it is no list of objects.
        MissingExtraError: a hub id needs the package datasets.
    """
    path = Path(source)
    if not path.is_file():
        if path.suffix or path.exists() or source.count("/") != 1:
            raise InputError(f"{source} must be AlpacaEval's file or a hub id, got neither")
        return _from_hub(source)
    text = path.read_text(encoding="utf-8")
    try:
        whole = text.lstrip().startswith("[")
        rows = json.loads(text) if whole else [json.loads(line) for line in text.splitlines()]
    except ValueError as error:
        raise InputError(f"{source} must be JSON or JSON lines: {error}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{source} must hold objects with instruction and dataset")
    return rows


def _from_hub(source: str) -> list[dict[str, Any]]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtraError("datasets", "dev", "reading a hub's data set") from error
    try:
        return [dict(row) for row in load_dataset(source, "alpaca_eval", split="eval")]
    except Exception as error:  # whatever the hub's client raises
        raise InputError(f"{source} cannot be read from the hub: {error}") from error


def _is_left_out(row: Mapping[str, Any]) -> bool:
    return row["instruction"].strip().lower().startswith(_LEFT_OUT)
