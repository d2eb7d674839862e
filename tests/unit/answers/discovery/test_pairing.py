"""Pairs of facts: news only if each part tells something where the other holds."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from insights_engine.answers.discovery import findings, pairing
from insights_engine.answers.discovery.options import options
from insights_engine.columns.names import Both, Value
from scipy.stats import fisher_exact

#: Units of the target and of the base; and of each part: of the base, and of the target.
TARGET, TOTAL = 62, 330
MEMBERS = ((40, 34), (160, 45))
OPTIONS = options(None, 5, 20, 0.05, "positive", True, False, "trace")


class Units(NamedTuple):
    target: int = TARGET
    total: int = TOTAL
    sampled: bool = False


class TenTimes(NamedTuple):
    size: int = 10

    def price(self, p: float) -> float:
        return 10 * p


def judged(among: int, joint: int, search: Any = None) -> findings.FactTest:
    name = Both(Value("tag", "a", "1"), Value("tag", "b", "1"))
    pair = findings.FactTest(name, among, joint, 1.0, "", search)
    units: Any = Units()
    return pairing.tested_pair(units, pair, MEMBERS, OPTIONS)


def exact(target: int, fact: int, joint: int, total: int) -> float:
    table = [[joint, target - joint], [fact - joint, total - target - fact + joint]]
    return float(fisher_exact(table)[1])


@pytest.mark.parametrize(("among", "joint"), [(24, 23), (28, 26), (27, 27)])
def test_p_is_the_largest_of_three(among: int, joint: int) -> None:
    found = judged(among, joint)
    within = [exact(inside, among, joint, size) for size, inside in MEMBERS]
    own = exact(TARGET, among, joint, TOTAL)
    # By itself each of these pairs would be beyond doubt.
    assert own < 1e-9 < max(within)
    assert found.p_value == pytest.approx(max(within), rel=1e-9)
    assert (found.among, found.joint, found.test) == (among, joint, "both count, Fisher")


def test_the_searches_for_its_thresholds_are_paid_for() -> None:
    found = judged(27, 27, TenTimes())
    assert found.p_value == pytest.approx(10 * judged(27, 27).p_value)
    assert found.test == "best of 10 splits, both count, Fisher"


def test_one_that_is_no_stronger_than_a_part_is_nothing() -> None:
    assert judged(20, 16) is findings.NOTHING
    # All but one of a part's units: that part once more.
    assert judged(39, 34) is findings.NOTHING
