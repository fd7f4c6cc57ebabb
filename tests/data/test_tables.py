"""Forms of tables: separators of CSV, and lists within an object of JSON."""

import csv
import json
import os
import threading

import pytest

from llama_omni.data import tables
from llama_omni.data.sources import Columns, Source
from llama_omni.errors import InputError
from tests.data.test_sources import ALPACA, lines, read


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("sign", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
def test_separator_of_a_table_is_told_by_its_header(tmp_path, name, sign):
    with (tmp_path / name).open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=sign)
        writer.writerows([["id", "instruction"], ["a", "Yes, no; or\tboth?"], ["b", "1,5;2"]])
    records = read(Source(path=str(tmp_path / name), columns=Columns(id="id")))
    assert [(one.id, one.question) for one in records] == [
        ("a", "Yes, no; or\tboth?"), ("b", "1,5;2"),
    ]  # fmt: skip
    (tmp_path / name).write_text("instruction\nWho me or you?\n")
    assert read(Source(path=str(tmp_path / name)))[0].question == "Who me or you?"


def test_usual_separator_goes_before_others_and_a_pipe_will_do(tmp_path):
    (tmp_path / "a.csv").write_text("question;de;fr,instruction\n1,Yes?\n")
    (tmp_path / "a.tsv").write_text("other, still, other\tinstruction\n1,2,3\tNo?\n")
    for name, said in (("a.csv", "Yes?"), ("a.tsv", "No?")):
        assert read(Source(path=str(tmp_path / name)))[0].question == said
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("instruction\nWho?\n",))
    writer.start()
    assert read(Source(path=str(pipe)))[0].question == "Who?"
    writer.join()


@pytest.mark.parametrize("chunk", [64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2], ids=["one line", "indented"])
@pytest.mark.parametrize("more", [{}, {"version": "1.0", "of": {"data": [{"a": 1}]}}])
def test_objects_under_data_are_a_list(tmp_path, monkeypatch, chunk, indent, more):
    monkeypatch.setattr(tables, "_CHUNK_CHARS", chunk)
    path = tmp_path / "a.json"
    rows = ALPACA if chunk > 64 else ALPACA * 9
    whole = "\n" + json.dumps(more | {"data": rows, "end": [1]}, indent=indent)
    path.write_text(whole, encoding="utf-8")
    source = Source(kind="alpaca", path=str(path))
    if chunk > 64 or not more:
        assert len(read(source)) == len(rows)
    for broken in (whole[:-1], whole + whole):
        path.write_text(broken)
        with pytest.raises(InputError, match=r"a\.json"):
            read(source)


def test_objects_of_one_line_each_may_have_data_of_their_own(tmp_path):
    rows = [{"instruction": "a", "data": [{"b": 1}]}, {"instruction": "c", "data": [{"b": 2}]}]
    assert len(read(Source(path=lines(tmp_path / "a.json", rows)))) == 2
    one = lines(tmp_path / "one.json", [{"id": "0", "data": ["Q", "A"]}])
    assert read(Source(kind="ultrachat", path=one))[0].question == "Q"
