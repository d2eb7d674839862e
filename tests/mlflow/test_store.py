"""The plugin's tracking store: how MLflow comes by it, and what it does around a filter."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from mlflow.entities import Feedback, TraceInfo, TraceLocation, TraceState
from mlflow.entities.workspace import Workspace
from mlflow.exceptions import MlflowException
from mlflow.server.constants import READ_REPLICA_BACKEND_STORE_URI_ENV_VAR
from mlflow.server.handlers import TrackingStoreRegistryWrapper
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.store.tracking.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore
from mlflow.store.workspace.sqlalchemy_store import SqlAlchemyStore as WorkspaceStore
from mlflow.tracing.client import TracingClient
from mlflow.tracking._tracking_service.registry import TrackingStoreRegistry
from mlflow.tracking._tracking_service.utils import _tracking_store_registry
from mlflow.utils.workspace_context import WorkspaceContext

from insights_py.install import install
from insights_py.mlflow import notices, plugin
from insights_py.mlflow.store import (
    _FIND_FUNCTIONS,
    InsightsStore,
    WorkspaceAwareInsightsStore,
)
from tests.conftest import Databases
from tests.mlflow.conftest import MLFLOW_RELEASE, TwoStores, close, with_driver
from tests.mlflow.world import START_MS, span

BEYOND_MLFLOW = "name = 'one' OR name = 'two'"
DRIVERS = ["psycopg", "psycopg2"]


@pytest.fixture(autouse=True)
def _no_warning_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(notices.WARNED, "")
    monkeypatch.delenv(plugin.SWITCH, raising=False)


@pytest.fixture
def store(dsn: str, artifacts: str) -> Iterator[InsightsStore]:
    """The plugin's store on a database with three traces: one, two and three."""
    opened = InsightsStore(with_driver(dsn), artifacts)
    write_traces(opened, "one", "two", "three")
    yield opened
    close(opened)


def write_traces(
    store: SqlAlchemyStore, *names: str, experiment: str = "0", session: str = "s"
) -> None:
    """A trace per name, one second after another."""
    for number, name in enumerate(names):
        store.start_trace(
            TraceInfo(
                # From 3.18 on MLflow refuses what could mean something in a path.
                trace_id=f"tr-{re.sub('[%?#]', '_', name[:20])}-{experiment}",
                trace_location=TraceLocation.from_experiment_id(experiment),
                request_time=START_MS + 1000 * number,
                state=TraceState.OK,
                tags={"mlflow.traceName": name},
                trace_metadata={"mlflow.trace.session": session},
            )
        )


def names(store: SqlAlchemyStore, **arguments: Any) -> list[str | None]:
    """The names of the traces found."""
    return [trace.tags.get("mlflow.traceName") for trace in store.search_traces(**arguments)[0]]


def idle_in_transaction(dsn: str) -> int:
    """How many sessions of the database have a transaction open, failed or not."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select count(*) from pg_stat_activity where datname = current_database()"
            " and state like 'idle in transaction%'"
        ).fetchone()
        assert row is not None
        return int(row[0])


# ------------------------------------------------------- how MLflow comes by it


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
@pytest.mark.parametrize(
    "registry", [_tracking_store_registry, TrackingStoreRegistryWrapper()], ids=["client", "server"]
)
def test_mlflow_opens_it(
    module_dsn: str, artifacts: str, scheme: str, registry: TrackingStoreRegistry
) -> None:
    """Through its entry points, in clients and servers, whatever the driver."""
    uri = module_dsn.replace("postgresql", scheme, 1)
    opened = registry.get_store(uri, artifacts)
    assert type(opened) is InsightsStore
    assert opened.db_uri == uri
    assert opened.artifact_root_uri == artifacts
    close(opened)


def test_a_client_takes_the_artifact_root_of_the_server_around_it(
    dsn: str, artifacts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one it is the default directory, as in MLflow's own builder."""
    opened = plugin.build_store(with_driver(dsn))
    assert opened.artifact_root_uri == os.path.abspath("mlruns")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", artifacts)
    monkeypatch.setenv(READ_REPLICA_BACKEND_STORE_URI_ENV_VAR, with_driver(dsn, "psycopg2"))
    assert plugin.build_store(with_driver(dsn)).artifact_root_uri == artifacts
    assert plugin.build_store(with_driver(dsn)).read_engine is None
    close(opened)


