"""`units fit` and `units extract`, by the sub-application that the command line hooks in."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import HubertConfig, HubertModel

from llama_omni import audio
from llama_omni.cli_units import units_app
from llama_omni.data.flac import encode_flac
from llama_omni.data.schema import Row, Sound
from llama_omni.data.shards import FORMAT, write_manifest, write_shard
from llama_omni.data.units import UnitExtractor

SCRIPT = "from llama_omni.cli_units import units_app; units_app()"


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = units_app(args=[str(argument) for argument in arguments], standalone_mode=False)
        seen = capsys.readouterr()
        return code or 0, seen.out, seen.err

    return run


def sound(seed, seconds=0.5):
    rng = np.random.default_rng(seed)
    pieces = [
        rng.uniform(0.05, 0.3) * np.sin(np.arange(800) * rng.uniform(0.05, 1.0))
        + 0.02 * rng.normal(size=800)
        for _ in range(int(seconds * 20))
    ]
    return np.concatenate(pieces).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of twelve sounds, some at another rate and deeper down."""
    folder = tmp_path_factory.mktemp("sounds")
    (folder / "more").mkdir()
    for number in range(12):
        name = f"more/{number:02d}.flac" if number % 3 == 0 else f"{number:02d}.wav"
        soundfile.write(folder / name, sound(number), 22_050 if number % 2 else 16_000)
    (folder / "notes.txt").write_text("no sound")
    return folder


