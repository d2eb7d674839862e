"""insights_discover and insights_compare: what they find, and what they leave out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from random import Random
from typing import Any

import psycopg
import pytest
from insights_engine.stats import statistics
from insights_engine.stats.independence import fisher_exact
from psycopg.rows import dict_row

from tests.semantics.test_discovery_equals_oracle import set_sampling
from tests.semantics.world import Assessment, Span, Trace, attributes
from tests.sql.conftest import Loader, checked

START = 1_700_000_000_000
COLUMNS = (
    *("filter", "kind", "key", "value"),
    *("target_count", "fact_count", "joint_count", "total_count"),
    *("target_share", "other_share", "difference", "lift", "npmi", "phi"),
    *("odds_ratio", "odds_ratio_low", "odds_ratio_high", "p_value", "q_value"),
    *("test", "restates", "similar", "tested", "screened_count"),
)
ERRORS = "status = 'ERROR'"


def discover(
    connection: psycopg.Connection[Any],
    target: str | None,
    base: str | None = None,
    exp_ids: Any = "1",
    **options: Any,
) -> list[dict[str, Any]]:
    return ask(connection, "insights_discover", exp_ids, target, base, options)


def compare(
    connection: psycopg.Connection[Any], selection: str, baseline: str, **options: Any
) -> list[dict[str, Any]]:
    return ask(connection, "insights_compare", "1", selection, baseline, options)


def ask(
    connection: psycopg.Connection[Any],
    function: str,
    exp_ids: Any,
    first: str | None,
    second: str | None,
    options: dict[str, Any],
) -> list[dict[str, Any]]:
    named = "".join(f", {name} => %({name})s" for name in options)
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            f"select * from {function}(%(exp_ids)s, %(first)s, %(second)s{named})".encode(),
            {"exp_ids": exp_ids, "first": first, "second": second, **options},
        ).fetchall()


def filters(rows: list[dict[str, Any]]) -> list[str]:
    return [row["filter"] for row in rows]


def refresh(connection: psycopg.Connection[Any]) -> None:
    while connection.execute("select pending from insights_refresh()").fetchone() != (0,):
        pass


#: What the world below has planted: with release v2 eight times as many errors.
RELEASE = "tags.release = 'v2'"


def planted(traces: int = 800) -> list[Trace]:
    """Traces of which few fail, but many of release v2, and of those that take long.

    Everything else about them is chance.
    """
    dice = Random(18)
    found = []
    for number in range(traces):
        release = dice.choice(("v1", "v1", "v1", "v2"))
        failed = dice.random() < (0.4 if release == "v2" else 0.05)
        slow = failed and dice.random() < 0.7
        # One in twenty of those that take long has no other reason.
        took = dice.randint(5_000, 9_000) if slow or dice.random() < 0.02 else dice.randint(50, 900)
        noise: dict[str, str | None] = {f"noise{key}": str(dice.randint(1, 6)) for key in range(40)}
        found.append(
            Trace(
                f"t{number:04}",
                1,
                START + 1000 * dice.randint(0, 10_000_000),
                took,
                status="ERROR" if failed else "OK",
                session_id=f"s{number // 4}",
                tags={"release": release, "build": "2" if release == "v2" else "1", **noise},
                tokens={"total_tokens": dice.randint(100, 10_000)},
                spans=(
                    Span(
                        "1", attributes(model=dice.choice("abc")), name="root", end_ns=took * 10**6
                    ),
                    Span(
                        "2", attributes(k=dice.random()), name="tool", end_ns=dice.randint(1, 10**9)
                    ),
                ),
                assessments=(
                    Assessment("feedback", "score", json.dumps(dice.randint(1, 5))),
                    Assessment("feedback", "fine", json.dumps(not failed)),
                ),
            )
        )
    return found


@pytest.fixture
def world(module_conn: psycopg.Connection[Any], put: Loader) -> psycopg.Connection[Any]:
    put(*planted())
    refresh(module_conn)
    return module_conn


def test_what_was_planted_comes_first_and_chance_not_at_all(
    world: psycopg.Connection[Any],
) -> None:
    rows = discover(world, ERRORS)
    assert filters(rows)[0] == "feedback.fine = 'false'"
    assert "span.name = 'root' AND span.duration_ms >= 5000" in (
        text for row in rows for text in (row["filter"], *row["similar"])
    )
    release = next(row for row in rows if row["filter"] in (RELEASE, "tags.build = '2'"))
    assert {release["filter"], *release["similar"]} >= {RELEASE, "tags.build = '2'"}
    # 40 keys of 6 values, tokens, scores, models, times: of the few chance may leave, none here.
    assert not [text for text in filters(rows) if "noise" in text or "tokens" in text]
    assert {row["tested"] for row in rows} == {rows[0]["tested"]}
    assert rows[0]["tested"] > 240


def test_the_statistics_of_a_row_follow_from_its_counts(world: psycopg.Connection[Any]) -> None:
    rows = discover(world, ERRORS)
    assert tuple(rows[0]) == COLUMNS
    for row in rows:
        counts = statistics.Counts(
            row["target_count"], row["fact_count"], row["joint_count"], row["total_count"]
        )
        n11, n10, n01, n00 = counts.table
        assert row["total_count"] == 800
        assert row["target_share"] == pytest.approx(n11 / (n11 + n10))
        assert row["other_share"] == pytest.approx(n01 / (n01 + n00))
        assert row["difference"] == row["target_share"] - row["other_share"] > 0
        assert row["lift"] == statistics.lift(*counts.table)
        assert row["phi"] == statistics.phi(*counts.table)
        odds = statistics.odds_ratio(*counts.table)
        assert (row["odds_ratio"], row["odds_ratio_low"], row["odds_ratio_high"]) == (
            odds.value,
            odds.low,
            odds.high,
        )
        single = fisher_exact(*counts.table)
        if row["test"] == "Fisher":
            assert row["p_value"] == single
        else:
            assert row["test"].startswith("best of ")
            assert row["p_value"] > single
        assert row["p_value"] <= row["q_value"] <= 0.05
    lows = [row["odds_ratio_low"] for row in rows]
    assert lows == sorted(lows, reverse=True)


def test_every_row_is_a_filter_to_go_on_with(world: psycopg.Connection[Any]) -> None:
    for base in (None, "span.attributes.model IN ('a', 'b')"):
        rows = discover(world, ERRORS, base, restatements=True, direction="both", pairs=True)
        assert len(rows) >= 5
        for row in rows:
            found = world.execute(
                "select filter1_count, filter2_count, joint_count, total_count"
                " from insights_correlate('1', %s, %s, %s)",
                (ERRORS, row["filter"], base),
            ).fetchone()
            assert found == tuple(row[name] for name in COLUMNS[4:8]), row["filter"]


def test_numbers_enter_by_their_best_threshold(world: psycopg.Connection[Any]) -> None:
    rows = discover(world, ERRORS, kinds=["number"])
    assert {row["kind"] for row in rows} == {"number"}
    (row,) = [row for row in rows if row["key"] == "execution_time_ms"]
    # Nothing takes between 900 and 5000 ms; 5000 is the readable number there.
    assert row["filter"] == "execution_time_ms >= 5000"
    assert row["value"] == ">= 5000"
    assert row["test"].startswith("best of ")
    # The negation, asked for the other way round.
    rows = discover(world, "NOT status = 'ERROR'", kinds=["number"])
    assert "execution_time_ms < 5000" in filters(rows)


def test_what_restates_the_target_is_left_out_unless_asked_for(
    world: psycopg.Connection[Any],
) -> None:
    found = discover(world, "execution_time_ms > 4000", direction="both", max_results=500)
    shown = [text for row in found for text in (row["filter"], *row["similar"])]
    assert not [text for text in shown if text.startswith(("execution_time_ms", "span.duration"))]
    # What the spans of one name take is news.
    assert "span.name = 'root' AND span.duration_ms >= 5000" in shown
    assert not any(row["restates"] for row in found)
    rows = discover(world, "execution_time_ms > 4000", restatements=True)
    assert rows[0]["filter"] == "execution_time_ms >= 5000"
    assert rows[0]["restates"]
    assert rows[0]["tested"] > found[0]["tested"]
    # Other values of its field restate a target as well.
    rows = discover(world, RELEASE, direction="both", restatements=True)
    assert "tags.release = 'v1'" in (
        text for row in rows for text in (row["filter"], *row["similar"])
    )
    assert "tags.release = 'v1'" not in filters(discover(world, RELEASE, direction="both"))


def test_which_spans_failed_is_never_lost(
    put: Loader, module_conn: psycopg.Connection[Any]
) -> None:
    """It leads over the failure alone, also where nothing else failed."""
    traces = []
    for n in range(60):
        fails = n % 6 == 0
        refund = Span(f"r{n}", "{}", "refund", "TOOL", "ERROR" if fails else "OK")
        answer = Span(f"a{n}", "{}", "answer", "CHAIN", "OK")
        status = "ERROR" if fails else "OK"
        traces.append(Trace(f"f{n}", 1, START + n, status=status, spans=(answer, refund)))
    put(*traces)
    for refreshed in (False, True):
        if refreshed:
            module_conn.execute("select insights_refresh(5000)")
        (row,) = discover(module_conn, "status = 'ERROR'")
        assert row["filter"] == "span.name = 'refund' AND span.status = 'ERROR'"
        assert row["similar"] == [
            "span.type = 'TOOL' AND span.status = 'ERROR'",
            "span.status = 'ERROR'",
        ]
        assert row["fact_count"] == row["joint_count"] == 10


def test_root_spans_and_parts_of_sums_restate_a_target(
    module_conn: psycopg.Connection[Any], put: Loader
) -> None:
    dice = Random(3)

    def span(number: int, name: str, ms: int, tokens: int) -> Span:
        content = attributes(**{"mlflow.chat.tokenUsage": {"total_tokens": tokens}})
        return Span(str(number), content, name=name, end_ns=ms * 10**6)

    def trace(number: int) -> Trace:
        slow = dice.random() < 0.3
        took, tokens = (9_000, 900) if slow else (100, 90)
        took, tokens = took + dice.randint(0, 9), tokens + dice.randint(0, 9)
        # A summary is a trace of its own, or a step of a chat.
        name = dice.choice(("chat", "summary"))
        spans = [span(1, name, took, tokens), span(2, "model", took - 9, tokens)]
        if name == "chat":
            spans.append(span(3, "summary", took - 20, tokens))
        used = {"input_tokens": tokens - 20, "output_tokens": 20, "total_tokens": tokens}
        return Trace(f"t{number}", 1, START, took, name=name, spans=tuple(spans), tokens=used)

    put(*map(trace, range(300)))
    refresh(module_conn)
    slow, large = "execution_time_ms > 4000", "total_tokens > 500"
    assert begin(everything(module_conn, slow), "span.name = 'model' AND span.duration_ms")
    assert begin(everything(module_conn, slow), "span.name = 'summary' AND span.duration_ms")
    assert begin(everything(module_conn, slow), "total_tokens")
    assert begin(everything(module_conn, large), "execution_time_ms")
    for target, restated in (
        (slow, "span.name = 'chat' AND span.duration_ms"),
        (large, "total_tokens"),
        (large, "input_tokens"),
        (large, "span.attributes['mlflow.chat.tokenUsage']"),
    ):
        assert not begin(everything(module_conn, target), restated)
        assert begin(everything(module_conn, target, restatements=True), restated)


def everything(connection: psycopg.Connection[Any], target: str, **options: Any) -> list[str]:
    """The filters of all facts found, and of those grouped under them."""
    rows = discover(connection, target, max_results=1000, **options)
    return [text for row in rows for text in (row["filter"], *row["similar"])]


def begin(found: list[str], start: str) -> list[str]:
    """Those that begin so."""
    return [text for text in found if text.startswith(start)]


def test_directions(world: psycopg.Connection[Any]) -> None:
    positive = discover(world, ERRORS)
    negative = discover(world, ERRORS, direction="negative")
    both = discover(world, ERRORS, direction="both")
    assert all(row["odds_ratio"] > 1 for row in positive)
    assert all(row["odds_ratio"] < 1 for row in negative)
    assert filters(negative)[0] == "feedback.fine = 'true'"
    highs = [row["odds_ratio_high"] for row in negative]
    assert highs == sorted(highs)
    assert {True, False} == {row["odds_ratio"] > 1 for row in both}
    strengths = [
        max(math.log(row["odds_ratio_low"]), -math.log(row["odds_ratio_high"])) for row in both
    ]
    assert strengths == sorted(strengths, reverse=True)


def test_support_results_and_rate_bound_what_is_shown(world: psycopg.Connection[Any]) -> None:
    assert len(discover(world, ERRORS, max_results=2)) == 2
    everything = discover(world, ERRORS, fdr=1, max_results=1000)
    assert max(row["q_value"] for row in everything) > 0.05
    assert min(row["fact_count"] for row in everything) >= 5
    assert all(row["fact_count"] >= 200 for row in discover(world, ERRORS, min_support=200))
    assert {row["kind"] for row in discover(world, ERRORS, kinds=["tag", "run"])} == {"tag"}


def test_pairs_that_are_stronger_than_both_of_their_facts(
    module_conn: psycopg.Connection[Any], put: Loader
) -> None:
    dice = Random(5)

    def trace(number: int) -> Trace:
        a, b = dice.choice("01"), dice.choice("01")
        failed = dice.random() < (0.8 if a == b == "1" else 0.1)
        spans = (Span("1", "{}", name=f"a{a}"), Span("2", "{}", name=f"b{b}"))
        return Trace(
            f"t{number}", 1, START, status="ERROR" if failed else "OK", tags={"a": a}, spans=spans
        )

    put(*map(trace, range(400)))
    for _ in range(2):
        alone = discover(module_conn, ERRORS)
        rows = discover(module_conn, ERRORS, pairs=True)
        assert not [text for text in filters(alone) if " AND any" in text]
        first = rows[0]
        # The tag says the same as the name of one span.
        assert first["filter"] in (
            "tags.a = '1' AND any(span.name = 'b1')",
            "any(span.name = 'b1') AND tags.a = '1'",
        )
        assert first["odds_ratio_low"] > alone[0]["odds_ratio_low"]
        assert first["tested"] > alone[0]["tested"]
        refresh(module_conn)


def test_what_mlflow_notes_for_itself_is_no_news(
    module_conn: psycopg.Connection[Any], put: Loader
) -> None:
    put(
        *(
            Trace(
                f"t{n}",
                1,
                START + n,
                status="ERROR" if n < 30 else "OK",
                tags={"mlflow.trace.spansLocation": "ARCHIVE_REPO" if n < 30 else "TRACKING_STORE"},
                metadata={"mlflow.trace.sizeBytes": str(n), "size": str(n)},
            )
            for n in range(200)
        )
    )
    for _ in range(2):
        assert filters(discover(module_conn, ERRORS, kinds=["tag", "metadata", "number"])) == [
            "metadata.size < 30"
        ]
        refresh(module_conn)


def test_a_target_of_no_or_of_all_traces_has_nothing_to_tell(
    world: psycopg.Connection[Any],
) -> None:
    assert discover(world, "tags.release = 'none'") == []
    assert discover(world, "") == []
    assert discover(world, None) == []
    assert discover(world, ERRORS, exp_ids="99") == []
    assert discover(world, ERRORS, exp_ids="{}") == []
    assert compare(world, "", RELEASE) == []


def test_compare_is_discovery_between_two_sets(world: psycopg.Connection[Any]) -> None:
    rows = compare(world, RELEASE, "tags.release = 'v1' AND tags.noise1 > 2")
    either = f"({RELEASE}) OR (tags.release = 'v1' AND tags.noise1 > 2)"
    assert filters(rows)[0] in ("tags.build = '2'", "feedback.fine = 'false'")
    assert ERRORS in filters(rows)
    assert not [text for text in filters(rows) if "release" in text or "noise1 " in text]
    same = discover(world, RELEASE, either)
    assert [row["filter"] for row in same if "noise1 " not in row["filter"]] == filters(rows)
    for row in rows:
        found = world.execute(
            "select filter1_count, filter2_count, joint_count, total_count"
            " from insights_correlate('1', %s, %s, %s)",
            (RELEASE, row["filter"], either),
        ).fetchone()
        assert found == tuple(row[name] for name in COLUMNS[4:8]), row["filter"]
    # With everything as the baseline, the rest is what is compared with.
    assert filters(compare(world, ERRORS, "")) == filters(discover(world, ERRORS))


def test_selection_and_baseline_are_read_apart(world: psycopg.Connection[Any]) -> None:
    """What each may be by itself it may be here, an AND too many and MLflow's escapes included."""
    plain = compare(world, RELEASE, "tags.release = 'v1' AND tags.release != 'it''s'")
    assert plain
    baseline = r"tags.release = 'v1' AND tags.release != 'it\'s'"
    assert compare(world, f"{RELEASE} AND", baseline) == plain


