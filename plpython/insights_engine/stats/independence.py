"""The two tests of independence in a 2x2 table: G², and Fisher's exact test.

One rule for correlations and discoveries: Fisher's up to an expected count of
100, G² beyond.  The usual limit is Cochran's 5, but it is meant for p values
around 0.05.  Far out, where one of 20,000 facts has to lie, those of G² are too
small with expected counts well above it: of 16 units among two halves, all in
one half has probability 3e-5 and a G² of 22.2, p = 2.5e-6.  Beyond 100, G² is
at worst 0.6 of the exact p value, down to 1e-7.

Both rest on the same deviance, and both must be cheap: a discovery tests
20,000 tables at once, some of totals of 1e8.  A G² takes about 2 µs; Fisher's
test reads the probability of the observed table off a closed form and then
walks only as far as terms matter: with an expected count of 100 some 30 µs.

The cells are named as in `statistics`; but for `p_value` no margin may be 0.
"""

from __future__ import annotations

import math

# Where some expected count is below this Fisher's test answers.
EXACT_BELOW = 100

# Cochran's rule: from this expected count on a count is nearly normal, close to
# its expectation.
SMALL_EXPECTED_COUNT = 5

# Two tables count as equally probable up to this relative difference, as in
# scipy.stats.fisher_exact.  Held as an integer: ties are decided exactly.
FISHER_TOLERANCE_INVERSE = 10**14

# Rounding changes the relative weight of two tables by less than this.
_DOUBT = 1e-9

# Below this, exp() is 0.
_UNDERFLOW = -746.0

_LOG_2_PI = math.log(2 * math.pi)

# Coefficients of ((1 + u) log(1 + u) - u) / u² = sum((-u)**k / ((k + 1)(k + 2))),
# highest first.  0.01**8 and 0.1**18 are below the rounding of a float.
_SERIES = tuple((-1) ** k / ((k + 1) * (k + 2)) for k in range(17, -1, -1))
_SHORT_SERIES = _SERIES[-8:]


def p_value(n11: int, n10: int, n01: int, n00: int, exact_below: int = EXACT_BELOW) -> float | None:
    """How probable so strong an association would be by chance, two-sided.

    Of the test that `name_of_test` names.  Undefined if a filter matches all
    traces or none.
    """
    if 0 in (n11 + n10, n01 + n00, n11 + n01, n10 + n00):
        return None
    if needs_fisher(n11 + n10, n11 + n01, n11 + n10 + n01 + n00, exact_below):
        return fisher_exact(n11, n10, n01, n00)
    return chi_square_sf(g_squared(n11, n10, n01, n00))


def name_of_test(first: int, second: int, total: int, exact_below: int = EXACT_BELOW) -> str:
    """The test that answers for these margins: ``Fisher`` or ``G2``."""
    return "Fisher" if needs_fisher(first, second, total, exact_below) else "G2"


def needs_fisher(first: int, second: int, total: int, expected: int) -> bool:
    """Whether two margins leave some cell an expected count below ``expected``."""
    rows, columns = min(first, total - first), min(second, total - second)
    return rows * columns < expected * total


# -------------------------------------------------------------------------- G²


def g_squared(n11: int, n10: int, n01: int, n00: int) -> float:
    """The likelihood-ratio statistic ``2 sum(O log(O / E))`` of independence.

    Without continuity correction, one degree of freedom (Agresti, Categorical
    Data Analysis, 3.2.1).

    All four ``O - E`` are ``+-(n11 n00 - n10 n01) / n``, exact in integers, and
    they add up to 0; subtracting them from the terms makes each term
    ``O log(O / E) - O + E`` positive, so that nothing cancels in the sum, not
    even for huge tables close to independence.
    """
    row1, row0 = n11 + n10, n01 + n00
    column1, column0 = n11 + n01, n10 + n00
    determinant = n11 * n00 - n10 * n01
    total = row1 + row0
    e11, e10, e01, e00 = row1 * column1, row1 * column0, row0 * column1, row0 * column0
    return (
        e11 / total * _deviance(determinant / e11)
        + e10 / total * _deviance(-determinant / e10)
        + e01 / total * _deviance(-determinant / e01)
        + e00 / total * _deviance(determinant / e00)
    ) * 2


def _deviance(u: float) -> float:
    """``(1 + u) log(1 + u) - u`` for u >= -1, accurate around 0."""
    if -0.1 < u < 0.1:
        value = 0.0
        for coefficient in _SHORT_SERIES if -0.01 < u < 0.01 else _SERIES:
            value = value * u + coefficient
        return value * u * u
    if u <= -1:
        return 1.0
    return (1 + u) * math.log1p(u) - u


def chi_square_sf(x: float) -> float:
    """The upper tail of the chi-square distribution with one degree of freedom.

    ``erfc(sqrt(x / 2))``, which keeps its relative precision far out until the
    result itself underflows, at x of about 1,400.
    """
    return math.erfc(math.sqrt(x / 2))


# -------------------------------------------------------- Fisher's exact test


def fisher_exact(n11: int, n10: int, n01: int, n00: int) -> float:
    """Fisher's exact test, two-sided: the p-value.

    The probability, given the margins, of all tables that are at most as
    probable as this one, within a relative tolerance of 1e-14: the definition
    of ``scipy.stats.fisher_exact`` and of R's ``fisher.test``.

    The probability of the observed table comes from `_log_probability`; the
    others follow from each other by
    ``w(k + 1) / w(k) = (r - k)(c - k) / ((k + 1)(n - r - c + k + 1))``, summed
    outwards until the terms vanish.  That is a few standard deviations of terms:
    some tens with an expected count of 5, some hundreds with one of 1,000,
    however large the other counts are.
    """
    total = n11 + n10 + n01 + n00
    # Mirror the table so that both margins are at most half: the cell's range
    # is then 0..min(row, column), and the cell is the one of least expectation.
    row, column, cell = n11 + n10, n11 + n01, n11
    if 2 * row > total:
        row, cell = total - row, column - cell
    if 2 * column > total:
        column, cell = total - column, row - cell
    return _Cell(row, column, total).two_sided(cell)


