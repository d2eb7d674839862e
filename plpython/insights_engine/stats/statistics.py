"""Measures of association of two filters, from their four counts.

The counts form a 2x2 contingency table over the traces of the base filter:

======== =================== ====================
         filter 2 matches    filter 2 does not
filter 1 ``n11`` (joint)     ``n10``
not 1    ``n01``             ``n00``
======== =================== ====================

Everything here is plain arithmetic on those integers: standard library only,
no state, no database.  A statistic that the table does not determine is NaN
for the two NPMI values (that is what MLflow answers) and None, SQL NULL, for
all others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from insights_engine.stats import independence

# Jeffreys' prior for a multinomial cell, the smoothing that MLflow uses.
JEFFREYS_PRIOR = 0.5

# What the odds ratio adds to each cell.
HALDANE_ANSCOMBE = 0.5

# The 97.5 % quantile of the standard normal distribution: a 95 % interval.
Z_95 = 1.959963984540054

_NAN = float("nan")


@dataclass(frozen=True)
class Counts:
    """Numbers of traces: matching filter 1, filter 2, both, and the base."""

    filter1: int
    filter2: int
    joint: int
    total: int

    @property
    def table(self) -> tuple[int, int, int, int]:
        """The cells ``(n11, n10, n01, n00)``."""
        return (
            self.joint,
            self.filter1 - self.joint,
            self.filter2 - self.joint,
            self.total - self.filter1 - self.filter2 + self.joint,
        )


@dataclass(frozen=True)
class Association:
    """The statistics of one pair of filters; None where undefined."""

    npmi: float
    npmi_smoothed: float
    lift: float | None
    phi: float | None
    odds_ratio: float | None = None
    odds_ratio_low: float | None = None
    odds_ratio_high: float | None = None
    p_value: float | None = None
    #: The test that the p value comes from: ``Fisher`` or ``G2``.
    test: str | None = None


def associate(counts: Counts) -> Association:
    """Every statistic of the table behind ``counts``."""
    npmi, npmi_smoothed = npmi_from_counts(
        counts.joint, counts.filter1, counts.filter2, counts.total
    )
    table = counts.table
    if min(table) < 0:
        raise ValueError(f"counts contradict each other: {counts}")
    known = npmi, npmi_smoothed, lift(*table), phi(*table)
    p_value = independence.p_value(*table)
    if p_value is None:
        # A filter that matches all traces or none: nothing about association.
        return Association(*known)
    odds = odds_ratio(*table)
    test = independence.name_of_test(counts.filter1, counts.filter2, counts.total)
    return Association(*known, odds.value, odds.low, odds.high, p_value, test)


# ------------------------------------------------------------------------ NPMI


def npmi_from_counts(joint: int, filter1: int, filter2: int, total: int) -> tuple[float, float]:
    """Normalised pointwise mutual information, plain and smoothed, in [-1, 1].

    ``pmi / -log p(1, 2)`` with ``pmi = log(p(1, 2) / (p(1) p(2)))``: Bouma,
    "Normalized (pointwise) mutual information in collocation extraction",
    GSCL 2009.  NaN where a filter matches nothing, -1 (plain) where they never
    meet; the smoothed value adds 0.5 to each cell.

    The order of the floating-point operations is that of MLflow's
    ``calculate_npmi_from_counts``, so the results are equal to the last bit.
    """
    if total <= 0 or filter1 == 0 or filter2 == 0:
        return _NAN, _NAN
    n11 = joint
    n10 = filter1 - joint
    n01 = filter2 - joint
    n00 = total - filter1 - filter2 + joint
    if min(n11, n10, n01, n00) < 0:
        return _NAN, _NAN
    plain = -1.0 if joint == 0 else _npmi(n11, n10, n01, n00, 0)
    return plain, _npmi(n11, n10, n01, n00, JEFFREYS_PRIOR)


def _npmi(n11: int, n10: int, n01: int, n00: int, smoothing: float) -> float:
    s11, s10, s01, s00 = n11 + smoothing, n10 + smoothing, n01 + smoothing, n00 + smoothing
    total = s11 + s10 + s01 + s00
    first = s11 + s10
    second = s11 + s01
    if first <= 0 or second <= 0 or s11 <= 0:
        return _NAN
    if n10 == 0 and n01 == 0 and n00 == 0:
        return 1.0
    log_joint = math.log(s11)
    log_total = math.log(total)
    pmi = (log_joint + log_total) - (math.log(first) + math.log(second))
    return max(-1.0, min(1.0, pmi / -(log_joint - log_total)))


# ---------------------------------------------------------------- effect sizes


def lift(n11: int, n10: int, n01: int, n00: int) -> float | None:
    """How much likelier both are together than if they were independent.

    ``p(1, 2) / (p(1) p(2))``; 1 is independence; undefined if a filter matches
    nothing.  Brin, Motwani, Ullman and Tsur, SIGMOD 1997 (there: "interest").
    """
    first, second = n11 + n10, n11 + n01
    if first == 0 or second == 0:
        return None
    return (n11 * (first + n01 + n00)) / (first * second)


def phi(n11: int, n10: int, n01: int, n00: int) -> float | None:
    """Pearson's correlation of the two yes/no variables, in [-1, 1].

    ``(n11 n00 - n10 n01) / sqrt(product of the four margins)`` (Yule 1912);
    undefined if a filter matches all traces or none.
    """
    margins = (n11 + n10) * (n01 + n00) * (n11 + n01) * (n10 + n00)
    if margins == 0:
        return None
    # isqrt on a scaled integer: the product of four counts of 1e8 has 107 bits,
    # and a float would round it before the square root does.
    scale = 64
    root = math.isqrt(margins << (2 * scale))
    return max(-1.0, min(1.0, ((n11 * n00 - n10 * n01) << scale) / root))


@dataclass(frozen=True)
class OddsRatio:
    """An odds ratio with its 95 % bounds; all finite and greater than 0."""

    value: float
    low: float
    high: float


def odds_ratio(n11: int, n10: int, n01: int, n00: int) -> OddsRatio:
    """The odds ratio of a table after adding 0.5 to each cell, with its 95 % interval.

    ``(n11 + 0.5)(n00 + 0.5) / ((n10 + 0.5)(n01 + 0.5))`` (Haldane, Annals of Human
    Genetics 20, 1956; Anscombe, Biometrika 43, 1956), whose logarithm is nearly
    unbiased (Agresti, Categorical Data Analysis, 3.1.1), and to both sides of that
    1.96 of Gart's standard errors, ``sqrt(sum of 1 / (n + 0.5))`` (Gart,
    Biometrika 53, 1966).

    Every table is corrected, not only one with a 0 in it: an estimate must not
    jump where a cell becomes 1, and the flukes of small tables must not lead.

    The bounds hold the true value in 95 % of cases on average, in 94 % or more
    wherever each cell is expected to be 1.5 or greater.  Below that, where
    hardly a unit of one filter is expected to match the other, it can be markedly less.
    """
    a, b, c, d = (cell + HALDANE_ANSCOMBE for cell in (n11, n10, n01, n00))
    ratio = (a * d) / (b * c)
    spread = math.exp(Z_95 * math.sqrt(1 / a + 1 / b + 1 / c + 1 / d))
    return OddsRatio(ratio, ratio / spread, ratio * spread)
