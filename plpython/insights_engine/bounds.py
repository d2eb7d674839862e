"""What the index knows about a filter: two sets of positions.

*Must*: these traces match for sure.  *May*: no others can.  A filter becomes a
tree of conditions, each of which gives both for a group of blocks.  Where must
and may are the same the index alone answers; the raw predicate settles the rest.

Conditions on spans are taken apart by *signature*, the type, name and status
that spans share: for one signature every predicate on these three is simply true
or false, and what is left of a condition speaks of the facts that carry this
signature.  If one predicate is left, the traces are known exactly.  If several
are, they are known where the trace has one span of the signature, and bounded
where it has more.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterable, Sequence
from copy import copy
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Callable, Optional

from insights_engine import bitmaps, fields, intervals, plans, rawsql, tree
from insights_engine.intervals import Intervals

if TYPE_CHECKING:
    from typing_extensions import TypeGuard

Pair = tuple[int, int]
Terms = tuple[int, ...]

#: Numbers of so many different values are looked up by value, of more by their bits.
FEW_VALUES = 200
#: Bits of numbers that are read together.  Of N traces about log2(N) bits, counted
#: from the first in which they differ, tell all but the equal ones from a constant.
READ_AT_ONCE = 18
BUCKETS = 1024
HIDDEN_BUCKETS = 256
#: Slots of role ``o``: what was not captured.
TEXT, NUMBER, PARTS, CONTENT, SESSION, HIDDEN = 0, 1, 2, 3, 4, 16
#: Between the keys of a path into an attribute's value.
SEPARATOR = "\x1f"
_LONGEST_KEY = 250


def bucket_of(value: str) -> int:
    """The hash bucket of a value that has no term of its own."""
    return binascii.crc32(value.encode("utf-8", "surrogatepass")) % BUCKETS


# -------------------------------------------------------------------- a group


@lru_cache(maxsize=64)
def all_positions(used: int) -> int:
    """The set of all positions that were given out; one object for each number."""
    return (1 << used) - 1


class Block:
    """A block as the reader needs it; ``start`` is its place in the group."""

    __slots__ = (
        *("block", "experiment_id", "first_ms", "last_ms", "live", "live_count", "start", "used"),
    )

    def __init__(self, row: Any) -> None:
        self.block: int = row["block"]
        self.experiment_id: int = row["experiment_id"]
        self.used: int = row["used"]
        stored: Optional[bytes] = row["live"]
        #: The positions that stand for a trace.
        self.live = all_positions(self.used) if stored is None else bitmaps.decode(stored)
        self.live_count: int = row["live_count"]
        self.first_ms: int = row["first_ms"]
        self.last_ms: int = row["last_ms"]
        self.start = 0


class Group:
    """Some blocks side by side, as one range of positions; each starts at a whole byte.

    The universe is all positions that were given out, whether their trace is there
    still or not: what conditions say of a block must not depend on that.
    """

    def __init__(self, plpy: Any, blocks: Sequence[Block]) -> None:
        self._plpy = plpy
        self.blocks = list(blocks)
        self._bytes = 0
        self._starts: dict[int, int] = {}
        self._rows: dict[int, list[tuple[int, bytes]]] = {}
        self._unions: dict[Terms, int] = {}
        for block in self.blocks:
            block.start = self._bytes * 8
            self._starts[block.block] = self._bytes
            self._bytes += (block.used + 7) >> 3
        self.universe = self.joined([all_positions(block.used) for block in self.blocks])

    def joined(self, sets: Iterable[int]) -> int:
        """One set, of a set of positions for each block."""
        parts = [
            one.to_bytes((block.used + 7) >> 3, "little") for block, one in zip(self.blocks, sets)
        ]
        return int.from_bytes(b"".join(parts), "little")

    def divided(self, bits: int) -> list[int]:
        """A set of positions for each block, of one set."""
        if len(self.blocks) == 1:
            return [bits]
        stored = memoryview(bits.to_bytes(self._bytes, "little"))
        return [
            int.from_bytes(stored[start : start + ((block.used + 7) >> 3)], "little")
            for block, start in zip(self.blocks, self._starts.values())
        ]

    def fetch(self, terms: Iterable[int]) -> None:
        """Reads the postings of terms that were not read yet."""
        wanted = sorted(set(terms) - self._rows.keys())
        if not wanted:
            return
        for term in wanted:
            self._rows[term] = []
        for row in plans.run(
            self._plpy,
            "select p.block, p.term, p.members from insights.posting p"
            " where p.block = any($1) and p.term = any($2)",
            ("int[]", "int[]"),
            (list(self._starts), wanted),
        ):
            self._rows[row["term"]].append((self._starts[row["block"]], row["members"]))

    def has(self, term: int) -> bool:
        """Whether the postings of a term were read."""
        return term in self._rows

    def union(self, terms: Terms) -> int:
        """The positions that have at least one of the terms, dead ones among them."""
        if not terms:
            return 0
        known = self._unions.get(terms)
        if known is not None:
            return known
        sparse: Optional[bytearray] = None
        # By block: a bitmap as it is, or the union of several.
        alone: dict[int, bytes] = {}
        united: dict[int, int] = {}
        for term in terms:
            for start, members in self._rows[term]:
                if bitmaps.is_list(members):
                    if sparse is None:
                        sparse = bytearray(self._bytes)
                    for position in bitmaps.listed_positions(members):
                        sparse[start + (position >> 3)] |= 1 << (position & 7)
                    continue
                bitmap = bitmaps.stored_bitmap(members)
                if start in united:
                    united[start] |= int.from_bytes(bitmap, "little")
                elif start in alone:
                    first = int.from_bytes(alone.pop(start), "little")
                    united[start] = first | int.from_bytes(bitmap, "little")
                else:
                    alone[start] = bitmap
        found = 0 if sparse is None else int.from_bytes(sparse, "little")
        if alone or united:
            parts = []
            for block in self.blocks:
                start = block.start >> 3
                size = (block.used + 7) >> 3
                if start in united:
                    parts.append(united[start].to_bytes(size, "little"))
                else:
                    parts.append(alone.get(start) or bytes(size))
            found |= int.from_bytes(b"".join(parts), "little")
        self._unions[terms] = found
        return found

    def of_blocks(self, chosen: Callable[[Block], bool]) -> int:
        """All positions of some of the blocks."""
        found = 0
        for block in self.blocks:
            if chosen(block):
                found |= ((1 << block.used) - 1) << block.start
        return found

    def places(self, bits: int) -> tuple[list[int], list[int]]:
        """Blocks and positions in them, of a set."""
        numbers: list[int] = []
        places: list[int] = []
        for block in self.blocks:
            part = bits >> block.start & ((1 << block.used) - 1)
            if part:
                within = bitmaps.positions(part)
                places += within
                numbers += [block.block] * len(within)
        return numbers, places

    def at(self, numbers: Sequence[int], places: Sequence[int]) -> int:
        """The set of positions that are in the group, of blocks and positions."""
        bitmap = bytearray(self._bytes)
        for number, place in zip(numbers, places):
            start = self._starts.get(number)
            if start is not None:
                bitmap[start + (place >> 3)] |= 1 << (place & 7)
        return int.from_bytes(bitmap, "little")


# ----------------------------------------------------------------- the series


class Series:
    """The numbers of a key: the smallest and largest of each trace, bit by bit."""

    def __init__(self, low: dict[int, int], spread: dict[int, int]) -> None:
        # Bit: term.
        self._low = low
        self._spread = spread

    def terms(self) -> Iterable[int]:
        """The terms that are read in any case; lower bits seldom matter."""
        for terms in (self._low, self._spread):
            for bit in sorted(terms, reverse=True)[: 1 + READ_AT_ONCE]:
                yield terms[bit]

    def slices(self, group: Group) -> dict[int, int]:
        """All slices of the smallest numbers, by bit."""
        group.fetch(self._low.values())
        return {bit: group.union((term,)) for bit, term in self._low.items()}

    def there(self, group: Group) -> int:
        """The positions that have a number."""
        term = self._low.get(bitmaps.HAS_NUMBER)
        return 0 if term is None else group.union((term,))

    def lowest(self, group: Group) -> bitmaps.Slices:
        """The slices of the smallest numbers."""
        return _Slices(group, self._low)

    def highest(self, group: Group) -> bitmaps.Slices:
        """The slices of the largest numbers."""
        low = _Slices(group, self._low)
        if bitmaps.HAS_NUMBER not in self._spread:
            return low
        return _Largest(low, _Slices(group, self._spread))

    def within(self, group: Group, wanted: Intervals) -> Pair:
        """The traces with a number in one of the intervals."""
        there = self.there(group)
        if not there or not wanted:
            return 0, 0
        if wanted == intervals.ALL:
            return there, there
        low = self.lowest(group)
        inside = _inside(low, there, wanted)
        if bitmaps.HAS_NUMBER not in self._spread:
            return inside, inside
        several = group.union((self._spread[bitmaps.HAS_NUMBER],)) & there
        if not several:
            return inside, inside
        high = _Largest(low, _Slices(group, self._spread))
        must = inside | _inside(high, several, wanted)
        may = must
        for start, end in wanted:
            if start == 0 or end == intervals.LAST:
                continue  # if any number is inside, the smallest or the largest is
            # Some number in between, which is not known, may be the one.
            less, equal = bitmaps.slices_below(low, several, end ^ _FLIP)
            below, _ = bitmaps.slices_below(high, several, start ^ _FLIP)
            may |= (less | equal) & ~below
        return must, may


class _Slices:
    """Slices that are read when they are asked for, some at a time from the top."""

    def __init__(self, group: Group, terms: dict[int, int]) -> None:
        self._group = group
        self._terms = terms

    def get(self, bit: int, otherwise: int, /) -> int:
        term = self._terms.get(bit)
        if term is None:
            return otherwise
        if not self._group.has(term):
            rest = sorted((slot for slot in self._terms if slot <= bit), reverse=True)
            self._group.fetch(self._terms[slot] for slot in rest[:READ_AT_ONCE])
        return self._group.union((term,))


class _Largest:
    """The slices of the largest numbers: those of the smallest, changed where they differ."""

    def __init__(self, low: bitmaps.Slices, spread: bitmaps.Slices) -> None:
        self._low = low
        self._spread = spread

    def get(self, bit: int, otherwise: int, /) -> int:
        return self._low.get(bit, otherwise) ^ self._spread.get(bit, otherwise)


#: From the ordered number back to the pattern that the slices hold.
_FLIP = 1 << (bitmaps.WIDTH - 1)


def _inside(slices: bitmaps.Slices, there: int, wanted: Intervals) -> int:
    found = 0
    for start, end in wanted:
        inside = there
        if end < intervals.LAST:
            less, equal = bitmaps.slices_below(slices, there, end ^ _FLIP)
            inside = less | equal
        if start > 0:
            below, _ = bitmaps.slices_below(slices, inside, start ^ _FLIP)
            inside &= ~below
        found |= inside
    return found


# ------------------------------------------------------------ trace conditions


class Condition:
    """A condition on traces."""

    def parts(self) -> Sequence[Condition]:
        """The conditions it consists of."""
        return ()

    def terms(self) -> Iterable[int]:
        """The terms whose postings it needs."""
        return ()

    def bounds(self, group: Group) -> Pair:
        """Must and may, within the group's universe."""
        raise NotImplementedError


