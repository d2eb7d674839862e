"""How the time of an answer grows: correlations of 1, 10, 100, discoveries of 10 million positions.

Method: the index of the benchmark's database is copied into an empty scratch
database with MLflow's schema and the functions, and repeated there.  Signatures,
terms and the vocabulary are copied once and whole.  Of the blocks, and of the
postings that the questions below read (a discovery reads all, and cells), as many
copies are made as it takes to reach a size, each with block numbers of its own; the
bytes of the postings stay as they are, so the shares of sparse and dense ones are the
real ones.  There are no rows of MLflow's behind them, none are pending, and nothing is
left undecided, so the index answers alone.  That it does is checked: every count must be the
source's, times the number of copies; what a discovery shows must have the counts
that a correlation gives.

The bitmaps of all copies are equal in content but not in place, so each is read
and combined anew; only the vocabulary does not grow, as it hardly does with real
traces of the same applications.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import psycopg
from psycopg import sql

from bench import discovery
from bench.engines import Disagreement
from insights_dev import database

DATABASE = "bench_growth"
QUESTIONS = {
    "tag / trace status": ("tags.version = 'v2.0.1'", "status = 'ERROR'"),
    "attribute / span status": ("span.attributes['model'] = 'gpt-4'", "span.status = 'ERROR'"),
}
STEPS = (1, 10, 100)
"""Millions of positions."""
TARGETS = discovery.TARGETS[:3]

# Ten times the positions may take this many times as long; more is not linear.
_TENFOLD = 14.0

# The terms whose postings the questions read.
_TERMS = """
select t.term
from insights.term t
where
    (t.kind, t.key, t.role, t.value) in (
        ('tag', 'version', 'v', 'v2.0.1'), ('trace', 'status', 'v', 'ERROR'),
        ('attribute', 'model', 'v', 'gpt-4'), ('span', 'status', 'v', 'ERROR')
    )
    or (t.kind, t.key) in (
        ('tag', 'version'), ('trace', 'status'), ('attribute', 'model'), ('span', 'status')
    )
        and t.role in ('h', 'o')
    or (t.kind, t.key) = ('attribute', '')
"""
_CELLS = "block, kind, key, span_name, sample, cuts, low, high"
_ALL_TERMS = "select t.term from insights.term t"
_ENGINE = "select md5(p.prosrc) from pg_proc p where p.oid = 'insights.load_engine'::regproc"
_CORRELATE = (
    "select filter1_count, filter2_count, joint_count, total_count "
    "from insights_correlate(null::text[], %s, %s)"
)


class NotLinear(Exception):
    """Ten times the positions took far more than ten times as long."""


class OtherEngine(Exception):
    """The index to be repeated was made by other functions than those of today."""


@dataclass(frozen=True)
class Size:
    """What a size took."""

    question: str
    positions: int
    joint: int
    ms: float
    #: The same while the session keeps nothing of the index between calls.
    anew_ms: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self.__dict__, "ns_per_position": self.ms * 1e6 / self.positions}


def measure(server: str, source: str, *, millions: int, runs: int) -> list[dict[str, Any]]:
    """The times of each question at each size up to ``millions``; the database is dropped."""
    sizes: list[Size] = []
    with _scratch(server, source, _TERMS) as (dsn, per_copy):
        answers = {name: _ask(source, pair, 1)[0] for name, pair in QUESTIONS.items()}
        copies = 0
        for step in STEPS:
            if step > millions:
                break
            wanted = -(-step * 1_000_000 // per_copy)
            _repeat(dsn, copies, wanted)
            copies = wanted
            for name, pair in QUESTIONS.items():
                counts, ms, anew_ms = _ask(dsn, pair, runs)
                expected = tuple(count * copies for count in answers[name])
                if counts != expected:
                    raise Disagreement(f"{name}: {counts} instead of {expected}")
                sizes.append(Size(name, copies * per_copy, counts[2], ms, anew_ms))
    _check_linear(sizes)
    return [size.as_dict() for size in sizes]


def discoveries(server: str, source: str, *, millions: int, runs: int) -> list[dict[str, Any]]:
    """The seconds of discoveries at one size: the first of a session, later ones, with pairs."""
    found = []
    with _scratch(server, source, _ALL_TERMS) as (dsn, per_copy):
        copies = -(-millions * 1_000_000 // per_copy)
        _repeat(dsn, 0, copies)
        for target in TARGETS:
            with psycopg.connect(dsn, autocommit=True) as connection:
                times = {}
                for name, options, times_asked in (
                    ("first", {}, 1),
                    ("later", {}, runs),
                    ("with_pairs", {"pairs": True}, runs),
                ):
                    taken = []
                    for _ in range(times_asked):
                        started = time.perf_counter()
                        rows = discovery.discover(connection, target, **options)
                        taken.append(time.perf_counter() - started)
                    times[f"{name}_s"] = statistics.median(taken)
                _check_counts(connection, target, rows)
                found.append(
                    {
                        "target": target.name,
                        "positions": copies * per_copy,
                        "matches": rows[0]["target_count"],
                        "tested": rows[0]["tested"],
                        **times,
                    }
                )
    return found


def _check_counts(
    connection: psycopg.Connection[Any], target: discovery.Target, rows: Sequence[Any]
) -> None:
    for row in rows:
        counts = connection.execute(_CORRELATE, (target.filter, row["filter"])).fetchone()
        own = ("target_count", "fact_count", "joint_count", "total_count")
        if counts != tuple(row[name] for name in own):
            raise Disagreement(f"{target.name} / {row['filter']}: {row} instead of {counts}")


@contextmanager
def _scratch(server: str, source: str, terms: str) -> Iterator[tuple[str, int]]:
    """A database with nothing repeated yet, and how many positions a copy has."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("drop database if exists {}").format(sql.Identifier(DATABASE)))
    dsn = database.create(server, DATABASE)
    try:
        database.migrate_mlflow(dsn)
        database.install_insights(dsn)
        yield dsn, _copy_once(source, dsn, terms)
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(
                sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(DATABASE))
            )


