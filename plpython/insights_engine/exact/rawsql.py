"""Compiles a filter to SQL over MLflow's own tables: the raw predicate.

`compile_filter` turns a normal-form tree into one boolean expression about a
row of ``trace_info`` that is true or false, never NULL.  Names come from this
module and from the installation, values travel as parameters.

Two shapes mean the same.  ``set`` suits counting: subqueries that the planner
may turn into joins, hash and run in parallel.  ``probe`` suits walking traces
in order up to a limit: each trace is looked up in turn, nothing is computed
beforehand.

Reading an attribute means decoding a span's JSON in Python, so a cheap
condition that must hold wherever the exact one does is tested first, inside
CASE, whose order PostgreSQL keeps.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Callable, Optional, Union

from insights_engine.language import storage, tree
from insights_engine.language.errors import FilterError, blames_value
from insights_engine.language.storage import Source, Type
from insights_engine.language.tokens import Range

#: The requested experiments; None: all of them.  The caller restricts the
#: traces to them itself; here they bound what session-scoped assessments cover.
Scope = Optional[Sequence[int]]

#: What the metadata of session-scoped assessments have in their JSON text.
SESSION_MARK = '"mlflow.trace.session":'

_BIGINT_MIN, _BIGINT_MAX = -(2**63), 2**63 - 1
_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1
_EXACT = 2.0**53

_MATCH = {
    ("LIKE", False): "~~",
    ("LIKE", True): "!~~",
    ("ILIKE", False): "~~*",
    ("ILIKE", True): "!~~*",
    ("RLIKE", False): "~",
    ("RLIKE", True): "!~",
}


class Params:
    """The parameters of one statement, for ``plpy.prepare`` and ``execute``."""

    def __init__(self) -> None:
        self.types: list[str] = []
        self.values: list[Any] = []
        self._known: dict[tuple[str, str], str] = {}

    def add(self, value: Any, pgtype: str) -> str:
        """``$n`` for ``value``; the same value of the same type is added once."""
        key = (pgtype, repr(value))
        if key not in self._known:
            self.types.append(pgtype)
            self.values.append(value)
            self._known[key] = f"${len(self.values)}"
        return self._known[key]


def compile_filter(
    node: tree.Node,
    params: Params,
    *,
    schema: str,
    scope: Scope,
    now_ms: int,
    shape: str,
    alias: str = "t",
) -> str:
    """The filter as a boolean SQL expression over ``alias``, a trace_info row.

    ``schema`` is MLflow's schema as a quoted identifier; ``shape`` is ``set``
    or ``probe``.  The traces that the expression is asked about must lie in
    ``scope``.
    """
    if shape not in ("set", "probe"):
        raise ValueError(f"shape {shape!r}")
    compiler = Compiler(params, schema, None if scope is None else list(scope), now_ms, shape)
    return compiler.trace(_without_not(node), alias)


def _sql_op(op: str) -> str:
    return "<>" if op == "!=" else op


def _all(parts: Sequence[str]) -> str:
    if not parts:
        return "true"
    return parts[0] if len(parts) == 1 else "(" + " and ".join(parts) + ")"


def _any(parts: Sequence[str]) -> str:
    if not parts:
        return "false"
    return parts[0] if len(parts) == 1 else "(" + " or ".join(parts) + ")"


#: One text of each item must be there.
_Fragments = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class _SpanSql:
    """A condition on a span: all of ``columns``, ``fragments`` and ``exact``.

    ``columns`` are cheap.  The content must have one of each of ``fragments``
    for ``exact`` to hold, unless it has escapes.  ``exact`` decodes content,
    None where nothing needs decoding.  NULL counts as false.
    """

    columns: tuple[str, ...] = ()
    fragments: _Fragments = ()
    exact: str | None = None


@dataclass
class Compiler:
    params: Params
    schema: str
    scope: list[int] | None
    now_ms: int
    shape: str
    _aliases: int = field(default=0)

    # ------------------------------------------------------------ trace level

    def trace(self, node: tree.Node, t: str) -> str:
        """``node`` as an expression over the trace_info row ``t``, never NULL.

        Not stands before predicates and quantifiers only.
        """
        if isinstance(node, tree.And):
            return _all([self.trace(item, t) for item in node.items])
        if isinstance(node, tree.Or):
            return self.alternatives(node, t)
        if isinstance(node, tree.Not):
            return f"(not {self.trace(node.item, t)})"
        if isinstance(node, tree.AnySpan):
            return self.any_span(node.condition, t)
        if isinstance(node, tree.CountSpans):
            return self.count(node, t)
        if isinstance(node, tree.AggregateSpans):
            return self.aggregate(node, t)
        return self.predicate(node, t)

    def alternatives(self, node: tree.Or, t: str) -> str:
        """OR.  PostgreSQL makes no joins of subqueries below it, only of whole conjuncts.

        So where many traces are asked about, the union of the alternatives
        becomes one subquery.
        """
        plain = [item for item in node.items if _own_columns(item)]
        others = [item for item in node.items if not _own_columns(item)]
        if self.shape == "probe" or not others:
            return _any([self.trace(item, t) for item in node.items])
        branches = [[item] for item in others] + ([plain] if plain else [])
        selects = []
        for branch in branches:
            self._aliases += 1
            inner = f"{t}{self._aliases}"
            condition = _any([self.trace(item, inner) for item in branch])
            selects.append(
                f"select {inner}.request_id from {self.schema}.trace_info {inner}"
                f" where {self.within_scope(inner)}{condition}"
            )
        union = " union all ".join(selects)
        return self.exists(f"({union}) u", f"u.request_id = {t}.request_id")

    def within_scope(self, alias: str) -> str:
        """Keeps a subquery over all traces or spans to the requested experiments."""
        if self.scope is None:
            return ""
        return f"{alias}.experiment_id = any({self.params.add(self.scope, 'int[]')}) and "

    def predicate(self, node: tree.Predicate, t: str) -> str:
        row = storage.of(node.field)
        compiled = _COMPILED.get(row.source)
        if compiled is None:
            raise TypeError(f"a span predicate outside of any span: {node}")
        if not isinstance(node, tree.IsNull) or row.source is Source.COLUMN:
            return compiled(self, node, row, t)
        if not row.nullable:
            return "true" if node.negated else "false"
        there = compiled(self, node, row, t)
        return there if node.negated else f"(not {there})"

    # What these make of a predicate on NULL says that there is a value, but for `column`.

    def column(self, node: tree.Predicate, row: storage.Row, t: str) -> str:
        """A predicate on a column of trace_info."""
        column = f"{t}.{row.column}"
        if isinstance(node, tree.IsNull):
            if not row.nullable:
                return "true" if node.negated else "false"
            return f"{column} is {'not ' if node.negated else ''}null"
        if row.type is Type.TEXT:
            condition = self.text(column, node)
            if row.nullable or _numeric(node):
                return self.known(column, condition, node)
            return condition
        condition = self.bigint(column, node) if row.whole else self.double(column, node)
        return f"({column} is not null and {condition})" if row.nullable else condition

    def known(self, column: str, condition: str, node: tree.Predicate) -> str:
        """``condition`` with NULL made false."""
        if _numeric(node):
            return f"coalesce({condition}, false)"
        return f"({column} is not null and {condition})"

    def experiment(self, node: tree.Predicate, row: storage.Row, t: str) -> str:
        column = f"{t}.{row.column}"
        if isinstance(node, tree.TextCompare) and node.op == "=":
            # As an integer, so that the index on experiments serves.
            if not re.fullmatch(r"0|-?[1-9][0-9]{0,9}", node.value):
                return "false"
            number = int(node.value)
            if not _INT_MIN <= number <= _INT_MAX:
                return "false"
            return f"{column} = {self.params.add(number, 'int')}"
        condition = self.text(f"{column}::text", node)
        return f"coalesce({condition}, false)" if _numeric(node) else condition

    def sum(self, node: tree.Predicate, row: storage.Row, t: str) -> str:
        """A predicate on the sum of two columns, of which the second may be missing."""
        near = "between -4611686018427387904 and 4611686018427387903"
        first, second = [f"{t}.{part.column}" for part in row.parts]
        second = f"coalesce({second}, 0)"
        return (
            f"case when {first} {near} and {second} {near}"
            f" then {self.bigint(f'({first} + {second})', node)}"
            f" else {self.bigint(f'({first}::numeric + {second})', node)} end"
        )

    def entry(self, node: tree.Predicate, row: storage.Row, t: str) -> str:
        """A predicate on a tag or a metadata entry."""
        key = self.params.add(row.entry.key, "text")
        where = f"k.request_id = {t}.request_id and k.key = {key}{self.also('k.value', node)}"
        return self.exists(f"{self.schema}.{row.entry.table} k", where)

    def also(self, value: str, node: tree.Predicate) -> str:
        """What else has to hold for the text ``value`` of a row that is there."""
        return "" if isinstance(node, tree.IsNull) else f" and {self.text(value, node)}"

    def exists(self, source: str, where: str) -> str:
        # OFFSET 0 keeps the planner from making a join of it.
        fence = " offset 0" if self.shape == "probe" else ""
        return f"exists (select from {source} where {where}{fence})"

    def usage(self, node: tree.Predicate, row: storage.Row, t: str) -> str:
        """Metadata that MLflow synthesises as JSON text from number columns.

        As in MLflow, only the very text that it synthesises equals.
        """
        present = _any([f"{t}.{part.column} is not null" for part in row.parts])
        if isinstance(node, tree.IsNull):
            return present
        if isinstance(node, tree.TextCompare):
            same = self.same_json(node.value, row, t)
            return same if node.op == "=" else f"({present} and not {same})"
        if isinstance(node, tree.In):
            texts = [value for value in node.values if isinstance(value, str)]
            same = _any([self.same_json(text, row, t) for text in texts])
            return f"({present} and not {same})" if node.negated else same
        raise FilterError(
            f"Comparator '{_comparator(node)}' is not supported for reserved metadata"
            f" '{row.entry.key}'."
            " Only '=', '!=', 'IS NULL', and 'IS NOT NULL' are supported."
        )

    def same_json(self, text: str, row: storage.Row, t: str) -> str:
        numbers = canonical_numbers(text, row.parts)
        if not numbers:
            return "false"
        parts = []
        for part in row.parts:
            column = f"{t}.{part.column}"
            if part.name in numbers:
                bound = self.params.add(numbers[part.name], part.sql_type)
                parts.append(f"({column} is not null and {column} = {bound})")
            else:
                parts.append(f"{column} is null")
        return _all(parts)

    # ------------------------------------------------------- links and runs

    def link_or_entry(self, node: tree.Predicate, row: storage.Row, t: str) -> str:
        """What the trace is linked to, and what an entry of it names: its source run."""
        null = isinstance(node, tree.IsNull)
        entry = " and m.value is not null" if null else self.also("m.value", node)
        return self.either(
            f"select m.request_id as trace_id from {self.schema}.{row.entry.table} m"
            f" where m.key = {self.params.add(row.entry.key, 'text')}{entry}",
            f"select e.source_id from {self.schema}.entity_associations e"
            f" where e.source_type = {self.params.add('trace', 'text')}"
            f" and e.destination_type = {self.params.add(row.column, 'text')}"
            f"{self.also('e.destination_id', node)}",
            t,
        )

    def either(self, first: str, second: str, t: str) -> str:
        return self.exists(f"({first} union all {second}) u", f"u.trace_id = {t}.request_id")

    def link(self, node: tree.Predicate, row: storage.Row, t: str) -> str:
        return self.exists(
            f"{self.schema}.entity_associations e",
            f"e.source_type = {self.params.add('trace', 'text')}"
            f" and e.source_id = {t}.request_id"
            f" and e.destination_type = {self.params.add(row.column, 'text')}"
            f"{self.also('e.destination_id', node)}",
        )

    def issue(self, node: tree.Predicate, row: storage.Row, t: str) -> str:
        return self.exists(
            f"{self.schema}.assessments a",
            f"a.trace_id = {t}.request_id"
            f" and a.assessment_type = {self.params.add('issue', 'text')}"
            f"{self.also(f'a.{row.column}', node)}",
        )

    # ------------------------------------------------------------ assessments

    def assessment(self, node: tree.Predicate, row: storage.Row, t: str) -> str:
        """Valid assessments of the trace, or, session-scoped, of its session."""
        if len(row.kinds) > 1:
            kind = f"a.assessment_type = any({self.params.add(list(row.kinds), 'text[]')})"
        else:
            kind = f"a.assessment_type = {self.params.add(row.kinds[0], 'text')}"
        wanted = f"{kind} and a.name = {self.params.add(row.key, 'text')} and a.valid"
        if not isinstance(node, tree.IsNull):
            wanted += f" and {self.assessed(node)}"
        mark = self.params.add(SESSION_MARK, "text")
        covering = (
            f"from {self.schema}.trace_info c join {self.schema}.assessments a"
            f" on a.trace_id = c.request_id where {self.within_scope('c')}{wanted}"
            f" and strpos(a.assessment_metadata, {mark}) > 0"
        )
        if self.shape == "probe":
            direct = self.exists(
                f"{self.schema}.assessments a", f"a.trace_id = {t}.request_id and {wanted}"
            )
            # Without a fence: as few assessments cover sessions, it may pay to
            # find them all once.
            covered = f"exists (select {covering} and c.session_id = {t}.session_id)"
            return f"({direct} or ({t}.session_id is not null and {covered}))"
        return self.either(
            f"select a.trace_id from {self.schema}.assessments a where {wanted}",
            f"select m.request_id from {self.schema}.trace_info m"
            f" where {self.within_scope('m')}m.session_id in (select c.session_id {covering})",
            t,
        )

    def assessed(self, node: tree.Predicate, a: str = "a") -> str:
        """A condition on the value of assessment ``a``; NULL counts as false."""
        if isinstance(node, tree.TextCompare):
            forms = self.params.add([node.value, json.dumps(node.value)], "text[]")
            return f"{a}.value = any({forms})" if node.op == "=" else f"{a}.value <> all({forms})"
        if isinstance(node, tree.Match):
            op = _MATCH[node.op, False]
            pattern = self.params.add(node.pattern, "text")
            stored = f"{a}.value {op} {pattern}"
            decoded = f"insights.json_text({a}.value) {op} {pattern}"
            if node.negated:
                return f"(not {stored} and ({decoded}) is not true)"
            return f"({stored} or {decoded})"
        if isinstance(node, tree.In):
            texts = [value for value in node.values if isinstance(value, str)]
            numbers = [value for value in node.values if not isinstance(value, str)]
            parts = []
            if texts:
                both = [form for text in texts for form in (text, json.dumps(text))]
                parts.append(f"{a}.value = any({self.params.add(both, 'text[]')})")
            if numbers:
                doubles = self.params.add([self.as_double(n) for n in numbers], "float8[]")
                parts.append(f"({a}.is_numeric_value and {a}.aggregate_value = any({doubles}))")
            return f"({_any(parts)}) is not true" if node.negated else _any(parts)
        return f"({a}.is_numeric_value and {self.double(f'{a}.aggregate_value', node)})"

    # ------------------------------------------------------------------ spans

    def of_trace(self, t: str) -> str:
        # A probe reads the spans of its trace; the sum keeps the planner from joining in
        # an index on (experiment, type, status), thousands of entries for every trace.
        experiment = "s.experiment_id + 0" if self.shape == "probe" else "s.experiment_id"
        return f"s.trace_id = {t}.request_id and {experiment} = {t}.experiment_id"

    def any_span(self, condition: tree.Node, t: str) -> str:
        scope = self.within_scope("s") if self.shape == "set" else ""
        return self.exists(
            f"{self.schema}.spans s",
            f"{self.of_trace(t)} and {scope}{self.span_where(condition)}",
        )

    def grouped(self, condition: tree.Node | None, having: str, t: str) -> str:
        """Whether the trace's spans under ``condition``, at least one, satisfy ``having``."""
        groups = (
            f"select s.trace_id, s.experiment_id from {self.schema}.spans s"
            f" where {self.within_scope('s')}{self.span_where(condition)}"
            f" group by s.trace_id, s.experiment_id having {having}"
        )
        return self.exists(
            f"({groups}) g",
            f"g.trace_id = {t}.request_id and g.experiment_id = {t}.experiment_id",
        )

    def span_where(self, condition: tree.Node | None) -> str:
        """A WHERE condition; cheap parts stand apart for the planner to see."""
        if condition is None:
            return "true"
        compiled = self.span(condition)
        if compiled.exact is None:
            return _all(compiled.columns)
        decoded = _SpanSql((), compiled.fragments, compiled.exact)
        return _all([*compiled.columns, self.guarded(decoded)])

    def guarded(self, span: _SpanSql) -> str:
        """The condition as one expression that decodes as little as it can."""
        cheap = self.cheap(span)
        if span.exact is None:
            return cheap
        if cheap == "true":
            return span.exact
        return f"case when {cheap} then {span.exact} else false end"

    def cheap(self, span: _SpanSql) -> str:
        if not span.fragments:
            return _all(span.columns)
        return _all([*span.columns, self.contains([span.fragments])])

    def contains(self, alternatives: Sequence[_Fragments]) -> str:
        """Whether the content has what one of the alternatives wants, or escapes.

        Characters that JSON has to escape are not in a fragment, but a writer
        may escape others too, as ``\\u0061``.
        """
        texts = [text for wanted in alternatives for options in wanted for text in options]
        escape = "\\u00" if all(text.isascii() for text in texts) else "\\u"
        return _any([*map(self.has_all, alternatives), self.has(escape)])

    def has_all(self, fragments: _Fragments) -> str:
        return _all([_any([self.has(text) for text in options]) for options in fragments])

    def has(self, text: str) -> str:
        return f"strpos(s.content, {self.params.add(text, 'text')}) > 0"

    def span(self, node: tree.Node) -> _SpanSql:
        if isinstance(node, tree.And):
            items = [self.span(item) for item in node.items]
            exacts = [item.exact for item in items if item.exact is not None]
            return _SpanSql(
                tuple(column for item in items for column in item.columns),
                tuple(dict.fromkeys(options for item in items for options in item.fragments)),
                _all(exacts) if exacts else None,
            )
        if isinstance(node, tree.Or):
            items = [self.span(item) for item in node.items]
            if all(item.exact is None for item in items):
                return _SpanSql((_any([_all(item.columns) for item in items]),))
            cheap = [self.cheap(item) for item in items]
            return _SpanSql(
                () if "true" in cheap else (_any(cheap),),
                (),
                _any([self.guarded(item) for item in items]),
            )
        if isinstance(node, tree.Not):
            item = self.span(node.item)
            condition = f"({self.guarded(item)}) is not true"
            return _SpanSql((condition,)) if item.exact is None else _SpanSql(exact=condition)
        if isinstance(node, tree.QUANTIFIERS):
            raise TypeError(f"a span quantifier within a span condition: {node}")
        row = storage.of(node.field)
        if isinstance(node.field, tree.SpanAttribute):
            return self.span_attribute(node, node.field)
        if row.source is Source.SPAN_COLUMN:
            return _SpanSql((self.span_column(node, row),))
        raise TypeError(f"a trace predicate within a span condition: {node}")

    def span_column(self, node: tree.Predicate, row: storage.Row) -> str:
        column = f"s.{row.column}"
        if isinstance(node, tree.IsNull):
            if row.empty_is_missing:
                return f"{column} {'<>' if node.negated else '='} ''"
            return f"{column} is {'not ' if node.negated else ''}null"
        if row.type is Type.NANOSECONDS:
            return self.double(f"({column} / 1e6::float8)", node)
        condition = self.text(column, node)
        if row.empty_is_missing and _may_match_empty(node):
            return f"({column} <> '' and {condition})"
        return condition

    def span_attribute(self, node: tree.Predicate, target: tree.SpanAttribute) -> _SpanSql:
        path = self.params.add(list(target.path), "text[]")
        text = f"insights.span_attribute(s.content, {path})"
        number = f"insights.span_attribute_number(s.content, {path})"
        keys = key_fragments(target.path)
        if isinstance(node, tree.IsNull):
            if node.negated:
                return _SpanSql((), keys, f"{text} is not null")
            if not keys:
                return _SpanSql(exact=f"{text} is null")
            found = self.contains([keys])
            return _SpanSql(exact=f"case when {found} then {text} is null else true end")
        columns: tuple[str, ...] = ()
        if isinstance(node, tree.In) and not node.negated:
            alternatives = [_value_fragments(value) for value in node.values]
            if all(alternatives) and len(alternatives) <= _MANY:
                columns = (self.contains([(*fragments, *keys) for fragments in alternatives]),)
                keys = ()
        elif isinstance(node, tree.TextCompare) and node.op == "=":
            keys = _value_fragments(node.value) + keys
        elif isinstance(node, tree.Match) and node.op == "LIKE" and not node.negated:
            keys = _pattern_fragments(node.pattern) + keys
        return _SpanSql(columns, keys, self.text(text, node, number))

    # ------------------------------------------------- counts and aggregates

    def count(self, node: tree.CountSpans, t: str) -> str:
        if node.condition is not None:
            if (node.op, node.value) in ((">", 0), (">=", 1), ("!=", 0)):
                return self.any_span(node.condition, t)
            if (node.op, node.value) in (("=", 0), ("<", 1), ("<=", 0)):
                return f"(not {self.any_span(node.condition, t)})"
        compare = tree.NumberCompare(storage.SPAN_COUNT.field, node.op, node.value)
        return self.counted(compare, node.condition, t)

    def span_count(self, node: tree.Predicate, row: storage.Row, t: str) -> str:
        return self.counted(node, None, t)

    def counted(self, node: tree.Predicate, condition: tree.Node | None, t: str) -> str:
        if self.shape == "probe":
            where = f"{self.of_trace(t)} and {self.span_where(condition)}"
            count = f"(select count(*) from {self.schema}.spans s where {where})"
            return self.bigint(count, node, clamp=True)
        having = self.bigint("count(*)", node, clamp=True)
        if self.holds_for_zero(node):
            return f"(not {self.grouped(condition, f'not ({having})', t)})"
        return self.grouped(condition, having, t)

    def holds_for_zero(self, node: tree.Predicate) -> bool:
        def compare(op: str, bound: tree.Value) -> bool:
            number = self.as_integer(bound) if isinstance(bound, tree.Now) else bound
            assert not isinstance(number, str)
            return _COMPARE[op](0, number)

        if isinstance(node, tree.NumberCompare):
            return compare(node.op, node.value)
        if isinstance(node, tree.Between):
            return (compare(">=", node.low) and compare("<=", node.high)) != node.negated
        if isinstance(node, tree.In):
            return any(compare("=", value) for value in node.values) != node.negated
        raise TypeError(f"not a comparison of numbers: {node}")

    def aggregate(self, node: tree.AggregateSpans, t: str) -> str:
        if isinstance(node.field, tree.SpanNumber):
            value = _DURATION_AGGREGATES[node.function]
        else:
            path = self.params.add(list(node.field.path), "text[]")
            exact = node.function in ("sum", "avg")
            function = "span_attribute_decimal" if exact else "span_attribute_number"
            number = f"insights.{function}(s.content, {path})"
            fragments = key_fragments(node.field.path)
            if fragments:
                number = f"case when {self.contains([fragments])} then {number} end"
            value = _NUMBER_AGGREGATES[node.function].format(number)
        if node.function in ("sum", "avg"):
            value = _TO_DOUBLE.format(value)
        bound = self.params.add(self.as_double(node.value), "float8")
        condition = f"{value} {_sql_op(node.op)} {bound}"
        if self.shape == "probe":
            where = f"{self.of_trace(t)} and {self.span_where(node.condition)}"
            return f"coalesce((select {condition} from {self.schema}.spans s where {where}), false)"
        return self.grouped(node.condition, condition, t)

    # ------------------------------------------------------------------ values

    def text(self, value: str, node: tree.Predicate, number: str | None = None) -> str:
        """A condition on the text ``value``; NULL where it is missing."""
        number = number or f"insights.text_number({value})"
        if isinstance(node, tree.TextCompare):
            return f"{value} {_sql_op(node.op)} {self.params.add(node.value, 'text')}"
        if isinstance(node, tree.Match):
            op = _MATCH[node.op, node.negated]
            return f"{value} {op} {self.params.add(node.pattern, 'text')}"
        if isinstance(node, tree.In):
            texts = [item for item in node.values if isinstance(item, str)]
            numbers = [self.as_double(item) for item in node.values if not isinstance(item, str)]
            parts = []
            if texts:
                op = "<> all" if node.negated else "= any"
                parts.append(f"{value} {op}({self.params.add(texts, 'text[]')})")
            if numbers:
                doubles = self.params.add(numbers, "float8[]")
                if node.negated:
                    if not texts:
                        parts.append(f"{value} is not null")
                    parts.append(f"({number} = any({doubles})) is not true")
                else:
                    parts.append(f"{number} = any({doubles})")
            return _all(parts) if node.negated else _any(parts)
        return self.double(number, node)

    def double(self, value: str, node: tree.Predicate) -> str:
        """A condition on the double ``value``; NULL where it is missing."""

        def compare(op: str, bound: tree.Value) -> str:
            return f"{value} {_sql_op(op)} {self.params.add(self.as_double(bound), 'float8')}"

        return _numbers(node, compare)

    def bigint(self, value: str, node: tree.Predicate, clamp: bool = False) -> str:
        """A condition on the integer ``value``, exact; NULL where it is missing."""

        def compare(op: str, bound: tree.Value) -> str:
            if isinstance(bound, float):
                if abs(bound) >= _EXACT:
                    return f"{value}::float8 {_sql_op(op)} {self.params.add(bound, 'float8')}"
                if op in ("=", "!=") and bound != math.floor(bound):
                    return "false" if op == "=" else f"{value} is not null"
                # Below 2^53 the same as comparing doubles, and an index serves.
                bound = math.ceil(bound) if op in ("<", ">=") else math.floor(bound)
            number = self.as_integer(bound)
            if clamp:
                number = min(max(number, -1), 2**62)
            elif not _BIGINT_MIN <= number <= _BIGINT_MAX:
                raise _out_of_range(number)
            return f"{value} {_sql_op(op)} {self.params.add(number, 'bigint')}"

        return _numbers(node, compare)

    def as_integer(self, value: tree.Value) -> int:
        if isinstance(value, tree.Now):
            return self.now_ms + value.offset_ms
        if isinstance(value, int):
            return value
        raise TypeError(f"not a whole number: {value!r}")

    def as_double(self, value: tree.Value) -> float:
        if isinstance(value, str):
            raise TypeError(f"not a number: {value!r}")
        if isinstance(value, tree.Now):
            value = self.as_integer(value)
        try:
            number = float(value)
        except OverflowError:
            raise _out_of_range(value) from None
        if not math.isfinite(number):
            raise _out_of_range(value)
        return number


