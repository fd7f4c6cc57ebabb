"""Whisper from a folder: a tiny one of random weights, so what it writes is any words at all."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from llama_omni.backends.asr import open_recognizer
from llama_omni.errors import AudioError, InputError
from llama_omni.interfaces import Recognizer

LETTERS = [chr(code) for code in range(33, 127)]
END, START, ENGLISH, WRITE, TRANSLATE, BEFORE, NO_SPEECH, NO_TIMES = range(94, 102)
SPECIAL = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|transcribe|>",
    "<|translate|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
TIMES = [f"<|{step * 0.02:.2f}|>" for step in range(1501)]  # in a real one's places: the last


def write_whisper(folder, *, multilingual):
    """Write a folder in the layout of openai/whisper-tiny, or of whisper-tiny.en."""
    vocabulary = {text: place for place, text in enumerate([*LETTERS, *SPECIAL, *TIMES])}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": [*SPECIAL[1:]]})
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    known = {"eos_token_id": END, "pad_token_id": END, "bos_token_id": END}
    config = WhisperConfig(
        vocab_size=len(vocabulary),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        decoder_start_token_id=START,
        suppress_tokens=[],
        begin_suppress_tokens=[],
        **known,
    )
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():  # it would rather write letters than times or marks
        model.model.decoder.layer_norm.bias.fill_(1.0)
        model.model.decoder.embed_tokens.weight[: len(LETTERS)] += 0.5
    many = {
        "lang_to_id": {"<|en|>": ENGLISH},
        "task_to_id": {"transcribe": WRITE, "translate": TRANSLATE},
    }
    model.generation_config = GenerationConfig(
        decoder_start_token_id=START,
        no_timestamps_token_id=NO_TIMES,
        prev_sot_token_id=BEFORE,
        max_initial_timestamp_index=50,
        max_length=24,
        is_multilingual=multilingual,
        return_timestamps=False,
        **known,
        **(many if multilingual else {}),
    )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[True, False], ids=["multilingual", "english"])
def whisper(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    write_whisper(folder, multilingual=request.param)
    return open_recognizer(f"whisper:{folder}", device="cpu")


def noise(seconds):
    return (0.1 * np.random.default_rng(0).normal(size=seconds * 16_000)).astype(np.float32)


@pytest.mark.parametrize("seconds", [1, 40], ids=["one window", "long"])
def test_sound_of_any_length_becomes_text_without_marks(whisper, seconds):
    assert isinstance(whisper, Recognizer)
    heard = whisper.transcribe(noise(seconds))
    assert heard
    assert "<|" not in heard
    assert whisper.transcribe(noise(seconds)) == heard


def test_no_sound_is_no_words_and_stereo_is_refused(whisper):
    assert whisper.transcribe(np.zeros(0, np.float32)) == ""
    with pytest.raises(AudioError, match="mono"):
        whisper.transcribe(np.zeros((2, 1600), np.float32))


def test_a_folder_that_is_no_whisper_is_refused(tmp_path):
    with pytest.raises(InputError, match="must be a Whisper model"):
        open_recognizer(f"whisper:{tmp_path}")
    with pytest.raises(InputError, match="must be a Whisper model"):
        open_recognizer(f"whisper:{tmp_path / 'nothing'}")
    whole = write_whisper(tmp_path / "other", multilingual=True)
    config = whole / "config.json"
    config.write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(InputError, match="must be a Whisper model"):
        open_recognizer(f"whisper:{whole}")


def test_an_old_folder_without_generation_settings_says_what_it_lacks(tmp_path):
    folder = write_whisper(tmp_path, multilingual=True)
    (folder / "generation_config.json").unlink()
    with pytest.raises(InputError, match=r"generation_config\.json .* of a newer copy"):
        open_recognizer(f"whisper:{folder}")
