"""Random questions: every kind of condition and combination, constants drawn anew.

The same seed gives the same questions.  Each stands in the three languages of
`bench.cases`: a filter for us, conditions on native columns for DuckDB and chDB, and
a filter for stock MLflow where it can be asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench import generator
from bench.cases import Question
from bench.conditions import Aggregate, Condition, Spans, Text, Trace
from bench.generator import DAY_MS, PERIOD_DAYS, PERIOD_END_MS

#: Comparisons with a constant, as each of the three languages writes them.
_COMPARISONS = ("<", "<=", ">", ">=")


@dataclass(frozen=True)
class Pair:
    """A correlation of two questions; ``kind`` is what the first is about."""

    kind: str
    first: Question
    second: Question


@dataclass(frozen=True)
class _Part:
    """A predicate of a span: ours, on columns, and stock's."""

    ours: str
    columns: str
    stock: str | None


def pairs(seed: int, number: int, *, texts: bool = True) -> list[Pair]:
    """So many questions, each kind as often as any other."""
    dice = random.Random(f"questions/{seed}")
    kinds = [kind for kind in KINDS if texts or kind not in TEXT_KINDS]
    made: dict[tuple[str, str], Pair] = {}
    while len(made) < number:
        kind = kinds[len(made) % len(kinds)]
        first = KINDS[kind](dice)
        second = KINDS[dice.choice(("trace", "one condition on a span"))](dice)
        made.setdefault((first.ours, second.ours), Pair(kind, first, second))
    return list(made.values())


# ------------------------------------------------------------------- of traces


def _trace(dice: random.Random) -> Question:
    return dice.choice(_OF_TRACES)(dice)


def _same(ours: str, columns: str) -> Question:
    return Question(ours, Trace(columns))


def _tag(dice: random.Random) -> Question:
    key, values = dice.choice(
        (
            ("environment", generator.ENVIRONMENTS),
            ("version", generator.RELEASES),
            ("customer_tier", generator.TIERS),
            ("region", generator.REGIONS),
            ("language", generator.LANGUAGES),
        )
    )
    value = dice.choice(values)
    form = dice.randrange(4)
    if form == 0:
        return _same(f"tags.{key} != '{value}'", f"{key} <> '{value}'")
    if form == 1:
        pattern = value[: dice.randint(1, len(value) - 1)] + "%"
        return _same(f"tags.{key} LIKE '{pattern}'", f"{key} like '{pattern}'")
    return _same(f"tags.{key} = '{value}'", f"{key} = '{value}'")


def _user(dice: random.Random) -> Question:
    user = f"user-{dice.randrange(5_000)}"
    return _same(f"metadata.mlflow.trace.user = '{user}'", f"user_id = '{user}'")


def _execution_time(dice: random.Random) -> Question:
    op, ms = dice.choice(_COMPARISONS), round(dice.lognormvariate(8.6, 1))
    return _same(f"execution_time {op} {ms}", f"execution_time_ms {op} {ms}")


def _tokens(dice: random.Random) -> Question:
    field = dice.choice(("input_tokens", "output_tokens", "total_tokens"))
    op, number = dice.choice(_COMPARISONS), round(dice.lognormvariate(7, 0.8))
    return Question(f"trace.{field} {op} {number}", Trace(f"{field} {op} {number}"), None)


def _cost(dice: random.Random) -> Question:
    op, number = dice.choice(_COMPARISONS), f"{dice.lognormvariate(-4, 1.5):.6f}"
    return Question(f"trace.total_cost {op} {number}", Trace(f"total_cost {op} {number}"), None)


def _status(dice: random.Random) -> Question:
    status = dice.choice(("OK", "ERROR"))
    return _same(f"status = '{status}'", f"status = '{status}'")


def _rating(dice: random.Random) -> Question:
    op, number = dice.choice(_COMPARISONS), dice.randint(1, 5)
    return _same(f"feedback.user_rating {op} {number}", f"user_rating {op} {number}")


def _quality(dice: random.Random) -> Question:
    op, number = dice.choice(_COMPARISONS), round(dice.random(), 4)
    return _same(f"feedback.quality {op} {number}", f"quality {op} {number}")


def _window(dice: random.Random) -> Question:
    end = PERIOD_END_MS - dice.randrange(PERIOD_DAYS * DAY_MS)
    begin = end - dice.randrange(DAY_MS * dice.choice((1, 7, 20)))
    return _same(
        f"timestamp >= {begin} AND timestamp < {end}",
        f"timestamp_ms >= {begin} and timestamp_ms < {end}",
    )


_OF_TRACES: Sequence[Callable[[random.Random], Question]] = (
    _tag,
    _tag,
    _user,
    _execution_time,
    _execution_time,
    _tokens,
    _cost,
    _status,
    _rating,
    _quality,
    _window,
)

# -------------------------------------------------------------------- of spans


