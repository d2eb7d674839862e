"""A session's settings change no answer: what PostgreSQL reads and prints in another way for
them, and how it plans, is the session's own affair."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from tests.semantics.world import Assessment, Experiment, Span, Trace, World, attributes, load

#: Settings that change what SQL means, or how values are read and printed, and how it is run.
#: Those that a version of PostgreSQL does not have are left out.
SETTINGS: dict[str, tuple[str, ...]] = {
    "array_nulls": ("off",),
    "backslash_quote": ("on", "off", "safe_encoding"),
    "bytea_output": ("escape",),
    "check_function_bodies": ("off",),
    "client_encoding": ("LATIN1",),
    "client_min_messages": ("debug1", "error"),
    "constraint_exclusion": ("on", "off"),
    "cursor_tuple_fraction": ("0", "1"),
    "datestyle": ("SQL, DMY", "German, DMY", "Postgres, MDY", "ISO, YMD"),
    "default_statistics_target": ("1",),
    "default_text_search_config": ("pg_catalog.german",),
    "default_toast_compression": ("pglz",),
    "default_transaction_deferrable": ("on",),
    "default_transaction_isolation": ("serializable", "repeatable read", "read uncommitted"),
    "default_transaction_read_only": ("on",),
    "enable_async_append": ("off",),
    "enable_bitmapscan": ("off",),
    "enable_gathermerge": ("off",),
    "enable_group_by_reordering": ("off",),
    "enable_hashagg": ("off",),
    "enable_hashjoin": ("off",),
    "enable_incremental_sort": ("off",),
    "enable_indexonlyscan": ("off",),
    "enable_indexscan": ("off",),
    "enable_material": ("off",),
    "enable_memoize": ("off",),
    "enable_mergejoin": ("off",),
    "enable_nestloop": ("off",),
    "enable_parallel_append": ("off",),
    "enable_parallel_hash": ("off",),
    "enable_partition_pruning": ("off",),
    "enable_partitionwise_aggregate": ("on",),
    "enable_partitionwise_join": ("on",),
    "enable_presorted_aggregate": ("off",),
    "enable_seqscan": ("off",),
    "enable_sort": ("off",),
    "enable_tidscan": ("off",),
    "escape_string_warning": ("off",),
    "exit_on_error": ("on",),
    "extra_float_digits": ("-15", "0", "3"),
    "force_parallel_mode": ("on", "regress"),
    "debug_parallel_query": ("on", "regress"),
    "from_collapse_limit": ("1",),
    "geqo": ("off",),
    "geqo_threshold": ("2",),
    "gin_fuzzy_search_limit": ("1",),
    "hash_mem_multiplier": ("1",),
    "intervalstyle": ("sql_standard", "postgres_verbose", "iso_8601"),
    "jit": ("on",),
    "jit_above_cost": ("0",),
    "join_collapse_limit": ("1",),
    "lc_messages": ("C",),
    "lc_monetary": ("C",),
    "lc_numeric": ("C",),
    "lc_time": ("C",),
    "lo_compat_privileges": ("on",),
    "maintenance_work_mem": ("1MB",),
    "max_parallel_workers_per_gather": ("0", "4"),
    "min_parallel_table_scan_size": ("0",),
    "operator_precedence_warning": ("on",),
    "parallel_leader_participation": ("off",),
    "parallel_setup_cost": ("0",),
    "parallel_tuple_cost": ("0",),
    "plan_cache_mode": ("force_generic_plan", "force_custom_plan"),
    "quote_all_identifiers": ("on",),
    "random_page_cost": ("0", "1000"),
    "recursive_worktable_factor": ("1000",),
    "row_security": ("off", "on"),
    "search_path": ("", "pg_catalog", "pg_temp, insights", "insights, public"),
    "session_replication_role": ("replica",),
    "standard_conforming_strings": ("off",),
    "synchronize_seqscans": ("off",),
    "temp_buffers": ("100",),
    "timezone": ("America/St_Johns", "Pacific/Apia", "-12:34"),
    "timezone_abbreviations": ("India",),
    "track_activities": ("off",),
    "transform_null_equals": ("on",),
    "vacuum_freeze_min_age": ("0",),
    "work_mem": ("64",),
    "xmlbinary": ("hex",),
    "xmloption": ("document",),
    "insights.cache": ("0", "1kB", "nonsense"),
    "insights.undecided_one_by_one": ("0", "1", "nonsense"),
    "insights.added_one_by_one": ("0", "1", "999999999999"),
}

FAILED = "$$status = 'ERROR'$$"
#: Every public function; the schema is named, for the search path is a setting too.
CALLS = (
    "select public.insights_count('1', $$tags.env = 'a\\b' OR name IS NULL$$)",
    "select public.insights_count('1', $$span.attributes.n > 0.1 AND feedback.q >= 1.5$$)",
    "select public.insights_count('1', $$name LIKE 'n_' OR tags.env RLIKE 'a.b$'$$, 'session')",
    "select public.insights_count(null, $$timestamp_ms > '2024-02-01' AND tags.env IS NOT NULL$$)",
    "select s.trace_id, s.timestamp_ms, extract(epoch from s.request_time)::text, s.tags,"
    " s.metadata, s.assessments, s.next_page_token is null"
    " from public.insights_search('1', null, 7, array['total_cost DESC', 'tags.env']) s",
    "select p.trace_id, p.attached from insights.search_page(null, '', 100, array['name']) p",
    f"select c.* from public.insights_correlate('1', {FAILED}, 'total_cost > 0.3') c",
    f"select m.* from public.insights_correlation_matrix('1', array[{FAILED}, 'name = ''n1''']) m",
    f"select d.* from public.insights_discover('1', {FAILED}, min_support => 1, fdr => 1,"
    " restatements => true, pairs => true) d",
    f"select d.* from public.insights_compare('1', {FAILED}, $$status = 'OK'$$, fdr => 1) d",
    "select f.* from public.insights_facets('1', '', 'tags.env') f",
    "select f.* from public.insights_facets('1', '', 'timestamp_ms', 5) f",
    "select f.* from public.insights_facets('1', '', 'total_cost', 3) f",
    "select f.* from public.insights_facets('1', '', 'span.attributes.n', 2) f",
    "select extract(epoch from t.time)::bigint, t.matched, t.total, t.rate, t.p50_ms, t.p95_ms,"
    f" t.tokens, t.cost from public.insights_timeseries('1', {FAILED}, '1 week') t",
    "select extract(epoch from t.time)::bigint, t.total, t.cost from public.insights_timeseries("
    "'1', '', interval '1 month 0 days', time_zone => 'Europe/Berlin', unit => 'session') t",
    "select extract(epoch from t.time)::bigint, t.total from public.insights_timeseries("
    "'1', '', interval '90 minutes', timestamptz '2024-01-01 00:00+00',"
    " timestamptz '2024-01-02 00:00+00') t",
    "select public.insights_validate($$total_cost>.3 and tags.`x`='it''s' and name like 'a\\_'$$)",
    "select e.step, e.detail from public.insights_explain('1', 'total_cost > 0.3') e"
    " where e.step in ('filter', 'predicate', 'sql', 'parameter')",
    "select s.built, s.pending, s.missed, s.traces, s.blocks from public.insights_status() s",
    "select v.* from public.insights_verify() v",
    "select v.* from insights.span_rollup v order by 1, 2, 3, 4",
    "select v.trace_id, v.name from insights.assessment_rollup v order by 1, 2",
)


@pytest.fixture(scope="module")
def world(module_conn: psycopg.Connection[Any]) -> None:
    """Traces with numbers that settings would round, and texts that they would read otherwise."""
    traces = tuple(
        Trace(
            f"t{n}",
            1,
            1_704_067_200_000 + n * 97_000_001,
            None if n % 5 == 0 else 100 + n * 7,
            "ERROR" if n % 3 == 0 else "OK",
            name=None if n % 7 == 0 else f"n{n % 4}",
            session_id=f"s{n % 6}",
            tags={"env": "a\\b" if n % 2 else "it's", "x": f"{n}"},
            metadata={"mlflow.trace.user": f"u{n % 3}"},
            tokens={"total_tokens": n} if n % 4 else {},
            cost={"total_cost": 0.1 + n / 7} if n % 4 else {},
            assessments=(Assessment("feedback", "q", json.dumps(n / 3)),),
            spans=(Span("a", attributes(n=n / 9, text="NULL"), name=f"step {n % 2}"),),
        )
        for n in range(60)
    )
    load(module_conn, World((Experiment(1),), traces))
    module_conn.execute("select insights_refresh()")


def known(connection: psycopg.Connection[Any]) -> list[tuple[str, str]]:
    names = {name for (name,) in connection.execute("select lower(name) from pg_settings")}
    names |= {name for name in SETTINGS if name.startswith("insights.")}
    return [(name, value) for name in SETTINGS if name in names for value in SETTINGS[name]]


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("built", [True, False], ids=["index", "tables"])
def test_no_setting_changes_an_answer(
    module_dsn: str, module_conn: psycopg.Connection[Any], built: bool
) -> None:
    module_conn.execute("update insights.state set built = %s", (built,))
    wrong = []
    with psycopg.connect(module_dsn, autocommit=True) as connection:
        settings = known(connection)
        assert len({name for name, _ in settings}) > 70
        expected = [rows(connection, call) for call in CALLS]
        assert all(isinstance(answer, list) for answer in expected), expected
        for name, value in settings:
            connection.execute("select set_config(%s, %s, false)", (name, value))
            # What the session keeps must not be from before, nor be kept for afterwards.
            for call, answer in zip(CALLS, expected, strict=True):
                found = rows(connection, call)
                if found != answer:
                    wrong.append((name, value, call[:60], str(found)[:200]))
            connection.execute("reset all")
    module_conn.execute("update insights.state set built = true")
    assert not wrong, "\n".join(map(str, wrong[:40]))


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("call", CALLS)
def test_all_settings_at_once_in_a_new_session(module_dsn: str, call: str) -> None:
    """The plans that a session keeps are made under them, too."""
    with psycopg.connect(module_dsn, autocommit=True) as connection:
        expected = rows(connection, call)
        settings = known(connection)
    with psycopg.connect(module_dsn, autocommit=True) as connection:
        for name, value in settings:
            if name not in ("session_replication_role", "exit_on_error"):
                connection.execute("select set_config(%s, %s, false)", (name, value))
        assert rows(connection, call) == expected


def rows(connection: psycopg.Connection[Any], call: str) -> Any:
    """The answer as the client's driver reads it, or what went wrong."""
    try:
        # In binary: how many digits a number has as text is for the client to say.
        found = connection.cursor(binary=True).execute(call.encode()).fetchall()
    except psycopg.Error as error:
        return str(error)
    return [str(row) for row in found]
