"""A sweep over N: its order, its end, what a stopped one leaves, and its pages."""

import asyncio
import json

import pytest

from llama_omni.bench.serve.page import markdown, write
from llama_omni.bench.serve.settings import LoadSettings
from llama_omni.bench.serve.sweep import about, open_journal, sweep
from llama_omni.errors import InputError
from tests.bench.load_tools import FakeBench, row

SETTINGS = LoadSettings(clients=(1, 2, 4))
SUBJECT = {"model": None, "direct": None}
MACHINE = {
    "gpu": None, "cpu": "a processor", "cores": 4, "threads": 1, "memory_gib": 24,
    "system": "Linux", "load_average": 1.0, "date": "2026-01-01", "versions": {"torch": "2"},
}  # fmt: skip


def swept(bench, file, settings=SETTINGS):
    journal = open_journal(file, about(settings, SUBJECT))
    return asyncio.run(sweep(bench, settings, journal))


def test_both_modes_take_turns_in_going_first(tmp_path):
    bench = FakeBench()
    rows = swept(bench, tmp_path / "a.jsonl")
    order = [(1, True), (1, False), (2, False), (2, True), (4, True), (4, False)]
    assert bench.asked == order
    assert [(row["clients"], row["speculation"]) for row in rows] == order
    assert [row["saturated"] for row in rows] == [None] * 6


def test_each_mode_ends_where_it_is_full(tmp_path):
    bench = FakeBench(full_on=2, full_off=4)
    rows = swept(bench, tmp_path / "a.jsonl")
    assert bench.asked == [(1, True), (1, False), (2, False), (2, True), (4, False)]
    assert [bool(row["saturated"]) for row in rows] == [False, False, False, True, True]


def test_stopped_sweep_goes_on_and_measures_nothing_twice(tmp_path):
    file, first, second, third = (
        tmp_path / "a.jsonl",
        FakeBench(dies_at=3),
        FakeBench(),
        FakeBench(),
    )
    with pytest.raises(KeyboardInterrupt):
        swept(first, file)
    assert first.asked == [(1, True), (1, False), (2, False)]
    with file.open("a") as journal:
        journal.write('{"key": "2 clients, spec')  # cut while it was written
    rows = swept(second, file)
    assert second.asked == [(2, False), (2, True), (4, True), (4, False)]
    assert swept(third, file) == rows
    assert third.asked == []


def test_sweep_that_was_full_before_the_stop_stays_full(tmp_path):
    file, second = tmp_path / "a.jsonl", FakeBench()
    with pytest.raises(KeyboardInterrupt):
        swept(FakeBench(full_on=1, dies_at=3), file)
    swept(second, file)
    assert second.asked == [(2, False), (4, False)]


def test_sweep_with_other_settings_is_not_gone_on_with(tmp_path):
    swept(FakeBench(), tmp_path / "a.jsonl")
    with pytest.raises(InputError, match=r"a\.jsonl must be of a run with the same settings"):
        swept(FakeBench(), tmp_path / "a.jsonl", LoadSettings(clients=(1, 2)))


@pytest.fixture
def result(tmp_path):
    return {
        "name": "serve-load-tiny-cpu-float32",
        "command": "python -m benchmarks.serve_load",
        "machine": MACHINE,
        "questions": 16,
        **about(SETTINGS, SUBJECT),
        "rows": swept(FakeBench(full_on=4), tmp_path / "a.jsonl"),
    }


def test_page_says_what_was_measured(result):
    page = markdown(result)
    full = "at 4, 50 % of later pieces were late."
    assert f"- Speculation on: 2 clients at once; {full}" in page
    assert "- Speculation off: 4 clients at once, the most that were tried." in page
    assert "| 1, on | 1 | 600 | 600 | 50 | 100 |" in page
    assert "| 1, on | 4 | 3 | 1 | 0 | 75.0 | 10.0 |" in page
    assert "| 4, on | 3 | 0 | 50.0 | 0.0 | 0.00 | 2 | 0.50 | 0.50 | 0.50 |" in page
    assert "a processor, 4 cores seen" in page
    assert "`python -m benchmarks.serve_load`" in page


def test_page_of_one_mode_and_of_nothing_answered(result):
    unanswered = row(1, speculation=False) | {
        "answered": 0, "first_audio_after_speech_s": None, "first_audio_after_turn_s": None,
        "late_share": None, "real_time_factor": None, "client_lag_s": None, "saturated": "all",
        "why": {"HTTP 503": 2},
    }  # fmt: skip
    page = markdown({**result, "rows": [unanswered]})
    assert "- Speculation on: not run" in page
    assert "- Speculation off: not even the fewest clients; at 1, all." in page
    assert "| HTTP 503: 2 |" in page


def test_json_tables_and_picture_are_written(result, tmp_path):
    result["rows"][0]["each"] = [{"client": 0}]
    write(result, tmp_path)
    read = json.loads((tmp_path / f"{result['name']}.json").read_text())
    assert [row["clients"] for row in read["rows"]] == [1, 1, 2, 2, 4, 4]
    assert "each" not in read["rows"][0]
    assert (tmp_path / f"{result['name']}.md").read_text() == markdown(result)
    assert (tmp_path / f"{result['name']}.png").read_bytes().startswith(b"\x89PNG")