def _choice(field: str, column: str, values: Sequence[str]) -> Callable[[random.Random], _Part]:
    """Equality with one of some values."""

    def part(dice: random.Random) -> _Part:
        value = dice.choice(values)
        stock = f"span.{field} = '{value}'"
        if field.startswith("attributes."):
            stock = f"span.{field} RLIKE '^{value}$'"
        return _Part(f"span.{field} = '{value}'", f"{column} = '{value}'", stock)

    return part


def _number(
    field: str, column: str, draw: Callable[[random.Random], float], scale: int = 1
) -> Callable[[random.Random], _Part]:
    """Comparison with a number; ``scale`` is how much larger the column's are."""

    def part(dice: random.Random) -> _Part:
        op, number = dice.choice(_COMPARISONS), draw(dice)
        return _Part(f"span.{field} {op} {number}", f"{column} {op} {number * scale}", None)

    return part


def _name_like(dice: random.Random) -> _Part:
    word = dice.choice(("data", "search", "_retry", "plan", "answer", "embed", "context", "e_f"))
    return _Part(
        f"span.name LIKE '%{word}%'", f"name like '%{word}%'", f"span.name LIKE '%{word}%'"
    )


_TYPES = ("LLM", "CHAT_MODEL", "TOOL", "RETRIEVER", "EMBEDDING", "CHAIN", "AGENT", "GUARDRAIL")
_NAMES = (*generator.TOOLS, "plan_step", "write_answer", "generate_answer", "vector_search")

_TYPE = _choice("type", "type", _TYPES)
_NAME = _choice("name", "name", _NAMES)
_SPAN_STATUS = _choice("status", "status", ("OK", "ERROR"))
_MODEL = _choice("attributes.model", "model", tuple(generator.MODELS))
_TEMPLATE = _choice("attributes.prompt_template", "prompt_template", generator.TEMPLATES)
_SERVICE = _choice(
    "attributes.service", "service", sorted({service for service, _ in generator.TOOLS.values()})
)
_ERROR_TYPE = _choice("attributes.error_type", "error_type", generator.ERRORS)
_TEMPERATURE = _number("attributes.temperature", "temperature", lambda d: round(d.random(), 3))
_MAX_TOKENS = _number("attributes.max_tokens", "max_tokens", lambda d: d.randint(200, 5_000))
_FOUND = _number("attributes.documents_found", "documents_found", lambda d: d.randint(0, 10))
_ATTEMPT = _number("attributes.attempt", "attempt", lambda d: d.randint(1, 3))
_DURATION = _number(
    "duration_ms", "duration_ns", lambda d: round(d.lognormvariate(6, 1.5)), 1_000_000
)

#: What one kind of span has, so that conditions on one span can hold together.
_OF_CALLS = (_TYPE, _NAME, _MODEL, _TEMPLATE, _TEMPERATURE, _MAX_TOKENS, _DURATION, _SPAN_STATUS)
_OF_TOOLS = (_NAME, _SERVICE, _ERROR_TYPE, _ATTEMPT, _DURATION, _SPAN_STATUS, _TYPE)
_OF_RETRIEVALS = (_TYPE, _FOUND, _DURATION, _SPAN_STATUS)


def _parts(dice: random.Random, number: int) -> list[_Part]:
    """Conditions that one span can satisfy."""
    family = dice.choice((_OF_CALLS, _OF_CALLS, _OF_TOOLS, _OF_RETRIEVALS))
    return [part(dice) for part in dice.sample(family, number)]


def _all_of(parts: Sequence[_Part]) -> _Part:
    stock = [part.stock for part in parts]
    return _Part(
        " AND ".join(part.ours for part in parts),
        " and ".join(part.columns for part in parts),
        None if None in stock else " AND ".join(map(str, stock)),
    )


def _one(dice: random.Random) -> Question:
    part = _name_like(dice) if dice.random() < 0.15 else _parts(dice, 1)[0]
    return Question(part.ours, Spans(part.columns), part.stock)


def _two(dice: random.Random) -> Question:
    part = _all_of(_parts(dice, 2))
    return Question(part.ours, Spans(part.columns), part.stock)


def _three(dice: random.Random) -> Question:
    part = _all_of(_parts(dice, 3))
    return Question(part.ours, Spans(part.columns), part.stock)


def _either_on_one_span(dice: random.Random) -> Question:
    one, two, three = _parts(dice, 3)
    return Question(
        f"any({one.ours} AND ({two.ours} OR NOT {three.ours}))",
        Spans(f"{one.columns} and ({two.columns} or ({three.columns}) is not true)"),
        None,
    )


def _count(dice: random.Random) -> Question:
    part = _all_of(_parts(dice, dice.randint(1, 2)))
    least = dice.randint(1, 5)
    return Question(f"count({part.ours}) > {least}", Spans(part.columns, least), None)


