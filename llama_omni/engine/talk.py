"""What the engine knows of one conversation, and of one reply in the making."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from torch import Tensor

from llama_omni.engine.context import Context, SpokenTurn
from llama_omni.engine.phases import Phases
from llama_omni.engine.reply import ReplyBuilder
from llama_omni.engine.schedule import Playback
from llama_omni.engine.step import Row
from llama_omni.history import KEPT_RECORDS, History
from llama_omni.interfaces import ReplyOptions, Turn


class Stage(Enum):
    """How far a reply has come."""

    WAITING = "waiting"  # for room
    READING = "reading"  # its question is heard, its prompt read
    SPEAKING = "speaking"  # it gets tokens
    ENDING = "ending"  # all tokens are there; its last sound is due
    DONE = "done"


@dataclass(kw_only=True, slots=True, eq=False)
class Job:
    """One reply in the making."""

    key: int  # order of arrival
    talk: "Talk"
    generation: int
    options: ReplyOptions
    builder: ReplyBuilder
    phases: Phases
    prompt: list[int]  # token ids, with SPEECH_TOKEN once for each of `sounds`
    sounds: list[tuple[str, Turn]]  # digest and spoken turn
    stage: Stage = Stage.WAITING
    committed: bool = False
    begun: bool = False  # its prompt is being read
    hidden: Tensor | None = None  # (1, D) the prompt's last state, until the first token
    speech_slot: int | None = None
    playback: Playback = field(default_factory=Playback)
    served: int = 0  # step of its last token

    @property
    def row(self) -> Row:
        """Where its caches are and how its next token is chosen."""
        assert self.talk.context is not None
        return Row(
            llm_slot=self.talk.context.slot,
            speech_slot=self.speech_slot,
            position=len(self.builder.tokens),
            temperature=self.options.temperature,
            top_p=self.options.top_p,
            seed=self.options.seed,
        )

    def unheard(self) -> list[tuple[str, Turn]]:
        """Return the spoken turns that have no embeddings yet."""
        return [item for item in self.sounds if item[0] not in self.talk.spoken]


@dataclass(kw_only=True, slots=True, eq=False)
class Talk:
    """One conversation."""

    key: int
    history: History
    context: Context | None = None  # its LLM slot, while memory allows
    spoken: dict[str, SpokenTurn] = field(default_factory=dict)  # by digest
    job: Job | None = None
    forgotten: int = 0  # exchanges of the history's beginning that prompts leave out
    used: int = 0  # when it last had a reply; the one used longest ago is evicted first
    starts: dict[int, int] = field(default_factory=dict)  # where each reply's tokens begin
    _digests: list[tuple[Turn, str]] = field(default_factory=list)

    def digests(self, turns: Sequence[Turn]) -> list[tuple[str, Turn]]:
        """Name the spoken ones among turns by their sound; forget what others left behind."""
        known = {id(turn): digest for turn, digest in self._digests}
        found: list[tuple[str, Turn]] = []
        for turn in turns:
            if turn.audio is not None:
                digest = known.get(id(turn)) or hashlib.sha256(turn.audio.tobytes()).hexdigest()
                found.append((digest, turn))
        self._digests = [(turn, digest) for digest, turn in found]
        names = {digest for digest, _ in found}
        self.spoken = {name: turn for name, turn in self.spoken.items() if name in names}
        return found

    def note_start(self, generation: int, position: int) -> None:
        """Remember where a reply's tokens begin."""
        self.starts[generation] = position
        while len(self.starts) > KEPT_RECORDS:
            del self.starts[next(iter(self.starts))]

    def evict(self) -> None:
        """Give the LLM slot up; the next reply reads the whole history again."""
        if self.context is not None:
            self.context.close()
            self.context = None
