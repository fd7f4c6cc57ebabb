"""The measure "judge": mean grades of the replies, from their text or from their transcript."""

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_omni.backends.chat_options import ChatUsage
from llama_omni.errors import MissingExtraError
from llama_omni.evaluate.judge import ASPECTS, GRADES, Grades, Judge
from llama_omni.evaluate.records import Condition, EvalItem, ReplyRow, Score
from llama_omni.evaluate.scoring import Parts, PartsMeasure, Spec
from llama_omni.evaluate.transcripts import Transcripts

NO_JUDGE = (
    "no judge was named: give --judge-url and --judge-model, of any server that speaks OpenAI's "
    "chat protocol"
)
NO_TRANSCRIPT = "speech is judged by its transcript, and no recogniser was named: give --asr"
NO_INSTRUCTION = "the instruction's text is unknown"

logger = logging.getLogger(__name__)


class JudgeMeasure(PartsMeasure):
    """Grades for content and style, and one for all; S2SIF's from a transcript, never the text.

    A reply's grade is the mean of its samples, a score the mean of its replies' grades. Samples
    without a grade count in `judge_unjudged` alone, and say in the value why.

    Args:
        judge: who grades; None: none was named.
        transcripts: of the replies' sounds; None: S2SIF is reported as absent.
    """

    name = "judge"
    specs = (
        *(Spec(name=f"judge_{aspect}", unit="1 to 5", better="higher") for aspect in ASPECTS),
        Spec(name="judge_unjudged", unit="%", better="lower", scale=100.0),
    )

    def __init__(self, judge: Judge | None, transcripts: Transcripts | None = None) -> None:
        self._judge, self._transcripts = judge, transcripts

    @property
    def settings(self) -> Mapping[str, Any]:
        """The judge, its prompts and sampling, and the recogniser."""
        return {
            "judge": None if self._judge is None else self._judge.settings,
            "recognizer": None if self._transcripts is None else self._transcripts.name,
        }

    @property
    def parallel(self) -> int:
        """As many replies as keep the endpoint busy: each of them asks for several grades."""
        if self._judge is None:
            return 1
        options = self._judge.options
        return max(1, options.chat.concurrency // (len(GRADES) * options.samples))

    @property
    def missing(self) -> str | None:
        """Which judge or package is not there."""
        if self._judge is None:
            return NO_JUDGE
        if importlib.util.find_spec("openai") is None:
            return str(MissingExtraError("openai", "evaluate", "a judge"))
        return None

    @property
    def usage(self) -> ChatUsage:
        """What was asked, paid and saved so far; its text is for people."""
        return ChatUsage() if self._judge is None else self._judge.usage

    def value(self, row: ReplyRow, item: EvalItem, folder: Path) -> dict[str, Any]:
        """Grade one reply, or say why it cannot be.

        Raises:
            ToolError: the server is absent, fails or limits for too long, or refuses everything.
            AudioError: the reply's sound is missing or cannot be read.
        """
        assert self._judge is not None, "a measure in which something is missing is not asked"
        if not item.instruction.strip():
            return {"absent": NO_INSTRUCTION}
        heard = Condition.of(row.condition).mode == "s2sif"
        if not heard:
            said = row.text
        elif self._transcripts is None:
            return {"absent": NO_TRANSCRIPT}
        else:
            said = self._transcripts.of(row, folder)
        found = self._judge.grade(item.instruction, said, heard=heard)
        for problem in found.unjudged:
            logger.warning("unjudged item=%s condition=%s %s", row.item, row.condition, problem)
        return {"judged": said, "heard": heard, **found.to_json()}

    def parts(self, row: ReplyRow, item: EvalItem, value: Mapping[str, Any]) -> Parts:  # noqa: ARG002
        """Return the mean grades, and how many samples have none."""
        if "absent" in value:
            return {}
        grades = Grades.from_json(value)
        found = {"judge_unjudged": (float(len(grades.unjudged)), float(grades.asked))}
        for aspect in ASPECTS:
            if (mean := grades.mean(aspect)) is not None:
                found[f"judge_{aspect}"] = (mean, 1.0)
        return found

    def scores(
        self, rows: Sequence[tuple[ReplyRow, EvalItem, Mapping[str, Any]]], *, seed: int
    ) -> list[Score]:
        """Return the scores of one condition; those that no reply has say why."""
        known = {score.name: score for score in super().scores(rows, seed=seed)}
        values = [value for _, _, value in rows]
        reasons = [value["absent"] for value in values if "absent" in value]
        reasons += [why for value in values for why in value.get("unjudged", ())]
        absent = reasons[0] if reasons else "no reply to judge"
        condition = rows[0][0].condition if rows else ""
        return [
            known.get(spec.name)
            or Score(
                name=spec.name,
                condition=condition,
                unit=spec.unit,
                better=spec.better,
                absent=absent,
            )
            for spec in self.specs
        ]
