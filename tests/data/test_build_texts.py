"""Builds of other languages than English, and of tables without answers."""

from dataclasses import replace

import pytest

from llama_omni.data.build import build
from llama_omni.data.dataset import SpeechDataset
from llama_omni.data.named import find_recipe
from llama_omni.data.sources import Columns, Source, read_sources
from llama_omni.errors import InputError
from tests.data.data_tools import FAKES, recipe_of, write_questions


@pytest.mark.parametrize(("language", "told"), [("en", 1), ("de", 0)])
def test_texts_of_another_language_than_was_named_are_noticed(tmp_path, caplog, language, told):
    path = write_questions(tmp_path / "q.jsonl", 3, r1={"instruction": "Wie gro\u00df?"})
    build(replace(recipe_of(path), language=language), tmp_path / "set", tools=FAKES)
    assert caplog.text.count("1 of 3 questions have letters that language=en folds") == told


def test_vowel_signs_tell_questions_apart(tmp_path):
    day, poor = (
        "\u0926\u093f\u0928 \u0915\u094d\u092f\u093e?",
        "\u0926\u0940\u0928 \u0915\u094d\u092f\u093e?",
    )
    rows = {"r0": {"instruction": day}, "r1": {"instruction": poor}}
    path = write_questions(tmp_path / "q.jsonl", 2, **rows)
    summary = build(replace(recipe_of(path), language="hi"), tmp_path / "set", tools=FAKES)
    assert summary.counts == {"train": 2}


def test_table_without_answers_is_read_where_a_server_writes_them(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "Who?"}\n')
    columns = Columns(question="question", answer="answer")
    source = Source(path=str(path), columns=columns)
    with pytest.raises(
        InputError, match=r"or have answers written with .* sources.0.answers=false"
    ):
        next(read_sources([source], seed=0, named_by_set=True))
    record = next(read_sources([replace(source, answers=False)], seed=0)).record
    assert (record.question, record.answer) == ("Who?", None)


def test_custom_set_of_a_folder_keeps_its_splits_and_trains_on_no_test_question(tmp_path):
    (tmp_path / "hub").mkdir()
    write_questions(tmp_path / "hub/train-00000-of-00001.jsonl", 3)
    write_questions(tmp_path / "hub/test-00000-of-00001.jsonl", 5)
    (source,) = find_recipe("custom").sources
    columns = Columns(question="instruction", answer="answer")
    source = replace(source, path=str(tmp_path / "hub"), columns=columns)
    recipe = recipe_of("", sources=(source,))
    summary = build(recipe, tmp_path / "set", tools=FAKES)
    assert summary.counts == {"train": 3, "test": 2}  # the others are asked in training
    assert SpeechDataset(tmp_path / "set", "test").ids == ["table-0000006", "table-0000007"]
    one = replace(recipe, sources=(replace(source, hub_split="test"),))
    assert build(one, tmp_path / "one", tools=FAKES).counts == {"test": 5}
