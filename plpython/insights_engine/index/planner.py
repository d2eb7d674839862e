"""Turns filters into conditions on the index, by looking up the vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Callable, Optional

from insights_engine.base import plans
from insights_engine.exact import rawsql
from insights_engine.facts.terms import (
    CONTENT,
    LONGEST_KEY,
    NUMBER,
    PARTS,
    SEPARATOR,
    SESSION,
    TEXT,
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
from insights_engine.language import fields, tree
from insights_engine.sets import intervals
from insights_engine.sets.intervals import Intervals

if TYPE_CHECKING:
    from typing_extensions import TypeGuard

#: Numbers of so many different values are looked up by value, of more by their bits.
FEW_VALUES = 200
#: Predicates that a planner remembers.
_MOST_LEAVES = 200

_NUMBER_KINDS = frozenset(("tag", "metadata", "feedback", "expectation"))
_SINGLE_KINDS = frozenset(("trace", "tag", "metadata"))
_COLUMN_NUMBERS = frozenset(name for name in tree.TRACE_NUMBER_FIELDS if not name.endswith("_cost"))


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
        rows = self._terms(("trace",), name, "nxo")
        series = self._series(rows).get(0) or Series({}, {})
        return series, tuple(row[0] for row in rows if row[1] == "o" and row[3] == NUMBER)

    def timestamps(self) -> Series:
        """When the traces began."""
        if self._times is None:
            found = self._series(self._terms(("trace",), "timestamp_ms", "nx"))
            self._times = found.get(0) or Series({}, {})
        return self._times

    # ------------------------------------------------------------ vocabulary

    def _terms(
        self, kinds: Sequence[str], key: str, roles: str, slots: Optional[Sequence[int]] = None
    ) -> list[tuple[int, str, int, int]]:
        """(term, role, signature, slot) of the terms of a key that are no values."""
        chosen = "" if slots is None else " and v.slot = any($4)"
        rows = plans.run(
            self._plpy,
            "select v.term, v.role::text as role, v.signature, v.slot from insights.term v"
            f' where v.kind = any($1) and v.key = $2 and v.role = any($3::"char"[]){chosen}',
            ("text[]", "text", "text[]", "int[]")[: 3 if slots is None else 4],
            (list(kinds), key, list(roles), slots)[: 3 if slots is None else 4],
        )
        return [(row["term"], row["role"], row["signature"], row["slot"]) for row in rows]

    def _values(
        self,
        kinds: Sequence[str],
        key: str,
        condition: Callable[[rawsql.Compiler], str],
    ) -> list[tuple[int, int]]:
        """(term, signature) of the values of a key that satisfy a condition on ``v.value``."""
        params = rawsql.Params()
        compiler = self._compiler(params)
        compiled = condition(compiler)
        sql = (
            "select v.term, v.signature from insights.term v"
            f" where v.kind = any({params.add(list(kinds), 'text[]')})"
            f" and v.key = {params.add(key, 'text')} and v.role = 'v' and ({compiled})"
        )
        rows = plans.run(self._plpy, sql, params.types, params.values)
        self._found += len(rows)
        return [(row["term"], row["signature"]) for row in rows]

    def _compiler(self, params: rawsql.Params) -> rawsql.Compiler:
        scope = None if self._experiments is None else list(self._experiments)
        return rawsql.Compiler(params, self._schema, scope, self.now_ms, "set")

    def _series(self, rows: Iterable[tuple[int, str, int, int]]) -> dict[int, Series]:
        """Series by signature."""
        low: dict[int, dict[int, int]] = {}
        spread: dict[int, dict[int, int]] = {}
        for term, role, signature, slot in rows:
            if role == "n":
                low.setdefault(signature, {})[slot] = term
            elif role == "x":
                spread.setdefault(signature, {})[slot] = term
        return {one: Series(slices, spread.get(one, {})) for one, slices in low.items()}

    # ------------------------------------------------------ trace predicates

    def _predicate(self, node: tree.Predicate) -> Condition:
        target = node.field
        if isinstance(target, tree.TraceText):
            if target.name == "trace_id":
                return self._trace_id(node)
            if target.name == "experiment_id":
                return self._experiment_id(node)
            if target.name == "user":
                return self._texts(("metadata",), rawsql.USER, node)
            if target.name == "run_id":
                return self._texts(("run",), "", node)
            if target.name == "prompt":
                return self._texts(("prompt",), "", node)
            return self._texts(("trace",), target.name, node)
        if isinstance(target, tree.TraceNumber):
            return self._trace_number(target.name, node)
        if isinstance(target, tree.Tag):
            if target.key == rawsql.TRACE_NAME:
                return self._texts(("trace",), "name", node)
            return self._texts(("tag",), target.key, node)
        if isinstance(target, tree.Metadata):
            if target.key == rawsql.SESSION:
                return self._texts(("trace",), "session_id", node)
            if fields.is_usage(target):
                return self._synthesised(node, target.key)
            return self._texts(("metadata",), target.key, node)
        if isinstance(target, tree.Assessment):
            kinds = ("feedback", "expectation") if target.kind == "assessment" else (target.kind,)
            return self._texts(kinds, target.name, node)
        if isinstance(target, tree.Issue):
            return self._texts(("issue",), "", node)
        raise TypeError(f"a span predicate outside of any span: {node}")

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
        condition = compiler.experiment(node, "e")
        rows = plans.run(
            self._plpy,
            "select e.experiment_id from (select distinct b.experiment_id from insights.block b) e"
            f" where {condition}",
            compiler.params.types,
            compiler.params.values,
        )
        found = {row["experiment_id"] for row in rows}
        return OfBlocks(lambda experiment_id: experiment_id in found)

    def _synthesised(self, node: tree.Predicate, key: str) -> Condition:
        """The JSON text of the number columns is compared as the numbers in it."""
        columns = rawsql.SYNTHESISED[key]
        there: tree.Node = tree.Or(
            tuple(tree.IsNull(tree.TraceNumber(name), negated=True) for name in columns)
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
            numbers = rawsql.canonical_numbers(text, columns, whole=key == rawsql.TOKEN_USAGE)
            if numbers:
                options.append(
                    tree.And(
                        tuple(
                            tree.NumberCompare(tree.TraceNumber(name), "=", numbers[name])
                            if name in numbers
                            else tree.IsNull(tree.TraceNumber(name))
                            for name in columns
                        )
                    )
                )
        same = Some([self.plan(option) for option in options])
        return All([self.plan(there), Complement(same)]) if negated else same

    def _trace_number(self, name: str, node: tree.Predicate) -> Condition:
        if isinstance(node, tree.IsNull):
            if name in ("span_count", "end_time_ms", "timestamp_ms"):
                return Constant(node.negated)
            return self._present(("trace",), name, node)
        bounds = self._bounds_among_integers if name in _COLUMN_NUMBERS else self._bounds_of_double
        if name == "span_count":
            bounds = self._bounds_of_count
        wanted = intervals.intervals_of(node, bounds)
        if name == "timestamp_ms":
            return Times(self._plpy, self.timestamps(), wanted)
        return self._numbers(("trace",), name, wanted)

    def _bounds_of_double(self, value: tree.Value) -> intervals.Bounds:
        return intervals.bounds_of_double(self._double(value))

    def _double(self, value: tree.Value) -> float:
        return self._compiler(rawsql.Params()).as_double(value)

    def _bounds_of_duration(self, value: tree.Value) -> intervals.Bounds:
        return intervals.bounds_of_duration(self._double(value))

    def _bounds_among_integers(self, value: tree.Value) -> intervals.Bounds:
        if isinstance(value, float):
            return intervals.bounds_among_integers(value)
        return intervals.bounds_of_integer(self._integer(value))

    def _bounds_of_count(self, value: tree.Value) -> intervals.Bounds:
        if isinstance(value, float):
            return intervals.bounds_among_integers(value)
        return intervals.bounds_of_integer(min(max(self._integer(value), -1), 2**62))

    def _integer(self, value: tree.Value) -> int:
        if isinstance(value, tree.Now):
            return self.now_ms + value.offset_ms
        assert isinstance(value, int)
        return value

    def _numbers(self, kinds: Sequence[str], key: str, wanted: Intervals) -> Condition:
        rows = self._terms(kinds, key, "nxo")
        self._found += len(rows)
        # Kinds may share a signature, 0, but not a series.
        series: list[Series] = []
        for kind in kinds:
            own = rows if len(kinds) == 1 else self._terms((kind,), key, "nx")
            series += self._series(own).values()
        unsure = [term for term, role, _, slot in rows if role == "o" and slot == NUMBER]
        return Numbers(series, wanted, (*unsure, *self._elsewhere(kinds)))

    def _elsewhere(self, kinds: Sequence[str]) -> Terms:
        """Traces whose session has assessments in another experiment."""
        if kinds[0] not in ("feedback", "expectation"):
            return ()
        return tuple(row[0] for row in self._terms(("trace",), "assessments", "o", [SESSION]))

    def _present(
        self, kinds: Sequence[str], key: str, node: Optional[tree.IsNull] = None
    ) -> Condition:
        terms = tuple(row[0] for row in self._terms(kinds, key, "p"))
        self._found += len(terms)
        found = Facts(terms, self._elsewhere(kinds))
        return Complement(found) if node is not None and not node.negated else found

    def _texts(self, kinds: Sequence[str], key: str, node: tree.Predicate) -> Condition:
        if isinstance(node, tree.IsNull):
            return self._present(kinds, key, node)
        if isinstance(node, tree.In) and kinds[0] in _NUMBER_KINDS:
            numbers = [value for value in node.values if not isinstance(value, str)]
            texts = [value for value in node.values if isinstance(value, str)]
            if numbers:
                return self._mixed(kinds, key, node, texts, numbers)
        if isinstance(node, (tree.NumberCompare, tree.Between)) and kinds[0] in _NUMBER_KINDS:
            few = None
            if kinds[0] in _SINGLE_KINDS:
                few = self._few_numbers(kinds, key, node)
            if few is not None:
                return Facts(tuple(term for term, _ in few), ())
            wanted = intervals.intervals_of(node, self._bounds_of_double)
            return self._numbers(kinds, key, wanted)
        opposite = _opposite(node)
        if opposite is not None and kinds[0] in _SINGLE_KINDS:
            there = self._present(kinds, key)
            assert isinstance(there, Facts)
            return Facts(*self._matching(kinds, key, opposite), within=there)
        return Facts(*self._matching(kinds, key, node))

    def _mixed(
        self,
        kinds: Sequence[str],
        key: str,
        node: tree.In,
        texts: Sequence[str],
        numbers: Sequence[tree.Value],
    ) -> Condition:
        """IN with numbers in the list, perhaps texts as well."""
        as_numbers = tree.In(node.field, tuple(numbers))
        found = self._numbers(
            kinds, key, intervals.intervals_of(as_numbers, self._bounds_of_double)
        )
        if texts:
            as_texts = self._texts(kinds, key, tree.In(node.field, tuple(texts)))
            found = Some([as_texts, found])
        if not node.negated:
            return found
        if kinds[0] in _SINGLE_KINDS:
            return All([self._present(kinds, key), Complement(found)])
        if texts:
            return All([self._present(kinds, key), Unknown()])
        outside = tree.In(node.field, tuple(numbers), negated=True)
        return NotNumbers(
            self._present(kinds, key),
            self._numbers(kinds, key, intervals.ALL),
            self._numbers(kinds, key, intervals.intervals_of(outside, self._bounds_of_double)),
        )

    def _matching(
        self, kinds: Sequence[str], key: str, node: tree.Predicate
    ) -> tuple[Terms, Terms]:
        """The terms of values that satisfy ``node``, and of those that may."""
        if kinds[0] in ("feedback", "expectation"):
            sure = self._values(kinds, key, lambda sql: _assessed(sql, node))
            buckets, elsewhere = _buckets(node, stored_as_json=True), self._elsewhere(kinds)
        else:
            sure = self._values(kinds, key, lambda sql: sql.text("v.value", node))
            buckets, elsewhere = _buckets(node), ()
        return tuple(term for term, _ in sure), (*self._unsure(kinds, key, buckets), *elsewhere)

    def _few_numbers(
        self, kinds: Sequence[str], key: str, node: tree.Predicate
    ) -> Optional[list[tuple[int, int]]]:
        """The values whose number satisfies ``node``, if they are few and none is missing.

        A slice for every bit of a number is more to read than a few values.
        """
        (row,) = plans.run(
            self._plpy,
            'select coalesce((select max(v."values") from insights.vocabulary v'
            " where v.kind = any($1) and v.key = $2), 0) <= $3 and not exists ("
            " select from insights.term t where t.kind = any($1) and t.key = $2"
            " and (t.role = 'h' or t.role = 'o' and t.slot in (0, 1))) as few",
            ("text[]", "text", "int"),
            (list(kinds), key, FEW_VALUES),
        )
        if not row["few"]:
            return None
        return self._values(kinds, key, lambda sql: sql.text("v.value", node))

    def _unsure(self, kinds: Sequence[str], key: str, buckets: Optional[Sequence[int]]) -> Terms:
        """The terms of texts that are not in the vocabulary."""
        return tuple(
            term
            for term, role, _, slot in self._terms(kinds, key, "ho")
            if (slot == TEXT if role == "o" else buckets is None or slot in buckets)
        )

    # ------------------------------------------------------------------ spans

    def _all_spans(self) -> Spans:
        if self._spans is None:
            counts: dict[int, list[tuple[int, int]]] = {}
            for term, _, signature, slot in sorted(
                self._terms(("span",), "count", "n"), key=lambda row: row[3]
            ):
                counts.setdefault(signature, []).append((slot, term))
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
            f", coalesce({compiler.span_text(node, node.field.name)}, false) as c{number}"
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
            return self._texts(("span",), condition.field.name, condition)
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
            return Facts(tuple(self._terms_of_all_spans("p").values()), ())
        wanted = intervals.intervals_of(node, self._bounds_of_duration)
        if len(wanted) != 1 or (wanted[0][0] > 0 and wanted[0][1] < intervals.LAST):
            return None  # one in the middle might do
        slices = self._terms_of_all_spans("n")
        self._found += len(slices)
        series = Series(slices, self._terms_of_all_spans("x"))
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
        compare = tree.NumberCompare(tree.TraceNumber("span_count"), node.op, node.value)
        if node.condition is None:
            return self._trace_number("span_count", compare)
        zero = intervals.ZERO
        wanted = [
            (max(low - zero, 0), None if high == intervals.LAST else high - zero)
            for low, high in intervals.intervals_of(compare, self._bounds_of_count)
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
        if isinstance(node, tree.IsNull):
            there = SpanFacts(_by_signature(self._terms(("span",), "duration", "p")), {}, ())
            return there if node.negated else SpanNot(there)
        rows = [row for row in self._terms(("span",), "duration", "nxo") if row[2]]
        self._found += len(rows)
        unsure = _by_signature([row for row in rows if row[1] == "o"])
        wanted = intervals.intervals_of(node, self._bounds_of_duration)
        return SpanNumbers(self._series(rows), wanted, SpanFacts({}, unsure, ()))

    def _attribute(self, node: tree.Predicate, target: tree.SpanAttribute) -> SpanCondition:
        top = target.path[0]
        if any(SEPARATOR in step for step in target.path) or len(top) > LONGEST_KEY:
            return SpanUnknown()
        key = SEPARATOR.join(target.path)
        # Whole spans, or whole keys, of which nothing is known.
        hidden = hidden_slot_of(top)
        lost = self._terms(("attribute",), "", "o", [CONTENT, hidden])
        if len(target.path) > 1:
            lost += self._terms(("attribute",), top, "o", [PARTS])
        if isinstance(node, tree.IsNull):
            present = self._terms(("attribute",), key, "p")
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
                found = self._attribute_number(tree.In(node.field, numbers), key, lost)
                if not texts:
                    return found
                return SpanAny([found, self._attribute(tree.In(node.field, texts), target)])
        if isinstance(node, (tree.NumberCompare, tree.Between)):
            return self._attribute_number(node, key, lost)
        values = self._values(("attribute",), key, lambda sql: sql.text("v.value", node))
        buckets = _buckets(node)
        unsure = [
            row
            for row in self._terms(("attribute",), key, "ho")
            if (row[3] == TEXT if row[1] == "o" else buckets is None or row[3] in buckets)
        ]
        return self._facts([(term, "v", one, 0) for term, one in values], unsure + lost)

    def _attribute_number(
        self, node: tree.Predicate, key: str, lost: list[tuple[int, str, int, int]]
    ) -> SpanCondition:
        few = self._few_numbers(("attribute",), key, node)
        if few is not None:
            return self._facts([(term, "v", one, 0) for term, one in few], lost)
        rows = self._terms(("attribute",), key, "nxo")
        self._found += len(rows)
        unsure = [row for row in rows if row[1] == "o" and row[3] == NUMBER]
        wanted = intervals.intervals_of(node, self._bounds_of_double)
        return SpanNumbers(self._series(rows), wanted, self._facts([], unsure + lost))

    def _facts(
        self,
        sure: Iterable[tuple[int, str, int, int]],
        unsure: Iterable[tuple[int, str, int, int]],
    ) -> SpanFacts:
        by_signature = _by_signature(unsure)
        anywhere = tuple(by_signature.pop(0, ()))
        return SpanFacts(_by_signature(sure), by_signature, anywhere)


def _by_signature(rows: Iterable[tuple[int, str, int, int]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for term, _, signature, _ in rows:
        found.setdefault(signature, []).append(term)
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
