"""Sessions, matrices, facets and series are the oracle's, whatever the index has seen."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from insights_engine.language import fields, tree
from insights_engine.language.parser import parse_filter
from insights_engine.language.times import time_in_ms
from psycopg.rows import dict_row

from tests.semantics import oracle
from tests.semantics.agreement import scope_ids
from tests.semantics.strategies import (
    Question,
    Scenario,
    _attribute,
    _order_fields,
    conjunction,
    normal_form,
    palette_of,
    pick,
    scenario_of,
    some,
    subject,
)
from tests.semantics.test_index_equals_oracle import refresh
from tests.semantics.test_raw_equals_oracle import EXAMPLES
from tests.semantics.world import Trace, World, load

UNITS = ("trace", "session", "session_all")

RANDOM = settings(
    max_examples=max(EXAMPLES // 2, 1),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)

# ------------------------------------------------------- what the index has seen


def nothing(connection: psycopg.Connection[Any], dice: Random) -> None:
    """Every trace waits."""


def some_traces(connection: psycopg.Connection[Any], dice: Random) -> None:
    """Blocks of a few traces, the others wait."""
    for _ in range(dice.randint(1, 3)):
        refresh(connection, dice.randint(1, 4))


def all_traces(connection: psycopg.Connection[Any], dice: Random) -> None:
    """Blocks of a few traces, none waits."""
    while refresh(connection, dice.randint(2, 8)):
        pass


def no_index(connection: psycopg.Connection[Any], dice: Random) -> None:
    """MLflow's tables answer alone."""
    connection.execute("update insights.state set built = false")


STATES = (nothing, some_traces, all_traces, no_index)
Prepare = Callable[[psycopg.Connection[Any], Random], None]


@pytest.fixture(autouse=True)
def index_is_used_again(module_conn: psycopg.Connection[Any]) -> Iterator[None]:
    yield
    module_conn.execute("update insights.state set built = true")


def prepared(
    connection: psycopg.Connection[Any], scenario: Scenario, prepare: Prepare, dice: Random
) -> None:
    connection.execute("update insights.state set built = true")
    load(connection, scenario.world)
    prepare(connection, dice)


def rows_of(connection: psycopg.Connection[Any], sql: str, *args: Any) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(sql.encode(), args).fetchall()


# ------------------------------------------------------------------- the oracle


def in_scope(scenario: Scenario) -> list[Trace]:
    return [
        trace
        for trace in scenario.world.traces
        if scenario.scope is None or trace.experiment_id in scenario.scope
    ]


def answer(scenario: Scenario, node: tree.Node) -> set[str]:
    return oracle.matches(scenario.world, node, scenario.scope, scenario.now_ms)


def units_of(scenario: Scenario, ids: set[str], base: set[str], unit: str) -> set[str]:
    """The traces, or the sessions that match, of the traces that do."""
    if unit == "trace":
        return ids
    sessions: dict[str, list[bool]] = {}
    for trace in in_scope(scenario):
        if trace.session_id is not None and trace.trace_id in base:
            sessions.setdefault(trace.session_id, []).append(trace.trace_id in ids)
    together = all if unit == "session_all" else any
    return {session for session, matches in sessions.items() if together(matches)}


# --------------------------------------------------------- sessions and matrices


