"""What a process said on stderr, less what only the first one on a machine says."""

from __future__ import annotations

COMPILING = "Compiling the simulation: once per machine, it takes up to half a minute.\n"


def said(stderr: str) -> str:
    """The text without the notice that the kernel is being compiled: whether it comes depends on the cache."""
    return stderr.replace(COMPILING, "")
