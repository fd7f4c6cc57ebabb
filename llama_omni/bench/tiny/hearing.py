"""What an outside recogniser hears: in the source voice, in vocoded true units, in the replies.

Three columns for the same texts tell where speech is lost: what the recogniser misses in the
source voice is its own, what it misses more in vocoded units is the units' and the vocoder's, and
what it misses more in replies is the speech decoder's.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from llama_omni.backends.ngram import NgramModel
from llama_omni.bench.journal import Journal
from llama_omni.bench.tiny.asking import HeldOut, reply_sound
from llama_omni.bench.tiny.progress import watched
from llama_omni.bench.tiny.settings import SPLITS, TinySettings
from llama_omni.data.dataset import SpeechDataset
from llama_omni.interfaces import Audio, Recognizer
from llama_omni.metrics import spoken_words

COLUMNS = ("source", "vocoded", "reply")
GENERIC, DOMAIN = "generic", "domain"
Vocode = Callable[[list[int]], Audio]  # units to sound at 16 kHz


def domain_language_model(data: Path, work: Path) -> Path:
    """Write a bigram model of the answers that the model was trained on; return its file."""
    rows = SpeechDataset(data, "train", columns=())
    texts = [rows[index].answer for index in range(len(rows))]
    name = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]
    file = work / f"answers-{name}.lm"
    if not file.exists():
        work.mkdir(parents=True, exist_ok=True)
        NgramModel(texts).save(file)
    return file


def hear_all(
    settings: TinySettings,
    held_out: HeldOut,
    replies: Journal,
    recognizers: Mapping[str, Recognizer],
    vocode: Vocode | None,
) -> Journal:
    """Recognise what was not yet: each reply, and where it has the right words the other columns.

    Args:
        settings: how many questions of each split are heard.
        held_out: the questions.
        replies: their replies.
        recognizers: by the name of their language model.
        vocode: None leaves the vocoded column out.
    """
    journal = Journal(settings.work / "heard.jsonl")
    keys = [key for split in SPLITS for key in held_out.of(split)[: settings.heard]]
    jobs = [
        key
        for key in keys
        if any(heard_key(name, "reply", key) not in journal for name in recognizers)
    ]
    for key in watched(jobs, "hearing"):
        sounds: dict[str, Audio | None] = {"reply": reply_sound(settings.work, replies[key])}
        example = held_out[key]
        if same_words(replies[key]["reply"], example.answer):
            sounds["source"] = example.answer_audio
            if vocode is not None and example.units is not None:
                sounds["vocoded"] = vocode(example.units.tolist())
        for name, recognizer in recognizers.items():
            for column in COLUMNS:  # the reply last: its row says that all are there
                if column not in sounds:
                    continue
                sound, place = sounds[column], heard_key(name, column, key)
                if sound is None and column != "reply":
                    continue
                if place not in journal:
                    text = "" if sound is None else recognizer.transcribe(np.asarray(sound))
                    journal.add(place, {"text": text})
    return journal


def heard_key(name: str, column: str, key: str) -> str:
    """Return the key of one transcript."""
    return f"{name}/{column}/{key}"


def same_words(text: str, other: str) -> bool:
    """Tell whether two texts are said alike."""
    return spoken_words(text) == spoken_words(other)
