"""Conditions on spans, as the index knows them.

They are taken apart by *signature*, the type, name and status that spans share:
for one signature every predicate on these three is simply true or false, and what
is left of a condition speaks of the facts that carry this signature.  If one
predicate is left, the traces are known exactly.  If several are, they are known
where the trace has one span of the signature, and bounded where it has more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Optional

from insights_engine.index.conditions import Condition
from insights_engine.index.groups import Group, Terms
from insights_engine.index.slices import Pair, Series
from insights_engine.sets import bitmaps
from insights_engine.sets.intervals import Intervals


class SpanCondition(ABC):
    """A condition on a span, asked about the spans of some signatures.

    `some` bounds the traces of which some span of the signatures satisfies it.
    """

    def terms(self, signatures: Sequence[int]) -> Iterable[int]:
        return ()

    @abstractmethod
    def some(self, spans: Spans, group: Group, signatures: Sequence[int]) -> Pair:
        """Must and may of the traces, for `terms` of the signatures."""

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
