"""Attacks that have a name: each is a whole kind, tried in every way that we know of."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from insights_py.doctor import doctor
from insights_py.errors import InsightsError
from insights_py.install import install, uninstall
from insights_py.worker import Worker, build
from tests.attack.conftest import (
    DATABASE,
    NOBODY,
    OWNER,
    PASSWORD,
    READER,
    SECRET,
    Arena,
    attacked_server,
    furnish,
    world,
)
from tests.semantics.world import load
from tests.sql.plain import uses_index

Connection = psycopg.Connection[Any]

#: A database to be attacked is copied from the one of the fixture.
_VICTIM = "victim"


@pytest.fixture(scope="module")
def copies() -> Iterator[Arena]:
    """A server whose database nobody is connected to, so that it can be copied."""
    with attacked_server() as server:
        yield furnish(server)


class Victim:
    """A copy of the database, for one test."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self._admin: Connection | None = None

    @property
    def admin(self) -> Connection:
        """A superuser's session that is kept: making one anew loads the engine anew."""
        if self._admin is None:
            self._admin = psycopg.connect(self.dsn(), autocommit=True)
        return self._admin

    def close(self) -> None:
        if self._admin is not None:
            self._admin.close()

    def dsn(self, role: str = "") -> str:
        return self.arena.dsn(role, _VICTIM)

    @contextmanager
    def connect(self, role: str = "") -> Iterator[Connection]:
        with psycopg.connect(self.dsn(role), autocommit=True) as connection:
            yield connection

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """``insights`` with arguments, as users call it."""
        return subprocess.run(
            [sys.executable, "-m", "insights_py", *command],
            env={**os.environ, "INSIGHTS_DSN": self.dsn()},
            capture_output=True,
            text=True,
            timeout=25,
            check=False,
        )


@pytest.fixture
def victim(copies: Arena) -> Iterator[Victim]:
    with psycopg.connect(copies.server.dsn(), autocommit=True) as admin:
        admin.execute(f"create database {_VICTIM} template {DATABASE} owner {OWNER}".encode())
        made = Victim(copies)
        try:
            yield made
        finally:
            made.close()
            admin.execute(f"drop database {_VICTIM} with (force)".encode())
            # Whatever an attack has made of them, the next one begins as a nobody.
            for role in (OWNER, READER, NOBODY):
                admin.execute(
                    f"alter role {role} nosuperuser nocreaterole nocreatedb nobypassrls".encode()
                )


def is_superuser(victim: Victim, role: str) -> bool:
    with victim.connect() as admin:
        row = admin.execute(
            "select rolsuper or rolcreaterole or rolbypassrls from pg_roles where rolname = %s",
            [role],
        ).fetchone()
    assert row is not None
    return bool(row[0])


# ------------------------------------------------- 1. the owner of MLflow's tables

#: What the owner plants.  `snap` tells the log who runs it, and tries to make him a superuser.
SNAP = f"""
    create function public.snap() returns void language plpgsql volatile as $$
    begin
        raise log 'trap sprung as %', current_user;
        begin
            execute 'alter role {OWNER} superuser';
        exception when others then null;
        end;
    end $$;
    create function public.snap_text(anyelement) returns text language plpgsql immutable as $$
    begin
        perform public.snap();
        return $1::text;
    end $$;
    create function public.snap_true(anyelement) returns boolean language plpgsql immutable
    cost 0.0001 as $$
    begin
        perform public.snap();
        return true;
    end $$;
"""

#: A type that looks like text: an implicit cast calls the owner's function.
_LOOKS_LIKE_TEXT = """
    create type public.bait as enum ('trace', 'run', 'OK', 'ERROR', 'k', 'a', 'b');
    create function public.bait_text(public.bait) returns text language plpgsql immutable as $$
    begin
        perform public.snap();
        return pg_catalog.enum_out($1)::text;
    end $$;
    create cast (public.bait as text) with function public.bait_text(public.bait) as implicit;
    create function public.bait_equal(public.bait, text) returns boolean
    language plpgsql immutable as $$
    begin
        perform public.snap();
        return pg_catalog.enum_out($1)::text = $2;
    end $$;
    create function public.bait_array(public.bait) returns text[] language plpgsql immutable as $$
    begin
        perform public.snap();
        return array[pg_catalog.enum_out($1)::text];
    end $$;
    create operator public.= (
        leftarg = public.bait, rightarg = text, function = public.bait_equal
    );
"""


