"""(a) Time to first audio, phase by phase.

The phases add up to the time to first audio exactly: what is left between the phases that the
engine times itself is given to "first token" (choosing and speaking it, and the host's work before
it: the prompt's tokens, bookkeeping) and to "steps" (everything from the first token to the
vocoder's first sound).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from llama_omni.bench.settings import UNITS_PER_TOKEN, BenchSettings, Spread
from llama_omni.bench.subject import SAMPLE_RATE, Subject, prompt_positions, spoken_question
from llama_omni.interfaces import Audio, AudioDelta, Reply, ReplyDone, ReplyOptions, Timings

PHASES = ("mel", "encode", "adapt", "prefill", "first_token", "steps", "vocode")


def measure_first_audio(
    subject: Subject, settings: BenchSettings, question: Audio | None = None
) -> list[dict[str, Any]]:
    """Measure each question with each chunk size, in rounds side by side.

    Args:
        subject: what is measured.
        settings: lengths, chunk sizes, rounds.
        question: one question at 16 kHz in place of the made-up ones.

    Returns:
        One row for each question and chunk size: seconds of each phase and in total.
    """
    made_up = [spoken_question(seconds) for seconds in settings.questions_s]
    questions = made_up if question is None else [question]
    options = ReplyOptions(
        max_new_tokens=settings.reply_tokens, units_per_token=UNITS_PER_TOKEN, seed=0
    )
    rows = []
    for sound in questions:
        # One round that is not kept: it pays for allocations, libraries and captured graphs.
        runs: dict[int | None, list[Reply]] = {size: [] for size in settings.chunk_sizes}
        for round_index in range(settings.repeats + 1):
            for size in settings.chunk_sizes:
                reply = _until_first_audio(subject, sound, replace(options, chunk_size=size))
                if round_index:
                    runs[size].append(reply)
        rows += [_row(subject, sound, size, replies) for size, replies in runs.items()]
    return rows


def _until_first_audio(subject: Subject, question: Audio, options: ReplyOptions) -> Reply:
    conversation = subject.assistant.conversation()
    try:
        for event in conversation.stream(question, options):
            if isinstance(event, AudioDelta):
                conversation.cancel()
            if isinstance(event, ReplyDone):
                return event.reply
    finally:
        conversation.close()
    raise AssertionError("a reply ends in ReplyDone")


def _row(
    subject: Subject, question: Audio, size: int | None, replies: Sequence[Reply]
) -> dict[str, Any]:
    parts = [phase_seconds(reply.timings) for reply in replies]
    first_units = list(replies[0].units)[:size]
    vocoder = subject.assistant.vocoder
    with torch.inference_mode():
        durations = vocoder.durations(torch.tensor([first_units], device=vocoder.device))
    return {
        "question_s": len(question) / SAMPLE_RATE,
        "prompt_positions": prompt_positions(subject, question),
        "chunk_size": size,
        "tokens": len(replies[0].token_ids),
        "first_units": len(first_units),
        "first_frames": int(durations.sum()),
        "phases_s": {name: Spread.of([part[name] for part in parts]) for name in PHASES},
        "first_audio_s": Spread.of([sum(part.values()) for part in parts]),
    }


def phase_seconds(timings: Timings) -> dict[str, float]:
    """Split the time to first audio into phases that add up to it."""
    assert timings.first_audio_s is not None, "a benchmark's reply holds sound"
    assert timings.first_token_s is not None
    assert timings.first_vocode_s is not None
    before = {
        "mel": timings.mel_s,
        "encode": timings.encode_s,
        "adapt": timings.adapt_s,
        "prefill": timings.prefill_s,
    }
    return before | {
        "first_token": timings.first_token_s - sum(before.values()),
        "steps": timings.first_audio_s - timings.first_vocode_s - timings.first_token_s,
        "vocode": timings.first_vocode_s,
    }
