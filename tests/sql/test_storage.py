"""A field is added by adding a row to the table of storage, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.sql.conftest import Search, checked

#: A text, an integer and a double of columns, and a text of metadata.
ROWS = """
    _row("reply", Type.TEXT, "response_preview"),
    _row("generation", Type.INTEGER, "db_payload_generation", nullable=False),
    _row("spend", Type.DOUBLE, "total_cost"),
    replace(
        _ENTRY,
        name="release",
        entry=Entry("metadata", "release"),
        kinds=("metadata",),
        key="release",
    ),
"""

ADDED = f"""
do language plpython3u $$
import sys

(loader,) = [one for one in sys.meta_path if getattr(one, "engine", None) == "insights"]
released = loader.get_source

def with_rows(name):
    source = released(name)
    if name == "insights_engine.language.storage":
        assert source.count("_ROWS = (") == 1
        source = source.replace("_ROWS = (", "_ROWS = (" + {ROWS!r})
    return source

loader.get_source = with_rows
for name in [name for name in sys.modules if name.partition(".")[0] == "insights_engine"]:
    del sys.modules[name]
import insights_engine.api
GD[GD["insights_engines"][0]] = sys.modules["insights_engine.api"]
$$
"""

WRITTEN = """
insert into trace_info (
    request_id, experiment_id, timestamp_ms, status,
    response_preview, db_payload_generation, total_cost
)
select
    'tr-' || n, 1, n, case when n % 15 = 0 then 'ERROR' else 'OK' end,
    (array['yes', 'no', null])[n % 3 + 1], n % 5, case when n % 4 > 0 then n / 8.0 end
from generate_series(1, 300) n;

insert into trace_request_metadata (request_id, key, value)
select 'tr-' || n, 'release', (n % 7)::text from generate_series(1, 300) n where n % 2 = 0;
"""


class Trace(NamedTuple):
    """What one of the traces has in the added fields."""

    number: int
    reply: str | None
    generation: int
    spend: float | None
    release: str | None


TRACES = [
    Trace(
        n,
        ("yes", "no", None)[n % 3],
        n % 5,
        n / 8 if n % 4 else None,
        str(n % 7) if n % 2 == 0 else None,
    )
    for n in range(1, 301)
]

FILTERS: dict[str, Callable[[Trace], bool]] = {
    "reply = 'yes'": lambda t: t.reply == "yes",
    "reply != 'yes'": lambda t: t.reply == "no",
    "reply LIKE 'y%'": lambda t: t.reply == "yes",
    "reply IN ('no', 'perhaps')": lambda t: t.reply == "no",
    "reply IS NULL": lambda t: t.reply is None,
    "generation = 3": lambda t: t.generation == 3,
    "generation BETWEEN 1 AND 2": lambda t: 1 <= t.generation <= 2,
    "generation IS NULL": lambda t: False,
    "spend < 2.5": lambda t: t.spend is not None and t.spend < 2.5,
    "spend IN (0.125, 0.25)": lambda t: t.spend in (0.125, 0.25),
    "spend IS NULL": lambda t: t.spend is None,
    "release = '3'": lambda t: t.release == "3",
    "release >= 5": lambda t: t.release is not None and int(t.release) >= 5,
    "release IS NULL AND NOT (reply = 'no' OR generation > 2)": lambda t: (
        t.release is None and t.reply != "no" and t.generation <= 2
    ),
}


@pytest.fixture(scope="module")
def added(module_conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """A session whose engine has more rows in its table, and traces."""
    module_conn.execute("select insights_validate('')")
    module_conn.execute(ADDED.encode())
    module_conn.execute(
        "insert into experiments (experiment_id, name, lifecycle_stage) values (1, 'one', 'active')"
    )
    module_conn.execute(WRITTEN.encode())
    return module_conn


def answer(connection: psycopg.Connection[Any], call: str) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(call.encode()).fetchall()


def answers(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    """What is said of the fields, by question."""
    search = Search(connection)
    found: dict[str, Any] = {}
    for text in FILTERS:
        found[text] = set(search.ids(text, ["1"], max_results=300))
        (count,) = answer(connection, f"select insights_count('1', $f${text}$f$) as n")
        assert count["n"] == len(found[text])
    for field in ("reply", "generation", "spend", "release"):
        call = f"select * from insights_facets('1', '', '{field}')"
        found[f"facets of {field}"] = answer(connection, call)
        for direction in ("asc", "desc"):
            clause = f"{field} {direction}"
            found[clause] = search.ids("", ["1"], max_results=300, order_by=[clause])
    call = (
        "select filter, joint_count, fact_count, total_count from"
        " insights_discover('1', 'status = ''ERROR''', min_support => 1)"
    )
    found["discovery"] = answer(connection, call)
    call = "select filter from insights_discover('1', 'reply = ''yes''', min_support => 1)"
    found["restated"] = [row["filter"] for row in answer(connection, call)]
    return found


def test_a_row_adds_a_field_to_everything(added: psycopg.Connection[Any]) -> None:
    exact = answers(added)
    added.execute("select insights_refresh()")
    indexed = answers(added)
    assert indexed == exact
    for text, holds in FILTERS.items():
        assert exact[text] == {f"tr-{trace.number}" for trace in TRACES if holds(trace)}, text
        steps = answer(added, f"select * from insights_explain('1', $f${text}$f$)")
        assert ("residue", "none: the index alone answers") in [
            (row["step"], row["detail"]) for row in steps
        ], (text, steps)
    for field in ("reply", "generation", "spend"):
        there = [trace for trace in TRACES if getattr(trace, field) is not None]
        missing = [trace for trace in reversed(TRACES) if getattr(trace, field) is None]
        for direction in ("asc", "desc"):
            down = direction == "desc"
            newest = sorted(there, key=lambda trace: -trace.number)
            ordered = sorted(newest, key=lambda trace: getattr(trace, field), reverse=down)
            wanted = [f"tr-{trace.number}" for trace in (*ordered, *missing)]
            assert exact[f"{field} {direction}"] == wanted
    shown = {row["value"]: row["count"] for row in exact["facets of reply"]}
    assert shown == {"yes": 100, "no": 100, None: 100}
    shown = {row["value"]: row["count"] for row in exact["facets of generation"]}
    assert shown == dict.fromkeys("01234", 60)
    facts = {row["filter"]: row for row in exact["discovery"]}
    assert facts["reply = 'yes'"] == {
        "filter": "reply = 'yes'",
        "joint_count": 20,
        "fact_count": 100,
        "total_count": 300,
    }
    assert any(fact.startswith("generation") for fact in facts), sorted(facts)
    assert not [fact for fact in exact["restated"] if "reply" in fact]


def test_what_is_said_of_mistakes_knows_the_field(added: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.Error) as caught:
        added.execute("select insights_count('1', 'generatoin = 1')")
    assert "Did you mean generation?" in (checked(caught.value).message_hint or "")
    (row,) = answer(added, "select insights_validate('attributes.reply LIKE ''y%''') as filter")
    assert row["filter"] == "reply LIKE 'y%'"
