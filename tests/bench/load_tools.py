"""Rows and clients of a load whose numbers are known by hand."""

from llama_omni.bench.serve.numbers import summarise
from llama_omni.bench.serve.turns import Turn

TURNS = [
    Turn(
        client=0, outcome="answered", stopped_s=0.5, first_audio_s=0.6, last_audio_s=1.5,
        pieces=3, late=0, sound_s=2.0,
    ),
    Turn(
        client=1, outcome="answered", stopped_s=0.5, first_audio_s=0.8, last_audio_s=4.5,
        pieces=4, late=2, stall_s=0.25, sound_s=2.0, early=1,
    ),
    Turn(client=1, outcome="refused", detail="overloaded"),
    Turn(client=2, outcome="unanswered", detail="no answer in time", stopped_s=0.5),
    Turn(client=3, outcome="silent", stopped_s=0.5),
]  # fmt: skip


def row(clients, *, speculation, late_share=0.0, first_audio_s=0.1):
    """One row of a sweep, with these numbers and others that do not matter."""
    return {
        **summarise(TURNS[:1], wall_s=4.0),
        "clients": clients,
        "speculation": speculation,
        "late_share": late_share,
        "first_audio_after_turn_s": {"p50": 0.05, "p95": first_audio_s},
        "client_lag_s": {"p50": 0.001, "p95": 0.002},
        "speculated": {
            "begun": 4, "used": 3, "dropped": 1, "left_out": 0, "abandoned": 1,
            "unheard_tokens": 5, "tokens": 50, "hit_rate": 0.75, "wasted_share": 0.1,
        },
    }  # fmt: skip


class FakeBench:
    """Is full from some number of clients on; dies at a cell if asked to."""

    def __init__(self, *, full_on=99, full_off=99, dies_at=None):
        self.full, self.dies_at, self.asked = {True: full_on, False: full_off}, dies_at, []

    async def cell(self, clients, *, speculate):
        self.asked.append((clients, speculate))
        if len(self.asked) == self.dies_at:
            raise KeyboardInterrupt
        late = 0.5 if clients >= self.full[speculate] else 0.0
        return row(clients, speculation=speculate, late_share=late)
