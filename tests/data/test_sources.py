"""Sources: what they give, and what they refuse."""

import csv
import json
from dataclasses import replace
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llama_omni.data import tables
from llama_omni.data.origin import read_origins
from llama_omni.data.sources import Columns, Source, read_sources
from llama_omni.errors import ConfigError, InputError


def read(*sources):
    return [item.record for item in read_sources(sources, seed=0)]


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


ALPACA = [
    {"instruction": "Give three tips.", "input": "", "output": "One. Two."},
    {"instruction": "Translate.", "input": "Hello\u2028there", "output": "Hola"},
    {"instruction": "Say nothing.", "input": "", "output": ""},
]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_alpaca_joins_instruction_and_input(tmp_path, monkeypatch, chunk, indent):
    monkeypatch.setattr(tables, "_CHUNK_CHARS", chunk)
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps(ALPACA, indent=indent), encoding="utf-8")
    records = read(Source(kind="alpaca", path=str(path)))
    assert [record.question for record in records] == [
        "Give three tips.", "Translate.\nHello\u2028there", "Say nothing.",
    ]  # fmt: skip
    assert [record.answer for record in records] == ["One. Two.", "Hola", None]
    assert records[1].id == "alpaca-0000001"
    assert records[1].source == "alpaca"
    unanswered = read(Source(kind="alpaca", path=str(path), answers=False))
    assert {record.answer for record in unanswered} == {None}


def test_some_training_records_are_held_out_always_the_same(tmp_path):
    rows = [{"instruction": f"Say {i}."} for i in range(400)]
    source = Source(path=lines(tmp_path / "a.jsonl", rows), held_out=0.1)
    records = read(source)
    held_out = [record.id for record in records if record.split == "test"]
    assert 20 <= len(held_out) <= 60
    assert {record.split for record in records} == {"train", "test"}
    half = lines(tmp_path / "b.jsonl", rows[:200])
    again = [one.id for one in read(Source(path=half, held_out=0.1)) if one.split == "test"]
    assert again == held_out[: len(again)]
    named = Source(path=half, held_out=0.5, split="other")
    assert {record.split for record in read(named)} == {"other"}
    with pytest.raises(ConfigError, match="held_out must be at least 0"):
        Source(held_out=1.0)


def test_ultrachat_gives_first_turns_in_both_layouts(tmp_path):
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "Q2"},
        {"role": "assistant", "content": "A2"},
        {"role": "user", "content": "more"},
    ]
    rows = [{"id": "0", "data": ["Q0", "A0", "Q1", "A1"]}, {"id": "0", "messages": messages}]
    path = lines(tmp_path / "u.jsonl", rows)
    records = read(Source(kind="ultrachat", path=path))
    assert [(record.question, record.answer) for record in records] == [("Q0", "A0"), ("Q2", "A2")]
    assert len({record.id for record in records}) == 2


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_table_reads_named_columns(tmp_path, suffix):
    rows = [
        {
            "key": f"k{i}",
            "ask": f"what, {i}?\nline",
            "say": f"that {i}",
            "who": "fake:a",
            "part": "test",
        }
        for i in range(3)
    ]
    path = tmp_path / f"table{suffix}"
    if suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        lines(path, rows)
    columns = Columns(question="ask", answer="say", id="key", voice="who", split="part")
    records = read(Source(path=str(path), columns=columns))
    assert [record.id for record in records] == ["k0", "k1", "k2"]
    record = records[2]
    assert (record.question, record.answer) == ("what, 2?\nline", "that 2")
    assert (record.voice, record.split) == ("fake:a", "test")


def test_folder_is_read_in_the_order_of_names(tmp_path):
    for name in ("b", "a"):
        lines(tmp_path / f"{name}.jsonl", [{"instruction": name}])
    for name in ("notes.txt", "dataset_infos.json", "dataset_info.json", "._a.json", "_b.jsonl"):
        (tmp_path / name).write_text("not read")
    (tmp_path / ".cache").mkdir()
    lines(tmp_path / ".cache/c.jsonl", [{"other": 1}])
    assert [record.question for record in read(Source(path=str(tmp_path)))] == ["a", "b"]


