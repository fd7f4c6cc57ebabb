"""What is said: from the turn detector's events to items, responses and unseen preparations."""

import numpy as np

from llama_omni.audio import SAMPLE_RATE
from llama_omni.interfaces import Audio
from llama_omni.serve.actions import Abandon, Prepare, ReplyRequest
from llama_omni.serve.conversation import Conversation
from llama_omni.serve.errors import ProtocolError
from llama_omni.serve.items import Item, Part
from llama_omni.serve.limits import ModelFacts, SessionLimits
from llama_omni.serve.outbox import Outbox
from llama_omni.serve.requests import build_request
from llama_omni.serve.responses import Responses
from llama_omni.serve.session_config import SessionConfig
from llama_omni.serve.transcripts import Transcripts
from llama_omni.serve.turn_events import (
    ShortPause,
    SpeechResumed,
    SpeechStarted,
    SpeechStopped,
    TimedOut,
)

Spoken = SpeechStarted | ShortPause | SpeechResumed | SpeechStopped | TimedOut


class Speaking:
    """Knows which turn is being spoken, and the reply that is prepared for it."""

    def __init__(
        self,
        outbox: Outbox,
        conversation: Conversation,
        responses: Responses,
        transcripts: Transcripts,
        model: ModelFacts,
    ) -> None:
        self._out, self._conversation, self._responses = outbox, conversation, responses
        self._transcripts, self._model = transcripts, model
        self._item_id: str | None = None  # of the turn that is being spoken
        self._prepared: tuple[int, ReplyRequest] | None = None

    def take(self, event: Spoken, config: SessionConfig, *, draining: bool) -> None:
        """Take what the detector reports; nothing where detection was turned off since."""
        if config.turn_detection is None:
            return
        match event:
            case SpeechStarted():
                self._start(event, config)
            case ShortPause():
                if not draining:
                    self._prepare(event.segment, config)
            case SpeechResumed():
                self.drop()
            case SpeechStopped():
                item_id = self._reserved()
                self._out.send(
                    "input_audio_buffer.speech_stopped",
                    audio_end_ms=event.audio_end_ms,
                    item_id=item_id,
                )
                self._end(item_id, event.segment, config, draining=draining)
            case TimedOut():
                item_id = self._reserved()
                self._out.send(
                    "input_audio_buffer.timeout_triggered",
                    audio_start_ms=event.audio_start_ms,
                    audio_end_ms=event.audio_end_ms,
                    item_id=item_id,
                )
                self._end(item_id, event.segment, config, draining=draining)

    def commit(self, segment: Audio, config: SessionConfig, limits: SessionLimits) -> None:
        """Make an item of a segment, as a client asked; it is answered when the client asks.

        Raises:
            ProtocolError: there is next to nothing to commit.
        """
        heard_s = len(segment) / SAMPLE_RATE
        if heard_s < limits.min_turn_s:
            raise ProtocolError(
                f"the input buffer must hold at least {limits.min_turn_s:g} s to be committed, "
                f"got {heard_s:.3f} s",
                code="input_audio_buffer_commit_empty",
            )
        self.drop()
        item = self._conversation.commit(self._reserved(), segment)
        self._item_id = None
        self._transcripts.begin(item, config)

    def drop(self) -> None:
        """Give up what was prepared."""
        if self._prepared is not None:
            self._out.add(Abandon(generation=self._prepared[0]))
            self._prepared = None

    def clear(self) -> None:
        """Forget the turn that is being spoken."""
        self.drop()
        self._item_id = None

    def _reserved(self) -> str:
        """The name that this turn's item has had since `speech_started`."""
        if self._item_id is None:
            self._item_id = self._out.ids.new("item")
        return self._item_id

    def _start(self, event: SpeechStarted, config: SessionConfig) -> None:
        self.drop()
        self._out.send(
            "input_audio_buffer.speech_started",
            audio_start_ms=event.audio_start_ms,
            item_id=self._reserved(),
        )
        if config.interrupts:
            self._responses.interrupt()

    def _prepare(self, segment: Audio, config: SessionConfig) -> None:
        """Begin the reply that will be wanted if this pause is the end."""
        self.drop()
        wanted = config.creates and self._model.speculate and self._responses.current is None
        if not wanted:
            return
        question = Item(id=self._reserved(), parts=[Part(kind="input_audio", audio=segment)])
        request = build_request([*self._conversation.items, question], config, self._model)
        self._prepared = (self._responses.next_generation(), request)
        self._out.add(Prepare(generation=self._prepared[0], request=request))

    def _end(self, item_id: str, segment: Audio, config: SessionConfig, *, draining: bool) -> None:
        item = self._conversation.commit(item_id, segment)
        self._item_id = None
        self._transcripts.begin(item, config)
        if not config.creates or draining:
            self.drop()
            return
        try:
            self._responses.check_room(out_of_band=False)
            request = build_request(self._conversation.items, config, self._model)
        except ProtocolError as error:
            self.drop()
            self._out.refuse(error)
            return
        prepared = self._fitting(request)
        if prepared is None:
            self.drop()
        self._prepared = None
        self._responses.start(request, config, prepared=prepared)

    def _fitting(self, request: ReplyRequest) -> int | None:
        """The generation of what was prepared, if it asks the same to the sample."""
        if self._prepared is None:
            return None
        generation, early = self._prepared
        asked, said = early.turns[-1].audio, request.turns[-1].audio
        same = asked is not None and said is not None and np.array_equal(asked, said)
        return generation if same and early.key == request.key else None