def test_sessions(world: psycopg.Connection[Any]) -> None:
    for unit, status in (("session", "ERROR"), ("session_all", "OK")):
        rows = discover(world, f"status = '{status}'", unit=unit, fdr=1, max_results=50)
        assert {row["total_count"] for row in rows} == {200}
        together = "bool_or" if unit == "session" else "bool_and"
        (expected,) = world.execute(
            f"select count(*) from (select {together}(status = '{status}') as wanted"
            " from trace_info group by session_id) s where wanted".encode()
        ).fetchall()
        assert {row["target_count"] for row in rows} == set(expected)
        tags = [row for row in rows if row["kind"] == "tag"]
        assert tags
        for row in tags:
            (counted,) = world.execute(
                "select count(*) filter (where has), count(*) filter (where has and wanted)"
                f" from (select {together}(k.value is not null) as has,"
                f" {together}(t.status = '{status}') as wanted from trace_info t"
                " left join trace_tags k on k.request_id = t.request_id and k.key = %s"
                " and k.value = %s"
                " group by t.session_id) s".encode(),
                (row["key"], row["value"]),
            ).fetchall()
            assert counted == (row["fact_count"], row["joint_count"]), row["filter"]


@pytest.mark.parametrize("unit", ["trace", "session"])
def test_a_discovery_that_only_computes_can_be_cancelled(
    world: psycopg.Connection[Any], module_dsn: str, unit: str
) -> None:
    """When it looks whether it has been cancelled, another session has just done that."""
    with psycopg.connect(module_dsn, autocommit=True) as connection:
        expected = discover(connection, ERRORS, unit=unit)
        connection.execute(
            """
            do language plpython3u $$
            import insights_engine.base.interrupts as interrupts
            interrupts.SECONDS, interrupts.LOOK = 0, "select pg_cancel_backend(pg_backend_pid())"
            $$
            """
        )
        with pytest.raises(psycopg.errors.QueryCanceled) as caught:
            discover(connection, ERRORS, unit=unit)
        assert "Python" not in (caught.value.diag.context or "")
        connection.execute(
            """
            do language plpython3u $$
            import insights_engine.base.interrupts as interrupts
            interrupts.LOOK = "select"
            $$
            """
        )
        assert discover(connection, ERRORS, unit=unit) == expected


