"""Every function is declared the way sql/README.md demands."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
import pytest

from insights_py import bundles
from insights_py.install import latest_revision


@dataclass(frozen=True)
class Function:
    """A row of pg_proc."""

    signature: str
    name: str
    schema: str
    language: str
    volatility: str
    parallel: str
    definer: bool
    settings: list[str]
    acl: list[str] | None
    comment: str | None
    owner_is_superuser: bool
    source: str


@pytest.fixture(scope="module")
def functions(module_conn: psycopg.Connection) -> list[Function]:
    rows = module_conn.execute(
        """
        select p.oid::regprocedure::text, p.proname, n.nspname, l.lanname, p.provolatile::text,
               p.proparallel::text, p.prosecdef, coalesce(p.proconfig, '{}'), p.proacl::text[],
               obj_description(p.oid, 'pg_proc'), r.rolsuper, p.prosrc
        from pg_proc p
        join pg_namespace n on n.oid = p.pronamespace
        join pg_language l on l.oid = p.prolang
        join pg_roles r on r.oid = p.proowner
        where n.nspname = 'insights' or (n.nspname = 'public' and p.proname like 'insights\\_%')
        order by 1
        """
    )
    return [Function(*row) for row in rows]


def names(functions: list[Function]) -> list[str]:
    return [function.signature for function in functions]


def test_the_public_functions_are_all_there(functions: list[Function]) -> None:
    public = {function.name for function in functions if function.schema == "public"}
    assert public >= {
        "insights_search",
        "insights_count",
        "insights_correlate",
        "insights_correlation_matrix",
        "insights_facets",
        "insights_timeseries",
        "insights_validate",
        "insights_explain",
    }
    assert public == bundles.public_functions(latest_revision())


def test_each_has_a_comment(functions: list[Function]) -> None:
    assert names([f for f in functions if not (f.comment or "").strip()]) == []


# They write to insights.pending for whoever changes MLflow's tables.
NOTING = {"note_change"}
TRIGGERS = NOTING | {"note_missed"}
# They write the index, for superusers and the owner of MLflow's tables.
WRITING = {
    "build_batch",
    "insights_rebuild",
    "insights_refresh",
    "insights_verify",
    "run_build_batch",
    "run_rebuild",
    "run_refresh",
    "run_verify",
    "try_commit",
}
# Those that commit can have no SET clause.
PROCEDURES = {"insights_rebuild", "try_commit"}
# PostgreSQL runs EXPLAIN in no function that is not volatile.
VOLATILE = (
    {"insights_explain", "run_explain"} | TRIGGERS | WRITING - {"insights_verify", "run_verify"}
)


def test_none_is_volatile(functions: list[Function]) -> None:
    assert {f.name for f in functions if f.volatility == "v"} <= VOLATILE
    public = [f for f in functions if f.schema == "public" and f.name not in VOLATILE]
    assert names([f for f in public if f.volatility != "s" and f.name != "insights_validate"]) == []


def test_only_triggers_run_with_their_owners_rights(functions: list[Function]) -> None:
    assert {f.name for f in functions if f.definer} == NOTING


def test_each_pins_its_search_path_or_needs_none(functions: list[Function]) -> None:
    """Not pinned: SQL to be inlined, Python that runs no SQL and is called per span, and a
    procedure that commits.
    """
    loose = [
        f
        for f in functions
        if "search_path=pg_catalog, pg_temp" not in f.settings and f.name not in PROCEDURES
    ]
    assert names([f for f in loose if f.settings]) == []
    assert names([f for f in loose if f.language == "plpython3u" and "plpy." in f.source]) == []
    assert {f.language for f in loose} <= {"sql", "plpython3u"}


def test_functions_without_a_pinned_search_path_qualify_every_name(
    module_conn: psycopg.Connection, functions: list[Function]
) -> None:
    """An empty search_path must not break those that are meant to be inlined."""
    loose = [f.signature for f in functions if not f.settings]
    with module_conn.transaction():
        module_conn.execute("set local search_path = ''")
        module_conn.execute("set local check_function_bodies = on")
        for signature in loose:
            row = module_conn.execute(
                "select pg_get_functiondef(%s::regprocedure)",
                [signature if "." in signature else f"public.{signature}"],
            ).fetchone()
            assert row is not None
            module_conn.execute(row[0].encode())


def test_everybody_may_execute_and_nobody_has_more(
    module_conn: psycopg.Connection, functions: list[Function]
) -> None:
    """Those that read do it with the caller's rights; triggers nobody else can use."""
    row = module_conn.execute("select note_role from insights.installation").fetchone()
    assert row is not None
    for function in functions:
        owner = row[0] if function.name in TRIGGERS else "postgres"
        assert function.acl is not None, function.signature
        grantees = {entry.partition("/")[0] for entry in function.acl}
        everybody = {"=X"} if function.name not in TRIGGERS | WRITING else set()
        assert grantees == {f"{owner}=X"} | everybody, function.signature


def test_parallel_markings(functions: list[Function]) -> None:
    """What runs queries through PL/Python may not run in a parallel worker."""
    for function in functions:
        runs_queries = function.name.startswith("run_") or function.schema == "public"
        if function.parallel == "s":
            assert not runs_queries or function.name == "insights_validate", function.signature


def test_untrusted_functions_belong_to_a_superuser(functions: list[Function]) -> None:
    untrusted = [f for f in functions if f.language == "plpython3u"]
    assert untrusted
    assert names([f for f in untrusted if not f.owner_is_superuser]) == []


def test_shims_are_short(module_conn: psycopg.Connection, functions: list[Function]) -> None:
    """Logic belongs in the package, where ruff and mypy see it."""
    long = module_conn.execute(
        """
        select p.oid::regprocedure::text, n.lines
        from pg_proc p, lateral (select cardinality(string_to_array(p.prosrc, E'\\n'))) n(lines)
        where p.pronamespace = 'insights'::regnamespace
          and p.prolang = (select oid from pg_language where lanname = 'plpython3u')
          and p.prosrc like '%%GD[%%' and p.proname <> 'load_engine' and n.lines > 14
        """
    ).fetchall()
    assert long == []
