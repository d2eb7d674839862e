"""What the PL/Python functions call, one entry point each.

A user's mistake never leaves here as an exception: it would reach the user
with a Python traceback in its CONTEXT.  It is returned as a `problem`, which
``insights.accept`` in the SQL around raises as a plain error.  The same goes
for what PostgreSQL itself refuses while a query runs: a table that the caller
may not read, a statement that was cancelled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Callable, Optional

from insights_engine.answers.counts import correlate as correlation
from insights_engine.answers.counts import explain as explanation
from insights_engine.answers.search import search
from insights_engine.answers.search.ordering import parse_order
from insights_engine.exact import rawsql
from insights_engine.exact.experiments import experiment_ids
from insights_engine.exact.statement import Statement, current_time_ms
from insights_engine.index import integrity
from insights_engine.index.sessions import check_unit
from insights_engine.language import printer, tree
from insights_engine.language.errors import FilterError, InsightsError, at_most, positive
from insights_engine.language.parser import (
    parse_conjunction,
    parse_disjunction,
    parse_field,
    parse_filter,
    pattern_places,
)

Problem = dict[str, Optional[str]]
Ids = Optional[Sequence[Any]]


def _problem(error: InsightsError) -> Problem:
    detail = error.detail()
    if isinstance(error, FilterError) and detail and "\n" not in error.filter:
        # psql writes DETAIL in front of the first line, and nothing in front of
        # the second: the caret must not be the second.
        detail = f"\n{detail}"
    return {
        "sqlstate": error.sqlstate,
        "message": error.message,
        "detail": detail,
        "hint": error.hint,
    }


def _refused(error: Any) -> Problem:
    """An error of PostgreSQL's own, with its SQLSTATE, DETAIL and HINT."""
    data = getattr(error, "spidata", None) or (None, None, None)
    return {
        "sqlstate": error.sqlstate,
        "message": str(error.args[0]) if error.args else str(error),
        "detail": data[1],
        "hint": data[2],
    }


def _one(plpy: Any, answer: Callable[[], dict[str, Any]], empty: dict[str, Any]) -> dict[str, Any]:
    """A row of results, or of nothing but the problem."""
    try:
        return {**answer(), "problem": None}
    except InsightsError as error:
        return {**empty, "problem": _problem(error)}
    except plpy.SPIError as error:
        return {**empty, "problem": _refused(error)}


