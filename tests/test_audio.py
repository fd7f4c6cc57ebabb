import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from llama_omni import audio
from llama_omni.audio import StreamResampler
from llama_omni.errors import AudioError, OutputError


def tone(seconds, rate=16000, hz=440.0):
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype("f4")


def write(path, data, rate=16000, **options):
    soundfile.write(path, data, rate, **options)
    return path


def hours_of_wav(path, hours):
    """Write a WAV of silence whose samples are a hole in the file."""
    write(path, np.zeros(16000, np.float32))
    size = round(hours * 3600 * 16000 * 2)
    with path.open("r+b") as file:
        file.seek(4)
        file.write((36 + size).to_bytes(4, "little"))
        file.seek(40)
        file.write(size.to_bytes(4, "little"))
        file.truncate(44 + size)
    return path


def patch_flac_count(path, count):
    """Change the number of samples that a FLAC's header tells; 0 is unknown."""
    data = bytearray(path.read_bytes())
    word = int.from_bytes(data[18:26], "big")
    data[18:26] = ((word >> 36 << 36) | count).to_bytes(8, "big")
    path.write_bytes(data)


def test_rates_follow_from_each_other():
    assert (audio.MEL_RATE, audio.ENCODER_RATE, audio.UNIT_RATE) == (100, 50, 50)
    assert (audio.WINDOW_SAMPLES, audio.WINDOW_MELS, audio.MIN_S) == (480000, 3000, 0.1)


def test_exact_div_refuses_a_remainder():
    with pytest.raises(ValueError, match="16000 must be a multiple of 300, got remainder 100"):
        audio.exact_div(16000, 300)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_load_gives_mono_at_16_khz_for_any_rate_and_channels(tmp_path, rate, channels):
    sound = tone(1.0, rate)
    path = write(tmp_path / "q.wav", np.stack([sound] * channels, 1), rate, subtype="FLOAT")
    loaded = audio.load(path)
    assert loaded.shape == (16000,)
    assert loaded.dtype == np.float32
    assert np.abs(loaded - tone(1.0))[200:-200].max() < 1e-3


def test_load_takes_the_mean_of_the_channels(tmp_path):
    path = write(tmp_path / "q.wav", np.stack([tone(1.0), np.zeros(16000, "f4")], 1))
    assert np.abs(audio.load(path) - tone(1.0) / 2).max() < 1e-4


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_load_reads_every_format(tmp_path, suffix):
    path = write(tmp_path / f"q.{suffix}", tone(1.0))
    assert np.abs(audio.load(path) - tone(1.0))[800:-800].max() < 0.02


def test_load_goes_by_content_and_not_by_suffix(tmp_path):
    path = write(tmp_path / "q.wav", tone(1.0)).rename(tmp_path / "q.raw")
    assert audio.load(path).shape == (16000,)


def test_load_accepts_silence(tmp_path):
    assert not audio.load(write(tmp_path / "q.wav", np.zeros(16000, "f4"))).any()


def test_load_clips_to_full_scale(tmp_path):
    path = write(tmp_path / "q.wav", 3 * tone(1.0), subtype="FLOAT")
    assert np.abs(audio.load(path)).max() == 1.0


def test_load_resamples_to_the_rate_asked_for(tmp_path):
    assert audio.load(write(tmp_path / "q.wav", tone(1.0)), sample_rate=24000).shape == (24000,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda p: p, "must be a readable file, got no such file", id="missing"),
        pytest.param(lambda p: p.mkdir() or p, "must be an audio file, got a folder", id="folder"),
        pytest.param(
            lambda p: p.write_text("not audio " * 99) and p,
            r"must be audio \(WAV, FLAC, OGG or MP3\), got: ",
            id="text",
        ),
        pytest.param(
            lambda p: p.write_bytes(np.random.default_rng(0).bytes(5000)) and p,
            r"must be audio \(WAV, FLAC, OGG or MP3\), got: ",
            id="noise",
        ),
        pytest.param(
            lambda p: p.touch() or p, "must hold audio, got an empty file", id="empty-file"
        ),
        pytest.param(
            lambda p: write(p, np.zeros(0, "f4")),
            r"must be at least 0\.1 s long, got 0 s",
            id="no-samples",
        ),
        pytest.param(
            lambda p: write(p, tone(0.05)), r"must be at least 0\.1 s long, got 0\.05 s", id="short"
        ),
        pytest.param(
            lambda p: write(p, tone(31.0)), r"must be at most 30 s long, got 31\.0 s", id="long"
        ),
        pytest.param(
            lambda p: write(p, np.full(16000, np.nan, "f4"), subtype="FLOAT"),
            r"must hold finite samples, got nan at 0\.000 s",
            id="nan",
        ),
        pytest.param(
            lambda p: write(p, np.append(tone(1.0), np.float32(np.inf)), subtype="FLOAT"),
            r"must hold finite samples, got inf at 1\.000 s",
            id="inf",
        ),
        pytest.param(
            lambda p: write(p, 32767 * tone(1.0), subtype="FLOAT"),
            r"must lie in \[-1, 1\], got a peak of 16383\.",
            id="unscaled",
        ),
        pytest.param(
            lambda p: write(p, np.zeros(900, "f4"), 500),
            "must have a sample rate of 1000 to 768000 Hz, got 500 Hz",
            id="rate",
        ),
    ],
)
def test_load_refuses_what_cannot_be_used(tmp_path, make, message):
    path = make(tmp_path / "q.wav")
    with pytest.raises(AudioError, match=message) as info:
        audio.load(path)
    assert str(info.value).startswith(str(path))
    assert "\n" not in str(info.value)


