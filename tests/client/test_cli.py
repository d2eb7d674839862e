"""The command line: results, forms, exit codes, errors."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from insights_py import Insights
from insights_py.cli import exits, output
from insights_py.cli.main import cli
from insights_py.version import __version__
from tests.client.command import Ended, Run, runner
from tests.client.terminal import environment
from tests.client.world import trace_id
from tests.conftest import Databases
from tests.processes import heed_interrupts

ERRORS = "span.status = 'ERROR'"
GPT4 = "span.attributes.model = 'gpt-4'"


@pytest.fixture
def insights(
    world_dsn: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Runs a command line against the small world."""
    return runner(world_dsn, capsys, monkeypatch)


# ---------------------------------------------------------------------- results


def test_search_for_people(insights: Run) -> None:
    ended = insights("search", ERRORS, "-n", "2")
    assert ended == Ended(
        0,
        "trace_id                             time (UTC)           status  duration  name       "
        "request                              response\n"
        f"{trace_id(42)}  2026-01-05 09:42:00  ERROR      2.3 s  plan trip  "
        "Summarise this contract, please\n"
        f"{trace_id(37)}  2026-01-05 09:37:00  ERROR      6.1 s  answer     "
        "Which plan includes single sign-on?\n"
        "2 traces; more match\n",
        "",
    )


def test_search_without_a_filter_finds_everything(insights: Run) -> None:
    assert len(insights("search", "--json").json()["traces"]) == 48


def test_search_json(insights: Run, world_dsn: str) -> None:
    found = insights("search", ERRORS, "-n", "2", "--json").json()
    assert list(found) == ["traces", "next_page_token"]
    with Insights(world_dsn) as client:
        page = client.search(ERRORS, max_results=2)
    assert found["traces"] == json.loads(output.dumps([trace.as_dict() for trace in page]))
    second = insights(
        "search", ERRORS, "-n", "50", "--json", "--page-token", found["next_page_token"]
    ).json()
    assert len(second["traces"]) == 9
    assert second["next_page_token"] is None


