"""Growing chunks against fixed ones, on the tiny preset with short replies."""

import json

import pytest

from benchmarks.chunk_growth import main
from llama_omni.bench.serve import growth
from llama_omni.bench.serve.growth import POLICIES, GrowthSettings, measure_growth
from llama_omni.errors import ConfigError

SETTINGS = GrowthSettings(conversations=(1, 2), rounds=1, tokens=12, question_s=0.5, stagger_s=0.0)
NAME = "chunk-growth-tiny-cpu-float32"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run that is stopped at its third row and goes on."""
    folder, run, rows = tmp_path_factory.mktemp("growth"), growth.run_policy, []

    def dies(subject, policy, number, settings):
        if settings.tokens == SETTINGS.tokens:
            rows.append((policy.name, number))
            if len(rows) == 3:
                raise KeyboardInterrupt
        return run(subject, policy, number, settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growth, "run_policy", dies)
        with pytest.raises(KeyboardInterrupt):
            measure_growth(SETTINGS, device="cpu", threads=1, output=folder)
        assert (folder / f"{NAME}.partial.jsonl").is_file()
        result = measure_growth(SETTINGS, device="cpu", threads=1, output=folder)
    return result, folder, rows


def test_stopped_run_goes_on_and_measures_nothing_twice(measured):
    result, _, asked = measured
    every = [(policy.name, number) for number in (1, 2) for policy in POLICIES]
    assert asked == [*every[:3], *every[2:]]
    assert [(row["policy"], row["conversations"]) for row in result["rows"]] == every


def test_policies_make_the_same_sound_in_other_pieces(measured):
    rows = [row for row in measured[0]["rows"] if row["conversations"] == 1]
    assert len({round(row["sound_s"], 6) for row in rows}) == 1
    assert {row["frames_given"] for row in rows} == {rows[0]["frames_given"]}
    _, *fixed = rows
    # 129 units of 12 tokens: full chunks, and the rest
    assert [row["vocoder_calls"] for row in fixed] == [13, 7, 4]
    frames = [row["frames"] for row in fixed]
    assert frames == sorted(frames, reverse=True)  # larger chunks repeat less context
    assert frames[-1] > rows[0]["frames_given"]


def test_growing_chunks_begin_as_soon_as_small_ones_and_call_less_often(measured):
    rows = [row for row in measured[0]["rows"] if row["conversations"] == 1]
    assert rows[0]["vocoder_calls"] <= rows[1]["vocoder_calls"]
    assert rows[0]["frames"] <= rows[1]["frames"]
    assert all(len(row["first_audio_s"]) == 1 for row in rows)


def test_table_json_and_picture_are_written(measured):
    result, folder, _ = measured
    assert {path.suffix for path in folder.iterdir()} == {".json", ".md", ".png"}
    assert json.loads((folder / f"{NAME}.json").read_text())["rows"] == result["rows"]
    page = (folder / f"{NAME}.md").read_text()
    for number in (1, 2):
        for policy in POLICIES:
            assert f"| {number}, {policy.name} |" in page
    assert (folder / f"{NAME}.png").read_bytes().startswith(b"\x89PNG")


def test_impossible_growth_is_refused(capsys):
    with pytest.raises(ConfigError, match="conversations must be numbers above 0"):
        GrowthSettings(conversations=())
    assert main(["--rounds", "0"]) == 2
    assert "rounds must be at least 1, got 0" in capsys.readouterr().err
