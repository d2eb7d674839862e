"""Looking whether a statement has been cancelled."""

from __future__ import annotations

import time
from typing import Any

import pytest
from insights_engine.base import interrupts, plans


class Cancelled(Exception):
    pass


class Database:
    """Counts the looks; the one of number ``cancelled`` is refused."""

    SPIError = Cancelled

    def __init__(self, cancelled: int = 0) -> None:
        self.looks = 0
        self.cancelled = cancelled

    def prepare(self, sql: str, types: list[str]) -> str:
        return sql

    def execute(self, plan: str, values: list[Any]) -> list[Any]:
        assert plan == interrupts.LOOK
        self.looks += 1
        if self.looks == self.cancelled:
            raise Cancelled
        return []


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in a list of one number."""
    now = [1_000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(interrupts, "_last", 0.0)
    monkeypatch.setattr(plans, "_kept", {})
    return now


def test_looks_are_apart(clock: list[float]) -> None:
    database = Database()
    for _ in range(100):
        interrupts.look(database)
        clock[0] += interrupts.SECONDS / 10
    assert 9 <= database.looks <= 11


def test_going_through_what_takes_long_ends_where_it_is_cancelled(clock: list[float]) -> None:
    database = Database(cancelled=3)
    watched: interrupts.Watched[int] = interrupts.Watched(database)
    for number in range(5):
        watched.append(number)
    seen = []

    def go_through() -> None:
        for number, other in zip(watched, range(5), strict=True):
            seen.append((number, other))
            clock[0] += 2 * interrupts.SECONDS

    with pytest.raises(Cancelled):
        go_through()
    assert seen == [(0, 0), (1, 1)]
    assert database.looks == 3


def test_what_is_quick_looks_once() -> None:
    database = Database()
    watched: interrupts.Watched[int] = interrupts.Watched(database)
    watched += range(1000)
    assert sum(watched) == sum(range(1000))
    assert database.looks == 1
