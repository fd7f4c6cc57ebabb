"""A crowd talks to the tiny model: everybody is told what he would be told if he came alone.

The whole server with the engine in its own process; float32 on a CPU, where rows of a batch do not
change each other's tokens and units. The look-ahead is the vocoder's whole receptive field, so the
sound does not depend on how the schedule cuts it.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from shutil import which

import numpy as np
import pytest
from serve_tools import run, serving, settled, sound_of, talking
from session_tools import only

from llama_omni import audio
from llama_omni.backends.tts import open_synthesizer
from llama_omni.data import domain
from llama_omni.interfaces import ReplyOptions
from llama_omni.remote.client import RemoteEngine
from llama_omni.remote.factory import Factory
from llama_omni.serve.limits import ModelFacts
from llama_omni.serve.serve_settings import ServeSettings
from llama_omni.serve.vad import SileroVad

EXAMPLE = Path(__file__).parents[2] / "examples" / "question.wav"
EXACT = 26  # units: with this look-ahead streamed speech is offline speech
LONGEST = 28  # letters of an answer: it takes a second or two to make
VOICES = ("rms", "slt", "awb", "kal16")
PATIENCE_S = 240.0  # an engine that loads torch, on a busy machine
RATE = 24_000  # Hz: of sessions


@dataclass(frozen=True)
class Script:
    """What one session asks, turn by turn: text, or sound at 24 kHz."""

    questions: tuple[str | np.ndarray, ...]
    detects: bool = False  # spoken turns end by themselves


@dataclass(frozen=True)
class Answer:
    text: str
    sound: np.ndarray
    tokens: int
    units: int


def scripts(count):
    """Written and spoken questions with different answers; every second session asks twice."""
    asked, answers = [], set()
    for record in domain.tiny_records(5, 40 * count, split="train"):
        short = len(record.answer) <= LONGEST and not record.history
        if short and record.answer not in answers and record.intent != "small_talk":
            answers.add(record.answer)
            asked.append(record.question)
    rest = iter(asked)
    made = []
    for number in range(count):
        first = next(rest)
        questions = (first if number % 2 else spoken(first, number),)
        if number % 4 > 1:
            questions += (next(rest),)
        made.append(Script(questions, detects=number % 4 == 2))
    return made


def spoken(text, number):
    if which("flite") is None:
        sound = audio.load(EXAMPLE)[: 16_000 * 2 - 100 * number]  # no two the same
    else:
        voice = open_synthesizer("flite")
        sound = voice.say(text, voice=f"flite:{VOICES[number // 2 % len(VOICES)]}")
        voice.close()
    return audio.resample(sound, audio.SAMPLE_RATE, RATE)


async def hold(client, script):
    """Hold one conversation; return its answers."""
    if not script.detects:
        session = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
        await client.send("session.update", session=session)
    answers = []
    for question in script.questions:
        if isinstance(question, str):
            await client.ask(question)
        elif script.detects:
            quiet = np.zeros(RATE, np.float32)
            await client.append(np.concatenate([quiet[: RATE // 2], question, quiet]))
        else:
            await client.append(question)
            await client.send("input_audio_buffer.commit")
            await client.send("response.create")
        answers.append(answer_of(await client.until("response.done", PATIENCE_S)))
    return answers


def answer_of(events):
    response = events[-1]["response"]
    assert response["status"] == "completed", response
    assert only(events, "response.created")["response"]["id"] == response["id"]
    written = response["usage"]["output_token_details"]
    return Answer(
        text=only(events, "response.output_audio_transcript.done")["transcript"],
        sound=sound_of(events),
        tokens=written["text_tokens"],
        units=written["audio_tokens"],
    )


async def compare(count):
    """Let each session talk alone, then all of them at once."""
    options = ReplyOptions(lookahead=EXACT)
    settings = ServeSettings(model=ModelFacts(options=options, max_output_tokens=60))
    how = {"device": "cpu", "dtype": "float32", "threads": 1}
    engine = RemoteEngine(Factory("llama_omni.loading:load_engine", how))
    everybody, crowd = scripts(count), asyncio.Barrier(count)

    async def join(running, number):
        await asyncio.sleep(0.05 * number)
        async with talking(running) as client:
            answers = await hold(client, everybody[number])
            await crowd.wait()
            if number == 0:
                assert running.number("llama_omni_sessions_open") == count
                assert engine.numbers.failed == engine.numbers.refused == 0
            return answers

    try:
        await engine.start(PATIENCE_S)
        async with serving(engine, settings, make_vad=SileroVad) as running:
            alone = []
            for script in everybody:
                async with talking(running) as client:
                    alone.append(await hold(client, script))
            together = await asyncio.gather(*(join(running, number) for number in range(count)))
            await settled(lambda: not engine._conversations)
    finally:
        await engine.close()
    texts = [answer.text for answers in alone for answer in answers]
    assert len(set(texts)) > 0.6 * len(texts), texts  # so that a mix-up shows
    for expected, got in zip(alone, together, strict=True):
        assert len(expected) == len(got)
        for one, other in zip(expected, got, strict=True):
            assert (one.text, one.tokens, one.units) == (other.text, other.tokens, other.units)
            assert len(one.sound) == len(other.sound) > 0
            assert np.abs(one.sound).max() > 0.01
            np.testing.assert_allclose(one.sound, other.sound, atol=2.5 / 32_767, rtol=0)


@pytest.mark.parametrize(
    "count", [pytest.param(8, id="8"), pytest.param(32, id="32", marks=pytest.mark.slow)]
)
def test_everybody_in_a_crowd_is_told_what_he_would_be_told_alone(count):
    run(compare(count), PATIENCE_S + 60.0 * count)
