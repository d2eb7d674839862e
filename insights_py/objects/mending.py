"""Makes the objects of a database what the frozen SQL says, whatever has become of them.

The index is kept where its tables are as they should be.  What may have been written while a
trigger did not note it counts as missed, so that the index is not used before it is caught up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import psycopg
from psycopg import sql

from insights_py import bundles, steps
from insights_py.objects import rules
from insights_py.objects.comparison import Difference, differences, installation, is_current
from insights_py.objects.expected import Expected, expected
from insights_py.objects.rules import Grant, Key, Kind

INSTALLATION = "insights.installation"
VERSION = "insights.alembic_version"
STATE = "insights.state"
MISSED = "insights.missed"

# What CREATE OR REPLACE FUNCTION cannot change.
_SIGNATURE = frozenset(("kind", "arguments", "result"))
_RIGHTS = frozenset(("not granted", "granted besides"))
# What makes no difference to the rows of a table.
_BESIDE_ROWS = frozenset(
    (
        *("options", "row security", "row security of the owner", "persistence"),
        *("owner", "not granted", "granted besides", "its row"),
    )
)


def needs_exclusive_lock(found: Iterable[Difference]) -> bool:
    """Whether a trigger may be dropped, for which even readers of MLflow's tables have to wait."""
    return any(
        difference.kind == "trigger" and difference.change != "missing" for difference in found
    ) or _functions_go_first(found)


def stamp(driver: psycopg.Connection, revision: str) -> None:
    """Says that ``revision`` is installed, whatever there is of it."""
    driver.execute("create schema if not exists insights")
    driver.execute("drop table if exists insights.alembic_version")
    driver.execute(rules.ALEMBIC.encode())
    driver.execute("insert into insights.alembic_version values (%s)", [revision])


def mend(
    driver: psycopg.Connection, revision: str, schema: str, found: Sequence[Difference]
) -> list[Difference]:
    """Mends what `differences` has ``found``; what it has to leave is returned.

    Runs in the caller's transaction, which holds MLflow's writes.
    """
    _Mending(driver, revision, schema, found).run()
    return [left for left in differences(driver, revision, schema) if not left.kept]


def _functions_go_first(found: Iterable[Difference]) -> bool:
    """Whether something has to be made anew that functions, views and triggers are made of."""
    return any(
        difference.kind == "type"
        or (difference.kind == "table" and _other_rows(difference))
        or (difference.kind == "sequence" and difference.change == "missing")
        or (difference.kind == "function" and difference.details.keys() & _SIGNATURE)
        for difference in found
        if not difference.kept
    )


def _other_rows(difference: Difference) -> bool:
    if difference.name == STATE and "its row" in difference.details:
        return True
    changed = {
        name
        for name, text in difference.details.items()
        if name not in _BESIDE_ROWS and not _other_storage(text)
    }
    return difference.change == "missing" or bool(changed)


def _other_storage(text: str) -> bool:
    """Whether ``new instead of old`` lacks a storage, which can be set again."""
    new, _, old = text.partition(" instead of ")
    return " storage " in old and new == old.partition(" storage ")[0]


