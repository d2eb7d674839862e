"""What a database contains, as text that two databases can be compared by."""

from __future__ import annotations

import re
import subprocess

import psycopg

from insights_dev.cluster import Server
from tests.conftest import Databases

# Each query gives rows (identity, description) of what belongs to this project.
_OURS = """
    (n.nspname = 'insights' or (n.nspname = 'public' and {name} like 'insights\\_%%'))
"""

_QUERIES = (
    # functions with their definition, owner, rights and comment
    """
    select 'function ' || p.oid::regprocedure,
           concat_ws(E'\\n', pg_get_functiondef(p.oid), p.proowner::regrole, acl(p.proacl),
                     obj_description(p.oid, 'pg_proc'))
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where p.prokind <> 'a' and
    """
    + _OURS.format(name="p.proname"),
    # tables, views, sequences, composite types, indexes
    """
    select 'relation ' || c.relname,
           concat_ws(E'\\n', c.relkind, c.relowner::regrole, acl(c.relacl),
                     c.relrowsecurity, c.relforcerowsecurity, c.reloptions,
                     obj_description(c.oid, 'pg_class'), obj_description(c.reltype, 'pg_type'),
                     case when c.relkind = 'i' then pg_get_indexdef(c.oid) end,
                     case when c.relkind in ('v', 'm') then pg_get_viewdef(c.oid) end)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where
    """
    + _OURS.format(name="c.relname"),
    # columns and attributes
    """
    select 'column ' || c.relname || '.' || a.attname,
           -- Their order: columns that were dropped leave their numbers.
           concat_ws(E'\\n', row_number() over (partition by c.oid order by a.attnum),
                     format_type(a.atttypid, a.atttypmod), a.attnotnull,
                     pg_get_expr(d.adbin, d.adrelid), a.attacl,
                     col_description(c.oid, a.attnum))
    from pg_attribute a
    join pg_class c on c.oid = a.attrelid
    join pg_namespace n on n.oid = c.relnamespace
    left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
    where a.attnum > 0 and not a.attisdropped and
    """
    + _OURS.format(name="c.relname"),
    # constraints and triggers, on MLflow's tables too
    """
    select 'constraint ' || c.conrelid::regclass || '.' || c.conname, pg_get_constraintdef(c.oid)
    from pg_constraint c join pg_namespace n on n.oid = c.connamespace
    where n.nspname in ('insights', 'public')
    """,
    """
    select 'trigger ' || t.tgrelid::regclass || '.' || t.tgname, pg_get_triggerdef(t.oid)
    from pg_trigger t
    where not t.tgisinternal
    """,
    """
    select 'policy ' || p.polrelid::regclass || '.' || p.polname,
           concat_ws(E'\\n', p.polcmd, p.polpermissive, p.polroles,
                     pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
    from pg_policy p
    """,
    """
    select 'schema ' || n.nspname, concat_ws(E'\\n', n.nspowner::regrole, acl(n.nspacl))
    from pg_namespace n
    where n.nspname in ('insights', 'public')
    """,
    """
    select 'extension ' || e.extname, concat_ws(E'\\n', e.extversion, e.extnamespace::regnamespace)
    from pg_extension e
    """,
)


def objects(connection: psycopg.Connection) -> dict[str, str]:
    """Identity to description of everything that this project has in a database."""
    found: dict[str, str] = {}
    for query in _QUERIES:
        # Who was granted something first makes no difference.
        sorted_acl = re.sub(
            r"\bacl\(([a-z.]+)\)",
            r"(select array_agg(x::text order by x::text) from unnest(\1) x)",
            query.replace("%%", "%"),
        )
        found.update(connection.execute(sorted_acl.encode()).fetchall())
    return found


def alike(connection: psycopg.Connection) -> dict[str, str]:
    """`objects`, with our roles called alike in every database; those of a clone, too."""
    found = objects(connection)
    if "relation installation" not in found:
        return found
    row = connection.execute("select reader_role, note_role from insights.installation").fetchone()
    assert row is not None
    roles = dict(zip(row, ("insights_reader", "insights_note"), strict=True))
    pattern = re.compile("|".join(rf"\b{re.escape(role)}\b" for role in roles))
    return {
        name: pattern.sub(lambda match: roles[match.group()], text) for name, text in found.items()
    }


def ours(connection: psycopg.Connection) -> dict[str, str]:
    """Those of `alike` that are not MLflow's: columns, which do not say so, left out."""
    return {name: text for name, text in alike(connection).items() if "insights" in name + text}


def dump(databases: Databases, dsn: str, *options: str) -> str:
    """What ``pg_dump`` prints, without the random key of new versions; else the schema alone."""
    command = _client(databases.server, dsn, "pg_dump", *(options or ("--schema-only",)))
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = text.splitlines(keepends=True)
    return "".join(x for x in lines if not x.startswith(("\\restrict ", "\\unrestrict ")))


def restore(server: Server, dsn: str, script: str) -> str:
    """Runs what `dump` printed, as the role of ``server``; the errors that psql went on after."""
    command = _client(server, dsn, "psql", "--quiet", "--no-psqlrc")
    done = subprocess.run(command, check=True, capture_output=True, text=True, input=script)
    return done.stderr


def _client(server: Server, dsn: str, program: str, *options: str) -> list[str]:
    name = dsn.rpartition("/")[2]
    if server.kind == "container":
        # By TCP, where a role that is not the container's own has to give its password.
        address = f"postgresql://{server.user}:{server.password}@127.0.0.1/{name}"
        return ["docker", "exec", "-i", server.home, program, *options, address]
    return [f"{server.binaries}/{program}", *options, server.dsn(name)]
