"""`docs/protocol.md` says what the code does: its tables are the code's own."""

import re
from pathlib import Path
from typing import get_type_hints

import llama_omni.serve
from llama_omni.serve import reading, responses
from llama_omni.serve.protocol import CLIENT_EVENTS, SERVER_EVENTS
from llama_omni.serve.protocol_session import (
    Audio,
    AudioInput,
    AudioOutput,
    ResponsePatch,
    SessionPatch,
)

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text("utf-8")
SOURCES = Path(llama_omni.serve.__file__).parent.glob("*.py")


def rows(heading):
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


def test_page_lists_the_client_events():
    assert rows("Client events") == list(CLIENT_EVENTS)


def test_page_lists_the_server_events():
    assert sorted(rows("Server events")) == sorted(SERVER_EVENTS)


def test_page_names_only_events_that_there_are():
    named = re.findall(
        r"`((?:session|input_audio|output_audio|conversation|response)[a-z_.]+)`", PAGE
    )
    fields = {"response", "response_id", "conversation", "session.audio.input.format.rate"}
    codes = set(rows("Errors"))
    unknown = set(named) - set(CLIENT_EVENTS) - set(SERVER_EVENTS) - fields - codes
    assert unknown == set()


def test_page_lists_the_sessions_fields():
    listed = set(get_type_hints(SessionPatch)) - {"audio"}
    assert set(get_type_hints(Audio)) == {"input", "output"}
    listed |= {f"audio.input.{name}" for name in get_type_hints(AudioInput)}
    listed |= {f"audio.output.{name}" for name in get_type_hints(AudioOutput)}
    assert set(rows("The session's fields")) == listed


def test_page_lists_what_a_response_takes():
    text = PAGE.partition("`response.create` takes ")[2].partition("## ")[0]
    taken = set(get_type_hints(ResponsePatch)) - {"audio", "prompt", "reasoning"}
    taken -= {"parallel_tool_calls"}
    for name in (*taken, "audio.output.format", "audio.output.voice"):
        assert f"`{name}`" in text, name


def test_page_lists_the_error_codes():
    used = set(reading._CODES.values()) | {code for _, code in responses._FAILURES.values()}
    for source in SOURCES:
        used |= set(re.findall(r"\bcode(?:: str)? ?= ?\"(\w+)\"", source.read_text("utf-8")))
    used |= {"invalid_value", "missing_required_parameter"}
    assert set(rows("Errors")) == used
