"""A session under test: every frame it sends is checked, and a client's view is kept."""

import base64
import json

import numpy as np
from openai.types.realtime import RealtimeServerEvent
from openai.types.realtime.realtime_session_create_response import RealtimeSessionCreateResponse
from pydantic import BaseModel, TypeAdapter

from llama_omni.interfaces import AudioDelta, Reply, ReplyDone, TextDelta
from llama_omni.serve.actions import CommitAudio, Send, StartReply
from llama_omni.serve.ids import CountingIds
from llama_omni.serve.limits import ModelFacts, SessionLimits
from llama_omni.serve.protocol import SERVER_EVENTS
from llama_omni.serve.session import Session
from llama_omni.serve.turn_events import (
    Committed,
    ShortPause,
    SpeechStarted,
    SpeechStopped,
    TimedOut,
)

EVENTS = TypeAdapter(RealtimeServerEvent)
RATE = 16_000  # of replies
ADDED = {"temperature"}  # the one field of ours, shown only to a client that sets it


def extras(value, path=""):
    """Fields that the openai package does not know, anywhere in an event."""
    if isinstance(value, BaseModel):
        for name in value.model_extra or {}:
            yield f"{path}.{name}"
        for name in type(value).model_fields:
            yield from extras(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from extras(item, path)


def check_frame(event):
    """An event is one of the openai package's, and nothing but that."""
    assert event["type"] in SERVER_EVENTS
    parsed = EVENTS.validate_json(json.dumps(event, allow_nan=False))
    assert parsed.type == event["type"], (type(parsed), event)
    found = set(extras(parsed))
    if event["type"] in ("session.created", "session.updated"):
        session = RealtimeSessionCreateResponse.model_validate(event["session"])
        assert {path.strip(".") for path in extras(session)} <= ADDED
        found -= {".session.id", ".session.object", ".session.temperature"}
    assert not found, (found, event)


class Wire:
    """What a client sees, and the rules that hold for it at every moment."""

    def __init__(self):
        self.items = []  # names, in order
        self.responses = {}  # id: "open" or the status it ended with
        self.out_of_band = set()
        self.open_items = {}  # id of an item being answered: its response
        self.event_ids = set()

    def see(self, event):
        check_frame(event)
        assert event["event_id"] not in self.event_ids
        self.event_ids.add(event["event_id"])
        match event["type"]:
            case "conversation.item.added":
                self.insert(event["item"]["id"], event["previous_item_id"])
            case "conversation.item.done":
                assert event["item"]["id"] in self.items
                assert event["item"]["status"] != "in_progress"
            case "conversation.item.deleted":
                self.items.remove(event["item_id"])
            case "input_audio_buffer.committed":
                assert event["item_id"] not in self.items
            case "response.created":
                response = event["response"]
                assert response["id"] not in self.responses
                assert response["status"] == "in_progress"
                self.responses[response["id"]] = "open"
                if response["conversation_id"] is None:
                    self.out_of_band.add(response["id"])
                else:
                    active = [
                        name
                        for name, status in self.responses.items()
                        if status == "open" and name not in self.out_of_band
                    ]
                    assert active == [response["id"]], "one response at a time"
            case "response.output_item.added":
                self.open_items[event["item"]["id"]] = event["response_id"]
            case "response.output_item.done":
                assert self.open_items.pop(event["item"]["id"]) == event["response_id"]
            case "response.done":
                self.end(event["response"])
        if "response_id" in event and event["type"].startswith("response."):
            assert self.responses[event["response_id"]] == "open", event
        if event["type"].endswith(".delta") and event["type"].startswith("response."):
            assert self.open_items[event["item_id"]] == event["response_id"], event
        if event["type"] == "error":
            error = event["error"]
            assert error["message"]
            assert error["code"]
            assert "Traceback" not in error["message"]
            assert len(error["message"]) < 1500

    def insert(self, item_id, previous):
        assert item_id not in self.items
        assert previous is None or previous in self.items
        place = 0 if previous is None else self.items.index(previous) + 1
        self.items.insert(place, item_id)

    def end(self, response):
        assert self.responses[response["id"]] == "open"
        self.responses[response["id"]] = response["status"]
        assert response["status"] in ("completed", "cancelled", "incomplete", "failed")
        assert response["id"] not in self.open_items.values()
        usage = response["usage"]
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        for item in response["output"]:
            assert item["status"] in ("completed", "incomplete")
            if response["id"] not in self.out_of_band:
                assert item["id"] in self.items


class Driver:
    """A session, a client and a server around it; the turn detector is the test's."""

    def __init__(self, model=None, limits=None):
        self.session = Session(model or ModelFacts(), limits or SessionLimits(), CountingIds())
        self.wire, self.actions, self.events, self.buffer = Wire(), [], [], np.zeros(0, np.float32)
        self.begun = self.do(self.session.begin())

    def do(self, actions):
        """Do what the session asks; return the events of it."""
        sent = []
        for action in actions:
            self.actions.append(action)
            if isinstance(action, Send):
                self.wire.see(action.event)
                sent.append(action.event)
            elif isinstance(action, CommitAudio):
                sent += self.committed(self.buffer)
        self.events += sent
        return sent

    def send(self, kind, **fields):
        return self.do(self.session.client(json.dumps({"type": kind, **fields})))

    def update(self, **fields):
        return self.send("session.update", session={"type": "realtime", **fields})

    def turn(self, event):
        return self.do(self.session.turn(event))

    def reply(self, event, generation=None):
        chosen = self.last(StartReply).generation if generation is None else generation
        return self.do(self.session.reply(chosen, event))

    def committed(self, segment):
        self.buffer = np.zeros(0, np.float32)
        return self.turn(Committed(audio_start_ms=0, audio_end_ms=0, segment=segment))

    def last(self, kind):
        return [action for action in self.actions if isinstance(action, kind)][-1]

    def count(self, kind):
        return sum(isinstance(action, kind) for action in self.actions)

    def ask(self, text="hello", **fields):
        """Put in a question; return its item's name."""
        content = [{"type": "input_text", "text": text}]
        item = {"type": "message", "role": "user", "content": content, **fields}
        return self.send("conversation.item.create", item=item)[0]["item"]["id"]

    def answer(self, text="It is four.", ms=400, finish_reason="stop"):
        """Let the last reply be made, whole."""
        sent = self.reply(text_delta(text))
        sent += self.reply(audio_delta(ms))
        return sent + self.reply(done(text, ms, finish_reason=finish_reason))

    def speak(self, segment=None, at=1_000):
        """Speak a turn, from its first sound to its end."""
        segment = voice() if segment is None else segment
        sent = self.turn(SpeechStarted(audio_start_ms=at, at_ms=at + 64))
        return sent + self.turn(stopped(segment, at))


def voice(ms=500, seed=0):
    """A segment as the turn detector gives it."""
    return np.random.default_rng(seed).normal(0, 0.1, 16 * ms).astype(np.float32)


def stopped(segment, at=1_000):
    end = at + len(segment) // 16
    return SpeechStopped(
        audio_start_ms=at, audio_end_ms=end, speech_end_ms=end, at_ms=end, segment=segment
    )


def pause(segment, at=1_000):
    return ShortPause(at_ms=at, segment=segment)


def timed_out(segment):
    return TimedOut(audio_start_ms=0, audio_end_ms=len(segment) // 16, segment=segment)


def text_delta(text, first=0):
    return TextDelta(text=text, first_token=first, end_token=first + max(1, len(text.split())))


def audio_delta(ms, first_ms=0, tokens=(0, 3)):
    samples = np.full(RATE * ms // 1000, 0.25, np.float32)
    first = RATE * first_ms // 1000
    return AudioDelta(
        audio=samples,
        sample_rate=RATE,
        first_sample=first,
        end_sample=first + len(samples),
        first_token=tokens[0],
        end_token=tokens[1],
    )


def done(text="It is four.", ms=400, finish_reason="stop"):
    tokens = tuple(range(max(1, len(text.split()))))
    audio = np.full(RATE * ms // 1000, 0.25, np.float32)
    return ReplyDone(
        reply=Reply(
            text=text,
            audio=audio,
            sample_rate=RATE,
            token_ids=tokens,
            units=(1,) * (ms // 20),
            unit_tokens=(0,) * (ms // 20),
            sample_tokens=(),
            lagging_words=None,
            finish_reason=finish_reason,
        )
    )


def names(events):
    return [event["type"] for event in events]


def only(events, kind):
    found = [event for event in events if event["type"] == kind]
    assert len(found) == 1, names(events)
    return found[0]


def pcm(ms=100, rate=24_000):
    return base64.b64encode(bytes(2 * rate * ms // 1000)).decode()
