"""Whether the index can know of every change, and whether MLflow's tables are what they were.

The catalogue says so (``insights.fingerprint``).  Reading it takes a good part of the time of
the shortest question, so a session reads it only when some transaction has ended since: what
no transaction has changed is as it was.
"""

from __future__ import annotations

from typing import Any

from insights_engine.base import plans

#: insufficient_privilege
_DENIED = "42501"

#: That no transaction has ended since the snapshot $1 was taken, and this one has changed
#: nothing: its own changes are in all of its snapshots.  A standby's do not list what runs.
_UNCHANGED = (
    "(pg_catalog.pg_current_snapshot()::text = $1"
    " and pg_catalog.pg_current_xact_id_if_assigned() is null"
    " and not pg_catalog.pg_is_in_recovery())"
)
#: The snapshot, for `found_intact`; empty where something of this transaction's own is in it.
SNAPSHOT = (
    "case when pg_catalog.pg_current_xact_id_if_assigned() is null"
    " then pg_catalog.pg_current_snapshot()::text else '' end"
)

#: That the catalogue says what it said when nothing had gone unnoticed, of ``insights.state
#: s``; $1: `last_snapshot`.
WATCHED = f"({_UNCHANGED} or s.fingerprint = insights.fingerprint())"

_last_snapshot = ""
_guarded_snapshot = ""


def last_snapshot() -> str:
    """The latest snapshot in which this session found everything as it was, or ''."""
    return _last_snapshot


def found_intact(snapshot: str) -> None:
    """Notes that in this snapshot everything was as it had been."""
    global _last_snapshot
    _last_snapshot = snapshot


def denied(error: Any) -> bool:
    """Whether PostgreSQL refused something for want of a privilege."""
    return str(error.sqlstate) == _DENIED


def guard(plpy: Any, writing: bool = False) -> None:
    """Refuses where reading MLflow's tables would run code of their owner's.

    ``writing``: for whoever keeps the index up to date.
    """
    global _guarded_snapshot
    (row,) = plans.run(
        plpy,
        f"select case when not $2 and {_UNCHANGED} then true else insights.guard($2) end,"
        f" {SNAPSHOT} as snapshot",
        ("text", "boolean"),
        (_guarded_snapshot, writing),
    )
    _guarded_snapshot = row["snapshot"]
