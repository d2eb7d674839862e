"""Lets a statement be cancelled in the midst of a long computation.

PostgreSQL attends to a cancel or a timeout whenever it runs something, but not while
Python computes.  What takes long, and asks the database nothing, looks at times.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Callable, TypeVar

from insights_engine.base import plans

Item = TypeVar("Item")

#: Looks are as far apart at least: each costs as much as the smallest query, some 20 us.
SECONDS = 0.05

#: What the database is asked for nothing but that.
LOOK = "select"

_last = 0.0


def look(plpy: Any) -> None:
    """Raises plpy.SPIError if the statement has been cancelled; looks now and then only."""
    global _last
    if time.monotonic() >= _last + SECONDS:
        plans.run(plpy, LOOK)
        _last = time.monotonic()


def go_on() -> None:
    """A look where there is nothing to be looked at."""


def each(plpy: Any, items: Iterable[Item]) -> Iterator[Item]:
    """The items; looks before every one."""
    for item in items:
        look(plpy)
        yield item


#: So many are sorted without a look in between: some 20 ms.
SORTED_AT_ONCE = 20_000


def in_order(
    items: Sequence[Item], key: Callable[[Item], Any], look: Callable[[], None]
) -> list[Item]:
    """The items sorted by a key, with looks in between where they are many."""
    runs = []
    for start in range(0, len(items), SORTED_AT_ONCE):
        look()
        runs.append(sorted(items[start : start + SORTED_AT_ONCE], key=key))
    if len(runs) < 2:
        return runs[0] if runs else []
    found = []
    for item in heapq.merge(*runs, key=key):
        look()
        found.append(item)
    return found


class Watched(list[Item]):
    """A list with items that take long each: going through it looks before every one."""

    def __init__(self, plpy: Any) -> None:
        super().__init__()
        self._plpy = plpy

    def __iter__(self) -> Iterator[Item]:
        for item in super().__iter__():
            look(self._plpy)
            yield item
