"""order_by: every field, both directions, nulls last, pages that follow on."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from insights_engine.answers.search.ordering import Clause, parse_order
from insights_engine.language.tree import Assessment, Tag, TraceField, TraceNumber, TraceText
from mlflow.utils.search_utils import SearchTraceUtils

from tests.semantics import world
from tests.semantics.world import Span, Trace
from tests.sql.conftest import Loader, Search

# ------------------------------------------------------------------ the fields


def traces() -> list[Trace]:
    """Forty traces in which most fields repeat, and every nullable one is missing at times."""
    rng = random.Random(7)

    def maybe(value: Any) -> Any:
        return value if rng.random() < 0.7 else None

    def some(**values: Any) -> dict[str, Any]:
        return {key: value for key, value in values.items() if rng.random() < 0.7}

    return [
        Trace(
            f"tr-{n:02}",
            rng.choice([1, 2, 10]),
            1_700_000_000_000 + rng.randrange(8),
            execution_time_ms=maybe(rng.randrange(5)),
            status=rng.choice(["OK", "ERROR", "IN_PROGRESS"]),
            client_request_id=maybe(f"c{rng.randrange(4)}"),
            request_preview=maybe(rng.choice(["x", "y"])),
            name=maybe(rng.choice(["b", "a", "B", "ä", ""])),
            session_id=maybe(rng.choice(["s1", "s2"])),
            tokens=some(total_tokens=rng.randrange(3), input_tokens=2**62 + rng.randrange(2)),
            cost=some(total_cost=rng.choice([0.1, 0.30000000000000004, 0.3, float("inf")])),
            tags=some(env=rng.choice(["prod", "dev"]), name=rng.choice("xyz"), **{"a b": "1"}),
            metadata=some(
                k=rng.choice(["1", "10", "9"]),
                **{"mlflow.sourceRun": rng.choice(["r1", "r2"]), "mlflow.trace.user": "u"},
            ),
            spans=tuple(Span(str(i), "{}") for i in range(rng.randrange(4))),
            assessments=tuple(
                world.Assessment(rng.choice(["feedback", "expectation"]), "q", value)
                for value in rng.sample(
                    ["1", "2.5", "10", '"b"', '"a"', "true", "null", '"\\u00e4"', "[1]"],
                    rng.randrange(3),
                )
            ),
        )
        for n in range(40)
    ]


def newest(trace: Trace, kinds: tuple[str, ...]) -> tuple[int, float, str] | None:
    """The sort value of the trace's latest assessment ``q``."""
    found = [a for a in trace.assessments if a.name == "q" and a.kind in kinds and a.valid]
    if not found or found[-1].value == "null":
        return None
    value = found[-1].value
    if value[0].isdigit():
        return 0, float(value), ""
    return 1, 0.0, {'"\\u00e4"': "ä", '"a"': "a", '"b"': "b"}.get(value, value)


BOTH = ("feedback", "expectation")