#: What compiles a predicate, by where MLflow keeps the field.
_COMPILED: dict[Source, Callable[[Compiler, tree.Predicate, storage.Row, str], str]] = {
    Source.COLUMN: Compiler.column,
    Source.EXPERIMENT: Compiler.experiment,
    Source.SUM: Compiler.sum,
    Source.USAGE: Compiler.usage,
    Source.ENTRY: Compiler.entry,
    Source.LINK: Compiler.link,
    Source.LINK_OR_ENTRY: Compiler.link_or_entry,
    Source.ASSESSMENT: Compiler.assessment,
    Source.ISSUE: Compiler.issue,
    Source.SPAN_COUNT: Compiler.span_count,
}

# Sums are exact decimals, so that they are the same in any order of the rows
# and can be made in parallel.  The factor gives the division of an average so
# many decimals that the cast to a double still rounds correctly.
_WIDE = f"1.{'0' * 40}"
_DURATION_AGGREGATES = {
    "sum": "(sum(s.duration_ns) * 0.000001)",
    "avg": f"(sum(s.duration_ns) * {_WIDE} / (1000000 * count(s.duration_ns)))",
    "min": "min(s.duration_ns) / 1e6::float8",
    "max": "max(s.duration_ns) / 1e6::float8",
}
_NUMBER_AGGREGATES = {
    "sum": "sum({0})",
    "avg": f"avg({_WIDE} * {{0}})",
    "min": "min({0})",
    "max": "max({0})",
}
# A cast raises an error where it should give an infinity, or zero: from the
# largest double plus half its last place, and up to half the smallest.
_TO_DOUBLE = (
    "case when abs({0}) >= 1.797693134862315807937289714053e308"
    " then sign({0})::float8 * 'Infinity'::float8"
    " when abs({0}) <= 2.470328229206232720882843964341e-324 then 0 else {0}::float8 end"
)

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_INVERSE = {"=": "!=", "!=": "=", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}


