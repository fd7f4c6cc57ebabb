"""A recogniser in its own process: words, errors, death, hanging."""

import os
import pickle
import signal

import numpy as np
import pytest

from llama_omni.errors import ConfigError, EngineError, InputError, MissingExtraError
from llama_omni.remote.factory import Factory
from llama_omni.remote.recognizer import RemoteRecognizer

SOUND = np.zeros(1_600, np.float32)


@pytest.fixture
def ears(request):
    made = RemoteRecognizer(Factory("tests.remote.engines:Parrot"), timeout_s=60.0)
    made.start()
    yield made
    made.close()


def test_words_come_from_another_process(ears):
    assert ears.transcribe(SOUND) == f"1600 samples in {ears._process.pid}"
    assert ears._process.pid != os.getpid()


def test_error_ends_one_sound_and_death_only_the_process(ears):
    with pytest.raises(InputError, match="no sound"):
        ears.transcribe(SOUND[:0])
    with pytest.raises(EngineError, match="failed"):
        ears.transcribe(SOUND[:1])
    pid = ears._process.pid
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="next sound starts it"):
        ears.transcribe(SOUND)
    assert str(pid) not in ears.transcribe(SOUND)


def test_process_that_hangs_is_replaced(ears):
    os.kill(ears._process.pid, signal.SIGSTOP)
    ears._timeout_s = 0.2
    with pytest.raises(EngineError, match="next sound starts it"):
        ears.transcribe(SOUND)
    ears._timeout_s = 60.0
    assert "1600 samples" in ears.transcribe(SOUND)


def test_recogniser_that_cannot_be_made_says_why():
    spec = {"spec": "ears"}
    with pytest.raises(ConfigError, match="recognizer must be one of"):
        RemoteRecognizer(Factory("llama_omni.backends.asr:open_recognizer", spec)).start()
    with pytest.raises(EngineError, match="ended while it was being made"):
        RemoteRecognizer(Factory("tests.remote.engines:dead")).start()
    closed = RemoteRecognizer(Factory("tests.remote.engines:Parrot"))
    closed.close()
    with pytest.raises(EngineError, match="must be open"):
        closed.transcribe(SOUND)


def test_missing_extra_crosses_processes():
    error = MissingExtraError("ears", "hearing", "a recogniser")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