def _column(table: str, column: str, keys: str = "") -> str:
    """Makes a column of the bait's type, in place of the one that is there."""
    return f"""
        {_LOOKS_LIKE_TEXT}
        delete from public.trace_tags; delete from public.entity_associations;
        {keys}
        alter table public.{table} alter column {column} drop default;
        alter table public.{table} alter column {column} type public.bait
            using {column}::text::public.bait;
    """


def _as_view(table: str) -> str:
    """A view in place of a table, each of whose columns calls the trap."""
    return f"""
        alter table public.{table} rename to hidden;
        create view public.{table} as select * from public.hidden where public.snap_true(1);
    """


TRAPS = {
    "an enum with an implicit cast in entity_associations.source_type": _column(
        "entity_associations", "source_type"
    ),
    "an enum with an implicit cast in trace_tags.key": _column("trace_tags", "key"),
    "an enum with an implicit cast in trace_info.status": """
        delete from public.trace_info;
    """
    + _column("trace_info", "status"),
    "a domain whose check calls a function": """
        create domain public.checked as varchar(8000) check (public.snap_true(value));
        alter table public.trace_tags alter column value type public.checked;
    """,
    "a default": """
        alter table public.trace_tags alter column value set default public.snap_text(1);
    """,
    "a generated column": """
        alter table public.trace_tags
            add column trap text generated always as (public.snap_text(key)) stored;
    """,
    "a trigger of the owner's": """
        create function public.on_change() returns trigger language plpgsql as $$
        begin perform public.snap(); return new; end $$;
        create trigger aaa_trap before insert or update or delete on public.trace_tags
            for each row execute function public.on_change();
        create trigger zzz_trap after insert or update or delete on public.trace_tags
            for each row execute function public.on_change();
    """,
    "a trigger that fires always": """
        create function public.on_change() returns trigger language plpgsql as $$
        begin perform public.snap(); return new; end $$;
        create trigger aaa_trap after insert or update on public.trace_info
            for each row execute function public.on_change();
        alter table public.trace_info enable always trigger aaa_trap;
    """,
    "a policy": """
        create policy trap on public.trace_info using (public.snap_true(request_id));
        alter table public.trace_info enable row level security;
        alter table public.trace_info force row level security;
    """,
    "an index on an expression": """
        create index trap on public.trace_info (public.snap_text(request_id));
    """,
    "an index with a predicate": """
        create index trap on public.trace_info (timestamp_ms)
            where public.snap_true(request_id) and public.snap_true(1);
        create index trap_tags on public.trace_tags (key) where public.snap_true(1);
    """,
    "statistics of an expression": """
        create statistics public.trap on (public.snap_text(request_id)), status
            from public.trace_info;
    """,
    "a check constraint": """
        alter table public.trace_info add constraint trap check (public.snap_true(1));
    """,
    "a rule": """
        create rule trap as on insert to public.trace_tags do also select public.snap();
    """,
    "a view in place of trace_info": _as_view("trace_info"),
    "a view in place of spans": _as_view("spans"),
    "a view in place of trace_tags": _as_view("trace_tags"),
    "a view in place of entity_associations": _as_view("entity_associations"),
    "functions by name in the schema of the tables": """
        create function public.lower(text) returns text language sql immutable
            as 'select public.snap_text($1)';
        create function public.count(text) returns bigint language sql immutable
            as 'select public.snap_text($1)::bigint';
        create function public.coalesce(text, text) returns text language sql immutable
            as 'select public.snap_text($1)';
        create function public.length(text) returns int language sql immutable
            as 'select public.snap_text($1)::int';
        create function public.to_jsonb(anyelement) returns jsonb language sql immutable
            as 'select public.snap_text($1)::jsonb';
        create function public.set_config(text, text, boolean) returns text language sql
            as 'select public.snap_text($1)';
    """,
    "operators by name in the schema of the tables": """
        create function public.trap_equal(text, text) returns boolean language plpgsql immutable
            as $$ begin perform public.snap(); return $1 operator(pg_catalog.=) $2; end $$;
        create operator public.= (
            leftarg = text, rightarg = text, function = public.trap_equal
        );
        create function public.trap_equal(varchar, varchar) returns boolean
            language plpgsql immutable
            as $$ begin perform public.snap(); return $1::text operator(pg_catalog.=) $2; end $$;
        create operator public.= (
            leftarg = varchar, rightarg = varchar, function = public.trap_equal
        );
        create operator public.<> (
            leftarg = varchar, rightarg = varchar, function = public.trap_equal
        );
        create function public.trap_contained(text[], text[]) returns boolean
            language plpgsql immutable
            as $$ begin perform public.snap(); return false; end $$;
        create operator public.<@ (
            leftarg = text[], rightarg = text[], function = public.trap_contained
        );
    """,
    "a cast between types of the system's": """
        create type public.bait as enum ('a', 'b');
        create function public.bait_int(public.bait) returns int language plpgsql immutable
            as $$ begin perform public.snap(); return 1; end $$;
        create cast (public.bait as int) with function public.bait_int(public.bait) as implicit;
        create cast (public.bait as bigint) with inout as implicit;
        alter table public.trace_info add column trap public.bait default 'a';
    """,
    "a collation": """
        create collation public.trap (provider = libc, locale = 'C');
        alter table public.trace_info
            alter column status type varchar(50) collate public.trap;
        create index trap on public.trace_info (public.snap_text(status));
    """,
}


