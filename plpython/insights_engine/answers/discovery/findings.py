"""Facts with their counts and tests, and the rows that show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

from insights_engine.answers.discovery.options import Options, goes
from insights_engine.answers.discovery.units import Traces
from insights_engine.base.interrupts import in_order
from insights_engine.columns import candidates, names
from insights_engine.columns.names import Both, Experiment, Fact, SpanStatus, Value
from insights_engine.language import printer
from insights_engine.language.errors import FilterError
from insights_engine.language.parser import parse_filter
from insights_engine.stats import ranking, statistics
from insights_engine.stats.multiple import TargetTests, benjamini_hochberg
from insights_engine.stats.thresholds import Searches


class FactTest(NamedTuple):
    """A fact with its counts and its p value."""

    name: Fact
    #: Units of the base, and of the target, that have the fact.
    among: int
    joint: int
    p_value: float
    test: str
    #: The search that found it, if there was one.
    search: Optional[Searches] = None

    def counted(self, among: int, joint: int, tests: TargetTests) -> FactTest:
        """The fact with other counts, tested."""
        return measured(self.name, among, joint, tests, self.search)


#: A fact that counts as tested and is never shown.
NOTHING = FactTest(Value("", "", ""), 0, 0, 1.0, "")


#: Columns that tell spans apart, the best first.
_COLUMNS = ("name", "type")


class Finding(NamedTuple):
    """A significant fact."""

    fact: FactTest
    q_value: float
    #: The strength of the association, for the ranking.
    strength: float

    @property
    def order(self) -> tuple[float, bool, int, int, str]:
        """A key that sorts the strongest first.

        Among equals, facts about traces come first; then the status of spans by name, then
        by type; then the shorter fact.
        """
        name = self.fact.name
        text = names.ordered_by(name)
        column = len(_COLUMNS)
        if isinstance(name, SpanStatus):
            column = _COLUMNS.index(name.column)
        of_spans = isinstance(name, (SpanStatus, Both)) or (
            not isinstance(name, Experiment) and name.kind in ("span", "attribute")
        )
        return -self.strength, of_spans, column, len(text), text


class ShownFact(NamedTuple):
    """A fact that is shown, under its filter."""

    found: Finding
    filter: str
    #: The filters of weaker facts that are near-identical.
    similar: list[str]


def measured(
    name: Fact, among: int, joint: int, tests: TargetTests, search: Optional[Searches] = None
) -> FactTest:
    """The test of a counted fact, with the search for its threshold paid for."""
    p_value, test = tests.p_value(among, joint), tests.test(among)
    if search is None:
        return FactTest(name, among, joint, p_value, test)
    test = f"best of {search.size} splits, {test}"
    return FactTest(name, among, joint, search.price(p_value), test, search)


def significant(
    facts: Sequence[FactTest], units: Traces, options: Options, tested: Optional[int] = None
) -> list[Finding]:
    """The significant facts of the direction in ``options``, the strongest first.

    ``tested``: the number of all facts, where not all are given.  A sample serves to find
    facts only, so each is judged by itself.
    """
    # No q value is below its p value, and those above the rate change none below it.
    some = [one for one in units.each(facts) if one is not NOTHING and one.p_value <= options.fdr]
    q_values = p_values = [one.p_value for one in some]
    if not units.sampled:
        q_values = benjamini_hochberg(p_values, tested or len(facts), units.look)
    found = []
    for one, q_value in units.each(zip(some, q_values)):
        if q_value <= options.fdr and goes(table(units, one.among, one.joint), options.direction):
            found.append(Finding(one, q_value, strength(units, one.among, one.joint, options)))
    return in_order(found, lambda one: one.order, units.look)


def table(units: Traces, among: int, joint: int) -> tuple[int, int, int, int]:
    """The cells (n11, n10, n01, n00) of target and fact."""
    return statistics.Counts(units.target, among, joint, units.total).table


def strength(units: Traces, among: int, joint: int, options: Options) -> float:
    """The strength of association of a fact with these counts, in the direction asked for."""
    return ranking.strength(statistics.odds_ratio(*table(units, among, joint)), options.direction)


def written(name: Fact, apart: bool) -> Optional[str]:
    """The filter of a fact; None where the language cannot express its key or value.

    ``apart``: AND with other conditions on spans must not bind it to their spans.
    """
    node = names.node_of(name)
    if isinstance(name, Both):
        text = " AND ".join(
            [printer.print_apart(names.node_of(one)) for one in names.singles(name)]
        )
    else:
        text = printer.print_apart(node) if apart else printer.print_filter(node)
    try:
        return text if parse_filter(text) == node else None
    except FilterError:
        return None


def row(
    shown: ShownFact, units: Traces, restated: candidates.Restated, tested: int, screened: int
) -> dict[str, Any]:
    """The row of ``insights_discover``; ``tested`` facts were tested, among ``screened`` units."""
    fact, q_value, _ = shown.found
    target, total, among, joint = units.target, units.total, fact.among, fact.joint
    cells = table(units, among, joint)
    odds = statistics.odds_ratio(*cells)
    inside = joint / target
    outside = (among - joint) / (total - target)
    return {
        "filter": shown.filter,
        **names.label(fact.name)._asdict(),
        "target_count": target,
        "fact_count": among,
        "joint_count": joint,
        "total_count": total,
        "target_share": inside,
        "other_share": outside,
        "difference": inside - outside,
        "lift": statistics.lift(*cells),
        "npmi": statistics.npmi_from_counts(joint, target, among, total)[0],
        "phi": statistics.phi(*cells),
        "odds_ratio": odds.value,
        "odds_ratio_low": odds.low,
        "odds_ratio_high": odds.high,
        "p_value": fact.p_value,
        "q_value": q_value,
        "test": fact.test,
        "restates": restated(fact.name),
        "similar": shown.similar,
        "tested": tested,
        "screened_count": screened,
    }
