"""Which objects there must be, as the frozen SQL of a revision makes them.

Its statements have a strict form.  One that is not understood is an error, so that nothing
is left out without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

from insights_py import bundles
from insights_py.objects import rules
from insights_py.objects.rules import EXTENSIONS, Grant, Key
from insights_py.objects.text import UnknownStatement, canonical, group, split, statements, tokens

__all__ = ["Expected", "UnknownStatement", "expected", "trigger"]


@dataclass
class Expected:
    """One object as the bundle makes it."""

    properties: dict[str, str] = field(default_factory=dict)
    grants: set[Grant] = field(default_factory=set)
    tolerated: set[Grant] = field(default_factory=set)
    statements: list[str] = field(default_factory=list)
    """Those that make it, as they are sent."""


_COLUMN_END = frozenset(("collate", "not", "null", "default", "primary", "check", "generated"))
_MODES = frozenset(("in", "out", "inout", "variadic"))
_CLAUSES = frozenset(
    (
        *("returns", "language", "volatile", "stable", "immutable", "strict", "parallel"),
        *("cost", "rows", "security", "leakproof", "set", "as", "return"),
    )
)


def expected(revision: str, schema: str) -> Mapping[Key, Expected]:
    """What the bundle of ``revision`` makes for MLflow's tables in ``schema``.

    Raises `UnknownStatement` for what it has not learnt to compare.
    """
    bundle = bundles.bundle_of(revision)
    return _expected(
        bundle.rendered("schema.sql", schema), bundle.rendered("functions.sql", schema)
    )


@lru_cache(maxsize=2)
def _expected(tables: str, functions: str) -> Mapping[Key, Expected]:
    reader = _Reader()
    reader.read("create schema insights;" + rules.ALEMBIC)
    reader.read(tables)
    reader.once = False
    reader.read(functions)
    reader.add_rules()
    return MappingProxyType(reader.objects)


class _Reader:
    """Reads statements one after the other, as PostgreSQL does."""

    def __init__(self) -> None:
        self.objects: dict[Key, Expected] = {("extension", name): Expected() for name in EXTENSIONS}
        self.once = True
        """Whether installing again skips these statements: mending an object runs its own."""

    def read(self, bundle: str) -> None:
        for statement in statements(bundle):
            words = tokens(statement)
            if words[:3] in (["create", "or", "replace"],):
                words[1:3] = []
            if words[:2] == ["create", "unique"]:
                words[1:2] = []
            understood = self._KNOWN.get(words[0]) or self._KNOWN.get(" ".join(words[:2]))
            if understood is None:
                raise UnknownStatement(statement)
            key = understood(self, words, statement)
            if key is not None and self.once:
                self.objects[key].statements.append(statement)

    def _new(self, key: Key, properties: Mapping[str, str] | None = None) -> Key:
        self.objects[key] = Expected(dict(properties or {}))
        return key

    def _nothing(self, words: list[str], statement: str) -> Key | None:
        """Rows that change at any time, and DO blocks, which `rules` stands for."""
        return None

    def _comment(self, words: list[str], statement: str) -> Key | None:
        # Goes with what is made anew; nobody's database is wrong for a comment of its own.
        kind, name = words[2], "".join(words[3:6])
        if kind == "column":
            kind = "table"
        return next((key for key in self.objects if key == (kind, name)), None)

    def _select(self, words: list[str], statement: str) -> Key | None:
        if words[:3] != ["select", "setval", "("]:
            return None
        return "sequence", statement.partition("'")[2].partition("'")[0]

    def _insert(self, words: list[str], statement: str) -> Key | None:
        return "table", "".join(words[2:5])

    def _schema(self, words: list[str], statement: str) -> Key | None:
        return self._new(("schema", words[2]))

    def _composite(self, words: list[str], statement: str) -> Key | None:
        name = "".join(words[2:5])
        attributes = [
            f"{part[0]} {''.join(part[1:])}" for part in split(words[words.index("(") + 1 : -1])
        ]
        key = self._new(("type", name), {"attributes": ", ".join(attributes)})
        self.objects[key].grants.add((rules.PUBLIC, "USAGE"))
        return key

    def _table(self, words: list[str], statement: str) -> Key | None:
        name = "".join(words[2:5])
        columns, constraints = {}, []
        for part in split(words[words.index("(") + 1 : group(words, words.index("("))]):
            if part[0] == "constraint":
                part = part[2:]
            if part[0] in ("primary", "check", "unique"):
                constraints.append(canonical(" ".join(part)))
                continue
            columns[f"column {part[0]}"], own = self._column(part)
            constraints += own
            if "generated" in part:
                self._new(("sequence", f"{name}_{part[0]}_seq"), {"definition": ""})
        order = ", ".join(c.partition(" ")[2] for c in columns)
        return self._new(
            ("table", name),
            {
                "kind": "r, p",
                "constraints": ", ".join(sorted(constraints)),
                "options": "",
                "order of columns": order,
                "row security": "on" if name in _with_policies() else "off",
                **columns,
            },
        )

    @staticmethod
    def _column(part: list[str]) -> tuple[str, list[str]]:
        """What the catalogue says of a column, and the constraints of its own."""
        at = next((i for i, word in enumerate(part) if i and word in _COLUMN_END), len(part))
        words = part[at:]
        constraints: list[str] = []
        described = ["".join(part[1:at])]
        required = "not null" in " ".join(words)
        if "check" in words:
            check = words.index("check")
            end = group(words, check + 1)
            constraints.append(canonical(" ".join(words[check : end + 1])))
            words[check : end + 1] = []
        if "primary" in words:
            constraints.append(f"primary key {part[0]}")
            required = True
        if "collate" in words:
            described.append(f"collate {words[words.index('collate') + 1]}")
        if "generated" in words:
            described.append("identity")
            required = True
        if required:
            described.append("not null")
        if "default" in words:
            rest = words[words.index("default") + 1 :]
            described.append(f"default {canonical(' '.join(_without_keys(rest)))}")
        return " ".join(described), constraints

    def _index(self, words: list[str], statement: str) -> Key | None:
        table = "".join(words[4:7])
        unique = "unique " if "unique" in tokens(statement)[:2] else ""
        on = canonical(" ".join(words[words.index("(") :]))
        definition = {"definition": f"{unique}{table} {on}"}
        return self._new(("index", f"insights.{words[2]}"), definition)

    def _sequence(self, words: list[str], statement: str) -> Key | None:
        options = {"as": "bigint", "minvalue": "1", "start": "1", "increment": "1", "cache": "1"}
        rest = words[5:]
        while rest:
            option, value = rest[:2]
            if option not in options:
                raise UnknownStatement(statement)
            options[option] = value
            del rest[:2]
        definition = " ".join(f"{name} {value}" for name, value in options.items())
        return self._new(("sequence", "".join(words[2:5])), {"definition": definition})

    def _alter_table(self, words: list[str], statement: str) -> Key | None:
        table, rest = "".join(words[2:5]), words[5:]
        if rest[:2] == ["alter", "column"] and rest[3:5] == ["set", "storage"]:
            self.objects["table", table].properties[f"column {rest[2]}"] += f" storage {rest[5]}"
        elif rest[:2] == ["set", "("]:
            properties = self.objects["table", table].properties
            options = ["".join(part) for part in split(rest[2:-1])]
            properties["options"] = ", ".join(sorted(options))
        elif rest[:1] == ["enable"] and rest[-2] == "trigger":
            made = self.objects["trigger", f"{rest[-1]} on {table}"]
            made.properties["state"] = rest[1] if len(rest) == 4 else "enabled"
        else:
            raise UnknownStatement(statement)
        return "table", table

    def _function(self, words: list[str], statement: str) -> Key | None:
        at = words.index("(")
        end = group(words, at)
        types, arguments, out = [], [], []
        for part in split(words[at + 1 : end]):
            mode = part[0] if part[0] in _MODES else "in"
            named = part[part[0] in _MODES :]
            stop = named.index("default") if "default" in named else len(named)
            if mode != "out":
                types.append("".join(named[1:stop]))
            if mode in ("out", "inout"):
                out.append("".join(named[1:stop]))
            arguments.append(canonical(" ".join(part)))
        clauses = self._clauses(words[end + 1 :], statement)
        result = clauses.get("returns", out[0] if len(out) == 1 else "record")
        many = result.startswith(("setof", "table"))
        key = self._new(
            ("function", f"{''.join(words[2:at])}({', '.join(types)})"),
            {
                "kind": words[1],
                "arguments": " , ".join(arguments),
                "result": "" if words[1] == "procedure" else result,
                "language": clauses["language"],
                "volatility": next(
                    (v for v in ("immutable", "stable") if v in clauses), "volatile"
                ),
                "strict": str("strict" in clauses),
                "parallel": clauses.get("parallel", "unsafe"),
                "security": clauses.get("security", "invoker"),
                "leakproof": str("leakproof" in clauses),
                "cost": clauses.get("cost", "100"),
                "rows": clauses.get("rows", "1000" if many else "0"),
                "settings": clauses.get("set", ""),
                "body": clauses["as"],
            },
        )
        self.objects[key].grants.add((rules.PUBLIC, "EXECUTE"))
        return key

    @staticmethod
    def _clauses(words: list[str], statement: str) -> dict[str, str]:
        found: dict[str, str] = {}
        while words:
            clause = words.pop(0)
            if clause not in _CLAUSES:
                raise UnknownStatement(statement)
            end, depth = 0, 0
            while end < len(words) and (depth or words[end] not in _CLAUSES):
                depth += (words[end] == "(") - (words[end] == ")")
                end += 1
            value, words = words[:end], words[end:]
            if clause == "return":
                found["as"] = canonical(" ".join([clause, *value, *words]))
                break
            if clause == "as":
                mark = value[0].partition("$")[2].partition("$")[0]
                found[clause] = value[0].removeprefix(f"${mark}$").removesuffix(f"${mark}$")
            elif clause == "set":
                setting = f"{value[0]}={', '.join(w.strip(chr(39)) for w in value[2:] if w != ',')}"
                found[clause] = "; ".join(filter(None, (found.get(clause), setting)))
            elif clause == "returns":
                found[clause] = canonical(" ".join(value))
            else:
                found[clause] = " ".join(value)
        return found

    def _view(self, words: list[str], statement: str) -> Key | None:
        head, _, query = statement.partition("\nas\n")
        options = tokens(head.partition("with (")[2])[:-1]
        return self._new(
            ("view", "".join(words[2:5])),
            {
                "kind": "v",
                "options": ", ".join(sorted(_option(part) for part in split(options))),
                "definition": canonical(query),
            },
        )

    def _trigger(self, words: list[str], statement: str) -> Key | None:
        name, definition = trigger(words)
        return self._new(("trigger", name), {"definition": definition, "state": "enabled"})

    def _rights(self, words: list[str], statement: str) -> Key | None:
        """``grant`` and ``revoke`` on one object."""
        giving = words[0] == "grant"
        on = words.index("on")
        to = len(words) - 1 - words[::-1].index("to" if giving else "from")
        kind, name = words[on + 1], words[on + 2 : to]
        if kind in ("function", "procedure"):
            opening = name.index("(")
            types = ["".join(part) for part in split(name[opening + 1 : -1])]
            key: Key = "function", f"{''.join(name[:opening])}({', '.join(types)})"
        elif kind in ("schema", "sequence"):
            key = ("schema" if kind == "schema" else "sequence"), "".join(name)
        else:
            full = "".join(words[on + 1 : to])
            key = ("view" if ("view", full) in self.objects else "table"), full
        privileges = [part[0].upper() for part in split(words[1:on])]
        for grantee in (part[0] for part in split(words[to + 1 :])):
            if giving:
                self.objects[key].grants |= {(grantee, privilege) for privilege in privileges}
            elif privileges == ["ALL"]:
                grants = self.objects[key].grants
                self.objects[key].grants = {grant for grant in grants if grant[0] != grantee}
            else:
                raise UnknownStatement(statement)
        return key

    def add_rules(self) -> None:
        for rule in rules.RULES:
            for (kind, name), made in self.objects.items():
                short = name.partition("(")[0].rpartition(".")[2] if kind == "function" else name
                if kind == rule.kind and (rule.names is None or short in rule.names):
                    grants = {(rule.party, privilege) for privilege in rule.privileges}
                    if rule.required:
                        made.grants |= grants
                    else:
                        made.tolerated |= grants
        for name, properties in rules.POLICIES.items():
            if ("table", name.partition(" on ")[2]) in self.objects:
                self.objects["policy", name] = Expected(dict(properties))

    _KNOWN: Mapping[str, Callable[[_Reader, list[str], str], Key | None]] = {
        "comment": _comment,
        "do": _nothing,
        "insert": _insert,
        "update": _nothing,
        "drop": _nothing,
        "select": _select,
        "grant": _rights,
        "revoke": _rights,
        "create schema": _schema,
        "create type": _composite,
        "create table": _table,
        "create index": _index,
        "create sequence": _sequence,
        "alter table": _alter_table,
        "create function": _function,
        "create procedure": _function,
        "create view": _view,
        "create trigger": _trigger,
    }


def _with_policies() -> set[str]:
    return {name.partition(" on ")[2] for name in rules.POLICIES}


def _without_keys(words: list[str]) -> list[str]:
    """A default without the constraints after it."""
    ends = [i for i, word in enumerate(words) if word in ("primary", "not", "collate")]
    return words[: min(ends, default=len(words))]


def _option(words: list[str]) -> str:
    return "".join(words) if "=" in words else f"{''.join(words)}=true"


def trigger(words: list[str]) -> tuple[str, str]:
    """Name and definition of ``create trigger``, the events in one order."""
    on = words.index("on")
    execute = words.index("execute")
    end = next(i for i in range(on, len(words)) if words[i] in ("for", "referencing", "when"))
    table = "".join(words[on + 1 : end])
    events = " ".join(words[4:on]).split(" or ")
    called = "".join(words[execute + 2 :])
    middle = " ".join(words[end:execute])
    return f"{words[2]} on {table}", f"{words[3]} {' or '.join(sorted(events))} {middle} {called}"
