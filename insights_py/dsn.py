"""The ways to name a database, all turned into what libpq reads.

Understood are libpq's own two forms (``host=db dbname=mlflow`` and
``postgresql://...``) and SQLAlchemy's, which MLflow uses: the same with a
driver, as in ``postgresql+psycopg2://...``, and with its rules for quoting.
"""

from __future__ import annotations

import re

from insights_py.errors import ArgumentError

__all__ = ["is_postgresql", "libpq"]

_WITH_DRIVER = re.compile(r"postgres(?:ql)?\+\w+://", re.IGNORECASE)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def is_postgresql(dsn: str) -> bool:
    """Whether ``dsn`` is of a form that names a PostgreSQL database."""
    scheme = _SCHEME.match(dsn)
    if scheme is None:
        return "=" in dsn
    return scheme.group(1).lower().partition("+")[0] in ("postgresql", "postgres")


def libpq(dsn: str) -> str:
    """``dsn`` as a libpq connection string.

    Raises `ArgumentError` for what is no address of a PostgreSQL database.
    """
    import psycopg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    if not is_postgresql(dsn):
        scheme = _SCHEME.match(dsn)
        what = f"{scheme.group(1)}:// is" if scheme else "This is"
        raise ArgumentError(
            f"{what} not the address of a PostgreSQL database",
            hint="Write postgresql://user:password@host:5432/mlflow, the address that "
            "MLflow's own --backend-store-uri has, or 'host=... dbname=...'.",
        )
    if _WITH_DRIVER.match(dsn):
        return make_conninfo("", **_from_sqlalchemy(dsn))
    try:
        conninfo_to_dict(dsn)
    except psycopg.Error as error:
        # What libpq quotes may be a piece of the password.
        reason = re.sub(r'"[^"]*"', '"…"', str(error).strip().split("\n")[0])
        raise ArgumentError(f"The database address cannot be read: {reason}") from None
    return dsn


def _from_sqlalchemy(dsn: str) -> dict[str, str]:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError as Unreadable

    try:
        url = make_url(dsn)
    except (Unreadable, ValueError):
        raise ArgumentError("The database address cannot be read as an SQLAlchemy URL") from None
    url = url.set(drivername="postgresql+psycopg")
    _, keywords = url.get_dialect()().create_connect_args(url)
    return {name: str(value) for name, value in keywords.items()}