def _without_not(node: tree.Node, negate: bool = False) -> tree.Node:
    """The filter with every Not moved inwards, to predicates and quantifiers."""
    if isinstance(node, tree.Not):
        return _without_not(node.item, not negate)
    if isinstance(node, (tree.And, tree.Or)):
        kind: type[tree.And] | type[tree.Or]
        kind = tree.And if isinstance(node, tree.And) != negate else tree.Or
        return kind(tuple(_without_not(item, negate) for item in node.items))
    if not negate:
        return node
    if isinstance(node, tree.CountSpans):
        return tree.CountSpans(node.condition, _INVERSE[node.op], node.value)
    return tree.Not(node)


def _own_columns(node: tree.Node) -> bool:
    """Whether a node concerns nothing but columns of trace_info."""
    return all(map(_own_column, tree.leaves(node)))


def _own_column(leaf: tree.Leaf) -> bool:
    if isinstance(leaf, tree.QUANTIFIERS):
        return False
    return storage.of(leaf.field).of_trace_info


def _numbers(node: tree.Predicate, compare: Callable[[str, tree.Value], str]) -> str:
    if isinstance(node, tree.NumberCompare):
        return compare(node.op, node.value)
    if isinstance(node, tree.Between):
        if node.negated:
            return _any([compare("<", node.low), compare(">", node.high)])
        return _all([compare(">=", node.low), compare("<=", node.high)])
    if isinstance(node, tree.In):
        if node.negated:
            return _all([compare("!=", value) for value in node.values])
        return _any([compare("=", value) for value in node.values])
    raise TypeError(f"not a comparison of numbers: {node}")


