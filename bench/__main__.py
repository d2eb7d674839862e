"""``python -m bench --server DSN``: load, compare, report; see ``make bench``."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from rich.console import Console
from rich.table import Table

from bench import columns, discovery, growth, load, markdown, never_asked, series, upkeep
from bench.cases import CORRELATIONS, COUNTS, SEARCHES
from bench.compare import OURS, Comparison, Timing
from insights_dev import database
from insights_dev.cluster import ROOT, say
from insights_py import bundles
from insights_py.install import latest_revision, uninstall
from insights_py.objects import comparison

TRACES = 200_000
AGENTS = 20_000
PARTS = (
    "correlation",
    "search",
    "count",
    "discovery",
    "series",
    "never-asked",
    "upkeep",
    "growth",
    "millions",
)


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


def install(dsn: str, *, anew: bool = False) -> None:
    """Installs the project without an index, unless it is there as it is here.

    What is installed is known by the hash of its bundle; the index of another one goes,
    because it may say other things.
    """
    with psycopg.connect(dsn) as connection:
        known = comparison.installation(connection)
    current = bundles.fingerprint(latest_revision())
    if known is not None and known["bundle"] == current and not anew:
        return
    uninstall(dsn)
    database.install_insights(dsn)


def show(results: dict[str, Any]) -> None:
    """The tables, for people."""
    console = Console(width=None if Console().is_terminal else 150, highlight=False)
    for heading, header, rows in markdown.sections(results):
        table = Table(title=heading)
        for n, name in enumerate(header):
            table.add_column(name, justify="right" if n else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench")
    parser.add_argument("--server", required=True, help="DSN of any database, as superuser")
    parser.add_argument("--database", help="made if missing; bench_200k for 200,000 traces")
    parser.add_argument("--traces", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--agents", action="store_true", help="traces of 80 spans, 20,000 unless --traces is given"
    )
    parser.add_argument(
        "--questions", type=int, default=221, help="random questions of the part never-asked"
    )
    parser.add_argument("--question-seed", type=int, default=1, help="draws other questions")
    parser.add_argument("--runs", type=int, default=7, help="of each question, at most")
    parser.add_argument("--seconds", type=float, default=120, help="per question, beyond 3 runs")
    parser.add_argument("--only", help="questions whose name contains this")
    parser.add_argument("--part", action="append", choices=PARTS, help="default: all")
    parser.add_argument(
        "--system", action="append", default=[], help="ask only this one: stock, ours, DuckDB, chDB"
    )
    parser.add_argument(
        "--as-installed", action="store_true", help="leave functions and index as they are"
    )
    parser.add_argument("--growth", type=int, default=100, help="millions of positions to grow to")
    parser.add_argument(
        "--millions", type=int, default=10, help="millions of positions to discover among"
    )
    parser.add_argument("--json", type=Path, default=ROOT / ".dev" / "bench.json")
    arguments = parser.parse_args()
    if arguments.traces is None:
        arguments.traces = AGENTS if arguments.agents else TRACES
    if arguments.database is None:
        thousands, rest = divmod(arguments.traces, 1_000)
        shape = "agents_" if arguments.agents else ""
        arguments.database = f"bench_{shape}{arguments.traces if rest else f'{thousands}k'}"
    # A part without names of questions is of no use to one who asks for a name.
    arguments.part = arguments.part or (PARTS[:3] if arguments.only else PARTS)
    return arguments


def main() -> int:
    """Exit 0 if every pair of answers agreed."""
    arguments = _arguments()
    logging.getLogger("alembic").setLevel(logging.WARNING)
    results: dict[str, Any] = {"timings": []}
    started = time.monotonic()
    dsn = database.create(arguments.server, arguments.database)
    _prepare(dsn, arguments)
    results |= {
        "machine": machine(dsn),
        "data": {"seed": arguments.seed, **sizes(dsn)},
        "size": upkeep.sizes(dsn),
    }
    built = _built(dsn)
    if built:
        results["build"] = built
    results["timings"] = [timing.as_dict() for timing in _timings(dsn, arguments)]
    if "never-asked" in arguments.part:
        results["never_asked"] = _never_asked(dsn, arguments)
    if "upkeep" in arguments.part:
        with psycopg.connect(dsn) as connection:
            experiment_id = str(load.experiment(connection))
        results["first_calls_ms"] = upkeep.first_calls(dsn, experiment_id, arguments.runs)
        results["refresh_ms"] = upkeep.refreshes(dsn, arguments.runs)
    if "growth" in arguments.part:
        say("growing")
        results["growth"] = growth.measure(
            arguments.server, dsn, millions=arguments.growth, runs=arguments.runs
        )
    if "millions" in arguments.part:
        say("discovering among millions")
        results["millions"] = growth.discoveries(
            arguments.server, dsn, millions=arguments.millions, runs=arguments.runs
        )
    show(results)
    say(f"every answer was the same from all; {time.monotonic() - started:.0f} s")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    say(f"written to {arguments.json}; as Markdown: python -m bench.markdown {arguments.json}")
    return 0


def _prepare(dsn: str, arguments: argparse.Namespace) -> None:
    """The traces, the functions and the index."""
    say("running MLflow's migrations and ours")
    database.migrate_mlflow(dsn)
    if load.is_loaded(dsn, arguments.seed, arguments.traces, agents=arguments.agents):
        say(f"{arguments.traces:,} traces are there already")
        if not arguments.as_installed:
            install(dsn)
    else:
        say(f"loading {arguments.traces:,} traces")
        # Its triggers would note every row.
        uninstall(dsn)
        seconds = load.load(
            dsn, seed=arguments.seed, traces=arguments.traces, agents=arguments.agents
        )
        say(f"loaded in {seconds:.0f} s")
        install(dsn, anew=True)
    if not upkeep.is_built(dsn):
        say("building the index")
        built = upkeep.build(dsn)
        _remember(dsn, built)
        say(f"built in {built['seconds']:.0f} s, {built['traces_per_second']:,.0f} traces a second")


def _remember(dsn: str, built: dict[str, float]) -> None:
    """Keeps the time of a build with the index, for runs that find it built."""
    with psycopg.connect(dsn) as connection:
        connection.execute(
            sql.SQL("comment on table insights.state is {}").format(sql.Literal(json.dumps(built)))
        )


def _built(dsn: str) -> dict[str, float] | None:
    """How long it took to build the index, if it was built here."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select obj_description('insights.state'::regclass, 'pg_class')"
        ).fetchone()
    if row is None or not str(row[0]).startswith("{"):
        return None
    found: dict[str, float] = json.loads(row[0])
    return found


