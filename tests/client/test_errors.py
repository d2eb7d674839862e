"""Errors by SQLSTATE, from every driver, and what they tell."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy

from insights_py import (
    ArgumentError,
    Cancelled,
    ConnectionFailed,
    DatabaseError,
    FilterError,
    Insights,
    InsightsError,
    NotInstalled,
    PermissionDenied,
)
from insights_py.errors import from_driver, translated

DRIVERS = pytest.mark.parametrize("driver", ["psycopg 3", "psycopg", "psycopg2"])


def database(dsn: str, driver: str) -> Any:
    """The DSN itself for psycopg 3, an SQLAlchemy engine for the drivers under it."""
    if driver == "psycopg 3":
        return dsn
    return sqlalchemy.create_engine(
        dsn.replace("postgresql://", f"postgresql+{driver}://", 1), poolclass=sqlalchemy.NullPool
    )


@pytest.fixture(scope="module")
def insights(world_dsn: str) -> Iterator[Insights]:
    with Insights(world_dsn) as client:
        yield client


@DRIVERS
def test_a_bad_filter(world_dsn: str, driver: str) -> None:
    with Insights(database(world_dsn, driver)) as insights, pytest.raises(FilterError) as caught:
        insights.count("tags.release = 'v2' AND span.stats = 'ERROR'")
    error = caught.value
    assert error.sqlstate == "22023"
    assert error.message.startswith("Invalid span attribute 'stats'.")
    assert "\n" not in error.message
    assert error.detail == (
        "tags.release = 'v2' AND span.stats = 'ERROR'\n                             ^^^^^"
    )
    assert error.excerpt == "tags.release = 'v2' AND span.stats = 'ERROR'"
    assert error.position == 29
    assert str(error.hint).startswith("Did you mean span.status? Fields of a span: name, ")
    assert str(error) == f"{error.message}\n{error.detail}\nHint: {error.hint}"
    assert isinstance(error, ValueError)
    # Nothing of the driver's, and no traceback of the server's, is in the way.
    assert error.__suppress_context__
    assert "Traceback" not in str(error)


@pytest.mark.parametrize(
    "call",
    [
        lambda insights, bad: insights.search(bad),
        lambda insights, bad: next(insights.search_iter(bad)),
        lambda insights, bad: insights.count(bad),
        lambda insights, bad: insights.correlate(bad, ""),
        lambda insights, bad: insights.correlate("", bad),
        lambda insights, bad: insights.correlate("", "", bad),
        lambda insights, bad: insights.validate(bad),
        lambda insights, bad: insights.explain(bad),
    ],
)
def test_every_method_refuses_a_bad_filter(insights: Insights, call: Any) -> None:
    with pytest.raises(FilterError) as caught:
        call(insights, "status = ")
    assert caught.value.position is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_results": 0}, "max_results"),
        ({"max_results": 50_001}, "max_results"),
        ({"max_results": 2**31}, "integer"),
        ({"page_token": "nonsense"}, "page token"),
        ({"order_by": "nonsense"}, "nonsense"),
        ({"experiment_ids": "x1"}, "x1"),
    ],
)
def test_a_bad_argument_is_no_bad_filter(
    insights: Insights, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        insights.search(**arguments)
    assert not isinstance(caught.value, FilterError)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"filter": "tags.x = 'a\0b'"}, FilterError),
        ({"filter": "tags.x = '\ud800'"}, FilterError),
        ({"order_by": "\0"}, ArgumentError),
        ({"page_token": "\0"}, ArgumentError),
        ({"experiment_ids": "\udfff"}, ArgumentError),
    ],
)
def test_what_no_text_of_postgresql_can_hold(
    insights: Insights, arguments: dict[str, Any], kind: type[InsightsError]
) -> None:
    with pytest.raises(kind, match="no text in PostgreSQL has one"):
        insights.search(**arguments)


@DRIVERS
def test_functions_that_are_not_there(mlflow_only_dsn: str, driver: str) -> None:
    insights = Insights(database(mlflow_only_dsn, driver))
    with insights, pytest.raises(NotInstalled) as caught:
        insights.count()
    assert caught.value.sqlstate == "42883"
    assert "insights install --dsn" in (caught.value.hint or "")
    assert "insights_count" in (caught.value.detail or "")


def test_a_schema_that_is_not_there(world_dsn: str) -> None:
    with Insights(world_dsn, schema="nowhere") as insights, pytest.raises(NotInstalled) as caught:
        insights.count()
    assert caught.value.sqlstate == "3F000"


@DRIVERS
def test_a_role_that_may_not_read(world_dsn: str, world_reader_dsn: str, driver: str) -> None:
    with psycopg.connect(world_dsn, autocommit=True) as admin:
        admin.execute("revoke select on trace_info from trace_reader")
        try:
            with (
                Insights(database(world_reader_dsn, driver)) as insights,
                pytest.raises(PermissionDenied) as caught,
            ):
                insights.count()
        finally:
            admin.execute("grant select on trace_info to trace_reader")
    assert caught.value.sqlstate == "42501"
    assert "trace_info" in caught.value.message
    assert "SELECT on MLflow's tables" in (caught.value.hint or "")


def test_a_role_that_may_only_read_is_enough(world_reader_dsn: str) -> None:
    with Insights(world_reader_dsn) as insights:
        assert insights.count("span.status = 'ERROR'") == 11
        assert insights.status().traces == 48


@DRIVERS
def test_no_server(driver: str) -> None:
    dsn = "postgresql://nobody:secret@127.0.0.1:1/nothing"
    with Insights(database(dsn, driver)) as insights, pytest.raises(ConnectionFailed) as caught:
        insights.count()
    assert "secret" not in str(caught.value)
    assert "\n" not in caught.value.message


def test_no_such_database(world_dsn: str) -> None:
    dsn = world_dsn.rpartition("/")[0] + "/no_such_database"
    with Insights(dsn) as insights, pytest.raises(ConnectionFailed, match="no_such_database"):
        insights.count()


@DRIVERS
def test_a_statement_that_takes_too_long(world_dsn: str, driver: str) -> None:
    dsn = world_dsn + "?options=-cstatement_timeout%3D200"
    with psycopg.connect(world_dsn) as other:
        other.execute("lock table trace_info, insights.state in access exclusive mode")
        with Insights(database(dsn, driver)) as insights, pytest.raises(Cancelled) as caught:
            insights.count()
    assert caught.value.sqlstate == "57014"


def test_a_connection_that_is_cut(world_dsn: str) -> None:
    with Insights(world_dsn) as insights:
        insights.count()
        with psycopg.connect(world_dsn, autocommit=True) as admin:
            assert insights._own is not None
            admin.execute("select pg_terminate_backend(%s)", [insights._own.info.backend_pid])
        with pytest.raises(ConnectionFailed):
            insights.count()
        # The next call connects again.
        assert insights.count() == 48


def test_any_other_error_of_the_database(world_dsn: str) -> None:
    with psycopg.connect(world_dsn) as connection, Insights(connection) as insights:
        with pytest.raises(FilterError):
            insights.count("nonsense = 'x'")
        with pytest.raises(DatabaseError) as caught:
            insights.count()
        assert caught.value.sqlstate == "25P02"
        assert caught.value.__cause__ is not None


def test_other_exceptions_pass() -> None:
    assert from_driver(ValueError("x")) is None
    with pytest.raises(ZeroDivisionError), translated():
        raise ZeroDivisionError


def test_errors_travel_between_processes() -> None:
    error = FilterError("no", detail="a = \n   ^", hint="do", sqlstate="22023")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is FilterError
        assert str(twin) == str(error)
        assert (twin.position, twin.sqlstate) == (3, "22023")


def test_an_error_without_a_place() -> None:
    error = FilterError("The filter is too long", sqlstate="22023")
    assert error.position is None
    assert error.excerpt is None
    assert str(error) == "The filter is too long"
    assert FilterError("x", detail="Line 2 of 3:\nb = \n   ^^").excerpt == "b = "


class _Pg8000Error(Exception):
    """As pg8000 raises it: the fields of PostgreSQL's protocol in a dictionary."""


class _AsyncpgError(Exception):
    """As asyncpg raises it: the fields as attributes."""

    sqlstate = "22023"
    message = "no"
    detail = "a = \n   ^"
    hint = "do"


_AsyncpgError.__module__ = "asyncpg.exceptions"


def test_drivers_that_are_not_installed_here() -> None:
    fields = {"S": "ERROR", "C": "22023", "M": "no", "D": "a = \n   ^", "H": "do"}
    adapted = Exception("SQLAlchemy's own text")
    adapted.__cause__ = _AsyncpgError()
    for original in (_Pg8000Error(fields), adapted):
        found = from_driver(sqlalchemy.exc.DBAPIError("select", {}, original))
        assert isinstance(found, FilterError)
        assert (found.message, found.position, found.hint) == ("no", 3, "do")
    assert isinstance(from_driver(ConnectionRefusedError("refused")), ConnectionFailed)
