"""``python -m bench --server DSN``: load, compare, report; see ``make bench``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import time
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table

from bench import load
from bench.cases import CORRELATIONS, SEARCHES
from bench.compare import Comparison, Timing, first_calls
from insights_dev import database
from insights_dev.cluster import ROOT, say

DATABASE = "bench"


def machine(dsn: str) -> dict[str, str]:
    """What the times were taken on."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "select name, current_setting(name) from pg_settings where name in "
            "('shared_buffers', 'work_mem', 'effective_cache_size', 'random_page_cost', 'jit',"
            " 'max_parallel_workers_per_gather', 'server_version')"
        ).fetchall()
    described = {
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        **dict(rows),
    }
    information = Path("/proc/cpuinfo")
    if information.exists():
        models = [
            line.partition(":")[2].strip()
            for line in information.read_text().splitlines()
            if line.startswith("model name")
        ]
        described["cpu"] = models[0] if models else platform.machine()
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        described["memory"] = f"{pages * size / 2**30:.0f} GiB"
    return described


def sizes(dsn: str) -> dict[str, int]:
    """Rows and bytes of what was loaded."""
    with psycopg.connect(dsn) as connection:
        found = {}
        for table in ("trace_info", "spans", "trace_tags", "assessments"):
            row = connection.execute(
                f"select count(*), pg_total_relation_size('public.{table}') from public.{table}"
            ).fetchone()
            if row:
                found[table], found[f"{table}_bytes"] = row
    return found


def show(timings: list[Timing], first: dict[str, float]) -> None:
    """The tables, for people."""
    console = Console(width=None if Console().is_terminal else 100, highlight=False)
    for kind in ("search", "correlation"):
        table = Table(title=f"{kind}, median ms")
        table.add_column(kind)
        for heading in ("matches", "stock", "ours", "stock / ours"):
            table.add_column(heading, justify="right")
        for timing in timings:
            if timing.kind == kind:
                table.add_row(
                    timing.name,
                    f"{timing.matches:,}",
                    f"{timing.stock_ms:,.1f}",
                    f"{timing.ours_ms:,.1f}",
                    f"{timing.ratio:.2f}",
                    style="red" if timing.ratio < 1 else None,
                )
        console.print(table)
    console.print("A new connection, median ms: ", end="")
    console.print(", ".join(f"{name} {value:.1f}" for name, value in first.items()))


def main() -> int:
    """Exit 0 if every pair of answers agreed."""
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--server", required=True, help="DSN of any database, as superuser")
    parser.add_argument("--database", default=DATABASE, help="made if missing")
    parser.add_argument("--traces", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=7, help="of each question, at most")
    parser.add_argument("--seconds", type=float, default=8, help="per question, beyond 3 runs")
    parser.add_argument("--only", help="questions whose name contains this")
    parser.add_argument("--json", type=Path, default=ROOT / ".dev" / "bench.json")
    arguments = parser.parse_args()
    logging.getLogger("alembic").setLevel(logging.WARNING)
    dsn = database.create(arguments.server, arguments.database)
    say("running MLflow's migrations and ours")
    database.migrate_mlflow(dsn)
    if database.bundle_is_current():
        database.install_insights(dsn)
    else:
        database.install_working_tree(dsn)
    if load.is_loaded(dsn, arguments.seed, arguments.traces):
        say(f"{arguments.traces:,} traces are there already")
    else:
        say(f"loading {arguments.traces:,} traces")
        seconds = load.load(dsn, seed=arguments.seed, traces=arguments.traces)
        say(f"loaded in {seconds:.0f} s")
    with psycopg.connect(dsn) as connection:
        experiment_id = str(load.experiment(connection))
    started = time.monotonic()
    comparison = Comparison(dsn, experiment_id, runs=arguments.runs, seconds=arguments.seconds)
    timings: list[Timing] = []
    for search in SEARCHES:
        if arguments.only is None or arguments.only in search.name:
            timings.append(comparison.search(search))
            _progress(timings[-1])
    for correlation in CORRELATIONS:
        if arguments.only is None or arguments.only in correlation.name:
            timings.append(comparison.correlation(correlation))
            _progress(timings[-1])
    first = first_calls(dsn, arguments.runs)
    show(timings, first)
    say(f"every answer was the same from both; {time.monotonic() - started:.0f} s")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(
        json.dumps(
            {
                "machine": machine(dsn),
                "data": {"seed": arguments.seed, **sizes(dsn)},
                "first_calls_ms": first,
                "timings": [timing.as_dict() for timing in timings],
            },
            indent=2,
        )
        + "\n"
    )
    say(f"written to {arguments.json}")
    return 0


def _progress(timing: Timing) -> None:
    say(
        f"  {timing.kind}: {timing.name}: {timing.matches:,} matches, stock "
        f"{timing.stock_ms:,.1f} ms, ours {timing.ours_ms:,.1f} ms, {timing.ratio:.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())
