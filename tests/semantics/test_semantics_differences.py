"""Where the language differs from stock MLflow on purpose: a test for each item.

The numbers are those of docs/compatibility.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
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
SECOND_NS = 1_000_000_000


def one_experiment(*traces: Trace) -> World:
    return World((Experiment(1),), traces)


def spans(*contents: str) -> tuple[Span, ...]:
    return tuple(Span(f"span-{i}", text) for i, text in enumerate(contents))


def with_attributes(trace_id: str, **values: Any) -> Trace:
    return Trace(trace_id, 1, 1000, spans=spans(attributes(**values)))


# ------------------------------------------------------------------------------- 1

ATTRIBUTES = one_experiment(
    with_attributes("gpt", model="gpt-4", other="claude"),
    with_attributes("claude", model="claude", other="gpt-4"),
    with_attributes("number", model=5),
    with_attributes("float", model=5.0),
    with_attributes("text5", model="5"),
    with_attributes("true", model=True),
    with_attributes("object", model={"name": "gpt-4", "sizes": [1, 2.5]}),
    with_attributes("list", model=["gpt-4", "x"]),
    with_attributes("null", model=None),
    with_attributes("none", other="x"),
    Trace("archived", 1, 1000, spans=spans("")),
    Trace("broken", 1, 1000, spans=spans('{"attributes": {"model": "\\"gpt-4')),
    Trace("event", 1, 1000, spans=spans(content({}, events=[{"model": "gpt-4"}]))),
    Trace("plain", 1, 1000, spans=spans(content({"model": "gpt-4"}))),
)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("= 'gpt-4'", "gpt plain"),
        ("!= 'gpt-4'", "claude number float text5 true object list"),
        ("IN ('gpt-4', 'claude')", "gpt claude plain"),
        ("NOT IN ('gpt-4', 'claude')", "number float text5 true object list"),
        ("LIKE '%gpt-4%'", "gpt plain object list"),
        ("LIKE 'gpt%'", "gpt plain"),
        ("NOT LIKE '%t%'", "claude number float text5"),
        ("ILIKE 'GPT-_'", "gpt plain"),
        ("RLIKE '^gpt-[0-9]$'", "gpt plain"),
        ("= '5'", "number text5"),
        ("= 5", "number float text5"),
        ("> 4.5", "number float text5"),
        ("> 5", ""),
        ("BETWEEN 5 AND 6", "number float text5"),
        ("= '5.0'", "float"),
        ("= true", "true"),
        ("= 'true'", "true"),
        ('= \'["gpt-4", "x"]\'', "list"),
        ('= \'{"name": "gpt-4", "sizes": [1, 2.5]}\'', "object"),
        ("['name'] = 'gpt-4'", "object"),
        ("['sizes']['1'] = 2.5", "object"),
        ("['0'] = 'gpt-4'", "list"),
        ("IS NULL", "null none archived broken event"),
        ("IS NOT NULL", "gpt claude number float text5 true object list plain"),
    ],
)
def test_a01_attributes_compare_their_own_decoded_value(
    ask: Ask, condition: str, expected: str
) -> None:
    assert ask(ATTRIBUTES)(f"span.attributes['model']{space(condition)}") == ids(expected)


def space(condition: str) -> str:
    return condition if condition.startswith("[") else f" {condition}"


def ids(names: str) -> set[str]:
    return set(names.split())


def test_a01_attribute_keys_match_exactly(ask: Ask) -> None:
    asked = ask(
        one_experiment(
            with_attributes("a.b", **{"a.b": "v"}),
            with_attributes("a_b", **{"a_b": "v"}),
            with_attributes("A.B", **{"A.B": "v"}),
            with_attributes("nested", a={"b": "v"}),
            with_attributes("quoted", **{'it\'s ["x"]': "v"}),
        )
    )
    assert asked("span.attributes.a.b = 'v'") == {"a.b"}
    assert asked("span.attributes['a.b'] = 'v'") == {"a.b"}
    assert asked("span.attributes.`a.b` = 'v'") == {"a.b"}
    assert asked("span.attributes['a']['b'] = 'v'") == {"nested"}
    assert asked("span.attributes.a_b = 'v'") == {"a_b"}
    assert asked("span.attributes['it''s [\"x\"]'] = 'v'") == {"quoted"}


# ------------------------------------------------------------------------------- 2

LANGUAGE = World(
    (Experiment(1), Experiment(2)),
    (
        Trace(
            "both",
            1,
            1000,
            execution_time_ms=500,
            status="OK",
            name="chat",
            session_id="s1",
            tokens={"input_tokens": 10, "total_tokens": 30},
            cost={"total_cost": 0.25},
            tags={"env": "prod", "n": "7"},
            metadata={"mlflow.trace.user": "ann", "version": "2"},
            spans=(
                Span("1", attributes(tokens=10), "call", "LLM", "OK", 0, 1_500_000),
                Span("2", attributes(tokens=20), "search", "TOOL", "ERROR", 0, 9_000_000),
                Span("3", attributes(usage={"total": 30}), "chain", "CHAIN", "OK", 0, None),
            ),
            assessments=(Assessment("feedback", "score", "4"),),
        ),
        Trace(
            "llm",
            1,
            2000,
            status="ERROR",
            name="agent",
            tags={"env": "dev", "n": "seven"},
            spans=(Span("1", attributes(tokens="5"), "call", "LLM", "ERROR", 0, 4_000_000),),
            assessments=(Assessment("expectation", "score", '"good"'),),
        ),
        Trace("bare", 2, 3000, status="OK"),
    ),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # OR, NOT, parentheses
        ("tags.env = 'dev' OR tags.env = 'prod'", "both llm"),
        ("NOT tags.env = 'prod'", "llm bare"),
        ("tags.env != 'prod'", "llm"),
        ("NOT (tags.env = 'prod' OR status = 'ERROR')", "bare"),
        ("status = 'OK' AND (name = 'chat' OR name IS NULL)", "both bare"),
        ("status = 'OK' OR status = 'ERROR' AND name = 'chat'", "both bare"),
        # one span, several spans, no span
        ("span.type = 'LLM' AND span.status = 'ERROR'", "llm"),
        ("any(span.type = 'LLM') AND any(span.status = 'ERROR')", "both llm"),
        ("any(span.type = 'LLM' AND span.status = 'ERROR')", "llm"),
        ("any(NOT span.type = 'LLM')", "both"),
        ("NOT span.type = 'LLM'", "bare"),
        ("(span.type = 'LLM' OR span.type = 'TOOL') AND span.status = 'ERROR'", "both llm"),
        # counts
        ("count() = 0", "bare"),
        ("count() > 1", "both"),
        ("count(span.status = 'ERROR') = 1", "both llm"),
        ("count(span.type = 'LLM' OR span.type = 'TOOL') >= 2", "both"),
        # aggregates
        ("sum(span.attributes.tokens) = 30", "both"),
        ("avg(span.attributes.tokens) = 15", "both"),
        ("min(span.attributes['tokens']) <= 5", "llm"),
        ("max(span.attributes['usage']['total'] WHERE span.type = 'CHAIN') = 30", "both"),
        ("max(span.duration_ms WHERE span.status = 'OK') = 1.5", "both"),
        ("max(span.duration_ms) != 9", "llm"),
        # numbers on any field
        ("tags.n >= 7", "both"),
        ("tags.n = 7.0", "both"),
        ("metadata.version BETWEEN 1 AND 2", "both"),
        ("feedback.score BETWEEN 3 AND 4", "both"),
        ("input_tokens = 10", "both"),
        ("total_tokens > 29.5", "both"),
        ("total_cost <= 0.25", "both"),
        ("trace.span_count = 3", "both"),
        ("timestamp_ms IN (1000, 3000)", "both bare"),
        ("execution_time_ms IS NULL", "llm bare"),
        # IS NULL and IN on every field
        ("tags.env IN ('prod', 'x')", "both"),
        ("metadata.version NOT IN ('1')", "both"),
        ("name IN ('chat', 'agent')", "both llm"),
        ("status IS NULL", ""),
        ("client_request_id IS NULL", "both llm bare"),
        ("feedback.score IN (4, 5)", "both"),
        ("assessment.score IN ('good', '4')", "both llm"),
        ("any(span.type IS NULL)", ""),
        ("prompt IS NULL", "both llm bare"),
        ("issue.id IS NULL", "both llm bare"),
        # comparators in lower case on spans
        ("span.name like 'c%'", "both llm"),
        ("span.name not in ('call')", "both"),
        # durations of spans; one that runs has none
        ("span.duration_ms > 5", "both"),
        ("any(span.duration_ms IS NULL)", "both"),
        # some span lacks it, no span has it
        ("span.attributes.tokens IS NULL", "both"),
        ("NOT any(span.attributes.tokens IS NOT NULL)", "bare"),
        ("span.type = 'CHAIN' AND span.duration_ms >= 0", ""),
        # more names
        ("session = 's1'", "both"),
        ("trace.session_id = 's1'", "both"),
        ("user = 'ann'", "both"),
        ("assessment.score IS NOT NULL", "both llm"),
        ("trace.trace_id = 'bare'", "bare"),
        ("trace.experiment_id = '2'", "bare"),
        ("experiment_id IN ('1')", "both llm"),
        # times
        ("timestamp < '1970-01-01T00:00:02Z'", "both"),
        ("timestamp >= '1970-01-01T00:00:02+00:00'", "llm bare"),
        ("timestamp_ms < now() - '24 hours'", "both llm bare"),
    ],
)
def test_a02_the_language_beyond_mlflow(ask: Ask, text: str, expected: str) -> None:
    assert ask(LANGUAGE)(text) == ids(expected)


# ------------------------------------------------------------------------------- 3


def test_a03_brackets_reach_the_real_key(ask: Ask) -> None:
    keys = ("name", "run_id", "prompt", "text", "timestamp")
    plain = dict.fromkeys(keys, "v")
    feedback = tuple(Assessment("feedback", key, '"v"') for key in keys)
    asked = ask(
        one_experiment(
            Trace("tags", 1, 1, tags={**plain}),
            Trace("metadata", 1, 1, metadata={**plain}),
            Trace("feedback", 1, 1, assessments=feedback),
            Trace("name", 1, 1, name="v"),
            Trace("run", 1, 1, metadata={"mlflow.sourceRun": "v"}),
            Trace("content", 1, 1, spans=spans("vvv")),
        )
    )
    for key in keys:
        assert asked(f"tags['{key}'] = 'v'") == {"tags"}
        assert asked(f"tag[\"{key}\"] = 'v'") == {"tags"}
        assert asked(f"metadata['{key}'] = 'v'") == {"metadata"}
        assert asked(f"request_metadata['{key}'] = 'v'") == {"metadata"}
        assert asked(f"feedback['{key}'] = 'v'") == {"feedback"}
    for entity in ("tags", "tag", "metadata", "request_metadata", "feedback", "expectation"):
        assert asked(f"{entity}.name = 'v'") == {"name"}
        assert asked(f"{entity}.Name = 'v'") == {"name"}
        assert asked(f"{entity}.run_id = 'v'") == {"run"}
        assert asked(f"{entity}.text LIKE 'v%'") == {"content"}


def test_a03_brackets_reach_what_is_kept_by_the_name_of_a_link(ask: Ask) -> None:
    prompts = '[{"name": "qa", "version": "1"}]'
    asked = ask(
        one_experiment(
            Trace("linked", 1, 1, prompts=("qa/1",), runs=("r1",)),
            Trace("kept", 1, 1, tags={"mlflow.linkedPrompts": prompts}),
            Trace("source", 1, 1, metadata={"mlflow.sourceRun": "r1"}),
            Trace("both", 1, 1, metadata={"mlflow.sourceRun": "r1"}, runs=("r2",)),
        )
    )
    for tags in ("tags", "tag"):
        assert asked(f"{tags}['mlflow.linkedPrompts'] = '{prompts}'") == {"kept"}
        assert asked(f"{tags}['mlflow.linkedPrompts'] IS NOT NULL") == {"kept"}
        assert asked(f"{tags}['mlflow.linkedPrompts'] LIKE '%\"qa\"%'") == {"kept"}
        assert asked(f"{tags}.mlflow.linkedPrompts = 'qa/1'") == {"linked"}
        assert asked(f"{tags}.`mlflow.linkedPrompts` = 'qa/1'") == {"linked"}
    for metadata in ("metadata", "request_metadata"):
        assert asked(f"{metadata}['mlflow.sourceRun'] = 'r1'") == {"source", "both"}
        assert asked(f"{metadata}['mlflow.sourceRun'] = 'r2'") == set()
        assert asked(f"{metadata}['mlflow.sourceRun'] IS NULL") == {"linked", "kept"}
        assert asked(f"{metadata}.mlflow.sourceRun = 'r1'") == {"linked", "source", "both"}
        assert asked(f"{metadata}.mlflow.sourceRun = 'r2'") == {"both"}


# ------------------------------------------------------------------------------- 4


def test_a04_doubled_quotes_are_one(ask: Ask) -> None:
    values = ("it's", "it''s", 'say "hi"', "both ' and \"", "a\\", "a\\'b", "''")
    asked = ask(one_experiment(*(Trace(str(i), 1, 1, tags={"k": v}) for i, v in enumerate(values))))
    for index, value in enumerate(values):
        single = value.replace("'", "''")
        double = value.replace('"', '""')
        assert asked(f"tags.k = '{single}'") == {str(index)}
        assert asked(f'tags.k = "{double}"') == {str(index)}
        assert asked(f"tags.k IN ('{single}')") == {str(index)}
    assert asked("tags.k = 'it''s'") == {"0"}
    assert asked("tags.k = \"it''s\"") == {"1"}
    assert asked("tags.k LIKE 'a\\\\'") == {"4"}


# ------------------------------------------------------------------------------- 5

JUDGED = one_experiment(
    *(
        Trace(name, 1, 1, assessments=(Assessment("feedback", "f", json.dumps(value)),))
        for name, value in {
            "great": "Great answer",
            "quoted": 'a "b" c',
            "japanese": "日本",
            "five": 5,
            "float": 2.5,
            "true": True,
            "list": ["a", "b"],
            "null": None,
        }.items()
    )
)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("LIKE 'Great%'", "great"),
        ("LIKE '\"Great%'", "great"),
        ("LIKE 'great%'", ""),
        ("ILIKE 'great%'", "great"),
        ("RLIKE '^Great'", "great"),
        ("RLIKE '^\"Great'", "great"),
        ("LIKE '%\"b\" c'", "quoted"),
        ("LIKE '%日本%'", "japanese"),
        ("LIKE '%u65e5%'", "japanese"),
        ("LIKE '5'", "five"),
        ("LIKE '2._'", "float"),
        ("LIKE 't%'", "true"),
        ("LIKE '[\"a\", %'", "list"),
        ("LIKE 'null'", "null"),
        ("NOT LIKE '%a%'", "japanese five float true null"),
        ("= 'Great answer'", "great"),
        ("= '日本'", "japanese"),
        ("= '5'", "five"),
        ("= '5.0'", ""),
        ("= 'true'", "true"),
        ("= 'null'", "null"),
        ("!= 'true'", "great quoted japanese five float list null"),
    ],
)
def test_a05_patterns_see_the_decoded_text_of_assessments(
    ask: Ask, condition: str, expected: str
) -> None:
    assert ask(JUDGED)(f"feedback.f {condition}") == ids(expected)


# ------------------------------------------------------------------------------- 6


def test_a06_a_bound_on_the_timestamp_prunes_no_spans(ask: Ask) -> None:
    early = Span("1", attributes(k="v"), "early", start_ns=0, end_ns=SECOND_NS)
    late = Span("1", attributes(k="v"), "late", start_ns=100 * SECOND_NS, end_ns=None)
    asked = ask(
        one_experiment(
            Trace("early", 1, 100_000, spans=(early,)), Trace("late", 1, 100_000, spans=(late,))
        )
    )
    assert asked("timestamp >= 100000 AND span.attributes.k = 'v'") == {"early", "late"}
    assert asked("span.name = 'early' AND timestamp_ms > 99999") == {"early"}


# ------------------------------------------------------------------------------- 7


def test_a07_runs_are_a_set(ask: Ask) -> None:
    asked = ask(
        one_experiment(
            Trace("source", 1, 1, metadata={"mlflow.sourceRun": "r1"}),
            Trace("linked", 1, 1, runs=("r1",)),
            Trace("both", 1, 1, metadata={"mlflow.sourceRun": "r1"}, runs=("r2",)),
            Trace("none", 1, 1),
        )
    )
    assert asked("run_id = 'r1'") == {"source", "linked", "both"}
    assert asked("run_id = 'r1' AND run_id = 'r2'") == {"both"}
    assert asked("metadata.mlflow.sourceRun = 'r2'") == {"both"}
    assert asked("run_id IN ('r2', 'r3')") == {"both"}
    assert asked("run_id != 'r1'") == {"both"}
    assert asked("run_id IS NULL") == {"none"}
    assert asked("run_id IS NOT NULL") == {"source", "linked", "both"}
    assert asked("run_id = ''") == set()


# ------------------------------------------------------------------------------- 8


def counts(connection: psycopg.Connection[Any], *arguments: str | None) -> tuple[int, ...]:
    row = connection.execute(
        "select filter1_count, filter2_count, joint_count, total_count"
        " from insights_correlate(array['1'], %s, %s, %s)",
        arguments,
    ).fetchone()
    assert row is not None
    return tuple(row)


def test_a08_the_base_filter_is_anded_to_both(
    ask: Ask, module_conn: psycopg.Connection[Any]
) -> None:
    one = Span("1", "{}", "a", "LLM", "ERROR")
    other = Span("2", "{}", "b", "TOOL", "OK")
    ask(
        one_experiment(
            Trace("1", 1, 1, tags={"env": "prod"}, spans=(one, other)),
            Trace("2", 1, 1, tags={"env": "dev"}, spans=(one,)),
            Trace("3", 1, 1, tags={"env": "prod"}, spans=(other,)),
            Trace("4", 1, 1),
        )
    )

    def ask_counts(*arguments: str | None) -> tuple[int, ...]:
        return counts(module_conn, *arguments)

    llm, error, prod = "span.type = 'LLM'", "span.status = 'ERROR'", "tags.env = 'prod'"
    assert ask_counts(llm, prod, None) == (2, 2, 1, 4)
    assert ask_counts(llm, "", None) == (2, 4, 2, 4)
    assert ask_counts(error, "span.status = 'OK'", prod) == (1, 2, 1, 2)
    # Span conditions of base and filter speak of one span, unless any() sets them apart.
    assert ask_counts(error, "span.status = 'OK'", llm) == (2, 0, 0, 2)
    assert ask_counts("span.status = 'OK'", f"{prod} AND span.name = 'b'", llm) == (0, 0, 0, 2)
    assert ask_counts("any(span.status = 'OK')", error, llm) == (1, 2, 1, 2)
    # With OR in either, as if parenthesised.
    assert ask_counts(f"{error} OR {prod}", prod, "tags.env = 'dev'") == (1, 0, 0, 1)
    assert ask_counts(llm, prod, "tags.env = 'dev' OR tags.env = 'prod'") == (2, 2, 1, 3)
    assert ask_counts(f"NOT {prod}", "", f"{llm} OR span.type = 'TOOL'") == (1, 3, 1, 3)


# ------------------------------------------------------------------------------- 9


@pytest.mark.parametrize(
    "text",
    [
        "name RLIKE '('",
        "span.name RLIKE '[a'",
        "span.attributes.k NOT RLIKE 'a{2,1}'",
        "feedback.f RLIKE '*a'",
        "tags.k LIKE 'a\\'",
        "span.content ILIKE '%\\'",
        "status = 'OK' OR any(span.name RLIKE '(')",
        "timestamp > 99999999999999999999",
        "execution_time_ms < -9223372036854775809",
        "timestamp = '5'",
        "execution_time > '5'",
        "input_tokens = 'many'",
        "status IN (1, 2)",
        "name IN ('a', 5)",
        "span.type IN (1)",
    ],
)
def test_a09_what_postgresql_would_trip_over_is_a_filter_error(ask: Ask, text: str) -> None:
    asked = ask(one_experiment())  # no row gets as far as the pattern
    error = asked.refusal(text)
    assert error.diag.message_primary
    assert "^" in (error.diag.message_detail or "")


def test_a09_a_refused_pattern_comes_with_postgresqls_reason(ask: Ask) -> None:
    asked = ask(one_experiment())
    assert "parentheses () not balanced" in str(asked.refusal("name RLIKE 'a('"))
    assert "must not end with escape character" in str(asked.refusal("name LIKE 'a\\'"))


# ------------------------------------------------------------------------------ 10

ORDERED = one_experiment(
    Trace(
        "a",
        1,
        1000,
        execution_time_ms=900,
        tokens={"total_tokens": 5},
        tags={"k": "b"},
        assessments=(Assessment("feedback", "score", "2"),),
        spans=spans("{}", "{}"),
    ),
    Trace(
        "b",
        1,
        1500,
        execution_time_ms=100,
        cost={"total_cost": 1.5},
        metadata={"m": "x"},
        assessments=(Assessment("feedback", "score", "10"),),
    ),
    Trace("c", 1, 1200, tokens={"total_tokens": 7}, tags={"k": "a"}, spans=spans("{}")),
    Trace("d", 1, 1200),
)


@pytest.mark.parametrize(
    ("order_by", "expected"),
    [
        (None, "b c d a"),
        ("end_time", "c d b a"),
        ("end_time DESC", "a b c d"),
        ("end_time_ms ASC", "c d b a"),
        ("feedback.score", "a b c d"),
        ("feedback.score DESC", "b a c d"),
        ("span_count", "b d c a"),
        ("trace.span_count desc", "a c b d"),
        ("total_tokens ASC", "a c b d"),
        ("total_tokens DESC", "c a b d"),
        ("total_cost", "b c d a"),
        ("execution_time_ms DESC", "a b c d"),
        ("tags.k", "c a b d"),
        ("tags['k'] DESC", "a c b d"),
        ("metadata.m", "b c d a"),
        ("request_id DESC", "d c b a"),
        ("timestamp_ms ASC, request_id DESC", "a d c b"),
    ],
)
def test_a10_order_by_numbers_too_with_missing_ones_last(
    ask: Ask, order_by: str | None, expected: str
) -> None:
    clauses = None if order_by is None else order_by.split(", ")
    assert ask(ORDERED).search("", order_by=clauses) == expected.split()


# ------------------------------------------------------------------------------ 11


def test_a11_page_tokens_exist_exactly_while_there_is_more(ask: Ask) -> None:
    asked = ask(one_experiment(*(Trace(f"{i:02}", 1, i // 2) for i in range(7))))
    everything = asked.search("")
    for size in range(1, 9):
        found: list[str] = []
        token = None
        for _ in range(100):
            rows = asked.page("timestamp_ms >= 0", max_results=size, page_token=token)
            found += [row[0] for row in rows]
            token = rows[-1][1]
            if token is None:
                break
            assert len(rows) == size
        assert found == everything


def test_a11_a_page_stays_right_while_traces_arrive_and_go(
    ask: Ask, module_conn: psycopg.Connection[Any]
) -> None:
    asked = ask(one_experiment(*(Trace(f"{i:02}", 1, i) for i in range(6))))
    (_, _), (_, token) = asked.page("", max_results=2)
    module_conn.execute(
        "insert into trace_info (request_id, experiment_id, timestamp_ms, status)"
        " values ('new', 1, 99, 'OK')"
    )
    module_conn.execute("delete from trace_info where request_id in ('05', '04')")
    assert asked.search("", max_results=2, page_token=token) == ["03", "02"]


def test_a11_a_token_belongs_to_its_query(ask: Ask, module_conn: psycopg.Connection[Any]) -> None:
    asked = ask(one_experiment(*(Trace(f"{i}", 1, i) for i in range(4))))
    token = asked.page("status = 'OK'", max_results=2)[-1][1]
    assert asked.search("status = 'OK'", max_results=1, page_token=token) == ["1"]
    for arguments in (
        {"text": "status != 'X'"},
        {"text": "status = 'OK'", "order_by": ["timestamp_ms ASC"]},
    ):
        with pytest.raises(psycopg.Error) as caught:
            asked.search(page_token=token, **arguments)
        assert caught.value.sqlstate == "22023"


# ------------------------------------------------------------------------------ 12


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("foo.x = 'a'", "Invalid entity type 'foo'. Valid values are"),
        ("Trace.name = 'a'", "Invalid entity type 'Trace'"),
        ("nonsense = 'a'", "Invalid attribute key 'nonsense' specified. Valid keys are"),
        ("status < 'a'", "Invalid comparator '<' not one of"),
        ("tags.k = OK", "Parameter value is either not quoted or unidentified quote types used"),
        ("status IN ()", "expected a non-empty list of string values, but got empty list"),
        ("timestamp LIKE 'a'", "Invalid comparator 'LIKE' not one of"),
        ("span.duration = 'a'", "Invalid span attribute 'duration'. Supported attributes: name"),
        ("span.attributes. = 'a'", "Span attribute name cannot be empty after 'attributes.'"),
        ("feedback. = 'a'", "Assessment field name cannot be empty"),
        ("feedback.x > '4'", "Expected a numeric value for feedback when using comparator '>'."),
        ("issue.name2 = 'a'", "Invalid issue attribute 'name2'. Supported attributes: id"),
        ("prompt = 'p'", "Invalid prompts filter value 'p'. Expected format: prompt ="),
        (
            "metadata.mlflow.trace.tokenUsage LIKE 'a'",
            "Comparator 'LIKE' is not supported for reserved metadata 'mlflow.trace.tokenUsage'",
        ),
        ("status = 5", "support comparison with numeric values."),
        ("   ", "Could not be parsed."),
        ("status = 'OK'; select 1", "Search filter contained multiple expression"),
    ],
)
def test_a12_errors_contain_mlflows_sentence(ask: Ask, text: str, sentence: str) -> None:
    error = ask(one_experiment()).refusal(text)
    assert sentence in (error.diag.message_primary or "")


def test_a12_session_scoped_assessments_are_not_an_error(ask: Ask) -> None:
    """A guard for the table above: well-formed filters are accepted."""
    shared = Assessment("feedback", "f", '"yes"', metadata=SESSION_METADATA)
    asked = ask(
        one_experiment(
            Trace("1", 1, 1, session_id="s", assessments=(shared,)),
            Trace("2", 1, 2, session_id="s"),
        )
    )
    assert asked("feedback.f = 'yes'") == {"1", "2"}
