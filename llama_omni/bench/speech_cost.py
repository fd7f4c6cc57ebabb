"""(c) What speech costs: the time of a spoken reply over that of the same reply only written."""

from dataclasses import replace
from typing import Any

from llama_omni.bench.settings import UNITS_PER_TOKEN, BenchSettings, Spread
from llama_omni.bench.subject import Subject, spoken_question
from llama_omni.interfaces import Reply, ReplyOptions

WAYS: dict[str, dict[str, Any]] = {
    "written": {"speech": False},  # S2TIF
    "spoken at once": {"chunk_size": None},  # S2SIF, Omega is infinity
    "spoken in chunks of 10": {"chunk_size": 10},
}


def measure_speech_cost(subject: Subject, settings: BenchSettings) -> dict[str, Any]:
    """Make the same greedy reply in three ways, in rounds side by side.

    Returns:
        `rows`, one a way: seconds in all, in the LLM's and speech decoder's steps, in the vocoder,
        and the ratio to the written reply of the same round. `same_tokens` says whether all
        replies held the same tokens, as greedy replies must.
    """
    question = spoken_question(settings.questions_s[0])
    options = ReplyOptions(max_new_tokens=settings.reply_tokens, units_per_token=UNITS_PER_TOKEN)
    replies: dict[str, list[Reply]] = {name: [] for name in WAYS}
    for round_index in range(settings.repeats + 1):
        for name, changes in WAYS.items():
            reply = subject.assistant.reply(question, replace(options, **changes))
            if round_index:  # the first round warms up
                replies[name].append(reply)
    every = [reply for made in replies.values() for reply in made]
    return {
        "question_s": settings.questions_s[0],
        "reply_tokens": len(every[0].token_ids),
        "units": len(replies["spoken at once"][0].units),
        "audio_s": replies["spoken at once"][0].duration_s,
        "same_tokens": len({reply.token_ids for reply in every}) == 1,
        "rows": [
            {
                "way": name,
                "total_s": Spread.of([reply.timings.total_s for reply in made]),
                "decode_s": Spread.of([reply.timings.decode_s for reply in made]),
                "vocode_s": Spread.of([reply.timings.vocode_s for reply in made]),
                "over_written": Spread.of(
                    [
                        reply.timings.total_s / written.timings.total_s
                        for reply, written in zip(made, replies["written"], strict=True)
                    ]
                ),
            }
            for name, made in replies.items()
        ],
    }
