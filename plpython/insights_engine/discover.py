"""What goes with a target: every fact counted, tested, ranked.

Counting is exact and comes first: part by part, how many traces of the base and
of the target have each item of the vocabulary.  What is left are numbers: which
facts are significant among all that were tested, which of them merely restate the
target, which of them are the same thing twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, Optional, Union

from insights_engine import candidates, printer, ranking, statistics, tree
from insights_engine.candidates import Name
from insights_engine.errors import FilterError
from insights_engine.independence import g_squared
from insights_engine.multiple import TargetTests, benjamini_hochberg
from insights_engine.options import Options, goes
from insights_engine.parser import parse_filter
from insights_engine.population import Population
from insights_engine.splitting import Threshold, best_thresholds
from insights_engine.units import Traces

#: Facts that the index leaves uncertain are counted one by one if they might be
#: significant: the most promising of them, so many.
MOST_SETTLED = 50
#: Fields whose thresholds are searched.
MOST_SERIES = 500
#: Pairs are made of so many of the strongest facts, and of the most significant others.
MOST_MEMBERS = 25
#: The strongest facts are compared with each other so many at a time, to group those
#: that are near-identical.
COMPARED_AT_ONCE = 60


class Tested(NamedTuple):
    """A fact with its counts and its p value."""

    name: Name
    #: Traces of the base, and of the target, that have the fact.
    among: int
    joint: int
    p_value: float
    test: str


class Found(NamedTuple):
    """A significant fact."""

    fact: Tested
    q_value: float
    #: How strongly it goes with the target, for the ranking.
    strength: float

    @property
    def order(self) -> tuple[float, bool, int, str]:
        """Sorts the strongest first; of equals what is said of traces, and is shorter to say."""
        name = self.fact.name
        text = repr(name)
        of_spans = name[0] in ("s", "a") or name[1] in ("span", "attribute")
        return -self.strength, of_spans, len(text), text


class Shown(NamedTuple):
    """A fact that is shown, under its filter."""

    found: Found
    filter: str
    #: The filters of weaker facts that are near-identical.
    similar: list[str]


class Question(NamedTuple):
    """A target among a base, as trees; and what tells which facts restate it."""

    base: tree.Node
    target: tree.Node
    restated: candidates.Restated


def discover(
    population: Population, units: Traces, question: Question, options: Options
) -> Iterator[dict[str, Any]]:
    """The rows of ``insights_discover``."""
    total, target = units.total, units.target
    if not 0 < target < total:
        return
    tests = TargetTests(target, total)
    tested = list(_tested(population, units, question, options, tests))
    apart = candidates.has_span_condition(question.base)
    found = _significant(tested, units, options)
    if options.pairs:
        tested += _tested_pairs(population, units, _members(units, found), options, tests)
        found = _significant(tested, units, options)
    for shown in _grouped(units, found, apart, options.max_results):
        name = shown.found.fact.name
        yield {
            **_statistics(shown.found, target, total),
            "filter": shown.filter,
            **candidates.label(name)._asdict(),
            "test": shown.found.fact.test,
            "restates": question.restated(name),
            "similar": shown.similar,
            "tested": len(tested),
        }


def _significant(tested: Sequence[Tested], units: Traces, options: Options) -> list[Found]:
    """The significant facts that go in the direction asked for, the strongest first."""
    q_values = benjamini_hochberg([one.p_value for one in tested])
    found = []
    for one, q_value in zip(tested, q_values):
        if q_value > options.fdr:
            continue
        table = statistics.Counts(units.target, one.among, one.joint, units.total).table
        if goes(table, options.direction):
            found.append(Found(one, q_value, _strength(table, options)))
    found.sort(key=lambda one: one.order)
    return found


def _strength(table: tuple[int, int, int, int], options: Options) -> float:
    return ranking.log_odds_ratio(*table).strength(options.direction)


def _written(name: Name, apart: bool) -> Optional[str]:
    """The filter of a fact; None where no filter can say it: not every key or value can be."""
    node = candidates.node_of(name)
    if name[0] == "a":
        text = " AND ".join([printer.print_apart(candidates.node_of(one)) for one in name[1:]])
    else:
        text = printer.print_apart(node) if apart else printer.print_filter(node)
    try:
        return text if parse_filter(text) == node else None
    except FilterError:
        return None


def _statistics(found: Found, target: int, total: int) -> dict[str, Any]:
    _, among, joint, p_value, _ = found.fact
    table = statistics.Counts(target, among, joint, total).table
    odds_ratio, low, high = ranking.log_odds_ratio(*table).odds_ratio
    inside = joint / target
    outside = (among - joint) / (total - target)
    return {
        "target_count": target,
        "fact_count": among,
        "joint_count": joint,
        "total_count": total,
        "target_share": inside,
        "other_share": outside,
        "difference": inside - outside,
        "lift": statistics.lift(*table),
        "npmi": statistics.npmi_from_counts(joint, target, among, total)[0],
        "phi": statistics.phi(*table),
        "odds_ratio": odds_ratio,
        "odds_ratio_low": low,
        "odds_ratio_high": high,
        "p_value": p_value,
        "q_value": found.q_value,
    }


# ------------------------------------------------------------------------ testing


def _tested(
    population: Population,
    units: Traces,
    question: Question,
    options: Options,
    tests: TargetTests,
) -> Iterator[Tested]:
    """Every fact that is tested; p may be 1 where it is far above what counts."""
    screen = units.screen()
    if not 0 < screen.target < screen.total:
        return
    least = options.min_support
    if screen is not units:
        # Whether the support is enough turns out when all are counted.
        least = max(1, least * screen.total // units.total)
        tests = TargetTests(screen.target, screen.total)
    counts, joints = screen.items(least)
    items = population.items

    def is_of_roots(span_name: str) -> bool:
        """Whether spans of a name are in no more traces than MLflow has called by it."""
        spans, traces = [items.known(("v", kind, "name", span_name)) for kind in ("span", "trace")]
        return spans is not None and traces is not None and 0 < counts[spans] <= counts[traces]

    question.restated.is_of_roots = is_of_roots
    chosen: list[int] = []
    unsure: dict[int, tuple[int, ...]] = {}
    for item, count in enumerate(counts):
        if not least <= count < screen.total:
            continue
        name = items.name(item)
        if name[0] not in candidates.FACTS or not _is_wanted(name, items, question, options):
            continue
        doubts = [items.known(other) for other in candidates.uncertain_by(name)]
        opaque = tuple([other for other in doubts if other is not None and counts[other]])
        if opaque:
            unsure[item] = opaque
        elif not _is_whole(name, count, items, counts):
            chosen.append(item)
    p_values = tests.p_values(
        [counts[item] for item in chosen], [joints[item] for item in chosen], options.fdr
    )
    found = [
        Tested(items.name(item), counts[item], joints[item], p_value, tests.test(counts[item]))
        for item, p_value in zip(chosen, p_values)
    ]
    thresholds: list[Optional[Threshold]] = []
    if "number" in options.kinds:
        thresholds = _thresholds(population, units, screen, question, options)
    promising = _promising(screen, options, tests, unsure, counts, joints)
    if screen is not units:
        # Of those that stand out in the sample the strongest are counted in all traces.
        yield from [_NOTHING] * (len(found) + len(thresholds))
        found, promising, thresholds = _outstanding(screen, found, promising, thresholds, options)
        known = [items.known(one.name) for one in found]
        numbers = [number for number in known if number is not None]
        measured = zip(numbers, units.counted(numbers))
        yield from _supported(
            [(items.name(number), among, joint) for number, (among, joint) in measured],
            units,
            options,
        )
    else:
        yield from found
    one_by_one = [items.name(item) for item in promising]
    one_by_one = [name for name in one_by_one if _written(name, apart=True) is not None]
    yield from _supported(
        [
            (name, *units.measured(population.matching(candidates.node_of(name))))
            for name in one_by_one
        ],
        units,
        options,
    )
    yield from _tested_thresholds(population, units, screen, thresholds, options, counts)


def _supported(
    facts: Iterable[tuple[Name, int, int]], units: Traces, options: Options
) -> Iterator[Tested]:
    """Facts that were counted by themselves, if they have the support to be tested."""
    tests = TargetTests(units.target, units.total)
    for name, among, joint in facts:
        if options.min_support <= among < units.total:
            yield Tested(name, among, joint, tests.p_value(among, joint), tests.test(among))


def _outstanding(
    screen: Traces,
    found: Sequence[Tested],
    promising: Sequence[int],
    thresholds: Sequence[Optional[Threshold]],
    options: Options,
) -> tuple[list[Tested], list[int], list[Optional[Threshold]]]:
    """What stands out in a sample: the strongest facts and thresholds, and uncertain facts."""

    def strength(one: Union[Tested, Threshold]) -> float:
        table = statistics.Counts(screen.target, one.among, one.joint, screen.total).table
        return _strength(table, options) if goes(table, options.direction) else -math.inf

    facts = [one for one in found if one.p_value <= options.fdr]
    numbers = [one for one in thresholds if one is not None and one.estimate <= options.fdr]
    facts.sort(key=strength, reverse=True)
    numbers.sort(key=strength, reverse=True)
    most = 2 * options.max_results
    return facts[: 2 * most], [*promising[: most // 4]], [*numbers[: most // 4]]


def _thresholds(
    population: Population,
    units: Traces,
    screen: Traces,
    question: Question,
    options: Options,
) -> list[Optional[Threshold]]:
    """The best threshold of every field with numbers."""
    names = [
        name for name in population.series() if options.restatements or not question.restated(name)
    ][:MOST_SERIES]
    least = max(1, options.min_support * screen.total // units.total)
    return best_thresholds(population, screen, names, options.direction, least)


def _tested_thresholds(
    population: Population,
    units: Traces,
    screen: Traces,
    thresholds: Sequence[Optional[Threshold]],
    options: Options,
    counts: Sequence[int],
) -> Iterator[Tested]:
    """Thresholds with their p values; those that are not exact are counted by themselves."""
    items = population.items
    tests = TargetTests(units.target, units.total)
    unsure: list[tuple[float, Threshold]] = []
    for threshold in thresholds:
        if threshold is None:
            yield _NOTHING
            continue
        doubts = [items.known(other) for other in candidates.uncertain_by(threshold.name)]
        if screen is not units or any(other is not None and counts[other] for other in doubts):
            unsure.append((threshold.estimate, threshold))
        else:
            yield _priced(threshold, threshold.among, threshold.joint, tests)
    unsure.sort(key=lambda entry: entry[0])
    for place, (p_value, threshold) in enumerate(unsure):
        if (
            place < MOST_SETTLED
            and p_value <= options.fdr
            and _written(threshold.fact, apart=True) is not None
        ):
            sets = population.matching(candidates.node_of(threshold.fact))
            yield _priced(threshold, *units.measured(sets), tests)
        elif screen is units:
            yield _NOTHING


def _priced(threshold: Threshold, among: int, joint: int, tests: TargetTests) -> Tested:
    p_value = threshold.price(tests.p_value(among, joint))
    test = f"best of {threshold.searched} splits, {tests.test(among)}"
    return Tested(threshold.fact, among, joint, p_value, test)


def _promising(
    units: Traces,
    options: Options,
    tests: TargetTests,
    unsure: Mapping[int, Sequence[int]],
    counts: Sequence[int],
    joints: Sequence[int],
) -> list[int]:
    """The uncertain facts that are most likely to be significant."""
    if not unsure:
        return []
    total, target = units.total, units.target
    opaque = units.opaque({other for others in unsure.values() for other in others})
    promises = []
    for item, others in unsure.items():
        count, joint = counts[item], joints[item]
        # At most so many more; the same unit may be among them twice.
        base = sum([opaque[other][0] for other in others])
        inside = sum([opaque[other][1] for other in others])
        outside = min(base - inside, total - target - (count - joint))
        inside = min(inside, target - joint)
        promise = 1.0
        if options.direction != "negative":
            promise = tests.p_value(count + inside, joint + inside)
        if options.direction != "positive":
            promise = min(promise, tests.p_value(count + outside, joint))
        if promise <= options.fdr:
            promises.append((promise, item))
    return [item for _, item in sorted(promises)[:MOST_SETTLED]]


def _is_wanted(name: Name, items: candidates.Items, question: Question, options: Options) -> bool:
    if candidates.kind_of(name) not in options.kinds:
        return False
    if not options.restatements and question.restated(name):
        return False
    if name[0] == "v":
        # Of what is measured no single value is of interest.
        numeric = items.numeric_values(name[1], name[2])
        if numeric > candidates.MOST_EQUAL_NUMBERS and candidates.reads_as_number(name):
            return False
    return True


def _is_whole(name: Name, count: int, items: candidates.Items, counts: Sequence[int]) -> bool:
    """Whether a pair of span columns says no more than one of them."""
    if name[0] != "s":
        return False
    for other in (("v", "span", name[1], name[2]), ("v", "span", "status", name[3])):
        number = items.known(other)
        if number is not None and counts[number] == count:
            return True
    return False


# -------------------------------------------------------------------------- pairs


def _members(units: Traces, found: Sequence[Found]) -> list[Found]:
    """The facts that pairs are made of: the strongest, and the most significant.

    Of near-identical ones only the strongest is among them.
    """
    table = statistics.Counts
    evident = sorted(
        found,
        key=lambda one: (
            -g_squared(*table(units.target, one.fact.among, one.fact.joint, units.total).table)
        ),
    )
    some = [*found[: 2 * MOST_MEMBERS], *evident[: 2 * MOST_MEMBERS]]
    distinct = sorted({one.fact.name: one for one in some}.values(), key=lambda one: one.order)
    leaders = [shown.found for shown in _grouped(units, distinct, True, len(distinct))]
    chosen = leaders[:MOST_MEMBERS]
    rank = {one.fact.name: place for place, one in enumerate(evident)}
    others = sorted(leaders[MOST_MEMBERS:], key=lambda one: rank[one.fact.name])
    return chosen + others[:MOST_MEMBERS]


def _tested_pairs(
    population: Population,
    units: Traces,
    members: Sequence[Found],
    options: Options,
    tests: TargetTests,
) -> list[Tested]:
    """Every pair of members, with p = 1 where it is not stronger than both of them.

    No more traces have both facts than have the rarer of them, which rules most
    pairs out before anything is counted.
    """
    found: list[Tested] = []
    likely: list[tuple[Found, Found]] = []
    for number, one in enumerate(members):
        for other in islice(members, number + 1, None):
            if _may_be_stronger(units, one, other, options):
                likely.append((one, other))
            else:
                found.append(_NOTHING)
    for (one, other), (among, joint) in zip(likely, _both(population, units, likely, options)):
        table = statistics.Counts(units.target, among, joint, units.total).table
        if (
            options.min_support <= among < units.total
            and _strength(table, options) > max(one.strength, other.strength)
            # Nearly all of one fact with the other is that fact once more.
            and not any(
                ranking.near_identical(member.fact.among, among, among, units.total)
                for member in (one, other)
            )
        ):
            name = ("a", one.fact.name, other.fact.name)
            p_value = tests.p_value(among, joint)
            found.append(Tested(name, among, joint, p_value, tests.test(among)))
        else:
            found.append(_NOTHING)
    return found


def _both(
    population: Population,
    units: Traces,
    likely: Sequence[tuple[Found, Found]],
    options: Options,
) -> Iterator[tuple[int, int]]:
    """How many units have both of two facts: of the base, and of the target.

    Where facts are sought in a sample, all but the most promising pairs have none.
    """
    names = [(one.fact.name, other.fact.name) for one, other in likely]
    screen = units.screen()
    if screen is units:
        yield from units.both(names)
        return
    estimates = []
    for place, (among, joint) in enumerate(screen.both(names)):
        table = statistics.Counts(screen.target, among, joint, screen.total).table
        estimates.append((-_strength(table, options), place))
    promising = {place for _, place in sorted(estimates)[: options.max_results // 2 + 1]}
    for place, pair in enumerate(names):
        if place in promising:
            node = tree.And(tuple([candidates.node_of(name) for name in pair]))
            yield units.measured(population.matching(node))
        else:
            yield 0, 0


#: Counts as tested, with nothing found.
_NOTHING = Tested(("n",), 0, 0, 1.0, "")


def _may_be_stronger(units: Traces, one: Found, other: Found, options: Options) -> bool:
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
        _strength(statistics.Counts(units.target, among, inside, units.total).table, options)
        > needed
        for among, inside in best
        if among >= options.min_support
    )


# ----------------------------------------------------------------------- grouping


def _grouped(units: Traces, found: Sequence[Found], apart: bool, most: int) -> list[Shown]:
    """The strongest facts, each with the near-identical ones that are weaker."""
    groups: list[Shown] = []
    at_once = max(COMPARED_AT_ONCE, most)
    for start in range(0, len(found), at_once):
        some = []
        for one in found[start : start + at_once]:
            text = _written(one.fact.name, apart)
            if text is not None:
                some.append(Shown(one, text, []))
        pairs = _near_identical(units, groups, some)
        for shown in some:
            name = shown.found.fact.name
            same = [group for group in groups if (group.found.fact.name, name) in pairs]
            if same:
                same[0].similar.append(shown.filter)
            else:
                groups.append(shown)
        if len(groups) >= most:
            break
    return groups[:most]


def _near_identical(
    units: Traces, before: Sequence[Shown], some: Sequence[Shown]
) -> set[tuple[Name, Name]]:
    """Pairs of facts, by name, that match nearly the same traces."""
    least: dict[tuple[Name, Name], tuple[int, int]] = {}
    # Of near-identical facts the smaller has at least phi squared of the larger's traces.
    share = ranking.NEAR_IDENTICAL_PHI**2
    everything = sorted(
        (shown.found.fact.among, place, shown.found.fact.name)
        for place, shown in enumerate([*before, *some])
    )
    for number, (count, place, name) in enumerate(everything):
        for other_count, other_place, other in islice(everything, number + 1, None):
            if count < share * other_count:
                break
            if max(place, other_place) < len(before):
                continue  # both lead a group of their own
            wanted = ranking.least_joint_of_near_identical(count, other_count, units.total)
            if wanted <= count:
                pair = (name, other) if place < other_place else (other, name)
                least[pair] = (count, other_count)
    if not least:
        return set()
    return units.screen().near_identical(least)
