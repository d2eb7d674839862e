"""What differs between the objects that there must be and those that there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import psycopg

from insights_py import bundles
from insights_py.objects.expected import Expected, expected
from insights_py.objects.present import Found, present
from insights_py.objects.rules import (
    MEMBERS,
    MLFLOW_OWNER,
    NOTE_ROLE,
    OWNERS,
    PUBLIC,
    ROLE_COLUMNS,
    WRITER,
    Grant,
    Key,
    Kind,
)


@dataclass(frozen=True)
class Difference:
    """One object that is not as it should be."""

    kind: Kind
    name: str
    change: Literal["missing", "changed", "extra"]
    details: Mapping[str, str] = field(default_factory=dict)
    """Of a changed one: what differs (body, owner, grants, ...), in words or nothing."""
    lost: frozenset[Grant] = frozenset()
    extra: frozenset[Grant] = frozenset()
    address: str = ""
    """Its name in SQL, if it is there."""

    @property
    def key(self) -> Key:
        return self.kind, self.name

    @property
    def kept(self) -> bool:
        """Whether installing leaves it: it may hold data, and is nobody's that we know."""
        return self.change == "extra" and self.kind in ("table", "sequence", "type")

    def __str__(self) -> str:
        if self.change != "changed":
            return (
                f"{self.kind} {self.name} is {'missing' if self.change == 'missing' else 'extra'}"
            )
        return f"{self.kind} {self.name} is changed ({'; '.join(self._words())})"

    def _words(self) -> Iterator[str]:
        for name, text in self.details.items():
            yield f"{name}: {text}" if text else name


@dataclass(frozen=True)
class Parties:
    """The roles of a database that `RULES` and `OWNERS` speak of."""

    names: Mapping[str, str]
    """Party to role; a party without a role has no rights here."""
    superusers: frozenset[int | str]
    """By oid and by name; they need no rights."""
    roles: Mapping[str, int]


def parties(connection: psycopg.Connection, schema: str) -> Parties:
    """Who is who in the database of MLflow's tables in ``schema``."""
    rows = connection.execute(
        "select r.rolname::text, r.oid::bigint, r.rolsuper from pg_catalog.pg_roles r"
    ).fetchall()
    names = {PUBLIC: PUBLIC}
    owner = connection.execute(
        "select r.rolname::text from pg_catalog.pg_class c"
        " join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
        " join pg_catalog.pg_roles r on r.oid = c.relowner"
        " where n.nspname = %s and c.relname = 'trace_info'",
        [schema],
    ).fetchone()
    if owner is not None:
        names[MLFLOW_OWNER] = owner[0]
    roles = {name: oid for name, oid, _ in rows}
    if WRITER in roles:
        names[WRITER] = WRITER
    known = installation(connection) or {}
    names.update({column: known[column] for column in ROLE_COLUMNS if known.get(column)})
    superusers = {key for name, oid, power in rows if power for key in (name, oid)}
    return Parties(names, frozenset(superusers), roles)


def installation(connection: psycopg.Connection) -> dict[str, Any] | None:
    """The row of insights.installation, if it is there and this role may read it."""
    if not readable(connection, "insights.installation"):
        return None
    row = connection.execute(
        "select pg_catalog.to_jsonb(i) from insights.installation i"
    ).fetchone()
    return dict(row[0]) if row else None


def is_current(connection: psycopg.Connection, revision: str) -> bool:
    """Whether the functions that were installed last are this release's; True if unknown."""
    known = installation(connection)
    return known is None or known.get("bundle") == bundles.fingerprint(revision)


def is_hidden(connection: psycopg.Connection, table: str) -> bool:
    """Whether ``table`` is there, and not for this role to read."""
    # Asked of pg_class, because to_regclass needs a right on the schema.
    schema, _, name = table.partition(".")
    row = connection.execute(
        "select from pg_catalog.pg_class c"
        " join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = %s and c.relname = %s",
        [schema, name],
    ).fetchone()
    return row is not None and not readable(connection, table)


