"""The text side's tokeniser: a model folder's own, or a stand-in for random weights."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llama_omni.errors import CheckpointError
from llama_omni.model.config import OmniConfig

# Ids of Llama 3's special tokens relative to <|begin_of_text|>; a vocabulary with less room behind
# it than Llama 3's 256 places packs them.
_LLAMA3 = {
    "<|begin_of_text|>": 0,
    "<|end_of_text|>": 1,
    "<|finetune_right_pad_id|>": 4,
    "<|start_header_id|>": 6,
    "<|end_header_id|>": 7,
    "<|eom_id|>": 8,
    "<|eot_id|>": 9,
}
_SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]  # 70


class TextTokenizer:
    """What the engine needs of a tokeniser: `encode`, `decode`, and its begin-of-text token."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.inner: Any = tokenizer
        self.bos_token_id: int | None = self.inner.bos_token_id

    def encode(self, text: str) -> list[int]:
        """Return ids with whatever the tokeniser adds by itself."""
        return self.inner(text)["input_ids"]

    def decode(self, ids: list[int]) -> str:
        """Return text without special tokens, byte for byte."""
        return self.inner.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def load_tokenizer(folder: Path) -> TextTokenizer:
    """Read the tokeniser of a model folder.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        raise CheckpointError(f"{folder} must hold tokenizer.json, found none")
    try:
        return TextTokenizer(AutoTokenizer.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}: the tokenizer cannot be read: {error}") from error


def random_tokenizer(config: OmniConfig) -> TextTokenizer:
    """Make a tokeniser for random weights: bytes, Llama 3's special tokens, and made-up words.

    Every id decodes to something, so that a random reply has words to count.
    """
    bos, size = config.llm.bos_token_id, config.llm.vocab_size
    special = special_tokens(bos, size)
    taken = set(special.values())
    vocabulary = dict(special)
    alphabet = iter(sorted(pre_tokenizers.ByteLevel.alphabet()))
    for token in (i for i in range(size) if i not in taken):
        vocabulary[next(alphabet, None) or f"Ġ{_word(token)}"] = token
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    return llama3_tokenizer(tokenizer, special)


def special_tokens(bos: int, size: int) -> dict[str, int]:
    """Return Llama 3's special tokens and their ids, for a vocabulary of this size."""
    offsets = _LLAMA3 if size - bos >= 256 else {name: i for i, name in enumerate(_LLAMA3)}
    return {name: bos + offset for name, offset in offsets.items()}


def llama3_tokenizer(tokenizer: Tokenizer, special: dict[str, int]) -> TextTokenizer:
    """Make byte-level BPE behave as Llama 3's: its special tokens, and begin-of-text first."""
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore
    tokenizer.add_special_tokens(list(special))
    begin = "<|begin_of_text|>"
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore
        single=f"{begin} $A", special_tokens=[(begin, special[begin])]
    )
    return TextTokenizer(
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            bos_token=begin,
            eos_token="<|eot_id|>",
            pad_token="<|finetune_right_pad_id|>",
        )
    )


def _word(number: int) -> str:
    word = ""
    while number or not word:
        number, syllable = divmod(number, len(_SYLLABLES))
        word += _SYLLABLES[syllable]
    return word
