"""The significance of every fact: its counts and its p value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from insights_engine.answers.discovery.findings import NOTHING, FactTest, measured, written
from insights_engine.answers.discovery.options import Options
from insights_engine.answers.discovery.population import Population
from insights_engine.answers.discovery.thresholds import Threshold, best_thresholds
from insights_engine.answers.discovery.units import Traces
from insights_engine.columns import candidates
from insights_engine.columns.names import STORED, Doubt, SpanStatus, Stored, Value, kind_of
from insights_engine.language import tree
from insights_engine.stats.multiple import TargetTests

#: Facts that the index leaves uncertain and that are counted by exact SQL: the most
#: promising of those that might be significant.
MOST_SETTLED = 50
#: Fields whose thresholds are searched.
MOST_NUMBER_FIELDS = 500


class Question(NamedTuple):
    """A base and a target, as trees, and the facts that restate the target."""

    base: tree.Node
    target: tree.Node
    restated: candidates.Restated


def tested_facts(
    population: Population, units: Traces, question: Question, options: Options
) -> Iterator[FactTest]:
    """Every fact that is tested; p may be 1 where it is far from significant.

    Counts are exact.  In a sample, whose counts are never shown, uncertain facts count
    as the index has them.
    """
    tests = TargetTests(units.target, units.total)
    counts, joints = units.items(options.min_support)
    items = population.items
    question.restated.is_of_roots = _of_roots(items, counts)
    facts: dict[int, Stored] = {}
    chosen: list[int] = []
    unsure: dict[int, tuple[int, ...]] = {}
    for item, count in enumerate(units.each(counts)):
        if not options.min_support <= count < units.total:
            continue
        name = items.name(item)
        if not isinstance(name, STORED) or not _is_wanted(name, items, question, options):
            continue
        facts[item] = name
        opaque = () if units.sampled else _there(items, candidates.uncertain_by(name), counts)
        if opaque:
            unsure[item] = opaque
        elif not _is_whole(name, count, items, counts):
            chosen.append(item)
    p_values = tests.p_values(
        units.each([counts[item] for item in chosen]),
        [joints[item] for item in chosen],
        options.fdr,
    )
    for item, p_value in units.each(zip(chosen, p_values)):
        count = counts[item]
        if p_value > options.fdr:
            yield NOTHING  # it is never shown, and there are many of them
        else:
            yield FactTest(facts[item], count, joints[item], p_value, tests.test(count))
    for item in _promising(units, options, tests, unsure, counts, joints):
        name = facts[item]
        if written(name, apart=True) is not None:
            fact = measured(name, *units.having(name), tests)
            if options.min_support <= fact.among < units.total:
                yield fact
    if "number" in options.kinds:
        yield from _tested_thresholds(population, units, question, options, tests, counts)


def _of_roots(items: candidates.Items, counts: Sequence[int]) -> Callable[[str], bool]:
    def is_of_roots(span_name: str) -> bool:
        """Whether spans of a name are in no more traces than MLflow has called by it."""
        spans, traces = [items.known(Value(kind, "name", span_name)) for kind in ("span", "trace")]
        return spans is not None and traces is not None and 0 < counts[spans] <= counts[traces]

    return is_of_roots


def _there(
    items: candidates.Items, names: Iterable[Doubt], counts: Sequence[int]
) -> tuple[int, ...]:
    """The items that some trace has."""
    known = [items.known(name) for name in names]
    return tuple([item for item in known if item is not None and counts[item]])


def _tested_thresholds(
    population: Population,
    units: Traces,
    question: Question,
    options: Options,
    tests: TargetTests,
    counts: Sequence[int],
) -> Iterator[FactTest]:
    """The best threshold of every field with numbers, with the search for it paid for."""
    items = population.items
    names = [
        name
        for name in population.number_fields()
        if options.restatements or not question.restated(name)
    ][:MOST_NUMBER_FIELDS]
    unsure: list[Threshold] = []
    for threshold in best_thresholds(
        population, units, names, options.direction, options.min_support
    ):
        if threshold is None:
            yield NOTHING
        elif not units.sampled and _there(items, candidates.uncertain_by(threshold.name), counts):
            unsure.append(threshold)
        else:
            split = threshold.split
            yield measured(threshold.fact, split.among, split.joint, tests, split.search)
    unsure.sort(key=lambda threshold: threshold.split.estimate)
    for place, threshold in enumerate(unsure):
        if (
            place < MOST_SETTLED
            and threshold.split.estimate <= options.fdr
            and written(threshold.fact, apart=True) is not None
        ):
            counted = units.having(threshold.fact)
            yield measured(threshold.fact, *counted, tests, threshold.split.search)
        else:
            yield NOTHING


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
    for item, others in units.each(unsure.items()):
        count, joint = counts[item], joints[item]
        # At most so many more; the same unit may be among them twice.
        base = sum([opaque[other].among for other in others])
        inside = sum([opaque[other].joint for other in others])
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


def _is_wanted(name: Stored, items: candidates.Items, question: Question, options: Options) -> bool:
    if kind_of(name) not in options.kinds:
        return False
    if not options.restatements and question.restated(name):
        return False
    if isinstance(name, Value):
        # A measured number has thresholds; its single values tell nothing.
        numeric = items.numeric_values(name.kind, name.key)
        if numeric > candidates.MOST_EQUAL_NUMBERS and candidates.reads_as_number(name):
            return False
    return True


def _is_whole(name: Stored, count: int, items: candidates.Items, counts: Sequence[int]) -> bool:
    """Whether a name or type with a status says no more than the name or type.

    That spans failed is worth saying also where all of that name did.
    """
    if not isinstance(name, SpanStatus) or name.status == "ERROR":
        return False
    number = items.known(Value("span", name.column, name.text))
    return number is not None and counts[number] == count
