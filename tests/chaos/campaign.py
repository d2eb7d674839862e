"""Writes, indexes, asks and breaks things, all at once; then says what came of it."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from pathlib import Path
from random import Random
from typing import Any

import psycopg

from tests.chaos import stock_writer
from tests.chaos.faults import Faults
from tests.chaos.ledger import Failure, Ledger, describe, failure
from tests.chaos.raw_writer import CALLS, RawWriter
from tests.chaos.site import OWNER, READER, Site, WorkerProcess, site
from tests.chaos.truth import Examiner, WrongAnswer
from tests.semantics.strategies import Palette, palette_of, pick

STOCK_WRITERS = 2
RAW_WRITERS = 2
READERS = 2
#: Seconds in which the worker has to bring the index back, after the last fault.
PATIENCE = 90.0
#: After so many faults the index is given so many seconds to come back, so that the next
#: ones find it at work.
_FAULTS_IN_A_ROW = 6
_CALM = 8.0
#: Examinations after that, by the index.
LAST_EXAMINATIONS = 12


class StockProcess(threading.Thread):
    """A stock writer's process, and what it reports."""

    def __init__(self, made: Site, number: int, seed: int, palette: int, ledger: Ledger) -> None:
        self.who = f"mlflow-{number}"
        super().__init__(name=self.who, daemon=True)
        self._ledger = ledger
        self.writes = 0
        self.slowest = 0.0
        # MLflow is imported once for all of them.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([stock_writer.__name__])
        self._ending = context.Event()
        self._reports: Queue[stock_writer.Report | None] = context.Queue()
        url = made.dsn(OWNER, self.who).replace("postgresql://", "postgresql+psycopg://", 1)
        artifacts = str(made.home / "artifacts")
        self._process = context.Process(
            target=stock_writer.main,
            args=(url, self.who, artifacts, seed, palette, self._ending, self._reports),
            daemon=True,
        )
        self._process.start()

    def run(self) -> None:
        while (report := self._reports.get()) is not None:
            if isinstance(report, Failure):
                self._ledger.failed(report)
            elif isinstance(report, str):
                self._ledger.refused(self.who, report)
            else:
                self.writes += 1
                self.slowest = max(self.slowest, report)
        self._process.join(20)
        if self._process.exitcode:
            self._ledger.troubled(f"{self.who} ended with {self._process.exitcode}")

    def stop(self) -> None:
        self._ending.set()
        self.join(60)


class Reader(threading.Thread):
    """Asks again and again, each time as one of three roles."""

    def __init__(
        self, made: Site, number: int, examiner: Examiner, ledger: Ledger, dice: Random
    ) -> None:
        self.who = f"reader-{number}"
        super().__init__(name=self.who, daemon=True)
        self._site = made
        self._examiner = examiner
        self._ledger = ledger
        self._dice = dice
        self.stopping = threading.Event()

    def run(self) -> None:
        connection: psycopg.Connection[Any] | None = None
        since = time.time()
        asked = 0
        role = ""
        while not self.stopping.is_set():
            begin = time.time()
            try:
                if connection is None or connection.closed or asked % 20 == 19:
                    if connection is not None:
                        connection.close()
                    # Who may not read the index gets exact SQL; asked less often.
                    role = pick(self._dice, ("", OWNER, OWNER, READER))
                    connection = psycopg.connect(self._site.dsn(role, self.who), autocommit=True)
                self._examiner.examine(connection, self._dice)
                asked += 1
            except WrongAnswer as error:
                context = f"as {role or 'superuser'}, after {', '.join(self._ledger.latest())}"
                self._ledger.answered_wrong(f"{error} [{context}]")
                _closed(connection)
                connection = None
            except psycopg.Error as error:
                what = f"asking as {role or 'superuser'}"
                found = failure(self.who, what, error, since, reads=True)
                assert found is not None
                self._ledger.failed(found)
                _closed(connection)
                connection = None
                time.sleep(0.2)
            except BaseException as error:
                self._ledger.troubled(f"{self.who}: {type(error).__name__}: {error}")
                raise
            else:
                since = begin
        _closed(connection)


def _closed(connection: psycopg.Connection[Any] | None) -> None:
    if connection is not None:
        connection.close()


