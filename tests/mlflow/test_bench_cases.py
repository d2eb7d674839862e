"""The benchmark's questions are ones that the language and stock MLflow understand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from insights_engine.language.parser import parse_filter
from mlflow.utils.search_utils import SearchTraceUtils

from bench.cases import CORRELATIONS, COUNTS, SEARCHES, Correlation, Count, Question, Search
from bench.conditions import Both, Either, Not, Spans, Trace, atoms, merged

QUESTIONS: set[Question] = {
    question
    for case in CORRELATIONS
    for question in (case.first, case.second, case.base)
    if question is not None
} | {case.question for case in COUNTS}


def ours(question: Question) -> str:
    return question.ours


IN_ORDER = sorted(QUESTIONS, key=ours)


@pytest.mark.parametrize("case", SEARCHES, ids=lambda case: case.name)
def test_filters_of_pages_parse(case: Search) -> None:
    parse_filter(case.filter if case.ours is None else case.ours)
    SearchTraceUtils.parse_search_filter_for_search_traces(case.filter)


@pytest.mark.parametrize("question", IN_ORDER, ids=ours)
def test_filters_of_questions_parse(question: Question) -> None:
    parse_filter(question.ours)
    assert atoms(question.columns)


def test_what_stock_is_asked_parses() -> None:
    asked = [
        (side.first.in_stock, side.second.in_stock)
        for side in CORRELATIONS
        if side.first.in_stock is not None and side.second.in_stock is not None
    ]
    assert len(asked) >= 16
    for pair in asked:
        for filter_string in pair:
            SearchTraceUtils.parse_search_filter_for_search_traces(filter_string)


@pytest.mark.parametrize("cases", [SEARCHES, CORRELATIONS, COUNTS], ids=["page", "pair", "count"])
def test_names_are_unique(cases: Sequence[Search | Correlation | Count]) -> None:
    names = [case.name for case in cases]
    assert len(names) == len(set(names))


def test_conditions_on_traces_are_put_together() -> None:
    a, b, some = Trace("a = 1"), Trace("b = 1"), Spans("type = 'LLM'", 2)
    assert merged(a & b) == Trace("(a = 1) and (b = 1)")
    assert merged(~(a | b)) == Trace("coalesce(not ((a = 1) or (b = 1)), true)")
    assert merged((a & b) & some) == Both(Trace("(a = 1) and (b = 1)"), some)
    assert merged(~some | a) == Either(Not(some), a)
    assert atoms(some & a, None, ~a) == [some, a]
