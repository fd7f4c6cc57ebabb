"""UTMOS and DNSMOS: how good the replies sound to a model that was trained on listeners' votes.

A score over replies is the mean over replies, as in the papers, however long each is.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llama_omni import audio
from llama_omni.errors import ConfigError
from llama_omni.evaluate.quality_model import QualityModel
from llama_omni.evaluate.records import EvalItem, ReplyRow
from llama_omni.evaluate.scoring import Parts, PartsMeasure, Spec

UNIT = "1 to 5"
UTMOS_HINT = (
    "no weights of UTMOS were named: give --utmos FILE, the file utmos22_strong_step7459_v1.pt of "
    "https://github.com/tarepan/SpeechMOS/releases/tag/v1.0.0 (MIT licence)"
)
DNSMOS_HINT = "DNSMOS was not asked for: pip install 'llama-omni[quality]', which brings its models"


class QualityMeasure(PartsMeasure):
    """The scores of one model over the replies' sounds.

    Args:
        name: the measure's, which all of its scores' names begin with.
        outputs: the model's scores, by their names; "" is the measure's name alone.
        make: makes the model, when it is first looked at; None: none was named.
        hint: how one is named.
    """

    def __init__(
        self,
        name: str,
        outputs: Mapping[str, str],
        make: Callable[[], QualityModel] | None,
        hint: str,
    ) -> None:
        self.name = name
        self.specs = [
            Spec(name=f"{name}_{suffix}" if suffix else name, unit=UNIT, better="higher")
            for suffix in outputs.values()
        ]
        self._outputs, self._make, self._hint = dict(outputs), make, hint
        self._made: QualityModel | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """The model, by its name."""
        return {"model": None if self.missing is not None else self._model().name}

    @property
    def missing(self) -> str | None:
        """Which weights or package are not there."""
        return self._hint if self._make is None else self._model().missing

    def applies(self, row: ReplyRow) -> bool:
        """Whether a reply can be heard."""
        return row.error is None and row.audio is not None

    def value(self, row: ReplyRow, item: EvalItem, folder: Path) -> dict[str, Any]:  # noqa: ARG002
        """Score the sound of one reply."""
        assert row.audio is not None, "a reply without sound is not asked"
        samples = audio.load(folder / row.audio, max_s=float("inf"))
        scores = self._model().score(samples)
        return {name: float(scores[name]) for name in self._outputs}

    def parts(self, row: ReplyRow, item: EvalItem, value: Mapping[str, Any]) -> Parts:  # noqa: ARG002
        """Return each score, to be divided by one reply."""
        names = [spec.name for spec in self.specs]
        pairs = zip(names, self._outputs, strict=True)
        return {name: (float(value[output]), 1.0) for name, output in pairs}

    def _model(self) -> QualityModel:
        if self._made is None:
            if self._make is None:
                raise ConfigError(self._hint)
            self._made = self._make()
        return self._made


def utmos_measure(make: Callable[[], QualityModel] | None) -> QualityMeasure:
    """Return the measure "utmos": naturalness, as in the paper's tables."""
    return QualityMeasure("utmos", {"utmos": ""}, make, UTMOS_HINT)


def dnsmos_measure(make: Callable[[], QualityModel] | None) -> QualityMeasure:
    """Return the measure "dnsmos": P.835's signal, background and overall quality, and P.808's."""
    outputs = {"ovrl": "ovrl", "sig": "sig", "bak": "bak", "p808": "p808"}
    return QualityMeasure("dnsmos", outputs, make, DNSMOS_HINT)
