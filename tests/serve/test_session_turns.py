"""Spoken turns: items, responses, interruption, and replies prepared unseen."""

import numpy as np
import pytest
from session_tools import (
    Driver,
    audio_delta,
    done,
    names,
    only,
    pause,
    stopped,
    text_delta,
    timed_out,
    voice,
)

from llama_omni.serve.actions import (
    Abandon,
    CancelReply,
    ClearAudio,
    CommitAudio,
    Prepare,
    StartReply,
    Tune,
)
from llama_omni.serve.limits import ModelFacts
from llama_omni.serve.turn_events import BufferFull, SpeechResumed, SpeechStarted

B = "input_audio_buffer."
COMMITTED = [f"{B}committed", "conversation.item.added", "conversation.item.done"]
RESPONSE = ["response.created", "rate_limits.updated"]


def started(at=1_000):
    return SpeechStarted(audio_start_ms=at, at_ms=at + 64)


def detection(driver, **fields):
    return driver.update(audio={"input": {"turn_detection": {"type": "server_vad", **fields}}})


def test_turn_becomes_an_item_and_a_response():
    driver = Driver()
    begin = driver.turn(started(1_000))
    assert names(begin) == [f"{B}speech_started"]
    assert begin[0]["audio_start_ms"] == 1_000
    segment = voice(500)
    end = driver.turn(stopped(segment))
    assert names(end) == [f"{B}speech_stopped", *COMMITTED, *RESPONSE]
    assert {event["item_id"] for event in (begin[0], *end[:2])} == {driver.wire.items[0]}
    start = driver.last(StartReply)
    assert not start.prepared
    np.testing.assert_array_equal(start.request.turns[-1].audio, segment)
    assert end[2]["item"]["content"] == [{"type": "input_audio", "transcript": None}]


def test_second_turn_follows_the_first_answer():
    driver = Driver()
    driver.speak()
    driver.answer()
    sent = driver.speak(voice(seed=1))
    assert only(sent, f"{B}committed")["previous_item_id"] == driver.wire.items[1]
    roles = [turn.role for turn in driver.last(StartReply).request.turns]
    assert roles == ["user", "assistant", "user"]


def test_turn_without_create_response_is_an_item_only():
    driver = Driver()
    detection(driver, create_response=False)
    assert names(driver.speak()) == [f"{B}speech_started", f"{B}speech_stopped", *COMMITTED]
    assert driver.turn(pause(voice())) == []
    assert driver.count(Prepare) == 0


def test_events_of_a_detector_that_was_turned_off_show_nothing():
    driver = Driver()
    driver.update(audio={"input": {"turn_detection": None}})
    assert driver.speak() == []


def test_timeout_is_a_turn():
    sent = Driver().turn(timed_out(voice()))
    assert names(sent) == [f"{B}timeout_triggered", *COMMITTED, *RESPONSE]


def test_full_buffer_is_an_error():
    sent = Driver().turn(BufferFull(at_ms=30_000))
    assert only(sent, "error")["error"]["code"] == "input_audio_buffer_full"


# Push to talk


def push_to_talk():
    driver = Driver()
    driver.update(audio={"input": {"turn_detection": None}})
    return driver


def test_commit_makes_an_item_and_no_response():
    driver = push_to_talk()
    driver.buffer = voice(500)
    assert names(driver.send(f"{B}commit")) == COMMITTED
    assert driver.count(StartReply) == 0
    driver.send("response.create")
    assert len(driver.last(StartReply).request.turns[0].audio) == 8_000


@pytest.mark.parametrize("ms", [0, 99])
def test_commit_of_nothing_is_refused(ms):
    driver = push_to_talk()
    driver.buffer = voice(ms)
    error = only(driver.send(f"{B}commit", event_id="e"), "error")["error"]
    assert (error["code"], error["event_id"]) == ("input_audio_buffer_commit_empty", "e")
    assert driver.wire.items == []


def test_sound_that_nobody_committed_is_no_item():
    driver = push_to_talk()
    assert driver.committed(voice()) == []


def test_commit_in_the_middle_of_a_turn_uses_its_name():
    driver = Driver()
    (begin,) = driver.turn(started())
    driver.buffer = voice(300)
    sent = driver.send(f"{B}commit")
    assert only(sent, f"{B}committed")["item_id"] == begin["item_id"]
    assert driver.speak(at=3_000)[0]["item_id"] != begin["item_id"]


def test_clear_forgets_the_turn():
    driver = Driver()
    (begin,) = driver.turn(started())
    driver.turn(pause(voice()))
    assert names(driver.send(f"{B}clear")) == [f"{B}cleared"]
    assert driver.count(ClearAudio) == driver.count(Abandon) == 1
    assert driver.turn(started(5_000))[0]["item_id"] != begin["item_id"]


# Interruption


def talking():
    driver = Driver()
    driver.speak()
    driver.reply(text_delta("It is"))
    driver.reply(audio_delta(500))
    return driver


