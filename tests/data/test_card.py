"""A data set's card and its numbers."""

import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from llama_omni.data.build import build
from llama_omni.data.card import count_reasons
from llama_omni.data.dataset import SpeechDataset
from llama_omni.data.recipe import Filters
from llama_omni.data.records import Reject
from llama_omni.data.shards import read_manifest, sha256
from llama_omni.data.statistics import dataset_statistics, statistics_rows
from tests.data.data_tools import FAKES, recipe_of, write_questions


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("card")
    path = write_questions(
        place / "q.jsonl", 12, r2={"instruction": "Question 1, please?"}, r4={"answer": "?"}
    )
    recipe = recipe_of(path, filters=Filters(tokenizer="any", upsample_factor=100))
    build(recipe, place / "set", tools=FAKES)
    return place / "set"


def table_after(text, heading):
    block = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in block.splitlines() if line.startswith("|")]
    return [rows[0], *rows[2:]]


def test_front_matter_leads_datasets_to_the_splits(folder):
    _, front, _ = (folder / "README.md").read_text().split("---\n", 2)
    read = yaml.safe_load(front)
    assert read["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(folder), cache_dir=str(folder.parent / "cache"))
    assert {name: len(rows) for name, rows in loaded.items()} == {"train": 10}
    assert isinstance(loaded["train"].features["question_audio"], datasets.Audio)


def test_numbers_are_those_of_the_rows(folder):
    data = SpeechDataset(folder)
    items = [data[i] for i in range(len(data))]
    text = (folder / "README.md").read_text()
    header, row = table_after(text, "Numbers")
    found = dict(zip(header[:3], row[:3], strict=True))
    questions = sum(len(item.audio) for item in items) / 16_000
    assert found == {"split": "train", "rows": "10", "questions": f"{questions / 3600:.2f} h"}
    assert row[3] == f"{questions / 10:.2f} s"
    rates = [len(item.units) / (len(item.answer_audio) / 16_000) for item in items]
    assert row[7] == f"{np.mean(rates):.1f}"
    words = [len(item.answer.split()) for item in items]
    tokens = [n / (len(item.answer_audio) / 16_000) for n, item in zip(words, items, strict=True)]
    assert f"{np.mean(tokens):.2f} tokens a second" in text
    per_token = [len(item.units) / n for n, item in zip(words, items, strict=True)]
    assert f"{np.mean(per_token):.1f} units a token (at most {max(per_token):.1f})" in text
    voices = {row[0]: (row[1], int(row[2])) for row in table_after(text, "Voices")[1:]}
    for voice in ("fake:a", "fake:b"):
        assert voices[voice] == ("made up", sum(item.voice == voice for item in items))
    assert voices["fake:answer"] == ("made up", 10)
    rejected = table_after(text, "Rejected")[1:]
    assert sum(int(count) for _, count in rejected) == 2
    assert ["source: question must be new, got that of qN again", "1"] in rejected
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def test_manifest_holds_hashes_and_no_place(folder):
    manifest = read_manifest(folder)
    for shard in manifest["shards"]:
        path = folder / shard["file"]
        assert shard["sha256"] == sha256(path)
        assert shard["rows"] == pq.read_metadata(path).num_rows
    assert manifest["recipe"]["sources"][0]["path"] == "q.jsonl"
    assert str(folder.parent) not in (folder / "manifest.json").read_text()
    assert str(folder.parent) not in (folder / "README.md").read_text()
    assert manifest["units"]["K"] == 20
    assert manifest["rejects"] == {"source": 1, "respond": 1}


def test_statistics_read_no_sound(folder):
    found = dataset_statistics(folder, read_manifest(folder))
    assert found["train"].rows == 10
    assert found["train"].tokens_per_s == []
    assert statistics_rows(found)[1][:2] == ["train", "10"]


def test_reasons_are_counted_without_their_numbers():
    rejects = [
        Reject(id="a", stage="filter", reason="answer must take 0.1 to 60 s, got 75.20 s"),
        Reject(id="b", stage="filter", reason="answer must take 0.1 to 60 s, got 1,600 s"),
        Reject(id="c", stage="source", reason="text must be 'x', got 'y z'"),
    ]
    assert count_reasons(rejects) == {
        "filter: answer must take N to N s, got N s": 2,
        "source: text must be '...', got '...'": 1,
    }
