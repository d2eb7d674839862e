"""DuckDB and chDB in this process: the columns loaded, and the best of several queries.

Each engine has a few forms in which it can be asked for a correlation.  All are
run, must agree, and the fastest is the one that is timed.
"""

from __future__ import annotations

import os
import re
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import chdb.session
import duckdb
import pyarrow as pa

from bench import columns
from bench.conditions import (
    Aggregate,
    Atom,
    Both,
    Condition,
    Either,
    Not,
    Spans,
    Text,
    Trace,
    atoms,
    merged,
)

Counts = tuple[int, int, int, int]
"""Of the first filter, the second, both, and all."""

_LIKE = re.compile(r"\b(\w+) like ('(?:[^']|'')*')")
_TRIES = 3
_TABLES = {Trace: "traces", Spans: "spans", Aggregate: "spans", Text: "texts"}

# How the spans are sorted: what most questions name comes first, so that an
# engine can leave out the parts without it.
_ORDER = "type, name, status, trace"


class Disagreement(Exception):
    """Two answers to one question differ; their times would mean nothing."""


def rows_of(atom: Atom) -> str:
    """The part of a query that gives the rows with the traces of an atom."""
    having = ""
    if isinstance(atom, Aggregate):
        having = atom.having
    elif isinstance(atom, Spans) and atom.more_than:
        having = f"count(*) > {atom.more_than}"
    if having:
        return f"(select trace from spans where {atom.sql} group by trace having {having}) x"
    return f"{_TABLES[type(atom)]} where {atom.sql}"


class Engine(ABC):
    """An engine that holds the traces as native columns."""

    name: str

    @abstractmethod
    def query(self, sql: str) -> tuple[int, ...]:
        """The only row."""

    @abstractmethod
    def rows(self, sql: str) -> list[tuple[str | None, ...]]:
        """All rows, as text."""

    @abstractmethod
    def load_texts(self, directory: Path) -> None:
        """Loads the content of the spans, for the questions about it."""

    @abstractmethod
    def forms(self, first: Condition, second: Condition, base: Condition | None) -> dict[str, str]:
        """The queries that answer a correlation, by the name of their form."""

    def best(
        self, first: Condition, second: Condition, base: Condition | None
    ) -> tuple[str, Callable[[], Counts], Counts]:
        """The fastest form: its name, a call that asks it, and the answer."""
        answers: dict[str, Counts] = {}
        taken: dict[str, float] = {}
        forms = self.forms(merged(first), merged(second), merged(base) if base else None)
        for form, sql in forms.items():
            answers[form] = self._counts(sql)
            times = []
            for _ in range(_TRIES):
                started = time.perf_counter()
                self._counts(sql)
                times.append(time.perf_counter() - started)
            taken[form] = statistics.median(times)
        if len(set(answers.values())) != 1:
            raise Disagreement(f"{self.name}: {answers} for {forms}")
        form = min(taken, key=taken.__getitem__)
        return form, lambda: self._counts(forms[form]), answers[form]

    def once(
        self, first: Condition, second: Condition, base: Condition | None
    ) -> tuple[Counts, float]:
        """The answer, and the milliseconds of the form that was quickest, each asked once."""
        answers: dict[str, Counts] = {}
        taken: dict[str, float] = {}
        forms = self.forms(merged(first), merged(second), merged(base) if base else None)
        for form, sql in forms.items():
            started = time.perf_counter()
            answers[form] = self._counts(sql)
            taken[form] = (time.perf_counter() - started) * 1000
        if len(set(answers.values())) != 1:
            raise Disagreement(f"{self.name}: {answers} for {forms}")
        return next(iter(answers.values())), min(taken.values())

    def _counts(self, sql: str) -> Counts:
        first, second, joint, total = self.query(sql)
        return first, second, joint, total


