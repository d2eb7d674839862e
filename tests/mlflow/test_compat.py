"""MLflow's inner parts: where they are used, and what happens when they have changed."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Feedback
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.dbmodels.models import SqlAssessments
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

import insights_py
from insights_py import sql
from insights_py.mlflow import app, compat, notices, plugin
from insights_py.mlflow import store as stores
from insights_py.mlflow.store import InsightsStore
from tests.mlflow.conftest import close, with_driver
from tests.mlflow.test_store import names, write_traces
from tests.mlflow.world import START_MS

PACKAGE = Path(insights_py.__file__).parent


@pytest.fixture(autouse=True)
def _no_warning_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(notices.WARNED, "")
    monkeypatch.delenv(plugin.SWITCH, raising=False)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("insights_py") and record.levelno >= logging.WARNING
    ]


def imports(path: Path) -> Iterator[str]:
    """The modules that are imported when it runs, wherever that stands."""
    tree = ast.parse(path.read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.ImportFrom):
            yield str(node.module)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def test_one_module_knows_mlflow() -> None:
    """MLflow's exception, which is public, apart."""
    found = {
        (path.relative_to(PACKAGE).as_posix(), module)
        for path in PACKAGE.rglob("*.py")
        for module in imports(path)
        if module.partition(".")[0] == "mlflow" and module != "mlflow.exceptions"
    }
    assert {path for path, _ in found} == {"mlflow/compat.py"}


def test_this_mlflow_fits() -> None:
    assert compat.problems() == []
    assert compat.override_problems(InsightsStore, stores.OVERRIDDEN) == []
    assert compat.server_problems() == []


# ------------------------------------------------------------------- at the start