def _copy_once(source: str, target: str, terms: str) -> int:
    """Copies the vocabulary, the blocks and the postings; the positions in use.

    Blocks and postings go to tables of their own, from where they are repeated.
    """
    chosen = f"select p.block, p.term, p.members from insights.posting p where p.term in ({terms})"
    copied = (
        ("insights.signature", "signature, type, name, status, bucket", None),
        ("insights.term", "term, kind, key, signature, role, slot, value", None),
        ("insights.vocabulary", 'kind, key, "values"', None),
        (
            "public.repeated_block",
            "block, experiment_id, used, live, live_count, first_ms, last_ms",
            "select block, experiment_id, used, live, live_count, first_ms, last_ms "
            "from insights.block",
        ),
        ("public.repeated_posting", "block, term, members", chosen),
        ("public.repeated_cells", _CELLS, f"select {_CELLS} from insights.cells"),
    )
    with psycopg.connect(source) as reader, psycopg.connect(target) as writer:
        if reader.execute(_ENGINE).fetchone() != writer.execute(_ENGINE).fetchone():
            raise OtherEngine("install the functions of today and build the index first")
        writer.execute(
            "create table public.repeated_block (like insights.block);"
            "create table public.repeated_posting (like insights.posting);"
            "create table public.repeated_cells (like insights.cells)"
        )
        writer.execute("alter table public.repeated_block drop column created_at")
        for table, columns, query in copied:
            rows = query or f"select {columns} from {table}"
            # An identity column takes given values from COPY.
            with (
                reader.cursor().copy(f"copy ({rows}) to stdout".encode()) as out,
                writer.cursor().copy(f"copy {table} ({columns}) from stdin".encode()) as into,
            ):
                for data in out:
                    into.write(data)
        row = writer.execute("select sum(live_count) from public.repeated_block").fetchone()
    assert row is not None
    return int(row[0])


def _repeat(dsn: str, copies: int, wanted: int) -> None:
    """Makes ``wanted`` copies out of ``copies``."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        numbers = (
            "generate_series(%s::int, %s::int) as c, (select max(block) from repeated_block) m"
        )
        bounds = [copies, wanted - 1]
        connection.execute(
            "insert into insights.block"
            " (block, experiment_id, used, live, live_count, first_ms, last_ms)"
            " overriding system value"
            " select c * m.max + b.block, b.experiment_id, b.used, b.live, b.live_count,"
            f" b.first_ms, b.last_ms from {numbers}, repeated_block b".encode(),
            bounds,
        )
        connection.execute(
            "insert into insights.posting (block, term, members)"
            f" select c * m.max + p.block, p.term, p.members from {numbers}, repeated_posting p"
            " order by 1, 2".encode(),
            bounds,
        )
        # The largest blocks, from which the cells come, are those of the first copy.
        connection.execute(
            f"insert into insights.cells ({_CELLS})"
            " select c * m.max + p.block, p.kind, p.key, p.span_name, p.sample, p.cuts, p.low,"
            f" p.high from {numbers}, repeated_cells p".encode(),
            bounds,
        )
        connection.execute(
            "vacuum (analyze) insights.block, insights.posting, insights.cells, insights.term"
        )


def _ask(dsn: str, pair: Sequence[str], runs: int) -> tuple[tuple[int, ...], float, float]:
    """The counts and the median milliseconds: asked again, and with nothing kept."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        medians = []
        for setting in ("64MB", "0"):
            connection.execute(f"set insights.cache = '{setting}'".encode())
            times = []
            for _ in range(runs + 1):
                started = time.perf_counter()
                counts = connection.execute(_CORRELATE, pair).fetchone()
                times.append((time.perf_counter() - started) * 1000)
            medians.append(statistics.median(times[1:]))
    assert counts is not None
    return tuple(counts), medians[0], medians[1]


def _check_linear(sizes: Sequence[Size]) -> None:
    for name in QUESTIONS:
        own = [size for size in sizes if size.question == name]
        for smaller, larger in pairwise(own):
            tenfold = larger.ms / smaller.ms * (10 * smaller.positions / larger.positions)
            if tenfold > _TENFOLD:
                raise NotLinear(
                    f"{name}: {smaller.ms:.1f} ms for {smaller.positions:,} positions, "
                    f"{larger.ms:.1f} ms for {larger.positions:,}"
                )
