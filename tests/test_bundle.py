"""The bundle for a machine without network: packed, trained in slices, given back, joined."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import llama_omni
from llama_omni.cli import main as cli
from llama_omni.data.dataset import SpeechDataset
from llama_omni.data.flac import decode_flac, encode_flac
from llama_omni.data.schema import Sound
from llama_omni.data.shards import read_manifest, write_manifest
from llama_omni.errors import InputError, TrainingError
from tests.data.data_tools import make_dataset, make_row, tone

ROOT = Path(__file__).parents[1]
ROOM = 90_000  # bytes, half of them Parquet's own
SPLITS = {"train": 12, "words": 6, "test_seen": 3, "test_unseen": 3}
FEW = (
    "tokenizer.texts.sources.0.limit=300",
    "lm.texts.sources.0.limit=40",
    "lm.held_out.0.limit=2",
    "lm.held_out.1.limit=2",
    "lm.lm.max_new_tokens=2",
    *(f"{part}.training.max_steps=2" for part in ("lm", "encoder")),
    *(f"{part}.training.batch_size=2" for part in ("lm", "encoder")),
    "vocoder.training.max_steps=2",
    "vocoder.training.batch_size=2",
    "vocoder.training.held_out=2",
    "vocoder.training.samples=0",
    *(f"stage{i}.{key}" for i in (1, 2) for key in ("max_steps=2", "batch_size=2", "samples=0")),
    *(f"stage{i}.{key}" for i in (1, 2) for key in ("held_out_rows=2", "max_new_tokens=2")),
)
CHANGES = [word for setting in FEW for word in ("--set", setting)]


@pytest.fixture(scope="module")
def scripts():
    """The modules of runs/bundle*.py."""
    sys.path.insert(0, str(ROOT / "runs"))
    names = ("bundle", "bundle_data", "bundle_opus", "bundle_state", "bundle_train")
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(str(ROOT / "runs"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A set with a second and more of sound in each question."""
    folder, splits, number = tmp_path_factory.mktemp("bundle") / "set", {}, 0
    for split, count in SPLITS.items():
        rows = []
        for _ in range(count):
            sound = encode_flac(tone(f"question {number}", 1.2))
            rows.append(
                replace(
                    make_row(number, split, history=number == 1),
                    question_audio=Sound(bytes=sound, path=f"{number}.flac"),
                    question_s=1.2,
                )
            )
            number += 1
        splits[split] = [rows]
    manifest = make_dataset(folder, splits)
    write_manifest(folder, manifest | {"units": {"K": 200}, "counts": SPLITS})
    (folder / "units").mkdir()
    (folder / "units/kmeans.npy").write_bytes(b"centres")
    return folder


@pytest.fixture
def pack(scripts, data, tmp_path):
    """A function that packs `data` into a folder and returns the exit code."""

    def call(*words, name="bundle"):
        given = ["pack", "--data", data, "-o", tmp_path / name, "--answers", "8", "--threads", "1"]
        return scripts["bundle"].main([str(word) for word in (*given, *words)])

    return call


@pytest.fixture(scope="module")
def packed(scripts, data, tmp_path_factory):
    """A bundle that trains few steps."""
    folder = tmp_path_factory.mktemp("packed") / "bundle"
    words = ["pack", "--data", str(data), "-o", str(folder), "--answers", "8", "--threads", "1"]
    assert scripts["bundle"].main([*words, *CHANGES]) == 0
    return folder


@pytest.fixture
def bundle(packed, tmp_path):
    """One of its own for a test that changes it."""
    return shutil.copytree(packed, tmp_path / "bundle")


def here(stop=()):
    """A way to run commands in this process; those of parts in `stop` end after a step."""
    seen = []

    def run(command, _seconds):
        part = command[command.index("train") + 1]
        part = f"stage{command[command.index('--stage') + 1]}" if part == "tiny" else part
        seen.append(part)
        late = [word for word in command if part in stop and "stop_after_s" in word]
        more = [late[0].partition("=")[0] + "=1e-9"] if late else []
        return cli([*command[3:], *(w for word in more for w in ("--set", word))])

    run.seen = seen
    return run


def test_bundle_is_a_data_set_with_the_same_rows_in_fewer_bytes(bundle, data):
    packed, original = SpeechDataset(bundle / "data"), SpeechDataset(data)
    assert len(packed) == len(original)
    for row, before in zip(packed, original, strict=True):
        assert (row.id, row.question, row.answer) == (before.id, before.question, before.answer)
        assert len(row.audio) == len(before.audio)
        assert np.corrcoef(row.audio, before.audio)[0, 1] > 0.8
        assert row.units.tolist() == before.units.tolist()
        assert row.answer_audio is None
        assert len(row.history) == len(before.history)
    answers = SpeechDataset(bundle / "answers")
    assert len(answers) == 8
    for row in answers:
        assert len(row.answer_audio) == 320 * row.durations.sum()
        assert not len(row.audio)
    assert {split: len(SpeechDataset(bundle / "data", split)) for split in SPLITS} == SPLITS
    assert (bundle / "data/units/kmeans.npy").read_bytes() == b"centres"


