"""`Judge`: grades from 1 to 5 by a language model, for what a reply says and how it would sound.

The paper's first version grades content and style apart, its second gives one score; both are
asked, with prompts of our own. A grade is what the model said or nothing at all: an answer that
holds no grade is asked for again, and then the reply counts as unjudged.
"""

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llama_omni.backends.chat import ChatEndpoint
from llama_omni.backends.chat_options import ChatOptions, ChatReply, ChatUsage
from llama_omni.backends.parallel import in_order
from llama_omni.data.prompts import Prompt, read_prompt
from llama_omni.errors import ConfigError

PROMPTS = Path(__file__).parent / "prompts"
# By prompt: the grades it asks for.
GRADES: Mapping[str, tuple[str, ...]] = {"content_style": ("content", "style"), "score": ("score",)}
ASPECTS = tuple(name for names in GRADES.values() for name in names)
LOWEST, HIGHEST = 1, 5
MAX_CHARS = 20_000  # of a reply; a longer one is cut, and says so

_PLACES = ("instruction", "source", "reply")
_WRITTEN = "as the assistant wrote it, which a voice then speaks"
_HEARD = (
    "its speech, written down by a speech recogniser: do not count missing capitals or "
    "punctuation, nor digits for numbers, but do count words that make no sense"
)
_NOTHING = "(not a word)"
_RETRY = 10_000  # added to the number of a sample for each retry, so that it is another draw


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeOptions:
    """Which judge is asked, and how often."""

    chat: ChatOptions  # the server, its model, sampling, prices and the file of paid replies
    samples: int = 3  # grades per reply and prompt; their mean is the reply's
    retries: int = 2  # further draws where an answer holds no grade
    prompts: Path = PROMPTS  # folder with content_style.md and score.md

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"samples must be at least 1, got {self.samples}")
        if self.retries < 0:
            raise ConfigError(f"retries must be at least 0, got {self.retries}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Grades:
    """What a judge said of one reply."""

    grades: Mapping[str, tuple[int, ...]]  # by aspect: content, style, score; one per sample
    reasons: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()  # samples without grades, and why
    asked: int = 0  # samples

    def mean(self, aspect: str) -> float | None:
        """Return the mean grade; None: there is none."""
        found = self.grades.get(aspect, ())
        return sum(found) / len(found) if found else None

    def to_json(self) -> dict[str, Any]:
        """Return what `json.dumps` takes."""
        return {
            "grades": {aspect: list(found) for aspect, found in self.grades.items()},
            "reasons": list(self.reasons),
            "unjudged": list(self.unjudged),
            "asked": self.asked,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Grades":
        """Read what `to_json` gave."""
        return cls(
            grades={aspect: tuple(found) for aspect, found in value["grades"].items()},
            reasons=tuple(value["reasons"]),
            unjudged=tuple(value["unjudged"]),
            asked=value["asked"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    """One grade, or two, that are asked for at once."""

    prompt: str
    sample: int
    messages: list[dict[str, str]] = field(default_factory=list)


class Judge:
    """A language model that grades replies; for any number of threads.

    Args:
        options: which one, and how often.
        open_chat: opens the endpoint, when the first reply is graded.

    Raises:
        ConfigError: a prompt is missing, or cannot be used.
    """

    def __init__(
        self,
        options: JudgeOptions,
        *,
        open_chat: Callable[[ChatOptions], ChatEndpoint] | None = None,
    ) -> None:
        self.options = options
        self._open = open_chat or ChatEndpoint
        self._chat: ChatEndpoint | None = None
        self._lock = threading.Lock()
        self._prompts = {name: _load(options.prompts / f"{name}.md") for name in GRADES}

    @property
    def settings(self) -> dict[str, Any]:
        """What grades depend on beside the reply."""
        chat = self.options.chat
        hashes = {
            name: hashlib.sha256(f"{prompt.system}\0{prompt.user}".encode()).hexdigest()[:12]
            for name, prompt in self._prompts.items()
        }
        return {
            "url": chat.base_url,
            "model": chat.model,
            "sampling": chat.sampling,
            "extra": dict(chat.extra),
            "samples": self.options.samples,
            "retries": self.options.retries,
            "prompts": hashes,
        }

    @property
    def usage(self) -> ChatUsage:
        """What was asked, paid and saved so far."""
        return self._chat.usage if self._chat is not None else ChatUsage()

    def grade(self, instruction: str, reply: str, *, heard: bool = False) -> Grades:
        """Return the grades of one reply, all samples of them.

        Args:
            instruction: what was asked, as text.
            reply: what was answered; without a word, it is graded as that.
            heard: the reply is a recogniser's transcript of speech.

        Raises:
            ToolError: the server is absent, fails or limits for too long, or refuses everything.
            OutputError: the cache cannot be read or written.
            MissingExtraError: the package `openai` is not installed.
        """
        said = " ".join(reply.split()) if heard else reply.strip()
        if len(said) > MAX_CHARS:
            said = f"{said[:MAX_CHARS]} (and {len(said) - MAX_CHARS} characters more)"
        values = {
            "instruction": instruction,
            "source": _HEARD if heard else _WRITTEN,
            "reply": said or _NOTHING,
        }
        requests = []
        for name, prompt in self._prompts.items():
            system, user = prompt.messages(values)
            turns = [{"role": "system", "content": system}, {"role": "user", "content": user}]
            requests += [
                _Request(prompt=name, sample=sample, messages=turns)
                for sample in range(self.options.samples)
            ]
        width = min(len(requests), self.options.chat.concurrency)
        found = list(in_order(self._ask, requests, workers=width, look_ahead=len(requests)))
        grades: dict[str, tuple[int, ...]] = dict.fromkeys(ASPECTS, ())
        reasons, unjudged = [], []
        for request, answer in zip(requests, found, strict=True):
            if isinstance(answer, str):
                unjudged.append(f"{request.prompt}, sample {request.sample + 1}: {answer}")
                continue
            reasons.append(answer["reason"])
            for aspect in GRADES[request.prompt]:
                grades[aspect] += (answer[aspect],)
        return Grades(
            grades=grades, reasons=tuple(reasons), unjudged=tuple(unjudged), asked=len(requests)
        )

    def close(self) -> None:
        """Give connections and cache back."""
        if self._chat is not None:
            self._chat.close()

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: _Request, stop: threading.Event) -> dict[str, Any] | str:
        """Return one answer, or why there is none."""
        chat = self._endpoint()
        problem = ""
        for attempt in range(1 + self.options.retries):
            outcome = chat.ask(
                request.messages,
                schema(request.prompt),
                sample=request.sample + attempt * _RETRY,
                stop=stop,
            )
            if isinstance(outcome, ChatReply):
                return outcome.value
            problem = outcome.reason
            if outcome.kind == "rejected":  # the request itself: another draw is the same
                break
        return problem

    def _endpoint(self) -> ChatEndpoint:
        with self._lock:
            if self._chat is None:
                self._chat = self._open(self.options.chat)
            return self._chat


def schema(prompt: str) -> dict[str, Any]:
    """Return what an answer to a prompt must hold: the reason first, so that grades follow it."""
    grade = {"type": "integer", "enum": list(range(LOWEST, HIGHEST + 1))}
    names = GRADES[prompt]
    return {
        "type": "object",
        "properties": {"reason": {"type": "string"}, **{name: grade for name in names}},
        "required": ["reason", *names],
        "additionalProperties": False,
    }


def _load(path: Path) -> Prompt:
    try:
        prompt = read_prompt(path, name=path.stem, needed=("instruction", "reply"), known=_PLACES)
    except OSError as error:
        raise ConfigError(f"{path} must be a judge's prompt, got {error.strerror}") from error
    return replace(prompt, name=path.stem)
