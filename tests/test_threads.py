"""A plain assistant behind the asynchronous interface."""

import asyncio
import time

import numpy as np
import pytest

from llama_omni.errors import CapacityError, EngineError, InputError
from llama_omni.interfaces import (
    AsyncAssistant,
    AsyncConversation,
    AudioDelta,
    Reply,
    ReplyDone,
    TextDelta,
    Turn,
)
from llama_omni.threads import ThreadedAssistant


class Echo:
    """Says three words, one after another; knows nothing of tokens, generations or batches."""

    sample_rate = 8_000

    def conversation(self, system=None):
        return EchoConversation(system)

    def stream(self, question, options=None, **_):
        return self.conversation().stream(question, options)

    def reply(self, question, options=None, **_):
        return list(self.stream(question, options))[-1].reply


class EchoConversation:
    def __init__(self, system):
        self.turns = () if system is None else (Turn(role="system", text=system),)
        self.cancelled = False

    def stream(self, question, options=None, **_):
        if question.text == "boom":
            raise ZeroDivisionError
        if question.text == "full":
            raise CapacityError("no room")
        self.cancelled = False
        said = []
        for index in range(3):
            if self.cancelled:
                break
            time.sleep(0.02)
            said.append(question.text)
            yield TextDelta(text=question.text + " ", first_token=index, end_token=index + 1)
            yield AudioDelta(
                audio=np.zeros(100, dtype=np.float32),
                sample_rate=8_000,
                first_sample=100 * index,
                end_sample=100 * index + 100,
                first_token=index,
                end_token=index + 1,
            )
        yield ReplyDone(
            reply=Reply(
                text=" ".join(said),
                audio=np.zeros(100 * len(said), dtype=np.float32),
                sample_rate=8_000,
                token_ids=(),
                units=(),
                unit_tokens=(),
                sample_tokens=(),
                lagging_words=None,
                finish_reason="cancelled" if self.cancelled else "stop",
            )
        )

    def reply(self, question, options=None, **_):
        return list(self.stream(question, options))[-1].reply

    def cancel(self):
        self.cancelled = True

    def close(self):
        self.cancelled = True


def ask(text):
    return Turn(role="user", text=text)


async def answer(chat, text):
    chat.prepare(ask(text))
    return [event async for event in chat.commit()]


def test_plain_assistant_holds_an_asynchronous_conversation():
    async def main():
        assistant = ThreadedAssistant(Echo())
        assert isinstance(assistant, AsyncAssistant)
        chat = assistant.conversation("be brief")
        assert isinstance(chat, AsyncConversation)
        both = await asyncio.gather(answer(chat, "a"), answer(assistant.conversation(), "b"))
        assert [events[-1].reply.text for events in both] == ["a a a", "b b b"]
        assert [turn.text for turn in chat.turns] == ["be brief", "a", "a a a"]
        assert chat.truncate(200).text == "a a"
        assert chat.turns[-1].text == "a a"

    asyncio.run(main())


def test_cancelled_reply_ends_and_the_next_one_waits_for_it():
    async def main():
        chat = ThreadedAssistant(Echo()).conversation()
        chat.prepare(ask("a"))
        events = []
        async for event in chat.commit():
            events.append(event)
            chat.cancel()
        assert events[-1].reply.finish_reason == "cancelled"
        assert (await answer(chat, "b"))[-1].reply.text == "b b b"

    asyncio.run(main())


def test_failures_are_told_and_nothing_of_them_remains():
    async def main():
        chat = ThreadedAssistant(Echo()).conversation()
        with pytest.raises(EngineError, match="the reply failed"):
            await answer(chat, "boom")
        with pytest.raises(CapacityError, match="no room"):
            await answer(chat, "full")
        assert chat.turns == ()
        with pytest.raises(InputError, match="a question must be given"):
            chat.prepare(None)
        chat.prepare(ask("a"))
        chat.abandon()
        with pytest.raises(InputError, match="must be prepared"):
            chat.commit()
        chat.close()
        with pytest.raises(InputError, match="got a closed one"):
            chat.prepare(ask("a"))

    asyncio.run(main())
