"""Chance that depends on a record's id and the recipe's seed alone, whoever draws, and when."""

import hashlib


def drawn(what: str, record_id: str, *, seed: int) -> float:
    """Return a number from 0 to 1 for one decision about a record, the same each time."""
    digest = hashlib.sha256(f"{what}\0{seed}\0{record_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
