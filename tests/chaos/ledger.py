"""What was done to whom and when, and whether a failure is explained by it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import psycopg

#: Not a session but all of them.
EVERYBODY = "*"

#: SQLSTATEs that a fault may cause in the session that it meets; "" is a lost connection.
LOST = frozenset({"", "57P01", "57P02", "57P03", "08000", "08003", "08006", "08001"})
CANCELLED = frozenset({"57014"})
WAITED = frozenset({"55P03", "57014"})
NO_SPACE = frozenset({"53100", "58030", "XX000"})
SERIALIZATION = frozenset({"40001", "40P01"})


@dataclass(frozen=True)
class Fault:
    """One fault; ``end`` is None while it lasts."""

    kind: str
    target: str
    codes: frozenset[str]
    begin: float
    end: list[float] = field(default_factory=list)

    def over(self) -> None:
        """It lasts no longer."""
        self.end.append(time.time())


@dataclass(frozen=True)
class Failure:
    """A call of ``who`` that failed, begun at ``since`` or later.

    ``since`` is when the last call before it that succeeded began: a connection that was
    lost while nobody used it is found to be lost by the next call.
    """

    who: str
    what: str
    sqlstate: str
    message: str
    context: str
    since: float
    until: float
    reads: bool = False

    @property
    def ours(self) -> bool:
        """Whether the error names an object of this project."""
        return "insights" in self.context or "insights" in self.message


def failure(
    who: str, what: str, error: BaseException, since: float, *, reads: bool = False
) -> Failure | None:
    """The database's error behind ``error``; None if the database is not behind it."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, psycopg.Error):
        seen = getattr(seen, "orig", None) or seen.__cause__ or seen.__context__
    if seen is None:
        return None
    context = " ".join(
        part
        for part in (seen.diag.context, seen.diag.schema_name, seen.diag.table_name)
        if part is not None
    )
    message = f"{type(seen).__name__}: {seen}"[:600]
    return Failure(who, what, seen.sqlstate or "", message, context, since, time.time(), reads)


class Ledger:
    """Faults and failures of a campaign; safe for threads."""

    #: Clocks of processes, and news that travel through sockets.
    _SLACK = 1.0

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.faults: list[Fault] = []
        self.failures: list[Failure] = []
        self.refusals: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.trouble: list[str] = []
        self.not_possible: Counter[str] = Counter()

    def inject(self, kind: str, target: str, codes: frozenset[str] = frozenset()) -> Fault:
        """Notes a fault right before it is injected."""
        fault = Fault(kind, target, codes, time.time())
        with self._lock:
            self.faults.append(fault)
        return fault

    def take_back(self, fault: Fault) -> None:
        """It could not be injected after all: there was nobody to meet it, for example."""
        with self._lock:
            self.faults.remove(fault)
            self.not_possible[fault.kind] += 1

    def failed(self, found: Failure) -> None:
        with self._lock:
            self.failures.append(found)

    def refused(self, who: str, reason: str) -> None:
        """MLflow itself refused; the database was not the reason."""
        with self._lock:
            self.refusals[f"{who}: {reason}"] += 1

    def answered_wrong(self, description: str) -> None:
        with self._lock:
            self.wrong.append(description)

    def troubled(self, description: str) -> None:
        """Something else that may not be."""
        with self._lock:
            self.trouble.append(description)

    def latest(self, most: int = 12) -> list[str]:
        """The last faults, the newest first, with their age."""
        now = time.time()
        with self._lock:
            recent = self.faults[: -most - 1 : -1]
        return [f"{fault.kind} of {fault.target} {now - fault.begin:.1f} s ago" for fault in recent]

    def excuse(self, found: Failure) -> Fault | None:
        """The fault that explains a failure."""
        if found.ours and not found.reads and found.sqlstate not in LOST | CANCELLED:
            # What goes wrong in our triggers is not to be passed on.
            return None
        with self._lock:
            known = list(self.faults)
        for fault in reversed(known):
            met = fault.target in (found.who, EVERYBODY)
            end = fault.end[0] if fault.end else fault.begin
            if not fault.end and fault.codes & WAITED:
                end = time.time()
            overlaps = fault.begin <= found.until + self._SLACK and end >= found.since - self._SLACK
            if met and overlaps and found.sqlstate in fault.codes:
                return fault
        return None

    def unexcused(self) -> list[Failure]:
        """Failures that nothing explains.

        What violates a constraint of MLflow's own is the writer's business: its trace was
        taken away by TRUNCATE, for example.
        """
        return [
            found
            for found in self.failures
            if self.excuse(found) is None and (found.ours or not found.sqlstate.startswith("23"))
        ]

    def counted(self) -> dict[str, int]:
        return dict(sorted(Counter(fault.kind for fault in self.faults).items()))


def describe(found: Failure) -> str:
    text = f"{found.who}, {found.what}: {found.sqlstate or 'connection'}: {found.message}"
    return f"{text} [{found.context[:300]}]" if found.context else text
