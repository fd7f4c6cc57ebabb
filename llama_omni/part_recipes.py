"""How the parts of a model are trained from nothing: one function for each published run.

`llama-omni train encoder --set training.max_steps=4000` changes a field of one, see `overrides`.
The sizes are those of a preset of `model.presets`.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace

from llama_omni.data.sources import Columns, Source
from llama_omni.errors import ConfigError
from llama_omni.train.encoder import EncoderSettings
from llama_omni.train.lm import LMSettings
from llama_omni.train.settings import TrainSettings
from llama_omni.train.vocoder_settings import VocoderSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRecipe:
    """Written questions and answers: what a tokeniser and a language model learn from."""

    sources: tuple[Source, ...]
    columns: Columns = field(  # of a table in their place
        default_factory=lambda: Columns(question="question", answer="answer")
    )
    seed: int = 1  # of sources that draw their records; another than that of the spoken set

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"texts.seed must be at least 0, got {self.seed}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerRecipe:
    """How a tokeniser is made."""

    texts: TextRecipe
    num_tokens: int = 1000  # ordinary ones; the special tokens come after them
    vocab_size: int = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class LMRecipe:
    """How a language model is trained."""

    texts: TextRecipe
    preset: str = "tiny"  # whose language model
    held_out: tuple[Source, ...] = ()  # questions to judge by
    lm: LMSettings = field(default_factory=LMSettings)
    training: TrainSettings = field(default_factory=TrainSettings)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderRecipe:
    """How an encoder is trained."""

    preset: str = "tiny"  # whose encoder
    splits: tuple[str, ...] = ("train",)  # that are learnt
    held_out: tuple[str, ...] = ("test_seen", "test_unseen")  # splits to judge by; see `splits_in`
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    training: TrainSettings = field(default_factory=TrainSettings)


def splits_in(recipe: EncoderRecipe, found: Collection[str]) -> EncoderRecipe:
    """Return a recipe with those of its splits that a data set has, where nobody chose them.

    Args:
        recipe: Splits that are not those of `tiny_encoder` were chosen: they stay.
        found: The data set's splits. Those that are not learnt are held out where it has neither
            of the recipe's own; where all are learnt, nothing is held out.
    """
    usual = tiny_encoder()
    splits, held_out = recipe.splits, recipe.held_out
    if splits == usual.splits:
        splits = tuple(name for name in splits if name in found) or splits[:1]
    if held_out == usual.held_out:
        others = tuple(name for name in found if name not in (*splits, *usual.splits))
        held_out = tuple(name for name in held_out if name in found) or others
    return replace(recipe, splits=splits, held_out=held_out)


@dataclass(frozen=True, kw_only=True, slots=True)
class VocoderRecipe:
    """How a vocoder is trained."""

    preset: str = "tiny"  # whose vocoder
    training: VocoderSettings = field(default_factory=VocoderSettings)


def tiny_tokenizer() -> TokenizerRecipe:
    """Return the tiny model's tokeniser: 1,000 tokens of its own world. Takes seconds."""
    return TokenizerRecipe(texts=TextRecipe(sources=(Source(kind="tiny", limit=60_000),)))


def tiny_lm() -> LMRecipe:
    """Return the tiny model's language model: 3.4 M parameters, 160,000 of 256,000 questions.

    Command: `llama-omni train lm --tokenizer TOKENIZER -o FOLDER`. Hardware: one CPU core.
    """
    return LMRecipe(
        texts=TextRecipe(sources=(Source(kind="tiny", limit=256_000),), seed=7),
        held_out=(
            Source(kind="tiny", split="test_seen", limit=500),
            Source(kind="tiny", split="outside", limit=100),
        ),
        training=TrainSettings(
            max_steps=2500,
            batch_size=64,
            learning_rate=2e-3,
            min_lr_ratio=0.02,
            weight_decay=0.01,
            optimizer="muon",
            beta2=0.98,
            save_every=250,
            eval_every=500,
            metric="accuracy",
        ),
    )


def tiny_encoder() -> EncoderRecipe:
    """Return the tiny model's speech encoder: 1.6 M parameters, Whisper's layout.

    Command: `llama-omni train encoder --data DATA --tokenizer TOKENIZER -o FOLDER`, or by
    `torchrun --nproc-per-node 2 -m llama_omni.cli train encoder ...`. Hardware: CPU cores.
    """
    return EncoderRecipe(
        splits=("train", "words"),
        training=TrainSettings(
            max_steps=7000,
            batch_size=12,
            learning_rate=1.5e-3,
            min_lr_ratio=0.02,
            weight_decay=0.01,
            beta2=0.98,
            save_every=250,
            eval_every=1000,
            metric="wer",
        ),
    )


def tiny_vocoder() -> VocoderRecipe:
    """Return the tiny model's vocoder: ConvNeXt blocks and an inverse STFT, 2.9 M parameters.

    Command: `llama-omni train vocoder --data DATA -o FOLDER`. Hardware: one CPU core. A first trial
    of 2,500 steps: docs/vocoder.md.
    """
    return VocoderRecipe()
