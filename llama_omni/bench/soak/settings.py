"""How long a server is soaked, and by how many."""

from dataclasses import dataclass
from pathlib import Path

from llama_omni.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class SoakSettings:
    """Knobs of a soak. The same seed makes the same visitors, not the same moments."""

    output: Path  # files `NAME.json`, `NAME.md` and `NAME.png`
    seconds: float = 600.0  # that visitors come for
    visitors: int = 6  # at a time
    seed: int = 0
    every_s: float = 5.0  # between samples
    patience_s: float = 600.0  # for a response to end, or the server to be ready
    max_growth: float = 0.05  # of resident memory, from the second tenth to the last
    min_judged_s: float = 300.0  # of a shorter soak memory is shown, not judged
    serve: tuple[str, ...] = ("--device", "cpu", "--dtype", "float32", "--threads", "1")

    def __post_init__(self) -> None:
        for name in ("seconds", "visitors", "every_s", "patience_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"soak.{name} must be above 0, got {getattr(self, name)}")
