"""What a call may take: it ends when it is cancelled, and pending traces cost little."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.conftest import Databases

Connection = psycopg.Connection[Any]

#: Everything that there is, as much of it as may be asked for.
EVERYTHING = (
    "select * from insights_discover('1', 'status = ''ERROR''', min_support => 1,"
    " max_results => {}, fdr => 1, direction => 'both', pairs => {}, unit => '{}')"
)


_REFUSED = (psycopg.errors.QueryCanceled, psycopg.errors.InvalidParameterValue)


@pytest.fixture(scope="module")
def many_facts(databases: Databases) -> Iterator[str]:
    """2,000 traces with 20,000 facts, each of two traces, each of them under 20 keys."""
    with databases.fresh("insights") as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "insert into experiments (experiment_id, name, lifecycle_stage, workspace)"
            " values (1, 'one', 'active', 'default')"
        )
        connection.execute(
            "insert into trace_info (request_id, experiment_id, timestamp_ms, status, session_id)"
            " select 'tr-' || n, 1, n, case when n % 1000 < 500 then 'ERROR' else 'OK' end,"
            " 's-' || n / 2 from generate_series(1, 2000) n"
        )
        connection.execute(
            "insert into trace_tags (request_id, key, value)"
            " select 'tr-' || n, 'k' || k, 'v' || n % 1000"
            " from generate_series(1, 2000) n, generate_series(1, 20) k"
        )
        connection.execute("call insights_rebuild()")
        yield dsn


@pytest.mark.parametrize("most", [1000, 50_000])
@pytest.mark.parametrize("unit", ["trace", "session_all"])
def test_a_discovery_of_everything_ends_at_its_timeout(
    many_facts: str, unit: str, most: int
) -> None:
    """Or before: so many rows may not be asked for."""
    with psycopg.connect(many_facts, autocommit=True) as connection:
        connection.execute("select insights_count(null::int[], '')")
        connection.execute("set statement_timeout = '1s'")
        started = time.monotonic()
        with contextlib.suppress(*_REFUSED):
            connection.execute(EVERYTHING.format(most, "true", unit).encode())
        took = time.monotonic() - started
        # 0.1 s on a quiet machine.
        assert took < 4, took


def test_nothing_goes_on_for_long_without_a_look(many_facts: str) -> None:
    """In between two looks, or two statements, there are at most some hundred milliseconds."""
    with psycopg.connect(many_facts, autocommit=True) as connection:
        connection.execute("select insights_count(null::int[], '')")
        connection.execute(
            """
            do language plpython3u $$
            import time
            import insights_engine.base.interrupts as interrupts
            look = interrupts.look
            GD["gaps"], GD["last"] = [], None

            def watched(plpy):
                now = time.thread_time()
                if GD["last"] is not None:
                    GD["gaps"].append(now - GD["last"])
                look(plpy)
                GD["last"] = time.thread_time()

            interrupts.look = watched
            $$
            """
        )
        for unit in ("trace", "session", "session_all"):
            connection.execute(EVERYTHING.format(1000, "true", unit).encode())
            connection.execute("do language plpython3u $$ GD['last'] = None $$")
        connection.execute(
            "do language plpython3u"
            """ $$ plpy.execute("set tests.gap = '%f'" % max(GD["gaps"])) $$"""
        )
        (gap,) = connection.execute("select current_setting('tests.gap')").fetchone() or ("",)
        # Of processor time, so that a busy machine decides nothing.
        assert float(gap) < 0.4, gap


def test_rows_of_everything_have_a_limit(many_facts: str) -> None:
    with psycopg.connect(many_facts, autocommit=True) as connection:
        for call, message in (
            ("insights_discover('1', '', max_results => 1001)", "at most 1000"),
            ("insights_compare('1', '', '', max_results => 1001)", "at most 1000"),
            ("insights_facets('1', '', 'name', max_results => 1001)", "at most 1000"),
            ("insights_search('1', '', max_results => 50001)", "at most 50000"),
            ("insights_search('1', '', order_by => array_fill('a'::text, '{33}'))", "32 clauses"),
            ("insights_count(array_fill(1, '{100001}'), '')", "at most 100000 elements"),
            ("insights_count('1', repeat('a', 65537))", "at most 65536"),
            ("insights_correlation_matrix('1', array_fill(''::text, '{51}'))", "2 to 50"),
            ("insights_timeseries('1', '', '1 hour', '1900-01-01')", "10000 buckets"),
            ("insights_refresh(1000001)", "at most 1000000"),
            ("insights_verify(100001)", "at most 100000"),
            ("insights.build_batch(1000001)", "at most 1000000"),
        ):
            with pytest.raises(psycopg.errors.InvalidParameterValue, match=message):
                connection.execute(f"select * from {call}".encode())
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="at most 1000000"):
            connection.execute("call insights_rebuild(1000001)")


# ------------------------------------------------------------------- pending traces


def test_a_discovery_reads_the_pending_traces_and_no_others(many_facts: str) -> None:
    with psycopg.connect(many_facts, autocommit=True) as connection:
        discovery = (
            "select filter, fact_count, joint_count, total_count from"
            " insights_discover('1', 'status = ''ERROR''', min_support => 1, direction => 'both')"
        )
        expected = connection.execute(discovery.encode()).fetchall()
        connection.execute(
            """
            do language plpython3u $$
            import insights_engine.index.index_reader as index_reader
            import insights_engine.facts.rows as rows
            index_reader.MOST_PENDING = 3
            collect = rows.Reader.collect
            GD["read"] = 0

            def counted(self, facts, traces):
                GD["read"] += len(traces)
                return collect(self, facts, traces)

            rows.Reader.collect = counted
            $$
            """
        )
        connection.execute(
            "update trace_tags set value = value where key = 'k1' and request_id like 'tr-10%'"
        )
        pending = connection.execute(
            "select count(distinct trace_id) from insights.pending"
        ).fetchone()
        assert pending == (111,)
        assert connection.execute(discovery.encode()).fetchall() == expected
        connection.execute(
            """
            do language plpython3u $$ plpy.execute("set tests.read = '%d'" % GD["read"]) $$
            """
        )
        read = connection.execute("select current_setting('tests.read')").fetchone()
        assert read == ("111",)
        # A hundred of 2,000 are no more than 5 %: counts ask about them alone.
        steps = connection.execute(
            "select step, detail from insights_explain('1', 'status = ''ERROR''')"
        ).fetchall()
        assert any("pending" in detail for step, detail in steps if step == "index"), steps
