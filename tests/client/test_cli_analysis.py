"""The commands that look for patterns: results and forms."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from insights_py import Insights
from insights_py.cli import exits, output
from tests.client.command import Ended, Run, runner

ERRORS = "span.status = 'ERROR'"
GPT4 = "span.attributes.model = 'gpt-4'"
V1 = "tags.release = 'v1'"
V2 = "tags.release = 'v2'"


@pytest.fixture
def insights(
    world_dsn: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Runs a command line against the small world."""
    return runner(world_dsn, capsys, monkeypatch)


def test_matrix(insights: Run, world_dsn: str) -> None:
    ended = insights("matrix", GPT4, ERRORS, V2)
    assert ended.out == (
        "   filter                           traces     1     2     3\n"
        "1  span.attributes.model = 'gpt-4'      16     ·  0.54  0.00\n"
        "2  span.status = 'ERROR'                11  0.54     ·  0.03\n"
        "3  tags.release = 'v2'                  12  0.00  0.03     ·\n"
        "npmi: -1 never together, 0 independent, 1 always; 48 traces\n"
    )
    phi = insights("matrix", GPT4, ERRORS, "--statistic", "phi", "-b", V1).out
    assert phi.endswith("phi: -1 opposites, 0 independent, 1 the same; 36 traces\n")
    with Insights(world_dsn) as client:
        pairs = client.matrix([GPT4, ERRORS, V2])
    expected = [pair.as_dict() for pair in pairs]
    assert insights("matrix", GPT4, ERRORS, V2, "--json").json() == {"pairs": expected}
    rows = insights("matrix", GPT4, ERRORS, V2, "--csv").csv()
    assert [row["filter2"] for row in rows] == [ERRORS, V2, V2]
    assert [float(row["npmi"]) for row in rows] == [pair.npmi for pair in pairs]


def test_a_bad_filter_in_a_matrix(insights: Run) -> None:
    ended = insights("matrix", ERRORS, "span.stats = 'ERROR'")
    assert (ended.code, ended.out) == (exits.USAGE, "")
    assert "\n  span.stats = 'ERROR'\n       ^^^^^\nHint: Did you mean span.status? " in ended.err


def test_matrix_reads_a_filter_from_standard_input(
    insights: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ERRORS.encode())))
    (pair,) = insights("matrix", GPT4, "-", "--json").json()["pairs"]
    assert (pair["filter1"], pair["filter2"]) == (GPT4, ERRORS)


def test_discover(insights: Run, world_dsn: str) -> None:
    ended = insights("discover", ERRORS)
    lines = ended.out.splitlines()
    assert lines[0].split() == [
        *("filter", "target", "other", "odds", "ratio", "95", "%"),
        *("q", "both", "with", "fact", "test"),
    ]
    assert any(re.match(rf"{GPT4}.* 81\.8 %  █+.* 18\.9 %  █", line) for line in lines)
    assert re.search(r"facts? shown of \d+ tested, q ≤ 0\.05; target: 11 of 48 traces", lines[-1])
    with Insights(world_dsn) as client:
        facts = client.discover(ERRORS)
    found = insights("discover", ERRORS, "--json").json()
    assert found == output._finite({"facts": [fact.as_dict() for fact in facts]})
    rows = insights("discover", ERRORS, "--csv").csv()
    assert [row["filter"] for row in rows] == [fact.filter for fact in facts]
    assert [json.loads(row["similar"]) for row in rows] == [fact.similar for fact in facts]


def test_discover_nothing(insights: Run) -> None:
    ended = insights("discover", ERRORS, "--fdr", "1e-99")
    said = "No fact is associated with it at q ≤ 1e-99; target: 11 of 48 traces (22.9 %).\n"
    assert ended == Ended(0, said, "")
    assert insights("discover", ERRORS, "--fdr", "1e-99", "--json").json() == {"facts": []}
    assert insights("discover", ERRORS, "--fdr", "1e-99", "--csv").out.startswith("filter,kind,")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["discover", "name = 'never'"], "None of 48 traces matches the target."),
        (["discover", "name = 'never'", "-b", V2], "None of 12 traces matches the target."),
        (["discover", ""], "Every trace matches the target, all 48: there are no others."),
        (["discover", V2, "-b", V2],
         "Every trace matches the target, all 12: there are no others."),
        (["discover", ERRORS, "-b", "name = 'never'"], "No trace matches the base filter."),
        (["discover", "", "--unit", "session"],
         "Every session matches the target, all 5: there are no others."),
        (["compare", "name = 'never'", V2], "None of 12 traces matches the selection."),
        (["compare", "", V2], "No trace matches the baseline alone; the selection has 48."),
        (["compare", "name = 'never'", "name = 'never'"], "No trace at all."),
        (["compare", V2, V1, "--fdr", "1e-99"],
         "No fact sets them apart at q ≤ 1e-99; 12 against 36 traces."),
    ],
)  # fmt: skip
def test_why_nothing_was_discovered(insights: Run, command: list[str], said: str) -> None:
    assert insights(*command) == Ended(0, said + "\n", "")


