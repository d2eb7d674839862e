"""What the catalogue says about every function, held to the rules of sql/README.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

SQL = Path(__file__).resolve().parents[2] / "sql"

#: Triggers on MLflow's tables, which note what changed whoever changed it.
NOTING = {"note_change"}
TRIGGERS = NOTING | {"note_missed"}
#: Functions that write the index; MLflow's owner may call them, see install/privileges.sql.
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
#: Procedures that commit, which can have no SET clause.
PROCEDURES = {"insights_rebuild", "try_commit"}
#: Functions that look at nothing but their arguments, and may run in parallel workers.
HELPERS = {
    "decode_json_text",
    "experiment_ids",
    "json_text",
    "parse_number",
    "span_attribute",
    "span_attribute_decimal",
    "span_attribute_number",
    "text_number",
}
#: Those of them, and those overloads, that are meant to be inlined.
INLINED = {"experiment_ids", "json_text", "may_read", "text_number"}
#: PostgreSQL runs EXPLAIN in volatile functions only.
VOLATILE = (
    {"insights_explain", "run_explain"} | TRIGGERS | WRITING - {"insights_verify", "run_verify"}
)
PARALLEL_SAFE = HELPERS | {
    "accept",
    "fingerprint",
    "foreign_code",
    "guard",
    "identity",
    "may_read",
    "role_name",
    "unwatched",
}
#: PL/Python helpers, which query nothing and so resolve no names.
NAMELESS = {"decode_json_text", "parse_number"} | {h for h in HELPERS if h.startswith("span_")}


@pytest.fixture(scope="module")
def functions(module_conn: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    with module_conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            """
            select
                n.nspname as schema,
                p.proname as name,
                p.oid::regprocedure::text as signature,
                p.proargtypes::regtype[]::text[] as types,
                l.lanname as language,
                p.provolatile::text as volatility,
                p.proparallel::text as parallel,
                p.prosecdef as definer,
                p.proleakproof as leakproof,
                coalesce(p.proconfig, '{}') as settings,
                p.prosrc as source,
                o.rolsuper as by_superuser,
                obj_description(p.oid, 'pg_proc') as comment,
                has_function_privilege('public', p.oid, 'execute') as for_all
            from pg_proc p
            join pg_namespace n on n.oid = p.pronamespace
            join pg_language l on l.oid = p.prolang
            join pg_roles o on o.oid = p.proowner
            where n.nspname = 'insights' or p.proname like 'insights\\_%'
            order by signature
            """
        ).fetchall()


def test_there_are_functions_and_public_ones_start_with_insights(
    functions: list[dict[str, Any]],
) -> None:
    public = {f["name"] for f in functions if f["schema"] == "public"}
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


def test_each_file_creates_the_function_of_its_name() -> None:
    for folder in ("functions", "internal"):
        for path in (SQL / folder).glob("*.sql"):
            text = path.read_text()
            assert f".{path.stem}(" in text, path
            kind = "procedure" if path.stem in PROCEDURES else "function"
            for statement in ("comment on", "revoke all on"):
                assert f"{statement} {kind} " in text, (path, statement)
            assert ("grant execute on" in text) == (path.stem not in TRIGGERS | WRITING), path


def test_each_has_a_comment(functions: list[dict[str, Any]]) -> None:
    assert [f["signature"] for f in functions if not f["comment"]] == []


def test_only_triggers_run_with_other_rights_than_the_callers(
    functions: list[dict[str, Any]],
) -> None:
    assert {f["name"] for f in functions if f["definer"]} == NOTING
    assert [f["signature"] for f in functions if f["leakproof"]] == []


def test_the_triggers_role_can_do_one_thing(module_conn: psycopg.Connection[Any]) -> None:
    """Write a note, or count that it could not: that is all that a stranger's cast could gain."""
    with module_conn.cursor(row_factory=dict_row) as cursor:
        (role,) = cursor.execute(
            """
            select r.oid, r.rolname, r.rolcanlogin or r.rolsuper or r.rolcreaterole or r.rolcreatedb
                or r.rolreplication or r.rolbypassrls as more,
                exists (
                    select from pg_auth_members m where r.oid in (m.roleid, m.member)
                ) as related
            from insights.installation i join pg_roles r on r.rolname = i.note_role
            """
        ).fetchall()
        assert (role["more"], role["related"]) == (False, False)
        owned = cursor.execute(
            "select p.proname from pg_proc p where p.proowner = %s order by 1", [role["oid"]]
        ).fetchall()
        assert {row["proname"] for row in owned} == TRIGGERS
        # Of this database: a clone's rights are its own.
        rights = cursor.execute(
            """
            select c.relname as name, a.privilege_type as right
            from pg_class c cross join lateral aclexplode(c.relacl) a where a.grantee = %(role)s
            union all
            select n.nspname, a.privilege_type
            from pg_namespace n cross join lateral aclexplode(n.nspacl) a where a.grantee = %(role)s
            order by 1, 2
            """,
            {"role": role["oid"]},
        ).fetchall()
        assert [tuple(row.values()) for row in rights] == [
            ("insights", "USAGE"),
            ("missed", "USAGE"),
            ("pending", "INSERT"),
        ]


