"""The client for asyncio: `AsyncInsights`, the twin of `Insights`."""

# Written by insights_dev/async_client.py.  Edit client.py.

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
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
    import sqlalchemy.ext.asyncio

    Connection = (
        psycopg.AsyncConnection[Any]
        | sqlalchemy.ext.asyncio.AsyncConnection
        | sqlalchemy.ext.asyncio.AsyncSession
    )
    Database = str | sqlalchemy.ext.asyncio.AsyncEngine | Connection

__all__ = ["AsyncInsights"]

Run = Callable[[sql.Query], Awaitable[Sequence[Sequence[Any]]]]


class AsyncInsights:
    """`Insights` for asyncio: the same methods, awaited.

    ``database`` is a DSN, an SQLAlchemy ``AsyncEngine``, or a connection:
    psycopg's ``AsyncConnection``, SQLAlchemy's, or an ``AsyncSession``.  With a
    DSN, tasks take turns on one connection.
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
        self._own: psycopg.AsyncConnection[Any] | None = None
        self._lock = asyncio.Lock()
        # Calls that are under way on it.
        self._users = 0
        if not isinstance(database, str):
            self._source(database)

    async def __aenter__(self) -> AsyncInsights:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection that the client opened itself, if any."""
        async with self._lock:
            if self._own is not None:
                await self._own.close()
                self._own = None

    async def search(
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
        return await self._run(
            operations.search(filter, self._ids(experiment_ids), max_results, order_by, page_token),
            connection,
        )

    async def search_iter(
        self,
        filter: str | None = None,
        *,
        experiment_ids: ExperimentIds = None,
        page_size: int = 500,
        order_by: OrderBy = None,
        connection: Connection | None = None,
    ) -> AsyncIterator[Trace]:
        """Every trace that matches, fetched ``page_size`` at a time.

        Traces that arrive meanwhile neither repeat nor hide others.
        """
        token: str | None = None
        while True:
            page = await self.search(
                filter,
                experiment_ids=experiment_ids,
                max_results=page_size,
                order_by=order_by,
                page_token=token,
                connection=connection,
            )
            for trace in page:
                yield trace
            token = page.next_page_token
            if token is None:
                return

    async def count(
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
        return await self._run(
            operations.count(filter, self._ids(experiment_ids), unit), connection
        )

    async def correlate(
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
        return await self._run(
            operations.correlate(filter1, filter2, base_filter, self._ids(experiment_ids), unit),
            connection,
        )

    async def matrix(
        self,
        filters: Iterable[str],
        base_filter: str | None = None,
        *,
        experiment_ids: ExperimentIds = None,
        unit: str = "trace",
        connection: Connection | None = None,
    ) -> Matrix:
        """How several filters go together, pair by pair, in one pass over the data."""
        return await self._run(
            operations.matrix(filters, base_filter, self._ids(experiment_ids), unit), connection
        )

    async def discover(
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
        return await self._run(
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

    async def compare(
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
        return await self._run(
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

    async def facets(
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
        return await self._run(
            operations.facets(filter, field, self._ids(experiment_ids), max_results, unit),
            connection,
        )

    async def timeseries(
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
        return await self._run(
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

    async def validate(self, filter: str | None, *, connection: Connection | None = None) -> str:
        """The filter in its canonical form; raises `FilterError` for a bad one."""
        return await self._run(operations.validate(filter), connection)

    async def explain(
        self,
        filter: str | None,
        *,
        experiment_ids: ExperimentIds = None,
        connection: Connection | None = None,
    ) -> Explanation:
        """How the filter is answered."""
        return await self._run(operations.explain(filter, self._ids(experiment_ids)), connection)

    async def status(self, *, connection: Connection | None = None) -> Status:
        """What is installed in the database, and how many traces it holds."""
        return await self._run(operations.status(__version__, self._schema), connection)

    async def index_status(self, *, connection: Connection | None = None) -> IndexStatus:
        """How far the index is, and how large."""
        return await self._run(operations.index_status(), connection)

    async def refresh(
        self, max_traces: int = 5000, *, connection: Connection | None = None
    ) -> Refresh:
        """Index up to ``max_traces`` traces that changed; for MLflow's owner and superusers."""
        return await self._run(operations.refresh(max_traces), connection)

    async def verify(
        self, max_problems: int = 100, *, connection: Connection | None = None
    ) -> list[Wrong]:
        """Where the index is wrong, by reading every trace again; empty where it is right."""
        return await self._run(operations.verify(max_problems), connection)

    async def experiments(self, *, connection: Connection | None = None) -> list[Experiment]:
        """MLflow's experiments, deleted ones included, in the order of their ids."""
        return await self._run(operations.experiments(), connection)

    def _ids(self, experiment_ids: ExperimentIds) -> ExperimentIds:
        return self._experiment_ids if experiment_ids is None else experiment_ids

    async def _run(self, operation: Operation[Answer], connection: Connection | None) -> Answer:
        with translated():
            query = next(operation)
            source = self._database if connection is None else connection
            async with self._source(source) as run:
                while True:
                    rows = await run(query)
                    try:
                        query = operation.send(rows)
                    except StopIteration as stop:
                        answer: Answer = stop.value
                        return answer

    def _source(self, source: Database) -> AbstractAsyncContextManager[Run]:
        """How to run statements on ``source``; raises TypeError if that is not known."""
        if isinstance(source, str):
            return self._on_own()
        psycopg = sys.modules.get("psycopg")
        if psycopg is not None and isinstance(source, psycopg.AsyncConnection):
            return self._on_psycopg(source)
        engine = sys.modules.get("sqlalchemy.ext.asyncio")
        if engine is not None and isinstance(source, engine.AsyncEngine):
            return self._on_engine(source)
        if engine is not None and isinstance(source, engine.AsyncConnection):
            return self._on_sqlalchemy(source)
        orm = sys.modules.get("sqlalchemy.ext.asyncio")
        if orm is not None and isinstance(source, orm.AsyncSession):
            return self._on_sqlalchemy(source)
        kind = f"{type(source).__module__}.{type(source).__qualname__}"
        hint = "" if "async" in kind.lower() else "; without asyncio take Insights"
        raise TypeError(
            "a database is a DSN, an SQLAlchemy AsyncEngine, AsyncConnection or AsyncSession, "
            f"or a psycopg 3 AsyncConnection, not {kind}{hint}"
        )

    @asynccontextmanager
    async def _on_own(self) -> AsyncIterator[Run]:
        async with self._lock:
            # A server, pooler or firewall may have ended it since the last call.
            if self._own is not None and not self._users and lost(self._own):
                await self._own.close()
            if self._own is None or self._own.closed:
                self._own = await self._connect()
            own = self._own
            self._users += 1
        try:
            async with self._on_psycopg(own) as run:

                async def on_own(query: sql.Query) -> Sequence[Sequence[Any]]:
                    return await self._write(query) if query.writes else await run(query)

                yield on_own
        finally:
            self._users -= 1

    async def _connect(self) -> psycopg.AsyncConnection[Any]:
        import psycopg

        return await psycopg.AsyncConnection.connect(
            patient(str(self._database)), autocommit=True, fallback_application_name="insights"
        )

    async def _write(self, query: sql.Query) -> Sequence[Sequence[Any]]:
        """In a READ COMMITTED transaction, whatever the database's defaults are.

        On a connection of its own, since others may be using ours.
        """
        import psycopg

        async with await self._connect() as connection:
            await connection.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
            await connection.set_read_only(False)
            async with connection.transaction(), self._on_psycopg(connection) as run:
                return await run(query)

    @asynccontextmanager
    async def _on_psycopg(self, connection: psycopg.AsyncConnection[Any]) -> AsyncIterator[Run]:
        from psycopg.rows import tuple_row

        async def run(query: sql.Query) -> Sequence[Sequence[Any]]:
            async with connection.cursor(row_factory=tuple_row) as cursor:
                # The text holds no value and no name of the caller's but the quoted schema.
                await cursor.execute(query.for_psycopg(self._schema).encode(), query.params)
                return await cursor.fetchall()

        yield run

    @asynccontextmanager
    async def _on_engine(self, engine: sqlalchemy.ext.asyncio.AsyncEngine) -> AsyncIterator[Run]:
        async with engine.connect() as connection, self._on_sqlalchemy(connection) as run:
            yield run

    @asynccontextmanager
    async def _on_sqlalchemy(
        self,
        connection: sqlalchemy.ext.asyncio.AsyncConnection | sqlalchemy.ext.asyncio.AsyncSession,
    ) -> AsyncIterator[Run]:
        from sqlalchemy import text

        async def run(query: sql.Query) -> Sequence[Sequence[Any]]:
            statement = text(query.for_sqlalchemy(self._schema))
            return (await connection.execute(statement, dict(query.params))).all()

        yield run
