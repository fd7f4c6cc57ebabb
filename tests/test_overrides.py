"""Settings by text."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from llama_omni.errors import ConfigError
from llama_omni.overrides import override


@dataclass(frozen=True)
class Part:
    size: int = 3
    name: str | None = None

    def __post_init__(self):
        if self.size < 1:
            raise ConfigError(f"size must be at least 1, got {self.size}")


@dataclass(frozen=True)
class Whole:
    part: Part = Part()
    parts: tuple[Part, ...] = (Part(), Part(size=4))
    share: float = 0.5
    fast: bool = False
    span: tuple[float, float] = (0.9, 1.1)
    names: tuple[str, ...] = ()
    kind: Literal["a", "b"] = "a"
    pools: dict[str, str] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("part.size=7", Whole(part=Part(size=7))),
        ("part.size=1_000", Whole(part=Part(size=1000))),
        ("part.name=a=b", Whole(part=Part(name="a=b"))),
        ("part.name=none", Whole()),
        ("parts.1.size=9", Whole(parts=(Part(), Part(size=9)))),
        ("share=1e-3", Whole(share=0.001)),
        ("fast=true", Whole(fast=True)),
        ("span=1,2", Whole(span=(1.0, 2.0))),
        ("span.0=1", Whole(span=(1.0, 1.1))),
        ("names=x, y", Whole(names=("x", "y"))),
        ("kind=b", Whole(kind="b")),
        ("pools.test=flite", Whole(pools={"test": "flite"})),
    ],
)
def test_setting_changes_one_field(setting, expected):
    assert override(Whole(), [setting]) == expected


@dataclass(frozen=True)
class Span:
    low: int = 1
    high: int = 60

    def __post_init__(self):
        if self.low >= self.high:
            raise ConfigError(f"low must be below high, got {self.low} and {self.high}")


@dataclass(frozen=True)
class Spans:
    one: Span = Span()
    all: tuple[Span, ...] = (Span(), Span())


@pytest.mark.parametrize("path", ["one", "all.1"])
def test_settings_that_are_possible_together_may_come_in_any_order(path):
    settings = [f"{path}.low=70", f"{path}.high=80"]
    changed = override(Spans(), settings)
    assert changed == override(Spans(), settings[::-1])
    assert (changed.one if path == "one" else changed.all[1]) == Span(low=70, high=80)
    with pytest.raises(ConfigError, match="low must be below high, got 70 and 60"):
        override(Spans(), settings[:1])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["part.size=7", "part.size=8"], Whole(part=Part(size=8))),
        (["span.0=1", "span=2,3", "span.1=4"], Whole(span=(2.0, 4.0))),
        (["pools.a=x", "share=1", "pools.b=z"], Whole(share=1.0, pools={"a": "x", "b": "z"})),
        ([], Whole()),
    ],
    ids=["twice", "whole and part", "of a dict", "none"],
)  # fmt: skip
def test_later_settings_win_over_earlier_ones(settings, expected):
    assert override(Whole(), settings) == expected


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("part", "a setting must be KEY=VALUE, got 'part'"),
        ("prat.size=1", "no field 'prat' in 'prat.size'; there are part, parts, share, fast, span"),
        ("part.length=1", "no field 'length' in 'part.length'; there are size, name"),
        ("part.size=x", "part.size must be a whole number, got 'x'"),
        ("part.size=0", "size must be at least 1, got 0"),
        ("part.size.x=0", "part.size.x must end before 'x'"),
        ("parts.2.size=1", "parts.2.size must name one of 0 to 1, got '2'"),
        ("share=much", "share must be a number, got 'much'"),
        ("fast=perhaps", "fast must be true or false, got 'perhaps'"),
        ("span=1", "span must be 2 values with commas, got '1'"),
        ("kind=c", "kind must be one of a, b, got 'c'"),
        ("part=3", "part must be set field by field"),
    ],
)
def test_setting_that_cannot_be_is_refused(setting, message):
    with pytest.raises(ConfigError) as caught:
        override(Whole(), [setting])
    assert message in str(caught.value)
