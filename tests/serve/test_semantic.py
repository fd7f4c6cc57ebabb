from itertools import pairwise

import numpy as np
import pytest
from turn_tools import chunks, detector, only, run

from llama_omni.serve import semantic
from llama_omni.serve.prosody import measure
from llama_omni.serve.semantic import WAITS_MS, finished, wait_ms
from llama_omni.serve.turns import SpeechStopped

RATE = 16_000


def voice(*points, fade_ms=0):
    """A buzz like a voice's; points are (ms, Hz at its end), the first Hz is the start's."""
    pitch = np.concatenate([
        np.linspace(start, end, ms * RATE // 1000)
        for (_, start), (ms, end) in pairwise(points)
    ])  # fmt: skip
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    sound = sum(np.sin(k * phase) / k for k in range(1, 12)) * 0.1
    if fade_ms:
        fade = fade_ms * RATE // 1000
        sound[-fade:] *= np.linspace(1, 0.05, fade)
    return sound.astype(np.float32)


def syllables(pitches, **kwargs):
    """Short sounds with gaps, as in speech."""
    gap = np.zeros(480, np.float32)
    parts = [voice((0, hz), (120, hz * 0.97)) for hz in pitches[:-1]]
    last = voice((0, pitches[-2]), (160, pitches[-1]), **kwargs)
    return np.concatenate([x for part in parts for x in (part, gap)] + [last])


STATEMENT = syllables([150, 160, 150, 155, 145, 140, 95], fade_ms=80)
QUESTION = syllables([130, 135, 130, 128, 130, 135, 200], fade_ms=40)
LEVEL = syllables([150, 150, 150, 150, 150, 150, 150])
HELD = np.concatenate([syllables([150, 150, 150, 150]), voice((0, 150), (500, 150))])


@pytest.mark.parametrize("hz", [80, 120, 200, 350])
def test_pitch_is_measured_to_a_quarter_of_a_tone(hz):
    found = measure(voice((0, hz), (400, hz))).semitones
    assert np.nanmedian(found) == pytest.approx(12 * np.log2(hz / 70), abs=0.6)


def test_noise_and_silence_have_no_pitch():
    noise = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    assert np.isnan(measure(noise).semitones).mean() > 0.95
    assert np.isnan(measure(np.zeros(RATE, np.float32)).semitones).all()


@pytest.mark.parametrize("length", [0, 1, 639, 640, 1_000])
def test_shortest_sounds_are_unclear(length):
    assert 0.2 < finished(np.ones(length, np.float32)) < 0.6


def test_falling_and_rising_ends_sound_more_finished_than_level_ones():
    assert finished(STATEMENT) > finished(QUESTION) > finished(LEVEL) > finished(HELD)


@pytest.mark.parametrize(
    ("words", "likely"),
    [
        ("what is the", False),
        ("I went to the shop and", False),
        ("well, um", False),
        ("I wonder...", False),
        ("first,", False),
        ("what is the capital of France?", True),
        ("Tell me about whales.", True),
    ],
)
def test_words_outweigh_the_sound(words, likely):
    assert (finished(LEVEL, words=words) > 0.6) is likely
    assert (finished(STATEMENT, words=words) > 0.6) is likely


@pytest.mark.parametrize("eagerness", WAITS_MS)
def test_waits_stay_between_their_bounds(eagerness):
    shortest, longest = WAITS_MS[eagerness]
    waits = [wait_ms(sound, eagerness=eagerness) for sound in (STATEMENT, QUESTION, LEVEL, HELD)]
    assert sorted(waits) == waits
    assert all(shortest <= wait <= longest for wait in waits)


def test_table_of_waits_is_what_the_docstring_says(monkeypatch):
    rows = [line.split() for line in (semantic.__doc__ or "").splitlines() if " ms " in line]
    assert len(rows) == 3
    for row in rows:
        stated = [int(word.replace(",", "")) for word in row if word[0].isdigit()]
        for score, wait in zip((1.0, 0.5, 0.0), stated, strict=True):
            monkeypatch.setattr(semantic, "finished", lambda *_, score=score, **__: score)
            name = row[0].rstrip(",")
            assert wait_ms(LEVEL, eagerness=name) == pytest.approx(wait, abs=5)


def test_eagerness_orders_the_waits():
    low, medium, high = (wait_ms(LEVEL, eagerness=name) for name in ("low", "medium", "high"))
    assert low > medium > high
    assert wait_ms(LEVEL, eagerness="auto") == medium


def test_pauses_after_which_the_speaker_went_on_are_waited_for():
    assert wait_ms(STATEMENT, eagerness="high", longest_pause_ms=800.0) == 1_200.0
    assert wait_ms(STATEMENT, eagerness="high", longest_pause_ms=1_900.0) == 2_000.0


@pytest.mark.parametrize(("words", "early"), [("what is the", False), ("Tell me.", True)])
def test_words_that_come_in_the_pause_change_the_wait(words, early):
    listener, untold = detector(mode="semantic_vad"), detector(mode="semantic_vad")
    speech, quiet = chunks((5, 0.0), (20, 0.9), (6, 0.0)), chunks((150, 0.0))
    run(listener, speech)
    listener.note_words(words)
    (stopped,) = only(run(listener, quiet), SpeechStopped)
    (plain,) = only(run(untold, np.concatenate([speech, quiet])), SpeechStopped)
    assert (stopped.at_ms < plain.at_ms) is early
    np.testing.assert_array_equal(stopped.segment, plain.segment)


def test_pause_of_the_same_turn_lengthens_the_wait():
    sound = chunks((5, 0.0), (20, 0.9), (20, 0.0), (20, 0.9), (100, 0.0))
    events = run(detector(mode="semantic_vad", eagerness="high"), sound)
    (stopped,) = only(events, SpeechStopped)
    assert stopped.at_ms - stopped.speech_end_ms == 1.5 * 20 * 32


def test_words_without_a_turn_are_ignored():
    listener = detector(mode="semantic_vad")
    listener.note_words("hello")
    assert run(listener, chunks((20, 0.0))) == []