@pytest.fixture(scope="module")
def units(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("units") / "units"
    code = units_app(
        args=["fit", str(folder), "-o", str(output), "--num-units", "10"], standalone_mode=False
    )
    assert not code
    return output


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_fit_makes_a_folder_and_says_how_it_went(run, folder, tmp_path):
    output = tmp_path / "units"
    code, out, err = run("fit", folder, "-o", output, "--num-units", 10, "--sample-minutes", 0.05)
    assert (code, err) == (0, "")
    assert "10 units of 0.1 minutes of sound" in out
    assert "merged units a second" in out
    assert f"units in {output}" in out
    stored = json.loads((output / "features.json").read_text())
    assert stored["fit"]["sound_s"] == 3.0
    again = tmp_path / "again"
    run("fit", folder, "-o", again, "--num-units", 10, "--sample-minutes", 0.05)
    for name in ("kmeans.npy", "features.json"):
        assert (again / name).read_bytes() == (output / name).read_bytes()


def test_extract_writes_a_line_for_each_sound(run, folder, units, tmp_path):
    output = tmp_path / "units.jsonl"
    code, out, err = run("extract", folder, "-u", units, "-o", output)
    assert (code, err) == (0, "")
    assert out.startswith("12 sounds, 0.1 minutes, at ")
    rows = lines(output)
    files = sorted([*folder.rglob("*.wav"), *folder.rglob("*.flac")])
    assert [row["id"] for row in rows] == [file.relative_to(folder).as_posix() for file in files]
    extractor = UnitExtractor.load(units)
    first = rows[0]
    expected = extractor.units(audio.load(folder / first["id"]))
    assert (first["units"], first["durations"]) == (
        expected.units.tolist(),
        expected.durations.tolist(),
    )
    assert sum(first["durations"]) == len(expected.frames)
    assert first["kmeans"] == extractor.sha256[:12]


def test_two_processes_write_the_same_file(run, folder, units, tmp_path):
    run("extract", folder, "-u", units, "-o", tmp_path / "one.jsonl")
    code, _, err = run(
        "extract", folder, "-u", units, "-o", tmp_path / "two.jsonl", "--processes", 2
    )
    assert (code, err) == (0, "")
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


@pytest.mark.parametrize("cut", [1, 30, 0.5, 0.999], ids=str)
def test_extract_goes_on_where_a_run_was_cut(run, folder, units, tmp_path, cut):
    output = tmp_path / "units.jsonl"
    run("extract", folder, "-u", units, "-o", output)
    whole = output.read_bytes()
    at = cut if isinstance(cut, int) else int(cut * len(whole))
    output.write_bytes(whole[:at])
    kept = whole[:at].count(b"\n")
    code, out, err = run("extract", folder, "-u", units, "-o", output)
    assert code == 0
    assert out.startswith(f"{12 - kept} sounds")
    assert (f"{kept} sounds were in" in err) == bool(kept)
    assert output.read_bytes() == whole
    code, out, _ = run("extract", folder, "-u", units, "-o", output)
    assert (code, out.split(",")[0]) == (0, "0 sounds")
    assert output.read_bytes() == whole


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_extract_loses_and_doubles_nothing(run, units, tmp_path, processes):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(300):
        soundfile.write(folder / f"{number:03d}.wav", sound(number, 2.0), 16_000)
    run("extract", folder, "-u", units, "-o", tmp_path / "whole.jsonl")
    output = tmp_path / "killed.jsonl"
    arguments = ["extract", folder, "-u", units, "-o", output, "--processes", processes]
    program = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    kills = 0
    for wanted in (1, 120):
        child = subprocess.Popen(program, stdout=subprocess.DEVNULL)
        while child.poll() is None:
            if output.exists() and output.read_bytes().count(b"\n") >= wanted:
                os.kill(child.pid, signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.01)
        child.wait()
    assert kills >= 1
    assert run(*arguments)[0] == 0
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_bad_sound_is_told_and_the_others_are_done(run, folder, units, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.wav", "c.wav"):
        soundfile.write(tmp_path / "in" / name, sound(1), 16_000)
    (tmp_path / "in" / "b.wav").write_bytes(b"no sound")
    output = tmp_path / "units.jsonl"
    code, out, err = run("extract", tmp_path / "in", "-u", units, "-o", output)
    assert code == 2
    assert out.startswith("2 sounds")
    assert "b.wav must be audio" in err
    assert [row["id"] for row in lines(output)] == ["a.wav", "c.wav"]
    soundfile.write(tmp_path / "in" / "b.wav", sound(2), 16_000)  # mended
    code, out, _ = run("extract", tmp_path / "in", "-u", units, "-o", output)
    assert (code, out.split(",")[0]) == (0, "1 sounds")
    assert [row["id"] for row in lines(output)] == ["a.wav", "c.wav", "b.wav"]


def make_dataset(folder):
    shards = []
    for split, count in (("train", 4), ("test", 2)):
        rows = []
        for number in range(count):
            spoken = number != 1
            answer = Sound(bytes=encode_flac(sound(number)), path="a.flac") if spoken else None
            rows.append(
                Row(
                    id=f"{split}-{number}",
                    split=split,
                    source="test",
                    intent=None,
                    question="what",
                    question_audio=Sound(bytes=encode_flac(sound(50 + number)), path="q.flac"),
                    question_voice="fake",
                    question_s=0.5,
                    answer="that",
                    answer_audio=answer,
                    answer_s=0.5 if spoken else None,
                )
            )
        shards.append(write_shard(folder, f"data/{split}-00000.parquet", split, rows))
    names = ("file", "split", "rows", "bytes", "sha256")
    entries = [{name: getattr(shard, name) for name in names} for shard in shards]
    write_manifest(folder, {"format": FORMAT, "shards": entries})


def test_units_of_a_data_set(run, tmp_path):
    make_dataset(tmp_path / "set")
    output = tmp_path / "units"
    code, out, _ = run("fit", tmp_path / "set", "-o", output, "--num-units", 6)
    assert code == 0
    assert "(3 sounds, 75 frames)" in out  # train only, and only what was spoken
    run("extract", tmp_path / "set", "-u", output, "-o", tmp_path / "a.jsonl")
    ids = [row["id"] for row in lines(tmp_path / "a.jsonl")]
    assert ids == ["train-0", "train-2", "train-3", "test-0"]
    options = ("--column", "question", "--split", "test", "--processes", 2)
    run("extract", tmp_path / "set", "-u", output, "-o", tmp_path / "q.jsonl", *options)
    assert [row["id"] for row in lines(tmp_path / "q.jsonl")] == ["test-0", "test-1"]


def test_fit_on_hubert_and_extract_where_the_model_moved(run, folder, tmp_path):
    torch.manual_seed(0)
    config = HubertConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24,
        conv_dim=(8,) * 7, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    HubertModel(config).save_pretrained(tmp_path / "hubert")
    output = tmp_path / "units"
    name = f"hubert:{tmp_path / 'hubert'}#2"
    code, _, _ = run("fit", folder, "-o", output, "--features", name, "--num-units", 5)
    assert code == 0
    (tmp_path / "hubert").rename(tmp_path / "moved")
    arguments = ("extract", folder, "-u", output, "-o", tmp_path / "units.jsonl")
    code, _, err = run(*arguments)
    assert code == 2
    assert "must be a folder with a HuBERT, found none; if it moved: " in err
    assert run(*arguments, "--source", tmp_path / "moved")[0] == 0
    assert max(max(row["units"]) for row in lines(tmp_path / "units.jsonl")) < 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "none", "-o", "new"], "none must be a sound file, a folder or a data set"),
        (["fit", "empty", "-o", "new"], "empty must hold .wav, .flac, .ogg, .mp3 files"),
        (["fit", "a.wav", "-o", "full"], "full must be a new or empty folder"),
        (["fit", "a.wav", "-o", "new"], "got 200 for 25 in 0.5 s of sound; give more sound"),
        (["fit", "a.wav", "-o", "new", "--num-units", "1"], "num_units must be at least 2"),
        (["fit", "a.wav", "-o", "new", "--features", "plp"], "--features must be mfcc, hubert:"),
        (["fit", "a.wav", "-o", "new", "--features", "hubert:x"], "as hubert:x#11, got hubert:x"),
        (["fit", "a.wav", "-o", "new", "--features", "encoder:x"], "must be a readable config"),
        (["fit", "a.wav", "-o", "new", "--normalise"], "--normalise must be for hubert, got mfcc"),
        (["fit", "a.wav", "-o", "new", "--column", "both"], "answer or question, got 'both'"),
        (["fit", "a.wav", "-o", "new", "--split", "test"], "a split must be of a data set"),
        (["fit", "a.wav", "./a.wav", "-o", "new"], "must have a name of its own, got a.wav twice"),
        (["extract", "a.wav", "-u", "none", "-o", "u.jsonl"], "got no such folder"),
        (["extract", "a.wav", "-u", "empty", "-o", "u.jsonl"], "kmeans.npy must be a readable"),
        (["extract", "a.wav", "-u", "empty", "-o", "u.txt"], "must end with .jsonl, got suffix"),
        (["fit", "a.wav", "-o", "new", "--seed", "-1"], "seed must be 0 to 4294967295, got -1"),
        (["fit", "a.wav", "-o", "new", "--sample-minutes", "nan"], "above 0 and finite, got nan"),
        (["fit", "a.wav", "-o", "new", "--sample-minutes", "inf"], "above 0 and finite, got inf"),
        (["fit", "a.wav", "-o", "new", "--device", "cuda:9"], "--device 'cuda:9' must exist"),
        (["fit", "a.wav", "-o", "new", "--device", "gpu"], "--device must be auto, cpu or cuda"),
        (["extract", "a.wav", "-ux", "-ou.jsonl", "--device", "cuda:9"], "'cuda:9' must exist"),
        (
            ["extract", "a.wav", "-ux", "-ou.jsonl", "--device", "cuda", "--processes", "2"],
            "--processes must be 1 on cuda, got 2",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value[:6]),
)  # fmt: skip
def test_impossible_command_is_refused_in_one_line(run, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "full"):
        Path(name).mkdir()
    Path("full/file").write_text("mine")
    soundfile.write("a.wav", sound(0), 16_000)
    code, _, err = run(*arguments)
    assert code == 2
    assert err.startswith("llama-omni: error: ")
    assert words in err
    assert err.count("\n") == 1
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"my notes\n", "line 1 must be a line of units, got b'my notes"),
        (b"my notes", "line 1 must be a line of units"),
        (b'{"id":"a","units":[],"durations":[],"kmeans":"0123"}\n', "got those of 0123"),
        (b'{"id":"a\n{"id":"b"}\n', "line 1 must be a line of units"),
        (b"[]\n", "line 1 must be a line of units"),
    ],
    ids=["text", "text without end", "other centres", "broken within", "list"],
)
def test_file_of_something_else_is_left_as_it_is(run, folder, units, tmp_path, content, words):
    output = tmp_path / "units.jsonl"
    output.write_bytes(content)
    code, _, err = run("extract", folder, "-u", units, "-o", output)
    assert code == 2
    assert words in err
    assert output.read_bytes() == content