def _many(
    plpy: Any, answer: Callable[[], Iterator[dict[str, Any]]], empty: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Rows of results; a problem comes as a row of its own, the last."""
    try:
        for row in answer():
            yield {**row, "problem": None}
    except InsightsError as error:
        yield {**empty, "problem": _problem(error)}
    except plpy.SPIError as error:
        yield {**empty, "problem": _refused(error)}


def _nothing(*columns: str) -> dict[str, Any]:
    return dict.fromkeys(columns)


#: Filters whose patterns PostgreSQL has accepted; more than these start anew.
_accepted: set[str] = set()
_MOST_ACCEPTED = 500
_LONGEST_ACCEPTED = 2_000


def _parsed(plpy: Any, filter: Optional[str]) -> tree.Node:
    node = parse_filter(filter)
    if filter and filter not in _accepted:
        rawsql.check_patterns(plpy, node, filter, pattern_places(filter))
        if len(_accepted) >= _MOST_ACCEPTED:
            _accepted.clear()
        if len(filter) <= _LONGEST_ACCEPTED:
            _accepted.add(filter)
    return node


def _now_ms(plpy: Any, *filters: Optional[str]) -> int:
    """The current time, if some filter may ask for it: it takes a statement of its own."""
    if any("now" in filter.lower() for filter in filters if filter):
        return current_time_ms(plpy)
    return 0


def validate(plpy: Any, filter: Optional[str]) -> dict[str, Any]:
    """The canonical form of a filter."""
    return _one(
        plpy, lambda: {"result": printer.print_filter(_parsed(plpy, filter))}, _nothing("result")
    )


def count(
    plpy: Any, schema: str, exp_ids: Ids, filter: Optional[str], unit: Optional[str] = None
) -> dict[str, Any]:
    """How many traces, or sessions, match."""

    def answer() -> dict[str, Any]:
        experiments = experiment_ids(exp_ids)
        node = _parsed(plpy, filter)
        counted = check_unit(unit)
        statement = Statement(schema, experiments, _now_ms(plpy, filter), parallel=True)
        return {"result": correlation.count(plpy, statement, node, counted)}

    return _one(plpy, answer, _nothing("result"))


CORRELATION_COLUMNS = (
    "filter1_count",
    "filter2_count",
    "joint_count",
    "total_count",
    "npmi",
    "npmi_smoothed",
    "lift",
    "phi",
    "odds_ratio",
    "odds_ratio_low",
    "odds_ratio_high",
    "p_value",
    "test",
)


def correlate(
    plpy: Any,
    schema: str,
    exp_ids: Ids,
    filter1: Optional[str],
    filter2: Optional[str],
    base_filter: Optional[str],
    unit: Optional[str] = None,
) -> dict[str, Any]:
    """The counts and statistics of two filters among the traces of a base."""

    def answer() -> dict[str, Any]:
        experiments = experiment_ids(exp_ids)
        # Each by itself first, so that an error shows the filter it is in.
        base, _, _ = (_parsed(plpy, filter) for filter in (base_filter, filter1, filter2))
        counted = check_unit(unit)
        now_ms = _now_ms(plpy, base_filter, filter1, filter2)
        statement = Statement(schema, experiments, now_ms, parallel=True)
        return correlation.correlate(
            plpy,
            statement,
            base,
            parse_conjunction(base_filter, filter1),
            parse_conjunction(base_filter, filter2),
            counted,
        )

    return _one(plpy, answer, _nothing(*CORRELATION_COLUMNS))


def correlation_matrix(
    plpy: Any,
    schema: str,
    exp_ids: Ids,
    filters: Ids,
    base_filter: Optional[str],
    unit: Optional[str],
) -> Iterator[dict[str, Any]]:
    """The correlation of each two of some filters."""
    from insights_engine.answers.counts import matrix

    def answer() -> Iterator[dict[str, Any]]:
        experiments = experiment_ids(exp_ids)
        given = matrix.check_filters(filters)
        base = _parsed(plpy, base_filter)
        matrix.each(given, lambda filter: _parsed(plpy, filter))
        nodes = matrix.each(given, lambda filter: parse_conjunction(base_filter, filter))
        statement = Statement(
            schema, experiments, _now_ms(plpy, base_filter, *given), parallel=True
        )
        for first, second, found in matrix.correlations(
            plpy, statement, base, nodes, check_unit(unit)
        ):
            yield {
                "filter1_number": first + 1,
                "filter2_number": second + 1,
                "filter1": given[first],
                "filter2": given[second],
                **found,
            }

    return _many(
        plpy,
        answer,
        _nothing("filter1_number", "filter2_number", "filter1", "filter2", *CORRELATION_COLUMNS),
    )


def facets(
    plpy: Any,
    schema: str,
    exp_ids: Ids,
    filter: Optional[str],
    field: Optional[str],
    max_results: Optional[int],
    unit: Optional[str],
) -> Iterator[dict[str, Any]]:
    """The values of a field among the traces that match."""
    from insights_engine.answers.facets import facets as by_value
    from insights_engine.answers.facets.facet_rows import Question

    def answer() -> Iterator[dict[str, Any]]:
        experiments = experiment_ids(exp_ids)
        question = Question(
            _parsed(plpy, filter),
            parse_field(field or ""),
            by_value.check_max_results(max_results),
            check_unit(unit),
        )
        statement = Statement(schema, experiments, _now_ms(plpy, filter), parallel=True)
        return by_value.facets(plpy, statement, question)

    return _many(plpy, answer, _nothing("value", "low", "high", "filter", "count", "share"))


def timeseries(
    plpy: Any,
    schema: str,
    exp_ids: Ids,
    filter: Optional[str],
    bucket: Optional[str],
    first_ms: Optional[int],
    end_ms: Optional[int],
    time_zone: Optional[str],
    unit: Optional[str],
) -> dict[str, Any]:
    """Traces by time: arrays, of which each element belongs to a bucket."""
    from insights_engine.answers.series import time_buckets
    from insights_engine.answers.series import timeseries as by_time
    from insights_engine.answers.series.series_rows import COLUMNS

    def answer() -> dict[str, Any]:
        experiments = experiment_ids(exp_ids)
        node = _parsed(plpy, filter)
        counted = check_unit(unit)
        width = time_buckets.width_of(plpy, bucket)
        statement = Statement(schema, experiments, _now_ms(plpy, filter), parallel=True)
        return by_time.series(plpy, statement, node, width, time_zone, first_ms, end_ms, counted)

    return _one(plpy, answer, _nothing("start_ms", *COLUMNS))


DISCOVERY_COLUMNS = (
    *("filter", "kind", "key", "value"),
    *("target_count", "fact_count", "joint_count", "total_count"),
    *("target_share", "other_share", "difference", "lift", "npmi", "phi"),
    *("odds_ratio", "odds_ratio_low", "odds_ratio_high", "p_value", "q_value"),
    *("test", "restates", "similar", "tested", "screened_count"),
)


def discover(
    plpy: Any,
    schema: str,
    exp_ids: Ids,
    target: Optional[str],
    base_filter: Optional[str],
    *chosen: Any,
) -> Iterator[dict[str, Any]]:
    """Facts associated with a target; ``chosen``: see `options.options`."""

    def answer() -> Iterator[dict[str, Any]]:
        experiments = experiment_ids(exp_ids)
        base, restated = (_parsed(plpy, filter) for filter in (base_filter, target))
        both = parse_conjunction(base_filter, target)
        now_ms = _now_ms(plpy, base_filter, target)
        statement = Statement(schema, experiments, now_ms)
        return _discoveries(plpy, statement, base, both, [restated], chosen)

    return _many(plpy, answer, _nothing(*DISCOVERY_COLUMNS))


def compare(
    plpy: Any,
    schema: str,
    exp_ids: Ids,
    selection: Optional[str],
    baseline: Optional[str],
    *chosen: Any,
) -> Iterator[dict[str, Any]]:
    """What sets a selection apart from a baseline; ``chosen``: see `options.options`."""

    def answer() -> Iterator[dict[str, Any]]:
        experiments = experiment_ids(exp_ids)
        target, other = (_parsed(plpy, filter) for filter in (selection, baseline))
        base = parse_disjunction(selection, baseline)
        now_ms = _now_ms(plpy, selection, baseline)
        statement = Statement(schema, experiments, now_ms)
        return _discoveries(plpy, statement, base, target, [target, other], chosen)

    return _many(plpy, answer, _nothing(*DISCOVERY_COLUMNS))


def _discoveries(
    plpy: Any,
    statement: Statement,
    base: tree.Node,
    target: tree.Node,
    restated: Sequence[tree.Node],
    chosen: Sequence[Any],
) -> Iterator[dict[str, Any]]:
    """The rows about ``target``, which is part of ``base``."""
    # Sessions that only search need none of it.
    from insights_engine.answers.discovery import discover as discovery
    from insights_engine.answers.discovery import options, units
    from insights_engine.answers.discovery.population import Population
    from insights_engine.answers.discovery.significance import Question
    from insights_engine.columns import candidates

    wanted = options.options(*chosen)
    question = Question(base, target, candidates.Restated(restated))
    population = Population(plpy, statement, base, target)
    if wanted.unit == "trace":
        counted = units.Traces(population)
    else:
        counted = units.Sessions(
            population, plpy, statement.schema, every=wanted.unit == "session_all"
        )
    return discovery.discover(population, counted, question, wanted)


def explain(
    plpy: Any, schema: str, exp_ids: Ids, filter: Optional[str]
) -> Iterator[dict[str, Any]]:
    """How a filter is understood and answered."""

    def answer() -> Iterator[dict[str, Any]]:
        experiments = experiment_ids(exp_ids)
        node = _parsed(plpy, filter)
        statement = Statement(schema, experiments, current_time_ms(plpy))
        for step, detail in explanation.explain(plpy, statement, node):
            yield {"step": step, "detail": detail}

    return _many(plpy, answer, _nothing("step", "detail"))


def _query(
    plpy: Any, schema: str, exp_ids: Ids, filter: Optional[str], order_by: Ids
) -> search.Query:
    return search.Query(
        schema,
        experiment_ids(exp_ids, locations=True),
        _parsed(plpy, filter),
        parse_order(order_by),
    )


def _page(
    plpy: Any,
    schema: str,
    exp_ids: Ids,
    filter: Optional[str],
    max_results: Optional[int],
    order_by: Ids,
    page_token: Optional[str],
    page_offset: Optional[int] = None,
) -> search.Page:
    limit = search.check_max_results(max_results, "Read on with page_token.")
    if page_offset is not None and page_offset < 0:
        raise InsightsError("The offset of a page must not be negative.")
    query = _query(plpy, schema, exp_ids, filter, order_by)
    return search.find_page(plpy, query, limit, current_time_ms(plpy), page_token, page_offset or 0)


SEARCH_COLUMNS = (
    "trace_id",
    "experiment_id",
    "timestamp_ms",
    "execution_time_ms",
    "status",
    "trace_name",
    "session_id",
    "request_preview",
    "response_preview",
    "tags",
    "metadata",
    "assessments",
    "next_page_token",
)


def search_traces(
    plpy: Any,
    schema: str,
    exp_ids: Ids,
    filter: Optional[str],
    max_results: Optional[int],
    order_by: Ids,
    page_token: Optional[str],
) -> Iterator[dict[str, Any]]:
    """A page of matching traces with what one wants to see of them."""

    def answer() -> Iterator[dict[str, Any]]:
        page = _page(plpy, schema, exp_ids, filter, max_results, order_by, page_token)
        return search.read_rows(plpy, schema, page)

    return _many(plpy, answer, _nothing(*SEARCH_COLUMNS))


def search_page(
    plpy: Any,
    schema: str,
    exp_ids: Ids,
    filter: Optional[str],
    max_results: Optional[int],
    order_by: Ids,
    page_token: Optional[str],
    page_offset: Optional[int],
) -> dict[str, Any]:
    """A page of matching traces: their ids alone."""

    def answer() -> dict[str, Any]:
        page = _page(plpy, schema, exp_ids, filter, max_results, order_by, page_token, page_offset)
        return {"trace_ids": page.trace_ids, "next_page_token": page.next_page_token}

    return _one(plpy, answer, _nothing("trace_ids", "next_page_token"))


_MOST_TRACE_IDS = 10_000_000


def match_trace_ids(
    plpy: Any, schema: str, exp_ids: Ids, filter: Optional[str], trace_ids: Ids
) -> Iterator[dict[str, Any]]:
    """Those of the given traces that match."""

    def answer() -> Iterator[dict[str, Any]]:
        query = _query(plpy, schema, exp_ids, filter, None)
        at_most(trace_ids or (), "trace_ids", _MOST_TRACE_IDS)
        if query.experiments == []:
            return
        integrity.guard(plpy)
        given = [trace_id for trace_id in trace_ids or () if isinstance(trace_id, str)]
        for trace_id in search.match_trace_ids(plpy, query, given, current_time_ms(plpy)):
            yield {"trace_id": trace_id}

    return _many(plpy, answer, _nothing("trace_id"))


# What writes the index is imported when it is called: sessions that read need none of it.


_EACH_TRANSACTION = "So many traces are indexed in one transaction; the default is {:d}."
_MOST_IN_A_TRANSACTION = 1_000_000
_MOST_PROBLEMS = 100_000


def refresh_index(plpy: Any, schema: str, max_traces: Optional[int]) -> dict[str, Any]:
    """Indexes what is pending."""
    from insights_engine.upkeep import refresh

    def answer() -> dict[str, Any]:
        most = positive(
            max_traces, "max_traces", _EACH_TRANSACTION.format(5_000), _MOST_IN_A_TRANSACTION
        )
        return refresh.refresh(plpy, schema, most)

    return _one(
        plpy,
        answer,
        _nothing("indexed", "removed", "merged", "pending", "busy"),
    )


def build_index(
    plpy: Any, schema: str, max_traces: Optional[int], leased: Optional[bool]
) -> dict[str, Any]:
    """Indexes the next traces of a database that is new to the index."""
    from insights_engine.upkeep import refresh

    def answer() -> dict[str, Any]:
        most = positive(
            max_traces, "max_traces", _EACH_TRANSACTION.format(32_000), _MOST_IN_A_TRANSACTION
        )
        return refresh.build(plpy, schema, most, bool(leased))

    return _one(plpy, answer, _nothing("indexed", "done", "busy"))


def start_over(
    plpy: Any, schema: str, batch_size: Optional[int], leased: Optional[bool]
) -> dict[str, Any]:
    """Has the index built anew; ``batch_size`` is what `build_index` will be called with."""
    from insights_engine.upkeep import refresh

    def answer() -> dict[str, Any]:
        # Before the index is given up.
        positive(batch_size, "batch_size", _EACH_TRANSACTION.format(32_000), _MOST_IN_A_TRANSACTION)
        return refresh.start_over(plpy, schema, bool(leased))

    return _one(plpy, answer, _nothing("busy"))


def verify_index(plpy: Any, schema: str, max_problems: Optional[int]) -> Iterator[dict[str, Any]]:
    """Where the index and MLflow's tables disagree."""
    from insights_engine.upkeep import verify

    def answer() -> Iterator[dict[str, Any]]:
        # No problem of none looked for would read as an index that is right.
        most = positive(
            max_problems,
            "max_problems",
            "It ends after so many; the default is 100.",
            _MOST_PROBLEMS,
        )
        for trace_id, disagreement in verify.verify(plpy, schema, most):
            yield {"trace_id": trace_id, "disagreement": disagreement}

    return _many(plpy, answer, _nothing("trace_id", "disagreement"))
