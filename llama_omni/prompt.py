"""The paper's P(.): the turns of a conversation as token ids, with places for speech.

Only strings and a function that encodes them come in, so no tokeniser library is imported. What is
unusual: text is encoded in *pieces* that end where speech or an assistant's words begin. Words that
a model generated go back verbatim, so the prompt of the next turn starts with exactly the tokens
that the model has seen, and a cache of them can be kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llama_omni.errors import ConfigError, InputError
from llama_omni.interfaces import Turn

SPEECH_TOKEN = -200  # stands where the embeddings of one spoken turn go
IGNORE = -100  # label of a position that training does not predict

Encode = Callable[[str], list[int]]
Decode = Callable[[list[int]], str]

_SYSTEM = (
    "You are a helpful language and speech assistant. You are able to understand the speech "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptTemplate:
    """The words around the turns of one family of language models."""

    name: str
    bos: str = ""  # written before everything, on top of what the tokeniser adds by itself
    system_prefix: str
    system_suffix: str
    user_prefix: str
    user_suffix: str
    assistant_prefix: str
    assistant_suffix: str  # closes a reply; the model learns to generate it
    separator: str = ""  # between turns
    system: str = _SYSTEM  # used where a conversation does not begin with a system turn
    speech: str = "<speech>"  # the marker in `spoken`
    spoken: str = "<speech>\nPlease directly answer the questions in the user's speech."

    def __post_init__(self) -> None:
        if self.spoken.count(self.speech) != 1:
            raise ConfigError(
                f"template.spoken must hold {self.speech!r} exactly once, got {self.spoken!r}"
            )

    def speech_first(self) -> "PromptTemplate":
        """Move the speech to the front of a spoken turn, as the reference does for training."""
        rest = self.spoken.replace(self.speech, "").strip()
        return replace(self, spoken=f"{self.speech}\n{rest}".strip())


TEMPLATES = {
    template.name: template
    for template in (
        PromptTemplate(
            name="llama3",
            bos="<|begin_of_text|>",
            system_prefix="<|start_header_id|>system<|end_header_id|>\n\n",
            system_suffix="<|eot_id|>",
            user_prefix="<|start_header_id|>user<|end_header_id|>\n\n",
            user_suffix="<|eot_id|>",
            assistant_prefix="<|start_header_id|>assistant<|end_header_id|>\n\n",
            assistant_suffix="<|eot_id|>",
        ),
        PromptTemplate(
            name="chatml",
            system_prefix="<|im_start|>system\n",
            system_suffix="<|im_end|>",
            user_prefix="<|im_start|>user\n",
            user_suffix="<|im_end|>",
            assistant_prefix="<|im_start|>assistant\n",
            assistant_suffix="<|im_end|>",
            separator="\n",
        ),
        PromptTemplate(  # for models trained here: no system turn, so a question costs few tokens
            name="compact",
            system_prefix="<|start_header_id|>system<|end_header_id|>",
            system_suffix="<|eot_id|>",
            user_prefix="<|start_header_id|>user<|end_header_id|>",
            user_suffix="<|eot_id|>",
            assistant_prefix="<|start_header_id|>assistant<|end_header_id|>",
            assistant_suffix="<|eot_id|>",
            system="",
            spoken="<speech>",
        ),
    )
}


def prompt_template(name: str) -> PromptTemplate:
    """Return a template by its name.

    Raises:
        ConfigError: With the names there are.
    """
    if name not in TEMPLATES:
        raise ConfigError(f"prompt template must be one of {', '.join(TEMPLATES)}, got {name!r}")
    return TEMPLATES[name]


def encode_prompt(
    turns: Sequence[Turn],
    encode: Encode,
    template: PromptTemplate,
    *,
    bos_token_id: int | None,
) -> list[int]:
    """Return the token ids after which the model generates its reply to the last turn.

    Args:
        turns: The conversation. A system turn may come first; the last turn is the user's.
        encode: The tokeniser, with whatever it adds by itself (a begin-of-text token).
        template: The words around the turns.
        bos_token_id: The tokeniser's begin-of-text token, None if it has none.

    Returns:
        Token ids, with one SPEECH_TOKEN for each spoken turn.

    Raises:
        InputError: The turns are not such a conversation.

    Source:
        Section 2.3, P(S); reference `tokenizer_speech_token` and its llama_3 conversation.
    """
    body = _check_turns(turns, last="user")
    writer = _Writer(encode, bos_token_id)
    _write_turns(writer, turns, body, template)
    writer.text(template.separator + template.assistant_prefix)
    writer.end_piece()
    return writer.ids


def encode_example(
    turns: Sequence[Turn],
    encode: Encode,
    template: PromptTemplate,
    *,
    bos_token_id: int | None,
) -> tuple[list[int], list[int]]:
    """Return token ids and labels of a whole conversation, for training.

    Args:
        turns: The conversation. A system turn may come first; the last turn is the assistant's.
        encode: The tokeniser, with whatever it adds by itself.
        template: The words around the turns.
        bos_token_id: The tokeniser's begin-of-text token, None if it has none.

    Returns:
        Token ids, and labels of the same length: the id where an assistant says it, closing token
        included, and IGNORE elsewhere. Not shifted.

    Raises:
        InputError: The turns are not such a conversation.

    Source:
        Reference `preprocess_llama_3`, which has one question and one answer; here every turn of
        the assistant is labelled.
    """
    body = _check_turns(turns, last="assistant")
    writer = _Writer(encode, bos_token_id)
    _write_turns(writer, turns, body, template)
    return writer.ids, writer.labels


def _check_turns(turns: Sequence[Turn], *, last: str) -> Sequence[Turn]:
    """Return the turns after the system's."""
    body = turns[1:] if turns and turns[0].role == "system" else turns
    if not body or body[-1].role != last:
        found = body[-1].role if body else "no turn"
        raise InputError(f"the last turn of a conversation must be the {last}'s, got {found}")
    if any(turn.role == "system" for turn in body):
        raise InputError("a system turn must be the first turn, got one later in the conversation")
    return body


