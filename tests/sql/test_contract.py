"""The columns of MLflow's that the functions use are those of the contract: no more, no fewer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from insights_dev.cluster import ROOT
from insights_py import contract
from tests.conftest import Databases
from tests.semantics.world import (
    COST_COLUMNS,
    SESSION_METADATA,
    TOKEN_COLUMNS,
    Assessment,
    Experiment,
    Span,
    Trace,
    World,
    attributes,
    load,
)

TRACE = Trace(
    trace_id="tr-1",
    experiment_id=1,
    timestamp_ms=1_000,
    execution_time_ms=20,
    client_request_id="c",
    request_preview="q",
    response_preview="a",
    name="chat",
    session_id="s",
    tokens=dict.fromkeys(TOKEN_COLUMNS, 5),
    cost=dict.fromkeys(COST_COLUMNS, 0.5),
    tags={"env": "dev"},
    metadata={"mlflow.trace.user": "u", "mlflow.sourceRun": "r"},
    spans=(Span("1", attributes(model="m"), "call", "LLM"),),
    assessments=(
        Assessment("feedback", "quality", "1", metadata=SESSION_METADATA),
        Assessment("expectation", "answer", '"x"'),
        Assessment("issue", "i", "true"),
    ),
    runs=("r",),
    prompts=("p/1",),
)

FILTERS = (
    "trace_id = 'a'",
    "name = 'a' AND status = 'OK' AND client_request_id = 'c'",
    "request_preview = 'a' OR response_preview = 'a' OR session = 'a' OR user = 'a'",
    "timestamp > 1 AND execution_time > 1 AND end_time > 1",
    "run_id = 'r'",
    "prompt = 'p/1'",
    " OR ".join(f"{column} > 1" for column in (*TOKEN_COLUMNS, *COST_COLUMNS)),
    "metadata.`mlflow.trace.tokenUsage` = 'a' OR metadata.`mlflow.trace.cost` = 'a'",
    "tags.env = 'dev' OR metadata.m = 'a'",
    "feedback.quality > 0.5",
    "expectation.answer = 'x'",
    "assessment.answer IS NULL",
    "issue.id = 'i'",
    "span.name = 'call' AND span.type = 'LLM' AND span.status = 'OK' AND span.duration_ms > 1",
    "span.content LIKE '%m%'",
    "span.attributes.model = 'm'",
    "count(span.type = 'LLM') > 1 AND avg(span.duration_ms) > 1",
)

CALLS = (
    *("select insights_verify()", "select insights_refresh(1000)"),
    *("select insights_status()", "select * from insights.search_page(null, '', 10)"),
    "select insights_search(null::text[], '')",
    "select insights_search(null::text[], '', order_by => '{end_time,tags.env,feedback.quality}')",
    "select insights_timeseries(null::text[], '', '1 hour')",
    "select insights_facets(null::text[], '', 'span.attributes.model')",
    "select insights_facets(null::text[], '', 'total_cost')",
    "select insights_discover(null::text[], 'status = ''OK''')",
    "select insights_discover(null::text[], 'status = ''OK''', unit => 'session')",
)


@pytest.fixture(scope="module")
def used(databases: Databases) -> Iterator[psycopg.Connection]:
    """A database with a trace of everything: one of them indexed, one changed since."""
    with databases.fresh("insights") as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        traces = (TRACE, replace(TRACE, trace_id="tr-2", timestamp_ms=2_000))
        load(connection, World((Experiment(1),), traces))
        connection.execute("call insights_rebuild()")
        connection.execute("update trace_tags set value = 'prod' where request_id = 'tr-2'")
        yield connection


def columns(connection: psycopg.Connection) -> list[tuple[str, str]]:
    """Every column of the six tables."""
    return connection.execute(
        "select table_name, column_name from information_schema.columns"
        " where table_schema = 'public' and table_name = any(%s) order by 1, 2",
        [list(contract.COLUMNS)],
    ).fetchall()


def works(connection: psycopg.Connection) -> bool:
    """Whether every kind of call does, with the index and without it."""
    counts = [("select insights_count(null::text[], %s)", [text]) for text in FILTERS]
    try:
        for query in CALLS:
            connection.execute(query.encode())
        connection.execute("update insights.state set built = false")
        for query, values in counts:
            connection.execute(query.encode(), values)
        for query in CALLS[3:]:
            connection.execute(query.encode())
    except psycopg.errors.UndefinedColumn:
        return False
    return True


def test_the_columns_that_are_used(used: psycopg.Connection) -> None:
    """Renamed, each of the contract's is missed, and no other one is."""
    missed = set()
    for table, column in columns(used):
        with used.transaction(force_rollback=True):
            used.execute(
                sql.SQL("alter table {} rename column {} to something_else").format(
                    sql.Identifier(table), sql.Identifier(column)
                )
            )
            if not works(used):
                missed.add((table, column))
    assert missed == {(t, column) for t, known in contract.COLUMNS.items() for column in known}


def test_foreign_code_is_looked_for_in_the_columns_of_the_contract() -> None:
    text = (ROOT / "sql" / "internal" / "foreign_code.sql").read_text()
    used = text.partition("used constant name[] := array[")[2].partition("];")[0]
    columns = {column for wanted in contract.COLUMNS.values() for column in wanted}
    assert set(re.findall(r"'(\w+)'", used)) == columns