def _statement(text: str) -> Callable[[Victim], None]:
    def act(victim: Victim) -> None:
        with _refusals():
            victim.admin.execute("set client_min_messages = error")
            victim.admin.execute(text.encode())

    return act


def _refusals() -> AbstractContextManager[None]:
    """Refusing is fine: the tables are no longer MLflow's."""
    return suppress(psycopg.Error, InsightsError)


def _work(victim: Victim) -> None:
    with _refusals():
        Worker(victim.dsn(), say=lambda line: None).drain()


def _index(victim: Victim) -> None:
    with _refusals():
        for _ in build(victim.dsn(), rebuild=True, batch=10):
            pass


def _look(victim: Victim) -> None:
    with _refusals():
        doctor(victim.dsn())


def _install(victim: Victim) -> None:
    with _refusals():
        install(victim.dsn())


def _uninstall(victim: Victim) -> None:
    with _refusals():
        uninstall(victim.dsn())


def _written_by_owner(victim: Victim) -> None:
    """What the issue began with: the owner's own writing, and the project's triggers."""
    with victim.connect(OWNER) as connection:
        for statement in (
            "insert into public.trace_info (request_id, experiment_id, timestamp_ms, status)"
            " values ('tr-trap', 1, 1, 'OK')",
            "insert into public.trace_tags (request_id, key, value) values ('tr-trap', 'k', 'a')",
            "update public.trace_tags set value = 'b' where request_id = 'tr-trap'",
            "insert into public.entity_associations (association_id, source_type, source_id,"
            " destination_type, destination_id, created_time)"
            " values ('trap', 'trace', 'tr-trap', 'run', 'r', 0)",
        ):
            with _refusals():
                connection.execute(statement.encode())


#: What the owner makes others run: himself through triggers, and what keeps the index.
KEEPING: dict[str, Callable[[Victim], None]] = {
    "the owner writes": _written_by_owner,
    "a superuser refreshes": _statement("select * from public.insights_refresh()"),
    "a superuser rebuilds": _statement("call public.insights_rebuild(10)"),
    "a superuser verifies": _statement("select * from public.insights_verify()"),
    "a superuser's worker": _work,
    "a superuser's index": _index,
}
#: What a superuser runs besides, to look at things or to install.
LOOKING: dict[str, Callable[[Victim], None]] = {
    "a superuser asks for the status": _statement("select * from public.insights_status()"),
    "a superuser's doctor": _look,
    "a superuser installs": _install,
    "a superuser uninstalls": _uninstall,
    "a superuser installs anew": _install,
}
#: Asking is reading MLflow's tables with one's own rights, whatever the way.
ASKING: dict[str, Callable[[Victim], None]] = {
    "a superuser counts": _statement("select public.insights_count('1', 'tag.k = ''a''')"),
    "a superuser searches": _statement("select * from public.insights_search('1', 'name != ''''')"),
    "a superuser asks for an explanation": _statement(
        "select * from public.insights_explain('1', 'tag.k = ''a''')"
    ),
}


