"""Responses: their events in order, what is asked of the model, and every way they end."""

import base64

import numpy as np
import pytest
from session_tools import Driver, audio_delta, done, names, only, pcm, text_delta, voice

from llama_omni.interfaces import ReplyFailed
from llama_omni.serve.actions import (
    CancelReply,
    DropAudio,
    Finished,
    InputUsage,
    StartReply,
    ToolCall,
)
from llama_omni.serve.limits import ModelFacts, SessionLimits

R = "response."
BEGIN = [f"{R}output_item.added", "conversation.item.added", f"{R}content_part.added"]
END = [f"{R}content_part.done", "conversation.item.done", f"{R}output_item.done", f"{R}done"]


def asked(model=None, limits=None, **update):
    driver = Driver(model, limits)
    if update:
        driver.update(**update)
    driver.ask()
    return driver


def test_spoken_response_is_told_in_order():
    driver = asked()
    sent = driver.send("response.create")
    assert names(sent) == ["response.created", "rate_limits.updated"]
    assert sent[0]["response"]["conversation_id"]
    sent = driver.answer("It is four.", 400)
    words, sound = f"{R}output_audio_transcript", f"{R}output_audio"
    assert names(sent) == [
        *BEGIN,
        f"{words}.delta",
        f"{sound}.delta",
        f"{sound}.delta",
        f"{sound}.done",
        f"{words}.done",
        *END,
    ]
    assert only(sent, f"{words}.done")["transcript"] == "It is four."
    finished = sent[-1]["response"]
    assert finished["status"] == "completed"
    assert finished["output"][0]["content"] == [
        {"type": "output_audio", "transcript": "It is four."}
    ]
    assert driver.last(Finished).audio_ms == 400


def test_written_response_has_no_sound():
    driver = asked(output_modalities=["text"])
    driver.send("response.create")
    assert not driver.last(StartReply).request.options.speech
    sent = driver.reply(text_delta("It is "))
    sent += driver.reply(audio_delta(100))
    sent += driver.reply(text_delta("four.", first=2))
    sent += driver.reply(done("It is four.", 0))
    words = f"{R}output_text"
    assert names(sent) == [*BEGIN, f"{words}.delta", f"{words}.delta", f"{words}.done", *END]
    assert sent[-1]["response"]["output"][0]["content"] == [
        {"type": "output_text", "text": "It is four."}
    ]


@pytest.mark.parametrize(
    ("sound", "per_ms"), [("audio/pcm", 48), ("audio/pcmu", 8), ("audio/pcma", 8)]
)
def test_sound_comes_whole_in_the_sessions_format(sound, per_ms):
    driver = asked(audio={"output": {"format": {"type": sound}}})
    driver.send("response.create")
    driver.reply(text_delta("It is four."))
    for first in range(0, 2_500, 250):
        driver.reply(audio_delta(250, first_ms=first))
    driver.reply(done(ms=2_500))
    deltas = [e["delta"] for e in driver.events if e["type"] == f"{R}output_audio.delta"]
    data = b"".join(base64.b64decode(delta) for delta in deltas)
    assert len(data) == 2_500 * per_ms
    if sound == "audio/pcm":
        middle = np.frombuffer(data, "<i2")[2_000:-2_000] / 32_768
        assert np.abs(middle - 0.25).max() < 1e-3


def test_long_sound_is_sent_in_pieces():
    driver = asked()
    driver.send("response.create")
    sent = driver.reply(audio_delta(3_500))
    assert names(sent).count(f"{R}output_audio.delta") == 4


def test_empty_reply_is_a_response_without_output():
    driver = asked()
    driver.send("response.create")
    sent = driver.reply(done("", 0))
    assert names(sent) == ["response.done"]
    assert sent[0]["response"]["output"] == []


def test_usage_counts_what_was_read_and_made():
    driver = asked()
    driver.send("response.create")
    driver.reply(InputUsage(text_tokens=10, audio_tokens=5, cached_tokens=8))
    usage = driver.answer("It is four.", 400)[-1]["response"]["usage"]
    assert usage == {
        "total_tokens": 38,
        "input_tokens": 15,
        "output_tokens": 23,
        "input_token_details": {"text_tokens": 10, "audio_tokens": 5, "cached_tokens": 8},
        "output_token_details": {"text_tokens": 3, "audio_tokens": 20},
    }


def test_usage_is_estimated_where_it_is_not_told():
    driver = Driver()
    driver.speak(voice(1_000))
    usage = driver.answer()[-1]["response"]["usage"]
    assert usage["input_token_details"]["audio_tokens"] == 10


# What is asked


def test_request_holds_instructions_and_history():
    driver = asked(instructions="Be brief.", max_output_tokens=50)
    driver.send("response.create")
    driver.answer("It is four.")
    content = [{"type": "input_text", "text": "Use French."}]
    item = {"type": "message", "role": "system", "content": content}
    driver.send("conversation.item.create", item=item)
    driver.ask("and now?")
    driver.send("response.create")
    request = driver.last(StartReply).request
    assert [(turn.role, turn.text) for turn in request.turns] == [
        ("system", "Be brief.\n\nUse French."),
        ("user", "hello"),
        ("assistant", "It is four."),
        ("user", "and now?"),
    ]
    assert request.turns[2].token_ids == (0, 1, 2)
    assert request.options.max_new_tokens == 50


