"""The plugin's store against MLflow's own, on the same database.

Same filter, same traces, order, pages, counts, sessions and error codes.  Where
the two differ on purpose (docs/compatibility.md) a table names the case, what
each of them does, and why.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.entities import TraceInfo, TraceLocation, TraceState
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from insights_py.mlflow.store import InsightsStore
from tests.mlflow import filters
from tests.mlflow.conftest import MLFLOW_RELEASE, TwoStores, close, with_driver
from tests.mlflow.world import START_MS, STEP_MS, span

examples = settings(
    deadline=None,
    max_examples=150,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def pages(store: SqlAlchemyStore, **arguments: Any) -> list[list[TraceInfo]]:
    """Every page until there is no more; empty ones left out.

    Stock MLflow announces another page whenever one is full, so its last page
    may be empty (A.11).
    """
    found, token = store.search_traces(**arguments)
    result = [found]
    while token:
        found, token = store.search_traces(**arguments, page_token=token)
        result.append(found)
    return [page for page in result if page]


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or the code of its MLflow error."""
    try:
        return call()
    except MlflowException as error:
        return error.error_code


def same_numbers(one: float | None, other: float | None) -> bool:
    """Equality to the last digit, with NaN like NaN."""
    if one is None or other is None:
        return one is other
    return one == other or (math.isnan(one) and math.isnan(other))


# ------------------------------------------------------------------ agreement


@examples
@given(data=st.data())
def test_search(two_stores: TwoStores, data: st.DataObject) -> None:
    """Same traces, all their fields, in the same order."""
    arguments: dict[str, Any] = {
        "filter_string": data.draw(filters.filters(two_stores.world), "filter"),
        "order_by": data.draw(filters.orders(two_stores.world), "order_by"),
        "locations": data.draw(filters.locations(two_stores.world), "locations"),
        "max_results": 1000,
    }
    ours, token = two_stores.plugin.search_traces(**arguments)
    theirs, _ = two_stores.stock.search_traces(**arguments)
    assert ours == theirs
    assert token is None


@settings(examples, max_examples=40)
@given(data=st.data())
def test_pages(two_stores: TwoStores, data: st.DataObject) -> None:
    """The same pages, one after another until there is no more."""
    arguments: dict[str, Any] = {
        "filter_string": data.draw(filters.filters(two_stores.world), "filter"),
        "order_by": data.draw(filters.orders(two_stores.world), "order_by"),
        "locations": data.draw(filters.locations(two_stores.world), "locations"),
        "max_results": data.draw(st.sampled_from([7, 20, 50, 150]), "max_results"),
    }
    assert pages(two_stores.plugin, **arguments) == pages(two_stores.stock, **arguments)


@examples
@given(data=st.data())
def test_correlation(two_stores: TwoStores, data: st.DataObject) -> None:
    """The same counts, and NPMI to the last digit."""
    conditions = filters.filters(two_stores.world)
    arguments: dict[str, Any] = {
        "experiment_ids": data.draw(filters.locations(two_stores.world), "experiments") or [],
        "filter_string1": data.draw(conditions, "filter1"),
        "filter_string2": data.draw(conditions, "filter2"),
        "base_filter": data.draw(st.none() | filters.predicates(two_stores.world), "base"),
    }
    ours = two_stores.plugin.calculate_trace_filter_correlation(**arguments)
    theirs = two_stores.stock.calculate_trace_filter_correlation(**arguments)
    assert (ours.filter1_count, ours.filter2_count, ours.joint_count, ours.total_count) == (
        theirs.filter1_count,
        theirs.filter2_count,
        theirs.joint_count,
        theirs.total_count,
    )
    assert same_numbers(ours.npmi, theirs.npmi)
    assert same_numbers(ours.npmi_smoothed, theirs.npmi_smoothed)


@settings(examples, max_examples=60)
@given(data=st.data())
def test_completed_sessions(two_stores: TwoStores, data: st.DataObject) -> None:
    """The same sessions, in the same order."""
    time = st.integers(-1, 160).map(lambda step: START_MS + step * STEP_MS)
    arguments: dict[str, Any] = {
        "experiment_id": data.draw(st.sampled_from([*two_stores.world.experiments, "999"])),
        "min_last_trace_timestamp_ms": data.draw(time, "min"),
        "max_last_trace_timestamp_ms": data.draw(time, "max"),
        "max_results": data.draw(st.sampled_from([None, 0, 1, 3]), "max_results"),
        "filter_string": data.draw(filters.filters(two_stores.world), "filter"),
    }
    ours = two_stores.plugin.find_completed_sessions(**arguments)
    assert ours == two_stores.stock.find_completed_sessions(**arguments)


