"""Many filters at once: the association of each two of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Callable, Optional

from insights_engine.answers.counts import correlate
from insights_engine.exact.statement import Statement
from insights_engine.index import sessions
from insights_engine.language import tree
from insights_engine.language.errors import FilterError, InsightsError

FEWEST, MOST = 2, 50


def check_filters(filters: Optional[Sequence[Any]]) -> Sequence[Optional[str]]:
    """The filters, each of which may be None.  Raises InsightsError."""
    if filters is None or any(isinstance(one, (list, tuple)) for one in filters):
        raise InsightsError("The filters must be an array of texts, of one dimension.")
    if not FEWEST <= len(filters) <= MOST:
        raise InsightsError(
            f"A matrix takes {FEWEST} to {MOST} filters, not {len(filters)}.",
            hint="insights_count takes one filter, insights_discover finds filters by itself.",
        )
    return filters


def each(
    filters: Sequence[Optional[str]], parse: Callable[[Optional[str]], tree.Node]
) -> list[tree.Node]:
    """The trees of some filters; an error tells the number of the filter, from 1."""
    nodes = []
    for number, filter in enumerate(filters, 1):
        try:
            nodes.append(parse(filter))
        except FilterError as error:
            raise FilterError(
                f"filter {number}: {error.message}",
                error.position,
                error.length,
                error.hint,
                error.filter,
            ) from None
    return nodes


def correlations(
    plpy: Any,
    statement: Statement,
    base: tree.Node,
    filters: Sequence[tree.Node],
    unit: str,
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(first, second, columns of insights_correlate) for each two filters, numbered from 0.

    ``filters`` include the base.
    """
    table = sessions.pair_counts(plpy, statement, (base, *filters), unit)
    for first in range(1, len(table)):
        for second in range(first + 1, len(table)):
            yield (
                first - 1,
                second - 1,
                correlate.associated(
                    table[first][first], table[second][second], table[first][second], table[0][0]
                ),
            )