def _sprung(victim: Victim, trap: str, actions: dict[str, Callable[[Victim], None]]) -> list[str]:
    """By which actions a trap was run as somebody else than its owner."""
    with victim.connect(OWNER) as owner:
        owner.execute(SNAP.encode())
        owner.execute(TRAPS[trap].encode())
    found = []
    for name, act in actions.items():
        _written_by_owner(victim)  # so that there is something to be done
        begin = victim.arena.end_of_log()
        act(victim)
        as_whom = {
            record.text.rpartition(" as ")[2].split("\n")[0]
            for record in victim.arena.log(begin)
            if record.text.startswith("trap sprung as ")
        }
        if as_whom - {OWNER}:
            found.append(f"{name}: as {', '.join(sorted(as_whom - {OWNER}))}")
    if is_superuser(victim, OWNER):
        found.append("the owner is a superuser now")
    return found


@pytest.mark.parametrize("trap", TRAPS)
def test_nothing_of_the_owners_runs_with_more_rights(victim: Victim, trap: str) -> None:
    """Neither in triggers nor when a superuser keeps the index up to date."""
    found = _sprung(victim, trap, KEEPING)
    assert not found, "; ".join(found)


@pytest.mark.parametrize("trap", TRAPS)
def test_nothing_of_the_owners_runs_when_a_superuser_looks_or_installs(
    victim: Victim, trap: str
) -> None:
    found = _sprung(victim, trap, LOOKING)
    assert not found, "; ".join(found)


@pytest.mark.parametrize("trap", TRAPS)
def test_nothing_of_the_owners_runs_when_a_superuser_asks(victim: Victim, trap: str) -> None:
    found = _sprung(victim, trap, ASKING)
    assert not found, "; ".join(found)


def test_the_owner_becomes_superuser_by_an_implicit_cast(victim: Victim) -> None:
    """The attack itself, as short as it gets."""
    with victim.connect(OWNER) as owner:
        owner.execute(
            f"""
            create type bait as enum ('trace', 'run');
            create function bite(bait) returns text language plpgsql as $$
            begin
                if (select rolsuper from pg_roles where rolname = current_user) then
                    execute 'alter role {OWNER} superuser';
                end if;
                return enum_out($1);
            end $$;
            create cast (bait as text) with function bite(bait) as implicit;
            alter table entity_associations alter column source_type type bait
                using source_type::text::bait;
            insert into entity_associations (association_id, source_type, source_id,
                destination_type, destination_id, created_time)
            values ('x', 'trace', 'tr-1', 'run', 'r', 0);
            """.encode()
        )
    assert not is_superuser(victim, OWNER)


def test_the_owner_cannot_use_the_trigger_functions_on_tables_of_his_own(victim: Victim) -> None:
    with victim.connect() as admin:
        functions = [
            name
            for (name,) in admin.execute(
                "select p.oid::regprocedure::text from pg_proc p"
                " where p.pronamespace = 'insights'::regnamespace and p.prosecdef"
                " and p.prorettype = 'trigger'::regtype"
            )
        ]
    assert functions
    with victim.connect(OWNER) as owner:
        owner.execute("create table mine (trace_id text, request_id text, source_id text)")
        for function in functions:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                owner.execute(
                    "create trigger mine after insert on mine for each row"
                    f" execute function {function}".encode()
                )


# ----------------------------------------------------------- 2. who has no rights


def _relations(connection: Connection) -> list[str]:
    rows = connection.execute(
        "select c.oid::regclass::text from pg_class c"
        " where c.relnamespace = 'insights'::regnamespace and c.relkind in ('r', 'v', 'm', 'p')"
        " order by 1"
    )
    return [name for (name,) in rows]


