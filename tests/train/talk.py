"""A model and spoken examples small enough to overfit in a test."""

from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig

from llama_omni.data.dataset import Example, HistoryTurn
from llama_omni.model.config import AdapterConfig
from llama_omni.model.omni import OmniModel
from llama_omni.model.tokenizer import TextTokenizer, random_tokenizer
from llama_omni.train.collate import Collator
from llama_omni.train.product import Product
from llama_omni.train.stage import HeldOut
from llama_omni.train.stage_one import StageOne
from llama_omni.train.stage_settings import StageOneSettings, StageTwoSettings
from llama_omni.train.stage_two import StageTwo
from tests.small import SMALL, small_model

RUN = {
    "max_steps": 20,
    "batch_size": 8,
    "save_every": 100,
    "eval_every": 0,
    "log_every": 1,
    "device": "cpu",
    "tensorboard": False,
    "warmup_ratio": 0.1,
}
UNITS = 7


def talking_model(**config) -> tuple[OmniModel, TextTokenizer]:
    llm = LlamaConfig(
        **{
            **SMALL,
            "vocab_size": 300,
            "bos_token_id": 290,
            "eos_token_id": [299],
            "pad_token_id": 294,
        }
    )
    config = {"prompt": "compact", "max_positions": 128, **config}
    config = small_model(llm, **config).config
    config.adapter = AdapterConfig(hidden_dim=64)
    config.encoder.d_model = config.encoder.encoder_ffn_dim = 16
    torch.manual_seed(0)
    model = OmniModel(config).eval()
    for parameter in model.parameters():  # far apart, so that a random encoder tells tones apart
        parameter.data += 0.1 * torch.randn_like(parameter)
    tokenizer = random_tokenizer(model.config)
    eot = tokenizer.encode("<|eot_id|>")[-1]
    model.config.llm.eos_token_id = [eot]
    return model, tokenizer


class Examples(list):
    """Rows with ids, as `SpeechDataset` has them."""

    @property
    def ids(self) -> list[str]:
        return [row.id for row in self]

    @property
    def lengths(self) -> list[int]:
        return [len(row.audio) for row in self]


def example(number: int, *, answer: str | None = None, units=None, **fields) -> Example:
    """Three tones whose pitches tell which answer is right."""
    rng = np.random.default_rng(number)
    samples = 4800 + 160 * (number % 5)
    notes = np.repeat(200 * 1.9 ** rng.integers(0, 5, 3), 1 + samples // 3)[:samples]
    tone = 0.4 * np.sin(2 * np.pi * np.cumsum(notes) / 16000)
    if units is None:
        units = [int(rng.integers(UNITS))]
        while len(units) < 8:
            units.append(int((units[-1] + rng.integers(1, UNITS)) % UNITS))
    values = {
        "id": f"sample-{number}",
        "intent": None,
        "voice": "tone",
        "question": f"q{number}",
        "audio": tone.astype(np.float32),
        "answer": "abcdefgh"[number % 8] + "xyz"[number % 3] if answer is None else answer,
        "answer_audio": None,
        "units": np.array(units, np.int64),
        "durations": None,
        "history": (),
    }
    return Example(**{**values, **fields})


def examples(count: int = 16) -> Examples:
    return Examples(example(number) for number in range(count))


def turn(number: int, *, spoken: bool = True) -> HistoryTurn:
    sound = example(number).audio if spoken else None
    return HistoryTurn(question=f"earlier {number}", answer=f"was {number}", audio=sound)


def stage_one(model, tokenizer, *, rows=(), samples: Path | None = None, **changes) -> StageOne:
    settings = StageOneSettings(**{**RUN, "learning_rate": 1e-2, **changes})
    return StageOne(
        model,
        Collator(config=model.config, tokenizer=tokenizer, history=settings.history),
        settings,
        held_out=HeldOut(splits={"seen": rows} if rows else {}, samples=samples),
        product=Product(tokenizer=tokenizer),
    )


def stage_two(
    model, tokenizer, *, rows=(), samples: Path | None = None, vocoder=None, **changes
) -> StageTwo:
    settings = StageTwoSettings(**{**RUN, "learning_rate": 1e-2, **changes})
    collator = Collator(
        config=model.config, tokenizer=tokenizer, units=True, too_long=settings.too_long
    )
    return StageTwo(
        model,
        collator,
        settings,
        held_out=HeldOut(splits={"seen": rows} if rows else {}, samples=samples, vocoder=vocoder),
        product=Product(tokenizer=tokenizer),
    )


def loss_of(task, rows, *, normaliser: float | None = None) -> torch.Tensor:
    batch = task.collate(list(rows))
    count = torch.tensor(float(task.count(batch)) if normaliser is None else normaliser)
    return task.loss(batch, count).loss
