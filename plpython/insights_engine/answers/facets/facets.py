"""The values of a field among the traces that match a filter, with their counts.

First the facet_rows are found, from the index or from MLflow's tables alone; then each
whose count does not follow from that is counted as ``insights_count`` counts the filter
for it.

A field whose values are all numbers gets intervals once it has more different ones than
there may be rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Optional

from insights_engine.answers.facets import histogram
from insights_engine.answers.facets.facet_rows import (
    Candidates,
    Facet,
    Question,
    conjunction,
    edges_of,
    intervals_of,
    may_be_numeric,
    missing_of,
    most_frequent,
    of_number,
    of_text,
    present,
)
from insights_engine.exact import values
from insights_engine.exact.statement import Statement
from insights_engine.index import sessions
from insights_engine.index.index_reader import UNDECIDED_SHARE, decided, open_index, prepare
from insights_engine.language import fields, printer, storage, tree
from insights_engine.language.errors import InsightsError
from insights_engine.language.tokens import MAX_BYTES

MOST_RESULTS = 1000


def check_max_results(max_results: Optional[int]) -> int:
    """How many rows there may be; raises InsightsError."""
    if max_results is None or not 1 <= max_results <= MOST_RESULTS:
        raise InsightsError(
            f"Invalid value {max_results} for parameter 'max_results' supplied. "
            f"It must be at least 1 and at most {MOST_RESULTS}."
        )
    return max_results


def facets(plpy: Any, statement: Statement, question: Question) -> Iterator[dict[str, Any]]:
    """A row for each value or interval, and one for the traces without any."""
    if statement.experiments == []:
        return
    found = _of_index(plpy, statement, question)
    if found is None:
        found = _of_tables(plpy, statement, question)
    total, counted, ranked = found
    if not total:
        return
    rows = [(facet, count) for facet, count in counted[:-1] if count or not ranked]
    if ranked:
        rows.sort(key=lambda row: (-row[1], row[0].place))
    missing = counted[-1]
    for facet, count in [*rows[: question.most if ranked else None], missing]:
        if facet is missing[0] and not count:
            continue
        text = printer.print_apart(facet.node)
        yield {
            "value": facet.value,
            "low": facet.low,
            "high": facet.high,
            # A value may be too long to be asked for.
            "filter": text if len(text.encode()) <= MAX_BYTES else None,
            "count": count,
            "share": count / total,
        }


#: The matching units; each facet with its count, the one for missing values last; and
#: whether the rows are to be ranked by count.
_Answer = tuple[int, Sequence[tuple[Facet, int]], bool]


# ------------------------------------------------------------------ from the index


def _of_index(plpy: Any, statement: Statement, question: Question) -> Optional[_Answer]:
    field = question.field
    # Sessions' assessments are pending together, if they are asked about.
    index = open_index(plpy, statement, (question.node, present(field)), UNDECIDED_SHARE)
    if index is None:
        return None
    matching = [sets[0] for sets in decided(index, [prepare(question.node)])]
    if index.overcharged:
        return None
    found = Candidates(index, statement, question, matching).found()
    if found is None:
        return None
    nodes = [question.node]
    missing = missing_of(field)
    open_ones = [one for one in (*found.facets, missing) if one not in found.counts]
    nodes += [conjunction(question.node, one.node) for one in open_ones]
    counts = sessions.counts_of_index(plpy, statement, nodes, question.unit)
    if counts is None:
        return None
    known = {**found.counts, **dict(zip(open_ones, counts[1:]))}
    those = [*found.facets, missing]
    return counts[0], [(one, known[one]) for one in those], found.ranked


# ----------------------------------------------------------- from MLflow's tables


def _of_tables(plpy: Any, statement: Statement, question: Question) -> _Answer:
    field, most = question.field, question.most
    numeric = fields.is_number(field)
    several = False
    ends: Sequence[Optional[str]] = (None, None)
    if numeric or may_be_numeric(field):
        sql = statement.fresh()
        pairs = values.pairs(sql, field, _matching(sql, question), nulls=True)
        traces = "select bool_or(p.number is not null) as numbered from p group by p.request_id"
        columns = (
            f"(select count(*) from ({traces}) t)",
            f"(select count(*) filter (where t.numbered) from ({traces}) t)",
            "(select count(distinct p.number) from p)",
            *(f"(select {end}(p.number) from p where {_finite(field)})" for end in ("min", "max")),
        )
        if numeric:
            columns = ("1", "1", *columns[2:])
        texts = ", ".join(f"{column}::text" for column in columns)
        ((present, numbered, different, *ends),) = sql.run_in_parallel(
            plpy, f"with p as materialized (\n{pairs}\n)\nselect array[{texts}]"
        )
        numeric = numeric or present == numbered != "0"
        several = int(different or 0) > most
    those: list[Facet] = []
    counts: list[int] = []
    ranked = True
    if numeric and ends[0] is None:
        pass
    elif numeric and several:
        ranked = False
    else:
        for text, count in _by_value(plpy, statement.fresh(), question, numeric):
            those.append(text)
            counts.append(count)
        if numeric and len(those) > most and not fields.is_number(field):
            ranked = False
    if not ranked:
        whole = fields.is_whole(field)
        edges = edges_of(question, [int(end) if whole else float(end) for end in ends if end])
        those = intervals_of(field, edges)
        counts = _by_interval(plpy, statement.fresh(), question, edges)
    missing = missing_of(field)
    nodes = [question.node, conjunction(question.node, missing.node)]
    if isinstance(field, tree.Assessment) and ranked:
        # What is stored in two forms is counted once.
        nodes += [conjunction(question.node, one.node) for one in those]
    total, without, *again = sessions.counts_of_tables(plpy, statement, nodes, question.unit)
    return total, [*zip(those, again or counts), (missing, without)], ranked


def _finite(field: tree.Field) -> str:
    if fields.is_whole(field):
        return "true"
    return "p.number > '-Infinity' and p.number < 'Infinity'"


def _matching(statement: Statement, question: Question) -> str:
    return f"select t.* from {statement.traces}\nwhere {statement.where(question.node)}"


def _counted(statement: Statement, question: Question, key: str, numbers: bool) -> str:
    """A query for (key, count): how many units have a value with that key."""
    pairs = values.pairs(statement, question.field, _matching(statement, question), numbers=numbers)
    if question.unit == sessions.SESSION_ALL:
        per_trace = (
            f"select {key} as key, p.session_id, p.request_id\nfrom (\n{pairs}\n) p\n"
            "where p.session_id is not null group by 1, 2, 3"
        )
        return (
            "select g.key, count(*) as count\nfrom (\n"
            "select d.key, d.session_id, count(*) as traces\n"
            f"from (\n{per_trace}\n) d group by d.key, d.session_id\n) g\n"
            f"join (select t.session_id, count(*) as traces from {statement.traces}"
            f" where {statement.scope()} group by t.session_id) a using (session_id)\n"
            "where g.traces = a.traces\ngroup by g.key"
        )
    if question.unit == sessions.TRACE and storage.of(question.field).single:
        return f"select {key} as key, count(*) as count\nfrom (\n{pairs}\n) p\ngroup by 1"
    # Grouped twice, as count(distinct) would sort.
    unit = "p.request_id" if question.unit == sessions.TRACE else "p.session_id"
    return (
        f"select d.key, count(*) as count\nfrom (\nselect {key} as key, {unit}\n"
        f"from (\n{pairs}\n) p\nwhere {unit} is not null group by 1, 2\n) d\ngroup by d.key"
    )


def _by_value(
    plpy: Any, statement: Statement, question: Question, numeric: bool
) -> Iterator[tuple[Facet, int]]:
    """The most frequent values, one more than there may be rows."""
    field = question.field
    counted = _counted(statement, question, "p.value", numbers=False)
    # Of assessments two stored forms may be one value.
    limit = "" if isinstance(field, tree.Assessment) else f"\nlimit {question.most + 1}"
    rows = statement.run_in_parallel(
        plpy,
        f"select array[c.key::text, c.count::text]\nfrom (\n{counted}\n) c\n"
        f'where c.key is not null\norder by c.count desc, c.key collate "C"{limit}',
    )
    found: Counter[str] = Counter()
    for value, count in rows:
        found[values.shown(field, value or "")] += int(count or 0)
    for text in most_frequent(found, question.most + numeric):
        if not fields.is_number(field):
            yield of_text(field, text), found[text]
            continue
        number = int(text) if fields.is_whole(field) else float(text)
        if math.isfinite(number):
            yield of_number(field, number), found[text]


def _by_interval(
    plpy: Any, statement: Statement, question: Question, edges: histogram.Edges
) -> list[int]:
    """How many units have a number in each interval."""
    finite = [edge for edge in edges if edge is not None]
    given = statement.params.add(finite, f"{values.number_type(question.field)}[]")
    # The parameter stands in a subquery, lest its text be read anew for every number.
    key = f"pg_catalog.width_bucket(p.number, (select {given}))" if finite else "1"
    counted = _counted(statement, question, key, numbers=True)
    rows = statement.run_in_parallel(
        plpy,
        f"select array[c.key::text, c.count::text]\nfrom (\n{counted}\n) c\n"
        "where c.key is not null",
    )
    found = {int(key or 0): int(count or 0) for key, count in rows}
    first = 0 if edges[0] is None and finite else 1
    return [found.get(first + number, 0) for number in range(len(edges) - 1)]
