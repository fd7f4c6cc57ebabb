import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from turn_tools import LevelVad, chunks, cut, detector, levels, names, only, plain, run

from llama_omni.errors import ConfigError
from llama_omni.serve.turns import (
    BufferFull,
    ShortPause,
    SpeechResumed,
    SpeechStarted,
    SpeechStopped,
    TimedOut,
    TurnSettings,
)


def test_turn_begins_with_padding_and_ends_after_silence():
    sound = chunks((10, 0.0), (20, 0.9), (30, 0.0))
    listener = detector(silence_duration_ms=512, speculate=False)
    started, stopped = run(listener, sound)
    assert started == SpeechStarted(audio_start_ms=320 - 96, at_ms=320 + 64)
    assert stopped.audio_start_ms == 224
    assert stopped.speech_end_ms == 960
    assert stopped.audio_end_ms == 1060
    assert stopped.at_ms == 960 + 512
    np.testing.assert_array_equal(stopped.segment, sound[224 * 16 : 1060 * 16])


def test_short_pause_comes_first_and_has_the_same_segment():
    events = run(detector(), chunks((10, 0.0), (20, 0.9), (30, 0.0)))
    assert names(events) == ["SpeechStarted", "ShortPause", "SpeechStopped"]
    assert events[1].at_ms == 960 + 160
    np.testing.assert_array_equal(events[1].segment, events[2].segment)


def test_speculation_changes_nothing_but_the_short_pauses():
    sound = chunks((10, 0.0), (20, 0.9), (8, 0.0), (20, 0.9), (30, 0.0), (9, 0.9), (40, 0.0))
    told = run(detector(), sound)
    untold = run(detector(speculate=False), sound)
    kept = [event for event in told if not isinstance(event, ShortPause | SpeechResumed)]
    assert plain(kept) == plain(untold)


def test_pause_inside_a_sentence_is_taken_back():
    events = run(detector(), chunks((10, 0.0), (20, 0.9), (8, 0.0), (20, 0.9), (30, 0.0)))
    assert names(events) == [
        "SpeechStarted", "ShortPause", "SpeechResumed", "ShortPause", "SpeechStopped",
    ]  # fmt: skip
    assert events[2].at_ms == (10 + 20 + 8 + 2) * 32
    assert len(events[3].segment) > len(events[1].segment)


def test_pause_shorter_than_the_short_pause_is_not_told():
    events = run(detector(), chunks((10, 0.0), (20, 0.9), (4, 0.0), (20, 0.9), (30, 0.0)))
    assert names(events) == ["SpeechStarted", "ShortPause", "SpeechStopped"]


def test_click_begins_no_turn_and_does_not_prolong_one():
    assert run(detector(), chunks((10, 0.0), (1, 0.9), (10, 0.0))) == []
    plain_end = run(detector(), chunks((5, 0.0), (20, 0.9), (30, 0.0)))
    clicked = chunks((5, 0.0), (20, 0.9), (8, 0.0), (1, 0.9), (21, 0.0))
    assert names(run(detector(), clicked)) == names(plain_end)


def test_voice_that_comes_back_at_the_last_moment_keeps_the_turn():
    silent = 15  # chunks: the 16th would end the turn, and is speech
    sound = chunks((5, 0.0), (20, 0.9), (silent, 0.0), (20, 0.9), (30, 0.0))
    assert names(run(detector(), sound)).count("SpeechStopped") == 1


def test_hysteresis_keeps_a_voice_that_fades():
    fading = chunks((5, 0.0), (10, 0.9), (40, 0.4), (30, 0.0))
    (stopped,) = only(run(detector(), fading), SpeechStopped)
    assert stopped.speech_end_ms == 55 * 32
    assert run(detector(), chunks((5, 0.0), (60, 0.4))) == []


def test_threshold_decides():
    sound = chunks((5, 0.0), (20, 0.6), (30, 0.0))
    assert names(run(detector(threshold=0.5), sound))
    assert not names(run(detector(threshold=0.7), sound))


