"""Connections that notice when their server is gone, and how to notice that they are lost."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from insights_py.dsn import libpq

if TYPE_CHECKING:
    import psycopg

__all__ = ["connect", "lost", "patient"]

# Without these a connection through which nothing comes any more lasts for hours.
_NOTICING: Mapping[str, int] = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}
_VARIABLES = {"connect_timeout": "PGCONNECT_TIMEOUT"}


def patient(dsn: str) -> str:
    """``dsn`` for libpq, with time limits where it has none of its own."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    address = libpq(dsn)
    given = conninfo_to_dict(address)
    missing = {
        name: value
        for name, value in _NOTICING.items()
        if name not in given and not os.environ.get(_VARIABLES.get(name, ""))
    }
    return make_conninfo(address, **missing)


def connect(dsn: str, name: str) -> psycopg.Connection[Any]:
    """A connection in autocommit mode, whose transactions are READ COMMITTED and may write.

    That holds for those begun with `transaction`, whatever the database's defaults are.
    """
    import psycopg

    connection = psycopg.connect(patient(dsn), autocommit=True, fallback_application_name=name)
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    connection.read_only = False
    return connection


def lost(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Whether the server has ended a connection since it was last used.

    Looks at what has arrived and does not ask the server.  Nobody else may be using
    the connection.
    """
    import psycopg

    if connection.closed:
        return True
    try:
        # The server's farewell comes first, the end of the stream after it.
        for _ in range(3):
            connection.pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return connection.closed