def readable(connection: psycopg.Connection, table: str) -> bool:
    """Whether ``table`` is there, and this role sees every row of it."""
    schema, _, name = table.partition(".")
    row = connection.execute(
        "select pg_catalog.has_schema_privilege(n.oid, 'USAGE')"
        " and pg_catalog.has_table_privilege(c.oid, 'SELECT')"
        " and not pg_catalog.row_security_active(c.oid)"
        " from pg_catalog.pg_class c"
        " join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = %s and c.relname = %s",
        [schema, name],
    ).fetchone()
    return row is not None and bool(row[0])


def differences(connection: psycopg.Connection, revision: str, schema: str) -> list[Difference]:
    """What is not as ``revision`` installs it; empty where all is well."""
    wanted = expected(revision, schema)
    found = present(connection, revision, schema)
    who = parties(connection, schema)
    compared = [*_roles(connection, who)]
    for key in [*wanted, *(key for key in found if key not in wanted)]:
        if key not in found:
            compared.append(Difference(*key, "missing"))
        elif key not in wanted and not _of_another_table(key, found[key], wanted):
            compared.append(Difference(*key, "extra", address=found[key].address))
        elif key in wanted:
            compared += _compared(key, wanted[key], found[key], who)
    for (kind, name), is_there in found.items():
        # Tables of one row call its key so.
        one_row = kind == "table" and "column singleton" in is_there.properties
        if one_row and readable(connection, name) and not _has_row(connection, is_there.address):
            changed = {"its row": "missing"}
            compared.append(Difference("table", name, "changed", changed, address=name))
    return compared


def _roles(connection: psycopg.Connection, who: Parties) -> Iterator[Difference]:
    """Whether our roles are there, are no more than groups, and have the members they need."""
    for column in ROLE_COLUMNS:
        role = who.names.get(column)
        if role is None:
            continue
        if role not in who.roles:
            yield Difference("role", role, "missing")
            continue
        row = connection.execute(
            "select r.rolcanlogin or r.rolsuper or r.rolcreaterole or r.rolcreatedb"
            "  or r.rolreplication or r.rolbypassrls,"
            " exists (select from pg_catalog.pg_auth_members m where r.oid in (m.roleid, m.member))"
            " from pg_catalog.pg_roles r where r.rolname = %s",
            [role],
        ).fetchone()
        assert row is not None
        if row[0]:
            yield Difference("role", role, "changed", {"more than a group": ""})
        if column == NOTE_ROLE and row[1]:
            yield Difference("role", role, "changed", {"members": "some instead of none"})
    for party, column in MEMBERS:
        role, group = who.names.get(party, ""), who.names.get(column, "")
        if role in who.roles and role not in who.superusers and group in who.roles:
            query = "select pg_catalog.pg_has_role(%s::name, %s::name, 'member')"
            if connection.execute(query, [role, group]).fetchone() == (False,):
                yield Difference("role", group, "changed", {"not a member": role})


def _of_another_table(key: Key, found: Found, wanted: Mapping[Key, Expected]) -> bool:
    """Whether it belongs to a table in our schema that is not ours, and goes with that."""
    if key[0] == "index":
        table = found.properties["definition"].removeprefix("unique ").partition(" ")[0]
    else:
        table = key[1].partition(" on ")[2]
    ours = ("table", table) in wanted or ("view", table) in wanted
    return table.startswith("insights.") and not ours


