"""Every statement that the package sends, in one place.

Nothing here decides what a filter means: a `Function` names a stored function
with its arguments and the columns that are read from it, and a test holds all
of them against the database's catalogue.  Values travel as parameters only.
The two things put into the text are the names of the arguments given and the
quoted name of the schema.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FUNCTIONS", "Function", "Query", "Statement"]


@dataclass(frozen=True)
class Query:
    """One statement with its values, ready for any driver.

    ``text`` has placeholders like ``:name`` and ``{schema}`` where the schema's
    prefix goes.
    """

    text: str
    params: Mapping[str, Any]
    #: Needs a transaction that is READ COMMITTED and may write.
    writes: bool = False

    def for_psycopg(self, schema: str | None) -> str:
        """With ``%(name)s`` placeholders, as psycopg takes them."""
        text = self.text.replace("%", "%%")
        text = re.sub(r"(?<!:):([a-z]\w*)", r"%(\1)s", text)
        return text.replace("{schema}", _prefix(schema).replace("%", "%%"))

    def for_sqlalchemy(self, schema: str | None) -> str:
        """With ``:name`` placeholders, as `sqlalchemy.text` takes them."""
        return self.text.replace("{schema}", _prefix(schema).replace(":", "\\:"))


def _prefix(schema: str | None) -> str:
    return "" if schema is None else '"' + schema.replace('"', '""') + '".'


@dataclass(frozen=True)
class Function:
    """A stored function: its arguments with their SQL types, and what it returns.

    ``columns`` are the result columns that are read, in this order; empty for
    a function that returns one value.  ``unread`` are result columns that the
    client leaves where they are.  ``writes``: not in every transaction.
    """

    name: str
    arguments: Mapping[str, str]
    columns: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    writes: bool = False

    def __call__(self, **params: Any) -> Query:
        """The call with these arguments; those left out take the function's defaults."""
        unknown = params.keys() - self.arguments.keys()
        if unknown:
            raise TypeError(f"{self.name} has no argument {', '.join(sorted(unknown))}")
        given = ", ".join(f"{name} => cast(:{name} as {self.arguments[name]})" for name in params)
        if self.columns:
            # Quoted, for some are words of SQL's own, such as similar.
            columns = ", ".join(f'"{column}"' for column in self.columns)
            text = f"select {columns} from {{schema}}{self.name}({given})"
        else:
            text = f"select {{schema}}{self.name}({given})"
        return Query(text, params, self.writes)


@dataclass(frozen=True)
class Statement:
    """A plain statement over the catalogue or MLflow's list of experiments."""

    text: str
    arguments: tuple[str, ...] = field(default=())

    def __call__(self, **params: Any) -> Query:
        """The statement with its values."""
        if params.keys() != set(self.arguments):
            raise TypeError(f"takes exactly the arguments {self.arguments}")
        return Query(self.text, params)


SEARCH = Function(
    "insights_search",
    {
        "exp_ids": "text[]",
        "filter": "text",
        "max_results": "integer",
        "order_by": "text[]",
        "page_token": "text",
    },
    columns=(
        "trace_id",
        "experiment_id",
        "timestamp_ms",
        "execution_time_ms",
        "status",
        "trace_name",
        "session_id",
        "request_preview",
        "response_preview",
        "tags",
        "metadata",
        "assessments",
        "next_page_token",
    ),
    # The same moment as timestamp_ms.  Drivers refuse a timestamptz beyond year 9999.
    unread=("request_time",),
)

COUNT = Function("insights_count", {"exp_ids": "text[]", "filter": "text", "unit": "text"})

CORRELATE = Function(
    "insights_correlate",
    {"exp_ids": "text[]", "f1": "text", "f2": "text", "base_filter": "text", "unit": "text"},
    columns=(
        "filter1_count",
        "filter2_count",
        "joint_count",
        "total_count",
        "npmi",
        "npmi_smoothed",
        "lift",
        "phi",
        "odds_ratio",
        "odds_ratio_low",
        "odds_ratio_high",
        "p_value",
        "test",
    ),
)

MATRIX = Function(
    "insights_correlation_matrix",
    {"exp_ids": "text[]", "filters": "text[]", "base_filter": "text", "unit": "text"},
    columns=("filter1_number", "filter2_number", "filter1", "filter2", *CORRELATE.columns),
)

_DISCOVERY_OPTIONS = {
    "kinds": "text[]",
    "min_support": "integer",
    "max_results": "integer",
    "fdr": "double precision",
    "direction": "text",
    "pairs": "boolean",
    "restatements": "boolean",
    "unit": "text",
}