# ------------------------------------------------------- however it is answered


@pytest.fixture
def two_experiments(module_conn: psycopg.Connection[Any], put: Loader) -> psycopg.Connection[Any]:
    traces = planted(400)
    other = [
        Trace(f"u{n}", 2, START + n, tags={"release": "v3"}, session_id="s1") for n in range(50)
    ]
    put(*traces, *other)
    return module_conn


def test_the_index_changes_nothing(two_experiments: psycopg.Connection[Any]) -> None:
    connection = two_experiments
    connection.execute("update insights.state set built = false")
    without = answers(connection)
    connection.execute("update insights.state set built = true")
    assert answers(connection) == without, "all pending"
    for _ in range(2):
        connection.execute("select insights_refresh(150)")
        assert answers(connection) == without, "some pending"
    refresh(connection)
    assert answers(connection) == without, "all indexed"
    connection.execute("call insights_rebuild()")
    assert answers(connection) == without, "in blocks of another size"
    # A second time from what the session keeps, and with nothing kept.
    assert answers(connection) == without
    connection.execute("set insights.cache = '0'")
    assert answers(connection) == without
    connection.execute("reset insights.cache")


def answers(connection: psycopg.Connection[Any]) -> list[list[dict[str, Any]]]:
    """Discoveries of all kinds: of few traces thresholds are the same wherever they are, too."""
    return [
        discover(connection, ERRORS, base, exp_ids=exp_ids, unit=unit, fdr=1, max_results=200)
        for exp_ids, unit, base in (
            ("1", "trace", None),
            (None, "session", None),
            (None, "trace", "execution_time_ms > 300"),
        )
    ]


