"""The Realtime API's client of evaluation, against our own server."""

import asyncio

import numpy as np
import pytest
from fake_engine import PIECE, FakeEngine
from serve_tools import run, serving

from llama_omni.backends.realtime_assistant import RealtimeAssistant
from llama_omni.backends.realtime_options import RealtimeOptions
from llama_omni.errors import EngineError
from llama_omni.serve.serve_settings import ServeSettings

QUESTION = np.full(16_000, 0.1, np.float32)


def assistant_of(running, **options):
    url = f"ws://127.0.0.1:{running.port}/v1"
    return RealtimeAssistant(RealtimeOptions(url=url, model="llama-omni", **options))


@pytest.mark.parametrize("names", ["auto", "ga"])
def test_our_server_is_an_assistant(names):
    async def main():
        engine = FakeEngine()
        async with serving(engine) as running:
            assistant = assistant_of(running, names=names)
            spoken = await asyncio.to_thread(assistant.reply, QUESTION)
            written = await asyncio.to_thread(assistant.reply, QUESTION, speech=False)
        return engine, spoken, written

    engine, spoken, written = run(main(), 120)
    assert spoken.text.split() == ["w0", "w1", "w2"]
    assert len(spoken.audio) / spoken.sample_rate == pytest.approx(3 * PIECE / 16_000, abs=0.02)
    assert spoken.timings.first_audio_s is not None
    assert written.text.split() == ["w0", "w1", "w2"]
    assert not len(written.audio)
    heard = [asked[-1] for talk in engine.talks for asked in talk.asked]
    lengths = [len(getattr(question, "audio", question)) for question in heard]
    assert lengths == pytest.approx([16_000, 16_000], abs=50)


def test_second_question_follows_the_first():
    async def main():
        engine = FakeEngine()
        async with serving(engine) as running:
            talk = assistant_of(running).conversation("Be brief.")
            for _ in range(2):
                await asyncio.to_thread(talk.reply, QUESTION)
            turns = talk.turns
            await asyncio.to_thread(talk.close)
        return engine, turns

    engine, turns = run(main(), 120)
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user", "assistant"]
    assert len(engine.talks) == 1


def test_refused_key_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")

    async def main():
        settings = ServeSettings(keys=("right-key",), send_timeout_s=5.0, drain_s=5.0)
        async with serving(settings=settings) as running:
            await asyncio.to_thread(assistant_of(running).reply, QUESTION)

    with pytest.raises(EngineError, match=r"a valid API key must be given \(invalid_api_key\)"):
        run(main(), 120)
