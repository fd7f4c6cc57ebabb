"""Who rewrites and who answers, as a recipe says: rules, a chat server, or nobody."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llama_omni.backends.chat import ChatEndpoint
from llama_omni.backends.chat_options import ChatOptions
from llama_omni.data.recipe import BuildRecipe
from llama_omni.data.records import Record, Reject
from llama_omni.data.rewrite import EndpointRewriter, KeepResponder, RuleRewriter

Many = Callable[[Iterable[Record]], Iterator[Record | Reject]]


class Writer:
    """One step on many records, and what it cost.

    Args:
        answered: What is done with records that have an answer; None leaves them.
        unanswered: The same for those that have none.
        endpoint: That they ask, if any; it is closed with this.
    """

    def __init__(
        self, answered: Many | None, unanswered: Many | None, endpoint: ChatEndpoint | None
    ) -> None:
        self._steps = {True: answered, False: unanswered}
        self._endpoint = endpoint
        self._told: dict[str, float] = {}

    def apply(self, records: Sequence[Record]) -> list[Record | Reject]:
        """Return what became of each record, in order."""
        outcomes: dict[str, Record | Reject] = {record.id: record for record in records}
        for has_answer, step in self._steps.items():
            chosen = [record for record in records if (record.answer is not None) == has_answer]
            if step is not None and chosen:
                found = step(chosen)
                outcomes |= {
                    record.id: outcome for record, outcome in zip(chosen, found, strict=True)
                }
        return list(outcomes.values())

    def usage(self) -> dict[str, float]:
        """Return what was asked and paid since this was last called."""
        if self._endpoint is None:
            return {}
        now = {name: float(value) for name, value in asdict(self._endpoint.usage).items()}
        new = {name: value - self._told.get(name, 0) for name, value in now.items()}
        self._told = now
        return new

    def close(self) -> None:
        """Close the connection."""
        if self._endpoint is not None:
            self._endpoint.close()


def open_rewriter(recipe: BuildRecipe, output: Path) -> Writer | None:
    """Return what writes questions as they are asked aloud, or None.

    Raises:
        ConfigError: The language is unknown, or the server's options are impossible.
        MissingExtraError: A server needs the package `openai`.
    """
    if recipe.rewrite == "none":
        return None
    if recipe.rewrite == "rules":
        step = RuleRewriter(seed=recipe.seed, language=recipe.language).rewrite_many
        return Writer(step, step, None)
    endpoint = _endpoint(recipe, output)
    step = EndpointRewriter(endpoint, language=recipe.language).rewrite_many
    return Writer(step, step, endpoint)


def open_responder(recipe: BuildRecipe, output: Path) -> Writer | None:
    """Return what cleans a source's answers and writes absent ones, or None.

    Raises:
        ConfigError: See `open_rewriter`.
        MissingExtraError: See there.
    """
    if recipe.respond == "none":
        return None
    keep = KeepResponder(language=recipe.language).respond_many
    if recipe.respond == "keep":
        return Writer(keep, keep, None)
    from llama_omni.data.rewrite import EndpointResponder

    endpoint = _endpoint(recipe, output)
    ask = EndpointResponder(endpoint, language=recipe.language).respond_many
    return Writer(keep, ask, endpoint)


def _endpoint(recipe: BuildRecipe, output: Path) -> ChatEndpoint:
    chat = recipe.chat
    cache = Path(chat.cache) if chat.cache else output.with_name(f"{output.name}-replies.db")
    given: dict[str, Any] = {
        name: getattr(chat, name) for name in chat.__dataclass_fields__ if name != "cache"
    }
    return ChatEndpoint(ChatOptions(**given, seed=recipe.seed, cache=cache))
