"""The forms in which a database can be named."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from insights_py import ArgumentError, Insights
from insights_py.dsn import is_postgresql, libpq


@pytest.mark.parametrize(
    ("dsn", "parts"),
    [
        (
            "postgresql+psycopg2://us%40er:p%2Fw%25@db:5433/mlflow?sslmode=require",
            {
                "user": "us@er",
                "password": "p/w%",
                "host": "db",
                "port": "5433",
                "dbname": "mlflow",
                "sslmode": "require",
            },
        ),
        (
            "postgresql+psycopg://me@/mlflow?host=/var/run/postgresql",
            {"user": "me", "host": "/var/run/postgresql", "dbname": "mlflow"},
        ),
        (
            "postgresql+psycopg://me@/mlflow?host=one:5432&host=two:5433",
            {"user": "me", "host": "one,two", "port": "5432,5433", "dbname": "mlflow"},
        ),
        (
            "postgresql+psycopg2://db/mlflow?options=-csearch_path%3Dtraces",
            {"host": "db", "dbname": "mlflow", "options": "-csearch_path=traces"},
        ),
        (
            "postgresql://me@db/mlflow?options=-csearch_path%3Dtraces&connect_timeout=5",
            {
                "user": "me",
                "host": "db",
                "dbname": "mlflow",
                "options": "-csearch_path=traces",
                "connect_timeout": "5",
            },
        ),
        ("postgres://db/mlflow", {"host": "db", "dbname": "mlflow"}),
        ("POSTGRESQL+PSYCOPG://db/mlflow", {"host": "db", "dbname": "mlflow"}),
        (
            "host=db dbname='my db' password='it''s'",
            None,
        ),
        (
            "host=db dbname='my db' password='it\\'s'",
            {"host": "db", "dbname": "my db", "password": "it's"},
        ),
    ],
)
def test_forms(dsn: str, parts: dict[str, Any] | None) -> None:
    if parts is None:
        with pytest.raises(ArgumentError, match="cannot be read"):
            libpq(dsn)
    else:
        assert conninfo_to_dict(libpq(dsn)) == parts
        assert is_postgresql(dsn)


@pytest.mark.parametrize(
    "dsn",
    [
        "http://127.0.0.1:5000",
        "sqlite:///mlflow.db",
        "mysql+pymysql://db/mlflow",
        "databricks",
        "file:///srv/mlruns",
        "",
    ],
)
def test_what_is_no_postgresql_database(dsn: str) -> None:
    assert not is_postgresql(dsn)
    with pytest.raises(ArgumentError, match="not the address of a PostgreSQL database"):
        Insights(dsn)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://me:top%secret@db/mlflow",
        "host=db 'top secret'",
        "postgresql+psycopg://me:topsecret@db:port/mlflow",
    ],
)
def test_an_unreadable_address_does_not_show_the_password(dsn: str) -> None:
    with pytest.raises(ArgumentError, match="cannot be read") as caught:
        libpq(dsn)
    assert "secret" not in str(caught.value)


def forms(dsn: str) -> list[str]:
    parts = urlsplit(dsn)
    rest = dsn.partition("://")[2]
    keywords = f"host={parts.hostname} port={parts.port} user={parts.username}"
    if parts.password:
        keywords += f" password={parts.password}"
    return [
        f"postgresql://{rest}",
        f"postgres://{rest}",
        f"postgresql+psycopg://{rest}",
        f"postgresql+psycopg2://{rest}?application_name=other",
        f"{keywords} dbname={parts.path[1:]}",
    ]


@pytest.mark.parametrize("form", range(5))
def test_each_form_connects(world_dsn: str, form: int) -> None:
    with Insights(forms(world_dsn)[form]) as insights:
        assert insights.count() == 48


def test_the_server_knows_who_is_there(world_dsn: str) -> None:
    with Insights(world_dsn) as insights, psycopg.connect(world_dsn) as other:
        insights.count()
        assert insights._own is not None
        name = other.execute(
            "select application_name from pg_stat_activity where pid = %s",
            [insights._own.info.backend_pid],
        ).fetchone()
    assert name == ("insights",)
