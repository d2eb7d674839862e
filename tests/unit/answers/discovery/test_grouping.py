"""Near-identical facts, grouped as by comparing each with every leader."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest
from insights_engine.answers.discovery import grouping
from insights_engine.answers.discovery.findings import FactTest, Finding
from insights_engine.answers.discovery.units import Traces
from insights_engine.base import interrupts
from insights_engine.columns.names import Fact, SpanStatus, Value
from insights_engine.stats import ranking

POSITIONS = 400


class Part:
    """Some traces, all of the base."""

    def __init__(self, number: int, target: int) -> None:
        self.number = number
        self.base = (1 << POSITIONS) - 1
        self.target = target


class Population:
    """Facts by their sets in each part; counts what it is asked for."""

    plpy: Any = None

    def __init__(self, facts: dict[Fact, list[int]]) -> None:
        self.facts = facts
        self.asked = 0

    def sets(self, part: Part, names: Iterable[Fact]) -> dict[Fact, int]:
        wanted = set(names)
        self.asked += len(wanted)
        return {name: self.facts[name][part.number] for name in wanted}


@pytest.fixture(autouse=True)
def nothing_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "look", lambda plpy: None)


def world(
    facts: dict[Fact, list[int]], targets: list[int]
) -> tuple[Traces, list[Finding], Population]:
    """Traces in parts, and the facts in some order."""
    population = Population(facts)
    parts: Any = [Part(number, target) for number, target in enumerate(targets)]
    some: Any = population
    units = Traces(some, parts)
    found: list[Finding] = []
    for name, sets in facts.items():
        among = sum(bits.bit_count() for bits in sets)
        joint = sum((bits & target).bit_count() for bits, target in zip(sets, targets, strict=True))
        found.append(Finding(FactTest(name, among, joint, 0.0, ""), 0.0, -float(len(found))))
    return units, found, population


def by_comparing_all(
    units: Traces, found: list[Finding], facts: dict[Fact, list[int]], most: int
) -> list[tuple[Fact, int]]:
    """Each leader, and how many others are in its group."""
    # The sets of all parts as one.
    whole = {
        name: sum(bits << part * POSITIONS for part, bits in enumerate(sets))
        for name, sets in facts.items()
    }
    groups: list[tuple[Finding, list[Finding]]] = []
    at_once = max(grouping.LOOKED_AT_ONCE, most)
    for start in range(0, len(found), at_once):
        for one in found[start : start + at_once]:
            its = whole[one.fact.name]
            for leader, others in groups:
                both = (whole[leader.fact.name] & its).bit_count()
                sizes = leader.fact.among, one.fact.among
                if ranking.near_identical(*sizes, both, units.total):
                    others.append(one)
                    break
            else:
                groups.append((one, []))
        if len(groups) >= most:
            break
    return [(leader.fact.name, len(others)) for leader, others in groups[:most]]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("most", [5, 300])
def test_groups_are_those_of_comparing_all(seed: int, most: int) -> None:
    dice = random.Random(seed)
    targets = [dice.getrandbits(POSITIONS) for _ in range(3)]
    facts: dict[Fact, list[int]] = {}
    while len(facts) < 500:
        share = dice.choice([0.005, 0.01, 0.05, 0.3, 0.9])
        sets = [
            int("".join("01"[dice.random() < share] for _ in range(POSITIONS)), 2) for _ in targets
        ]
        # And some that are the same, or nearly.
        for _ in range(dice.choice([1, 1, 1, 5, 40])):
            changed = list(sets)
            for _ in range(dice.choice([0, 0, 1, 2, 5, 20])):
                changed[dice.randrange(3)] ^= 1 << dice.randrange(POSITIONS)
            if any(changed):
                facts[Value("tag", "k", str(len(facts)))] = changed
    names = list(facts)
    dice.shuffle(names)
    units, found, _ = world({name: facts[name] for name in names}, targets)
    groups = grouping.grouped(units, found, True, most)
    shown = [(one.found.fact.name, len(one.similar)) for one in groups]
    assert shown == [
        (name, min(others, grouping.MOST_SIMILAR))
        for name, others in by_comparing_all(units, found, facts, most)
    ]


def test_the_same_units_are_not_compared_time_and_again() -> None:
    """20,000 facts of 50 sets: each is looked at once, and compared with none."""
    facts: dict[Fact, list[int]] = {
        Value("tag", "k", str(n)): [1 << n % 50 | 1 << 399, 0] for n in range(20_000)
    }
    units, found, population = world(facts, [1, 0])
    groups = grouping.grouped(units, found, True, 1000)
    assert [len(one.similar) for one in groups] == [grouping.MOST_SIMILAR] * 50
    assert population.asked == 2 * len(facts)


def test_what_is_not_wholly_at_hand_is_not_taken_for_the_same() -> None:
    """Facts that were counted one by one, of whose traces the index shows none."""
    first = Value("tag", "a", "x")
    second = Value("tag", "b", "x")
    units, _, _ = world({first: [0], second: [0]}, [1])
    found = [Finding(FactTest(name, 7, 3, 0.0, ""), 0.0, 1.0) for name in (first, second)]
    assert len(grouping.grouped(units, found, True, 10)) == 2


def test_a_name_with_a_status_leads_over_the_status() -> None:
    status = Value("span", "status", "ERROR")
    named = SpanStatus("name", "refund", "ERROR")
    other = Value("tag", "env", "prod")
    many, one_less = (1 << 100) - 1, (1 << 99) - 1
    units, found, _ = world({status: [many], other: [many], named: [one_less]}, [many])
    (group,) = grouping.grouped(units, found, True, 10)
    assert group.found.fact.name == named
    assert group.similar == ["any(span.status = 'ERROR')", "tags.env = 'prod'"]
