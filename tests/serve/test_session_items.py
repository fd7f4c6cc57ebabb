"""The conversation's items: what a client puts in, takes out, looks at and cuts."""

import base64

import numpy as np
import pytest
from session_tools import Driver, audio_delta, done, names, only, pcm, text_delta, voice

from llama_omni.serve.actions import CancelReply, StartReply, Transcribe, TruncateReply
from llama_omni.serve.limits import ModelFacts, SessionLimits


def message(role="user", kind="input_text", **part):
    part = part or {"text": "hello"}
    return {"type": "message", "role": role, "content": [{"type": kind, **part}]}


def create(driver, item, **fields):
    return driver.send("conversation.item.create", item=item, **fields)


ITEMS = {
    "user": message(),
    "user_with_nulls": {**message(), "id": None, "status": None, "object": None},
    "whole": {**message(), "id": "mine", "status": "completed", "object": "realtime.item"},
    "system": message("system"),
    "assistant": message("assistant", "output_text"),
    "sound": message(kind="input_audio", audio=pcm(200)),
    "sound_and_words": message(kind="input_audio", audio=pcm(200), transcript="hm"),
}


@pytest.mark.parametrize("item", ITEMS.values(), ids=ITEMS)
def test_item_is_added_and_done(item):
    sent = create(Driver(), item)
    assert names(sent) == ["conversation.item.added", "conversation.item.done"]
    shown = sent[0]["item"]
    assert shown == sent[1]["item"]
    assert shown["status"] == "completed"
    assert shown["role"] == item["role"]
    assert "audio" not in shown["content"][0]
    if item.get("id"):
        assert shown["id"] == item["id"]


def test_items_are_linked_in_their_order():
    driver = Driver()
    first, second = driver.ask("a"), driver.ask("b")
    sent = create(driver, {**message(), "id": "between"}, previous_item_id=first)
    assert sent[0]["previous_item_id"] == first
    sent = create(driver, {**message(), "id": "front"}, previous_item_id="root")
    assert sent[0]["previous_item_id"] is None
    sent = create(driver, {**message(), "id": "end"}, previous_item_id=None)
    assert sent[0]["previous_item_id"] == second
    assert driver.wire.items == ["front", first, "between", second, "end"]
    driver.send("response.create")
    assert len(driver.last(StartReply).request.turns) == 5


WRONG = {
    "unknown_previous": (message(), {"previous_item_id": "x"}, "item_not_found"),
    "root_id": ({**message(), "id": "root"}, {}, "item_exists"),
    "empty": (message(text=""), {}, "missing_required_parameter"),
    "no_text": (message(transcript="x"), {}, "missing_required_parameter"),
    "no_audio": (message(kind="input_audio"), {}, "missing_required_parameter"),
    "short_audio": (message(kind="input_audio", audio=pcm(50)), {}, "audio_too_short"),
    "long_audio": (message(kind="input_audio", audio=pcm(31_000)), {}, "audio_too_long"),
    "odd_audio": (message(kind="input_audio", audio="AAAA"), {}, "invalid_audio"),
    "image": (message(kind="input_image", image_url="x"), {}, "invalid_value"),
    "assistant_audio": (message("assistant", "output_audio", audio=pcm()), {}, "invalid_value"),
    "system_audio": (message("system", "input_audio", audio=pcm()), {}, "invalid_value"),
    "no_content": ({"type": "message", "role": "user", "content": []}, {}, "invalid_value"),
    "role": (message("tool"), {}, "invalid_type"),
    "kind": ({"type": "mcp_call"}, {}, "invalid_type"),
    "no_object": ("x", {}, "invalid_type"),
    "id_type": ({**message(), "id": 5}, {}, "invalid_type"),
    "id_long": ({**message(), "id": "x" * 65}, {}, "invalid_value"),
    "long": (message(text="x" * 70_000), {}, "item_too_large"),
    "call": ({"type": "function_call", "name": "f", "arguments": "{}"}, {}, "unsupported"),
    "output": (
        {"type": "function_call_output", "call_id": "c", "output": "4"},
        {},
        "unsupported",
    ),
}


@pytest.mark.parametrize(("item", "fields", "code"), WRONG.values(), ids=WRONG)
def test_wrong_item_is_refused(item, fields, code):
    driver = Driver()
    error = only(create(driver, item, event_id="e", **fields), "error")["error"]
    assert error["code"] == code
    assert error["param"]
    assert error["event_id"] == "e"
    assert driver.wire.items == []


def test_name_is_used_once():
    driver = Driver()
    create(driver, {**message(), "id": "a"})
    sent = create(driver, {**message(), "id": "a"})
    assert only(sent, "error")["error"]["code"] == "item_exists"


def test_full_conversation_refuses_items_and_forgets_the_oldest_for_speech():
    driver = Driver(limits=SessionLimits(max_items=3))
    first = driver.ask("a")
    driver.ask("b")
    driver.ask("c")
    sent = create(driver, message())
    assert only(sent, "error")["error"]["code"] == "conversation_full"
    sent = driver.speak(voice())
    assert only(sent, "conversation.item.deleted")["item_id"] == first
    assert len(driver.wire.items) == 3


