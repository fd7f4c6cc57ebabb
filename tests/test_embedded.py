"""The model inside the package: whole, small, and right about the world it was trained on."""

import json
from shutil import which

import numpy as np
import pytest
from safetensors import safe_open

import llama_omni
from llama_omni import Turn
from llama_omni.data import domain
from llama_omni.loading import EMBEDDED

EXAMPLE = EMBEDDED.parents[2] / "examples" / "question.wav"


@pytest.fixture(scope="module")
def assistant():
    return llama_omni.load()


def right(assistant, records):
    """Count the records whose written question gets its answer."""
    return sum(
        domain.accepts(
            record.answer,
            assistant.reply(Turn(role="user", text=record.question), speech=False).text,
        )
        for record in records
    )


def test_files_are_small_and_half_precision():
    files = [path for path in EMBEDDED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 30_000_000
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert len(weights) == 2
    for path in weights:
        with safe_open(path, "np") as tensors:
            kinds = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}
        assert kinds == {"F16"}
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pth", ".pkl")]


def test_units_can_be_made_again():
    features = json.loads((EMBEDDED / "features.json").read_text())
    centres = np.load(EMBEDDED / "kmeans.npy")
    config = json.loads((EMBEDDED / "config.json").read_text())
    assert len(centres) == config["speech_decoder"]["num_units"]
    assert features


def test_example_is_answered_in_text_and_speech(assistant):
    reply = assistant.reply(EXAMPLE)
    assert domain.accepts("The capital of France is Paris.", reply.text)
    assert reply.finish_reason == "stop"
    assert 0.8 < reply.duration_s < 5
    assert np.abs(reply.audio).max() > 0.05
    assert reply.units


def test_sound_does_not_depend_on_the_chunks_in_which_it_leaves(assistant):
    whole, pieces = (assistant.reply(EXAMPLE, chunk_size=size) for size in (None, 10))
    assert whole.text == pieces.text
    assert whole.units == pieces.units
    assert len(whole.audio) == len(pieces.audio)


def test_follow_up_needs_the_turn_before(assistant):
    chat = assistant.conversation()
    chat.reply(EXAMPLE, speech=False)
    reply = chat.reply(Turn(role="user", text="And of Spain?"), speech=False)
    chat.close()
    assert domain.accepts("The capital of Spain is Madrid.", reply.text)


def test_written_questions_are_answered(assistant):
    records = [
        record
        for record in domain.tiny_records(11, 120, split="test_seen")
        if record.intent in domain.GATE_INTENTS
    ]
    assert right(assistant, records) >= 0.85 * len(records)


def test_what_is_outside_its_world_is_refused(assistant):
    records = list(domain.tiny_records(11, 20, split="outside"))
    assert right(assistant, records) >= 18


@pytest.mark.skipif(which("flite") is None, reason="needs flite")
def test_spoken_questions_are_answered(assistant):
    from llama_omni.backends.tts import open_synthesizer

    voice = open_synthesizer("flite")
    asked = (
        ("What is seven plus five?", "Seven plus five is twelve."),
        ("Which day comes after Monday?", "Tuesday comes after Monday."),
        ("What is the opposite of hot?", "The opposite of hot is cold."),
        ("What is the capital of Italy?", "The capital of Italy is Rome."),
        ("How many legs does a spider have?", "A spider has eight legs."),
        ("What sound does a dog make?", "A dog barks."),
    )
    replies = [
        assistant.reply(voice.say(question, voice="flite:rms"), speech=False).text
        for question, _ in asked
    ]
    voice.close()
    right = [
        domain.accepts(answer, reply) for (_, answer), reply in zip(asked, replies, strict=True)
    ]
    assert sum(right) >= 4, replies