def _write_turns(
    writer: "_Writer", turns: Sequence[Turn], body: Sequence[Turn], template: PromptTemplate
) -> None:
    writer.text(template.bos)
    system = template.system if body is turns else turns[0].text or ""
    between = ""
    if system.strip():  # an empty one leaves the whole block out
        writer.text(template.system_prefix + system.strip() + template.system_suffix)
        between = template.separator
    for turn in body:
        writer.text(between)
        between = template.separator
        if turn.role == "assistant":
            _write_reply(writer, turn, template)
        elif turn.text is not None:
            writer.text(template.user_prefix + turn.text.strip() + template.user_suffix)
        else:
            before, after = template.spoken.strip().split(template.speech)
            writer.text(template.user_prefix + before)
            writer.speech()
            writer.text(after + template.user_suffix)


def _write_reply(writer: "_Writer", turn: Turn, template: PromptTemplate) -> None:
    writer.text(template.assistant_prefix)
    writer.end_piece()
    if turn.token_ids is None:
        writer.text((turn.text or "").strip() + template.assistant_suffix)
        writer.end_piece(labelled=True)
        return
    writer.verbatim(turn.token_ids)
    closing = writer.encode(template.assistant_suffix)
    if list(turn.token_ids[-len(closing) :]) != closing:
        writer.verbatim(closing)


class _Writer:
    """Collects text, encodes it piece by piece, and keeps labels in step."""

    def __init__(self, encode: Encode, bos_token_id: int | None) -> None:
        self._encode = encode
        self._adds_bos = bos_token_id is not None and encode("")[:1] == [bos_token_id]
        self._piece = ""
        # Every piece loses the token that the tokeniser put before it; the first gets it back.
        self.ids = [bos_token_id] if bos_token_id is not None and self._adds_bos else []
        self.labels = [IGNORE] * len(self.ids)

    def encode(self, text: str) -> list[int]:
        """Encode text without what the tokeniser adds before it."""
        return self._encode(text)[1 if self._adds_bos else 0 :]

    def text(self, text: str) -> None:
        self._piece += text

    def end_piece(self, *, labelled: bool = False) -> None:
        ids = self.encode(self._piece) if self._piece else []
        self._piece = ""
        self.ids += ids
        self.labels += ids if labelled else [IGNORE] * len(ids)

    def speech(self) -> None:
        self.end_piece()
        self.ids.append(SPEECH_TOKEN)
        self.labels.append(IGNORE)

    def verbatim(self, ids: Sequence[int]) -> None:
        self.ids += ids
        self.labels += ids


class TextStream:
    """The text of tokens that arrive one by one; only what later tokens cannot change is given.

    A token may end within a character, which decodes to U+FFFD for now. Up to three of those are
    held back at the end (a character has at most four bytes). All pieces joined equal
    `decode(all tokens)` for tokenisers that join bytes (Llama 3, Qwen). A window of tokens is
    decoded each time, so that a token costs the same at the end of a reply as at its beginning.

    Args:
        decode: The tokeniser's, which must not tidy up spaces afterwards.
    """

    CONTEXT = 8  # tokens kept before the new one, for tokenisers whose first token loses its space
    LIMIT = 64  # tokens after which a window is cut even within a character

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._sent = 0  # characters of the window's text that were given

    def push(self, token_id: int) -> str:
        """Take a token and return the text that is now certain, often ''."""
        self._window.append(token_id)
        text = self._decode(self._window)
        held = min(3, len(text) - len(text.rstrip(_REPLACEMENT)))
        new = text[self._sent : len(text) - held]
        self._sent += len(new)
        if len(self._window) > 2 * self.CONTEXT and not held:
            self._cut(self.CONTEXT, unsent=0)
        elif len(self._window) > self.LIMIT:
            # UTF-8 falls into step within four bytes of any cut, far before what is not sent.
            self._cut(self.LIMIT // 2, unsent=len(text) - self._sent)
        return new

    def flush(self) -> str:
        """Return what was held back; the stream is then as new."""
        rest = self._decode(self._window)[self._sent :] if self._window else ""
        self._window, self._sent = [], 0
        return rest

    def _cut(self, keep: int, *, unsent: int) -> None:
        self._window = self._window[-keep:]
        self._sent = max(0, len(self._decode(self._window)) - unsent)
