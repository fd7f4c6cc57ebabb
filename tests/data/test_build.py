"""The build as a whole: what it makes, that it goes on after anything, and what it refuses."""

import errno
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llama_omni.data import pool, shards
from llama_omni.data.build import build
from llama_omni.data.dataset import SpeechDataset
from llama_omni.data.recipe import Filters, UnitSettings, Voices
from llama_omni.data.shards import read_manifest
from llama_omni.data.sources import Source
from llama_omni.errors import ConfigError, InputError, OutputError, ToolError
from tests.data import data_tools
from tests.data.data_tools import FAKES, contents, recipe_of, write_questions

ROOT = Path(__file__).parents[2]
NUM = 22


@pytest.fixture
def questions(tmp_path):
    return write_questions(
        tmp_path / "questions.jsonl",
        NUM,
        r3={"answer": "This goes on forever."},
        r5={"instruction": "Question 4, please?"},
        r7={"answer": "!!"},
        r9={"instruction": "This is unsayable."},
        r11={"answer": "long " * 2000},
        r13={"instruction": "This is crashing."},
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A data set from an unbroken run, and its recipe."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = recipe_of(write_questions(folder / "questions.jsonl", NUM))
    build(recipe, folder / "set", tools=FAKES)
    return folder / "set", recipe


def rejects_of(folder):
    lines = (folder / "rejects.jsonl").read_text().splitlines()
    return {row["id"]: (row["stage"], row["reason"]) for row in map(json.loads, lines)}


def test_build_speaks_names_units_and_filters(questions, tmp_path):
    output = tmp_path / "set"
    seen = []
    summary = build(recipe_of(questions), output, tools=FAKES, on_progress=seen.append)
    data = SpeechDataset(output)
    assert summary.counts == {"train": NUM - 6} == read_manifest(output)["counts"]
    assert data.ids == [f"q{i}" for i in range(NUM) if i not in (3, 5, 7, 9, 11, 13)]
    for i in (0, 8, len(data) - 1):
        item = data[i]
        assert item.voice in ("fake:a", "fake:b")
        assert item.durations.sum() == len(item.answer_audio) // 320
        assert (np.diff(item.units) != 0).all()
    assert len({data[i].voice for i in range(len(data))}) == 2
    rejects = rejects_of(output)
    assert sorted(rejects) == ["q11", "q13", "q3", "q5", "q7", "q9"]
    assert rejects["q3"] == ("filter", "answer must take 0.1 to 60 s, got 600.00 s")
    assert rejects["q5"] == ("source", "question must be new, got that of q4 again")
    assert rejects["q13"] == ("synthesise", "fake must end with status 0, got 139")
    assert rejects["q9"] == ("synthesise", "text must be sayable")
    assert rejects["q7"][0] == "respond"
    assert rejects["q11"][0] == "respond"
    assert summary.rejects == {"source": 1, "respond": 2, "synthesise": 2, "filter": 1}
    assert not (output / ".work").exists()
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages == "source rewrite respond synthesise fit units filter write".split()
    assert seen[-1].done == seen[-1].total == NUM - 6
    assert seen[-1].eta_s == 0


def test_equal_answers_are_spoken_once(tmp_path):
    data_tools.SAID.clear()
    build(recipe_of(write_questions(tmp_path / "q.jsonl", 12)), tmp_path / "set", tools=FAKES)
    answers = [text for voice, text in data_tools.SAID if voice == "fake:answer"]
    assert sorted(answers) == sorted(set(answers))
    assert len(answers) == 3


def test_speed_and_pitch_are_drawn_by_record(tmp_path):
    path = write_questions(tmp_path / "q.jsonl", 8)
    recipe = recipe_of(path, filters=Filters(duplicates=True))
    build(recipe, tmp_path / "one", tools=FAKES)
    build(replace(recipe, part_rows=3), tmp_path / "two", tools=FAKES)
    build(replace(recipe, seed=1), tmp_path / "three", tools=FAKES)
    one, two, three = (
        SpeechDataset(tmp_path / name).lengths["question_s"] for name in ("one", "two", "three")
    )
    assert one.tolist() == two.tolist()
    assert one.tolist() != three.tolist()


def test_splits_have_their_own_voices(tmp_path):
    path = write_questions(tmp_path / "q.jsonl", 6, r2={"split": "test"}, r4={"split": "test"})
    for row in (rows := [json.loads(line) for line in path.read_text().splitlines()]):
        row.setdefault("split", "train")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = recipe_of(path)
    source = recipe.sources[0]
    voices = Voices(question="fake:a", splits={"test": "fake:b"}, answer=None)
    recipe = replace(
        recipe,
        sources=(replace(source, columns=replace(source.columns, split="split")),),
        voices=voices,
    )
    build(recipe, tmp_path / "set", tools=FAKES)
    test = SpeechDataset(tmp_path / "set", "test")
    assert test.ids == ["q2", "q4"]
    assert test[0].voice == "fake:b"
    assert test[0].answer_audio is None
    assert test[0].units is None
    assert SpeechDataset(tmp_path / "set")[0].voice == "fake:a"


def test_units_must_fit_tokens_and_words_be_understood(tmp_path):
    path = write_questions(tmp_path / "q.jsonl", 5, r1={"answer": "A much longer answer this is."})
    filters = Filters(tokenizer="any", upsample_factor=2)
    with pytest.raises(
        InputError, match="at least one record must pass the filters, got none of 5"
    ):
        build(recipe_of(path, filters=filters), tmp_path / "few", tools=FAKES)
    filters = Filters(recognizer="fake", max_wer=0.9)
    with pytest.raises(InputError, match="the first reason: question must have a word error rate"):
        build(recipe_of(path, filters=filters), tmp_path / "misheard", tools=FAKES)


def test_processes_do_not_change_the_files(whole, tmp_path):
    folder, recipe = whole
    build(recipe, tmp_path / "set", processes=2, tools=FAKES)
    assert contents(tmp_path / "set") == contents(folder)


def _build_until(step, recipe, output):
    """Build, and be killed at the given write."""
    count = 0

    def fsync(descriptor, real=os.fsync):
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor)

    os.fsync = fsync
    build(recipe, output, tools=FAKES)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_builds_go_on_to_the_same_files(whole, tmp_path):
    folder, recipe = whole
    chance, kills = random.Random(7), 0
    for number in range(2):
        output = tmp_path / f"set{number}"
        while True:
            process = multiprocessing.get_context("fork").Process(
                target=_build_until, args=(chance.randint(1, 70), recipe, output)
            )
            process.start()
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL
            kills += 1
        assert contents(output) == contents(folder)
    assert kills > 3


