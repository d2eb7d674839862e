"""Which objects there are: what the catalogue says, in the words of `expected`.

Every role may read the catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from insights_py import bundles
from insights_py.objects.expected import trigger
from insights_py.objects.rules import Grant, Key, Kind
from insights_py.objects.text import canonical, tokens

# Each query gives (name, address in SQL, owner, ACL as grantee=privilege texts, properties).  It
# gets the schema of MLflow's tables and the names of our functions there.
_ACL = """
    array(
        select case when x.grantee = 0 then 'public' else r.rolname::text end
            || '=' || x.privilege_type
        from pg_catalog.aclexplode(coalesce({acl}, pg_catalog.acldefault({kind}, {owner}))) x
        left join pg_catalog.pg_roles r on r.oid = x.grantee
        where x.grantee <> {owner}
    )
"""


def _acl(acl: str, kind: str, owner: str) -> str:
    return _ACL.format(acl=acl, kind=kind, owner=owner)


_QUERIES: Mapping[Kind, str] = {
    "extension": """
        select e.extname, pg_catalog.quote_ident(e.extname), null, '{}'::text[], '{}'::json
        from pg_catalog.pg_extension e
        where e.extname in ('plpython3u', 'pg_trgm')
    """,
    "schema": f"""
        select n.nspname, pg_catalog.quote_ident(n.nspname), n.nspowner,
            {_acl("n.nspacl", "'n'", "n.nspowner")}, '{{}}'::json
        from pg_catalog.pg_namespace n
        where n.nspname = 'insights'
    """,
    "type": f"""
        select 'insights.' || t.typname, t.oid::pg_catalog.regtype::text, t.typowner,
            {_acl("t.typacl", "'T'", "t.typowner")},
            pg_catalog.json_build_object('attributes', (
                select pg_catalog.json_agg(pg_catalog.json_build_array(
                    a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)) order by a.attnum)
                from pg_catalog.pg_attribute a
                where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped))
        from pg_catalog.pg_type t
        join pg_catalog.pg_namespace n on n.oid = t.typnamespace and n.nspname = 'insights'
        left join pg_catalog.pg_class c on c.oid = t.typrelid
        where (t.typtype in ('e', 'd', 'r') or c.relkind = 'c')
    """,
    "table": f"""
        select 'insights.' || c.relname, c.oid::pg_catalog.regclass::text, c.relowner,
            {_acl("c.relacl", "'r'", "c.relowner")} || array(
                select r.grantee || '=' || r.privilege_type || ' (' || a.attname || ')'
                from pg_catalog.pg_attribute a
                cross join lateral (
                    select case when x.grantee = 0 then 'public' else g.rolname::text end,
                        x.privilege_type
                    from pg_catalog.aclexplode(a.attacl) x
                    left join pg_catalog.pg_roles g on g.oid = x.grantee
                    where x.grantee <> c.relowner
                ) r (grantee, privilege_type)
                where a.attrelid = c.oid),
            pg_catalog.json_build_object(
                'kind', c.relkind, 'persistence', c.relpersistence,
                'options', c.reloptions, 'row security', c.relrowsecurity,
                'forced', c.relforcerowsecurity,
                'constraints', (
                    select pg_catalog.json_agg(pg_catalog.pg_get_constraintdef(k.oid))
                    from pg_catalog.pg_constraint k
                    where k.conrelid = c.oid and k.contype not in ('n', 't')),
                'columns', (
                    select pg_catalog.json_agg(pg_catalog.json_build_array(
                        a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
                        case when a.attcollation <> t.typcollation then l.collname end,
                        a.attidentity = 'a', a.attnotnull,
                        pg_catalog.pg_get_expr(d.adbin, d.adrelid),
                        case when a.attstorage <> t.typstorage then a.attstorage end,
                        a.attidentity = 'd' or a.attgenerated <> '') order by a.attnum)
                    from pg_catalog.pg_attribute a
                    join pg_catalog.pg_type t on t.oid = a.atttypid
                    left join pg_catalog.pg_collation l on l.oid = a.attcollation
                    left join pg_catalog.pg_attrdef d
                        on d.adrelid = a.attrelid and d.adnum = a.attnum
                    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped))
        from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace and n.nspname = 'insights'
        where c.relkind in ('r', 'p', 'f', 'm')
    """,
    "index": """
        select 'insights.' || c.relname, c.oid::pg_catalog.regclass::text, null, '{}'::text[],
            pg_catalog.json_build_object('definition', pg_catalog.pg_get_indexdef(c.oid),
                'valid', i.indisvalid and i.indisready and i.indislive)
        from pg_catalog.pg_index i
        join pg_catalog.pg_class c on c.oid = i.indexrelid
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace and n.nspname = 'insights'
        where not exists (
            select from pg_catalog.pg_constraint k
            where k.conindid = c.oid and k.contype in ('p', 'u', 'x'))
    """,
    "sequence": f"""
        select 'insights.' || c.relname, c.oid::pg_catalog.regclass::text, c.relowner,
            {_acl("c.relacl", "'s'", "c.relowner")},
            case when exists (
                select from pg_catalog.pg_depend d
                where d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                and d.objid = c.oid and d.deptype = 'i')
            then pg_catalog.json_build_object('definition', '')
            else pg_catalog.json_build_object('definition', pg_catalog.concat_ws(' ',
                'as', pg_catalog.format_type(s.seqtypid, null), 'minvalue', s.seqmin,
                'start', s.seqstart, 'increment', s.seqincrement, 'cache', s.seqcache,
                case when s.seqcycle then 'cycle' end))
            end
        from pg_catalog.pg_class c
        join pg_catalog.pg_sequence s on s.seqrelid = c.oid
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace and n.nspname = 'insights'
    """,
    "function": f"""
        select n.nspname || '.' || p.proname, p.oid::pg_catalog.regprocedure::text, p.proowner,
            {_acl("p.proacl", "'f'", "p.proowner")},
            pg_catalog.json_build_object(
                'types', array(
                    select pg_catalog.format_type(t.type, null)
                    from pg_catalog.unnest(p.proargtypes) with ordinality t (type, place)
                    order by t.place),
                'kind', case p.prokind when 'f' then 'function' when 'p' then 'procedure'
                    else 'aggregate or window function' end,
                'arguments', pg_catalog.pg_get_function_arguments(p.oid),
                'result', case when p.prokind <> 'p'
                    then pg_catalog.pg_get_function_result(p.oid) end,
                'language', l.lanname,
                'volatility', case p.provolatile when 'i' then 'immutable' when 's' then 'stable'
                    else 'volatile' end,
                'strict', p.proisstrict,
                'parallel', case p.proparallel when 's' then 'safe' when 'r' then 'restricted'
                    else 'unsafe' end,
                'security', case when p.prosecdef then 'definer' else 'invoker' end,
                'leakproof', p.proleakproof,
                'cost', p.procost::text, 'rows', p.prorows::text,
                'settings', pg_catalog.array_to_string(p.proconfig, '; '),
                'body', case when p.prosqlbody is null then p.prosrc end,
                'expression', pg_catalog.pg_get_function_sqlbody(p.oid))
        from pg_catalog.pg_proc p
        join pg_catalog.pg_namespace n on n.oid = p.pronamespace
        join pg_catalog.pg_language l on l.oid = p.prolang
        where n.nspname = 'insights' or (n.nspname = %(schema)s and p.proname = any(%(public)s))
    """,
    "view": f"""
        select 'insights.' || c.relname, c.oid::pg_catalog.regclass::text, c.relowner,
            {_acl("c.relacl", "'r'", "c.relowner")},
            pg_catalog.json_build_object('kind', c.relkind, 'options', c.reloptions,
                'definition', pg_catalog.pg_get_viewdef(c.oid))
        from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace and n.nspname = 'insights'
        where c.relkind = 'v'
    """,
    "trigger": """
        select t.tgname,
            pg_catalog.quote_ident(t.tgname) || ' on ' || c.oid::pg_catalog.regclass::text,
            null, '{}'::text[],
            pg_catalog.json_build_object('definition', pg_catalog.pg_get_triggerdef(t.oid),
                'state', case t.tgenabled when 'O' then 'enabled' when 'A' then 'always'
                    when 'R' then 'replica' else 'disabled' end)
        from pg_catalog.pg_trigger t
        join pg_catalog.pg_class c on c.oid = t.tgrelid
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        join pg_catalog.pg_proc p on p.oid = t.tgfoid
        join pg_catalog.pg_namespace f on f.oid = p.pronamespace
        -- Those of partitions are made with the one of their table.
        where not t.tgisinternal and t.tgparentid = 0
            and (n.nspname = 'insights' or f.nspname = 'insights')
    """,
    "policy": """
        select p.polname || ' on insights.' || c.relname,
            pg_catalog.quote_ident(p.polname) || ' on ' || c.oid::pg_catalog.regclass::text,
            null, '{}'::text[],
            pg_catalog.json_build_object('command', p.polcmd,
                'roles', case when p.polroles = '{0}' then 'public' else p.polroles::text end,
                'using', pg_catalog.pg_get_expr(p.polqual, p.polrelid),
                'with check', pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid),
                'permissive', p.polpermissive)
        from pg_catalog.pg_policy p
        join pg_catalog.pg_class c on c.oid = p.polrelid
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace and n.nspname = 'insights'
    """,
    "rule": """
        select r.rulename || ' on insights.' || c.relname,
            pg_catalog.quote_ident(r.rulename) || ' on ' || c.oid::pg_catalog.regclass::text,
            null, '{}'::text[], '{}'::json
        from pg_catalog.pg_rewrite r
        join pg_catalog.pg_class c on c.oid = r.ev_class
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace and n.nspname = 'insights'
        where not (c.relkind in ('v', 'm') and r.rulename = '_RETURN')
    """,
}


@dataclass(frozen=True)
class Found:
    """One object as the catalogue has it."""

    address: str
    """Its name in SQL, with all quotes."""
    owner: int | None
    grants: frozenset[Grant]
    properties: Mapping[str, str]


def present(connection: psycopg.Connection, revision: str, schema: str) -> dict[Key, Found]:
    """What the database has in schema insights, of our functions in ``schema``, of triggers."""
    found: dict[Key, Found] = {}
    parameters = {"schema": schema, "public": sorted(bundles.public_functions(revision))}
    with _plain_search_path(connection):
        for kind, query in _QUERIES.items():
            for name, address, owner, acl, properties in connection.execute(
                query.encode(), parameters
            ):
                full, described = _described(kind, name, properties)
                grants = frozenset(_grant(entry) for entry in acl)
                found[kind, full] = Found(address, owner, grants, described)
    return found


def _grant(entry: str) -> Grant:
    grantee, _, privilege = entry.rpartition("=")
    return grantee, privilege


def _described(kind: Kind, name: str, raw: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """The properties in the words of `expected`."""
    if kind == "type":
        attributes = [
            f"{column} {''.join(tokens(text))}" for column, text in raw["attributes"] or ()
        ]
        return name, {"attributes": ", ".join(attributes)}
    if kind == "table":
        return name, _table_described(raw)
    if kind == "index":
        words = tokens(raw["definition"])
        on, columns = words.index("on"), words.index("(")
        table = "".join(words[on + 1 : words.index("using")])
        unique = "unique " if words[1] == "unique" else ""
        definition = f"{unique}{table} {canonical(' '.join(words[columns:]))}"
        return name, {"definition": definition, **({} if raw["valid"] else {"valid": "no"})}
    if kind == "function":
        types = ", ".join("".join(tokens(text)) for text in raw.pop("types"))
        for expression in ("arguments", "result", "expression"):
            raw[expression] = canonical(raw[expression] or "")
        raw["arguments"] = re.sub(r"(^| , )in ", r"\1", raw["arguments"])
        raw["body"] = raw.pop("expression") or raw["body"]
        return f"{name}({types})", _texts(raw)
    if kind == "view":
        raw["options"] = ", ".join(sorted(raw["options"] or ()))
        raw["definition"] = canonical(raw["definition"].rstrip(";"))
        return name, _texts(raw)
    if kind == "trigger":
        full, raw["definition"] = trigger(tokens(raw["definition"]))
        return full, _texts(raw)
    if kind == "policy":
        for expression in ("using", "with check"):
            raw[expression] = canonical(raw[expression] or "")
        if raw.pop("permissive") is False:
            raw["restrictive"] = "yes"
    return name, _texts(raw)


def _texts(raw: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) if value is not None else "" for name, value in raw.items()}


def _table_described(raw: Mapping[str, Any]) -> dict[str, str]:
    described = {
        "kind": "r, p" if raw["kind"] in "rp" else str(raw["kind"]),
        "constraints": ", ".join(sorted(canonical(text) for text in raw["constraints"] or ())),
        "options": ", ".join(sorted(raw["options"] or ())),
        "row security": "on" if raw["row security"] else "off",
        "order of columns": ", ".join(column[0] for column in raw["columns"] or ()),
    }
    if raw["persistence"] != "p":
        described["persistence"] = "not logged"
    if raw["forced"]:
        described["row security of the owner"] = "forced"
    stored = {"e": "external", "m": "main", "p": "plain", "x": "extended"}
    for name, kind, collation, identity, required, default, storage, other in raw["columns"] or ():
        text = "".join(tokens(kind))
        text += f" collate {collation}" if collation else ""
        text += " identity" if identity else ""
        text += " not null" if required else ""
        text += f" default {canonical(default)}" if default else ""
        text += f" storage {stored[storage]}" if storage else ""
        text += " generated" if other else ""
        described[f"column {name}"] = text
    return described


class _plain_search_path:
    """For printing names: in full, but for those of pg_catalog."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection

    def __enter__(self) -> None:
        row = self.connection.execute(
            "select pg_catalog.current_setting('search_path'),"
            " pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)"
        ).fetchone()
        assert row is not None
        self.before = row[0]

    def __exit__(self, *_: object) -> None:
        if self.connection.info.transaction_status != psycopg.pq.TransactionStatus.INERROR:
            self.connection.execute(
                "select pg_catalog.set_config('search_path', %s, true)", [self.before]
            )