def test_search_csv(insights: Run, world_dsn: str) -> None:
    rows = insights("search", ERRORS, "--csv").csv()
    with Insights(world_dsn) as client:
        traces = list(client.search(ERRORS))
    assert [row["trace_id"] for row in rows] == [trace.trace_id for trace in traces]
    for row, trace in zip(rows, traces, strict=True):
        assert json.loads(row["tags"]) == trace.tags
        assert json.loads(row["assessments"]) == list(trace.assessments)
        assert row["execution_time_ms"] == str(trace.execution_time_ms)
        assert row["response_preview"] == (trace.response_preview or "")


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_all_pages(insights: Run, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from insights_py.client import Insights as Client

    original = Client.search_iter
    monkeypatch.setattr(
        Client, "search_iter", lambda self, *a, **k: original(self, *a, page_size=7, **k)
    )
    ended = insights("search", "--all", form)
    rows = ended.json()["traces"] if form == "--json" else ended.csv()
    assert list(rows[0])[:4] == ["trace_id", "experiment_id", "request_time", "timestamp_ms"]
    assert rows[0]["request_time"] == "2026-01-05T09:47:00+00:00"
    assert [row["trace_id"] for row in rows] == [trace_id(n) for n in reversed(range(48))]


def test_search_in_order(insights: Run) -> None:
    rows = insights(
        "search", "-e", "agents", "-o", "status", "-o", "execution_time_ms DESC", "--csv"
    ).csv()
    keys = [(row["status"], -int(row["execution_time_ms"])) for row in rows]
    assert keys == sorted(keys)
    assert len(keys) == 8


def test_count(insights: Run) -> None:
    assert insights("count") == Ended(0, "48\n", "")
    assert insights("count", ERRORS) == Ended(0, "11\n", "")
    assert insights("count", ERRORS, "--json").json() == {"count": 11}
    assert insights("count", ERRORS, "--csv").out == "count\n11\n"


def test_correlate(insights: Run, world_dsn: str) -> None:
    ended = insights("correlate", GPT4, ERRORS, "--base", "tags.release = 'v1'")
    assert ended.code == 0
    assert re.search(r"^in all +36$", ended.out, re.MULTILINE)
    with Insights(world_dsn) as client:
        expected = client.correlate(GPT4, ERRORS, "tags.release = 'v1'").as_dict()
    assert insights(
        "correlate", GPT4, ERRORS, "-b", "tags.release = 'v1'", "--json"
    ).json() == output._finite(expected)
    (row,) = insights("correlate", GPT4, ERRORS, "-b", "tags.release = 'v1'", "--csv").csv()
    assert row.pop("test") == expected.pop("test") == "Fisher"
    assert {key: float(value) if value else None for key, value in row.items()} == expected


def test_numbers_that_json_lacks(insights: Run) -> None:
    found = insights("correlate", GPT4, "span.status = 'NEVER'", "--json").json()
    assert found["npmi"] is None
    assert found["lift"] is None
    (row,) = insights("correlate", GPT4, "span.status = 'NEVER'", "--csv").csv()
    assert row["npmi"] == "NaN"
    assert row["lift"] == ""


def test_explain(insights: Run) -> None:
    ended = insights("explain", ERRORS)
    assert re.match(rf"step +detail\nfilter +{ERRORS}\n", ended.out)
    steps = insights("explain", ERRORS, "--json").json()["steps"]
    assert steps[0] == {"step": "filter", "detail": ERRORS}
    # The details of later steps contain times.
    rows = insights("explain", ERRORS, "--csv").csv()
    assert rows[0] == steps[0]
    assert [row["step"] for row in rows] == [step["step"] for step in steps]


def test_validate(insights: Run) -> None:
    assert insights("validate", "span.status='ERROR'") == Ended(0, ERRORS + "\n", "")
    assert insights("validate", ERRORS, "--json").json() == {"filter": ERRORS}
    assert insights("validate", ERRORS, "--csv").out == f"filter\n{ERRORS}\n"


def test_status(insights: Run) -> None:
    ended = insights("status")
    assert ended.code == 0
    assert re.search(r"^traces +48$", ended.out, re.MULTILINE)
    assert re.search(r"^index +48 indexed, .*; nothing pending$", ended.out, re.MULTILINE)
    found = insights("status", "--json").json()
    assert found["traces"] == 48
    assert (found["index"]["built"], found["index"]["pending"]) == (True, 0)
    assert found["missing_functions"] == []


@pytest.fixture
def traces_only(
    databases: Databases,
    world_dsn: str,
    world_conn: psycopg.Connection,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Run]:
    """The same as a role that may read the six tables of traces, and nothing else."""
    world_conn.execute("create role traces_only login password 'x'")
    world_conn.execute(
        "grant select on trace_info, spans, trace_tags, trace_request_metadata, assessments,"
        " entity_associations to traces_only"
    )
    dsn = replace(databases.server, user="traces_only", password="x").dsn(
        world_dsn.rpartition("/")[2]
    )
    try:
        yield runner(dsn, capsys, monkeypatch)
    finally:
        world_conn.execute("drop owned by traces_only")
        world_conn.execute("drop role traces_only")


def test_a_role_that_may_read_traces_alone_gets_on(traces_only: Run) -> None:
    assert traces_only("count", ERRORS, "-e", "1").code == 0
    ended = traces_only("status")
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r"^traces +48$", ended.out, re.MULTILINE)
    # It is not in the group of readers.
    assert re.search(r"^index +for members of its group of readers only", ended.out, re.MULTILINE)
    unknown = "unknown: role traces_only may not read"
    assert re.search(f"^MLflow schema +{unknown} alembic_version$", ended.out, re.MULTILINE)
    assert re.search(f"^experiments +{unknown} experiments$", ended.out, re.MULTILINE)
    found = traces_only("status", "--json").json()
    assert (found["traces"], found["experiments"], found["mlflow_revision"]) == (48, None, None)
    assert found["unreadable"] == ["alembic_version", "experiments"]


