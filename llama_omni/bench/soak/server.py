"""`llama-omni serve` as a process of its own, and what the system says of it and its engine."""

import asyncio
import os
import re
import signal
import sys
import urllib.request
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from llama_omni.errors import ConfigError, EngineError

_TALK = re.compile(r"talk at (http://\S+:\d+)/")
_TROUBLE = (" ERROR ", " CRITICAL ", "Traceback", "Task exception was never retrieved")
_PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """What one process holds now."""

    rss: int  # bytes of resident memory
    threads: int
    fds: int


class ServerProcess:
    """A server with its engine, from its start to its end.

    Args:
        options: of `llama-omni serve`; the port is a free one.
        patience_s: until it is ready, and until it has ended.
    """

    def __init__(self, options: tuple[str, ...], patience_s: float) -> None:
        self._options, self._patience_s = options, patience_s
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.log: deque[str] = deque(maxlen=50)  # the last lines
        self.trouble: list[str] = []  # lines of the log that tell of an error
        self.url = ""  # http://HOST:PORT
        self.engine_pid = 0

    @property
    def pid(self) -> int:
        """Number of the server's process."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            ConfigError: this system has no /proc.
            EngineError: it ended, or took too long.
        """
        if not (_PROC / "self" / "status").exists():
            raise ConfigError("a soak must read /proc (Linux), found none")
        command = [sys.executable, "-m", "llama_omni.cli", "serve", "--port", "0", *self._options]
        self._process = await asyncio.create_subprocess_exec(
            *command, stderr=asyncio.subprocess.PIPE, limit=2**20
        )
        ready = asyncio.Event()
        self._reading = asyncio.create_task(self._read(ready))
        try:
            async with asyncio.timeout(self._patience_s):
                await ready.wait()
        except TimeoutError:
            pass
        if not self.url:
            await self.stop()
            raise EngineError(f"the server must come up, got {''.join(self.log)[-300:]!r}")
        self.engine_pid = _engine_of(self.pid)

    async def stop(self) -> int:
        """End it as a service manager does; return its exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._patience_s):
                code = await self._process.wait()
        except TimeoutError:
            self._process.kill()
            code = await self._process.wait()
        if self._reading is not None:
            await self._reading
        return code

    async def metrics(self) -> dict[str, float]:
        """Return the numbers of /metrics by their name, with labels as they are written."""
        text = await asyncio.to_thread(_get, f"{self.url}/metrics")
        rows = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in rows}

    async def _read(self, ready: asyncio.Event) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        while line := (await self._process.stderr.readline()).decode(errors="replace"):
            self.log.append(line)
            if any(word in line for word in _TROUBLE):
                self.trouble.append(line.strip())
            if (found := _TALK.search(line)) is not None:
                self.url = found[1]
                ready.set()
        ready.set()


def held_by(pid: int) -> Held:
    """Read what a process holds."""
    status = (_PROC / str(pid) / "status").read_text(encoding="utf-8")
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return Held(
        rss=1024 * int(fields["VmRSS"].split()[0]),
        threads=int(fields["Threads"]),
        fds=len(os.listdir(_PROC / str(pid) / "fd")),
    )


def _engine_of(pid: int) -> int:
    for folder in _PROC.glob("[0-9]*"):
        try:
            parent = re.search(r"^PPid:\s+(\d+)", (folder / "status").read_text(), re.MULTILINE)
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended meanwhile
        if parent is not None and int(parent[1]) == pid and b"spawn_main" in command:
            return int(folder.name)
    raise EngineError("the server must have an engine in a process of its own, found none")


def _get(url: str) -> str:
    request = urllib.request.Request(url, headers={"Connection": "close"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return reply.read().decode()