def test_every_option_of_discovery_arrives(insights: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from insights_py.analysis import Comparison, Discovery
    from insights_py.client import Insights as Client

    given: list[tuple[Any, dict[str, Any]]] = []

    def answer(kind: type) -> Callable[..., Any]:
        def method(self: Client, *filters: Any, **options: Any) -> Any:
            given.append((filters, options))
            return kind([])

        return method

    monkeypatch.setattr(Client, "discover", answer(Discovery))
    monkeypatch.setattr(Client, "compare", answer(Comparison))
    chosen = [
        *("--kind", "tag", "-k", "number", "--min-support", "9", "-n", "3", "--fdr", "0.2"),
        *("--direction", "both", "--pairs", "--restatements", "--unit", "session", "-e", "7"),
    ]
    options = {
        "kinds": ("tag", "number"),
        "min_support": 9,
        "max_results": 3,
        "fdr": 0.2,
        "direction": "both",
        "pairs": True,
        "restatements": True,
        "unit": "session",
        "experiment_ids": ["7"],
    }
    insights("discover", "a", "--base", "b", *chosen)
    insights("compare", "a", "b", *chosen)
    assert given == [(("a", "b"), options), (("a", "b"), options)]


def test_compare(insights: Run, world_dsn: str) -> None:
    ended = insights("compare", V2, V1)
    assert re.match("filter +selection +baseline ", ended.out)
    assert ended.out.endswith("; 12 against 36 traces\n")
    with Insights(world_dsn) as client:
        facts = client.compare(V2, V1)
    found = insights("compare", V2, V1, "--json").json()
    assert found == output._finite({"facts": [fact.as_dict() for fact in facts]})


def test_facets(insights: Run) -> None:
    assert insights("facets", "", "tags.release").out == (
        "tags.release  traces   share                filter\n"
        "v1                36  75.0 %  ████████████  tags.release = 'v1'\n"
        "v2                12  25.0 %  ████          tags.release = 'v2'\n"
    )
    found = insights("facets", ERRORS, "tags.release", "-n", "1", "--json").json()
    assert found["facets"][0] == {
        "value": "v1",
        "low": None,
        "high": None,
        "filter": V1,
        "count": 8,
        "share": 8 / 11,
    }
    rows = insights("facets", "", "execution_time_ms", "--csv").csv()
    assert sum(int(row["count"]) for row in rows) == 48
    assert insights("facets", V1, "tags.release", "--unit", "session", "--json").json() == {
        "facets": [{**found["facets"][0], "count": 5, "share": 1.0}]
    }
    assert insights("facets", "tags.release = 'v3'", "tags.release").out == "No trace matches.\n"
    assert insights("facets", "", "span.nonsense").code == exits.USAGE


def test_timeseries(insights: Run) -> None:
    ended = insights("timeseries", ERRORS, "--bucket", "15 minutes", "--time-zone", "Asia/Tokyo")
    assert ended.out == (
        "time (Asia/Tokyo)  matched                total    rate  errors  error rate    p50    p95"
        "    p99  tokens  cost\n"
        "2026-01-05 18:00         4  ████████████     15  26.7 %       4     100.0 %  1.1 s  4.4 s"
        "  4.9 s     503\n"
        "2026-01-05 18:15         3  █████████        15  20.0 %       3     100.0 %  1.6 s  5.1 s"
        "  5.5 s     423\n"
        "2026-01-05 18:30         4  ████████████     15  26.7 %       4     100.0 %  2.2 s  5.5 s"
        "  6.0 s     625\n"
        "2026-01-05 18:45         0                    3   0.0 %\n"
    )
    spans = ["--bucket", "15 minutes", "--start", "2026-01-05T09:15", "--end", "2026-01-05T09:31Z"]
    found = insights("timeseries", *spans, "--json").json()["buckets"]
    assert [bucket["time"] for bucket in found] == [
        "2026-01-05T09:15:00+00:00",
        "2026-01-05T09:30:00+00:00",
    ]
    assert found[0]["matched"] == 15
    rows = insights("timeseries", *spans, "--csv").csv()
    assert [row["time"] for row in rows] == [bucket["time"] for bucket in found]
    assert rows[0]["p50_ms"] == str(found[0]["p50_ms"])


def test_sessions(insights: Run) -> None:
    assert insights("count", "--unit", "session").out == "5\n"
    assert insights("count", "tags.release = 'v2'", "--unit", "session_all").out == "0\n"
    assert "--unit" in insights("correlate", "-h").out
    found = insights("correlate", "", ERRORS, "--unit", "session", "--json").json()
    assert (found["filter1_count"], found["filter2_count"], found["total_count"]) == (5, 5, 5)
