"""From items and a configuration to what a model is asked."""

from collections.abc import Iterable
from dataclasses import replace

from llama_omni.interfaces import Turn
from llama_omni.serve.actions import ReplyRequest
from llama_omni.serve.errors import ProtocolError
from llama_omni.serve.items import Item
from llama_omni.serve.limits import ModelFacts
from llama_omni.serve.session_config import SessionConfig


def build_request(
    items: Iterable[Item],
    config: SessionConfig,
    model: ModelFacts,
    *,
    ask: str | None = None,
    standing: str = "",
    out_of_band: bool = False,
) -> ReplyRequest:
    """Return what a model is asked.

    System messages join the instructions at the front, in their order: templates have one place
    for them.

    Args:
        items: the history and, last, what is to be answered.
        config: of the response.
        model: what is asked.
        ask: the response's own instructions. Where the items end in nothing to answer, they are
            asked in a user's place, so that "greet the user" works in an empty conversation.
        standing: the session's instructions, which then are the system's.
        out_of_band: whether the conversation stays as it is.

    Raises:
        ProtocolError: there is nothing to answer.
    """
    known = [item for item in items if item.status != "in_progress"]
    system = [config.instructions] if config.instructions.strip() else []
    turns: list[Turn] = []
    for item in known:
        for turn in item.turns():
            if turn.role == "system":
                system.append(turn.text or "")
            else:
                turns.append(turn)
    spoken = [item for item in known if item.kind != "message" or item.turns()]
    answers = [item for item in spoken if item.kind != "message" or item.role != "system"]
    if not answers or not answers[-1].asks:
        if not ask or not ask.strip():
            raise ProtocolError(
                "response.create must have something to answer: the last message must be the "
                "user's, or response.instructions be given",
                code="nothing_to_answer",
                param="response",
            )
        system[:1] = [standing] if standing.strip() else []
        turns.append(Turn(role="user", text=ask))
    if system:
        turns.insert(0, Turn(role="system", text="\n\n".join(system)))
    tokens = model.max_output_tokens
    if isinstance(config.max_output_tokens, int):
        tokens = min(tokens, config.max_output_tokens)
    options = replace(model.options, max_new_tokens=tokens, speech=config.modality == "audio")
    if config.temperature is not None:
        options = replace(options, temperature=config.temperature)
    tools = config.tools if config.tool_choice != "none" else ()
    return ReplyRequest(
        turns=tuple(turns),
        options=options,
        voice=config.voice,
        out_of_band=out_of_band,
        tools=tools,
        tool_choice=config.tool_choice,
        items=tuple(item.event() for item in known) if model.tools else (),
        key=(
            tuple((item.id, item.revision) for item in known),
            tuple(system),
            options,
            config.voice,
            repr(tools),
            repr(config.tool_choice),
        ),
    )
