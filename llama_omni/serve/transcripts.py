"""What was said, written down beside the reply by a recogniser."""

from llama_omni.audio import SAMPLE_RATE
from llama_omni.serve.actions import Transcribe
from llama_omni.serve.conversation import Conversation
from llama_omni.serve.items import Item
from llama_omni.serve.limits import ModelFacts
from llama_omni.serve.outbox import Outbox
from llama_omni.serve.session_config import SessionConfig

_KIND = "conversation.item.input_audio_transcription"


class Transcripts:
    """Knows of which items a transcript is owed; each ends in completed or failed, once."""

    def __init__(self, outbox: Outbox, conversation: Conversation, model: ModelFacts) -> None:
        self._out, self._conversation, self._model = outbox, conversation, model
        self._owed: set[str] = set()

    def begin(self, item: Item, config: SessionConfig) -> None:
        """Ask for an item's transcript, where the client wants it."""
        audio = item.parts[0].audio
        if config.transcription is None or audio is None:
            return
        self._owed.add(item.id)
        if not self._model.recognizer:
            self.fail(item.id, "this server has no recogniser", code="no_recognizer")
            return
        language = config.transcription.get("language")
        self._out.add(Transcribe(item_id=item.id, audio=audio, language=language))

    def take(self, item_id: str, text: str, *, final: bool) -> None:
        """Tell the next piece, or the whole."""
        item = self._conversation.items.get(item_id)
        if item_id not in self._owed:
            return
        if item is None:  # deleted since
            self._owed.discard(item_id)
            return
        if not final:
            self._out.send(f"{_KIND}.delta", item_id=item_id, content_index=0, delta=text)
            return
        self._owed.discard(item_id)
        item.parts[0].text = text
        usage = {"type": "duration", "seconds": item.audio_samples / SAMPLE_RATE}
        named = {"item_id": item_id, "content_index": 0}
        self._out.send(f"{_KIND}.completed", **named, transcript=text, usage=usage)

    def fail(self, item_id: str, message: str, *, code: str = "transcription_failed") -> None:
        """Tell that there will be none."""
        if item_id not in self._owed:
            return
        self._owed.discard(item_id)
        error = {"type": "transcription_error", "code": code, "message": message, "param": None}
        self._out.send(f"{_KIND}.failed", item_id=item_id, content_index=0, error=error)