def test_two_turns_share_no_sound():
    sound = chunks((5, 0.0), (20, 0.9), (4, 0.0), (20, 0.9), (30, 0.0))
    listener = detector(silence_duration_ms=96, prefix_padding_ms=320, post_roll_ms=96)
    first, second = only(run(listener, sound), SpeechStopped)
    assert second.audio_start_ms == first.audio_end_ms
    heard = sound[first.audio_start_ms * 16 : second.audio_end_ms * 16]
    np.testing.assert_array_equal(np.concatenate([first.segment, second.segment]), heard)


def test_long_turn_is_cut_and_goes_on_as_the_next_without_a_gap():
    rng = np.random.default_rng(0)
    sound = chunks((5, 0.0), (100, 0.9), (30, 0.0)) * rng.uniform(0.9, 1.1, 135 * 512)
    stops = only(run(detector(max_turn_ms=1_000), sound.astype(np.float32)), SpeechStopped)
    assert [stop.clipped for stop in stops] == [True, True, True, False]
    assert all(len(stop.segment) <= 16_000 for stop in stops)
    whole = np.concatenate([stop.segment for stop in stops])
    begin = stops[0].audio_start_ms * 16
    np.testing.assert_array_equal(whole, sound[begin : begin + len(whole)].astype(np.float32))
    assert stops[-1].speech_end_ms == 105 * 32


@pytest.mark.parametrize("prefix_padding_ms", [0, 300])
def test_cut_turn_loses_no_sound_after_a_long_pause(prefix_padding_ms):
    sound = chunks((5, 0.0), (30, 0.9), (30, 0.0), (20, 0.8), (40, 0.0))
    listener = detector(
        max_turn_ms=1_500, silence_duration_ms=1_024, prefix_padding_ms=prefix_padding_ms
    )
    first, second = only(run(listener, sound), SpeechStopped)
    assert (first.clipped, second.clipped) == (True, False)
    assert second.audio_start_ms <= 65 * 32
    assert second.speech_end_ms == 85 * 32


def test_idle_timeout_longer_than_a_turn_keeps_only_a_turn():
    listener = detector(idle_timeout_ms=5_000, max_turn_ms=1_000)
    listener.arm_idle()
    (event,) = run(listener, chunks((200, 0.0)))
    assert (event.audio_start_ms, event.audio_end_ms) == (0, 5_024)
    assert len(event.segment) == 16_000


def test_memory_is_bounded():
    listener = detector(max_turn_ms=2_000)
    most = 0
    for piece in np.split(np.tile(chunks((50, 0.9), (9, 0.0)), 40), 40):
        run(listener, piece)
        most = max(most, len(listener._sound))
    assert most <= 16 * (2_000 + 500 + 64)
    run(listener, chunks((200, 0.0)))
    assert len(listener._sound) <= 16 * (96 + 64) + 512
    assert len(listener._sound._data) <= 16_384


def test_idle_timeout_counts_from_the_end_of_the_reply():
    listener = detector(idle_timeout_ms=1_000)
    assert run(listener, chunks((100, 0.0))) == []  # nothing was answered yet
    listener.arm_idle(320)
    (event,) = run(listener, chunks((100, 0.0)))
    assert isinstance(event, TimedOut)
    assert (event.audio_start_ms, event.audio_end_ms) == (3_520, 3_520 + 1_024)
    assert len(event.segment) == 1_024 * 16
    assert run(listener, chunks((100, 0.0))) == []  # once


@pytest.mark.parametrize("how", ["speech", "disarmed", "push-to-talk"])
def test_idle_timeout_is_off(how):
    listener = detector(idle_timeout_ms=1_000)
    listener.arm_idle()
    if how == "speech":
        run(listener, chunks((5, 0.0), (20, 0.9), (16, 0.0)))
    elif how == "disarmed":
        listener.disarm_idle()
    else:
        listener.update(TurnSettings(sample_rate=16_000, mode="none"))
    assert not only(run(listener, chunks((100, 0.0))), TimedOut)


def test_idle_timeout_waits_for_a_voice_that_may_be_beginning():
    listener = detector(idle_timeout_ms=1_024)
    listener.arm_idle()
    events = run(listener, chunks((31, 0.0), (20, 0.9), (30, 0.0)))
    assert names(events) == ["SpeechStarted", "ShortPause", "SpeechStopped"]


