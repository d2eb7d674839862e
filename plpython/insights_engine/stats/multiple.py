"""Tests of many facts against one target: p values, and q values.

With 20,000 facts, a thousand fall below p = 0.05 by chance.  A discovery
therefore reports the facts whose q value is at most its false discovery rate:
of those, about that share is expected to be chance.

That holds for p values that are not too small themselves, also far out, where
one of 20,000 has to lie: `independence` says how that is seen to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Callable

from insights_engine.base import interrupts
from insights_engine.stats import independence

# G² is below this at least wherever p is above 0.05: a quick way to see so.
_NOT_SIGNIFICANT = 3.841458820694124
_NOT_SIGNIFICANT_P = 0.05


class TargetTests:
    """Tests of facts for independence of one target; equal tables are tested once.

    ``target`` and ``total`` are the numbers of units (traces or sessions) of
    the target and of the base.  Below an expected count of ``exact_below``
    Fisher's test answers, above G².  Raises ValueError unless
    ``0 <= target <= total``.
    """

    def __init__(
        self, target: int, total: int, exact_below: int = independence.EXACT_BELOW
    ) -> None:
        if not 0 <= target <= total:
            raise ValueError(f"a target of {target} among {total}")
        self._target = target
        self._total = total
        self._exact_below = exact_below
        self._known: dict[tuple[int, int], float] = {}

    def p_value(self, fact: int, joint: int) -> float:
        """The two-sided p value of a fact with these counts.

        1 for a fact (or target) of all units or of none, which tells nothing.
        Raises ValueError for counts that contradict each other.
        """
        known = self._known.get((fact, joint))
        if known is None:
            known = self._known[fact, joint] = self._compute(fact, joint)
        return known

    def p_values(
        self, facts: Iterable[int], joints: Iterable[int], relevant: float = 1.0
    ) -> list[float]:
        """`p_value` of each pair of counts, in their order.

        Where p is well above ``relevant`` the answer may be 1 instead, which
        saves most of the work: `benjamini_hochberg` yields the same q values up
        to ``relevant`` from either.
        """
        pairs = zip(facts, joints)
        if relevant > _NOT_SIGNIFICANT_P:
            return [self.p_value(fact, joint) for fact, joint in pairs]
        target, total = self._target, self._total
        others = target * (total - target)
        values = []
        for fact, joint in pairs:
            # Pearson's X² is (n11 n - r c)² n / (product of margins).  G² is at
            # most 2 X², since (1 + u) log(1 + u) - u <= u²: where that is too
            # little for p = 0.05, no test needs to be done.  Fisher's does not
            # follow X² at small expected counts, so there nothing is skipped.
            deviation = joint * total - target * fact
            unlikely = _NOT_SIGNIFICANT * others * fact * (total - fact)
            if 2 * deviation * deviation * total < unlikely and not independence.needs_fisher(
                target, fact, total, independence.SMALL_EXPECTED_COUNT
            ):
                values.append(1.0)
            else:
                values.append(self.p_value(fact, joint))
        return values

    def test(self, fact: int) -> str:
        """The name of the test that answers for a fact of this count."""
        return independence.name_of_test(self._target, fact, self._total, self._exact_below)

    def _compute(self, fact: int, joint: int) -> float:
        table = (
            joint,
            self._target - joint,
            fact - joint,
            self._total - self._target - fact + joint,
        )
        if min(table) < 0:
            raise ValueError(
                f"counts contradict each other: {fact}, {joint}, {self._target}, {self._total}"
            )
        found = independence.p_value(*table, self._exact_below)
        return 1.0 if found is None else found


def benjamini_hochberg(
    p_values: Sequence[float],
    tested: int | None = None,
    look: Callable[[], None] = interrupts.go_on,
) -> list[float]:
    """The q value of each p value: the least false discovery rate that admits it.

    ``min(p_(j) m / j for j >= i)`` for the i-th smallest of m p values, at most
    1 (Benjamini and Hochberg, Journal of the Royal Statistical Society B 57,
    1995).  Reporting all with ``q <= 0.05`` keeps the expected share of false
    ones at 0.05, also where the facts overlap so that their tests depend on
    each other positively (Benjamini and Yekutieli, Annals of Statistics 29,
    2001).  Equal p values have equal q values, and q rises with p.

    ``tested`` is m where p values close to 1 have been left out of the list; it
    is the length of the list otherwise.  ``look`` is called now and then: what
    it raises ends the computation.  Raises ValueError for a p value outside of
    [0, 1], NaN included, and for a ``tested`` below the length.
    """
    count = len(p_values) if tested is None else tested
    if count < len(p_values):
        raise ValueError(f"{len(p_values)} p values of {count} tests")
    order = interrupts.in_order(range(len(p_values)), p_values.__getitem__, look)
    q_values = [1.0] * len(p_values)
    least = 1.0
    for rank in range(len(order), 0, -1):
        look()
        index = order[rank - 1]
        p = p_values[index]
        # Sorting is undefined with a NaN, but each value passes here once.
        if not 0 <= p <= 1:
            raise ValueError(f"not a probability: {p}")
        least = min(least, p * (count / rank))
        q_values[index] = least
    return q_values
