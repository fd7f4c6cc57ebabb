"""The roofline: what each phase could take at best on this device, beside what it took.

Both rates are measured on the device in the same run: a large copy and a large matrix product, in
the model's dtype.
"""

from dataclasses import asdict, dataclass
from typing import Any, cast

import torch

from llama_omni.bench.costs import Cost, question_costs, step_cost, vocode_cost
from llama_omni.bench.settings import Clock, Spread, seconds_of
from llama_omni.bench.subject import SAMPLE_RATE, Subject
from llama_omni.model.config import OmniConfig
from llama_omni.model.encoder import HOP


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What a device can do."""

    bytes_per_s: float  # a copy, bytes read and bytes written
    flops_per_s: float  # a product of square matrices


def measure_rates(
    device: torch.device, dtype: torch.dtype, *, clock: Clock, repeats: int = 5
) -> Rates:
    """Measure copy bandwidth and matrix rate; the best of several runs of each."""
    on_cuda = device.type == "cuda"
    source = torch.ones((1 << 30) if on_cuda else (1 << 26), dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    side = 8192 if on_cuda else 1024
    left = torch.ones(side, side, dtype=dtype, device=device)
    product = torch.empty_like(left)

    def best(work: Any) -> float:
        work()
        return min(seconds_of(work, device, clock) for _ in range(repeats))

    moved = 2 * source.numel() * source.element_size()
    return Rates(
        bytes_per_s=moved / best(lambda: target.copy_(source)),
        flops_per_s=2 * side**3 / best(lambda: torch.mm(left, left, out=product)),
    )


def roofline(
    subject: Subject,
    rates: Rates,
    first_audio: list[dict[str, Any]],
    per_token: dict[str, Any],
) -> dict[str, Any]:
    """Put floors beside the measured phases of `measure_first_audio` and `measure_per_token`.

    Returns:
        The rates, and one row a phase: FLOPs, bytes, floor, measured median, measured over floor.
    """
    assistant = subject.assistant
    config = cast(OmniConfig, assistant.model.config)
    size = assistant.model.dtype.itemsize
    rows: list[dict[str, Any]] = []

    def compare(phase: str, cost: Cost, measured: Spread) -> None:
        floor = cost.floor_s(**asdict(rates))
        rows.append(
            {
                "phase": phase,
                "flops": cost.flops,
                "bytes": cost.bytes,
                "floor_s": floor,
                "measured_s": measured.median,
                "over_floor": measured.median / floor,
            }
        )

    seen = set()
    for row in first_audio:
        seconds = row["question_s"]
        if seconds not in seen:
            seen.add(seconds)
            costs = question_costs(
                config,
                mel_frames=round(seconds * SAMPLE_RATE) // HOP,
                prompt_positions=row["prompt_positions"],
                size=size,
            )
            for name, cost in costs.items():
                compare(f"{name}, question of {seconds:g} s", cost, row["phases_s"][name])
        if len(seen) == 1:
            omega = "infinity" if row["chunk_size"] is None else row["chunk_size"]
            cost = vocode_cost(
                assistant.vocoder.config,
                units=row["first_units"],
                frames=row["first_frames"],
                size=size,
            )
            compare(f"vocode, Omega {omega}", cost, row["phases_s"]["vocode"])
    for row in per_token["rows"]:
        cost = step_cost(
            config,
            prompt_positions=per_token["prompt_positions"],
            tokens=row["position"],
            size=size,
        )
        compare(f"step at token {row['position']}", cost, row["streaming_s"])
    return {"rates": asdict(rates), "rows": rows}
