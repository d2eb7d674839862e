"""How a filter is understood and answered, as rows of a step and its detail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from insights_engine.answers.counts import correlate
from insights_engine.exact.statement import Statement
from insights_engine.index import indexed
from insights_engine.language import fields, printer, tree

_LONGEST_VALUE = 200


def explain(plpy: Any, statement: Statement, node: tree.Node) -> Iterator[tuple[str, str]]:
    """The canonical filter, its predicates, the SQL that counts it, its plan."""
    yield "filter", printer.print_filter(node) or "(every trace)"
    for predicate in tree.leaves(node):
        yield "predicate", printer.print_filter(predicate)
    if statement.experiments == []:
        yield "answer", "no experiment was asked for, so no trace matches"
        return
    yield from _by_index(plpy, statement, node)
    yield from _left_out(plpy, statement, node)
    sql = correlate.count_sql(statement, node)
    yield "sql", sql
    for number, (type_, value) in enumerate(
        zip(statement.params.types, statement.params.values), start=1
    ):
        shown = repr(value)
        if len(shown) > _LONGEST_VALUE:
            shown = shown[: _LONGEST_VALUE - 3] + "..."
        yield "parameter", f"${number} {type_} = {shown}"
    for row in statement.run(plpy, f"explain {sql}"):
        yield "plan", row["QUERY PLAN"]


def _by_index(plpy: Any, statement: Statement, node: tree.Node) -> Iterator[tuple[str, str]]:
    """What the index says: per predicate its terms, the traces it settles, and the time."""
    for step, found in indexed.explained(plpy, statement.again(), node):
        if step == "unused":
            yield "index", f"not used: {found}"
        elif step == "index":
            blocks, pending, took = found
            yield (
                "index",
                f"{_several(blocks, 'block')}, {_several(pending, 'trace')} pending, {took:.2f} ms",
            )
        elif step == "vocabulary":
            terms, took = found
            yield "vocabulary", f"{_several(terms, 'term')} found, {took:.2f} ms"
        elif step == "predicate":
            predicate, terms, *measured = found
            text = printer.print_filter(predicate)
            yield "bounds", f"{text}: {_several(terms, 'term')}, {_bounds(measured)}"
        elif step == "whole":
            *measured, most = found
            undecided = measured[1]
            yield "bounds", f"whole filter: {_bounds(measured)}"
        else:
            yield "residue", _residue(undecided, most, found)


def _left_out(plpy: Any, statement: Statement, node: tree.Node) -> Iterator[tuple[str, str]]:
    """The traces whose spans MLflow keeps in files, which no filter reads, if that may matter.

    Archiving empties the contents of spans; before there were spans in the database, they
    were written to files right away.  A tag tells, in either case.
    """
    spans, contents = _looked_at(node)
    if contents:
        archived = _kept_in(plpy, statement, "ARCHIVE_REPO")
        if archived:
            yield (
                "left out",
                f"{_several(archived, 'trace')} with archived spans: their attributes and"
                " content match nothing",
            )
    if spans:
        in_files = _kept_in(plpy, statement, "ARTIFACT_REPO")
        if in_files:
            yield (
                "left out",
                f"{_several(in_files, 'trace')} with spans in artifact files only: no condition on"
                " spans matches",
            )


def _kept_in(plpy: Any, statement: Statement, location: str) -> int:
    place = tree.TextCompare(tree.Tag("mlflow.trace.spansLocation"), "=", location)
    return correlate.count(plpy, statement.fresh(), place)


def _looked_at(node: tree.Node) -> tuple[bool, bool]:
    """Whether a filter looks at spans, and whether at what is in their contents."""
    looked_at = set(tree.fields_of(node))
    return (
        any(fields.is_span_field(field) for field in looked_at)
        or tree.TraceNumber("span_count") in looked_at,
        any(isinstance(field, tree.SpanAttribute) for field in looked_at)
        or tree.SpanText("content") in looked_at,
    )


def _residue(undecided: int, most: int, pending: int) -> str:
    """How many traces are rechecked: those that the index leaves open, and pending ones."""
    if undecided > most:
        return f"more than {most}: exact SQL answers for all traces at once"
    if not undecided and not pending:
        return "none: the index alone answers"
    rechecked = f"exact SQL rechecks {_several(undecided + pending, 'trace')}"
    return f"{rechecked}, {pending} of them pending" if pending else rechecked


def _several(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _bounds(measured: Sequence[Any]) -> str:
    must, undecided, took = measured
    return f"must {must}, may {must + undecided}, residue {undecided}, {took:.2f} ms"
