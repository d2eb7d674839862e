"""What goes with a target: every fact counted, tested, ranked.

Counting is exact and comes first: part by part, how many traces of the base and
of the target have each item of the vocabulary.  What is left are numbers: which
facts are significant among all that were tested, which of them merely restate the
target, which of them are the same thing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from insights_engine import bitmaps, candidates, printer, ranking, statistics, tree
from insights_engine.bounds import all_positions
from insights_engine.candidates import Name
from insights_engine.errors import FilterError
from insights_engine.multiple import TargetTests, benjamini_hochberg
from insights_engine.options import Options
from insights_engine.parser import parse_filter
from insights_engine.population import Part, Population

#: Facts that the index leaves uncertain are counted one by one if they might be
#: significant: the most promising of them, so many.
MOST_SETTLED = 50
#: Facts compared with each other at a time, to group those that are near-identical.
COMPARED_AT_ONCE = 200


class Found(NamedTuple):
    """A significant fact."""

    filter: str
    label: candidates.Label
    #: Traces of the base, and of the target, that have the fact.
    among: int
    joint: int
    p_value: float
    q_value: float
    test: str
    restates: bool
    #: How strongly it goes with the target, for the ranking.
    strength: float
    #: What its positions are found by: an item.
    item: int


class Tested(NamedTuple):
    """A fact with its counts and its p value."""

    item: int
    name: Name
    #: Traces of the base, and of the target, that have the fact.
    among: int
    joint: int
    p_value: float


class Question(NamedTuple):
    """A target among a base, as trees; and what tells which facts restate it."""

    base: tree.Node
    target: tree.Node
    restated: candidates.Restated
    #: The exact counts of a fact of its filter: in the base, in the target as well.
    settle: Callable[[str], tuple[int, int]]


def discover(
    population: Population, question: Question, options: Options
) -> Iterator[dict[str, Any]]:
    """The rows of ``insights_discover``."""
    total, target = population.total, population.targets
    if not 0 < target < total:
        return
    tests = TargetTests(target, total)
    tested = list(_tested(population, question, options, tests))
    q_values = benjamini_hochberg([one.p_value for one in tested])
    apart = candidates.has_span_condition(question.base)
    found = []
    for one, q_value in zip(tested, q_values):
        if q_value > options.fdr:
            continue
        table = statistics.Counts(target, one.among, one.joint, total).table
        if not _goes(table, options.direction):
            continue
        node = candidates.node_of(one.name)
        text = printer.print_apart(node) if apart else printer.print_filter(node)
        if not _reads_back(text, node):
            continue
        found.append(
            Found(
                text,
                candidates.label(one.name),
                one.among,
                one.joint,
                one.p_value,
                q_value,
                tests.test(one.among),
                question.restated(one.name),
                ranking.log_odds_ratio(*table).strength(options.direction),
                one.item,
            )
        )
    found.sort(key=lambda fact: (-fact.strength, fact.p_value, len(fact.filter), fact.filter))
    for leader, similar in _grouped(population, found, options.max_results, total):
        yield _row(leader, similar, target, total, len(tested))


def _goes(table: tuple[int, int, int, int], direction: str) -> bool:
    n11, n10, n01, n00 = table
    determinant = n11 * n00 - n10 * n01
    if direction == "positive":
        return determinant > 0
    return determinant < 0 if direction == "negative" else determinant != 0


def _reads_back(text: str, node: tree.Node) -> bool:
    """Whether a filter can be written: not every key or value can."""
    try:
        return parse_filter(text) == node
    except FilterError:
        return False


def _row(
    fact: Found, similar: Sequence[str], target: int, total: int, tested: int
) -> dict[str, Any]:
    counts = statistics.Counts(target, fact.among, fact.joint, total)
    log_odds = ranking.log_odds_ratio(*counts.table)
    odds_ratio, low, high = log_odds.odds_ratio
    npmi, _ = statistics.npmi_from_counts(fact.joint, target, fact.among, total)
    inside = fact.joint / target
    outside = (fact.among - fact.joint) / (total - target)
    return {
        "filter": fact.filter,
        "kind": fact.label.kind,
        "key": fact.label.key,
        "value": fact.label.value,
        "target_count": target,
        "fact_count": fact.among,
        "joint_count": fact.joint,
        "total_count": total,
        "target_share": inside,
        "other_share": outside,
        "difference": inside - outside,
        "lift": statistics.lift(*counts.table),
        "npmi": npmi,
        "phi": statistics.phi(*counts.table),
        "odds_ratio": odds_ratio,
        "odds_ratio_low": low,
        "odds_ratio_high": high,
        "p_value": fact.p_value,
        "q_value": fact.q_value,
        "test": fact.test,
        "restates": fact.restates,
        "similar": list(similar),
        "tested": tested,
    }


# ------------------------------------------------------------------------ testing


def _tested(
    population: Population, question: Question, options: Options, tests: TargetTests
) -> Iterator[Tested]:
    """Every fact that is tested; p may be 1 where it is far above what counts."""
    counts, joints = _counted(population)
    total, target = population.total, population.targets
    items = population.items
    chosen: list[int] = []
    unsure: list[tuple[float, int]] = []
    for item in range(len(counts)):
        count = counts[item]
        if not 0 < count < total:
            continue
        name = items.name(item)
        if not _is_wanted(name, items, question, options):
            continue
        more, more_joint = 0, 0
        for other in candidates.uncertain_by(name):
            number = items.known(other)
            if number is not None:
                more += counts[number]
                more_joint += joints[number]
        # The same trace may be counted more than once.
        more_joint = min(more_joint, target - joints[item])
        more = min(more, more_joint + total - target - (count - joints[item]))
        if more:
            known = (count, joints[item])
            promise = _best_p_value(tests, options, total, known, (more, more_joint))
            if count + more >= options.min_support and promise <= options.fdr:
                unsure.append((promise, item))
        elif count >= options.min_support and not _is_whole(name, count, items, counts):
            chosen.append(item)
    p_values = tests.p_values(
        [counts[item] for item in chosen], [joints[item] for item in chosen], options.fdr
    )
    for item, p_value in zip(chosen, p_values):
        yield Tested(item, items.name(item), counts[item], joints[item], p_value)
    for _, item in sorted(unsure)[:MOST_SETTLED]:
        name = items.name(item)
        node = candidates.node_of(name)
        text = printer.print_apart(node)
        if not _reads_back(text, node):
            continue
        count, joint = question.settle(text)
        if options.min_support <= count < total:
            yield Tested(item, name, count, joint, tests.p_value(count, joint))


def _counted(population: Population) -> tuple[list[int], list[int]]:
    """Of each item: how many traces of the base have it, and how many of the target."""
    counts: list[int] = []
    joints: list[int] = []
    for part in population.parts:
        columns = part.columns()
        for totals in (counts, joints):
            totals += [0] * (len(population.items) - len(totals))
        whole = part.base == all_positions(part.used)
        columns.add_counts(counts, None if whole else part.base)
        columns.add_counts(joints, part.target)
    return counts, joints


def _is_wanted(name: Name, items: candidates.Items, question: Question, options: Options) -> bool:
    if not candidates.is_fact(name) or candidates.kind_of(name) not in options.kinds:
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


def _best_p_value(
    tests: TargetTests,
    options: Options,
    total: int,
    known: tuple[int, int],
    more: tuple[int, int],
) -> float:
    """The least p value that an uncertain fact may have in the end.

    ``known`` and ``more`` are its traces, and those of them in the target, that are
    known, and at most so many more.
    """
    count, joint = known
    best = 1.0
    if options.direction != "negative":
        best = tests.p_value(count + more[1], joint + more[1])
    if options.direction != "positive":
        best = min(best, tests.p_value(min(count + more[0] - more[1], total), joint))
    return best


# ----------------------------------------------------------------------- grouping


def _grouped(
    population: Population, found: Sequence[Found], most: int, total: int
) -> Iterator[tuple[Found, list[str]]]:
    """The strongest facts, each with the near-identical ones that are weaker."""
    groups: list[tuple[Found, list[str]]] = []
    for start in range(0, len(found), COMPARED_AT_ONCE):
        some = found[start : start + COMPARED_AT_ONCE]
        pairs = _near_identical(population, [leader for leader, _ in groups], some, total)
        for fact in some:
            for leader, similar in groups:
                if (leader.item, fact.item) in pairs:
                    similar.append(fact.filter)
                    break
            else:
                groups.append((fact, []))
        if len(groups) >= most:
            break
    yield from groups[:most]


def _near_identical(
    population: Population, before: Sequence[Found], some: Sequence[Found], total: int
) -> set[tuple[int, int]]:
    """The items of pairs of facts that match nearly the same traces."""
    least: dict[tuple[int, int], tuple[Found, Found]] = {}
    # Of near-identical facts the smaller has at least phi squared of the larger's traces.
    share = ranking.NEAR_IDENTICAL_PHI**2
    everything = sorted(
        [(fact.among, place, fact) for place, fact in enumerate([*before, *some])],
        key=lambda entry: entry[:2],
    )
    for number, (count, place, fact) in enumerate(everything):
        for other_count, other_place, other in everything[number + 1 :]:
            if count < share * other_count:
                break
            if max(place, other_place) < len(before):
                continue  # both lead a group of their own
            wanted = ranking.least_joint_of_near_identical(count, other_count, total)
            if wanted <= count:
                first, second = (fact, other) if place < other_place else (other, fact)
                least[first.item, second.item] = (first, second)
    if not least:
        return set()
    met = dict.fromkeys(least, 0)
    items = {item for pair in least for item in pair}
    for part in population.parts:
        sets = {item: bits & part.base for item, bits in _sets(part, items).items()}
        for first_item, second_item in least:
            both = sets.get(first_item, 0) & sets.get(second_item, 0)
            if both:
                met[first_item, second_item] += bitmaps.count(both)
    return {
        pair
        for pair, (first, second) in least.items()
        if ranking.near_identical(first.among, second.among, met[pair], total)
    }


def _sets(part: Part, items: set[int]) -> dict[int, int]:
    return part.columns().sets(items)
