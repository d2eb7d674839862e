"""What the client calls is what the database has: names, arguments, types, columns."""

from __future__ import annotations

import dataclasses

import psycopg
import pytest

from insights_py import sql
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
            where p.proname = %s
            """,
            [function.name],
        )
    ]
    assert dict(function.arguments) in declared
    assert all(list(known) == list(function.arguments) for known in declared)


@FUNCTIONS
def test_the_function_returns_these_columns(
    world_conn: psycopg.Connection, function: sql.Function
) -> None:
    call = function(
        **{
            name: 1 if kind == "integer" else "" if name.startswith("filter") else None
            for name, kind in function.arguments.items()
        }
    )
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
            sql.CATALOGUE(names=["insights_count"], schema=None),
            sql.EXPERIMENTS(),
            sql.MLFLOW(),
            sql.INDEXED(),
        ):
            assert reader.execute(call.for_psycopg(None).encode(), call.params).fetchall()
