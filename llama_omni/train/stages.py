"""Run a stage: from a model folder and a data set's folder to a trained model's folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llama_omni.data.dataset import SpeechDataset
from llama_omni.data.shards import read_shards
from llama_omni.model.omni import OmniModel
from llama_omni.model.tokenizer import TextTokenizer
from llama_omni.model.vocoder import UnitVocoder
from llama_omni.train.collate import Collator
from llama_omni.train.product import Product
from llama_omni.train.replay import Joined, WrittenQuestions
from llama_omni.train.row_cache import splits_hash, tokens_hash
from llama_omni.train.runner import TrainResult, train
from llama_omni.train.stage import HeldOut
from llama_omni.train.stage_one import StageOne
from llama_omni.train.stage_settings import StageOneSettings, StageSettings, StageTwoSettings
from llama_omni.train.stage_two import StageTwo
from llama_omni.train.state_cache import cached_features, cached_states


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What a stage begins with."""

    model: OmniModel
    tokenizer: TextTokenizer
    vocoder: UnitVocoder | None = None  # speaks the samples
    base: Path | None = None  # folder whose vocoder and centres the product takes over
    vocoder_folder: Path | None = None  # taken over instead
    recipe: Mapping[str, Any] = field(default_factory=dict)  # is saved with the product


def held_out_splits(data: Path) -> tuple[str, ...]:
    """Return the splits of a data set that nothing is trained on; "words" is an encoder's."""
    splits = dict.fromkeys(shard.split for shard in read_shards(data))
    return tuple(split for split in splits if split not in ("train", "words"))


def train_stage_one(
    start: Start,
    data: Path,
    settings: StageOneSettings,
    output: Path,
    *,
    held_out: Sequence[str] = (),
    resume: bool = True,
) -> TrainResult:
    """Teach the adapter and the LLM to answer speech in writing.

    Args:
        start: see `Start`; its model is trained in place.
        data: folder of a data set; split "train" is learnt.
        settings: see there.
        output: see `runner.train`; output/best and output/final are model folders,
            output/samples replies to held-out questions.
        held_out: splits to judge by; those that the data set does not have raise InputError.
        resume: see `runner.train`.
    """
    history = ("history",) if settings.history else ()
    columns = ("question_audio", *history)
    rows: Any = SpeechDataset(data, "train", columns=columns)
    judged = _held_out(start, data, held_out, rows.columns, output)
    lengths = rows.lengths["question_s"]
    more: list[Any] = [
        SpeechDataset(data, name, columns=columns) for name in settings.transcribe_splits
    ]
    collator = _collator(
        start, settings, transcribed=frozenset(name for part in more for name in part.ids)
    )
    seconds = [lengths, *(part.lengths["question_s"] for part in more)]
    fixed = _fixed(start, data, ("train", *settings.transcribe_splits), held_out)
    if settings.text_source:
        limit, seed = settings.text_rows or None, settings.seed + 1
        more.append(WrittenQuestions(settings.text_source, limit=limit, seed=seed))
        seconds.append(more[-1].seconds)
        fixed["written_hash"] = more[-1].digest
    if more:
        rows = Joined([rows, *more], seconds)
        lengths = rows.seconds
    if settings.feature_cache:
        folder = Path(settings.feature_cache)
        features = cached_features(start.model, collator, rows, folder, device=settings.device)
        collator = replace(collator, features=features)
        rows = SpeechDataset(data, "train", columns=history)
    task = StageOne(start.model, collator, settings, held_out=judged, product=_product(start))
    return train(task, rows, lengths, settings, output, resume=resume, fixed=fixed)


def train_stage_two(
    start: Start,
    data: Path,
    settings: StageTwoSettings,
    output: Path,
    *,
    held_out: Sequence[str] = (),
    resume: bool = True,
) -> TrainResult:
    """Teach the speech decoder to say the answers' units; arguments as in `train_stage_one`."""
    history = ("history",) if settings.history else ()
    rows: Any = SpeechDataset(data, "train", columns=("question_audio", "units", *history))
    collator = _collator(start, settings, units=True, too_long=settings.too_long)
    judged = _held_out(start, data, held_out, rows.columns, output)
    task = StageTwo(start.model, collator, settings, held_out=judged, product=_product(start))
    lengths = rows.lengths["num_units"]
    if settings.state_cache:
        rows = cached_states(
            start.model,
            collator,
            rows,
            Path(settings.state_cache),
            units=SpeechDataset(data, "train", columns=("units",)),
            ctc_states=settings.ctc_states,
            dtype=settings.cache_dtype,
            device=settings.device,
        )
    fixed = _fixed(start, data, ("train",), held_out)
    return train(task, rows, lengths, settings, output, resume=resume, fixed=fixed)


def _fixed(
    start: Start, data: Path, learnt: Sequence[str], held_out: Sequence[str]
) -> dict[str, Any]:
    """Return what makes a run this one beside its settings; the weights are compared apart."""
    return {
        "tokenizer_hash": tokens_hash(start.tokenizer),
        "held_out": held_out,
        "data_hash": splits_hash(data, (*learnt, *held_out)),
    }


def _collator(start: Start, settings: StageSettings, **changes: Any) -> Collator:
    return Collator(
        config=start.model.config,
        tokenizer=start.tokenizer,
        history=settings.history,
        skip_cut=settings.skip_cut,
        **changes,
    )


def _held_out(
    start: Start, data: Path, splits: Sequence[str], columns: Sequence[str], output: Path
) -> HeldOut:
    sets = {name: SpeechDataset(data, name, columns=columns) for name in splits}
    return HeldOut(
        splits=sets,
        samples=output / "samples",
        vocoder=start.vocoder,
        metrics=output / "metrics.jsonl",
    )


def _product(start: Start) -> Product:
    return Product(
        tokenizer=start.tokenizer,
        recipe=start.recipe,
        base=start.base,
        vocoder=start.vocoder_folder,
    )