class Constant(Condition):
    """True or false everywhere."""

    def __init__(self, holds: bool) -> None:
        self._holds = holds

    def bounds(self, group: Group) -> Pair:
        return (group.universe, group.universe) if self._holds else (0, 0)


class Unknown(Condition):
    """What the index cannot say anything about."""

    def bounds(self, group: Group) -> Pair:
        return 0, group.universe


class Junction(Condition):
    """AND or OR."""

    def __init__(self, items: Sequence[Condition]) -> None:
        self._items = items

    def parts(self) -> Sequence[Condition]:
        return self._items

    def terms(self) -> Iterable[int]:
        for item in self._items:
            yield from item.terms()


class All(Junction):
    """AND."""

    def bounds(self, group: Group) -> Pair:
        must = may = group.universe
        for item in self._items:
            sure, possible = item.bounds(group)
            must &= sure
            may &= possible
            if not may:
                break
        return must, may


class Some(Junction):
    """OR."""

    def bounds(self, group: Group) -> Pair:
        must = may = 0
        for item in self._items:
            sure, possible = item.bounds(group)
            must |= sure
            may |= possible
        return must, may


class Complement(Condition):
    """NOT."""

    def __init__(self, item: Condition) -> None:
        self._item = item

    def parts(self) -> Sequence[Condition]:
        return (self._item,)

    def terms(self) -> Iterable[int]:
        return self._item.terms()

    def bounds(self, group: Group) -> Pair:
        must, may = self._item.bounds(group)
        return group.universe & ~may, group.universe & ~must


class Facts(Condition):
    """Traces with one of some terms for sure, with one of others perhaps.

    ``within`` turns it into "has one of these, but none of those".
    """

    def __init__(self, sure: Terms, unsure: Terms, within: Optional[Facts] = None) -> None:
        self._sure = sure
        self._unsure = unsure
        self._within = within

    def terms(self) -> Iterable[int]:
        yield from self._sure
        yield from self._unsure
        if self._within is not None:
            yield from self._within.terms()

    def bounds(self, group: Group) -> Pair:
        must = group.union(self._sure) & group.universe
        may = must | group.union(self._unsure) & group.universe
        if self._within is not None:
            sure, possible = self._within.bounds(group)
            return sure & ~may, possible & ~must
        return must, may