def _numeric(node: tree.Predicate) -> bool:
    """Whether a condition on text may be NULL for a text that is there."""
    if isinstance(node, tree.In):
        return any(not isinstance(value, str) for value in node.values)
    return isinstance(node, (tree.NumberCompare, tree.Between))


def _comparator(node: tree.Predicate) -> str:
    if isinstance(node, (tree.TextCompare, tree.NumberCompare)):
        return node.op
    if isinstance(node, tree.Match):
        return f"NOT {node.op}" if node.negated else node.op
    name = {tree.In: "IN", tree.Between: "BETWEEN", tree.IsNull: "IS NULL"}[type(node)]
    return f"NOT {name}" if node.negated else name


def _out_of_range(value: Union[int, float, tree.Now]) -> FilterError:
    if isinstance(value, int) and abs(value) >= 10**40:
        # str() refuses integers of more than 4,300 digits.
        return FilterError(
            f"a number of {math.floor(math.log10(abs(value))) + 1} digits is out of range"
        )
    return FilterError(f"the number {value} is out of range")


def _may_match_empty(node: tree.Predicate) -> bool:
    """Whether the empty text could satisfy ``node``."""
    if isinstance(node, tree.Match) and node.op != "RLIKE" and not node.negated:
        return not node.pattern.strip("%")
    return not (isinstance(node, tree.TextCompare) and node.op == "=" and node.value)