def test_draw_is_even_seeded_and_no_greater_than_its_room(scripts, data, tmp_path):
    module = scripts["bundle_data"]

    def draw(name, seed=0):
        given = module.Draw(held_out=2, seed=seed)
        sizes = module.draw_questions(data, tmp_path / name, given, num_bytes=ROOM, threads=1)
        assert module.size_of(tmp_path / name) <= ROOM
        ids = [SpeechDataset(tmp_path / name, split).ids for split in sizes]
        return sizes, ids

    sizes, ids = draw("one")
    assert sizes["test_seen"] == sizes["test_unseen"] == 2
    assert 2 <= sizes["train"] < SPLITS["train"]
    assert 1 <= sizes["words"] < SPLITS["words"]
    assert draw("two") == (sizes, ids)
    assert draw("three", seed=1)[1] != ids


def test_two_slices_on_bare_machines_train_every_part(scripts, bundle, tmp_path):
    first, second = here(stop=("lm",)), here()
    slices = scripts["bundle_train"].train_slice
    for name, run, finished in (("1", first, False), ("2", second, True)):
        out = tmp_path / f"out{name}"
        assert slices(bundle, tmp_path / f"work{name}", out, seconds=600, run=run) is finished
        files = [path.stat().st_size for path in out.iterdir()]
        assert len(files) <= 8
        assert max(files) < 16 << 20
        assert scripts["bundle"].main(["unpack", str(out), "-o", str(tmp_path / "state")]) == 0
        if not finished:
            again = ["pack", "--state", str(tmp_path / "state"), "-o", str(bundle)]
            assert scripts["bundle"].main(again) == 0
    assert first.seen == ["tokenizer", "vocoder", "lm"]
    assert second.seen == ["lm", "encoder", "stage1", "stage2"]
    assert not (bundle / "answers").exists()
    steps = sorted(path.name for path in (tmp_path / "work2/lm/checkpoints").iterdir())
    assert steps == ["step-00000001", "step-00000002"]  # the first was carried over
    state = tmp_path / "state"
    shutil.copytree(state / "vocoder/best", state / "stage2/best/vocoder")
    assistant = llama_omni.load(state / "stage2/best", device="cpu")
    assert len(assistant.reply(np.zeros(8000, np.float32), max_new_tokens=2).token_ids) == 2


def test_failed_part_is_told_and_what_others_learnt_is_kept(scripts, bundle, tmp_path):
    train = here()

    def run(command, seconds):
        return 2 if "vocoder" in command else train(command, seconds)

    with pytest.raises(TrainingError, match="vocoder ended with status 2"):
        scripts["bundle_train"].train_slice(
            bundle, tmp_path / "work", tmp_path / "out", seconds=600, run=run
        )
    index = scripts["bundle_state"].join(tmp_path / "out", tmp_path / "state")
    assert index["done"] == ["tokenizer"]
    assert (tmp_path / "state/tokenizer/tokenizer.json").is_file()


