"""Tens of thousands of hostile calls, by three roles; then the server's log is read.

``INSIGHTS_ATTACK_CALLS`` and ``INSIGHTS_ATTACK_SEED`` choose how many, and which.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import psycopg
import pytest

from tests.attack.conftest import (
    NOBODY,
    OWNER,
    READER,
    ROLES,
    SECRET,
    Arena,
    Record,
    sent,
    statements,
)
from tests.attack.hostile import DIGITS, FILTERS, MARK, Function, Hostile, functions

CALLS = int(os.environ.get("INSIGHTS_ATTACK_CALLS", 20_000))
SEED = int(os.environ.get("INSIGHTS_ATTACK_SEED", 1))
#: A session ends after so many calls: some of what it keeps begins anew.
CALLS_OF_A_SESSION = 1500

#: What may come back, as sql/README.md says.
DOCUMENTED = {
    "22023": "the caller's mistake",
    "25001": "in a transaction block",
    "42501": "not allowed",
    "57014": "takes too long",
    "54000": "too large for PostgreSQL",
    "54001": "too deep for PostgreSQL",
}
#: What PostgreSQL says of an argument before a function is called at all.
BEFORE = {"22008": "a time out of range", "22003": "a number out of range"}

#: Takes SQL text by design, and runs it with the caller's own rights (rule 2).
TAKES_SQL = {"parallel_rows"}
#: Raises what it is told to.
RAISES = {"accept"}


@dataclass
class Outcome:
    """What a role's calls came to."""

    calls: int = 0
    states: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    slowest: float = 0.0
    slowest_call: str = ""


class Attacker(threading.Thread):
    def __init__(self, arena: Arena, role: str, calls: int, seed: int) -> None:
        super().__init__(name=role)
        self._arena = arena
        self._role = role
        self._calls = calls
        self._dice = Random(f"{seed} {role}")
        self._hostile = Hostile(self._dice)
        self.outcome = Outcome()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            left = self._calls
            while left:
                now = min(left, CALLS_OF_A_SESSION)
                with self._arena.connect(self._role) as connection:
                    connection.execute("set statement_timeout = '3s'")
                    self._attack(connection, now)
                left -= now
        except BaseException as error:
            self.error = error

    def _attack(self, connection: psycopg.Connection[Any], calls: int) -> None:
        if self._role != NOBODY:
            rows = connection.execute(
                "select next_page_token from insights_search('1', '', 3, array['tags.k', 'name'])"
            ).fetchall()
            self._hostile.tokens.append(rows[0][0])
        known = [f for f in functions(connection) if f.name not in TAKES_SQL]
        public = [f for f in known if f.schema == "public"]
        for _ in range(calls):
            # Those that users are meant to call, most of the time.
            function = self._hostile.pick(public if self._dice.random() < 0.75 else known)
            self._call(connection, function)

    def _call(self, connection: psycopg.Connection[Any], function: Function) -> None:
        arguments = self._hostile.arguments(function)
        begin = time.monotonic()
        state = "00000"
        try:
            # Bound by the protocol: what stands in SQL text is not of our making.
            cursor = connection.execute(function.call(), arguments, prepare=False)
            rows = cursor.fetchall() if cursor.description else []
            if self._role == NOBODY and SECRET in repr(rows):
                self._bad(function, arguments, "shows what it may not")
        except psycopg.DataError as error:
            if error.sqlstate is None:
                # The client's library cannot send such a text.
                state = "not sent"
            else:
                state = self._judged(function, arguments, error)
        except psycopg.Error as error:
            state = self._judged(function, arguments, error)
        took = time.monotonic() - begin
        if took > self.outcome.slowest:
            self.outcome.slowest, self.outcome.slowest_call = took, function.label
        self.outcome.calls += 1
        self.outcome.states[state] += 1

    def _judged(self, function: Function, arguments: list[Any], error: psycopg.Error) -> str:
        diag = error.diag
        shown = " ".join(
            part
            for part in (
                *(diag.message_primary, diag.message_detail, diag.message_hint, diag.context),
                *(diag.internal_query,),
            )
            if part
        )
        state = error.sqlstate or "connection lost"
        if "Traceback" in shown or re.search(r'File "|insights_engine|PL/Python', shown):
            self._bad(function, arguments, f"shows a traceback: {shown[:600]}")
        if state not in DOCUMENTED and not (state in BEFORE and not diag.context):
            if function.name not in RAISES:
                self._bad(function, arguments, f"{state}: {shown[:600]}")
        elif state == "22023" and "\n" in (diag.message_primary or ""):
            self._bad(function, arguments, f"a message of several lines: {shown[:600]}")
        if self._role == NOBODY and SECRET in shown.replace(repr(arguments), ""):
            self._bad(function, arguments, f"shows what it may not: {shown[:600]}")
        return state

    def _bad(self, function: Function, arguments: list[Any], what: str) -> None:
        self.outcome.bad.append(f"{self._role}: {function.label}{arguments!r:.600}: {what}")


