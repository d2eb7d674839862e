"""Which session each trace of a large block belongs to, stored with the index.

A session has to know that of all traces before it can count sessions, and reading it
from MLflow's tables, trace by trace, takes a second for 200,000.  What is stored is
right for the traces that the index answers for: one whose session changes is pending
from then on, and has another position once it is indexed again.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from insights_engine.base import plans
from insights_engine.facts.terms import LARGE_BLOCK

#: Blocks that one call works out.
AT_ONCE = 8


class Stored(NamedTuple):
    """The sessions of a block."""

    block: int
    ids: Sequence[str]
    #: By position the place of the session's id, from 1; 0: there is none.
    places: array[int]


def read(plpy: Any, blocks: Sequence[int]) -> Iterator[Stored]:
    """The sessions of some blocks, as far as they are stored."""
    for row in plans.run(
        plpy,
        "select s.block, s.ids, s.places from insights.sessions s where s.block = any($1)",
        ("int[]",),
        (list(blocks),),
    ):
        places = array("H", row["places"])
        if sys.byteorder == "big":
            places.byteswap()
        yield Stored(row["block"], row["ids"], places)


def complete(plpy: Any, schema: str) -> int:
    """Stores the sessions of large blocks that lack them, of so many at most; of how many."""
    lacking = plans.run(
        plpy,
        "select b.block, b.used from insights.block b where b.used >= $1"
        " and not exists (select from insights.sessions s where s.block = b.block)"
        " and (select s.built from insights.state s) order by b.block limit $2",
        ("int", "int"),
        (LARGE_BLOCK, AT_ONCE),
    )
    for row in lacking:
        _write(plpy, schema, row["block"], row["used"])
    return len(lacking)


def _write(plpy: Any, schema: str, block: int, used: int) -> None:
    (row,) = plans.run(
        plpy,
        "select pg_catalog.array_agg(i.position) as positions,"
        " pg_catalog.array_agg(t.session_id) as sessions from insights.trace i"
        f" join {schema}.trace_info t on t.request_id = i.trace_id"
        " where i.block = $1 and t.session_id is not null",
        ("int",),
        (block,),
    )
    numbers: dict[str, int] = {}
    places = array("H", bytes(2 * used))
    for position, session_id in zip(row["positions"] or (), row["sessions"] or ()):
        places[position] = numbers.setdefault(session_id, len(numbers) + 1)
    if sys.byteorder == "big":
        places.byteswap()
    plans.run(
        plpy,
        "insert into insights.sessions (block, ids, places) values ($1, $2, $3)",
        ("int", "text[]", "bytea"),
        (block, list(numbers), places.tobytes()),
    )
