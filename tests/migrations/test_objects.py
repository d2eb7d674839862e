"""Each object of an installation: damaged, named, and mended, one by one."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest

from insights_py.install import install, latest_revision
from insights_py.objects import comparison, mending
from insights_py.objects.expected import UnknownStatement, _Reader, expected
from insights_py.objects.rules import Key
from tests.conftest import READER, Databases
from tests.migrations.catalogue import objects

REVISION = latest_revision()
EXPECTED = expected(REVISION, "public")


@pytest.fixture(scope="module")
def world(databases: Databases) -> Iterator[psycopg.Connection]:
    """A database with everything; each test rolls back what it does."""
    with databases.fresh("mlflow") as dsn:
        install(dsn)
        with psycopg.connect(dsn) as connection:
            yield connection


@pytest.fixture(scope="module")
def whole(world: psycopg.Connection) -> dict[str, str]:
    return contents(world)


def contents(connection: psycopg.Connection) -> dict[str, str]:
    """The catalogue; no rights of anybody but the owner are none, whether written or not."""
    own = re.compile(r"\n\{postgres=\w+/postgres\}")
    return {
        name: own.sub("", text) if name.startswith("relation") else text
        for name, text in objects(connection).items()
    }


def of(*kinds: str) -> list[Key]:
    return [key for key in EXPECTED if key[0] in kinds]


def standalone(key: Key) -> bool:
    return bool(EXPECTED[key].properties["definition"])


def kind_in_sql(key: Key) -> str:
    return "routine" if key[0] == "function" else key[0]


def on(key: Key) -> str:
    return {"function": "routine", "view": "table"}.get(key[0], key[0])


Damage = tuple[Key, str]


def drops() -> Iterator[tuple[str, list[Damage]]]:
    """Everything by itself, but for functions, of which there are many of the same kind."""
    functions: dict[str, list[Damage]] = {}
    for key in of("function"):
        group = key[1].partition("(")[0].partition("_")[0]
        functions.setdefault(group, []).append((key, f"drop routine {key[1]} cascade"))
    yield from (("functions " + group, damages) for group, damages in functions.items())
    for key in of("view", "table", "index", "type", "schema", "extension"):
        if key[1] != "insights.alembic_version":
            yield " ".join(key), [(key, f"drop {key[0]} {key[1]} cascade")]
    for key in of("trigger"):
        yield " ".join(key), [(key, f"drop trigger {key[1]}")]
    yield "policies", [(key, f"drop policy {key[1]}") for key in of("policy")]
    for key in of("sequence"):
        table, _, column = key[1].removesuffix("_seq").rpartition("_")
        if standalone(key):
            yield key[1], [(key, f"drop sequence {key[1]}")]
        else:
            yield key[1], [(key, f"alter table {table} alter {column} drop identity")]


def changes() -> Iterator[tuple[str, Damage]]:
    """Each with a name of what it changes: of all objects that is done at once."""
    for key in of("function"):
        yield "function settings", (key, f"alter routine {key[1]} set work_mem = '1MB'")
        if EXPECTED[key].properties["kind"] == "procedure":
            continue
        yield "function cost", (key, f"alter function {key[1]} cost 7")
        invoker = EXPECTED[key].properties["security"] == "invoker"
        security = "definer" if invoker else "invoker"
        yield "function security", (key, f"alter function {key[1]} security {security}")
        if EXPECTED[key].properties["volatility"] != "immutable":
            yield "function volatility", (key, f"alter function {key[1]} immutable")
    for key in of("function", "view", "table", "type", "schema"):
        owner = f"alter {kind_in_sql(key)} {key[1]} owner to {READER}"
        yield f"{key[0]} owner", (key, owner)
    for key in of("table"):
        table, properties = key[1], EXPECTED[key].properties
        yield "table options", (key, f"alter table {table} set (fillfactor = 50)")
        yield "rule", (key, f"create rule r as on delete to {table} do instead nothing")
        yield "table force", (key, f"alter table {table} force row level security")
        yield "table columns' rights", (key, f"grant select (tableoid) on {table} to {READER}")
        first = properties["order of columns"].partition(",")[0]
        yield "table indexes", (key, f"create index on {table} ({first})")
        yield "table rights", (key, f"grant insert on {table} to public")
        if table == "insights.alembic_version":
            continue
        yield "table columns", (key, f"alter table {table} add column more int")
        if properties["constraints"]:
            name = f"{table.partition('.')[2]}_pkey"
            yield "table constraints", (key, f"alter table {table} drop constraint {name}")
        for column, text in properties.items():
            if " storage external" in text:
                name = column.partition(" ")[2]
                storage = f"alter table {table} alter {name} set storage extended"
                yield "table storage", (key, storage)
    for key in of("index"):
        yield "index", (key, f"alter index {key[1]} rename to other_{key[1].partition('.')[2]}")
    for key in of("sequence"):
        if standalone(key):
            yield "sequence", (key, f"alter sequence {key[1]} increment 2")
    for key in of("trigger"):
        name, _, table = key[1].partition(" on ")
        for state in ("disable", "enable replica"):
            yield f"trigger {state}", (key, f"alter table {table} {state} trigger {name}")
    for key in of("view"):
        yield "view options", (key, f"alter view {key[1]} set (security_barrier = off)")
    for key in of("policy"):
        yield "policy", (key, f"alter policy {key[1]} using (true)")
    for key in of("type"):
        yield "type", (key, f"alter type {key[1]} add attribute more int cascade")
        yield "type rights", (key, f"revoke usage on type {key[1]} from public")
    for key in of("function", "table", "view", "sequence", "schema"):
        right = {"function": "execute", "schema": "usage"}.get(key[0], "select")
        given = any(grantee == "public" for grantee, _ in EXPECTED[key].grants)
        verb, word = ("revoke", "from") if given else ("grant", "to")
        yield f"{key[0]} public", (key, f"{verb} {right} on {on(key)} {key[1]} {word} public")
    yield "schema rights", (("schema", "insights"), "grant create on schema insights to public")


def changed_at_once() -> dict[str, list[Damage]]:
    grouped: dict[str, list[Damage]] = {}
    for name, damage in changes():
        grouped.setdefault(name, []).append(damage)
    return grouped


EXTRAS = (
    (
        "function public.insights_count(int)",
        "create function insights_count(int) returns int return 1",
    ),
    ("function insights.mine()", "create function insights.mine() returns int return 1"),
    ("view insights.mine", "create view insights.mine as select 1 as a"),
    (
        "trigger mine on public.spans",
        "create trigger mine after insert on spans execute function insights.note_change()",
    ),
    (
        "trigger mine on insights.pending",
        "create function f() returns trigger language plpgsql as 'begin return null; end';"
        "create trigger mine after insert on insights.pending execute function f()",
    ),
    ("policy mine on insights.installation", "create policy mine on insights.installation"),
)


DROPS = dict(drops())
CHANGES = changed_at_once()


def differences(connection: psycopg.Connection) -> list[comparison.Difference]:
    return comparison.differences(connection, REVISION, "public")


def damaged_and_mended(
    connection: psycopg.Connection, damages: list[Damage]
) -> list[comparison.Difference]:
    """What was found; afterwards there is nothing to be found any more."""
    for _, damage in damages:
        connection.execute(damage.encode())
    found = differences(connection)
    assert mending.mend(connection, REVISION, "public", found) == []
    return found


def test_a_fresh_installation_is_as_it_should_be(world: psycopg.Connection) -> None:
    assert differences(world) == []


@pytest.mark.parametrize("case", DROPS)
def test_what_is_dropped(world: psycopg.Connection, whole: dict[str, str], case: str) -> None:
    with world.transaction(force_rollback=True):
        found = [str(difference) for difference in damaged_and_mended(world, DROPS[case])]
        assert {f"{kind} {name} is missing" for (kind, name), _ in DROPS[case]} <= {*found}
        assert contents(world) == whole


@pytest.mark.parametrize("case", CHANGES)
def test_what_is_changed(world: psycopg.Connection, whole: dict[str, str], case: str) -> None:
    with world.transaction(force_rollback=True):
        found = [str(difference) for difference in damaged_and_mended(world, CHANGES[case])]
        for (_, name), _ in CHANGES[case]:
            assert any(name in words for words in found), (name, found)
        assert contents(world) == whole


@pytest.mark.parametrize(("name", "damage"), EXTRAS)
def test_what_is_too_much(
    world: psycopg.Connection, whole: dict[str, str], name: str, damage: str
) -> None:
    with world.transaction(force_rollback=True):
        found = damaged_and_mended(world, [(("function", ""), damage)])
        assert f"{name} is extra" in [str(difference) for difference in found]
        assert contents(world) == whole


@pytest.mark.parametrize("key", of("function"), ids=lambda key: key[1])
def test_another_body(world: psycopg.Connection, key: Key) -> None:
    with world.transaction(force_rollback=True):
        row = world.execute("select pg_get_functiondef(%s::regprocedure)", [key[1]]).fetchone()
        assert row is not None
        other = re.sub(r"(AS \$[a-z_]+\$\n)", r"\1\n", row[0])
        if other == row[0]:  # an expression
            head = re.split(r"\n ?RETURN ", row[0])[0]
            returned = re.search(r"RETURNS (.+)", head)
            assert returned is not None
            other = f"{head}\n RETURN null::{returned[1]}"
        world.execute(other.encode())
        assert [str(d) for d in differences(world)] == [f"function {key[1]} is changed (body)"]


@pytest.fixture(scope="module")
def owned(databases: Databases) -> Iterator[psycopg.Connection]:
    """The same where MLflow's tables belong to a role that is not a superuser."""
    with databases.fresh("mlflow") as dsn:
        with psycopg.connect(dsn) as connection:
            connection.execute("create role owner_of_mlflow")
            for (table,) in connection.execute(
                "select c.oid::regclass::text from pg_class c"
                " where c.relnamespace = 'public'::regnamespace and c.relkind = 'r'"
            ).fetchall():
                connection.execute(f"alter table {table} owner to owner_of_mlflow".encode())
        install(dsn)
        with psycopg.connect(dsn) as connection:
            yield connection
            connection.rollback()
            connection.execute("reassign owned by owner_of_mlflow to postgres")
            connection.execute("drop owned by owner_of_mlflow")
            connection.execute("drop role owner_of_mlflow")
            connection.commit()


