"""Traces that cannot be indexed: they stay pending, and the others do not wait for them."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from insights_py.doctor import set_aside
from insights_py.worker import Worker, build
from tests.client import world

Connection = psycopg.Connection[Any]
POISON = world.trace_id(7)
POISONED = f"""
    create function public.poison() returns trigger language plpgsql as $$
    begin
        if new.trace_id = '{POISON}' then
            raise exception 'unexpected' using errcode = 'XX001';
        end if;
        return new;
    end
    $$;
    create trigger poison before insert on insights.trace
    for each row execute function public.poison()
"""
#: The function alone, to be replaced by another one.
OTHER = POISONED.partition("create trigger")[0].replace("function", "or replace function", 1)
STATE = (
    "select (select count(*) from insights.trace), count(*), min(p.trace_id),"
    " bool_and(p.noted_at > now() + interval '4 minutes') from insights.pending p"
)


@pytest.fixture
def poisoned(conn: Connection) -> Connection:
    """48 traces, one of which cannot be indexed."""
    world.load(conn)
    conn.execute(POISONED.encode())
    return conn


def one(connection: Connection, query: str) -> Any:
    return connection.execute(query.encode()).fetchone()


def test_the_others_do_not_wait(poisoned: Connection, dsn: str) -> None:
    lines: list[str] = []
    worker = Worker(dsn, batch=20, say=lines.append)
    worker.drain()
    assert one(poisoned, STATE) == (47, 1, POISON, True)
    assert len([line for line in lines if f"trace {POISON} cannot be indexed" in line]) == 1
    # Exact all the while, also after a change; which is a reason to try at once.
    assert one(poisoned, "select insights_count(null, '')") == (48,)
    poisoned.execute("update trace_info set status = 'X' where request_id = %s", [POISON])
    assert one(poisoned, "select insights_count(null, $$status = 'X'$$)") == (1,)
    assert one(poisoned, "select indexed, pending from insights_refresh()") == (0, 1)
    assert one(poisoned, STATE) == (47, 1, POISON, True)
    assert poisoned.execute("select * from insights_verify()").fetchall() == []
    (check,) = set_aside(poisoned)
    assert (check.ok, check.finding) == (False, "traces that could not be indexed: 1")
    poisoned.execute("drop function public.poison() cascade")
    poisoned.execute("update insights.pending set noted_at = now()")
    assert one(poisoned, "select indexed, pending from insights_refresh()") == (1, 0)
    assert poisoned.execute("select * from insights_verify()").fetchall() == []


def test_an_index_is_built_without_it(poisoned: Connection, dsn: str) -> None:
    lines: list[str] = []
    last = list(build(dsn, batch=20, rebuild=True, wait=0.05, say=lines.append))[-1]
    assert last.done
    assert len(lines) == 1
    assert one(poisoned, "select s.built from insights.state s") == (True,)
    assert one(poisoned, "select insights_count(null, '')") == (48,)
    assert poisoned.execute("select * from insights_verify()").fetchall() == []


@pytest.mark.parametrize("state", ["53100", "57014", "55P03", "40001", "42501"])
def test_what_is_not_the_traces_fault_ends_the_batch(poisoned: Connection, state: str) -> None:
    poisoned.execute(OTHER.replace("XX001", state).encode())
    with pytest.raises(psycopg.Error) as caught:
        poisoned.execute("select insights_refresh()")
    assert caught.value.sqlstate == state
    assert one(poisoned, "select count(*) from insights.trace") == (0,)


def test_when_nothing_can_be_indexed(poisoned: Connection) -> None:
    """It is not the traces that are wrong."""
    poisoned.execute(OTHER.replace(f"new.trace_id = '{POISON}'", "true").encode())
    with pytest.raises(psycopg.Error):
        poisoned.execute("select insights_refresh()")
    assert one(poisoned, "select count(*) from insights.trace") == (0,)
