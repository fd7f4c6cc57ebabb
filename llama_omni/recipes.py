"""One function for each published run: a complete, typed configuration.

`llama-omni train NAME --set stage1.learning_rate=1e-4` changes a field of one, see `overrides`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from llama_omni.errors import ConfigError
from llama_omni.train.stage_settings import StageOneSettings, StageTwoSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRecipe:
    """How a model is trained, both stages."""

    name: str
    preset: str  # sizes of what is fresh: adapter and speech decoder; see `model.presets`
    held_out: tuple[str, ...] = ()  # splits to judge by; none: all of the data set but "train"
    seed: int = 0  # of the fresh weights
    stage1: StageOneSettings = field(default_factory=StageOneSettings)
    stage2: StageTwoSettings = field(default_factory=StageTwoSettings)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, got {self.seed}")


def tiny() -> TrainRecipe:
    """Train the embedded model's stages on CPU cores, after its encoder and LLM.

    Command: `torchrun --nproc-per-node 4 -m llama_omni.cli train tiny --data DATA --llm LLM
    --encoder ENCODER -o FOLDER --set stage1.batch_size=8 --set stage2.batch_size=8`. Hardware: 4
    CPU cores. Hours, measured with the cores shared: 0.7 for stage 1, 0.6 for stage 2.
    """
    return TrainRecipe(
        name="tiny",
        preset="tiny",
        stage1=StageOneSettings(
            batch_size=32,
            learning_rate=3e-4,
            min_lr_ratio=0.05,
            text_share=0.25,
            augment=True,
            metric="exact",
            max_new_tokens=48,
        ),
        stage2=StageTwoSettings(
            batch_size=32,
            max_steps=2400,
            learning_rate=1e-3,
            min_lr_ratio=0.05,
            metric="unit_error",
        ),
    )


def one_b() -> TrainRecipe:
    """Train Whisper-small + Llama-3.2-1B + a 2 x 2048 speech decoder.

    Command: `llama-omni train 1b --data DATA --llm meta-llama/Llama-3.2-1B-Instruct --encoder
    WHISPER_SMALL -o FOLDER`. Hardware: one GPU with 24 GB or more. Hours: not yet measured.
    """
    return TrainRecipe(
        name="1b",
        preset="1b",
        stage1=StageOneSettings(
            batch_size=8, accumulation=4, learning_rate=2e-5, precision="bf16", workers=4,
            gradient_checkpointing=True,
        ),
        stage2=StageTwoSettings(batch_size=32, learning_rate=2e-4, precision="bf16", workers=4),
    )  # fmt: skip


def eight_b() -> TrainRecipe:
    """Train the paper's model: Whisper-large-v3 + Llama-3.1-8B-Instruct, on InstructS2S-200K.

    Command: `torchrun --nproc-per-node 4 --no-python llama-omni train 8b --data DATA --llm
    meta-llama/Llama-3.1-8B-Instruct --encoder large-v3.pt -o FOLDER`. The paper's numbers: batch
    32, 3 epochs, peak learning rates 2e-5 and 2e-4, 3 % warm-up, cosine. Hardware and hours as
    published: about 65 hours in all on 4 L40; not measured here. The batch of 32 is 2 rows x 4
    accumulation x 4 processes; change the three together.
    """
    return TrainRecipe(
        name="8b",
        preset="8b",
        stage1=StageOneSettings(
            batch_size=2, accumulation=4, epochs=3.0, learning_rate=2e-5, warmup_ratio=0.03,
            precision="bf16", gradient_checkpointing=True, sharding="fsdp", workers=4,
        ),
        stage2=StageTwoSettings(
            batch_size=2, accumulation=4, epochs=3.0, learning_rate=2e-4, warmup_ratio=0.03,
            precision="bf16", sharding="fsdp", workers=4,
        ),
    )  # fmt: skip


RECIPES: dict[str, Callable[[], TrainRecipe]] = {"tiny": tiny, "1b": one_b, "8b": eight_b}


def find_recipe(name: str) -> TrainRecipe:
    """Return a recipe by its name.

    Raises:
        ConfigError: there is none; lists those there are.
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe must be one of {', '.join(RECIPES)}, got {name!r}")
    return RECIPES[name]()
