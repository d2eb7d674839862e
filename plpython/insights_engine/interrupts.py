"""Lets a statement be cancelled in the midst of a long computation.

PostgreSQL attends to a cancel or a timeout whenever it runs something, but not while
Python computes.  What takes long, and asks the database nothing, looks at times.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, TypeVar

from insights_engine import plans

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


class Watched(list[Item]):
    """A list with items that take long each: going through it looks before every one."""

    def __init__(self, plpy: Any) -> None:
        super().__init__()
        self._plpy = plpy

    def __iter__(self) -> Iterator[Item]:
        for item in super().__iter__():
            look(self._plpy)
            yield item