def test_a_part_that_is_gone() -> None:
    """The module can be imported all the same, and says what is missing."""
    code = (
        "import mlflow.store.tracking.sqlalchemy_workspace_store;"
        "import mlflow.utils.validation as validation;"
        "del validation._parse_experiment_ids;"
        "from insights_py.mlflow import compat;"
        "print(compat.problems(), compat.server_problems())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("no attribute '_parse_experiment_ids'") == 2


def fewer(self: Any, session: Any) -> Any:
    """A method that takes less than it did."""


def more(original: Callable[..., Any]) -> Callable[..., Any]:
    """The method with one parameter more, which callers may use."""

    def search_traces(
        self: Any,
        experiment_ids: Any = None,
        filter_string: Any = None,
        max_results: int = 100,
        order_by: Any = None,
        page_token: Any = None,
        model_id: Any = None,
        locations: Any = None,
        include_spans: bool = False,
    ) -> Any:
        return original(self, experiment_ids, filter_string, max_results, order_by, page_token)

    return search_traces


def unasked(original: Callable[..., Any]) -> Callable[..., Any]:
    def find_completed_sessions(
        self: Any,
        experiment_id: str,
        min_last_trace_timestamp_ms: int,
        max_last_trace_timestamp_ms: int,
        max_results: int | None = None,
        filter_string: str | None = None,
    ) -> Any:
        return []

    return find_completed_sessions


#: Name of the method, what it has become, and how the warning names it.
CHANGES = [
    ("_filter_experiment_ids", lambda _: fewer, "_filter_experiment_ids: too many positional"),
    ("_trace_query", lambda _: None, "SqlAlchemyStore has no _trace_query"),
    ("search_traces", more, "search_traces has the parameters self, experiment_ids, filter_string"),
    ("find_completed_sessions", unasked, "find_completed_sessions does not ask for the filter"),
]


@pytest.mark.parametrize(("name", "change", "said"), CHANGES, ids=[c[0] for c in CHANGES])
def test_a_method_that_has_changed(
    dsn: str,
    artifacts: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    change: Callable[[Any], Any],
    said: str,
) -> None:
    """MLflow's own store and one warning, however many are opened."""
    monkeypatch.setattr(SqlAlchemyStore, name, change(getattr(SqlAlchemyStore, name)))
    opened = [plugin.build_store(with_driver(dsn), where) for where in (artifacts, None)]
    assert [type(store) for store in opened] == [SqlAlchemyStore, SqlAlchemyStore]
    (warning,) = warnings_in(caplog)
    assert "not supported by its insights plugin" in warning
    assert said in warning
    close(*opened)


def test_a_constructor_that_does_something_else(
    dsn: str, artifacts: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original: Callable[..., None] = SqlAlchemyStore.__init__

    @wraps(original)
    def without_sessions(self: Any, *arguments: Any, **keywords: Any) -> None:
        original(self, *arguments, **keywords)
        del self.ManagedSessionMaker

    monkeypatch.setattr(SqlAlchemyStore, "__init__", without_sessions)
    opened = plugin.build_store(with_driver(dsn), artifacts)
    assert type(opened) is SqlAlchemyStore
    (warning,) = warnings_in(caplog)
    assert "AttributeError: 'InsightsStore' object has no attribute" in warning
    close(opened)


def test_a_database_that_is_not_there_is_no_misfit(
    artifacts: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_MAX_RETRIES", "0")
    with pytest.raises(Exception, match="refused"):
        plugin.build_store("postgresql+psycopg://127.0.0.1:1/nothing", artifacts)
    assert warnings_in(caplog) == []


def test_a_server_that_has_changed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """MLflow's own app without the routes."""
    from mlflow.server import app as mlflows
    from mlflow.server import handlers

    monkeypatch.setenv("_MLFLOW_SGI_NAME", "gunicorn")
    monkeypatch.delattr(handlers, "_get_paths")
    monkeypatch.setattr(app, "add_routes", None)
    assert app.create_app() is mlflows
    (warning,) = warnings_in(caplog)
    assert "handlers has no _get_paths" in warning


# --------------------------------------------------------------------- in a call


@pytest.fixture
def store(dsn: str, artifacts: str) -> Iterator[InsightsStore]:
    opened = InsightsStore(with_driver(dsn), artifacts)
    write_traces(opened, "one", "two")
    opened.create_assessment(Feedback(name="good", value=True, trace_id="tr-one-0"))
    yield opened
    close(opened)


def not_as_expected(*arguments: Any, **keywords: Any) -> Any:
    raise TypeError("got an unexpected keyword argument 'novel'")


def test_a_search_that_fails_inside(
    store: InsightsStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of the entities: MLflow reads something of its own object that a row does not have."""
    original = SqlAssessments.to_mlflow_entity

    def with_state(self: Any) -> Any:
        assert self._sa_instance_state is not None
        return original(self)

    monkeypatch.setattr(SqlAssessments, "to_mlflow_entity", with_state)
    for _ in range(2):
        (found,) = store.search_traces(filter_string="name = 'one'")[0]
        assert [assessment.name for assessment in found.assessments] == ["good"]
    (warning,) = warnings_in(caplog)
    assert "could not answer a call (AttributeError: " in warning
    monkeypatch.undo()
    assert names(store, filter_string="name = 'one' OR name = 'two'") == ["two", "one"]


def test_a_correlation_that_fails_inside(
    store: InsightsStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stores, "TraceFilterCorrelationResult", not_as_expected)
    answer = store.calculate_trace_filter_correlation(["0"], "name = 'one'", "")
    assert (answer.filter1_count, answer.filter2_count) == (1, 2)
    (warning,) = warnings_in(caplog)
    assert "TypeError: got an unexpected keyword argument 'novel'" in warning


def test_sessions_that_fail_inside(
    store: InsightsStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the hook that MLflow asks amid a session of its own."""
    monkeypatch.setattr(stores, "array_agg", not_as_expected)
    (found,) = store.find_completed_sessions("0", 0, 2 * START_MS, filter_string="name = 'one'")
    assert found.session_id == "s"
    (warning,) = warnings_in(caplog)
    assert "TypeError" in warning


def test_a_function_that_cannot_be_called(
    store: InsightsStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """MLflow has nothing to answer our own routes with."""
    monkeypatch.setattr(SqlAlchemyStore, "_filter_experiment_ids", fewer)
    with pytest.raises(MlflowException, match="not supported by its insights plugin") as caught:
        store.call_function(sql.COUNT, {"exp_ids": ["0"], "filter": ""})
    assert caught.value.get_http_status_code() == 503
    assert len(warnings_in(caplog)) == 1


def test_a_refused_filter_is_no_misfit(
    store: InsightsStore, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(MlflowException, match="Invalid attribute key"):
        store.search_traces(filter_string="nope = 1")
    assert warnings_in(caplog) == []
