"""The machine's sound devices, with a package sounddevice that is none."""

import sys
import types

import numpy as np
import pytest

from llama_omni.errors import InputError, MissingExtraError, OutputError
from llama_omni.terminal.devices import Devices


class FakeStream:
    def __init__(self, library, **options):
        library.opened.append(options)
        self.library, self.options = library, options
        self.active, self.latency, self.calls = False, 0.05, []

    def start(self):
        if self.library.fail == "start":
            raise self.library.PortAudioError("Device unavailable")
        self.active = True

    def stop(self):
        self.calls.append("stop")

    def close(self):
        self.calls.append("close")


class FakeLibrary(types.ModuleType):
    """Stands for the package sounddevice: one device, at 48 kHz unless `rates` says otherwise."""

    class PortAudioError(Exception):
        pass

    def __init__(self, rates=(24_000, 48_000)):
        super().__init__("sounddevice")
        self.rates, self.fail, self.opened = rates, None, []

    def query_devices(self, device=None, kind=None):
        if self.fail == "none":
            raise self.PortAudioError("Error querying device -1")
        if device not in (None, 0, "Built-in"):
            raise ValueError(f"No {kind} device matching {device!r}")
        if kind is None:
            return "> 0 Built-in, ALSA (1 in, 2 out)"
        return {"default_samplerate": 48_000.0, f"default_low_{kind}_latency": 0.01}

    def check_input_settings(self, *, samplerate, **_):
        if samplerate not in self.rates:
            raise self.PortAudioError("Invalid sample rate")

    check_output_settings = check_input_settings

    def InputStream(self, **options):
        return FakeStream(self, **options)

    OutputStream = InputStream


@pytest.fixture
def library(monkeypatch):
    fake = FakeLibrary()
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    return fake


def test_microphone_hears_from_the_callback(library):
    microphone = Devices().microphone("0")
    (options,) = library.opened
    assert (options["device"], options["samplerate"], options["channels"]) == (0, 24_000, 1)
    assert options["latency"] == 0.04
    microphone.start()
    sound = np.arange(8, dtype=np.float32)
    for piece in (sound[:3], sound[3:]):
        options["callback"](piece[:, None], len(piece), None, None)
    np.testing.assert_array_equal(microphone.read(), sound)
    assert not len(microphone.read())
    microphone.close()
    assert microphone._stream.calls == ["close"]


def test_speakers_ask_for_sound_and_play_it_out(library):
    speakers = Devices().speakers("Built-in")
    (options,) = library.opened
    out = np.full((4, 1), np.nan, np.float32)
    options["callback"](out, 4, None, None)
    assert not out.any()
    speakers.start(lambda part: part.__setitem__(slice(None), 0.5))
    options["callback"](out, 4, None, None)
    assert (out == 0.5).all()
    assert speakers.latency_s == 0.05
    speakers.close()
    assert speakers._stream.calls == ["stop", "close"]


def test_device_that_has_not_the_sessions_rate_keeps_its_own(library):
    library.rates = (48_000,)
    assert Devices().microphone().sample_rate == 48_000
    assert Devices().speakers().sample_rate == 48_000


def test_devices_are_listed(library):
    assert "Built-in" in Devices().listing()


@pytest.mark.parametrize(
    ("kind", "error", "what"),
    [("microphone", InputError, "a microphone"), ("speakers", OutputError, "speakers")],
)
def test_device_that_is_absent_is_told_by_its_option(library, kind, error, what):
    with pytest.raises(error, match=f"-device must be {what} .* got 'USB': No .* --list-devices"):
        getattr(Devices(), kind)("USB")
    library.fail = "none"
    with pytest.raises(error, match="got the default one: Error querying device -1"):
        getattr(Devices(), kind)()


def test_device_that_does_not_start_or_stops_is_told(library):
    microphone = Devices().microphone()
    with pytest.raises(InputError, match="it stopped"):
        microphone.read()
    library.fail = "start"
    with pytest.raises(InputError, match="Device unavailable"):
        microphone.start()
    with pytest.raises(OutputError, match="Device unavailable"):
        Devices().speakers().start(lambda out: None)


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (ImportError("no"), MissingExtraError, r"pip install 'llama-omni\[play\]'"),
        (OSError("PortAudio library not found"), OutputError, "libportaudio2"),
    ],
)
def test_what_is_missing_is_named(monkeypatch, failure, error, message):
    def fail(name):
        raise failure

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(error, match=message):
        Devices()
