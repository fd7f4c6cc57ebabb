"""Ask every item under every condition, and keep what comes back, as it comes."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from itertools import islice

from llama_omni.audio import SAMPLE_RATE
from llama_omni.errors import ConfigError, EngineError, InputError, LlamaOmniError
from llama_omni.evaluate.records import UNASKED, Condition, EvalItem, EvalSet, ReplyRow
from llama_omni.evaluate.results import Results
from llama_omni.interfaces import Audio, Reply, ReplyOptions, Turn

logger = logging.getLogger(__name__)

MOST_FAILURES = 5  # in a row: then the system is gone, and the rest would fail too

Ask = Callable[[Turn, ReplyOptions], Reply]
Progress = Callable[[int, int], None]  # how many of how many are done
Answer = tuple[ReplyRow, bool]  # and whether the question itself could not be used


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """How a system is asked."""

    conditions: tuple[Condition, ...]
    batch: int = 1  # asked at a time; times are only worth reporting where it is 1
    seed: int = 0
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        if not self.conditions:
            raise ConfigError("an evaluation needs at least one condition, got none")
        if self.batch < 1:
            raise ConfigError(f"--batch must be at least 1, got {self.batch}")

    def options(self, condition: Condition) -> ReplyOptions:
        """Return the options of a condition's replies: greedy, as in the paper."""
        return ReplyOptions(
            chunk_size=condition.chunk_size,
            speech=condition.mode == "s2sif",
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
        )


def choose(test_set: EvalSet, limit: int | None) -> list[EvalItem]:
    """Return the items that are asked: all, or the first so many.

    Raises:
        ConfigError: the limit is none.
        InputError: the set is empty, or an id comes twice.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit must be at least 1, got {limit}")
    items = [*islice(test_set.items, limit)]
    if not items:
        raise InputError(f"the set {test_set.name} must hold at least one item, got none")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise InputError(f"the set {test_set.name} must have unique ids, got {item.id!r} twice")
        seen.add(item.id)
    return items


def run(
    ask: Ask,
    test_set: EvalSet,
    items: Sequence[EvalItem],
    results: Results,
    settings: RunSettings,
    *,
    progress: Progress = lambda done, of: None,  # noqa: ARG005
) -> int:
    """Ask what has not been answered yet.

    One question is asked before, and its answer thrown away: the first reply of a process pays for
    what all others share.

    Args:
        ask: answers; called from `settings.batch` threads.
        test_set: gives the sounds.
        items: what is asked, in this order, one condition after the other.
        results: keeps the replies.
        settings: how.
        progress: told after each reply.

    Returns:
        How many replies failed.

    Raises:
        EngineError: so many replies in a row failed that the system must be gone; all that came
            before is kept.
        OutputError: the results cannot be written.
    """
    wanted = unanswered(items, results, settings)
    total = len(items) * len(settings.conditions)
    done, failed, in_a_row = total - len(wanted), 0, 0
    if not wanted:
        return 0
    with results.alone():
        _warm_up(ask, test_set, *wanted[0], settings)
        for row, unusable in _asked(ask, test_set, wanted, results, settings):
            results.add(row)
            done += 1
            progress(done, total)
            failed += row.error is not None
            if row.error is None:
                in_a_row = 0
            elif not unusable:  # a question that no system could answer says nothing of this one
                in_a_row += 1
            if in_a_row >= MOST_FAILURES:
                raise EngineError(
                    f"{in_a_row} replies in a row failed, the last with: {row.error}; "
                    "what came before is kept, run again to go on"
                )
    return failed


def unanswered(
    items: Sequence[EvalItem], results: Results, settings: RunSettings
) -> list[tuple[EvalItem, Condition]]:
    """Return what is still to be asked, in its order."""
    return [
        (item, condition)
        for condition in settings.conditions
        for item in items
        if (item.id, condition.name) not in results.rows
    ]


def _asked(
    ask: Ask,
    test_set: EvalSet,
    wanted: Sequence[tuple[EvalItem, Condition]],
    results: Results,
    settings: RunSettings,
) -> Iterator[Answer]:
    """Yield the replies as they come, never more questions ahead than are asked at a time."""

    def answer(item: EvalItem, condition: Condition) -> Answer:
        return _answer(ask, test_set, item, condition, results, settings)

    if settings.batch == 1:
        for item, condition in wanted:
            yield answer(item, condition)
        return
    left = iter(wanted)
    with ThreadPoolExecutor(settings.batch, "asking") as threads:
        running: set[Future[Answer]] = set()
        try:
            while True:
                for item, condition in islice(left, settings.batch - len(running)):
                    running.add(threads.submit(answer, item, condition))
                if not running:
                    return
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for one in ended:
                    yield one.result()
        finally:
            for one in running:
                one.cancel()


def _answer(
    ask: Ask,
    test_set: EvalSet,
    item: EvalItem,
    condition: Condition,
    results: Results,
    settings: RunSettings,
) -> Answer:
    """Ask one item; what the system cannot do becomes a row that says so."""
    about = {"item": item.id, "condition": condition.name, "batch": settings.batch}
    try:
        sound = test_set.speech(item)
    except LlamaOmniError as error:  # one spoilt recording does not end a run of hours
        logger.warning("question unreadable item=%s: %s", item.id, error)
        why = " ".join(str(error).split())
        return ReplyRow(**about, finish_reason=UNASKED, error=f"not asked: {why}"), True
    results.keep_question(item, sound)
    seconds = len(sound) / SAMPLE_RATE
    try:
        reply = ask(Turn(role="user", audio=sound), settings.options(condition))
    except Exception as error:  # a run of hours goes on after one bad reply, whatever it was
        known = isinstance(error, LlamaOmniError)
        logger.warning(
            "reply failed item=%s condition=%s: %s",
            item.id,
            condition.name,
            error,
            exc_info=None if known else error,
        )
        words = " ".join(str(error).split())
        why = words if known else f"{type(error).__name__}: {words}"
        row = ReplyRow(**about, question_s=seconds, finish_reason="failed", error=why)
        return row, isinstance(error, InputError)
    file = None
    if len(reply.audio):
        file = results.keep_sound(item, condition.name, reply.audio, reply.sample_rate)
    row = ReplyRow(
        **about,
        text=reply.text,
        tokens=len(reply.token_ids),
        units=reply.units,
        audio=file,
        sample_rate=reply.sample_rate,
        duration_s=reply.duration_s,
        question_s=seconds,
        lagging_words=reply.lagging_words,
        finish_reason=reply.finish_reason,
        timings=asdict(reply.timings),
    )
    return row, False


def _warm_up(
    ask: Ask, test_set: EvalSet, item: EvalItem, condition: Condition, settings: RunSettings
) -> None:
    try:
        sound: Audio = test_set.speech(item)
        ask(Turn(role="user", audio=sound), settings.options(condition))
    except Exception as error:  # it will fail again where it counts
        logger.debug("warming up failed: %s", error)
