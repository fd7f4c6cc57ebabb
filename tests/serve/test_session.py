"""The life of a session, and what a client can set."""

import json
import subprocess
import sys

import numpy as np
import pytest
from openai.types.realtime import session_update_event
from pydantic import TypeAdapter
from session_tools import Driver, names, only, text_delta, voice

from llama_omni.errors import ConfigError
from llama_omni.serve.actions import CancelReply, Close, Listen, StartReply, Tune
from llama_omni.serve.ids import RandomIds
from llama_omni.serve.limits import ModelFacts, SessionLimits
from llama_omni.serve.session import Session


def test_session_loads_no_torch():
    code = (
        "import sys, llama_omni.serve.session; print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_session_begins_with_its_whole_configuration():
    driver = Driver()
    assert names(driver.begun) == ["session.created"]
    session = driver.begun[0]["session"]
    assert session["id"] == driver.session.id
    assert session["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24_000}
    assert session["audio"]["input"]["turn_detection"]["type"] == "server_vad"
    assert session["output_modalities"] == ["audio"]
    assert driver.last(Tune).settings.mode == "server_vad"


def test_ids_are_never_given_twice():
    ids = RandomIds()
    assert len({ids.new("item") for _ in range(1_000)}) == 1_000
    assert ids.new("item").startswith("item_")


CHANGES = {
    "instructions": {"instructions": "Be brief."},
    "text": {"output_modalities": ["text"]},
    "voice": {"audio": {"output": {"voice": "marin"}}},
    "voice_object": {"audio": {"output": {"voice": {"id": "default"}}}},
    "mulaw": {"audio": {"input": {"format": {"type": "audio/pcmu"}}}},
    "alaw_out": {"audio": {"output": {"format": {"type": "audio/pcma"}}}},
    "no_detection": {"audio": {"input": {"turn_detection": None}}},
    "server_vad": {
        "audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 0.4}}}
    },
    "semantic_vad": {
        "audio": {"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "high"}}}
    },
    "idle": {
        "audio": {"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 6000}}}
    },
    "transcription": {"audio": {"input": {"transcription": {"model": "whisper-1"}}}},
    "max_tokens": {"max_output_tokens": 100},
    "inf": {"max_output_tokens": "inf"},
    "no_tools": {"tools": [], "tool_choice": "auto"},
    "model": {"model": "llama-omni"},
    "null_prompt": {"prompt": None},
}
IGNORED = {
    "tracing": ({"tracing": "auto"}, "tracing", None),
    "tracing_object": ({"tracing": {"workflow_name": "x"}}, "tracing", None),
    "truncation": (
        {"truncation": {"type": "retention_ratio", "retention_ratio": 0.5}},
        "truncation",
        "auto",
    ),
    "include": ({"include": ["item.input_audio_transcription.logprobs"]}, "include", None),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_update_is_what_the_openai_types_allow_and_is_shown(change):
    TypeAdapter(session_update_event.Session).validate_python({"type": "realtime", **change})
    driver = Driver()
    session = only(driver.update(**change), "session.updated")["session"]

    def check(part, shown):
        for name, value in part.items():
            if name == "voice":
                assert shown[name] == (value if isinstance(value, str) else value["id"])
            elif isinstance(value, dict):
                check(value, shown[name])
            else:
                assert shown[name] == value

    check(change, session)


@pytest.mark.parametrize(("change", "name", "shown"), IGNORED.values(), ids=IGNORED)
def test_update_shows_what_is_in_force_instead(change, name, shown):
    session = only(Driver().update(**change), "session.updated")["session"]
    assert session[name] == shown


def test_noise_reduction_is_taken_and_shown_as_off():
    change = {"input": {"noise_reduction": {"type": "near_field"}}}
    session = only(Driver().update(audio=change), "session.updated")["session"]
    assert session["audio"]["input"]["noise_reduction"] is None


def test_temperature_is_taken_and_shown_to_those_who_set_it():
    driver = Driver()
    assert "temperature" not in driver.begun[0]["session"]
    assert only(driver.update(temperature=0.5), "session.updated")["session"]["temperature"] == 0.5
    driver.ask()
    driver.send("response.create")
    assert driver.last(StartReply).request.options.temperature == 0.5


def test_update_keeps_what_it_does_not_name():
    driver = Driver()
    driver.update(audio={"input": {"turn_detection": {"type": "server_vad", "threshold": 0.3}}})
    driver.update(
        audio={"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 900}}}
    )
    session = only(driver.update(instructions="x"), "session.updated")["session"]
    detection = session["audio"]["input"]["turn_detection"]
    assert (detection["threshold"], detection["silence_duration_ms"]) == (0.3, 900)
    driver.update(audio={"input": {"turn_detection": {"type": "semantic_vad"}}})
    session = only(
        driver.update(audio={"input": {"turn_detection": {"type": "server_vad"}}}),
        "session.updated",
    )["session"]
    assert session["audio"]["input"]["turn_detection"]["threshold"] == 0.5


def test_update_tunes_the_detector_only_where_it_changes():
    driver = Driver()
    driver.update(instructions="x")
    assert driver.count(Tune) == 1
    driver.update(audio={"input": {"format": {"type": "audio/pcmu"}, "turn_detection": None}})
    settings = driver.last(Tune).settings
    assert (settings.mode, settings.sample_rate, settings.idle_timeout_ms) == ("none", 8_000, None)
    change = {"type": "semantic_vad", "eagerness": "low", "create_response": False}
    driver.update(audio={"input": {"turn_detection": change}})
    settings = driver.last(Tune).settings
    assert (settings.mode, settings.eagerness, settings.speculate) == ("semantic_vad", "low", False)


WRONG = {
    "voice": ({"audio": {"output": {"voice": "hal"}}}, "unsupported", "audio.output.voice"),
    "speed": ({"audio": {"output": {"speed": 1.2}}}, "unsupported", "audio.output.speed"),
    "model": ({"model": "other"}, "unsupported", "model"),
    "truncation": ({"truncation": "disabled"}, "unsupported", "truncation"),
    "both": ({"output_modalities": ["text", "audio"]}, "invalid_value", "output_modalities"),
    "none": ({"output_modalities": []}, "invalid_value", "output_modalities"),
    "prompt": ({"prompt": {"id": "x"}}, "unsupported", "prompt"),
    "tokens": ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
    "tokens_type": ({"max_output_tokens": True}, "invalid_type", "max_output_tokens"),
    "temperature": ({"temperature": 3}, "invalid_value", "temperature"),
    "tool_choice": ({"tool_choice": "required"}, "unsupported", "tool_choice"),
    "tools": ({"tools": [{"type": "function", "name": "f"}]}, "unsupported", "tools"),
    "mcp": ({"tools": [{"type": "mcp", "server_label": "x"}]}, None, "tools[0].type"),
    "format": (
        {"audio": {"input": {"format": {"type": "audio/wav"}}}},
        "invalid_value",
        "audio.input.format",
    ),
    "rate": (
        {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16_000}}}},
        "invalid_value",
        "audio.input.format.rate",
    ),
    "threshold": (
        {"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 2}}}},
        "invalid_value",
        "audio.input.turn_detection.threshold",
    ),
    "beta": ({"modalities": ["text"]}, "unknown_parameter", "modalities"),
    "long": ({"instructions": "x" * 40_000}, "string_above_max_length", "instructions"),
}


@pytest.mark.parametrize(("change", "code", "param"), WRONG.values(), ids=WRONG)
def test_wrong_update_changes_nothing(change, code, param):
    driver = Driver()
    before = driver.session.config
    sent = driver.send(
        "session.update",
        session={"type": "realtime", "instructions": "new", **change},
        event_id="e",
    )
    error = only(sent, "error")["error"]
    if code is not None:
        assert error["code"] == code
    assert error["param"] == f"session.{param}"
    assert error["event_id"] == "e"
    assert error["message"].startswith(f"session.{param} must ")
    assert driver.session.config is before


def test_padding_that_no_turn_has_room_for_is_refused():
    from llama_omni.serve.turn_settings import TurnSettings

    driver = Driver(ModelFacts(turns=TurnSettings(max_turn_ms=2_000)))
    detection = {"type": "server_vad", "prefix_padding_ms": 4_000}
    sent = driver.update(audio={"input": {"turn_detection": detection}})
    assert only(sent, "error")["error"]["param"] == "session.audio.input.turn_detection"


def test_voice_is_kept_once_a_response_has_sounded():
    driver = Driver()
    driver.ask()
    driver.send("response.create")
    driver.answer()
    sent = driver.update(audio={"output": {"voice": "marin"}})
    assert only(sent, "error")["error"]["code"] == "cannot_update_voice"
    assert names(driver.update(audio={"output": {"voice": "default"}})) == ["session.updated"]


TOOL = {"type": "function", "name": "f", "description": "x", "parameters": {"type": "object"}}


def test_tools_are_taken_where_the_model_has_them():
    driver = Driver(ModelFacts(tools=True))
    session = only(driver.update(tools=[TOOL], tool_choice="required"), "session.updated")[
        "session"
    ]
    assert session["tools"] == [TOOL]
    assert session["tool_choice"] == "required"
    choice = {"type": "function", "name": "f"}
    assert names(driver.update(tool_choice=choice)) == ["session.updated"]


@pytest.mark.parametrize(
    "tools",
    [
        pytest.param([TOOL] * 65, id="many"),
        pytest.param([{**TOOL, "description": "x" * 70_000}], id="large"),
    ],
)
def test_too_many_tools_are_refused(tools):
    sent = Driver(ModelFacts(tools=True)).update(tools=tools)
    assert only(sent, "error")["error"]["code"] == "tools_too_large"


# Sound


def test_appended_sound_goes_to_the_detector():
    import base64

    driver = Driver()
    data = np.array([0, 16_384, -32_768], "<i2").tobytes()
    sent = driver.send("input_audio_buffer.append", audio=base64.b64encode(data).decode())
    assert sent == []
    np.testing.assert_array_equal(driver.last(Listen).samples, np.float32([0, 0.5, -1]))
    driver.send("input_audio_buffer.append", audio="")
    assert driver.count(Listen) == 1


@pytest.mark.parametrize(
    ("audio", "code"),
    [
        pytest.param("!!!!", "invalid_base64", id="letters"),
        pytest.param("AAA", "invalid_base64", id="padding"),
        pytest.param("AAAA\n", "invalid_base64", id="newline"),
        pytest.param("\u00e9" * 4, "invalid_base64", id="no_ascii"),
        pytest.param("AAAA", "invalid_audio", id="odd"),
        pytest.param("AAAA" * 2_000_000, "audio_too_long", id="long"),
    ],
)
def test_wrong_sound_is_refused(audio, code):
    driver = Driver()
    error = only(driver.send("input_audio_buffer.append", audio=audio), "error")["error"]
    assert (error["code"], error["param"]) == (code, "audio")
    assert driver.count(Listen) == 0


# The end


def running():
    driver = Driver()
    driver.ask()
    driver.send("response.create")
    driver.reply(text_delta("It "))
    return driver


def test_draining_waits_for_the_response_and_begins_no_other():
    driver = running()
    assert driver.do(driver.session.drain()) == []
    sent = driver.send("response.create")
    assert only(sent, "error")["error"]["code"] == "server_shutting_down"
    driver.speak(voice())  # is heard, not answered, and stops the response as ever
    assert driver.last(Close).code == 1001
    assert driver.count(StartReply) == 1
    assert driver.send("response.create") == []


def test_idle_session_drains_at_once():
    driver = Driver()
    driver.do(driver.session.drain())
    assert driver.last(Close) == Close(code=1001, reason="the server is shutting down")


def test_old_session_ends_its_response_then_closes():
    driver = running()
    assert driver.do(driver.session.tick(5_000.0)) == []
    assert driver.do(driver.session.tick(3_604_000.0)) == []
    sent = driver.do(driver.session.tick(3_605_000.0))
    assert only(sent, "error")["error"]["code"] == "session_expired"
    assert only(sent, "response.done")["response"]["status"] == "cancelled"
    assert isinstance(driver.actions[-1], Close)
    assert driver.do(driver.session.tick(9_000_000.0)) == []


def test_vanished_client_leaves_no_work():
    driver = running()
    assert driver.do(driver.session.disconnected()) == []
    assert driver.last(CancelReply).generation == driver.last(StartReply).generation
    assert driver.reply(text_delta("four")) == []
    assert driver.do(driver.session.disconnected()) == []


def test_flood_of_errors_closes():
    driver = Driver(limits=SessionLimits(max_errors=5))
    for _ in range(4):
        driver.send("nonsense")
    driver.ask()  # one right event begins the count anew
    for _ in range(5):
        assert not driver.session.closed
        driver.send("nonsense")
    assert driver.last(Close).code == 1008
    assert driver.session.client("{}") == []


@pytest.mark.parametrize(
    "wrong", [{"max_items": 1}, {"min_turn_s": 0.0}, {"max_event_bytes": -1}], ids=str
)
def test_impossible_limits_are_refused(wrong):
    with pytest.raises(ConfigError, match="limits"):
        SessionLimits(**wrong)


def test_impossible_facts_are_refused():
    with pytest.raises(ConfigError, match="voice"):
        ModelFacts(voices=())
    with pytest.raises(ConfigError, match="max_output_tokens"):
        ModelFacts(max_output_tokens=0)


def test_session_has_defaults():
    (created, _tune) = Session().begin()
    assert json.loads(json.dumps(created.event))["type"] == "session.created"