def test_everybody_may_call_those_that_read(functions: list[dict[str, Any]]) -> None:
    names = {f["name"] for f in functions}
    assert {f["name"] for f in functions if not f["for_all"]} == (TRIGGERS | WRITING) & names


def test_untrusted_code_belongs_to_a_superuser(functions: list[dict[str, Any]]) -> None:
    untrusted = [f for f in functions if f["language"] == "plpython3u"]
    assert untrusted
    assert [f["signature"] for f in untrusted if not f["by_superuser"]] == []


def test_volatility(functions: list[dict[str, Any]]) -> None:
    for f in functions:
        expected = "v" if f["name"] in VOLATILE else "i" if f["name"] in HELPERS else "s"
        assert f["volatility"] == expected, f["signature"]


def test_parallel_marking(functions: list[dict[str, Any]]) -> None:
    for f in functions:
        expected = "s" if f["name"] in PARALLEL_SAFE else "u"
        assert f["parallel"] == expected, f["signature"]


def test_search_path(functions: list[dict[str, Any]]) -> None:
    for f in functions:
        overload = f["schema"] == "public" and (
            f["types"][:1] in (["integer[]"], ["text"]) or "interval" in f["types"]
        )
        inlined = f["name"] in INLINED or (overload and f["name"] != "insights_validate")
        if inlined or f["name"] in PROCEDURES:
            assert f["settings"] == [], f["signature"]
        elif f["name"] not in NAMELESS:
            assert "search_path=pg_catalog, pg_temp" in f["settings"], f["signature"]


def test_public_functions_do_without_jit(functions: list[dict[str, Any]]) -> None:
    for f in functions:
        if f["schema"] == "public" and f["settings"]:
            assert "jit=off" in f["settings"], f["signature"]


def test_shims_are_shims(functions: list[dict[str, Any]]) -> None:
    for f in functions:
        if f["name"].startswith("run_"):
            assert len(f["source"].strip().splitlines()) < 10, f["signature"]


def test_the_engine_is_loaded_before_a_shim_needs_it(functions: list[dict[str, Any]]) -> None:
    """In the shim an interruption while it loads would show Python."""
    callers = [f for f in functions if f["language"] != "plpython3u" and ".run_" in f["source"]]
    assert len(callers) > 10
    for f in callers:
        before, _, _ = f["source"].partition(".run_")
        assert "insights.load_engine();" in before, f["signature"]


def test_overloads_agree_in_everything_but_the_ids(functions: list[dict[str, Any]]) -> None:
    variants: dict[str, list[dict[str, Any]]] = {}
    for f in functions:
        if f["schema"] == "public" and f["name"] != "insights_validate":
            variants.setdefault(f["name"], []).append(f)
    for name, found in variants.items():
        first_types = {one for f in found for one in f["types"][:1]}
        if "text[]" not in first_types:
            continue
        assert first_types == {"text[]", "integer[]", "text"}, name
        rest = {tuple(f["types"][1:]) for f in found}
        assert len(found) == 3 * len(rest), name
        # Those that take an interval take its text as well.
        plain = {tuple(t.replace("interval", "text") for t in types) for types in rest}
        assert len(plain) == 1, name
        # One explains it all, and the others refer to that one.
        (explained,) = (
            f for f in found if f["types"][0] == "text[]" and "interval" not in f["types"]
        )
        assert len(explained["comment"]) > 200, name
        for f in found:
            if f is not explained:
                assert f["comment"].startswith(f"As {name} of text[], with "), f["signature"]
