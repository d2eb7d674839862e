"""Pairs of facts, ``a AND b``, associated with a target more strongly than either alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Optional

from insights_engine.answers.discovery.findings import (
    NOTHING,
    FactTest,
    Finding,
    strength,
    table,
)
from insights_engine.answers.discovery.grouping import grouped
from insights_engine.answers.discovery.options import Options, goes
from insights_engine.answers.discovery.units import Traces
from insights_engine.base.interrupts import in_order
from insights_engine.columns.names import Both
from insights_engine.stats import ranking, statistics
from insights_engine.stats.independence import g_squared
from insights_engine.stats.multiple import TargetTests
from insights_engine.stats.thresholds import Searches

#: Strongest facts that pairs are made of, and as many of the most significant others.
MOST_MEMBERS = 25


def tested_pairs(units: Traces, found: Sequence[Finding], options: Options) -> list[FactTest]:
    """Every pair of the leading facts; p is 1 where a member alone is as strong.

    No more units have both facts than have the rarer of them, which rules most
    pairs out before anything is counted.
    """
    facts: list[FactTest] = []
    likely: list[tuple[Finding, Finding]] = []
    members = _members(units, found)
    for number, one in enumerate(units.each(members)):
        for other in islice(members, number + 1, None):
            if _may_be_stronger(units, one, other, options):
                likely.append((one, other))
            else:
                facts.append(NOTHING)
    counts = units.both([(one.fact.name, other.fact.name) for one, other in likely])
    for (one, other), (among, joint) in units.each(zip(likely, counts)):
        if not options.min_support <= among < units.total:
            facts.append(NOTHING)
            continue
        first, second = one.fact.name, other.fact.name
        assert not isinstance(first, Both)
        assert not isinstance(second, Both)
        name = Both(first, second)
        pair = FactTest(name, among, joint, 1.0, "", _search(one, other))
        alone = [(member.fact.among, member.fact.joint) for member in (one, other)]
        facts.append(tested_pair(units, pair, alone, options))
    return facts


def tested_pair(
    units: Traces,
    pair: FactTest,
    members: Sequence[tuple[int, int]],
    options: Options,
) -> FactTest:
    """A pair with its p value; ``members`` are the counts of base and target of its facts.

    Two facts that are associated with the target are so together, which is no news.  News
    are pairs in which each fact tells something among the traces that have the other:
    p is the largest of both tests and that of the pair itself, as all three have to
    hold (Berger, Technometrics 24, 1982).
    """
    counts = (pair.among, pair.joint)
    if not _is_stronger(units, counts, members, options):
        return NOTHING
    tests = [TargetTests(units.target, units.total)]
    for among, joint in members:
        if not goes(statistics.Counts(joint, *counts, among).table, options.direction):
            return NOTHING
        tests.append(TargetTests(joint, among))
    p_values = [test.p_value(*counts) for test in tests]
    weakest = max(range(len(tests)), key=p_values.__getitem__)
    p_value = p_values[weakest]
    test = f"both count, {tests[weakest].test(pair.among)}"
    if pair.search is not None:
        p_value = pair.search.price(p_value)
        test = f"best of {pair.search.size} splits, {test}"
    return pair._replace(p_value=p_value, test=test)


def _search(one: Finding, other: Finding) -> Optional[Searches]:
    searches = [one.fact.search, other.fact.search]
    found = tuple([search for search in searches if search is not None])
    return Searches(found) if found else None


def _is_stronger(
    units: Traces,
    pair: tuple[int, int],
    members: Sequence[tuple[int, int]],
    options: Options,
) -> bool:
    """Whether a pair says more than its members; all given as counts of base and target."""
    needed = max(strength(units, among, joint, options) for among, joint in members)
    return strength(units, *pair, options) > needed and not any(
        # A pair with nearly all units of one member repeats that member.
        ranking.near_identical(among, pair[0], pair[0], units.total)
        for among, _ in members
    )


def _members(units: Traces, found: Sequence[Finding]) -> list[Finding]:
    """The facts that pairs are made of: the strongest, and the most significant.

    Of near-identical ones only the strongest is among them.
    """
    tests = [g_squared(*table(units, one.fact.among, one.fact.joint)) for one in units.each(found)]
    evident = [
        found[place]
        for place in in_order(range(len(found)), lambda place: -tests[place], units.look)
    ]
    some = [*found[: 2 * MOST_MEMBERS], *evident[: 2 * MOST_MEMBERS]]
    distinct = sorted({one.fact.name: one for one in some}.values(), key=lambda one: one.order)
    leaders = [shown.found for shown in grouped(units, distinct, True, len(distinct))]
    chosen = leaders[:MOST_MEMBERS]
    rank = {one.fact.name: place for place, one in enumerate(evident)}
    others = sorted(leaders[MOST_MEMBERS:], key=lambda one: rank[one.fact.name])
    return chosen + others[:MOST_MEMBERS]


def _may_be_stronger(units: Traces, one: Finding, other: Finding, options: Options) -> bool:
    """Whether a pair can be stronger than both of its members."""
    first, second = one.fact, other.fact
    joint = min(first.joint, second.joint)
    outside = min(first.among - first.joint, second.among - second.joint)
    needed = max(one.strength, other.strength)
    best = (
        # All that both have in the target and nothing outside, or the reverse.
        (joint, joint),
        (outside, 0),
    )
    return any(
        strength(units, among, inside, options) > needed
        for among, inside in best
        if among >= options.min_support
    )