def test_client_code_gets_it(dsn: str, store: InsightsStore) -> None:
    """A client whose tracking URI is the database speaks the whole language."""
    client = TracingClient(tracking_uri=dsn)
    found = client.search_traces(
        experiment_ids=["0"], filter_string=BEYOND_MLFLOW, include_spans=False
    )
    assert [trace.info.trace_id for trace in found] == ["tr-two-0", "tr-one-0"]
    close(client.store)


def test_importing_mlflow_loads_nothing_heavy() -> None:
    """The entry point is loaded by ``import mlflow``: the store is not, before it is opened."""
    code = (
        "import sys, mlflow; from mlflow.tracking._tracking_service import utils;"
        "builder = utils._tracking_store_registry._registry['postgresql'];"
        "assert builder.__module__ == 'insights_py.mlflow.plugin', builder;"
        "assert 'insights_py.mlflow.store' not in sys.modules;"
        "assert 'mlflow.store.tracking.sqlalchemy_store' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True)


# --------------------------------------------------------------------- switches


@pytest.mark.parametrize("value", ["off", "OFF", "false", "0"])
def test_switched_off(
    module_dsn: str, artifacts: str, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """MLflow's own stores, nothing of ours."""
    monkeypatch.setenv(plugin.SWITCH, value)
    opened = plugin.build_store(with_driver(module_dsn), artifacts)
    assert type(opened) is SqlAlchemyStore
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    with_workspaces = plugin.build_store(with_driver(module_dsn), artifacts)
    assert type(with_workspaces) is WorkspaceAwareSqlAlchemyStore
    close(opened, with_workspaces)


def test_neither_on_nor_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo is an error at the start, not a guess."""
    monkeypatch.setenv(plugin.SWITCH, "of")
    with pytest.raises(MlflowException, match="MLFLOW_INSIGHTS='of' is neither on nor off"):
        plugin.build_store("postgresql://nowhere/none", "artifacts")


def test_an_mlflow_that_the_plugin_does_not_know(
    dsn: str,
    artifacts: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """MLflow's own store and a warning, when the inner parts have moved."""
    monkeypatch.setitem(sys.modules, "insights_py.mlflow.store", None)
    opened = plugin.build_store(with_driver(dsn), artifacts)
    assert type(opened) is SqlAlchemyStore
    assert "not supported by its insights plugin" in caplog.text
    close(opened)


# -------------------------------------------------------- without the functions


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the plugin has warned of."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("insights_py") and record.levelno >= logging.WARNING
    ]


def test_without_the_functions(
    mlflow_only_dsn: str, artifacts: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Stock MLflow and one warning; the functions are used as soon as they are there."""
    stores = [InsightsStore(with_driver(mlflow_only_dsn, driver), artifacts) for driver in DRIVERS]
    write_traces(stores[0], "one", "two")
    for opened in stores:
        assert names(opened, filter_string="name = 'one'") == ["one"]
        with pytest.raises(MlflowException, match="Invalid clause"):
            opened.search_traces(filter_string=BEYOND_MLFLOW)
        answer = opened.calculate_trace_filter_correlation(["0"], "name = 'one'", "")
        assert (answer.filter1_count, answer.filter2_count) == (1, 2)
        assert opened.find_completed_sessions("0", 0, 2 * START_MS, filter_string="name = 'one'")
    (warning,) = warnings_in(caplog)
    assert "insights install --dsn" in warning
    assert "MLFLOW_INSIGHTS=off" in warning
    assert mlflow_only_dsn.rpartition("/")[2] in warning

    install(mlflow_only_dsn)
    for opened in stores:
        assert names(opened, filter_string=BEYOND_MLFLOW) == ["two", "one"]
    assert len(warnings_in(caplog)) == 1
    assert idle_in_transaction(mlflow_only_dsn) == 0
    close(*stores)


def test_the_warning_does_not_show_the_password(
    mlflow_only_dsn: str, artifacts: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The address in it can go into a log."""
    scheme, _, rest = with_driver(mlflow_only_dsn).partition("://")
    account, _, address = rest.rpartition("@")
    user = account.partition(":")[0]
    # Local connections are trusted or not: only the text of the address matters.
    password = account.partition(":")[2] or "secret"
    opened = InsightsStore(f"{scheme}://{user}:{password}@{address}", artifacts)
    (warning,) = warnings_in(caplog)
    assert ":***@" in warning
    assert f":{password}@" not in warning
    close(opened)


@pytest.mark.parametrize("driver", DRIVERS)
def test_functions_removed_meanwhile(
    dsn: str, artifacts: str, driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Every call goes on with stock MLflow, and no session stays in a failed transaction."""
    calls: dict[str, Callable[[InsightsStore], Any]] = {
        "search": lambda s: names(s, filter_string="name = 'one'"),
        "correlate": lambda s: s.calculate_trace_filter_correlation(["0"], "name = 'one'", ""),
        "sessions": lambda s: s.find_completed_sessions(
            "0", 0, 2 * START_MS, filter_string="name = 'one'"
        ),
    }
    stores = {what: InsightsStore(with_driver(dsn, driver), artifacts) for what in calls}
    write_traces(stores["search"], "one", "two")
    before = {what: call(stores[what]) for what, call in calls.items()}
    with psycopg.connect(dsn) as connection:
        connection.execute("drop schema insights cascade")
    assert {what: call(stores[what]) for what, call in calls.items()} == before
    assert len(warnings_in(caplog)) == 1
    assert idle_in_transaction(dsn) == 0
    close(*stores.values())


def test_functions_for_another_schema_are_not_used(dsn: str) -> None:
    """They would answer from the traces of the MLflow that they were installed for."""
    with psycopg.connect(dsn) as connection:
        query = _FIND_FUNCTIONS.text
        assert connection.execute(query).fetchone() == ("public",)
        connection.execute("create schema other; create table other.trace_info ()")
        connection.execute("set search_path to other, public")
        assert connection.execute(query).fetchone() is None


def test_mlflow_in_a_schema_of_its_own(databases: Databases, artifacts: str) -> None:
    """The correlation function lies beside MLflow's tables, whatever the schema's name."""
    with databases.fresh("mlflow") as dsn:
        name = dsn.rpartition("/")[2]
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute('alter schema public rename to "My MLflow"')
            connection.execute(f'alter database {name} set search_path to "My MLflow"')
        install(dsn, "My MLflow")
        opened = InsightsStore(with_driver(dsn), artifacts)
        write_traces(opened, "one", "two", "three")
        assert names(opened, filter_string=BEYOND_MLFLOW) == ["two", "one"]
        answer = opened.calculate_trace_filter_correlation(["0"], BEYOND_MLFLOW, "")
        assert answer.joint_count == 2
        close(opened)


def test_a_role_that_may_not_call_the_functions(
    dsn: str, reader_dsn: str, artifacts: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It keeps stock MLflow; one that may only read gets our answers."""
    opened = InsightsStore(with_driver(dsn), artifacts)
    write_traces(opened, "one", "two", "three")
    reading = InsightsStore(with_driver(reader_dsn), artifacts)
    assert names(reading, filter_string=BEYOND_MLFLOW) == ["two", "one"]
    with psycopg.connect(dsn) as connection:
        connection.execute("revoke usage on schema insights from public")
    assert names(reading, filter_string="name = 'one'") == ["one"]
    assert len(warnings_in(caplog)) == 1
    close(opened, reading)


# ----------------------------------------------------------------------- errors


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_bad_filter(dsn: str, artifacts: str, driver: str) -> None:
    """MLflow's code, our message with the place and the suggestion, the session sound."""
    opened = InsightsStore(with_driver(dsn, driver), artifacts)
    write_traces(opened, "one")
    text = "name = 'one' AND span.stauts = 'ERROR'"
    for call in (
        lambda: opened.search_traces(filter_string=text),
        lambda: opened.calculate_trace_filter_correlation(["0"], "", text),
        lambda: opened.calculate_trace_filter_correlation(["0"], "", "", text),
        lambda: opened.find_completed_sessions("0", 0, 2 * START_MS, filter_string=text),
    ):
        with pytest.raises(MlflowException) as refused:
            call()
        assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
        assert refused.value.get_http_status_code() == 400
        message, shown, caret, hint = refused.value.message.splitlines()
        assert "Invalid span attribute 'stauts'" in message
        assert shown == text
        assert caret.strip() in ("^" * n for n in range(1, 20))
        assert caret.index("^") in (text.index("span."), text.index("stauts"))
        assert hint.startswith("Hint: ")
        assert "span.status" in hint
        assert "Traceback" not in refused.value.message
        assert idle_in_transaction(dsn) == 0
        assert names(opened, filter_string="name = 'one'") == ["one"]
    close(opened)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("filter_string", "name = 'a\0b'"),
        ("filter_string", "name = '\ud800'"),
        ("order_by", ["na\0me"]),
        ("page_token", "\0"),
        ("page_token", b"\0\xff"),
        ("filter_string", 5),
    ],
)
def test_what_no_driver_can_send(
    module_dsn: str, artifacts: str, driver: str, argument: str, value: Any
) -> None:
    """Refused the same way whatever the driver makes of it."""
    opened = InsightsStore(with_driver(module_dsn, driver), artifacts)
    with pytest.raises(MlflowException) as refused:
        opened.search_traces(**{argument: value})
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
    assert idle_in_transaction(module_dsn) == 0
    close(opened)


#: What makes PostgreSQL join a page with the traces in one way or another.
PLANS = {
    "as planned": [],
    "hash": ["enable_nestloop", "enable_mergejoin"],
    "merge": ["enable_nestloop", "enable_hashjoin"],
    "nested loop": ["enable_hashjoin", "enable_mergejoin"],
}

BAD_ARGUMENTS: dict[str, dict[str, Any]] = {
    "filter": {"filter_string": "nope = 1"},
    "order": {"order_by": ["nope"]},
    "token": {"page_token": "nope"},
}


@pytest.mark.parametrize("bad", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
@pytest.mark.parametrize("locations", [None, [], ["0"], ["99"]], ids=str)
def test_a_mistake_is_one_whatever_the_plan_and_without_any_trace(
    no_traces: list[SqlAlchemyStore], bad: dict[str, Any], locations: list[str] | None
) -> None:
    """A join with no rows on one side need not look at the other: the function was not called."""
    for store in no_traces:
        with WorkspaceContext("default"):
            assert store.search_traces(locations=locations) == ([], None)
            with pytest.raises(MlflowException) as caught:
                store.search_traces(locations=locations, **bad)
            assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


def test_a_bad_filter_of_sessions_is_one_without_any_trace(
    no_traces: list[SqlAlchemyStore],
) -> None:
    for store in no_traces:
        calls: tuple[Callable[..., Any], ...] = (
            lambda to, bad: to.find_completed_sessions("0", 0, START_MS, filter_string=bad),
            lambda to, bad: to.find_completed_sessions("0", 0, 0, 0, bad),
            lambda to, bad: to.calculate_trace_filter_correlation(["0"], bad, ""),
            lambda to, bad: to.calculate_trace_filter_correlation(["99"], "", "", bad),
        )
        for call in calls:
            with WorkspaceContext("default"), pytest.raises(MlflowException) as caught:
                call(store, "nope = 1")
            assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


@pytest.fixture(scope="module")
def no_traces(
    databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[SqlAlchemyStore]]:
    """Stores with and without workspaces, for each way to plan, where PostgreSQL knows that
    there are no traces."""
    artifacts = str(tmp_path_factory.mktemp("artifacts"))
    stores: list[SqlAlchemyStore] = []
    with databases.fresh("insights") as dsn:
        for switched_off in PLANS.values():
            options = "%20".join(f"-c{name}=off" for name in switched_off)
            uri = f"{with_driver(dsn)}?options={options}"
            with pytest.MonkeyPatch.context() as patch:
                stores.append(InsightsStore(uri, artifacts))
                patch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
                stores.append(WorkspaceAwareInsightsStore(uri, artifacts))
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("vacuum analyze")
        yield stores
        close(*stores)


@pytest.mark.parametrize(
    "bad",
    [
        *({"order_by": [clause]} for clause in ("", " ", "timestamp descending", "text", "''")),
        *({"order_by": [clause]} for clause in ("Timestamp", "foo.bar", "TAG.x", "metadata", "1")),
        *({"order_by": [clause]} for clause in ("name foo", "prompt", "type", "name, name", "`")),
        *(
            {"page_token": token}
            for token in ("eyJvZmZzZXQiOiJhIn0=", "!!!", "abc", "e30=", "YWJj")
        ),
    ],
    ids=str,
)
def test_what_both_refuse_is_said_in_mlflows_words(
    two_stores: TwoStores, bad: dict[str, Any]
) -> None:
    """With more after them; sets have no order."""
    said = []
    for store in (two_stores.stock, two_stores.plugin):
        with pytest.raises(MlflowException) as caught:
            store.search_traces(**bad)
        assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
        in_set = sorted(re.findall(r"'[a-z_]+'(?=[,}])", caught.value.message))
        said.append((re.sub(r"\{'.*?\}", "{}", caught.value.message), in_set))
    (theirs, their_set), (ours, our_set) = said
    assert theirs in ours
    assert their_set == our_set


@pytest.mark.parametrize("driver", DRIVERS)
def test_hostile_text_is_only_text(dsn: str, artifacts: str, driver: str) -> None:
    """Percent signs, colons, quotes and backslashes reach the function as they are."""
    opened = InsightsStore(with_driver(dsn, driver), artifacts)
    name = """%s %(x)s :name ' '' \\ {} $1 "; drop table trace_info; --"""
    write_traces(opened, name)
    literal = "'" + name.replace("'", "''") + "'"
    assert names(opened, filter_string=f"name = {literal}") == [name]
    answer = opened.calculate_trace_filter_correlation(["0"], f"name = {literal}", "")
    assert answer.joint_count == 1
    assert opened.find_completed_sessions("0", 0, 2 * START_MS, filter_string=f"name = {literal}")
    close(opened)


def test_a_string_attribute_that_is_json(store: InsightsStore) -> None:
    """Clients' strings that read as JSON are stored as what they say before 3.18, as text since.

    What was stored is compared as it was stored: docs/compatibility.md.
    """
    trace_id = "tr-" + "0" * 31 + "1"
    attributes = {"payload": '{"a": 1}', "note": '"x"', "count": "7"}
    store.log_spans("0", [span(trace_id, 0, START_MS, attributes=attributes)])
    structure = MLFLOW_RELEASE < (3, 18)
    for text, found in {
        "span.attributes['payload']['a'] = 1": structure,
        "span.attributes.note = 'x'": structure,
        "span.attributes.note = '\"x\"'": not structure,
        "span.attributes.payload = '{\"a\": 1}'": True,
        "span.attributes.count = '7'": True,
    }.items():
        assert (len(store.search_traces(filter_string=text)[0]) == 1) is found, text


def test_all_at_once(two_stores: TwoStores) -> None:
    """More traces in one page than MLflow reads of their tags at a time come in order."""
    ours, token = two_stores.plugin.search_traces(max_results=50_000, order_by=["name DESC"])
    assert ours == two_stores.stock.search_traces(max_results=50_000, order_by=["name DESC"])[0]
    assert token is None


# ----------------------------------------------------------------- read replica


@pytest.mark.parametrize("replica_has_functions", [True, False])
def test_read_replica(
    databases: Databases,
    dsn: str,
    artifacts: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    replica_has_functions: bool,
) -> None:
    """The filters are answered where MLflow reads, with what that database offers."""
    with databases.fresh("insights" if replica_has_functions else "mlflow") as replica:
        # Two databases with different traces show which of them answers.
        filler = SqlAlchemyStore(with_driver(replica), artifacts)
        write_traces(filler, "one", "replicated")
        SqlAlchemyStore(with_driver(dsn), artifacts)  # makes the default experiment
        monkeypatch.setenv(READ_REPLICA_BACKEND_STORE_URI_ENV_VAR, with_driver(replica))
        opened = plugin.build_store(with_driver(dsn), artifacts)
        assert type(opened) is InsightsStore
        write_traces(opened, "primary")
        assert names(opened) == ["replicated", "one"]
        assert names(opened, filter_string="name LIKE 'rep%'") == ["replicated"]
        answer = opened.calculate_trace_filter_correlation(["0"], "name = 'one'", "")
        assert (answer.filter1_count, answer.total_count) == (1, 2)
        assert opened.find_completed_sessions("0", 0, 2 * START_MS, filter_string="name = 'one'")
        if replica_has_functions:
            assert names(opened, filter_string="NOT name = 'one'") == ["replicated"]
        assert len(warnings_in(caplog)) == (0 if replica_has_functions else 1)
        close(opened, filler)


# ------------------------------------------------------------------- workspaces


@pytest.fixture
def workspaces(
    dsn: str, artifacts: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[WorkspaceAwareInsightsStore, dict[str, str]]]:
    """A store with an experiment in each of two workspaces, which share a session's name."""
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    uri = with_driver(dsn)
    provider = WorkspaceStore(uri)
    opened = plugin.build_store(uri, artifacts)
    assert isinstance(opened, WorkspaceAwareInsightsStore)
    experiments = {}
    for workspace in ("red-team", "blue-team"):
        provider.create_workspace(Workspace(name=workspace))
        with WorkspaceContext(workspace):
            experiment = opened.create_experiment("traces")
            experiments[workspace] = experiment
            write_traces(opened, "one", "two", experiment=experiment, session="shared")
            opened.log_spans(
                experiment, [span("tr-" + "0" * 30 + experiment.zfill(2), 0, START_MS)]
            )
    with WorkspaceContext("blue-team"):
        opened.create_assessment(
            Feedback(
                trace_id=f"tr-one-{experiments['blue-team']}",
                name="tone",
                value="good",
                metadata={"mlflow.trace.session": "shared"},
            )
        )
    yield opened, experiments
    close(opened)


def test_workspaces_see_their_own_traces(
    workspaces: tuple[WorkspaceAwareInsightsStore, dict[str, str]],
) -> None:
    """Whatever the locations, and whatever the language adds to MLflow's."""
    opened, experiments = workspaces
    both = list(experiments.values())
    for workspace, experiment in experiments.items():
        with WorkspaceContext(workspace):
            for text in ("", BEYOND_MLFLOW, "span_count >= 0", "NOT name = 'x'"):
                for locations in (None, both, [experiment]):
                    found, _ = opened.search_traces(filter_string=text, locations=locations)
                    assert found, (text, locations)
                    assert {trace.experiment_id for trace in found} == {experiment}
            (other,) = set(both) - {experiment}
            assert opened.search_traces(locations=[other])[0] == []
            assert opened.search_traces(locations=[])[0] == []
            answer = opened.calculate_trace_filter_correlation(both, BEYOND_MLFLOW, "")
            assert (answer.joint_count, answer.total_count) == (2, 3)
            assert opened.calculate_trace_filter_correlation([other], "", "").total_count == 0
            assert opened.find_completed_sessions(
                experiment, 0, 2 * START_MS, filter_string="name = 'one' OR name = 'x'"
            )
            assert (
                opened.find_completed_sessions(
                    other, 0, 2 * START_MS, filter_string="name = 'one' OR name = 'x'"
                )
                == []
            )


def test_workspaces_keep_session_wide_assessments_apart(
    workspaces: tuple[WorkspaceAwareInsightsStore, dict[str, str]],
) -> None:
    """An assessment of a session counts for the session's traces in its workspace only."""
    opened, experiments = workspaces
    both = list(experiments.values())
    for locations in (None, both):
        with WorkspaceContext("blue-team"):
            assert names(opened, filter_string="feedback.tone = 'good'", locations=locations) == [
                "two",
                "one",
            ]
        with WorkspaceContext("red-team"):
            found = opened.search_traces(
                filter_string="feedback.tone IS NOT NULL", locations=locations
            )
            assert found == ([], None)
            answer = opened.calculate_trace_filter_correlation(both, "feedback.tone = 'good'", "")
            assert answer.filter1_count == 0


def test_a_page_token_shows_nothing_of_another_workspace(
    workspaces: tuple[WorkspaceAwareInsightsStore, dict[str, str]],
) -> None:
    """It belongs to a search of other experiments."""
    opened, _ = workspaces
    with WorkspaceContext("blue-team"):
        _, token = opened.search_traces(max_results=1)
    with WorkspaceContext("red-team"), pytest.raises(MlflowException, match="page token"):
        opened.search_traces(max_results=10, page_token=token)
