"""A byte-level BPE from texts, in the layout and with the special tokens of Llama 3.

For those who have no language model to start from: `train_tokenizer` learns words of the corpus
and puts Llama 3's special tokens where the model's configuration expects them. Any text can be
encoded and comes back byte for byte.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from llama_omni.errors import ConfigError, InputError
from llama_omni.model.tokenizer import TextTokenizer, llama3_tokenizer, special_tokens
from llama_omni.train.checkpoints import write_folder

_ROLES = ("user", "assistant", "system")  # in every prompt: a token each


def train_tokenizer(
    texts: Iterable[str], output: Path, *, num_tokens: int = 1000, vocab_size: int = 1024
) -> TextTokenizer:
    """Learn a tokenizer and write it to a folder; the same texts give the same files.

    Args:
        texts: The corpus: questions and answers as the model will see them.
        output: New or empty folder, which gets tokenizer.json and tokenizer_config.json at once.
        num_tokens: Ordinary tokens, 256 of them bytes; <|begin_of_text|> comes after them.
        vocab_size: All tokens; those behind the special ones are reserved.

    Raises:
        ConfigError: The sizes leave no room.
        InputError: There are no texts, or the folder holds files.
        OutputError: The folder cannot be written.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} must be a new or empty folder, got one with files in it")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = special_tokens(num_tokens, vocab_size)
    if num_tokens < len(alphabet):
        raise ConfigError(f"num_tokens must be at least {len(alphabet)}, got {num_tokens}")
    if vocab_size <= max(special.values()):
        raise ConfigError(
            f"vocab_size must be at least {max(special.values()) + 1} to hold the special tokens, "
            f"got {vocab_size}"
        )
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = _pre_tokenizer()  # pyright: ignore
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens, initial_alphabet=alphabet, show_progress=False, special_tokens=[]
    )
    learner.train_from_iterator(_corpus(texts), trainer=trainer)
    learnt = json.loads(learner.to_str())["model"]
    vocabulary = learnt["vocab"] | special
    taken = set(vocabulary.values())
    for place, token in enumerate(i for i in range(vocab_size) if i not in taken):
        vocabulary[f"<|reserved_special_token_{place}|>"] = token
    merges = [tuple(pair) for pair in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = _pre_tokenizer()  # pyright: ignore
    made = llama3_tokenizer(tokenizer, special)
    write_folder(output, lambda folder: made.inner.save_pretrained(str(folder)))
    return made


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Words with the space before them, digits one by one, as bytes."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )


def _corpus(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts, then the words for roles often enough that each becomes a token."""
    count = 0
    for text in texts:
        count += 1
        yield text
    if not count:
        raise InputError("texts must hold at least one text to learn a tokenizer from, got none")
    for role in _ROLES:
        yield from [role] * max(count, 100)
