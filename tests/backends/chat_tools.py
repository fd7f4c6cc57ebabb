"""What the tests of the chat endpoint share: an endpoint that tries fast, and a worker process."""

import subprocess
import sys
from pathlib import Path

from llama_omni.backends.chat import ChatEndpoint
from llama_omni.backends.chat_options import ChatOptions

ROOT = Path(__file__).parents[2]
SCHEMA = {
    "type": "object",
    "properties": {"question": {"type": "string"}},
    "required": ["question"],
    "additionalProperties": False,
}


def user(text):
    return [{"role": "user", "content": text}]


def endpoint(server, **changes):
    url = server if isinstance(server, str) else server.base_url
    given = {"model": "stub", "backoff_s": 0.02, "tries": 4, "timeout_s": 10.0, **changes}
    return ChatEndpoint(ChatOptions(base_url=url, **given))


def ask(server, schema=None, **changes):
    with endpoint(server, **changes) as chat:
        return chat.ask(user("hello"), schema), chat.usage


WORKER = """
import sys
from pathlib import Path
from llama_omni.backends.chat import ChatEndpoint
from llama_omni.backends.chat_options import ChatOptions
options = ChatOptions(base_url=sys.argv[1], model="stub", cache=Path(sys.argv[2]), concurrency=4)
questions = ([{"role": "user", "content": str(index)}] for index in range(int(sys.argv[3])))
with ChatEndpoint(options) as chat:
    for outcome in chat.ask_many(questions):
        print(outcome.text, flush=True)
"""


def worker(server, cache, count):
    command = [sys.executable, "-c", WORKER, server.base_url, str(cache), str(count)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
