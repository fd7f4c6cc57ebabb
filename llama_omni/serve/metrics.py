"""What the server counts and times, for Prometheus; in a registry of its own."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from llama_omni.interfaces import AsyncAssistant, AudioDelta, ReplyDone, ReplyEvent, ReplyFailed

LATENCIES_S = (
    *(0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3),
    *(0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0),
)
MARGINS_S = (-2.0, -1.0, -0.5, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
LAGS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
LAG_EVERY_S = 0.1
PHASES = ("mel", "encode", "adapt", "prefill", "decode", "vocode")

# Of an engine that tells its numbers: what is held now, and what was counted since it began.
_HELD = ("conversations", "waiting", "reading", "speaking", "batch", "cache_bytes", "cache_limit")
_COUNTED = ("steps", "replies", "cancelled", "abandoned", "failed", "refused", "evicted", "tokens")
_COUNTED += ("unheard_tokens", "reused_positions", "read_positions")


class ServeMetrics:
    """All instruments. One for each server, so that several can live in one process."""

    def __init__(
        self, engine: AsyncAssistant, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.clock = clock
        registry = self._registry = CollectorRegistry()
        name = "llama_omni_"
        self.sessions = Gauge(f"{name}sessions_open", "Open sessions.", registry=registry)
        self.sessions_total = Counter(f"{name}sessions", "Sessions begun.", registry=registry)
        self.refused = Counter(
            f"{name}connections_refused", "Connections refused.", ["reason"], registry=registry
        )
        self.closed = Counter(
            f"{name}sessions_closed", "Sessions ended, by code.", ["code"], registry=registry
        )
        self.responses = Counter(
            f"{name}responses", "Responses ended, by status.", ["status"], registry=registry
        )
        self.errors = Counter(
            f"{name}errors", "Error events sent, by code.", ["code"], registry=registry
        )
        self.recordings = Counter(
            f"{name}recordings",
            "Sessions recorded: whole, partial.",
            ["outcome"],
            registry=registry,
        )
        self.speculation = Counter(
            f"{name}speculation",
            "Replies prepared at a pause: begun, used, dropped, left out.",
            ["outcome"],
            registry=registry,
        )
        self.first_audio = Histogram(
            f"{name}first_audio_seconds",
            "From the end of a turn, or response.create, to the first sound.",
            ["prepared"],
            buckets=LATENCIES_S,
            registry=registry,
        )
        self.endpoint = Histogram(
            f"{name}endpoint_seconds",
            "From the last sound of a voice to the end of its turn.",
            buckets=LATENCIES_S,
            registry=registry,
        )
        self.phases = Histogram(
            f"{name}reply_phase_seconds",
            "Work on one reply, by phase.",
            ["phase"],
            buckets=LATENCIES_S,
            registry=registry,
        )
        self.margin = Histogram(
            f"{name}playback_margin_seconds",
            "Sound ahead of playback when a later piece came; below 0 it came late.",
            buckets=MARGINS_S,
            registry=registry,
        )
        self.lag = Histogram(
            f"{name}event_loop_lag_seconds",
            "How late the event loop wakes who sleeps; while it is late, every session waits.",
            buckets=LAGS_S,
            registry=registry,
        )
        tasks = Gauge(f"{name}tasks", "Of the event loop that asks.", registry=registry)
        tasks.set_function(_tasks)
        ready = Gauge(f"{name}engine_ready", "Whether the engine can answer.", registry=registry)
        ready.set_function(lambda: float(engine.ready))
        restarts = Gauge(f"{name}engine_restarts", "Of its process.", registry=registry)
        restarts.set_function(lambda: float(getattr(engine, "restarts", 0)))
        for field in (*_HELD, *_COUNTED):
            about = "now" if field in _HELD else "since the engine began"
            gauge = Gauge(f"{name}engine_{field}", f"{field}, {about}.", registry=registry)
            gauge.set_function(lambda field=field: _number(engine, field))

    async def watch_lag(self) -> None:
        """Measure the event loop's lag, ten times a second, for ever."""
        while True:
            due = self.clock() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self.lag.observe(max(0.0, self.clock() - due))

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)


class ReplyWatch:
    """Times one reply, from its start to the end of its sound."""

    def __init__(self, metrics: ServeMetrics, *, prepared: bool) -> None:
        self._metrics, self._prepared = metrics, prepared
        self._began = metrics.clock()
        self._first: float | None = None  # when the first sound came
        self._sound_s = 0.0

    def note(self, event: ReplyEvent | ReplyFailed | Any) -> None:
        """Take an event of the reply."""
        if isinstance(event, AudioDelta) and len(event.audio):
            now = self._metrics.clock()
            if self._first is None:
                self._first = now
                shown = "yes" if self._prepared else "no"
                self._metrics.first_audio.labels(shown).observe(now - self._began)
            else:
                self._metrics.margin.observe(self._sound_s - (now - self._first))
            self._sound_s += len(event.audio) / event.sample_rate
        elif isinstance(event, ReplyDone):
            for phase in PHASES:
                spent = getattr(event.reply.timings, f"{phase}_s")
                self._metrics.phases.labels(phase).observe(spent)


def _tasks() -> float:
    try:
        return float(len(asyncio.all_tasks()))
    except RuntimeError:  # asked from outside the event loop
        return 0.0


def _number(engine: AsyncAssistant, field: str) -> float:
    return float(getattr(getattr(engine, "numbers", None), field, 0))