def test_the_filters_hit_and_miss(two_stores: TwoStores) -> None:
    """The world is one in which the comparison says something."""
    found = two_stores.stock.search_traces(max_results=1000)[0]
    assert len(found) == len(two_stores.world.trace_ids) == 150
    for text in [
        "status = 'ERROR' AND span.type = 'LLM'",
        "tag.environment = 'production' AND feedback.quality > 0.3",
        "span.attributes.model LIKE '%gpt-4%' AND execution_time >= 120",
        "feedback.whole_session IS NOT NULL",
        f"run_id = '{two_stores.world.runs[0]}'",
        f"prompt = '{two_stores.world.prompts[0]}'",
        f"issue.id = '{two_stores.world.issues[0]}'",
        "trace.text LIKE '%日本語%'",
    ]:
        ours = two_stores.plugin.search_traces(filter_string=text, max_results=1000)[0]
        assert ours == two_stores.stock.search_traces(filter_string=text, max_results=1000)[0]
        assert 0 < len(ours) < 150, text


# ---------------------------------------------------------------- malformed calls

MALFORMED_FILTERS = [
    "   ",
    "status",
    "status =",
    "= 'OK'",
    "status = OK",
    "status == 'OK'",
    "status <> 'OK'",
    "status < 'OK'",
    "status = 'OK",
    "status = 'OK' status",
    "status = 'OK'; status = 'OK'",
    "1 = 1",
    "'x' = tag.a",
    "foo.x = 'y'",
    "Trace.status = 'OK'",
    "TAG.a = 'x'",
    "param.a = 'x'",
    "nothing = 'x'",
    "trace.nothing = 'x'",
    "execution_time LIKE '4%'",
    "execution_time = 5s",
    "timestamp_ms > 'yesterday",
    "tag.environment > 'a'",
    "tag.environment = production",
    "metadata.region > 'a'",
    "span.name > 'a'",
    "span.duration = 5",
    "span.attributes. = 'x'",
    "span.content = 'x'",
    "trace.text = 'x'",
    "feedback. = 'x'",
    "feedback.quality > '4'",
    "issue.name2 = 'x'",
    "prompt = 'p'",
    "prompt = 'p/1/2'",
    "metadata.`mlflow.trace.tokenUsage` LIKE 'x'",
    "tag.environment IN ('a' 'b'",
    "status IN ()",
]


@pytest.mark.parametrize("text", MALFORMED_FILTERS)
def test_malformed_filter(two_stores: TwoStores, text: str) -> None:
    """Refused by both with the same code, in every call that takes a filter."""
    for store in (two_stores.stock, two_stores.plugin):
        search = partial(store.search_traces, filter_string=text)
        assert outcome(search) == "INVALID_PARAMETER_VALUE"
        for filters_ in [(text, ""), ("", text), ("", "", text)]:
            correlate = partial(store.calculate_trace_filter_correlation, ["0"], *filters_)
            assert outcome(correlate) == "INVALID_PARAMETER_VALUE"
        sessions = partial(store.find_completed_sessions, "0", 0, 1, filter_string=text)
        assert outcome(sessions) == "INVALID_PARAMETER_VALUE"


MALFORMED_SEARCHES: list[dict[str, Any]] = [
    {"max_results": 0},
    {"max_results": -1},
    {"max_results": 50_001},
    {"max_results": None},
    {"experiment_ids": ["1"], "locations": ["1"]},
    {"locations": ["1.2"]},
    {"order_by": ["nothing"]},
    {"order_by": ["prompt"]},
    {"order_by": ["span.name"]},
    {"order_by": ["issue.id"]},
    {"order_by": ["status SIDEWAYS"]},
    {"order_by": ["status ASC nulls last"]},
    {"order_by": ["metadata.`mlflow.trace.tokenUsage`"]},
    {"page_token": "%%%"},
    {"page_token": "bm90IGpzb24="},
    {"page_token": "eyJvZmZzZXQiOiAwfQ=="},
    {"page_token": "eyJvZmZzZXQiOiAiYSJ9"},
    {"page_token": "e30="},
]


@pytest.mark.parametrize("arguments", MALFORMED_SEARCHES, ids=repr)
def test_malformed_search(two_stores: TwoStores, arguments: dict[str, Any]) -> None:
    """Refused by both with the same code."""
    assert outcome(lambda: two_stores.stock.search_traces(**arguments)) == (
        "INVALID_PARAMETER_VALUE"
    )
    assert outcome(lambda: two_stores.plugin.search_traces(**arguments)) == (
        "INVALID_PARAMETER_VALUE"
    )


