"""N upward until the device is full, each N kept as soon as it is measured."""

import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llama_omni.bench.journal import Journal
from llama_omni.bench.serve.cells import Bench
from llama_omni.bench.serve.numbers import Row, saturated
from llama_omni.bench.serve.settings import LoadSettings
from llama_omni.errors import InputError

logger = logging.getLogger(__name__)

_ABOUT = "about"  # the row that says what the others were measured with


def open_journal(path: Path, about: dict[str, Any]) -> Journal:
    """Open what a stopped run has left, or begin anew.

    Args:
        path: of the file.
        about: settings and subject; a run goes on only with the same.

    Raises:
        InputError: the file is of other settings.
    """
    journal = Journal(path)
    if _ABOUT not in journal:
        journal.add(_ABOUT, {"with": about})
    elif journal[_ABOUT]["with"] != about:
        raise InputError(
            f"{path} must be of a run with the same settings, got another's; delete it to begin "
            "again, or repeat its command to go on"
        )
    return journal


async def sweep(bench: Bench, settings: LoadSettings, journal: Journal) -> list[Row]:
    """Measure what is not in the journal yet; return all rows in the order of measurement.

    With and without speculation take turns in going first. Each stops at the first N at which the
    device is saturated.
    """
    rows: list[Row] = []
    full: set[bool] = set()
    for clients, speculate in _order(settings):
        if speculate in full:
            continue
        key = f"{clients} clients, speculation {'on' if speculate else 'off'}"
        if key not in journal:
            logger.info("measuring clients=%d speculation=%s", clients, speculate)
            row = await bench.cell(clients, speculate=speculate)
            row["saturated"] = saturated(row, settings)
            journal.add(key, {"clients": clients, "speculation": speculate, **row})
        row = {name: value for name, value in journal[key].items() if name != "key"}
        logger.info("measured %s", told(row))
        rows.append(row)
        if row["saturated"]:
            full.add(speculate)
    return rows


def about(settings: LoadSettings, subject: dict[str, Any]) -> dict[str, Any]:
    """Return what must be the same for a run to go on, as JSON holds it."""
    plain = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(settings).items()
    }
    return {"settings": plain, "subject": subject}


def told(row: Row) -> str:
    """Say a row in a line of the log."""
    first, late = row["first_audio_after_turn_s"], row["late_share"]
    return (
        f"clients={row['clients']} speculation={row['speculation']} "
        f"answered={row['answered']}/{row['turns']} "
        f"first_audio_p95_s={first and round(first['p95'], 3)} "
        f"late_share={late and round(late, 4)} saturated={row['saturated'] or 'no'}"
    )


def _order(settings: LoadSettings) -> Iterator[tuple[int, bool]]:
    for place, clients in enumerate(settings.clients):
        modes = settings.speculation if place % 2 == 0 else settings.speculation[::-1]
        for speculate in modes:
            yield clients, speculate