def test_load_refuses_a_file_that_it_may_not_read(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path / "q.wav", tone(1.0))
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(AudioError, match="must be a readable file, got Permission denied"):
        audio.load(path)


def test_load_refuses_a_damaged_file(tmp_path):
    path = write(tmp_path / "q.flac", np.random.default_rng(0).uniform(-1, 1, 16000))
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(AudioError, match=r"got: .*lost sync"):
        audio.load(path)


def test_load_refuses_two_hours_by_the_header_alone(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("decoded")

    path = hours_of_wav(tmp_path / "long.wav", 2)
    monkeypatch.setattr(soundfile.SoundFile, "read", fail)
    start = time.monotonic()
    with pytest.raises(AudioError, match=r"must be at most 30 s long, got 7200\.0 s"):
        audio.load(path)
    assert time.monotonic() - start < 1.0


def test_load_reads_a_file_whose_header_has_no_length(tmp_path):
    path = write(tmp_path / "piped.flac", tone(5.0))
    patch_flac_count(path, 0)
    assert np.abs(audio.load(path) - tone(5.0)).max() < 1e-4


def test_load_stops_at_the_limit_where_the_header_has_no_length(tmp_path):
    path = write(tmp_path / "piped.flac", tone(60.0))
    patch_flac_count(path, 0)
    with pytest.raises(AudioError, match="must be at most 30 s long, got more than its header"):
        audio.load(path)


@pytest.mark.parametrize(
    "samples", [tone(1.0), tone(1.0)[None], tone(1.0)[:, None], tone(1.0).astype("f8")]
)
def test_check_gives_one_row_of_float32(samples):
    checked = audio.check(samples)
    assert checked.shape == (16000,)
    assert checked.dtype == np.float32


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        pytest.param([0.0] * 16000, "must be a NumPy array, got list", id="list"),
        pytest.param(np.zeros(16000, np.int16), "got int16; divide int16 by 32768", id="int16"),
        pytest.param(np.zeros((2, 16000), "f4"), r"must be mono.*got shape \(2, 16000\)", id="2d"),
        pytest.param(np.zeros(1599, "f4"), r"must be at least 0\.1 s long", id="short"),
        pytest.param(np.zeros(480001, "f4"), "must be at most 30 s long", id="long"),
        pytest.param(np.full(16000, np.nan, "f4"), "must hold finite samples", id="nan"),
        pytest.param(np.full(16000, 99, "f4"), r"must lie in \[-1, 1\]", id="scale"),
    ],
)
def test_check_refuses_what_cannot_be_used(samples, message):
    with pytest.raises(AudioError, match=message):
        audio.check(samples, name="question")


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".WAV"])
def test_save_writes_the_format_of_the_suffix(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    audio.save(path, tone(1.0), 16000)
    info = soundfile.info(str(path))
    assert info.format == suffix[1:].upper()
    assert info.frames == 16000
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_save_wav_is_16_bit_and_comes_back_within_rounding(tmp_path):
    audio.save(tmp_path / "a.wav", tone(1.0), 16000)
    assert soundfile.info(str(tmp_path / "a.wav")).subtype == "PCM_16"
    assert np.abs(audio.load(tmp_path / "a.wav") - tone(1.0)).max() <= 0.5 / 32768


def test_save_clips_and_does_not_wrap(tmp_path):
    audio.save(tmp_path / "a.wav", np.array([2, -2, 1, -1], "f4"), 16000)
    data, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert data.tolist() == [32767, -32768, 32767, -32768]


def test_save_long_vorbis_in_blocks(tmp_path):
    audio.save(tmp_path / "a.ogg", np.zeros(16000 * 400, "f4"), 16000)
    assert soundfile.info(str(tmp_path / "a.ogg")).duration == 400.0


@pytest.mark.parametrize("suffix", ["wav", "ogg"])
def test_save_can_hold_no_sound(tmp_path, suffix):
    audio.save(tmp_path / f"a.{suffix}", np.zeros(0, "f4"), 16000)
    assert soundfile.info(str(tmp_path / f"a.{suffix}")).frames == 0


def test_saved_file_has_the_usual_mode(tmp_path):
    audio.save(tmp_path / "a.wav", tone(0.2), 16000)
    (tmp_path / "plain").touch()
    assert stat.S_IMODE((tmp_path / "a.wav").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "plain").stat().st_mode
    )