def test_second_run_on_the_same_file_is_refused(run, folder, units, tmp_path):
    import fcntl

    output = tmp_path / "units.jsonl"
    with output.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, _, err = run("extract", folder, "-u", units, "-o", output)
    assert code == 2
    assert "must be written by one run at a time" in err


@pytest.fixture
def small_files():
    """Let no file grow beyond 600 bytes, as where a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_is_told_and_a_rerun_goes_on(run, folder, units, tmp_path, request):
    run("extract", folder, "-u", units, "-o", tmp_path / "whole.jsonl")
    output = tmp_path / "units.jsonl"
    request.getfixturevalue("small_files")
    code, _, err = run("extract", folder, "-u", units, "-o", output)
    assert code == 2
    assert "must have room on its disk" in err
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits[1], limits[1]))
    assert 0 < output.stat().st_size <= 600
    code, _, err = run("extract", folder, "-u", units, "-o", output)
    assert code == 0
    assert "were in" in err
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_output_that_is_no_file_is_refused(run, folder, units, tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "device.jsonl").symlink_to("/dev/null")
    for name in ("folder.jsonl", "device.jsonl"):
        code, _, err = run("extract", folder, "-u", units, "-o", tmp_path / name)
        assert code == 2
        assert "must be a file, got a folder or a device" in err
