"""VITS in the published layout, with random weights: a folder of config, vocabulary and tensors."""

import json
import shutil

import numpy as np
import pytest
import torch

from llama_omni.backends.tts import open_synthesizer
from llama_omni.errors import ConfigError, InputError, ToolError
from llama_omni.interfaces import Synthesizer
from tests.vits_tools import write_vits

SENTENCE = "What is the capital of France?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_vits(tmp_path_factory.mktemp("vits"))


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    return write_vits(tmp_path_factory.mktemp("crowd"), num_speakers=4, speaker_embedding_size=8)


def test_folder_in_the_published_layout_speaks(folder):
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer_config.json",
        "vocab.json",
    }
    synthesizer = open_synthesizer(f"vits:{folder}")
    assert isinstance(synthesizer, Synthesizer)
    (voice,) = synthesizer.voices
    assert (voice.name, voice.sample_rate, voice.licence) == (f"vits:{folder}", 22_050, "unknown")
    sound = synthesizer.say(SENTENCE, voice=voice.name)
    assert sound.dtype == np.float32
    assert len(sound) > 1_600
    assert 0 < np.abs(sound).max() <= 1
    synthesizer.close()


def test_noise_depends_on_seed_and_text_alone(folder):
    name = f"vits:{folder}"
    first = open_synthesizer(name).say(SENTENCE, voice=name)
    synthesizer = open_synthesizer(name)
    state = torch.get_rng_state()
    synthesizer.say("something else", voice=name)
    np.testing.assert_array_equal(synthesizer.say(SENTENCE, voice=name), first)
    assert torch.equal(torch.get_rng_state(), state)
    other = open_synthesizer(name, seed=1).say(SENTENCE, voice=name)
    assert len(other) != len(first) or not np.array_equal(other, first)


def test_speed_changes_the_length(folder):
    synthesizer, name = open_synthesizer(f"vits:{folder}"), f"vits:{folder}"
    slow, fast = (len(synthesizer.say(SENTENCE, voice=name, speed=s)) for s in (0.5, 2.0))
    assert slow > 1.5 * fast


def test_every_speaker_has_a_voice_of_its_own(crowd):
    synthesizer = open_synthesizer(f"vits:{crowd}")
    names = [voice.name for voice in synthesizer.voices]
    assert names == [f"vits:{crowd}#{number}" for number in range(4)]
    sounds = [synthesizer.say(SENTENCE, voice=name) for name in names]
    assert len({sound.tobytes() for sound in sounds}) == 4
    alone = open_synthesizer(f"vits:{crowd}#3")
    assert [voice.name for voice in alone.voices] == names[3:]
    np.testing.assert_array_equal(alone.say(SENTENCE, voice=names[3]), sounds[3])


def test_rate_of_the_config_is_brought_to_ours(tmp_path):
    lengths = []
    for rate in (16_000, 32_000):
        name = f"vits:{write_vits(tmp_path / str(rate), sampling_rate=rate)}"
        lengths.append(len(open_synthesizer(name).say(SENTENCE, voice=name)))
    assert lengths[0] == pytest.approx(2 * lengths[1], abs=1_600)


def test_licence_is_read_from_the_card(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "README.md").write_text("---\ntags: [a]\nlicense: cc-by-nc-4.0\n---\nHello\n", "utf-8")
    assert open_synthesizer(f"vits:{copy}").voices[0].licence == "cc-by-nc-4.0"


@pytest.mark.parametrize("text", ["What is 7 plus 3?", "What is \u03c0?"])
def test_word_that_the_vocabulary_would_drop_is_refused(folder, text):
    with pytest.raises(InputError, match=r"must be written in the letters of .*spell it out"):
        open_synthesizer(f"vits:{folder}").say(text, voice=f"vits:{folder}")


def test_phonemes_without_a_phonemizer_say_what_to_install(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    settings = json.loads((copy / "tokenizer_config.json").read_text("utf-8"))
    (copy / "tokenizer_config.json").write_text(json.dumps(settings | {"phonemize": True}), "utf-8")
    synthesizer = open_synthesizer(f"vits:{copy}")
    try:
        import phonemizer  # noqa: F401
    except ImportError:
        with pytest.raises(ToolError, match="pip install phonemizer"):
            synthesizer.say(SENTENCE, voice=f"vits:{copy}")


def test_folder_without_some_weights_is_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folder, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if not name.startswith("flow.")}
    save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ToolError, match=r"must hold every weight, missing \d+, such as flow"):
        open_synthesizer(f"vits:{copy}")


def test_training_weights_may_be_left_out(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folder, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if "posterior_encoder" not in name}
    assert len(kept) < len(tensors)
    save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
    assert len(open_synthesizer(f"vits:{copy}").say(SENTENCE, voice=f"vits:{copy}")) > 1_600


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.json"])
def test_damaged_folder_is_refused(folder, tmp_path, name):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / name).write_bytes(b"no")
    with pytest.raises(ToolError, match="must be a folder or a hub id of a VITS model"):
        open_synthesizer(f"vits:{copy}")
    (copy / name).unlink()
    with pytest.raises(ToolError, match="must"):
        open_synthesizer(f"vits:{copy}")


def test_unknown_id_is_refused_without_a_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ToolError, match="vits:nobody/nothing must be a folder or a hub id"):
        open_synthesizer("vits:nobody/nothing")


@pytest.mark.parametrize(
    ("end", "error", "message"),
    [
        ("#9", InputError, r"must have speakers 0 to 3, got #9"),
        ("#three", ConfigError, "must be written as #NUMBER"),
    ],
)
def test_impossible_speaker_is_refused(crowd, end, error, message):
    with pytest.raises(error, match=message):
        open_synthesizer(f"vits:{crowd}{end}")


def test_empty_name_is_refused():
    with pytest.raises(ConfigError, match="voice program must be one of"):
        open_synthesizer("vits:")