@pytest.mark.parametrize(
    ("place", "message"),
    [
        pytest.param("a.aiff", "must end with .wav, .flac, .ogg, .mp3, got suffix '.aiff'", id="?"),
        pytest.param("a", "must end with .*got suffix ''", id="no-suffix"),
        pytest.param("no/a.wav", "must be in a writable folder, got No such file", id="no-folder"),
        pytest.param("file/a.wav", "must be in a writable folder, got Not a dir", id="under-file"),
        pytest.param("folder.wav", "must name a file, got a folder", id="folder"),
    ],
)
def test_an_unwritable_place_is_refused_before_and_when_saving(tmp_path, place, message):
    (tmp_path / "file").touch()
    (tmp_path / "folder.wav").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=message):
        audio.check_output(tmp_path / place)
    with pytest.raises(OutputError, match=message):
        audio.save(tmp_path / place, tone(0.2), 16000)
    assert sorted(tmp_path.rglob("*")) == before


def test_check_output_leaves_nothing_behind_and_keeps_an_old_file(tmp_path):
    (tmp_path / "a.wav").write_text("old")
    audio.check_output(tmp_path / "a.wav")
    audio.check_output(tmp_path / "b.wav")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.wav", "old")]


@pytest.mark.parametrize(
    ("name", "samples", "rate", "error", "message"),
    [
        pytest.param("a.mp3", tone(0.2), 15999, OutputError, "as MP3 at 15999 Hz", id="mp3-rate"),
        pytest.param(
            "a.mp3", tone(0.0), 16000, OutputError, "end with .wav or .ogg to hold no", id="none"
        ),
        pytest.param(
            "a.wav", np.full(9, np.nan, "f4"), 16000, AudioError, "must hold finite", id="nan"
        ),
        pytest.param("a.wav", np.zeros((2, 9), "f4"), 16000, AudioError, "must be mono", id="2d"),
    ],
)
def test_save_refuses_what_the_format_cannot_hold(tmp_path, name, samples, rate, error, message):
    with pytest.raises(error, match=message):
        audio.save(tmp_path / name, samples, rate)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_save_leaves_the_old_file_and_no_part(tmp_path, monkeypatch, failure):
    def interrupt(*_):
        raise failure

    (tmp_path / "a.wav").write_text("old")
    monkeypatch.setattr(soundfile.SoundFile, "write", interrupt)
    with pytest.raises(failure):
        audio.save(tmp_path / "a.wav", tone(0.2), 16000)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.wav", "old")]


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_full_disk_is_an_output_error_and_leaves_no_part(tmp_path, suffix):
    code = f"""
import resource, signal, numpy as np
from llama_omni import audio, errors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
noise = np.random.default_rng(0).uniform(-1, 1, 160000).astype("f4")
try:
    audio.save({str(tmp_path / f"a.{suffix}")!r}, noise, 16000)
except errors.OutputError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("refused:")
    assert done.stdout.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("source", [8000, 22050, 24000, 44100, 48000])
def test_resample_keeps_a_tone(source):
    assert np.abs(audio.resample(tone(1.0, source), source, 16000) - tone(1.0))[300:-300].max() < (
        1e-3
    )


def test_resample_to_the_same_rate_is_the_identity():
    assert np.array_equal(audio.resample(tone(0.3), 16000, 16000), tone(0.3))


@given(
    st.sampled_from([(8000, 16000), (48000, 16000), (22050, 16000), (16000, 24000), (7, 7)]),
    st.integers(0, 5000),
    st.lists(st.integers(0, 1500), max_size=12),
)
def test_stream_resampler_matches_one_shot_for_any_split(rates, length, cuts):
    source, target = (rate if rate > 7 else 16000 for rate in rates)
    sound = np.random.default_rng(length).uniform(-1, 1, length).astype("f4")
    stream, pieces, rest = StreamResampler(source, target), [], sound
    for cut in cuts:
        pieces.append(stream.push(rest[:cut]))
        rest = rest[cut:]
    pieces.append(stream.push(rest, final=True))
    whole = audio.resample(sound, source, target)
    assert len(whole) == pytest.approx(length * target / source, abs=1)
    assert np.array_equal(np.concatenate(pieces), whole)


@given(st.lists(st.integers(-32768, 32767)))
def test_pcm16_round_trip_is_exact(values):
    data = np.array(values, "<i2").tobytes()
    assert audio.pcm16_encode(audio.pcm16_decode(data)) == data


def test_pcm16_encode_is_little_endian_and_clips():
    samples = np.array([0.5, -0.5, 9.0], "f4")
    assert audio.pcm16_encode(samples) == b"\x00\x40\x00\xc0\xff\x7f"


def test_pcm16_decode_refuses_half_a_sample():
    with pytest.raises(AudioError, match="even number of bytes, got 3"):
        audio.pcm16_decode(b"abc")


@pytest.mark.parametrize("module", ["audio", "interfaces"])
def test_light_modules_import_no_torch(module):
    code = f"import sys, llama_omni.{module}; print({{'torch', 'transformers'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
