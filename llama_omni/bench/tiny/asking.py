"""Ask every held-out question aloud, once, and keep what came back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_omni import audio
from llama_omni.bench.journal import Journal, Row
from llama_omni.bench.tiny.progress import watched
from llama_omni.bench.tiny.settings import OUTSIDE, SPLITS, TinySettings
from llama_omni.data.dataset import Example, SpeechDataset
from llama_omni.errors import InputError
from llama_omni.interfaces import Assistant, Audio, Reply, Turn

SOUNDS = (".wav", ".flac", ".ogg", ".mp3")
REAL = "real"  # the "split" of recordings from a folder


class HeldOut:
    """The questions of all splits by key, read from the data set when they are asked for.

    Raises:
        InputError: the data set lacks a split.
    """

    def __init__(self, settings: TinySettings) -> None:
        self._where: dict[str, tuple[SpeechDataset, int]] = {}
        for split in (*SPLITS, OUTSIDE):
            rows = SpeechDataset(settings.data, split)
            for index in range(len(rows))[: settings.limit]:
                self._where[f"{split}/{rows.ids[index]}"] = rows, index

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, key: str) -> Example:
        rows, index = self._where[key]
        return rows[index]

    def of(self, split: str) -> list[str]:
        """Return the keys of one split, in its order."""
        return [key for key in self._where if key.startswith(f"{split}/")]


def ask_all(settings: TinySettings, assistant: Assistant, held_out: HeldOut) -> Journal:
    """Answer what has no answer yet; sounds go to `sound_file`, everything else to the journal."""
    journal = Journal(settings.work / "replies.jsonl")
    for key in watched([key for key in held_out if key not in journal], "answering"):
        example = held_out[key]
        reply = _ask(assistant, example, settings.max_new_tokens)
        row = {
            "split": key.partition("/")[0],
            "intent": example.intent,
            "voice": example.voice,
            "question": example.question,
            "answer": example.answer,
            "turns_before": len(example.history),
        }
        _keep(journal, settings.work, key, row, reply)
    return journal


def ask_real(settings: TinySettings, assistant: Assistant, folder: Path) -> list[Row]:
    """Answer every recording in a folder; return the rows in the order of their names.

    Raises:
        InputError: the folder holds no recordings.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in SOUNDS)
    if not files:
        raise InputError(f"{folder} must hold recordings ({', '.join(SOUNDS)}), found none")
    journal = Journal(settings.work / "real.jsonl")
    for file in watched([file for file in files if _real_key(file) not in journal], "real voices"):
        question = audio.load(file)
        row = {"file": file.name, "question_s": len(question) / audio.SAMPLE_RATE}
        reply = assistant.reply(question, max_new_tokens=settings.max_new_tokens)
        _keep(journal, settings.work, _real_key(file), row, reply)
    return [journal[_real_key(file)] for file in files]


def sound_file(work: Path, key: str) -> Path:
    """Return where the sound of a reply lies; there is none for a reply without sound."""
    return work / "sound" / f"{key}.flac"


def reply_sound(work: Path, row: Row) -> Audio | None:
    """Read the sound of a reply at 16 kHz; None if it has none."""
    if not row["sound_s"]:
        return None
    return audio.load(sound_file(work, row["key"]), min_s=0.0, max_s=float("inf"))


def _real_key(file: Path) -> str:
    return f"{REAL}/{file.name}"


def _ask(assistant: Assistant, example: Example, max_new_tokens: int) -> Reply:
    """Ask in a conversation of its own, in which the earlier questions are answered first."""
    conversation = assistant.conversation()
    try:
        for turn in example.history:
            conversation.reply(
                Turn(role="user", text=turn.question) if turn.audio is None else turn.audio,
                speech=False,
                max_new_tokens=max_new_tokens,
            )
        return conversation.reply(example.audio, max_new_tokens=max_new_tokens)
    finally:
        conversation.close()


def _keep(journal: Journal, work: Path, key: str, row: dict[str, Any], reply: Reply) -> None:
    if len(reply.audio):  # before its row: a row promises its sound
        file = sound_file(work, key)
        file.parent.mkdir(parents=True, exist_ok=True)
        audio.save(file, reply.audio, reply.sample_rate)
    journal.add(
        key,
        row
        | {
            "reply": reply.text,
            "units": list(reply.units),
            "finish_reason": reply.finish_reason,
            "sound_s": reply.duration_s,
            "first_audio_s": reply.timings.first_audio_s,
            "real_time_factor": reply.real_time_factor,
        },
    )