@pytest.mark.parametrize("ids", [["abc"], ["1.5"], [""]], ids=repr)
def test_malformed_experiment(two_stores: TwoStores, ids: list[str]) -> None:
    """Refused by both with the same code."""
    for store in (two_stores.stock, two_stores.plugin):
        correlate = partial(store.calculate_trace_filter_correlation, ids, "", "")
        assert outcome(correlate) == "INVALID_PARAMETER_VALUE"
        sessions = partial(store.find_completed_sessions, ids[0], 0, 1)
        assert outcome(sessions) == "INVALID_PARAMETER_VALUE"


# ---------------------------------------------------------- differences, by name


@dataclass(frozen=True)
class Difference:
    """A search that the two stores answer differently, on purpose.

    ``stock`` and ``ours`` are the code of the refusal, or a filter in words
    that both understand which has the same answer as this store's.
    """

    item: str
    why: str
    search: dict[str, Any]
    stock: str
    ours: str


BAD, INTERNAL, REQUEST = "INVALID_PARAMETER_VALUE", "INTERNAL_ERROR", "BAD_REQUEST"
NONE, ALL = "status = 'nothing'", ""


def _filter(item: str, why: str, text: str, stock: str, ours: str) -> Difference:
    return Difference(item, why, {"filter_string": text}, stock, ours)


DIFFERENCES = [
    _filter(
        "A.1",
        "stock searches the span's JSON, in which the value never follows the key directly",
        "span.attributes.model = 'gpt-4'",
        NONE,
        "span.attributes.model RLIKE '^gpt-4$'",
    ),
    _filter(
        "A.1",
        "for the same reason every span differs there, even without the attribute",
        "span.attributes.nokey != 'x'",
        "span.name LIKE '%'",
        NONE,
    ),
    _filter(
        "A.1",
        "stock gives the driver a list where it wants a text",
        "span.attributes.model IN ('gpt-4', 'gpt-4o-mini')",
        REQUEST,
        "span.attributes.model RLIKE '^gpt'",
    ),
    _filter(
        "A.1",
        "stock's pattern starts in front of the value's quotes",
        "span.attributes.model LIKE 'gpt%'",
        NONE,
        "span.attributes.model RLIKE '^gpt'",
    ),
    _filter(
        "A.1",
        "stock's regular expressions match strings only",
        "span.attributes.temperature RLIKE '^0.7$'",
        r"""span.content LIKE '%"temperature": "\\"0.7\\""%'""",
        "span.attributes.temperature = '0.7'",
    ),
    _filter("A.2", "an OR", "status = 'OK' OR status = 'ERROR'", BAD, "status IN ('OK', 'ERROR')"),
    _filter("A.2", "a NOT", "NOT tag.environment IS NULL", BAD, "tag.environment IS NOT NULL"),
    _filter("A.2", "parentheses", "(status = 'OK')", BAD, "status = 'OK'"),
    _filter(
        "A.2",
        "a range",
        "execution_time BETWEEN 120 AND 4000",
        BAD,
        "execution_time >= 120 AND execution_time <= 4000",
    ),
    _filter("A.2", "a list on a tag", "tag.environment IN ('dev')", BAD, "tag.environment = 'dev'"),
    _filter(
        "A.2",
        "IS NULL on an attribute",
        "client_request_id IS NOT NULL",
        BAD,
        "client_request_id LIKE '%'",
    ),
    _filter("A.2", "small letters on spans", "span.type in ('LLM')", BAD, "span.type IN ('LLM')"),
    _filter("A.2", "a count", "count(span.type = 'LLM') > 0", BAD, "span.type = 'LLM'"),
    _filter("A.2", "a trace's id", "trace_id LIKE 'tr-0%'", BAD, "request_id LIKE 'tr-0%'"),
    _filter(
        "A.2",
        "the session by its name",
        "session = 'session-1'",
        BAD,
        "metadata.`mlflow.trace.session` = 'session-1'",
    ),
    _filter(
        "A.2", "every comparator on issues", "issue.id LIKE 'iss-%'", BAD, "issue.id != 'none'"
    ),
    _filter(
        "A.2", "every comparator on prompts", "prompt IN ('{prompt}')", BAD, "prompt = '{prompt}'"
    ),
    _filter(
        "A.2", "text without its entity", "text LIKE '%Bayes%'", BAD, "trace.text LIKE '%Bayes%'"
    ),
    _filter("A.3", "brackets mean the tag itself", "tags['name'] = 'chat'", BAD, NONE),
    _filter(
        "A.4",
        "stock takes a doubled quote as two",
        "tag.environment != 'it''s' AND tag.environment = 'dev'",
        "tag.environment = 'dev'",
        "tag.environment = 'dev'",
    ),
    _filter(
        "A.5",
        "stock matches the stored JSON, which starts with a quote",
        "feedback.quality LIKE 'goo%'",
        NONE,
        "feedback.quality = 'good'",
    ),
    _filter(
        "A.7",
        "stock heeds the last of several clauses on runs",
        "run_id = 'none' AND run_id = '{run}'",
        "run_id = '{run}'",
        NONE,
    ),
    _filter("A.7", "stock takes the empty text for no filter", "run_id = ''", ALL, NONE),
    _filter(
        "A.7",
        "linked traces have a run too",
        "run_id = '{run}' AND run_id IS NULL",
        # Linked to the run, with no run in their metadata.
        "run_id = '{run}' AND metadata.mlflow.sourceRun IS NULL",
        NONE,
    ),
    _filter("A.9", "a bad regular expression", "tag.environment RLIKE '('", REQUEST, BAD),
    _filter("A.9", "a bad pattern", r"tag.environment LIKE 'production\'", NONE, BAD),
    _filter("A.9", "a number out of range", f"execution_time > {10**30}", REQUEST, BAD),
    _filter("A.9", "a word for a number", "execution_time = 'fast'", REQUEST, BAD),
    _filter("A.9", "a quoted number", "execution_time > '5'", REQUEST, BAD),
    _filter("A.9", "a list without quotes", "status IN (OK)", INTERNAL, BAD),
    Difference("A.9", "an experiment's id in letters", {"locations": ["abc"]}, INTERNAL, BAD),
    Difference(
        "A.9",
        "the same field twice",
        {"order_by": ["name", "tag.`mlflow.traceName`"]},
        INTERNAL,
        BAD,
    ),
    Difference("A.9", "a negative offset", {"page_token": "eyJvZmZzZXQiOiAtMX0="}, REQUEST, BAD),
    Difference(
        "A.10",
        "stock has no such column before 3.18",
        {"order_by": ["end_time"]},
        INTERNAL if MLFLOW_RELEASE < (3, 18) else ALL,
        ALL,
    ),
    Difference("A.10", "order by the client's id", {"order_by": ["client_request_id"]}, BAD, ALL),
    Difference("A.10", "order by feedback", {"order_by": ["feedback.quality DESC"]}, BAD, ALL),
    Difference("A.10", "order by a count", {"order_by": ["span_count DESC"]}, BAD, ALL),
]