def test_times_are_written_as_texts(put: Loader, module_conn: psycopg.Connection[Any]) -> None:
    dice = Random(4)
    begin = 1_793_491_200_000  # 2026-11-01
    moments = [begin + dice.randrange(10 * 86_400_000) for _ in range(400)]
    late = begin + 6 * 86_400_000
    put(*(Trace(f"d{n}", 1, at, status="ERROR" if at >= late else "OK")
          for n, at in enumerate(moments)))  # fmt: skip
    refresh(module_conn)
    rows = discover(module_conn, "status = 'ERROR'", kinds=["number"])
    (row,) = (row for row in rows if row["key"] == "timestamp_ms")
    found = re.fullmatch(r"timestamp_ms >= '(2026-11-0[67][T0-9:Z.]*)'", row["filter"])
    assert found
    assert row["value"] == f">= {found[1]}"
    (counts,) = module_conn.execute(
        "select insights_count('1', %s), insights_count('1', %s)",
        (row["filter"], f"{row['filter']} AND status = 'ERROR'"),
    ).fetchall()
    assert counts == (row["fact_count"], row["joint_count"])


def test_read_only_transactions(world: psycopg.Connection[Any]) -> None:
    expected = discover(world, ERRORS, pairs=True)
    with world.transaction():
        world.execute("set transaction read only")
        assert discover(world, ERRORS, pairs=True) == expected
        world.execute("savepoint before_pending")
    with world.transaction():
        world.execute("update trace_info set status = 'OK' where request_id < 't0100'")
        assert discover(world, ERRORS)[0]["target_count"] < expected[0]["target_count"]
    refresh(world)


