"""What a soak showed, rule by rule."""

from collections.abc import Sequence
from signal import SIGTERM
from statistics import median
from typing import Any

from llama_omni.bench.soak.settings import SoakSettings

# Gauges that are 0 once everybody has left.
EMPTY = ("sessions_open", "engine_conversations", "engine_waiting", "engine_cache_bytes")
# What a visitor may be refused who acts by chance: what he names was over a moment before, or cut
# to less than he asks to keep (`invalid_value`: everything else that visitors send is right).
CHANCE = frozenset(
    {
        "conversation_already_has_active_response",
        "invalid_value",
        "item_in_progress",
        "item_not_found",
        "output_audio_buffer_empty",
        "response_cancel_not_active",
    }
)
PROCESSES = ("server", "engine")


def judge(settings: SoakSettings, result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rules in order: what each says, what was found, and whether it held.

    `held` is None where the soak was too short to judge.
    """
    seen, before, after = result["seen"], result["empty_before"], result["empty_after"]
    unexpected = sorted(set(seen["errors"]) - CHANCE)
    rules = [
        _rule(
            "every frame is one of the API's events, and comes where it may; every response ends "
            "once, and nothing comes after its end",
            f"{seen['num_broken']} of {seen['frames']} frames or waits broke a rule",
            seen["num_broken"] == 0 and seen["frames"] > 0,
        ),
        _rule(
            "no response fails, and nothing is refused but by chance",
            f"{seen['responses'].get('failed', 0)} failed; unexpected errors: "
            f"{', '.join(unexpected) or 'none'}",
            not seen["responses"].get("failed") and not unexpected,
        ),
        _rule(
            "with everybody gone, nothing is held",
            ", ".join(f"{name} {after[name]}" for name in EMPTY),
            not any(after[name] for name in EMPTY),
        ),
        _rule(
            "with everybody gone, no task is left",
            f"{before['tasks']} before, {after['tasks']} after",
            after["tasks"] <= before["tasks"],
        ),
    ]
    for process in PROCESSES:
        rules += [
            _rule(
                f"with everybody gone, the {process} has no more files open",
                f"{before[process]['fds']} before, {after[process]['fds']} after",
                after[process]["fds"] <= before[process]["fds"],
            ),
            _growth(settings, process, "threads", result["samples"], 0.0),
            _growth(settings, process, "rss", result["samples"], settings.max_growth),
        ]
    rules.append(
        _rule(
            "the log tells of no error, and the server ends well",
            f"{len(seen['log_errors'])} lines, exit code {seen['exit_code']}",
            # uvicorn ends by the signal that it was told to end by, once it has shut down.
            not seen["log_errors"] and seen["exit_code"] in (0, -SIGTERM),
        )
    )
    return rules


def tenth(samples: Sequence[dict[str, Any]], number: int, seconds: float) -> list[dict[str, Any]]:
    """Return the samples of the 1st to 10th tenth of a soak."""
    first, end = (number - 1) * seconds / 10, number * seconds / 10
    return [sample for sample in samples if first <= sample["at_s"] < end]


def _growth(
    settings: SoakSettings, process: str, what: str, samples: Sequence[dict[str, Any]], most: float
) -> dict[str, Any]:
    def of(number: int) -> list[int]:
        return [_held(one, process, what) for one in tenth(samples, number, settings.seconds)]

    early, late = of(2), of(10)
    name = "rss beside its caches" if (process, what) == ("engine", "rss") else what
    rule = f"the {process}'s {name} grow by at most {most:.0%} from the second tenth to the last"
    if settings.seconds < settings.min_judged_s or not early or not late:
        return _rule(rule, "too short to tell", None)
    then, now = median(early), median(late)
    if what == "rss":
        found = f"{then / 2**20:.1f} MiB, then {now / 2**20:.1f} MiB ({now / then - 1:+.1%})"
        found += f"; from the fourth on {now / median(of(4)) - 1:+.1%}"
    else:
        found = f"{then:g}, then {now:g}"
    return _rule(rule, found, now <= (1 + most) * then)


def _held(sample: dict[str, Any], process: str, what: str) -> int:
    """Read what a process held, without the caches of the conversations of that moment."""
    caches = sample["engine_cache_bytes"] if (process, what) == ("engine", "rss") else 0
    return sample[process][what] - caches


def _rule(rule: str, found: str, held: bool | None) -> dict[str, Any]:
    return {"rule": rule, "found": found, "held": held}