@dataclass
class Report:
    """What came of a campaign."""

    seed: int
    seconds: float
    faults: dict[str, int]
    not_possible: dict[str, int]
    answers: dict[str, int]
    examinations: int
    by_index: int
    writes: int
    raw_writes: int
    slowest_write: float
    excused: dict[str, int]
    refusals: dict[str, int]
    wrong: list[str]
    failed_for_our_sake: list[str]
    failed_questions: list[str]
    worker_ended: list[str]
    trouble: list[str]
    recovered_after: float | None
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (
            self.wrong
            or self.failed_for_our_sake
            or self.failed_questions
            or self.worker_ended
            or self.trouble
            or self.problems
            or self.recovered_after is None
        )

    def text(self) -> str:
        """For people."""

        def block(title: str, counts: dict[str, int]) -> list[str]:
            width = max((len(name) for name in counts), default=0)
            return [
                f"{title}: {sum(counts.values()):,}",
                *(f"  {name:{width}}  {count:,}" for name, count in counts.items()),
            ]

        def listed(title: str, what: list[str]) -> list[str]:
            return [f"{title}: {len(what)}", *(f"  {one}" for one in what[:10])]

        back = (
            "never" if self.recovered_after is None else f"{self.recovered_after:.1f} s after that"
        )
        return "\n".join(
            [
                f"seed {self.seed}, {self.seconds:.0f} s",
                *block("faults injected", self.faults),
                *block("faults for which there was no occasion", self.not_possible),
                *block("answers checked", self.answers),
                f"snapshots examined: {self.examinations:,}, by the index {self.by_index:,}",
                f"writes of stock MLflow: {self.writes:,}, slowest {self.slowest_write:.2f} s; "
                f"of others: {self.raw_writes:,}",
                *block("failures of sessions that a fault had met", self.excused),
                *block("refused by MLflow itself, or to be tried again", self.refusals),
                *listed("WRONG ANSWERS", self.wrong),
                *listed("WRITES FAILED FOR OUR SAKE", self.failed_for_our_sake),
                *listed("QUESTIONS FAILED WITHOUT A FAULT", self.failed_questions),
                *listed("THE WORKER ENDED", self.worker_ended),
                *listed("OTHER TROUBLE", self.trouble),
                *listed("PROBLEMS THAT insights_verify FINDS AT THE END", self.problems),
                f"the index came back by itself: {back}",
                "GOOD" if self.good else "NOT GOOD",
            ]
        )


