"""What the bundle does in DO blocks, which nobody can read: rights, policies, owners.

The one place to change with ``sql/install``; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "extension",
    "role",
    "schema",
    "type",
    "table",
    "index",
    "sequence",
    "function",
    "view",
    "trigger",
    "policy",
    "rule",
]
Key = tuple[Kind, str]
#: Who has a right, and which one: a party of `RULES` or a role, and SELECT, EXECUTE, ...
Grant = tuple[str, str]

EXTENSIONS = ("plpython3u", "pg_trgm")

PUBLIC = "public"
MLFLOW_OWNER = "@mlflow_owner"
#: May have the rights of MLflow's owner on the index; whether it does is decided at installation.
WRITER = "insights_writer"
#: Roles of this database alone, by the column of insights.installation that names them.
READER_ROLE = "reader_role"
NOTE_ROLE = "note_role"
ROLE_COLUMNS = (READER_ROLE, NOTE_ROLE)

#: Those that MLflow's owner writes.
INDEX_TABLES = frozenset(
    f"insights.{name}"
    for name in (
        *("block", "carrier", "cells", "lease", "pending", "posting", "sessions"),
        *("signature", "state", "term", "trace", "vocabulary"),
    )
)
WRITING = frozenset(
    (
        "build_batch",
        "insights_rebuild",
        "insights_refresh",
        "insights_verify",
        "run_build_batch",
        "run_rebuild",
        "run_refresh",
        "run_verify",
        "try_commit",
    )
)


@dataclass(frozen=True)
class Rule:
    """Rights that ``install/privileges.sql`` gives."""

    kind: Kind
    names: frozenset[str] | None
    """Functions without their schema and arguments, others in full; None: all of the kind."""
    party: str
    privileges: tuple[str, ...]
    required: bool = True


def _writer(party: str, required: bool) -> tuple[Rule, ...]:
    return (
        Rule("table", None, party, ("SELECT",), required),
        Rule("table", INDEX_TABLES, party, ("INSERT", "UPDATE", "DELETE"), required),
        Rule("view", None, party, ("SELECT",), required),
        Rule("sequence", None, party, ("SELECT", "USAGE", "UPDATE"), required),
        Rule("function", WRITING, party, ("EXECUTE",), required),
    )


RULES = (
    Rule("schema", None, NOTE_ROLE, ("USAGE",)),
    Rule("table", frozenset({"insights.pending"}), NOTE_ROLE, ("INSERT",)),
    Rule("sequence", frozenset({"insights.missed"}), NOTE_ROLE, ("USAGE",)),
    Rule("table", None, READER_ROLE, ("SELECT",)),
    Rule("view", None, READER_ROLE, ("SELECT",)),
    Rule("sequence", None, READER_ROLE, ("SELECT",)),
    *_writer(MLFLOW_OWNER, True),
    *_writer(WRITER, False),
)

#: Policies of each table with row security: name and table, and what it is made of.
POLICIES: Mapping[str, Mapping[str, str]] = {}

#: Who else than a superuser owns an object: the party by the full name.
OWNERS: Mapping[str, str] = dict.fromkeys(
    ("insights.note_change", "insights.note_missed"), NOTE_ROLE
)

#: Who has to be in which group.
MEMBERS = ((MLFLOW_OWNER, READER_ROLE),)

#: What Alembic makes, and ``migrations/env.py``, in the form of a bundle.
ALEMBIC = """
create table insights.alembic_version (
    version_num varchar(32) not null,
    constraint alembic_version_pkc primary key (version_num)
);
grant select on insights.alembic_version to public;
"""
