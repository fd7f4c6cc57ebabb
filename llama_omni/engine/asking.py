"""What becomes of a question before any work: checked, worded as a prompt, and measured."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace

from llama_omni import audio
from llama_omni.engine.admission import Need
from llama_omni.engine.listening import speech_positions
from llama_omni.engine.phases import Phases
from llama_omni.engine.reply import ReplyBuilder
from llama_omni.engine.step import Stepper
from llama_omni.engine.talk import Job, Talk
from llama_omni.errors import CapacityError
from llama_omni.interfaces import Audio, ReplyOptions, Turn
from llama_omni.model.tokenizer import TextTokenizer
from llama_omni.model.vocoder import UnitVocoder
from llama_omni.prompt import SPEECH_TOKEN, encode_prompt, prompt_template


class Asking:
    """Makes jobs of questions.

    Args:
        stepper: says how long a conversation may get.
        tokenizer: the LLM's.
        vocoder: speaks the model's units.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        stepper: Stepper,
        tokenizer: TextTokenizer,
        vocoder: UnitVocoder,
        clock: Callable[[], float],
    ) -> None:
        self._stepper, self._tokenizer, self._vocoder = stepper, tokenizer, vocoder
        self._model, self._clock = stepper.model, clock
        self._template = prompt_template(self._model.config.prompt)
        self._arrivals = 0

    def checked(self, turn: Audio | Turn) -> Turn:
        """Return a turn that the model can take.

        Raises:
            AudioError: the sound cannot be used; the message says why.
        """
        turn = turn if isinstance(turn, Turn) else Turn(role="user", audio=turn)
        if turn.audio is None:
            return turn
        least = self._model.config.adapter.stack / audio.ENCODER_RATE
        limit = self._model.config.window_s
        return replace(turn, audio=audio.check(turn.audio, min_s=least, max_s=limit))

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """Word turns as a prompt.

        Raises:
            InputError: they are no conversation that can be answered.
        """
        return encode_prompt(
            turns,
            self._tokenizer.encode,
            self._template,
            bos_token_id=self._tokenizer.bos_token_id,
        )

    def fitting(self, talk: Talk, turns: list[Turn], options: ReplyOptions) -> list[Turn]:
        """Leave out the oldest exchanges of a history with which no reply would fit.

        The system's turn and the last question always stay. What is left out stays out, and no more
        than half of the room is filled then, so that the cache of the prompt's beginning is of use
        again for the next turns. The history itself is not touched.

        Source:
            The Realtime API's `truncation: "auto"`.
        """
        begins = [number for number, turn in enumerate(turns) if turn.role == "user"]
        system = [turn for turn in turns[:1] if turn.role == "system"]

        def without(count: int) -> list[Turn]:
            return turns if not count else [*system, *turns[begins[count] :]]

        most = max(len(begins) - 1, 0)
        talk.forgotten = min(talk.forgotten, most)
        limit = self._stepper.llm_cache.max_tokens
        room = min(options.max_new_tokens, limit // 4)
        if self._positions(without(talk.forgotten)) + room > limit:
            counts = range(talk.forgotten, most)  # each leaves fewer positions than the last
            talk.forgotten += bisect_left(
                counts, True, key=lambda count: self._positions(without(count)) <= limit // 2
            )
        return without(talk.forgotten)

    def job(
        self,
        talk: Talk,
        generation: int,
        options: ReplyOptions,
        turns: Sequence[Turn],
        prompt: list[int],
    ) -> Job:
        """Begin a reply's bookkeeping; nothing is on the device yet."""
        self._arrivals += 1
        phases = Phases(self._model.device, self._clock)
        builder = ReplyBuilder(
            options,
            vocoder=self._vocoder,
            decode=self._tokenizer.decode,
            stop_ids=self._model.config.stop_token_ids,
            clock=self._clock,
            started=self._clock(),
            phases=phases,
        )
        return Job(
            key=self._arrivals,
            talk=talk,
            generation=generation,
            options=options,
            builder=builder,
            phases=phases,
            prompt=prompt,
            sounds=talk.digests(turns),
        )

    def need(self, job: Job) -> Need:
        """Say what a reply takes at its longest.

        Raises:
            CapacityError: its prompt leaves no room for a reply.
        """
        positions = self._count(job.prompt, [turn for _, turn in job.sounds])
        limit = self._stepper.llm_cache.max_tokens
        if positions >= limit:
            raise CapacityError(
                f"a conversation must fit {limit} positions, got {positions} before the reply; "
                "start a new one or drop early turns"
            )
        tokens = min(job.options.max_new_tokens, limit - positions + 1)
        speech = min(tokens, self._stepper.speech_cache.max_tokens) if job.options.speech else 0
        return Need(llm_tokens=min(positions + tokens, limit), speech_tokens=speech)

    def _positions(self, turns: Sequence[Turn]) -> int:
        return self._count(self.prompt(turns), turns)

    def _count(self, prompt: Sequence[int], turns: Sequence[Turn]) -> int:
        """Count the positions of a prompt with the speech that its turns hold."""
        sizes = [len(turn.audio) for turn in turns if turn.audio is not None]
        speech = sum(speech_positions(self._model, samples) for samples in sizes)
        return len(prompt) - prompt.count(SPEECH_TOKEN) + speech