FIELDS: dict[str, Callable[[Trace], Any]] = {
    "timestamp": lambda t: t.timestamp_ms,
    "timestamp_ms": lambda t: t.timestamp_ms,
    "trace.timestamp": lambda t: t.timestamp_ms,
    "execution_time": lambda t: t.execution_time_ms,
    "attributes.execution_time_ms": lambda t: t.execution_time_ms,
    "end_time": lambda t: t.timestamp_ms + (t.execution_time_ms or 0),
    "end_time_ms": lambda t: t.timestamp_ms + (t.execution_time_ms or 0),
    "experiment_id": lambda t: t.experiment_id,
    "status": lambda t: t.status,
    "`status`": lambda t: t.status,
    "request_id": lambda t: t.trace_id,
    "trace_id": lambda t: t.trace_id,
    "client_request_id": lambda t: t.client_request_id,
    "request_preview": lambda t: t.request_preview,
    "name": lambda t: t.name,
    "tags.name": lambda t: t.name,
    "tag.mlflow.traceName": lambda t: t.name,
    "tags['name']": lambda t: t.tags.get("name"),
    "tags.env": lambda t: t.tags.get("env"),
    "tag.`a b`": lambda t: t.tags.get("a b"),
    'tags."a b"': lambda t: t.tags.get("a b"),
    "tags['a b']": lambda t: t.tags.get("a b"),
    "tags.nothing": lambda t: None,
    "metadata.k": lambda t: t.metadata.get("k"),
    "request_metadata.k": lambda t: t.metadata.get("k"),
    "run_id": lambda t: t.metadata.get("mlflow.sourceRun"),
    "metadata.run_id": lambda t: t.metadata.get("mlflow.sourceRun"),
    "metadata.mlflow.sourceRun": lambda t: t.metadata.get("mlflow.sourceRun"),
    "metadata.`mlflow.trace.session`": lambda t: t.session_id,
    "session": lambda t: t.session_id,
    "user": lambda t: t.metadata.get("mlflow.trace.user"),
    "total_tokens": lambda t: t.tokens.get("total_tokens"),
    "input_tokens": lambda t: t.tokens.get("input_tokens"),
    "total_cost": lambda t: t.cost.get("total_cost"),
    "output_cost": lambda t: t.cost.get("output_cost"),
    "span_count": lambda t: len(t.spans),
    "feedback.q": lambda t: newest(t, ("feedback",)),
    "expectation.q": lambda t: newest(t, ("expectation",)),
    "assessment.q": lambda t: newest(t, BOTH),
    "feedback.name": lambda t: t.name,
}


def expected(given: list[Trace], clauses: list[tuple[Callable[[Trace], Any], bool]]) -> list[str]:
    """The ids in order, by sorting once per key from the last to the first."""
    keys = [*clauses, (lambda t: t.timestamp_ms, True), (lambda t: t.trace_id, False)]
    order = list(given)
    for key, descending in reversed(keys):
        present = [trace for trace in order if key(trace) is not None]
        missing = [trace for trace in order if key(trace) is None]
        order = sorted(present, key=key, reverse=descending) + missing
    return [trace.trace_id for trace in order]


def test_every_field_in_both_directions(put: Loader, search: Search) -> None:
    given = traces()
    put(*given)
    for field, key in FIELDS.items():
        for direction, descending in (("", False), (" asc", False), (" DESC", True)):
            clause = field + direction
            wanted = expected(given, [(key, descending)])
            assert search.ids(order_by=[clause]) == wanted, clause


def test_pages_follow_on_in_every_order(put: Loader, search: Search) -> None:
    given = traces()
    put(*given)
    for field, key in FIELDS.items():
        for direction, descending in (("asc", False), ("desc", True)):
            pages = search.pages(7, order_by=[f"{field} {direction}"])
            found = [one for page in pages for one in page]
            assert found == expected(given, [(key, descending)]), (field, direction)


DISTINCT = (
    "status",
    "name",
    "tags.env",
    "feedback.q",
    "total_cost",
    "execution_time",
    "metadata.k",
)


@given(st.data())
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_pages_follow_on_in_mixed_orders(
    shelf: tuple[list[Trace], Search], data: st.DataObject
) -> None:
    given_traces, search = shelf
    fields = data.draw(st.lists(st.sampled_from(DISTINCT), min_size=2, max_size=4, unique=True))
    clauses = [(field, data.draw(st.booleans())) for field in fields]
    order_by = [f"{field} {'desc' if down else 'asc'}" for field, down in clauses]
    size = data.draw(st.sampled_from([3, 11]))
    found = [one for page in search.pages(size, order_by=order_by) for one in page]
    assert found == expected(given_traces, [(FIELDS[field], down) for field, down in clauses])


@pytest.fixture
def shelf(put: Loader, search: Search) -> tuple[list[Trace], Search]:
    given = traces()
    put(*given)
    return given, search


