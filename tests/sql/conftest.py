"""How the tests of the SQL functions put traces in and ask for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.semantics.world import Experiment, Trace, World, load

Loader = Callable[..., None]


@pytest.fixture
def put(module_conn: psycopg.Connection[Any]) -> Loader:
    """Replaces all traces of the module's database by the given ones."""

    def loaded(*traces: Trace) -> None:
        numbers = {1, 2} | {trace.experiment_id for trace in traces}
        experiments = tuple(Experiment(number) for number in sorted(numbers))
        load(module_conn, World(experiments, traces))

    return loaded


class Search:
    """Calls ``insights_search`` and gives back rows as dictionaries."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    def rows(
        self,
        filter: str | None = "",
        exp_ids: Sequence[str] | None = None,
        max_results: int | None = 100,
        order_by: Sequence[str | None] | None = None,
        page_token: str | None = None,
    ) -> list[dict[str, Any]]:
        with self.connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(
                "select * from insights_search(%s::text[], %s, %s, %s::text[], %s)",
                (
                    None if exp_ids is None else list(exp_ids),
                    filter,
                    max_results,
                    None if order_by is None else list(order_by),
                    page_token,
                ),
            ).fetchall()

    def ids(self, *args: Any, **kwargs: Any) -> list[str]:
        return [row["trace_id"] for row in self.rows(*args, **kwargs)]

    def pages(self, max_results: int, **kwargs: Any) -> list[list[str]]:
        """The ids of all pages, one after the other."""
        pages = []
        token = None
        while True:
            rows = self.rows(max_results=max_results, page_token=token, **kwargs)
            pages.append([row["trace_id"] for row in rows])
            tokens = {row["next_page_token"] for row in rows}
            assert len(tokens) <= 1
            token = tokens.pop() if tokens else None
            if token is None:
                return pages

    def refusal(self, *args: Any, **kwargs: Any) -> psycopg.errors.Diagnostic:
        """What a refused search says; the rules for errors are checked on the way."""
        with pytest.raises(psycopg.Error) as caught:
            self.rows(*args, **kwargs)
        return checked(caught.value)


def checked(error: psycopg.Error) -> psycopg.errors.Diagnostic:
    """The parts of an error that is a user's mistake and must look like one."""
    assert error.sqlstate == "22023", error
    assert "\n" not in (error.diag.message_primary or "")
    assert "Traceback" not in str(error)
    assert "Traceback" not in (error.diag.context or "")
    assert "Python" not in (error.diag.context or "")
    return error.diag


@pytest.fixture
def search(module_conn: psycopg.Connection[Any]) -> Search:
    return Search(module_conn)
