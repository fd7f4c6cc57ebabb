"""The embedded model, asked aloud and interrupted aloud, with the real voice detector."""

import asyncio
import importlib.util
from pathlib import Path

import numpy as np
import pytest

import llama_omni
from llama_omni import audio
from llama_omni.serve.vad import SileroVad
from llama_omni.threads import ThreadedAssistant
from tests.terminal.terminal_tools import RATE, FakeMicrophone, FakeSpeakers, talking

QUESTION = Path(__file__).parents[2] / "examples" / "question.wav"
ANSWER = "The capital of France is Paris."

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnxruntime", "silero_vad")),
    reason="the serve extra is not installed",
)


def test_question_aloud_is_answered_aloud_and_a_voice_interrupts():
    question = np.pad(audio.load(QUESTION, sample_rate=RATE), (RATE // 2, RATE))
    engine = ThreadedAssistant(llama_omni.load())

    async def talk():
        microphone, speakers = FakeMicrophone(piece_ms=20), FakeSpeakers(limit=RATE // 2)
        how = {"microphone": microphone, "speakers": speakers, "make_vad": SileroVad}
        async with talking(engine, **how) as running:
            microphone.hear(question)
            await running.until(lambda: speakers._num_sounding >= RATE // 2)
            await running.until(lambda: running.answers == [ANSWER])
            microphone.hear(question)
            await running.until(lambda: "(stopped after 0.50 s of sound)" in running.remarks)
            await running.until(lambda: any("(heard" in remark for remark in running.remarks))
            speakers.limit = None
            await running.until(lambda: running.remarks[-1].startswith("(first sound after "))
        heard = next(remark for remark in running.remarks if remark.startswith("(heard"))
        words = heard.removeprefix("(heard: ").removesuffix(")")
        assert ANSWER.startswith(words)
        assert len(words) < len(ANSWER)
        assert len(running.answers) == 2
        assert 0.05 < np.abs(speakers.played).max() <= 1.0

    asyncio.run(talk())