def test_script_installs_wheels_and_ends_with_its_time(pack, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "carried-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried.py", "")
        wheel.writestr("carried-1.0.dist-info/METADATA", "Name: carried\nVersion: 1.0\n")
        wheel.writestr("carried-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("carried-1.0.dist-info/RECORD", "")
    assert pack("--wheels", wheels) == 0
    site, out = tmp_path / "site", tmp_path / "out"
    known = {"OUT": str(out), "WORK": str(tmp_path / "work"), "SITE": str(site), "SLICE_S": "0.01"}
    done = subprocess.run(
        [tmp_path / "bundle/run.sh"],
        cwd=ROOT,
        env=os.environ | known | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (site / "carried.py").is_file()
    assert json.loads((out / "state.json").read_text())["done"] == []


# Sound


@pytest.mark.parametrize("seconds", [0.1, 1.0, 3.7])
def test_opus_gives_as_many_samples_back_without_empty_comments(scripts, seconds):
    sound = tone("a question", seconds)
    small = scripts["bundle_opus"].encode_opus(sound, 0.98)
    assert bytes(64) not in small
    again = decode_flac(small, "sound")
    assert len(again) == len(sound)
    assert np.corrcoef(again, sound)[0, 1] > 0.8


# States


def filled(folder, part="lm", *, done=False, size=1000):
    run = folder / part
    for name in ("checkpoints/step-00000001", "checkpoints/step-00000002", "best"):
        (run / name).mkdir(parents=True)
        noise = np.random.default_rng(len(name) + size).bytes(size)
        (run / name / "weights.bin").write_bytes(noise)
    for name in ("checkpoints/step-00000001/COMPLETE", "settings.json"):
        (run / name).write_text("{}")
    if done:
        (run / "done.json").write_text("{}")
    return folder


def test_state_holds_the_newest_whole_checkpoint_and_the_best(scripts, tmp_path):
    state = scripts["bundle_state"]
    groups = state.groups_of(filled(tmp_path / "work"))
    assert [group.name for group in groups] == ["lm.checkpoint", "lm.best"]
    assert {Path(name).parts[-2] for name in groups[0].files} == {"lm", "step-00000001"}
    over = state.groups_of(filled(tmp_path / "over", done=True))
    assert [group.name for group in over] == ["lm.product"]
    assert set(over[0].files) == {"lm/best/weights.bin", "lm/done.json", "lm/settings.json"}


def test_state_without_room_leaves_the_least_wanted_behind(scripts, tmp_path):
    state = scripts["bundle_state"]
    work = filled(tmp_path / "work", size=200_000)
    limits = state.Limits(num_bytes=500_000, piece=150_000)
    options = {"run": "r", "done": (), "limits": limits}
    index = state.write_state(state.groups_of(work), tmp_path / "out", **options)
    assert [entry["kind"] for entry in index["left_out"]] == ["best"]
    assert [entry["bytes"] <= 150_000 for entry in index["pieces"]] == [True, True]
    stale = filled(tmp_path / "state")
    state.join(tmp_path / "out", stale)
    assert not (stale / "lm/best").exists()
    again = (stale / "lm/checkpoints/step-00000001/weights.bin").read_bytes()
    assert again == (work / "lm/checkpoints/step-00000001/weights.bin").read_bytes()
    known = [entry["digest"] for entry in index["groups"]]
    index = state.write_state(state.groups_of(work)[:1], tmp_path / "out", known=known, **options)
    assert (index["groups"], index["pieces"]) == ([], [])


@pytest.mark.parametrize("how", ["cut", "missing", "other run", "no index"])
def test_damaged_pieces_are_refused(scripts, tmp_path, how):
    state = scripts["bundle_state"]
    groups = state.groups_of(filled(tmp_path / "work"))
    state.write_state(groups, tmp_path / "out", run="r", done=())
    piece = tmp_path / "out/state-000.bin"
    message = "state-000.bin must be"
    match how:
        case "cut":
            piece.write_bytes(piece.read_bytes()[:-1])
        case "missing":
            piece.unlink()
        case "other run":
            state.write_state(groups, tmp_path / "other", run="s", done=())
            state.join(tmp_path / "other", tmp_path / "state")
            message = "must be new or of run r, got one of s"
        case _:
            (tmp_path / "out/state.json").unlink()
            message = "state.json must be the index of a state"
    with pytest.raises(InputError, match=message):
        state.join(tmp_path / "out", tmp_path / "state")


# Refusals


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mib", "29", "--wheels", "WHEELS"], "with 2.0 of wheels and 28 reserved"),
        (["--mib", "28.3"], "must have room for the data set, got"),
        (["--wheels", "EMPTY"], "must hold wheels, found none"),
        (["--set", "lmm.x=1"], "--set must be PART.KEY=VALUE of tokenizer, vocoder"),
        (["--state", "EMPTY"], "must be a state that `unpack` made"),
    ],
    ids=["wheels", "data", "no wheels", "setting", "state"],
)
def test_what_cannot_be_packed_is_refused_in_one_line(pack, tmp_path, capsys, words, message):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "WHEELS").mkdir()
    (tmp_path / "WHEELS/big-1.0-py3-none-any.whl").write_bytes(bytes(2 << 20))
    assert pack(*(tmp_path / word if word.isupper() else word for word in words)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_state_that_does_not_fit_is_refused(scripts, bundle, tmp_path, capsys):
    run = json.loads((bundle / "bundle.json").read_text())["run"]
    work = filled(tmp_path / "work", size=3 << 20)
    state = scripts["bundle_state"]
    state.write_state(state.groups_of(work), tmp_path / "out", run=run, done=())
    state.join(tmp_path / "out", tmp_path / "state")
    words = ["pack", "--state", str(tmp_path / "state"), "-o", str(bundle), "--mib"]
    assert scripts["bundle"].main([*words, "2"]) == 2
    assert "of room without lm.checkpoint; make a new bundle" in capsys.readouterr().err
    assert scripts["bundle"].main([*words, "5"]) == 0
    assert read_manifest(bundle / "data")["counts"]["words"] == SPLITS["words"]
    shutil.rmtree(bundle)
    assert scripts["bundle"].main([*words, "5"]) == 2
    assert "no bundle and no --data" in capsys.readouterr().err