def test_sound_is_bounded():
    driver = Driver(limits=SessionLimits(max_audio_s=1.0))
    create(driver, message(kind="input_audio", audio=pcm(600)))
    sent = create(driver, message(kind="input_audio", audio=pcm(600)))
    assert only(sent, "error")["error"]["code"] == "conversation_full"
    assert len(driver.wire.items) == 1
    assert "conversation.item.deleted" in names(driver.speak(voice(900)))
    assert len(driver.wire.items) == 1


# Retrieve and delete


@pytest.mark.parametrize(
    ("sound", "width"), [("audio/pcm", 48), ("audio/pcmu", 8), ("audio/pcma", 8)]
)
def test_retrieved_item_has_its_sound_in_the_sessions_format(sound, width):
    driver = Driver()
    driver.update(audio={"input": {"format": {"type": sound}}})
    driver.speak(voice(500))
    sent = driver.send("conversation.item.retrieve", item_id=driver.wire.items[0])
    part = only(sent, "conversation.item.retrieved")["item"]["content"][0]
    data = base64.b64decode(part["audio"])
    assert len(data) == 500 * width
    if sound == "audio/pcm":
        heard = np.frombuffer(data, "<i2") / 32_768
        assert np.sqrt((heard**2).mean()) == pytest.approx(0.1 * np.sqrt(0.92), rel=0.1)


def test_deleted_item_is_not_asked():
    driver = Driver()
    first = driver.ask("a")
    driver.ask("b")
    sent = driver.send("conversation.item.delete", item_id=first)
    assert only(sent, "conversation.item.deleted")["item_id"] == first
    driver.send("response.create")
    assert [turn.text for turn in driver.last(StartReply).request.turns] == ["b"]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("conversation.item.delete", {}),
        ("conversation.item.retrieve", {}),
        ("conversation.item.truncate", {"content_index": 0, "audio_end_ms": 0}),
    ],
)
def test_unknown_item_is_refused(kind, fields):
    error = only(Driver().send(kind, item_id="nobody", event_id="e", **fields), "error")["error"]
    assert (error["code"], error["param"], error["event_id"]) == ("item_not_found", "item_id", "e")


def test_item_that_is_being_answered_is_not_deleted():
    driver = asked()
    driver.reply(text_delta("It is"))
    sent = driver.send("conversation.item.delete", item_id=driver.wire.items[-1])
    assert only(sent, "error")["error"]["code"] == "item_in_progress"


# Truncate


def asked():
    driver = Driver()
    driver.ask()
    driver.send("response.create")
    return driver


def spoken():
    """An answer of four words in two pieces of 300 ms, two words each."""
    driver = asked()
    driver.reply(text_delta("It is ", first=0))
    driver.reply(audio_delta(300, tokens=(0, 2)))
    driver.reply(text_delta("four o'clock.", first=2))
    driver.reply(audio_delta(300, first_ms=300, tokens=(2, 4)))
    return driver


def truncate(driver, ms, **fields):
    item_id = driver.wire.items[-1]
    fields = {"item_id": item_id, "content_index": 0, "audio_end_ms": ms, **fields}
    return driver.send("conversation.item.truncate", **fields)


@pytest.mark.parametrize(
    ("ms", "heard", "tokens"),
    [(600, "It is four o'clock.", 4), (450, "It is ", 2), (300, "It is ", 2), (0, None, 0)],
)
def test_history_keeps_only_what_was_heard(ms, heard, tokens):
    driver = spoken()
    driver.reply(done("It is four o'clock.", 600))
    sent = truncate(driver, ms)
    assert only(sent, "conversation.item.truncated")["audio_end_ms"] == ms
    cut = driver.last(TruncateReply)
    assert (cut.generation, cut.samples) == (driver.last(StartReply).generation, 16 * ms)
    shown = driver.send("conversation.item.retrieve", item_id=cut.item_id)[0]["item"]
    assert shown["content"][0]["transcript"] == (heard or "")
    driver.ask("and?")
    driver.send("response.create")
    answers = [t for t in driver.last(StartReply).request.turns if t.role == "assistant"]
    if heard is None:
        assert answers == []
    else:
        assert (answers[0].text, len(answers[0].token_ids)) == (heard, tokens)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"audio_end_ms": 601}, "audio_end_ms"),
        ({"audio_end_ms": -1}, "audio_end_ms"),
        ({"audio_end_ms": 1.5}, "audio_end_ms"),
        ({"content_index": 1}, "content_index"),
        ({"item_id": "item_1"}, "item_id"),
    ],
)
def test_wrong_truncation_changes_nothing(fields, param):
    driver = spoken()
    driver.reply(done("It is four o'clock.", 600))
    error = only(truncate(driver, 300, **fields), "error")["error"]
    assert error["param"] == param
    assert driver.count(TruncateReply) == 0