# ------------------------------------------------------------------ fragments
#
# Parts of keys and values that must stand in the content literally, however
# often it was JSON-encoded on the way there, unless something is escaped that
# need not be.

#: More alternatives than these are decoded right away.
_MANY = 8

# What JSON always escapes, or may escape without \u (the slash), and U+FFFD,
# which also stands for what PostgreSQL cannot hold.
_ESCAPED = re.compile('[\x00-\x1f"\\\\/\x7f\ufffd]+')
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
# What decoding and printing again may change outside of strings.
_OUTSIDE = re.compile(r"[][{}:, 0-9+.\-trufalsnNIiyeE]*")
_WORDS = ("true", "false", "null", "NaN", "Infinity")


def key_fragments(path: Sequence[str]) -> _Fragments:
    """Fragments of any content in which ``path`` leads somewhere."""
    found = []
    if path[0] and not _ESCAPED.search(path[0]):
        found.append((f'"{path[0]}"',))
    # Further keys stand between quotes that are themselves escaped or not.
    found += [
        (step,) for step in path[1:] if step and not step.isdigit() and not _ESCAPED.search(step)
    ]
    return tuple(found)


def _value_fragments(value: tree.Value) -> _Fragments:
    """Fragments of any content in which an attribute's text is ``value``."""
    if not isinstance(value, str) or value[:1] in ("{", "["):
        return ()  # an object or a list: its text need not be as it was written
    if _NUMBER.fullmatch(value) or value.lstrip("-") in ("NaN", "Infinity"):
        return ()
    fragment = max(_ESCAPED.split(value), key=len)
    if fragment != value or value in ("true", "false"):
        return ((fragment,),) if fragment else ()
    # A string: plain, or JSON within JSON; the first option rules most spans out.
    return ((f'"{value}',), (f'"{value}\\"', f'"{value}"')) if value else ()