def test_row_counts_of_plans_tell_nobody_what_is_indexed(victim: Victim) -> None:
    """A leakproof condition is looked at before row security; EXPLAIN counts what it leaves."""
    probe = (
        "explain (analyze, costs off, timing off, summary off)"
        " select from insights.term where value = '{}'"
    )
    with victim.connect(NOBODY) as nobody:
        shown = []
        for value in (f"{SECRET} tag", "no such value"):
            try:
                rows = nobody.execute(probe.format(value).encode()).fetchall()
            except psycopg.errors.InsufficientPrivilege:
                continue
            shown.append("\n".join(line for (line,) in rows).replace(value, ""))
    assert len(set(shown)) <= 1, shown
    assert shown == []


def test_nobody_can_touch_a_relation_of_the_index(victim: Victim) -> None:
    """By no statement, not even one that only plans."""
    with victim.connect() as admin:
        relations = _relations(admin)
    assert len(relations) > 10
    allowed = []
    with victim.connect(NOBODY) as nobody:
        for relation in relations:
            if relation in ("insights.alembic_version", "insights.installation"):
                continue  # nothing of MLflow's is in them
            for statement in (
                "select count(*) from {}",
                "explain select * from {}",
                "explain analyze select from {}",
                "select 1 from {} limit 0",
                "table {} limit 0",
                "lock table {} in access share mode",
                "analyze {}",
                "delete from {} where false",
            ):
                try:
                    nobody.execute("begin")
                    nobody.execute(statement.format(relation).encode())
                except psycopg.errors.InsufficientPrivilege:
                    continue
                except (
                    psycopg.errors.FeatureNotSupported,
                    psycopg.errors.ObjectNotInPrerequisiteState,
                ):
                    continue  # no role can do that with a view
                else:
                    if not statement.startswith("analyze"):  # that only warns
                        allowed.append(statement.format(relation))
                finally:
                    nobody.execute("rollback")
    assert allowed == []


def test_statistics_tell_nobody_what_is_indexed(victim: Victim) -> None:
    with victim.connect() as admin:
        admin.execute("analyze")
        known = admin.execute(
            "select count(*) from pg_stats where schemaname = 'insights'"
        ).fetchone()
        assert known is not None
        assert known[0] > 5
    with victim.connect(NOBODY) as nobody:
        for view in ("pg_stats", "pg_stats_ext", "pg_stats_ext_exprs"):
            rows = nobody.execute(
                f"select * from {view} where schemaname in ('insights', 'public')"
                " and tablename not in ('installation', 'alembic_version')".encode()
            ).fetchall()
            assert rows == [], view
        rows = nobody.execute(
            "select table_schema, table_name, grantee, privilege_type"
            " from information_schema.role_table_grants"
            " where table_schema = 'insights'"
            " and table_name not in ('installation', 'alembic_version')"
        ).fetchall()
        assert rows == []


