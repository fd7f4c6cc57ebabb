"""DNSMOS: four qualities of speech, by the ONNX models that Microsoft's `speechmos` wheel holds.

Its Python code is not used: it asks for librosa, which this does without. A model hears 9.01 s:
shorter speech is doubled until it is long enough, longer speech is heard every second, and the
windows' scores are averaged, all as the wheel's own code does it.

Source:
    DNSMOS P.835 (arXiv:2110.01763), P.808 (arXiv:2010.15258); models under the MIT licence.
"""

import importlib
import importlib.util
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_omni import audio as sound
from llama_omni.errors import MissingExtraError
from llama_omni.interfaces import Audio

WINDOW = 144_160  # samples: 9.01 s
_WINDOW_S = 9.01
_TAIL = 160  # samples at a window's end that P.808 does not hear, so that it has 900 frames
_FFT, _HOP, _MELS = 321, 160, 120
_FLOOR, _RANGE_DB = 1e-10, 80.0
# P.835's raw outputs are mapped to listeners' votes; powers 2, 1, 0. The models' own order.
_VOTES = {
    "sig": (-0.08397278, 1.22083953, 0.0052439),
    "bak": (-0.13166888, 1.60915514, -0.39604546),
    "ovrl": (-0.06766283, 1.11546468, 0.04602535),
}


class Dnsmos:
    """P.835's `sig`, `bak` and `ovrl`, and P.808's `p808`; a `QualityModel`.

    Each is about 1 to 5: the speech's own quality, how little the background disturbs, all in all
    as rated with the two others in mind, and all in all as rated alone.
    """

    @property
    def name(self) -> str:
        """The wheel's version, which the models' weights go with."""
        return f"speechmos {version('speechmos')} sig_bak_ovr, model_v8"

    @property
    def missing(self) -> str | None:
        """Which package is not installed."""
        for package in ("speechmos", "onnxruntime"):
            if importlib.util.find_spec(package) is None:
                return str(MissingExtraError(package, "quality", "DNSMOS"))
        return None

    def score(self, audio: Audio) -> dict[str, float]:
        """Return `sig`, `bak`, `ovrl` and `p808` of 16 kHz speech, means over its windows.

        Raises:
            AudioError: the sound cannot be used.
            MissingExtraError: a package is not installed.
        """
        samples = sound.check(audio, max_s=float("inf"))
        found = np.array([self._window(window) for window in windows(samples)])
        return dict(zip([*_VOTES, "p808"], found.mean(0).tolist(), strict=True))

    def _window(self, window: Audio) -> list[float]:
        raw = self._p835.run(None, {"input_1": window[None]})[0][0]
        mel = mel_levels(window[:-_TAIL])
        alone = self._p808.run(None, {"input_1": mel[None].astype(np.float32)})[0][0][0]
        votes = [np.polyval(powers, x) for powers, x in zip(_VOTES.values(), raw, strict=True)]
        return [*map(float, votes), float(alone)]

    @cached_property
    def _p835(self) -> Any:
        return _session("sig_bak_ovr.onnx")

    @cached_property
    def _p808(self) -> Any:
        return _session("model_v8.onnx")


def windows(samples: Audio) -> list[Audio]:
    """Cut speech into windows of 9.01 s, a second apart; what is shorter is doubled first."""
    while len(samples) < WINDOW:
        samples = np.concatenate([samples, samples])
    # As published, to the letter: whole seconds only, and where rounding makes a window's end one
    # sample early (those that begin at seconds 7 to 23), that window is left out.
    rate = sound.SAMPLE_RATE
    count = max(int(len(samples) // rate - _WINDOW_S), 0) + 1
    ends = [int((second + _WINDOW_S) * rate) for second in range(count)]
    return [samples[end - WINDOW : end] for end in ends if end % rate == WINDOW % rate]


def mel_levels(samples: Audio) -> NDArray[np.float64]:
    """Return what P.808's model sees of sound.

    Args:
        samples: (S,) at 16 kHz.

    Returns:
        (1 + (S - 1) // 160, 120) levels in dB under the loudest, from -80, plus 40, over 40.
    """
    half = _FFT // 2
    padded = np.pad(samples.astype(np.float64), half)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP]  # (F, 321)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FFT) / _FFT)
    power = np.abs(np.fft.rfft(frames * hann)) ** 2  # (F, 161)
    mel = np.maximum(power @ _mel_filters().T, _FLOOR)  # (F, 120)
    levels = 10 * np.log10(mel / mel.max())
    return (np.maximum(levels, -_RANGE_DB) + 40) / 40


@cache
def _mel_filters() -> NDArray[np.float64]:
    """Return (120, 161) triangles on Slaney's mel scale up to 8 kHz, each of area 1."""
    bins = np.arange(_FFT // 2 + 1) * sound.SAMPLE_RATE / _FFT
    edges = _hertz(np.linspace(0, _mel(sound.SAMPLE_RATE / 2), _MELS + 2))
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    return np.maximum(np.minimum(rising, falling), 0) * 2 / (high - low)


_LINEAR = 200 / 3  # Hz per mel below 1 kHz, which is mel 15; above, 27 mels are a factor of 6.4
_STEP = np.log(6.4) / 27


def _mel(hertz: float) -> float:
    return hertz / _LINEAR if hertz < 1000 else 15 + float(np.log(hertz / 1000)) / float(_STEP)


def _hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mels < 15, mels * _LINEAR, 1000 * np.exp(_STEP * (mels - 15)))


def _session(file: str) -> Any:
    """Open a model inside the wheel, by path: importing the package would ask for librosa."""
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "quality", "DNSMOS") from error
    spec = importlib.util.find_spec("speechmos")  # finds, does not import
    if spec is None or spec.origin is None:
        raise MissingExtraError("speechmos", "quality", "DNSMOS")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    path = Path(spec.origin).parent / "dnsmos_models" / file
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
