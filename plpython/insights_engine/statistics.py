"""What the four counts of two filters say about how the filters belong together.

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

# Jeffreys' prior for a multinomial cell, the smoothing that MLflow uses.
JEFFREYS_PRIOR = 0.5

# The 97.5 % quantile of the standard normal distribution: a 95 % interval.
Z_95 = 1.959963984540054

# Cochran's rule: below this expected count the chi-square approximation of G²
# is not trusted and Fisher's exact test answers instead.
SMALL_EXPECTED_COUNT = 5

# Two tables count as equally probable up to this relative difference, as in
# scipy.stats.fisher_exact.  Held as an integer: ties are decided exactly.
FISHER_TOLERANCE_INVERSE = 10**14

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
    odds_ratio: float | None
    odds_ratio_low: float | None
    odds_ratio_high: float | None
    p_value: float | None


def associate(counts: Counts) -> Association:
    """Every statistic of the table behind ``counts``."""
    npmi, npmi_smoothed = npmi_from_counts(
        counts.joint, counts.filter1, counts.filter2, counts.total
    )
    table = counts.table
    if min(table) < 0:
        raise ValueError(f"counts contradict each other: {counts}")
    odds, low, high = odds_ratio(*table)
    return Association(
        npmi, npmi_smoothed, lift(*table), phi(*table), odds, low, high, p_value(*table)
    )


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


def odds_ratio(
    n11: int, n10: int, n01: int, n00: int
) -> tuple[float | None, float | None, float | None]:
    """The odds ratio ``n11 n00 / (n10 n01)`` with its 95 % interval.

    The interval is Woolf's: ``exp(log(ratio) -+ 1.96 sqrt(sum of 1/n))``
    (Annals of Human Genetics 19, 1955).  If, and only if, some cell is 0, the
    Haldane-Anscombe correction adds 0.5 to every cell first, for the ratio and
    for its bounds, so that they are finite.  Undefined, all three, if a filter
    matches all traces or none: the table then says nothing about association.
    """
    cells = (float(n11), float(n10), float(n01), float(n00))
    if 0 in (n11 + n10, n01 + n00, n11 + n01, n10 + n00):
        return None, None, None
    if 0 in cells:
        cells = (cells[0] + 0.5, cells[1] + 0.5, cells[2] + 0.5, cells[3] + 0.5)
    ratio = (cells[0] * cells[3]) / (cells[1] * cells[2])
    spread = math.exp(Z_95 * math.sqrt(math.fsum(1 / cell for cell in cells)))
    return ratio, ratio / spread, ratio * spread


# ---------------------------------------------------------------- significance


def p_value(n11: int, n10: int, n01: int, n00: int) -> float | None:
    """How probable so strong an association would be by chance, two-sided.

    The G² test, or Fisher's exact test where some expected count is below 5.
    Undefined if a filter matches all traces or none.
    """
    rows = (n11 + n10, n01 + n00)
    columns = (n11 + n01, n10 + n00)
    if 0 in rows or 0 in columns:
        return None
    if min(rows) * min(columns) < SMALL_EXPECTED_COUNT * sum(rows):
        return fisher_exact(n11, n10, n01, n00)
    return chi_square_sf(g_squared(n11, n10, n01, n00))


def g_squared(n11: int, n10: int, n01: int, n00: int) -> float:
    """The likelihood-ratio statistic ``2 sum(O log(O / E))`` of independence.

    Without continuity correction, one degree of freedom (Agresti, Categorical
    Data Analysis, 3.2.1).  No margin may be 0.

    All four ``O - E`` are ``+-(n11 n00 - n10 n01) / n``, exact in integers, and
    they add up to 0; subtracting them from the terms makes each term
    ``O log(O / E) - O + E`` positive, so that nothing cancels in the sum, not
    even for huge tables close to independence.
    """
    total = n11 + n10 + n01 + n00
    determinant = n11 * n00 - n10 * n01
    rows = (n11 + n10, n01 + n00)
    columns = (n11 + n01, n10 + n00)
    terms = []
    for sign, row, column in (
        (1, rows[0], columns[0]),
        (-1, rows[0], columns[1]),
        (-1, rows[1], columns[0]),
        (1, rows[1], columns[1]),
    ):
        expected_times_total = row * column
        deviation = (sign * determinant) / expected_times_total
        terms.append(expected_times_total / total * _deviance(deviation))
    return 2 * math.fsum(terms)


def _deviance(u: float) -> float:
    """``(1 + u) log(1 + u) - u`` for u >= -1, accurate around 0."""
    if abs(u) < 0.1:
        # The series sum((-u)**k / (k (k - 1)), k >= 2); 0.1**18 is below 1e-17.
        return math.fsum((-u) ** k / (k * (k - 1)) for k in range(2, 20))
    if u <= -1:
        return 1.0
    return (1 + u) * math.log1p(u) - u


def chi_square_sf(x: float) -> float:
    """The upper tail of the chi-square distribution with one degree of freedom.

    ``erfc(sqrt(x / 2))``, which keeps its relative precision far out until the
    result itself underflows, at x of about 1,400.
    """
    return math.erfc(math.sqrt(x / 2))


def fisher_exact(n11: int, n10: int, n01: int, n00: int) -> float:
    """Fisher's exact test, two-sided: the p-value.

    The probability, given the margins, of all tables that are at most as
    probable as this one, within a relative tolerance of 1e-14: the definition
    of ``scipy.stats.fisher_exact`` and of R's ``fisher.test``.

    Probabilities are taken relative to the mode and follow from each other by
    ``w(k + 1) / w(k) = (r - k)(c - k) / ((k + 1)(n - r - c + k + 1))``; sums
    run outwards until the terms vanish.  So there is no log-gamma of a large
    number, whose rounding would cost digits, and the work is a few standard
    deviations of terms plus the way from the mode to the observed cell.
    """
    total = n11 + n10 + n01 + n00
    # Mirror the table so that both margins are at most half: the cell's range
    # is then 0..min(row, column), and the cell is the one of least expectation.
    row, column, cell = n11 + n10, n11 + n01, n11
    if 2 * row > total:
        row, cell = total - row, column - cell
    if 2 * column > total:
        column, cell = total - column, row - cell
    return _Hypergeometric(row, column, total).two_sided(cell)


class _Hypergeometric:
    """The distribution of one cell of a 2x2 table whose margins are given.

    Requires ``2 row <= total`` and ``2 column <= total``.
    """

    def __init__(self, row: int, column: int, total: int) -> None:
        self._row = row
        self._column = column
        self._rest = total - row - column
        self._high = min(row, column)
        self._mode = (row + 1) * (column + 1) // (total + 2)

    def two_sided(self, cell: int) -> float:
        if cell == self._mode:
            return 1.0
        step = 1 if cell > self._mode else -1
        log_weight = self._log_weight(cell)
        near = self._outward_sum(cell, step)
        opposite = self._first_as_rare(cell, -step, log_weight)
        far = 0.0
        if opposite is not None:
            log_ratio = self._log_weight(opposite) - log_weight
            far = math.exp(log_ratio) * self._outward_sum(opposite, -step)
        whole = self._outward_sum(self._mode, 1) + self._outward_sum(self._mode, -1) - 1
        log_p = log_weight + math.log((near + far) / whole)
        return min(1.0, math.exp(log_p)) if log_p > -746 else 0.0

    def _ratio(self, k: int, step: int) -> tuple[int, int]:
        """``w(k + step) / w(k)`` as numerator and denominator."""
        if step > 0:
            return (self._row - k) * (self._column - k), (k + 1) * (self._rest + k + 1)
        return k * (self._rest + k), (self._row - k + 1) * (self._column - k + 1)

    def _outward_sum(self, start: int, step: int) -> float:
        """``sum(w(k) / w(start))`` from ``start`` to that end of the range."""
        total = term = 1.0
        end = self._high if step > 0 else 0
        k = start
        while k != end:
            numerator, denominator = self._ratio(k, step)
            term *= numerator / denominator
            total += term
            k += step
            # The ratios fall on the way out, so what is left is below a
            # geometric series; it is negligible once a term is.
            if term < total * 1e-19:
                break
        return total

    def _log_weight(self, cell: int) -> float:
        """``log(w(cell) / w(mode))``, by multiplying the ratios in between."""
        step = 1 if cell > self._mode else -1
        logs = []
        product = 1.0
        for k in range(self._mode, cell, step):
            numerator, denominator = self._ratio(k, step)
            product *= numerator / denominator
            if product < 1e-200:
                logs.append(math.log(product))
                product = 1.0
        logs.append(math.log(product))
        return math.fsum(logs)

    def _first_as_rare(self, cell: int, step: int, log_weight: float) -> int | None:
        """The first value on the other side of the mode as rare as ``cell``."""
        end = self._high if step > 0 else 0
        k = self._mode
        log_k = 0.0
        product = 1.0
        while True:
            difference = log_k + math.log(product) - log_weight
            # Rounding leaves no doubt outside of this band; inside, whether the
            # two are equally probable is decided in integers.
            if difference < -1e-9 or (difference < 1e-9 and self._as_rare(k, cell)):
                return k
            if k == end:
                return None
            numerator, denominator = self._ratio(k, step)
            product *= numerator / denominator
            if product < 1e-200:
                log_k += math.log(product)
                product = 1.0
            k += step

    def _as_rare(self, k: int, cell: int) -> bool:
        """Whether ``w(k) <= w(cell)``, within the tolerance of the test."""
        step = 1 if k > cell else -1
        ratios = [self._ratio(i, step) for i in range(cell, k, step)]
        numerator = math.prod(n for n, _ in ratios)
        denominator = math.prod(d for _, d in ratios)
        return numerator * FISHER_TOLERANCE_INVERSE <= denominator * (FISHER_TOLERANCE_INVERSE + 1)
