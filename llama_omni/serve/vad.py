"""Is this 32 ms of sound speech? Silero VAD's ONNX model, run by onnxruntime without torch."""

import importlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from llama_omni.audio import SAMPLE_RATE
from llama_omni.errors import MissingExtraError

CHUNK = 512  # samples at 16 kHz that are judged at once: 32 ms
_CONTEXT = 64  # samples before a chunk that the model also sees
_STATE = (2, 1, 128)  # of the model's recurrent layer


@runtime_checkable
class Vad(Protocol):
    """Judges one stream of sound, chunk after chunk; may remember what it has heard."""

    def probability(self, chunk: NDArray[np.float32]) -> float:
        """Return how likely the next (512,) samples at 16 kHz hold speech, 0 to 1."""
        ...

    def reset(self) -> None:
        """Forget what was heard; the next chunk begins a new stream."""
        ...


class SileroVad:
    """Silero VAD for one stream. The weights (2 MB) are loaded once a process and shared.

    0.2 to 0.4 ms a chunk on one thread. onnxruntime lets go of the interpreter lock while it works.

    Raises:
        MissingExtraError: onnxruntime or silero-vad is not installed.

    Source:
        `OnnxWrapper` of the silero-vad package, which itself cannot be imported without torch.
    """

    def __init__(self) -> None:
        self._model = _model()
        self.reset()

    def probability(self, chunk: NDArray[np.float32]) -> float:
        """Return how likely the next (512,) samples at 16 kHz hold speech, 0 to 1."""
        heard = np.concatenate([self._context, chunk])  # (64 + 512,)
        inputs = {"input": heard[None], "state": self._state, "sr": _RATE}
        output, self._state = self._model.run(None, inputs)
        self._context = heard[-_CONTEXT:]
        return float(output[0, 0])

    def reset(self) -> None:
        """Forget what was heard; the next chunk begins a new stream."""
        self._state = np.zeros(_STATE, np.float32)
        self._context = np.zeros(_CONTEXT, np.float32)


_RATE = np.array(SAMPLE_RATE, np.int64)


@cache
def _model() -> Any:
    """Load the weights from inside the silero-vad wheel, by path: its package imports torch."""
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "serve", "voice activity detection") from error
    spec = importlib.util.find_spec("silero_vad")  # finds, does not import
    if spec is None or spec.origin is None:
        raise MissingExtraError("silero-vad", "serve", "voice activity detection")
    options = onnxruntime.SessionOptions()
    # One thread: a chunk is too small to share, and idle worker threads spin on the processor.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    file = Path(spec.origin).parent / "data" / "silero_vad.onnx"
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
