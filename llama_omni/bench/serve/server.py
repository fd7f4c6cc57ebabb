"""`llama-omni serve` in a process of its own, and what its `/metrics` say."""

import asyncio
import contextlib
import os
import re
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from typing import Any

from llama_omni.errors import EngineError

PATIENCE_S = 60.0  # for an answer, and for the server's end
_STARTED = re.compile(r"talk at (http://127\.0\.0\.1:\d+)/")
_KEPT_LINES = 20  # of the log, to say why it ended
_METRIC = re.compile(r"^llama_omni_(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LAG = "event_loop_lag_seconds"  # of a server that measures it
Numbers = dict[str, float]


class Server:
    """A server that runs.

    Args:
        http: its address, without a slash at the end.
    """

    def __init__(self, http: str) -> None:
        self.http = http
        self.ws = http.replace("http", "ws", 1) + "/v1/realtime"

    async def numbers(self) -> Numbers:
        """Return its metrics, by their names without `llama_omni_`, with labels as they stand."""
        text = await asyncio.to_thread(self._get, "/metrics")
        return {
            name + (f"{{{labels}}}" if labels else ""): float(value)
            for name, labels, value in _METRIC.findall(text)
        }

    async def alive(self) -> None:
        """Wait until its loop has answered `/healthz`."""
        await asyncio.to_thread(self._get, "/healthz")

    def _get(self, path: str) -> str:
        try:
            with urllib.request.urlopen(self.http + path, timeout=PATIENCE_S) as answer:
                return answer.read().decode()
        except (urllib.error.URLError, TimeoutError) as error:
            raise EngineError(f"the server must answer {path}, got {error}") from error


@contextlib.asynccontextmanager
async def serving(arguments: Sequence[str], *, speculate: bool) -> AsyncIterator[Server]:
    """Start `llama-omni serve` on a free port; stop it at the end.

    Args:
        arguments: further ones, such as `--model FOLDER`.
        speculate: whether it may prepare replies.

    Raises:
        EngineError: it ended before it served; says its last words.
    """
    command = [sys.executable, "-m", "llama_omni.cli", "serve", "--port", "0", *arguments]
    command += ["--speculate" if speculate else "--no-speculate"]
    env = {name: value for name, value in os.environ.items() if name != "LLAMA_OMNI_API_KEY"}
    process = await asyncio.create_subprocess_exec(
        *command, env={**env, "PYTHONUNBUFFERED": "1"}, stderr=asyncio.subprocess.PIPE, limit=2**20
    )
    assert process.stderr is not None
    reader: asyncio.Task[None] | None = None
    try:
        http = await _address(process.stderr)
        reader = asyncio.create_task(_drained(process.stderr))
        yield Server(http)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), PATIENCE_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        if reader is not None:
            await reader


async def _address(log: asyncio.StreamReader) -> str:
    lines: list[str] = []
    while line := (await log.readline()).decode(errors="replace"):
        lines = [*lines[1 - _KEPT_LINES :], line.strip()]
        if found := _STARTED.search(line):
            return found[1]
    said = next((line for line in reversed(lines) if line), "nothing")
    raise EngineError(f"the server must start, got its end, and as its last words: {said}")


async def _drained(log: asyncio.StreamReader) -> None:
    """Read what a server says, so that it never waits for a reader."""
    while await log.readline():
        pass


def counters(numbers: Numbers) -> Numbers:
    """Pick what `numbers.speculation` compares."""
    found = {name: numbers.get(f'speculation_total{{outcome="{name}"}}', 0.0) for name in _OUTCOMES}
    return found | {name: numbers.get(f"engine_{name}", 0.0) for name in _ENGINE}


def loop_lag(before: Numbers, after: Numbers) -> dict[str, Any] | None:
    """Return mean and p95 of the server's own measure of its loop's lag; None without one.

    The p95 is the upper bound of the histogram's bin that holds it.
    """
    count = after.get(f"{_LAG}_count", 0.0) - before.get(f"{_LAG}_count", 0.0)
    if not count:
        return None
    total = after[f"{_LAG}_sum"] - before.get(f"{_LAG}_sum", 0.0)
    bins = {
        float(name.split('"')[1]): after[name] - before.get(name, 0.0)
        for name in after
        if name.startswith(f"{_LAG}_bucket")
    }
    holds = [bound for bound, below in bins.items() if below >= 0.95 * count]
    return {"mean_s": total / count, "p95_s": min(holds, default=None)}


_OUTCOMES = ("begun", "used", "dropped", "left_out")
_ENGINE = ("abandoned", "unheard_tokens", "tokens")