def test_turn_that_ends_stops_the_idle_timeout():
    listener = detector(idle_timeout_ms=1_024)
    run(listener, chunks((5, 0.0), (20, 0.9)))
    listener.arm_idle()
    assert not only(run(listener, chunks((100, 0.0))), TimedOut)


def test_vad_forgets_after_each_turn():
    vad = LevelVad()
    run(detector(vad), chunks((5, 0.0), (20, 0.9), (30, 0.0), (20, 0.9), (30, 0.0)))
    assert vad.num_resets == 2


def test_silence_shorter_than_the_post_roll_ends_the_segment():
    listener = detector(silence_duration_ms=64, post_roll_ms=100)
    (stopped,) = only(run(listener, chunks((5, 0.0), (20, 0.9), (30, 0.0))), SpeechStopped)
    assert stopped.audio_end_ms == stopped.at_ms == stopped.speech_end_ms + 64


def test_push_to_talk_takes_everything_and_asks_no_vad():
    vad = LevelVad()
    listener = detector(vad, mode="none")
    sound = levels((333, 0.0), (500, 0.9))
    assert run(listener, sound) == []
    assert listener.buffered_ms >= 820
    first = listener.commit()
    np.testing.assert_array_equal(first.segment, sound)
    assert (first.audio_start_ms, first.audio_end_ms) == (0, 833)
    run(listener, sound)
    listener.clear()
    assert len(listener.commit().segment) == 0
    run(listener, sound)
    last = listener.commit()
    assert (last.audio_start_ms, last.audio_end_ms) == (1_666, 2_499)
    assert vad.num_asked == 0


def test_push_to_talk_drops_what_exceeds_the_longest_turn_and_says_so_once():
    listener = detector(mode="none", max_turn_ms=1_000)
    events = run(listener, levels((3_000, 0.1)))
    assert events == [BufferFull(at_ms=1_000)]
    assert len(listener.commit().segment) == 16_000
    assert run(listener, levels((1_500, 0.1))) == [BufferFull(at_ms=4_000)]


def test_full_buffer_keeps_time_when_detection_is_switched_on():
    listener = detector(mode="none", max_turn_ms=1_000)
    run(listener, levels((1_500, 0.1)))
    listener.update(TurnSettings(sample_rate=16_000, prefix_padding_ms=96))
    events = run(listener, levels((500, 0.0), (500, 0.9), (800, 0.0)))
    assert abs(events[0].audio_start_ms - (2_000 - 96)) <= 32


def test_commit_inside_a_turn_takes_it_and_ends_it():
    listener = detector()
    run(listener, chunks((10, 0.0), (20, 0.9)))
    assert listener.speaking
    taken = listener.commit()
    assert not listener.speaking
    assert (taken.audio_start_ms, taken.audio_end_ms) == (224, 960)
    assert run(listener, chunks((40, 0.0))) == []


def test_clear_forgets_the_turn():
    listener = detector()
    run(listener, chunks((10, 0.0), (20, 0.9)))
    listener.clear()
    assert run(listener, chunks((40, 0.0))) == []


def test_update_to_push_to_talk_takes_back_a_short_pause_and_keeps_the_sound():
    listener = detector()
    run(listener, chunks((10, 0.0), (20, 0.9), (6, 0.0)))
    assert names(listener.update(TurnSettings(sample_rate=16_000, mode="none"))) == [
        "SpeechResumed"
    ]
    run(listener, chunks((10, 0.0)))
    taken = listener.commit()
    assert (taken.audio_start_ms, taken.audio_end_ms) == (224, 46 * 32)


def test_speculation_can_be_switched_off_in_a_pause():
    listener = detector()
    run(listener, chunks((10, 0.0), (20, 0.9), (6, 0.0)))
    quiet = TurnSettings(sample_rate=16_000, prefix_padding_ms=96, speculate=False)
    assert names(listener.update(quiet)) == ["SpeechResumed"]
    assert names(run(listener, chunks((30, 0.0)))) == ["SpeechStopped"]


