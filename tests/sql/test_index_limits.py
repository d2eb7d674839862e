"""Extreme traces: memory and time stay bounded, and the answers right.

``INSIGHTS_FULL_SIZE=1`` tests a million values, which takes a minute; otherwise they
are a tenth of that.  Everything else has the size that its name promises.  Bounds are
several times what was measured.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg
import pytest

from tests.conftest import Databases
from tests.sql.plain import problems

Connection = psycopg.Connection[Any]

FULL = os.environ.get("INSIGHTS_FULL_SIZE") == "1"

MEGABYTE = 1 << 20
#: Shared buffers count as memory of every backend that has touched them.
SHARED = 128 * MEGABYTE


class Cost(NamedTuple):
    """What a session took at most, and how long."""

    peak: int
    seconds: float


@pytest.fixture
def dsn(databases: Databases) -> Iterator[str]:
    with databases.fresh("insights") as url:
        with psycopg.connect(url, autocommit=True) as connection:
            # Of the session's own process; in bytes.
            connection.execute("""
                create function peak_memory() returns bigint language plpython3u as $$
                import resource
                return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
                $$
            """)
        yield url


def one(connection: Connection, query: str, *values: Any) -> Any:
    row = connection.execute(query.encode(), values).fetchone()
    assert row is not None
    return row[0]


def session(dsn: str) -> Connection:
    return psycopg.connect(dsn, autocommit=True)


def indexed(dsn: str) -> Cost:
    """Indexes everything, in a session of its own."""
    with session(dsn) as connection:
        connection.execute("analyze")
        begin = time.monotonic()
        while one(connection, "select pending from insights_refresh()"):
            pass
        taken = time.monotonic() - begin
        cost = Cost(one(connection, "select peak_memory()"), taken)
    report("refresh", cost)
    return cost


def built(dsn: str) -> Cost:
    """The same from scratch."""
    with session(dsn) as connection:
        begin = time.monotonic()
        connection.execute("call insights_rebuild()")
        taken = time.monotonic() - begin
        cost = Cost(one(connection, "select peak_memory()"), taken)
    report("rebuild", cost)
    return cost


def counted(dsn: str, expected: dict[str, int], experiments: list[int] | None = None) -> Cost:
    """Asks for counts, in a session of its own."""
    slowest = 0.0
    with session(dsn) as connection:
        for filter, count in expected.items():
            begin = time.monotonic()
            found = one(connection, "select insights_count(%s::int[], %s)", experiments, filter)
            taken = time.monotonic() - begin
            slowest = max(slowest, taken)
            print(f"    {taken:7.3f} s {count:6} {filter[:70]}")
            assert found == count, filter
        cost = Cost(one(connection, "select peak_memory()"), slowest)
    report("counts", cost)
    return cost


def report(what: str, cost: Cost) -> None:
    print(f"{what}: {cost.peak / MEGABYTE:.0f} MB, {cost.seconds:.2f} s")


def add_experiments(connection: Connection, count: int) -> None:
    connection.execute(
        "insert into experiments (experiment_id, name, lifecycle_stage)"
        " select i, 'experiment ' || i, 'active' from generate_series(1, %s::int) i",
        [count],
    )


def add_traces(connection: Connection, count: int, experiments: int = 1) -> None:
    """Traces t1, t2, ...; by turns in each of the experiments."""
    connection.execute(
        "insert into trace_info (request_id, experiment_id, timestamp_ms, status, trace_name)"
        " select 't' || i, 1 + i %% %s, i, case i %% 3 when 0 then 'ERROR' else 'OK' end,"
        " 'name ' || i %% 7 from generate_series(1, %s::int) i",
        [experiments, count],
    )


def add_spans(connection: Connection, attributes: str, count: int, of_trace: int) -> None:
    """``count`` spans i = 0, 1, ..., so many of each trace; an SQL expression on i."""
    connection.execute(
        "insert into spans (trace_id, experiment_id, span_id, name, type, status,"
        " start_time_unix_nano, end_time_unix_nano, content)"
        " select t.request_id, t.experiment_id, 's' || i, 'span ' || i % 5, 'LLM', 'OK', 0, i,"
        f" json_build_object('attributes', {attributes})::text"
        f" from generate_series(0, {count - 1}) i"
        f" join trace_info t on t.request_id = 't' || (1 + i / {of_trace})".encode()
    )


# ------------------------------------------------------------------------ spans


def test_a_trace_of_32_000_spans(dsn: str) -> None:
    with session(dsn) as connection:
        add_experiments(connection, 1)
        add_traces(connection, 3)
        values = "json_build_object('n', i::text, 'text', '\"v' || i || '\"', 'model', '\"m\"')"
        add_spans(connection, values, 32_000 + 10, 32_000)
    expected = {
        "count() = 32000": 1,
        "count() > 5": 2,
        "span.attributes.n = 31999": 1,
        "span.attributes.n > 31999.5": 1,
        "span.attributes.text = 'v17'": 1,
        "span.attributes.text = 'v32000'": 1,
        "span.attributes.text = 'w'": 0,
        "span.attributes.text LIKE '%v319_9%'": 1,
        "span.attributes.model = 'm'": 2,
        "span.attributes.model != 'm'": 0,
    }
    cost = indexed(dsn)
    assert cost.peak < 256 * MEGABYTE + SHARED
    assert cost.seconds < 20
    cost = counted(dsn, expected)
    assert cost.peak < 128 * MEGABYTE + SHARED
    assert cost.seconds < 5
    with session(dsn) as connection:
        assert problems(connection) == []


FIFTY = 50_000_000
CONTENTS = {
    "one text": f"""'"' || repeat('x', {FIFTY}) || '"'""",
    "a list": f"'[' || repeat('1,', {FIFTY // 2}) || '1]'",
    "brackets": f"repeat('[', {FIFTY // 2}) || repeat(']', {FIFTY // 2})",
    "an object": "(select '{' || string_agg('\"k' || k || '\": \"value ' || k || '\"', ',') || '}'"
    f" from generate_series(1, {FIFTY // 30}) k)",
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_span_of_50_megabytes(dsn: str, kind: str) -> None:
    with session(dsn) as connection:
        add_experiments(connection, 1)
        add_traces(connection, 100)
        add_spans(connection, "json_build_object('small', '\"y\"')", 99, 1)
        big = f"json_build_object('small', '\"z\"', 'big', {CONTENTS[kind]})"
        connection.execute(
            "insert into spans (trace_id, experiment_id, span_id, name, type, status,"
            " start_time_unix_nano, end_time_unix_nano, content) select 't100', 1, 's', 'large',"
            f" 'LLM', 'OK', 0, 1, json_build_object('attributes', {big})::text".encode()
        )
        size = one(connection, "select max(octet_length(content)) from spans")
        assert size > 0.9 * FIFTY
    cost = indexed(dsn)
    assert cost.peak < 100 * MEGABYTE + SHARED
    assert cost.seconds < 5
    cost = counted(dsn, {"span.name = 'large'": 1, "status = 'OK'": 67})
    assert cost.peak < 100 * MEGABYTE + SHARED
    # Its content is read, since the index does not know it.
    cost = counted(dsn, {"span.attributes.small = 'z'": 1, "span.attributes.small = 'y'": 99})
    assert cost.peak < 1024 * MEGABYTE
    assert cost.seconds < 20
    within = "span.attributes['big']['k77'] = 'value 77'"
    cost = counted(dsn, {"span.attributes.big IS NOT NULL": 1, within: int(kind == "an object")})
    assert cost.peak < 1024 * MEGABYTE + SHARED
    assert cost.seconds < 20


def test_many_spans_just_short_enough_to_be_indexed(dsn: str) -> None:
    with session(dsn) as connection:
        add_experiments(connection, 1)
        add_traces(connection, 2)
        text = "'\"' || repeat(chr(97 + i % 26), 4100000) || '\"'"
        add_spans(connection, f"json_build_object('n', i, 'text', {text})", 20, 20)
        short = "'\"' || i || repeat('x', 64000) || '\"'"
        connection.execute(
            "insert into spans (trace_id, experiment_id, span_id, name, type, status,"
            " start_time_unix_nano, end_time_unix_nano, content) select 't2', 1, 's' || i, 'n',"
            " 'LLM', 'OK', 0, 1,"
            f" json_build_object('attributes', json_build_object('short', {short}))::text"
            " from generate_series(1, 500) i".encode()
        )
    cost = indexed(dsn)
    assert cost.peak < 400 * MEGABYTE + SHARED
    assert cost.seconds < 10
    expected = {
        "span.attributes.n = 19": 1,
        "span.attributes.n = 20": 0,
        "span.attributes.short LIKE '500x%'": 1,
        "span.attributes.text LIKE 'cc%'": 1,
        "count() = 500": 1,
    }
    cost = counted(dsn, expected)
    assert cost.peak < 400 * MEGABYTE + SHARED


# ------------------------------------------------------------------ vocabularies


def test_a_million_values_of_a_key(dsn: str) -> None:
    spans, of_trace = (1_000_000, 50) if FULL else (100_000, 50)
    with session(dsn) as connection:
        add_experiments(connection, 1)
        add_traces(connection, spans // of_trace)
        values = (
            "json_build_object('text', '\"v' || i || '\"', 'n', (i * 0.5)::text,"
            " 'number as text', '\"' || i || '\"')"
        )
        add_spans(connection, values, spans, of_trace)
    expected = {
        "span.attributes.text = 'v0'": 1,
        f"span.attributes.text = 'v{spans - 1}'": 1,
        f"span.attributes.text = 'v{spans}'": 0,
        f"span.attributes.n = {(spans - 1) / 2}": 1,
        f"span.attributes.n >= {spans / 4}": spans // of_trace // 2,
        "span.attributes.n < 0": 0,
        f"span.attributes.`number as text` > {spans - 2}": 1,
        "span.attributes.text IS NOT NULL": spans // of_trace,
        "span.attributes.text IN ('v1', 'v2', 'v3', 'w')": 1,
    }
    cost = indexed(dsn)
    assert cost.peak < 700 * MEGABYTE + SHARED
    assert cost.seconds < (300 if FULL else 20)
    cost = counted(dsn, expected)
    assert cost.peak < 256 * MEGABYTE + SHARED
    assert cost.seconds < (20 if FULL else 5)
    with session(dsn) as connection:
        terms = "select count(*) from insights.term where key = 'text' and role = 'v'"
        assert one(connection, terms) <= 1000
    cost = built(dsn)
    assert cost.peak < 700 * MEGABYTE + SHARED
    counted(dsn, expected)


def test_10_000_keys_of_attributes(dsn: str) -> None:
    with session(dsn) as connection:
        add_experiments(connection, 1)
        add_traces(connection, 1000)
        keys = (
            "(select json_object_agg('key' || (10 * i + j), '\"v' || j || '\"')"
            " from generate_series(0, 9) j)"
        )
        add_spans(connection, keys, 1000, 1)
    cost = indexed(dsn)
    assert cost.peak < 256 * MEGABYTE + SHARED
    assert cost.seconds < 15
    expected = {
        **{f"span.attributes.key{n} = 'v{n % 10}'": 1 for n in (0, 1234, 5678, 9999)},
        **{f"span.attributes.key{n} = 'w'": 0 for n in (0, 1234, 5678, 9999)},
        **{f"span.attributes.key{n} IS NOT NULL": 1 for n in (3, 9998)},
        "span.attributes.key10000 IS NOT NULL": 0,
    }
    cost = counted(dsn, expected)
    assert cost.peak < 256 * MEGABYTE + SHARED
    assert cost.seconds < 5
    with session(dsn) as connection:
        known = "select count(*) from insights.vocabulary where kind = 'attribute'"
        assert 1000 < one(connection, known) <= 2000
        assert problems(connection) == []


# ------------------------------------------------------------------- experiments


def test_2_000_experiments(dsn: str) -> None:
    experiments = 2_000
    with session(dsn) as connection:
        add_experiments(connection, experiments)
        add_traces(connection, 10 * experiments, experiments)
        add_spans(connection, "json_build_object('n', i % 9)", 10 * experiments, 1)
    cost = indexed(dsn)
    assert cost.peak < 700 * MEGABYTE + SHARED
    assert cost.seconds < 60
    traces = 10 * experiments
    with session(dsn) as connection:
        nines = one(
            connection,
            "select count(*) from spans s where (s.content::jsonb #>> '{attributes,n}')::int = 8",
        )
        errors = one(connection, "select count(*) from trace_info where status = 'ERROR'")
        few = one(
            connection,
            "select count(*) from trace_info where status = 'ERROR' and experiment_id = any(%s)",
            [5, 6, 1999],
        )
        assert one(connection, "select count(*) from insights.block") >= experiments
    cost = counted(
        dsn,
        {"": traces, "status = 'ERROR'": errors, "span.attributes.n = 8": nines, "name = 'x'": 0},
    )
    assert cost.peak < 256 * MEGABYTE + SHARED
    assert cost.seconds < 5
    cost = counted(dsn, {"": 30, "status = 'ERROR'": few}, [5, 6, 1999])
    assert cost.seconds < 1
    # A change in each experiment at once: as many small blocks.
    with session(dsn) as connection:
        connection.execute(
            "update trace_info set status = 'IN_PROGRESS' where request_id in"
            " (select 't' || i from generate_series(1, %s) i)",
            [experiments],
        )
    cost = indexed(dsn)
    assert cost.seconds < 60
    counted(dsn, {"status = 'IN_PROGRESS'": experiments, "": traces})
