"""Statements that the build writes from one declaration in ``sql/``.

``@columns:NAME@``
    The columns that ``sql/functions/NAME.sql`` or ``sql/schema/NAME.sql`` declares, a line
    each; ``r.@columns:NAME@`` their names alone, each after ``r.``.
``-- shim: CALL``
    In the file of a function: its PL/Python shim ``insights.run_...``, which has the function's
    arguments, results and grant, and a problem.  As the body of a shim that its file declares
    itself: the body.  ``CALL`` is the function of ``api`` that answers, with its arguments
    where these are not ``plpy``, the schema of MLflow's tables and all arguments under their
    own names.
``-- overloads: ARGUMENT TYPE, ...``
    The function again for each combination of these types, with COMMENT, REVOKE and GRANT.
    Overloads have no SET clause and name every object in full, so that they are inlined and
    cost nothing.
"""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

SQL = Path(__file__).resolve().parent.parent / "sql"

_COLUMNS = re.compile(r"^( *)(\w+\.)?@columns:(\w+)@", re.MULTILINE)
_COLUMN_LIST = re.compile(r"^(?:returns table|create type insights\.\w+ as) \(([^()]*)\)", re.M)
_FUNCTION = re.compile(
    r"^create or replace function (?P<name>[\w@]+\.\w+)\((?P<arguments>[^()]*)\)\n"
    r"(?:returns (?P<returns>table \((?P<columns>[^()]*)\)|[^\n]+)\n)?"
    r"language \w+\n(?P<volatility>volatile|stable)\nparallel unsafe\n(?P<one_row>rows 1\n)?",
    re.MULTILINE,
)
_ARGUMENT = re.compile(r"(?P<out>out )?(?P<name>\w+) (?P<type>.+?)(?: default (?P<default>.+))?")
_SHIM = re.compile(r"^-- shim: (\w+)(?:\((.+)\))?\n", re.MULTILINE)
_OVERLOADS = re.compile(r"^-- overloads: (.+)\n", re.MULTILINE)

#: How overloads turn an argument of another type into the declared one, and what they say of it.
_CASTS = {
    ("exp_ids", "int[]"): ("exp_ids::pg_catalog.text[]", "with ids as numbers"),
    ("exp_ids", "text"): (
        "insights.experiment_ids(exp_ids)",
        "with ids as one text: ''1'', ''1,2'' or ''{1,2}''",
    ),
    ("bucket", "interval"): ("bucket::pg_catalog.text", "with a bucket as interval"),
}


class BuildError(Exception):
    """A source file breaks a rule of the bundle; the message says which."""


@dataclass(frozen=True)
class _Argument:
    name: str
    type: str
    default: str | None
    is_out: bool

    def __str__(self) -> str:
        default = "" if self.default is None else f" default {self.default}"
        return f"{'out ' if self.is_out else ''}{self.name} {self.type}{default}"


@dataclass(frozen=True)
class _Function:
    """What a file says of its function."""

    name: str
    inputs: tuple[_Argument, ...]
    outputs: tuple[_Argument, ...]
    returns: str | None
    columns: tuple[str, ...]
    volatility: str
    one_row: bool
    granted: bool

    @property
    def short_name(self) -> str:
        return self.name.partition(".")[2]


def expand(path: Path, text: str) -> str:
    """The text of an SQL file with the statements that its declarations stand for."""
    try:
        text = _COLUMNS.sub(_written_columns, text)
        overloads = _OVERLOADS.search(text)
        if overloads is not None:
            text = _OVERLOADS.sub("", text) + _overloads(_function(text), overloads.group(1))
        shim = _SHIM.search(text)
        return text if shim is None else _with_shim(text, shim)
    except BuildError as error:
        raise BuildError(f"{path.name}: {error}") from None


def _parts(text: str) -> tuple[str, ...]:
    """What stands between commas, without comments."""
    return tuple(part.strip() for part in re.sub(r"--.*", "", text).split(",") if part.strip())


def _lines(parts: Iterable[object]) -> str:
    return ",\n".join(f"    {part}" for part in parts)


def _declared_columns(name: str) -> tuple[str, ...]:
    for folder in ("functions", "schema"):
        path = SQL / folder / f"{name}.sql"
        declared = _COLUMN_LIST.search(path.read_text(encoding="utf-8")) if path.is_file() else None
        if declared is not None:
            return _parts(declared.group(1))
    raise BuildError(f"@columns:{name}@: no file of that name declares columns")


def _written_columns(match: re.Match[str]) -> str:
    indent, prefix, name = match.groups()
    columns = _declared_columns(name)
    if prefix is not None:
        columns = tuple(prefix + column.partition(" ")[0] for column in columns)
    return ",\n".join(indent + column for column in columns)


def _function(text: str) -> _Function:
    """The first function of a file."""
    found = _FUNCTION.search(text)
    if found is None:
        raise BuildError("no function of the form that shims and overloads are made from")
    arguments = []
    for part in _parts(found["arguments"]):
        argument = _ARGUMENT.fullmatch(part)
        if argument is None:
            raise BuildError(f"an argument without a type: {part}")
        arguments.append(
            _Argument(
                argument["name"], argument["type"], argument["default"], bool(argument["out"])
            )
        )
    return _Function(
        found["name"],
        tuple(one for one in arguments if not one.is_out),
        tuple(one for one in arguments if one.is_out),
        found["returns"],
        _parts(found["columns"] or ""),
        found["volatility"],
        bool(found["one_row"]),
        f"grant execute on function {found['name']}(" in text,
    )


