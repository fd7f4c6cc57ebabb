"""Engines for processes that tests start; named by `Factory`, never imported by their parent."""

import os
import time
from dataclasses import replace


def make(**settings):
    """Make a small engine on real time."""
    import torch

    from tests.engine.batch_tools import make_engine, make_parts

    torch.set_num_threads(1)
    return make_engine(make_parts(), clock=time.monotonic, **settings)


def fragile():
    """Make one whose process dies when it is asked for 13 tokens, and whose seed 13 raises."""
    engine = make()
    ask = engine.prepare

    def prepare(conversation, question, options=None, **more):
        if options is not None and options.max_new_tokens == 13:
            os._exit(3)
        generation = ask(conversation, question, options, **more)
        if options is not None and options.seed == 13:
            job = engine._talks[conversation].job
            job.options = replace(job.options, temperature="hot")
        return generation

    engine.prepare = prepare
    return engine


def hopeless():
    """Refuse to be made."""
    from llama_omni.errors import CheckpointError

    raise CheckpointError("the weights must be there, found none")


def dead():
    """End while loading."""
    os._exit(4)
