"""Which of some given traces match: the filter as exact SQL, asked trace by trace.

Traces are given where the index cannot answer for them: those that are pending, those that
bounds leave open, those that a caller names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from insights_engine.base import plans
from insights_engine.exact.statement import Statement
from insights_engine.language import tree


def condition(
    statement: Statement, trace_ids: Sequence[str], node: tree.Node = tree.EVERYTHING
) -> str:
    """The condition that a trace is given, in scope, and matches ``node``."""
    given = statement.params.add(list(trace_ids), "text[]")
    return f"t.request_id = any({given}) and {statement.where(node, 'probe')}"


def select(
    statement: Statement,
    trace_ids: Sequence[str],
    nodes: Sequence[tree.Node],
    columns: Sequence[str] = (),
    base: tree.Node = tree.EVERYTHING,
) -> str:
    """The query for the given traces in scope that match ``base``.

    A row has ``columns``, and in ``matches`` whether the trace matches each node.
    """
    flags = ", ".join(statement.condition(node, "probe") for node in nodes)
    selected = ", ".join([*columns, f"array[{flags}]::bool[] as matches"])
    return (
        f"select {selected} from {statement.traces} where {condition(statement, trace_ids, base)}"
    )


def matching(
    plpy: Any, statement: Statement, node: tree.Node, trace_ids: Sequence[str]
) -> set[str]:
    """The given traces in scope that match."""
    statement = statement.again()
    (row,) = plans.run(
        plpy,
        f"select pg_catalog.array_agg(t.request_id) as trace_ids from {statement.traces}"
        f" where {condition(statement, trace_ids, node)}",
        statement.params.types,
        statement.params.values,
    )
    return set(row["trace_ids"] or ())
