"""One SQL statement in the making: its parameters, its scope, how it is run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

from insights_engine import tree
from insights_engine.rawsql import Params, compile_filter

#: Rows that a cursor hands over at a time.
BATCH = 1000


class Statement:
    """Collects the parameters of one statement over ``trace_info t``."""

    def __init__(self, schema: str, experiments: Optional[list[int]], now_ms: int) -> None:
        self.schema = schema
        self.experiments = experiments
        self.now_ms = now_ms
        self.params = Params()

    @property
    def traces(self) -> str:
        """The table of traces under its alias."""
        return f"{self.schema}.trace_info t"

    def scope(self) -> str:
        """The condition that a trace is in the requested experiments."""
        if self.experiments is None:
            return "true"
        if len(self.experiments) == 1:
            # Unlike any(), this lets an index on (experiment, time) sort.
            return f"t.experiment_id = {self.params.add(self.experiments[0], 'int')}"
        return f"t.experiment_id = any({self.params.add(self.experiments, 'int[]')})"

    def where(self, node: tree.Node, shape: str = "set") -> str:
        """The condition that a trace is in scope and matches ``node``."""
        if node == tree.EVERYTHING:
            return self.scope()
        return f"{self.scope()} and {self.condition(node, shape)}"

    def condition(self, node: tree.Node, shape: str) -> str:
        """The condition that a trace matches ``node``."""
        return compile_filter(
            node,
            self.params,
            schema=self.schema,
            scope=self.experiments,
            now_ms=self.now_ms,
            shape=shape,
        )

    def run(self, plpy: Any, sql: str) -> list[dict[str, Any]]:
        """All rows of ``sql``, which uses the parameters collected so far."""
        plan = plpy.prepare(sql, self.params.types)
        return list(plpy.execute(plan, self.params.values))

    def stream(self, plpy: Any, sql: str) -> Iterator[dict[str, Any]]:
        """The same in batches, for results that need not fit into memory at once."""
        cursor = plpy.cursor(plpy.prepare(sql, self.params.types), self.params.values)
        while True:
            rows = cursor.fetch(BATCH)
            if not rows:
                return
            yield from rows


def current_time_ms(plpy: Any) -> int:
    """What ``now()`` in a filter stands for: when this statement began."""
    rows = plpy.execute(
        "select pg_catalog.floor(extract(epoch from pg_catalog.statement_timestamp()) * 1000)"
        "::bigint as now_ms"
    )
    return int(rows[0]["now_ms"])
