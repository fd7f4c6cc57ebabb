"""A language model's configuration and its tokeniser: one is made for the other, or refused.

Nothing of either notices the wrong one: ids of other tokens are ids too, and a reply whose closing
token is not among those that stop never ends.
"""

import copy
from pathlib import Path
from typing import Any

from llama_omni.errors import ConfigError
from llama_omni.model.tokenizer import TextTokenizer
from llama_omni.prompt import PromptTemplate

_ENDS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")  # Llama 3's


def for_tokenizer(config: Any, tokenizer: TextTokenizer) -> Any:
    """Return a language model's configuration with a tokeniser's size and special tokens."""
    inner, known = tokenizer.inner, tokenizer.inner.get_vocab()
    ends = {known[token] for token in _ENDS if token in known} | {inner.eos_token_id}
    config = copy.deepcopy(config)
    config.vocab_size = _size(tokenizer)
    config.bos_token_id, config.pad_token_id = tokenizer.bos_token_id, inner.pad_token_id
    config.eos_token_id = sorted(ends - {None})
    return config


def check_fit(
    config: Any, tokenizer: TextTokenizer, template: PromptTemplate, *, folder: Path
) -> None:
    """Refuse a language model that lacks tokens of its tokeniser, or does not stop after a reply.

    Raises:
        ConfigError: it is so; names the folder, of either.
    """
    size = _size(tokenizer)
    if config.vocab_size < size:
        raise ConfigError(
            f"{folder} must have a vocab_size of at least {size}, its tokenizer's, got "
            f"{config.vocab_size}"
        )
    suffix = template.assistant_suffix.strip()
    last, stops = tokenizer.encode(suffix)[-1], config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    if last not in stops:
        raise ConfigError(
            f"{folder} must stop at {suffix}, token {last}, which closes a reply of the "
            f"{template.name} prompt, got eos_token_id {stops}"
        )


def _size(tokenizer: TextTokenizer) -> int:
    return 1 + max(tokenizer.inner.get_vocab().values())