@pytest.mark.parametrize("prepare", STATES)
@RANDOM
@given(seed=st.integers(0, 2**64 - 1))
def test_sessions_and_matrices(
    module_conn: psycopg.Connection[Any], prepare: Prepare, seed: int
) -> None:
    dice = Random(seed)
    scenario = scenario_of(dice, questions=6)
    prepared(module_conn, scenario, prepare, dice)
    ids = scope_ids(scenario.scope)
    questions = scenario.questions
    base = dice.choice((None, *questions))
    within = tree.EVERYTHING if base is None else base.surface
    everything = {trace.trace_id for trace in in_scope(scenario)}
    for unit in UNITS:
        for question in questions:
            matching = answer(scenario, question.node)
            expected = len(units_of(scenario, matching, everything, unit))
            row = module_conn.execute(
                "select insights_count(%s::text[], %s, %s)", (ids, question.text, unit)
            ).fetchone()
            assert row == (expected,), (unit, question.text)
        rows = rows_of(
            module_conn,
            "select * from insights_correlation_matrix(%s::text[], %s, %s, %s)",
            ids,
            [question.text for question in questions],
            base and base.text,
            unit,
        )
        assert len(rows) == 15
        total = answer(scenario, normal_form(within))
        sets = [
            units_of(
                scenario,
                answer(scenario, normal_form(conjunction(within, question.surface))),
                total,
                unit,
            )
            for question in questions
        ]
        for row in rows:
            first, second = row.pop("filter1_number") - 1, row.pop("filter2_number") - 1
            assert 0 <= first < second < 6
            texts = [row.pop("filter1"), row.pop("filter2")]
            assert texts == [questions[first].text, questions[second].text]
            found = tuple(row[f"{name}_count"] for name in ("filter1", "filter2", "joint", "total"))
            assert found == (
                len(sets[first]),
                len(sets[second]),
                len(sets[first] & sets[second]),
                len(units_of(scenario, total, total, unit)),
            ), (unit, texts, base)
            (alone,) = rows_of(
                module_conn,
                "select * from insights_correlate(%s::text[], %s, %s, %s, %s)",
                ids,
                *texts,
                base and base.text,
                unit,
            )
            assert repr(alone) == repr(row)


# -------------------------------------------------------------------------- facets


def fields_of(dice: Random, scenario: Scenario) -> list[tree.Field]:
    palette = palette_of(dice)
    found = _order_fields(palette)
    found += [tree.Issue(), tree.TraceText("prompt"), tree.SpanNumber("duration_ms")]
    found += [tree.SpanText(name) for name in ("name", "type", "status", "content")]
    about = subject(palette, scenario.world)
    found += [_attribute(dice, about) for _ in range(4)]
    # What the world has, often.
    for trace in scenario.world.traces:
        found += [tree.Tag(key) for key in trace.tags if not key.startswith("mlflow.")]
        found += [tree.Assessment(a.kind, a.name) for a in trace.assessments if a.kind != "issue"]
        for span in trace.spans:
            body = oracle.decoded(span.content)
            if isinstance(body, dict) and isinstance(body.get("attributes"), dict):
                found += [tree.SpanAttribute((key,)) for key in body["attributes"]]
    return found


def texts_of(scenario: Scenario, trace: Trace, field: tree.Field) -> set[str]:
    """The values of a trace as filters spell them."""
    if isinstance(field, tree.Assessment):
        evaluation = oracle._Evaluation(in_scope(scenario), scenario.now_ms)
        own = [a for a in evaluation.assessments_of(trace) if oracle.is_for(a, field)]
        return {canonical(a.value) for a in own}
    if isinstance(field, tree.SpanAttribute):
        values = (oracle.attribute(s.content, field.path) for s in oracle.own_spans(trace))
        texts = {oracle.json_text(value) for value in values}
    elif isinstance(field, tree.SpanText):
        texts = {oracle.span_text(span, field.name) for span in oracle.own_spans(trace)}
    else:
        texts = set(oracle.trace_texts(trace, field) or ())
    return {text for text in texts if text is not None}


def canonical(stored: str) -> str:
    value = oracle.decoded(stored)
    if not isinstance(value, str) or json.dumps(value) != stored:
        return stored
    return value if oracle.holdable(value) == value else stored


def numbers_of(trace: Trace, field: tree.TraceNumber | tree.SpanNumber) -> set[float]:
    if isinstance(field, tree.TraceNumber):
        numbers = {oracle.trace_number(trace, field.name)}
    else:
        numbers = {oracle.span_number(span, field) for span in oracle.own_spans(trace)}
    return {number for number in numbers if number is not None and math.isfinite(number)}


@pytest.mark.parametrize("prepare", STATES)
@RANDOM
@given(seed=st.integers(0, 2**64 - 1))
def test_facets(module_conn: psycopg.Connection[Any], prepare: Prepare, seed: int) -> None:
    dice = Random(seed)
    scenario = scenario_of(dice, questions=8)
    prepared(module_conn, scenario, prepare, dice)
    everything = Question(tree.EVERYTHING, "", (), 1)
    for field in some(dice, fields_of(dice, scenario), 10, 10):
        question = pick(dice, (everything, *scenario.questions))
        unit = pick(dice, ("trace", "trace", "session", "session_all"))
        check_facets(module_conn, scenario, question, field, pick(dice, (1, 2, 3, 20)), unit)


