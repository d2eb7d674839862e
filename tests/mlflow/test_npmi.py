"""NPMI is MLflow's, to the last bit."""

from __future__ import annotations

import itertools
import math
import struct

from insights_engine.stats import statistics
from mlflow.store.analytics.trace_correlation import calculate_npmi_from_counts

from tests.unit.contingency import SMALL_TABLES, random_tables


def bits(value: float | None) -> bytes:
    assert value is not None
    return b"nan" if math.isnan(value) else struct.pack(">d", value)


def test_npmi_is_mlflows_to_the_last_bit() -> None:
    grid = (-1, 0, 1, 2, 3, 5, 10, 33, 100, 1000, 12345, 10**6, 10**8)
    for joint, first, second, total in itertools.product(grid, repeat=4):
        theirs = calculate_npmi_from_counts(joint, first, second, total)
        ours = statistics.npmi_from_counts(joint, first, second, total)
        assert (bits(ours[0]), bits(ours[1])) == (
            bits(theirs.npmi),
            bits(theirs.npmi_smoothed),
        ), (joint, first, second, total)


def test_npmi_of_consistent_counts_is_mlflows_to_the_last_bit() -> None:
    for a, b, c, d in SMALL_TABLES + random_tables(3000, 10**8, seed=1):
        theirs = calculate_npmi_from_counts(a, a + b, a + c, a + b + c + d)
        ours = statistics.npmi_from_counts(a, a + b, a + c, a + b + c + d)
        assert (bits(ours[0]), bits(ours[1])) == (bits(theirs.npmi), bits(theirs.npmi_smoothed))