RIGHTS = {
    "revoke select on insights.term from owner_of_mlflow": "table insights.term is changed"
    " (not granted: SELECT to owner_of_mlflow)",
    "revoke usage on sequence insights.missed from owner_of_mlflow": "sequence insights.missed"
    " is changed (not granted: USAGE to owner_of_mlflow)",
    "revoke execute on function insights_refresh(int) from owner_of_mlflow": "function"
    " public.insights_refresh(int) is changed (not granted: EXECUTE to owner_of_mlflow)",
    "revoke {reader_role} from owner_of_mlflow": "role {reader_role} is changed"
    " (not a member: owner_of_mlflow)",
    "revoke insert on insights.pending from {note_role}": "table insights.pending is changed"
    " (not granted: INSERT to {note_role})",
    "grant select on insights.pending to {note_role}": "table insights.pending is changed"
    " (granted besides: SELECT to {note_role})",
    "drop owned by {reader_role}; drop role {reader_role}": "role {reader_role} is missing",
}


@pytest.mark.parametrize("damage", RIGHTS)
def test_rights_of_roles(owned: psycopg.Connection, damage: str) -> None:
    assert differences(owned) == []
    row = owned.execute("select to_jsonb(i) from insights.installation i").fetchone()
    assert row is not None
    with owned.transaction(force_rollback=True):
        found = damaged_and_mended(owned, [(("role", ""), damage.format(**row[0]))])
        assert RIGHTS[damage].format(**row[0]) in [str(difference) for difference in found]


def test_what_others_may_call_is_theirs_to_grant(owned: psycopg.Connection) -> None:
    with owned.transaction(force_rollback=True):
        owned.execute(f"grant execute on function insights_refresh(int) to {READER}".encode())
        assert differences(owned) == []
        owned.execute(f"grant execute on function insights.note_missed() to {READER}".encode())
        assert len(differences(owned)) == 1


def test_a_statement_that_nobody_compares_is_an_error() -> None:
    for statement in (
        "create materialized view insights.x as select 1",
        "alter table insights.block add column more int",
        "create sequence insights.x maxvalue 5",
        "create function insights.x() called on null input returns int language sql as $$ $$",
    ):
        reader = _Reader()
        reader.read("create table insights.block (block int);")
        with pytest.raises(UnknownStatement):
            reader.read(statement)
