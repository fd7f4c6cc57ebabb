"""Which voices ask the questions of a data set, and which are kept to test it with.

A record's voice depends on its id, the seed and the pool alone: not on order, on how many
processes work, or on what was drawn before.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from llama_omni.data.drawing import drawn
from llama_omni.errors import ConfigError, ToolError

ANSWER_VOICE = "festival:slt_hts"  # says every answer: the clearest of Debian's voices, permissive


@dataclass(frozen=True, kw_only=True, slots=True)
class VoicePool:
    """Voices to draw from, each with a weight."""

    name: str
    weights: dict[str, float]  # of each voice, by its synthesizer's name for it; any sum

    def __post_init__(self) -> None:
        if not self.weights:
            raise ConfigError(f"voices.{self.name} must name at least one voice, got none")
        for voice, weight in self.weights.items():
            if not 0 < weight < float("inf"):
                raise ConfigError(
                    f"voices.{self.name}: the weight of {voice} must be above 0, got {weight}"
                )

    @property
    def voices(self) -> tuple[str, ...]:
        """Names of the voices."""
        return tuple(self.weights)

    @property
    def programs(self) -> str:
        """What `open_synthesizer` takes to speak with all of them: "flite,festival"."""
        return ",".join(dict.fromkeys(voice.partition(":")[0] for voice in self.weights))

    def draw(self, record_id: str, *, seed: int) -> str:
        """Return the voice of a record, by chance in proportion to the weights."""
        point = drawn("voice", record_id, seed=seed) * sum(self.weights.values())
        for voice, weight in self.weights.items():
            point -= weight
            if point < 0:
                return voice
        return self.voices[-1]  # rounding alone leads here

    def check(self, available: Iterable[str]) -> None:
        """Refuse a machine that lacks some of the voices.

        Raises:
            ToolError: Names those that are missing.
        """
        missing = sorted(set(self.voices) - set(available))
        if missing:
            raise ToolError(
                f"voices.{self.name} must be installed, missing: {', '.join(missing)}; "
                "apt install flite festival festvox-kallpc16k festvox-kdlpc16k "
                "festvox-us-slt-hts espeak-ng"
            )


def find_pool(name: str) -> VoicePool:
    """Return a pool by its name.

    Raises:
        ConfigError: There is none of that name; lists those that there are.
    """
    if name not in POOLS:
        raise ConfigError(f"voice pool must be one of {', '.join(POOLS)}, got {name!r}")
    return POOLS[name]


# Question voices of the tiny model. The six recorded voices get nearly half of the draws; the rest
# are formant voices in six accents, men and women. Whispers, robots, monsters and echoes are left
# out.
TINY = VoicePool(
    name="tiny",
    weights={
        "flite:rms": 3.5,
        "flite:slt": 3.5,
        "flite:kal16": 3.5,
        "flite:kal": 1.5,  # telephone quality: 8 kHz
        "festival:slt_hts": 3.5,
        "festival:kal": 3.5,
        "espeak-ng:en-us": 1.0,
        "espeak-ng:en-us+f2": 1.0,
        "espeak-ng:en-us+f3": 1.0,
        "espeak-ng:en-us+f5": 1.0,
        "espeak-ng:en-us+m6": 1.0,
        "espeak-ng:en-us+Henrique": 1.0,
        "espeak-ng:en-us+Diogo": 1.0,
        "espeak-ng:en-us+adam": 1.0,
        "espeak-ng:en-us+anika": 1.0,
        "espeak-ng:en-us+benjamin": 1.0,
        "espeak-ng:en-us+edward": 1.0,
        "espeak-ng:en-us+klatt2": 1.0,
        "espeak-ng:en-us+klatt4": 1.0,
        "espeak-ng:en-gb": 1.0,
        "espeak-ng:en-gb+caleb": 1.0,
        "espeak-ng:en-gb+f2": 1.0,
        "espeak-ng:en-gb-x-rp+f5": 1.0,
        "espeak-ng:en-gb-x-rp+klatt6": 1.0,
        "espeak-ng:en-gb-x-gbclan+m5": 0.5,
        "espeak-ng:en-gb-x-gbclan+f2": 0.5,
        "espeak-ng:en-gb-x-gbcwmd+m3": 0.5,
        "espeak-ng:en-gb-x-gbcwmd+f3": 0.5,
        "espeak-ng:en-gb+m7": 0.5,
        "espeak-ng:en-us+m2": 0.5,
        "espeak-ng:en-029+benjamin": 0.5,
        "espeak-ng:en-029+f2": 0.5,
    },
)
# Never trained on: two recorded speakers, and accents and variants that are both absent above.
TINY_UNSEEN = VoicePool(
    name="tiny-unseen",
    weights={
        "flite:awb": 1.0,
        "festival:ked": 1.0,
        "espeak-ng:en-us-nyc+Hugo": 1.0,
        "espeak-ng:en-us-nyc+f1": 1.0,
        "espeak-ng:en-gb-scotland+f4": 1.0,
    },
)
POOLS = {pool.name: pool for pool in (TINY, TINY_UNSEEN)}