@pytest.mark.parametrize("difference", DIFFERENCES, ids=[f"{d.item} {d.why}" for d in DIFFERENCES])
def test_difference(two_stores: TwoStores, difference: Difference) -> None:
    """Each difference is what the table says: no more and no less."""

    def named(text: str) -> str:
        world = two_stores.world
        return text.replace("{run}", world.runs[0]).replace("{prompt}", world.prompts[0])

    def ids(store: SqlAlchemyStore, **arguments: Any) -> Any:
        if "filter_string" in arguments:
            arguments["filter_string"] = named(arguments["filter_string"])
        found = outcome(lambda: store.search_traces(max_results=1000, **arguments))
        return found if isinstance(found, str) else {trace.trace_id for trace in found[0]}

    def expected(store: SqlAlchemyStore, words: str) -> Any:
        if words in (BAD, INTERNAL, REQUEST):
            return words
        return ids(store, filter_string=words)

    stock, plugin = two_stores.stock, two_stores.plugin
    assert ids(stock, **difference.search) == expected(stock, difference.stock)
    assert ids(plugin, **difference.search) == expected(plugin, difference.ours)


def test_difference_a06_time_pruning(dsn: str, artifacts: str) -> None:
    """A.6: stock loses a span that starts more than 10 s before the bound."""
    stock = SqlAlchemyStore(with_driver(dsn), artifacts)
    plugin = InsightsStore(with_driver(dsn), artifacts)
    trace_id = "tr-0123456789abcdef0123456789abcdef"
    stock.log_spans("0", [span(trace_id, 0, START_MS)])
    # The record comes after the span and says that the trace began a minute later.
    stock.start_trace(
        TraceInfo(
            trace_id=trace_id,
            trace_location=TraceLocation.from_experiment_id("0"),
            request_time=START_MS + 60_000,
            state=TraceState.OK,
        )
    )
    bound = f"timestamp >= {START_MS + 60_000}"
    assert len(stock.search_traces(filter_string=bound)[0]) == 1
    assert len(stock.search_traces(filter_string=f"span.name = 'plan' AND {bound}")[0]) == 0
    assert len(plugin.search_traces(filter_string=f"span.name = 'plan' AND {bound}")[0]) == 1
    close(stock, plugin)


