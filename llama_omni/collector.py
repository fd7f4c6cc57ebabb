"""Python's cycle collector, kept away from what stays for as long as the process lives."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def here_to_stay() -> Iterator[None]:
    """Import and load without the cycle collector, and never have it look through the result.

    torch and Transformers are a million objects. The collector would walk them a dozen times while
    they are made, then at each full round between two steps of an engine, and once more at exit:
    about a third of what a short command takes.

    What is in use when the first such block of a process ends is left alone for ever; garbage made
    of cycles by then stays too, so a later block only pauses the collector.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        if not gc.get_freeze_count():
            gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