def test_names_of_experiments_need_the_right_to_read_them(traces_only: Run) -> None:
    ended = traces_only("count", ERRORS, "-e", "chat")
    assert ended.code == exits.PERMISSION
    assert "permission denied for table experiments" in ended.err
    assert "Give experiments by their ids" in ended.err


# ------------------------------------------------------------------ experiments


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["-e", "chat"], 40),
        (["-e", "1"], 40),
        (["--experiment", "agents"], 8),
        (["-e", "name:agents"], 8),
        (["-e", "chat", "-e", "2"], 48),
        (["-e", "chat", "-e", "1"], 40),
        (["-e", "99"], 0),
    ],
)
def test_experiments(insights: Run, options: list[str], count: int) -> None:
    assert insights("count", *options).out == f"{count}\n"


def test_an_experiment_that_is_not_there(insights: Run) -> None:
    assert insights("count", "-e", "chaat") == Ended(
        exits.USAGE,
        "",
        "insights: there is no experiment called chaat\nHint: Did you mean chat?\n",
    )
    assert "Hint" not in insights("count", "-e", "something else").err
    # Names go on, as "demo 2026-01-05 09:00:00" does.
    assert "Did you mean agents?" in insights("count", "-e", "A").err


def test_names_of_digits_and_names_in_several_workspaces(
    dsn: str, conn: psycopg.Connection, insights: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSIGHTS_DSN", dsn)
    conn.execute(
        "insert into experiments (experiment_id, name, lifecycle_stage, workspace) values "
        "(5, '7', 'active', 'default'), (7, 'x', 'active', 'default'), (8, 'x', 'active', 'b')"
    )
    conn.execute(
        "insert into trace_info (request_id, experiment_id, timestamp_ms, status) "
        "values ('t', 5, 0, 'OK')"
    )
    assert insights("count", "-e", "name:7").out == "1\n"
    assert insights("count", "-e", "7").out == "0\n"
    ended = insights("count", "-e", "x")
    assert ended.code == exits.USAGE
    assert "2 experiments are called x: 7, 8" in ended.err


# ------------------------------------------------------------------- exit codes


def test_exit_code_when_nothing_matches(insights: Run) -> None:
    for command in ("search", "count"):
        assert insights(command, "status = 'NEVER'").code == 0
        assert insights(command, "status = 'NEVER'", "--exit-code").code == exits.NOTHING
        assert insights(command, "--exit-code").code == 0
    assert insights("search", "status = 'NEVER'").out == "No trace matches.\n"


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
@pytest.mark.parametrize(
    "command",
    [
        ["search"],
        ["search", "--all"],
        ["count"],
        ["explain"],
        ["validate"],
        ["correlate", ""],
        ["discover"],
        ["discover", "--base", "", "--direction", "both"],
        ["compare", ""],
        ["timeseries"],
    ],
)
def test_a_bad_filter(insights: Run, command: list[str], form: list[str]) -> None:
    assert insights(*command, *form, "--", "tags.a = 'x' AND span.stats = 'ERROR'") == Ended(
        exits.USAGE,
        "",
        "insights: Invalid span attribute 'stats'. Supported attributes: name, status, type, "
        "attributes.<attribute_name>.\n"
        "  tags.a = 'x' AND span.stats = 'ERROR'\n"
        "                        ^^^^^\n"
        "Hint: Did you mean span.status? Fields of a span: name, type, status, content, "
        "duration_ms, attributes['key'].\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command"),
        (["count", "--nonsense"], "No such option"),
        (["correlate", "x"], "Missing argument 'FILTER2'"),
        (["search", "-n", "many"], "not a valid integer"),
        (["search", "--all", "--page-token", "x"], "exclude each other"),
        (["search", "--all", "-n", "5"], "--all and --max-results exclude each other"),
        (["search", "--all", "--max-results", "100"], "--max-results exclude each other"),
        (["completion", "tcsh"], "'bash', 'zsh', 'fish'"),
        (["count", "--dsn", "sqlite:///x"], "not the address of a PostgreSQL database"),
        (["search", "-n", "0"], "max_results"),
        (["discover", "x", "--kind", "nonsense"], "'attribute'"),
        (["discover", "x", "--direction", "up"], "'positive', 'negative', 'both'"),
        (["compare", "x"], "Missing argument 'BASELINE'"),
        (["matrix"], "Missing argument 'FILTER...'"),
        (["matrix", "-", "-"], "once only"),
        (["facets", "x"], "Missing argument 'FIELD'"),
        (["timeseries", "--start", "yesterday"], "the start time is no date or time: yesterday"),
        (["timeseries", "--end", "2026-02-30"], "the end time is no date or time: 2026-02-30"),
        (["count", "--unit", "week"], "'session_all'"),
    ],
)
def test_wrong_usage(insights: Run, arguments: list[str], message: str) -> None:
    ended = insights(*arguments)
    assert ended.code == exits.USAGE
    assert message in ended.err
    assert ended.out == ""


