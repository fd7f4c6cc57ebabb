"""Folders of builds: what may change before a rerun, and what may not."""

import json
import shutil
from dataclasses import replace

import pytest

from llama_omni.data.build import build
from llama_omni.data.recipe import Chat, Filters, UnitSettings, Voices
from llama_omni.data.shards import read_manifest
from llama_omni.errors import ConfigError, InputError, ToolError
from tests.data.data_tools import FAKES, contents, recipe_of, write_questions

DYING = Voices(question="fake:a", answer="fake:dying")


@pytest.fixture
def recipe(tmp_path):
    return recipe_of(write_questions(tmp_path / "questions.jsonl", 9))


def stop_at(stage, recipe, output, done=0):
    """Build until a stage begins, or until so many of its records are done."""

    def stop(progress):
        if progress.stage == stage and progress.done == done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(recipe, output, tools=FAKES, on_progress=stop)


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("rewrite", {"seed": 3, "part_rows": 3}),
        ("synthesise", {"voices": Voices(question="fake:a", answer="fake:b")}),
        ("fit", {"units": UnitSettings(num_units=7, sample_s=2.0)}),
        ("filter", {"filters": Filters(max_wer=0.3)}),
        ("write", {"rows_per_shard": 4}),
    ],
    ids=["source", "voices", "units", "filters", "shards"],
)
def test_fields_of_stages_to_come_may_change_before_a_build_goes_on(
    recipe, tmp_path, stage, changes
):
    changed = replace(recipe, **changes)
    stop_at(stage, recipe, tmp_path / "set")
    build(changed, tmp_path / "set", tools=FAKES)
    build(changed, tmp_path / "new", tools=FAKES)
    assert contents(tmp_path / "set") == contents(tmp_path / "new")


@pytest.mark.parametrize(
    "changes", [{"filters": Filters(max_wer=0.3)}, {"rows_per_shard": 5}], ids=["filters", "shards"]
)
def test_filters_and_shards_may_change_until_the_set_is_complete(recipe, tmp_path, changes):
    recipe = replace(recipe, rows_per_shard=2)
    stop_at("write", recipe, tmp_path / "set", done=9)
    assert len(list(tmp_path.glob("set/data/*.parquet"))) == 5
    spoken = {path: path.stat().st_mtime_ns for path in tmp_path.glob("set/.work/synthesise/*")}
    changed = replace(recipe, **changes)
    build(changed, tmp_path / "set", tools=FAKES, keep_work=True)
    assert spoken
    assert spoken == {path: path.stat().st_mtime_ns for path in spoken}
    shutil.rmtree(tmp_path / "set/.work")
    build(changed, tmp_path / "new", tools=FAKES)
    assert contents(tmp_path / "set") == contents(tmp_path / "new")


def test_filters_that_left_nothing_can_be_loosened_without_speaking_again(recipe, tmp_path):
    strict = replace(recipe, filters=Filters(min_question_s=20.0))
    with pytest.raises(InputError, match=r"got none of 9; the first reason: question must take 20"):
        build(strict, tmp_path / "set", tools=FAKES)
    build(recipe, tmp_path / "set", tools=FAKES)
    build(recipe, tmp_path / "new", tools=FAKES)
    assert contents(tmp_path / "set") == contents(tmp_path / "new")


@pytest.mark.parametrize(
    ("stage", "changes", "named"),
    [
        ("respond", {"seed": 3}, r"seed \(0, now 3\)"),
        ("fit", {"voices": DYING}, "voices.question"),
        ("filter", {"units": UnitSettings(num_units=7, sample_s=2.0)}, r"units.num_units \("),
    ],
    ids=["source", "voices", "units"],
)
def test_fields_that_finished_parts_depend_on_may_not_change(
    recipe, tmp_path, stage, changes, named
):
    stop_at(stage, recipe, tmp_path / "set")
    with pytest.raises(ConfigError, match=f"got other values of {named}"):
        build(replace(recipe, **changes), tmp_path / "set", tools=FAKES)


def test_utterances_prepared_for_another_recipe_are_not_used(recipe, tmp_path):
    with pytest.raises(ToolError, match="fake must end with status 0"):
        build(replace(recipe, voices=DYING), tmp_path / "set", tools=FAKES)
    spoken = tmp_path / "set/.work/spoken/aa"
    spoken.mkdir(parents=True)
    build(recipe, tmp_path / "set", tools=FAKES, keep_work=True)
    assert not spoken.exists()


def test_source_that_was_edited_is_read_again_while_nothing_was_made_of_it(recipe, tmp_path):
    stop_at("rewrite", recipe, tmp_path / "set")
    write_questions(tmp_path / "questions.jsonl", 5)
    assert build(recipe, tmp_path / "set", tools=FAKES).counts == {"train": 5}


