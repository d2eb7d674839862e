"""What is done to the server, its sessions and its tables; each fault is a method.

A fault notes itself in the ledger before it does anything, with the session that it
meets and the SQLSTATEs that this session may then see.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any

import psycopg
from psycopg import sql

from tests.chaos.ledger import (
    CANCELLED,
    EVERYBODY,
    LOST,
    NO_SPACE,
    WAITED,
    Fault,
    Ledger,
)
from tests.chaos.site import OWNER, Site
from tests.chaos.site import WORKER as WORKER_ROLE
from tests.chaos.truth import TABLES
from tests.semantics.strategies import Palette, pick
from tests.semantics.world import replace_traces
from tests.sql.plain import uses_index

Connection = psycopg.Connection[Any]

WORKER = "insights worker"

MODES = (
    "row share",
    "row exclusive",
    "share update exclusive",
    "share",
    "share row exclusive",
    "exclusive",
    "access exclusive",
)

#: Run by the server's own account, which may do that to its processes.
_LIMIT_FILES = """
    do language plpython3u $$
        import resource
        resource.prlimit({pid}, resource.RLIMIT_FSIZE, ({size}, {size}))
    $$"""

#: A client's own prepared statement is no longer what it was.
CHANGED = frozenset({"0A000"})

#: Deadlocks come of locks of several tables that are taken at once.
CASCADE = frozenset({"40P01"})


class Faults:
    """Injects faults into a site; ``others`` are the application names of its sessions."""

    def __init__(
        self,
        site: Site,
        ledger: Ledger,
        dice: Random,
        palette: Palette,
        writers: list[str],
        readers: list[str],
    ) -> None:
        self._site = site
        self._ledger = ledger
        self._dice = dice
        self._palette = palette
        self._writers = writers
        self._readers = readers
        self._numbers = 0

    def kinds(self) -> dict[str, Callable[[], None]]:
        """Name to method; often wanted ones first."""
        return {
            name.removeprefix("do_"): getattr(self, name)
            for name in sorted(dir(self))
            if name.startswith("do_")
        }

    # ------------------------------------------------------------------- helpers

    @contextmanager
    def _session(self, role: str = "") -> Iterator[Connection]:
        connection = self._site.connect(role)
        try:
            yield connection
        finally:
            connection.close()

    def _pids(self, connection: Connection, application: str) -> list[int]:
        rows = connection.execute(
            "select pid from pg_stat_activity where datname = current_database()"
            " and application_name = %s and backend_type = 'client backend' order by state",
            [application],
        )
        return [row[0] for row in rows]

    def _met(
        self, kind: str, application: str, codes: frozenset[str], target: str | None = None
    ) -> Iterator[tuple[Connection, int, Fault]]:
        """The session of an application, noted as met; nothing if there is none now."""
        with self._session() as connection:
            pids = self._pids(connection, application)
            end = time.monotonic() + 3
            while not pids and time.monotonic() < end:
                # It has been met by the fault before and comes again.
                time.sleep(0.05)
                pids = self._pids(connection, application)
            fault = self._ledger.inject(kind, target or application, codes)
            if not pids:
                self._ledger.take_back(fault)
                return
            yield connection, pick(self._dice, pids), fault
            fault.over()

    def _signal(self, kind: str, function: str, application: str, codes: frozenset[str]) -> None:
        for connection, pid, _ in self._met(kind, application, codes):
            connection.execute(f"select {function}(%s)".encode(), [pid])

    def _while(self, seconds: float, condition: Callable[[], bool] | None = None) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition is not None:
                condition()
            time.sleep(0.05)

    def _mlflow_waits_for_us(self, connection: Connection) -> bool:
        """Whether a statement of MLflow's waits for a lock on a table of the index."""
        row = connection.execute(
            "select count(*), min(l.relation::regclass::text)"
            " from pg_locks l join pg_stat_activity a using (pid)"
            " join pg_class c on c.oid = l.relation"
            " where not l.granted and a.application_name = any(%s)"
            " and c.relnamespace = 'insights'::regnamespace",
            [self._writers],
        ).fetchone()
        assert row is not None
        if row[0]:
            self._ledger.troubled(f"MLflow's statement waits for {row[1]}")
        return bool(row[0])

    def wait_for_index(self, seconds: float) -> None:
        """Until it takes part in answers, for so long at most."""
        end = time.monotonic() + seconds
        with self._session() as connection:
            while time.monotonic() < end:
                if uses_index(connection):
                    self._while(min(0.7, max(0.0, end - time.monotonic())))
                    return
                time.sleep(0.1)

    # ------------------------------------------------------------------ sessions

    def do_terminate_writer(self) -> None:
        who = pick(self._dice, self._writers)
        self._signal("writer terminated", "pg_terminate_backend", who, LOST)

    def do_cancel_writer(self) -> None:
        who = pick(self._dice, self._writers)
        self._signal("writer cancelled", "pg_cancel_backend", who, CANCELLED)

    def do_terminate_reader(self) -> None:
        who = pick(self._dice, self._readers)
        self._signal("reader terminated", "pg_terminate_backend", who, LOST)

    def do_cancel_reader(self) -> None:
        who = pick(self._dice, self._readers)
        self._signal("reader cancelled", "pg_cancel_backend", who, CANCELLED)

    def do_terminate_worker(self) -> None:
        self._signal("worker terminated", "pg_terminate_backend", WORKER, LOST)

    def do_cancel_worker(self) -> None:
        self._signal("worker cancelled", "pg_cancel_backend", WORKER, CANCELLED)

    # ------------------------------------------------------------------- crashes

    def do_kill_session(self) -> None:
        """SIGKILL of one process: the server ends all others and recovers."""
        who = pick(self._dice, (*self._writers, *self._readers, WORKER, WORKER))
        with self._site.restarting:
            for connection, pid, fault in self._met("session killed", who, LOST, EVERYBODY):
                os.kill(pid, signal.SIGKILL)
                connection.close()
                self._recovered()
                fault.over()

    def do_restart_immediate(self) -> None:
        fault = self._ledger.inject("immediate restart", EVERYBODY, LOST)
        self._site.restart("immediate")
        self._recovered()
        fault.over()

    def do_restart_fast(self) -> None:
        fault = self._ledger.inject("fast restart", EVERYBODY, LOST)
        self._site.restart("fast")
        self._recovered()
        fault.over()

    def _recovered(self) -> None:
        with self._session():
            pass

    # ---------------------------------------------------------------------- disk

    def do_full_disk(self) -> None:
        """The index cannot grow; MLflow's tables can."""
        if self._site.disk is None:
            fault = self._ledger.inject("disk full", "the index")
            self._ledger.take_back(fault)
            return
        # The worker and readers may fail of it, MLflow may not.
        faults = [
            self._ledger.inject("disk full", WORKER, NO_SPACE),
            *(Fault("disk full", who, NO_SPACE, time.time()) for who in self._readers),
        ]
        self._ledger.faults.extend(faults[1:])
        try:
            self._site.fill_disk()
            self._while(self._dice.uniform(0.5, 2))
        finally:
            self._site.free_disk()
            for fault in faults:
                fault.over()
        # One fault, of which several sessions may see something.
        for fault in faults[1:]:
            self._ledger.faults.remove(fault)

    def do_full_log(self) -> None:
        """The worker's process can write no file any more; for the log that is a crash."""
        with self._site.restarting:
            for connection, pid, fault in self._met(
                "disk of the log full", WORKER, LOST | NO_SPACE, EVERYBODY
            ):
                connection.execute(_LIMIT_FILES.format(pid=pid, size=8192).encode())
                self._while(0.7)
                connection.close()
                with self._session() as again:
                    if pid in self._pids(again, WORKER):
                        # It has had nothing to write.
                        again.execute("select pg_terminate_backend(%s)", [pid])
                self._recovered()
                fault.over()

    # ------------------------------------------------------------------ timeouts

    def _limited_worker(self, kind: str, setting: str, value: str) -> None:
        """The worker's role has a limit, for a while."""
        with self._session() as connection:
            fault = self._ledger.inject(kind, WORKER, WAITED | LOST)
            name, role = sql.Identifier(setting), sql.Identifier(WORKER_ROLE)
            connection.execute(
                sql.SQL("alter role {} set {} = {}").format(role, name, sql.Literal(value))
            )
            try:
                for pid in self._pids(connection, WORKER):
                    connection.execute("select pg_terminate_backend(%s)", [pid])
                self._while(self._dice.uniform(0.5, 1.5))
            finally:
                again = self._site.connect()
                again.execute(sql.SQL("alter role {} reset {}").format(role, name))
                for pid in self._pids(again, WORKER):
                    again.execute("select pg_terminate_backend(%s)", [pid])
                again.close()
                fault.over()

    def do_worker_statement_timeout(self) -> None:
        self._limited_worker(
            "statement timeout of the worker", "statement_timeout", str(self._dice.randint(1, 40))
        )

    def do_worker_lock_timeout(self) -> None:
        with self._locked(f"insights.{pick(self._dice, self._index_tables())}", "exclusive"):
            self._limited_worker("lock timeout of the worker", "lock_timeout", "5")

    def do_worker_serializable(self) -> None:
        self._limited_worker(
            "worker serializable by default", "default_transaction_isolation", "serializable"
        )

    # --------------------------------------------------------------------- locks

    def _index_tables(self) -> list[str]:
        with self._session() as connection:
            rows = connection.execute(
                "select relname from pg_class where relkind = 'r'"
                " and relnamespace = 'insights'::regnamespace order by relname"
            )
            return [row[0] for row in rows]

    @contextmanager
    def _locked(self, table: str, mode: str) -> Iterator[Connection]:
        with self._session() as connection:
            connection.execute("begin")
            connection.execute("set local lock_timeout = '2s'")
            connection.execute(f"lock table {table} in {mode} mode".encode())
            yield connection
            connection.execute("rollback")

    def do_lock_mlflow(self) -> None:
        table, mode = pick(self._dice, TABLES), pick(self._dice, MODES)
        fault = self._ledger.inject(f"lock on a table of MLflow's ({mode})", EVERYBODY, WAITED)
        with self._locked(f"public.{table}", mode):
            self._while(self._dice.uniform(0.2, 1))
        fault.over()

    def do_lock_index(self) -> None:
        """MLflow's statements do not wait for it."""
        table, mode = pick(self._dice, self._index_tables()), pick(self._dice, MODES)
        fault = self._ledger.inject(f"lock on a table of the index ({mode})", WORKER, WAITED)
        with self._locked(f"insights.{table}", mode), self._session() as witness:
            self._while(self._dice.uniform(0.2, 1), lambda: self._mlflow_waits_for_us(witness))
        fault.over()

    def do_advisory_lock(self) -> None:
        """A stranger holds every advisory lock that could be meant, and the index goes on."""
        fault = self._ledger.inject("advisory locks held by a stranger", WORKER)
        with self._session(OWNER) as connection:
            for word in (b"insights", b"insight", b"refresh", b"rebuild"):
                connection.execute("select pg_try_advisory_lock(%s)", [int.from_bytes(word, "big")])
            self._while(self._dice.uniform(0.3, 1))
        fault.over()

    # ------------------------------------------------------------------ two-phase

    def do_two_phase(self) -> None:
        """Prepared, then perhaps a crash, then committed or not."""
        self._numbers += 1
        name = f"chaos-{self._numbers}"
        self._ledger.inject("transaction prepared", "two-phase")
        with self._session(OWNER) as connection:
            connection.execute("begin")
            self._write(connection, "two-phase")
            connection.execute(f"prepare transaction '{name}'".encode())
        if self._dice.random() < 0.3:
            self.do_restart_immediate()
        else:
            self._while(self._dice.uniform(0.1, 1))
        end = "commit" if self._dice.random() < 0.7 else "rollback"
        with self._session(OWNER) as connection:
            connection.execute(f"{end} prepared '{name}'".encode())

    def _write(self, connection: Connection, prefix: str, most: int = 4) -> list[str]:
        """Writes a few traces of this driver's own; their ids."""
        from dataclasses import replace

        from tests.semantics.strategies import _trace

        traces = []
        for number in self._dice.sample(range(8), self._dice.randint(1, most)):
            made = _trace(self._dice, self._palette)
            spans = tuple(span for span in made.spans if len(span.content) < 3000)
            traces.append(replace(made, trace_id=f"{prefix}-{number}", spans=spans))
        replace_traces(connection, traces)
        return [trace.trace_id for trace in traces]

    # ------------------------------------------------------------------- rewrites

    def _rewrite(self, kind: str, *statements: str, role: str = "") -> None:
        fault = self._ledger.inject(kind, EVERYBODY, WAITED | CHANGED)
        with self._session(role) as connection:
            connection.execute("set lock_timeout = '2s'")
            try:
                for statement in statements:
                    connection.execute(statement.encode())
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                self._ledger.take_back(fault)  # too many were at work
                return
        fault.over()

    def do_vacuum_full(self) -> None:
        if self._dice.random() < 0.6:
            table = f"public.{pick(self._dice, TABLES)}"
            self._rewrite("VACUUM FULL of a table of MLflow's", f"vacuum full {table}")
        else:
            table = f"insights.{pick(self._dice, self._index_tables())}"
            self._rewrite("VACUUM FULL of a table of the index", f"vacuum full {table}")

    def do_vacuum(self) -> None:
        self._rewrite("VACUUM (FREEZE) of all", "vacuum (freeze, analyze)")

    def do_cluster(self) -> None:
        with self._session() as connection:
            rows = connection.execute(
                "select i.indrelid::regclass::text, c.relname from pg_index i"
                " join pg_class c on c.oid = i.indexrelid"
                " where i.indisprimary and i.indrelid = any(%s::regclass[])",
                [[f"public.{table}" for table in TABLES]],
            ).fetchall()
        table, index = pick(self._dice, rows)
        self._rewrite("CLUSTER", f'cluster {table} using "{index}"')

    def do_alter_type(self) -> None:
        """Every value is another afterwards, and no trigger has been called."""
        # What MLflow itself keeps in tags stays, or it would refuse to go on.
        expression = pick(self._dice, ("upper(value)", "lower(value)", "left(value, 1)"))
        expression = f"case when key like 'mlflow.%' then value else {expression} end"
        table = pick(self._dice, ("trace_tags", "trace_request_metadata"))
        self._rewrite(
            "ALTER TYPE with other values",
            f"alter table public.{table} alter column value type varchar(8000) using {expression}",
            role=OWNER,
        )

    def do_alter_type_and_back(self) -> None:
        self._rewrite(
            "ALTER TYPE and back",
            "alter table public.trace_tags alter column value type text",
            "alter table public.trace_tags alter column value type varchar(8000)",
            role=OWNER,
        )

    def do_add_column(self) -> None:
        """As a migration of MLflow's does."""
        self._rewrite(
            "column added and dropped",
            "alter table public.trace_info add column chaos int default 5",
            "alter table public.trace_info drop column chaos",
            role=OWNER,
        )

    def do_reindex(self) -> None:
        table = pick(
            self._dice,
            (
                f"public.{pick(self._dice, TABLES)}",
                f"insights.{pick(self._dice, self._index_tables())}",
            ),
        )
        self._rewrite("REINDEX", f"reindex table {table}")

    def do_truncate(self) -> None:
        table = pick(self._dice, [table for table in TABLES if table != "trace_info"])
        self._rewrite("TRUNCATE", f"truncate public.{table} cascade", role=OWNER)

    def do_truncate_all(self) -> None:
        fault = self._ledger.inject("TRUNCATE CASCADE", EVERYBODY, WAITED | CASCADE)
        with self._session(OWNER) as connection:
            connection.execute("set lock_timeout = '2s'")
            try:
                connection.execute("truncate public.trace_info cascade")
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                self._ledger.take_back(fault)
                return
        fault.over()

    # ------------------------------------------------------------------- triggers

    def _triggers(self, connection: Connection) -> list[tuple[str, str, str, str]]:
        """Table, name, definition and state of the project's triggers on MLflow's tables."""
        return connection.execute(
            "select t.tgrelid::regclass::text, t.tgname, pg_get_triggerdef(t.oid),"
            " t.tgenabled::text"
            " from pg_trigger t join pg_proc p on p.oid = t.tgfoid"
            " where not t.tgisinternal and p.pronamespace = 'insights'::regnamespace"
            " and t.tgrelid = any(%s::regclass[]) order by 1, 2",
            [[f"public.{table}" for table in TABLES]],
        ).fetchall()

    def _alter(self, connection: Connection, *statements: str) -> bool:
        """As a transaction, if the lock can be had; whether it could."""
        try:
            with connection.transaction():
                connection.execute("set local lock_timeout = '2s'")
                for statement in statements:
                    connection.execute(statement.encode())
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            return False
        return True

    def do_drop_trigger(self) -> None:
        """Written to without one; then there is one again, made by a person."""
        fault = self._ledger.inject("trigger dropped and made again", EVERYBODY, WAITED)
        # As superuser: an owner may not call the functions that the trigger names.
        with self._session() as connection:
            table, name, definition, state = pick(self._dice, self._triggers(connection))
            if not self._alter(connection, f'drop trigger "{name}" on {table}'):
                self._ledger.take_back(fault)
                return
            self._write(connection, "untriggered")
            self._while(self._dice.uniform(0.3, 1.2))
            again = [definition]
            if state != "O":
                how = {"A": "enable always", "R": "enable replica", "D": "disable"}[state]
                again.append(f'alter table {table} {how} trigger "{name}"')
            while not self._alter(connection, *again):
                pass
        fault.over()

    def do_disable_trigger(self) -> None:
        """Answers are right while it is disabled, and when it has been."""
        fault = self._ledger.inject("trigger disabled and enabled", EVERYBODY, WAITED)
        with self._session() as connection:
            table, name, _, state = pick(self._dice, self._triggers(connection))
            if not self._alter(connection, f'alter table {table} disable trigger "{name}"'):
                self._ledger.take_back(fault)
                return
            self._write(connection, "untriggered")
            self._while(self._dice.uniform(0.3, 1.2))
            how = "enable always" if state == "A" else "enable"
            while not self._alter(connection, f'alter table {table} {how} trigger "{name}"'):
                pass
        fault.over()

    def do_replica_role(self) -> None:
        """Who applies changes as a replication worker does."""
        self._ledger.inject("session_replication_role = replica", "replica")
        with self._session() as connection:
            connection.execute("set session_replication_role = replica")
            self._delete_replica(connection)
            self._write(connection, "replica")
            if self._dice.random() < 0.3:
                self._delete_replica(connection)

    def _delete_replica(self, connection: Connection) -> None:
        """Row by row, since foreign keys do not cascade here."""
        for table, column in (
            ("spans", "trace_id"),
            ("assessments", "trace_id"),
            ("trace_tags", "request_id"),
            ("trace_request_metadata", "request_id"),
            ("entity_associations", "source_id"),
            ("trace_info", "request_id"),
        ):
            connection.execute(
                f"delete from public.{table} where {column} like 'replica-%'".encode()
            )

    # ------------------------------------------------------------------- rebuilds

    def do_interrupt_rebuild(self) -> None:
        """Begun and ended half-way; the worker finishes it."""
        fault = self._ledger.inject("rebuild interrupted", "rebuild", LOST | CANCELLED)
        with self._session(OWNER) as connection, self._session() as other:
            pid = connection.info.backend_pid
            how = pick(self._dice, ("pg_terminate_backend", "pg_cancel_backend"))

            def interrupt() -> None:
                other.execute(f"select {how}(%s)".encode(), [pid])

            timer = threading.Timer(self._dice.uniform(0, 0.4), interrupt)
            timer.start()
            try:
                connection.execute("call public.insights_rebuild(10)")
            except psycopg.OperationalError:
                pass  # what it is here for
            finally:
                timer.join()
        fault.over()

    def do_interrupt_refresh(self) -> None:
        """A second one beside the worker's, with small batches, ended half-way."""
        fault = self._ledger.inject("refresh interrupted", "refresh", LOST | CANCELLED)
        with self._session(OWNER) as connection:
            connection.execute(f"set statement_timeout = {self._dice.randint(1, 60)}".encode())
            with suppress(psycopg.errors.QueryCanceled):  # what it is here for
                connection.execute("select * from public.insights_refresh(%s)", [5])
        fault.over()
