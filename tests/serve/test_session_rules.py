"""Whatever a client, a detector and a model do, in any order: the rules of the wire hold.

The rules themselves are in `session_tools.Wire`, which sees every event: each is valid, a response
ends in exactly one `response.done` with nothing after it, one response at a time is in the
conversation, items are linked to items that are there, and every error is a clear one.
"""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from session_tools import (
    Driver,
    audio_delta,
    done,
    names,
    pause,
    pcm,
    stopped,
    text_delta,
    timed_out,
    voice,
)

from llama_omni.interfaces import ReplyFailed
from llama_omni.serve.actions import (
    Abandon,
    CancelReply,
    InputUsage,
    Prepare,
    StartReply,
    ToolCall,
    Transcribe,
)
from llama_omni.serve.limits import ModelFacts, SessionLimits
from llama_omni.serve.protocol import CLIENT_EVENTS, SERVER_EVENTS
from llama_omni.serve.turn_events import BufferFull, SpeechResumed, SpeechStarted

SEGMENTS = [voice(ms, seed=ms) for ms in (20, 200, 400)]
SEEN: set[str] = set()

# Half right, half wrong: names that are there and that are not, values that fit and that do not.
ITEM_IDS = st.sampled_from([f"item_{n}" for n in range(1, 9)] + ["mine", "root", "nobody"])
SCRAPS = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5_000), st.floats(), st.text(max_size=5),
    st.just([]), st.just({}), ITEM_IDS,
)  # fmt: skip
TURN_DETECTION = st.sampled_from(
    [
        None,
        {"type": "server_vad"},
        {"type": "server_vad", "create_response": False},
        {"type": "server_vad", "interrupt_response": False},
        {"type": "server_vad", "threshold": 0},
        {"type": "semantic_vad", "eagerness": "low"},
        {"type": "psychic_vad"},
    ]
)
FORMATS = st.sampled_from(
    [{"type": "audio/pcm"}, {"type": "audio/pcmu"}, {"type": "audio/pcma"}, {"type": "audio/x"}]
)
TOOLS = st.sampled_from([[], [{"type": "function", "name": "f"}], [{"type": "mcp"}]])
COMMON = {
    "output_modalities": st.sampled_from([["audio"], ["text"], ["audio", "text"]]),
    "instructions": st.sampled_from(["", "Be brief.", "Be kind."]),
    "max_output_tokens": st.sampled_from([1, 100, "inf", -1]),
    "temperature": st.sampled_from([0, 0.8, 9]),
    "tools": TOOLS,
}
SESSIONS = st.fixed_dictionaries(
    {"type": st.just("realtime")},
    optional={
        **COMMON,
        "audio": st.fixed_dictionaries(
            {},
            optional={
                "input": st.fixed_dictionaries(
                    {},
                    optional={
                        "turn_detection": TURN_DETECTION,
                        "format": FORMATS,
                        "transcription": st.sampled_from([None, {"model": "whisper-1"}]),
                    },
                ),
                "output": st.fixed_dictionaries(
                    {},
                    optional={"format": FORMATS, "voice": st.sampled_from(["marin", "hal"])},
                ),
            },
        ),
        "tracing": st.just("auto"),
    },
)
PARTS = st.sampled_from(
    [
        {"type": "input_text", "text": "hello"},
        {"type": "input_text", "text": ""},
        {"type": "input_audio", "audio": pcm(150)},
        {"type": "input_audio", "audio": "?"},
        {"type": "output_text", "text": "It is four."},
    ]
)
ITEMS = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("message"),
            "role": st.sampled_from(["user", "user", "assistant", "system", "tool"]),
            "content": st.lists(PARTS, min_size=1, max_size=2),
        },
        optional={"id": st.sampled_from(["mine", "root", "item_2", None])},
    ),
    st.just({"type": "function_call", "name": "f", "arguments": "{}"}),
    st.just({"type": "function_call_output", "call_id": "c", "output": "4"}),
)
RESPONSES = st.fixed_dictionaries(
    {},
    optional={
        **COMMON,
        "conversation": st.sampled_from(["auto", "none", "none", "other"]),
        "input": st.lists(
            st.one_of(
                ITEMS, st.fixed_dictionaries({"type": st.just("item_reference"), "id": ITEM_IDS})
            ),
            max_size=2,
        ),
        "metadata": st.just({"a": "b"}),
    },
)