def test_difference_a08_base_filters(two_stores: TwoStores) -> None:
    """A.8: any two filters can be joined, and none gets lost."""
    stock, plugin, world = two_stores.stock, two_stores.plugin, two_stores.world
    either = "status = 'OK' OR status = 'ERROR'"
    assert outcome(lambda: stock.calculate_trace_filter_correlation(["1"], "", "", either)) == BAD
    both = plugin.calculate_trace_filter_correlation(
        ["1"], "span.type = 'LLM' OR span.type = 'TOOL'", "", either
    )
    apart = stock.calculate_trace_filter_correlation(
        ["1"], "span.type IN ('LLM', 'TOOL')", "", "status IN ('OK', 'ERROR')"
    )
    assert (both.joint_count, both.total_count) == (apart.joint_count, apart.total_count)

    runs = [f"run_id = '{run}'" for run in world.runs[:2]]
    joined = plugin.search_traces(filter_string=" AND ".join(runs), max_results=1000)[0]
    ours = plugin.calculate_trace_filter_correlation(
        world.experiments, runs[1], "", base_filter=runs[0]
    )
    assert ours.filter1_count == len(joined)
    theirs = stock.calculate_trace_filter_correlation(
        world.experiments, runs[1], "", base_filter=runs[0]
    )
    # MLflow forgets the run of the base in the joined text (A.7), then counts among
    # the traces of the base nevertheless.
    assert theirs.filter1_count == ours.filter1_count
    assert theirs.total_count == ours.total_count


def test_difference_a11_no_page_after_the_last(two_stores: TwoStores) -> None:
    """A.11: stock before 3.18 announces a page after a full last one, we do not."""
    _, stock_token = two_stores.stock.search_traces(max_results=150)
    _, token = two_stores.plugin.search_traces(max_results=150)
    assert token is None
    if MLFLOW_RELEASE >= (3, 18):
        assert stock_token is None
    else:
        assert two_stores.stock.search_traces(max_results=150, page_token=stock_token)[0] == []


def test_difference_a11_tokens_of_stock_are_accepted(two_stores: TwoStores) -> None:
    """A.11: a client may begin with stock MLflow and go on with the plugin."""
    first, token = two_stores.stock.search_traces(max_results=40, order_by=["name"])
    assert isinstance(token, bytes)  # as a string through the REST API
    everything = two_stores.stock.search_traces(max_results=150, order_by=["name"])[0]
    for start in (token, token.decode()):
        rest = two_stores.plugin.search_traces(max_results=40, order_by=["name"], page_token=start)
        found = first + rest[0]
        while rest[1]:
            rest = two_stores.plugin.search_traces(
                max_results=40, order_by=["name"], page_token=rest[1]
            )
            found += rest[0]
        assert found == everything


def test_difference_a11_a_token_binds_its_query(two_stores: TwoStores) -> None:
    """A.11: stock continues any query at the offset, we refuse another query's token."""
    _, token = two_stores.plugin.search_traces(max_results=10)
    with pytest.raises(MlflowException, match="page token") as refused:
        two_stores.plugin.search_traces(
            max_results=10, page_token=token, filter_string="status = 'OK'"
        )
    assert refused.value.error_code == BAD


def test_the_document_names_tests_that_exist() -> None:
    """docs/compatibility.md lists every item of A.1 to A.12 with its tests."""
    root = Path(__file__).parents[2]
    document = (root / "docs" / "compatibility.md").read_text()
    assert re.findall(r"^\| (A\d+) \|", document, re.MULTILINE) == [f"A{n}" for n in range(1, 13)]
    named = set(re.findall(r"`(test_\w+[a-z0-9])`", document))
    defined = {
        name
        for folder in ("semantics", "mlflow")
        for path in (root / "tests" / folder).glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    assert named <= defined
    for number in range(1, 13):
        line = next(row for row in document.splitlines() if row.startswith(f"| A{number} |"))
        assert f"`test_a{number:02}_" in line
    assert {d.item for d in DIFFERENCES} <= {f"A.{n}" for n in range(1, 13)}