@pytest.mark.parametrize("complete", [True, False], ids=["complete", "interrupted"])
def test_set_whose_source_was_edited_is_refused(recipe, tmp_path, complete):
    output, file = tmp_path / "set", tmp_path / "questions.jsonl"
    if complete:
        build(recipe, output, tools=FAKES)
    else:
        stop_at("synthesise", recipe, output)
    before = file.read_text()
    file.write_text(before.replace("Answer 1", "Answer 7"))
    message = r"set must be built from the files it was begun with, got questions.jsonl of source "
    with pytest.raises(InputError, match=message + "table, which has 666 bytes and SHA-256 "):
        build(recipe, output, tools=FAKES)
    file.write_text(before)
    build(recipe, output, tools=FAKES)
    file.unlink()
    assert build(recipe, output, tools=FAKES).counts == {"train": 9}  # it is not needed any more
    (origin,) = read_manifest(output)["sources"]
    assert (origin["source"], origin["file"], origin["bytes"]) == ("table", "questions.jsonl", 666)


def test_absent_voice_of_a_record_is_told_with_its_line_and_can_be_mended(tmp_path):
    path = write_questions(tmp_path / "q.jsonl", 5, r3={"voice": "fake:nobody"})
    rows = [{"voice": "fake:b"} | json.loads(line) for line in path.read_text().splitlines()]
    recipe = recipe_of(path)
    (source,) = recipe.sources
    source = replace(source, columns=replace(source.columns, voice="voice"))
    recipe = replace(recipe, sources=(source,))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    message = "q.jsonl, line 4: voice must be among those of 'fake', got 'fake:nobody'; it has fa"
    with pytest.raises(InputError, match=message):
        build(recipe, tmp_path / "set", tools=FAKES)
    path.write_text(path.read_text().replace("nobody", "a"))
    assert build(recipe, tmp_path / "set", tools=FAKES).counts == {"train": 5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"units": UnitSettings(features="mfc")}, "units.features must be mfcc, got 'mfc'"),
        ({"filters": Filters(recognizer="pocketsphinks")}, "recognizer must be one of fake; got"),
    ],
    ids=["features", "recognizer"],
)
def test_what_later_stages_open_is_checked_before_the_source_is_read(
    recipe, tmp_path, changes, message
):
    with pytest.raises(ConfigError, match=message):
        build(replace(recipe, **changes), tmp_path / "set", tools=FAKES)
    assert not (tmp_path / "set/.work/source.json").exists()
    build(recipe, tmp_path / "set", tools=FAKES)


def test_server_of_answers_alone_may_change_after_rewriting(tmp_path, recipe):
    chat = Chat(base_url="http://localhost:1/v1", model="wrong")
    recipe = replace(recipe, chat=chat)
    stop_at("respond", recipe, tmp_path / "set")
    build(replace(recipe, chat=replace(chat, model="right")), tmp_path / "set", tools=FAKES)


def test_how_a_server_is_asked_may_change_at_any_time(tmp_path, recipe):
    built = build(recipe, tmp_path / "set", tools=FAKES)
    again = replace(recipe, chat=Chat(concurrency=2, tries=1))
    assert build(again, tmp_path / "set", tools=FAKES).counts == built.counts


def test_sources_may_be_named_by_another_path(tmp_path, recipe, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = recipe.sources[0]
    near = replace(recipe, sources=(replace(source, path="questions.jsonl"),))
    stop_at("synthesise", near, tmp_path / "set")
    build(recipe, tmp_path / "set", tools=FAKES)


def test_split_to_read_may_change_where_a_source_is_one_file(tmp_path, recipe):
    source = recipe.sources[0]
    others = replace(recipe, sources=(replace(source, hub_split=None),))
    first = build(recipe, tmp_path / "set", tools=FAKES)
    assert build(others, tmp_path / "set", tools=FAKES).counts == first.counts
    (tmp_path / "folder").mkdir()
    (tmp_path / "questions.jsonl").rename(tmp_path / "folder/questions.jsonl")
    source = replace(source, path=str(tmp_path / "folder"))
    build(replace(recipe, sources=(source,)), tmp_path / "new", tools=FAKES)
    others = replace(recipe, sources=(replace(source, hub_split=None),))
    with pytest.raises(
        ConfigError, match=r'other values of sources.0.hub_split \("train", now nul'
    ):
        build(others, tmp_path / "new", tools=FAKES)


def test_two_sources_of_one_name_are_told_apart(tmp_path, recipe):
    (tmp_path / "b").mkdir()
    other = write_questions(tmp_path / "b" / "questions.jsonl", 12)
    source = recipe.sources[0]
    more = replace(source, path=str(other), columns=replace(source.columns, id=None))
    recipe = replace(recipe, sources=(source, more))
    first = build(recipe, tmp_path / "set", tools=FAKES)
    assert build(recipe, tmp_path / "set", tools=FAKES).counts == first.counts


def test_another_place_without_files_is_another_source(tmp_path, recipe):
    output, source = tmp_path / "set", recipe.sources[0]
    (other := tmp_path / "other.jsonl").write_text((tmp_path / "questions.jsonl").read_text())
    more = replace(source, name="more", path=str(other), columns=replace(source.columns, id=None))
    stop_at("synthesise", replace(recipe, sources=(source, more)), output)
    elsewhere = replace(more, path=str(tmp_path / "absent"))  # as a hub id is: no files here
    with pytest.raises(ConfigError, match=r"other values of sources\.1\.path"):
        build(replace(recipe, sources=(source, elsewhere)), output, tools=FAKES)
