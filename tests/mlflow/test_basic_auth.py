"""What MLflow's basic-auth lets through, and that the plugin answers no more than it looks at.

Basic-auth reads filters and orders with MLflow's own parser, to see whether they depend on
assessments, runs or logged models, which a user may be kept from.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import mlflow.server
import pytest
from mlflow.entities import Feedback
from mlflow.exceptions import MlflowException

from insights_py.mlflow.store import InsightsStore
from tests.mlflow.conftest import close, with_driver
from tests.mlflow.test_store import names, write_traces

EVERY = {"assessment", "logged_model", "run"}


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of basic-auth, as if its app were the server's."""
    protection = ModuleType("flask_wtf.csrf")
    protection.CSRFProtect = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flask_wtf", ModuleType("flask_wtf"))
    monkeypatch.setitem(sys.modules, "flask_wtf.csrf", protection)
    import mlflow.server.auth as auth

    monkeypatch.setattr(auth, "is_auth_enabled", lambda: True)
    yield auth
    del sys.modules["mlflow.server.auth"], mlflow.server.auth


@pytest.mark.parametrize(
    ("text", "tiers"),
    [
        ("name = 'a' AND tags.release IS NULL", set()),
        ("feedback.quality > 0.5", {"assessment"}),
        ("run_id = 'r'", {"run"}),
        # What MLflow cannot read might depend on anything.
        ("name = 'a' OR name = 'b'", EVERY),
        ("count(span.type = 'LLM') > 3", EVERY),
        ("total_tokens > 5", EVERY),
        ("assessment.quality > 0.5", EVERY),
        ("(feedback.quality > 0.5)", EVERY),
        ("feedback.quality IN ('a')", EVERY),
        ("metadata['mlflow.sourceRun'] = 'r'", EVERY),
    ],
)
def test_what_a_filter_needs(guard: ModuleType, text: str, tiers: set[str]) -> None:
    assert guard._trace_search_selects_on_tiers([text]) == tiers


def test_a_comparator_in_small_letters(guard: ModuleType) -> None:
    """Basic-auth itself refuses it on an assessment, with the error of a bad filter."""
    with pytest.raises(MlflowException, match="comparator 'ilike' not one of") as refused:
        guard._trace_search_selects_on_tiers(["feedback.quality ilike 'a'"])
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"


def test_orders_that_basic_auth_takes_no_notice_of(
    guard: ModuleType, dsn: str, artifacts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would show, by the order and in the page token, what the user may not read."""
    store = InsightsStore(with_driver(dsn), artifacts)
    write_traces(store, "one", "two", "three")
    store.create_assessment(Feedback(name="good", value=0.5, trace_id="tr-one-0"))
    for clause in ("feedback.good DESC", "`feedback`.good", "expectation.good"):
        assert guard._trace_search_selects_on_tiers([], [clause]) == set()
        with pytest.raises(MlflowException, match="basic-auth does not look at"):
            store.search_traces(order_by=["timestamp_ms", clause])
    for clause in ("assessment.good", "feedback['good']", "span_count"):
        assert guard._trace_search_selects_on_tiers([], [clause]) == EVERY
        assert len(names(store, order_by=[clause])) == 3
    assert names(store, order_by=["name", "tags.a"]) == ["one", "three", "two"]
    monkeypatch.setattr(guard, "is_auth_enabled", lambda: False)
    assert names(store, order_by=["feedback.good DESC"])[0] == "one"
    close(store)
