"""Sound between the event loop and the audio callback: in any pieces, and never stale."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_omni.terminal.capture import Capture
from llama_omni.terminal.playback import Playback

SOUND = np.arange(1, 501, dtype=np.float32)
SIZES = st.lists(st.integers(1, 120), min_size=1, max_size=20)


def fill(playback, size):
    out = np.full(size, np.nan, np.float32)
    playback.fill(out)
    return out


def test_silence_where_there_is_nothing():
    playback = Playback(1_000)
    assert not fill(playback, 10).any()
    assert playback.is_silent
    assert playback.num_gaps == 0
    assert playback.first_at is None


@settings(deadline=None)
@given(SIZES, SIZES)
def test_sound_is_played_whole_and_in_order_whatever_the_pieces(pieces, blocks):
    playback, heard, first = Playback(1_000, start_s=0.05), [], 0
    for number in range(1_000):
        if first < len(SOUND):
            size = pieces[number % len(pieces)]
            playback.put(SOUND[first : first + size])
            first += size
            if first >= len(SOUND):
                playback.finish()
        heard.append(fill(playback, blocks[number % len(blocks)]))
        if playback.is_silent and first >= len(SOUND):
            break
    sound = np.concatenate(heard)
    np.testing.assert_array_equal(sound[sound != 0], SOUND)
    assert playback.num_played == playback.num_put == len(SOUND)


def test_answer_begins_once_enough_of_it_waits():
    playback = Playback(1_000, start_s=0.05)
    playback.put(SOUND[:49])
    assert not fill(playback, 10).any()
    playback.put(SOUND[49:50])
    np.testing.assert_array_equal(fill(playback, 10), SOUND[:10])
    assert playback.first_at is not None


def test_short_answer_that_is_whole_begins_at_once():
    playback = Playback(1_000, start_s=0.05)
    playback.put(SOUND[:5])
    playback.finish()
    np.testing.assert_array_equal(fill(playback, 10), [1, 2, 3, 4, 5, 0, 0, 0, 0, 0])
    assert playback.is_silent
    assert playback.num_gaps == 0


def test_sound_that_comes_late_is_a_gap_and_is_waited_for():
    playback = Playback(1_000, start_s=0.05)
    playback.put(SOUND[:50])
    fill(playback, 60)
    assert playback.num_gaps == 1
    playback.put(SOUND[50:60])
    assert not fill(playback, 10).any()
    playback.put(SOUND[60:150])
    np.testing.assert_array_equal(fill(playback, 10), SOUND[50:60])
    assert playback.num_gaps == 1


def test_nothing_of_a_stopped_answer_is_heard_after_it():
    playback = Playback(1_000, start_s=0.0)
    for first in range(0, 500, 100):
        playback.put(SOUND[first : first + 100])
    fill(playback, 130)
    assert playback.num_played == 130
    playback.begin()
    assert playback.is_silent
    assert playback.num_played == 0
    assert playback.first_at is None
    assert not fill(playback, 50).any()
    playback.put(-SOUND[:20])
    playback.finish()
    np.testing.assert_array_equal(fill(playback, 20), -SOUND[:20])


def test_next_answer_is_not_lost_in_a_callback_that_began_before_it():
    playback = Playback(1_000, start_s=0.0)
    playback.put(SOUND[:10])
    fill(playback, 1)
    answer = playback._answer
    playback.begin()
    playback.put(SOUND[100:110])
    playback._copy(np.zeros(50, np.float32), answer)  # as if it had not seen `begin` yet
    playback.finish()
    np.testing.assert_array_equal(fill(playback, 10), SOUND[100:110])


@settings(deadline=None)
@given(SIZES, st.integers(1, 5))
def test_capture_gives_back_what_was_put_in(pieces, every):
    capture, taken, first = Capture(1_000, longest_s=0.7), [], 0
    for number, size in enumerate(pieces):
        capture.put(SOUND[first : first + size])
        first += size
        if number % every == 0:
            taken.append(capture.take())
    taken.append(capture.take())
    sound = np.concatenate(taken)
    if every == 1:
        np.testing.assert_array_equal(sound, SOUND[:first])
    assert len(capture.take()) == 0


@pytest.mark.parametrize("before", [0, 7, 10])
def test_capture_that_is_full_drops_what_comes(before):
    capture = Capture(10, longest_s=1.0)
    capture.put(SOUND[:before])
    capture.take()
    capture.put(SOUND[:6])
    capture.put(SOUND[6:20])
    capture.put(SOUND[20:30])
    np.testing.assert_array_equal(capture.take(), SOUND[:10])
    capture.put(SOUND[30:33])
    np.testing.assert_array_equal(capture.take(), SOUND[30:33])
