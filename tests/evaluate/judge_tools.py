"""What the tests of the judge share: a stub that grades, and a judge that tries fast."""

import json

from llama_omni.backends.chat_options import ChatOptions
from llama_omni.evaluate.agreement import read_pairs
from llama_omni.evaluate.judge import Judge, JudgeOptions
from tests.stub_server import schema_of


def asked_reply(body):
    """The reply that a request asks to grade."""
    text = next(turn["content"] for turn in body["messages"] if turn["role"] == "user")
    return text.partition("<reply>\n")[2].partition("\n</reply>")[0]


def answer(**grades):
    """A stub's reply function that always gives these grades."""

    def reply(body):
        names = schema_of(body)["properties"]
        return json.dumps({name: grades.get(name, 3) for name in names} | {"reason": "so"})

    return reply


def as_given(change=lambda aspect, grade: grade):
    """A stub's reply function that knows the shipped grades, and changes them."""
    pairs = {pair.reply: pair for pair in read_pairs()}

    def reply(body):
        pair = pairs[asked_reply(body)]
        names = [name for name in schema_of(body)["properties"] if name != "reason"]
        grades = {name: change(name, getattr(pair, name)) for name in names}
        return json.dumps({"reason": "so", **grades})

    return reply


def judge(server, *, samples=2, retries=1, **changes):
    url = server if isinstance(server, str) else server.base_url
    given = {"model": "stub", "backoff_s": 0.02, "tries": 3, "timeout_s": 20.0, **changes}
    chat = ChatOptions(base_url=url, **given)
    return Judge(JudgeOptions(chat=chat, samples=samples, retries=retries))