class DuckDb(Engine):
    """DuckDB, tables in memory, texts with few values as ENUM."""

    def __init__(self, directory: Path, threads: int | None = None) -> None:
        self._connection = duckdb.connect(":memory:")
        self.default_threads = self._scalar("select current_setting('threads')")
        if threads is not None:
            self._connection.execute(f"set threads = {threads}")
        self.name = "DuckDB" if threads is not None else "DuckDB, default threads"
        self._enums: set[str] = set()
        self._rewriting = True
        self._create("traces", directory / "traces.parquet", columns.trace_schema(), "trace")
        self._create("spans", directory / "spans-*.parquet", columns.span_schema(), _ORDER)
        self._traces = self._scalar("select count(*) from traces")

    def _scalar(self, sql: str) -> int:
        row = self._connection.execute(sql).fetchone()
        assert row is not None
        return int(row[0])

    def _create(self, table: str, files: Path, schema: pa.Schema, order: str) -> None:
        source = f"read_parquet('{files}')"
        replaced = []
        for field in schema:
            if pa.types.is_dictionary(field.type):
                kind = f"{table}_{field.name}"
                self._connection.execute(
                    f"create type {kind} as enum (select distinct {field.name} from {source} "
                    f"where {field.name} is not null order by 1)"
                )
                self._enums.add(kind)
                replaced.append(f"{field.name}::{kind} as {field.name}")
        chosen = ", ".join(replaced)
        left_out = "exclude (content)" if table == "spans" else ""
        self._connection.execute(
            f"create table {table} as select * {left_out} replace ({chosen}) "
            f"from {source} order by {order}"
        )

    def load_texts(self, directory: Path) -> None:
        self._connection.execute(
            "create table if not exists texts as select trace, content "
            f"from read_parquet('{directory}/spans-*.parquet')"
        )

    def query(self, sql: str) -> tuple[int, ...]:
        row = self._connection.execute(sql).fetchone()
        assert row is not None
        return tuple(row)

    def rows(self, sql: str) -> list[tuple[str | None, ...]]:
        return [
            tuple(None if value is None else str(value) for value in row)
            for row in self._connection.execute(sql).fetchall()
        ]

    def _patterns_on_enums(self, atom: Atom) -> Atom:
        """The atom with LIKE tested on the values that there are, not on each row."""
        if not self._rewriting:
            return atom
        table = _TABLES[type(atom)]

        def replaced(found: re.Match[str]) -> str:
            column, pattern = found.groups()
            kind = f"{table}_{column}"
            if kind not in self._enums:
                return found.group()
            values = f"select unnest(enum_range(null::{kind})) as v"
            return f"{column} in (select v::{kind} from ({values}) where v like {pattern})"

        sql = _LIKE.sub(replaced, atom.sql)
        return replace(atom, sql=sql)

    def forms(self, first: Condition, second: Condition, base: Condition | None) -> dict[str, str]:
        found = {}
        for self._rewriting in (True, False):
            suffix = "" if self._rewriting else ", plain LIKE"
            found["bitmaps" + suffix] = self._bitmaps(first, second, base)
            # In one scan rows are counted only.
            if not any(isinstance(atom, Aggregate) for atom in atoms(first, second, base)):
                found["rows" + suffix] = self._rows(first, second, base)
            if not any(" like " in atom.sql for atom in atoms(first, second, base)):
                break
        return found

    def _bitmaps(self, first: Condition, second: Condition, base: Condition | None) -> str:
        """A bit string of the numbers of the traces per atom, then operations on those."""
        names: dict[Atom, str] = {}
        parts = []
        for atom in atoms(first, second, base):
            names[atom] = f"b{len(names)}"
            parts.append(
                f"(select coalesce(bitstring_agg(trace, 0, {self._traces - 1}), "
                f"bitstring('0', {self._traces})) as {names[atom]} "
                f"from {rows_of(self._patterns_on_enums(atom))})"
            )

        def bits(condition: Condition) -> str:
            if isinstance(condition, Both):
                return f"({bits(condition.left)} & {bits(condition.right)})"
            if isinstance(condition, Either):
                return f"({bits(condition.left)} | {bits(condition.right)})"
            if isinstance(condition, Not):
                return f"(~{bits(condition.operand)})"
            assert isinstance(condition, Trace | Spans | Aggregate | Text)
            return names[condition]

        if base is None:
            total, x, y = "(select count(*) from traces)", bits(first), bits(second)
        else:
            total, x, y = f"bit_count({bits(base)})", bits(Both(first, base)), bits(second)
            y = f"({y} & {bits(base)})"
        return (
            f"select bit_count({x}), bit_count({y}), bit_count({x} & {y}), {total} "
            f"from {', '.join(parts)}"
        )

    def _rows(self, first: Condition, second: Condition, base: Condition | None) -> str:
        """One scan of the traces; spans are counted per trace and joined."""
        about_spans = [atom for atom in atoms(first, second, base) if not isinstance(atom, Trace)]
        names: dict[Atom, str] = {atom: f"n{n}" for n, atom in enumerate(about_spans)}

        def row(condition: Condition) -> str:
            if isinstance(condition, Both | Either):
                word = "and" if isinstance(condition, Both) else "or"
                return f"({row(condition.left)} {word} {row(condition.right)})"
            if isinstance(condition, Not):
                return f"({row(condition.operand)} is not true)"
            if isinstance(condition, Trace):
                return f"({self._patterns_on_enums(condition).sql})"
            assert isinstance(condition, Spans | Text)
            more_than = condition.more_than if isinstance(condition, Spans) else 0
            return f"(coalesce({names[condition]}, 0) > {more_than})"

        joined = ""
        for table in ("spans", "texts"):
            own = {
                atom: self._patterns_on_enums(atom).sql
                for atom in about_spans
                if _TABLES[type(atom)] == table
            }
            if own:
                counted = ", ".join(
                    f"count(*) filter (where {sql}) as {names[atom]}" for atom, sql in own.items()
                )
                where = " or ".join(f"({sql})" for sql in own.values())
                joined += (
                    f" left join (select trace, {counted} from {table} where {where} "
                    "group by trace) using (trace)"
                )
        where = f" where {row(base)}" if base else ""
        return (
            "select count(*) filter (where x), count(*) filter (where y), "
            f"count(*) filter (where x and y), count(*) from (select {row(first)} as x, "
            f"{row(second)} as y from traces{joined}{where})"
        )


