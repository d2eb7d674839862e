"""Prepared statements that a session keeps, by their text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: More different texts than any workload needs at a time; then all start anew.
_MOST = 500
#: Of longer texts the plan takes more memory than planning again takes time.
_LONGEST = 10_000

_kept: dict[tuple[str, tuple[str, ...]], Any] = {}


def run(plpy: Any, sql: str, types: Sequence[str] = (), values: Sequence[Any] = ()) -> Any:
    """The rows of ``sql``, prepared once a session.

    For statements whose text does not depend on the data.  PostgreSQL plans them
    anew when a table changes, and decides itself whether the parameters matter.
    """
    key = (sql, tuple(types))
    plan = _kept.get(key)
    if plan is None and len(sql) > _LONGEST:
        plan = plpy.prepare(sql, list(types))
    elif plan is None:
        if len(_kept) >= _MOST:
            _kept.clear()
        plan = _kept[key] = plpy.prepare(sql, list(types))
    return plpy.execute(plan, list(values))