LAYOUTS = {
    "shards": ("data/test-00000-of-00001.jsonl", "data/train-00000-of-00001.jsonl"),
    "files": ("a-test.jsonl", "train.jsonl"),
    "folders": ("Dev_set/q.jsonl", "my/train/q.jsonl"),
    "half named": ("eval_2.jsonl", "questions.jsonl"),
    "suffixed": ("data/test_sft-00000-of-00001.jsonl", "data/train_sft-00000-of-00001.jsonl"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_of_files_tell_their_split_and_train_is_read_first(tmp_path, layout):
    for name in LAYOUTS[layout]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        lines(tmp_path / name, [{"instruction": name}])
    held_out = "validation" if layout == "folders" else "test"
    source = Source(path=str(tmp_path), hub_split=None)
    found = [(record.split, record.question) for record in read(source)]
    assert found == [("train", LAYOUTS[layout][1]), (held_out, LAYOUTS[layout][0])]
    assert [record.split for record in read(Source(path=str(tmp_path)))] == ["train"]
    only = replace(source, hub_split=held_out)
    assert [record.split for record in read(only)] == [held_out]
    assert [one["file"] for one in read_origins([only])] == [LAYOUTS[layout][0]]


def test_split_that_a_source_names_goes_before_that_of_a_files_name(tmp_path):
    lines(tmp_path / "train.jsonl", [{"instruction": "only"}])
    source = Source(path=str(tmp_path), split="test")
    assert [record.split for record in read(source)] == ["test"]


def test_earlier_turns_in_a_table_are_said_to_be_lost_once(tmp_path, caplog):
    rows = [{"instruction": str(n), "history": [{"question": "q", "answer": "a"}]} for n in "ab"]
    lines(tmp_path / "turns.jsonl", rows)
    assert len(read(Source(path=str(tmp_path / "turns.jsonl")))) == 2
    assert caplog.text.count("earlier turns of rows are not read from a table") == 1


def test_splits_as_files_call_them_can_be_named_and_absent_ones_are_refused(tmp_path):
    for name in ("train_sft-00000-of-00001", "train_gen-00000-of-00001"):
        lines(tmp_path / f"{name}.jsonl", [{"instruction": name, "part": "other"}])
    source = Source(path=str(tmp_path), hub_split="train_sft")
    assert [record.question for record in read(source)] == ["train_sft-00000-of-00001"]
    assert read(replace(source, columns=Columns(split="part")))[0].split == "other"
    with pytest.raises(InputError, match=r"files of the split 'test' \(hub_split\), found train"):
        read(replace(source, hub_split="test"))


def test_words_within_others_tell_no_split(tmp_path):
    for name in ("contest", "latest", "developers", "values"):
        lines(tmp_path / f"{name}.jsonl", [{"instruction": name}])
    lines(tmp_path / "test.jsonl", [{"instruction": "held out"}])
    records = read(Source(path=str(tmp_path), hub_split=None))
    assert [record.split for record in records] == ["train"] * 4 + ["test"]
    file = Source(path=str(tmp_path / "test.jsonl"), hub_split=None)
    assert read(file)[0].split == "train"  # a file by itself is what the recipe says


def test_limit_reads_no_further(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"instruction": "one"}\nbroken\n')
    assert len(read(Source(path=str(path), limit=1))) == 1


def test_tiny_domain_is_a_source():
    records = read(Source(kind="tiny", limit=5), Source(kind="tiny", split="test_seen", limit=2))
    assert [record.split for record in records] == ["train"] * 5 + ["test_seen"] * 2
    assert all(record.answer for record in records)


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_streams_of_the_hub_are_read_in_any_format(tmp_path, monkeypatch, kind):
    datasets = pytest.importorskip("datasets")
    path = tmp_path / f"a.{kind}"
    found = datasets.Dataset.from_list([{"instruction": "Why?"}])
    if kind == "json":
        path.write_text(json.dumps([{"instruction": "Why?"}]))
    else:
        getattr(found, f"to_{kind}")(path)
    stream = datasets.load_dataset(kind, data_files=str(path), split="train", streaming=True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_args, **_named: stream)
    assert [record.question for record in read(Source(path="someone/set"))] == ["Why?"]


def test_hub_ids_go_through_datasets(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load(name, config, split, streaming):
        assert (name, config, split, streaming) == ("someone/alpaca", "small", "test", True)
        return iter(ALPACA)

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = Source(kind="alpaca", path="someone/alpaca#small", hub_split="test")
    assert [record.split for record in read(source)] == ["test"] * 3

    def load_all(_name, _config, split, streaming):
        assert (split, streaming) == (None, True)
        return {"test": ALPACA[:1], "dev_2": ALPACA[1:2], "train": ALPACA[2:]}

    monkeypatch.setattr(datasets, "load_dataset", load_all)
    records = read(replace(source, hub_split=None))
    assert [record.split for record in records] == ["train", "validation", "test"]

    def fail(*_args, **_kwargs):
        raise ConnectionError("no way to the hub")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match=r"someone/alpaca must be a file.* no way to the hub"):
        read(Source(kind="alpaca", path="someone/alpaca"))


# Refusals


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", "must hold at least one record, found none"),
        ("a.json", "[]", "must hold at least one record, found none"),
        ("a.jsonl", '{"instruction": "a"}\n{"instruc', "a.jsonl, line 2 must be JSON, got: Unterm"),
        ("a.jsonl", '{"instruction": "a"}\n{"b": \n', "a.jsonl, line 2 must be JSON, got: Expect"),
        ("a.json", '[\n{"instruction": "a"},\n{"b" 1}]', "a.json, line 3 must be JSON, got: Expec"),
        ("a.json", '[{"instruction": "a"}', "a.json, line 1 must be JSON"),
        ("a.json", '[{"instruction": "a"}]\n[{}]', "a.json, line 1 must be JSON, got: Extra data"),
        (
            "a.json",
            '{\n "rows": [\n {"instruction": "a"}\n]\n}',
            "a.json must be a list of objects, or one object a line, got '{' as its first line",
        ),
        ("a.json", '{\n "data": [\n 1\n]\n}', "must be a list of objects, or one object a line"),
        ("a.jsonl", '{"q": 1, "b": 2}', "line 1 must have a column 'instruction'; it has q, b"),
        ("a.jsonl", '{"instruction": ["a"]}', "column 'instruction' must hold text, got list"),
        ("a.jsonl", "[1]\n3", "line 1 must be an object {...}, got list"),
        ("a.csv", "instruction,b\n1\n", "a.csv, line 2 must have 2 fields as its header"),
        ("a.csv", "q,b\n1,2\n", "line 2 must have a column 'instruction'; it has q, b"),
        ("a.parquet", "PAR1", "a.parquet must be a whole Parquet file"),
        ("a.txt", "hello", "must end with .json, .jsonl, .csv, .tsv, .parquet, got suffix '.txt'"),
    ],
)
def test_broken_files_are_refused_with_file_and_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read(Source(path=str(tmp_path / name)))
    assert message in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("row", "proposed"),
    [
        (
            {"instruction": "a", "input": "", "output": "b"},
            "must have a column 'question' and 'answer'; it has instruction, input, output; name "
            "another with --set sources.0.columns.question=instruction "
            "--set sources.0.columns.answer=output",
        ),
        (
            {"question": "a", "reply": "b"},
            "must have a column 'answer'; it has question, reply; name another with "
            "--set sources.0.columns.answer=COLUMN, or have answers written with "
            "--set respond=chat --set sources.0.answers=false",
        ),
    ],
    ids=["alpaca", "unusual"],
)
def test_absent_columns_are_told_with_the_setting_that_names_others(tmp_path, row, proposed):
    columns = Columns(question="question", answer="answer")
    source = Source(path=lines(tmp_path / "a.jsonl", [row]), columns=columns)
    with pytest.raises(InputError) as caught:
        list(read_sources([source], seed=0, named_by_set=True))
    assert str(caught.value).endswith(proposed)
    with pytest.raises(InputError) as caught:
        read(source)
    assert "--set" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"instruction": "ab\\ud800"}',
            "question must be Unicode text, got a lone surrogate '\\ud800' at character 2",
        ),
        ('{"instruction": NaN}', "column 'instruction' must hold text, got nan"),
        ('{"instruction": Infinity}', "column 'instruction' must hold text, got inf"),
        ("[" * 100_000, "line 1 must be JSON, got: too many brackets within another in '[[[[["),
    ],
    ids=["surrogate", "NaN", "infinity", "nested"],
)
def test_json_that_is_no_text_is_refused_with_its_place(tmp_path, name, text, message):
    (tmp_path / name).write_text(f"[{text}]" if name == "a.json" else text)
    with pytest.raises(InputError) as caught:
        read(Source(path=str(tmp_path / name)))
    assert message in str(caught.value)
    assert f"{name}, " in str(caught.value)
    assert "line 1" in str(caught.value)