class ChDb(Engine):
    """ClickHouse as a library, tables in its Memory engine, texts as LowCardinality.

    MergeTree, ordered in the same way, was measured to take half as long again.
    """

    name = "chDB"
    _kinds = {  # noqa: RUF012
        pa.int32(): "Int32",
        pa.int64(): "Int64",
        pa.float64(): "Float64",
        pa.bool_(): "Bool",
        pa.string(): "String",
    }

    def __init__(self, directory: Path, threads: int) -> None:
        self._session = chdb.session.Session()
        self._threads = threads
        self._run("create database bench")
        self._run("use bench")
        self._create("traces", directory / "traces.parquet", columns.trace_schema(), "trace")
        self._create("spans", directory / "spans-*.parquet", columns.span_schema(), _ORDER)

    def _run(self, sql: str) -> str:
        return str(self._session.query(sql, "TSV"))

    def _create(self, table: str, files: Path, schema: pa.Schema, order: str) -> None:
        fields, names = [], []
        for field in schema:
            if field.name == "content" and table == "spans":
                continue
            names.append(field.name)
            fields.append(f"{field.name} {self._kind(table, field)}")
        self._run(f"create table {table} ({', '.join(fields)}) engine = Memory")
        chosen = ", ".join(names)
        self._run(
            f"insert into {table} select {chosen} "
            f"from file('{files.absolute()}', Parquet) order by {order}"
        )

    def _kind(self, table: str, field: pa.Field) -> str:
        if field.name == "trace":
            return "UInt32"
        if pa.types.is_map(field.type):
            return "Map(String, String)"
        if pa.types.is_dictionary(field.type):
            # No question is about spans without a value, and '' is never one.
            inner = "String" if table == "spans" else "Nullable(String)"
            return f"LowCardinality({inner})"
        return f"Nullable({self._kinds[field.type]})"

    def load_texts(self, directory: Path) -> None:
        files = f"file('{directory.absolute()}/spans-*.parquet', Parquet)"
        if self._run("exists table texts").strip() == "0":
            self._run("create table texts (trace UInt32, content String) engine = Memory")
            self._run(f"insert into texts select trace, content from {files}")

    def query(self, sql: str) -> tuple[int, ...]:
        return tuple(
            int(value)
            for value in self._run(f"{sql} settings max_threads = {self._threads}").split()
        )

    def rows(self, sql: str) -> list[tuple[str | None, ...]]:
        lines = self._run(f"{sql} settings max_threads = {self._threads}").splitlines()
        return [
            tuple(None if value == "\\N" else value for value in line.split("\t")) for line in lines
        ]

    def forms(self, first: Condition, second: Condition, base: Condition | None) -> dict[str, str]:
        found = {
            "bitmaps": self._bitmaps(first, second, base),
            "rows": self._rows(first, second, base),
        }
        spans = [
            atom for atom in atoms(first, second) if isinstance(atom, Spans) and not atom.more_than
        ]
        if len(spans) > 1:
            found["bitmaps, one scan"] = self._bitmaps(first, second, base, spans)
        return found

    def _bitmaps(
        self,
        first: Condition,
        second: Condition,
        base: Condition | None,
        together: Sequence[Atom] = (),
    ) -> str:
        """A bitmap of the traces per atom, those ``together`` from one scan of the spans."""
        names: dict[Atom, str] = {}
        given = []
        for atom in atoms(first, second):
            names[atom] = f"b{len(names)}"
            if atom not in together:
                given.append(
                    f"(select groupBitmapState(trace) from {rows_of(atom)}) as {names[atom]}"
                )
        where = f" where {self._row(base)}" if base else ""
        given.append(f"(select groupBitmapState(trace) from traces{where}) as u")

        def bits(condition: Condition) -> str:
            if isinstance(condition, Both):
                return f"bitmapAnd({bits(condition.left)}, {bits(condition.right)})"
            if isinstance(condition, Either):
                return f"bitmapOr({bits(condition.left)}, {bits(condition.right)})"
            if isinstance(condition, Not):
                return f"bitmapAndnot(u, {bits(condition.operand)})"
            assert isinstance(condition, Trace | Spans | Aggregate | Text)
            return names[condition]

        x, y, total = bits(first), bits(second), "(select count() from traces)"
        if base:
            x, y, total = f"bitmapAnd({x}, u)", f"bitmapAnd({y}, u)", "bitmapCardinality(u)"
        elif not any(isinstance(part, Not) for part in _parts(first, second)):
            given.pop()
        scan = ""
        if together:
            states = ", ".join(
                f"groupBitmapStateIf(trace, {atom.sql}) as {names[atom]}" for atom in together
            )
            rows = " or ".join(f"({atom.sql})" for atom in together)
            scan = f" from (select {states} from spans where {rows})"
        begin = f"with {', '.join(given)} " if given else ""
        return (
            f"{begin}select bitmapCardinality({x}), bitmapCardinality({y}), "
            f"bitmapAndCardinality({x}, {y}), {total}{scan}"
        )

    def _row(self, condition: Condition) -> str:
        if isinstance(condition, Both | Either):
            word = "and" if isinstance(condition, Both) else "or"
            return f"({self._row(condition.left)} {word} {self._row(condition.right)})"
        if isinstance(condition, Not):
            return f"(not coalesce({self._row(condition.operand)}, false))"
        if isinstance(condition, Trace):
            return f"({condition.sql})"
        assert isinstance(condition, Spans | Aggregate | Text)
        return f"(trace in (select trace from {rows_of(condition)}))"

    def _rows(self, first: Condition, second: Condition, base: Condition | None) -> str:
        """One scan of the traces, with sets of those that have such spans."""
        where = f" where {self._row(base)}" if base else ""
        return (
            "select countIf(x), countIf(y), countIf(x and y), count() from "
            f"(select {self._row(first)} as x, {self._row(second)} as y from traces{where})"
        )


def _parts(*conditions: Condition) -> list[Condition]:
    """The conditions and all within them."""
    found: list[Condition] = []
    left = list(conditions)
    while left:
        condition = left.pop()
        found.append(condition)
        if isinstance(condition, Both | Either):
            left += [condition.left, condition.right]
        elif isinstance(condition, Not):
            left.append(condition.operand)
    return found


def engines(directory: Path) -> list[Engine]:
    """All of them, loaded: both cores each, and DuckDB as it comes where that differs."""
    cores = os.cpu_count() or 1
    found: list[Engine] = [DuckDb(directory, cores), ChDb(directory, cores)]
    default = found[0]
    assert isinstance(default, DuckDb)
    if default.default_threads != cores:
        found.insert(1, DuckDb(directory))
    return found


__all__ = ["ChDb", "Counts", "Disagreement", "DuckDb", "Engine", "engines"]
