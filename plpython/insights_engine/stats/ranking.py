"""The ranking of discovered facts, and near-identical ones.

A ratio of 50 from two traces is no better news than a ratio of 5 from two
thousand.  Facts are therefore ranked by the end of the 95 % interval of their
log odds ratio that is nearer to 0: by what is nearly certain about them.
"""

from __future__ import annotations

import math

from insights_engine.stats import statistics
from insights_engine.stats.statistics import OddsRatio

# From this phi on, two facts count as near-identical and are shown as one.  It
# allows about 1 of 20 units to differ: of two facts of 1,000 rare units each,
# 950 in common.
NEAR_IDENTICAL_PHI = 0.95


def strength(odds: OddsRatio, direction: str) -> float:
    """The key of the ranking, greatest first: a bound of the log odds ratio.

    ``direction`` is ``positive`` (the lower bound), ``negative`` (the upper
    bound, smallest first) or ``both``: the distance from 0 of the nearer
    bound, negative where 0 lies between them.  Raises ValueError for any
    other.
    """
    if direction == "positive":
        return math.log(odds.low)
    if direction == "negative":
        return -math.log(odds.high)
    if direction == "both":
        return max(math.log(odds.low), -math.log(odds.high))
    raise ValueError(f"no direction: {direction}")


def near_identical(first: int, second: int, joint: int, total: int) -> bool:
    """Whether two facts of these counts match nearly the same units.

    That is a phi (see `statistics.phi`) of at least `NEAR_IDENTICAL_PHI`.
    Unlike Jaccard's index it does not take two facts for the same because both
    match nearly everything.  Where phi is undefined, a fact being all units or
    none, only equal facts are identical.
    """
    phi = statistics.phi(*statistics.Counts(first, second, joint, total).table)
    if phi is None:
        return first == second == joint
    return phi >= NEAR_IDENTICAL_PHI


def least_joint_of_near_identical(first: int, second: int, total: int) -> int:
    """The joint count from which `near_identical` holds; may exceed both counts.

    With it most pairs need no intersection: where the result is above
    ``min(first, second)`` the sizes alone rule the pair out.
    """
    margins = first * (total - first) * second * (total - second)
    if margins == 0:
        return first if first == second else max(first, second)
    exact = (first * second + NEAR_IDENTICAL_PHI * math.sqrt(margins)) / total
    # Rounding may be off by one for totals whose square exceeds 2**53.
    joint = max(0, math.floor(exact) - 1)
    while joint <= min(first, second) and not near_identical(first, second, joint, total):
        joint += 1
    return joint
