"""The canonical text of a filter: ``parse_filter(print_filter(t)) == t``."""

from __future__ import annotations

from insights_engine.language import fields, times, tree

_UNITS = (("day", 86_400_000), ("hour", 3_600_000), ("minute", 60_000), ("second", 1000), ("ms", 1))


def print_filter(node: tree.Node) -> str:
    """The canonical text of a tree in normal form ('' for EVERYTHING)."""
    if node == tree.EVERYTHING:
        return ""
    if isinstance(node, tree.AnySpan) and not _has_not(node.condition):
        # Nothing stands beside it, so the plain condition means the same.
        return _span_text(node.condition)
    return _trace_text(node)


def print_apart(node: tree.Node) -> str:
    """The same, to be put beside any other filter: conditions on spans stand in ``any()``.

    In parentheses, if the other is put beside it by AND.
    """
    return "" if node == tree.EVERYTHING else _trace_text(node)


# ----------------------------------------------------------------- trace level


def _trace_text(node: tree.Node) -> str:
    if isinstance(node, tree.Or):
        return " OR ".join(_trace_text(item) for item in node.items)
    if isinstance(node, tree.And):
        return _and_text(node)
    if isinstance(node, tree.Not):
        item = node.item
        text = _trace_text(item)
        return f"NOT ({text})" if isinstance(item, (tree.And, tree.Or)) else f"NOT {text}"
    if isinstance(node, tree.AnySpan):
        return f"any({_span_text(node.condition)})"
    if isinstance(node, tree.CountSpans):
        condition = "" if node.condition is None else _span_text(node.condition)
        return f"count({condition}) {node.op} {node.value}"
    if isinstance(node, tree.AggregateSpans):
        where = "" if node.condition is None else f" WHERE {_span_text(node.condition)}"
        field = fields.spell(node.field)
        return f"{node.function}({field}{where}) {node.op} {_value_text(node.value)}"
    return _predicate_text(node)


def _and_text(node: tree.And) -> str:
    # One quantified condition among others needs no any(): the scope rule
    # gathers its plain conditions into the same one again.
    alone = sum(isinstance(item, tree.AnySpan) for item in node.items) == 1
    texts = []
    for item in node.items:
        if isinstance(item, tree.AnySpan) and alone and not _has_not(item.condition):
            text = _span_text(item.condition)
            texts.append(f"({text})" if isinstance(item.condition, tree.Or) else text)
        else:
            text = _trace_text(item)
            texts.append(f"({text})" if isinstance(item, tree.Or) else text)
    return " AND ".join(texts)


# ------------------------------------------------------------------ span level


def _has_not(node: tree.Node) -> bool:
    """Whether NOT stands anywhere in a condition on spans."""
    if isinstance(node, (tree.And, tree.Or)):
        return any(map(_has_not, node.items))
    return isinstance(node, tree.Not)


def _span_text(node: tree.Node) -> str:
    if isinstance(node, tree.Or):
        return " OR ".join(_span_text(item) for item in node.items)
    if isinstance(node, tree.And):
        return " AND ".join(
            f"({_span_text(item)})" if isinstance(item, tree.Or) else _span_text(item)
            for item in node.items
        )
    if isinstance(node, tree.Not):
        text = _span_text(node.item)
        return f"NOT ({text})" if isinstance(node.item, (tree.And, tree.Or)) else f"NOT {text}"
    return _predicate_text(node)


# ------------------------------------------------------------------ predicates


def _predicate_text(node: tree.Node) -> str:
    if isinstance(node, (tree.TextCompare, tree.NumberCompare)):
        return f"{fields.spell(node.field)} {node.op} {_value_text(node.value, node.field)}"
    if isinstance(node, tree.Match):
        op = f"NOT {node.op}" if node.negated else node.op
        return f"{fields.spell(node.field)} {op} {fields.quote(node.pattern)}"
    if isinstance(node, tree.In):
        op = "NOT IN" if node.negated else "IN"
        values = ", ".join(_value_text(value, node.field) for value in node.values)
        return f"{fields.spell(node.field)} {op} ({values})"
    if isinstance(node, tree.Between):
        op = "NOT BETWEEN" if node.negated else "BETWEEN"
        low, high = (_value_text(value, node.field) for value in (node.low, node.high))
        return f"{fields.spell(node.field)} {op} {low} AND {high}"
    if isinstance(node, tree.IsNull):
        return f"{fields.spell(node.field)} IS {'NOT ' if node.negated else ''}NULL"
    raise TypeError(f"not a predicate: {node!r}")


def _value_text(value: tree.Value, field: tree.Field | None = None) -> str:
    if isinstance(value, tree.Now):
        return _now_text(value.offset_ms)
    if field is not None and fields.is_time(field) and isinstance(value, int):
        text = times.text_of(value)
        return str(value) if text is None else fields.quote(text)
    if isinstance(value, str):
        return fields.quote(value)
    return repr(value)


def _now_text(offset_ms: int) -> str:
    if not offset_ms:
        return "now()"
    rest = abs(offset_ms)
    parts = []
    for unit, size in _UNITS:
        number, rest = divmod(rest, size)
        if number:
            plural = "s" if number > 1 and unit != "ms" else ""
            parts.append(f"{number} {unit}{plural}")
    return f"now() {'-' if offset_ms < 0 else '+'} '{' '.join(parts)}'"
