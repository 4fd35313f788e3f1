"""While a process trades, the garbage collector leaves alone what was there before."""

from __future__ import annotations

import gc
import weakref

from live.heap import heap_set_aside


class _Node:
    def __init__(self) -> None:
        self.me = self


def test_the_collector_sees_only_what_was_made_inside() -> None:
    everything = len(gc.get_objects())
    old = _Node()
    known = weakref.ref(old)
    with heap_set_aside():
        assert len(gc.get_objects()) < everything / 10  # all that a full collection goes through
        young = weakref.ref(_Node())
        del old
        gc.collect()
        assert young() is None  # a cycle made inside is collected
        assert known() is not None  # one from before is kept, until the end
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert known() is None
