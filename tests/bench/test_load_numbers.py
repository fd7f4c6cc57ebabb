"""A load's arithmetic: playback, turns and rows, each against numbers worked out by hand."""

import base64

import pytest

from llama_omni.bench.serve.numbers import percentiles, saturated, speculation, summarise
from llama_omni.bench.serve.playback import PlaybackClock
from llama_omni.bench.serve.server import counters, loop_lag
from llama_omni.bench.serve.settings import DirectSettings, LoadSettings
from llama_omni.bench.serve.turns import TurnWatch, decoded_bytes
from llama_omni.errors import ConfigError
from tests.bench.load_tools import TURNS


def test_playback_by_hand():
    played = PlaybackClock()
    assert played.heard_s(5.0) == 0
    played.arrive(10.0, 1.0)  # plays to 11
    played.arrive(10.5, 1.0)  # to 12
    played.arrive(12.0, 0.5)  # just in time: to 12.5
    assert (played.late, played.stall_s) == (0, 0.0)
    assert played.heard_s(11.5) == 1.5
    played.arrive(12.75, 1.0)  # a gap of 0.25: to 13.75
    played.arrive(12.8, 0.25)  # to 14
    assert (played.pieces, played.late, played.stall_s) == (5, 1, 0.25)
    assert (played.first_s, played.sound_s, played.ends_s) == (10.0, 3.75, 14.0)
    assert played.heard_s(13.0) == 2.75
    assert played.heard_s(99.0) == 3.75
    played.arrive(15.0, 1.0)
    assert (played.late, played.stall_s) == (2, 1.25)


def test_percentiles_by_hand():
    assert percentiles([]) is None
    assert percentiles([3.0]) == {"p50": 3.0, "p95": 3.0}
    found = percentiles([float(number) for number in range(21, 0, -1)])
    assert found == {"p50": 11.0, "p95": 20.0}
    assert percentiles([1.0, 2.0])["p50"] == 1.5


def test_row_by_hand():
    row = summarise(TURNS, wall_s=8.0)
    assert [row[name] for name in ("turns", "answered", "refused", "unanswered")] == [5, 2, 1, 1]
    assert row["failed"] == 1  # an answer without sound
    assert row["why"] == {"overloaded": 1, "no answer in time": 1}
    assert row["early"] == 1
    assert row["first_audio_after_speech_s"]["p50"] == pytest.approx(0.7)
    assert row["first_audio_after_turn_s"]["p50"] == pytest.approx(0.2)
    assert row["real_time_factor"]["p50"] == pytest.approx((0.5 + 2.0) / 2)
    assert (row["pieces"], row["late"]) == (7, 2)
    assert row["late_share"] == 2 / 5  # of 2 + 3 pieces that followed a first one
    assert row["stalled_share"] == 1 / 2
    assert (row["stall_s"], row["sound_s"], row["throughput"]) == (0.25, 4.0, 0.5)


def test_row_without_an_answer_has_no_times():
    row = summarise(TURNS[2:], wall_s=1.0)
    assert row["late_share"] is row["first_audio_after_turn_s"] is row["real_time_factor"] is None
    assert "3 of 3 questions without an answer" in saturated(row, LoadSettings())


def test_saturation_by_hand():
    settings = LoadSettings(max_late=0.4, max_first_audio_s=0.2901)
    row = summarise(TURNS[:2], wall_s=8.0)  # 0.4 late, p95 of the first sound is 0.29
    assert saturated(row, settings) is None
    assert "40 % of later pieces were late" in saturated(row, LoadSettings(max_late=0.39))
    slow = LoadSettings(max_late=0.4, max_first_audio_s=0.28)
    assert saturated(row, slow) == "p95 of the first sound came 0.29 s after the turn"


def delta(response, seconds):
    data = base64.b64encode(bytes(round(48_000 * seconds))).decode()
    return {"type": "response.output_audio.delta", "response_id": response, "delta": data}


def created(response):
    return {"type": "response.created", "response": {"id": response}}


def done(response, status="completed", **details):
    about = {"id": response, "status": status, "status_details": details or None}
    return {"type": "response.done", "response": about}


def seen(*events, speech_end_s=100.0):
    watch = TurnWatch(client=7, speech_end_s=speech_end_s)
    for now, event in events:
        watch.see(event, now)
    return watch


STOPPED = {"type": "input_audio_buffer.speech_stopped"}


def test_turn_is_read_from_the_servers_events():
    watch = seen(
        (100.5, STOPPED),
        (100.5, created("a")),
        (100.75, delta("a", 0.5)),
        (101.5, delta("a", 1.0)),
        (101.75, delta("a", 1.0)),
        (101.75, delta("b", 9.0)),  # of no answer to this question
        (102.0, done("a")),
        (103.0, delta("a", 9.0)),  # after the end
    )
    turn = watch.turn()
    assert (turn.client, turn.outcome, turn.early) == (7, "answered", 0)
    assert (turn.stopped_s, turn.first_audio_s, turn.last_audio_s) == (0.5, 0.75, 1.75)
    assert (turn.pieces, turn.late, turn.stall_s, turn.sound_s) == (3, 1, 0.25, 2.5)
    assert watch.last_s == 101.75


