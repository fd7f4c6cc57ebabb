"""DNSMOS without librosa, against what the wheel's own code gives with it."""

from pathlib import Path

import numpy as np
import pytest

from llama_omni import audio
from llama_omni.backends import dnsmos
from llama_omni.backends.dnsmos import WINDOW, Dnsmos, mel_levels, windows
from llama_omni.errors import AudioError, MissingExtraError
from llama_omni.evaluate.quality_model import QualityModel

QUESTION = Path(__file__).parents[2] / "examples" / "question.wav"

# speechmos 0.0.1.1's own `dnsmos.run` of that file, with librosa 0.11.0 and onnxruntime 1.32.0.
PUBLISHED = {
    "sig": 3.534172307035985,
    "bak": 4.1135783205987115,
    "ovrl": 3.2956450986437065,
    "p808": 3.2920778,
}


def needs_wheel():
    pytest.importorskip("onnxruntime")
    if (missing := Dnsmos().missing) is not None:
        pytest.skip(missing)


def test_scores_match_the_wheels_own():
    needs_wheel()
    model = Dnsmos()
    assert isinstance(model, QualityModel)
    assert "speechmos" in model.name
    assert model.score(audio.load(QUESTION)) == pytest.approx(PUBLISHED, abs=1e-4)


def test_noise_is_worse_than_speech():
    needs_wheel()
    speech = audio.load(QUESTION)
    noise = np.random.default_rng(0).normal(0, 0.05, len(speech)).astype(np.float32)
    clean, noisy = Dnsmos().score(speech), Dnsmos().score(np.clip(speech + noise, -1, 1))
    assert noisy["bak"] < clean["bak"] - 1
    assert noisy["ovrl"] < clean["ovrl"]


def test_levels_match_librosa():
    librosa = pytest.importorskip("librosa")
    samples = audio.load(QUESTION)
    mel = librosa.feature.melspectrogram(y=samples, sr=16000, n_fft=321, hop_length=160, n_mels=120)
    expected = (librosa.power_to_db(mel, ref=np.max) + 40) / 40
    assert mel_levels(samples) == pytest.approx(expected.T, abs=1e-3)


def test_levels_of_a_tone_peak_in_its_band():
    """1 kHz is mel 15 of 45.2 on Slaney's scale: the band at 15 / 45.2 of 121 steps."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(WINDOW - 160) / 16000).astype(np.float32)
    levels = mel_levels(tone)
    assert levels.shape == (900, 120)
    top = 15 + np.log(8) / (np.log(6.4) / 27)
    assert abs(levels[450].argmax() + 1 - 15 / top * 121) < 1
    assert levels.max() == 1.0
    assert levels.min() == -1.0


@pytest.mark.parametrize(
    ("seconds", "count"),
    [(1, 7), (5, 1), (9.01, 1), (10.9, 1), (11, 2), (17, 7), (24, 7), (34, 8)],
)
def test_windows_are_cut_as_published(seconds, count):
    """Those that begin at seconds 7 to 23 are lost to a rounding in the published code."""
    found = windows(np.zeros(int(seconds * 16000), np.float32))
    assert len(found) == count
    assert {len(window) for window in found} == {WINDOW}


def test_short_sound_is_doubled_and_starts_move_by_a_second():
    samples = np.arange(16000 * 3, dtype=np.float32)
    first, second, *_ = windows(samples)
    assert first[:3].tolist() == first[48000:48003].tolist() == [0, 1, 2]
    assert second[0] == 16000


def test_sound_that_cannot_be_used_is_refused():
    with pytest.raises(AudioError, match="audio"):
        Dnsmos().score(np.zeros(10, np.float32))


def test_absent_wheel_says_what_to_install(monkeypatch):
    find = dnsmos.importlib.util.find_spec
    monkeypatch.setattr(
        dnsmos.importlib.util,
        "find_spec",
        lambda name: None if name == "speechmos" else find(name),
    )
    assert "pip install 'llama-omni[quality]'" in Dnsmos().missing
    with pytest.raises(MissingExtraError, match="speechmos"):
        Dnsmos().score(np.zeros(16000, np.float32))
