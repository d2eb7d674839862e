"""insights_explain: what it tells, and that what it tells is true."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.semantics.world import Span, Trace, attributes
from tests.sql.conftest import Loader, checked


def steps(connection: psycopg.Connection[Any], *arguments: Any) -> dict[str, list[str]]:
    places = ", ".join(["%s"] * len(arguments))
    found: dict[str, list[str]] = {}
    for step, detail in connection.execute(
        f"select step, detail from insights_explain({places})",
        arguments,
    ):
        found.setdefault(step, []).append(detail)
    return found


def test_the_steps(put: Loader, module_conn: psycopg.Connection[Any]) -> None:
    put(Trace("a", 1, 1))
    found = steps(
        module_conn, [1, 2], "tag.x='it''s' and (span.type = 'LLM' or not name like '%a')"
    )
    assert list(found) == [
        *("filter", "predicate", "index", "vocabulary", "bounds", "residue"),
        *("sql", "parameter", "plan"),
    ]
    assert len(found["filter"]) == 1
    assert "tags.x = 'it''s'" in found["predicate"]
    assert "name LIKE '%a'" in found["predicate"]
    assert len(found["sql"]) == 1
    # Values are parameters; not one is part of the SQL.
    assert "it's" not in found["sql"][0]
    assert '"it\'s"' in "\n".join(found["parameter"])
    assert any("Aggregate" in line for line in found["plan"])


def test_how_the_residue_is_settled(put: Loader, module_conn: psycopg.Connection[Any]) -> None:
    put(*(Trace(f"t{number}", 1, number, request_preview="x") for number in range(3)))
    while module_conn.execute("select pending from insights_refresh()").fetchone() != (0,):
        pass
    found = steps(module_conn, "1", "status = 'OK'")
    assert found["residue"] == ["none: the index alone answers"]
    found = steps(module_conn, "1", "trace.request_preview LIKE 'x%'")
    assert found["residue"] == ["exact SQL rechecks 3 traces"]
    module_conn.execute(
        "insert into trace_info (request_id, experiment_id, timestamp_ms, status, request_preview)"
        " select 'm' || n, 1, n, 'OK', 'x' from generate_series(1, 2500) n"
    )
    while module_conn.execute("select pending from insights_refresh()").fetchone() != (0,):
        pass
    found = steps(module_conn, "1", "trace.request_preview LIKE 'x%'")
    assert found["residue"] == ["more than 2000: exact SQL answers for all traces at once"]


def test_pending_traces_are_part_of_the_residue(
    put: Loader, module_conn: psycopg.Connection[Any]
) -> None:
    put(
        *(Trace(f"t{number}", 1, number, tags={"x": "y"}) for number in range(9)),
        Trace("elsewhere", 2, 1, tags={"x": "y"}),
    )
    while module_conn.execute("select pending from insights_refresh()").fetchone() != (0,):
        pass
    filter = "tags.x = 'z' OR request_preview LIKE '%a%'"
    with module_conn.transaction(force_rollback=True):
        module_conn.execute("update trace_tags set value = 'z' where request_id = any('{t1,t2}')")
        module_conn.execute("update trace_tags set value = 'z' where request_id = 'elsewhere'")
        module_conn.execute("delete from trace_info where request_id = 't3'")
        assert module_conn.execute("select insights_count('1', %s)", (filter,)).fetchone() == (2,)
        asked = "exact SQL rechecks"
        assert steps(module_conn, "1", filter)["residue"] == [
            f"{asked} 2 traces, 2 of them pending"
        ]
        assert steps(module_conn, "2", filter)["residue"] == [f"{asked} 1 trace, 1 of them pending"]
        assert steps(module_conn, None, filter)["residue"] == [
            f"{asked} 3 traces, 3 of them pending"
        ]
        module_conn.execute("update trace_info set request_preview = 'b' where request_id = 't4'")
        module_conn.execute("select insights_refresh()")
        assert steps(module_conn, "1", filter)["residue"] == [f"{asked} 1 trace"]


@pytest.mark.parametrize(
    ("filter", "archived", "in_files"),
    [
        ("tags.x = 'y'", False, False),
        ("span.name = 's'", False, True),
        ("count() > 0", False, True),
        ("span.attributes.model = 'm'", True, True),
        ("NOT (status = 'OK' OR any(span.content LIKE '%m%'))", True, True),
        ("trace.text LIKE '%m%'", True, True),
        ("avg(span.attributes.n) > 1", True, True),
        ("max(span.duration_ms WHERE span.attributes.model = 'm') > 1", True, True),
        ("max(span.duration_ms) > 1", False, True),
    ],
)
@pytest.mark.parametrize("pending", [False, True])
def test_what_no_filter_can_read_is_told(
    put: Loader,
    module_conn: psycopg.Connection[Any],
    filter: str,
    archived: bool,
    in_files: bool,
    pending: bool,
) -> None:
    location = "mlflow.trace.spansLocation"
    span = Span("s", attributes(model="m", n=2))
    put(
        Trace("here", 1, 1, spans=(span,), tags={location: "TRACKING_STORE"}),
        # As MLflow archives traces: it empties the contents, and sets the tag.
        Trace("archived1", 1, 2, spans=(Span("s", ""),), tags={location: "ARCHIVE_REPO"}),
        Trace("archived2", 1, 3, spans=(Span("s", ""),), tags={location: "ARCHIVE_REPO"}),
        Trace("file", 1, 4, tags={location: "ARTIFACT_REPO"}),
        Trace("elsewhere", 2, 4, tags={location: "ARTIFACT_REPO"}),
    )
    while not pending and module_conn.execute(
        "select pending from insights_refresh()"
    ).fetchone() != (0,):
        pass
    told = []
    if archived:
        told.append("2 traces with archived spans: their attributes and content match nothing")
    if in_files:
        told.append("1 trace with spans in artifact files only: no condition on spans matches")
    assert steps(module_conn, "1", filter).get("left out", []) == told


def test_the_sql_is_what_counts(put: Loader, module_conn: psycopg.Connection[Any]) -> None:
    put(Trace("a", 1, 1, tags={"x": "y"}), Trace("b", 1, 2))
    found = steps(module_conn, "1", "tags.x = 'y'")
    types = [line.split()[1] for line in found["parameter"]]
    values = [line.split(" = ", 1)[1].strip("'") for line in found["parameter"]]
    with module_conn.transaction():
        module_conn.execute(f"prepare told({', '.join(types)}) as {found['sql'][0]}")
        literals = ", ".join(f"'{value}'" for value in values)
        assert module_conn.execute(f"execute told({literals})").fetchone() == (1,)
        module_conn.execute("deallocate told")


def test_the_empty_filter_and_no_experiments(module_conn: psycopg.Connection[Any]) -> None:
    assert steps(module_conn, "1")["filter"] == ["(every trace)"]
    found = steps(module_conn, "{}", "status = 'OK'")
    assert "plan" not in found
    assert found["answer"] == ["no experiment was asked for, so no trace matches"]


def test_long_values_are_shortened(module_conn: psycopg.Connection[Any]) -> None:
    found = steps(module_conn, "1", f"tags.x = '{'y' * 10_000}'")
    assert all(len(line) < 300 for line in found["parameter"])


def test_it_runs_in_a_read_only_transaction(module_conn: psycopg.Connection[Any]) -> None:
    with module_conn.transaction():
        module_conn.execute("set transaction read only")
        assert steps(module_conn, "1", "status = 'OK'")["plan"]


def test_a_bad_filter_is_refused(module_conn: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.Error) as caught:
        steps(module_conn, "1", "status == ")
    checked(caught.value)


def test_a_role_under_row_security_hears_whom_the_index_is_for(
    conn: psycopg.Connection[Any], reader: psycopg.Connection[Any]
) -> None:
    """And not that there is none: to build it once more would not help."""
    assert all("not used" not in line for line in steps(reader, None, "status = 'OK'")["index"])
    conn.execute("alter table trace_info enable row level security")
    conn.execute("create policy first on trace_info for select using (experiment_id = 1)")
    (line,) = steps(reader, None, "status = 'OK'")["index"]
    assert line.startswith("not used: it is for those only who may read every row")