def test_rate_can_change_while_somebody_speaks():
    listener = detector()
    run(listener, levels((320, 0.0), (640, 0.9)))
    listener.update(TurnSettings(sample_rate=8_000, prefix_padding_ms=96))
    (stopped,) = only(run(listener, levels((640, 0.9), (960, 0.0), rate=8_000)), SpeechStopped)
    assert stopped.audio_start_ms == 224
    assert abs(stopped.speech_end_ms - 1_600) <= 32
    assert listener.now_ms == 2_560


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 48_000])
def test_events_of_every_rate_are_the_same_to_a_chunk(rate):
    sound = levels((500, 0.0), (800, 0.9), (200, 0.0), (700, 0.9), (900, 0.0), rate=rate)
    events = run(detector(sample_rate=rate), sound)
    assert names(events) == [
        "SpeechStarted", "ShortPause", "SpeechResumed", "ShortPause", "SpeechStopped",
    ]  # fmt: skip
    assert abs(events[0].audio_start_ms - (500 - 96)) <= 32
    assert abs(events[-1].speech_end_ms - 2_200) <= 32
    assert abs(len(events[-1].segment) / 16 - 1_896) <= 64


PART = st.tuples(st.integers(1, 25), st.sampled_from([0.0, 0.0, 0.4, 0.6, 0.9]))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(PART, min_size=1, max_size=10),
    st.lists(st.integers(0, 120_000), max_size=40),
    st.sampled_from([8_000, 16_000, 24_000]),
    st.sampled_from(["server_vad", "semantic_vad", "none"]),
)
def test_any_split_gives_identical_events(parts, places, rate, mode):
    sound = levels(*((32 * count, level) for count, level in parts), rate=rate)
    sound += np.random.default_rng(0).normal(0, 0.02, len(sound)).astype(np.float32)
    whole, pieces = (
        detector(sample_rate=rate, mode=mode, silence_duration_ms=300, max_turn_ms=2_000)
        for _ in range(2)
    )
    expected = whole.feed(sound)
    found = [event for piece in cut(sound, places) for event in pieces.feed(piece)]
    assert plain(found) == plain(expected)
    assert plain([whole.commit()]) == plain([pieces.commit()])


@settings(deadline=None, max_examples=100)
@given(
    st.lists(PART, min_size=1, max_size=20),
    st.integers(0, 700),
    st.integers(0, 150),
    st.sampled_from(["server_vad", "semantic_vad"]),
)
def test_events_alternate_and_the_speculated_segment_is_the_committed_one(
    parts, silence_ms, post_roll_ms, mode
):
    sound = chunks(*parts)
    listener = detector(
        mode=mode, silence_duration_ms=silence_ms, post_roll_ms=post_roll_ms, max_turn_ms=3_000
    )
    speaking, told, end = False, None, 0
    for event in run(listener, sound, step=512):
        match event:
            case SpeechStarted():
                assert not speaking
                assert event.audio_start_ms >= end
                speaking, begin = True, event.audio_start_ms
            case ShortPause():
                assert speaking
                assert told is None
                told = event.segment
            case SpeechResumed():
                assert told is not None
                told = None
            case SpeechStopped():
                assert speaking
                assert event.audio_start_ms == begin
                assert told is None or np.array_equal(told, event.segment)
                assert told is None or not event.clipped
                at = event.audio_start_ms * 16
                assert np.array_equal(event.segment, sound[at : at + len(event.segment)])
                assert len(event.segment) <= 3_000 * 16
                speaking, told, end = False, None, event.audio_end_ms
            case _:
                raise AssertionError(event)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_rate": 0}, "sample_rate must be"),
        ({"threshold": 0.0}, "threshold must be"),
        ({"prefix_padding_ms": -1}, "prefix_padding_ms must be"),
        ({"post_roll_ms": 200}, "post_roll_ms must be at most short_pause_ms"),
        ({"idle_timeout_ms": 0}, "idle_timeout_ms must be"),
        ({"max_turn_ms": 400}, "max_turn_ms must be at least"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        TurnSettings(**changes)


def test_turns_load_no_torch():
    code = (
        "import sys, numpy as np; import llama_omni.serve.turns, llama_omni.serve.vad as v\n"
        "try: v.SileroVad().probability(np.zeros(512, np.float32))\n"
        "except ImportError: pass\n"
        "bad = {'torch', 'transformers', 'silero_vad'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