SCRIPT = """
import sys
from pathlib import Path
from llama_omni.data.build import build
from tests.data.data_tools import FAKES, recipe_of
if __name__ == "__main__":
    recipe = recipe_of(sys.argv[1])
    print("begun", flush=True)
    show = lambda p: print(p.stage, p.done, flush=True)
    build(recipe, Path(sys.argv[2]), processes=2, tools=FAKES, on_progress=show)
"""


def _start(recipe, output):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "FAKE_PAUSE_S": "0.05"}
    command = [sys.executable, "-c", SCRIPT, recipe.sources[0].path, str(output)]
    (output.parent / "script.py").write_text(SCRIPT)
    command[1:3] = [str(output.parent / "script.py")]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def _children(pid):
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_killed_parent_leaves_no_process_and_loses_nothing(whole, tmp_path, signal_number):
    folder, recipe = whole
    output = tmp_path / "set"
    process = _start(recipe, output)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("synthesise") and not line.endswith(" 0\n"):
            break
    children = _children(process.pid)
    assert children
    process.send_signal(signal_number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    for child in children:
        for _ in range(600):
            if not Path(f"/proc/{child}").exists():
                break
            signal.sigtimedwait([], 0.1)
        assert not Path(f"/proc/{child}").exists()
    build(recipe, output, tools=FAKES)
    assert contents(output) == contents(folder)


def test_dead_process_is_told_and_the_build_goes_on(whole, tmp_path, monkeypatch):
    folder, recipe = whole

    class Dying(pool.ProcessPoolExecutor):
        def submit(self, *args, **kwargs):
            return super().submit(os._exit, 9)

    with monkeypatch.context() as patch:
        patch.setattr(pool, "ProcessPoolExecutor", Dying)
        with pytest.raises(ToolError, match=r"ended before its work did.* it goes on from here"):
            build(recipe, tmp_path / "set", processes=2, tools=FAKES)
    build(recipe, tmp_path / "set", tools=FAKES)
    assert contents(tmp_path / "set") == contents(folder)


def test_full_disk_is_told_and_the_build_goes_on(whole, tmp_path, monkeypatch):
    folder, recipe = whole
    for step in (2, 30, 55):
        count = 0

        def full(descriptor, real=os.fsync):
            nonlocal count
            count += 1
            if count == step:  # noqa: B023 - called within this turn of the loop only
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(shards.os, "fsync", full)
            with pytest.raises(OutputError, match="No space left on device"):
                build(recipe, tmp_path / "set", tools=FAKES)
    build(recipe, tmp_path / "set", tools=FAKES)
    assert contents(tmp_path / "set") == contents(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_small_disk_is_told_and_loses_nothing(whole, tmp_path):
    folder, recipe = whole
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    try:
        with pytest.raises(OutputError, match="No space left on device"):
            build(recipe, disk / "set", tools=FAKES)
        assert not (disk / "set" / "manifest.json").exists()
        remount = ["mount", "-o", "remount,size=64m", str(disk)]
        subprocess.run(remount, check=True, capture_output=True)
        build(recipe, disk / "set", tools=FAKES)
        assert contents(disk / "set") == contents(folder)
    finally:
        subprocess.run(["umount", str(disk)], check=True, capture_output=True)


# Folders


def test_complete_set_is_left_alone(whole):
    folder, recipe = whole
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    summary = build(recipe, folder, tools=FAKES)
    assert summary.counts == {"train": NUM}
    assert not summary.stages
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_damaged_set_is_built_again(whole, tmp_path):
    folder, recipe = whole
    build(recipe, tmp_path / "set", tools=FAKES)
    (tmp_path / "set/data/train-00001.parquet").write_bytes(b"PAR1")
    build(recipe, tmp_path / "set", tools=FAKES)
    assert contents(tmp_path / "set") == contents(folder)


@pytest.mark.parametrize("damage", ["deleted", "cut", "changed"])
def test_damaged_set_whose_work_was_kept_is_built_again(whole, tmp_path, damage):
    folder, recipe = whole
    build(recipe, tmp_path / "set", tools=FAKES, keep_work=True)
    shard = tmp_path / "set/data/train-00001.parquet"
    before = shard.read_bytes()
    shard.unlink()
    if damage != "deleted":
        shard.write_bytes(before[:9] if damage == "cut" else before[:-9] + b"x" * 9)
        (tmp_path / "set/data/train-00000.parquet").unlink()
    build(recipe, tmp_path / "set", tools=FAKES)
    assert contents(tmp_path / "set") == contents(folder)


def test_changed_recipe_is_refused(whole):
    folder, recipe = whole
    message = r"begun with, got other values of seed \(0, now 3\), units.num_units \(20, now 9\)"
    changed = replace(recipe, seed=3, units=UnitSettings(num_units=9, sample_s=5.0))
    with pytest.raises(ConfigError, match=message):
        build(changed, folder, tools=FAKES)


def test_strange_folder_is_refused(questions, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    with pytest.raises(OutputError, match=r"new, empty or of an earlier run, got one with cat.jpg"):
        build(recipe_of(questions), tmp_path / "photos", tools=FAKES)
    with pytest.raises(OutputError, match="must be a folder, got a file"):
        build(recipe_of(questions), questions, tools=FAKES)


def test_second_build_in_a_folder_is_refused(questions, tmp_path):
    output = tmp_path / "set"

    def again(_progress):
        with pytest.raises(OutputError, match="must be built by one run at a time, got a second"):
            build(recipe_of(questions), output, tools=FAKES)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(recipe_of(questions), output, tools=FAKES, on_progress=again)


def test_absent_voices_are_told_before_any_work(questions, tmp_path):
    recipe = recipe_of(questions)
    voices = replace(recipe.voices, question_synthesizer="absent")
    with pytest.raises(ToolError, match="absent must be on PATH, found none; apt install absent"):
        build(replace(recipe, voices=voices), tmp_path / "set", tools=FAKES)
    voices = Voices(question="fake:nobody", answer=None)
    with pytest.raises(
        ConfigError, match="voices must be among those of 'fake', it lacks fake:nob"
    ):
        build(replace(recipe, voices=voices), tmp_path / "set", tools=FAKES)


@pytest.mark.parametrize(("name", "value"), [("processes", 0), ("limit", 0)])
def test_impossible_numbers_are_refused(questions, tmp_path, name, value):
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, got 0"):
        build(recipe_of(questions), tmp_path / "set", tools=FAKES, **{name: value})


def test_limit_holds_for_each_source(tmp_path):
    paths = [write_questions(tmp_path / f"{name}.jsonl", 9) for name in "ab"]
    sources = tuple(Source(path=str(path), name=path.stem) for path in paths)
    sources = tuple(replace(s, columns=replace(s.columns, answer="answer")) for s in sources)
    recipe = recipe_of("", sources=sources, filters=Filters(duplicates=True))
    assert build(recipe, tmp_path / "set", tools=FAKES, limit=2).counts == {"train": 4}
    assert SpeechDataset(tmp_path / "set").ids == [
        "a-0000000", "a-0000001", "b-0000000", "b-0000001",
    ]  # fmt: skip