def _pattern_fragments(pattern: str) -> _Fragments:
    """Fragments of any content in which an attribute's text is LIKE ``pattern``."""
    literals = re.split(r"[%_]", re.sub(r"\\(.)", _stand_in, pattern, flags=re.DOTALL))
    runs = [run for literal in literals for run in _ESCAPED.split(literal) if _inside(run)]
    return ((max(runs, key=len),),) if runs else ()


def _stand_in(match: re.Match[str]) -> str:
    """An escaped character of a pattern; a wildcard becomes a break."""
    return "\0" if match.group(1) in "%_" else match.group(1)


def _inside(run: str) -> bool:
    """Whether ``run`` can only stand within a JSON string, or be all of a text."""
    if not _OUTSIDE.fullmatch(run):
        return True
    letters = re.findall("[A-Za-z]+", run)
    return any(len(word) > 1 and not any(word in known for known in _WORDS) for word in letters)


# ------------------------------------------------------------------- synthesis


def canonical_numbers(text: str, parts: Sequence[storage.Row]) -> dict[str, Union[int, float]]:
    """The numbers, by name, of the JSON text that MLflow would synthesise as ``text``.

    Empty when MLflow would never synthesise that very text.  Follows
    ``get_trace_analytics_metadata_filter`` of MLflow 3.17.
    """
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(parsed, dict) or not parsed.keys() <= {part.name for part in parts}:
        return {}
    numbers: dict[str, Union[int, float]] = {}
    for part in parts:
        value = parsed.get(part.name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if part.whole:
            if isinstance(value, int) and _BIGINT_MIN <= value <= _BIGINT_MAX:
                numbers[part.name] = value
        elif isinstance(value, float) and math.isfinite(value):
            numbers[part.name] = value
    return numbers if json.dumps(numbers) == text else {}


# ------------------------------------------------------------------- patterns


def check_patterns(
    plpy: Any,
    node: tree.Node,
    text: str = "",
    places: Mapping[tree.Match, Range] = MappingProxyType({}),
) -> None:
    """Raises FilterError for a pattern that PostgreSQL would refuse.

    ``text`` is what ``node`` was parsed from, ``places`` says where in it the patterns
    stand; the error shows that.
    """
    for match in dict.fromkeys(tree.walk(node)):
        if not isinstance(match, tree.Match):
            continue
        problem, hint = None, None
        if match.op == "RLIKE":
            try:
                plan = plpy.prepare("select '' ~ $1", ["text"])
                plpy.execute(plan, [match.pattern])
            except plpy.SPIError as error:
                if not blames_value(error):
                    raise
                problem = str(error)
        elif (len(match.pattern) - len(match.pattern.rstrip("\\"))) % 2:
            problem = "LIKE pattern must not end with escape character"
            hint = "A backslash in a LIKE pattern is written twice."
        if problem is not None:
            place = places.get(match)
            start = None if place is None else place.start
            length = 1 if place is None else place.end - place.start
            raise FilterError(problem, start, length, hint, text)
