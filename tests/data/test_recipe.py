"""Recipes, their names, and the filters."""

from dataclasses import replace

import pytest

from llama_omni.data.filters import Spoken, check_spoken
from llama_omni.data.named import RECIPES, find_recipe, with_paths
from llama_omni.data.recipe import (
    BuildRecipe,
    Chat,
    Filters,
    UnitSettings,
    Voices,
    differences,
    without_place,
)
from llama_omni.data.sources import Source
from llama_omni.errors import ConfigError
from llama_omni.overrides import override


def test_paper_recipe_takes_the_first_turns_of_both_sets():
    recipe = override(
        replace(find_recipe("tiny"), name="x"), ["filters.max_answer_s=9", "sources.0.limit=7"]
    )
    assert recipe.filters.max_answer_s == 9
    assert recipe.sources[0].limit == 7
    settings = ["chat.base_url=http://localhost:1/v1", "chat.model=m"]
    paper = override(find_recipe("instructs2s_200k"), settings)
    assert [(source.kind, source.limit) for source in paper.sources] == [
        ("alpaca", 50_000), ("ultrachat", 150_000),
    ]  # fmt: skip
    assert len(paper.voices.pool("train").voices) == 2
    assert (paper.rewrite, paper.respond) == ("chat", "chat")
    assert not any(source.answers for source in paper.sources)
    assert sum(source.limit * source.held_out for source in paper.sources) == 500


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("vits:/voices/ljs#0", "vits:ljs#0"),
        ("/data/set/a.json", "a.json"),
        ("flite:rms", "flite:rms"),
        ("endpoint:http://localhost:1/v1#m", "endpoint:http://localhost:1/v1#m"),
    ],
)
def test_a_published_name_holds_no_place(name, shown):
    assert without_place(name) == shown


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_written_down(name):
    recipe = find_recipe(name)
    assert differences(recipe.as_json(), recipe.as_json()) == []
    assert recipe.as_json()["name"] == name


def test_unknown_recipe_lists_those_there():
    with pytest.raises(ConfigError, match="must be one of instructs2s_200k, tiny, custom, relea"):
        find_recipe("instruct2s")


def test_paths_go_to_their_sources():
    paper = with_paths(find_recipe("instructs2s_200k"), ["alpaca=a.json", "ultrachat=u=1"])
    assert [source.path for source in paper.sources] == ["a.json", "u=1"]
    one = with_paths(find_recipe("custom"), ["a=b.json"])
    assert [source.path for source in one.sources] == ["a=b.json"]
    two = with_paths(find_recipe("custom"), ["a.json", "b.json"])
    assert [(source.path, source.label) for source in two.sources] == [
        ("a.json", "table0"), ("b.json", "table1"),
    ]  # fmt: skip
    assert with_paths(find_recipe("tiny"), []) == find_recipe("tiny")
    with pytest.raises(ConfigError, match="must be LABEL=PATH, with a label of alpaca, ultrachat"):
        with_paths(find_recipe("instructs2s_200k"), ["a.json"])


def test_published_recipe_names_no_place():
    recipe = BuildRecipe(
        name="x",
        sources=(Source(path="/data/set/a.json"), Source(path="owner/name", name="b")),
        units=UnitSettings(features="hubert:/models/hubert#11"),
        chat=Chat(base_url="http://localhost/v1"),
    )
    found = recipe.published()
    assert [source["path"] for source in found["sources"]] == ["a.json", "owner/name"]
    assert found["units"]["features"] == "hubert:hubert#11"
    assert found["chat"]["base_url"] == "http://localhost/v1"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Voices(speeds=(1.2, 0.9)), "voices.speeds must rise within 0.5 to 2, got 1.2,0.9"),
        (lambda: Voices(question="nobody"), "voice pool must be one of tiny, tiny-unseen"),
        (lambda: UnitSettings(num_units=1), "units.num_units must be 2 to 32767, got 1"),
        (lambda: UnitSettings(sample_s=0.0), "units.sample_s must be above 0"),
        (lambda: UnitSettings(sample_s=float("inf")), "units.sample_s must be above 0 and finite"),
        (lambda: Voices(question=" ,"), "voices.question must name at least one voice, got ' ,'"),
        (
            lambda: Voices(splits={"test": ","}),
            "voices.splits.test must name at least one voice, got ','",
        ),
        (
            lambda: BuildRecipe(name="x", sources=(Source(),), seed=-1),
            "seed must be 0 to 4294967295, got -1",
        ),
        (lambda: Filters(max_answer_s=0.0), "filters.min_answer_s must be 0 or more and below"),
        (lambda: Filters(upsample_factor=0), "filters.upsample_factor must be at least 1"),
        (lambda: Filters(max_wer=-1.0), "filters.max_wer must be at least 0"),
        (lambda: BuildRecipe(name="x", sources=()), "sources must hold at least one source"),
        (
            lambda: BuildRecipe(name="x", sources=(Source(),), rewrite="chta"),
            "rewrite must be one of none, rules, chat, got 'chta'",
        ),
        (
            lambda: BuildRecipe(name="x", sources=(Source(),), part_rows=0),
            "part_rows must be at least 1",
        ),
    ],
)
def test_impossible_recipes_are_refused(make, message):
    with pytest.raises(ConfigError) as caught:
        make()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (["sources.0.limit=7"], ["sources.0.limit (36000, now 7)"]),
        (
            ["sources.1.columns.answer=a", "voices.speeds=1,2", "filters.max_wer=0.3"],
            [
                'sources.1.columns.answer (null, now "a")',
                "voices.speeds ([0.9, 1.15], now [1.0, 2.0])",
                "filters.max_wer (0.5, now 0.3)",
            ],
        ),
    ],
    ids=["one", "several"],
)
def test_differences_are_told_field_by_field(settings, found):
    recipe = find_recipe("tiny")
    assert differences(recipe.as_json(), override(recipe, settings).as_json()) == found
    fewer = replace(recipe, sources=recipe.sources[:2])
    assert differences(recipe.as_json(), fewer.as_json()) == ["sources (5 of them, now 2)"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "sources.0.columns.answer=none",
            "sources.0.columns.answer must name a column where respond is keep, got none; "
            "respond=chat has answers written",
        ),
        ("sources.0.answers=false", "sources.0.answers must be true where respond is keep"),
    ],
)
def test_recipe_without_any_answer_is_refused(setting, message):
    find_recipe("custom").check()
    with pytest.raises(ConfigError, match=message):
        override(find_recipe("custom"), [setting]).check()


def spoken(**changes):
    known = {
        "question": "a", "question_s": 1.0, "answer": "b", "answer_s": 2.0,
        "units": [1, 2, 3], "answer_tokens": 2,
    }  # fmt: skip
    return Spoken(**(known | changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"question_s": 31.0}, "question must take 0.2 to 30 s, got 31.00 s"),
        ({"answer_s": 600.0}, "answer must take 0.1 to 60 s, got 600.00 s"),
        ({"answer_s": None}, None),
        ({"units": list(range(75))}, None),
        ({"units": list(range(76))}, "units must be at most 75, 25 for each of 3 tokens, got 76"),
        ({"units": [5] * 39}, "units must be at most 75, 25 for each of 3 tokens, got 77"),
        ({"units": list(range(76)), "answer_tokens": None}, None),
    ],
)
def test_spoken_records_are_judged(changes, reason):
    assert check_spoken(spoken(**changes), Filters()) == reason