@pytest.fixture
def narrow_role(two_experiments: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """A role to which row security shows the traces of experiment 1."""
    connection = two_experiments
    connection.execute("create role narrow")
    connection.execute("grant select on all tables in schema public to narrow")
    connection.execute("alter table trace_info enable row level security")
    connection.execute("create policy own on trace_info to narrow using (experiment_id = 1)")
    yield connection
    connection.execute("reset role")
    connection.execute("drop policy own on trace_info")
    connection.execute("alter table trace_info disable row level security")
    connection.execute("drop owned by narrow")
    connection.execute("drop role narrow")


def test_roles_discover_what_they_may_see(narrow_role: psycopg.Connection[Any]) -> None:
    refresh(narrow_role)
    kinds = ["trace", "tag", "span", "feedback"]
    expected = discover(narrow_role, ERRORS, exp_ids="1", kinds=kinds)
    everything = discover(narrow_role, ERRORS, exp_ids=None, kinds=kinds)
    assert everything[0]["total_count"] > expected[0]["total_count"]
    narrow_role.execute("set role narrow")
    assert discover(narrow_role, ERRORS, exp_ids=None, kinds=kinds) == expected
    narrow_role.execute("reset role")


def test_values_that_share_a_bucket_are_counted_all_the_same(
    module_conn: psycopg.Connection[Any], put: Loader
) -> None:
    """More values than are told apart, of which one is frequent and goes with errors."""
    put(
        *(
            Trace(
                f"t{n}",
                1,
                START + n,
                status="ERROR" if n % 7 == 0 else "OK",
                tags={"user": "often" if n % 7 == 0 and n % 3 else f"user{n}"},
            )
            for n in range(6_000)
        )
    )
    refresh(module_conn)
    row = module_conn.execute(
        "select count(*) from insights.term where kind = 'tag' and key = 'user' and role = 'h'"
    ).fetchone()
    assert row is not None
    assert row[0] > 0
    rows = discover(module_conn, ERRORS)
    assert filters(rows) == ["tags['user'] = 'often'"] or filters(rows) == ["tags.user = 'often'"]
    assert rows[0]["fact_count"] == rows[0]["joint_count"] == 572


def test_what_a_sample_shows_as_certain_is_counted_exactly(
    module_conn: psycopg.Connection[Any], put: Loader
) -> None:
    """Where a value shares a bucket outside of the sample, MLflow's tables are asked."""

    def trace(n: int, experiment_id: int, name: str, user: str, failed: bool) -> Trace:
        status = "ERROR" if failed else "OK"
        spans = (Span("1", attributes(user=user), name=name),)
        return Trace(f"t{n}", experiment_id, START + n, status=status, spans=spans)

    put(
        *(trace(n, 1, "a", "often" if n % 2 else "else", n % 8 < 6) for n in range(9_000, 9_400)),
        # Of another span, and among too many values to be told apart.
        *(trace(n, 2, "b", f"user{n}", n % 7 == 0) for n in range(4_000)),
        *(trace(n, 2, "b", "often", True) for n in range(4_000, 4_002)),
    )
    module_conn.execute("select insights_refresh(400)")
    refresh(module_conn)
    # The last of two blocks is the sample.
    module_conn.execute("set insights.cache = '0'")
    set_sampling(module_conn, most=0, sampled=2_500)
    try:
        rows = discover(module_conn, ERRORS, exp_ids=None, direction="both", fdr=1)
    finally:
        module_conn.execute("reset insights.cache")
        set_sampling(module_conn, most=400_000, sampled=250_000)
    (row,) = [row for row in rows if row["value"] == "often"]
    assert (row["fact_count"], row["joint_count"]) == (202, 152)
    assert row["screened_count"] < row["total_count"]


def test_ids_as_numbers_texts_and_arrays(world: psycopg.Connection[Any]) -> None:
    expected = filters(discover(world, ERRORS))
    for exp_ids in ("array['1']", "array[1]", "'1'", "'{1,2}'", "null::int[]", "null::text[]"):
        rows = world.execute(
            f"select filter from insights_discover({exp_ids}, 'status = ''ERROR''')".encode()
        ).fetchall()
        assert [row[0] for row in rows] == expected, exp_ids
        rows = world.execute(
            f"select filter from insights_compare({exp_ids}, 'status = ''ERROR''', '')".encode()
        ).fetchall()
        assert [row[0] for row in rows] == expected, exp_ids


# ------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"kinds": ["tags"]}, "Invalid kind 'tags'.", "Did you mean 'tag'?"),
        ({"kinds": [None]}, "Invalid kind NULL.", "Possible are 'trace'"),
        ({"direction": "up"}, "Invalid direction 'up'.", "'positive', 'negative', 'both'"),
        ({"direction": None}, "Invalid direction NULL.", "'positive'"),
        ({"unit": "sessions"}, "Invalid unit 'sessions'.", "Did you mean 'session'?"),
        ({"fdr": 0}, "Invalid value 0.0 for parameter 'fdr'", "false discovery rate"),
        ({"fdr": 1.5}, "Invalid value 1.5 for parameter 'fdr'", "false discovery rate"),
        ({"fdr": math.nan}, "Invalid value nan for parameter 'fdr'", "false discovery rate"),
        ({"min_support": 0}, "Invalid value 0 for parameter 'min_support'", "default is 5"),
        ({"min_support": None}, "Invalid value NULL for parameter 'min_support'", "default is 5"),
        ({"max_results": 0}, "Invalid value 0 for parameter 'max_results'", None),
        ({"max_results": 1001}, "It must be at most 1000", "min_support"),
        ({"kinds": ["tag"] * 101}, "It must have at most 100 elements, not 101", None),
    ],
)
def test_bad_options_are_refused(
    module_conn: psycopg.Connection[Any], options: dict[str, Any], message: str, hint: str | None
) -> None:
    for call in (discover, compare):
        with pytest.raises(psycopg.Error) as caught:
            call(module_conn, ERRORS, "status = 'OK'", **options)
        diagnostics = checked(caught.value)
        assert message in (diagnostics.message_primary or "")
        assert hint is None or hint in (diagnostics.message_hint or "")


