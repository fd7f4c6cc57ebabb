"""Replies on disk by content hash, so that no reply is paid for twice.

An SQLite file in WAL mode: rows are only ever added, each is on the disk before its caller sees
it, a process may be killed at any point, and several processes may use one file. The file must lie
on a local disk: WAL needs memory that is shared by its users.
"""

import hashlib
import json
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llama_omni.errors import OutputError

WAIT_S = 60.0  # for other processes that write
FORMAT = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredReply:
    """What a server sent, before anyone judged it."""

    text: str
    refusal: str = ""
    finish_reason: str = ""
    input_tokens: int | None = None  # None: the server did not tell
    output_tokens: int | None = None


def content_key(content: Any) -> str:
    """Return the hash of plain JSON values, whatever the order of their fields."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class ReplyCache:
    """A file of replies, for any number of threads and processes.

    Raises:
        OutputError: the file cannot be made, read or written, or is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                path, timeout=WAIT_S, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise self._error(error) from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._database.close()
            raise self._error(error) from error
        except OutputError:
            self._database.close()
            raise

    def get(self, key: str) -> StoredReply | None:
        """Return the reply of this key, None where there is none."""
        row = self._run("SELECT reply FROM replies WHERE key = ?", (key,))
        return StoredReply(**json.loads(row[0])) if row else None

    def put(self, key: str, model: str, reply: StoredReply) -> StoredReply:
        """Add a reply; return what the file holds, which is another's where that came first."""
        text = json.dumps(asdict(reply), ensure_ascii=True)
        self._run(
            "INSERT OR IGNORE INTO replies (key, model, reply, added) VALUES (?, ?, ?, ?)",
            (key, model, text, time.time()),
        )
        return self.get(key) or reply

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._database.close()

    def _prepare(self) -> None:
        deadline = time.monotonic() + WAIT_S
        while True:  # the change to WAL does not wait for others by itself
            try:
                self._database.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self._database.execute("PRAGMA synchronous = FULL")
        with closing(self._database.cursor()) as cursor:
            cursor.execute(
                "CREATE TABLE IF NOT EXISTS replies "
                "(key TEXT PRIMARY KEY, model TEXT, reply TEXT, added REAL) WITHOUT ROWID"
            )
            (found,) = cursor.execute("PRAGMA user_version").fetchone()
            if found not in (0, FORMAT):
                raise OutputError(f"{self.path} must be a reply cache of format 1, got {found}")
            if not found:
                cursor.execute(f"PRAGMA user_version = {FORMAT}")

    def _run(self, statement: str, values: tuple[Any, ...]) -> Any:
        try:
            with self._lock, closing(self._database.cursor()) as cursor:
                return cursor.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> OutputError:
        return OutputError(f"{self.path} must be a reply cache on a writable disk, got: {error}")
