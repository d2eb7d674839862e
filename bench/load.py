"""Fills MLflow's tables with generated traces by COPY.

Foreign keys are not checked while loading (``session_replication_role``), so
the database user must be a superuser; the rows are consistent by construction.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sys
import time
from pathlib import Path

import psycopg
from psycopg import sql

from bench import generator

EXPERIMENT = "bench"


def experiment(connection: psycopg.Connection) -> int:
    """The id of the experiment that holds the traces, made if missing."""
    row = connection.execute(
        "select experiment_id from public.experiments where name = %s", [EXPERIMENT]
    ).fetchone()
    if row is None:
        row = connection.execute(
            """
            insert into public.experiments
                (name, artifact_location, lifecycle_stage, creation_time, last_update_time)
            values (%s, 'mlflow-artifacts:/bench', 'active', 0, 0)
            returning experiment_id
            """,
            [EXPERIMENT],
        ).fetchone()
    assert row is not None
    return int(row[0])


def marker(seed: int, traces: int, *, agents: bool = False) -> str:
    """What identifies the content of a loaded database."""
    source = Path(generator.__file__).read_bytes()
    return json.dumps(
        {
            "seed": seed,
            "traces": traces,
            "agents": agents,
            "generator": hashlib.sha256(source).hexdigest()[:12],
        }
    )


def is_loaded(dsn: str, seed: int, traces: int, *, agents: bool = False) -> bool:
    """Whether the database holds exactly these traces already."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select shobj_description(oid, 'pg_database') from pg_database "
            "where datname = current_database()"
        ).fetchone()
    return row is not None and row[0] == marker(seed, traces, agents=agents)


def _load_chunk(job: tuple[str, int, int, int, int, bool]) -> int:
    dsn, seed, number, size, experiment_id, agents = job
    chunk = generator.chunk_rows(seed, number, size, experiment_id, agents=agents)
    with psycopg.connect(dsn) as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute("set synchronous_commit = off")
        for table, columns, rows in chunk.tables():
            statement = sql.SQL("copy public.{} ({}) from stdin").format(
                sql.Identifier(table), sql.SQL(columns)
            )
            with connection.cursor().copy(statement) as copy:
                for row in rows:
                    copy.write_row(row)
    return size


def load(dsn: str, *, seed: int, traces: int, agents: bool = False, workers: int = 2) -> float:
    """Replace the traces in the database by generated ones; returns seconds taken."""
    started = time.monotonic()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "truncate public.trace_info, public.spans, public.trace_tags, public.assessments, "
            "public.trace_request_metadata, public.span_metrics, public.trace_metrics"
        )
        experiment_id = experiment(connection)
    jobs = []
    # A chunk of agents has ten times as many spans.
    step = generator.CHUNK // 10 if agents else generator.CHUNK
    for number, first in enumerate(range(0, traces, step)):
        size = min(step, traces - first)
        jobs.append((dsn, seed, number, size, experiment_id, agents))
    done = 0
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for size in pool.imap_unordered(_load_chunk, jobs):
            done += size
            passed = time.monotonic() - started
            print(f"\r  {done:,} of {traces:,} traces, {passed:.0f} s", end="", file=sys.stderr)
    print(file=sys.stderr)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("vacuum (analyze)")
        connection.execute(
            sql.SQL("comment on database {} is {}").format(
                sql.Identifier(connection.info.dbname),
                sql.Literal(marker(seed, traces, agents=agents)),
            )
        )
    return time.monotonic() - started
