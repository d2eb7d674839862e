"""Sets of traces become sets of sessions as one would find them trace by trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from insights_engine.answers.discovery.session_space import Enlarged, Sizes, Space
from insights_engine.columns import cells
from insights_engine.columns.item_sets import ItemSets
from insights_engine.columns.names import NumberField
from insights_engine.columns.parts import Part
from insights_engine.sets import bitmaps

NAME = NumberField("trace", "x", "")
CUTS = cells.Cuts([10, 20, 30], [10, 20, 30])
LAST = len(CUTS.values) + 1
#: Sessions of a part, few enough that there are several.
POSITIONS = 4

#: A trace: whether it is in the base, its session, its items, its smallest and largest cell.
Trace = tuple[bool, int, frozenset[int], tuple[int, int]]

TRACES = st.lists(
    st.tuples(
        st.sampled_from([True, True, True, False]),
        st.integers(0, 9),
        st.frozensets(st.integers(0, 11)),
        st.tuples(st.integers(0, LAST), st.integers(0, LAST)).map(
            # A trace has both numbers or none.
            lambda both: (0, 0) if 0 in both else (min(both), max(both))
        ),
    ),
    min_size=1,
    max_size=60,
)


class Given(Part):
    """Traces as given."""

    def __init__(self, traces: Sequence[Trace]) -> None:
        super().__init__(len(traces), members([base for base, *_ in traces]), 0)
        self._traces = traces

    def item_sets(self) -> ItemSets:
        sets = {item: self.having(item) for item in range(12)}
        listed = {item: bits for item, bits in sets.items() if item % 2 and bits}
        return ItemSets.of_sets(
            {
                item: bitmaps.listed_positions(bitmaps.encode_set(bits, 10**6))
                for item, bits in listed.items()
            },
            {item: bits for item, bits in sets.items() if item not in listed},
            {12: ()},
            self.used,
        )

    def having(self, item: int) -> int:
        return members([item in items for _, _, items, _ in self._traces])

    def cells(self, cuts: Mapping[NumberField, cells.Cuts]) -> dict[NumberField, cells.Cells]:
        planes = [
            [members([both[which] >> bit & 1 for *_, both in self._traces]) for bit in range(3)]
            for which in (0, 1)
        ]
        low = planes[0]
        return {
            name: cells.Cells(low, low if planes[0] == planes[1] else planes[1], CUTS)
            for name in cuts
        }

    def sample(self, names: Sequence[NumberField]) -> dict[NumberField, Sequence[int]]:
        raise AssertionError

    def trace_ids(self) -> Sequence[str | None]:
        raise AssertionError


def joined(sets: Sequence[int]) -> int:
    """One set of sessions, of a set for each part."""
    return sum(bits << number * POSITIONS for number, bits in enumerate(sets))


def members(flags: Sequence[object]) -> int:
    return sum(1 << place for place, flag in enumerate(flags) if flag)


@pytest.mark.parametrize("every", [False, True])
@given(
    worlds=st.lists(TRACES, min_size=1, max_size=4),
    known=st.integers(0, 4),
    at_once=st.sampled_from([2, 16]),
)
def test_what_sessions_have(
    every: bool, worlds: list[list[Trace]], known: int, at_once: int
) -> None:
    """At once, or first of some parts and then of the others, too."""
    sizes = Sizes(at_once=at_once, widest=1, positions=POSITIONS)
    parts = [Given(traces) for traces in worlds]
    numbers = [[one[1] for one in traces] for traces in worlds]
    space = Space(parts[:known] or parts, numbers[:known] or numbers, every, sizes=sizes)
    if 0 < known < len(parts):
        space = Enlarged(space, parts[known:], numbers[known:], every, sizes=sizes)
    sessions: dict[int, list[Trace]] = {}
    for trace in (trace for traces in worlds for trace in traces):
        if trace[0] and trace[1]:
            sessions.setdefault(trace[1], []).append(trace)
    assert space.size == len(sessions)
    some_or_all = all if every else any
    having = {
        item: [some_or_all(item in items for _, _, items, _ in own) for own in sessions.values()]
        for item in range(12)
    }
    # Sessions are numbered as they are met.
    expected = {item: members(flags) for item, flags in having.items()}
    sets = space.sets_of([[part.having(item) for item in range(12)] for part in parts])
    assert dict(enumerate(sets)) == expected
    assert space.set_of([part.having(3) for part in parts]) == expected[3]
    as_parts = space.as_parts(expected[5])
    assert joined([part.target for part in as_parts]) == expected[5]
    assert [part.used for part in as_parts] == [
        min(POSITIONS, space.size - start) for start in range(0, space.size, POSITIONS)
    ]
    found = {
        item: joined([part.item_sets().sets([item]).get(item, 0) for part in as_parts])
        for item in range(12)
    }
    assert found == expected
    assert all(set(part.item_sets().doubts) == {12} for part in as_parts)
    for op, cut in [(op, cut) for op in ("<", ">=") for cut in (1, 2, 3)]:
        matching = joined([part.cells({NAME: CUTS})[NAME].members(op, cut) for part in as_parts])
        assert matching == members(
            [
                some_or_all(
                    low and (low <= cut if op == "<" else high > cut) for *_, (low, high) in own
                )
                for own in sessions.values()
            ]
        ), (op, cut)


def test_a_session_of_many_traces() -> None:
    """More than are folded in one step, or in two."""
    traces: list[Trace] = [
        (True, 1 + (n % 500 == 7), frozenset([n % 2]), (0, 0)) for n in range(1000)
    ]
    for every in (False, True):
        space = Space([Given(traces)], [[one[1] for one in traces]], every)
        both = [Given(traces).having(item) for item in (0, 1)]
        assert [space.set_of([bits]) for bits in both] == [0, 0b10] if every else [0b01, 0b11]
