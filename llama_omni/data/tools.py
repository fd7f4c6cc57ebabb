"""What a build opens: voices, writers, units, recognisers. Tests put others in their place."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llama_omni.data.recipe import BuildRecipe, UnitSettings
from llama_omni.errors import ConfigError
from llama_omni.interfaces import Audio, Recognizer, Synthesizer


def open_synthesizer(spec: str) -> Synthesizer:
    """Open a voice program, model or server by its name."""
    from llama_omni.backends.tts import open_synthesizer as opened

    return opened(spec)


def open_recognizer(spec: str) -> Recognizer:
    """Open a recogniser by its name."""
    from llama_omni.backends.asr import open_recognizer as opened

    return opened(spec)


def load_units(folder: str, device: str) -> Any:
    """Load fitted units."""
    from llama_omni.data.units import UnitExtractor

    return UnitExtractor.load(folder, device=_device(device))


def fit_units(
    answers: Iterable[Audio], settings: UnitSettings, seed: int
) -> tuple[Any, dict[str, Any]]:
    """Fit units on the first answers; return them and what the fit saw, without its time."""
    from llama_omni.data.units import fit_units as fit

    extractor, report = fit(
        answers,
        open_features(settings),
        num_units=settings.num_units,
        sample_s=settings.sample_s,
        seed=seed,
        device=_device(settings.device),
    )
    return extractor, {name: value for name, value in asdict(report).items() if name != "seconds"}


def open_features(settings: UnitSettings) -> Any:
    """Open the features that units are fitted on, on their device."""
    from llama_omni.model.features import features_from

    device = _device(settings.device)
    kind, _, source = settings.features.partition(":")
    if kind == "mfcc" and not source:
        return features_from({"kind": "mfcc"}, device=device)
    folder, _, layer = source.rpartition("#")
    if kind == "hubert" and folder and layer.isdecimal():
        from llama_omni.model.features_hubert import HubertFeatures

        return HubertFeatures.from_pretrained(
            folder, layer=int(layer), normalise=settings.normalise, device=device
        )
    if kind == "encoder" and source:
        from llama_omni.model.features_encoder import EncoderFeatures

        return EncoderFeatures.from_pretrained(source, device=device)
    raise ConfigError(
        "units.features must be mfcc, hubert:FOLDER#LAYER or encoder:FOLDER, got "
        f"{settings.features!r}"
    )


def _device(name: str) -> Any:
    from llama_omni.model.device import find_device

    return find_device(name, field="units.device")


def token_counter(folder: str) -> Callable[[str], int]:
    """Return what counts the tokens of a text, without a begin-of-text token."""
    from llama_omni.model.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(Path(folder))

    def count(text: str) -> int:
        ids = tokenizer.encode(text)
        return len(ids) - (ids[:1] == [tokenizer.bos_token_id])

    return count


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, so that the same sums come out on any machine and in any process."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def open_rewriter(recipe: BuildRecipe, output: Path) -> Any:
    """Return what writes questions and answers as they are spoken, or None."""
    from llama_omni.data.writers import open_rewriter as opened

    return opened(recipe, output)


def open_responder(recipe: BuildRecipe, output: Path) -> Any:
    """Return what answers questions, or None."""
    from llama_omni.data.writers import open_responder as opened

    return opened(recipe, output)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tools:
    """Functions that open what the stages use; each must be importable by its name."""

    open_synthesizer: Callable[[str], Synthesizer] = open_synthesizer
    open_recognizer: Callable[[str], Recognizer] = open_recognizer
    open_rewriter: Callable[[BuildRecipe, Path], Any] = open_rewriter
    open_responder: Callable[[BuildRecipe, Path], Any] = open_responder
    load_units: Callable[[str, str], Any] = load_units
    open_features: Callable[[UnitSettings], Any] = open_features
    fit_units: Callable[[Iterable[Audio], UnitSettings, int], Any] = fit_units
    token_counter: Callable[[str], Callable[[str], int]] = token_counter
    one_thread: Callable[[], Any] = one_thread


def check_tools(recipe: BuildRecipe, tools: Tools) -> None:
    """Open what only later stages use: a wrong name is found before hours of synthesis.

    Raises:
        ConfigError: There is no such recogniser, tokeniser, kind of features or device.
        CheckpointError: A model or a folder of units cannot be loaded.
        MissingExtraError: One needs a package that is not installed.
    """
    units, filters = recipe.units, recipe.filters
    if units.enabled and units.folder is not None:
        tools.load_units(units.folder, units.device)
    elif units.enabled:
        tools.open_features(units)
    if filters.tokenizer is not None:
        tools.token_counter(filters.tokenizer)
    if filters.recognizer is not None:
        tools.open_recognizer(filters.recognizer)
