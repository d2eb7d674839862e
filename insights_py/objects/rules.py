"""What the bundle does in DO blocks, which nobody can read: rights, policies, owners.

The one place to change with ``sql/install``; a test holds the two together.
"""

from __future__ import annotations

import re
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

INDEX_TABLES = frozenset(
    f"insights.{name}"
    for name in (
        "block",
        "carrier",
        "cells",
        "pending",
        "posting",
        "sessions",
        "signature",
        "state",
        "term",
        "trace",
        "vocabulary",
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


RULES = (
    Rule("table", INDEX_TABLES, PUBLIC, ("SELECT",)),
    Rule("sequence", frozenset({"insights.missed"}), PUBLIC, ("SELECT",)),
    *(
        rule
        for party, required in ((MLFLOW_OWNER, True), (WRITER, False))
        for rule in (
            Rule("table", INDEX_TABLES, party, ("INSERT", "UPDATE", "DELETE"), required),
            Rule("sequence", frozenset({"insights.missed"}), party, ("USAGE", "UPDATE"), required),
            Rule("function", WRITING, party, ("EXECUTE",), required),
        )
    ),
)

#: Policies of each table with row security: name, and what it is made of.
POLICIES: Mapping[str, Mapping[str, str]] = {
    f"readers_of_traces on {table}": {
        "command": "*",
        "roles": "public",
        "using": "select insights . may_read",
        "with check": "true",
    }
    for table in INDEX_TABLES
}

#: Who else than a superuser owns an object: the party by the function's name or the full name.
OWNERS: Mapping[str, str] = {}

#: Columns of insights.installation that name roles, which must exist.
ROLE_COLUMN = re.compile(r"[a-z]+_role")

#: What Alembic makes, and ``migrations/env.py``, in the form of a bundle.
ALEMBIC = """
create table insights.alembic_version (
    version_num varchar(32) not null,
    constraint alembic_version_pkc primary key (version_num)
);
grant select on insights.alembic_version to public;
"""
