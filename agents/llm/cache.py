"""The replay cache: what was answered once is answered again, free and the same to the bit.

One file per question, named by the hash of the question and replaced atomically: a backtest that was killed goes on
where it was, and several may share a folder. A call that failed is kept too, for offline runs that repeat a run with
all its failures; a run with a connection asks again.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agents.llm.request import Reply, Request, Usage
from envs.errors import ConfigError

_ENDINGS = ("complete", "truncated", "refused")


@dataclass(frozen=True, slots=True)
class Cached:
    """What became of a question: a reply, or the failure that it ended in. `latency_ms` is that of the first time."""

    reply: Reply | None
    failure: str = ""
    latency_ms: int = 0


class ReplayCache:
    """Replies in a folder; `folder` None keeps none."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def path(self, key: str) -> Path | None:
        """The file of a question."""
        return None if self.folder is None else self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> Cached | None:
        """What became of the question; None when it was never asked.

        Raises:
            ConfigError: its file is damaged.
        """
        path = self.path(key)
        if path is None:
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return _read(values, key)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"the cached reply {path} cannot be read ({error}): delete it, and it is asked for again"
            ) from error

    def put(self, request: Request, cached: Cached) -> None:
        """Keep what became of the question.

        Raises:
            ConfigError: it cannot be written.
        """
        key = request.key
        path = self.path(key)
        if path is None:
            return
        values = {
            "key": key,
            "kind": request.kind,
            "model": request.model,
            "prompt_hash": request.prompt_hash,
            "failure": cached.failure,
            "latency_ms": cached.latency_ms,
            "reply": None if cached.reply is None else asdict(cached.reply),
        }
        # Agents of one process may ask the same at the same time.
        temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(values, file, ensure_ascii=True)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            raise ConfigError(
                f"the reply cannot be kept at {path} ({error.strerror}): make room, or set cache to another folder"
            ) from error


def _read(values: Any, key: str) -> Cached:
    if values["key"] != key:
        raise ValueError("it is the answer to another question")
    reply = None
    if values["reply"] is not None:
        row = values["reply"]
        if not isinstance(row["text"], str) or row["ending"] not in _ENDINGS:
            raise ValueError("its text or its ending is no such thing")
        usage = {name: int(row["usage"][name]) for name in Usage.__dataclass_fields__}
        reply = Reply(row["text"], row["ending"], Usage(**usage))
    elif not values["failure"]:
        raise ValueError("it holds neither a reply nor a failure")
    return Cached(reply, str(values["failure"]), int(values["latency_ms"]))