class Realtime(RuleBasedStateMachine):
    """A client, a detector and a model that do as they like."""

    @initialize(
        tools=st.booleans(),
        recognizer=st.booleans(),
        items=st.sampled_from([3, 50]),
        modality=st.sampled_from(["audio", "text"]),
        transcription=st.sampled_from([None, {"model": "whisper-1"}]),
    )
    def begin(self, tools, recognizer, items, modality, transcription):
        self.driver = Driver(
            ModelFacts(tools=tools, recognizer=recognizer),
            SessionLimits(max_items=items, max_out_of_band=1, max_errors=40, max_audio_s=1.5),
        )
        self.driver.update(
            output_modalities=[modality], audio={"input": {"transcription": transcription}}
        )

    def send(self, kind, **fields):
        sent = self.driver.send(kind, **fields)
        SEEN.update(names(sent))
        if self.driver.session.closed:
            assert "open" not in self.driver.wire.responses.values()
        return sent

    # The client

    @rule(session=SESSIONS)
    def update(self, session):
        self.send("session.update", session=session)

    @rule(item=ITEMS, previous=st.one_of(st.none(), ITEM_IDS))
    def create_item(self, item, previous):
        self.send("conversation.item.create", item=item, previous_item_id=previous)

    @rule(kind=st.sampled_from(["retrieve", "delete"]), item_id=ITEM_IDS)
    def name_item(self, kind, item_id):
        self.send(f"conversation.item.{kind}", item_id=item_id)

    @rule(item_id=ITEM_IDS, end=st.integers(-1, 900), place=st.sampled_from([0, 0, 0, 1]))
    def truncate(self, item_id, end, place):
        self.send(
            "conversation.item.truncate", item_id=item_id, content_index=place, audio_end_ms=end
        )

    @rule(response=st.one_of(st.none(), RESPONSES))
    def create_response(self, response):
        self.send("response.create", response=response)

    @rule(response_id=st.sampled_from([None, None, "resp_1", "resp_2", "nobody"]))
    def cancel(self, response_id):
        self.send("response.cancel", response_id=response_id)

    @rule(ms=st.sampled_from([0, 20, 300]))
    def append(self, ms):
        self.driver.buffer = SEGMENTS[1] if ms == 300 else SEGMENTS[0][:0]
        self.send("input_audio_buffer.append", audio=pcm(ms))

    @rule(kind=st.sampled_from(["commit", "clear"]))
    def buffer(self, kind):
        self.send(f"input_audio_buffer.{kind}")

    @rule()
    def clear_output(self):
        self.send("output_audio_buffer.clear")

    @rule(kind=st.sampled_from(sorted(CLIENT_EVENTS)), fields=st.dictionaries(
        st.sampled_from(["session", "item", "item_id", "audio", "response", "event_id", "x"]),
        SCRAPS, max_size=3,
    ))  # fmt: skip
    def scrap(self, kind, fields):
        sent = self.driver.do(self.driver.session.client(json.dumps({"type": kind, **fields})))
        SEEN.update(names(sent))

    @rule(frame=st.one_of(st.text(max_size=20), st.binary(max_size=9)))
    def noise(self, frame):
        closed = self.driver.session.closed
        sent = self.driver.do(self.driver.session.client(frame))
        assert closed or names(sent)[0] == "error"

    # The detector

    @rule(segment=st.sampled_from(SEGMENTS), kind=st.sampled_from(["pause", "stop", "idle"]))
    def segment(self, segment, kind):
        event = {"pause": pause, "stop": stopped, "idle": timed_out}[kind](segment)
        sent = self.driver.turn(event)
        assert kind != "pause" or sent == []
        SEEN.update(names(sent))

    @rule(kind=st.sampled_from(["start", "resume", "full"]))
    def detect(self, kind):
        events = {
            "start": SpeechStarted(audio_start_ms=0, at_ms=64),
            "resume": SpeechResumed(at_ms=9),
            "full": BufferFull(at_ms=9),
        }
        SEEN.update(names(self.driver.turn(events[kind])))

    # The model and the recogniser

    @rule(
        kind=st.sampled_from(["text", "text", "audio", "audio", "done", "length", "cancelled",
                              "failed", "tool", "usage"]),
        which=st.integers(0, 6),
    )  # fmt: skip
    def reply(self, kind, which):
        started = [a.generation for a in self.driver.actions if isinstance(a, StartReply)]
        generation = started[-1] if started and which else which
        gone = {a.generation for a in self.driver.actions if isinstance(a, CancelReply | Abandon)}
        event = {
            "text": text_delta("It is four."),
            "audio": audio_delta(200),
            "done": done(),
            "length": done(finish_reason="length"),
            "cancelled": done(finish_reason="cancelled"),
            "failed": ReplyFailed(kind="engine", message="it broke"),
            "tool": ToolCall(name="f", arguments="{}"),
            "usage": InputUsage(text_tokens=1, audio_tokens=2),
        }[kind]
        sent = self.driver.reply(event, generation)
        SEEN.update(names(sent))
        if generation in gone or generation not in started:
            assert sent == []

    @rule(final=st.booleans(), fails=st.booleans())
    def transcript(self, final, fails):
        wanted = [a.item_id for a in self.driver.actions if isinstance(a, Transcribe)]
        if wanted:
            session = self.driver.session
            if fails:
                SEEN.update(names(self.driver.do(session.transcript_failed(wanted[-1], "broke"))))
            else:
                sent = self.driver.do(session.transcript(wanted[-1], "words", final=final))
                SEEN.update(names(sent))

    # The rules

    @invariant()
    def items_are_those_of_the_wire(self):
        if hasattr(self, "driver"):
            held = [item.id for item in self.driver.session._conversation.items]
            assert held == self.driver.wire.items
            assert len(held) <= self.driver.session.limits.max_items + 1

    @invariant()
    def replies_are_started_once_and_prepared_ones_are_used_or_dropped(self):
        if hasattr(self, "driver"):
            actions = self.driver.actions
            started = [a.generation for a in actions if isinstance(a, StartReply)]
            assert len(set(started)) == len(started)
            prepared = {a.generation for a in actions if isinstance(a, Prepare)}
            used = {a.generation for a in actions if isinstance(a, StartReply) and a.prepared}
            dropped = [a.generation for a in actions if isinstance(a, Abandon)]
            assert len(set(dropped)) == len(dropped)
            assert used <= prepared
            assert not used & set(dropped)
            assert len(prepared - used - set(dropped)) <= 1

    def teardown(self):
        if not hasattr(self, "driver"):
            return
        self.driver.do(self.driver.session.drain())
        self.driver.do(self.driver.session.tick(0.0))
        self.driver.do(self.driver.session.tick(1e12))
        assert self.driver.session.closed
        assert "open" not in self.driver.wire.responses.values()
        actions = self.driver.actions
        prepared = {a.generation for a in actions if isinstance(a, Prepare)}
        ended = {
            a.generation
            for a in actions
            if isinstance(a, Abandon) or (isinstance(a, StartReply) and a.prepared)
        }
        assert prepared == ended


TestRealtime = Realtime.TestCase
TestRealtime.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@settings(deadline=None, max_examples=200)
@given(
    st.recursive(
        SCRAPS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
            st.sampled_from(["type", "session", "item", "audio", "input", "content", "role", "id"]),
            inner, max_size=4,
        ), max_leaves=12,
    ),
    st.sampled_from(sorted(CLIENT_EVENTS)),
)  # fmt: skip
def test_no_event_of_any_shape_raises(value, kind):
    driver = Driver()
    fields = value if isinstance(value, dict) else {"session": value, "item": value}
    for name in ("session", "item", "response"):
        fields = {**fields, name: value}
    frame = json.dumps({**fields, "type": kind})
    for event in driver.do(driver.session.client(frame)):
        assert event["type"] in SERVER_EVENTS


@pytest.mark.parametrize("text", ["", "a", "\u00e9\u20ac\U0001f600", '"\\\n\x00'])
def test_words_of_any_kind_come_through(text):
    driver = Driver()
    driver.ask()
    driver.send("response.create")
    sent = driver.reply(text_delta(text))
    sent += driver.reply(done(text))
    assert sent[-1]["type"] == "response.done"