DISCOVER = Function(
    "insights_discover",
    {"exp_ids": "text[]", "target": "text", "base_filter": "text", **_DISCOVERY_OPTIONS},
    columns=(
        "filter",
        "kind",
        "key",
        "value",
        "target_count",
        "fact_count",
        "joint_count",
        "total_count",
        "target_share",
        "other_share",
        "difference",
        "lift",
        "npmi",
        "phi",
        "odds_ratio",
        "odds_ratio_low",
        "odds_ratio_high",
        "p_value",
        "q_value",
        "test",
        "restates",
        "similar",
        "tested",
        "screened_count",
    ),
)

COMPARE = Function(
    "insights_compare",
    {"exp_ids": "text[]", "selection": "text", "baseline": "text", **_DISCOVERY_OPTIONS},
    columns=DISCOVER.columns,
)

FACETS = Function(
    "insights_facets",
    {
        "exp_ids": "text[]",
        "filter": "text",
        "field": "text",
        "max_results": "integer",
        "unit": "text",
    },
    columns=("value", "low", "high", "filter", "count", "share"),
)

TIMESERIES = Function(
    "insights_timeseries",
    {
        "exp_ids": "text[]",
        "filter": "text",
        "bucket": "text",
        "start_time": "timestamp with time zone",
        "end_time": "timestamp with time zone",
        "time_zone": "text",
        "unit": "text",
    },
    columns=(
        "time",
        "matched",
        "total",
        "rate",
        "errors",
        "error_rate",
        "p50_ms",
        "p95_ms",
        "p99_ms",
        "tokens",
        "cost",
    ),
)

VALIDATE = Function("insights_validate", {"filter": "text"})

EXPLAIN = Function(
    "insights_explain",
    {"exp_ids": "text[]", "filter": "text"},
    columns=("step", "detail"),
)

INDEX_STATUS = Function(
    "insights_status",
    {},
    columns=(
        "built",
        "usable",
        "unwatched",
        "pending",
        "lag_seconds",
        "missed",
        "traces",
        "blocks",
        "terms",
        "postings",
        "index_bytes",
        "mlflow_bytes",
        "index_share",
    ),
)

REFRESH = Function(
    "insights_refresh",
    {"max_traces": "integer"},
    columns=("indexed", "removed", "merged", "pending", "busy"),
    writes=True,
)

VERIFY = Function("insights_verify", {"max_problems": "integer"}, columns=("trace_id", "problem"))

FUNCTIONS = (
    SEARCH,
    COUNT,
    CORRELATE,
    MATRIX,
    DISCOVER,
    COMPARE,
    FACETS,
    TIMESERIES,
    VALIDATE,
    EXPLAIN,
    INDEX_STATUS,
    REFRESH,
    VERIFY,
)

START_OVER = Statement(
    "select busy, insights.accept(problem) from insights.run_rebuild(cast(:batch_size as integer))",
    ("batch_size",),
)

BUILD_BATCH = Statement(
    "select indexed, done, busy from insights.build_batch(cast(:max_traces as integer))",
    ("max_traces",),
)

GUARD = Statement("select insights.guard(true)")

INSTALLED_FOR = Statement("select mlflow_schema from insights.installation")

INDEXED = Statement(
    """
    select
        (select s.built from insights.state s),
        (select coalesce(sum(b.live_count), 0) from insights.block b),
        (select count(*) from {schema}trace_info)
    """
)

EXPERIMENTS = Statement(
    """
    select cast(e.experiment_id as text), e.name, e.workspace, e.lifecycle_stage
    from {schema}experiments e
    order by e.experiment_id
    """
)

CATALOGUE = Statement(
    """
    select
        current_setting('server_version'),
        cast(current_database() as text),
        cast(current_user as text),
        array(
            select distinct cast(p.proname as text)
            from pg_catalog.pg_proc p
            join pg_catalog.pg_namespace n on n.oid = p.pronamespace
            where p.proname = any (cast(:names as text[]))
            and coalesce(n.nspname = cast(:schema as text), pg_function_is_visible(p.oid))
            order by 1
        ),
        to_regclass('insights.alembic_version') is not null,
        to_regprocedure('insights.guard(boolean)') is not null,
        t.present,
        t.readable
    from (
        select
            coalesce(array_agg(cast(c.relname as text)), cast(array[] as text[])) as present,
            coalesce(
                array_agg(cast(c.relname as text))
                    filter (where has_table_privilege(c.oid, 'select')),
                cast(array[] as text[])
            ) as readable
        from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where c.relname = any (cast(:tables as text[]))
        and coalesce(n.nspname = cast(:schema as text), pg_table_is_visible(c.oid))
    ) t
    """,
    ("names", "tables", "schema"),
)

REVISION = Statement("select version_num from insights.alembic_version")

#: What each of MLflow's tables says, apart: a role may be kept from some of them.
MLFLOW = {
    "alembic_version": Statement("select version_num from {schema}alembic_version limit 1"),
    "experiments": Statement("select count(*) from {schema}experiments"),
    "trace_info": Statement("select count(*) from {schema}trace_info"),
}
