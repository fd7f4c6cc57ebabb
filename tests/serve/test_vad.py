import importlib.util
import sys

import numpy as np
import pytest
from turn_tools import room, say

from llama_omni.errors import MissingExtraError
from llama_omni.serve import vad
from llama_omni.serve.vad import CHUNK, SileroVad, Vad

present = all(importlib.util.find_spec(name) for name in ("onnxruntime", "silero_vad"))
needs_model = pytest.mark.skipif(not present, reason="the serve extra is not installed")


def judge(listener, sound):
    return [listener.probability(chunk) for chunk in sound[: len(sound) // CHUNK * CHUNK]
            .reshape(-1, CHUNK)]  # fmt: skip


@needs_model
@pytest.mark.parametrize("program", ["flite", "espeak-ng"])
def test_speech_is_told_from_silence_and_noise(program, tmp_path):
    speech = say(program, "What is the capital of France?", tmp_path)
    if speech is None:
        pytest.skip(f"{program} is not installed")
    listener = SileroVad()
    assert isinstance(listener, Vad)
    assert max(judge(listener, room(2_000))) < 0.3
    assert np.median(judge(listener, speech)) > 0.8


@needs_model
def test_reset_forgets():
    noise = room(640, level=0.1)
    listener = SileroVad()
    first = judge(listener, noise)
    assert judge(listener, noise) != first
    listener.reset()
    assert judge(listener, noise) == first


@needs_model
def test_streams_share_weights_and_nothing_else():
    noise, speech = room(640, level=0.1), room(640, level=0.5, seed=1)
    alone = judge(SileroVad(), noise)
    one, two = SileroVad(), SileroVad()
    mixed = []
    for mine, other in zip(noise.reshape(-1, CHUNK), speech.reshape(-1, CHUNK), strict=True):
        mixed.append(one.probability(mine))
        two.probability(other)
    assert mixed == alone


@pytest.mark.parametrize("package", ["onnxruntime", "silero_vad"])
def test_missing_package_names_the_extra(package, monkeypatch):
    if package == "silero_vad" and not importlib.util.find_spec("onnxruntime"):
        pytest.skip("onnxruntime is not installed")
    vad._model.cache_clear()
    if package == "onnxruntime":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"llama-omni\[serve\]"):
        SileroVad()