@pytest.mark.parametrize(
    ("first", "second"), [("statu = 'x'", "status = 'OK'"), ("status = 'OK'", "statu = 'x'")]
)
def test_bad_filters_are_refused_with_their_place(
    module_conn: psycopg.Connection[Any], first: str, second: str
) -> None:
    for call in (discover, compare):
        with pytest.raises(psycopg.Error) as caught:
            call(module_conn, first, second)
        diagnostics = checked(caught.value)
        assert "statu = 'x'\n^^^^^" in (diagnostics.message_detail or "")
        assert "status" in (diagnostics.message_hint or "")


def test_where_nothing_goes_together_seldom_anything_is_found(
    put: Loader, module_conn: psycopg.Connection[Any]
) -> None:
    """The promise of q, kept by all that is between a call and its rows.

    Forty targets, and nothing in the data goes with any of them: each row is a false
    discovery, and at q <= 0.05 at most one target in twenty should have any.
    """
    dice = Random(2)
    traces, targets = 1_500, 40
    put()
    with module_conn.cursor() as cursor:
        with cursor.copy(
            "copy trace_info (request_id, experiment_id, timestamp_ms, status) from stdin"
        ) as copy:
            for number in range(traces):
                copy.write_row((f"c{number}", 1, START + number, "OK"))
        with cursor.copy("copy trace_tags (request_id, key, value) from stdin") as copy:
            for number in range(traces):
                for coin in range(targets):
                    copy.write_row((f"c{number}", f"coin{coin}", dice.choice(("heads", "tails"))))
                for key in range(15):
                    copy.write_row((f"c{number}", f"die{key}", f"face {dice.randint(1, 5)}"))
                    copy.write_row((f"c{number}", f"size{key}", f"{dice.random():.6f}"))
    refresh(module_conn)
    found = 0
    for coin in range(targets):
        rows = discover(
            module_conn,
            f"tags.coin{coin} = 'heads'",
            kinds=["tag", "number"],
            direction="both",
        )
        found += bool(rows)
    # Of 40 at 0.05 more than 7 are found once in 1,500 times.
    assert found <= 7
    # The numbers were looked at, and nobody was spared.
    everything = discover(
        module_conn,
        "tags.coin0 = 'heads'",
        kinds=["tag", "number"],
        direction="both",
        fdr=1.0,
        max_results=1000,
    )
    assert sum(row["kind"] == "number" for row in everything) >= 10
    assert everything[0]["tested"] >= 2 * (targets - 1) + 15 * 5 + 15
