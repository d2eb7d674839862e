"""Hostile calls of every function that PUBLIC may call, drawn from PostgreSQL's catalogue.

Each hostile text carries a mark (`MARK`) and each hostile number begins with `DIGITS`, so
that what became of them can be looked for in the server's log.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from tests.semantics.strategies import TEXTS

Connection = psycopg.Connection[Any]
T = TypeVar("T")

#: No word of the engine's SQL, and no word that anything else in these tests writes.
MARK = re.compile(r"zqj\d{5}", re.IGNORECASE)
DIGITS = re.compile(r"91827364\d{5}")

#: Filters that are right, so that what is hostile beside them gets further.
FILTERS = (
    "",
    "status = 'OK'",
    "tag.k = 'a'",
    "NOT metadata.env LIKE 'p%'",
    "span.name = 'plan' AND span.status = 'ERROR'",
    "span.attributes.model = 'gpt-4'",
    "feedback.quality >= 4",
    "execution_time_ms > 100 OR name IS NULL",
    "count(span.type = 'LLM') > 1",
    "timestamp_ms >= now() - '1 day'",
    "trace.text LIKE '%a%'",
    "name RLIKE '^a.*'",
)

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "exp_ids": (None, "1", "1,2", "{1}", "{}", ""),
    "unit": ("trace", "session", "session_all"),
    "order_by": (None, ["timestamp_ms DESC"], ["tags.k", "name asc"], ["feedback.quality desc"]),
    "page_token": (None,),
    "field": ("status", "tag.k", "span.name", "execution_time_ms", "span.attributes.model"),
    "bucket": ("1 hour", "1 day", "1 month", "15 minutes"),
    "time_zone": ("UTC", "Europe/Berlin"),
    "direction": ("positive", "negative", "both"),
    "kinds": (None, ["tag"], ["span", "metadata"]),
    "max_results": (1, 10, 100),
    "min_support": (1, 5),
    "fdr": (0.05, 1.0),
    "max_traces": (1, 100),
    "batch_size": (1, 100),
    "max_problems": (1, 10),
}

FRAGMENTS = (
    "' or 1=1 -- {m}",
    "'; drop table trace_info; -- {m}",
    "{m}'; select pg_sleep(60); --",
    "$${m}$$",
    "$1{m}",
    "{m}' union select rolpassword from pg_authid --",
    'x" = 1; alter role current_user superuser; -- {m}',
    "\\'; {m}",
    "E'\\x27 {m}'",
    "{m}%s%(x)s{{0}}:x$1?",
    "U&'\\0027 {m}'",
    "{m}/*",
    "{m}\u2019 or \u2018a\u2018=\u2018a",
    "\u202e{m}\u202c",
    "{m}\ufffe\ufeff",
    "`{m}`",
    "@mlflow@{m}",
    "__import__('os').system('{m}')",
    "{m}\n\n-- ",
    "😀{m}",
)

CLAUSES = (
    "tag.k = '{x}'",
    "tag.\"{y}\" = 'a'",
    "metadata.`{y}` != '{x}'",
    "name LIKE '%{x}%'",
    "name RLIKE '({x}'",
    "span.attributes['{x}']['{x}'] = '{x}'",
    "span.attributes.{m} > {n}",
    "feedback.{m} = '{x}'",
    "feedback.\"{y}\" IN ('{x}', '{m}', {n})",
    "execution_time_ms > {n}",
    "execution_time_ms IN ({n}, {n}, -{n}.5e{d})",
    "timestamp_ms BETWEEN {n} AND 1e{d}",
    "count(span.name = '{x}') >= {n}",
    "sum(span.attributes.{m}) > {n}",
    "run_id = '{x}' AND prompt = '{x}/1'",
    "issue.id = '{x}'",
    "trace_id IN ('{x}')",
    "timestamp_ms >= '{x}'",
    "timestamp_ms >= now() - '{n} days'",
    "{m} = '{x}'",
    "status {m} 'OK'",
    "{m}(status) = 1",
    "status = {m}",
    "session_id IS NOT NULL AND '{x}' = '{x}'",
)


@dataclass(frozen=True)
class Function:
    """A function as it can be called: its full name, arguments with their types."""

    schema: str
    name: str
    arguments: tuple[tuple[str, str], ...]
    kind: str

    @property
    def label(self) -> str:
        return f"{self.schema}.{self.name}({', '.join(type for _, type in self.arguments)})"

    def call(self) -> sql.Composed:
        """The statement, with a parameter for each argument."""
        parameters = sql.SQL(", ").join(sql.SQL("%s::" + type) for _, type in self.arguments)
        verb = {"p": "call {}({})", "f": "select * from {}({})"}[self.kind]
        return sql.SQL(verb).format(sql.Identifier(self.schema, self.name), parameters)


def functions(connection: Connection) -> list[Function]:
    """Every public function, and every internal one that anybody may execute."""
    rows = connection.execute(
        """
        select n.nspname, p.proname, p.prokind::text,
               coalesce(p.proargnames[1:p.pronargs], '{}'),
               array(
                   select format_type(u.type, null)
                   from unnest(p.proargtypes) with ordinality u (type, place)
                   order by u.place
               )
        from pg_proc p join pg_namespace n on n.oid = p.pronamespace
        where (n.nspname = 'insights' or p.proname like 'insights\\_%')
          and p.prorettype <> 'trigger'::regtype
          and n.nspname !~ '^pg_'
          and (n.nspname <> 'insights' or has_function_privilege('public', p.oid, 'execute'))
        order by 1, 2, 5
        """
    ).fetchall()
    return [
        Function(schema, name, tuple(zip([*names, *[""] * len(types)], types, strict=False)), kind)
        for schema, name, kind, names, types in rows
    ]


class Hostile:
    """Makes values; each mark is made once."""

    def __init__(self, dice: Random) -> None:
        self._dice = dice
        self._marks = 0
        #: Tokens that searches gave, to be changed.
        self.tokens: list[str] = []

    def pick(self, options: Sequence[T]) -> T:
        return options[self._dice.randrange(len(options))]

    def mark(self) -> str:
        self._marks += 1
        return f"zqj{(self._dice.getrandbits(16) + self._marks) % 100_000:05}"

    def number(self) -> str:
        return f"91827364{self._dice.randrange(100_000):05}"

    def text(self) -> str:
        fragment = self.pick(FRAGMENTS).replace("{m}", self.mark())
        if self._dice.random() < 0.2:
            fragment += self.pick(TEXTS)
        return fragment

    # ----------------------------------------------------------------- filters

    def clause(self) -> str:
        text = self.text()
        filled = (
            self.pick(CLAUSES)
            .replace("{x}", text.replace("'", "''"))
            .replace("{y}", text.replace('"', '""').replace("`", ""))
            .replace("{m}", self.mark())
            .replace("{n}", self.number())
            .replace("{d}", str(self.pick((3, 30, 308, 309, 99999))))
        )
        return filled

    def filter(self) -> str:
        """Right in its form, broken, deep or long."""
        what = self._dice.random()
        if what < 0.35:
            return self.clause()
        if what < 0.5:
            joined = self.pick((" AND ", " OR ", " and not "))
            return joined.join(self.clause() for _ in range(self._dice.randint(2, 6)))
        if what < 0.75:
            return self.mutated(self.clause())
        if what < 0.8:
            depth = self.pick((50, 400, 3000, 100_000))
            opening, closing = self.pick((("(", ")"), ("NOT (", ")"), ("not ", ""), ("(", "")))
            return opening * depth + self.clause() + closing * depth
        if what < 0.83:
            many = self.pick((200, 2000))
            return self.pick((" AND ", " OR ")).join([self.clause()] * many)
        if what < 0.86:
            values = ", ".join(f"'{self.mark()}{n}'" for n in range(self.pick((100, 5000))))
            return f"tag.k IN ({values})"
        if what < 0.9:
            return f"tag.k = '{self.mark() + 'x' * self.pick((1000, 100_000))}'"
        return self.text()

    def mutated(self, text: str) -> str:
        """With a few characters more, fewer, others, or elsewhere."""
        characters = list(text)
        for _ in range(self._dice.randint(1, 4)):
            place = self._dice.randrange(len(characters) + 1)
            what = self._dice.random()
            if what < 0.4:
                characters.insert(place, self.pick("'\"`\\();,.[]{}%$*/-=<>!~ \t\n\x01é日\u200b😀"))
            elif what < 0.7:
                del characters[place : place + self._dice.randint(1, 3)]
            else:
                other = self._dice.randrange(len(characters) + 1)
                low, high = sorted((place, other))
                characters[low:low] = characters[low:high][:40]
        return "".join(characters)

    # ------------------------------------------------------------------- others

    def token(self) -> str:
        if not self.tokens or self._dice.random() < 0.3:
            return self.pick((self.text(), "e30=", "bnVsbA==", "W10=", "!!!", "", "="))
        token = self.pick(self.tokens)
        what = self._dice.random()
        if what < 0.4:
            return self.mutated(token)
        try:
            body = json.loads(base64.urlsafe_b64decode(token + "=="))
        except ValueError:
            return self.mutated(token)
        changed = self._changed(body)
        # With the escapes that JSON has: lone surrogates, NUL.
        text = json.dumps(changed)
        if what < 0.6:
            text = text.replace("zqj", self.pick(("\\ud800zqj", "\\u0000zqj", "zqj")))
        return base64.urlsafe_b64encode(text.encode()).decode()

    def _changed(self, value: Any) -> Any:
        if isinstance(value, dict) and value and self._dice.random() < 0.8:
            key = self.pick(list(value))
            return {**value, key: self._changed(value[key])}
        if isinstance(value, list) and value and self._dice.random() < 0.8:
            place = self._dice.randrange(len(value))
            return [*value[:place], self._changed(value[place]), *value[place + 1 :]]
        return self.pick(
            (
                *(self.text(), self.mark(), int(self.number()), -1, 10**400, 1.5, 1e300, None),
                *(True, [], {}, [self.mark()], {self.mark(): 1}, "NaN", [[[[[[1]]]]]]),
            )
        )

    def value(self, name: str, type: str) -> Any:
        """A hostile value of an argument."""
        if name == "page_token":
            return self.token()
        if type == "text":
            if name in FILTER_ARGUMENTS:
                return self.filter() if self._dice.random() < 0.95 else None
            return self.pick((self.text(), self.text(), self.clause(), None, "", self.number()))
        if type == "text[]":
            make = self.filter if name == "filters" else self.text
            if name == "order_by":
                make = self._order
            return self.pick(
                (
                    [make() for _ in range(self._dice.randint(1, 4))],
                    *([], [None], [make(), None], [make()] * 200, None),
                )
            )
        if type == "integer[]":
            return self.pick(([], [None], [0, -1], [2**31 - 1] * 50, None))
        if type in ("integer", "smallint"):
            return self.pick((0, -1, 1, 32767, -32768, None, *((2**31 - 1,) * (type == "integer"))))
        if type == "bigint":
            return self.pick((0, -1, 2**63 - 1, -(2**63), int(self.number()), None))
        if type == "double precision":
            return self.pick((0.0, -1.0, 1e308, float("nan"), float("inf"), 5e-324, None))
        if type == "boolean":
            return self.pick((True, False, None))
        if type.startswith("timestamp"):
            return self.pick(
                ("infinity", "-infinity", "294276-12-31", "4713-01-01 BC", "epoch", None)
            )
        if type == "jsonb":
            return json.dumps(self._changed({"a": [1]}))
        if type == "bytea":
            return self.text().encode()
        if type == "insights.problem":
            return None
        return None

    def _order(self) -> str:
        text = self.pick(
            ("{x}", "tags.`{x}` desc", "tags.{m}", "feedback.{m} asc {m}", "name {m}", "span.{m}")
        )
        return text.replace("{x}", self.text()).replace("{m}", self.mark())

    def plausible(self, name: str, type: str) -> Any:
        """A value that is right, so that the call gets to what is hostile in it."""
        if type == "boolean":
            return self.pick((True, False))
        if name in FILTER_ARGUMENTS:
            return self.pick(FILTERS)
        if name == "filters":
            return [self.pick(FILTERS) for _ in range(self._dice.randint(2, 4))]
        if name == "exp_ids" and type.endswith("[]"):
            return self.pick((None, [], [1], [1, 2]))
        if name in ARGUMENTS:
            return self.pick(ARGUMENTS[name])
        return None

    def arguments(self, function: Function) -> list[Any]:
        """For a call: one argument or several are hostile, the others are right."""
        count = len(function.arguments)
        if not count:
            return []
        hostile = {self._dice.randrange(count)}
        while self._dice.random() < 0.25:
            hostile.add(self._dice.randrange(count))
        chosen: list[Callable[[str, str], Any]] = [
            self.value if place in hostile else self.plausible for place in range(count)
        ]
        return [
            make(name, type) for make, (name, type) in zip(chosen, function.arguments, strict=True)
        ]


FILTER_ARGUMENTS = (
    "filter",
    "f1",
    "f2",
    "base_filter",
    "target",
    "selection",
    "baseline",
    "one",
    "two",
    "base",
)