def _timings(dsn: str, arguments: argparse.Namespace) -> Iterable[Timing]:
    """The questions of the parts asked for, one after the other."""
    if not set(arguments.part) & set(PARTS[:5]):
        return
    files, experiment_id = _columns(dsn, arguments)
    yield from _compare(dsn, files, experiment_id, arguments)
    if "discovery" in arguments.part:
        for timing in discovery.measure(dsn, files, arguments.runs):
            yield _progress(timing)
    if "series" in arguments.part:
        for timing in series.measure(dsn, files, experiment_id, arguments.runs):
            yield _progress(timing)


def _columns(dsn: str, arguments: argparse.Namespace) -> tuple[Path, str]:
    """Where the native columns are, made if missing, and the experiment they are of."""
    marker = load.marker(arguments.seed, arguments.traces, agents=arguments.agents)
    files = columns.directory(ROOT / ".dev" / "bench", marker)
    say("native columns for DuckDB and chDB")
    columns.export(dsn, files)
    with psycopg.connect(dsn) as connection:
        return files, str(load.experiment(connection))


def _never_asked(dsn: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Random correlations and searches, each asked once."""
    files, experiment_id = _columns(dsn, arguments)
    say(f"asking {arguments.questions} questions that were never asked")
    asked = never_asked.correlations(
        dsn, experiment_id, files, seed=arguments.question_seed, number=arguments.questions
    )
    pages = never_asked.searches(
        dsn,
        experiment_id,
        seed=arguments.question_seed,
        number=max(1, arguments.questions // 4),
    )
    return {
        "correlations": never_asked.summary(asked),
        "searches": never_asked.summary(pages),
    }


def _compare(
    dsn: str, files: Path, experiment_id: str, arguments: argparse.Namespace
) -> Iterable[Timing]:
    """Pages, correlations and counts."""
    comparison = Comparison(
        dsn,
        experiment_id,
        files=files,
        runs=arguments.runs,
        seconds=arguments.seconds,
        systems=arguments.system,
    )

    def chosen(part: str, name: str) -> bool:
        return part in arguments.part and (arguments.only is None or arguments.only in name)

    for correlation in CORRELATIONS:
        if chosen("correlation", correlation.name):
            yield _progress(comparison.correlation(correlation))
    for search in SEARCHES:
        if chosen("search", search.name):
            timing = comparison.search(search)
            if timing is None:
                say(f"  search: {search.name}: too few traces for this page")
            else:
                yield _progress(timing)
    for count in COUNTS:
        if chosen("count", count.name):
            yield _progress(comparison.count(count))


def _progress(timing: Timing) -> Timing:
    in_order = sorted(timing.ms.items(), key=lambda item: item[0].startswith(OURS))
    taken = ", ".join(f"{name} {ms:,.1f} ms" for name, ms in in_order)
    say(f"  {timing.kind}: {timing.name}: {timing.matches:,} match, {taken}")
    return timing


if __name__ == "__main__":
    sys.exit(main())