def test_truncation_cannot_be_taken_back():
    driver = spoken()
    truncate(driver, 300)
    assert only(truncate(driver, 400), "error")["error"]["param"] == "audio_end_ms"
    assert names(truncate(driver, 200)) == ["conversation.item.truncated"]


def test_truncation_stops_the_response_and_a_cancel_after_it_is_no_error():
    driver = spoken()
    sent = truncate(driver, 300)
    assert only(sent, "response.done")["response"]["status"] == "cancelled"
    assert driver.count(CancelReply) == 1
    assert driver.send("response.cancel") == []
    assert only(driver.send("response.cancel"), "error")


def test_cancel_after_another_response_is_an_error_again():
    driver = spoken()
    truncate(driver, 300)
    driver.ask("and?")
    driver.send("response.create")
    driver.answer()
    assert only(driver.send("response.cancel"), "error")


def test_answer_that_is_being_made_is_not_forgotten():
    driver = Driver(limits=SessionLimits(max_items=2))
    driver.update(
        audio={"input": {"turn_detection": {"type": "server_vad", "interrupt_response": False}}}
    )
    first = driver.ask()
    driver.send("response.create")
    driver.reply(text_delta("It is"))
    answer = driver.wire.items[-1]
    driver.send("conversation.item.delete", item_id=first)
    driver.ask("b")
    driver.speak(voice())
    assert answer in driver.wire.items
    assert only(driver.reply(done()), "response.done")


def test_answer_that_was_cancelled_then_cut_keeps_its_tokens_once_they_are_known():
    driver = spoken()
    generation = driver.last(StartReply).generation
    driver.send("response.cancel")
    truncate(driver, 300)
    late = driver.reply(done("It is four o'clock.", 600, finish_reason="cancelled"), generation)
    assert late == []
    driver.ask("and?")
    driver.send("response.create")
    (answer,) = [t for t in driver.last(StartReply).request.turns if t.role == "assistant"]
    assert (answer.text, answer.token_ids) == ("It is ", (0, 1))


def test_written_answer_cannot_be_truncated():
    driver = Driver()
    driver.update(output_modalities=["text"])
    driver.ask()
    driver.send("response.create")
    driver.reply(text_delta("Four."))
    driver.reply(done("Four.", 0))
    assert only(truncate(driver, 0), "error")["error"]["param"] == "item_id"


# Function calls


def test_function_items_are_kept_where_the_model_has_tools():
    driver = Driver(ModelFacts(tools=True))
    driver.ask("weather?")
    create(driver, {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"})
    create(driver, {"type": "function_call_output", "call_id": "c", "output": "sunny"})
    driver.send("response.create")
    items = driver.last(StartReply).request.items
    assert [item["type"] for item in items] == ["message", "function_call", "function_call_output"]
    assert items[2]["output"] == "sunny"


# Transcripts


def test_spoken_item_is_transcribed_where_asked():
    driver = Driver(ModelFacts(recognizer=True))
    driver.update(audio={"input": {"transcription": {"model": "x", "language": "en"}}})
    driver.speak(voice(500))
    wanted = driver.last(Transcribe)
    assert (wanted.item_id, wanted.language, len(wanted.audio)) == (
        driver.wire.items[0],
        "en",
        8000,
    )
    kind = "conversation.item.input_audio_transcription"
    piece = driver.do(driver.session.transcript(wanted.item_id, "what ", final=False))
    assert only(piece, f"{kind}.delta")["delta"] == "what "
    whole = driver.do(driver.session.transcript(wanted.item_id, "what is it"))
    assert only(whole, f"{kind}.completed")["usage"] == {"type": "duration", "seconds": 0.5}
    assert driver.do(driver.session.transcript(wanted.item_id, "again")) == []
    assert driver.do(driver.session.transcript_failed(wanted.item_id, "late")) == []
    shown = driver.send("conversation.item.retrieve", item_id=wanted.item_id)[0]["item"]
    assert shown["content"][0]["transcript"] == "what is it"


def test_failed_transcript_is_told():
    driver = Driver(ModelFacts(recognizer=True))
    driver.update(audio={"input": {"transcription": {"model": "x"}}})
    driver.speak(voice())
    sent = driver.do(driver.session.transcript_failed(driver.wire.items[0], "it broke"))
    assert sent[0]["error"]["message"] == "it broke"


def test_transcript_without_a_recogniser_fails_clearly():
    driver = Driver()
    driver.update(audio={"input": {"transcription": {"model": "whisper-1"}}})
    failed = only(driver.speak(), "conversation.item.input_audio_transcription.failed")
    assert failed["error"]["code"] == "no_recognizer"
    assert driver.count(Transcribe) == 0


def test_transcript_of_a_deleted_item_is_dropped():
    driver = Driver(ModelFacts(recognizer=True))
    driver.update(audio={"input": {"transcription": {"model": "x"}}})
    driver.speak(voice())
    item_id = driver.wire.items[0]
    driver.send("conversation.item.delete", item_id=item_id)
    assert driver.do(driver.session.transcript(item_id, "words")) == []
    assert driver.do(driver.session.transcript("nobody", "words")) == []
