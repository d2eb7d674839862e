"""What the client calls is what the database has: names, arguments, types, columns."""

from __future__ import annotations

import dataclasses
import inspect
from decimal import Decimal

import psycopg
import pytest

from insights_py import Insights, sql
from insights_py.analysis import Bucket, Facet, Fact, Pair
from insights_py.rows import (
    Correlation,
    Experiment,
    ExplainStep,
    IndexStatus,
    Refresh,
    Row,
    Trace,
    Wrong,
)

FUNCTIONS = pytest.mark.parametrize("function", sql.FUNCTIONS, ids=lambda f: f.name)

#: Values for arguments that are no filter for all.
GIVEN = {
    "exp_ids": None,
    "target": "span.status = 'ERROR'",
    "selection": "tags.release = 'v2'",
    "baseline": "tags.release = 'v1'",
    "filters": ["span.status = 'ERROR'", "tags.release = 'v1'"],
    "field": "tags.release",
}
#: Methods that are not called as the function is.
METHODS = {"insights_correlation_matrix": "matrix", "insights_status": "index_status"}


@FUNCTIONS
def test_the_function_takes_these_arguments(
    world_conn: psycopg.Connection, function: sql.Function
) -> None:
    declared = [
        dict(zip(names or [], types, strict=False))
        for names, types in world_conn.execute(
            """
            select
                p.proargnames::text[],
                array(
                    select format_type(oid, null)
                    from unnest(p.proargtypes) with ordinality a(oid, n)
                    order by n
                )
            from pg_proc p
            where p.proname = %s and pg_function_is_visible(p.oid)
            """,
            [function.name],
        )
    ]
    assert dict(function.arguments) in declared
    assert all(list(known) == list(function.arguments) for known in declared)


def _defaults(conn: psycopg.Connection, function: sql.Function) -> dict[str, object]:
    """The arguments that may be left out, with what they are then."""
    row = conn.execute(
        """
        select p.proargnames[:p.pronargs], p.pronargdefaults,
            pg_get_expr(p.proargdefaults, 'pg_proc'::regclass)
        from pg_proc p
        where p.proname = %s and pg_function_is_visible(p.oid)
        and oidvectortypes(p.proargtypes) = %s
        """,
        [function.name, ", ".join(function.arguments.values())],
    ).fetchone()
    assert row is not None
    names, count, expressions = row
    if not count:
        return {}
    values = conn.execute(f"select {expressions}".encode()).fetchone()
    assert values is not None
    return dict(zip(names[-count:], values, strict=True))


@FUNCTIONS
def test_the_method_has_the_same_defaults(
    world_conn: psycopg.Connection, function: sql.Function
) -> None:
    method = getattr(Insights, METHODS.get(function.name, function.name.removeprefix("insights_")))
    parameters = inspect.signature(method).parameters
    for name, value in _defaults(world_conn, function).items():
        default = parameters[name].default
        # Some methods insist on what the function can do without.
        if default is not inspect.Parameter.empty:
            assert default == (float(value) if isinstance(value, Decimal) else value), name


@FUNCTIONS
def test_the_function_returns_these_columns(
    world_conn: psycopg.Connection, function: sql.Function
) -> None:
    required = list(function.arguments)[: -len(_defaults(world_conn, function)) or None]
    call = function(**{name: GIVEN.get(name, "") for name in required})
    text = call.for_psycopg(None)
    if not function.columns:
        cursor = world_conn.execute(text.encode(), call.params)
        assert cursor.description is not None
        assert len(cursor.description) == 1
        return
    everything = "select * from" + text.partition(" from")[2]
    cursor = world_conn.execute(everything.encode(), call.params)
    assert cursor.description is not None
    names = [column.name for column in cursor.description]
    assert set(names) == {*function.columns, *function.unread}
    # What is read comes in the order in which the function has it.
    assert [name for name in names if name in function.columns] == list(function.columns)


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        (Trace, sql.SEARCH.columns[:-1]),
        (Correlation, sql.CORRELATE.columns),
        (Pair, sql.MATRIX.columns),
        (Fact, sql.DISCOVER.columns),
        (Fact, sql.COMPARE.columns),
        (Facet, sql.FACETS.columns),
        (Bucket, sql.TIMESERIES.columns),
        (ExplainStep, sql.EXPLAIN.columns),
        (IndexStatus, sql.INDEX_STATUS.columns),
        (Refresh, sql.REFRESH.columns),
        (Wrong, sql.VERIFY.columns),
        (Experiment, ("experiment_id", "name", "workspace", "lifecycle_stage")),
    ],
)
def test_a_row_has_a_field_for_each_column(kind: type[Row], columns: tuple[str, ...]) -> None:
    assert tuple(field.name for field in dataclasses.fields(kind)) == columns  # type: ignore[arg-type]


def test_every_public_function_of_the_database_has_a_method(
    world_conn: psycopg.Connection,
) -> None:
    public = {
        name
        for (name,) in world_conn.execute(
            "select distinct p.proname from pg_proc p where p.proname like 'insights\\_%%'"
            " and p.pronamespace = 'public'::regnamespace and p.prokind = 'f'",
            [],
        )
    }
    assert {function.name for function in sql.FUNCTIONS} == public


@FUNCTIONS
def test_only_arguments_that_exist_can_be_given(function: sql.Function) -> None:
    with pytest.raises(TypeError, match="has no argument nonsense"):
        function(nonsense=1)


def test_a_statement_takes_exactly_its_arguments() -> None:
    with pytest.raises(TypeError, match="takes exactly"):
        sql.CATALOGUE(names=[])


def test_values_and_schemas_cannot_break_the_text() -> None:
    call = sql.COUNT(exp_ids=None, filter="x")
    assert call.for_psycopg('we"ird%s:x') == (
        'select "we""ird%%s:x".insights_count('
        "exp_ids => cast(%(exp_ids)s as text[]), filter => cast(%(filter)s as text))"
    )
    assert call.for_sqlalchemy('we"ird%s:x') == (
        'select "we""ird%s\\:x".insights_count('
        "exp_ids => cast(:exp_ids as text[]), filter => cast(:filter as text))"
    )


def test_the_statements_over_the_catalogue_run_as_a_reader(world_reader_dsn: str) -> None:
    with psycopg.connect(world_reader_dsn) as reader:
        for call in (
            sql.CATALOGUE(names=["insights_count"], tables=["trace_info"], schema=None),
            sql.EXPERIMENTS(),
            *(statement() for statement in sql.MLFLOW.values()),
            sql.INDEXED(),
        ):
            assert reader.execute(call.for_psycopg(None).encode(), call.params).fetchall()
