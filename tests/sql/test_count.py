"""insights_count: what counts, and that one snapshot answers."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.semantics.world import Span, Trace, attributes
from tests.sql.conftest import Loader, checked


def count(connection: psycopg.Connection[Any], *arguments: Any) -> int:
    places = ", ".join(["%s"] * len(arguments))
    row = connection.execute(f"select insights_count({places})", arguments).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def three(put: Loader) -> None:
    put(
        Trace("a", 1, 1, tags={"env": "prod"}, spans=(Span("s", attributes(model="gpt-4")),)),
        Trace("b", 1, 2, status="ERROR", tags={"env": "dev"}),
        Trace("c", 2, 3, tags={"env": "prod"}),
    )


@pytest.mark.usefixtures("three")
def test_experiments_in_every_form(module_conn: psycopg.Connection[Any]) -> None:
    for exp_ids, expected in [
        (["1"], 2),
        ([1], 2),
        ([1, 2], 3),
        ([2, 2, 2], 1),
        ("1", 2),
        ("1,2", 3),
        ("{1, 2}", 3),
        ('{"1"}', 2),
        ("", 0),
        ("{}", 0),
        (None, 3),
        ([99], 0),
        (["00001"], 2),
    ]:
        assert count(module_conn, exp_ids) == expected, exp_ids
    assert module_conn.execute("select insights_count('{}'::text[])").fetchone() == (0,)
    assert module_conn.execute("select insights_count('{}'::int[], '')").fetchone() == (0,)


@pytest.mark.usefixtures("three")
def test_filters(module_conn: psycopg.Connection[Any]) -> None:
    for filter, expected in [
        (None, 2),
        ("", 2),
        ("AND", 2),
        ("tags.env = 'prod'", 1),
        ("tags.env = 'prod' OR status = 'ERROR'", 2),
        ("NOT span.attributes.model = 'gpt-4'", 1),
        ("timestamp_ms < now()", 2),
        ("timestamp_ms > now() - '24 hours'", 0),
    ]:
        assert count(module_conn, "1", filter) == expected, filter


@pytest.mark.usefixtures("three")
def test_a_bad_filter_is_refused_even_where_nothing_is_asked(
    module_conn: psycopg.Connection[Any],
) -> None:
    for exp_ids in ("{1}", "{}", None):
        with pytest.raises(psycopg.Error) as caught:
            count(module_conn, exp_ids, "status = ")
        checked(caught.value)


def test_bad_ids_are_refused(module_conn: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.Error) as caught:
        count(module_conn, "1,x")
    message = checked(caught.value).message_primary
    assert message == "Invalid experiment ID 'x'. Experiment ID must be a valid integer."


@pytest.mark.usefixtures("three")
def test_a_reader_role_counts(reader: psycopg.Connection[Any]) -> None:
    # A database of its own: what matters is that the role may.
    assert count(reader, None) == 0


@pytest.mark.usefixtures("three")
def test_read_only_transactions_and_subqueries(module_conn: psycopg.Connection[Any]) -> None:
    with module_conn.transaction():
        module_conn.execute("set transaction read only")
        assert count(module_conn, "1", "tags.env = 'prod'") == 1
    rows = module_conn.execute(
        "select e.experiment_id, insights_count(array[e.experiment_id], 'status = ''OK''') "
        "from experiments e where e.experiment_id < 3 order by 1"
    ).fetchall()
    assert rows == [(1, 1), (2, 1)]


@pytest.mark.usefixtures("three")
def test_the_snapshot_is_the_callers(module_dsn: str) -> None:
    with psycopg.connect(module_dsn) as first, psycopg.connect(module_dsn) as second:
        first.execute("set transaction isolation level repeatable read")
        assert count(first, "1") == 2
        second.execute(
            "insert into trace_info (request_id, experiment_id, timestamp_ms, status) "
            "values ('d', 1, 4, 'OK')"
        )
        second.commit()
        assert count(first, "1") == 2
        first.commit()
        assert count(first, "1") == 3


def test_unanalysed_tables_do_no_harm(put: Loader, module_conn: psycopg.Connection[Any]) -> None:
    """Estimates of a table that was just filled are far off; answers must not take for ever."""
    put()
    module_conn.execute(
        "insert into trace_info (request_id, experiment_id, timestamp_ms, status) "
        "select 't' || n, 1, n, 'OK' from generate_series(1, 20000) n"
    )
    with module_conn.transaction():
        module_conn.execute("set local statement_timeout = '30s'")
        row = module_conn.execute(
            "select joint_count from insights_correlate('1', 'status = ''OK''', 'name is null')"
        ).fetchone()
    assert row == (20000,)


def test_values_travel_unharmed(put: Loader, module_conn: psycopg.Connection[Any]) -> None:
    """Through the array that carries the parameters, quotes and braces included."""
    values = ['a"b', "c\\d", "{x}", "NULL", "", " ", "e,f", "it's", "$1", "%s", "日本\u0001", "\n"]
    put(*(Trace(f"t{n}", 1, n, tags={"v": value}) for n, value in enumerate(values)))
    quoted = ["'" + value.replace("'", "''") + "'" for value in values]
    assert count(module_conn, "1", f"tags.v IN ({', '.join(quoted)})") == len(values)
    for value in quoted:
        assert count(module_conn, "1", f"tags.v = {value}") == 1, value
        assert count(module_conn, "1", f"tags.v NOT IN ({value}, 'other')") == len(values) - 1
