"""OpenAudioBench: Llama Questions, Web Questions, TriviaQA and AlpacaEval, spoken.

Source:
    `baichuan-inc/OpenAudioBench` on the hub: `eval_datas/SUBSET/SUBSET.csv`, whose column
    `audio_filename` names a file under `eval_datas/SUBSET/audios`. Its reasoning questions are in
    Chinese, and left out.
"""

from dataclasses import dataclass
from pathlib import Path

from llama_omni.errors import InputError
from llama_omni.evaluate.records import EvalItem
from llama_omni.evaluate.sets.common import FileSet, read_csv, text_of

_SOUND = "audio_filename"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Columns:
    question: tuple[str, ...]  # the first of these that is there
    answer: str = ""  # "": none, the answers are judged
    separator: str = ""  # between answers any of which will do
    more: str = ""  # a column of further answers, with commas between them


SUBSETS = {
    "llama_questions": _Columns(question=("Questions", "question"), answer="Answer"),
    "web_questions": _Columns(question=("question",), answer="answers", separator=";"),
    "trivia_qa": _Columns(
        question=("question",),
        answer="answer_normalized_value",
        more="answer_normalized_aliases",
    ),
    "alpaca_eval": _Columns(question=("instruction", "question", "prompt")),
}


class OpenAudioBench(FileSet):
    """All subsets that are there, or one.

    Args:
        folder: the data set's, its `eval_datas`, or a subset's.

    Raises:
        InputError: no subset is there, or one lacks a column or a sound; says which.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"{folder} must be OpenAudioBench's folder, got no folder")
        root = folder / "eval_datas" if (folder / "eval_datas").is_dir() else folder
        places = [root / name for name in SUBSETS if (root / name).is_dir()]
        if root.name in SUBSETS:
            places = [root]
        if not places:
            raise InputError(
                f"{folder} must hold one of OpenAudioBench's {', '.join(SUBSETS)}, got none"
            )
        items: list[EvalItem] = []
        files: dict[str, Path] = {}
        for place in places:
            _read(place, items, files)
        name = "OpenAudioBench"
        if len(places) == 1:
            name += f" {places[0].name}"
        notes = ["Open questions are right where the reply holds an answer as whole words."]
        super().__init__(name, items, files, notes)


def _read(place: Path, items: list[EvalItem], files: dict[str, Path]) -> None:
    table, columns = place / f"{place.name}.csv", SUBSETS[place.name]
    needed = [_SOUND, *([columns.answer] if columns.answer else ())]
    for number, row in read_csv(table, needed):
        where = f"{table}:{number}"
        name = next((name for name in columns.question if row.get(name)), columns.question[0])
        sound = text_of(row, _SOUND, where)
        item = f"{place.name}/{Path(sound).stem}"
        if item in files:
            raise InputError(f"{where}: {_SOUND} must be new, got {sound!r} again")
        items.append(
            EvalItem(
                id=item,
                instruction=text_of(row, name, where),
                references=_answers(row, columns, where),
                category=place.name,
            )
        )
        files[item] = place / "audios" / sound


def _answers(row: dict[str, str], columns: _Columns, where: str) -> tuple[str, ...]:
    if not columns.answer:
        return ()
    text = text_of(row, columns.answer, where)
    found = text.split(columns.separator) if columns.separator else [text]
    if columns.more:
        found += (row.get(columns.more) or "").split(",")
    return tuple(dict.fromkeys(one.strip() for one in found if one.strip()))