class Numbers(Condition):
    """Traces with a number in some intervals, in one of some series."""

    def __init__(self, series: Sequence[Series], wanted: Intervals, unsure: Terms) -> None:
        self._series = series
        self._wanted = wanted
        self._unsure = unsure

    def terms(self) -> Iterable[int]:
        for series in self._series:
            yield from series.terms()
        yield from self._unsure

    def bounds(self, group: Group) -> Pair:
        must, may = 0, group.union(self._unsure)
        for series in self._series:
            sure, possible = series.within(group, self._wanted)
            must |= sure
            may |= possible
        return must & group.universe, (must | may) & group.universe


class Times(Condition):
    """Traces that began in some intervals; most blocks lie wholly inside or outside."""

    def __init__(self, plpy: Any, series: Series, wanted: Intervals) -> None:
        self._plpy = plpy
        self._series = series
        self._wanted = wanted

    def bounds(self, group: Group) -> Pair:
        found = 0
        divided = []
        for block in group.blocks:
            first, last = _place(block.first_ms), _place(block.last_ms)
            if any(low <= first and last <= high for low, high in self._wanted):
                found |= ((1 << block.used) - 1) << block.start
            elif any(first <= high and low <= last for low, high in self._wanted):
                divided.append(block)
        if divided:
            part = Group(self._plpy, [copy(block) for block in divided])
            part.fetch(self._series.terms())
            inside, _ = self._series.within(part, self._wanted)
            for block, own in zip(divided, part.blocks):
                found |= (inside >> own.start & ((1 << own.used) - 1)) << block.start
        found &= group.universe
        return found, found


def _place(milliseconds: int) -> int:
    return bitmaps.ordered(bitmaps.pattern_of_integer(milliseconds))


class NotNumbers(Condition):
    """Some value is not a number of ``item``: ``NOT IN`` with numbers only.

    A text that reads as no number counts too.
    """

    def __init__(self, there: Condition, any_number: Condition, outside: Condition) -> None:
        self._items = (there, any_number, outside)

    def parts(self) -> Sequence[Condition]:
        return ()

    def terms(self) -> Iterable[int]:
        for item in self._items:
            yield from item.terms()

    def bounds(self, group: Group) -> Pair:
        there, any_number, outside = (item.bounds(group) for item in self._items)
        return there[0] & ~any_number[1] | outside[0], there[1]


class OfBlocks(Condition):
    """The traces of some experiments."""

    def __init__(self, holds: Callable[[int], bool]) -> None:
        self._holds = holds

    def bounds(self, group: Group) -> Pair:
        found = group.of_blocks(lambda block: self._holds(block.experiment_id)) & group.universe
        return found, found


class Listed(Condition):
    """Traces named by their ids."""

    def __init__(self, blocks: Sequence[int], positions: Sequence[int]) -> None:
        self._blocks = blocks
        self._positions = positions

    def bounds(self, group: Group) -> Pair:
        found = group.at(self._blocks, self._positions) & group.universe
        return found, found


# ------------------------------------------------------------- span conditions


class SpanCondition:
    """A condition on a span, asked about the spans of some signatures.

    `some` bounds the traces of which some span of the signatures satisfies it.
    """

    def terms(self, signatures: Sequence[int]) -> Iterable[int]:
        return ()

    def some(self, spans: Spans, group: Group, signatures: Sequence[int]) -> Pair:
        raise NotImplementedError

    def candidates(self, signatures: Sequence[int]) -> Sequence[int]:
        """The signatures that can satisfy it at all."""
        return signatures

    def counted(self) -> bool:
        """Whether it has to know which traces have spans of a signature, and how many."""
        return True


class Spans:
    """How many spans of a signature a trace has."""

    def __init__(self, counts: dict[int, list[tuple[int, int]]]) -> None:
        # Signature: (bit, term) in ascending order.
        self._counts = counts

    def terms(self, signatures: Iterable[int]) -> Iterable[int]:
        for signature in signatures:
            for _, term in self._counts.get(signature, ()):
                yield term

    def there(self, group: Group, signatures: Sequence[int]) -> int:
        """The traces with a span of one of the signatures."""
        return group.union(tuple(self.terms(signatures)))

    def one(self, group: Group, signature: int) -> int:
        """The traces with exactly one span of the signature."""
        lowest = several = 0
        for bit, term in self._counts.get(signature, ()):
            if bit:
                several |= group.union((term,))
            else:
                lowest = group.union((term,))
        return lowest & ~several

    def slices(self, group: Group, signature: int) -> list[int]:
        """The number of spans of the signature, bit by bit."""
        found: list[int] = []
        for bit, term in self._counts.get(signature, ()):
            found += [0] * (bit - len(found))
            found.append(group.union((term,)))
        return found


class SpanUnknown(SpanCondition):
    """What the index cannot say about a span."""

    def some(self, spans: Spans, group: Group, signatures: Sequence[int]) -> Pair:
        return 0, spans.there(group, signatures)


class SpanConstant(SpanCondition):
    """True or false for every span of the signatures."""

    def __init__(self, holds: bool) -> None:
        self.holds = holds

    def some(self, spans: Spans, group: Group, signatures: Sequence[int]) -> Pair:
        there = spans.there(group, signatures) if self.holds else 0
        return there, there


class SpanFacts(SpanCondition):
    """Facts about spans: by signature for sure, by signature perhaps, of any span perhaps."""

    def __init__(
        self, sure: dict[int, list[int]], unsure: dict[int, list[int]], anywhere: Terms
    ) -> None:
        self._sure = sure
        self._unsure = unsure
        self._anywhere = anywhere

    def counted(self) -> bool:
        return bool(self._anywhere)

    def candidates(self, signatures: Sequence[int]) -> Sequence[int]:
        if self._anywhere:
            return signatures
        return [one for one in signatures if one in self._sure or one in self._unsure]

    def terms(self, signatures: Sequence[int]) -> Iterable[int]:
        for signature in signatures:
            yield from self._sure.get(signature, ())
            yield from self._unsure.get(signature, ())
        yield from self._anywhere

    def some(self, spans: Spans, group: Group, signatures: Sequence[int]) -> Pair:
        must = group.union(_chosen(self._sure, signatures))
        may = must | group.union(_chosen(self._unsure, signatures))
        anywhere = group.union(self._anywhere)
        if anywhere:
            may |= anywhere & spans.there(group, signatures)
        return must, may


def _chosen(terms: dict[int, list[int]], signatures: Sequence[int]) -> Terms:
    return tuple(term for one in signatures for term in terms.get(one, ()))


class SpanNumbers(SpanCondition):
    """A number of a span in some intervals."""

    def __init__(
        self,
        series: dict[int, Series],
        wanted: Intervals,
        unsure: SpanFacts,
    ) -> None:
        self._series = series
        self._wanted = wanted
        self._unsure = unsure

    def counted(self) -> bool:
        return self._unsure.counted()

    def candidates(self, signatures: Sequence[int]) -> Sequence[int]:
        unsure = set(self._unsure.candidates(signatures))
        return [one for one in signatures if one in self._series or one in unsure]

    def terms(self, signatures: Sequence[int]) -> Iterable[int]:
        for signature in signatures:
            if signature in self._series:
                yield from self._series[signature].terms()
        yield from self._unsure.terms(signatures)

    def some(self, spans: Spans, group: Group, signatures: Sequence[int]) -> Pair:
        must = 0
        _, may = self._unsure.some(spans, group, signatures)
        for signature in signatures:
            if signature in self._series:
                sure, possible = self._series[signature].within(group, self._wanted)
                must |= sure
                may |= possible
        return must, must | may


