"""Conversations with an engine in a process of its own, and what happens when that ends."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from llama_omni.errors import CapacityError, CheckpointError, ConfigError, EngineError, InputError
from llama_omni.interfaces import (
    AsyncAssistant,
    AsyncConversation,
    AudioDelta,
    ReplyDone,
    ReplyOptions,
    Turn,
)
from llama_omni.remote.client import RemoteEngine
from llama_omni.remote.factory import Factory

SHORT = ReplyOptions(max_new_tokens=10, chunk_size=5)
LONG = ReplyOptions(max_new_tokens=400, chunk_size=5, temperature=3.0)


def sound(seed, seconds=0.6):
    size = int(16_000 * seconds)
    return (0.1 * np.random.default_rng(seed).standard_normal(size)).astype(np.float32)


def play(coroutine, factory="make", **settings):
    """Run a coroutine with an engine that is ready, and close it."""

    async def main():
        engine = RemoteEngine(Factory(f"tests.remote.engines:{factory}", settings))
        try:
            await engine.start(timeout_s=240)
            return await asyncio.wait_for(coroutine(engine), 240)
        finally:
            await engine.close()

    return asyncio.run(main())


@pytest.fixture(scope="module")
def shared():
    """Runs coroutines with one engine that is loaded once."""
    with asyncio.Runner() as runner:
        engine = RemoteEngine(Factory("tests.remote.engines:make"))
        try:
            runner.run(engine.start(timeout_s=240))
            yield lambda coroutine: runner.run(asyncio.wait_for(coroutine(engine), 240))
        finally:
            runner.run(engine.close())


async def answer(conversation, question, options=SHORT):
    conversation.prepare(question, options)
    return [event async for event in conversation.commit()]


def test_many_conversations_each_get_their_own_answer(shared):
    async def talk(engine):
        assert isinstance(engine, AsyncAssistant)
        before = engine.numbers.replies
        alone = [engine.conversation() for _ in ASKED]
        serial = [
            (await answer(chat, sound(*asked)))[-1].reply
            for chat, asked in zip(alone, ASKED, strict=True)
        ]
        chats = [engine.conversation() for _ in range(8)]
        assert isinstance(chats[0], AsyncConversation)
        lags, watching = [], True

        async def watch():
            while watching:
                begun = time.monotonic()
                await asyncio.sleep(0.001)
                lags.append(time.monotonic() - begun)

        watcher = asyncio.create_task(watch())
        jobs = [answer(chat, sound(*ASKED[i % 4])) for i, chat in enumerate(chats)]
        replies = [events[-1].reply for events in await asyncio.gather(*jobs)]
        watching = False
        await watcher
        for index, reply in enumerate(replies):
            assert reply.token_ids == serial[index % 4].token_ids
            assert reply.units == serial[index % 4].units
            assert chats[index].turns[-1].token_ids == reply.token_ids
        assert len({reply.token_ids for reply in replies}) > 1
        for chat in (*alone, *chats):
            chat.close()
        assert sorted(lags)[len(lags) // 2] < 0.1  # the loop runs while the engine works
        assert engine.numbers.replies == before + 12

    ASKED = [(0, 0.4), (1, 0.9), (2, 0.6), (3, 0.5)]
    shared(talk)


def test_turns_of_a_conversation(shared):
    async def talk(engine):
        chat = engine.conversation("be brief")
        first = await answer(chat, sound(1, 0.9), ReplyOptions(max_new_tokens=30, chunk_size=5))
        reply = first[-1].reply
        assert first[-1] is not None
        assert any(isinstance(event, AudioDelta) for event in first)
        rest = chat.truncate(len(reply.audio) // 2)
        assert 0 < len(rest.token_ids) < len(reply.token_ids)
        history = chat.turns
        second = (await answer(chat, Turn(role="user", text="and then")))[-1].reply
        other = engine.conversation()
        other.replace(history)
        fresh = (await answer(other, Turn(role="user", text="and then")))[-1].reply
        assert fresh.token_ids == second.token_ids

        dropped = chat.prepare(sound(2), SHORT)
        chat.abandon(dropped)
        with pytest.raises(InputError, match="must be prepared"):
            chat.commit(dropped)
        chat.prepare(sound(3), SHORT)
        await asyncio.sleep(0.5)
        assert [event async for event in chat.commit()][-1].reply.token_ids

        busy = engine.conversation()
        busy.prepare(sound(1, 0.9), ReplyOptions(chunk_size=5))
        events = []
        async for event in busy.commit():
            events.append(event)
            if len(events) == 3:
                busy.cancel()
        assert events[-1].reply.finish_reason == "cancelled"
        busy.prepare(sound(1, 0.9), ReplyOptions(chunk_size=5))
        running = busy.commit()
        await anext(running)
        with pytest.raises(InputError, match="one reply at a time"):
            busy.prepare(sound(2), SHORT)
        await running.aclose()  # whoever leaves early cancels
        assert isinstance((await answer(busy, sound(2)))[-1], ReplyDone)
        busy.close()

        with pytest.raises(InputError):
            await answer(chat, np.full(16_000, np.nan, dtype=np.float32))
        with pytest.raises(CapacityError, match="512 positions"):
            await answer(chat, Turn(role="user", text="x" * 600))
        assert (await answer(other, sound(1)))[-1].reply.token_ids
        chat.close()
        other.close()
        with pytest.raises(InputError, match="got a closed one"):
            chat.prepare(sound(1))
        async with asyncio.timeout(120):  # it is told although nothing more happens
            while engine.numbers.conversations or engine.numbers.cache_bytes:
                await asyncio.sleep(0.01)
        last = engine.conversation()
        assert (await answer(last, sound(1)))[-1].reply.token_ids
        assert engine.numbers.conversations == 1
        last.close()

    shared(talk)


@pytest.mark.slow
def test_killed_process_gives_clean_errors_and_comes_back():
    async def talk(engine):
        chats = [engine.conversation() for _ in range(3)]
        done = (await answer(chats[2], sound(2)))[-1].reply
        running = [asyncio.create_task(answer(chat, sound(1, 0.9), LONG)) for chat in chats]
        await asyncio.sleep(0.3)
        os.kill(engine.pid, signal.SIGKILL)
        results = await asyncio.gather(*running, return_exceptions=True)
        assert all(isinstance(result, EngineError) for result in results)
        assert not engine.ready
        with pytest.raises(EngineError, match="not back yet"):
            await answer(chats[0], sound(0))
        await engine.wait_ready(240)
        assert engine.restarts == 1
        assert chats[2].turns[-1].token_ids == done.token_ids  # its history outlived the process
        assert (await answer(chats[2], sound(1)))[-1].reply.token_ids
        assert len(chats[2].turns) == 4

        with pytest.raises(EngineError, match="ended"):  # another death, from within
            await answer(chats[0], sound(0), ReplyOptions(max_new_tokens=13))
        await engine.wait_ready(240)
        bad = asyncio.create_task(answer(chats[0], sound(0), ReplyOptions(seed=13)))
        good = asyncio.create_task(answer(chats[1], sound(0)))
        with pytest.raises(EngineError, match="failed inside the engine"):
            await bad
        assert (await good)[-1].reply.token_ids
        assert engine.restarts == 2

    play(talk, "fragile")


@pytest.mark.parametrize(
    ("factory", "error"), [("hopeless", CheckpointError), ("dead", EngineError)]
)
def test_engine_that_cannot_be_made_says_why(factory, error):
    async def talk(engine):
        raise AssertionError("it started")

    with pytest.raises(error):
        play(talk, factory)


def test_factory_refuses_what_is_no_function_of_a_module():
    with pytest.raises(ConfigError, match="target must be module:function"):
        Factory("llama_omni.loading")


def test_client_loads_no_torch():
    code = "import sys, llama_omni.remote.client, llama_omni.threads"
    code += "; print({'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
