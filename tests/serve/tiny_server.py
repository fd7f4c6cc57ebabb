"""`llama-omni serve` with the embedded model, in a process of its own, and questions to ask it."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FRANCE = ROOT / "examples" / "question.wav"  # What is the capital of France?
PARIS = "The capital of France is Paris."
MADRID = "The capital of Spain is Madrid."  # to "What about Spain?", after the one before
START_S = 300.0  # on a busy machine


@contextmanager
def tiny_server(log: Path) -> Iterator[str]:
    """Run the command as a user does; give the page's address once it answers.

    Args:
        log: file for what the server says.
    """
    command = [sys.executable, "-m", "llama_omni.cli", "serve", "--port", "0", "--threads", "1"]
    with log.open("w") as said:
        server = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
    try:
        yield _address(server, log)
    finally:
        server.terminate()
        try:
            server.wait(60)
        finally:
            server.kill()


def _address(server: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        found = re.search(r"talk at (http://\S+?)/? ", log.read_text())
        if found:
            return found[1]
        assert server.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"no server after {START_S:g} s: {log.read_text()}")


def spoken(text: str, path: Path) -> Path:
    """Have flite say a question."""
    if shutil.which("flite") is None:
        pytest.skip("flite is not installed")
    subprocess.run(["flite", "-voice", "slt", "-t", text, "-o", path], check=True)
    return path


def placed(heard: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Find `wanted` in `heard`; give the correlation there and the largest difference.

    A gap, a lost piece or one played twice moves all that follows it: the difference tells.
    """
    size = 1 << (len(heard) + len(wanted)).bit_length()
    spectra = np.fft.rfft(heard, size) * np.conj(np.fft.rfft(wanted, size))
    products = np.fft.irfft(spectra, size)[: max(1, len(heard) - len(wanted) + 1)]
    first = int(np.argmax(products))
    piece = heard[first : first + len(wanted)]
    norm = float(np.linalg.norm(piece) * np.linalg.norm(wanted[: len(piece)]))
    correlation = float(piece @ wanted[: len(piece)]) / max(norm, 1e-6)
    return correlation, float(np.abs(piece - wanted[: len(piece)]).max())
