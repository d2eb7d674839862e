"""The reference of the SQL functions and views, made of what the database says about them.

``python -m insights_dev.reference SERVER_DSN`` serves ``make reference``: it
installs the working tree into a database of its own on that server and writes
``docs/sql.md`` from the signatures and COMMENTs.  A test holds the file to them.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from insights_dev import database
from insights_dev.cluster import ROOT

PAGE = ROOT / "docs" / "sql.md"

_INTRODUCTION = """\
# SQL functions

Made of what the database says (`\\df+ insights_*`) by `make reference`; edit the COMMENTs in
`sql/`, not this page. [questions.md](questions.md) and [discovery.md](discovery.md) have examples,
[language.md](language.md) has the filters.

- **Experiments.** `exp_ids` is `text[]`. Each function that has it also takes `int[]`
  (`array[1, 2]`) and `text` (`'1'`, `'1,2'`, `'{1,2}'`).
- **Names.** Arguments can be given by name:
  `insights_discover('1', 'status = ''ERROR''', fdr => 0.01)`.
- **Rights.** Every function runs with the caller's, and sees the traces that the caller may
  `SELECT`. *Everybody* may call it, or the *owner* of MLflow's tables, superusers and members of
  `insights_writer`.
- **Snapshot.** What is `STABLE` sees the snapshot of the statement around it, and in it every
  committed trace.
- **Errors.** The SQLSTATE is the contract, not the text: `22023` if an argument is wrong, with a
  HINT. What PostgreSQL itself refuses or ends keeps its own, such as `42501` (no permission) and
  `57014` (cancelled, or `statement_timeout`).
"""

_VOLATILITY = {"i": "IMMUTABLE", "s": "STABLE", "v": "VOLATILE"}

# The first variant of each: that with the ids as text[] and nothing as interval.
_FUNCTIONS = """
select
    p.proname as name,
    p.prokind = 'p' as is_procedure,
    p.provolatile::text as volatility,
    has_function_privilege('public', p.oid, 'execute') as for_all,
    obj_description(p.oid, 'pg_proc') as comment,
    array(
        select i.name || ' ' || format_type(i.type, null)
            || coalesce(' default ' || regexp_replace(i.fallback, '::[a-z ]+(\\[\\])?$', ''), '')
        from (
            select
                a.number,
                a.name,
                a.type,
                pg_get_function_arg_default(p.oid, a.number::int) as fallback
            from unnest(p.proargnames, coalesce(p.proallargtypes, p.proargtypes::oid[]))
                with ordinality a (name, type, number)
            where coalesce(p.proargmodes[a.number], 'i') = 'i'
        ) i
        order by i.number
    ) as arguments,
    case
        when p.prokind = 'p' then '{}'
        when p.proargmodes && array['o', 't']::"char"[] then array(
            select quote_ident(a.name) || ' ' || format_type(a.type, null)
            from unnest(p.proargnames, p.proallargtypes, p.proargmodes)
                with ordinality a (name, type, mode, number)
            where a.mode in ('o', 't')
            order by a.number
        )
        when r.typrelid <> 0 then array(
            select quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)
            from pg_attribute a
            where a.attrelid = r.typrelid and a.attnum > 0 and not a.attisdropped
            order by a.attnum
        )
        else array[format_type(p.prorettype, null)]
    end as results,
    p.proretset or r.typtype in ('c', 'p') as has_columns,
    p.proretset as many
from pg_proc p
join pg_type r on r.oid = p.prorettype
where p.pronamespace = (select oid from pg_namespace where nspname = %(schema)s)
  and p.proname like 'insights\\_%%'
  and coalesce(p.proargnames[1] <> 'exp_ids' or p.proargtypes[0] = 'text[]'::regtype, true)
  and not 'interval'::regtype = any (p.proargtypes)
order by p.proname
"""

_VIEWS = """
select
    'insights.' || c.relname as name,
    obj_description(c.oid, 'pg_class') as comment,
    array(
        select quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)
        from pg_attribute a
        where a.attrelid = c.oid and a.attnum > 0
        order by a.attnum
    ) as results
