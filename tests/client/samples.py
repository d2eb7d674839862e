"""Answers made by hand, for how they look."""

from __future__ import annotations

import math
from datetime import datetime, timezone

from insights_py import Bucket, Facet, Fact, Pair

TARGET = 12_044
TOTAL = 200_000


def fact(filter: str, joint: int, count: int, similar: tuple[str, ...] = ()) -> Fact:
    """A fact that ``count`` of 200,000 traces have, ``joint`` of them in the target."""
    a, b, c = joint, count - joint, TARGET - joint
    d = TOTAL - TARGET - b
    ratio = (a + 0.5) * (d + 0.5) / ((b + 0.5) * (c + 0.5))
    spread = math.exp(1.96 * math.sqrt(sum(1 / (cell + 0.5) for cell in (a, b, c, d))))
    return Fact(
        filter=filter,
        kind="attribute",
        key="key",
        value="value",
        target_count=TARGET,
        fact_count=count,
        joint_count=joint,
        total_count=TOTAL,
        target_share=joint / TARGET,
        other_share=b / (TOTAL - TARGET),
        difference=joint / TARGET - b / (TOTAL - TARGET),
        lift=joint * TOTAL / (TARGET * count),
        npmi=0.4,
        phi=0.3,
        odds_ratio=ratio,
        odds_ratio_low=ratio / spread,
        odds_ratio_high=ratio * spread,
        p_value=1e-12,
        q_value=3.2e-11,
        test="G2",
        restates=False,
        similar=similar,
        tested=1835,
        screened_count=200_000,
    )


FACT = fact(
    "span.attributes['error_type'] = 'timeout'",
    6100,
    6200,
    ("span.attributes['retries'] = '3'", "tags.alert = 'timeout'", "tags.x = '1'"),
)
FACTS = (
    FACT,
    fact(
        "any(span.type = 'TOOL' AND span.name = 'query_database' AND span.status = 'ERROR')",
        900,
        1100,
    ),
    fact("execution_time_ms >= 10240", 4000, 22_000),
    fact("tags.release = 'v1'", 5000, 133_000),
)

FILTERS = (
    "span.status = 'ERROR'",
    "span.attributes['model'] = 'llama-3-70b'",
    "tags.environment = 'production' AND count(span.type = 'LLM') > 3",
)


def pair(first: int, second: int, npmi: float) -> Pair:
    """A pair of the three `FILTERS`."""
    return Pair(
        filter1_number=first,
        filter2_number=second,
        filter1=FILTERS[first - 1],
        filter2=FILTERS[second - 1],
        filter1_count=1000 * first,
        filter2_count=1000 * second,
        joint_count=100,
        total_count=TOTAL,
        npmi=npmi,
        npmi_smoothed=0.9 * npmi,
        lift=1.5,
        phi=0.5 * npmi,
        odds_ratio=2.0,
        odds_ratio_low=1.0,
        odds_ratio_high=4.0,
        p_value=1e-9,
        test="Fisher",
    )


PAIRS = (pair(1, 2, -0.734), pair(1, 3, 0.25), pair(2, 3, math.nan))

NAMES = (
    Facet("answer", None, None, "trace_name = 'answer'", 1200, 0.6),
    Facet("", None, None, "trace_name = ''", 1, 0.0001),
    Facet(None, None, None, "trace_name IS NULL", 799, 0.3995),
)
NUMBERS = (
    Facet(None, 0.0, 1000.0, "x >= 0 AND x < 1000", 1200, 0.6),
    Facet(None, 1000.0, None, "x >= 1000", 1, 0.0001),
    Facet(None, None, 0.5, "x < 0.5", 4, 0.002),
    Facet(None, None, None, "x IS NULL", 796, 0.398),
)

BUCKET = Bucket(
    time=datetime(2026, 1, 5, 9, tzinfo=timezone.utc),
    matched=160,
    total=699,
    rate=160 / 699,
    errors=36,
    error_rate=36 / 160,
    p50_ms=701.4,
    p95_ms=2900.0,
    p99_ms=7912.0,
    tokens=192_000,
    cost=1.968,
)
