"""Hypothesis strategies for filters in normal form, as the parser hands them out.

``filters()`` generates whole trees.  A test with a small world of its own
passes a `Vocabulary` whose keys and values occur in that world.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st
from insights_engine.language import fields, storage, tree

#: Texts that have broken parsers, printers and SQL before.
HOSTILE_TEXTS = (
    "",
    " ",
    "a b",
    "it's",
    "''",
    '"',
    '"quoted"',
    "`tick`",
    "\\",
    "\\'",
    'back\\slash"',
    "a.b",
    ".",
    "a..b",
    "['x']",
    "]",
    "[0]",
    "0",
    "007",
    "1a",
    "my-key",
    "a--b",
    "/* c */",
    ";",
    "AND",
    "or",
    "not",
    "null",
    "true",
    "count",
    "any(",
    "name",
    "Name",
    "run_id",
    "prompt",
    "text",
    "timestamp",
    "execution_time",
    "end_time_ms",
    "mlflow.traceName",
    "mlflow.trace.session",
    "mlflow.trace.tokenUsage",
    "mlflow.spanType",
    "span.type",
    "tags",
    "now()",
    "%",
    "_",
    "%s",
    "%(x)s",
    ":x",
    "$1",
    "{}",
    "line\nbreak",
    "tab\there",
    "\r",
    "\x01\x7f",
    "naïve",
    "日本語",
    "e\u0301",
    "\u00a0",
    "\u2028",
    "\u200b",
    "“smart”",
    "😀",
    "\ufffd",
    "1e3",
    "5",
    "-0.5",
    "NaN",
    "x'); DROP TABLE spans; --",
)


def any_text() -> st.SearchStrategy[str]:
    """Any text that PostgreSQL can hold, hostile ones often."""
    characters = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
    return st.one_of(st.sampled_from(HOSTILE_TEXTS), st.text(characters, max_size=8))


def any_number() -> st.SearchStrategy[int | float]:
    """Any number that a filter can hold in every numeric place."""
    return st.one_of(
        st.integers(-5, 100),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from([0.0, -0.0, 0.5, 1e300, 5e-324, 1e22, 2**53 + 1]),
    )


def any_now() -> st.SearchStrategy[tree.Now]:
    """``now()`` with an offset."""
    days = st.integers(-400, 400).map(lambda days: days * 86_400_000)
    return st.one_of(st.just(0), days, st.integers(-(2**53), 2**53)).map(tree.Now)


@dataclass(frozen=True)
class Vocabulary:
    """What the generated filters speak of.

    ``texts`` and ``numbers`` are the values compared with, ``patterns`` those
    of LIKE, ILIKE and RLIKE; the others are keys and names.  ``names`` narrows
    the fields of the trace and of spans: spellings such as ``status``,
    ``run_id``, ``total_tokens``, ``span.type``; None: all of them.
    """

    texts: st.SearchStrategy[str] = field(default_factory=any_text)
    numbers: st.SearchStrategy[int | float] = field(default_factory=any_number)
    times: st.SearchStrategy[int | float | tree.Now] = field(
        default_factory=lambda: st.one_of(any_number(), any_now())
    )
    patterns: st.SearchStrategy[str] = field(default_factory=any_text)
    prompts: st.SearchStrategy[str] = field(
        default_factory=lambda: st.tuples(any_text(), any_text()).map(
            lambda pair: "/".join(part.replace("/", "") for part in pair)
        )
    )
    tag_keys: st.SearchStrategy[str] = field(default_factory=any_text)
    metadata_keys: st.SearchStrategy[str] = field(
        default_factory=lambda: st.one_of(any_text(), st.sampled_from(sorted(storage.USAGE)))
    )
    assessment_names: st.SearchStrategy[str] = field(default_factory=any_text)
    attribute_paths: st.SearchStrategy[tuple[str, ...]] = field(
        default_factory=lambda: st.lists(any_text(), min_size=1, max_size=3).map(tuple)
    )
    match_operators: tuple[str, ...] = ("LIKE", "ILIKE", "RLIKE")
    names: Sequence[str] | None = None


ANYTHING = Vocabulary()

_COMPARATORS = ("=", "!=", "<", "<=", ">", ">=")


def _chosen(candidates: Sequence[tree.Field], vocabulary: Vocabulary) -> list[tree.Field]:
    names = vocabulary.names
    return [f for f in candidates if names is None or fields.spell(f) in names]


def trace_fields(vocabulary: Vocabulary = ANYTHING) -> st.SearchStrategy[tree.Field]:
    """Fields of the trace."""
    columns: list[tree.Field] = [
        *(row.field for row in storage.TRACE.values()),
        tree.Issue(),
    ]
    chosen = _chosen(columns, vocabulary)
    return st.one_of(
        *([st.sampled_from(chosen)] * 2 if chosen else []),
        vocabulary.tag_keys.filter(
            lambda key: key not in fields.PROMOTED_TAGS or ("tags", key) in fields.LINKED_KEYS
        ).map(tree.Tag),
        vocabulary.metadata_keys.filter(
            lambda key: (
                key not in fields.PROMOTED_METADATA or ("metadata", key) in fields.LINKED_KEYS
            )
        ).map(tree.Metadata),
        # Which any text would hardly ever be.
        *(
            st.just(tree.Tag(key) if group == "tags" else tree.Metadata(key))
            for group, key in sorted(fields.LINKED_KEYS)
            if vocabulary is ANYTHING
        ),
        st.builds(
            tree.Assessment,
            st.sampled_from(["feedback", "expectation", "assessment"]),
            vocabulary.assessment_names.filter(bool),
        ),
    )


def span_fields(vocabulary: Vocabulary = ANYTHING) -> st.SearchStrategy[tree.Field]:
    """Fields of a span."""
    chosen = _chosen(list(fields.SPAN_FIELDS.values()), vocabulary)
    attributes = vocabulary.attribute_paths.map(tree.SpanAttribute)
    return st.one_of(*([st.sampled_from(chosen)] if chosen else []), attributes)


_BOOLEANS = st.booleans()
_ANY_COMPARATOR = st.sampled_from(_COMPARATORS)


def _forms(subject: tree.Field) -> list[str]:
    """The kinds of predicates that the language has for a field."""
    if fields.is_usage(subject):
        return ["null", "text"]
    forms = ["null", "in"]
    if not fields.is_number(subject):
        forms.append("match")
        if subject != tree.SpanText("content"):
            forms.append("text")
    if fields.may_hold_numbers(subject):
        forms += ["number", "between"]
    return forms


@st.composite
def predicates(
    draw: st.DrawFn,
    subjects: st.SearchStrategy[tree.Field],
    vocabulary: Vocabulary = ANYTHING,
) -> tree.Predicate:
    """Every predicate that the language has for one of the fields."""
    subject = draw(subjects)
    forms = _forms(subject)
    form = draw(st.sampled_from(forms))
    negated = draw(_BOOLEANS)
    if form == "null":
        return tree.IsNull(subject, negated)
    texts = vocabulary.prompts if subject == tree.TraceText("prompt") else vocabulary.texts
    values = vocabulary.times if fields.is_time(subject) else vocabulary.numbers
    if form == "text":
        return tree.TextCompare(subject, "!=" if negated else "=", draw(texts))
    if form == "match":
        operator = draw(st.sampled_from(vocabulary.match_operators))
        return tree.Match(subject, operator, draw(vocabulary.patterns), negated)
    if form == "number":
        return tree.NumberCompare(subject, draw(_ANY_COMPARATOR), draw(values))
    if form == "between":
        return tree.Between(subject, draw(values), draw(values), negated)
    items: list[tree.Value] = []
    for _ in range(draw(st.integers(1, 3))):
        numeric = "number" in forms and ("text" not in forms or draw(_BOOLEANS))
        items.append(draw(values) if numeric else draw(texts))
    return tree.In(subject, tuple(items), negated)


def conjunction(items: Sequence[tree.Node]) -> tree.Node:
    """AND of the items in normal form."""
    flat: list[tree.Node] = []
    for item in items:
        flat.extend(item.items if isinstance(item, tree.And) else (item,))
    return flat[0] if len(flat) == 1 else tree.And(tuple(flat))


def disjunction(items: Sequence[tree.Node]) -> tree.Node:
    """OR of the items in normal form."""
    flat: list[tree.Node] = []
    for item in items:
        flat.extend(item.items if isinstance(item, tree.Or) else (item,))
    return flat[0] if len(flat) == 1 else tree.Or(tuple(flat))


def _algebra(leaves: st.SearchStrategy[tree.Node], max_leaves: int) -> st.SearchStrategy[tree.Node]:
    def extend(children: st.SearchStrategy[tree.Node]) -> st.SearchStrategy[tree.Node]:
        several = st.lists(children, min_size=2, max_size=3)
        return st.one_of(several.map(conjunction), several.map(disjunction), children.map(tree.Not))

    return st.recursive(leaves, extend, max_leaves=max_leaves)


def span_conditions(
    vocabulary: Vocabulary = ANYTHING, max_leaves: int = 4
) -> st.SearchStrategy[tree.Node]:
    """What stands inside any(), count() and after WHERE."""
    leaves = predicates(span_fields(vocabulary), vocabulary)
    return _algebra(leaves, max_leaves)


def quantifiers(
    vocabulary: Vocabulary = ANYTHING, max_leaves: int = 4
) -> st.SearchStrategy[tree.Node]:
    """any(...), count(...) and the aggregates, compared."""
    conditions = span_conditions(vocabulary, max_leaves)
    optional = st.one_of(st.none(), conditions)
    comparators = st.sampled_from(_COMPARATORS)
    numeric = st.one_of(
        st.just(tree.SpanNumber("duration_ms")),
        vocabulary.attribute_paths.map(tree.SpanAttribute),
    )
    return st.one_of(
        conditions.map(tree.AnySpan),
        st.builds(tree.CountSpans, optional, comparators, st.integers(-1, 5)),
        st.builds(
            tree.AggregateSpans,
            st.sampled_from(["sum", "avg", "min", "max"]),
            numeric,
            optional,
            comparators,
            vocabulary.numbers,
        ),
    )


def filters(vocabulary: Vocabulary = ANYTHING, max_leaves: int = 6) -> st.SearchStrategy[tree.Node]:
    """Whole filters, EVERYTHING included."""
    leaves = st.one_of(
        predicates(trace_fields(vocabulary), vocabulary),
        quantifiers(vocabulary),
    )
    return st.one_of(st.just(tree.EVERYTHING), *[_algebra(leaves, max_leaves)] * 9)


__all__ = [
    "ANYTHING",
    "HOSTILE_TEXTS",
    "Vocabulary",
    "any_now",
    "any_number",
    "any_text",
    "conjunction",
    "disjunction",
    "filters",
    "predicates",
    "quantifiers",
    "span_conditions",
    "span_fields",
    "trace_fields",
]