from pg_class c
where c.relnamespace = 'insights'::regnamespace and c.relkind = 'v'
order by c.relname
"""

#: What people use most comes first; the rest follows by name.
_ORDER = (
    "insights_search",
    "insights_count",
    "insights_correlate",
    "insights_correlation_matrix",
    "insights_discover",
    "insights_compare",
    "insights_facets",
    "insights_timeseries",
    "insights_validate",
    "insights_explain",
)


@dataclass(frozen=True)
class Function:
    """A public function or procedure: the variant that all others are explained by."""

    name: str
    is_procedure: bool
    volatility: str
    for_all: bool
    comment: str
    #: Each ``name type default value``.
    arguments: Sequence[str]
    #: Each ``name type``, or the type alone of a value without a name.
    results: Sequence[str]
    has_columns: bool
    many: bool

    @property
    def argument_names(self) -> list[str]:
        """The names of the arguments."""
        return [one.partition(" ")[0] for one in self.arguments]

    @property
    def column_names(self) -> list[str]:
        """The names of the columns of a row, if it returns rows."""
        return _names(self.results) if self.has_columns else []


@dataclass(frozen=True)
class View:
    """A public view."""

    name: str
    comment: str
    results: Sequence[str]

    @property
    def column_names(self) -> list[str]:
        """The names of the columns."""
        return _names(self.results)


def _names(columns: Sequence[str]) -> list[str]:
    return [one.partition(" ")[0].strip('"') for one in columns]


def functions(connection: psycopg.Connection[Any], schema: str = "public") -> list[Function]:
    """The public functions, in the order of the page; ``schema`` is that of MLflow's tables."""
    with connection.cursor(row_factory=class_row(Function)) as cursor:
        found = cursor.execute(_FUNCTIONS.encode(), {"schema": schema}).fetchall()
    places = {name: place for place, name in enumerate(_ORDER)}
    return sorted(found, key=lambda one: (places.get(one.name, len(places)), one.name))


def views(connection: psycopg.Connection[Any]) -> list[View]:
    """The public views."""
    with connection.cursor(row_factory=class_row(View)) as cursor:
        return cursor.execute(_VIEWS.encode()).fetchall()


def page(connection: psycopg.Connection[Any]) -> str:
    """The reference of what is installed in a database, as Markdown."""
    found: list[Function | View] = [*functions(connection), *views(connection)]
    contents = "".join(
        [
            f"- [`{one.name}`](#{one.name.replace('.', '')}): {_first_sentence(one.comment)}\n"
            for one in found
        ]
    )
    names = {one.name for one in found}
    return "\n".join([_INTRODUCTION, contents, *[_section(one, names) for one in found]])


def _section(one: Function | View, names: Set[str]) -> str:
    def linked(match: re.Match[str]) -> str:
        name = match[0]
        return f"[{name}](#{name})" if name in names - {one.name} else name

    comment = re.sub(r"(?<![`\w.])insights_\w+", linked, one.comment.strip())
    if isinstance(one, View):
        columns = _listed(f"view {one.name}", one.results)
        return f"## {one.name}\n\n```sql\n{columns}\n```\n\n{comment}\n"
    return f"## {one.name}\n\n```sql\n{_signature(one)}\n```\n\n{comment}\n\n{_marks(one)}\n"


def _first_sentence(comment: str) -> str:
    first = " ".join(comment.partition("\n\n")[0].split())
    return first.partition(". ")[0].rstrip(".:")


def _signature(function: Function) -> str:
    name = f"call {function.name}" if function.is_procedure else function.name
    called = _listed(name, function.arguments)
    if function.is_procedure:
        return called
    if not function.has_columns:
        return f"{called} returns {function.results[0]}"
    return _listed(f"{called} returns {'table' if function.many else 'one row'}", function.results)


def _listed(head: str, entries: Sequence[str]) -> str:
    if len(entries) < 2:
        return f"{head}({', '.join(entries)})"
    # "x returns table (", but "x(" as it is called.
    space = " " if " " in head and not head.startswith("call ") else ""
    return f"{head}{space}(\n    " + ",\n    ".join(entries) + "\n)"


def _marks(function: Function) -> str:
    volatility = "procedure" if function.is_procedure else f"`{_VOLATILITY[function.volatility]}`"
    return f"*{'Everybody' if function.for_all else 'Owner'}*, {volatility}."


def written(server_dsn: str) -> str:
    """The page of the working tree, by way of a database of its own that is dropped again."""
    name = "insights_reference"
    remove = sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
    with psycopg.connect(server_dsn, autocommit=True) as server:
        server.execute(remove)
        dsn = database.create(server_dsn, name)
        try:
            database.migrate_mlflow(dsn)
            database.install_insights(dsn)
            with psycopg.connect(dsn) as connection:
                return page(connection)
        finally:
            server.execute(remove)


def main() -> int:
    """Writes the page."""
    parser = argparse.ArgumentParser(description="the reference of the SQL functions")
    parser.add_argument("server_dsn", help="any database of the server, as superuser")
    PAGE.write_text(written(parser.parse_args().server_dsn), encoding="utf-8")
    print(PAGE.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