def test_no_database(insights: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INSIGHTS_DSN")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    ended = insights("count")
    assert ended.code == exits.USAGE
    assert "Which database?" in ended.err
    assert "MLFLOW_TRACKING_URI is http://127.0.0.1:5000, which is not" in ended.err


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI"])
def test_the_database_that_mlflow_has(
    insights: Run, world_dsn: str, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv("INSIGHTS_DSN")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv(variable, world_dsn.replace("postgresql://", "postgresql+psycopg2://"))
    assert insights("count").out == "48\n"


def test_the_option_is_stronger_than_the_environment(
    insights: Run, world_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSIGHTS_DSN", "host=/nowhere")
    assert insights("count", "--dsn", world_dsn).out == "48\n"


def test_no_server(insights: Run) -> None:
    ended = insights("count", "--dsn", "postgresql://u:secret@127.0.0.1:1/x")
    assert ended.code == exits.CONNECTION
    assert "secret" not in ended.err


def test_permission(insights: Run, dsn: str, reader_dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("revoke select on trace_info from trace_reader")
    ended = insights("count", "--dsn", reader_dsn)
    assert ended.code == exits.PERMISSION
    assert "trace_info" in ended.err


def test_other_errors(insights: Run, world_dsn: str) -> None:
    slow = world_dsn + "?options=-cstatement_timeout%3D200"
    with psycopg.connect(world_dsn) as other:
        other.execute("lock table trace_info, insights.state in access exclusive mode")
        ended = insights("count", "--dsn", slow)
    assert ended.code == exits.DATABASE
    assert "statement timeout" in ended.err


# ----------------------------------------------------------- install and doctor


def test_from_nothing_to_installed_and_back(insights: Run, mlflow_only_dsn: str) -> None:
    dsn = ["--dsn", mlflow_only_dsn]
    missing = insights("count", *dsn)
    assert missing.code == exits.NOT_INSTALLED
    assert "Run `insights install --dsn DSN` once" in missing.err
    assert insights("status", *dsn).code == exits.NOT_INSTALLED
    ended = insights("doctor", *dsn)
    assert ended.code == exits.NOTHING
    assert "FAIL  trace functions   not installed\n      Install them:" in ended.out
    assert ended.out.endswith("\n1 problem found.\n")

    assert re.fullmatch(
        r"Installed: revision \d+, schema public\.\n", insights("install", *dsn).out
    )
    assert insights("install", *dsn).out.startswith("Already up to date: revision ")
    assert insights("count", *dsn).out == "0\n"
    assert insights("status", *dsn, "--json").json()["revision"]
    healthy = insights("doctor", *dsn)
    assert (healthy.code, healthy.out.splitlines()[-1]) == (0, "All is well.")
    checks = insights("doctor", *dsn, "--json").json()
    assert checks["ok"] is True
    assert {"name", "ok", "finding", "remedy"} == set(checks["checks"][0])
    assert insights("doctor", *dsn, "--csv").csv()[0]["ok"] == "true"

    removed = insights("uninstall", *dsn, "--json").json()
    assert (removed["after"], removed["changed"]) == (None, True)
    assert insights("uninstall", *dsn).out == "Nothing is installed.\n"
    assert insights("count", *dsn).code == exits.NOT_INSTALLED


def test_an_mlflow_that_is_not_known(insights: Run, mlflow_only_dsn: str) -> None:
    """Warnings do not make a command fail, and keep out of what programs read."""
    dsn = ["--dsn", mlflow_only_dsn]
    with psycopg.connect(mlflow_only_dsn) as connection:
        connection.execute("update alembic_version set version_num = 'ffffffffffff'")
    ended = insights("install", *dsn, "--json")
    assert (ended.code, ended.json()["changed"]) == (0, True)
    assert "\nWarning: MLflow's version: its schema is at ffffffffffff, which " in ended.err
    healthy = insights("doctor", *dsn)
    assert healthy.code == 0
    assert re.search(r"^WARN  MLflow's version +its schema .*\n +This release ", healthy.out, re.M)
    assert healthy.out.endswith("\nNo problem found, but see the warning.\n")
    checks = {check["name"]: check for check in insights("doctor", *dsn, "--json").json()["checks"]}
    assert checks["MLflow's version"]["remedy"]


def test_what_cannot_be_installed(insights: Run, databases: Any) -> None:
    dsn = databases.create()
    try:
        ended = insights("install", "--dsn", dsn)
    finally:
        databases.drop(dsn)
    assert ended.code == exits.NOT_INSTALLED
    assert "Cannot install: MLflow's tables" in ended.err
    assert "Nothing was changed." in ended.err


# --------------------------------------------------------------------- the rest


def test_a_filter_from_standard_input(insights: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stdin(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    stdin(b"span.status = 'ERROR'\n")
    assert insights("count", "-").out == "11\n"
    stdin("request_preview LIKE '%ü%'".encode())
    assert insights("count", "-").out == "0\n"
    stdin(b"\xff\xfe")
    assert "not UTF-8" in insights("count", "-").err
    stdin(b"")
    ended = insights("correlate", "-", "-")
    assert (ended.code, "once only" in ended.err) == (exits.USAGE, True)


def test_help_names_the_exit_codes(insights: Run) -> None:
    ended = insights("--help")
    assert ended.code == 0
    assert "3 functions not installed" in " ".join(ended.out.split())
    for command in cli.commands:
        assert insights(command, "-h").code == 0
    assert insights("--version").out == f"insights, version {__version__}\n"


def test_the_commands(insights: Run) -> None:
    assert set(cli.commands) == {
        "install",
        "uninstall",
        "doctor",
        "status",
        "search",
        "count",
        "correlate",
        "matrix",
        "discover",
        "compare",
        "facets",
        "timeseries",
        "explain",
        "validate",
        "index",
        "worker",
        "completion",
    }
    # As the group by itself, for who embeds it in a program of their own.
    assert CliRunner().invoke(cli, ["count"]).output == "48\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "true"),
        (-5, "-5"),
        (-0.5, "-0.5"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        ("", ""),
        ("plain", "plain"),
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@x", "'@x"),
        ("\tx", "'\tx"),
        ("'quoted'", "''quoted'"),
        ({"a": float("nan")}, '{"a": null}'),
        (datetime(2026, 1, 5, 9, tzinfo=timezone.utc), "2026-01-05T09:00:00+00:00"),
        (["=x"], '["=x"]'),
    ],
)
def test_csv_cells(value: Any, text: str) -> None:
    assert output.cell(value) == text


def test_csv_is_read_back_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    texts = ['say "hi", twice', "two\nlines", "crlf\r\nhere", "=1+1", "'", "''=", "ünï😀", " x "]
    output.table(["text"], [{"text": text} for text in texts])
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))
    assert rows[0] == ["text"]
    assert [row[0].removeprefix("'") for row in rows[1:]] == texts


def test_completion_by_name(insights: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.shell_completion import ShellComplete

    complete = ShellComplete(cli, {}, "insights", "_INSIGHTS_COMPLETE")

    def words(*arguments: str) -> list[str]:
        *before, last = arguments
        return [item.value for item in complete.get_completions(list(before), last)]

    assert words("co") == ["compare", "completion", "correlate", "count"]
    assert words("count", "-e", "") == ["chat", "agents"]
    assert words("count", "-e", "a") == ["agents"]
    assert "--exit-code" in words("count", "--e")
    assert words("completion", "") == ["bash", "zsh", "fish"]
    assert words("discover", "x", "--kind", "sp") == ["span"]
    assert words("count", "--unit", "session") == ["session", "session_all"]
    assert words("timeseries", "--time-zone", "Europe/Ber") == ["Europe/Berlin"]
    monkeypatch.setenv("INSIGHTS_DSN", "host=127.0.0.1 port=1")
    assert words("count", "-e", "") == []


def test_completion_scripts(insights: Run) -> None:
    for shell, mark in (
        ("bash", "complete -o nosort -F _insights_completion insights"),
        ("zsh", "#compdef insights"),
        ("fish", "complete --no-files --command insights"),
    ):
        script = insights("completion", shell).out
        assert mark in script
        assert f"_INSIGHTS_COMPLETE={shell}_complete" in script


# ------------------------------------------------------------- as a real process


@pytest.fixture
def program(tmp_path: Path, world_dsn: str) -> dict[str, str]:
    """An environment in which ``insights`` is a program on the PATH."""
    return environment(tmp_path, world_dsn)


def shell(command: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command],
        env=env,
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
        timeout=60,
        check=False,
    )


def test_a_process(program: dict[str, str]) -> None:
    ended = shell("insights count \"span.status = 'ERROR'\"", program)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "11\n", "")
    ended = shell("insights count 'nonsense ='", program)
    assert ended.returncode == exits.USAGE


def test_a_reader_that_goes_away(program: dict[str, str]) -> None:
    ended = shell('insights search --all --json | head -c 1; echo " ${PIPESTATUS[0]}"', program)
    # 141 is death by SIGPIPE; 0 if everything fitted into the pipe.
    assert ended.stdout in ("{ 141\n", "{ 0\n")
    assert ended.stderr == ""
    ended = shell("(sleep 1; insights search --csv; echo $? >&2) | true", program)
    assert ended.stderr == "141\n"


def test_interrupting_cancels_the_statement(program: dict[str, str], world_dsn: str) -> None:
    with psycopg.connect(world_dsn) as other, psycopg.connect(world_dsn, autocommit=True) as admin:
        other.execute("lock table trace_info, insights.state in access exclusive mode")
        process = subprocess.Popen(
            [sys.executable, "-m", "insights_py", "count"],
            env=program,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed_interrupts,
        )
        waiting = (
            "select count(*) from pg_stat_activity "
            "where application_name = 'insights' and wait_event_type = 'Lock' "
            "and datname = current_database()"
        )
        deadline = time.monotonic() + 30
        while admin.execute(waiting).fetchone() != (1,):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (exits.INTERRUPTED, "", "\n")
        assert admin.execute(waiting).fetchone() == (0,)


def test_a_terminal_without_unicode(program: dict[str, str]) -> None:
    env = {**program, "PYTHONIOENCODING": "ascii"}
    ended = shell("insights correlate '' ''; insights search --json -n 1", env)
    assert ended.returncode == 0
    assert re.search(r"^phi +\?$", ended.stdout, re.MULTILINE)


def test_bash_completes(program: dict[str, str]) -> None:
    ended = shell(
        'source <(insights completion bash); COMP_WORDS=(insights count -e ""); COMP_CWORD=3; '
        '_insights_completion insights; echo "${COMPREPLY[@]}"',
        program,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "chat agents\n", "")