def check_facets(
    connection: psycopg.Connection[Any],
    scenario: Scenario,
    question: Question,
    field: tree.Field,
    most: int,
    unit: str,
) -> None:
    ids = scope_ids(scenario.scope)
    about = (fields.spell(field), question.text, most, unit)
    rows = rows_of(
        connection,
        "select * from insights_facets(%s::text[], %s, %s, %s, %s)",
        *(ids, question.text, fields.spell(field), most, unit),
    )
    matching = answer(scenario, question.node)
    everything = {trace.trace_id for trace in in_scope(scenario)}
    total = len(units_of(scenario, matching, everything, unit))
    if not total:
        assert rows == [], about
        return
    for row in rows:
        if row["filter"] is None:
            assert len(row["value"].encode()) > 60_000
            continue
        where = f"({question.text}) AND ({row['filter']})" if question.text else row["filter"]
        count = connection.execute(
            "select insights_count(%s::text[], %s, %s)", (ids, where, unit)
        ).fetchone()
        assert count == (row["count"],), (about, row)
        found = answer(scenario, parse_filter(row["filter"])) & matching
        assert row["count"] == len(units_of(scenario, found, everything, unit)), (about, row)
        assert row["share"] == row["count"] / total
    traces = [trace for trace in in_scope(scenario) if trace.trace_id in matching]
    missing = tree.IsNull(field)
    without: tree.Node = missing
    if fields.is_span_field(field):
        without = tree.Not(tree.AnySpan(tree.IsNull(field, negated=True)))
    lacking = answer(scenario, without) & matching
    if units_of(scenario, lacking, everything, unit):
        last = rows.pop()
        assert (last["value"], last["low"], last["high"]) == (None, None, None), about
        assert last["filter"].endswith(("IS NULL", "IS NOT NULL)")), about
    assert all(row["value"] is not None for row in rows), about
    if any(row["filter"] is not None and row["low"] != row["high"] for row in rows):
        check_intervals(scenario, rows, traces, field, most, about)
        return
    counts: Counter[Any] = Counter()
    by_value: dict[Any, set[str]] = {}
    for trace in traces:
        values: set[Any]
        if isinstance(field, tree.TraceNumber | tree.SpanNumber):
            values = numbers_of(trace, field)
        else:
            values = texts_of(scenario, trace, field)
        for value in values:
            by_value.setdefault(value, set()).add(trace.trace_id)
    for value, ids_with in by_value.items():
        if isinstance(field, tree.Assessment):
            ids_with = answer(scenario, tree.TextCompare(field, "=", value)) & matching
        counts[value] = len(units_of(scenario, ids_with, everything, unit))
    expected = sorted(
        ((value, count) for value, count in counts.items() if count),
        key=lambda item: (-item[1], item[0]),
    )[:most]
    if isinstance(field, tree.TraceNumber | tree.SpanNumber):
        whole = isinstance(field, tree.TraceNumber) and not field.name.endswith("_cost")
        read: Any = int if whole else float
        if fields.is_time(field):
            read = _milliseconds
        pairs = [(read(row["value"]), row["count"]) for row in rows]
        assert pairs == expected, about
        assert all(
            float(value) == row["low"] for (value, _), row in zip(pairs, rows, strict=True)
        ), about
    else:
        assert [(row["value"], row["count"]) for row in rows] == expected, about


def _milliseconds(text: str) -> int | float:
    """What a facet of times is called: a number beyond the years that a text can say."""
    found = time_in_ms(text)
    return int(text) if found is None else found


