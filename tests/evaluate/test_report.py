"""The report: the paper's tables from scores, in Markdown and in one HTML file."""

import re
from html.parser import HTMLParser

import pytest

from llama_omni.errors import InputError
from llama_omni.evaluate.evaluated import read_evaluated
from llama_omni.evaluate.report import write_report
from llama_omni.evaluate.report_tables import table_1, table_2, table_3
from tests.evaluate.report_tools import write_results


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_results(tmp_path_factory.mktemp("evaluated") / "a")


@pytest.fixture(scope="module")
def report(folder):
    return write_report(folder)


def test_conditions_are_in_the_papers_order(folder):
    names = [condition.name for condition in read_evaluated(folder).conditions]
    assert names == ["s2tif", "s2sif-10", "s2sif-40", "s2sif-inf"]


def test_table_1_holds_ours_at_infinity_and_the_papers_in_its_columns(folder):
    table = table_1([read_evaluated(folder)])
    assert table.header == ["system", "ASR-WER, %"]  # no other score was measured
    assert table.rows[0] == ["embedded", "6.0"]
    assert ["LLaMA-Omni (paper, v1)", "11.61"] in table.rows
    assert ["LLaMA-Omni (paper, v2)", "10.82"] in table.rows
    assert table.quoted == len(table.rows) - 1


def test_table_2_has_a_row_a_chunk_size_and_what_was_not_measured_has_no_column(folder):
    table = table_2(read_evaluated(folder))
    assert table.header == ["Omega", "latency, ms", "ASR-WER, %"]
    assert [row[0] for row in table.rows[:3]] == ["10", "40", "infinite"]
    assert table.rows[0] == ["10", "60 [50, 70]", "4.0"]
    assert ["10 (paper, v2)", "236", "9.84"] in table.rows


def test_table_3_gives_the_ratio(folder):
    table = table_3([read_evaluated(folder)])
    assert table.rows[0] == ["embedded", "0.50 [0.40, 0.60]", "0.75", "1.50"]
    assert table.rows[1] == ["LLaMA-Omni (paper, v1)", "1.49", "1.91", "1.28"]


def test_markdown_escapes_and_names_what_is_absent_and_what_failed(folder, report):
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert r"It is paris \| \<b\>." in text
    assert "utmos: no weights; give --utmos FILE" in text
    assert "| no reply | s2tif | What is seven? | (timed out) | - |" in text
    asked = "s2tif, s2sif-10, s2sif-40, s2sif-inf"
    assert f"| wrong answer | {asked} | What is blue? |" in text
    assert "recognised as: bears" in text
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (folder / link).is_file(), link


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.sources, self.cells = [], [], 0

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        self.cells += tag == "td"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_one_file_whose_tags_close_and_that_asks_nothing_of_a_network(report):
    text = report.read_text(encoding="utf-8")
    tags = _Tags()
    tags.feed(text)
    assert tags.open == []
    assert tags.cells > 50
    kinds = {source.partition(";")[0] for source in tags.sources}
    assert kinds == {"data:image/png", "data:audio/flac"} or kinds == {
        "data:image/png",
        "data:audio/x-flac",
    }
    assert "A &lt;fast&gt; CPU" in text
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)


def test_two_systems_stand_side_by_side(tmp_path, folder):
    other = write_results(tmp_path / "b", system="other", wer=9.0)
    report = write_report([folder, other], tmp_path / "both", title="Two systems")
    text = (tmp_path / "both" / "report.md").read_text(encoding="utf-8")
    assert report == tmp_path / "both" / "report.html"
    assert text.startswith("# Two systems")
    assert "| embedded | 6.0 |" in text
    assert "| other | 11.0 |" in text
    assert "| instruction | asked | embedded | spoken | other | spoken |" in text
    (tmp_path / "both").rename(tmp_path / "moved")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (tmp_path / "moved" / link).is_file(), link
        assert not link.startswith("..")


def test_systems_of_other_sets_are_refused(tmp_path, folder):
    other = write_results(tmp_path / "b", fingerprint="f2")
    with pytest.raises(InputError, match="same set"):
        write_report([folder, other], tmp_path / "both")
    with pytest.raises(InputError, match="needs a folder to go to"):
        write_report([folder, folder])


def test_a_folder_without_results_says_what_it_lacks(tmp_path):
    with pytest.raises(InputError, match=r"has no run\.json"):
        write_report(tmp_path)


def test_a_half_written_last_line_is_left_out_and_any_other_named(tmp_path):
    folder = write_results(tmp_path / "a")
    file = folder / "replies.jsonl"
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole + '{"item": "q', encoding="utf-8")
    assert len(read_evaluated(folder).rows) == 16
    file.write_text('{"item": "q\n' + whole, encoding="utf-8")
    with pytest.raises(InputError, match=r"replies\.jsonl:1 must be JSON"):
        read_evaluated(folder)
