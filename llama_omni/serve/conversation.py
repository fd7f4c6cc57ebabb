"""The conversation as a client sees it: what may be put in, taken out and cut, and its events."""

from llama_omni.audio import SAMPLE_RATE
from llama_omni.interfaces import Audio
from llama_omni.serve.actions import TruncateReply
from llama_omni.serve.errors import ProtocolError
from llama_omni.serve.formats import AudioFormat, from_model_rate
from llama_omni.serve.items import Item, ItemList, Part
from llama_omni.serve.limits import SessionLimits
from llama_omni.serve.outbox import Outbox
from llama_omni.serve.protocol import ItemTruncate

_ROOT = "root"  # as previous_item_id: the very beginning


class Conversation:
    """The items, each change of which is told to the client."""

    def __init__(self, outbox: Outbox, limits: SessionLimits) -> None:
        self._out, self._limits = outbox, limits
        self.id = outbox.ids.new("conv")
        self.items = ItemList()

    def find(self, item_id: str, param: str = "item_id") -> Item:
        """Return an item.

        Raises:
            ProtocolError: there is none of that name.
        """
        item = self.items.get(item_id)
        if item is None:
            raise ProtocolError(
                f"{param} must name an item of the conversation, got {item_id!r}",
                code="item_not_found",
                param=param,
            )
        return item

    def create(self, item: Item, previous: str | None) -> None:
        """Put in what a client made.

        Raises:
            ProtocolError: its name is taken, the item before it is not there, or all is full.
        """
        if item.id in self.items or item.id == _ROOT:
            raise ProtocolError(
                f"item.id must be new, got {item.id!r}", code="item_exists", param="item.id"
            )
        after = self.items.last_id
        if previous == _ROOT:
            after = None
        elif previous is not None:
            after = self.find(previous, "previous_item_id").id
        if len(self.items) >= self._limits.max_items:
            raise ProtocolError(
                f"a conversation must have at most {self._limits.max_items} items; delete some",
                code="conversation_full",
                param="item",
            )
        if item.audio_samples and self._samples_left(item) < 0:
            raise ProtocolError(
                f"a conversation must hold at most {self._limits.max_audio_s:g} s of sound; "
                "delete some items",
                code="conversation_full",
                param="item",
            )
        before = self.items.insert(item, after)
        self._tell("added", item, before)
        self._tell("done", item, before)

    def commit(self, item_id: str, segment: Audio) -> Item:
        """Put in what was said; the oldest items make room."""
        item = Item(id=item_id, parts=[Part(kind="input_audio", audio=segment)])
        self._make_room(item)
        before = self.items.append(item)
        self._out.send("input_audio_buffer.committed", previous_item_id=before, item_id=item.id)
        self._tell("added", item, before)
        self._tell("done", item, before)
        return item

    def show(self, item: Item, after: str | None) -> None:
        """Put in an item that is being answered, or tell that it is done."""
        if item.status == "in_progress":
            self._make_room(item)
            self._tell("added", item, self.items.insert(item, after))
        else:
            self._tell("done", item, self.items.previous_id(item))

    def retrieve(self, item_id: str, sound: AudioFormat) -> None:
        """Send an item with a user's sound."""

        def encode(samples: Audio) -> str:
            return sound.encode(from_model_rate(samples, sound.sample_rate))

        self._out.send("conversation.item.retrieved", item=self.find(item_id).event(encode))

    def delete(self, item_id: str) -> None:
        """Take an item out."""
        item = self.find(item_id)
        if item.status == "in_progress":
            raise ProtocolError(
                f"item_id must name an item that is done, got {item_id!r}, which is being "
                "answered; send response.cancel first",
                code="item_in_progress",
                param="item_id",
            )
        self._remove(item)

    def check_truncate(self, event: ItemTruncate) -> Item:
        """Return the answer to be cut.

        Raises:
            ProtocolError: it is no spoken answer, or has less sound.
        """
        item = self.find(event["item_id"])
        if item.role != "assistant" or item.record is None or item.parts[0].kind != "output_audio":
            raise ProtocolError(
                f"item_id must name a spoken answer, got {item.id!r}",
                code="invalid_value",
                param="item_id",
            )
        if event["content_index"] != 0:
            raise ProtocolError(
                f"content_index must be 0, got {event['content_index']}",
                code="invalid_value",
                param="content_index",
            )
        longest = -(-1000 * item.num_samples // item.reply_rate)
        if event["audio_end_ms"] > longest:
            raise ProtocolError(
                f"audio_end_ms must be at most {longest}, the sound there is, "
                f"got {event['audio_end_ms']}",
                code="invalid_value",
                param="audio_end_ms",
            )
        return item

    def truncate(self, item: Item, end_ms: int) -> None:
        """Keep of a spoken answer what was heard: words and sound."""
        assert item.record is not None
        assert item.generation is not None
        samples = min(item.num_samples, end_ms * item.reply_rate // 1000)
        item.num_samples = item.heard = samples
        heard = item.record.answer(samples)
        item.parts[0].text = "" if heard is None else heard.text
        item.revision += 1
        self._out.add(
            TruncateReply(
                generation=item.generation,
                item_id=item.id,
                content_index=0,
                audio_end_ms=end_ms,
                samples=samples,
            )
        )
        self._out.send(
            "conversation.item.truncated", item_id=item.id, content_index=0, audio_end_ms=end_ms
        )

    def _tell(self, what: str, item: Item, before: str | None) -> None:
        self._out.send(f"conversation.item.{what}", previous_item_id=before, item=item.event())

    def _samples_left(self, item: Item) -> float:
        used = self.items.audio_samples + item.audio_samples
        return self._limits.max_audio_s * SAMPLE_RATE - used

    def _make_room(self, item: Item) -> None:
        """Forget the oldest items, and say so, until there is room for one more."""
        while (len(self.items) >= self._limits.max_items or self._samples_left(item) < 0) and (
            old := self.items.oldest()
        ) is not None:
            self._remove(old)

    def _remove(self, item: Item) -> None:
        self.items.remove(item)
        self._out.send("conversation.item.deleted", item_id=item.id)