class _Cell:
    """The hypergeometric distribution of one cell, the margins given.

    Requires ``2 row <= total`` and ``2 column <= total``.
    """

    def __init__(self, row: int, column: int, total: int) -> None:
        self._row = row
        self._column = column
        self._rest = total - row - column
        self._high = min(row, column)
        self._symmetric = total in (2 * row, 2 * column)
        self._mode = (row + 1) * (column + 1) // (total + 2)
        self._constant = (
            _factorial_excess(row)
            + _factorial_excess(total - row)
            + _factorial_excess(column)
            + _factorial_excess(total - column)
            - _factorial_excess(total)
        )

    def two_sided(self, cell: int) -> float:
        if cell == self._mode:
            return 1.0
        log_cell = self._log_probability(cell)
        if log_cell < _UNDERFLOW:
            return 0.0
        step = 1 if cell > self._mode else -1
        tail = math.exp(log_cell) * self._outward_sum(cell, step)
        # With a margin of exactly one half the distribution is symmetric.
        return min(1.0, tail + (tail if self._symmetric else self._opposite(cell, -step, log_cell)))

    def _log_probability(self, k: int) -> float:
        """``log`` of the probability that the cell is k.

        Its nine factorials are ``(m / e)**m`` times an excess; the powers add
        up to half the G² of the table, which does not cancel as log-gammas of
        1e8 do (Loader, Fast and accurate computation of binomial
        probabilities, 2000).
        """
        table = (k, self._row - k, self._column - k, self._rest + k)
        return (
            self._constant
            - g_squared(*table) / 2
            - _factorial_excess(table[0])
            - _factorial_excess(table[1])
            - _factorial_excess(table[2])
            - _factorial_excess(table[3])
        )

    def _factors(self, k: int, step: int) -> tuple[int, int, int, int]:
        """``w(k + step) / w(k)``: two factors of the numerator, two of the denominator.

        The next ratio in that direction has the former less 1 and the latter plus 1.
        """
        if step > 0:
            return self._row - k, self._column - k, k + 1, self._rest + k + 1
        return k, self._rest + k, self._row - k + 1, self._column - k + 1

    def _outward_sum(self, start: int, step: int) -> float:
        """``sum(w(k) / w(start))`` from ``start`` to that end of the range."""
        a, b, c, d = map(float, self._factors(start, step))
        total = term = 1.0
        # The ratios fall on the way out, so what is left is below a geometric
        # series; it is negligible once a term is.  At the end a term is 0.
        while term > total * 1e-18:
            term *= a * b / (c * d)
            total += term
            a -= 1.0
            b -= 1.0
            c += 1.0
            d += 1.0
        return total

    def _opposite(self, cell: int, step: int, log_cell: float) -> float:
        """The probability of all beyond the mode that are as rare as ``cell``.

        They begin near the cell's mirror image: as far away as the distribution
        is skewed, less than 500 steps wherever the p value is above 1e-308.
        """
        k = max(0, min(self._high, 2 * self._mode - cell))
        difference = self._log_probability(k) - log_cell
        if self._is_as_rare(k, cell, difference):
            # Inwards, as long as the next one is as rare, too.
            while k != self._mode:
                a, b, c, d = self._factors(k, -step)
                nearer = difference + math.log(a * b / (c * d))
                if not self._is_as_rare(k - step, cell, nearer):
                    break
                k, difference = k - step, nearer
        else:
            while not self._is_as_rare(k, cell, difference):
                a, b, c, d = self._factors(k, step)
                if 0 in (a, b):
                    return 0.0
                k, difference = k + step, difference + math.log(a * b / (c * d))
        return math.exp(log_cell + difference) * self._outward_sum(k, step)

    def _is_as_rare(self, k: int, cell: int, difference: float) -> bool:
        """Whether k is as rare as the cell, of log probabilities that differ so.

        Within the doubt that rounding leaves it is decided in integers.
        """
        return difference < -_DOUBT or (difference < _DOUBT and self._as_rare(k, cell))

    def _as_rare(self, k: int, cell: int) -> bool:
        """Whether ``w(k) <= w(cell)``, within the tolerance of the test."""
        step = 1 if k > cell else -1
        ratios = [self._factors(i, step) for i in range(cell, k, step)]
        numerator = math.prod(a * b for a, b, _, _ in ratios)
        denominator = math.prod(c * d for _, _, c, d in ratios)
        return numerator * FISHER_TOLERANCE_INVERSE <= denominator * (FISHER_TOLERANCE_INVERSE + 1)


def _factorial_excess(m: int) -> float:
    """``log(m!) - m log(m) + m``, which grows only like ``log(2 pi m) / 2``."""
    if m < len(_SMALL_EXCESSES):
        return _SMALL_EXCESSES[m]
    square = m * m
    # Stirling's series; its next term is 1 / (1188 m**9), below 1e-16 from 29 on.
    correction = (1 / 12 - (1 / 360 - (1 / 1260 - 1 / 1680 / square) / square) / square) / m
    return (_LOG_2_PI + math.log(m)) / 2 + correction


_SMALL_EXCESSES = (
    0.0,
    *(math.log(math.factorial(m)) - m * math.log(m) + m for m in range(1, 30)),
)
