"""What the build writes from one declaration, and that ``sql/`` declares nothing twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plpython import build, declarations

HERE = Path("insights_x.sql")
COUNT = """\
-- shim: count
-- overloads: exp_ids int[], exp_ids text
create or replace function @mlflow@.insights_x(
    exp_ids text[],
    filter text default null
)
returns bigint
language sql
stable
parallel unsafe
set jit = off
as $sql$
select r.result from insights.run_x(exp_ids, filter) r
$sql$;

comment on function @mlflow@.insights_x(text[], text) is
    'How many';

revoke all on function @mlflow@.insights_x(text[], text) from public;
grant execute on function @mlflow@.insights_x(text[], text) to public;
"""


def signatures(text: str) -> list[str]:
    """Names and types of what is commented on, revoked and granted, in this order."""
    found = re.findall(r"^(?:comment|revoke all|grant execute) on function (.+\))", text, re.M)
    assert found[::3] == found[1::3] == found[2::3]
    return found[::3]


def test_a_file_gives_the_shim_the_function_and_its_overloads() -> None:
    text = declarations.expand(HERE, COUNT)
    assert signatures(text) == [
        "insights.run_x(text[], text)",
        "@mlflow@.insights_x(text[], text)",
        "@mlflow@.insights_x(int[], text)",
        "@mlflow@.insights_x(text, text)",
    ]
    assert COUNT.partition("text\n")[2] in text
    assert "-- shim" not in text
    assert "-- overloads" not in text


def test_an_overload() -> None:
    text = declarations.expand(HERE, COUNT)
    assert text.endswith(
        """
create or replace function @mlflow@.insights_x(
    exp_ids text,
    filter text default null
)
returns bigint
language sql
stable
parallel unsafe
as $sql$
select @mlflow@.insights_x(
    insights.experiment_ids(exp_ids), filter
)
$sql$;

comment on function @mlflow@.insights_x(text, text) is
    'As insights_x of text[], with ids as one text: ''1'', ''1,2'' or ''{1,2}''';

revoke all on function @mlflow@.insights_x(text, text) from public;
grant execute on function @mlflow@.insights_x(text, text) to public;
"""
    )


def test_a_shim() -> None:
    text = declarations.expand(HERE, COUNT.replace("stable", "volatile"))
    assert text.startswith(
        """\
create or replace function insights.run_x(
    exp_ids text[],
    filter text,
    out result bigint,
    out problem insights.problem
)
language plpython3u
volatile
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "@engine@" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["@engine@"].count(plpy, '@mlflow@', exp_ids, filter)
$python$;

comment on function insights.run_x(text[], text) is
    'insights_x without raising';

revoke all on function insights.run_x(text[], text) from public;
grant execute on function insights.run_x(text[], text) to public;

create or replace function @mlflow@.insights_x(
"""
    )


def test_a_shim_is_granted_like_its_function() -> None:
    text = declarations.expand(HERE, re.sub("^grant.*\n", "", COUNT, flags=re.M))
    assert "run_x(text[], text) from public" in text
    assert "grant execute" not in text


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (
            "table (\n    a text\n)\n",
            "returns table (\n    a text,\n    problem insights.problem\n)",
        ),
        ("table (\n    a text\n)\nrows 1\n", "out a text,\n    out problem insights.problem\n)"),
    ],
)
def test_the_rows_of_a_shim(result: str, expected: str) -> None:
    returns, _, rows = result.partition(")\n")
    text = COUNT.replace("bigint\n", f"{returns})\n")
    text = text.replace("parallel unsafe\n", f"parallel unsafe\n{rows}")
    shim, _, rest = declarations.expand(HERE, text).partition("comment on")
    assert expected in shim
    assert "select * from @mlflow@.insights_x(" in rest


def test_arguments_of_a_shim_by_other_names() -> None:
    text = declarations.expand(HERE, COUNT.replace("shim: count", "shim: count(plpy, ids, sought)"))
    assert text.startswith(
        "create or replace function insights.run_x(\n    ids text[],\n    sought"
    )
    assert "].count(plpy, ids, sought)\n" in text


def test_an_overload_has_no_default_that_two_functions_would_share() -> None:
    text = COUNT.replace("filter text default null", "bucket text default '1 hour'").replace(
        "exp_ids text\n", "exp_ids text, bucket interval\n"
    )
    text = declarations.expand(HERE, text)
    assert "    bucket interval\n)" in text
    assert signatures(text)[2:] == [
        "@mlflow@.insights_x(int[], text)",
        "@mlflow@.insights_x(text, text)",
        "@mlflow@.insights_x(text[], interval)",
        "@mlflow@.insights_x(int[], interval)",
        "@mlflow@.insights_x(text, interval)",
    ]
    assert "with a bucket as interval and with ids as numbers'" in text


def test_columns_of_another_function() -> None:
    names = [one.partition(" ")[0] for one in declarations._declared_columns("insights_discover")]
    assert len(names) == 24
    text = declarations.expand(HERE, "    @columns:insights_discover@,\n  r.@columns:facet@\n")
    assert text.startswith("    filter text,\n    kind text,\n")
    assert text.endswith(
        "    screened_count bigint,\n  r.value,\n  r.low,\n  r.high,\n"
        "  r.filter,\n  r.count,\n  r.share\n"
    )


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("exp_ids int[]", "exp_ids bytea", "no way to make an overload for exp_ids bytea"),
        ("exp_ids int[]", "bucket interval", "overloads for arguments that there are not: bucket"),
        ("shim: count", "shim: count(plpy, exp_ids)", "a shim of 1 arguments for 2"),
        ("bigint", "setof bigint", "no shim is made for a function that returns setof bigint"),
        ("    filter text default null", "    filter", "an argument without a type: filter"),
        ("parallel unsafe", "parallel safe", "no function of the form"),
        ("select r", "@columns:insights_none@", "no file of that name declares columns"),
    ],
)
def test_mistakes_are_named(old: str, new: str, problem: str) -> None:
    with pytest.raises(build.BuildError, match=f"insights_x.sql: .*{re.escape(problem)}"):
        declarations.expand(HERE, COUNT.replace(old, new, 1))


def test_nothing_in_sql_is_declared_twice() -> None:
    files = {path: path.read_text() for path in build.SQL.rglob("*.sql")}
    for path, text in files.items():
        assert len(re.findall("^create or replace (?:function|procedure)", text, re.M)) <= 1, path
        assert '"@engine@" not in GD' not in text, path
    for column in ("screened_count bigint", "npmi_smoothed double precision"):
        assert sum(text.count(column) for text in files.values()) == 1, column