def check_intervals(
    scenario: Scenario,
    rows: Sequence[dict[str, Any]],
    traces: Sequence[Trace],
    field: tree.Field,
    most: int,
    about: Any,
) -> None:
    """Intervals that lie side by side and hold every number."""
    assert len(rows) <= max(most, 2), about
    for row, after in pairwise(rows):
        assert row["high"] == after["low"], about
    numeric = fields.is_number(field)
    if not numeric:
        different = set().union(*(texts_of(scenario, trace, field) for trace in traces))
        assert len(different) > most, about
    number = tree.Or((tree.NumberCompare(field, "<", 0), tree.NumberCompare(field, ">=", 0)))
    some_number: tree.Node = tree.AnySpan(number) if fields.is_span_field(field) else number
    ids = {trace.trace_id for trace in traces}
    held: set[str] = set()
    for row in rows:
        held |= answer(scenario, parse_filter(row["filter"])) & ids
    assert held == answer(scenario, some_number) & ids, about


# -------------------------------------------------------------------------- series

#: Around what clocks do: forward, back, a leap day, and a new year.
MOMENTS = (
    datetime(2024, 3, 31, 0, 30, tzinfo=UTC),
    datetime(2024, 10, 27, 0, 30, tzinfo=UTC),
    datetime(2024, 2, 29, 12, tzinfo=UTC),
    datetime(2023, 12, 31, 23, 59, 59, 999000, tzinfo=UTC),
)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe")
#: Within the range of slices, and beyond it.
COSTS = (0.0, 0.1, 0.25, 1e-9, 3.3, -0.5, 5e-324, 1e300)
STEPS_MS = (1, 60_000, 3_600_000, 20_000_000)
BUCKETS = (
    *("15 minutes", "1 hour", "6 hours", "7 hours"),
    *("1 day", "24 hours", "2 days", "1 week", "1 month", "3 months", "1 year"),
)


