"""What the index knows of a field: its values, its numbers, and what it did not capture."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Callable, NamedTuple, Optional, Union

from insights_engine.base import plans
from insights_engine.facts.terms import NUMBER, TEXT, Role
from insights_engine.index.cache import CACHE, Column
from insights_engine.index.groups import Block, Group, Terms, all_positions
from insights_engine.index.index_reader import Index
from insights_engine.index.slices import Series
from insights_engine.language import fields, storage, tree
from insights_engine.language.storage import Indexed, Type
from insights_engine.sets import bitmaps, intervals


class Vocabulary(NamedTuple):
    """The terms of a field."""

    #: By value: traces with one of these terms have it.
    values: dict[str, list[int]]
    #: Traces with one of these may have further values, ...
    unsure: Terms
    #: ... or further numbers.
    unsure_numbers: Terms
    #: The smallest and largest numbers of each trace.
    series: Sequence[Series]
    #: From the pattern of a number to the number as filters compare it.
    number: Callable[[int], Union[int, float]]
    #: Whether a trace has one value at the most.
    single: bool


def vocabulary_of(index: Index, field: tree.Field) -> Optional[Vocabulary]:
    """What the index knows of a field; None: its values are not in it."""
    kept = storage.of(field)
    if kept.indexed is not Indexed.VALUES:
        return None
    # Of all spans together, where it is known by signature as well.
    duration = kept.type is Type.NANOSECONDS
    rows = plans.run(
        index.plpy,
        "select v.term, v.kind, v.role::text as role, v.signature, v.slot, v.value"
        " from insights.term v where v.kind = any($1) and v.key = $2"
        " and (not $3 or v.signature = 0 and v.value = '')",
        ("text[]", "text", "bool"),
        (list(kept.kinds), kept.key, duration),
    )
    values: dict[str, list[int]] = {}
    texts: list[int] = []
    numbers: list[int] = []
    slices: dict[tuple[str, int], tuple[dict[int, int], dict[int, int]]] = {}
    for row in rows:
        role, slot, term = row["role"], row["slot"], row["term"]
        if role == Role.VALUE:
            values.setdefault(row["value"], []).append(term)
        elif role == Role.BUCKET or (role == Role.UNKNOWN and slot == TEXT):
            texts.append(term)
        elif role == Role.UNKNOWN and slot == NUMBER:
            numbers.append(term)
        elif role in (Role.LOW, Role.SPREAD):
            low, spread = slices.setdefault((row["kind"], row["signature"]), ({}, {}))
            (low if role == Role.LOW else spread)[slot] = term
    lost = [term.number for term in index.planner.lost(kept)]
    return Vocabulary(
        values,
        (*texts, *lost),
        (*numbers, *lost),
        [Series(low, spread) for low, spread in slices.values()],
        partial(intervals.number_of, kept.type),
        kept.single,
    )


# ------------------------------------------------------------------ of values


def value_column(index: Index, field: tree.Field, block: Block, terms: Terms) -> Sequence[int]:
    """By position the term of the value, 0 for none, of a field with one value at the most.

    A block's values never change, so they are kept for as long as there is room.
    """
    key = ("values", fields.spell(field))
    known: Optional[Column] = CACHE.columns(key).get(block.block)
    if known is not None:
        return known.numbers
    numbers = array("i", bytes(4 * block.used))
    for row in plans.run(
        index.plpy,
        "select p.term, p.members from insights.posting p where p.block = $1 and p.term = any($2)",
        ("int", "int[]"),
        (block.block, list(terms)),
    ):
        term = row["term"]
        for position in bitmaps.stored_positions(row["members"]):
            numbers[position] = term
    CACHE.keep(key, {block.block: Column(all_positions(block.used), numbers)})
    return numbers


# ------------------------------------------------------------------ of numbers


def distinct(group: Group, vocabulary: Vocabulary, within: int, known: set[Any], most: int) -> bool:
    """Adds the smallest and largest numbers of some traces, if no more than ``most`` are known.

    Gives up and says False as soon as there are more.
    """
    group.fetch(term for series in vocabulary.series for term in series.terms())
    for series in vocabulary.series:
        there = series.there(group) & within
        for slices in (series.lowest(group), series.highest(group)):
            patterns = _patterns(slices, there, most) if there else ()
            if patterns is None:
                return False
            known.update(vocabulary.number(pattern) for pattern in patterns)
            if len(known) > most:
                return False
    return True


def _patterns(slices: bitmaps.Slices, within: int, most: int) -> Optional[Iterable[int]]:
    """The different patterns of the members of a set; None if they are more than ``most``."""
    parts = {0: within}
    for bit in range(bitmaps.WIDTH - 1, -1, -1):
        members = slices.get(bit, 0)
        divided: dict[int, int] = {}
        for pattern, bits in parts.items():
            upper = bits & members
            if upper:
                divided[pattern | 1 << bit] = upper
            if upper != bits:
                divided[pattern] = bits & ~members
        parts = divided
        if len(parts) > most:
            return None
    return parts


def extremes(group: Group, vocabulary: Vocabulary, within: int) -> list[Any]:
    """Numbers of some traces, among them the smallest and the largest."""
    group.fetch(term for series in vocabulary.series for term in series.terms())
    found = []
    for series in vocabulary.series:
        there = series.there(group) & within
        if there:
            low = _extreme(series.lowest(group), there, largest=False)
            high = _extreme(series.highest(group), there, largest=True)
            found += [vocabulary.number(low), vocabulary.number(high)]
    return found


def _extreme(slices: bitmaps.Slices, within: int, largest: bool) -> int:
    """The pattern of the smallest or largest number of the members of a set."""
    pattern = 0
    for bit in range(bitmaps.WIDTH - 1, -1, -1):
        upper = within & slices.get(bit, 0)
        # Of the highest bit it is the other way round.
        wants = largest != (bit == bitmaps.WIDTH - 1)
        if upper and (wants or upper == within):
            pattern |= 1 << bit
            within = upper
        else:
            within &= ~upper
    return pattern
