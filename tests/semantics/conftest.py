"""A database for this directory, and a way to ask it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from insights_engine.language.parser import parse_filter

from tests.semantics import oracle
from tests.semantics.world import World, load


@dataclass(frozen=True)
class Asked:
    """A loaded world; asking it compares SQL and oracle on the way."""

    connection: psycopg.Connection[Any]
    world: World

    def __call__(self, text: str, scope: Sequence[int] | None = None) -> set[str]:
        """The ids that match, of which search, count and the oracle must be of one mind."""
        found = self.search(text, scope)
        assert len(found) == len(set(found))
        count = self.connection.execute(
            "select insights_count(%s::int[], %s)", (_ids(scope), text)
        ).fetchone()
        assert count == (len(found),)
        assert set(found) == oracle.matches(
            self.world, parse_filter(text), scope, int(time.time() * 1000)
        )
        return set(found)

    def search(
        self,
        text: str,
        scope: Sequence[int] | None = None,
        *,
        order_by: list[str] | None = None,
        max_results: int = 100,
        page_token: str | None = None,
    ) -> list[str]:
        """The ids of one page, in order."""
        return [row[0] for row in self.page(text, scope, max_results, order_by, page_token)]

    def page(
        self,
        text: str,
        scope: Sequence[int] | None = None,
        max_results: int = 100,
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> list[tuple[str, str | None]]:
        """The ids of one page with the token of the next."""
        return self.connection.execute(
            "select trace_id, next_page_token"
            " from insights_search(%s::int[], %s, %s, %s::text[], %s)",
            (_ids(scope), text, max_results, order_by, page_token),
        ).fetchall()

    def refusal(self, text: str) -> psycopg.Error:
        """The error that a filter gets; it must be invalid_parameter_value."""
        with pytest.raises(psycopg.Error) as caught:
            self.connection.execute("select insights_count(null::int[], %s)", (text,))
        assert caught.value.sqlstate == "22023"
        assert "Traceback" not in str(caught.value.diag.context)
        return caught.value


def _ids(scope: Sequence[int] | None) -> list[int] | None:
    return None if scope is None else list(scope)


@pytest.fixture
def ask(module_conn: psycopg.Connection[Any]) -> Callable[[World], Asked]:
    """Loads a world; the result answers filters."""

    def loaded(world: World) -> Asked:
        load(module_conn, world)
        return Asked(module_conn, world)

    return loaded
