"""The page in a real Chromium: its microphone is a file, its loudspeaker is recorded."""

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("chromium is not installed", allow_module_level=True)

EXAMPLE = Path(__file__).parents[2] / "llama_omni" / "serve" / "static" / "example.wav"
MICROPHONE_HZ = 48_000

# Records all that goes to the loudspeaker, through a worklet of its own.
RECORDER = """
window.recorded = [];
const code = `registerProcessor("recorder", class extends AudioWorkletProcessor {
  process(inputs) {
    if (inputs[0][0]) this.port.postMessage(inputs[0][0].slice());
    return true;
  }
});`;
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (target, ...rest) {
  if (target instanceof AudioDestinationNode) {
    const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    this.context.audioWorklet.addModule(address).then(() => {
      const node = new AudioWorkletNode(this.context, "recorder", { numberOfOutputs: 0 });
      node.port.onmessage = ({ data }) => window.recorded.push(...data);
      connect.call(this, node);
    });
  }
  return connect.call(this, target, ...rest);
};
"""

# As one string: minutes of single numbers take a browser's driver long to carry.
RECORDED = """() => {
  const bytes = new Uint8Array(new Float32Array(window.recorded).buffer);
  let text = "";
  for (let start = 0; start < bytes.length; start += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(start, start + 0x8000));
  }
  return btoa(text);
}"""


def microphone(path: Path, *parts: float | Path) -> Path:
    """Write what the fake microphone hears: seconds of silence, and recordings."""
    pieces = []
    for part in parts:
        if isinstance(part, Path):
            samples, rate = soundfile.read(part, dtype="float32")
            pieces.append(soxr.resample(samples, rate, MICROPHONE_HZ))
        else:
            pieces.append(np.zeros(int(part * MICROPHONE_HZ), np.float32))
    soundfile.write(path, np.concatenate(pieces), MICROPHONE_HZ, subtype="PCM_16")
    return path


@contextmanager
def page_of(
    address: str,
    sound: Path | None = None,
    *,
    allowed: bool = True,
    recording: bool = True,
    buffer_ms: int = 100,
    **context: Any,
) -> Iterator[Any]:
    """Open the page. Any error in it, or request to elsewhere, fails the test.

    Args:
        address: of the server.
        sound: what the microphone hears; None is Chromium's beeps.
        allowed: whether the page may use the microphone.
        recording: keep what is played in `window.recorded`; needs the page's policy bypassed.
        buffer_ms: sound that must wait before an answer starts; more than it has is all of it.
        context: more of the browser's context, such as its colour scheme.
    """
    args = ["--no-sandbox", "--use-fake-device-for-media-stream"]
    if allowed:
        args.append("--use-fake-ui-for-media-stream")
    else:
        args.append("--deny-permission-prompts")
    if sound is not None:
        args.append(f"--use-file-for-fake-audio-capture={sound}%noloop")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=args)
        if allowed:
            context["permissions"] = ["microphone"]
        page = browser.new_context(bypass_csp=recording, **context).new_page()
        troubles: list[str] = []
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: troubles.extend(_foreign(request.url, address)))
        page.on("console", lambda line: troubles.extend(_refused(line)))
        if recording:
            page.add_init_script(RECORDER)
        page.add_init_script(
            "localStorage.getItem('llama-omni-settings') ||"
            "localStorage.setItem('llama-omni-settings', "
            f"JSON.stringify({{clean: false, bufferMs: {buffer_ms}}}))"
        )
        page.goto(address)
        yield page
        assert troubles == []
        browser.close()


def _refused(line: Any) -> list[str]:
    return [line.text] if "Content Security Policy" in line.text else []


def _foreign(url: str, address: str) -> list[str]:
    return [url] if url.startswith("http") and not url.startswith(address) else []


def played(page: Any) -> np.ndarray:
    """Return all that went to the loudspeaker so far, at 24 kHz."""
    return np.frombuffer(base64.b64decode(page.evaluate(RECORDED)), "<f4")


def wait_for(page: Any, phase: str, seconds: float = 60) -> None:
    page.wait_for_selector(f'body[data-phase="{phase}"]', timeout=1000 * seconds)


def likeness(heard: np.ndarray, wanted: np.ndarray) -> float:
    """Give the highest correlation of `wanted` with any stretch of `heard`."""
    size = len(heard) + len(wanted)
    spectra = np.fft.rfft(heard, size) * np.conj(np.fft.rfft(wanted, size))
    products = np.fft.irfft(spectra, size)[: len(heard)]
    energy = np.concatenate([[0.0], np.cumsum(heard.astype(np.float64) ** 2)])
    ends = np.minimum(np.arange(len(heard)) + len(wanted), len(heard))
    norms = np.sqrt(energy[ends] - energy[: len(heard)]) * np.linalg.norm(wanted)
    return float((products / np.maximum(norms, 1e-3)).max())