class _Mending:
    def __init__(
        self,
        driver: psycopg.Connection,
        revision: str,
        schema: str,
        found: Sequence[Difference],
    ) -> None:
        self.driver = driver
        self.revision = revision
        self.bundle = bundles.bundle_of(revision)
        self.schema = schema
        self.found = [difference for difference in found if not difference.kept]
        self.wanted = expected(revision, schema)
        self.known = installation(driver)
        self.made_extensions: list[str] = []

    def run(self) -> None:
        of_rights = all(d.details and d.details.keys() <= _RIGHTS for d in self.found)
        if self.found and of_rights and is_current(self.driver, self.revision):
            self._rights()
            return
        self._extensions()
        self._owners()
        self._drop_extra()
        if _functions_go_first(self.found):
            self.bundle.drop_functions(self.driver, self.schema)
        self._types()
        anew = self._tables()
        self._settings_of_tables(anew)
        self._sequences()
        self._indexes()
        self._comments()
        if STATE not in anew and self._may_have_missed():
            self._count_missed()
        self.bundle.replace_functions(self.driver, self.schema)
        self._rights()

    def _execute(self, command: str) -> None:
        self.driver.execute(command.encode())

    def _of(self, kind: Kind, *changes: str) -> list[Difference]:
        return [d for d in self.found if d.kind == kind and d.change in changes]

    def _make(self, key: Key) -> None:
        for statement in self._wanted(key).statements:
            self._execute(statement)

    def _wanted(self, key: Key) -> Expected:
        return self.wanted[key]

    def _extensions(self) -> None:
        missing = [difference.name for difference in self._of("extension", "missing")]
        self.made_extensions = steps.make_extensions(self.driver, self.schema, missing)
        for _ in self._of("schema", "missing"):
            self._make(("schema", bundles.SCHEMA))

    def _owners(self) -> None:
        """Everything to this superuser; ``install/privileges.sql`` gives away what it has to."""
        for difference in self.found:
            kind = "routine" if difference.kind == "function" else difference.kind
            belongs = difference.kind == "sequence" and not self._standalone(difference.key)
            if "owner" in difference.details and not belongs:
                self._execute(f"alter {kind} {difference.address} owner to current_user")

    def _standalone(self, key: Key) -> bool:
        """Whether a sequence is not a column's own."""
        return bool(self._wanted(key).properties["definition"])

    def _drop_extra(self) -> None:
        for kind in ("trigger", "policy", "rule", "view", "index"):
            for difference in self._of(kind, "extra", "changed"):
                if difference.change == "extra" or difference.details.keys() - _RIGHTS - {"owner"}:
                    self._execute(f"drop {kind} {difference.address}")
        for difference in self._of("function", "extra"):
            self._execute(f"drop routine {difference.address}")

    def _types(self) -> None:
        for difference in self._of("type", "missing", "changed"):
            if difference.address:
                self._execute(f"drop type {difference.address}")
            self._make(difference.key)

    def _tables(self) -> set[str]:
        """Makes tables anew whose rows cannot stay; which ones.

        The tables of the index are of use together only.
        """
        spoilt = {d.name for d in self._of("table", "missing", "changed") if _other_rows(d)}
        spoilt |= {
            self._owner_of_sequence(d.name)
            for d in self._of("sequence", "missing")
            if not self._standalone(d.key)
        }
        if VERSION in spoilt:
            stamp(self.driver, self.revision)
        if INSTALLATION in spoilt:
            self._drop_tables([INSTALLATION])
            self._make(("table", INSTALLATION))
        if INSTALLATION in spoilt or self.known is None or self.made_extensions:
            self._record_installation()
        index = [
            name
            for kind, name in self.wanted
            if kind == "table" and name not in (VERSION, INSTALLATION)
        ]
        if not spoilt & set(index):
            return spoilt
        self._drop_tables(index)
        self._execute(f"drop sequence if exists {MISSED}")
        for key in self.wanted:
            if key[1] in index or key[0] == "index" or key == ("sequence", MISSED):
                self._make(key)
        return spoilt | set(index)

    def _owner_of_sequence(self, sequence: str) -> str:
        return next(
            name
            for (kind, name), made in self.wanted.items()
            if kind == "table"
            for column in made.properties["order of columns"].split(", ")
            if f"{name}_{column}_seq" == sequence
        )

    def _drop_tables(self, names: Sequence[str]) -> None:
        self._execute(f"drop table if exists {', '.join(names)}")

    def _record_installation(self) -> None:
        """The row, with all of the one before that the table still has a place for."""
        known = self.known or {"created_extensions": []}
        self._execute(f"delete from {INSTALLATION}")
        extensions = [*known.get("created_extensions", ()), *self.made_extensions]
        steps.record_installation(self.driver, self.schema, list(dict.fromkeys(extensions)))
        columns = self._wanted(("table", INSTALLATION)).properties["order of columns"].split(", ")
        for column in known.keys() & set(columns):
            if column not in ("singleton", "mlflow_schema", "created_extensions", "bundle"):
                self.driver.execute(
                    sql.SQL("update insights.installation set {} = %s").format(
                        sql.Identifier(column)
                    ),
                    [known[column]],
                )

    def _settings_of_tables(self, anew: set[str]) -> None:
        """Options, storage, the single row: what can be set again beside the rows there are."""
        for difference in self._of("table", "changed"):
            if difference.name in anew:
                continue
            wanted, table = self._wanted(difference.key), difference.name
            if "persistence" in difference.details:
                self._execute(f"alter table {table} set logged")
            if "row security of the owner" in difference.details:
                self._execute(f"alter table {table} no force row level security")
            if "row security" in difference.details:
                self._execute(f"alter table {table} disable row level security")
            for option in self._options(table) - set(wanted.properties["options"].split(", ")):
                self._execute(f"alter table {table} reset ({option.partition('=')[0]})")
            for statement in wanted.statements:
                again = ("alter", "insert") if "its row" in difference.details else ("alter",)
                if statement.lstrip().lower().startswith(again):
                    self._execute(statement)

    def _options(self, table: str) -> set[str]:
        row = self.driver.execute(
            "select c.reloptions from pg_catalog.pg_class c"
            " where c.oid = pg_catalog.to_regclass(%s)",
            [table],
        ).fetchone()
        return set((row and row[0]) or ())

    def _sequences(self) -> None:
        for difference in self._of("sequence", "missing", "changed"):
            if self._standalone(difference.key) and (
                difference.change == "missing" or "definition" in difference.details
            ):
                self._execute(f"drop sequence if exists {difference.name}")
                self._make(difference.key)

    def _indexes(self) -> None:
        for difference in self._of("index", "missing", "changed"):
            known = self.driver.execute("select pg_catalog.to_regclass(%s)", [difference.name])
            if known.fetchone() == (None,):
                self._make(difference.key)

    def _comments(self) -> None:
        """Those of tables and types, whatever they are; functions bring their own."""
        for made in self.wanted.values():
            for statement in made.statements:
                if statement.lstrip().lower().startswith("comment"):
                    self._execute(statement)

    def _may_have_missed(self) -> bool:
        """Whether a change of MLflow's tables may have gone unnoticed."""
        noting = {
            made.properties["definition"].rpartition(" ")[2].partition("(")[0]
            for (kind, _), made in self.wanted.items()
            if kind == "trigger"
        } | {"insights.note_missed"}
        return any(
            difference.kind == "trigger"
            or difference.key == ("sequence", MISSED)
            or (difference.kind == "function" and difference.name.partition("(")[0] in noting)
            for difference in self.found
        )

    def _count_missed(self) -> None:
        self._execute(
            f"select pg_catalog.setval('{MISSED}', greatest(m.last_value, s.trusted) + 1)"
            f" from {MISSED} m, {STATE} s"
        )

    def _rights(self) -> None:
        """Plain grants, after everything that makes objects or gives them to others."""
        for difference in differences(self.driver, self.revision, self.schema):
            kind = "routine" if difference.kind == "function" else difference.kind
            on = "table" if kind == "view" else kind
            for right in difference.extra:
                self._execute(
                    f"revoke {right[1]} on {on} {difference.address} from {_role(right)} cascade"
                )
            for right in difference.lost:
                self._execute(f"grant {right[1]} on {on} {difference.address} to {_role(right)}")


def _role(grant: Grant) -> str:
    return "public" if grant[0] == "public" else sql.Identifier(grant[0]).as_string(None)
