"""Large arrays that are handed out again and again, and never while somebody still looks at them."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Buffers:
    """Arrays that are handed out, and taken back once nobody refers to them any more.

    A new array of megabytes costs a page fault per 4 KB when it is first written, more than the step that writes it.
    """

    def __init__(self, shape: tuple[int, int], most: int = 4) -> None:
        self._shape = shape
        self._most = most
        self._arrays: list[NDArray[np.float32]] = [np.empty(shape, np.float32)]
        self._unreferenced = self._references(0)

    def take(self) -> NDArray[np.float32]:
        """An array that nobody refers to, float32, not initialised."""
        for number in range(len(self._arrays)):
            if self._references(number) == self._unreferenced:
                return self._arrays[number]
        if len(self._arrays) == self._most:
            # The callers keep them: they are theirs now.
            self._arrays.clear()
        array = np.empty(self._shape, np.float32)
        self._arrays.append(array)
        return array

    def _references(self, number: int) -> int:
        return sys.getrefcount(self._arrays[number])

    def __getstate__(self) -> dict[str, Any]:
        return {"_shape": self._shape, "_most": self._most}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_shape"], state["_most"])  # type: ignore[misc]
