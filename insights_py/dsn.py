"""The ways to name a database, all turned into what libpq reads.

Understood are libpq's own two forms (``host=db dbname=mlflow`` and
``postgresql://...``) and SQLAlchemy's, which MLflow uses: the same with a
driver, as in ``postgresql+psycopg2://...``, and with its rules for quoting.
"""

from __future__ import annotations

import re

from insights_py.errors import ArgumentError

__all__ = [
    "from_keyword",
    "has_password",
    "is_postgresql",
    "libpq",
    "wants_password",
    "with_password",
]

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


def from_keyword(keyword: str, value: str) -> str:
    """A connection string with one keyword, such as ``service``."""
    from psycopg.conninfo import make_conninfo

    return make_conninfo("", **{keyword: value})


def has_password(dsn: str) -> bool:
    """Whether the password stands in ``dsn`` itself, which is one that `libpq` reads."""
    from psycopg.conninfo import conninfo_to_dict

    return bool(conninfo_to_dict(libpq(dsn)).get("password"))


def with_password(dsn: str, password: str) -> str:
    """``dsn`` with a password in it, for this process alone."""
    from psycopg.conninfo import make_conninfo

    return make_conninfo(libpq(dsn), password=password)


def wants_password(dsn: str) -> str | None:
    """As whom the server asks for a password that is found nowhere; None if it does not ask.

    Nowhere: neither in ``dsn``, a service file, a password file nor the environment.
    """
    import psycopg

    try:
        psycopg.connect(libpq(dsn), connect_timeout=10).close()
    except psycopg.OperationalError as error:
        if error.pgconn is not None and error.pgconn.needs_password:
            return error.pgconn.user.decode(errors="replace")
    # Whatever else is wrong comes up again, where it is reported.
    return None


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
