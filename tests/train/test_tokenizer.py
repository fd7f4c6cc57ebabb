from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from llama_omni.errors import ConfigError, InputError
from llama_omni.interfaces import Turn
from llama_omni.model.presets import preset
from llama_omni.model.tokenizer import load_tokenizer
from llama_omni.prompt import encode_prompt, prompt_template
from llama_omni.train.tokenizer import train_tokenizer

TEXTS = [f"what is {a} plus {b}" for a in ("one", "two", "Paris") for b in ("ten", "12", "four")]


def test_tokenizer_gives_text_back_byte_for_byte(tmp_path):
    train_tokenizer(TEXTS, tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    for text in (*TEXTS, "Zürich, 東京 and 1234!", "  two  spaces\n", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tokenizer_has_the_special_tokens_of_the_preset(tmp_path):
    tokenizer = train_tokenizer(TEXTS, tmp_path)
    llm = preset("tiny").llm
    assert len(tokenizer.inner) == llm.vocab_size
    assert tokenizer.bos_token_id == llm.bos_token_id == tokenizer.encode("a")[0]
    assert tokenizer.inner.pad_token_id == llm.pad_token_id
    ids = tokenizer.inner.convert_tokens_to_ids(["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"])
    assert ids == llm.eos_token_id


def test_killed_tokenizer_leaves_nothing_in_its_folder(tmp_path, monkeypatch):
    def killed(self, folder):
        (Path(folder) / "tokenizer.json").write_text("{")
        raise KeyboardInterrupt

    folder = tmp_path / "tokenizer"
    with monkeypatch.context() as patched:
        patched.setattr(PreTrainedTokenizerFast, "save_pretrained", killed)
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer(TEXTS, folder)
    assert not folder.exists()
    train_tokenizer(TEXTS, folder)
    with pytest.raises(InputError, match="tokenizer must be a new or empty folder"):
        train_tokenizer(TEXTS, folder)


def test_prompt_costs_one_token_for_each_role_and_mark(tmp_path):
    tokenizer = train_tokenizer(TEXTS, tmp_path)
    ids = encode_prompt(
        [Turn(role="user", text="one")],
        tokenizer.encode,
        prompt_template("compact"),
        bos_token_id=tokenizer.bos_token_id,
    )
    assert len(ids) == 1 + 3 + 1 + 1 + 3


def test_same_texts_give_the_same_file(tmp_path):
    for name in ("a", "b"):
        train_tokenizer(TEXTS * 50, tmp_path / name)
    first, second = (tmp_path / name / "tokenizer.json" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_tokenizer_keeps_digits_apart(tmp_path):
    tokenizer = train_tokenizer(["in 1969 it was 1969"] * 20, tmp_path)
    assert len(tokenizer.encode("1969")) == 1 + 4


def test_big_vocabulary_has_llama3_places(tmp_path):
    tokenizer = train_tokenizer(TEXTS, tmp_path, num_tokens=512, vocab_size=768)
    assert tokenizer.inner.convert_tokens_to_ids("<|eot_id|>") == 512 + 9


def test_no_texts_are_refused(tmp_path):
    with pytest.raises(InputError, match="at least one text"):
        train_tokenizer([], tmp_path)


@pytest.mark.parametrize(("num_tokens", "vocab_size"), [(100, 1024), (1000, 1002)])
def test_sizes_without_room_are_refused(tmp_path, num_tokens, vocab_size):
    with pytest.raises(ConfigError, match="must be at least"):
        train_tokenizer(TEXTS, tmp_path, num_tokens=num_tokens, vocab_size=vocab_size)
