"""One SQL statement in the making: its scope, its parameters, how it is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from insights_engine.base import plans
from insights_engine.exact.rawsql import Params, compile_filter
from insights_engine.language import tree


class ArrayParams(Params):
    """Parameters that travel as one array of texts, for `Statement.run_in_parallel`."""

    def add(self, value: Any, pgtype: str) -> str:
        """``(($1)[n]::type)`` for ``value``."""
        return f"(($1)[{super().add(value, pgtype)[1:]}]::{pgtype})"

    def texts(self) -> list[str]:
        """The values as PostgreSQL reads them."""
        return [_text(value) for value in self.values]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        items = [_text(item).replace("\\", "\\\\").replace('"', '\\"') for item in value]
        return "{" + ",".join(f'"{item}"' for item in items) + "}"
    return repr(value)


class Statement:
    """Collects the parameters of one statement over ``trace_info t``.

    ``parallel`` chooses how it is going to be run: in parallel, which suits
    going through all traces, or as it is, which suits looking at a few.
    """

    def __init__(
        self,
        schema: str,
        experiments: Optional[list[int]],
        now_ms: int,
        parallel: bool = False,
    ) -> None:
        self.schema = schema
        self.experiments = experiments
        self.now_ms = now_ms
        self.params = ArrayParams() if parallel else Params()

    def again(self, parallel: bool = False) -> Statement:
        """A fresh statement about the same."""
        return Statement(self.schema, self.experiments, self.now_ms, parallel)

    def fresh(self) -> Statement:
        """A fresh statement about the same, to be run in parallel."""
        return Statement(self.schema, self.experiments, self.now_ms, parallel=True)

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

    def run(self, plpy: Any, sql: str) -> Sequence[dict[str, Any]]:
        """The rows of ``sql``, which uses the parameters collected so far."""
        rows: Sequence[dict[str, Any]] = plpy.execute(
            plpy.prepare(sql, self.params.types), self.params.values
        )
        return rows

    def run_in_parallel(self, plpy: Any, sql: str) -> list[list[Optional[str]]]:
        """The rows of ``sql``, which selects one array of texts each."""
        assert isinstance(self.params, ArrayParams)
        plan = plpy.prepare("select r from insights.parallel_rows($1, $2) r", ["text", "text[]"])
        return [row["r"] for row in plpy.execute(plan, [sql, self.params.texts()])]


def current_time_ms(plpy: Any) -> int:
    """What ``now()`` in a filter stands for: when this statement began."""
    rows = plans.run(
        plpy,
        "select pg_catalog.floor(extract(epoch from pg_catalog.statement_timestamp()) * 1000)"
        "::bigint as now_ms",
    )
    return int(rows[0]["now_ms"])
