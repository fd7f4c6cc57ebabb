"""What a Transformers module calls the cache it is given."""

import inspect
from functools import cache

from torch import nn

NAMES = ("cache", "past_key_values")  # Transformers' from 5.24 on, and before; newest first


def cache_argument(module: nn.Module) -> str:
    """Return the keyword under which `module.forward` takes its key-value cache.

    Transformers 5.24 renamed it, model by model, and warns at every call by the old name until
    that goes; a model of somebody else's may keep the old one. So the signature is asked.
    """
    return _argument_of(type(module))


@cache
def _argument_of(kind: type[nn.Module]) -> str:
    named = inspect.signature(kind.forward).parameters
    return next((name for name in NAMES if name in named), NAMES[-1])
