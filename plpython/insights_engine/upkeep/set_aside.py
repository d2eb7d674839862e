"""Keeps traces that cannot be indexed from stopping the others.

A row that cannot be read, or a value that nobody thought of, makes the whole
batch fail, each time again.  So the batch is halved until the trace is found, which
then stays pending, and with that is answered from MLflow's tables.  Its note lies in
the future: that is when it is tried again, unless it changes before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, TypeVar

from insights_engine.base import plans
from insights_engine.language.errors import visible

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Minutes until such a trace is tried again, at random up to twice as many.
_MINUTES = 5
# More of them in a batch, and it is not the traces that are wrong.
_MOST = 20
# SQLSTATEs, or classes of them, that say nothing about a trace: connections, snapshots and
# settings, deadlocks, missing objects and rights, resources, locks, operators, the system, objects
# that others change at the same time.
_NOT_OF_A_TRACE = ("08", "0A", "25", "3F", "40", "42", "53", "55", "57", "58", "72", "F0", "XX000")


def work(
    plpy: Any,
    items: Sequence[Item],
    do: Callable[[Sequence[Item]], Result],
    trace_id: Callable[[Item], str],
) -> list[Result]:
    """What ``do`` gives for all items, or for parts of them if it raises for some.

    The trace of an item for which it raises alone is noted as pending, with a warning.
    """
    results = []
    failed: list[tuple[Item, Exception]] = []
    rest = [items]
    while rest:
        part = rest.pop()
        try:
            with plpy.subtransaction():
                results.append(do(part))
        except Exception as error:
            if not _of_a_trace(error) or len(failed) == _MOST:
                raise
            if len(part) == 1:
                failed.append((part[0], error))
            else:
                middle = len(part) // 2
                rest += [part[middle:], part[:middle]]
    for item, reason in failed:
        _note(plpy, trace_id(item), reason)
    return results


def _of_a_trace(error: Exception) -> bool:
    state = getattr(error, "sqlstate", None)
    return not isinstance(error, MemoryError) and not (state or "").startswith(_NOT_OF_A_TRACE)


def _note(plpy: Any, trace_id: str, error: Exception) -> None:
    plans.run(
        plpy,
        "insert into insights.pending (trace_id, noted_at) values ($1,"
        " pg_catalog.clock_timestamp()"
        f" + interval '{_MINUTES} minutes' * (1 + pg_catalog.random()))"
        " on conflict (trace_id, transaction) do update set noted_at = excluded.noted_at",
        ("text",),
        (trace_id,),
    )
    reason = f"{type(error).__name__}: {error}"
    plpy.warning(
        f"trace {visible(trace_id, 100)} cannot be indexed, stays pending and is tried again later:"
        f" {visible(reason, 300)}"
    )
