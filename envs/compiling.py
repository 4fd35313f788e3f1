"""How the compiled code is compiled: once per machine, kept in a cache, and said when it takes a while.

numba's cache looks only at the file that a function stands in: a function that calls another file's compiled code
would go on with the old one after that file changes. So what calls the kernel from compiled code stands in
`envs/kernel.py` with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numba.core import event

_COMPILATION = "numba:compile"


class _Notice(event.Listener):
    """Says once per process that compiling has begun; loading from the cache is no compiling."""

    def on_start(self, event_: Any) -> None:
        """The compilation of one function begins."""
        function = event_.data["dispatcher"].py_func
        if not function.__module__.startswith("envs."):
            return
        event.unregister(_COMPILATION, self)  # type: ignore[no-untyped-call]
        # Imported here: a process that starts from the cache does without.
        from rich.console import Console

        Console(stderr=True, highlight=False).print(
            "Compiling the simulation: once per machine, it takes up to half a minute.", style="dim"
        )

    def on_end(self, event_: Any) -> None:
        """The compilation of one function ends."""


event.register(_COMPILATION, _Notice())  # type: ignore[no-untyped-call]


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """`function` compiled by numba at its first call, or loaded from the cache of an earlier process.

    The cache lies beside the source, else (a read-only installation) in the user's cache folder, or where
    NUMBA_CACHE_DIR says. Where none of them can be written every process compiles anew.
    """
    options = {"error_model": "numpy", **options}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError as error:
        if "cannot cache function" not in str(error):
            raise
        return numba.njit(**options)(function)


def entry_point(function: Any, *arguments: Any) -> Callable[..., Any]:
    """The machine code of `function` for arguments of these types; compiles or loads it.

    A call of it skips numba's look-up of the types, which costs more than a step does. The caller answers for the
    types: they are not checked.
    """
    types = tuple(numba.typeof(argument) for argument in arguments)  # type: ignore[no-untyped-call]
    entry: Callable[..., Any] = function.compile(types)
    return entry
