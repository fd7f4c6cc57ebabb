"""What is measured: an assistant with random weights, and questions to ask it."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from llama_omni.assistant import LlamaOmniAssistant
from llama_omni.bench.machine import available_memory
from llama_omni.bench.settings import Clock, seconds_of
from llama_omni.interfaces import Audio, Turn
from llama_omni.loading import load
from llama_omni.model.encoder import feature_lengths
from llama_omni.prompt import encode_prompt

SAMPLE_RATE = 16_000  # Hz
# Random weights come with a tokenizer that spells letter by letter. With these words for a system
# prompt it makes about as many tokens as Llama 3's makes of the released prompt.
SYSTEM = "Hi."


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subject:
    """An assistant under measurement."""

    assistant: LlamaOmniAssistant
    clock: Clock

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.assistant.model.device


def random_subject(
    preset: str, *, device: str, dtype: str, clock: Clock, threads: int | None = None
) -> Subject:
    """Build a preset with random weights whose replies never stop by themselves.

    Random weights may choose a stop token at any step, and a reply would then end where chance
    wills. So the model is told of no stop tokens; `max_new_tokens` alone ends a reply.

    Raises:
        ConfigError: an unknown preset, device or dtype.
    """
    assistant = load(
        preset=preset,
        random_weights=True,
        device=device,
        dtype=dtype,
        system=SYSTEM,
        threads=threads,
    )
    assistant.model.config.llm.eos_token_id = None
    assistant.clock = clock
    return Subject(assistant=assistant, clock=clock)


def prompt_positions(subject: Subject, question: Audio) -> int:
    """Count the LLM positions that a spoken question takes, words around it included."""
    assistant = subject.assistant
    turns = [Turn(role="system", text=SYSTEM), Turn(role="user", audio=question)]
    prompt = encode_prompt(
        turns,
        assistant.tokenizer.encode,
        assistant.template,
        bos_token_id=assistant.tokenizer.bos_token_id,
    )
    waveform = torch.from_numpy(question).to(subject.device)[None]
    _, mel_lengths = assistant.model.mel(waveform)
    speech = int(feature_lengths(mel_lengths)[0]) // assistant.model.config.adapter.stack
    return len(prompt) - 1 + speech  # the speech takes the place of one marker


def loading_s(subject: Subject, repeats: int) -> list[float]:
    """Time `llama_omni.load` of the subject's own weights from a folder just written.

    It ends with a short reply that warms up. The files are still in the system's page cache, so
    this is reading without a disk. Empty where disk or memory has no room for a second copy.
    """
    if not repeats or not _second_copy_fits(subject):
        return []
    with _no_progress_bars(), _saved(subject) as folder:
        device = str(subject.device)
        dtype = str(subject.assistant.model.dtype).removeprefix("torch.")
        threads = torch.get_num_threads()

        def read() -> None:
            load(folder, device=device, dtype=dtype, threads=threads)

        return [seconds_of(read, subject.device, subject.clock) for _ in range(repeats)]


def _second_copy_fits(subject: Subject) -> bool:
    assistant = subject.assistant
    parameters = (*assistant.model.parameters(), *assistant.vocoder.parameters())
    needed = 1.2 * sum(p.numel() * p.element_size() for p in parameters)
    disk = shutil.disk_usage(tempfile.gettempdir()).free
    return needed < min(disk, available_memory(subject.device))


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@contextmanager
def _saved(subject: Subject) -> Iterator[Path]:
    assistant = subject.assistant
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        assistant.model.save_pretrained(folder)
        assistant.tokenizer.inner.save_pretrained(folder)
        assistant.vocoder.save_pretrained(folder / "vocoder")
        yield folder


def spoken_question(seconds: float) -> Audio:
    """Make a speech-like sound: a gliding voice in syllables, with breath. No words.

    The model's cost hangs on the length alone.
    """
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch_hz = 120 + 20 * np.sin(2 * np.pi * 0.4 * time)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 20))
    syllables = 0.5 - 0.5 * np.cos(2 * np.pi * 4.0 * time)  # four a second
    breath = np.random.default_rng(0).normal(size=len(time))
    return (0.1 * syllables * (voice + 0.1 * breath)).astype(np.float32)