def test_reply_to_half_a_question_is_no_answer():
    watch = seen(
        (99.0, STOPPED),
        (99.0, created("early")),
        (99.5, delta("early", 1.0)),
        (99.75, done("early", "cancelled", reason="turn_detected")),
        (100.5, STOPPED),
        (100.5, created("late")),
    )
    assert (watch.outcome, watch.last_s) == (None, 100.0)
    watch.see(delta("late", 1.0), 101.0)
    watch.see(done("late", "incomplete", reason="max_output_tokens"), 101.0)
    turn = watch.turn()
    assert (turn.outcome, turn.early, turn.first_audio_s, turn.sound_s) == ("answered", 1, 1.0, 1.0)


@pytest.mark.parametrize(
    ("events", "outcome", "detail"),
    [
        ([created("a"), done("a")], "silent", ""),
        (
            [created("a"), done("a", "failed", error={"code": "overloaded"})],
            "refused",
            "overloaded",
        ),
        ([created("a"), done("a", "failed", error={"code": "engine_failed"})], "failed", "engine"),
        ([created("a"), done("a", "cancelled", reason="turn_detected")], "failed", "turn_detected"),
        (
            [{"type": "error", "error": {"type": "x", "code": "too_many_responses"}}],
            "refused",
            "too",
        ),
        (
            [{"type": "error", "error": {"type": "server_error", "code": None}}],
            "failed",
            "server_e",
        ),
        ([created("a")], "unanswered", ""),
    ],
    ids=["silent", "refused", "failed", "cancelled", "too many", "error", "waits"],
)
def test_turn_without_an_answer_says_why(events, outcome, detail):
    turn = seen(*((101.0, event) for event in events)).turn()
    assert turn.outcome == outcome
    assert turn.detail.startswith(detail)


@pytest.mark.parametrize("size", range(7))
def test_bytes_of_base64_are_counted(size):
    assert decoded_bytes(base64.b64encode(bytes(size)).decode()) == size


def test_speculation_by_hand():
    before = {'speculation_total{outcome="begun"}': 10.0, "engine_tokens": 100.0}
    after = {
        'speculation_total{outcome="begun"}': 18.0,
        'speculation_total{outcome="used"}': 6.0,
        'speculation_total{outcome="dropped"}': 2.0,
        "engine_tokens": 180.0,
        "engine_unheard_tokens": 20.0,
    }
    found = speculation(counters(before), counters(after))
    assert [found[name] for name in ("begun", "used", "dropped", "left_out")] == [8, 6, 2, 0]
    assert (found["hit_rate"], found["wasted_share"]) == (0.75, 0.25)
    nothing = speculation({}, {})
    assert (nothing["hit_rate"], nothing["wasted_share"]) == (None, None)


def test_lag_of_a_servers_loop_by_hand():
    def histogram(one, ten, every, total):
        return {
            'event_loop_lag_seconds_bucket{le="0.001"}': one,
            'event_loop_lag_seconds_bucket{le="0.01"}': ten,
            'event_loop_lag_seconds_bucket{le="+Inf"}': every,
            "event_loop_lag_seconds_count": every,
            "event_loop_lag_seconds_sum": total,
        }

    before = histogram(100.0, 100.0, 100.0, 0.1)
    assert loop_lag(before, histogram(180.0, 195.0, 200.0, 0.6)) == {"mean_s": 0.005, "p95_s": 0.01}
    assert loop_lag({}, histogram(100.0, 100.0, 100.0, 0.1))["p95_s"] == 0.001
    assert loop_lag(before, before) is None
    assert loop_lag({}, {}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clients": ()}, "clients must be numbers above 0"),
        ({"clients": (2, 1)}, "clients must grow"),
        ({"speculation": ()}, "speculation must be on, off or both"),
        ({"seconds": 0.0}, "seconds must be above 0"),
        ({"turns": 0}, "turns must be at least 1"),
        ({"max_late": 1.5}, "max_late must be a share"),
        ({"gap_s": (2.0, 1.0)}, "gap_s must be seconds above 0"),
    ],
)
def test_impossible_loads_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        LoadSettings(**change)


def test_impossible_direct_settings_are_refused():
    with pytest.raises(ConfigError, match="tokens must be at least 1"):
        DirectSettings(tokens=0)
    with pytest.raises(ConfigError, match="listen_s must be above 0"):
        DirectSettings(listen_s=0.0)