class SpanAny(SpanCondition):
    """OR: some span satisfies one of the items."""

    def __init__(self, items: Sequence[SpanCondition]) -> None:
        self._items = items

    def counted(self) -> bool:
        return any(item.counted() for item in self._items)

    def candidates(self, signatures: Sequence[int]) -> Sequence[int]:
        found: set[int] = set()
        for item in self._items:
            found.update(item.candidates(signatures))
        return [one for one in signatures if one in found]

    def terms(self, signatures: Sequence[int]) -> Iterable[int]:
        for item in self._items:
            yield from item.terms(signatures)

    def some(self, spans: Spans, group: Group, signatures: Sequence[int]) -> Pair:
        must = may = 0
        for item in self._items:
            sure, possible = item.some(spans, group, signatures)
            must |= sure
            may |= possible
        return must, may


class SpanAll(SpanCondition):
    """AND: one span satisfies every item; known where there is one span only."""

    def __init__(self, items: Sequence[SpanCondition]) -> None:
        self._items = items

    def candidates(self, signatures: Sequence[int]) -> Sequence[int]:
        for item in self._items:
            signatures = item.candidates(signatures)
        return signatures

    def terms(self, signatures: Sequence[int]) -> Iterable[int]:
        signatures = self.candidates(signatures)
        for item in self._items:
            yield from item.terms(signatures)

    def some(self, spans: Spans, group: Group, signatures: Sequence[int]) -> Pair:
        must = may = 0
        for signature in self.candidates(signatures):
            sure = possible = -1
            for item in self._items:
                one_sure, one_possible = item.some(spans, group, (signature,))
                sure &= one_sure
                possible &= one_possible
            if sure:
                must |= sure & spans.one(group, signature)
            may |= possible
        return must, may


class SpanNot(SpanCondition):
    """NOT: some span does not satisfy the item."""

    def __init__(self, item: SpanCondition) -> None:
        self._item = item

    def terms(self, signatures: Sequence[int]) -> Iterable[int]:
        return self._item.terms(signatures)

    def some(self, spans: Spans, group: Group, signatures: Sequence[int]) -> Pair:
        must = may = 0
        for signature in signatures:
            there = spans.there(group, (signature,))
            one = spans.one(group, signature)
            sure, possible = self._item.some(spans, group, (signature,))
            must |= there & ~possible
            # Where there are several, one may fail what another satisfies.
            may |= there & ~(one & sure)
        return must, may


class AnySpan(Condition):
    """Some span satisfies what is left of a condition, signature by signature."""

    def __init__(self, spans: Spans, cases: Sequence[tuple[SpanCondition, Sequence[int]]]) -> None:
        self._spans = spans
        self._cases = [(case, case.candidates(signatures)) for case, signatures in cases]

    def terms(self) -> Iterable[int]:
        for case, signatures in self._cases:
            yield from case.terms(signatures)
            if case.counted():
                yield from self._spans.terms(signatures)

    def bounds(self, group: Group) -> Pair:
        must = may = 0
        for case, signatures in self._cases:
            if signatures:
                sure, possible = case.some(self._spans, group, signatures)
                must |= sure
                may |= possible
        return must & group.universe, may & group.universe


class CountSpans(Condition):
    """How many spans satisfy what is left of a condition."""

    def __init__(
        self,
        spans: Spans,
        cases: Sequence[tuple[SpanCondition, Sequence[int]]],
        wanted: Sequence[tuple[int, Optional[int]]],
    ) -> None:
        self._spans = spans
        self._cases = [(case, case.candidates(signatures)) for case, signatures in cases]
        # Intervals of counts, both ends included; None: no upper end.
        self._wanted = wanted

    def terms(self) -> Iterable[int]:
        for case, signatures in self._cases:
            yield from case.terms(signatures)
            yield from self._spans.terms(signatures)

    def bounds(self, group: Group) -> Pair:
        fewest: list[int] = []
        most: list[int] = []
        for case, signatures in self._cases:
            for signature in signatures:
                counts = self._spans.slices(group, signature)
                if isinstance(case, SpanConstant):
                    if case.holds:
                        fewest = bitmaps.add(fewest, counts)
                        most = bitmaps.add(most, counts)
                    continue
                sure, possible = case.some(self._spans, group, (signature,))
                # Of several spans at least one, and perhaps all.
                fewest = bitmaps.add(fewest, [sure])
                most = bitmaps.add(most, [possible & bits for bits in counts])
        universe = group.universe
        must = may = 0
        for low, high in self._wanted:
            below_low, _ = bitmaps.compare_counts(fewest, universe, low)
            short, _ = bitmaps.compare_counts(most, universe, low)
            sure, possible = universe & ~below_low, universe & ~short
            if high is not None:
                less, equal = bitmaps.compare_counts(most, universe, high)
                sure &= less | equal
                less, equal = bitmaps.compare_counts(fewest, universe, high)
                possible &= less | equal
            must |= sure
            may |= possible
        return must, may


# ------------------------------------------------------------------ the planner

_NUMBER_KINDS = frozenset(("tag", "metadata", "feedback", "expectation"))
_SINGLE_KINDS = frozenset(("trace", "tag", "metadata"))
_COLUMN_NUMBERS = frozenset(name for name in tree.TRACE_NUMBER_FIELDS if not name.endswith("_cost"))


