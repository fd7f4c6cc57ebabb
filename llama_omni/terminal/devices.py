"""The machine's own microphones and speakers, through PortAudio (the package sounddevice)."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from llama_omni.errors import InputError, LlamaOmniError, MissingExtraError, OutputError
from llama_omni.interfaces import Audio
from llama_omni.terminal.capture import Capture
from llama_omni.terminal.sound import Fill

WANTED_RATE = 24_000  # Hz: the session's own, so that nothing need be resampled

_LATENCY_S = 0.04  # between too late for a conversation and too short for a callback in Python
_WHAT = {"input": "a microphone", "output": "speakers"}


class Devices:
    """What PortAudio finds on this machine.

    Raises:
        MissingExtraError: sounddevice is not installed.
        OutputError: the PortAudio library is not there.
    """

    def __init__(self) -> None:
        try:
            self.library: Any = importlib.import_module("sounddevice")
        except ImportError as error:
            raise MissingExtraError("sounddevice", "play", "talking by voice") from error
        except OSError as error:
            raise OutputError(
                f"talking by voice must have the PortAudio library, got: {error}; on Debian it is "
                "libportaudio2"
            ) from error

    def listing(self) -> str:
        """Return a table of all devices: number, name, channels; > and < mark the defaults."""
        return str(self.library.query_devices()) or "no sound devices"

    def microphone(self, name: str | None = None) -> "DeviceMicrophone":
        """Find a microphone by its number or a part of its name; None is the default.

        Raises:
            InputError: there is none.
        """
        with self._told("input", name):
            return DeviceMicrophone(self, name, self._rate("input", name))

    def speakers(self, name: str | None = None) -> "DeviceSpeakers":
        """Find speakers by their number or a part of their name; None is the default.

        Raises:
            OutputError: there are none.
        """
        with self._told("output", name):
            return DeviceSpeakers(self, name, self._rate("output", name))

    def stream(self, kind: Literal["input", "output"], name: str | None, **how: Any) -> Any:
        """Open a stream of one channel, not started yet."""
        make = self.library.InputStream if kind == "input" else self.library.OutputStream
        device = _key(name)
        low_s = self.library.query_devices(device, kind)[f"default_low_{kind}_latency"]
        latency_s = max(low_s, _LATENCY_S)
        return make(device=device, channels=1, dtype="float32", latency=latency_s, **how)

    def _rate(self, kind: str, name: str | None) -> int:
        """Return the session's rate where the device has it, else the device's own."""
        device = _key(name)
        own = self.library.query_devices(device, kind)["default_samplerate"]
        check = getattr(self.library, f"check_{kind}_settings")
        try:
            check(device=device, channels=1, dtype="float32", samplerate=WANTED_RATE)
        except self.library.PortAudioError:
            return int(own)
        return WANTED_RATE

    @contextmanager
    def _told(self, kind: Literal["input", "output"], name: str | None) -> Iterator[None]:
        """Say in one line which device does not work, and why."""
        try:
            yield
        except (self.library.PortAudioError, ValueError, OSError) as error:
            reason = " ".join(str(error).split())
            raise device_error(kind, name, reason) from error


class DeviceMicrophone:
    """A `Microphone` of this machine."""

    def __init__(self, devices: Devices, name: str | None, sample_rate: int) -> None:
        self._devices, self._name, self.sample_rate = devices, name, sample_rate
        self._capture = Capture(sample_rate)
        self._stream = devices.stream("input", name, samplerate=sample_rate, callback=self._hear)

    def start(self) -> None:
        """Begin to hear."""
        with self._devices._told("input", self._name):
            self._stream.start()

    def read(self) -> Audio:
        """Return what was heard since the last call."""
        if not self._stream.active:
            raise device_error("input", self._name, "it stopped")
        return self._capture.take()

    def close(self) -> None:
        """Give the device back."""
        self._stream.close()

    def _hear(self, heard: Any, _frames: int, _time: Any, _status: Any) -> None:
        self._capture.put(heard[:, 0])


class DeviceSpeakers:
    """`Speakers` of this machine."""

    def __init__(self, devices: Devices, name: str | None, sample_rate: int) -> None:
        self._devices, self._name, self.sample_rate = devices, name, sample_rate
        self._fill: Fill = _silence
        self._stream = devices.stream("output", name, samplerate=sample_rate, callback=self._play)
        self.latency_s = float(self._stream.latency)

    def start(self, fill: Fill) -> None:
        """Begin to ask."""
        self._fill = fill
        with self._devices._told("output", self._name):
            self._stream.start()

    def close(self) -> None:
        """Play what was given, then give the device back."""
        self._stream.stop()
        self._stream.close()

    def _play(self, out: Any, _frames: int, _time: Any, _status: Any) -> None:
        self._fill(out[:, 0])


def device_error(kind: Literal["input", "output"], name: str | None, reason: str) -> LlamaOmniError:
    """Make an error about a device, by the option that chooses it."""
    shown = "the default one" if name is None else repr(name)
    message = (
        f"--{kind}-device must be {_WHAT[kind]} of this machine, got {shown}: {reason}; "
        "--list-devices names them"
    )
    return InputError(message) if kind == "input" else OutputError(message)


def _key(name: str | None) -> int | str | None:
    return int(name) if name is not None and name.isdecimal() else name


def _silence(out: Audio) -> None:
    out[:] = 0.0