def test_only_the_newest_valid_assessment_counts(put: Loader, search: Search) -> None:
    put(
        Trace(
            "overridden",
            1,
            1,
            assessments=(
                world.Assessment("feedback", "q", "9", valid=False),
                world.Assessment("feedback", "q", "1"),
            ),
        ),
        Trace(
            "changed",
            1,
            1,
            assessments=(
                world.Assessment("feedback", "q", "9"),
                world.Assessment("feedback", "q", "3"),
            ),
        ),
        Trace(
            "withdrawn",
            1,
            1,
            assessments=(
                world.Assessment("feedback", "q", "2"),
                world.Assessment("feedback", "q", "9", valid=False),
            ),
        ),
        Trace("broken", 1, 1, assessments=(world.Assessment("feedback", "q", "{not json"),)),
        Trace("none", 1, 1),
    )
    assert search.ids(order_by=["feedback.q desc"]) == [
        "changed",
        "withdrawn",
        "overridden",
        "broken",
        "none",
    ]


def test_long_texts_order_by_their_first_thousand_characters(put: Loader, search: Search) -> None:
    long = "x" * 200_000
    put(
        *(
            Trace(f"t{n}", 1, 1, assessments=(world.Assessment("feedback", "q", f'"{text}"'),))
            for n, text in enumerate((long + "b", long + "a", "a" + long))
        )
    )
    assert search.pages(1, order_by=["feedback.q"]) == [["t2"], ["t0"], ["t1"]]


def test_end_time_beyond_bigint_is_a_number_like_others(put: Loader, search: Search) -> None:
    put(
        Trace("huge", 1, 2**63 - 1, execution_time_ms=2**63 - 1),
        Trace("large", 1, 2**63 - 1, execution_time_ms=5),
        Trace("small", 1, 5),
    )
    assert search.pages(1, order_by=["end_time"]) == [["small"], ["large"], ["huge"]]
    assert search.pages(1, order_by=["end_time DESC"]) == [["huge"], ["large"], ["small"]]


# ------------------------------------------------------------------ the clauses

ACCEPTED_BY_MLFLOW = [
    "timestamp",
    "timestamp DESC",
    "timestamp_ms  desc",
    "`timestamp` desc",
    "`trace`.status",
    "trace.`status` ASC",
    '"status"',
    "tag.x\tdesc",
    "tag.x\ndesc",
    "tag.`a`.b desc",
    "tags.`it's` desc",
    "tag.order desc",
    "tag.1a",
    "tag.a.b.c",
    "metadata.run_id",
    "tag.Name",
    "tag.",
    "tag.prompt",
    "tag.timestamp",
    "end_time",
]


@pytest.mark.parametrize("clause", ACCEPTED_BY_MLFLOW)
def test_what_mlflow_accepts_is_accepted(clause: str) -> None:
    _, _, ascending = SearchTraceUtils.parse_order_by_for_search_traces(clause)
    assert parse_order([clause])[0].descending is not ascending


@pytest.mark.parametrize(
    ("clause", "field"),
    [
        ("timestamp", TraceNumber("timestamp_ms")),
        ("  status  ", TraceText("status")),
        ("tags.timestamp", Tag("timestamp_ms")),
        ("tags['timestamp']", Tag("timestamp")),
        ("tags.prompt", Tag("mlflow.linkedPrompts")),
        ("tags['it''s']", Tag("it's")),
        ('tags["a""b"]', Tag('a"b')),
        ("tags['name']", Tag("name")),
        ("metadata.name", TraceText("name")),
        ("feedback.name", TraceText("name")),
        ("feedback['name']", Assessment("feedback", "name")),
        ("tags.a-b", Tag("a-b")),
        ("tags.a/b:c", Tag("a/b:c")),
        ("tags.desc", Tag("desc")),
        ("metadata.run_id", TraceText("run_id")),
    ],
)
def test_what_a_clause_means(clause: str, field: TraceField) -> None:
    assert parse_order([clause])[0] == Clause(field)
    assert parse_order([f"{clause} DeSc"])[0] == Clause(field, descending=True)