class Planner:
    """Turns filters into conditions, looking their terms up in the vocabulary."""

    def __init__(self, plpy: Any, schema: str, experiments: rawsql.Scope) -> None:
        self._plpy = plpy
        self._schema = schema
        self._experiments = experiments
        #: What ``now()`` stands for, in ms.
        self.now_ms = 0
        self._spans: Optional[Spans] = None
        self._times: Optional[Series] = None
        self._leaves: dict[str, Condition] = {}
        #: (predicate, vocabulary terms found, its condition), for explaining.
        self.hits: list[tuple[tree.Node, int, Condition]] = []
        self._found = 0

    def plan(self, node: tree.Node) -> Condition:
        """The condition that a filter in normal form stands for."""
        if isinstance(node, tree.And):
            if not node.items:
                return Constant(True)
            return All([self.plan(item) for item in node.items])
        if isinstance(node, tree.Or):
            return Some([self.plan(item) for item in node.items])
        if isinstance(node, tree.Not):
            return Complement(self.plan(node.item))
        self._found = 0
        if isinstance(node, tree.AnySpan):
            found = self._any_span(node.condition)
        elif isinstance(node, tree.CountSpans):
            found = self._count(node)
        elif isinstance(node, tree.AggregateSpans):
            found = self._aggregate(node)
        else:
            found = self._predicate(node)
        self.hits.append((node, self._found, found))
        return found

    def leaf(self, text: str, node: tree.Node, lasting: bool) -> Condition:
        """The same for a predicate, looked up once if it is ``lasting``."""
        found = self._leaves.get(text) if lasting else None
        if found is None:
            found = self.plan(node)
            if lasting:
                self._leaves[text] = found
        return found

    def column(self, name: str) -> tuple[Series, Terms]:
        """The numbers of a field of the trace, and terms of traces with what is no number."""
        rows = self._terms(("trace",), name, "nxo")
        series = self._series(rows).get(0) or Series({}, {})
        return series, tuple(row[0] for row in rows if row[1] == "o" and row[3] == NUMBER)

    def timestamps(self) -> Series:
        """When the traces began."""
        if self._times is None:
            found = self._series(self._terms(("trace",), "timestamp_ms", "nx"))
            self._times = found.get(0) or Series({}, {})
        return self._times

    # ------------------------------------------------------------ vocabulary

    def _terms(
        self, kinds: Sequence[str], key: str, roles: str, slots: Optional[Sequence[int]] = None
    ) -> list[tuple[int, str, int, int]]:
        """(term, role, signature, slot) of the terms of a key that are no values."""
        chosen = "" if slots is None else " and v.slot = any($4)"
        rows = plans.run(
            self._plpy,
            "select v.term, v.role::text as role, v.signature, v.slot from insights.term v"
            f' where v.kind = any($1) and v.key = $2 and v.role = any($3::"char"[]){chosen}',
            ("text[]", "text", "text[]", "int[]")[: 3 if slots is None else 4],
            (list(kinds), key, list(roles), slots)[: 3 if slots is None else 4],
        )
        return [(row["term"], row["role"], row["signature"], row["slot"]) for row in rows]

    def _values(
        self,
        kinds: Sequence[str],
        key: str,
        condition: Callable[[rawsql._Compiler], str],
    ) -> list[tuple[int, int]]:
        """(term, signature) of the values of a key that satisfy a condition on ``v.value``."""
        params = rawsql.Params()
        compiler = self._compiler(params)
        compiled = condition(compiler)
        sql = (
            "select v.term, v.signature from insights.term v"
            f" where v.kind = any({params.add(list(kinds), 'text[]')})"
            f" and v.key = {params.add(key, 'text')} and v.role = 'v' and ({compiled})"
        )
        rows = plans.run(self._plpy, sql, params.types, params.values)
        self._found += len(rows)
        return [(row["term"], row["signature"]) for row in rows]

    def _compiler(self, params: rawsql.Params) -> rawsql._Compiler:
        scope = None if self._experiments is None else list(self._experiments)
        return rawsql._Compiler(params, self._schema, scope, self.now_ms, "set")

    def _series(self, rows: Iterable[tuple[int, str, int, int]]) -> dict[int, Series]:
        """Series by signature."""
        low: dict[int, dict[int, int]] = {}
        spread: dict[int, dict[int, int]] = {}
        for term, role, signature, slot in rows:
            if role == "n":
                low.setdefault(signature, {})[slot] = term
            elif role == "x":
                spread.setdefault(signature, {})[slot] = term
        return {one: Series(slices, spread.get(one, {})) for one, slices in low.items()}

    # ------------------------------------------------------ trace predicates

    def _predicate(self, node: tree.Predicate) -> Condition:
        target = node.field
        if isinstance(target, tree.TraceText):
            if target.name == "trace_id":
                return self._trace_id(node)
            if target.name == "experiment_id":
                return self._experiment_id(node)
            if target.name == "user":
                return self._texts(("metadata",), rawsql.USER, node)
            if target.name == "run_id":
                return self._texts(("run",), "", node)
            if target.name == "prompt":
                return self._texts(("prompt",), "", node)
            return self._texts(("trace",), target.name, node)
        if isinstance(target, tree.TraceNumber):
            return self._trace_number(target.name, node)
        if isinstance(target, tree.Tag):
            if target.key == rawsql.TRACE_NAME:
                return self._texts(("trace",), "name", node)
            return self._texts(("tag",), target.key, node)
        if isinstance(target, tree.Metadata):
            if target.key == rawsql.SESSION:
                return self._texts(("trace",), "session_id", node)
            if fields.is_usage(target):
                return self._synthesised(node, target.key)
            return self._texts(("metadata",), target.key, node)
        if isinstance(target, tree.Assessment):
            kinds = ("feedback", "expectation") if target.kind == "assessment" else (target.kind,)
            return self._texts(kinds, target.name, node)
        if isinstance(target, tree.Issue):
            return self._texts(("issue",), "", node)
        raise TypeError(f"a span predicate outside of any span: {node}")

    def _trace_id(self, node: tree.Predicate) -> Condition:
        if isinstance(node, tree.TextCompare) and node.op == "=":
            ids = [node.value]
        elif isinstance(node, tree.In) and not node.negated:
            ids = [value for value in node.values if isinstance(value, str)]
            if len(ids) < len(node.values):
                return Unknown()
        elif isinstance(node, tree.IsNull):
            return Constant(node.negated)
        else:
            return Unknown()
        rows = plans.run(
            self._plpy,
            "select t.block, t.position from insights.trace t where t.trace_id = any($1)",
            ("text[]",),
            (ids,),
        )
        self._found += len(rows)
        return Listed([row["block"] for row in rows], [row["position"] for row in rows])

    def _experiment_id(self, node: tree.Predicate) -> Condition:
        if isinstance(node, tree.IsNull):
            return Constant(node.negated)
        compiler = self._compiler(rawsql.Params())
        condition = compiler.experiment(node, "e")
        rows = plans.run(
            self._plpy,
            "select e.experiment_id from (select distinct b.experiment_id from insights.block b) e"
            f" where {condition}",
            compiler.params.types,
            compiler.params.values,
        )
        found = {row["experiment_id"] for row in rows}
        return OfBlocks(lambda experiment_id: experiment_id in found)

    def _synthesised(self, node: tree.Predicate, key: str) -> Condition:
        """The JSON text of the number columns is compared as the numbers in it."""
        columns = rawsql._SYNTHESISED[key]
        there: tree.Node = tree.Or(
            tuple(tree.IsNull(tree.TraceNumber(name), negated=True) for name in columns)
        )
        if isinstance(node, tree.IsNull):
            return self.plan(there if node.negated else tree.Not(there))
        if isinstance(node, tree.TextCompare):
            texts, negated = [node.value], node.op == "!="
        elif isinstance(node, tree.In):
            texts = [value for value in node.values if isinstance(value, str)]
            negated = node.negated
        else:
            return Unknown()
        options: list[tree.Node] = []
        for text in texts:
            numbers = rawsql.canonical_numbers(text, columns, whole=key == rawsql.TOKEN_USAGE)
            if numbers:
                options.append(
                    tree.And(
                        tuple(
                            tree.NumberCompare(tree.TraceNumber(name), "=", numbers[name])
                            if name in numbers
                            else tree.IsNull(tree.TraceNumber(name))
                            for name in columns
                        )
                    )
                )
        same = Some([self.plan(option) for option in options])
        return All([self.plan(there), Complement(same)]) if negated else same

    def _trace_number(self, name: str, node: tree.Predicate) -> Condition:
        if isinstance(node, tree.IsNull):
            if name in ("span_count", "end_time_ms", "timestamp_ms"):
                return Constant(node.negated)
            return self._present(("trace",), name, node)
        bounds = self._bounds_among_integers if name in _COLUMN_NUMBERS else self._bounds_of_double
        if name == "span_count":
            bounds = self._bounds_of_count
        wanted = intervals.intervals_of(node, bounds)
        if name == "timestamp_ms":
            return Times(self._plpy, self.timestamps(), wanted)
        return self._numbers(("trace",), name, wanted)

    def _bounds_of_double(self, value: tree.Value) -> intervals.Bounds:
        return intervals.bounds_of_double(self._double(value))

    def _double(self, value: tree.Value) -> float:
        return self._compiler(rawsql.Params()).as_double(value)

    def _bounds_of_duration(self, value: tree.Value) -> intervals.Bounds:
        return intervals.bounds_of_duration(self._double(value))

    def _bounds_among_integers(self, value: tree.Value) -> intervals.Bounds:
        if isinstance(value, float):
            return intervals.bounds_among_integers(value)
        return intervals.bounds_of_integer(self._integer(value))

    def _bounds_of_count(self, value: tree.Value) -> intervals.Bounds:
        if isinstance(value, float):
            return intervals.bounds_among_integers(value)
        return intervals.bounds_of_integer(min(max(self._integer(value), -1), 2**62))

    def _integer(self, value: tree.Value) -> int:
        if isinstance(value, tree.Now):
            return self.now_ms + value.offset_ms
        assert isinstance(value, int)
        return value

    def _numbers(self, kinds: Sequence[str], key: str, wanted: Intervals) -> Condition:
        rows = self._terms(kinds, key, "nxo")
        self._found += len(rows)
        # Kinds may share a signature, 0, but not a series.
        series: list[Series] = []
        for kind in kinds:
            own = rows if len(kinds) == 1 else self._terms((kind,), key, "nx")
            series += self._series(own).values()
        unsure = [term for term, role, _, slot in rows if role == "o" and slot == NUMBER]
        return Numbers(series, wanted, (*unsure, *self._elsewhere(kinds)))

    def _elsewhere(self, kinds: Sequence[str]) -> Terms:
        """Traces whose session has assessments in another experiment."""
        if kinds[0] not in ("feedback", "expectation"):
            return ()
        return tuple(row[0] for row in self._terms(("trace",), "assessments", "o", [SESSION]))

    def _present(
        self, kinds: Sequence[str], key: str, node: Optional[tree.IsNull] = None
    ) -> Condition:
        terms = tuple(row[0] for row in self._terms(kinds, key, "p"))
        self._found += len(terms)
        found = Facts(terms, self._elsewhere(kinds))
        return Complement(found) if node is not None and not node.negated else found

    def _texts(self, kinds: Sequence[str], key: str, node: tree.Predicate) -> Condition:
        if isinstance(node, tree.IsNull):
            return self._present(kinds, key, node)
        if isinstance(node, tree.In) and kinds[0] in _NUMBER_KINDS:
            numbers = [value for value in node.values if not isinstance(value, str)]
            texts = [value for value in node.values if isinstance(value, str)]
            if numbers:
                return self._mixed(kinds, key, node, texts, numbers)
        if isinstance(node, (tree.NumberCompare, tree.Between)) and kinds[0] in _NUMBER_KINDS:
            few = None
            if kinds[0] in _SINGLE_KINDS:
                few = self._few_numbers(kinds, key, node)
            if few is not None:
                return Facts(tuple(term for term, _ in few), ())
            wanted = intervals.intervals_of(node, self._bounds_of_double)
            return self._numbers(kinds, key, wanted)
        opposite = _opposite(node)
        if opposite is not None and kinds[0] in _SINGLE_KINDS:
            there = self._present(kinds, key)
            assert isinstance(there, Facts)
            return Facts(*self._matching(kinds, key, opposite), within=there)
        return Facts(*self._matching(kinds, key, node))

    def _mixed(
        self,
        kinds: Sequence[str],
        key: str,
        node: tree.In,
        texts: Sequence[str],
        numbers: Sequence[tree.Value],
    ) -> Condition:
        """IN with numbers in the list, perhaps texts as well."""
        as_numbers = tree.In(node.field, tuple(numbers))
        found = self._numbers(
            kinds, key, intervals.intervals_of(as_numbers, self._bounds_of_double)
        )
        if texts:
            as_texts = self._texts(kinds, key, tree.In(node.field, tuple(texts)))
            found = Some([as_texts, found])
        if not node.negated:
            return found
        if kinds[0] in _SINGLE_KINDS:
            return All([self._present(kinds, key), Complement(found)])
        if texts:
            return All([self._present(kinds, key), Unknown()])
        outside = tree.In(node.field, tuple(numbers), negated=True)
        return NotNumbers(
            self._present(kinds, key),
            self._numbers(kinds, key, intervals.ALL),
            self._numbers(kinds, key, intervals.intervals_of(outside, self._bounds_of_double)),
        )

    def _matching(
        self, kinds: Sequence[str], key: str, node: tree.Predicate
    ) -> tuple[Terms, Terms]:
        """The terms of values that satisfy ``node``, and of those that may."""
        if kinds[0] in ("feedback", "expectation"):
            sure = self._values(kinds, key, lambda sql: _assessed(sql, node))
            buckets, elsewhere = _buckets(node, stored_as_json=True), self._elsewhere(kinds)
        else:
            sure = self._values(kinds, key, lambda sql: sql.text("v.value", node))
            buckets, elsewhere = _buckets(node), ()
        return tuple(term for term, _ in sure), (*self._unsure(kinds, key, buckets), *elsewhere)

    def _few_numbers(
        self, kinds: Sequence[str], key: str, node: tree.Predicate
    ) -> Optional[list[tuple[int, int]]]:
        """The values whose number satisfies ``node``, if they are few and none is missing.

        A slice for every bit of a number is more to read than a few values.
        """
        (row,) = plans.run(
            self._plpy,
            'select coalesce((select max(v."values") from insights.vocabulary v'
            " where v.kind = any($1) and v.key = $2), 0) <= $3 and not exists ("
            " select from insights.term t where t.kind = any($1) and t.key = $2"
            " and (t.role = 'h' or t.role = 'o' and t.slot in (0, 1))) as few",
            ("text[]", "text", "int"),
            (list(kinds), key, FEW_VALUES),
        )
        if not row["few"]:
            return None
        return self._values(kinds, key, lambda sql: sql.text("v.value", node))

    def _unsure(self, kinds: Sequence[str], key: str, buckets: Optional[Sequence[int]]) -> Terms:
        """The terms of texts that are not in the vocabulary."""
        return tuple(
            term
            for term, role, _, slot in self._terms(kinds, key, "ho")
            if (slot == TEXT if role == "o" else buckets is None or slot in buckets)
        )

    # ------------------------------------------------------------------ spans

    def _all_spans(self) -> Spans:
        if self._spans is None:
            counts: dict[int, list[tuple[int, int]]] = {}
            for term, _, signature, slot in sorted(
                self._terms(("span",), "count", "n"), key=lambda row: row[3]
            ):
                counts.setdefault(signature, []).append((slot, term))
            self._spans = Spans(counts)
        return self._spans

    def _cases(self, condition: Optional[tree.Node]) -> list[tuple[SpanCondition, Sequence[int]]]:
        """What is left of a span condition, each with the signatures it is left for."""
        columns = _columns(condition)
        rows = self._signature_rows(columns)
        grouped: dict[tuple[Optional[bool], ...], list[int]] = {}
        for signature, outcome in rows:
            grouped.setdefault(outcome, []).append(signature)
        leaves: dict[tree.Predicate, SpanCondition] = {}
        cases: list[tuple[SpanCondition, Sequence[int]]] = []
        for outcome, signatures in grouped.items():
            settled = dict(zip(columns, outcome))
            left = self._reduce(condition, settled, leaves)
            if not isinstance(left, SpanConstant) or left.holds:
                cases.append((left, signatures))
        return cases

    def _signature_rows(
        self, columns: Sequence[tree.Predicate]
    ) -> list[tuple[int, tuple[Optional[bool], ...]]]:
        """Every signature with the outcome of each predicate on its columns."""
        compiler = self._compiler(rawsql.Params())
        tests = "".join(
            f", coalesce({compiler.span_text(node, node.field.name)}, false) as c{number}"
            for number, node in enumerate(columns)
            if isinstance(node.field, tree.SpanText)
        )
        rows = plans.run(
            self._plpy,
            f"select s.signature, s.bucket, s.status{tests} from insights.signature s",
            compiler.params.types,
            compiler.params.values,
        )
        found = []
        for row in rows:
            outcome = []
            for number, node in enumerate(columns):
                known: Optional[bool] = row[f"c{number}"]
                assert isinstance(node.field, tree.SpanText)
                # A bucket of names; of whole signatures where not even the status is known.
                if row["bucket"] is not None and (node.field.name == "name" or row["status"] == ""):
                    known = None
                outcome.append(known)
            found.append((row["signature"], tuple(outcome)))
        return found

    def _reduce(
        self,
        node: Optional[tree.Node],
        settled: dict[tree.Predicate, Optional[bool]],
        leaves: dict[tree.Predicate, SpanCondition],
    ) -> SpanCondition:
        """A span condition with the outcomes of some predicates put in."""
        if node is None:
            return SpanConstant(True)
        if isinstance(node, (tree.And, tree.Or)):
            decisive = isinstance(node, tree.Or)
            rest = []
            for item in node.items:
                left = self._reduce(item, settled, leaves)
                if isinstance(left, SpanConstant):
                    if left.holds == decisive:
                        return left
                else:
                    rest.append(left)
            if not rest:
                return SpanConstant(not decisive)
            if len(rest) == 1:
                return rest[0]
            return SpanAny(rest) if decisive else SpanAll(rest)
        if isinstance(node, tree.Not):
            left = self._reduce(node.item, settled, leaves)
            return SpanConstant(not left.holds) if isinstance(left, SpanConstant) else SpanNot(left)
        if isinstance(node, (tree.AnySpan, tree.CountSpans, tree.AggregateSpans)):
            raise TypeError(f"a span quantifier within a span condition: {node}")
        if node in settled:
            known = settled[node]
            return SpanUnknown() if known is None else SpanConstant(known)
        if node not in leaves:
            leaves[node] = self._span_predicate(node)
        return leaves[node]

    def _any_span(self, condition: tree.Node) -> Condition:
        if _is_column(condition) and not isinstance(condition, tree.IsNull):
            # Each value of the column is a fact of the trace, too.
            assert isinstance(condition.field, tree.SpanText)
            return self._texts(("span",), condition.field.name, condition)
        if _is_duration(condition):
            found = self._any_duration(condition)
            if found is not None:
                return found
        return AnySpan(self._all_spans(), self._cases(condition))

    def _any_duration(self, node: tree.Predicate) -> Optional[Condition]:
        """Of all spans of a trace the shortest and the longest duration are known."""
        if isinstance(node, tree.IsNull):
            if not node.negated:
                return None
            return Facts(tuple(self._terms_of_all_spans("p").values()), ())
        wanted = intervals.intervals_of(node, self._bounds_of_duration)
        if len(wanted) != 1 or (wanted[0][0] > 0 and wanted[0][1] < intervals.LAST):
            return None  # one in the middle might do
        slices = self._terms_of_all_spans("n")
        self._found += len(slices)
        series = Series(slices, self._terms_of_all_spans("x"))
        return Numbers([series], wanted, ())

    def _terms_of_all_spans(self, role: str) -> dict[int, int]:
        """Term by slot of the durations, whatever the signature."""
        rows = plans.run(
            self._plpy,
            "select v.term, v.slot from insights.term v where v.kind = 'span'"
            " and v.key = 'duration' and v.role = $1::\"char\" and v.value = ''"
            " and v.signature = 0",
            ("text",),
            (role,),
        )
        return {row["slot"]: row["term"] for row in rows}

    def _count(self, node: tree.CountSpans) -> Condition:
        compare = tree.NumberCompare(tree.TraceNumber("span_count"), node.op, node.value)
        if node.condition is None:
            return self._trace_number("span_count", compare)
        wanted = [
            (max(low - _FLIP, 0), None if high == intervals.LAST else high - _FLIP)
            for low, high in intervals.intervals_of(compare, self._bounds_of_count)
            if high >= _FLIP
        ]
        return CountSpans(self._all_spans(), self._cases(node.condition), wanted)

    def _aggregate(self, node: tree.AggregateSpans) -> Condition:
        """The smallest and largest become conditions on some span; sums stay bounds."""

        def some(*predicates: tree.Node) -> Condition:
            given = () if node.condition is None else (node.condition,)
            items = (*given, *predicates)
            return self._any_span(items[0] if len(items) == 1 else tree.And(items))

        def compared(op: str) -> tree.Node:
            return tree.NumberCompare(node.field, op, node.value)

        # Every number satisfies one of these.
        number = tree.Or((compared("<"), compared(">=")))
        if node.function in ("sum", "avg"):
            return All([some(number), Unknown()])
        further, back = (">", "<") if node.function == "max" else ("<", ">")
        if node.op in (further, f"{further}="):
            return some(compared(node.op))
        if node.op in (back, f"{back}="):
            reached = f"{further}=" if node.op == back else further
            return All([some(number), Complement(some(compared(reached)))])
        equal = All([some(compared(f"{further}=")), Complement(some(compared(further)))])
        return equal if node.op == "=" else All([some(number), Complement(equal)])

    def _span_predicate(self, node: tree.Predicate) -> SpanCondition:
        target = node.field
        if isinstance(target, tree.SpanNumber):
            return self._duration(node)
        if isinstance(target, tree.SpanAttribute):
            return self._attribute(node, target)
        return SpanUnknown()

    def _duration(self, node: tree.Predicate) -> SpanCondition:
        if isinstance(node, tree.IsNull):
            there = SpanFacts(_by_signature(self._terms(("span",), "duration", "p")), {}, ())
            return there if node.negated else SpanNot(there)
        rows = [row for row in self._terms(("span",), "duration", "nxo") if row[2]]
        self._found += len(rows)
        unsure = _by_signature([row for row in rows if row[1] == "o"])
        wanted = intervals.intervals_of(node, self._bounds_of_duration)
        return SpanNumbers(self._series(rows), wanted, SpanFacts({}, unsure, ()))

    def _attribute(self, node: tree.Predicate, target: tree.SpanAttribute) -> SpanCondition:
        top = target.path[0]
        if any(SEPARATOR in step for step in target.path) or len(top) > _LONGEST_KEY:
            return SpanUnknown()
        key = SEPARATOR.join(target.path)
        # Whole spans, or whole keys, of which nothing is known.
        hidden = HIDDEN + binascii.crc32(top.encode("utf-8", "surrogatepass")) % HIDDEN_BUCKETS
        lost = self._terms(("attribute",), "", "o", [CONTENT, hidden])
        if len(target.path) > 1:
            lost += self._terms(("attribute",), top, "o", [PARTS])
        if isinstance(node, tree.IsNull):
            present = self._terms(("attribute",), key, "p")
            self._found += len(present)
            there = self._facts(present, lost)
            return there if node.negated else SpanNot(there)
        if isinstance(node, tree.In):
            numbers = tuple(value for value in node.values if not isinstance(value, str))
            if numbers and node.negated:
                # Without a cap on what each span holds: one value against all of these.
                each = [_one(node.field, value) for value in node.values]
                known = self._attribute(tree.IsNull(node.field, negated=True), target)
                return SpanAll([known, *(SpanNot(self._attribute(one, target)) for one in each)])
            if numbers:
                texts = tuple(value for value in node.values if isinstance(value, str))
                found = self._attribute_number(tree.In(node.field, numbers), key, lost)
                if not texts:
                    return found
                return SpanAny([found, self._attribute(tree.In(node.field, texts), target)])
        if isinstance(node, (tree.NumberCompare, tree.Between)):
            return self._attribute_number(node, key, lost)
        values = self._values(("attribute",), key, lambda sql: sql.text("v.value", node))
        buckets = _buckets(node)
        unsure = [
            row
            for row in self._terms(("attribute",), key, "ho")
            if (row[3] == TEXT if row[1] == "o" else buckets is None or row[3] in buckets)
        ]
        return self._facts([(term, "v", one, 0) for term, one in values], unsure + lost)

    def _attribute_number(
        self, node: tree.Predicate, key: str, lost: list[tuple[int, str, int, int]]
    ) -> SpanCondition:
        few = self._few_numbers(("attribute",), key, node)
        if few is not None:
            return self._facts([(term, "v", one, 0) for term, one in few], lost)
        rows = self._terms(("attribute",), key, "nxo")
        self._found += len(rows)
        unsure = [row for row in rows if row[1] == "o" and row[3] == NUMBER]
        wanted = intervals.intervals_of(node, self._bounds_of_double)
        return SpanNumbers(self._series(rows), wanted, self._facts([], unsure + lost))

    def _facts(
        self,
        sure: Iterable[tuple[int, str, int, int]],
        unsure: Iterable[tuple[int, str, int, int]],
    ) -> SpanFacts:
        by_signature = _by_signature(unsure)
        anywhere = tuple(by_signature.pop(0, ()))
        return SpanFacts(_by_signature(sure), by_signature, anywhere)


