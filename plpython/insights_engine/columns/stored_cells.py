"""The cells of numbers in large blocks, stored with the index for discoveries.

In which cell a trace's number lies (see `cells`) takes reading the number bit by bit,
of every field that there is.  A block is written once, and where its experiment's
numbers are cut depends on its largest blocks alone, so that is worked out when the
index is written.  It is a copy of what a session would compute, and no more: where
nothing is stored, or other cuts are wanted, the session computes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from insights_engine.base import plans
from insights_engine.columns.cells import Cells, Cuts
from insights_engine.columns.names import NumberField
from insights_engine.sets import bitmaps


def cuts_of(plpy: Any, sample: Sequence[int]) -> dict[NumberField, Cuts]:
    """The cuts chosen from a sample, by field, as far as they are stored; perhaps none."""
    rows = plans.run(
        plpy,
        "select distinct on (c.kind, c.key, c.span_name) c.kind, c.key, c.span_name, c.cuts"
        " from insights.cells c where c.block = any($1) and c.sample = $1",
        ("int[]",),
        (list(sample),),
    )
    return _cuts(rows)


def cuts_in(plpy: Any, block: int) -> dict[NumberField, Cuts]:
    """The cuts of the cells that are stored of a block."""
    rows = plans.run(
        plpy,
        "select c.kind, c.key, c.span_name, c.cuts from insights.cells c where c.block = $1",
        ("int",),
        (block,),
    )
    return _cuts(rows)


def _cuts(rows: Iterable[Mapping[str, Any]]) -> dict[NumberField, Cuts]:
    found = {}
    for row in rows:
        pairs = json.loads(row["cuts"])
        found[_name(row)] = Cuts([value for value, _ in pairs], [start for _, start in pairs])
    return found


def read(plpy: Any, block: int, cuts: Mapping[NumberField, Cuts]) -> dict[NumberField, Cells]:
    """The cells of fields that are cut so, as far as they are stored."""
    if not cuts:
        return {}
    rows = plans.run(
        plpy,
        "select c.kind, c.key, c.span_name, c.low, c.high from rows from"
        " (pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),"
        " pg_catalog.unnest($5)) as w (kind, key, span_name, cuts) join insights.cells c"
        " on c.block = $1 and c.kind = w.kind and c.key = w.key and c.span_name = w.span_name"
        " and c.cuts = w.cuts",
        ("int", "text[]", "text[]", "text[]", "text[]"),
        (
            block,
            [name.kind for name in cuts],
            [name.key for name in cuts],
            [name.span_name for name in cuts],
            [_text(chosen) for chosen in cuts.values()],
        ),
    )
    found = {}
    for row in rows:
        name = _name(row)
        low = [bitmaps.decode(plane) for plane in row["low"]]
        high = row["high"]
        found[name] = Cells(
            low, low if high is None else [bitmaps.decode(plane) for plane in high], cuts[name]
        )
    return found


def write(
    plpy: Any, block: int, used: int, sample: Sequence[int], cells: Mapping[NumberField, Cells]
) -> None:
    """Store the cells of a block, in place of what was stored of it."""
    plans.run(plpy, "delete from insights.cells c where c.block = $1", ("int",), (block,))
    for name, one in cells.items():
        plans.run(
            plpy,
            "insert into insights.cells (block, kind, key, span_name, sample, cuts, low, high)"
            " values ($1, $2, $3, $4, $5, $6, $7, $8)",
            ("int", "text", "text", "text", "int[]", "text", "bytea[]", "bytea[]"),
            (
                block,
                *(name.kind, name.key, name.span_name),
                list(sample),
                _text(one.cuts),
                [bitmaps.encode_set(plane, used) for plane in one.low],
                None
                if one.high is one.low
                else [bitmaps.encode_set(plane, used) for plane in one.high],
            ),
        )


def _name(row: Mapping[str, Any]) -> NumberField:
    return NumberField(row["kind"], row["key"], row["span_name"])


def _text(cuts: Cuts) -> str:
    """Cuts as they are stored."""
    return json.dumps(list(zip(*cuts)))