@pytest.mark.parametrize(
    ("order_by", "message"),
    [
        ([""], "Invalid order_by clause ''. Could not be parsed."),
        (["   "], "Invalid order_by clause '   '. Could not be parsed."),
        (
            ["timestamp, status"],
            "Invalid order_by clause 'timestamp, status'. Could not be parsed.",
        ),
        (["status DESC;"], "Invalid ordering key in order_by clause 'status DESC;'."),
        (
            ["status DESC NULLS LAST"],
            "Invalid order_by clause 'status DESC NULLS LAST'. Could not be parsed.",
        ),
        (["status down"], "Invalid ordering key in order_by clause 'status down'."),
        (["(select 1)"], "Invalid order_by clause '(select 1)'. Could not be parsed."),
        (["status -- x"], "Invalid order_by clause 'status -- x'. Could not be parsed."),
        (["tags.'x"], "Invalid order_by clause 'tags.'x'. Could not be parsed."),
        (["timestamp descending"], "Invalid order_by clause 'timestamp descending'. Could not be"),
        (["text"], "Invalid order_by clause 'text'. Could not be parsed."),
        (["''"], "Invalid order_by clause ''''. Could not be parsed."),
        (["Timestamp"], "Invalid order_by clause 'Timestamp'. Could not be parsed."),
        (
            ["foo.bar"],
            "Invalid entity type 'foo'. Valid values are {'attribute', 'attributes', 'exp",
        ),
        (["foo"], "Invalid attribute key 'foo' specified. Valid keys are '{"),
        (["prompt"], "Invalid attribute key 'prompt' specified. Valid keys are '{"),
        (["trace.tags.x"], "Invalid attribute key 'tags.x' specified. Valid keys are '{"),
        (["spans.x"], "Invalid entity type 'spans'. Valid values are {"),
        (["param.x"], "Invalid entity type 'param'. Valid values are {"),
        (["span.name"], "Invalid identifier type 'span'"),
        (["tags.text"], "Invalid identifier type 'span'"),
        (["issue.id"], "Invalid identifier type 'issue'"),
        (["feedback."], "Assessment field name cannot be empty"),
        (
            ["metadata.mlflow.trace.tokenUsage"],
            "Ordering by reserved metadata 'mlflow.trace.tokenUsage' is not supported because "
            "it is represented by multiple columns.",
        ),
        (
            ["timestamp", "timestamp_ms DESC"],
            "`order_by` contains duplicate fields: ['timestamp', 'timestamp_ms DESC']",
        ),
        (
            ["name", "tag.mlflow.traceName"],
            "`order_by` contains duplicate fields: ['name', 'tag.mlflow.traceName']",
        ),
        (["status", None], "`order_by` must be an array of texts without NULL."),
        (["status"] * 33, "`order_by` has more than 32 clauses."),
        (["x'; drop table trace_info; --"], "Invalid order_by clause"),
    ],
)
def test_bad_clauses_are_refused_in_mlflows_words(
    search: Search, order_by: list[str | None], message: str
) -> None:
    refusal = search.refusal(order_by=order_by)
    assert (refusal.message_primary or "").startswith(message)


def test_a_misspelt_field_gets_a_suggestion(search: Search) -> None:
    for clause, expected in (
        ("timestmp desc", "Did you mean timestamp? Traces are ordered by cache_"),
        ("feedbck.x", "Did you mean feedback? Before a dot stand trace, "),
        ("Timestamp", "Did you mean timestamp?"),
    ):
        assert (search.refusal(order_by=[clause]).message_hint or "").startswith(expected)


def test_a_clause_of_a_megabyte_is_refused_at_once(
    search: Search, module_conn: psycopg.Connection[Any]
) -> None:
    with module_conn.transaction():
        module_conn.execute("set local statement_timeout = '2s'")
        message = search.refusal(order_by=["tags." + "`'" * 500_000]).message_primary
    assert message is not None
    assert len(message) < 300
