"""The fault campaign's ledger excuses what a fault explains, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from time import time

import pytest

from tests.chaos.ledger import CANCELLED, EVERYBODY, LOST, WAITED, Failure, Ledger

NOW = time()
CANCELLED_WRITE = Failure("mlflow-1", "a write", "57014", "canceled", "", NOW - 1, NOW)
OURS = "PL/pgSQL function insights.note_trace_id() line 4 at statement block"


def ledger_with(target: str, codes: frozenset[str], age: float = 0.0) -> Ledger:
    ledger = Ledger()
    fault = replace(ledger.inject("a fault", target, codes), begin=NOW - age)
    ledger.faults[:] = [fault]
    fault.end.append(fault.begin + 0.1)
    return ledger


def test_a_fault_that_met_the_session_explains_its_failure() -> None:
    for target in ("mlflow-1", EVERYBODY):
        ledger = ledger_with(target, CANCELLED)
        ledger.failed(CANCELLED_WRITE)
        assert ledger.unexcused() == []


@pytest.mark.parametrize(
    ("target", "codes", "age"),
    [
        ("mlflow-2", CANCELLED, 0.0),
        ("mlflow-1", LOST, 0.0),
        ("mlflow-1", CANCELLED, 60.0),
    ],
    ids=["another session's", "another kind", "long ago"],
)
def test_others_do_not(target: str, codes: frozenset[str], age: float) -> None:
    ledger = ledger_with(target, codes, age)
    ledger.failed(CANCELLED_WRITE)
    assert ledger.unexcused() == [CANCELLED_WRITE]


def test_what_our_triggers_raise_is_never_explained_by_a_lock() -> None:
    waited = replace(CANCELLED_WRITE, sqlstate="55P03", context=OURS)
    ledger = ledger_with(EVERYBODY, WAITED)
    ledger.failed(waited)
    assert ledger.unexcused() == [waited]
    # MLflow's own waiting is.
    ledger.failures[:] = [replace(waited, context="")]
    assert ledger.unexcused() == []


def test_a_violated_constraint_is_the_writers_business_unless_it_is_ours() -> None:
    violated = replace(CANCELLED_WRITE, sqlstate="23503", context="public trace_tags")
    ledger = Ledger()
    ledger.failed(violated)
    assert ledger.unexcused() == []
    ours = replace(violated, context="insights pending")
    ledger.failed(ours)
    assert ledger.unexcused() == [ours]