def test_lone_surrogates_of_released_conversations_are_refused(tmp_path):
    turns = [{"from": "human", "text": "a"}, {"from": "gpt", "text": "\ud83d"}]
    path = lines(tmp_path / "a.jsonl", [{"conversation": [*turns, *turns]}])
    with pytest.raises(InputError, match=r"a.jsonl, line 1: answer must be Unicode text"):
        read(Source(kind="released", path=path))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"instruction": "\xff"}')
    with pytest.raises(InputError, match=r"a.jsonl must be UTF-8 text, got byte 0xff"):
        read(Source(path=str(tmp_path / "a.jsonl")))


def test_absent_places_are_refused(tmp_path):
    with pytest.raises(InputError, match="must be a file, a folder or a hub id, found nothing"):
        read(Source(path=str(tmp_path / "none.json")))
    with pytest.raises(InputError, match=r"must hold .json, .jsonl, .csv, .tsv, .parquet files"):
        read(Source(path=str(tmp_path)))
    with pytest.raises(InputError, match="give it with --source alpaca=PATH"):
        read(Source(kind="alpaca"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "instruction": "x"}] * 2, "line 2: id must be new, got 'a' again, after"),
        ([{"id": "a/b", "instruction": "x"}], "id must be 1 to 200 letters, digits and ._-"),
    ],
)
def test_ids_must_be_new_and_name_files(tmp_path, rows, message):
    with pytest.raises(InputError) as caught:
        read(Source(path=lines(tmp_path / "a.jsonl", rows), columns=Columns(id="id")))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": 1}, "must have a column 'data or messages'; it has id"),
        ({"data": []}, "a dialogue must have a user's turn, got none"),
        ({"data": "Hello"}, "a dialogue must be a list of texts"),
        ({"data": [3]}, "a dialogue must be a list of texts"),
        ({"messages": None}, "a dialogue must have a user's turn, got none"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "must have a user's turn"),
    ],
)
def test_dialogues_without_a_question_are_refused(tmp_path, row, message):
    with pytest.raises(InputError) as caught:
        read(Source(kind="ultrachat", path=lines(tmp_path / "a.jsonl", [row])))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "alpca"}, "source.kind must be one of table, alpaca, ultrachat, released, tiny"),
        ({"limit": 0}, "source.limit must be at least 1"),
        ({"name": "a b"}, "source.name must be of letters"),
        ({"split": "a-b"}, "source.split must be letters"),
    ],
)
def test_impossible_sources_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Source(**fields)


def test_long_sources_stream(tmp_path):
    path = lines(tmp_path / "a.jsonl", ({"instruction": str(i)} for i in range(1000)))
    first = list(islice(read_sources([Source(path=path)], seed=0), 3))
    assert [item.record.question for item in first] == ["0", "1", "2"]
