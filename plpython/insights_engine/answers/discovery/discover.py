"""Facts associated with a target: every fact counted, tested, ranked.

Counting is exact and comes first: part by part, how many traces of the base and
of the target have each item of the vocabulary.  What is left are numbers: which
facts are significant among all that were tested, which of them merely restate the
target, which of them are the same thing twice.

Of millions of traces the facts are sought in a sample; those that lead there are
counted in all traces, and tested and ranked by these counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from insights_engine.answers.discovery import findings
from insights_engine.answers.discovery.findings import NOTHING, FactTest, ShownFact, significant
from insights_engine.answers.discovery.grouping import grouped
from insights_engine.answers.discovery.options import Options
from insights_engine.answers.discovery.pairing import tested_pair, tested_pairs
from insights_engine.answers.discovery.population import Population
from insights_engine.answers.discovery.significance import Question, tested_facts
from insights_engine.answers.discovery.units import Traces
from insights_engine.columns import candidates
from insights_engine.columns.names import Both, singles
from insights_engine.stats.multiple import TargetTests


def discover(
    population: Population, units: Traces, question: Question, options: Options
) -> Iterator[dict[str, Any]]:
    """The rows of ``insights_discover``."""
    if not 0 < units.target < units.total:
        return
    screen = units.screen()
    if not 0 < screen.target < screen.total:
        return
    within, most = options, options.max_results
    if screen is not units:
        # The count of all units decides later whether the support is enough.
        least = max(1, options.min_support * screen.total // units.total)
        within, most = options._replace(min_support=least), 2 * most
    facts = list(tested_facts(population, screen, question, within))
    found = significant(facts, screen, within)
    if options.pairs:
        facts += tested_pairs(screen, found, within)
        found = significant(facts, screen, within)
    groups = grouped(screen, found, candidates.has_span_condition(question.base), most)
    if screen is not units:
        groups = _recounted(units, groups, options, len(facts))
    for shown in groups:
        yield findings.row(shown, units, question.restated, len(facts), screen.total)


def _recounted(
    units: Traces, groups: Sequence[ShownFact], options: Options, tested: int
) -> list[ShownFact]:
    """The leading facts of a sample, counted among all units, as many as are wanted.

    Facts that are left out count as tested.
    """
    tests = TargetTests(units.target, units.total)
    # The order may change a little, and some facts may turn out to be chance.
    at_once = options.max_results + options.max_results // 4 + 1
    facts: list[FactTest] = []
    for start in range(0, len(groups), at_once):
        some = [shown.found.fact for shown in groups[start : start + at_once]]
        counts = units.counted([fact.name for fact in some])
        for fact in some:
            among, joint = counts[fact.name]
            if not options.min_support <= among < units.total:
                facts.append(NOTHING)
            elif isinstance(fact.name, Both):
                members = [counts[member] for member in singles(fact.name)]
                pair = fact._replace(among=among, joint=joint)
                facts.append(tested_pair(units, pair, members, options))
            else:
                facts.append(fact.counted(among, joint, tests))
        found = significant(facts, units, options, tested)
        if len(found) >= options.max_results:
            break
    shown_by_name = {shown.found.fact.name: shown for shown in groups}
    return [
        shown_by_name[one.fact.name]._replace(found=one) for one in found[: options.max_results]
    ]
