"""Words that come from outside, made harmless before they are shown, stored, or quoted to a model."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

# What could look like structure in a prompt or a terminal.
_STRUCTURE = str.maketrans(dict.fromkeys("<>{}[]`#|\\*", " "))
# What looks like a key, and what a provider leaves of one: sk-proj-****abcd, ****abcd, sk-12...abcd.
_KEY = re.compile(
    r"\b(?:sk|key|pk)-[A-Za-z0-9_\-]{6,}|\bBearer\s+\S+|[\w\-]*[*\u2022]{2,}[\w\-*\u2022]*|"
    r"\b[\w\-]{2,16}(?:\.{2,3}|\u2026)[\w\-]{2,8}\b",
    re.IGNORECASE,
)
_HIDDEN = "***"
# Shorter ones are no secrets, and words hold them: "none", "ollama".
_SHORTEST_SECRET = 8


def plain(text: str, limit: int) -> str:
    """One line of at most `limit` characters: no control, format or private characters, no line breaks."""
    kept = "".join(
        " " if unicodedata.category(char) in ("Zl", "Zp", "Cc") else char
        for char in text[: 4 * limit + 64]
        if unicodedata.category(char) not in ("Cf", "Co", "Cs", "Cn")
    )
    line = " ".join(kept.split())
    if len(line) <= limit:
        return line
    return line[: max(limit - 3, 0)].rstrip() + "..."[: max(limit, 0)]


def quotable(text: str, limit: int) -> str:
    """`plain`, without the characters that give text a structure: for quoting a model to a model."""
    return plain(unicodedata.normalize("NFKC", text[: 4 * limit + 64]).translate(_STRUCTURE), limit)


def redacted(text: str, secrets: Iterable[str]) -> str:
    """`text` without these secrets, nor anything that looks like a key."""
    for secret in secrets:
        text = without(text, secret)
    return _KEY.sub(_HIDDEN, text)


def without(text: str, secret: str) -> str:
    """`text` without this secret."""
    return text.replace(secret, _HIDDEN) if len(secret) >= _SHORTEST_SECRET else text


def storable(text: str) -> str:
    """`text` as every file and database takes it: without halves of characters, and without NUL."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")
