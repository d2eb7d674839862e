"""What stock MLflow 3.17 does with a filter, and so do we: facts measured on its store."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.semantics.conftest import Asked
from tests.semantics.world import (
    SESSION_METADATA,
    Assessment,
    Experiment,
    Span,
    Trace,
    World,
    attributes,
    content,
)

Ask = Callable[[World], Asked]


def ids(names: str) -> set[str]:
    return set(names.split())


def one_experiment(*traces: Trace) -> World:
    return World((Experiment(1),), traces)


# -------------------------------------------------------------- values and comparators

VALUES = one_experiment(
    Trace(
        "prod",
        1,
        1000,
        execution_time_ms=50,
        client_request_id="c-1",
        name="Größe",
        tags={"env": "prod", "my key": "x", "a.b.c": "x", "a-b": "x", "quote": "it''s"},
        metadata={"version": "v1"},
    ),
    Trace(
        "dev",
        1,
        2000,
        execution_time_ms=None,
        status="ERROR",
        name="50%_off",
        tags={"env": "dev", "back": "it\\'s"},
    ),
    Trace("bare", 1, 3000, execution_time_ms=0, status="IN_PROGRESS", tags={"env": ""}),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # nothing, and AND in odd places
        ("", "prod dev bare"),
        ("AND", "prod dev bare"),
        ("and status = 'OK'", "prod"),
        ("status = 'OK' AND", "prod"),
        ("status = 'OK' tags.env = 'prod'", "prod"),
        # spellings of fields
        ("`status` = 'OK'", "prod"),
        ("\"status\" = 'OK'", "prod"),
        ("trace.`status` = 'OK'", "prod"),
        ("`trace`.status = 'OK'", "prod"),
        ("attributes.status = 'OK'", "prod"),
        ("attribute.status = 'OK'", "prod"),
        ("tag.`my key` = 'x'", "prod"),
        ("tag.\"my key\" = 'x'", "prod"),
        ("tag.'my key' = 'x'", "prod"),
        ("tags.a.b.c = 'x'", "prod"),
        ("tags.`a-b` = 'x'", "prod"),
        ("request_metadata.version = 'v1'", "prod"),
        ("trace.request_id = 'prod'", "prod"),
        # comparators in any case
        ("name like 'gr%'", ""),
        ("name Ilike 'gr%'", "prod"),
        ("name rlike '^Gr'", "prod"),
        ("status in ('OK', 'ERROR')", "prod dev"),
        ("status not in ('OK', 'ERROR')", "bare"),
        ("status IN ('OK',)", "prod"),
        ("tags.back is null", "prod bare"),
        ("tags.back Is Not Null", "dev"),
        # upper and lower case, wildcards, escapes
        ("status = 'ok'", ""),
        ("name ILIKE 'GRÖßE%'", "prod"),
        ("name LIKE '50\\%\\_off'", "dev"),
        ("name LIKE '50%off'", "dev"),
        ("name LIKE '__\\%__ff'", "dev"),
        ("name RLIKE '^50%_off$'", "dev"),
        ("name RLIKE 'off'", "dev"),
        # backslashes are plain in =
        ("tags.back = 'it\\''s'", "dev"),
        ('tags.back = "it\\\'s"', "dev"),
        # numbers
        ("execution_time = 50", "prod"),
        ("execution_time_ms >= 0.5", "prod"),
        ("execution_time_ms < 1e2", "prod bare"),
        ("execution_time > -1", "prod bare"),
        ("trace.timestamp = 1000.0", "prod"),
        ("timestamp_ms <= 2000", "prod dev"),
        ("timestamp_ms != 2000", "prod bare"),
        # the end is the beginning where there is no duration; null never compares
        ("end_time = 1050", "prod"),
        ("end_time_ms = 2000", "dev"),
        ("end_time >= 2000", "dev bare"),
        ("execution_time != 50", "bare"),
        # missing values
        ("tags.env != 'prod'", "dev bare"),
        ("tags.back != 'x'", "dev"),
        ("metadata.version != 'x'", "prod"),
        ("name != 'x'", "prod dev"),
        ("client_request_id != 'x'", "prod"),
        ("client_request_id NOT IN ('x')", "prod"),
        ("tags.env IS NULL", ""),
        ("metadata.version IS NULL", "dev bare"),
        ("name IS NULL", "bare"),
        ("name IS NOT NULL", "prod dev"),
        ("tags.env = 'prod' AND tags.env = 'dev'", ""),
        ("tags.env = 'prod' AND tags.env != 'dev'", "prod"),
    ],
)
def test_values_and_missing_values(ask: Ask, text: str, expected: str) -> None:
    assert ask(VALUES)(text) == ids(expected)


# ------------------------------------------------------------------- promoted columns

PROMOTED = one_experiment(
    Trace(
        "full",
        1,
        1,
        name="chat",
        session_id="s1",
        tokens={"input_tokens": 10, "output_tokens": 20, "total_tokens": 30},
        cost={"input_cost": 0.1, "total_cost": 1e-05},
        metadata={"mlflow.trace.infoFinalized": "true"},
    ),
    Trace("tokens", 1, 1, tokens={"total_tokens": 30}),
    # Child rows of promoted keys are ignored when a trace is read.
    Trace(
        "stale",
        1,
        1,
        tags={"mlflow.traceName": "chat", "mlflow.trace.session": "s1"},
        metadata={
            "mlflow.trace.session": "s1",
            "mlflow.trace.tokenUsage": '{"total_tokens": 30}',
        },
    ),
)
USAGE = "metadata.`mlflow.trace.tokenUsage`"
COST = "metadata.mlflow.trace.cost"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tags.mlflow.traceName = 'chat'", "full"),
        ("tag.`mlflow.traceName` IS NULL", "tokens stale"),
        ("metadata.mlflow.trace.session = 's1'", "full"),
        ("metadata.mlflow.trace.session LIKE 's%'", "full"),
        ("metadata.mlflow.trace.session IS NULL", "tokens stale"),
        ("metadata.mlflow.trace.infoFinalized = 'true'", "full"),
        (f"{USAGE} IS NOT NULL", "full tokens"),
        (f"{USAGE} IS NULL", "stale"),
        (f"{USAGE} = '" + '{"total_tokens": 30}' + "'", "tokens"),
        (f"{USAGE} = '" + '{"total_tokens":30}' + "'", ""),
        (
            f"{USAGE} = '" + '{"input_tokens": 10, "output_tokens": 20, "total_tokens": 30}' + "'",
            "full",
        ),
        (
            f"{USAGE} = '" + '{"output_tokens": 20, "input_tokens": 10, "total_tokens": 30}' + "'",
            "",
        ),
        (f"{USAGE} != 'x'", "full tokens"),
        (f"{USAGE} != '" + '{"total_tokens": 30}' + "'", "full"),
        (f"{COST} = '" + '{"input_cost": 0.1, "total_cost": 1e-05}' + "'", "full"),
        (f"{COST} = '" + '{"input_cost": 0.1, "total_cost": 0.00001}' + "'", ""),
        (f"{COST} IS NULL", "tokens stale"),
    ],
)
def test_promoted_columns(ask: Ask, text: str, expected: str) -> None:
    assert ask(PROMOTED)(text) == ids(expected)


# ------------------------------------------------------------------------------ links

LINKS = one_experiment(
    Trace("source", 1, 1, metadata={"mlflow.sourceRun": "r1"}),
    Trace("linked", 1, 1, runs=("r1",), prompts=("qa/1",)),
    Trace(
        "issue",
        1,
        1,
        session_id="s",
        prompts=("qa/1", "qa/2"),
        assessments=(
            Assessment("issue", "iss-1", '{"issue_name": "slow"}', metadata=SESSION_METADATA),
            Assessment("issue", "iss-2", '{"issue_name": "wrong"}', valid=False),
        ),
    ),
    Trace("sibling", 1, 1, session_id="s"),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run_id = 'r1'", "source linked"),
        ("metadata.mlflow.sourceRun = 'r1'", "source linked"),
        ("tags.run_id = 'r1'", "source linked"),
        ("prompt = 'qa/1'", "linked issue"),
        ("prompt = 'qa/2'", "issue"),
        ("tag.mlflow.linkedPrompts = 'qa/1'", "linked issue"),
        ("prompt = 'qa/1' AND prompt = 'qa/2'", "issue"),
        ("issue.id = 'iss-1'", "issue"),
        ("issue.id = 'iss-2'", "issue"),
        ("issue.id = 'iss-1' AND issue.id = 'iss-2'", "issue"),
    ],
)
def test_links(ask: Ask, text: str, expected: str) -> None:
    assert ask(LINKS)(text) == ids(expected)


# ------------------------------------------------------------------------------ spans


def span(span_id: str, **columns: Any) -> Span:
    return Span(span_id, columns.pop("content", content({})), **columns)


SPANS = World(
    (Experiment(1), Experiment(2)),
    (
        Trace("two", 1, 1, spans=(span("1", type="LLM"), span("2", type="TOOL", name="tool"))),
        Trace("one", 1, 1, spans=(span("1", type="LLM", name="tool", status="ERROR"),)),
        Trace("moved", 1, 1, spans=(span("1", type="LLM", name="tool", experiment_id=2),)),
        Trace(
            "text",
            1,
            1,
            spans=(
                span("1", content=attributes(q='say "hi" 日本'), name="a"),
                span("2", content='{"attributes": {"q": "\\"\\\\u65e5\\""}}', name="b"),
            ),
        ),
        Trace("archived", 1, 1, spans=(span("1", content="", name="gone"),)),
        Trace("none", 1, 1),
    ),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("span.type = 'LLM' AND span.type = 'TOOL'", ""),
        ("span.type = 'LLM' AND span.name = 'tool'", "one"),
        ("span.type = 'LLM' AND status = 'OK' AND span.status = 'ERROR'", "one"),
        ("span.name != 'tool'", "two text archived"),
        ("span.name NOT IN ('tool', 'gone')", "two text"),
        ("span.name = 'tool'", "two one"),
        ("span.name ILIKE 'TOOL'", "two one"),
        ("span.name RLIKE '^to+l$'", "two one"),
        ("span.name = 'gone'", "archived"),
        ("trace.text LIKE '%STATUS_CODE_OK%'", "two one text"),
        ("span.content LIKE '%'", "two one text"),
        ("trace.text LIKE '%\"q\"%'", "text"),
        ("trace.text LIKE '%say \"hi\"%'", ""),
        ("trace.text LIKE '%say %hi%'", "text"),
        ("trace.text LIKE '%日本%'", "text"),
        ("trace.text ILIKE '%SAY%'", "text"),
        ("trace.text LIKE '%u65e5%'", "text"),
        ("trace.text LIKE '%日本%' AND trace.text LIKE '%u65e5%'", ""),
        ("span.name = 'b' AND trace.text LIKE '%u65e5%'", "text"),
        ("span.name = 'a' AND trace.text LIKE '%u65e5%'", ""),
    ],
)
def test_spans(ask: Ask, text: str, expected: str) -> None:
    assert ask(SPANS)(text) == ids(expected)


# ------------------------------------------------------------------------ assessments

_VALUES: dict[str, Any] = {
    "true": True,
    "text-true": "true",
    "five": 5,
    "text-five": "5",
    "five.0": 5.0,
    "yes": "yes",
    "list": ["a", "b"],
    "object": {"k": 1},
    "nan": float("nan"),
    "infinity": float("inf"),
    "null": None,
}
ASSESSED = one_experiment(
    *(
        Trace(name, 1, 1, assessments=(Assessment("feedback", "f", json.dumps(value)),))
        for name, value in _VALUES.items()
    ),
    Trace("expected", 1, 1, assessments=(Assessment("expectation", "f", '"yes"'),)),
    Trace("overridden", 1, 1, assessments=(Assessment("feedback", "f", '"yes"', valid=False),)),
    Trace(
        "several",
        1,
        1,
        assessments=(Assessment("feedback", "f", "1"), Assessment("feedback", "f", "9")),
    ),
    Trace("other", 1, 1, assessments=(Assessment("feedback", "F", '"yes"'),)),
)
_ALL = {*_VALUES, "several"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("feedback.f = 'true'", ids("true text-true")),
        ("feedback.f = '5'", ids("five text-five")),
        ("feedback.f = '5.0'", ids("five.0")),
        ("feedback.f = 'yes'", ids("yes")),
        ("feedback.f = '\"yes\"'", ids("yes")),
        ("feedback.F = 'yes'", ids("other")),
        ("expectation.f = 'yes'", ids("expected")),
        ('feedback.f = \'["a", "b"]\'', ids("list")),
        ('feedback.f = \'["a","b"]\'', set()),
        ("feedback.f = '{\"k\": 1}'", ids("object")),
        ("feedback.f = 'NaN'", ids("nan")),
        ("feedback.f = 'Infinity'", ids("infinity")),
        ("feedback.f = 'null'", ids("null")),
        ("feedback.f != '5'", _ALL - ids("five text-five")),
        ("feedback.f > 4", ids("five five.0 several")),
        ("feedback.f >= 5.0", ids("five five.0 several")),
        ("feedback.f < 5", ids("several")),
        ("feedback.f <= 1e9", ids("five five.0 several")),
        ("feedback.f < 2 AND feedback.f > 8", ids("several")),
        ("feedback.f IS NOT NULL", _ALL),
        ("feedback.f IS NULL", ids("expected overridden other")),
        ("expectation.f IS NULL", _ALL | ids("overridden other")),
    ],
)
def test_assessments(ask: Ask, text: str, expected: set[str]) -> None:
    assert ask(ASSESSED)(text) == expected


def scoped(value: Any, **columns: Any) -> tuple[Assessment, ...]:
    return (Assessment("feedback", "f", json.dumps(value), metadata=SESSION_METADATA, **columns),)


SESSIONS = World(
    (Experiment(1), Experiment(2)),
    (
        Trace("carrier", 1, 1, session_id="s1", assessments=scoped("good")),
        Trace("sibling", 1, 2, session_id="s1"),
        Trace("own", 1, 3, session_id="s1", assessments=(Assessment("feedback", "f", '"bad"'),)),
        Trace("far", 2, 4, session_id="s1"),
        Trace("stranger", 1, 5, session_id="s2"),
        Trace("loose", 1, 6, assessments=scoped("good")),
        Trace("loose too", 1, 7),
        Trace("invalid", 1, 8, session_id="s3", assessments=scoped("good", valid=False)),
        Trace("covered", 1, 9, session_id="s3"),
        Trace("number", 2, 10, session_id="s4", assessments=scoped(4)),
        Trace("numbered", 1, 11, session_id="s4"),
    ),
)


@pytest.mark.parametrize(
    ("text", "scope", "expected"),
    [
        ("feedback.f = 'good'", None, {"carrier", "sibling", "own", "far", "loose"}),
        ("feedback.f = 'good'", [1], {"carrier", "sibling", "own", "loose"}),
        ("feedback.f = 'good'", [2], set()),
        ("feedback.f = 'good' AND feedback.f = 'bad'", None, {"own"}),
        ("feedback.f != 'good'", None, {"own", "number", "numbered"}),
        ("feedback.f LIKE 'go%'", [1, 2], {"carrier", "sibling", "own", "far", "loose"}),
        ("feedback.f > 3", None, {"number", "numbered"}),
        ("feedback.f > 3", [1], set()),
        ("feedback.f IS NULL", None, {"stranger", "loose too", "invalid", "covered"}),
        (
            "feedback.f IS NULL",
            [1],
            {"stranger", "loose too", "invalid", "covered", "numbered"},
        ),
        ("feedback.f IS NULL", [2], {"far"}),
        ("feedback.f IS NOT NULL", [2], {"number"}),
        ("NOT feedback.f = 'good'", [2], {"far", "number"}),
    ],
)
def test_session_scoped_assessments_cover_the_session_within_the_scope(
    ask: Ask, text: str, scope: list[int] | None, expected: set[str]
) -> None:
    assert ask(SESSIONS)(text, scope) == expected


# -------------------------------------------------------------------------- locations

LOCATED = World((Experiment(1), Experiment(2, deleted=True)), (Trace("a", 1, 1), Trace("b", 2, 2)))


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (None, "a b"),
        ([], ""),
        ([1], "a"),
        ([2], "b"),
        ([1, 2, 1], "a b"),
        ([7], ""),
    ],
)
def test_locations(ask: Ask, scope: list[int] | None, expected: str) -> None:
    assert ask(LOCATED)("", scope) == ids(expected)