@dataclass(frozen=True)
class Attacked:
    """What the attack came to, and what the log says."""

    outcomes: dict[str, Outcome]
    seconds: float
    records: list[Record]
    before: list[tuple[Any, ...]]
    after: list[tuple[Any, ...]]
    utilities: list[str]


_STATE = """
    select 'postmaster', pg_postmaster_start_time()::text
    union all
    select 'roles', md5(string_agg(to_jsonb(r)::text, '' order by r.rolname)) from pg_roles r
    union all
    select 'functions', md5(string_agg(to_jsonb(p)::text, '' order by p.oid)) from pg_proc p
    union all
    select 'triggers', md5(string_agg(to_jsonb(g)::text, '' order by g.oid)) from pg_trigger g
    union all
    select 'relations', md5(string_agg(
        c.relname || c.relkind::text || coalesce(c.relacl::text, ''), '' order by c.relname))
    from pg_class c where c.relnamespace in ('public'::regnamespace, 'insights'::regnamespace)
    union all
    select 'traces', md5(string_agg(to_jsonb(t)::text, '' order by t.request_id))
    from trace_info t
    union all
    select 'spans', md5(string_agg(to_jsonb(s)::text, '' order by s.trace_id, s.span_id))
    from spans s
    union all
    select 'databases', string_agg(datname, ' ' order by datname) from pg_database
"""


@pytest.fixture(scope="module")
def attacked(arena: Arena) -> Attacked:
    with arena.connect() as admin:
        before = admin.execute(_STATE).fetchall()
        log = arena.end_of_log()
        share = {READER: 0.5, OWNER: 0.35, NOBODY: 0.15}
        attackers = [Attacker(arena, role, int(CALLS * share[role]), SEED) for role in ROLES]
        begin = time.monotonic()
        for attacker in attackers:
            attacker.start()
        for attacker in attackers:
            attacker.join()
        seconds = time.monotonic() - begin
        for attacker in attackers:
            if attacker.error is not None:
                raise attacker.error
        after = admin.execute(_STATE).fetchall()
    utilities = sent(arena)
    return Attacked(
        {attacker.name: attacker.outcome for attacker in attackers},
        seconds,
        arena.log(log),
        before,
        after,
        utilities,
    )


def test_every_refusal_is_documented_and_without_a_traceback(attacked: Attacked) -> None:
    for role, outcome in attacked.outcomes.items():
        states = ", ".join(f"{state} {count}" for state, count in outcome.states.most_common())
        print(f"{role}: {outcome.calls} calls: {states};")
        print(f"  slowest {outcome.slowest:.1f} s, {outcome.slowest_call}")
    print(f"{attacked.seconds:.0f} s, {len(attacked.records)} records in the log")
    assert sum(outcome.calls for outcome in attacked.outcomes.values()) >= CALLS - len(ROLES)
    bad = [line for outcome in attacked.outcomes.values() for line in outcome.bad]
    assert not bad, f"{len(bad)}:\n" + "\n".join(bad[:20])


def test_no_text_of_a_caller_stands_in_a_statement(attacked: Attacked) -> None:
    """Neither in those that the functions run, nor in those that PostgreSQL shows in errors."""
    seen = nested = 0
    for record in attacked.records:
        for text in statements(record):
            seen += 1
            nested += record.text.startswith("duration:")
            found = MARK.search(text) or DIGITS.search(text)
            assert found is None, (found, record.level, text[:3000])
    for query in attacked.utilities:
        found = MARK.search(query) or DIGITS.search(query)
        assert found is None, (found, query[:3000])
    # The log shows the statements that functions run, else this has proved nothing.
    assert nested > CALLS
    assert seen > 2 * CALLS
    assert any("trace_info" in text for r in attacked.records for text in statements(r))


def test_marks_would_be_found(arena: Arena) -> None:
    """The log shows what it is searched for, where it stands in a statement."""
    begin = arena.end_of_log()
    with arena.connect(READER) as connection:
        connection.execute(
            "select * from insights.parallel_rows($q$select 'zqj12345'$q$) as t (a text)"
            if _takes_a_query(connection)
            else "do $$ begin perform 'zqj12345'; end $$"
        )
    found = [text for record in arena.log(begin) for text in statements(record)]
    assert any(MARK.search(text) for text in found)


def _takes_a_query(connection: psycopg.Connection[Any]) -> bool:
    return any(f.name == "parallel_rows" and len(f.arguments) == 1 for f in functions(connection))


def test_nothing_has_crashed_and_nothing_has_changed(attacked: Attacked) -> None:
    assert attacked.after == attacked.before
    ended = [r.text for r in attacked.records if r.level in ("FATAL", "PANIC")]
    assert ended == []
    assert [r.text for r in attacked.records if "terminated by signal" in r.text] == []


def test_nobody_learns_anything(attacked: Attacked, arena: Arena) -> None:
    """But what a filter means, which needs no table."""
    answered = attacked.outcomes[NOBODY].states
    assert answered["42501"] > answered["00000"]
    with arena.connect(NOBODY) as connection:
        for filter in FILTERS:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("select insights_count('1', %s)", [filter])
