"""The options of a discovery, and their checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

from insights_engine.columns.candidates import KINDS
from insights_engine.index.sessions import check_unit
from insights_engine.language import fields
from insights_engine.language.errors import InsightsError, at_most, positive, visible

#: Rows are compared with each other, which takes memory for each pair.
MOST_RESULTS = 1000
#: Some may be named twice.
MOST_KINDS = 100

_NARROWER = "For other facts choose kinds, a higher min_support or a base_filter."

DIRECTIONS = ("positive", "negative", "both")


class Options(NamedTuple):
    """The options of ``insights_discover`` and ``insights_compare``."""

    kinds: frozenset[str]
    min_support: int
    max_results: int
    fdr: float
    direction: str
    pairs: bool
    restatements: bool
    unit: str


def options(
    kinds: Optional[Sequence[Any]],
    min_support: Optional[int],
    max_results: Optional[int],
    fdr: Optional[float],
    direction: Optional[str],
    pairs: Optional[bool],
    restatements: Optional[bool],
    unit: Optional[str],
) -> Options:
    """The options, with what NULL stands for.  Raises InsightsError."""
    if kinds is None:
        chosen = frozenset(KINDS)
    else:
        at_most(kinds, "kinds", MOST_KINDS)
        chosen = frozenset([_one_of("kind", kind, KINDS) for kind in kinds])
    support = positive(
        min_support,
        "min_support",
        "Facts of fewer units of the base are not tested; the default is 5.",
    )
    if fdr is None or not (math.isfinite(fdr) and 0 < fdr <= 1):
        raise InsightsError(
            f"Invalid value {_shown(fdr)} for parameter 'fdr' supplied. "
            "It must be greater than 0 and at most 1",
            hint="The false discovery rate is the share of the rows that may be chance: "
            "0.05 is one in twenty.",
        )
    return Options(
        chosen,
        support,
        positive(max_results, "max_results", _NARROWER, MOST_RESULTS),
        fdr,
        _one_of("direction", direction, DIRECTIONS),
        bool(pairs),
        bool(restatements),
        check_unit(unit),
    )


def _shown(given: Optional[float]) -> str:
    return "NULL" if given is None else str(given)


def _one_of(name: str, given: Any, known: Sequence[str]) -> str:
    if given in known:
        return str(given)
    shown = "NULL" if given is None else f"'{visible(str(given), 60)}'"
    near = None if given is None else fields.nearest(str(given), known)
    listed = ", ".join(f"'{one}'" for one in known)
    raise InsightsError(
        f"Invalid {name} {shown}.",
        hint=f"Did you mean '{near}'? Possible are {listed}."
        if near
        else f"Possible are {listed}.",
    )


def goes(table: tuple[int, int, int, int], direction: str) -> bool:
    """Whether the cells (n11, n10, n01, n00) of target and fact go in a direction."""
    n11, n10, n01, n00 = table
    determinant = n11 * n00 - n10 * n01
    if direction == "positive":
        return determinant > 0
    return determinant < 0 if direction == "negative" else determinant != 0