def start_of(moment_ms: int, bucket: str, zone: ZoneInfo) -> int:
    """When the bucket begins that a moment lies in, by the calendar."""
    moment = datetime.fromtimestamp(moment_ms / 1000, UTC) + timedelta(microseconds=1)
    local = moment.astimezone(zone)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    number, unit = bucket.split()
    if bucket == "24 hours":
        number, unit = "1", "day"
    count = int(number)
    if unit.startswith(("minute", "hour")):
        step = timedelta(**{unit.rstrip("s") + "s": count})
        since = moment - midnight.astimezone(UTC)
        start = midnight.astimezone(UTC) + since // step * step
    elif unit.startswith(("day", "week")):
        days = count * (7 if unit.startswith("week") else 1)
        origin = datetime(2001, 1, 1)
        past = (midnight.replace(tzinfo=None) - origin).days // days * days
        start = (origin + timedelta(days=past)).replace(tzinfo=zone).astimezone(UTC)
    else:
        months = count * (12 if unit.startswith("year") else 1)
        place = (midnight.year * 12 + midnight.month - 1) // months * months
        start = datetime(place // 12, place % 12 + 1, 1, tzinfo=zone).astimezone(UTC)
    return round(start.timestamp() * 1000)


@pytest.mark.parametrize("prepare", STATES)
@RANDOM
@given(seed=st.integers(0, 2**64 - 1))
def test_series(module_conn: psycopg.Connection[Any], prepare: Prepare, seed: int) -> None:
    dice = Random(seed)
    scenario = scenario_of(dice, questions=8)
    moment = int(pick(dice, MOMENTS).timestamp() * 1000)
    traces = tuple(
        replace(
            trace,
            timestamp_ms=moment
            + dice.choice((1, 60_000, 3_600_000, 20_000_000)) * dice.randrange(9),
            execution_time_ms=dice.choice((None, dice.randrange(1000))),
            tokens=dice.choice(({}, {"total_tokens": dice.randrange(1000)})),
            cost=dice.choice(({}, {"total_cost": pick(dice, COSTS)})),
        )
        for trace in scenario.world.traces
    )
    scenario = replace(scenario, world=World(scenario.world.experiments, traces))
    prepared(module_conn, scenario, prepare, dice)
    look_at_slices(module_conn, pick(dice, (True, False)))
    everything = Question(tree.EVERYTHING, "", (), 1)
    for question in (everything, *scenario.questions):
        bounds = [
            None if dice.random() < 0.6 else moment + dice.randrange(0, 100_000_000)
            for _ in range(2)
        ]
        first, end = bounds
        if first is not None and end is not None and first >= end:
            continue
        bucket, unit, zone = pick(dice, BUCKETS), pick(dice, UNITS), pick(dice, ZONES)
        if bucket == "15 minutes" and None not in bounds:
            bucket = "1 hour"
        check_series(module_conn, scenario, question, bucket, bounds, zone, unit)


def look_at_slices(connection: psycopg.Connection[Any], always: bool) -> None:
    """Has sets of bits answered by slices however small they are, or as usual."""
    one_by_one = "= '0'" if always else "to default"
    connection.execute(f"set insights.added_one_by_one {one_by_one}".encode())


def check_series(
    connection: psycopg.Connection[Any],
    scenario: Scenario,
    question: Question,
    bucket: str,
    bounds: Sequence[int | None],
    zone: str,
    unit: str,
) -> None:
    about = (question.text, bucket, bounds, zone, unit)
    moments = [None if one is None else datetime.fromtimestamp(one / 1000, UTC) for one in bounds]
    rows = rows_of(
        connection,
        'select (extract(epoch from "time") * 1000)::bigint as start, s.*'
        " from insights_timeseries(%s::text[], %s, %s, %s, %s, %s, %s) s",
        *(scope_ids(scenario.scope), question.text, bucket, *moments, zone, unit),
    )
    traces = in_scope(scenario)
    times = [trace.timestamp_ms for trace in traces]
    first = bounds[0] if bounds[0] is not None else min(times, default=None)
    end = bounds[1] if bounds[1] is not None else max(times, default=-1) + 1
    if first is None or end <= first:
        assert rows == [], about
        return
    tz = ZoneInfo(zone)
    starts = [row["start"] for row in rows]
    assert starts == sorted(set(starts)), about
    assert starts[0] == start_of(first, bucket, tz), about
    assert starts[-1] == start_of(end - 1, bucket, tz), about
    # Without gaps: just before each bucket the one before it has not ended.
    for before, start in pairwise(starts):
        assert start_of(start - 1, bucket, tz) == before, about
    matching = answer(scenario, question.node)
    for row in rows:
        own = [
            trace
            for trace in traces
            if first <= trace.timestamp_ms < end
            and start_of(trace.timestamp_ms, bucket, tz) == row["start"]
        ]
        check_bucket(scenario, row, own, matching, unit, about)


def check_bucket(
    scenario: Scenario,
    row: dict[str, Any],
    traces: Sequence[Trace],
    matching: set[str],
    unit: str,
    about: Any,
) -> None:
    all_ids = {trace.trace_id for trace in traces}
    those = [trace for trace in traces if trace.trace_id in matching]
    failed = {trace.trace_id for trace in those if trace.status == "ERROR"}
    total, matched, errors = (
        len(units_of(scenario, ids, all_ids, unit)) for ids in (all_ids, matching & all_ids, failed)
    )
    if unit != "trace":
        total = len({trace.session_id for trace in traces} - {None})
    assert (row["total"], row["matched"], row["errors"]) == (total, matched, errors), about
    assert row["rate"] == (matched / total if total else None)
    assert row["error_rate"] == (errors / matched if matched else None)
    latencies = sorted(t.execution_time_ms for t in those if t.execution_time_ms is not None)
    for name, fraction in (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99)):
        assert row[name] == percentile(latencies, fraction), (about, name)
    tokens = [t.tokens["total_tokens"] for t in those if "total_tokens" in t.tokens]
    assert row["tokens"] == (sum(tokens) if tokens else None), about
    costs = [t.cost["total_cost"] for t in those if "total_cost" in t.cost]
    scale = max(map(abs, costs), default=0) * 1e-15
    expected = pytest.approx(math.fsum(costs), rel=1e-12, abs=scale) if costs else None
    assert row["cost"] == expected, about


def percentile(numbers: Sequence[int], fraction: float) -> float | None:
    """PostgreSQL's percentile_cont."""
    if not numbers:
        return None
    rank = fraction * (len(numbers) - 1)
    low, high = float(numbers[math.floor(rank)]), float(numbers[math.ceil(rank)])
    return low + (rank - math.floor(rank)) * (high - low)
