"""A build whose texts a chat server writes."""

import json
from dataclasses import replace

import pytest

from llama_omni.data.build import build
from llama_omni.data.dataset import SpeechDataset
from llama_omni.data.named import find_recipe, with_paths
from llama_omni.data.recipe import Chat, UnitSettings, Voices
from llama_omni.errors import ToolError
from tests.data.data_tools import FAKES
from tests.stub_server import StubServer


def paper_recipe(tmp_path, server):
    alpaca = [{"instruction": f"Write about {i}.", "input": "", "output": "-"} for i in range(6)]
    (tmp_path / "alpaca.json").write_text(json.dumps(alpaca))
    dialogues = [{"id": str(i), "data": [f"Tell {i}?", "x", "y", "z"]} for i in range(6)]
    lines = "".join(json.dumps(row) + "\n" for row in dialogues)
    (tmp_path / "ultrachat.jsonl").write_text(lines)
    recipe = with_paths(
        find_recipe("instructs2s_200k"),
        [f"alpaca={tmp_path}/alpaca.json", f"ultrachat={tmp_path}/ultrachat.jsonl"],
    )
    return replace(
        recipe,
        chat=Chat(base_url=server.base_url, model="stub", input_price=1.0),
        voices=Voices(question="fake:a,fake:b", answer="fake:answer"),
        units=UnitSettings(num_units=20, sample_s=5.0),
        part_rows=4,
    )


def test_paper_set_is_written_by_a_server_and_paid_for_once(tmp_path):
    with StubServer() as server:
        recipe = paper_recipe(tmp_path, server)
        summary = build(recipe, tmp_path / "set", tools=FAKES)
        paid = summary.usage["replies"]
        again = build(replace(recipe, rows_per_shard=7), tmp_path / "again", tools=FAKES)
        cache = str(tmp_path / "set-replies.db")
        shared = replace(recipe, chat=replace(recipe.chat, cache=cache))
        free = build(shared, tmp_path / "free", tools=FAKES)
    assert summary.counts == {"train": 12}
    assert paid == again.usage["replies"] == 24
    assert summary.usage["cost"] > 0
    assert free.usage["replies"] == 0
    assert free.usage["cached"] == 24
    data = SpeechDataset(tmp_path / "set")
    sources = [data.ids[0].partition("-")[0], data.ids[-1].partition("-")[0]]
    assert sources == ["alpaca", "ultrachat"]
    assert data[0].question != "Write about 0."


def test_dead_server_ends_the_build_which_goes_on_later(tmp_path):
    with StubServer() as server:
        recipe = paper_recipe(tmp_path, server)
    recipe = replace(recipe, chat=replace(recipe.chat, tries=1))
    with pytest.raises(ToolError, match=r"chat/completions"):
        build(recipe, tmp_path / "set", tools=FAKES)
    assert not (tmp_path / "set/manifest.json").exists()
