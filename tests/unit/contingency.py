"""Contingency tables of two filters, small ones and random ones."""

from __future__ import annotations

import itertools
import math
import random

#: Traces that match both filters, the first alone, the second alone, neither.
Table = tuple[int, int, int, int]

SMALL_TABLES: list[Table] = [(a, b, c, d) for a, b, c, d in itertools.product(range(7), repeat=4)]


def random_tables(count: int, largest: int, seed: int) -> list[Table]:
    """Tables whose cells are spread over all magnitudes up to ``largest``."""
    rng = random.Random(seed)
    exponent = math.log10(largest)
    tables: list[Table] = []
    while len(tables) < count:
        cells = [int(10 ** (rng.random() * exponent)) * (rng.random() > 0.15) for _ in range(4)]
        if sum(cells):
            tables.append((cells[0], cells[1], cells[2], cells[3]))
    return tables