def _compared(key: Key, wanted: Expected, found: Found, who: Parties) -> Iterator[Difference]:
    """What differs, in words; long texts (bodies, queries) are not repeated."""
    details = {}
    for name in sorted(wanted.properties.keys() | found.properties.keys()):
        old, new = wanted.properties.get(name), found.properties.get(name)
        if old != new:
            short = len(f"{old}{new}") < 120 and name != "body"
            details[name] = f"{new or 'none'} instead of {old or 'none'}" if short else ""
    lost: frozenset[Grant] = frozenset()
    extra: frozenset[Grant] = frozenset()
    if found.owner is not None:
        party = OWNERS.get(key[1].partition("(")[0])
        if party is None and found.owner not in who.superusers:
            details["owner"] = "not a superuser"
        if party is not None and who.roles.get(who.names.get(party, "")) != found.owner:
            details["owner"] = f"not {who.names.get(party, party)}"
        lost, extra = _grants(key, wanted, found, who)
    for words, grants in (("not granted", lost), ("granted besides", extra)):
        if grants:
            details[words] = ", ".join(f"{right} to {role}" for role, right in sorted(grants))
    if details:
        yield Difference(*key, "changed", details, lost, extra, found.address)


def _grants(
    key: Key, wanted: Expected, found: Found, who: Parties
) -> tuple[frozenset[Grant], frozenset[Grant]]:
    """Which rights are missing, and which are too many."""

    def of_roles(grants: set[Grant]) -> frozenset[Grant]:
        return frozenset((who.names[party], right) for party, right in grants if party in who.names)

    required = of_roles(wanted.grants)
    needed = {
        (role, right)
        for role, right in required
        if role not in who.superusers and (role == PUBLIC or who.roles.get(role) != found.owner)
    }
    allowed = required | of_roles(wanted.tolerated)
    # Whom else a DBA lets call a function that is there to be called is not our business.
    delegable = key[0] == "function" and bool(wanted.grants)
    extra = {
        (role, right)
        for role, right in found.grants - allowed
        if not (delegable and role != PUBLIC and right == "EXECUTE")
    }
    return frozenset(needed - found.grants), frozenset(extra)


def _has_row(connection: psycopg.Connection, table: str) -> bool:
    return connection.execute(f"select from {table} limit 1".encode()).fetchone() is not None


def installed_schema(connection: psycopg.Connection, revision: str) -> str | None:
    """Where MLflow's tables are that the functions were installed for, if they were.

    As the installation says, or else as what is left of it shows.
    """
    known = installation(connection)
    if known is not None:
        return str(known["mlflow_schema"])
    row = connection.execute(
        "select x.nspname from ("
        # 'insights.' is in every body of ours, and hardly in anybody else's.
        "  select n.nspname from pg_catalog.pg_proc p"
        "  join pg_catalog.pg_namespace n on n.oid = p.pronamespace"
        "  where p.proname = any(%s) and pg_catalog.strpos(p.prosrc, 'insights.') > 0"
        "  union all"
        "  select n.nspname from pg_catalog.pg_trigger t"
        "  join pg_catalog.pg_class c on c.oid = t.tgrelid"
        "  join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
        "  join pg_catalog.pg_proc p on p.oid = t.tgfoid"
        "  join pg_catalog.pg_namespace f on f.oid = p.pronamespace"
        "  where f.nspname = 'insights' and n.nspname <> 'insights'"
        ") x group by 1 order by pg_catalog.count(*) desc, 1 limit 1",
        [sorted(bundles.public_functions(revision))],
    ).fetchone()
    return str(row[0]) if row else None


def remains(connection: psycopg.Connection, revision: str) -> bool:
    """Whether there is anything of an installation, such as a restored dump can leave.

    A schema called insights, or a function with one of our names, is not enough: it has to
    be one of our functions, with our arguments, that speaks of that schema, or our table.
    """
    schema = installed_schema(connection, revision) or ""
    wanted = expected(revision, schema)
    found = present(connection, revision, schema)
    return any(
        "insights." in found[key].properties["body"]
        for key in found.keys() & wanted.keys()
        if key[0] == "function"
    ) or "column mlflow_schema" in getattr(
        found.get(("table", "insights.installation")), "properties", {}
    )
