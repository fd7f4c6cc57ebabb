"""Give a record its sound: the question in a drawn voice, the answer in one voice for all.

What is drawn for a record depends on its id and the recipe's seed alone.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from llama_omni import audio
from llama_omni.backends.tts_common import some_of
from llama_omni.data.filters import check_texts
from llama_omni.data.flac import encode_flac, seconds_of
from llama_omni.data.items import Item
from llama_omni.data.recipe import BuildRecipe, without_place
from llama_omni.data.schema import HistoryRow, Row, Sound
from llama_omni.errors import AudioError, ConfigError, InputError, ToolError
from llama_omni.files import write_bytes
from llama_omni.interfaces import Audio, Synthesizer, Voice

_PROBE = "Hello."  # what a voice that works can say
_LONGEST_FILE_S = 3_600.0

OpenSynthesizer = Callable[[str], Synthesizer]


def synthesizer_spec(voice: str, given: str | None) -> str:
    """Return what to open for a voice: what the recipe says, or the program in its name.

    A VITS model is opened once for all of its speakers.
    """
    if given:
        return given
    program = voice.partition(":")[0]
    return voice.partition("#")[0] if program == "vits" else program


def spoken_key(voice: str, text: str, speed: float, pitch: float) -> str:
    """Return a name for one utterance, equal where the sound is."""
    return hashlib.sha256(json.dumps([voice, text, speed, pitch]).encode()).hexdigest()


class Speaker:
    """Speaks records, in one process.

    Args:
        recipe: Whose voices speak.
        open_synthesizer: Opens them by name, when first needed.
        shared: Folder of utterances that all processes share.
        repeated: Keys of those that more than one record wants.
        recorded: Finds the file of a sound that a source has.
    """

    def __init__(
        self,
        recipe: BuildRecipe,
        open_synthesizer: OpenSynthesizer,
        shared: Path,
        repeated: frozenset[str],
        recorded: Callable[[str], Path] = Path,
    ) -> None:
        self.recipe = recipe
        self._open, self._opened = open_synthesizer, dict[str, Synthesizer]()
        self._shared, self._repeated, self._recorded = shared, repeated, recorded

    def speak(self, item: Item) -> Row:
        """Return the row of a record, without units unless the source has some.

        Raises:
            Unspeakable: with the reason, where this record cannot be spoken.
            ToolError: a voice fails whatever it is to say.
        """
        record, voices = item.record, self.recipe.voices
        reason = check_texts(item, self.recipe)
        if reason:
            raise Unspeakable("filter", reason)
        pool = voices.pool(record.split)
        voice = record.voice or pool.draw(record.id, seed=self.recipe.seed)
        speed = self._drawn("speed", record.id, voices.speeds)
        pitch = self._drawn("pitch", record.id, voices.pitches)

        def ask(text: str, file: str | None, name: str) -> Sound:
            return self._sound(text, file, name, voice, voices.question_synthesizer, speed, pitch)

        history = []
        sounds = item.history_sounds or (None,) * len(record.history)
        for i, (turn, file) in enumerate(zip(record.history, sounds, strict=True)):
            given = voices.history or file is not None
            heard = ask(turn.question, file, f"{record.id}-{i}") if given else None
            history.append(
                HistoryRow(question=turn.question, answer=turn.answer, question_audio=heard)
            )
        question = ask(record.question, item.question_sound, f"{record.id}-question")
        assert record.answer is not None, "check_texts wants an answer"
        recorded = item.answer_sound is not None
        answer, answer_voice = None, "recorded" if recorded else voices.answer
        if recorded or (voices.answer is not None and item.units is None):
            answer = self._sound(
                record.answer,
                item.answer_sound,
                f"{record.id}-answer",
                voices.answer or "",
                voices.answer_synthesizer,
                1.0,
                1.0,
            )
        return Row(
            id=record.id,
            split=record.split,
            source=record.source,
            intent=record.intent,
            question=record.question,
            question_audio=question,
            question_voice=without_place(voice) if item.question_sound is None else "recorded",
            question_s=seconds_of(question.bytes),
            answer=record.answer,
            answer_audio=answer,
            answer_voice=None if answer is None else without_place(answer_voice or ""),
            answer_s=None if answer is None else seconds_of(answer.bytes),
            units=None if item.units is None else list(item.units),
            history=tuple(history),
        )

    def close(self) -> None:
        """Close the synthesizers."""
        for synthesizer in self._opened.values():
            synthesizer.close()
        self._opened.clear()

    def _drawn(self, what: str, record_id: str, span: tuple[float, float]) -> float:
        low, high = span
        return round(low + (high - low) * self.recipe.draw(record_id, what), 3)

    def _sound(
        self,
        text: str,
        file: str | None,
        name: str,
        voice: str,
        spec: str | None,
        speed: float,
        pitch: float,
    ) -> Sound:
        """Read, remember or make one utterance."""
        path = f"{name}.flac"
        if file is not None:
            return Sound(bytes=encode_flac(self._load(file, name)), path=path)
        key = spoken_key(voice, text, speed, pitch)
        stored = self._shared / key[:2] / f"{key}.flac" if key in self._repeated else None
        if stored is not None and stored.exists():
            return Sound(bytes=stored.read_bytes(), path=path)
        data = encode_flac(self._say(text, voice, spec, speed, pitch))
        if stored is not None:
            write_bytes(stored, data)
        return Sound(bytes=data, path=path)

    def _load(self, file: str, name: str) -> Audio:
        """Read a recorded sound; of one from within a table the reason names no file."""
        side = name.rpartition("-")[2]
        if not file:
            raise Unspeakable("synthesise", f"the {side}'s sound must be there, got none")
        found = self._recorded(file)
        try:
            samples = audio.load(found, min_s=0.0, max_s=_LONGEST_FILE_S)
            if not len(samples):
                raise AudioError(f"{found} must hold audio, got none")
        except AudioError as error:
            shown = file if str(found) == file else f"the {side}'s sound"
            raise Unspeakable("synthesise", str(error).replace(str(found), shown)) from error
        return samples

    def _say(self, text: str, voice: str, spec: str | None, speed: float, pitch: float) -> Audio:
        opened = synthesizer_spec(voice, spec)
        if opened not in self._opened:
            self._opened[opened] = self._open(opened)
        synthesizer = self._opened[opened]
        for last in (False, True):  # a busy machine or server may fail once
            try:
                return synthesizer.say(text, voice=voice, speed=speed, pitch=pitch)
            except InputError as error:
                raise Unspeakable("synthesise", str(error)) from error
            except ToolError as error:
                if last:  # the text's fault, or the program's? Only the second ends the build
                    synthesizer.say(_PROBE, voice=voice)
                    raise Unspeakable("synthesise", str(error)) from error
        raise AssertionError("the last turn returns or raises")


class Unspeakable(Exception):
    """A record cannot be spoken; caught by the stage, which keeps the reason."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = " ".join(reason.split())[:300]


