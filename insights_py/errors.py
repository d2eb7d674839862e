"""What can go wrong, told apart by SQLSTATE.

The database's SQLSTATE is the contract, never the text of a message:

========================  ==============================================
SQLSTATE                  raised here
========================  ==============================================
22023 with a caret        `FilterError`, a filter that cannot be read
other class 22, or the    `ArgumentError`, another argument is wrong, or asks for
driver's DataError        a value that Python does not have
42883, 3F000, 42P01,      `NotInstalled`
42704
42501                     `PermissionDenied`
57014                     `Cancelled`, by a timeout or by someone
08xxx, 28xxx, 3D000,      `ConnectionFailed`
57P0x, none
anything else             `DatabaseError`
========================  ==============================================
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

__all__ = [
    "ArgumentError",
    "Cancelled",
    "ConnectionFailed",
    "DatabaseError",
    "FilterError",
    "InsightsError",
    "InstallError",
    "NotInstalled",
    "PermissionDenied",
    "from_driver",
    "translated",
]


class InsightsError(Exception):
    """The base of every error of this package.

    ``message`` is one line; ``detail`` and ``hint`` are None or text;
    ``sqlstate`` is the database's five characters, or None where the database
    was never asked.
    """

    def __init__(
        self,
        message: str,
        *,
        detail: str | None = None,
        hint: str | None = None,
        sqlstate: str | None = None,
    ) -> None:
        super().__init__(message, detail, hint, sqlstate)
        self.message = message
        self.detail = detail
        self.hint = hint
        self.sqlstate = sqlstate

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.message, self.detail, self.hint, self.sqlstate)

    def __str__(self) -> str:
        parts = [self.message]
        if self.detail:
            parts.append(self.detail)
        if self.hint:
            parts.append(f"Hint: {self.hint}")
        return "\n".join(parts)


def _restore(
    kind: type[InsightsError],
    message: str,
    detail: str | None,
    hint: str | None,
    sqlstate: str | None,
) -> InsightsError:
    return kind(message, detail=detail, hint=hint, sqlstate=sqlstate)


class ArgumentError(InsightsError, ValueError):
    """An argument other than a filter is wrong (page size, page token, order, ...)."""


class FilterError(ArgumentError):
    """A filter that cannot be read or makes no sense.

    ``detail`` shows the filter with a caret under the place.
    """

    @property
    def excerpt(self) -> str | None:
        """The line of the filter that the caret points into; a long one is cut."""
        lines = self._caret_lines()
        return lines[0] if lines else None

    @property
    def position(self) -> int | None:
        """Where in `excerpt` the caret points, counted from 0; None if nowhere."""
        lines = self._caret_lines()
        return lines[1].index("^") if lines else None

    def _caret_lines(self) -> tuple[str, str] | None:
        lines = (self.detail or "").split("\n")
        for above, below in pairwise(lines):
            if re.fullmatch(r" *\^[\^~]*", below):
                return above, below
        return None


class NotInstalled(InsightsError):
    """The database lacks the functions, or has them in a schema that is not searched."""


class InstallError(InsightsError):
    """Something stands in the way of installing or removing; nothing was changed."""


class PermissionDenied(InsightsError):
    """The role may not read MLflow's tables or call the functions."""


class ConnectionFailed(InsightsError):
    """No connection, or it broke; the answer is not known."""


class Cancelled(InsightsError):
    """The statement was cancelled: statement_timeout, or somebody's request."""


class DatabaseError(InsightsError):
    """Any other error of the database."""


INSTALL_HINT = (
    "Run `insights install --dsn DSN` once, as a superuser. If MLflow's tables are in a schema "
    "that the search path lacks, name it: schema='...', or --schema on the command line."
)


@contextmanager
def translated() -> Iterator[None]:
    """Raise the driver's errors as this package's; let every other exception through."""
    try:
        yield
    except Exception as error:
        mapped = from_driver(error)
        if mapped is None:
            raise
        if isinstance(mapped, ArgumentError):
            # The user's mistake: the driver's traceback above it would tell nothing.
            raise mapped from None
        raise mapped from error


