"""The data sets that have a name: each is a function that returns its recipe."""

from collections.abc import Callable
from dataclasses import replace

from llama_omni.data.recipe import BuildRecipe, Filters, UnitSettings, Voices
from llama_omni.data.sources import Columns, Source
from llama_omni.errors import ConfigError


def instructs2s_200k() -> BuildRecipe:
    """Return the paper's set: 50K of Alpaca and the first 150K of UltraChat, first turns only.

    Give both with --source alpaca=PATH --source ultrachat=PATH (files, folders or hub ids), and the
    server that writes with --set chat.base_url=... --set chat.model=.... The paper had Llama-3-70B
    write, CosyVoice-300M-SFT ask as a man or a woman at random, and VITS (LJSpeech) answer; here
    two of Debian's voices ask and its clearest one answers, until --set voices.* names others.
    Units are 1000 of HuBERT's 11th layer: --set units.features=hubert:FOLDER#11, or units.folder.
    About 500 records are held out, to watch the training by; the paper does not speak of any.

    Source:
        Section 2.4 of the paper; not yet built in full.
    """
    return BuildRecipe(
        name="instructs2s_200k",
        sources=(
            Source(kind="alpaca", limit=50_000, held_out=0.0025, answers=False),
            Source(kind="ultrachat", limit=150_000, held_out=0.0025, answers=False),
        ),
        rewrite="chat",
        respond="chat",
        voices=Voices(question="flite:rms,flite:slt"),
        units=UnitSettings(num_units=1000, sample_s=36_000.0),
    )


def tiny() -> BuildRecipe:
    """Return the set of the tiny model: our own domain, Debian's voices, offline."""
    return BuildRecipe(
        name="tiny",
        sources=(
            Source(kind="tiny", split="train", limit=36_000),
            Source(kind="tiny", split="words", limit=12_000),  # for the encoder alone
            Source(kind="tiny", split="test_seen", limit=500),
            Source(kind="tiny", split="test_unseen", limit=500),
            Source(kind="tiny", split="outside", limit=100),
        ),
        rewrite="none",
        respond="none",
        voices=Voices(
            question="tiny",
            splits={"test_unseen": "tiny-unseen"},
            speeds=(0.9, 1.15),
            pitches=(0.9, 1.1),
        ),
        units=UnitSettings(num_units=200),
        filters=Filters(duplicates=True, max_question_s=15.0, max_answer_s=20.0),
    )


def custom() -> BuildRecipe:
    """Return what any table of questions and answers needs: --source PATH.

    Its columns are `question` and `answer`, or others by --set sources.0.columns.question=....
    The offline defaults: texts are rewritten by rules, and the source's answers are taken. Every
    split that the names of files tell is read; --set sources.0.hub_split=train reads one of them.
    """
    columns = Columns(question="question", answer="answer")
    source = Source(kind="table", hub_split=None, columns=columns)
    return BuildRecipe(name="custom", sources=(source,))


def released() -> BuildRecipe:
    """Return what a set that others published needs: its sound is kept, its units are made anew.

    --source PATH is a JSON file in one of the layouts of `data/released.py`.
    """
    return BuildRecipe(
        name="released",
        sources=(Source(kind="released", hub_split=None),),
        rewrite="none",
        respond="none",
    )


RECIPES: dict[str, Callable[[], BuildRecipe]] = {
    "instructs2s_200k": instructs2s_200k,
    "tiny": tiny,
    "custom": custom,
    "released": released,
}


def find_recipe(name: str) -> BuildRecipe:
    """Return a recipe by its name.

    Raises:
        ConfigError: There is none of that name; lists those that there are.
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe must be one of {', '.join(RECIPES)}, got {name!r}")
    return RECIPES[name]()


def with_paths(recipe: BuildRecipe, given: list[str]) -> BuildRecipe:
    """Return a recipe whose sources are read from other places.

    Args:
        recipe: Any.
        given: Each `LABEL=PATH` for the source of that label; a bare PATH is for the only source,
            and several of them are as many sources of its kind.

    Raises:
        ConfigError: No source has that label.
    """
    labels = list(dict.fromkeys(source.label for source in recipe.sources))
    paths: dict[str, str] = {}
    bare: list[str] = []
    for text in given:
        label, equals, path = text.partition("=")
        if equals and label in labels:
            paths[label] = path
        else:
            bare.append(text)
    if bare and (len(labels) > 1 or len(recipe.sources) > 1 or paths):
        raise ConfigError(
            f"--source must be LABEL=PATH, with a label of {', '.join(labels)}, got {bare[0]!r}"
        )
    if len(bare) > 1:
        only = next(iter(recipe.sources))
        several = (replace(only, path=path, name=f"{only.label}{i}") for i, path in enumerate(bare))
        return replace(recipe, sources=tuple(several))
    if bare:
        paths[labels[0]] = bare[0]
    changed = (
        replace(source, path=paths.get(source.label, source.path)) for source in recipe.sources
    )
    return replace(recipe, sources=tuple(changed))