def test_speech_cancels_the_response():
    driver = talking()
    sent = driver.turn(started(4_000))
    assert names(sent)[0] == f"{B}speech_started"
    response = only(sent, "response.done")["response"]
    assert response["status"] == "cancelled"
    assert response["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert driver.last(CancelReply).generation == driver.last(StartReply).generation
    assert driver.reply(audio_delta(500)) == []
    assert len(driver.wire.items) == 2


def test_speech_leaves_the_response_where_the_client_says_so():
    driver = talking()
    detection(driver, interrupt_response=False)
    assert names(driver.turn(started(4_000))) == [f"{B}speech_started"]
    driver.turn(pause(voice(seed=1)))
    assert driver.count(Prepare) == 0, "one response at a time"
    sent = driver.turn(stopped(voice(seed=1), 4_000))
    error = only(sent, "error")["error"]
    assert error["code"] == "conversation_already_has_active_response"
    assert driver.reply(done())[-1]["response"]["status"] == "completed"


def test_speech_leaves_responses_out_of_band():
    driver = Driver()
    driver.ask()
    driver.send("response.create", response={"conversation": "none"})
    driver.turn(started())
    assert driver.count(CancelReply) == 0


# Prepared replies


def test_prepared_reply_shows_nothing_and_becomes_the_response():
    driver = Driver()
    driver.turn(started())
    segment = voice(400)
    assert driver.turn(pause(segment)) == []
    prepared = driver.last(Prepare)
    sent = driver.turn(stopped(segment.copy()))
    assert "response.created" in names(sent)
    start = driver.last(StartReply)
    assert start.prepared
    assert start.generation == prepared.generation
    assert driver.count(Abandon) == 0
    assert start.request.key == prepared.request.key
    driver.answer()


def test_prepared_reply_is_dropped_when_speech_goes_on():
    driver = Driver()
    driver.turn(started())
    driver.turn(pause(voice(400)))
    first = driver.last(Prepare).generation
    assert driver.turn(SpeechResumed(at_ms=2_000)) == []
    assert driver.last(Abandon).generation == first
    longer = voice(900, seed=1)
    driver.turn(pause(longer))
    driver.turn(stopped(longer))
    assert driver.last(StartReply).generation == driver.last(Prepare).generation > first
    assert driver.count(Abandon) == 1


CHANGES = {
    "item": lambda driver: driver.ask("also this"),
    "deletion": lambda driver: driver.send(
        "conversation.item.delete", item_id=driver.wire.items[0]
    ),
    "instructions": lambda driver: driver.update(instructions="Be brief."),
    "modality": lambda driver: driver.update(output_modalities=["text"]),
    "tokens": lambda driver: driver.update(max_output_tokens=7),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_prepared_reply_to_another_question_is_not_used(change):
    driver = Driver()
    driver.ask("first")
    driver.turn(started())
    driver.turn(pause(voice()))
    change(driver)
    driver.turn(stopped(voice()))
    start = driver.last(StartReply)
    assert not start.prepared
    assert driver.last(Abandon).generation == driver.last(Prepare).generation < start.generation


def test_prepared_reply_that_read_more_than_was_heard_is_not_used():
    driver = talking()
    driver.reply(done("It is", 500))
    driver.turn(started(4_000))
    driver.turn(pause(voice(seed=1)))
    fields = {"item_id": driver.wire.items[-1], "content_index": 0, "audio_end_ms": 0}
    driver.send("conversation.item.truncate", **fields)
    driver.turn(stopped(voice(seed=1), 4_000))
    assert not driver.last(StartReply).prepared


def test_new_turn_drops_what_was_prepared():
    driver = Driver()
    driver.turn(started())
    driver.turn(pause(voice()))
    driver.turn(started(3_000))
    assert driver.count(Abandon) == 1


def test_prepared_reply_to_another_sound_is_not_used():
    driver = Driver()
    driver.turn(started())
    driver.turn(pause(voice(seed=1)))
    driver.turn(stopped(voice(seed=2)))
    assert not driver.last(StartReply).prepared
    assert driver.count(Abandon) == 1


def test_change_that_does_not_matter_keeps_the_prepared_reply():
    driver = Driver()
    driver.turn(started())
    driver.turn(pause(voice()))
    driver.update(audio={"input": {"transcription": {"model": "x"}}})
    driver.turn(stopped(voice()))
    assert driver.last(StartReply).prepared


@pytest.mark.parametrize("kind", ["update", "commit", "response"])
def test_prepared_reply_is_abandoned_when_its_turn_is_gone(kind):
    driver = Driver()
    driver.ask()
    driver.turn(started())
    driver.turn(pause(voice()))
    if kind == "update":
        driver.update(audio={"input": {"turn_detection": None}})
        assert driver.count(Tune) == 2
    elif kind == "commit":
        driver.buffer = voice()
        driver.send(f"{B}commit")
        assert driver.count(CommitAudio) == 1
    else:
        driver.send("response.create")
    assert driver.count(Abandon) == 1
    driver.do(driver.session.disconnected())
    assert driver.count(Abandon) == 1


def test_prepared_reply_is_abandoned_when_the_client_goes():
    driver = Driver()
    driver.turn(started())
    driver.turn(pause(voice()))
    driver.do(driver.session.disconnected())
    assert driver.count(Abandon) == 1
    assert driver.turn(stopped(voice())) == []


def test_model_may_be_asked_only_at_the_end():
    driver = Driver(ModelFacts(speculate=False))
    assert not driver.last(Tune).settings.speculate
    driver.turn(started())
    driver.turn(pause(voice()))
    assert driver.count(Prepare) == 0
