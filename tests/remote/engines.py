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


def embedded():
    """Load the embedded model; a question with "slowly" or "badly" in it is answered so."""
    from llama_omni.loading import load_engine

    engine = load_engine()
    ask, step, slow = engine.prepare, engine.step, set()

    def prepare(conversation, question, options=None, **more):
        generation = ask(conversation, question, options, **more)
        text = getattr(question, "text", None) or ""
        slow.discard(conversation)
        if "slowly" in text:
            slow.add(conversation)
        if "badly" in text:  # its third token raises
            job = engine._talks[conversation].job
            take, taken = job.builder.take, []

            def raising(*arguments):
                taken.append(arguments)
                if len(taken) > 2:
                    raise RuntimeError("secret place 42")
                return take(*arguments)

            object.__setattr__(job.builder, "take", raising)
        return generation

    def slow_step():
        if any(job.talk.key in slow for job in engine._jobs):
            time.sleep(0.1)
        return step()

    engine.prepare, engine.step = prepare, slow_step
    return engine


class Parrot:
    """A recogniser that tells how much it heard, and where."""

    def transcribe(self, audio):
        """Refuse nothing, and one sample."""
        from llama_omni.errors import InputError

        if not len(audio):
            raise InputError("there must be a sound, got no sound")
        if len(audio) == 1:
            raise RuntimeError("one sample")
        return f"{len(audio)} samples in {os.getpid()}"
