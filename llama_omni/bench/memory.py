"""(d) Memory: weights, caches per token, and the peak."""

import resource
import sys
from typing import Any

import torch
from torch import nn

from llama_omni.bench.settings import UNITS_PER_TOKEN, BenchSettings
from llama_omni.bench.subject import Subject, spoken_question
from llama_omni.engine.cache import SlotCache
from llama_omni.interfaces import ReplyOptions


def measure_memory(subject: Subject, settings: BenchSettings) -> dict[str, Any]:
    """Count weights and cache bytes, and watch one reply's peak.

    Returns:
        Bytes. `cache_per_token` is the growth of storage for one conversation, divided by the
        tokens it grew by; `speech_full` is the same with every frame kept in every layer, and
        `place_table` is what all conversations share for each token of the longest.
    """
    assistant = subject.assistant
    model, stepper = assistant.model, assistant.stepper
    parts = {
        "encoder": model.encoder,
        "adapter": model.adapter,
        "llm": model.llm,
        "speech_decoder": model.speech_decoder,
        "vocoder": assistant.vocoder,
    }
    decoder = model.speech_decoder.config
    full = SlotCache(
        layers=decoder.num_layers,
        heads=decoder.num_heads,
        head_dim=decoder.hidden_size // decoder.num_heads,
        dtype=model.dtype,
        device=model.device,
        frames=decoder.upsample_factor,
    )
    with torch.inference_mode():
        tables = model.speech_decoder.place_tables(1)
    keys_only = [] if tables is None else [tables[0]]  # values do not grow with the reply
    per_token = {
        "llm": cache_bytes_per_token(stepper.llm_cache),
        "speech": cache_bytes_per_token(stepper.speech_cache),
        "speech_full": cache_bytes_per_token(full),
        "place_table": sum(table.numel() * table.element_size() for table in keys_only),
    }
    return {
        "weights": {name: weight_bytes(part) for name, part in parts.items()},
        "cache_per_token": per_token,
        "peak": _peak(subject, settings),
    }


def weight_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters, tied ones once."""
    return sum(p.numel() * p.element_size() for p in module.parameters())


def cache_bytes_per_token(cache: SlotCache) -> float:
    """Grow one slot and divide what storage grew by. The slot is given back."""
    slot = cache.allocate()
    tokens, size = cache.capacity, cache.num_bytes
    cache.reserve(slots=cache.num_slots, tokens=2 * tokens)
    per_token = (cache.num_bytes - size) / (cache.capacity - tokens) / cache.num_slots
    cache.free(slot)
    return per_token


def _peak(subject: Subject, settings: BenchSettings) -> dict[str, Any]:
    """Make one reply; say what the process, and on CUDA the device, held at most until its end."""
    on_cuda = subject.device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(subject.device)
    before = resident_peak()
    subject.assistant.reply(
        spoken_question(settings.questions_s[-1]),
        ReplyOptions(max_new_tokens=settings.reply_tokens, units_per_token=UNITS_PER_TOKEN),
    )
    return {
        "resident_after_load": before,
        "resident_after_reply": resident_peak(),
        "cuda_allocated_in_reply": (
            torch.cuda.max_memory_allocated(subject.device) if on_cuda else None
        ),
    }


def resident_peak() -> int:
    """Bytes of memory that this process held at most since it began."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
