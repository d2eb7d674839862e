"""Which large blocks lack what is stored beside postings, without a look at any number.

It is asked at the end of every refresh, and seldom is anything lacking: so it takes
few modules to tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple, Protocol, TypeVar

from insights_engine.base import plans
from insights_engine.facts.terms import LARGE_BLOCK
from insights_engine.index.groups import Block

#: Where numbers are cut is chosen from a sample of so many blocks: of large ones, if there are any.
SAMPLED = 4


class Sizable(Protocol):
    """A block."""

    @property
    def block(self) -> int:
        """Its number."""

    @property
    def experiment_id(self) -> int:
        """Whose traces it has."""

    @property
    def used(self) -> int:
        """How many positions it has given out."""


AnyBlock = TypeVar("AnyBlock", bound=Sizable)


def sample_of(blocks: Sequence[AnyBlock]) -> list[AnyBlock]:
    """The blocks from whose numbers cuts are chosen: the largest, of equals the oldest.

    Of several experiments they are those of the one with most traces.
    """
    sizes: Counter[int] = Counter()
    for block in blocks:
        sizes[block.experiment_id] += block.used
    chosen = min(sizes, key=lambda experiment: (-sizes[experiment], experiment))
    largest = sorted(
        [block for block in blocks if block.experiment_id == chosen],
        key=lambda block: (-block.used, block.block),
    )[:SAMPLED]
    return [block for block in largest if block.used >= LARGE_BLOCK] or largest


class Task(NamedTuple):
    """A block whose cells are not stored, or by the cuts of another sample."""

    block: Block
    sample: list[Block]


def without_cells(plpy: Any) -> list[Task]:
    """The large blocks whose cells have to be worked out."""
    rows = plans.run(
        plpy,
        "select b.block, b.experiment_id, b.used, null::bytea as live, b.live_count, b.first_ms,"
        " b.last_ms, (select c.sample from insights.cells c where c.block = b.block limit 1)"
        " as sample from insights.block b where b.used >= $1"
        # While the index is being built it is not known which blocks will be the largest.
        " and (select s.built from insights.state s) order by b.experiment_id, b.block",
        ("int",),
        (LARGE_BLOCK,),
    )
    found = []
    for _, of_experiment in groupby(rows, key=lambda row: row["experiment_id"]):
        own = [(Block(row), row["sample"]) for row in of_experiment]
        sample = sample_of([block for block, _ in own])
        numbers = [block.block for block in sample]
        found += [Task(block, sample) for block, stored in own if stored != numbers]
    # Those of the sample first: the others find the cuts stored with them.
    return sorted(found, key=lambda task: task.block not in task.sample)