def test_overrides_hold_for_one_response():
    driver = asked(model=ModelFacts(max_output_tokens=200))
    patch = {
        "instructions": "Shout.",
        "output_modalities": ["text"],
        "max_output_tokens": 4_096,
        "temperature": 1,
        "metadata": {"topic": "x"},
        "audio": {"output": {"voice": "alloy", "format": {"type": "audio/pcmu"}}},
    }
    sent = driver.send("response.create", response=patch)
    shown = sent[0]["response"]
    assert shown["metadata"] == {"topic": "x"}
    assert shown["output_modalities"] == ["text"]
    assert shown["max_output_tokens"] == 4_096
    assert shown["audio"]["output"] == {"voice": "alloy", "format": {"type": "audio/pcmu"}}
    request = driver.last(StartReply).request
    assert request.turns[0].text == "Shout."
    assert request.options.max_new_tokens == 200
    assert request.options.temperature == 1.0
    driver.reply(done("", 0))
    driver.send("response.create")
    assert driver.last(StartReply).request.turns[0].role == "user"


def test_out_of_band_response_leaves_the_conversation_as_it_is():
    driver = asked()
    other = driver.ask("secret")
    content = [{"type": "input_text", "text": "Classify."}]
    given = [
        {"type": "item_reference", "id": other},
        {"type": "message", "role": "user", "content": content},
    ]
    sent = driver.send("response.create", response={"conversation": "none", "input": given})
    assert sent[0]["response"]["conversation_id"] is None
    request = driver.last(StartReply).request
    assert request.out_of_band
    assert [turn.text for turn in request.turns] == ["secret", "Classify."]
    before = list(driver.wire.items)
    sent = driver.answer("fine")
    assert "conversation.item.added" not in names(sent)
    assert driver.wire.items == before


def test_input_in_the_conversation_is_asked_instead_of_the_history():
    driver = asked()
    sound = [{"type": "input_audio", "audio": pcm(300)}]
    given = [{"type": "message", "role": "user", "content": sound}]
    driver.send("response.create", response={"input": given})
    (turn,) = driver.last(StartReply).request.turns
    assert len(turn.audio) == 4_800
    driver.answer()
    assert len(driver.wire.items) == 2


def test_greeting_needs_instructions_only():
    driver = Driver()
    driver.update(instructions="You are kind.")
    driver.send("response.create", response={"instructions": "Greet the user."})
    turns = driver.last(StartReply).request.turns
    assert [(turn.role, turn.text) for turn in turns] == [
        ("system", "You are kind."),
        ("user", "Greet the user."),
    ]


def test_response_beside_another_is_bounded():
    driver = asked(limits=SessionLimits(max_out_of_band=1))
    driver.send("response.create")
    first = driver.last(StartReply).generation
    beside = {"conversation": "none"}
    assert "response.created" in names(driver.send("response.create", response=beside))
    second = driver.last(StartReply).generation
    sent = driver.send("response.create", response=beside)
    assert only(sent, "error")["error"]["code"] == "too_many_responses"
    sent = driver.send("response.create")
    error = only(sent, "error")["error"]
    assert error["code"] == "conversation_already_has_active_response"
    assert driver.reply(done(), second)[-1]["response"]["conversation_id"] is None
    assert driver.reply(done(), first)[-1]["response"]["conversation_id"]


WRONG = {
    "nothing": (None, "nothing_to_answer"),
    "empty_input": ({"input": []}, "nothing_to_answer"),
    "conversation": ({"conversation": "x"}, "invalid_value"),
    "reference": ({"input": [{"type": "item_reference", "id": "x"}]}, "item_not_found"),
    "input_type": ({"input": "x"}, "invalid_type"),
    "many": (
        {"input": [{"type": "item_reference", "id": "x"}] * 300},
        "invalid_value",
    ),
    "tools": ({"tools": [{"type": "function", "name": "f"}]}, "unsupported"),
    "voice": ({"audio": {"output": {"voice": "hal"}}}, "unsupported"),
    "instructions": ({"instructions": "x" * 40_000}, "string_above_max_length"),
    "metadata": ({"metadata": {str(i): "" for i in range(17)}}, "invalid_value"),
    "unknown": ({"modalities": ["text"]}, "unknown_parameter"),
}


@pytest.mark.parametrize(("patch", "code"), WRONG.values(), ids=WRONG)
def test_wrong_response_is_refused(patch, code):
    driver = Driver()
    sent = driver.send("response.create", response=patch, event_id="e")
    error = only(sent, "error")["error"]
    assert (error["code"], error["event_id"]) == (code, "e")
    assert error["param"].startswith("response")
    assert driver.count(StartReply) == 0


# Every way to end


