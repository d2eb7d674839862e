"""Exit codes, which scripts may rely on."""

from __future__ import annotations

from insights_py.errors import (
    ArgumentError,
    Cancelled,
    ConnectionFailed,
    InsightsError,
    InstallError,
    NotInstalled,
    PermissionDenied,
)

#: The command did what it was asked.
OK = 0
#: With ``--exit-code``: no trace matches.  ``doctor``: a problem was found.
NOTHING = 1
#: A wrong option, argument or filter.
USAGE = 2
#: The database lacks the functions, or they cannot be installed or removed.
NOT_INSTALLED = 3
#: No connection to the database.
CONNECTION = 4
#: The role may not do this.
PERMISSION = 5
#: Any other error of the database, a cancelled statement among them.
DATABASE = 6
#: Interrupted with Ctrl-C.
INTERRUPTED = 130

_CODES: tuple[tuple[type[InsightsError], int], ...] = (
    (ArgumentError, USAGE),
    (NotInstalled, NOT_INSTALLED),
    (InstallError, NOT_INSTALLED),
    (ConnectionFailed, CONNECTION),
    (PermissionDenied, PERMISSION),
    (Cancelled, DATABASE),
)


def code(error: InsightsError) -> int:
    """The exit code for an error."""
    for kind, number in _CODES:
        if isinstance(error, kind):
            return number
    return DATABASE
