"""A task small enough for a test: a perceptron that learns a line with dropout and noise."""

import json
from pathlib import Path

import torch
from torch import nn

from llama_omni.train.processes import full_state, is_main
from llama_omni.train.settings import TrainSettings
from llama_omni.train.task import StepResult

SETTINGS = {
    "max_steps": 12,
    "batch_size": 4,
    "learning_rate": 1e-2,
    "save_every": 4,
    "eval_every": 6,
    "log_every": 1,
    "bucket": 3,
    "device": "cpu",
    "tensorboard": False,
}


def settings(**changes) -> TrainSettings:
    return TrainSettings(**{**SETTINGS, **changes})


class Rows:
    """40 rows of 1 to 9 numbers."""

    def __init__(self, count: int = 40) -> None:
        generator = torch.Generator().manual_seed(0)
        self.lengths = [1 + i * 7 % 9 for i in range(count)]
        self.rows = [torch.randn(n, 3, generator=generator) for n in self.lengths]
        self.ids = [f"row-{i}" for i in range(count)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int):
        return self.ids[row], self.rows[row]


class Line:
    """Each row holds as many targets as numbers, so counts differ between batches."""

    def __init__(
        self,
        *,
        dropout: float = 0.1,
        noise: float = 0.1,
        poison: str = "",  # id of a row whose loss is no number
        frozen: bool = False,  # the first matrix, beside a bias that learns: FSDP shards both
    ) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 16), nn.Dropout(dropout), nn.Linear(16, 1))
        self.model[0].weight.requires_grad_(not frozen)
        self.noise, self.poison = noise, poison

    def collate(self, items):
        values = torch.cat([row for _, row in items])
        if any(name == self.poison for name, _ in items):
            values = values * float("nan")
        return {"x": values + self.noise * torch.randn_like(values), "ids": [n for n, _ in items]}

    def count(self, batch) -> int:
        return len(batch["x"])

    def loss(self, batch, normaliser):
        errors = (self.model(batch["x"])[:, 0] - batch["x"].sum(dim=1)) ** 2
        return StepResult(loss=errors.sum() / normaliser, numbers={"size": errors.mean().detach()})

    def evaluate(self, step):
        torch.rand(3)  # random numbers of an evaluation must not change the run
        x = torch.ones(4, 3)
        return {"loss": float(((self.model(x)[:, 0] - 3) ** 2).mean())}

    def save(self, folder: Path) -> None:
        weights = full_state(self.model)
        if is_main():
            torch.save(weights, folder / "weights.pt")


def lines(output: Path) -> list[dict]:
    """metrics.jsonl without clock readings."""
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