@pytest.mark.parametrize(
    ("reason", "status", "why"),
    [
        ("stop", "completed", None),
        ("length", "incomplete", "max_output_tokens"),
        ("cancelled", "cancelled", "client_cancelled"),
    ],
)
def test_response_ends_as_its_reply_does(reason, status, why):
    driver = asked()
    driver.send("response.create")
    response = driver.answer(finish_reason=reason)[-1]["response"]
    assert response["status"] == status
    assert (response["status_details"] or {}).get("reason") == why
    assert response["output"][0]["status"] == ("completed" if why is None else "incomplete")
    assert driver.last(Finished).status == status


def test_cancelled_response_ends_at_once_and_shows_nothing_more():
    driver = asked()
    driver.send("response.create")
    driver.reply(text_delta("It is"))
    driver.reply(audio_delta(200))
    sent = driver.send("response.cancel")
    assert names(sent)[-4:] == END
    assert sent[-1]["response"]["status"] == "cancelled"
    assert sent[-1]["response"]["status_details"]["reason"] == "client_cancelled"
    assert driver.last(CancelReply).generation == driver.last(StartReply).generation
    assert driver.reply(audio_delta(200, first_ms=200)) == []
    assert driver.reply(done()) == []
    assert len(driver.wire.items) == 2, "the user's turn stays"


def test_cancel_by_name():
    driver = asked()
    driver.send("response.create")
    first = driver.last(StartReply).response_id
    driver.send("response.create", response={"conversation": "none"})
    second = driver.last(StartReply).response_id
    sent = driver.send("response.cancel", response_id=second)
    assert only(sent, "response.done")["response"]["id"] == second
    sent = driver.send("response.cancel")
    assert only(sent, "response.done")["response"]["id"] == first


@pytest.mark.parametrize("fields", [{}, {"response_id": "resp_9"}, {"response_id": None}])
def test_cancel_of_nothing_is_refused(fields):
    error = only(Driver().send("response.cancel", **fields), "error")["error"]
    assert error["code"] == "response_cancel_not_active"


@pytest.mark.parametrize(
    ("kind", "error_type", "code"),
    [
        ("input", "invalid_request_error", "reply_refused"),
        ("capacity", "server_error", "overloaded"),
        ("engine", "server_error", "engine_failed"),
    ],
)
def test_failed_reply_is_an_error_and_the_end_of_its_response(kind, error_type, code):
    driver = asked()
    driver.send("response.create")
    driver.reply(text_delta("It"))
    sent = driver.reply(ReplyFailed(kind=kind, message="no room"))
    error = only(sent, "error")["error"]
    assert (error["type"], error["code"], error["message"]) == (error_type, code, "no room")
    response = sent[-1]["response"]
    assert response["status"] == "failed"
    assert response["status_details"]["error"]["code"] == code
    assert driver.reply(text_delta("more")) == []
    assert "response.created" in names(driver.send("response.create"))


def test_events_of_unknown_generations_show_nothing():
    driver = asked()
    for event in (text_delta("x"), audio_delta(10), done()):
        assert driver.reply(event, 77) == []
    assert driver.reply(ReplyFailed(kind="engine", message="x"), 77) == []


def test_output_is_cleared_as_over_webrtc():
    driver = asked()
    error = only(driver.send("output_audio_buffer.clear"), "error")["error"]
    assert error["code"] == "output_audio_buffer_empty"
    driver.send("response.create")
    driver.reply(audio_delta(200))
    sent = driver.send("output_audio_buffer.clear")
    response_id = only(sent, "response.done")["response"]["id"]
    assert sent[-1]["type"] == "output_audio_buffer.cleared"
    assert sent[-1]["response_id"] == response_id == driver.last(DropAudio).response_id


def test_item_put_in_meanwhile_comes_after_the_answer():
    driver = asked()
    driver.send("response.create")
    later = driver.ask("wait")
    driver.reply(text_delta("It"))
    assert driver.wire.items[-1] == later
    driver.reply(done())
    driver.send("response.create")
    roles = [turn.role for turn in driver.last(StartReply).request.turns]
    assert roles == ["user", "assistant", "user"]


def test_function_call_is_an_item_of_its_own():
    driver = asked(model=ModelFacts(tools=True))
    driver.update(tools=[{"type": "function", "name": "f"}])
    driver.send("response.create")
    assert driver.last(StartReply).request.tools[0]["name"] == "f"
    sent = driver.reply(ToolCall(name="f", arguments='{"x":1}'))
    kind = f"{R}function_call_arguments"
    assert names(sent) == [
        f"{R}output_item.added",
        "conversation.item.added",
        f"{kind}.delta",
        f"{kind}.done",
        "conversation.item.done",
        f"{R}output_item.done",
    ]
    sent = driver.answer("One moment.")
    output = sent[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["function_call", "message"]
    assert output[0]["arguments"] == '{"x":1}'
    assert only(sent, f"{R}content_part.added")["output_index"] == 1


def test_rate_limit_is_the_room_for_responses():
    sent = asked()
    (limit,) = only(sent.send("response.create"), "rate_limits.updated")["rate_limits"]
    assert limit == {"name": "requests", "limit": 3, "remaining": 2, "reset_seconds": 0.0}
