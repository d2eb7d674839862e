"""Experiment ids, as MLflow's store takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from insights_engine.language.errors import InsightsError, at_most, visible

#: Experiments that one call may name; NULL stands for all.
MOST = 100_000

# trace_info.experiment_id is an integer column.
_LARGEST = 2**31 - 1


def experiment_ids(ids: Optional[Sequence[Any]], locations: bool = False) -> Optional[list[int]]:
    """The distinct ids in ascending order; None, every experiment, for None.

    Ids are read as Python's ``int`` reads them, which is what MLflow does.  An
    id that no experiment can have is left out: it finds nothing, like the id
    of an experiment that does not exist.  ``locations`` chooses the sentence
    of ``search_traces`` for an id with a dot in it.
    """
    if ids is None:
        return None
    at_most(ids, "exp_ids", MOST)
    if any(isinstance(one, (list, tuple)) for one in ids):
        raise InsightsError("Experiment ids must be an array of one dimension.")
    if locations:
        _refuse_dots(ids)
    numbers = {_experiment_id(one) for one in ids}
    return sorted(number for number in numbers if 0 <= number <= _LARGEST)


def _refuse_dots(ids: Sequence[Any]) -> None:
    dotted = ", ".join(visible(one) for one in ids if isinstance(one, str) and "." in one)
    if dotted:
        if len(dotted) > 20:
            dotted = dotted[:20] + "..."
        raise InsightsError(
            f"Locations must be a list of experiment IDs. Found invalid experiment IDs: {dotted}.",
            hint="Experiment ids are whole numbers, such as '0'.",
        )


def _experiment_id(one: Any) -> int:
    try:
        return int(one)
    except (TypeError, ValueError):
        shown = "NULL" if one is None else f"'{visible(str(one), 60)}'"
        raise InsightsError(
            f"Invalid experiment ID {shown}. Experiment ID must be a valid integer.",
            hint="Experiment ids are whole numbers, such as '0'; NULL instead of the "
            "array stands for all experiments.",
        ) from None