def _python(name: str, arguments: str) -> str:
    """The body of a shim."""
    call = f'return GD["@engine@"].{name}({arguments})'
    if len(call) > 100:
        opening, _, _ = call.partition("(")
        lines = textwrap.fill(arguments, 96, break_long_words=False)
        call = f"{opening}(\n{textwrap.indent(lines, '    ')}\n)"
    return f'if "@engine@" not in GD:\n    plpy.execute("select insights.load_engine()")\n{call}'


def _with_shim(text: str, line: re.Match[str]) -> str:
    """``text`` with the shim that its ``line`` asks for: before the function, or its body."""
    function = _function(text)
    names = [one.name for one in function.inputs]
    given = _parts(line.group(2) or ", ".join(("plpy", "'@mlflow@'", *names)))
    body = _python(line.group(1), ", ".join(given))
    if function.name.startswith("insights.run_"):
        return text[: line.start()] + body + "\n" + text[line.end() :]
    names = [name for name in given if name not in ("plpy", "'@mlflow@'")]
    if len(names) != len(function.inputs):
        raise BuildError(f"a shim of {len(names)} arguments for {len(function.inputs)}")
    return (
        _shim(function, names, body) + "\n" + text[: line.start()] + text[line.end() :].lstrip("\n")
    )


def _shim(function: _Function, names: Iterable[str], body: str) -> str:
    """The function that answers in PL/Python, and returns a problem where it cannot."""
    inputs = tuple(
        replace(one, name=name, default=None)
        for one, name in zip(function.inputs, names, strict=True)
    )
    outputs, returns = [str(one) for one in function.outputs], None
    if function.columns and function.one_row:
        outputs = [f"out {column}" for column in function.columns]
    elif function.columns:
        columns = (*function.columns, "problem insights.problem")
        returns = f"table (\n{_lines(columns)}\n)"
    elif function.returns is not None and not function.returns.startswith(("setof", "table")):
        outputs = [f"out result {function.returns}"]
    elif function.returns is not None:
        raise BuildError(f"no shim is made for a function that returns {function.returns}")
    if returns is None:
        outputs.append("out problem insights.problem")
    return _written(
        f"insights.run_{function.short_name.removeprefix('insights_')}",
        inputs,
        outputs,
        returns,
        f"language plpython3u\n{function.volatility}\nparallel unsafe\n"
        f"set search_path = pg_catalog, pg_temp\nas $python$\n{body}\n$python$",
        f"{function.short_name} without raising",
        function.granted,
    )


def _overloads(function: _Function, wanted: str) -> str:
    """The function for the other types of its arguments."""
    others: dict[str, list[str]] = {}
    for part in _parts(wanted):
        name, _, kind = part.partition(" ")
        if (name, kind) not in _CASTS:
            raise BuildError(f"no way to make an overload for {part}")
        others.setdefault(name, []).append(kind)
    unknown = others.keys() - {one.name for one in function.inputs}
    if unknown:
        raise BuildError(f"overloads for arguments that there are not: {', '.join(unknown)}")
    made = []
    names = list(others)[::-1]
    for kinds in itertools.product(*(("", *others[name]) for name in names)):
        other = {name: kind for name, kind in zip(names, kinds, strict=True) if kind}
        if other:
            made.append("\n" + _overload(function, other))
    return "".join(made)


def _overload(function: _Function, other: dict[str, str]) -> str:
    """The function with ``other`` types for some arguments, by their names."""
    casts = {name: _CASTS[name, kind] for name, kind in other.items()}
    # Without a default: which of two functions is meant by a call that leaves it out?
    inputs = tuple(
        replace(one, type=other[one.name], default=None) if one.name in other else one
        for one in function.inputs
    )
    arguments = ", ".join(casts.get(one.name, (one.name,))[0] for one in inputs)
    called = f"{function.name}(\n    {arguments}\n)"
    many = function.columns or (function.returns or "").startswith("setof")
    return _written(
        function.name,
        inputs,
        (),
        function.returns,
        f"language sql\n{function.volatility}\nparallel unsafe\n"
        f"as $sql$\nselect {'* from ' if many else ''}{called}\n$sql$",
        f"As {function.short_name} of text[], " + " and ".join(says for _, says in casts.values()),
        function.granted,
    )


def _written(
    name: str,
    inputs: tuple[_Argument, ...],
    outputs: Iterable[str],
    returns: str | None,
    clauses: str,
    comment: str,
    granted: bool,
) -> str:
    """The statements that make a function; ``clauses``: from LANGUAGE to the body."""
    signature = f"{name}({', '.join(one.type for one in inputs)})"
    result = "" if returns is None else f"returns {returns}\n"
    grant = f"grant execute on function {signature} to public;\n" if granted else ""
    return (
        f"create or replace function {name}(\n{_lines((*inputs, *outputs))}\n)\n"
        f"{result}{clauses};\n\n"
        f"comment on function {signature} is\n    '{comment}';\n\n"
        f"revoke all on function {signature} from public;\n{grant}"
    )
