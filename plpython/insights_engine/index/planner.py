"""Turns filters into conditions on the index, by looking up the vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional

from insights_engine.base import plans
from insights_engine.exact import rawsql
from insights_engine.facts.terms import (
    CONTENT,
    NUMBER,
    PARTS,
    SESSION,
    TEXT,
    Role,
    bucket_of,
    hidden_slot_of,
)
from insights_engine.index.conditions import (
    All,
    Complement,
    Condition,
    Constant,
    Facts,
    Listed,
    NotNumbers,
    Numbers,
    OfBlocks,
    Some,
    Times,
    Unknown,
)
from insights_engine.index.groups import Terms
from insights_engine.index.slices import Series
from insights_engine.index.span_conditions import (
    AnySpan,
    CountSpans,
    SpanAll,
    SpanAny,
    SpanCondition,
    SpanConstant,
    SpanFacts,
    SpanNot,
    SpanNumbers,
    Spans,
    SpanUnknown,
)
from insights_engine.language import storage, tree
from insights_engine.language.storage import SEPARATOR, Indexed, Source, Type
from insights_engine.sets import intervals
from insights_engine.sets.intervals import Intervals

if TYPE_CHECKING:
    from typing_extensions import TypeGuard

#: Numbers of so many different values are looked up by value, of more by their bits.
FEW_VALUES = 200
#: Predicates that a planner remembers.
_MOST_LEAVES = 200


class Term(NamedTuple):
    """A term of a key that is at hand: what of its row in ``insights.term`` matters."""

    number: int
    role: str
    signature: int
    slot: int = 0


class Planner:
    """Turns filters into conditions, looking their terms up in the vocabulary."""

    def __init__(self, plpy: Any, schema: str, experiments: rawsql.Scope) -> None:
        self._plpy = plpy
        self._schema = schema
        self._experiments = experiments
        #: What ``now()`` stands for, in ms.
        self.now_ms = 0
        self._spans: Optional[Spans] = None
        self._times: Optional[Series] = None
        self._leaves: dict[str, Condition] = {}
        #: (predicate, vocabulary terms found, its condition), for explaining.
        self.hits: list[tuple[tree.Node, int, Condition]] = []
        self._found = 0

    def plan(self, node: tree.Node) -> Condition:
        """The condition that a filter in normal form stands for."""
        return tree.fold(node, self._plan_leaf, _all, Some, Complement)

    def _plan_leaf(self, node: tree.Leaf) -> Condition:
        self._found = 0
        if isinstance(node, tree.AnySpan):
            found = self._any_span(node.condition)
        elif isinstance(node, tree.CountSpans):
            found = self._count(node)
        elif isinstance(node, tree.AggregateSpans):
            found = self._aggregate(node)
        else:
            found = self._predicate(node)
        self.hits.append((node, self._found, found))
        return found

    def leaf(self, text: str, node: tree.Node, lasting: bool) -> Condition:
        """The same for a predicate, looked up once if it is ``lasting``."""
        found = self._leaves.get(text) if lasting else None
        if found is None:
            found = self.plan(node)
            self.hits.clear()
            if lasting:
                if len(self._leaves) >= _MOST_LEAVES:
                    self._leaves.clear()
                self._leaves[text] = found
        return found

    def column(self, name: str) -> tuple[Series, Terms]:
        """The numbers of a field of the trace, and terms of traces with what is no number."""
        row = storage.TRACE[name]
        found = self._terms(row.kinds, row.key, _NUMBERS)
        series = self._series(found).get(0) or Series({}, {})
        return series, _numbers_of(_unknown(found, NUMBER))

    def timestamps(self) -> Series:
        """When the traces began."""
        if self._times is None:
            start = storage.START_TIME
            found = self._series(self._terms(start.kinds, start.key, _SLICES))
            self._times = found.get(0) or Series({}, {})
        return self._times

    def lost(self, row: storage.Row) -> list[Term]:
        """The terms of what may have values of a field that stand under no key of its own."""
        if row.source is Source.ASSESSMENT:
            # Traces whose session has assessments in another experiment.
            return self._terms(("trace",), "assessments", Role.UNKNOWN, [SESSION])
        if row.source is not Source.ATTRIBUTE:
            return []
        # Whole spans, or whole keys, of which nothing is known.
        top, inside, _ = row.key.partition(SEPARATOR)
        found = self._terms(row.kinds, "", Role.UNKNOWN, [CONTENT, hidden_slot_of(top)])
        return found + (self._terms(row.kinds, top, Role.UNKNOWN, [PARTS]) if inside else [])

    # ------------------------------------------------------------ vocabulary

    def _terms(
        self, kinds: Sequence[str], key: str, roles: str, slots: Optional[Sequence[int]] = None
    ) -> list[Term]:
        """The terms of a key that are no values."""
        chosen = "" if slots is None else " and v.slot = any($4)"
        rows = plans.run(
            self._plpy,
            "select v.term, v.role::text as role, v.signature, v.slot from insights.term v"
            f' where v.kind = any($1) and v.key = $2 and v.role = any($3::"char"[]){chosen}',
            ("text[]", "text", "text[]", "int[]")[: 3 if slots is None else 4],
            (list(kinds), key, list(roles), slots)[: 3 if slots is None else 4],
        )
        return [Term(row["term"], row["role"], row["signature"], row["slot"]) for row in rows]

    def _values(self, row: storage.Row, condition: Callable[[rawsql.Compiler], str]) -> list[Term]:
        """The values of a field that satisfy a condition on ``v.value``."""
        params = rawsql.Params()
        compiler = self._compiler(params)
        compiled = condition(compiler)
        sql = (
            "select v.term, v.signature from insights.term v"
            f" where v.kind = any({params.add(list(row.kinds), 'text[]')})"
            f" and v.key = {params.add(row.key, 'text')} and v.role = '{Role.VALUE}'"
            f" and ({compiled})"
        )
        rows = plans.run(self._plpy, sql, params.types, params.values)
        self._found += len(rows)
        return [Term(found["term"], Role.VALUE, found["signature"]) for found in rows]

    def _compiler(self, params: rawsql.Params) -> rawsql.Compiler:
        scope = None if self._experiments is None else list(self._experiments)
        return rawsql.Compiler(params, self._schema, scope, self.now_ms, "set")

    def _series(self, terms: Iterable[Term]) -> dict[int, Series]:
        """Series by signature."""
        low: dict[int, dict[int, int]] = {}
        spread: dict[int, dict[int, int]] = {}
        for term in terms:
            if term.role == Role.LOW:
                low.setdefault(term.signature, {})[term.slot] = term.number
            elif term.role == Role.SPREAD:
                spread.setdefault(term.signature, {})[term.slot] = term.number
        return {one: Series(slices, spread.get(one, {})) for one, slices in low.items()}

    # ------------------------------------------------------ trace predicates

    def _predicate(self, node: tree.Predicate) -> Condition:
        row = storage.of(node.field)
        if row.source in (Source.SPAN_COLUMN, Source.ATTRIBUTE):
            raise TypeError(f"a span predicate outside of any span: {node}")
        if row.indexed is Indexed.TRACE:
            return self._trace_id(node)
        if row.indexed is Indexed.BLOCK:
            return self._experiment_id(node)
        if row.indexed is Indexed.PARTS:
            return self._synthesised(node, row)
        if row.type is not Type.TEXT:
            return self._trace_number(row, node)
        return self._texts(row, node)

    def _trace_id(self, node: tree.Predicate) -> Condition:
        if isinstance(node, tree.TextCompare) and node.op == "=":
            ids = [node.value]
        elif isinstance(node, tree.In) and not node.negated:
            ids = [value for value in node.values if isinstance(value, str)]
            if len(ids) < len(node.values):
                return Unknown()
        elif isinstance(node, tree.IsNull):
            return Constant(node.negated)
        else:
            return Unknown()
        rows = plans.run(
            self._plpy,
            "select t.block, t.position from insights.trace t where t.trace_id = any($1)",
            ("text[]",),
            (ids,),
        )
        self._found += len(rows)
        return Listed([row["block"] for row in rows], [row["position"] for row in rows])

    def _experiment_id(self, node: tree.Predicate) -> Condition:
        if isinstance(node, tree.IsNull):
            return Constant(node.negated)
        compiler = self._compiler(rawsql.Params())
        condition = compiler.predicate(node, "e")
        rows = plans.run(
            self._plpy,
            "select e.experiment_id from (select distinct b.experiment_id from insights.block b) e"
            f" where {condition}",
            compiler.params.types,
            compiler.params.values,
        )
        found = {row["experiment_id"] for row in rows}
        return OfBlocks(lambda experiment_id: experiment_id in found)

    def _synthesised(self, node: tree.Predicate, row: storage.Row) -> Condition:
        """The JSON text of the number columns is compared as the numbers in it."""
        there: tree.Node = tree.Or(
            tuple(tree.IsNull(part.field, negated=True) for part in row.parts)
        )
        if isinstance(node, tree.IsNull):
            return self.plan(there if node.negated else tree.Not(there))
        if isinstance(node, tree.TextCompare):
            texts, negated = [node.value], node.op == "!="
        elif isinstance(node, tree.In):
            texts = [value for value in node.values if isinstance(value, str)]
            negated = node.negated
        else:
            return Unknown()
        options: list[tree.Node] = []
        for text in texts:
            numbers = rawsql.canonical_numbers(text, row.parts)
            if numbers:
                options.append(
                    tree.And(
                        tuple(
                            tree.NumberCompare(part.field, "=", numbers[part.name])
                            if part.name in numbers
                            else tree.IsNull(part.field)
                            for part in row.parts
                        )
                    )
                )
        same = Some([self.plan(option) for option in options])
        return All([self.plan(there), Complement(same)]) if negated else same

    def _trace_number(self, row: storage.Row, node: tree.Predicate) -> Condition:
        if isinstance(node, tree.IsNull):
            return self._present(row, node) if row.nullable else Constant(node.negated)
        wanted = self._wanted(row, node)
        if row is storage.START_TIME:
            return Times(self._plpy, self.timestamps(), wanted)
        return self._numbers(row, wanted)

    def _wanted(self, row: storage.Row, node: tree.Predicate) -> Intervals:
        """Where a predicate on the numbers of a field holds."""
        sql = self._compiler(rawsql.Params())

        def bounds(value: tree.Value) -> intervals.Bounds:
            if not row.whole:
                return intervals.bounds_of(row.type, sql.as_double(value))
            number = value if isinstance(value, float) else sql.as_integer(value)
            if row is storage.SPAN_COUNT and isinstance(number, int):
                number = min(max(number, -1), 2**62)
            return intervals.bounds_of(row.type, number)

        return intervals.intervals_of(node, bounds)

    def _numbers(self, row: storage.Row, wanted: Intervals) -> Condition:
        terms = self._terms(row.kinds, row.key, _NUMBERS)
        self._found += len(terms)
        # Kinds may share a signature, 0, but not a series.
        series: list[Series] = []
        for kind in row.kinds:
            own = terms if len(row.kinds) == 1 else self._terms((kind,), row.key, _SLICES)
            series += self._series(own).values()
        unsure = _numbers_of(_unknown(terms, NUMBER))
        return Numbers(series, wanted, (*unsure, *_numbers_of(self.lost(row))))

    def _present(self, row: storage.Row, node: Optional[tree.IsNull] = None) -> Condition:
        terms = _numbers_of(self._terms(row.kinds, row.key, Role.PRESENT))
        self._found += len(terms)
        found = Facts(terms, _numbers_of(self.lost(row)))
        return Complement(found) if node is not None and not node.negated else found

    def _texts(self, row: storage.Row, node: tree.Predicate) -> Condition:
        if isinstance(node, tree.IsNull):
            return self._present(row, node)
        if isinstance(node, tree.In) and row.sliced:
            numbers = [value for value in node.values if not isinstance(value, str)]
            texts = [value for value in node.values if isinstance(value, str)]
            if numbers:
                return self._mixed(row, node, texts, numbers)
        if isinstance(node, (tree.NumberCompare, tree.Between)) and row.sliced:
            few = self._few_numbers(row, node) if row.single else None
            if few is not None:
                return Facts(_numbers_of(few), ())
            return self._numbers(row, self._wanted(row, node))
        opposite = _opposite(node)
        if opposite is not None and row.single:
            there = self._present(row)
            assert isinstance(there, Facts)
            return Facts(*self._matching(row, opposite), within=there)
        return Facts(*self._matching(row, node))

    def _mixed(
        self,
        row: storage.Row,
        node: tree.In,
        texts: Sequence[str],
        numbers: Sequence[tree.Value],
    ) -> Condition:
        """IN with numbers in the list, perhaps texts as well."""
        as_numbers = tree.In(node.field, tuple(numbers))
        found = self._numbers(row, self._wanted(row, as_numbers))
        if texts:
            found = Some([self._texts(row, tree.In(node.field, tuple(texts))), found])
        if not node.negated:
            return found
        if row.single:
            return All([self._present(row), Complement(found)])
        if texts:
            return All([self._present(row), Unknown()])
        outside = tree.In(node.field, tuple(numbers), negated=True)
        return NotNumbers(
            self._present(row),
            self._numbers(row, intervals.ALL),
            self._numbers(row, self._wanted(row, outside)),
        )

    def _matching(self, row: storage.Row, node: tree.Predicate) -> tuple[Terms, Terms]:
        """The terms of values that satisfy ``node``, and of those that may."""
        if row.source is Source.ASSESSMENT:
            sure = self._values(row, lambda sql: _assessed(sql, node))
            buckets = _buckets(node, stored_as_json=True)
        else:
            sure = self._values(row, lambda sql: sql.text("v.value", node))
            buckets = _buckets(node)
        unsure = _numbers_of(self._uncertain(row, buckets))
        return _numbers_of(sure), (*unsure, *_numbers_of(self.lost(row)))

    def _few_numbers(self, row: storage.Row, node: tree.Predicate) -> Optional[list[Term]]:
        """The values whose number satisfies ``node``, if they are few and none is missing.

        A slice for every bit of a number is more to read than a few values.
        """
        (known,) = plans.run(
            self._plpy,
            'select coalesce((select max(v."values") from insights.vocabulary v'
            " where v.kind = any($1) and v.key = $2), 0) <= $3 and not exists ("
            " select from insights.term t where t.kind = any($1) and t.key = $2"
            f" and (t.role = '{Role.BUCKET}'"
            f" or t.role = '{Role.UNKNOWN}' and t.slot in ({TEXT}, {NUMBER}))) as few",
            ("text[]", "text", "int"),
            (list(row.kinds), row.key, FEW_VALUES),
        )
        if not known["few"]:
            return None
        return self._values(row, lambda sql: sql.text("v.value", node))

    def _uncertain(self, row: storage.Row, buckets: Optional[Sequence[int]]) -> list[Term]:
        """The terms of texts that are not in the vocabulary."""
        return [
            term
            for term in self._terms(row.kinds, row.key, Role.BUCKET + Role.UNKNOWN)
            if (
                term.slot == TEXT
                if term.role == Role.UNKNOWN
                else buckets is None or term.slot in buckets
            )
        ]

    # ------------------------------------------------------------------ spans

    def _all_spans(self) -> Spans:
        if self._spans is None:
            counts: dict[int, list[tuple[int, int]]] = {}
            terms = self._terms(("span",), "count", Role.LOW)
            for term in sorted(terms, key=lambda term: term.slot):
                counts.setdefault(term.signature, []).append((term.slot, term.number))
            self._spans = Spans(counts)
        return self._spans

    def _cases(self, condition: Optional[tree.Node]) -> list[tuple[SpanCondition, Sequence[int]]]:
        """What is left of a span condition, each with the signatures it is left for."""
        columns = _columns(condition)
        rows = self._signature_rows(columns)
        grouped: dict[tuple[Optional[bool], ...], list[int]] = {}
        for signature, outcome in rows:
            grouped.setdefault(outcome, []).append(signature)
        leaves: dict[tree.Predicate, SpanCondition] = {}
        cases: list[tuple[SpanCondition, Sequence[int]]] = []
        for outcome, signatures in grouped.items():
            settled = dict(zip(columns, outcome))
            left = self._reduce(condition, settled, leaves)
            if not isinstance(left, SpanConstant) or left.holds:
                cases.append((left, signatures))
        return cases

    def _signature_rows(
        self, columns: Sequence[tree.Predicate]
    ) -> list[tuple[int, tuple[Optional[bool], ...]]]:
        """Every signature with the outcome of each predicate on its columns."""
        compiler = self._compiler(rawsql.Params())
        tests = "".join(
            f", coalesce({compiler.span_column(node, storage.of(node.field))}, false) as c{number}"
            for number, node in enumerate(columns)
            if isinstance(node.field, tree.SpanText)
        )
        rows = plans.run(
            self._plpy,
            f"select s.signature, s.bucket, s.status{tests} from insights.signature s",
            compiler.params.types,
            compiler.params.values,
        )
        found = []
        for row in rows:
            outcome = []
            for number, node in enumerate(columns):
                known: Optional[bool] = row[f"c{number}"]
                assert isinstance(node.field, tree.SpanText)
                # A bucket of names; of whole signatures where not even the status is known.
                if row["bucket"] is not None and (node.field.name == "name" or row["status"] == ""):
                    known = None
                outcome.append(known)
            found.append((row["signature"], tuple(outcome)))
        return found

    def _reduce(
        self,
        node: Optional[tree.Node],
        settled: dict[tree.Predicate, Optional[bool]],
        leaves: dict[tree.Predicate, SpanCondition],
    ) -> SpanCondition:
        """A span condition with the outcomes of some predicates put in."""
        if node is None:
            return SpanConstant(True)
        if isinstance(node, (tree.And, tree.Or)):
            decisive = isinstance(node, tree.Or)
            rest = []
            for item in node.items:
                left = self._reduce(item, settled, leaves)
                if isinstance(left, SpanConstant):
                    if left.holds == decisive:
                        return left
                else:
                    rest.append(left)
            if not rest:
                return SpanConstant(not decisive)
            if len(rest) == 1:
                return rest[0]
            return SpanAny(rest) if decisive else SpanAll(rest)
        if isinstance(node, tree.Not):
            left = self._reduce(node.item, settled, leaves)
            return SpanConstant(not left.holds) if isinstance(left, SpanConstant) else SpanNot(left)
        if isinstance(node, tree.QUANTIFIERS):
            raise TypeError(f"a span quantifier within a span condition: {node}")
        if node in settled:
            known = settled[node]
            return SpanUnknown() if known is None else SpanConstant(known)
        if node not in leaves:
            leaves[node] = self._span_predicate(node)
        return leaves[node]

    def _any_span(self, condition: tree.Node) -> Condition:
        if _is_column(condition) and not isinstance(condition, tree.IsNull):
            # Each value of the column is a fact of the trace, too.
            assert isinstance(condition.field, tree.SpanText)
            return self._texts(storage.of(condition.field), condition)
        if _is_duration(condition):
            found = self._any_duration(condition)
            if found is not None:
                return found
        return AnySpan(self._all_spans(), self._cases(condition))

    def _any_duration(self, node: tree.Predicate) -> Optional[Condition]:
        """Of all spans of a trace the shortest and the longest duration are known."""
        if isinstance(node, tree.IsNull):
            if not node.negated:
                return None
            return Facts(tuple(self._terms_of_all_spans(Role.PRESENT).values()), ())
        wanted = self._wanted(storage.of(node.field), node)
        if len(wanted) != 1 or (wanted[0][0] > 0 and wanted[0][1] < intervals.LAST):
            return None  # one in the middle might do
        slices = self._terms_of_all_spans(Role.LOW)
        self._found += len(slices)
        series = Series(slices, self._terms_of_all_spans(Role.SPREAD))
        return Numbers([series], wanted, ())

    def _terms_of_all_spans(self, role: str) -> dict[int, int]:
        """Term by slot of the durations, whatever the signature."""
        rows = plans.run(
            self._plpy,
            "select v.term, v.slot from insights.term v where v.kind = 'span'"
            " and v.key = 'duration' and v.role = $1::\"char\" and v.value = ''"
            " and v.signature = 0",
            ("text",),
            (role,),
        )
        return {row["slot"]: row["term"] for row in rows}

    def _count(self, node: tree.CountSpans) -> Condition:
        compare = tree.NumberCompare(storage.SPAN_COUNT.field, node.op, node.value)
        if node.condition is None:
            return self._trace_number(storage.SPAN_COUNT, compare)
        zero = intervals.ZERO
        wanted = [
            (max(low - zero, 0), None if high == intervals.LAST else high - zero)
            for low, high in self._wanted(storage.SPAN_COUNT, compare)
            if high >= zero
        ]
        return CountSpans(self._all_spans(), self._cases(node.condition), wanted)

    def _aggregate(self, node: tree.AggregateSpans) -> Condition:
        """The smallest and largest become conditions on some span; sums stay bounds."""

        def some(*predicates: tree.Node) -> Condition:
            given = () if node.condition is None else (node.condition,)
            items = (*given, *predicates)
            return self._any_span(items[0] if len(items) == 1 else tree.And(items))

        def compared(op: str) -> tree.Node:
            return tree.NumberCompare(node.field, op, node.value)

        # Every number satisfies one of these.
        number = tree.Or((compared("<"), compared(">=")))
        if node.function in ("sum", "avg"):
            return All([some(number), Unknown()])
        further, back = (">", "<") if node.function == "max" else ("<", ">")
        if node.op in (further, f"{further}="):
            return some(compared(node.op))
        if node.op in (back, f"{back}="):
            reached = f"{further}=" if node.op == back else further
            return All([some(number), Complement(some(compared(reached)))])
        equal = All([some(compared(f"{further}=")), Complement(some(compared(further)))])
        return equal if node.op == "=" else All([some(number), Complement(equal)])

    def _span_predicate(self, node: tree.Predicate) -> SpanCondition:
        target = node.field
        if isinstance(target, tree.SpanNumber):
            return self._duration(node)
        if isinstance(target, tree.SpanAttribute):
            return self._attribute(node, target)
        return SpanUnknown()

    def _duration(self, node: tree.Predicate) -> SpanCondition:
        row = storage.of(node.field)
        if isinstance(node, tree.IsNull):
            present = self._terms(row.kinds, row.key, Role.PRESENT)
            there = SpanFacts(_by_signature(present), {}, ())
            return there if node.negated else SpanNot(there)
        terms = [one for one in self._terms(row.kinds, row.key, _NUMBERS) if one.signature]
        self._found += len(terms)
        unsure = _by_signature([term for term in terms if term.role == Role.UNKNOWN])
        wanted = self._wanted(storage.of(node.field), node)
        return SpanNumbers(self._series(terms), wanted, SpanFacts({}, unsure, ()))

    def _attribute(self, node: tree.Predicate, target: tree.SpanAttribute) -> SpanCondition:
        row = storage.of(target)
        if row.indexed is Indexed.NOTHING:
            return SpanUnknown()
        lost = self.lost(row)
        if isinstance(node, tree.IsNull):
            present = self._terms(row.kinds, row.key, Role.PRESENT)
            self._found += len(present)
            there = self._facts(present, lost)
            return there if node.negated else SpanNot(there)
        if isinstance(node, tree.In):
            numbers = tuple(value for value in node.values if not isinstance(value, str))
            if numbers and node.negated:
                # Without a cap on what each span holds: one value against all of these.
                each = [_one(node.field, value) for value in node.values]
                known = self._attribute(tree.IsNull(node.field, negated=True), target)
                return SpanAll([known, *(SpanNot(self._attribute(one, target)) for one in each)])
            if numbers:
                texts = tuple(value for value in node.values if isinstance(value, str))
                found = self._attribute_number(tree.In(node.field, numbers), row, lost)
                if not texts:
                    return found
                return SpanAny([found, self._attribute(tree.In(node.field, texts), target)])
        if isinstance(node, (tree.NumberCompare, tree.Between)):
            return self._attribute_number(node, row, lost)
        values = self._values(row, lambda sql: sql.text("v.value", node))
        return self._facts(values, self._uncertain(row, _buckets(node)) + lost)

    def _attribute_number(
        self, node: tree.Predicate, row: storage.Row, lost: list[Term]
    ) -> SpanCondition:
        few = self._few_numbers(row, node)
        if few is not None:
            return self._facts(few, lost)
        terms = self._terms(row.kinds, row.key, _NUMBERS)
        self._found += len(terms)
        wanted = self._wanted(row, node)
        unsure = self._facts([], _unknown(terms, NUMBER) + lost)
        return SpanNumbers(self._series(terms), wanted, unsure)

    def _facts(self, sure: Iterable[Term], unsure: Iterable[Term]) -> SpanFacts:
        by_signature = _by_signature(unsure)
        anywhere = tuple(by_signature.pop(0, ()))
        return SpanFacts(_by_signature(sure), by_signature, anywhere)


#: Roles of slices of numbers, and those of all that is known of numbers.
_SLICES = Role.LOW + Role.SPREAD
_NUMBERS = _SLICES + Role.UNKNOWN


def _numbers_of(terms: Iterable[Term]) -> Terms:
    return tuple(term.number for term in terms)


def _unknown(terms: Iterable[Term], slot: int) -> list[Term]:
    """Those of the terms that say that something was not captured."""
    return [term for term in terms if term.role == Role.UNKNOWN and term.slot == slot]


def _by_signature(terms: Iterable[Term]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for term in terms:
        found.setdefault(term.signature, []).append(term.number)
    return found


def _one(field: tree.Field, value: tree.Value) -> tree.Predicate:
    """Equality with one item of a list."""
    if isinstance(value, str):
        return tree.TextCompare(field, "=", value)
    return tree.NumberCompare(field, "=", value)


def _all(conditions: list[Condition]) -> Condition:
    return All(conditions) if conditions else Constant(True)


def _columns(condition: Optional[tree.Node]) -> list[tree.Predicate]:
    """The predicates on type, name and status in a span condition, each once."""
    if condition is None:
        return []
    return list(dict.fromkeys(filter(_is_column, tree.leaves(condition))))


def _is_duration(node: tree.Node) -> TypeGuard[tree.Predicate]:
    """Whether a node is a predicate on the duration of a span."""
    return isinstance(node, tree.PREDICATES) and isinstance(node.field, tree.SpanNumber)


def _is_column(node: tree.Node) -> TypeGuard[tree.Predicate]:
    """Whether a node is a predicate on the type, name or status of a span."""
    return (
        isinstance(node, tree.PREDICATES)
        and isinstance(node.field, tree.SpanText)
        and node.field.name != "content"
    )


def _assessed(sql: rawsql.Compiler, node: tree.Predicate) -> str:
    """The raw condition on the text of an assessment, on a vocabulary row instead."""
    return sql.assessed(node, "v")


def _opposite(node: tree.Predicate) -> Optional[tree.Predicate]:
    """The predicate that a negated one is the negation of, on a value that exists."""
    if isinstance(node, tree.TextCompare) and node.op == "!=":
        return tree.TextCompare(node.field, "=", node.value)
    if isinstance(node, tree.Match) and node.negated:
        return tree.Match(node.field, node.op, node.pattern)
    if isinstance(node, tree.In) and node.negated:
        return tree.In(node.field, node.values)
    return None


def _buckets(node: tree.Predicate, stored_as_json: bool = False) -> Optional[Sequence[int]]:
    """The buckets with values that may satisfy ``node``; None: all of them."""
    if isinstance(node, tree.TextCompare) and node.op == "=":
        texts = [node.value]
    elif isinstance(node, tree.In) and not node.negated:
        texts = [value for value in node.values if isinstance(value, str)]
        if len(texts) < len(node.values):
            return None
    else:
        return None
    if stored_as_json:
        texts += [json.dumps(text) for text in texts]
    return [bucket_of(text) for text in texts]
