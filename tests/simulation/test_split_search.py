"""The p value of a best threshold, by summing up every outcome of the search."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from insights_engine.stats import independence
from insights_engine.stats.thresholds import Search
from scipy import special

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


def exact_error(
    cuts: list[int], missing: int, target: int, total: int, levels: list[float]
) -> list[float]:
    """The probability that the p value of a best split is at most each level.

    Exact, given that the target is a random set of this size: by the number of
    its units without a value and then, cut by cut, below it.
    """
    log_factorial = special.gammaln(np.arange(total + 1) + 1.0)

    def hypergeometric(good: int, all_of_them: int, drawn: int) -> Floats:
        """Probabilities of 0, 1, ... good ones among the drawn."""
        found = np.arange(max(0, drawn - all_of_them + good), min(good, drawn) + 1)

        def choose(n: int, k: Counts) -> Floats:
            logs: Floats = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
            return logs

        logs = choose(good, found) + choose(all_of_them - good, drawn - found)
        result = np.zeros(good + 1)
        result[found] = np.exp(logs - choose(all_of_them, np.array(drawn)))
        return result

    def single(fact: int) -> Floats:
        """Fisher's p value of each joint count; 1 for what is impossible."""
        result = np.ones(target + 1)
        for joint in range(max(0, fact + target - total), min(fact, target) + 1):
            result[joint] = independence.fisher_exact(
                joint, target - joint, fact - joint, total - target - fact + joint
            )
        return result

    present = total - missing
    search = Search(cuts, cuts, missing, target, total)
    below_p = [single(cut) for cut in cuts]
    above_p = [single(present - cut) for cut in cuts]
    errors = []
    for level in levels:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if search.price(middle) <= level else (low, middle)
        error = 0.0
        for absent, weight in enumerate(hypergeometric(target, total, missing)):
            if weight == 0:
                continue
            inside = target - absent
            state = np.zeros(inside + 1)
            state[0] = weight
            previous = 0
            for index, cut in enumerate(cuts):
                following = np.zeros(inside + 1)
                for reached in np.nonzero(state)[0].tolist():
                    step = hypergeometric(inside - reached, present - previous, cut - previous)
                    following[reached:] += state[reached] * step
                k = np.arange(inside + 1)
                hit = (below_p[index][k] <= low) | (above_p[index][inside - k] <= low)
                # What reaches the level here for the first time.
                error += following[hit].sum()
                following[hit] = 0
                state, previous = following, cut
        errors.append(error)
    return errors


@pytest.mark.parametrize(
    ("total", "target", "missing"),
    [
        (60, 8, 0),
        (60, 30, 0),
        (200, 20, 0),
        (500, 100, 0),
        (1000, 300, 0),
        (2000, 30, 0),
        (20_000, 100, 0),
        (300, 30, 3),
        (300, 40, 100),
        (1000, 25, 500),
    ],
)
def test_the_search_is_paid_for(total: int, target: int, missing: int) -> None:
    present = total - missing
    cuts = sorted({max(1, round(present * k / 33)) for k in range(1, 33)})
    levels = [0.1, 0.05, 0.01, 1e-3, 1e-5]
    errors = exact_error(cuts, missing, target, total, levels)
    for level, error in zip(levels, errors, strict=True):
        assert error <= level
    # And not by never finding anything, once there is enough to find.
    if target >= 100:
        assert errors[1] > 0.5 * 0.05
