"""`AsyncInsights`: the same answers, awaited."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from insights_dev import async_client
from insights_py import AsyncInsights, ConnectionFailed, FilterError, Insights
from tests.client.world import trace_id

ERRORS = "span.status = 'ERROR'"
V1 = "tags.release = 'v1'"
V2 = "tags.release = 'v2'"


def waiting(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """An asynchronous test as pytest runs it."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


async def opened(kind: str, dsn: str, stack: AsyncExitStack) -> Any:
    """A database of this kind, closed with the stack."""
    if kind == "dsn":
        return dsn
    if kind == "psycopg":
        connection = await psycopg.AsyncConnection.connect(dsn)
        return await stack.enter_async_context(connection)
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+psycopg://", 1))
    stack.push_async_callback(engine.dispose)
    if kind == "engine":
        return engine
    if kind == "session":
        return await stack.enter_async_context(AsyncSession(engine))
    return await stack.enter_async_context(engine.connect())


@pytest.mark.parametrize("kind", ["dsn", "psycopg", "engine", "connection", "session"])
@waiting
async def test_each_method_over_each_kind_of_connection(kind: str, world_dsn: str) -> None:
    async with AsyncExitStack() as stack:
        database = await opened(kind, world_dsn, stack)
        async with AsyncInsights(database) as insights:
            await _all_methods(insights, None)
        if kind in ("psycopg", "connection", "session"):
            async with AsyncInsights("host=/nowhere dbname=nothing") as insights:
                await _all_methods(insights, database)


async def _all_methods(insights: AsyncInsights, connection: Any) -> None:
    assert await insights.count(ERRORS, connection=connection) == 11
    assert await insights.count(ERRORS, experiment_ids=1, connection=connection) == 10
    page = await insights.search(ERRORS, max_results=2, connection=connection)
    assert [trace.trace_id for trace in page] == [trace_id(42), trace_id(37)]
    assert page.next_page_token
    traces = [t async for t in insights.search_iter(ERRORS, page_size=3, connection=connection)]
    assert len(traces) == 11
    correlation = await insights.correlate("", ERRORS, connection=connection)
    assert correlation.joint_count == 11
    assert len(await insights.matrix([ERRORS, "", V2], connection=connection)) == 3
    assert (await insights.discover(ERRORS, connection=connection))[0].target_count == 11
    facts = await insights.compare(V2, "tags.release = 'v1'", connection=connection)
    assert facts[0].total_count == 48
    facets = await insights.facets(ERRORS, "tags.release", connection=connection)
    assert [facet.count for facet in facets] == [8, 3]
    series = await insights.timeseries(ERRORS, "15 minutes", connection=connection)
    assert [bucket.matched for bucket in series] == [4, 3, 4, 0]
    assert await insights.validate("span.status='ERROR'", connection=connection) == ERRORS
    assert (await insights.explain(ERRORS, connection=connection))[0].detail == ERRORS
    assert (await insights.status(connection=connection)).traces == 48
    assert len(await insights.experiments(connection=connection)) == 2


@waiting
async def test_the_two_clients_answer_the_same(world_dsn: str) -> None:
    with Insights(world_dsn) as sync:
        async with AsyncInsights(world_dsn) as twin:
            assert await twin.search(ERRORS) == sync.search(ERRORS)
            assert await twin.correlate("", ERRORS) == sync.correlate("", ERRORS)
            assert await twin.count(ERRORS, unit="session") == sync.count(ERRORS, unit="session")
            assert await twin.discover(ERRORS) == sync.discover(ERRORS)
            assert await twin.compare(V2, V1) == sync.compare(V2, V1)
            assert await twin.matrix([ERRORS, V2]) == sync.matrix([ERRORS, V2])
            assert await twin.facets("", "tags.release") == sync.facets("", "tags.release")
            assert await twin.timeseries(ERRORS) == sync.timeseries(ERRORS)
            # The details of later steps contain times.
            assert (await twin.explain(ERRORS))[0] == sync.explain(ERRORS)[0]


def test_one_is_written_from_the_other() -> None:
    assert async_client.TARGET.read_text(encoding="utf-8") == async_client.written()


def test_a_difference_that_is_no_longer_found_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = tmp_path / "client.py"
    changed.write_text(async_client.SOURCE.read_text().replace("self._users -= 1", "pass"))
    monkeypatch.setattr(async_client, "SOURCE", changed)
    with pytest.raises(ValueError, match="_users"):
        async_client.written()


def test_the_two_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[tuple[str, Any]]]:
        return {
            name: [(p.name, p.default) for p in inspect.signature(method).parameters.values()]
            for name, method in vars(kind).items()
            if inspect.isfunction(method) and not name.startswith("_")
        }

    def documentation(kind: type) -> dict[str, str | None]:
        return {name: getattr(kind, name).__doc__ for name in methods(kind)}

    assert methods(Insights) == methods(AsyncInsights)
    assert documentation(Insights) == documentation(AsyncInsights)
    assert all(documentation(Insights).values())


@waiting
async def test_tasks_share_a_client(world_dsn: str) -> None:
    async with AsyncInsights(world_dsn) as insights:
        assert await asyncio.gather(*(insights.count(ERRORS) for _ in range(8))) == [11] * 8


@waiting
async def test_errors(world_dsn: str) -> None:
    async with AsyncInsights(world_dsn) as insights:
        with pytest.raises(FilterError) as caught:
            await insights.count("span.stats = 'ERROR'")
        assert str(caught.value.hint).startswith("Did you mean span.status? Fields of a span")
        assert await insights.count(ERRORS) == 11
    with pytest.raises(ConnectionFailed):
        await AsyncInsights("host=127.0.0.1 port=1 dbname=x").count()


@waiting
async def test_its_own_connection_is_opened_again(world_dsn: str) -> None:
    insights = AsyncInsights(world_dsn, experiment_ids=2)
    assert await insights.count() == 8
    await insights.close()
    await insights.close()
    assert await insights.count() == 8
    await insights.close()


def test_waiting_objects_are_sent_to_the_waiting_client(world_dsn: str) -> None:
    engine = sqlalchemy.create_engine(world_dsn.replace("postgresql://", "postgresql+psycopg://"))
    with pytest.raises(TypeError, match="without asyncio take Insights"):
        AsyncInsights(engine)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a database is a DSN"):
        AsyncInsights(None)  # type: ignore[arg-type]
