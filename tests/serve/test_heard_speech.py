"""Real (synthetic) speech through the real VAD, at the rates that sessions have."""

import importlib.util

import numpy as np
import pytest
import soxr
from turn_tools import detector, names, only, room, run, say

from llama_omni.serve.turns import SpeechStarted, SpeechStopped
from llama_omni.serve.vad import SileroVad

RATES = [8_000, 16_000, 24_000]
SENTENCES = ("What is the capital of France?", "Please count to seven.", "Tell me about whales.")

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("onnxruntime", "silero_vad")),
    reason="the serve extra is not installed",
)


@pytest.fixture(params=["flite", "espeak-ng"])
def speak(request, tmp_path):
    def speech(text, rate=16_000):
        sound = say(request.param, text, tmp_path, rate)
        if sound is None:
            pytest.skip(f"{request.param} is not installed")
        return sound

    return speech


def listen(sound, rate=16_000, **changes):
    quiet = room(len(sound) * 1000 // rate + 1, rate)[: len(sound)]
    changes = {"prefix_padding_ms": 300} | changes
    return run(detector(SileroVad(), sample_rate=rate, **changes), sound + quiet, step=rate // 50)


def silence(ms, rate=16_000):
    return np.zeros(ms * rate // 1000, np.float32)


@pytest.mark.parametrize(("text", "rate"), list(zip(SENTENCES, RATES, strict=True)))
def test_whole_sentence_is_one_turn_and_nothing_of_it_is_cut(speak, rate, text):
    speech = speak(text, rate)
    sound = np.concatenate([silence(1_000, rate), speech, silence(1_500, rate)])
    (stopped,) = only(listen(sound, rate), SpeechStopped)
    end_ms = 1_000 + len(speech) * 1_000 // rate
    assert stopped.audio_start_ms <= 1_000
    assert stopped.audio_end_ms >= end_ms - 40  # the last samples of a word that fades
    assert abs(stopped.speech_end_ms - end_ms) <= 130
    alone = soxr.resample(speech, rate, 16_000)
    at = (1_000 - stopped.audio_start_ms) * 16
    heard = stopped.segment[at : at + len(alone)]
    assert np.corrcoef(heard, alone[: len(heard)])[0, 1] > 0.99


def test_sentence_at_the_very_start_is_not_cut(speak):
    speech = speak("Yes, I do.")
    (stopped,) = only(listen(np.concatenate([speech, silence(1_500)])), SpeechStopped)
    assert stopped.audio_start_ms == 0


@pytest.mark.parametrize(
    "noise",
    [
        pytest.param(np.zeros(160_000, np.float32), id="digital silence"),
        pytest.param(room(10_000, level=0.01), id="quiet hiss"),
        pytest.param(room(10_000, level=0.1), id="loud hiss"),
        pytest.param(
            np.sin(2 * np.pi * 50 * np.arange(160_000) / 16_000).astype(np.float32) * 0.1, id="hum"
        ),
        pytest.param((np.arange(160_000) % 16_000 < 32).astype(np.float32) * 0.8, id="clicks"),
    ],
)
def test_noise_is_no_turn(noise):
    assert listen(noise) == []


def test_pause_inside_a_sentence_is_one_turn(speak):
    first, second = speak("I would like to know"), speak("what whales eat.")
    sound = np.concatenate(
        [silence(500), first, silence(350), second, silence(1_500)]
    )  # the voice itself fades for some of the 350 ms
    events = listen(sound, silence_duration_ms=700)
    assert len(only(events, SpeechStopped)) == 1
    assert "SpeechResumed" in names(events)
    np.testing.assert_array_equal(events[-2].segment, events[-1].segment)


def test_two_questions_are_two_turns(speak):
    first, second = speak(SENTENCES[0]), speak(SENTENCES[1])
    sound = np.concatenate([silence(500), first, silence(1_200), second, silence(1_200)])
    one, two = only(listen(sound), SpeechStopped)
    assert one.audio_end_ms <= two.audio_start_ms
    assert abs(len(two.segment) - len(second)) < 16 * 550


def test_speech_after_half_a_minute_of_noise_is_heard(speak):
    speech = speak(SENTENCES[0])
    sound = np.concatenate([room(30_000, level=0.003), speech, silence(1_500)])
    (started,) = only(listen(sound), SpeechStarted)
    assert 30_000 - 400 <= started.audio_start_ms <= 30_000


@pytest.mark.parametrize("eagerness", ["high", "auto", "low"])
def test_semantic_detection_ends_every_turn_within_its_longest_wait(speak, eagerness):
    longest = {"high": 2_000, "auto": 4_000, "low": 8_000}[eagerness]
    sound = np.concatenate([silence(500), speak(SENTENCES[0]), silence(longest + 500)])
    (stopped,) = only(listen(sound, mode="semantic_vad", eagerness=eagerness), SpeechStopped)
    assert stopped.at_ms - stopped.speech_end_ms <= longest + 32
