"""What users see when something is wrong: SQLSTATE, place, hint, and no Python."""

from __future__ import annotations

import itertools
import time
from typing import Any

import psycopg
import pytest

from tests.semantics.world import Span, Trace, attributes
from tests.sql.conftest import Loader, checked

NUMBERS = itertools.count(1)

#: Every public way to pass a filter.
CALLS = (
    "select insights_count('1', %s)",
    "select insights_count(array['1'], %s)",
    "select insights_count(array[1], %s)",
    "select * from insights_search('1', %s)",
    "select * from insights_search(array[1], %s)",
    "select * from insights_correlate('1', %s, '')",
    "select * from insights_correlate('1', '', %s)",
    "select * from insights_correlate('1', '', '', %s)",
    "select insights_validate(%s)",
    "select * from insights_explain('1', %s)",
    "select * from insights.search_page('{1}', %s)",
    "select * from insights.match_trace_ids('{1}', %s, '{a}')",
)


@pytest.mark.parametrize("call", CALLS)
def test_a_bad_filter_gets_a_caret_and_a_hint(
    module_conn: psycopg.Connection[Any], call: str
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        module_conn.execute(call, ("status = 'OK' AND statsu = 'x'",))
    diagnosis = checked(caught.value)
    # psql puts DETAIL in front of the first line, which is empty for that reason.
    empty, line, caret = (diagnosis.message_detail or "").split("\n")
    assert empty == ""
    assert line == "status = 'OK' AND statsu = 'x'"
    assert line[caret.index("^") :].startswith("statsu")
    assert caret.count("^") == len("statsu")
    assert "status" in (diagnosis.message_hint or "")


@pytest.mark.parametrize(
    "filter",
    [
        "(" * 10_000,
        "NOT " * 10_000 + "status = 'OK'",
        "status = 'OK' OR " * 5_000 + "status = 'OK'",
        "status = '" + "x" * 100_000,
        "'" * 101,
        "status = 'x'; drop table trace_info; --",
        "1; select pg_sleep(10)",
        "status = \u201cOK\u201d",
        "status = 'OK' -- comment",
        "\ud7ff\u0001\u2028",
        "tags.x IN ()",
        "timestamp_ms > 'yesterday'",
        "count(span.type = 'LLM')",
        "execution_time_ms > 5s",
        "timestamp_ms > 1e999",
    ],
)
def test_every_malformed_filter_is_a_users_mistake_and_found_at_once(
    module_conn: psycopg.Connection[Any], filter: str
) -> None:
    module_conn.execute("select insights_validate('')")
    began = time.perf_counter()
    with pytest.raises(psycopg.Error) as caught:
        module_conn.execute("select insights_count('1', %s)", (filter,))
    assert time.perf_counter() - began < 1
    diagnosis = checked(caught.value)
    assert len(diagnosis.message_primary or "") < 500
    assert len(diagnosis.message_detail or "") < 500


#: Every function that reads traces, with a mistake in each place of an argument.
MISTAKES = (
    *CALLS,
    "select * from insights_facets({ids}, %s, 'status')",
    "select * from insights_facets({ids}, '', %s)",
    "select * from insights_timeseries({ids}, %s)",
    "select * from insights_timeseries({ids}, '', %s)",
    "select * from insights_timeseries({ids}, '', time_zone => %s)",
    "select * from insights_timeseries({ids}, '', unit => %s)",
    "select * from insights_discover({ids}, %s)",
    "select * from insights_discover({ids}, $$status = 'OK'$$, %s)",
    "select * from insights_discover({ids}, $$status = 'OK'$$, kinds => array[%s])",
    "select * from insights_discover({ids}, $$status = 'OK'$$, direction => %s)",
    "select * from insights_compare({ids}, %s, $$status = 'OK'$$)",
    "select * from insights_compare({ids}, $$status = 'OK'$$, %s)",
    "select * from insights_correlation_matrix({ids}, array['', %s])",
    "select * from insights_correlation_matrix({ids}, array['', ''], %s)",
    "select * from insights_search({ids}, '', order_by => array[%s])",
    "select * from insights_search({ids}, '', page_token => %s)",
    "select * from insights.search_page({ids}, '', order_by => array[%s])",
    "select * from insights.search_page({ids}, '', page_token => %s)",
    "select * from insights.match_trace_ids({ids}, %s, '{}')",
)


@pytest.mark.parametrize("call", MISTAKES)
@pytest.mark.parametrize("ids", ["null::text[]", "'{}'::text[]", "array['1']", "array['99']"])
def test_a_mistake_is_one_without_any_trace(
    put: Loader, module_conn: psycopg.Connection[Any], call: str, ids: str
) -> None:
    put()
    module_conn.execute("analyze trace_info")
    for built in (True, False):
        module_conn.execute("update insights.state set built = %s", (built,))
        with pytest.raises(psycopg.Error) as caught:
            module_conn.execute(call.replace("{ids}", ids).encode(), ("nope nope",))
        checked(caught.value)
    module_conn.execute("update insights.state set built = true")


def test_the_connection_stays_usable(module_conn: psycopg.Connection[Any]) -> None:
    with module_conn.transaction():
        module_conn.execute("savepoint before")
        with pytest.raises(psycopg.Error):
            module_conn.execute("select insights_count('1', 'nonsense')")
        module_conn.execute("rollback to before")
        assert module_conn.execute("select insights_count('1', '')").fetchone() is not None


def test_a_role_without_rights_hears_so(
    module_conn: psycopg.Connection[Any],
) -> None:
    module_conn.execute("create role insights_nobody")
    try:
        with module_conn.transaction():
            module_conn.execute("set local role insights_nobody")
            with pytest.raises(psycopg.Error) as caught:
                module_conn.execute("select insights_count(null, 'tags.x = ''y''')")
    finally:
        module_conn.execute("drop role insights_nobody")
    assert caught.value.sqlstate == "42501"
    assert caught.value.diag.message_primary == "permission denied for table trace_info"
    assert "Traceback" not in (caught.value.diag.context or "")


def test_a_statement_timeout_is_reported_as_such(
    put: Loader, module_conn: psycopg.Connection[Any]
) -> None:
    put(
        *(
            Trace(f"t{n}", 1, n, spans=(Span("s", attributes(text="x" * 2_000, n=n)),))
            for n in range(2_000)
        )
    )
    module_conn.execute("select insights_count('1', 'span.attributes.n = 5')")
    with module_conn.transaction():
        module_conn.execute("set local statement_timeout = '5ms'")
        with pytest.raises(psycopg.Error) as caught:
            module_conn.execute("select insights_count('1', 'span.attributes.n > 5')")
    assert caught.value.sqlstate == "57014"
    assert "statement timeout" in (caught.value.diag.message_primary or "")
    assert "Traceback" not in (caught.value.diag.context or "")


@pytest.mark.parametrize(
    "call",
    [
        "select insights_count('1', %s)",
        "select insights_validate(%s)",
        "select * from insights_timeseries('1', %s, '1 hour')",
    ],
)
@pytest.mark.parametrize("predicate", ["tags.n{} RLIKE '(a|b)+{}'", "tags.n{} = '{}'"])
def test_a_cancelled_check_of_an_argument_is_no_fault_of_the_argument(
    module_conn: psycopg.Connection[Any], call: str, predicate: str
) -> None:
    """Reading a long filter takes a while, so that the time is up when its first pattern, or
    else the bucket, is tried out."""
    module_conn.execute(call, ("status = 'OK'",))
    errors = []
    for milliseconds in (2, 5, 10, 20, 40):
        # Never the same twice: the session would know it.
        once = next(NUMBERS)
        filter = " OR ".join(predicate.format(n, once) for n in range(900))
        with module_conn.transaction(force_rollback=True):
            module_conn.execute(f"set local statement_timeout = {milliseconds}")
            try:
                module_conn.execute(call, (filter,))
            except psycopg.Error as error:
                errors.append(error)
    for raised in errors:
        assert raised.sqlstate == "57014", raised
        assert "statement timeout" in (raised.diag.message_primary or "")
        assert raised.diag.message_detail is None
        assert "Traceback" not in (raised.diag.context or "")
    if "RLIKE" in predicate or "validate" not in call:
        assert errors


@pytest.mark.parametrize(
    "call",
    [
        "select insights_count('1', 'status = \"OK\"')",
        "select * from insights_correlate('1', 'status = \"OK\"', 'name = \"x\"')",
        "select count(*) from insights_discover(null, 'status = \"ERROR\"')",
    ],
)
def test_a_first_call_that_is_cancelled_shows_no_python(module_dsn: str, call: str) -> None:
    """A session's first call loads the engine, for longer than some of these timeouts."""
    errors = []
    for milliseconds in (5, 10, 20, 35, 50, 75, 100, 150):
        with psycopg.connect(module_dsn, autocommit=True) as connection:
            connection.execute(f"set statement_timeout = {milliseconds}")
            try:
                connection.execute(call)
            except psycopg.Error as error:
                errors.append(error)
            connection.execute("set statement_timeout = 0")
            # And what was interrupted is made up for.
            connection.execute(call)
    assert errors
    for raised in errors:
        assert raised.sqlstate == "57014", raised
        assert (raised.diag.message_primary or "").startswith("canceling statement")
        assert "Python" not in (raised.diag.context or "")
        assert "Traceback" not in (raised.diag.context or "")


def test_accept_raises_exactly_what_it_is_given(module_conn: psycopg.Connection[Any]) -> None:
    for detail in (None, "a detail with % and 'quotes'"):
        for hint in (None, "a hint"):
            with pytest.raises(psycopg.Error) as caught:
                module_conn.execute(
                    "select insights.accept(row('22023', '100 %% sure', %s, %s)::insights.problem)",
                    (detail, hint),
                )
            diagnosis = checked(caught.value)
            assert diagnosis.message_primary == "100 % sure"
            assert (diagnosis.message_detail, diagnosis.message_hint) == (detail, hint)
    assert module_conn.execute("select insights.accept(null)").fetchone() == (True,)


def test_names_on_the_search_path_change_nothing(module_conn: psycopg.Connection[Any]) -> None:
    """A schema put in front can shadow neither tables nor functions."""
    module_conn.execute("create schema shadow")
    module_conn.execute("create table shadow.trace_info (request_id text)")
    module_conn.execute(
        "create function shadow.translate(text, text, text) returns text language sql "
        "as $$ select '99' $$"
    )
    module_conn.execute("create temp table spans (trace_id text)")
    try:
        module_conn.execute("set search_path = shadow, public")
        for call in CALLS:
            module_conn.execute(call, ("span.name = 'x'",))
        expected = module_conn.execute("select count(*) from public.trace_info").fetchone()
        assert module_conn.execute("select insights_count(null)").fetchone() == expected
    finally:
        module_conn.execute("reset search_path")
        module_conn.execute("drop table pg_temp.spans")
        module_conn.execute("drop schema shadow cascade")
