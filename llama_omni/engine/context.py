"""What an LLM slot has read, so that the next turn of a conversation reads only what is new."""

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from llama_omni.engine.step import Stepper
from llama_omni.errors import CapacityError
from llama_omni.interfaces import Audio
from llama_omni.model.omni import SPEECH_TOKEN


@dataclass(frozen=True, slots=True, eq=False)
class SpokenTurn:
    """Speech embeddings of one turn and a name for the sound they stand for."""

    embeddings: Float[Tensor, "P D"]
    digest: str

    @classmethod
    def of(cls, sound: Audio, embeddings: Float[Tensor, "P D"]) -> "SpokenTurn":
        """Name the embeddings by their sound, which is on the host already."""
        return cls(embeddings, hashlib.sha256(sound.tobytes()).hexdigest())


class Context:
    """One conversation's LLM slot, with a record of what every position holds.

    Args:
        stepper: whose slot this takes; `close` gives it back.
    """

    def __init__(self, stepper: Stepper) -> None:
        self._stepper = stepper
        self._held: list[Hashable] = []
        self._wanted: list[Hashable] = []  # of the prompt that is being read
        self._sources: list[int | Tensor] = []  # one a position of it: a token id or an embedding
        with stepper.lock:
            self.slot = stepper.llm_cache.allocate()
        self.reused = 0  # positions of the last prompt that were already there

    @property
    def room(self) -> int:
        """Positions left."""
        return self._stepper.llm_cache.max_tokens - len(self._held)

    @property
    def length(self) -> int:
        """Positions read."""
        return len(self._held)

    @property
    def unread(self) -> int:
        """Positions of the prompt that `advance` has still to read."""
        return max(0, len(self._wanted) - len(self._held))

    def read(self, prompt: Sequence[int], speech: Sequence[SpokenTurn]) -> Float[Tensor, "1 D"]:
        """Read a prompt, reusing the longest prefix that the slot already holds.

        Args:
            prompt: token ids with SPEECH_TOKEN once for each spoken turn.
            speech: the spoken turns in order.

        Returns:
            (1, D) the state of the prompt's last position, which predicts the reply's first token.

        Raises:
            CapacityError: prompt and one token of reply are more than the model's positions.
        """
        self.begin(prompt, speech)
        hidden = self.advance(self.unread)
        assert hidden is not None, "a prompt has a last position"
        return hidden

    def begin(self, prompt: Sequence[int], speech: Sequence[SpokenTurn]) -> None:
        """Drop what a prompt does not begin with; `advance` reads the rest. See `read`."""
        turns = iter(speech)
        wanted: list[Hashable] = []
        sources: list[int | Tensor] = []
        for token in prompt:
            if token == SPEECH_TOKEN:
                turn = next(turns)
                wanted += [(turn.digest, index) for index in range(len(turn.embeddings))]
                sources += list(turn.embeddings)
            else:
                wanted.append(token)
                sources.append(token)
        limit = self._stepper.llm_cache.max_tokens
        if len(wanted) >= limit:
            raise CapacityError(
                f"a conversation must fit {limit} positions, got {len(wanted)} before the reply; "
                "start a new one or drop early turns"
            )
        self.reused = _common_prefix(self._held, wanted[:-1])  # the last one's state is needed
        self.cut(self.reused)
        self._wanted, self._sources = wanted, sources

    def advance(self, positions: int) -> Float[Tensor, "1 D"] | None:
        """Read up to so many more positions of the prompt; the last one's state, once it is."""
        start = len(self._held)
        end = min(start + positions, len(self._wanted))
        hidden = self._stepper.prefill(self.slot, self._embed(self._sources[start:end]))
        self._held += self._wanted[start:end]
        if end < len(self._wanted):
            return None
        self._wanted, self._sources = [], []
        return hidden

    def cut(self, positions: int) -> None:
        """Forget all but the first positions."""
        self._stepper.llm_cache.truncate(self.slot, positions)
        self._held = self._held[:positions]

    def holds(self, tokens: Sequence[int], start: int) -> bool:
        """Tell whether these tokens were read from position `start` on."""
        return self._held[start : start + len(tokens)] == list(tokens)

    def note(self, token: int) -> None:
        """Record a reply token that a step has fed to the slot."""
        self._held.append(token)

    def close(self) -> None:
        """Give the slot back."""
        with self._stepper.lock:
            self._stepper.llm_cache.free(self.slot)

    @torch.inference_mode()
    def _embed(self, sources: Sequence[int | Tensor]) -> Float[Tensor, "P D"]:
        model = self._stepper.model
        ids = torch.tensor(
            [item if isinstance(item, int) else 0 for item in sources], device=model.device
        )
        embedded = model.get_input_embeddings()(ids)  # (P, D)
        speech = [i for i, item in enumerate(sources) if not isinstance(item, int)]
        if speech:
            rows = torch.stack([item for item in sources if isinstance(item, Tensor)])
            embedded[torch.tensor(speech, device=model.device)] = rows.to(embedded)
        return embedded


def _common_prefix(left: Sequence[Hashable], right: Sequence[Hashable]) -> int:
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count
