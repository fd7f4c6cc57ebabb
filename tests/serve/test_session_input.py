"""Frames that are no event: each is one clear error, and the session goes on."""

import json

import pytest
from session_tools import Driver, only

from llama_omni.serve.errors import shorten
from llama_omni.serve.limits import SessionLimits
from llama_omni.serve.protocol import CLIENT_EVENTS

FRAMES = {
    "empty": ("", "invalid_json", None),
    "words": ("hello", "invalid_json", None),
    "half": ('{"type": "response.create"', "invalid_json", None),
    "two": ("{} {}", "invalid_json", None),
    "nan": ('{"type": NaN}', "invalid_json", None),
    "deep": ("[" * 100_000, "invalid_json", None),
    "digits": ('{"type": ' + "9" * 10_000 + "}", "invalid_json", None),
    "surrogate": ('{"type": "\\ud800"}', "invalid_json", None),
    "broken_text": ("\ud800", "invalid_json", None),
    "zero": ("\0", "invalid_json", None),
    "binary": (b'{"type": "response.create"}', "invalid_frame", None),
    "list": ("[1, 2]", "invalid_type", None),
    "string": ('"response.create"', "invalid_type", None),
    "null": ("null", "invalid_type", None),
    "no_type": ("{}", "missing_required_parameter", "type"),
    "unknown": ('{"type": "session.destroy"}', "invalid_value", "type"),
    "beta": ('{"type": "transcription_session.update"}', "invalid_value", "type"),
    "number": ('{"type": 5}', "invalid_value", "type"),
    "null_type": ('{"type": null}', "invalid_value", "type"),
    "list_type": ('{"type": []}', "invalid_value", "type"),
    "long_type": (json.dumps({"type": "x" * 100_000}), "invalid_value", "type"),
    "server": ('{"type": "response.done"}', "invalid_value", "type"),
    "extra": ('{"type": "response.cancel", "x": 1}', "unknown_parameter", "x"),
    "id_type": ('{"type": "response.cancel", "event_id": 5}', "invalid_type", "event_id"),
    "id_long": (
        json.dumps({"type": "response.cancel", "event_id": "x" * 513}),
        "invalid_value",
        "event_id",
    ),
    "missing": ('{"type": "session.update"}', "missing_required_parameter", "session"),
    "kind": (
        '{"type": "session.update", "session": {}}',
        "missing_required_parameter",
        "session.type",
    ),
    "transcription": (
        '{"type": "session.update", "session": {"type": "transcription"}}',
        "invalid_value",
        "session.type",
    ),
    "session_type": ('{"type": "session.update", "session": []}', "invalid_type", "session"),
    "session_null": ('{"type": "session.update", "session": null}', "invalid_type", "session"),
    "no_audio": (
        '{"type": "input_audio_buffer.append"}',
        "missing_required_parameter",
        "audio",
    ),
    "audio_type": (
        '{"type": "input_audio_buffer.append", "audio": [1]}',
        "invalid_type",
        "audio",
    ),
    "no_dict": ({"type": {1, 2}}, "invalid_json", None),
    "huge": (
        '{"type": "session.update", "session": {"type": "realtime", "temperature": 1e999}}',
        "invalid_value",
        "session.temperature",
    ),
    "large_place": (
        json.dumps(
            {
                "type": "conversation.item.truncate",
                "item_id": "a",
                "content_index": 10**30,
                "audio_end_ms": 0,
            }
        ),
        None,
        "content_index",
    ),
}


@pytest.mark.parametrize(("frame", "code", "param"), FRAMES.values(), ids=FRAMES)
def test_wrong_frame_is_one_error_and_the_session_goes_on(frame, code, param):
    driver = Driver()
    sent = driver.do(driver.session.client(frame))
    error = only(sent, "error")["error"]
    assert len(sent) == 1
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    if code is not None:
        assert error["code"] == code
    driver.ask()
    assert driver.send("response.create")[0]["type"] == "response.created"


def test_event_may_come_as_an_object():
    driver = Driver()
    driver.ask()
    sent = driver.do(driver.session.client({"type": "response.create", "event_id": None}))
    assert sent[0]["type"] == "response.created"


def test_frame_is_bounded_in_bytes():
    driver = Driver(limits=SessionLimits(max_event_bytes=100))
    frame = json.dumps({"type": "response.cancel", "event_id": "\u00e9" * 60}, ensure_ascii=False)
    assert len(frame) < 110
    error = only(driver.do(driver.session.client(frame)), "error")["error"]
    assert error["code"] == "event_too_large"


@pytest.mark.parametrize("kind", CLIENT_EVENTS)
def test_error_names_the_event_it_is_about(kind):
    sent = Driver().send(kind, event_id="mine", nonsense=1)
    assert only(sent, "error")["error"]["event_id"] == "mine"


@pytest.mark.parametrize("kind", CLIENT_EVENTS)
def test_null_event_id_is_none(kind):
    sent = Driver().send(kind, event_id=None, nonsense=1)
    assert only(sent, "error")["error"]["event_id"] is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        (10**400, "inf"),
        ({"a": 1}, "an object"),
        ([1], "a list"),
        ("abc", "'abc'"),
        ("x" * 100, f"'{'x' * 30}'... (100 long)"),
    ],
    ids=range(8),
)
def test_message_holds_little_of_a_value(value, words):
    assert shorten(value) == words
