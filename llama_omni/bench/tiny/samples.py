"""Sounds to listen to: the question, the source voice, vocoded true units, the model's answer."""

from typing import Any

from llama_omni import audio
from llama_omni.bench.journal import Journal, Row
from llama_omni.bench.tiny.asking import HeldOut, reply_sound
from llama_omni.bench.tiny.hearing import Vocode
from llama_omni.bench.tiny.scores import is_right
from llama_omni.bench.tiny.settings import SPLITS, TinySettings
from llama_omni.errors import OutputError
from llama_omni.interfaces import Audio

FOLDER = "samples"
SOUNDS = ("question", "source", "vocoded", "reply")
LONGEST_S = 30.0


def write_samples(
    settings: TinySettings, held_out: HeldOut, replies: Journal, vocode: Vocode | None
) -> list[dict[str, Any]]:
    """Write FLAC files beside the page, in place of earlier ones; return a row for each question.

    Raises:
        OutputError: they cannot be written.
    """
    folder = settings.output.parent / FOLDER
    stem = settings.output.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"{stem}-*.flac"):
            old.unlink()
    except OSError as error:
        raise OutputError(f"{folder} must be a writable folder, got {error.strerror}") from error
    rows = []
    for number, key in enumerate(_chosen(settings, held_out, replies), start=1):
        example, row = held_out[key], replies[key]
        sounds: dict[str, Audio | None] = {
            "question": example.audio,
            "source": example.answer_audio,
            "reply": reply_sound(settings.work, row),
        }
        if vocode is not None and example.units is not None:
            sounds["vocoded"] = vocode(example.units.tolist())
        files = {}
        for name in SOUNDS:
            sound = sounds.get(name)
            if sound is not None and len(sound):
                file = folder / f"{stem}-{number}-{name}.flac"
                audio.save(file, sound[: int(LONGEST_S * audio.SAMPLE_RATE)], audio.SAMPLE_RATE)
                files[name] = f"{FOLDER}/{file.name}"
        shown = {name: row[name] for name in ("split", "voice", "intent", "question", "reply")}
        rows.append(shown | {"key": key, "files": files})
    return rows


def _chosen(settings: TinySettings, held_out: HeldOut, replies: Journal) -> list[str]:
    """Return the first right answers, of as many intents and voices as can be, split by split.

    Where nothing is right, wrong ones: there is something to hear then, too.
    """
    chosen: list[str] = []
    used: set[str] = set()
    for right in (True, False):
        places = [split for _ in range(settings.samples) for split in SPLITS]
        for split in places:
            if len(chosen) == settings.samples:
                return chosen
            fits = [
                key
                for key in held_out.of(split)
                if key not in chosen and is_right(replies[key], settings.rules) == right
            ]
            fresh = [key for key in fits if not _marks(replies[key]) & used]
            if fits and not fresh:  # every voice or intent has had its turn
                used.clear()
            for key in (fresh or fits)[:1]:
                chosen.append(key)
                used |= _marks(replies[key])
    return chosen


def _marks(row: Row) -> set[str]:
    return {f"intent {row['intent']}", f"voice {row['voice']}"}
