"""What a data set is made from, and how: one frozen configuration, saved with the data set."""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any, TypeGuard

from llama_omni.data.drawing import drawn
from llama_omni.data.sources import Source
from llama_omni.data.speech_text import find_language
from llama_omni.data.voices import ANSWER_VOICE, POOLS, VoicePool, find_pool
from llama_omni.errors import ConfigError

MAX_SEED = 2**32 - 1  # that k-means takes


@dataclass(frozen=True, kw_only=True, slots=True)
class Voices:
    """Who asks and who answers."""

    question: str = "tiny"  # a pool by its name, or voices with commas, drawn evenly
    splits: dict[str, str] = field(
        default_factory=dict
    )  # the same for some splits: held-out voices
    answer: str | None = ANSWER_VOICE  # says every answer; none: answers are not spoken
    question_synthesizer: str | None = None  # what speaks them; none: the programs in their names
    answer_synthesizer: str | None = None
    speeds: tuple[float, float] = (1.0, 1.0)  # of questions: drawn between these, per record
    pitches: tuple[float, float] = (1.0, 1.0)
    history: bool = True  # speak earlier questions of a conversation too

    def __post_init__(self) -> None:
        for name in ("speeds", "pitches"):
            low, high = getattr(self, name)
            if not 0.5 <= low <= high <= 2.0:
                raise ConfigError(f"voices.{name} must rise within 0.5 to 2, got {low:g},{high:g}")
        for split in ("", *self.splits):
            self.pool(split)

    def pool(self, split: str) -> VoicePool:
        """Return the voices that ask the questions of a split."""
        text = self.splits.get(split, self.question)
        if text in POOLS or (":" not in text and "," not in text):
            return find_pool(text)
        names = [name.strip() for name in text.split(",") if name.strip()]
        if not names:
            field = f"splits.{split}" if split in self.splits else "question"
            raise ConfigError(f"voices.{field} must name at least one voice, got {text!r}")
        return VoicePool(name=text, weights=dict.fromkeys(names, 1.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitSettings:
    """How answers become units."""

    enabled: bool = True  # false: none are made
    folder: str | None = None  # of fitted units; none: fitted on this data set's answers
    features: str = "mfcc"  # to fit on: mfcc, hubert:FOLDER#LAYER (or a hub id), encoder:FOLDER
    normalise: bool = False  # HuBERT: normalise each waveform; the large models want it
    num_units: int = 200  # K
    sample_s: float = 3600.0  # seconds of the first answers to fit on
    device: str = "cpu"  # another one names the units of the whole set in one process

    def __post_init__(self) -> None:
        if not 2 <= self.num_units <= 32_767:
            raise ConfigError(f"units.num_units must be 2 to 32767, got {self.num_units}")
        if not 0 < self.sample_s < math.inf:
            raise ConfigError(f"units.sample_s must be above 0 and finite, got {self.sample_s}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Filters:
    """What a record must keep to; one that does not is rejected, with the reason."""

    min_question_s: float = 0.2
    max_question_s: float = 30.0  # the encoder's window
    min_answer_s: float = 0.1
    max_answer_s: float = 60.0
    duplicates: bool = False  # true: keep questions that were there before
    tokenizer: str | None = None  # a model folder: units must fit its tokens
    upsample_factor: int = 25  # lambda: frames that a token gives units
    recognizer: str | None = None  # such as pocketsphinx: hears questions and answers
    max_wer: float = 0.5  # word error rate of what it hears, of either

    def __post_init__(self) -> None:
        for side in ("question", "answer"):
            low, high = getattr(self, f"min_{side}_s"), getattr(self, f"max_{side}_s")
            if not 0 <= low < high:
                raise ConfigError(
                    f"filters.min_{side}_s must be 0 or more and below max_{side}_s, "
                    f"got {low:g} and {high:g}"
                )
        if self.upsample_factor < 1:
            raise ConfigError(
                f"filters.upsample_factor must be at least 1, got {self.upsample_factor}"
            )
        if not self.max_wer >= 0:
            raise ConfigError(f"filters.max_wer must be at least 0, got {self.max_wer}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat:
    """The server that rewrites and answers, where `rewrite` or `respond` say `chat`."""

    base_url: str = ""  # "http://localhost:8000/v1"
    model: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    temperature: float | None = 0.7
    max_tokens: int | None = 512
    concurrency: int = 8  # requests under way at once, of each process
    requests_per_minute: float | None = None  # of each process
    tries: int = 6  # of one request
    input_price: float = 0.0  # dollars per million tokens
    output_price: float = 0.0
    cache: str | None = None  # file of paid replies; none: OUTPUT-replies.db beside the data set


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRecipe:
    """How a data set is made. Every field can be set by its dotted name."""

    name: str
    sources: tuple[Source, ...]
    seed: int = 0
    rewrite: str = "rules"  # into speech style: rules, chat or none
    language: str = "en"  # that questions and answers are in; rules spell out English alone
    respond: str = "keep"  # keep cleans the source's answers; chat also writes absent ones; none
    chat: Chat = field(default_factory=Chat)
    voices: Voices = field(default_factory=Voices)
    units: UnitSettings = field(default_factory=UnitSettings)
    filters: Filters = field(default_factory=Filters)
    rows_per_shard: int = 1000
    part_rows: int = 64  # records that are worked on, and lost by a kill, at once

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("sources must hold at least one source, got none")
        for name, known in (
            ("rewrite", ("none", "rules", "chat")),
            ("respond", ("none", "keep", "chat")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        find_language(self.language)  # refuses what is no code of one
        if not 0 <= self.seed <= MAX_SEED:
            raise ConfigError(f"seed must be 0 to {MAX_SEED}, got {self.seed}")
        for name in ("rows_per_shard", "part_rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")

    def check(self) -> None:
        """Refuse what a named recipe leaves open and nobody has filled in.

        Raises:
            ConfigError: A step goes to a chat server, and there is none; or no step has an answer.
        """
        chats = [name for name in ("rewrite", "respond") if getattr(self, name) == "chat"]
        if chats and not (self.chat.base_url and self.chat.model):
            raise ConfigError(
                f"chat.base_url and chat.model must be set where {' and '.join(chats)} is chat"
            )
        if self.respond == "chat":
            return
        for place, source in enumerate(self.sources):
            if source.kind == "table" and source.columns.answer is None:
                raise ConfigError(
                    f"sources.{place}.columns.answer must name a column where respond is "
                    f"{self.respond}, got none; respond=chat has answers written"
                )
            if not source.answers:
                raise ConfigError(
                    f"sources.{place}.answers must be true where respond is {self.respond}, "
                    "got false; respond=chat has answers written"
                )

    def as_json(self) -> dict[str, Any]:
        """Return the recipe as JSON holds it."""
        return json.loads(json.dumps(asdict(self)))

    def published(self) -> dict[str, Any]:
        """Return the same for a manifest: files by their names, without where they lay."""
        return _named(self.as_json())

    def draw(self, record_id: str, what: str) -> float:
        """Return a number from 0 to 1 by chance, the same for the same record and seed."""
        return drawn(what, record_id, seed=self.seed)


def _named(value: Any) -> Any:
    """Replace absolute paths by their last part, also behind a prefix such as `hubert:`."""
    if isinstance(value, dict):
        return {name: _named(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_named(item) for item in value]
    if isinstance(value, str):
        return ",".join(map(without_place, value.split(",")))  # several voices
    return value


def without_place(name: str) -> str:
    """Return a name with its absolute path, if it has one, cut to the last part.

    "vits:/voices/ljs#0" is vits:ljs#0; what lies on a hub or a server is left as it is.
    """
    if name.startswith("/") or (":/" in name and "://" not in name):
        prefix, _, rest = name.partition("/")
        return prefix + rest.rstrip("/").rpartition("/")[2]
    return name


def _of_fields(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Say in which fields two recipes differ: `filters.max_wer (0.5, now 0.3)`."""
    found = []
    for name in {**old, **new}:
        before, now = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            found += differences(before, now, f"{prefix}{name}.")
        elif _of_fields(before) and _of_fields(now):
            if len(before) != len(now):
                found.append(f"{prefix}{name} ({len(before)} of them, now {len(now)})")
                continue
            for place, (one, other) in enumerate(zip(before, now, strict=True)):
                found += differences(one, other, f"{prefix}{name}.{place}.")
        elif before != now:
            found.append(f"{prefix}{name} ({json.dumps(before)}, now {json.dumps(now)})")
    return found