def _by_signature(rows: Iterable[tuple[int, str, int, int]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for term, _, signature, _ in rows:
        found.setdefault(signature, []).append(term)
    return found


def _one(field: tree.Field, value: tree.Value) -> tree.Predicate:
    """Equality with one item of a list."""
    if isinstance(value, str):
        return tree.TextCompare(field, "=", value)
    return tree.NumberCompare(field, "=", value)


def _columns(condition: Optional[tree.Node]) -> list[tree.Predicate]:
    """The predicates on type, name and status in a span condition, each once."""
    found: dict[tree.Predicate, None] = {}
    todo = [] if condition is None else [condition]
    while todo:
        node = todo.pop()
        if isinstance(node, (tree.And, tree.Or)):
            todo.extend(node.items)
        elif isinstance(node, tree.Not):
            todo.append(node.item)
        elif isinstance(node, (tree.AnySpan, tree.CountSpans, tree.AggregateSpans)):
            raise TypeError(f"a span quantifier within a span condition: {node}")
        elif _is_column(node):
            found[node] = None
    return list(found)


def _is_duration(node: tree.Node) -> TypeGuard[tree.Predicate]:
    """Whether a node is a predicate on the duration of a span."""
    if isinstance(
        node, (tree.And, tree.Or, tree.Not, tree.AnySpan, tree.CountSpans, tree.AggregateSpans)
    ):
        return False
    return isinstance(node.field, tree.SpanNumber)


def _is_column(node: tree.Node) -> TypeGuard[tree.Predicate]:
    """Whether a node is a predicate on the type, name or status of a span."""
    if isinstance(
        node, (tree.And, tree.Or, tree.Not, tree.AnySpan, tree.CountSpans, tree.AggregateSpans)
    ):
        return False
    return isinstance(node.field, tree.SpanText) and node.field.name != "content"


def _assessed(sql: rawsql._Compiler, node: tree.Predicate) -> str:
    """The raw condition on the text of an assessment, on a vocabulary row instead."""
    return sql.assessed(node, "v")


def _opposite(node: tree.Predicate) -> Optional[tree.Predicate]:
    """The predicate that a negated one is the negation of, on a value that exists."""
    if isinstance(node, tree.TextCompare) and node.op == "!=":
        return tree.TextCompare(node.field, "=", node.value)
    if isinstance(node, tree.Match) and node.negated:
        return tree.Match(node.field, node.op, node.pattern)
    if isinstance(node, tree.In) and node.negated:
        return tree.In(node.field, node.values)
    return None


def _buckets(node: tree.Predicate, stored_as_json: bool = False) -> Optional[Sequence[int]]:
    """The buckets with values that may satisfy ``node``; None: all of them."""
    if isinstance(node, tree.TextCompare) and node.op == "=":
        texts = [node.value]
    elif isinstance(node, tree.In) and not node.negated:
        texts = [value for value in node.values if isinstance(value, str)]
        if len(texts) < len(node.values):
            return None
    else:
        return None
    if stored_as_json:
        texts += [json.dumps(text) for text in texts]
    return [bucket_of(text) for text in texts]