class KnownVoices:
    """Which voices there are; a program, model or server is opened when one of its is asked for.

    Args:
        recipe: Whose synthesizers have them.
        open_synthesizer: Opens these by name.
    """

    def __init__(self, recipe: BuildRecipe, open_synthesizer: OpenSynthesizer) -> None:
        self._settings, self._open = recipe.voices, open_synthesizer
        self._recorded = tuple(
            map(all, zip(*(one.recorded for one in recipe.sources), strict=True))
        )
        self._there: dict[str, dict[str, Voice]] = {}

    def check_recipe(self) -> dict[str, Voice]:
        """Refuse absent voices before any work; return those that the recipe can draw.

        Nobody needs a voice for what all sources have as recorded sound.

        Raises:
            ToolError: A program or server is absent.
            ConfigError: It has no such voice.
        """
        settings = self._settings
        wanted: dict[str, list[str]] = {}
        asked, answered = self._recorded
        pools = [settings.pool(split) for split in ("", *settings.splits)] if not asked else []
        for voice in (voice for pool in pools for voice in pool.voices):
            spec = synthesizer_spec(voice, settings.question_synthesizer)
            wanted.setdefault(spec, []).append(voice)
        if settings.answer is not None and not answered:
            spec = synthesizer_spec(settings.answer, settings.answer_synthesizer)
            wanted.setdefault(spec, []).append(settings.answer)
        found: dict[str, Voice] = {}
        for spec, names in wanted.items():
            there = self._of(spec)
            missing = sorted(set(names) - set(there))
            if missing:
                raise ConfigError(
                    f"voices must be among those of {spec!r}, it lacks {', '.join(missing)}; it "
                    f"has {some_of(there, like=missing[0])}"
                )
            found |= {name: there[name] for name in names}
        return found

    def check_question(self, name: str) -> None:
        """Refuse a voice that a record asks in, where it is absent.

        Raises:
            ToolError: Its program or server is absent.
            ConfigError: There is none of that name.
        """
        spec = synthesizer_spec(name, self._settings.question_synthesizer)
        there = self._of(spec)
        if name not in there:
            raise ConfigError(
                f"voice must be among those of {spec!r}, got {name!r}; it has "
                f"{some_of(there, like=name)}"
            )

    def _of(self, spec: str) -> dict[str, Voice]:
        if spec not in self._there:
            synthesizer = self._open(spec)
            try:
                self._there[spec] = {voice.name: voice for voice in synthesizer.voices}
            finally:
                synthesizer.close()
        return self._there[spec]