def run(
    seconds: float,
    seed: int,
    only: Sequence[str] = (),
    without: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Report:
    """A campaign on a server of its own; ``only`` and ``without`` name faults (`kinds`)."""
    with site() as made:
        return _run(made, seconds, seed, only, without, say)


def _run(
    made: Site,
    seconds: float,
    seed: int,
    only: Sequence[str],
    without: Sequence[str],
    say: Callable[[str], None],
) -> Report:
    dice = Random(seed)
    palette_seed = dice.getrandbits(32)
    palette = palette_of(Random(palette_seed))
    ledger, examiner = Ledger(), Examiner(palette)
    with made.connect(OWNER) as connection:
        for number in (1, 2, 3):
            connection.execute(
                "insert into experiments (experiment_id, name, lifecycle_stage, artifact_location)"
                " values (%s, %s, 'active', %s)",
                [number, f"experiment {number}", str(made.home / "artifacts")],
            )
    stock = [
        StockProcess(made, number, dice.getrandbits(32), palette_seed, ledger)
        for number in range(STOCK_WRITERS)
    ]
    raw = [
        RawWriter(
            made.dsn(OWNER),
            number,
            palette,
            ledger,
            Random(dice.getrandbits(32)),
            CALLS - {*without},
        )
        for number in range(RAW_WRITERS)
    ]
    readers = [
        Reader(made, number, examiner, ledger, Random(dice.getrandbits(32)))
        for number in range(READERS)
    ]
    worker = WorkerProcess(made)
    writers = [*(process.who for process in stock), *(writer.who for writer in raw)]
    faults = Faults(
        made,
        ledger,
        Random(dice.getrandbits(32)),
        palette,
        writers,
        [reader.who for reader in readers],
    )
    for process in stock:
        process.start()
    _wait_for_writes(stock, ledger)
    for thread in (*raw, *readers, worker):
        thread.start()
    say("everybody is at work")
    begin = time.monotonic()
    _inject(faults, ledger, dice, seconds, only, without, say)
    last = time.monotonic()
    say("no more faults")
    for reader in readers:
        reader.stopping.set()
    for writer in raw:
        writer.stopping.set()
    for process in stock:
        process.stop()
    for thread in (*readers, *raw):
        thread.join(60)
    say("waiting for the index")
    recovered, problems = _recover(made, examiner, ledger, palette, dice, last)
    worker.stop()
    unexcused = ledger.unexcused()
    excused = Counter(
        f"{fault.kind}: {found.who.rpartition('-')[0]}"
        for found in ledger.failures
        if (fault := ledger.excuse(found)) is not None
    )
    return Report(
        seed=seed,
        seconds=last - begin,
        faults=ledger.counted(),
        not_possible=dict(sorted(ledger.not_possible.items())),
        answers=dict(sorted(examiner.answers.items())),
        examinations=examiner.examinations,
        by_index=examiner.by_index,
        writes=sum(process.writes for process in stock),
        raw_writes=sum(writer.done for writer in raw),
        slowest_write=max(process.slowest for process in stock),
        excused=dict(sorted(excused.items())),
        refusals=dict(sorted(ledger.refusals.items())),
        wrong=ledger.wrong,
        failed_for_our_sake=[describe(found) for found in unexcused if found.who in writers],
        failed_questions=[describe(found) for found in unexcused if found.who not in writers],
        worker_ended=worker.ends,
        trouble=ledger.trouble,
        recovered_after=recovered,
        problems=problems,
    )


def _wait_for_writes(stock: Sequence[StockProcess], ledger: Ledger) -> None:
    end = time.monotonic() + 300
    while not all(process.writes for process in stock):
        if time.monotonic() > end or not all(process.is_alive() for process in stock):
            raise RuntimeError(
                f"MLflow's writers do not write: {ledger.trouble}, {ledger.refusals}"
            )
        time.sleep(0.1)


def _inject(
    faults: Faults,
    ledger: Ledger,
    dice: Random,
    seconds: float,
    only: Sequence[str],
    without: Sequence[str],
    say: Callable[[str], None],
) -> None:
    """One fault after the other, in rounds of all kinds, so that none is left out."""
    kinds = {
        name: do
        for name, do in faults.kinds().items()
        if (not only or name in only) and name not in without
    }
    end = time.monotonic() + seconds
    spoken = time.monotonic()
    left: list[str] = []
    since_calm = 0
    while time.monotonic() < end:
        if since_calm == _FAULTS_IN_A_ROW:
            since_calm = 0
            faults.wait_for_index(min(_CALM, end - time.monotonic()))
        if not kinds:
            time.sleep(0.1)
            continue
        if not left:
            left = list(kinds)
            dice.shuffle(left)
        name = left.pop()
        since_calm += 1
        try:
            kinds[name]()
        except Exception as error:
            ledger.troubled(f"fault {name}: {type(error).__name__}: {error}")
        time.sleep(dice.uniform(0, 0.3))
        if time.monotonic() > spoken + 30:
            spoken = time.monotonic()
            say(f"{len(ledger.faults)} faults, {len(ledger.wrong)} wrong answers")


def _recover(
    made: Site, examiner: Examiner, ledger: Ledger, palette: Palette, dice: Random, since: float
) -> tuple[float | None, list[str]]:
    """Waits for the index, then looks at it thoroughly; seconds it took, and problems."""
    with made.connect() as connection:
        while True:
            row = connection.execute(
                "select built, missed, pending from public.insights_status()"
            ).fetchone()
            if row == (True, 0, 0):
                after = time.monotonic() - since
                break
            if time.monotonic() > since + PATIENCE:
                ledger.troubled(f"built, missed, pending are {row} in the end")
                return None, []
            time.sleep(0.2)
        problems = [
            f"{trace_id}: {problem}"
            for trace_id, problem in connection.execute("select * from public.insights_verify()")
        ]
        used = 0
        try:
            for _ in range(LAST_EXAMINATIONS):
                used += examiner.examine(connection, dice)
        except WrongAnswer as error:
            ledger.answered_wrong(f"{error} [in the end]")
        if used < LAST_EXAMINATIONS and not ledger.wrong:
            problems.append("the index is not used")
    return after, problems


def write(report: Report, path: Path) -> None:
    """The report as JSON, with everything that it shortens for people."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(vars(report), indent=2) + "\n")


__all__ = ["Report", "run", "write"]
