"""The client for programs that wait: `Insights`."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

from insights_py import operations, sql
from insights_py.analysis import Comparison, Discovery, Facets, Matrix, TimeSeries
from insights_py.connections import lost, patient
from insights_py.dsn import libpq
from insights_py.errors import translated
from insights_py.operations import Answer, ExperimentIds, Kinds, Moment, Operation, OrderBy
from insights_py.rows import (
    Correlation,
    Experiment,
    Explanation,
    IndexStatus,
    Page,
    Refresh,
    Status,
    Trace,
    Wrong,
)
from insights_py.version import __version__

if TYPE_CHECKING:
    import psycopg
    import sqlalchemy
    import sqlalchemy.orm

    Connection = psycopg.Connection[Any] | sqlalchemy.engine.Connection | sqlalchemy.orm.Session
    Database = str | sqlalchemy.engine.Engine | Connection

__all__ = ["Insights"]

Run = Callable[[sql.Query], Sequence[Sequence[Any]]]


class Insights:
    """The search and correlation functions of one database.

    ``database`` is a DSN (libpq's forms, or a URI as MLflow takes it), an
    SQLAlchemy engine, or a connection: psycopg 3's, SQLAlchemy's, or an ORM
    session.  With a DSN the client opens one connection when it is first
    needed, in autocommit mode, and closes it with `close` or at the end of a
    ``with`` block; threads take turns on it.  What is handed in is used as it
    is and never closed, committed or rolled back.

    ``experiment_ids`` is what methods use when they are given none; None means
    every experiment.  ``schema`` is where MLflow's tables and the functions
    are, where that is not found by the search path.

    Every method takes ``connection=``, to run in a transaction of the caller's.
    As everywhere in PostgreSQL, an error there ends that transaction.
    """

    def __init__(
        self,
        database: Database,
        *,
        experiment_ids: ExperimentIds = None,
        schema: str | None = None,
    ) -> None:
        self._database = libpq(database) if isinstance(database, str) else database
        self._experiment_ids = operations.ids(experiment_ids)
        self._schema = schema
        self._own: psycopg.Connection[Any] | None = None
        self._lock = threading.Lock()
        # Calls that are under way on it.
        self._users = 0
        if not isinstance(database, str):
            self._source(database)

    def __enter__(self) -> Insights:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection that the client opened itself, if any."""
        with self._lock:
            if self._own is not None:
                self._own.close()
                self._own = None

    def search(
        self,
        filter: str | None = None,
        *,
        experiment_ids: ExperimentIds = None,
        max_results: int = 100,
        order_by: OrderBy = None,
        page_token: str | None = None,
        connection: Connection | None = None,
    ) -> Page:
        """The first ``max_results`` traces that match, newest first.

        ``order_by`` takes clauses such as ``'execution_time_ms DESC'``.  The
        page's ``next_page_token`` is the ``page_token`` of the next call.
        """
        return self._run(
            operations.search(filter, self._ids(experiment_ids), max_results, order_by, page_token),
            connection,
        )

    def search_iter(
        self,
        filter: str | None = None,
        *,
        experiment_ids: ExperimentIds = None,
        page_size: int = 500,
        order_by: OrderBy = None,
        connection: Connection | None = None,
    ) -> Iterator[Trace]:
        """Every trace that matches, fetched ``page_size`` at a time.

        Traces that arrive meanwhile neither repeat nor hide others.
        """
        token: str | None = None
        while True:
            page = self.search(
                filter,
                experiment_ids=experiment_ids,
                max_results=page_size,
                order_by=order_by,
                page_token=token,
                connection=connection,
            )
            yield from page
            token = page.next_page_token
            if token is None:
                return

    def count(
        self,
        filter: str | None = None,
        *,
        experiment_ids: ExperimentIds = None,
        unit: str = "trace",
        connection: Connection | None = None,
    ) -> int:
        """How many traces match.

        ``unit`` counts sessions instead: with 'session' those of which any
        trace matches, with 'session_all' those of which all do.
        """
        return self._run(operations.count(filter, self._ids(experiment_ids), unit), connection)

    def correlate(
        self,
        filter1: str | None,
        filter2: str | None,
        base_filter: str | None = None,
        *,
        experiment_ids: ExperimentIds = None,
        unit: str = "trace",
        connection: Connection | None = None,
    ) -> Correlation:
        """How two filters go together, over the traces that ``base_filter`` leaves."""
        return self._run(
            operations.correlate(filter1, filter2, base_filter, self._ids(experiment_ids), unit),
            connection,
        )

    def matrix(
        self,
        filters: Iterable[str],
        base_filter: str | None = None,
        *,
        experiment_ids: ExperimentIds = None,
        unit: str = "trace",
        connection: Connection | None = None,
    ) -> Matrix:
        """How several filters go together, pair by pair, in one pass over the data."""
        return self._run(
            operations.matrix(filters, base_filter, self._ids(experiment_ids), unit), connection
        )

    def discover(
        self,
        target: str | None,
        base_filter: str | None = None,
        *,
        experiment_ids: ExperimentIds = None,
        kinds: Kinds = None,
        min_support: int = 5,
        max_results: int = 20,
        fdr: float = 0.05,
        direction: str = "positive",
        pairs: bool = False,
        restatements: bool = False,
        unit: str = "trace",
        connection: Connection | None = None,
    ) -> Discovery:
        """Facts associated with ``target``, strongest first.

        ``base_filter`` leaves only its traces to be looked at.  ``kinds`` are
        those of the facts: trace, tag, metadata, feedback, expectation, run,
        prompt, issue, span, attribute, number; None is all.  Facts of fewer
        than ``min_support`` traces are left out, and so is what is not below
        the false discovery rate ``fdr``.  ``direction`` is 'positive', 'negative'
        (what the target lacks) or 'both'.  ``pairs`` also tries two facts
        together; ``restatements`` also gives those that only say the target again.
        """
        return self._run(
            operations.discover(
                target,
                base_filter,
                self._ids(experiment_ids),
                kinds=kinds,
                min_support=min_support,
                max_results=max_results,
                fdr=fdr,
                direction=direction,
                pairs=pairs,
                restatements=restatements,
                unit=unit,
            ),
            connection,
        )

    def compare(
        self,
        selection: str | None,
        baseline: str | None,
        *,
        experiment_ids: ExperimentIds = None,
        kinds: Kinds = None,
        min_support: int = 5,
        max_results: int = 20,
        fdr: float = 0.05,
        direction: str = "positive",
        pairs: bool = False,
        restatements: bool = False,
        unit: str = "trace",
        connection: Connection | None = None,
    ) -> Comparison:
        """Which facts set ``selection`` apart from ``baseline``, strongest first.

        A trace in both counts to the selection.  The options are those of
        `discover`.
        """
        return self._run(
            operations.compare(
                selection,
                baseline,
                self._ids(experiment_ids),
                kinds=kinds,
                min_support=min_support,
                max_results=max_results,
                fdr=fdr,
                direction=direction,
                pairs=pairs,
                restatements=restatements,
                unit=unit,
            ),
            connection,
        )

    def facets(
        self,
        filter: str | None,
        field: str,
        *,
        experiment_ids: ExperimentIds = None,
        max_results: int = 20,
        unit: str = "trace",
        connection: Connection | None = None,
    ) -> Facets:
        """The values of ``field`` among what matches, most frequent first.

        ``field`` is any field of the filter language.  One of numbers with many
        values comes in intervals, in ascending order.
        """
        return self._run(
            operations.facets(filter, field, self._ids(experiment_ids), max_results, unit),
            connection,
        )

    def timeseries(
        self,
        filter: str | None = None,
        bucket: str | timedelta = "1 hour",
        *,
        experiment_ids: ExperimentIds = None,
        start_time: Moment = None,
        end_time: Moment = None,
        time_zone: str = "UTC",
        unit: str = "trace",
        connection: Connection | None = None,
    ) -> TimeSeries:
        """How many match over the time, with errors, latency, tokens and cost.

        ``bucket`` is an interval of PostgreSQL's, such as ``'15 minutes'``, or a
        timedelta.  Without ``start_time`` and ``end_time`` the series spans all
        traces; a time without a zone is in ``time_zone``, in which days begin.
        """
        return self._run(
            operations.timeseries(
                filter,
                bucket,
                self._ids(experiment_ids),
                start_time,
                end_time,
                time_zone,
                unit,
            ),
            connection,
        )

    def validate(self, filter: str | None, *, connection: Connection | None = None) -> str:
        """The filter in its canonical form; raises `FilterError` for a bad one."""
        return self._run(operations.validate(filter), connection)

    def explain(
        self,
        filter: str | None,
        *,
        experiment_ids: ExperimentIds = None,
        connection: Connection | None = None,
    ) -> Explanation:
        """How the filter is answered."""
        return self._run(operations.explain(filter, self._ids(experiment_ids)), connection)

    def status(self, *, connection: Connection | None = None) -> Status:
        """What is installed in the database, and how many traces it holds."""
        return self._run(operations.status(__version__, self._schema), connection)

    def index_status(self, *, connection: Connection | None = None) -> IndexStatus:
        """How far the index is, and how large."""
        return self._run(operations.index_status(), connection)

    def refresh(self, max_traces: int = 5000, *, connection: Connection | None = None) -> Refresh:
        """Index up to ``max_traces`` traces that changed; for MLflow's owner and superusers."""
        return self._run(operations.refresh(max_traces), connection)

    def verify(
        self, max_problems: int = 100, *, connection: Connection | None = None
    ) -> list[Wrong]:
        """Where the index is wrong, by reading every trace again; empty where it is right."""
        return self._run(operations.verify(max_problems), connection)

    def experiments(self, *, connection: Connection | None = None) -> list[Experiment]:
        """MLflow's experiments, deleted ones included, in the order of their ids."""
        return self._run(operations.experiments(), connection)

    def _ids(self, experiment_ids: ExperimentIds) -> ExperimentIds:
        return self._experiment_ids if experiment_ids is None else experiment_ids

    def _run(self, operation: Operation[Answer], connection: Connection | None) -> Answer:
        with translated():
            query = next(operation)
            source = self._database if connection is None else connection
            with self._source(source) as run:
                while True:
                    rows = run(query)
                    try:
                        query = operation.send(rows)
                    except StopIteration as stop:
                        answer: Answer = stop.value
                        return answer

    def _source(self, source: Database) -> AbstractContextManager[Run]:
        """How to run statements on ``source``; raises TypeError if that is not known."""
        if isinstance(source, str):
            return self._on_own()
        psycopg = sys.modules.get("psycopg")
        if psycopg is not None and isinstance(source, psycopg.Connection):
            return self._on_psycopg(source)
        engine = sys.modules.get("sqlalchemy.engine")
        if engine is not None and isinstance(source, engine.Engine):
            return self._on_engine(source)
        if engine is not None and isinstance(source, engine.Connection):
            return self._on_sqlalchemy(source)
        orm = sys.modules.get("sqlalchemy.orm")
        if orm is not None and isinstance(source, orm.Session):
            return self._on_sqlalchemy(source)
        kind = f"{type(source).__module__}.{type(source).__qualname__}"
        hint = "; for asyncio take AsyncInsights" if "async" in kind.lower() else ""
        raise TypeError(
            "a database is a DSN, an SQLAlchemy engine, connection or session, "
            f"or a psycopg 3 connection, not {kind}{hint}"
        )

    @contextmanager
    def _on_own(self) -> Iterator[Run]:
        with self._lock:
            # A server, pooler or firewall may have ended it since the last call.
            if self._own is not None and not self._users and lost(self._own):
                self._own.close()
            if self._own is None or self._own.closed:
                self._own = self._connect()
            own = self._own
            self._users += 1
        try:
            with self._on_psycopg(own) as run:

                def on_own(query: sql.Query) -> Sequence[Sequence[Any]]:
                    return self._write(query) if query.writes else run(query)

                yield on_own
        finally:
            with self._lock:
                self._users -= 1

    def _connect(self) -> psycopg.Connection[Any]:
        import psycopg

        return psycopg.connect(
            patient(str(self._database)), autocommit=True, fallback_application_name="insights"
        )

    def _write(self, query: sql.Query) -> Sequence[Sequence[Any]]:
        """In a READ COMMITTED transaction, whatever the database's defaults are.

        On a connection of its own, since others may be using ours.
        """
        import psycopg

        with self._connect() as connection:
            connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
            connection.read_only = False
            with connection.transaction(), self._on_psycopg(connection) as run:
                return run(query)

    @contextmanager
    def _on_psycopg(self, connection: psycopg.Connection[Any]) -> Iterator[Run]:
        from psycopg.rows import tuple_row

        def run(query: sql.Query) -> Sequence[Sequence[Any]]:
            with connection.cursor(row_factory=tuple_row) as cursor:
                # The text holds no value and no name of the caller's but the quoted schema.
                cursor.execute(query.for_psycopg(self._schema).encode(), query.params)
                return cursor.fetchall()

        yield run

    @contextmanager
    def _on_engine(self, engine: sqlalchemy.engine.Engine) -> Iterator[Run]:
        with engine.connect() as connection, self._on_sqlalchemy(connection) as run:
            yield run

    @contextmanager
    def _on_sqlalchemy(
        self, connection: sqlalchemy.engine.Connection | sqlalchemy.orm.Session
    ) -> Iterator[Run]:
        from sqlalchemy import text

        def run(query: sql.Query) -> Sequence[Sequence[Any]]:
            statement = text(query.for_sqlalchemy(self._schema))
            return connection.execute(statement, dict(query.params)).all()

        yield run