_SUMMED = (
    ("span.attributes.max_tokens", "max_tokens", 1, 8_000),
    ("span.attributes.documents_found", "documents_found", 1, 12),
    ("span.attributes.attempt", "attempt", 1, 8),
    ("span.duration_ms", "duration_ns", 1_000_000, 30_000),
)


def _sum(dice: random.Random) -> Question:
    field, column, scale, most = dice.choice(_SUMMED)
    part, op, bound = _parts(dice, 1)[0], dice.choice(_COMPARISONS), dice.randint(1, most)
    return Question(
        f"sum({field} WHERE {part.ours}) {op} {bound}",
        Aggregate(part.columns, f"sum({column}) {op} {bound * scale}"),
        None,
    )


def _average(dice: random.Random) -> Question:
    field, column, scale, most = dice.choice(_SUMMED)
    part, op = _parts(dice, 1)[0], dice.choice(_COMPARISONS)
    # No average is one of these, in whatever arithmetic.
    bound = dice.randint(1, most // 4) + 2**-13
    return Question(
        f"avg({field} WHERE {part.ours}) {op} {bound}",
        Aggregate(part.columns, f"avg({column}) {op} {bound * scale}"),
        None,
    )


def _extreme(dice: random.Random) -> Question:
    field, column, scale, most = dice.choice(_SUMMED)
    part, op, bound = _parts(dice, 1)[0], dice.choice(_COMPARISONS), dice.randint(1, most // 2)
    function = dice.choice(("min", "max"))
    return Question(
        f"{function}({field} WHERE {part.ours}) {op} {bound}",
        Aggregate(part.columns, f"{function}({column}) {op} {bound * scale}"),
        None,
    )


# ------------------------------------------------------------------------ text


def _text(pattern: str, like: str = "ILIKE") -> Question:
    quoted = pattern.replace("'", "''")
    return Question(f"trace.text {like} '%{quoted}%'", Text(f"content {like.lower()} '%{quoted}%'"))


def _word(dice: random.Random) -> Question:
    """A word that many traces have."""
    sentence = dice.choice(generator.SENTENCES)
    return _text(dice.choice([word for word in sentence[:-1].split() if len(word) > 3]))


def _phrase(dice: random.Random) -> Question:
    words = dice.choice(generator.SENTENCES)[:-1].split()
    length = dice.randint(2, 5)
    start = dice.randrange(len(words) - length + 1)
    return _text(" ".join(words[start : start + length]))


def _nowhere(dice: random.Random) -> Question:
    """A text that no trace has, or a few: what is looked for when something is sought."""
    return _text(
        f"ord-{dice.getrandbits(dice.choice((16, 32, 40))):04x}", dice.choice(("LIKE", "ILIKE"))
    )


# ---------------------------------------------------------------- combinations


def _span_scope(dice: random.Random) -> Question:
    """A condition on spans that keeps its own scope within AND."""
    found = dice.choice((_one, _two, _count))(dice)
    ours = found.ours if found.ours.startswith("count") else f"any({found.ours})"
    return Question(ours, found.columns, None)


def _leaf(dice: random.Random) -> Question:
    return (_trace if dice.random() < 0.5 else _span_scope)(dice)


def _joined(word: str, left: Question, right: Question) -> Question:
    columns: Condition = (
        left.columns & right.columns if word == "AND" else left.columns | right.columns
    )
    return Question(f"({left.ours}) {word} ({right.ours})", columns, None)


def _both(dice: random.Random) -> Question:
    return _joined("AND", _trace(dice), _span_scope(dice))


def _two_spans(dice: random.Random) -> Question:
    return _joined("AND", _span_scope(dice), _span_scope(dice))


def _either(dice: random.Random) -> Question:
    return _joined("OR", _leaf(dice), _leaf(dice))


def _none(dice: random.Random) -> Question:
    found = _leaf(dice)
    return Question(f"NOT ({found.ours})", ~found.columns, None)


def _nested(dice: random.Random) -> Question:
    inner = _joined("OR", _leaf(dice), _none(dice))
    return _joined("AND", _leaf(dice), _joined("OR", inner, _leaf(dice)))


KINDS: dict[str, Callable[[random.Random], Question]] = {
    "trace": _trace,
    "one condition on a span": _one,
    "two conditions on one span": _two,
    "three conditions on one span": _three,
    "OR and NOT on one span": _either_on_one_span,
    "count of spans": _count,
    "sum over spans": _sum,
    "average over spans": _average,
    "smallest or largest": _extreme,
    "trace AND span": _both,
    "two spans": _two_spans,
    "OR": _either,
    "NOT": _none,
    "nested": _nested,
    "text: a word": _word,
    "text: a phrase": _phrase,
    "text: rare or nowhere": _nowhere,
}
TEXT_KINDS = frozenset(kind for kind in KINDS if kind.startswith("text"))
