"""The folder of the page at `/`, with the headers that let it do what it does and no more."""

import mimetypes
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

FOLDER = Path(__file__).parent / "static"

# What a machine's own table of types may have wrong; browsers refuse modules of other types.
TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".wav": "audio/wav",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
}
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "cache-control": "no-cache",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self' blob:; worker-src 'self'; manifest-src 'self'; {connect}; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


class Page(StaticFiles):
    """Serves the folder; an absent one is an empty one."""

    def __init__(self, folder: Path = FOLDER) -> None:
        for suffix, kind in TYPES.items():
            mimetypes.add_type(kind, suffix)
        super().__init__(directory=folder, html=True, check_dir=False)
        self.config_checked = True  # a check at the first request would raise where there is none

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one file."""
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers["content-security-policy"] = content_policy(host)
            await send(message)

        await super().__call__(scope, receive, send_with_headers)


def content_policy(host: str) -> str:
    """Return the page's policy: its own files, its own server, nothing else.

    Args:
        host: as the browser calls the server; some browsers do not take 'self' for WebSockets.
    """
    plain = host and all(letter.isalnum() or letter in ".-:[]" for letter in host)
    sockets = f" ws://{host} wss://{host}" if plain else ""
    return _POLICY.format(connect=f"connect-src 'self'{sockets}")
