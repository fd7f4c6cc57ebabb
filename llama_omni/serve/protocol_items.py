"""What a client may put into a conversation, as types."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Discriminator, Field, Tag, with_config
from typing_extensions import TypedDict

STRICT = ConfigDict(strict=True, extra="forbid")

Id = Annotated[str, Field(min_length=1, max_length=64)]


def _item_kind(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    fields: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
    kind = fields.get("type")
    return f"message of {fields.get('role')}" if kind == "message" else str(kind)


@with_config(STRICT)
class _Item(TypedDict):
    id: NotRequired[Id | None]
    object: NotRequired[Literal["realtime.item"] | None]
    status: NotRequired[Literal["completed", "incomplete", "in_progress"] | None]


@with_config(STRICT)
class _Part(TypedDict):
    text: NotRequired[str | None]
    audio: NotRequired[str | None]
    transcript: NotRequired[str | None]


@with_config(STRICT)
class UserPart(_Part):
    """Something written or said."""

    type: Literal["input_text", "input_audio"]
    detail: NotRequired[str | None]
    image_url: NotRequired[None]


@with_config(STRICT)
class SystemPart(_Part):
    """Something written."""

    type: Literal["input_text"]


@with_config(STRICT)
class AssistantPart(_Part):
    """Something that was answered; sound cannot be put in."""

    type: Literal["output_text"]


@with_config(STRICT)
class UserMessage(_Item):
    """What a user says."""

    type: Literal["message"]
    role: Literal["user"]
    content: Annotated[list[UserPart], Field(min_length=1, max_length=64)]


@with_config(STRICT)
class SystemMessage(_Item):
    """What the model is told."""

    type: Literal["message"]
    role: Literal["system"]
    content: Annotated[list[SystemPart], Field(min_length=1, max_length=64)]


@with_config(STRICT)
class AssistantMessage(_Item):
    """What the model has answered, as a client remembers it."""

    type: Literal["message"]
    role: Literal["assistant"]
    content: Annotated[list[AssistantPart], Field(min_length=1, max_length=64)]


@with_config(STRICT)
class FunctionCall(_Item):
    """What the model wished to be called."""

    type: Literal["function_call"]
    name: Annotated[str, Field(min_length=1, max_length=64)]
    arguments: str
    call_id: NotRequired[Id | None]


@with_config(STRICT)
class FunctionCallOutput(_Item):
    """What came of a call."""

    type: Literal["function_call_output"]
    call_id: Id
    output: str


@with_config(STRICT)
class ItemReference(TypedDict):
    """An item of the conversation, by name."""

    type: Literal["item_reference"]
    id: Id


NewItem = (
    Annotated[UserMessage, Tag("message of user")]
    | Annotated[SystemMessage, Tag("message of system")]
    | Annotated[AssistantMessage, Tag("message of assistant")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")]
)
_ITEM_KINDS = "a message of role user, system or assistant, a function_call, a function_call_output"
AnyItem = Annotated[
    NewItem,
    Discriminator(
        _item_kind, custom_error_type="kind", custom_error_message=f"must be {_ITEM_KINDS}"
    ),
]
InputItem = Annotated[
    NewItem | Annotated[ItemReference, Tag("item_reference")],
    Discriminator(
        _item_kind,
        custom_error_type="kind",
        custom_error_message=f"must be {_ITEM_KINDS} or an item_reference",
    ),
]
