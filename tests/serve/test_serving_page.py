"""`docs/serving.md` says of limits, metrics and options what the code says."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from fake_engine import FakeEngine

from llama_omni.engine.settings import EngineSettings
from llama_omni.serve.limits import SessionLimits
from llama_omni.serve.metrics import ServeMetrics
from llama_omni.serve.serve_settings import ServeSettings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
NOT_LIMITS = {"model", "limits", "keys", "origins", "hearing_threads", "record"}
ENGINE_LIMITS = {"cache_bytes", "max_waiting", "max_rows"}
CODE = re.compile(r"`([^`]+)`")


def rows(heading):
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def written(name, value):
    if name == "cache_bytes":
        return "a share of what is free"
    if value is None:
        return "none"
    if name.endswith("_bytes"):
        return f"{value / 2**20:g} MiB"
    return f"{value:,g} s" if name.endswith("_s") else f"{value:,}"


def test_table_of_limits_is_the_codes():
    found = {CODE.findall(name)[0]: default for name, default, _, _ in rows("Limits")}
    groups = {
        "serve": (ServeSettings(), lambda name: name not in NOT_LIMITS),
        "limits": (SessionLimits(), lambda name: True),
        "engine": (EngineSettings(), lambda name: name in ENGINE_LIMITS),
    }
    expected = {
        f"{group}.{field.name}": written(field.name, getattr(settings, field.name))
        for group, (settings, wanted) in groups.items()
        for field in fields(settings)
        if wanted(field.name)
    }
    assert found == expected


def test_table_of_metrics_is_the_codes():
    registry = ServeMetrics(FakeEngine())._registry
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in registry.collect()
    }
    listed = [CODE.findall(row[0])[0] for row in rows("Metrics")]
    assert set(listed) == names
    assert len(listed) == len(names)
    for name in re.findall(r"llama_omni_\w+", PAGE):
        assert name in names


@pytest.mark.parametrize("option", sorted(set(re.findall(r"(?<=`)--[a-z-]+", PAGE))))
def test_every_option_is_one_of_the_command(option):
    section = (ROOT / "docs" / "cli.md").read_text().partition("\n## serve\n")[2]
    assert f"`{option} " in section.partition("\n## ")[0]


def test_codes_are_the_servers():
    code = "".join(path.read_text() for path in (ROOT / "llama_omni" / "serve").glob("*.py"))
    for row in rows("Limits"):
        for word in CODE.findall(row[3]):
            assert f'"{word}"' in code, word