def from_driver(error: BaseException) -> InsightsError | None:
    """The package's error for one of psycopg, psycopg2, asyncpg or SQLAlchemy; None for others."""
    if isinstance(error, ConnectionError):
        # asyncpg leaves these as they are.
        return ConnectionFailed(str(error))
    original = _driver_error(error)
    if original is None:
        return None
    sqlstate, message, detail, hint = _diagnosis(original)
    if sqlstate is None:
        if _is_connection_error(original):
            return ConnectionFailed(_first_line(message), detail=_rest(message))
        if _is_data_error(original):
            # The answer holds what Python has no value for, such as a time beyond the year 9999.
            return ArgumentError(_first_line(message), detail=_rest(message))
        return DatabaseError(_first_line(message), detail=_rest(message))
    if sqlstate == "22023" and detail is not None:
        # The empty first line keeps the caret under its place in psql.
        found = FilterError(message, detail=detail.lstrip("\n"), hint=hint, sqlstate=sqlstate)
        if found.position is not None:
            return found
    kind: type[InsightsError]
    if sqlstate.startswith("22"):
        kind = ArgumentError
    elif sqlstate in ("42883", "3F000", "42P01", "42704"):
        kind = NotInstalled
        detail, hint = message, INSTALL_HINT
        message = "the trace functions are not installed in this database"
    elif sqlstate == "42501":
        kind = PermissionDenied
        hint = hint or (
            "The role needs SELECT on MLflow's tables, EXECUTE on the insights functions "
            "and USAGE on schema insights."
        )
    elif sqlstate == "57014":
        kind = Cancelled
    elif sqlstate[:2] in ("08", "28") or sqlstate in ("3D000", "57P01", "57P02", "57P03", "53300"):
        kind = ConnectionFailed
    else:
        kind = DatabaseError
    return kind(message, detail=detail, hint=hint, sqlstate=sqlstate)


def _driver_error(error: BaseException) -> Any:
    """The driver's own exception inside ``error``, or None if it is none."""
    alchemy = sys.modules.get("sqlalchemy.exc")
    if alchemy is not None and isinstance(error, alchemy.DBAPIError):
        wrapped = error.orig
        # SQLAlchemy's asyncpg adapter wraps once more; its cause has the details.
        cause = getattr(wrapped, "__cause__", None)
        if type(cause).__module__.startswith("asyncpg"):
            return cause
        return wrapped
    for name in ("psycopg", "psycopg2"):
        driver = sys.modules.get(name)
        if driver is not None and isinstance(error, driver.Error):
            return error
    return None


def _diagnosis(error: Any) -> tuple[str | None, str, str | None, str | None]:
    """SQLSTATE, message, detail and hint of a driver's exception."""
    diag = getattr(error, "diag", None)
    if diag is not None and diag.message_primary is not None:
        return (
            diag.sqlstate,
            diag.message_primary,
            diag.message_detail,
            diag.message_hint,
        )
    if error.args and isinstance(error.args[0], dict) and "C" in error.args[0]:
        # pg8000 hands over the fields of the protocol.
        fields = error.args[0]
        return fields["C"], fields.get("M", ""), fields.get("D"), fields.get("H")
    sqlstate = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    message = getattr(error, "message", None) or str(error)
    return sqlstate, message, getattr(error, "detail", None), getattr(error, "hint", None)


def _is_connection_error(error: Any) -> bool:
    # psycopg and psycopg2 raise these two when there is no server to give a SQLSTATE.
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"OperationalError", "InterfaceError"})


def _is_data_error(error: Any) -> bool:
    return any(kind.__name__ == "DataError" for kind in type(error).__mro__)


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0]


def _rest(text: str) -> str | None:
    _, _, rest = text.strip().partition("\n")
    return rest.strip() or None
