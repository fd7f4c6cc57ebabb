"""The files of a data set's sources, and changes of them."""

import hashlib

from llama_omni.data.origin import changed_origin, read_origins
from llama_omni.data.sources import Source


def test_files_are_told_by_name_size_and_hash_without_their_place(tmp_path):
    (tmp_path / "set/more").mkdir(parents=True)
    for name in ("set/b.jsonl", "set/more/a.csv", "set/notes.txt", "one.json"):
        (tmp_path / name).write_text(name)
    sources = [
        Source(path=str(tmp_path / "set")),
        Source(path=str(tmp_path / "one.json"), name="one"),
        Source(path="owner/name"),
        Source(kind="tiny", limit=3),
    ]
    found = read_origins(sources)
    assert [(one["source"], one["file"]) for one in found] == [
        ("table", "b.jsonl"), ("table", "more/a.csv"), ("one", "one.json"),
    ]  # fmt: skip
    assert found[2]["bytes"] == 8
    assert found[2]["sha256"] == hashlib.sha256(b"one.json").hexdigest()


def test_edited_and_new_files_are_changes_and_absent_ones_are_not(tmp_path):
    source = Source(path=str(tmp_path))
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(name)
    before = read_origins([source])
    assert changed_origin(before, before) is None
    assert changed_origin([], before) is None  # a set from before they were noted
    (tmp_path / "a.jsonl").unlink()
    assert changed_origin(before, read_origins([source])) is None
    (tmp_path / "b.jsonl").write_text("other")
    told = changed_origin(before, read_origins([source]))
    assert told is not None
    assert told.startswith("b.jsonl of source table, which has 5 bytes and SHA-256 d9298a10d1b0")
    (tmp_path / "b.jsonl").write_text("b.jsonl")
    (tmp_path / "c.jsonl").write_text("c")
    assert changed_origin(before, read_origins([source])) == "c.jsonl of source table, which is new"
