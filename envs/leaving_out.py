"""Loading a library without another that it would load beside."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(name: str) -> Iterator[None]:
    """Let imports of a package that is not loaded yet fail as if it were not installed."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def numba_without_blas() -> None:
    """Have numba set itself up without SciPy, which it asks for linear algebra that no kernel of ours needs.

    SciPy comes with the training extra and takes 13 MB and a tenth of a second. For a process that is ours alone: in
    it, compiled code cannot multiply matrices. Does nothing where SciPy's linear algebra is loaded already.
    """
    import numba  # noqa: F401  (it looks at SciPy's version)

    if "scipy.linalg" in sys.modules:
        return
    loaded = {name: sys.modules.pop(name) for name in tuple(sys.modules) if name.split(".")[0] == "scipy"}
    try:
        with without("scipy"):
            from numba.np import arraymath  # noqa: F401
    finally:
        sys.modules.update(loaded)
