from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from llama_omni.errors import ConfigError
from llama_omni.model.presets import preset
from llama_omni.model.tokenizer import TextTokenizer, random_tokenizer
from llama_omni.prompt import prompt_template
from llama_omni.train.llm_tokens import check_fit, for_tokenizer

FOLDER = Path("folder")


def test_configuration_of_a_preset_is_the_one_for_its_own_tokenizer():
    config = preset("tiny").llm
    tokenizer = random_tokenizer(preset("tiny"))
    assert for_tokenizer(config, tokenizer).to_dict() == config.to_dict()
    check_fit(config, tokenizer, prompt_template("compact"), folder=FOLDER)


def test_room_for_more_tokens_is_no_fault():
    tokenizer = random_tokenizer(preset("tiny"))
    config = preset("tiny").llm
    config.vocab_size = 2048
    check_fit(config, tokenizer, prompt_template("compact"), folder=FOLDER)


def test_tokenizer_without_the_token_that_closes_a_reply_is_refused():
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate("<|>_abdeiot")}, merges=[]))
    tokenizer = TextTokenizer(PreTrainedTokenizerFast(tokenizer_object=inner))
    config = for_tokenizer(preset("tiny").llm, tokenizer)
    assert config.eos_token_id == []
    with pytest.raises(ConfigError, match=r"folder must stop at <\|eot_id\|>, .*, got .* \[\]"):
        check_fit(config, tokenizer, prompt_template("compact"), folder=FOLDER)