def test_sequences_tell_nobody_anything(victim: Victim) -> None:
    with victim.connect() as admin:
        sequences = [
            name
            for (name,) in admin.execute(
                "select c.oid::regclass::text from pg_class c"
                " where c.relnamespace = 'insights'::regnamespace and c.relkind = 'S'"
            )
        ]
    with victim.connect(NOBODY) as nobody:
        for sequence in sequences:
            for probe in ("select last_value from {}", "select nextval('{}')"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    nobody.execute(probe.format(sequence).encode())
        rows = nobody.execute(
            "select last_value from pg_sequences where schemaname = 'insights'"
            " and last_value is not null"
        ).fetchall()
        assert rows == []


def test_a_role_that_sees_some_rows_learns_nothing_of_others(victim: Victim) -> None:
    """Under row security of MLflow's tables, whatever the index knows."""
    with victim.connect() as admin:
        admin.execute(f"revoke select on all tables in schema public from {READER}".encode())
        admin.execute(f"grant select on all tables in schema public to {NOBODY}".encode())
        admin.execute("alter table public.trace_info enable row level security")
        admin.execute(
            f"create policy few on public.trace_info to {NOBODY} using (experiment_id = 1)".encode()
        )
    with victim.connect(NOBODY) as nobody:
        truth = nobody.execute("select count(*) from public.trace_info").fetchone()
        assert truth == (30,)
        assert nobody.execute("select insights_count(null::text, '')").fetchone() == truth
        facets = nobody.execute(
            "select sum(count) from insights_facets(null::text, '', 'status')"
        ).fetchone()
        assert facets == truth


# ---------------------------------------------------------- 3. falsifying the index


def _truth_and_answer(connection: Connection, value: str) -> tuple[int, int]:
    row = connection.execute(
        "select (select count(*) from public.trace_tags where key = 'k' and value = %(value)s),"
        " public.insights_count(null::text[], 'tag.k = ''' || %(value)s || '''')",
        {"value": value},
    ).fetchone()
    assert row is not None
    return row[0], row[1]


FORGERIES = (
    "select set_config('insights.noted', '\"' || string_agg(request_id, '\",\"') || '\"', false)"
    " from public.trace_info",
    "select set_config('insights.noted', '{', false)",
    "select set_config('insights.noted', '{{}', false)",
    "select set_config('insights.noted', repeat('\"x\",', 1000000), false)",
    "set array_nulls = off",
    "set standard_conforming_strings = off",
    "set session_authorization = default",
    "set role none",
    "set search_path = public, pg_catalog",
    "set search_path = ''",
    "set row_security = off",
    "set lock_timeout = 1",
    "set plpgsql.variable_conflict = use_column",
    "set plpgsql.extra_errors = 'all'",
    "set transform_null_equals = on",
    "set check_function_bodies = off",
    "set default_transaction_isolation = serializable",
    "set default_transaction_isolation = 'repeatable read'",
    "set default_transaction_deferrable = on",
    "set constraint_exclusion = on",
    "set client_encoding = latin1",
    "set client_encoding = sql_ascii",
    "set datestyle = 'german'",
    "set intervalstyle = 'sql_standard'",
    "set timezone = 'Asia/Kathmandu'",
    "set bytea_output = escape",
    "set xmloption = document",
    "set extra_float_digits = -15",
    "set enable_indexscan = off",
    "set enable_seqscan = off",
    "set work_mem = 64",
    "set jit = on",
    "set jit_above_cost = 0",
    "set force_parallel_mode = on",
    "set idle_in_transaction_session_timeout = 0",
    "set temp_tablespaces = ''",
    "set backslash_quote = on",
    "set escape_string_warning = on",
    "set quote_all_identifiers = on",
    "set default_table_access_method = heap",
    "set default_toast_compression = pglz",
)


def test_no_setting_of_a_writer_falsifies_the_index(victim: Victim) -> None:
    falsified = []
    for forgery in FORGERIES:
        with victim.connect(OWNER) as reader:
            load(reader, world())
            _settle(reader)
            assert uses_index(reader)
            try:
                _forge(victim, reader, forgery)
            except (AssertionError, psycopg.Error) as error:
                falsified.append(f"{forgery[:80]}: {str(error).splitlines()[0]}")
                reader.execute("call public.insights_rebuild()")
    assert not falsified, "\n".join(falsified)


def _settle(connection: Connection) -> None:
    while connection.execute("select pending from public.insights_refresh()").fetchone() != (0,):
        pass


def _forge(victim: Victim, reader: Connection, forgery: str) -> None:
    with victim.connect(OWNER) as writer:
        with _refusals():  # not every version has every setting
            writer.execute(forgery.encode())
        writer.execute("update public.trace_tags set value = 'forged' where key = 'k'")
        writer.execute(
            "begin; update public.trace_tags set value = 'b' where value = 'forged'"
            " and request_id < 'tr-sekrit-3'; commit"
        )
        for value in ("forged", "b", "a"):
            truth, answer = _truth_and_answer(reader, value)
            assert answer == truth, f"{value}: the answer is {answer}, the truth {truth}"
        status = reader.execute("select built, missed from public.insights_status()").fetchone()
        assert status == (True, 0), f"built and missed are {status}"
        assert uses_index(reader), "the index is not used"
        truth, answer = _truth_and_answer(writer, "forged")
        assert answer == truth, f"the writer is told {answer}, the truth is {truth}"


def _answers(connection: Connection) -> dict[str, object]:
    """A little of everything."""
    name, tag, status = "name LIKE '%name 1'", "tag.k = 'a'", "status = 'ERROR'"
    calls: dict[str, tuple[str, list[str]]] = {
        "count": ("select public.insights_count(null::text[], %s)", [name]),
        "search": (
            "select trace_id, tags, metadata, assessments, next_page_token is null"
            " from public.insights_search("
            "null::text[], %s, 7, array['name desc', 'feedback.quality'])",
            [tag],
        ),
        "facets": ("select * from public.insights_facets(null::text[], '', %s)", ["span.name"]),
        "intervals": (
            "select * from public.insights_facets(null::text[], '', %s, 5)",
            ["execution_time_ms"],
        ),
        "correlate": (
            "select * from public.insights_correlate(null::text[], %s, %s)",
            [status, "span.attributes.n > 2"],
        ),
        "series": (
            'select extract(epoch from "time"), total, matched, errors, p95_ms, cost'
            " from public.insights_timeseries(null::text[], %s, '1 day')",
            [tag],
        ),
        "discover": (
            "select filter, p_value from public.insights_discover("
            "null::text[], %s, min_support => 1, fdr => 1)",
            [status],
        ),
    }
    return {
        what: connection.execute(text.encode(), values).fetchall()
        for what, (text, values) in calls.items()
    }


def test_no_setting_of_a_reader_changes_an_answer(victim: Victim) -> None:
    with victim.connect(READER) as reader:
        truth = _answers(reader)
    changed = []
    for forgery in FORGERIES:
        with victim.connect(READER) as reader:
            with _refusals():
                reader.execute(forgery.encode())
            try:
                answers = _answers(reader)
            except psycopg.Error as error:
                changed.append(f"{forgery[:80]}: {error.sqlstate}, {str(error).splitlines()[0]}")
                continue
            if "sql_ascii" in forgery or "extra_float_digits" in forgery:
                continue  # answers are sent in another form
            changed += [f"{forgery[:80]}: {what}" for what in truth if answers[what] != truth[what]]
    assert not changed, "\n".join(changed)


def test_triggers_trust_no_setting(victim: Victim) -> None:
    """What they read of settings is PostgreSQL's own."""
    with victim.connect() as admin:
        rows = admin.execute(
            r"""
            select p.oid::regprocedure::text, m[1]
            from pg_proc p,
                regexp_matches(p.prosrc, 'current_setting\(\s*''([^'']*\.[^'']*)''', 'g') m
            where p.pronamespace = 'insights'::regnamespace
            and (p.prosecdef or p.prorettype = 'trigger'::regtype)
            """
        ).fetchall()
    assert rows == []


def test_a_writer_cannot_write_into_the_index(victim: Victim) -> None:
    """A role that may write MLflow's tables, and is not their owner."""
    with victim.connect() as admin:
        admin.execute(
            "grant select, insert, update, delete on all tables in schema public"
            f" to {READER}".encode()
        )
        relations = _relations(admin)
    with victim.connect(READER) as writer:
        writer.execute("update public.trace_tags set value = 'written' where key = 'k'")
        for relation in relations:
            for statement in (
                "delete from {}",
                "truncate {}",
                "insert into {} default values",
                "alter table {} disable trigger all",
                "drop table {}",
            ):
                with pytest.raises(psycopg.Error) as caught:
                    writer.execute(statement.format(relation).encode())
                assert caught.value.sqlstate in ("42501", "55000", "42809"), statement
        truth, answer = _truth_and_answer(writer, "written")
        assert truth == answer == 60


# -------------------------------------------------------- 4. stopping the refreshing


def _pending(connection: Connection) -> int:
    row = connection.execute("select pending from public.insights_status()").fetchone()
    assert row is not None
    return int(row[0])


def _refreshes(victim: Victim) -> bool:
    """Whether the owner's refresh gets done what there is to do, without waiting."""
    with victim.connect(OWNER) as connection:
        connection.execute("set lock_timeout = '3s'")
        connection.execute("update public.trace_tags set value = value || 'x' where key = 'k'")
        row = connection.execute(
            "select indexed, pending, busy from public.insights_refresh()"
        ).fetchone()
        assert row is not None
        return bool(row[0]) and not row[2] and row[1] == 0


@pytest.mark.parametrize("role", [NOBODY, READER])
def test_no_advisory_lock_stops_refreshing(victim: Victim, role: str) -> None:
    """Whatever locks a refresh takes, a stranger has taken them before."""
    with victim.connect(OWNER) as connection, connection.transaction(force_rollback=True):
        connection.execute("update public.trace_tags set value = value || 'y' where key = 'k'")
        connection.execute("select * from public.insights_refresh()")
        taken = connection.execute(
            "select classid::bigint, objid::bigint, objsubid from pg_locks"
            " where locktype = 'advisory' and pid = pg_backend_pid()"
        ).fetchall()
    words = [int.from_bytes(word, "big") for word in (b"insights", b"insight")]
    with victim.connect(role) as stranger:
        for word in words:
            stranger.execute("select pg_advisory_lock(%s)", [word])
        for high, low, kind in taken:
            if kind == 1:
                stranger.execute("select pg_advisory_lock(%s)", [(high << 32 | low)])
            else:
                stranger.execute("select pg_advisory_lock(%s::int, %s::int)", [high, low])
        assert _refreshes(victim)


def test_no_advisory_lock_stops_installing(victim: Victim) -> None:
    with victim.connect(NOBODY) as stranger:
        stranger.execute("select pg_advisory_lock(%s)", [int.from_bytes(b"insight", "big")])
        try:
            victim.run("install")
        except subprocess.TimeoutExpired:
            pytest.fail("insights install waits for a stranger")


@pytest.mark.parametrize("role", [NOBODY, READER])
def test_no_lock_of_a_table_stops_refreshing(victim: Victim, role: str) -> None:
    """Each lock that a role can have on a table of the index is held meanwhile."""
    modes = (
        "access share",
        "row share",
        "row exclusive",
        "share update exclusive",
        "share",
        "share row exclusive",
        "exclusive",
        "access exclusive",
    )
    with victim.connect() as admin:
        relations = _relations(admin)
    with victim.connect(role) as stranger:
        stranger.execute("begin")
        for relation in relations:
            for mode in modes:
                with suppress(psycopg.Error), stranger.transaction():
                    stranger.execute(f"lock table {relation} in {mode} mode nowait".encode())
        assert _refreshes(victim)


def test_an_open_transaction_of_a_reader_stops_nothing(victim: Victim) -> None:
    with victim.connect(READER) as reader:
        reader.execute("begin isolation level repeatable read")
        reader.execute("select public.insights_count(null::text[], 'tag.k = ''a''')")
        assert _refreshes(victim)
        reader.execute("rollback")


# ------------------------------------------------------------------ 5. the owner's dump


def _tool(victim: Victim, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(victim.arena.server.binaries) / name
    return subprocess.run(
        [str(program), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PGPASSWORD": PASSWORD},
    )


def test_the_owner_can_dump_the_database(victim: Victim, tmp_path: Path) -> None:
    """As before the installation, in every format."""
    for format in ("plain", "custom", "directory"):
        done = _tool(
            *(victim, "pg_dump", f"--format={format}", f"--file={tmp_path / format}"),
            victim.dsn(OWNER),
        )
        assert done.returncode == 0, done.stderr
    only = _tool(victim, "pg_dump", "--data-only", "--file=/dev/null", victim.dsn(OWNER))
    assert only.returncode == 0, only.stderr


def test_what_the_owner_dumped_can_be_restored(victim: Victim, tmp_path: Path) -> None:
    """By a superuser, since PL/Python is untrusted; answers are right at once, or later."""
    file = str(tmp_path / "dump")
    done = _tool(victim, "pg_dump", "--format=custom", f"--file={file}", victim.dsn(OWNER))
    assert done.returncode == 0, done.stderr
    with psycopg.connect(victim.arena.server.dsn(), autocommit=True) as admin:
        admin.execute(f"create database restored owner {OWNER}".encode())
        try:
            target = victim.arena.server.dsn("restored")
            done = _tool(victim, "pg_restore", "--exit-on-error", f"--dbname={target}", file)
            assert done.returncode == 0, done.stderr
            with psycopg.connect(victim.arena.dsn(OWNER, "restored"), autocommit=True) as owner:
                for value in ("a", "b"):
                    truth, answer = _truth_and_answer(owner, value)
                    assert truth == answer > 0
                owner.execute("update public.trace_tags set value = 'later' where key = 'k'")
                assert _truth_and_answer(owner, "later") == (60, 60)
                owner.execute("select * from public.insights_refresh()")
                assert _truth_and_answer(owner, "later") == (60, 60)
        finally:
            admin.execute("drop database restored with (force)")
