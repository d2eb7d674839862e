create or replace function insights.load_engine() returns void
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $insights_engine$
if "3057b75c55f55fb7" in GD:
    return

# PL/Python indents every line of a function's body by one tab, also inside
# strings; text() takes it out again.
def text(source):
    return source.replace("\n\t", "\n")

sources = {
"insights_engine": r'''"""The trace search engine that runs inside PostgreSQL.

An ordinary package: importable and testable without a database.  Functions
that need one take PL/Python's ``plpy`` module as their first argument.
"""
''',
"insights_engine.api": r'''"""What the PL/Python functions call, one entry point each.

A user's mistake never leaves here as an exception: it would reach the user
with a Python traceback in its CONTEXT.  It is returned as a `problem`, which
``insights.accept`` in the SQL around raises as a plain error.  The same goes
for what PostgreSQL itself refuses while a query runs: a table that the caller
may not read, a statement that was cancelled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Callable, Optional

from insights_engine import correlate as correlation
from insights_engine import explain as explanation
from insights_engine import printer, rawsql, search, tree
from insights_engine.errors import FilterError, InsightsError, positive
from insights_engine.experiments import experiment_ids
from insights_engine.ordering import parse_order
from insights_engine.parser import parse_conjunction, parse_field, parse_filter
from insights_engine.sessions import check_unit
from insights_engine.statement import Statement, current_time_ms

Problem = dict[str, Optional[str]]
Ids = Optional[Sequence[Any]]


def _problem(error: InsightsError) -> Problem:
    detail = error.detail()
    if isinstance(error, FilterError) and detail and "\n" not in error.filter:
        # psql writes DETAIL in front of the first line, and nothing in front of
        # the second: the caret must not be the second.
        detail = f"\n{detail}"
    return {
        "sqlstate": error.sqlstate,
        "message": error.message,
        "detail": detail,
        "hint": error.hint,
    }


def _refused(error: Any) -> Problem:
    """An error of PostgreSQL's own, with its SQLSTATE, DETAIL and HINT."""
    data = getattr(error, "spidata", None) or (None, None, None)
    return {
        "sqlstate": error.sqlstate,
        "message": str(error.args[0]) if error.args else str(error),
        "detail": data[1],
        "hint": data[2],
    }


def _one(plpy: Any, answer: Callable[[], dict[str, Any]], empty: dict[str, Any]) -> dict[str, Any]:
    """A row of results, or of nothing but the problem."""
    try:
        return {**answer(), "problem": None}
    except InsightsError as error:
        return {**empty, "problem": _problem(error)}
    except plpy.SPIError as error:
        return {**empty, "problem": _refused(error)}


def _many(
    plpy: Any, answer: Callable[[], Iterator[dict[str, Any]]], empty: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Rows of results; a problem comes as a row of its own, the last."""
    try:
        for row in answer():
            yield {**row, "problem": None}
    except InsightsError as error:
        yield {**empty, "problem": _problem(error)}
    except plpy.SPIError as error:
        yield {**empty, "problem": _refused(error)}


def _nothing(*columns: str) -> dict[str, Any]:
    return dict.fromkeys(columns)


#: Filters whose patterns PostgreSQL has accepted; more than these start anew.
_accepted: set[str] = set()
_MOST_ACCEPTED = 500
_LONGEST_ACCEPTED = 2_000


def _parsed(plpy: Any, filter: Optional[str]) -> tree.Node:
    node = parse_filter(filter)
    if filter and filter not in _accepted:
        rawsql.check_patterns(plpy, node, filter)
        if len(_accepted) >= _MOST_ACCEPTED:
            _accepted.clear()
        if len(filter) <= _LONGEST_ACCEPTED:
            _accepted.add(filter)
    return node


def _now_ms(plpy: Any, *filters: Optional[str]) -> int:
    """The current time, if some filter may ask for it: it takes a statement of its own."""
    if any("now" in filter.lower() for filter in filters if filter):
        return current_time_ms(plpy)
    return 0


def validate(plpy: Any, filter: Optional[str]) -> dict[str, Any]:
    """The canonical form of a filter."""
    return _one(
        plpy, lambda: {"result": printer.print_filter(_parsed(plpy, filter))}, _nothing("result")
    )


def count(
    plpy: Any, schema: str, exp_ids: Ids, filter: Optional[str], unit: Optional[str] = None
) -> dict[str, Any]:
    """How many traces, or sessions, match."""

    def answer() -> dict[str, Any]:
        experiments = experiment_ids(exp_ids)
        node = _parsed(plpy, filter)
        counted = check_unit(unit)
        statement = Statement(schema, experiments, _now_ms(plpy, filter), parallel=True)
        return {"result": correlation.count(plpy, statement, node, counted)}

    return _one(plpy, answer, _nothing("result"))


CORRELATION_COLUMNS = (
    "filter1_count",
    "filter2_count",
    "joint_count",
    "total_count",
    "npmi",
    "npmi_smoothed",
    "lift",
    "phi",
    "odds_ratio",
    "odds_ratio_low",
    "odds_ratio_high",
    "p_value",
    "test",
)


def correlate(
    plpy: Any,
    schema: str,
    exp_ids: Ids,
    filter1: Optional[str],
    filter2: Optional[str],
    base_filter: Optional[str],
    unit: Optional[str] = None,
) -> dict[str, Any]:
    """The counts and statistics of two filters among the traces of a base."""

    def answer() -> dict[str, Any]:
        experiments = experiment_ids(exp_ids)
        # Each by itself first, so that an error shows the filter it is in.
        base, _, _ = (_parsed(plpy, filter) for filter in (base_filter, filter1, filter2))
        counted = check_unit(unit)
        now_ms = _now_ms(plpy, base_filter, filter1, filter2)
        statement = Statement(schema, experiments, now_ms, parallel=True)
        return correlation.correlate(
            plpy,
            statement,
            base,
            parse_conjunction(base_filter, filter1),
            parse_conjunction(base_filter, filter2),
            counted,
        )

    return _one(plpy, answer, _nothing(*CORRELATION_COLUMNS))


def correlation_matrix(
    plpy: Any,
    schema: str,
    exp_ids: Ids,
    filters: Ids,
    base_filter: Optional[str],
    unit: Optional[str],
) -> Iterator[dict[str, Any]]:
    """The correlation of each two of some filters."""
    from insights_engine import matrix

    def answer() -> Iterator[dict[str, Any]]:
        experiments = experiment_ids(exp_ids)
        given = matrix.check_filters(filters)
        base = _parsed(plpy, base_filter)
        matrix.each(given, lambda filter: _parsed(plpy, filter))
        nodes = matrix.each(given, lambda filter: parse_conjunction(base_filter, filter))
        statement = Statement(
            schema, experiments, _now_ms(plpy, base_filter, *given), parallel=True
        )
        for first, second, found in matrix.correlations(
            plpy, statement, base, nodes, check_unit(unit)
        ):
            yield {
                "filter1_number": first + 1,
                "filter2_number": second + 1,
                "filter1": given[first],
                "filter2": given[second],
                **found,
            }

    return _many(
        plpy,
        answer,
        _nothing("filter1_number", "filter2_number", "filter1", "filter2", *CORRELATION_COLUMNS),
    )


def facets(
    plpy: Any,
    schema: str,
    exp_ids: Ids,
    filter: Optional[str],
    field: Optional[str],
    max_results: Optional[int],
    unit: Optional[str],
) -> Iterator[dict[str, Any]]:
    """The values of a field among the traces that match."""
    from insights_engine import facets as by_value
    from insights_engine.facet_rows import Question

    def answer() -> Iterator[dict[str, Any]]:
        experiments = experiment_ids(exp_ids)
        question = Question(
            _parsed(plpy, filter),
            parse_field(field or ""),
            by_value.check_max_results(max_results),
            check_unit(unit),
        )
        statement = Statement(schema, experiments, _now_ms(plpy, filter), parallel=True)
        return by_value.facets(plpy, statement, question)

    return _many(plpy, answer, _nothing("value", "low", "high", "filter", "count", "share"))


def timeseries(
    plpy: Any,
    schema: str,
    exp_ids: Ids,
    filter: Optional[str],
    bucket: Optional[str],
    first_ms: Optional[int],
    end_ms: Optional[int],
    time_zone: Optional[str],
    unit: Optional[str],
) -> dict[str, Any]:
    """Traces by time: arrays, of which each element belongs to a bucket."""
    from insights_engine import buckets
    from insights_engine import timeseries as by_time
    from insights_engine.series_rows import COLUMNS

    def answer() -> dict[str, Any]:
        experiments = experiment_ids(exp_ids)
        node = _parsed(plpy, filter)
        counted = check_unit(unit)
        width = buckets.width_of(plpy, bucket)
        statement = Statement(schema, experiments, _now_ms(plpy, filter), parallel=True)
        return by_time.series(plpy, statement, node, width, time_zone, first_ms, end_ms, counted)

    return _one(plpy, answer, _nothing("start_ms", *COLUMNS))


DISCOVERY_COLUMNS = (
    *("filter", "kind", "key", "value"),
    *("target_count", "fact_count", "joint_count", "total_count"),
    *("target_share", "other_share", "difference", "lift", "npmi", "phi"),
    *("odds_ratio", "odds_ratio_low", "odds_ratio_high", "p_value", "q_value"),
    *("test", "restates", "similar", "tested", "screened_count"),
)


def discover(
    plpy: Any,
    schema: str,
    exp_ids: Ids,
    target: Optional[str],
    base_filter: Optional[str],
    *chosen: Any,
) -> Iterator[dict[str, Any]]:
    """What goes with a target; ``chosen``: see `options.options`."""

    def answer() -> Iterator[dict[str, Any]]:
        experiments = experiment_ids(exp_ids)
        nodes = [_parsed(plpy, filter) for filter in (base_filter, target)]
        return _discoveries(plpy, schema, experiments, base_filter, target, nodes[1:], chosen)

    return _many(plpy, answer, _nothing(*DISCOVERY_COLUMNS))


def compare(
    plpy: Any,
    schema: str,
    exp_ids: Ids,
    selection: Optional[str],
    baseline: Optional[str],
    *chosen: Any,
) -> Iterator[dict[str, Any]]:
    """What sets a selection apart from a baseline; ``chosen``: see `options.options`."""

    def answer() -> Iterator[dict[str, Any]]:
        experiments = experiment_ids(exp_ids)
        nodes = [_parsed(plpy, filter) for filter in (selection, baseline)]
        either = f"({selection}) OR ({baseline})" if selection and baseline else None
        return _discoveries(plpy, schema, experiments, either, selection, nodes, chosen)

    return _many(plpy, answer, _nothing(*DISCOVERY_COLUMNS))


def _discoveries(
    plpy: Any,
    schema: str,
    experiments: Optional[list[int]],
    base_filter: Optional[str],
    target: Optional[str],
    restated: Sequence[tree.Node],
    chosen: Sequence[Any],
) -> Iterator[dict[str, Any]]:
    # Sessions that only search need none of it.
    from insights_engine import candidates, options, testing, units
    from insights_engine import discover as discovery
    from insights_engine.population import Population

    wanted = options.options(*chosen)
    now_ms = _now_ms(plpy, base_filter, target)
    base = parse_filter(base_filter)
    both = parse_conjunction(base_filter, target)

    question = testing.Question(base, both, candidates.Restated(restated))
    population = Population(plpy, Statement(schema, experiments, now_ms), base, both)
    if wanted.unit == "trace":
        counted = units.Traces(population)
    else:
        counted = units.Sessions(population, plpy, schema, every=wanted.unit == "session_all")
    return discovery.discover(population, counted, question, wanted)


def explain(
    plpy: Any, schema: str, exp_ids: Ids, filter: Optional[str]
) -> Iterator[dict[str, Any]]:
    """How a filter is understood and answered."""

    def answer() -> Iterator[dict[str, Any]]:
        experiments = experiment_ids(exp_ids)
        node = _parsed(plpy, filter)
        statement = Statement(schema, experiments, current_time_ms(plpy))
        for step, detail in explanation.explain(plpy, statement, node):
            yield {"step": step, "detail": detail}

    return _many(plpy, answer, _nothing("step", "detail"))


def _query(
    plpy: Any, schema: str, exp_ids: Ids, filter: Optional[str], order_by: Ids
) -> search.Query:
    return search.Query(
        schema,
        experiment_ids(exp_ids, locations=True),
        _parsed(plpy, filter),
        parse_order(order_by),
    )


def _page(
    plpy: Any,
    schema: str,
    exp_ids: Ids,
    filter: Optional[str],
    max_results: Optional[int],
    order_by: Ids,
    page_token: Optional[str],
    page_offset: Optional[int] = None,
) -> search.Page:
    limit = search.check_max_results(max_results, "Read on with page_token.")
    if page_offset is not None and page_offset < 0:
        raise InsightsError("The offset of a page must not be negative.")
    query = _query(plpy, schema, exp_ids, filter, order_by)
    return search.find_page(plpy, query, limit, current_time_ms(plpy), page_token, page_offset or 0)


SEARCH_COLUMNS = (
    "trace_id",
    "experiment_id",
    "timestamp_ms",
    "execution_time_ms",
    "status",
    "trace_name",
    "session_id",
    "request_preview",
    "response_preview",
    "tags",
    "metadata",
    "assessments",
    "next_page_token",
)


def search_traces(
    plpy: Any,
    schema: str,
    exp_ids: Ids,
    filter: Optional[str],
    max_results: Optional[int],
    order_by: Ids,
    page_token: Optional[str],
) -> Iterator[dict[str, Any]]:
    """A page of matching traces with what one wants to see of them."""

    def answer() -> Iterator[dict[str, Any]]:
        page = _page(plpy, schema, exp_ids, filter, max_results, order_by, page_token)
        return search.read_rows(plpy, schema, page)

    return _many(plpy, answer, _nothing(*SEARCH_COLUMNS))


def search_page(
    plpy: Any,
    schema: str,
    exp_ids: Ids,
    filter: Optional[str],
    max_results: Optional[int],
    order_by: Ids,
    page_token: Optional[str],
    page_offset: Optional[int],
) -> dict[str, Any]:
    """A page of matching traces: their ids alone."""

    def answer() -> dict[str, Any]:
        page = _page(plpy, schema, exp_ids, filter, max_results, order_by, page_token, page_offset)
        return {"trace_ids": page.trace_ids, "next_page_token": page.next_page_token}

    return _one(plpy, answer, _nothing("trace_ids", "next_page_token"))


def match_trace_ids(
    plpy: Any, schema: str, exp_ids: Ids, filter: Optional[str], trace_ids: Ids
) -> Iterator[dict[str, Any]]:
    """Those of the given traces that match."""

    def answer() -> Iterator[dict[str, Any]]:
        query = _query(plpy, schema, exp_ids, filter, None)
        if query.experiments == []:
            return
        given = [trace_id for trace_id in trace_ids or () if isinstance(trace_id, str)]
        for trace_id in search.match_trace_ids(plpy, query, given, current_time_ms(plpy)):
            yield {"trace_id": trace_id}

    return _many(plpy, answer, _nothing("trace_id"))


# What writes the index is imported when it is called: sessions that read need none of it.


_EACH_TRANSACTION = "So many traces are indexed in one transaction; the default is {:d}."


def refresh_index(plpy: Any, schema: str, max_traces: Optional[int]) -> dict[str, Any]:
    """Indexes what is pending."""
    from insights_engine import refresh

    def answer() -> dict[str, Any]:
        most = positive(max_traces, "max_traces", _EACH_TRANSACTION.format(5_000))
        return refresh.refresh(plpy, schema, most)

    return _one(
        plpy,
        answer,
        _nothing("indexed", "removed", "merged", "pending", "busy"),
    )


def build_index(plpy: Any, schema: str, max_traces: Optional[int]) -> dict[str, Any]:
    """Indexes the next traces of a database that is new to the index."""
    from insights_engine import refresh

    def answer() -> dict[str, Any]:
        most = positive(max_traces, "max_traces", _EACH_TRANSACTION.format(32_000))
        return refresh.build(plpy, schema, most)

    return _one(plpy, answer, _nothing("indexed", "done", "busy"))


def start_over(plpy: Any, batch_size: Optional[int]) -> dict[str, Any]:
    """Has the index built anew; ``batch_size`` is what `build_index` will be called with."""
    from insights_engine import refresh

    def answer() -> dict[str, Any]:
        # Before the index is given up.
        positive(batch_size, "batch_size", _EACH_TRANSACTION.format(32_000))
        return refresh.start_over(plpy)

    return _one(plpy, answer, _nothing("busy"))


def verify_index(plpy: Any, schema: str, max_problems: Optional[int]) -> Iterator[dict[str, Any]]:
    """Where the index and MLflow's tables disagree."""
    from insights_engine import verify

    def answer() -> Iterator[dict[str, Any]]:
        # No problem of none looked for would read as an index that is right.
        most = positive(max_problems, "max_problems", "It ends after so many; the default is 100.")
        for trace_id, disagreement in verify.verify(plpy, schema, most):
            yield {"trace_id": trace_id, "disagreement": disagreement}

    return _many(plpy, answer, _nothing("trace_id", "disagreement"))
''',
"insights_engine.attributes": r'''"""Reads values out of the JSON that MLflow stores: span content, assessments.

This module uses nothing but the standard library and no other module of the
engine, because its source is inlined into small PL/Python helper functions:
those also run in parallel workers, which must not load the whole engine.
For the same reason its annotations are valid without ``__future__`` imports.

A span's ``content`` is the JSON text of ``Span.to_dict()``.  Its ``attributes``
map each key to a string that again is JSON text (``"\\"gpt-4\\""``), or, from
other writers, to a plain value.  Whatever cannot be read counts as missing.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any, Optional

#: Stands for a value that is not there; JSON's null counts as missing too.
MISSING = None

# The decimal numbers that a text may consist of; float() alone would take
# blanks, underscores, other scripts' digits, "nan" and "infinity" as well.
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

# What PostgreSQL's text cannot hold.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


# json.loads() without its detours: the value that starts at an index, and where
# it ends.  The settings are the same: NaN is a number, of equal keys the last counts.
_scan = vars(json.JSONDecoder())["scan_once"]


def loads(text: str, otherwise: Any = MISSING) -> Any:
    """What ``json.loads(text)`` gives, or ``otherwise`` where it fails.

    It fails with ValueError (not JSON, or an integer of more than 4,300 digits)
    and with RecursionError.
    """
    try:
        value, end = _scan(text, 0)
        if end == len(text):
            return value
    except (ValueError, RecursionError):
        return otherwise
    except StopIteration:  # blanks come first, or nothing that JSON knows
        pass
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return otherwise


def storable(text: str) -> str:
    """``text`` with U+FFFD for each character that PostgreSQL cannot hold."""
    if text.isascii() and "\0" not in text:
        return text
    return _UNSTORABLE.sub("\ufffd", text)


def attributes_of(content: str) -> Any:
    """The ``attributes`` of a span's content, ``{}`` where there are none."""
    span = loads(content)
    attributes = span.get("attributes") if isinstance(span, dict) else MISSING
    return attributes if isinstance(attributes, dict) else {}


def remembered(memory: dict[str, Any], content: str) -> Any:
    """`attributes_of`, which ``memory`` keeps for another look at the same span."""
    last = memory.get("insights_span")
    if last is None or last[0] != content:
        last = memory["insights_span"] = (content, attributes_of(content))
    return last[1]


def step_into(value: Any, path: Sequence[str]) -> Any:
    """The value under ``path``: keys of objects and decimal indexes of lists."""
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isascii() and step.isdigit() and len(step) < 10:
            index = int(step)
            value = value[index] if index < len(value) else MISSING
        else:
            return MISSING
    return value


def attribute_in(attributes: Any, path: Sequence[str]) -> Any:
    """The decoded value of one attribute, or of a part of it."""
    value = attributes.get(path[0])
    if isinstance(value, str):
        # What is not JSON is a text that is its own value.
        value = loads(value, value)
    return step_into(value, path[1:]) if len(path) > 1 else value


def attribute(content: str, path: Sequence[str]) -> Any:
    """The decoded value under ``path`` of a span's content, or MISSING."""
    return attribute_in(attributes_of(content), path)


def text_form(value: Any) -> Optional[str]:
    """A decoded value as text: strings as they are, all else as JSON prints it."""
    if value is MISSING:
        return None
    if not isinstance(value, str):
        try:
            value = json.dumps(value, ensure_ascii=False)
        except (ValueError, RecursionError):
            return None
    return storable(value)


def number_form(value: Any) -> Optional[float]:
    """A decoded value as a finite number, or None.

    Numbers count, and strings that wholly read as a decimal number; booleans
    do not.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            return None
    elif not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer beyond every double
        return None
    return number if math.isfinite(number) else None
''',
"insights_engine.bitmaps": r'''"""Sets of positions: Python integers in memory, bytes in ``insights.posting``.

Bit ``p`` of an integer says whether position ``p`` is in the set, so union,
intersection and difference are ``|``, ``&`` and ``& ~``.  A number per position
is *bit-sliced*: slice ``b`` is the set of positions whose number has bit ``b``
(O'Neil and Quass, Improved Query Performance with Variant Indexes, 1997).
Comparing all of them with a constant is then one operation on sets per bit.
"""

from __future__ import annotations

import re
import struct
import sys
import zlib
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import compress, repeat
from typing import Any, Protocol

#: Positions of a block.  Two bitmaps of 4,000 bytes, with their row headers,
#: fill one page of 8 KiB.
POSITIONS = 32_000

# How a set is stored says its first byte: as a list of positions, of 16 bits each,
# the lowest byte first; as a bitmap, position 0 the lowest bit of the first byte;
# or as such a bitmap, deflated.
_LISTED, _BITMAP, _DEFLATED = b"\x00", b"\x01", b"\x02"
#: Reading a longer list takes longer than inflating a bitmap.
_LONGEST_LIST = 100
#: Below, the head of a row is most of it.
_SHORTEST_DEFLATED = 64


def encode(positions: Sequence[int], used: int) -> bytes:
    """Ascending positions as stored; ``used`` is the number of positions given out."""
    if _as_list(len(positions), used):
        return _LISTED + _uint16(positions)
    size = (used + 7) >> 3
    if 20 * len(positions) < used:
        bitmap = bytearray(size)
        for position in positions:
            bitmap[position >> 3] |= 1 << (position & 7)
        return _bitmap(bytes(bitmap))
    digits = bytearray(b"0") * used
    deque(map(digits.__setitem__, positions, repeat(49)), maxlen=0)  # 49: "1"
    return _bitmap(int(digits[::-1], 2).to_bytes(size, "little"))


def encode_set(bits: int, used: int) -> bytes:
    """A set as stored."""
    if _as_list(count(bits), used):
        return _LISTED + _uint16(positions(bits))
    return _bitmap(bits.to_bytes((used + 7) >> 3, "little"))


def _as_list(length: int, used: int) -> bool:
    return length <= _LONGEST_LIST and 16 * length < used


def _bitmap(bitmap: bytes) -> bytes:
    if len(bitmap) < _SHORTEST_DEFLATED:
        return _BITMAP + bitmap
    # What does not shrink takes longest to try: its beginning tells.
    start = bitmap[: len(bitmap) >> 3]
    if len(start) > 100 and 10 * len(zlib.compress(start, 1)) > 9 * len(start):
        return _BITMAP + bitmap
    deflated = zlib.compress(bitmap, 1)
    # A little less to read is not worth inflating it.
    if 4 * len(deflated) < 3 * len(bitmap):
        return _DEFLATED + deflated
    return _BITMAP + bitmap


def _uint16(positions: Iterable[int]) -> bytes:
    numbers = array("H", positions)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def decode(members: bytes) -> int:
    """The set that stored bytes stand for."""
    if members[0]:
        return bits_of_bitmap(members)
    return of_positions(listed_positions(members))


def is_list(members: bytes) -> bool:
    """Whether a set is stored as a list, for `listed_positions`."""
    return not members[0]


def stored_bitmap(members: bytes) -> bytes:
    """The bitmap of a set that is not stored as a list: a bit for every position given out."""
    stored = memoryview(members)[1:]
    return zlib.decompress(stored) if members[0] == 2 else bytes(stored)


def bits_of_bitmap(members: bytes) -> int:
    """The set, of one that is not stored as a list."""
    return int.from_bytes(stored_bitmap(members), "little")


def listed_positions(members: bytes) -> array[int]:
    """The positions, ascending, of a set that is stored as a list."""
    listed = array("H")
    listed.frombytes(memoryview(members)[1:])
    if sys.byteorder == "big":
        listed.byteswap()
    return listed


def stored_positions(members: bytes) -> Sequence[int]:
    """The positions that stored bytes stand for, ascending."""
    return positions(bits_of_bitmap(members)) if members[0] else listed_positions(members)


def of_positions(positions: Sequence[int]) -> int:
    """The set of ascending positions."""
    if not positions:
        return 0
    bitmap = bytearray((positions[-1] >> 3) + 1)
    for position in positions:
        bitmap[position >> 3] |= 1 << (position & 7)
    return int.from_bytes(bitmap, "little")


_NOT_ZERO = re.compile(rb"[^\0]")
#: The positions of the bits of each byte.
_BITS = tuple(tuple(bit for bit in range(8) if byte >> bit & 1) for byte in range(256))


def positions(bits: int) -> list[int]:
    """The members of a set, ascending."""
    found: list[int] = []
    used = bits.bit_length()
    members = count(bits)
    if 16 * members > used:
        return list(compress(range(used), flags(bits, used)))
    stored = bits.to_bytes((used + 7) >> 3, "little")
    if 16 * members < len(stored):
        # Between the few bytes that are not 0 there is much to skip.
        for place in _NOT_ZERO.finditer(stored):
            start = place.start() << 3
            found += [start + bit for bit in _BITS[place.group()[0]]]
        return found
    for index, byte in enumerate(stored):
        if byte:
            start = index << 3
            found += [start + bit for bit in _BITS[byte]]
    return found


def flags(bits: int, used: int) -> bytes:
    """A byte, 0 or 1, for each of the positions given out."""
    # The digits, lowest first; the one above the highest makes them complete.
    return bin(bits | 1 << used)[:2:-1].encode().translate(_VALUES)


def of_flags(flags: bytes | bytearray) -> int:
    """The set, of a byte for each position: 0, or 1 for a member."""
    return int(flags[::-1].translate(_DIGITS), 2)


def chosen(column: Sequence[Any], bits: int) -> Iterable[Any]:
    """What a column has at the members of a set, in the order of positions."""
    if 20 * count(bits) < len(column):
        return [column[position] for position in positions(bits)]
    return compress(column, flags(bits, len(column)))


#: Of digits the bytes 0 and 1.
_VALUES = bytes(int(byte == 49) for byte in range(256))  # 49: "1"

if hasattr(int, "bit_count"):  # Python 3.10

    def count(bits: int) -> int:
        """How many members a set has."""
        return bits.bit_count()

else:

    def count(bits: int) -> int:
        """How many members a set has."""
        return bin(bits).count("1")


# ------------------------------------------------------------- numbers as slices

#: Bits of a number.  The highest slice holds the negative ones, so that sets of
#: ordinary numbers do not need it.
WIDTH = 64
#: The slot of role ``n`` that holds the positions with a number at all: those
#: without one look like 0 in the slices.  Every series but span counts has it.  In
#: role ``x`` it holds those with several different numbers.
HAS_NUMBER = 64
_SIGN = 1 << (WIDTH - 1)
_ALL = (1 << WIDTH) - 1


class Slices(Protocol):
    """The slices of some numbers, by bit; a dictionary will do."""

    def get(self, bit: int, otherwise: int, /) -> int:
        """The positions whose number has the bit."""


def pattern_of_integer(number: int) -> int:
    """64 bits for an integer within int64: two's complement, which see `ordered`."""
    return number & _ALL


def pattern_of_double(number: float) -> int:
    """64 bits for a finite double, which see `ordered`.

    IEEE 754 doubles order like integers, negative ones backwards.  -0.0 is 0.0.
    """
    (bits,) = struct.unpack("<Q", struct.pack("<d", number + 0.0))
    return int(bits ^ (_ALL >> 1)) if bits & _SIGN else int(bits)


def integer_of(pattern: int) -> int:
    """The integer that a pattern stands for."""
    return pattern - (1 << WIDTH) if pattern & _SIGN else pattern


def double_of(pattern: int) -> float:
    """The double that a pattern stands for."""
    bits = pattern ^ (_ALL >> 1) if pattern & _SIGN else pattern
    (number,) = struct.unpack("<d", struct.pack("<Q", bits))
    return float(number)


def ordered(pattern: int) -> int:
    """A pattern as an unsigned number whose order is that of the numbers."""
    return pattern ^ _SIGN


def below(slices: Slices, within: int, bound: int) -> int:
    """The members of ``within`` whose number comes before a bound, as `ordered` has it.

    Slices are asked for from the highest bit on, as few as it takes.
    """
    if bound >> WIDTH:
        return within  # beyond all numbers
    less, equal = 0, within
    # What agrees with the bound down to its lowest bit does not come before it.
    lowest = bound & -bound
    for bit in range(WIDTH - 1, lowest.bit_length() - 2, -1) if bound else ():
        upper = equal & slices.get(bit, 0)
        if bit == WIDTH - 1:
            upper ^= equal  # set means negative
        if bound >> bit & 1:
            less |= equal ^ upper
            equal = upper
        else:
            equal ^= upper
        if not equal:
            break
    return less


def largest(slices: Slices, within: int, wanted: int) -> tuple[int, int]:
    """The ``wanted`` members of ``within`` with the largest numbers.

    Gives those that are among them for sure, and those tied for the last places;
    all of them where there are no more than wanted.
    """
    sure, tied = 0, within
    if count(within) <= wanted:
        return within, 0
    for bit in range(WIDTH - 1, -1, -1):
        members = slices.get(bit, 0)
        upper = tied & (~members if bit == WIDTH - 1 else members)
        if not upper or upper == tied:
            continue
        if count(sure | upper) > wanted:
            tied = upper
        else:
            sure |= upper
            tied &= ~upper
    return sure, tied


def add(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """The slices of the sums of two unsigned numbers per position."""
    sums = []
    carry = 0
    for bit in range(max(len(first), len(second))):
        one = first[bit] if bit < len(first) else 0
        other = second[bit] if bit < len(second) else 0
        half = one ^ other
        sums.append(half ^ carry)
        carry = one & other | half & carry
    if carry:
        sums.append(carry)
    return sums


def compare_counts(slices: Sequence[int], within: int, number: int) -> tuple[int, int]:
    """The members of ``within`` whose unsigned number is less than, and equal to, ``number``."""
    if number < 0:
        return 0, 0
    if number.bit_length() > len(slices):
        return within, 0
    less, equal = 0, within
    for bit in range(len(slices) - 1, -1, -1):
        members = slices[bit]
        if number >> bit & 1:
            less |= equal & ~members
            equal &= members
        else:
            equal &= ~members
    return less, equal


def transpose(patterns: Sequence[int]) -> dict[int, int]:
    """The slices of numbers, of which the first stands at position 0."""
    return {bit: int(column[::-1].translate(_DIGITS), 2) for bit, column in _columns(patterns)}


def numbers(slices: Slices, used: int) -> array[int]:
    """The patterns of all positions given out; 0 where there is no number."""
    found = array("Q")
    found.frombytes(_spread(slices, used, WIDTH >> 3))
    return found


def low_numbers(slices: Slices, used: int) -> array[int]:
    """The lower 32 bits of the patterns."""
    found = array("I")
    found.frombytes(_spread(slices, used, WIDTH >> 4))
    return found


def _spread(slices: Slices, used: int, width: int) -> bytearray:
    """The ``width`` lowest bytes of all patterns, as numbers of the machine."""
    size = (used + 7) >> 3
    spread = bytearray(width * used)
    for byte in range(width):
        # Byte ``n`` of eight: bit ``n`` of eight numbers.
        mixed = bytearray(8 * size)
        for bit in range(8):
            members = slices.get(8 * byte + bit, 0)
            if members:
                mixed[bit::8] = members.to_bytes(size, "little")
        if any(mixed):
            place = byte if sys.byteorder == "little" else width - 1 - byte
            spread[place::width] = _turned(mixed)[:used]
    return spread


def _turned(squares: bytearray) -> bytes:
    """Bits in squares of eight bytes with rows and columns swapped.

    Blocks of 1, 2 and 4 bits change places with those across the diagonal, in all squares
    at once (Warren, Hacker's Delight, 2nd edition 2012, section 7-3).
    """
    bits = int.from_bytes(squares, "little")
    for shift, mask in zip((7, 14, 28), _masks(len(squares) >> 3)):
        changed = (bits ^ (bits >> shift)) & mask
        bits ^= changed ^ (changed << shift)
    return bits.to_bytes(len(squares), "little")


@lru_cache(maxsize=8)
def _masks(squares: int) -> tuple[int, ...]:
    """Of so many squares the bits that change places with higher ones."""
    return tuple(
        int.from_bytes(mask.to_bytes(8, "little") * squares, "little")
        for mask in (0x00AA00AA00AA00AA, 0x0000CCCC0000CCCC, 0x00000000F0F0F0F0)
    )


def integers(patterns: array[int]) -> array[int]:
    """The integers that patterns stand for."""
    found = array("q")
    found.frombytes(patterns.tobytes())
    return found


def doubles(patterns: array[int]) -> array[float]:
    """The doubles that patterns stand for."""
    stored = patterns.tobytes()
    highest = stored[WIDTH // 8 - 1 if sys.byteorder == "little" else 0 :: WIDTH // 8]
    if highest.translate(None, _UNSIGNED):
        patterns = array("Q", (p ^ (_ALL >> 1) if p & _SIGN else p for p in patterns))
        stored = patterns.tobytes()
    found = array("d")
    found.frombytes(stored)
    return found


#: The highest bytes of patterns of numbers that are not negative.
_UNSIGNED = bytes(range(128))

#: Of bytes 0 and 1 the digits.
_DIGITS = bytes(48 + (byte & 1) for byte in range(256))
#: Of a byte whether it has a bit set, as 0 or 1, by bit.
_HAS_BIT = tuple(bytes(byte >> bit & 1 for byte in range(256)) for bit in range(8))


def _columns(patterns: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """Of each bit that some number has: bytes 0 and 1, one for each number."""
    numbers = patterns if isinstance(patterns, array) else array("Q", patterns)
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    stored = numbers.tobytes()
    for byte in range(WIDTH // 8):
        column = stored[byte :: WIDTH // 8]
        used = 0
        for value in set(column):
            used |= value
        for bit in range(8):
            if used >> bit & 1:
                yield 8 * byte + bit, column.translate(_HAS_BIT[bit])


def sliced(
    patterns: Sequence[int], positions: Sequence[int], used: int
) -> Iterator[tuple[int, bytes]]:
    """(bit, its slice as stored) of numbers that stand at ascending positions."""
    if 4 * len(positions) >= used:
        if len(positions) < used:
            spread = array("Q", bytes(8 * used))
            for position, pattern in zip(positions, patterns):
                spread[position] = pattern
            patterns = spread
        for bit, column in _columns(patterns):
            if _as_list(column.count(1), used):
                yield bit, _LISTED + _uint16(compress(range(used), column))
            else:
                bits = int(column[::-1].translate(_DIGITS), 2)
                yield bit, _bitmap(bits.to_bytes((used + 7) >> 3, "little"))
        return
    for bit, column in _columns(patterns):
        yield bit, encode(list(compress(positions, column)), used)
''',
"insights_engine.buckets": r'''"""Buckets of time: where each begins, by the calendar of a time zone.

A bucket is so many months, so many days, or a shorter time.  Months are counted from
January of year 0, days from a Monday.  Shorter times are counted from local midnight,
which always begins a bucket: where they do not divide the day, or the clock is put
forward or back, the last bucket of the day is shorter.  PostgreSQL knows the time zones.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, NamedTuple, Optional

from insights_engine import plans
from insights_engine.errors import InsightsError, blames_value, visible

MOST = 10_000

_DAY_MS = 86_400_000
_HINT = "For example '15 minutes', '1 hour', '1 day', '1 week' or '1 month'."


class Width(NamedTuple):
    """How long a bucket is: one of the three, the others are 0."""

    months: int
    days: int
    milliseconds: int

    @property
    def least_ms(self) -> int:
        """What a bucket takes at least, but for a last one of a day."""
        return self.milliseconds or (self.days * 23 + self.months * 28 * 24) * 3_600_000


def width_of(plpy: Any, bucket: Optional[str]) -> Width:
    """The width that an interval's text asks for.  Raises InsightsError."""
    if bucket is None:
        raise InsightsError("The bucket must not be NULL.", hint=_HINT)
    try:
        (row,) = plans.run(
            plpy,
            "select (extract(year from i) * 12 + extract(month from i))::bigint as months,"
            " extract(day from i)::bigint as days,"
            " (extract(hour from i) * 3600000000 + extract(minute from i) * 60000000"
            " + extract(microseconds from i))::bigint as microseconds"
            " from (select $1::interval as i) t",
            ("text",),
            (bucket,),
        )
    except plpy.SPIError as error:
        if not blames_value(error):
            raise
        raise InsightsError(f"Invalid bucket '{visible(bucket, 60)}'.", hint=_HINT) from None
    months, days, microseconds = row["months"], row["days"], row["microseconds"]
    whole_days, rest = divmod(microseconds, _DAY_MS * 1000)
    if not rest:
        days, microseconds = days + whole_days, 0
    width = Width(months, days, microseconds // 1000)
    if min(width) < 0 or sum(map(bool, width)) != 1 or microseconds % 1000:
        raise InsightsError(
            f"Invalid bucket '{visible(bucket, 60)}': it must be whole months, whole days, or less "
            "than a day in whole milliseconds.",
            hint=_HINT,
        )
    if width.milliseconds > _DAY_MS:
        raise InsightsError(
            f"Invalid bucket '{visible(bucket, 60)}': above a day, it must be whole days.",
            hint=_HINT,
        )
    return width


def edges(
    plpy: Any, width: Width, time_zone: Optional[str], first_ms: int, end_ms: int
) -> list[int]:
    """Where the buckets from ``first_ms`` to before ``end_ms`` begin, and the last one ends.

    Milliseconds since 1970 UTC, ascending; the first edge is not after ``first_ms``, the
    last not before ``end_ms``.  Raises InsightsError.
    """
    if time_zone is None:
        raise InsightsError("The time zone must not be NULL.", hint=_ZONES)
    if (end_ms - first_ms) // width.least_ms > MOST + 1:
        raise _too_many()
    starts = _starts(plpy, width, time_zone, first_ms, end_ms)
    if width.milliseconds:
        starts = [
            start
            for midnight, next_midnight in zip(starts, starts[1:])
            for start in range(midnight, next_midnight, width.milliseconds)
        ] + starts[-1:]
    # The calendar was asked about a little more than is needed: midnight may be later
    # than some moment of its day, where the clock is put back to it.
    first = bisect_right(starts, first_ms) - 1
    last = bisect_right(starts, end_ms - 1)
    if last - first > MOST:
        raise _too_many()
    return starts[first : last + 1]


_ZONES = "For example 'UTC', 'Europe/Berlin' or 'America/New_York'."


def _too_many() -> InsightsError:
    return InsightsError(
        f"More than {MOST} buckets.", hint="Choose a longer bucket, or a later start_time."
    )


def _starts(plpy: Any, width: Width, time_zone: str, first_ms: int, end_ms: int) -> list[int]:
    """Where months or days begin, from before ``first_ms`` to after ``end_ms``."""
    if width.months:
        place = "(extract(year from d.local) * 12 + extract(month from d.local) - 1)::int"
        begin = "make_date(n.n * $4 / 12, n.n * $4 % 12 + 1, 1)"
    else:
        place = "(d.local::date - date '2001-01-01')"
        begin = "(date '2001-01-01' + n.n * $4)"
    # floor(), as dates before the origin are not to be rounded towards it.
    number = f"pg_catalog.floor({place} / $4::numeric)::int"
    moment = "(pg_catalog.to_timestamp({} / 1000.0) at time zone $3)"
    try:
        rows = plans.run(
            plpy,
            f"select distinct (extract(epoch from ({begin}::timestamp at time zone $3)) * 1000)"
            "::bigint as start from pg_catalog.generate_series("
            f"(select {number} - 1 from (select {moment.format('$1::bigint')} as local) d),"
            f" (select {number} + 2 from (select {moment.format('$2::bigint')} as local) d)"
            ") n (n) order by start",
            ("bigint", "bigint", "text", "int"),
            (first_ms, end_ms, time_zone, width.months or width.days or 1),
        )
    except plpy.SPIError as error:
        if error.sqlstate == "22023":
            raise InsightsError(
                f"Invalid time zone '{visible(time_zone, 60)}'.", hint=_ZONES
            ) from None
        raise
    return [row["start"] for row in rows]
''',
"insights_engine.cache": r'''"""What a session keeps of the index between calls, and why that is right.

A block is written once: what its postings say about a filter never changes, so must
and may of filters and of their predicates are kept by block, as Lucene keeps the
results of filters by segment.  What does change, which blocks there are and which of their
positions are live, is read anew whenever the version of the index does, which
every transaction that writes it replaces by a random one.

What the raw predicate said about positions that the index left open is kept, too:
must and may come closer to each other.  A trace that changes is pending until it has
left its position, and pending traces are asked about again by each call, so an
answer about a position that is live and not pending stays right.

Nothing is kept for conditions with ``now()`` in them.
"""

from __future__ import annotations

import re
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Callable, NamedTuple, Optional, Protocol, TypeVar

from insights_engine import bitmaps
from insights_engine.groups import Block
from insights_engine.planner import Planner

Items = TypeVar("Items")

#: Bytes kept if the setting ``insights.cache`` says nothing.
DEFAULT_BYTES = 64 * 2**20
#: Filters and experiments have many texts; more of them than these start anew.
_MOST_LISTS = 50

# A dictionary's entry with what it refers to, and the head of an integer.
_ENTRY_BYTES = 200
_INTEGER_BYTES = 28


class Sized(Protocol):
    """Something that is known of a block."""

    @property
    def nbytes(self) -> int:
        """About what it takes in memory."""


class Column(NamedTuple):
    """A number for each position of a block, right for the positions of ``known``."""

    known: int
    numbers: array[Any]

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        stored = self.numbers.itemsize * len(self.numbers)
        return _INTEGER_BYTES + (self.known.bit_length() >> 3) + stored


class Known:
    """What is known of a filter in a block; ``may is must`` where that is everything."""

    __slots__ = ("_count", "may", "must")

    def __init__(self, must: int, may: int) -> None:
        self.must = must
        self.may = must if must == may else may
        self._count = -1

    def count(self) -> int:
        """How many positions match for sure."""
        if self._count < 0:
            self._count = bitmaps.count(self.must)
        return self._count

    def within(self, universe: int) -> Known:
        """The same of some of the positions."""
        must = self.must & universe
        return Known(must, must if self.may is self.must else self.may & universe)

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        size = _INTEGER_BYTES + (self.must.bit_length() >> 3)
        if self.may is not self.must:
            size += _INTEGER_BYTES + (self.may.bit_length() >> 3)
        return size


class Cache:
    """What is kept of one installation of the index."""

    def __init__(self) -> None:
        self._installation = ""
        self._lists: dict[Any, tuple[str, list[Block]]] = {}
        self._planners: dict[Any, tuple[str, Planner]] = {}
        #: Bounds, columns and the like, by what they are about and block.
        self._known: OrderedDict[Any, dict[int, Any]] = OrderedDict()
        self._sizes: dict[Any, int] = {}
        self._columns: dict[int, dict[Any, tuple[Any, int]]] = {}
        self._items: Any = None
        self._bytes = 0
        self.limit = DEFAULT_BYTES

    def open(self, installation: str, limit: int) -> None:
        """Forgets what belongs to another installation, or exceeds ``limit`` bytes.

        With a limit of 0 nothing at all is kept from one call to the next.
        """
        if installation != self._installation or not limit:
            self._lists.clear()
            self._planners.clear()
            self._known.clear()
            self._sizes.clear()
            self._columns.clear()
            self._items = None
            self._bytes = 0
            self._installation = installation
        self.limit = limit
        self._shrink()

    def blocks(self, scope: Any, version: str) -> Optional[list[Block]]:
        """The blocks of some experiments, if they are those of this version."""
        known = self._lists.get(scope)
        return known[1] if known is not None and known[0] == version else None

    def keep_blocks(self, scope: Any, version: str, blocks: list[Block]) -> None:
        """Keeps the blocks of some experiments; what is known of those that are gone is dropped."""
        known = self._lists.get(scope)
        if known is not None:
            gone = {block.block for block in known[1]} - {block.block for block in blocks}
            self._drop_columns(gone)
            for key, table in self._known.items() if gone else ():
                for block in gone & table.keys():
                    self._count(key, -_size(table.pop(block)))
        elif len(self._lists) >= _MOST_LISTS:
            self._lists.clear()
        self._lists[scope] = (version, blocks)

    def planner(self, scope: Any, version: str, make: Callable[[], Planner]) -> Planner:
        """The planner for some experiments, with what it has looked up in this version."""
        known = self._planners.get(scope)
        if known is None or known[0] != version:
            if known is None and len(self._planners) >= _MOST_LISTS:
                self._planners.clear()
            known = self._planners[scope] = (version, make())
        return known[1]

    def known(self, key: Any) -> dict[int, Known]:
        """By block what is known; only to be looked at."""
        found = self._known.get(key)
        if found is None:
            return {}
        self._known.move_to_end(key)
        return found

    def columns(self, key: Any) -> Mapping[int, Any]:
        """By block columns, or what else was kept under the key; only to be looked at."""
        return self.known(key)

    def keep(self, key: Any, fresh: Mapping[int, Sized]) -> None:
        """Adds what has become known, unless it alone is more than may be kept."""
        size = sum(map(_size, fresh.values()))
        if size > self.limit:
            return
        table = self._known.setdefault(key, {})
        for block in fresh.keys() & table.keys():
            size -= _size(table[block])
        table.update(fresh)
        self._known.move_to_end(key)
        self._count(key, size)
        self._shrink()

    # ------------------------------------------------- what discoveries look at

    def items(self, make: Callable[[], Items]) -> Items:
        """What the vocabulary can be counted as; it grows with the vocabulary."""
        if self._items is None:
            self._items = make()
        found: Items = self._items
        return found

    def column(self, block: int, what: Any) -> Any:
        """What is known of a block beside the pairs; None if that is not known."""
        known = self._columns.get(block, {}).get(what)
        return None if known is None else known[0]

    def keep_column(self, block: int, what: Any, column: Any, size: int) -> None:
        """Keeps it, in place of what was known, if there is room.

        Discoveries go through all blocks, time and again in the same order: if not
        all of them can be kept, dropping the oldest would have none of them kept.
        """
        columns = self._columns.setdefault(block, {})
        before = columns.get(what)
        more = size if before is None else size - before[1]
        if self._bytes + more <= self.limit:
            columns[what] = (column, size)
            self._bytes += more

    def _drop_columns(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            dropped = self._columns.pop(block, {})
            self._bytes -= sum(size for _, size in dropped.values())

    def _count(self, key: Any, size: int) -> None:
        self._sizes[key] = self._sizes.get(key, 0) + size
        self._bytes += size

    def _shrink(self) -> None:
        # What was asked about is worth more than what might be.
        while self._bytes > self.limit and self._columns:
            self._drop_columns([next(iter(self._columns))])
        while self._bytes > self.limit:
            key, _ = self._known.popitem(last=False)
            self._bytes -= self._sizes.pop(key)


def _size(known: Sized) -> int:
    return _ENTRY_BYTES + known.nbytes


def cached_bytes(setting: Optional[str]) -> int:
    """The limit that the setting ``insights.cache`` asks for: ``'64MB'``, ``'0'``.

    What is not a size like that is taken as no setting at all: a setting that
    only affects speed must not make an answer fail.
    """
    found = _SIZE.fullmatch((setting or "").strip())
    if found is None:
        return DEFAULT_BYTES
    return int(found[1]) * _UNITS[found[2].lower()]


_SIZE = re.compile(r"([0-9]{1,12})\s*(B|kB|MB|GB|)", re.IGNORECASE | re.ASCII)
_UNITS = {"": 1, "b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30}

#: The session's.
CACHE = Cache()
''',
"insights_engine.candidates": r'''"""Every fact that a discovery tests, named independently of where it is stored.

An *item* is a set of traces that can be counted: a fact that is a filter of its
own (``tags.env = 'prod'``, ``span.name = 'retrieve'``, ``feedback.quality IS NOT
NULL``), or what makes facts uncertain, because the index keeps it in a bucket that
several values share.  Items are made of terms: those of the vocabulary of the
index, or those of `facts.Facts` about traces that are not indexed.  Their names
are the same in both, so that their counts can be added up.

The first element of an item's name says what it is:

    ("v", kind, key, value)     some value equals this text
    ("p", kind, key)            there is a value
    ("s", column, text, status) some span has this type or name, and this status
    ("e", experiment id)        the experiment
    ("n", kind, key, span name, op, number, cut)
                                some number compares so; no item, but a fact
    ("a", name, name)           both of two facts; no item either
    ("h", kind, key, bucket)    some value is in this hash bucket
    ("o", kind, key, slot)      something was not captured
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Optional

from insights_engine import fields, plans, times, tree
from insights_engine.attributes import number_form, storable
from insights_engine.terms import (
    CONTENT,
    NUMBER,
    PARTS,
    SEPARATOR,
    SESSION,
    TEXT,
    bucket_of,
    hidden_slot_of,
    name_bucket_of,
)

Name = tuple[Any, ...]

#: What ``kinds`` may name, in the order of the documentation.
KINDS = (
    *("trace", "tag", "metadata", "feedback", "expectation"),
    *("run", "prompt", "issue", "span", "attribute", "number"),
)

#: A key with more different numbers than this is tested by thresholds alone.
MOST_EQUAL_NUMBERS = 32

FACTS = frozenset("vpse")
_ASSESSMENTS = ("feedback", "expectation")
#: Traces whose session has assessments in another experiment.
MARK_OF_SESSIONS: Name = ("o", "trace", "assessments", SESSION)
_ANY_SPAN: Name = ("o", "span", "", "")

#: What MLflow notes for itself: how much it has stored, where, and in which form.
_BOOKKEEPING = frozenset(
    (
        ("tag", "mlflow.artifactLocation"),
        ("tag", "mlflow.trace.archiveLocation"),
        ("tag", "mlflow.trace.spansLocation"),
        ("metadata", "mlflow.trace.infoFinalized"),
        ("metadata", "mlflow.trace.sizeBytes"),
        ("metadata", "mlflow.trace.sizeStats"),
        ("metadata", "mlflow.trace_schema.version"),
    )
)

#: What MLflow keeps elsewhere, or every trace has; and what went in and out, which
#: for spans is no fact either.
_NO_FACTS = _BOOKKEEPING.union(
    (
        ("tag", "mlflow.traceName"),
        ("tag", "mlflow.linkedPrompts"),
        ("metadata", "mlflow.sourceRun"),
        ("metadata", "mlflow.trace.session"),
        ("metadata", "mlflow.traceInputs"),
        ("metadata", "mlflow.traceOutputs"),
        ("attribute", "mlflow.spanType"),
        *(("metadata", key) for key in fields.USAGE_METADATA),
        ("trace", "timestamp_ms"),
        ("trace", "end_time_ms"),
        ("trace", "span_count"),
        ("span", "duration"),
    )
)


class Term(NamedTuple):
    """A row of ``insights.term``, or what would be one."""

    number: int
    kind: str
    key: str
    signature: int
    role: str
    slot: int
    value: str


class Signature(NamedTuple):
    """A row of ``insights.signature``."""

    type: Optional[str]
    name: Optional[str]
    status: str
    bucket: Optional[int]


# ------------------------------------------------------------------------- items


def items_of(term: Term, signatures: dict[int, Signature]) -> Iterator[Name]:
    """The names of the items that a term is part of."""
    kind, key, role = term.kind, term.key, term.role
    if role == "v":
        if (kind, key) not in _NO_FACTS:
            value = _readable(term.value) if kind in _ASSESSMENTS else term.value
            yield ("v", kind, key, value)
    elif role == "p":
        if (kind, key) not in _NO_FACTS:
            yield ("p", kind, key)
    elif role == "h":
        # Buckets make the values of facts uncertain.
        if (kind, key) not in _NO_FACTS:
            yield ("h", kind, key, term.slot)
    elif role == "o":
        yield ("o", kind, key, term.slot)
    elif role == "n" and kind == "span" and key == "count":
        signature = signatures.get(term.signature)
        if signature is None:
            return
        if signature.bucket is None:
            if signature.name is not None:
                yield ("s", "name", signature.name, signature.status)
        elif signature.status == "":
            yield _ANY_SPAN
            return
        else:
            yield ("o", "span", signature.status, signature.bucket)
        if signature.type is not None:
            yield ("s", "type", signature.type, signature.status)


def series_of(
    kind: str, key: str, signature: int, signatures: Mapping[int, Signature]
) -> Optional[Name]:
    """The field that numbers of a key and signature belong to, if it is tested."""
    if (kind, key) == ("trace", "end_time_ms") or (kind, key) in _BOOKKEEPING:
        return None
    if (kind, key) == ("span", "duration") and signature:
        known = signatures.get(signature)
        if known is None or known.name is None:
            return None
        return ("n", kind, key, known.name)
    return ("n", kind, key, "")


def _readable(stored: str) -> str:
    """The shortest text that equals a stored value of an assessment.

    A text in a filter equals its own JSON and what it is the JSON of (``'yes'``
    equals ``"yes"``, ``'4'`` equals ``4`` and ``"4"``).
    """
    if stored[:1] == '"':
        try:
            text = json.loads(stored)
        except ValueError:
            return stored
        if isinstance(text, str) and json.dumps(text) == stored and storable(text) == text:
            return text
    return stored


def uncertain_by(name: Name) -> tuple[Name, ...]:
    """The items whose traces have the fact perhaps, or another number than is known."""
    role = name[0]
    if role == "n":
        kind, key = name[1], name[2]
        unknown: Name = ("o", kind, key, NUMBER)
        if kind == "attribute":
            return (unknown, *_lost(key))
        return (unknown, MARK_OF_SESSIONS) if kind in _ASSESSMENTS else (unknown,)
    if role == "s":
        if name[1] == "type":
            return (_ANY_SPAN,)
        bucket = name_bucket_of(name[2])
        return (("o", "span", name[3], bucket), _ANY_SPAN)
    if role not in ("v", "p"):
        return ()
    kind, key = name[1], name[2]
    found: list[Name] = []
    if role == "v":
        value = name[3]
        found = [("h", kind, key, bucket_of(value)), ("o", kind, key, TEXT)]
        if kind in _ASSESSMENTS:
            found.append(("h", kind, key, bucket_of(json.dumps(value))))
    if kind == "attribute":
        found += _lost(key)
    elif kind in _ASSESSMENTS:
        found.append(MARK_OF_SESSIONS)
    return tuple(found)


@lru_cache(maxsize=5000)
def _lost(key: str) -> tuple[Name, ...]:
    """Where it is not known whether a span has an attribute."""
    top, _, part = key.partition(SEPARATOR)
    hidden = hidden_slot_of(top)
    found: tuple[Name, ...] = (
        ("o", "attribute", "", CONTENT),
        ("o", "attribute", "", hidden),
    )
    return (*found, ("o", "attribute", top, PARTS)) if part else found


class Items:
    """Items by number; a vocabulary that only ever grows keeps their numbers."""

    def __init__(self, below: Optional[Items] = None) -> None:
        """``below``: the numbers of these come first, and are not changed."""
        self._below = below
        self._start = 0 if below is None else len(below)
        self._numbers: dict[Name, int] = {}
        self._names: list[Name] = []
        #: How many values of a key read as numbers.
        self._numeric: dict[tuple[str, str], int] = {}
        self.signatures: dict[int, Signature] = {}
        #: Of each term of the index the facts it is part of, ...
        self.facts_of: dict[int, tuple[int, ...]] = {}
        #: ... and the other items.
        self.doubts_of: dict[int, tuple[int, ...]] = {}
        self._terms: list[int] = []
        self._made_of: dict[int, list[int]] = {}
        self._terms_made_of = 0
        #: Of each field with numbers the terms of its slices, by signature.
        self.slices: dict[Name, dict[int, dict[tuple[str, int], int]]] = {}
        #: Where fields are cut (see `series`), with the blocks and positions that this comes from.
        self.cuts: dict[Name, tuple[tuple[tuple[int, int], ...], Any]] = {}
        #: The same of those that the largest blocks have no numbers of.
        self.later_cuts: dict[Name, tuple[tuple[tuple[int, int], ...], Any]] = {}
        self._last_term = 0

    def __len__(self) -> int:
        return self._start + len(self._names)

    def number(self, name: Name) -> int:
        """The number of an item; a new one where it is not known."""
        known = self.known(name)
        if known is not None:
            return known
        number = self._numbers[name] = len(self)
        self._names.append(name)
        if name[0] == "v" and reads_as_number(name):
            key = (name[1], name[2])
            self._numeric[key] = self._numeric.get(key, 0) + 1
        return number

    def known(self, name: Name) -> Optional[int]:
        """The number of an item, if it has one."""
        if self._below is not None:
            known = self._below.known(name)
            if known is not None:
                return known
        return self._numbers.get(name)

    def name(self, number: int) -> Name:
        """The name of an item."""
        if number < self._start:
            assert self._below is not None
            return self._below.name(number)
        return self._names[number - self._start]

    def numeric_values(self, kind: str, key: str) -> int:
        """How many values of a key read as numbers."""
        below = 0 if self._below is None else self._below.numeric_values(kind, key)
        return below + self._numeric.get((kind, key), 0)

    def terms_of(self, items: Iterable[int]) -> dict[int, tuple[int, ...]]:
        """The terms that some items are made of, each with what it is part of."""
        if self._terms_made_of < len(self._terms):
            for term in self._terms[self._terms_made_of :]:
                for item in self._items(term):
                    self._made_of.setdefault(item, []).append(term)
            self._terms_made_of = len(self._terms)
        terms = {term for item in items for term in self._made_of.get(item, ())}
        return {term: self._items(term) for term in terms}

    def _items(self, term: int) -> tuple[int, ...]:
        return self.facts_of.get(term, ()) + self.doubts_of.get(term, ())

    def read(self, plpy: Any) -> None:
        """Adds what the vocabulary of the index has more.

        Terms are only ever added, by one writer at a time, so their numbers ascend;
        those that are gone have no postings any more.
        """
        if self._last_term == 0 or self._has_new_signatures(plpy):
            self._read_signatures(plpy)
        (row,) = plans.run(
            plpy,
            "select pg_catalog.array_agg(v.term) as number, pg_catalog.array_agg(v.kind) as kind,"
            " pg_catalog.array_agg(v.key) as key, pg_catalog.array_agg(v.signature) as signature,"
            " pg_catalog.array_agg(v.role::text) as role, pg_catalog.array_agg(v.slot) as slot,"
            " pg_catalog.array_agg(v.value) as value from insights.term v where v.term > $1",
            ("int",),
            (self._last_term,),
        )
        if row["number"] is None:
            return
        columns = [row[name] for name in Term._fields]
        for term in map(Term._make, zip(*columns)):
            if term.role in ("n", "x") and (term.kind, term.key) != ("span", "count"):
                self._add_slice(term)
                continue
            names = list(items_of(term, self.signatures))
            facts = tuple([self.number(name) for name in names if name[0] in FACTS])
            doubts = tuple([self.number(name) for name in names if name[0] not in FACTS])
            if facts:
                self.facts_of[term.number] = facts
            if doubts:
                self.doubts_of[term.number] = doubts
            if names:
                self._terms.append(term.number)
        self._last_term = max(self._last_term, *row["number"])

    def _add_slice(self, term: Term) -> None:
        name = series_of(term.kind, term.key, term.signature, self.signatures)
        if name is not None:
            of_signature = self.slices.setdefault(name, {}).setdefault(term.signature, {})
            of_signature[term.role, term.slot] = term.number

    def _has_new_signatures(self, plpy: Any) -> bool:
        (row,) = plans.run(plpy, "select max(s.signature) as last from insights.signature s")
        return row["last"] is not None and row["last"] not in self.signatures

    def _read_signatures(self, plpy: Any) -> None:
        for row in plans.run(
            plpy, "select s.signature, s.type, s.name, s.status, s.bucket from insights.signature s"
        ):
            self.signatures[row["signature"]] = Signature(
                row["type"], row["name"], row["status"], row["bucket"]
            )


def reads_as_number(name: Name) -> bool:
    """Whether the value of an item reads as a number."""
    return number_form(name[3]) is not None


# ------------------------------------------------------------------------- facts


class Label(NamedTuple):
    """What a row shows of a fact."""

    kind: str
    key: str
    value: Optional[str]


def label(name: Name) -> Label:
    """The columns kind, key and value of a fact."""
    if name[0] == "a":
        both = [label(one) for one in name[1:]]
        kind, key = (" AND ".join([one[column] or "" for one in both]) for column in (0, 1))
        return Label(kind, key, " AND ".join([one.value or "" for one in both]))
    if name[0] == "e":
        return Label("trace", "experiment_id", str(name[1]))
    if name[0] == "s":
        return Label("span", f"{name[1]}, status", f"{name[2]}, {name[3]}")
    kind, key = name[1], name[2]
    if name[0] == "n":
        field = fields.spell(field_of(kind, key))
        of_name = f"span.name, {field}" if name[3] else field
        value = f"{name[3]}, " if name[3] else ""
        return Label("number", of_name, f"{value}{name[4]} {_number_text(name)}")
    shown = _SHOWN_KEYS.get(str(kind), str(key))
    return Label(kind, shown.replace(SEPARATOR, "."), name[3] if name[0] == "v" else None)


def _number_text(name: Name) -> str:
    """The constant of a threshold, as a filter has it, but without quotes."""
    number = name[5]
    of_time = fields.is_time(field_of(name[1], name[2])) and isinstance(number, int)
    return (of_time and times.text_of(number)) or repr(number)


_SHOWN_KEYS = {"run": "run_id", "prompt": "prompt", "issue": "issue.id"}


def kind_of(name: Name) -> str:
    """The kind of a fact."""
    return {"e": "trace", "s": "span", "n": "number"}.get(name[0]) or str(name[1])


def node_of(name: Name) -> tree.Node:
    """The filter that a fact is."""
    role = name[0]
    if role == "a":
        return tree.And((node_of(name[1]), node_of(name[2])))
    if role == "e":
        return tree.TextCompare(tree.TraceText("experiment_id"), "=", str(name[1]))
    if role == "s":
        return tree.AnySpan(
            tree.And(
                (
                    tree.TextCompare(tree.SpanText(name[1]), "=", name[2]),
                    tree.TextCompare(tree.SpanText("status"), "=", name[3]),
                )
            )
        )
    field = field_of(name[1], name[2])
    node: tree.Node
    if role == "p":
        node = tree.IsNull(field, negated=True)
    elif role == "n":
        node = tree.NumberCompare(field, name[4], name[5])
        if name[3]:
            named = tree.TextCompare(tree.SpanText("name"), "=", name[3])
            return tree.AnySpan(tree.And((named, node)))
    else:
        node = tree.TextCompare(field, "=", name[3])
    return tree.AnySpan(node) if fields.is_span_field(field) else node


def field_of(kind: str, key: str) -> tree.Field:
    """The field that facts of a kind and key are about."""
    if kind == "trace":
        number = key in tree.TRACE_NUMBER_FIELDS
        return tree.TraceNumber(key) if number else tree.TraceText(key)
    if kind == "tag":
        return tree.Tag(key)
    if kind == "metadata":
        return fields.PROMOTED_METADATA.get(key) or tree.Metadata(key)
    if kind in _ASSESSMENTS:
        return tree.Assessment(kind, key)
    if kind in ("run", "prompt"):
        return tree.TraceText("run_id" if kind == "run" else "prompt")
    if kind == "issue":
        return tree.Issue()
    if kind == "span":
        return tree.SpanNumber("duration_ms") if key == "duration" else tree.SpanText(key)
    return tree.SpanAttribute(tuple(key.split(SEPARATOR)))


# ---------------------------------------------------------------- restatements


class Restated:
    """Tells the facts that merely restate a filter: those about a field of it.

    Whoever asks about ``status = 'ERROR'`` knows that ``status = 'OK'`` goes against
    it.  A field counts under all its names, and with what it is computed from.
    """

    def __init__(self, nodes: Iterable[tree.Node]) -> None:
        self._keys: set[tuple[str, str]] = set()
        self._attributes: set[str] = set()
        self._durations = False
        #: Whether all spans of a name are root spans, as far as is known.
        self.is_of_roots: Callable[[str], bool] = lambda name: False
        for node in nodes:
            for field in tree.fields_of(node):
                self._add(field)

    def __call__(self, name: Name) -> bool:
        role = name[0]
        if role == "a":
            return self(name[1]) or self(name[2])
        if role == "e":
            return ("trace", "experiment_id") in self._keys
        if role == "s":
            return ("span", name[1]) in self._keys or ("span", "status") in self._keys
        kind, key = name[1], name[2]
        if role == "n" and name[3]:
            if self._durations or ("span", "name") in self._keys:
                return True
            # The time that spans of one name take tells more than that of the trace,
            # but for root spans, which last as long.
            return ("trace", "execution_time_ms") in self._keys and self.is_of_roots(name[3])
        if kind == "attribute":
            return any(_one_in_the_other(key, other) for other in self._attributes)
        return (kind, key) in self._keys

    def _add(self, field: tree.Field) -> None:
        if isinstance(field, (tree.TraceText, tree.TraceNumber)):
            self._keys.update(_SAME.get(field.name, (("trace", field.name),)))
            for ending, attribute in _SUMMED.items():
                if field.name.endswith(ending):
                    self._attributes.add(attribute)
        elif isinstance(field, tree.Tag):
            self._keys.add(("tag", field.key))
        elif isinstance(field, tree.Metadata):
            self._keys.add(("metadata", field.key))
            self._keys.update(_USAGE.get(field.key, ()))
        elif isinstance(field, tree.Assessment):
            kinds = _ASSESSMENTS if field.kind == "assessment" else (field.kind,)
            self._keys.update((kind, field.name) for kind in kinds)
        elif isinstance(field, tree.Issue):
            self._keys.add(("issue", ""))
        elif isinstance(field, tree.SpanText):
            self._keys.add(("span", field.name))
        elif isinstance(field, tree.SpanNumber):
            self._durations = True
            # The root span lasts as long as the trace.
            self._keys.update((("span", "duration"), ("trace", "execution_time_ms")))
        else:
            self._attributes.add(SEPARATOR.join(field.path))


def _one_in_the_other(one: str, other: str) -> bool:
    return (one + SEPARATOR).startswith(other + SEPARATOR) or other.startswith(one + SEPARATOR)


_SAME: dict[str, tuple[tuple[str, str], ...]] = {
    "run_id": (("run", ""),),
    "prompt": (("prompt", ""),),
    "user": (("metadata", "mlflow.trace.user"),),
    "execution_time_ms": (("trace", "execution_time_ms"), ("span", "duration")),
    "end_time_ms": (("trace", "timestamp_ms"), ("trace", "execution_time_ms")),
    **{
        f"total_{what}": tuple(("trace", f"{one}_{what}") for one in ("input", "output", "total"))
        for what in ("tokens", "cost")
    },
    **{
        f"{one}_{what}": (("trace", f"{one}_{what}"), ("trace", f"total_{what}"))
        for one in ("input", "output")
        for what in ("tokens", "cost")
    },
}
#: The attributes of spans that MLflow sums up for the trace, by the ending of its fields.
_SUMMED = {"_tokens": "mlflow.chat.tokenUsage", "_cost": "mlflow.llm.cost"}
_USAGE = {
    "mlflow.trace.tokenUsage": tuple(
        ("trace", name) for name in tree.TRACE_NUMBER_FIELDS if "_tokens" in name
    ),
    "mlflow.trace.cost": tuple(
        ("trace", name) for name in tree.TRACE_NUMBER_FIELDS if name.endswith("_cost")
    ),
}


def has_span_condition(node: tree.Node) -> bool:
    """Whether a filter has plain conditions on spans, which others would join."""
    if isinstance(node, (tree.And, tree.Or)):
        return any(has_span_condition(item) for item in node.items)
    if isinstance(node, tree.Not):
        return has_span_condition(node.item)
    return isinstance(node, tree.AnySpan)
''',
"insights_engine.cell_writer": r'''"""Works out the cells of large blocks when the index is written; see `stored_cells`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from insights_engine import cells, stored_cells
from insights_engine.candidates import Items, Name
from insights_engine.cells import Cells, Cuts
from insights_engine.groups import Block, all_positions
from insights_engine.large_blocks import Task
from insights_engine.parts import Indexed
from insights_engine.population import SERIES_AT_ONCE

#: Blocks that one call works out: about a third of a second each.
AT_ONCE = 2


def store(plpy: Any, tasks: Sequence[Task]) -> int:
    """Stores the cells of some blocks: of so many at most; of how many."""
    items = Items()
    items.read(plpy)
    stored = 0
    for task in tasks[:AT_ONCE]:
        sample = [block.block for block in task.sample]
        cuts = stored_cells.cuts_of(plpy, sample) or _chosen(plpy, items, task.sample)
        found = worked_out(plpy, items, task.block, cuts)
        stored_cells.write(plpy, task.block.block, task.block.used, sample, found)
        # Without any number there is nothing to store, and nothing more to be done.
        stored += bool(found)
    return stored


def worked_out(plpy: Any, items: Items, block: Block, cuts: dict[Name, Cuts]) -> dict[Name, Cells]:
    """The cells of a block, of its postings."""
    # A field that is not cut has none, which is stored, too.
    found = {name: Cells([], [], chosen) for name, chosen in cuts.items() if not chosen.values}
    for names in _some([name for name in cuts if name not in found]):
        part = _part(plpy, items, block)
        found.update(part.worked_out({name: cuts[name] for name in names}))
    return found


def wrong(plpy: Any, items: Items, block: Block) -> Iterator[Name]:
    """The fields whose stored cells are not what the postings of a block say."""
    cuts = stored_cells.cuts_in(plpy, block.block)
    expected = worked_out(plpy, items, block, cuts)
    for names in _some(list(cuts)):
        stored = stored_cells.read(plpy, block.block, {name: cuts[name] for name in names})
        for name in names:
            found, right = stored.get(name), expected[name]
            if found is None or (found.low, found.high) != (right.low, right.high):
                yield name


def _chosen(plpy: Any, items: Items, sample: Sequence[Block]) -> dict[Name, Cuts]:
    """The cuts that a session would choose, of all fields."""
    found = {}
    for names in _some(sorted(items.slices)):
        numbers: dict[Name, list[int]] = {name: [] for name in names}
        for block in sample:
            for name, some in _part(plpy, items, block).sample(names).items():
                numbers[name] += some
        found.update({name: cells.choose_cuts(name, some) for name, some in numbers.items()})
    return found


def _part(plpy: Any, items: Items, block: Block) -> Indexed:
    return Indexed(plpy, items, block, all_positions(block.used), 0, {})


def _some(names: Sequence[Name]) -> Iterator[Sequence[Name]]:
    for start in range(0, len(names), SERIES_AT_ONCE):
        yield names[start : start + SERIES_AT_ONCE]
''',
"insights_engine.cells": r'''"""The numbers of traces, cut into cells: what thresholds are chosen from.

The numbers of a field are compared as `bitmaps.ordered` orders them, so that a cell
holds exactly what the raw predicate says is between two constants.  Where to cut is
chosen once, from a sample of the traces and without a look at any target, and at
numbers that are good to read; of each trace it is then kept in which cell its
smallest and its largest number lie, a few bits each.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import accumulate
from typing import NamedTuple, Optional, Union

from insights_engine import bitmaps, intervals, tree
from insights_engine.candidates import Name
from insights_engine.thresholds import roundest

#: A cut in each of so many even parts of the numbers, and in smaller and smaller ones
#: at both ends; anywhere in a part, so that the numbers are good to read.
_EVEN = 20
_TAIL = 6
#: Numbers of a field that cuts are chosen from, ...
SAMPLE = 20_000
#: ... unless there are so few traces that all of theirs are looked at.
FEW_TRACES = 5_000


class Numbers(NamedTuple):
    """The smallest and largest number of each trace that has one, as ordered integers."""

    positions: Sequence[int]
    low: Sequence[int]
    high: Sequence[int]


class Cuts(NamedTuple):
    """Constants, ascending, and the first ordered integer that is not below each."""

    values: Sequence[Union[int, float]]
    starts: Sequence[int]


#: The number of a cell at each position, bit by bit, the lowest first.
Planes = Sequence[int]
#: How many traces are in each cell.
Histogram = dict[int, int]


class Cells:
    """The cell of the smallest and largest number by position, from 1; 0: there is none.

    They are the same object where no trace has two different numbers.
    """

    __slots__ = ("_last", "cuts", "high", "low", "size")

    def __init__(self, low: Planes, high: Planes, cuts: Cuts) -> None:
        self.low = low
        self.high = high
        self.cuts = cuts
        # The set that was last counted as a base, and its `counts`: as a rule all traces.
        self._last: tuple[int, tuple[Histogram, Histogram]] = (-1, ({}, {}))
        planes = low if high is low else (*low, *high)
        #: About how many bytes of memory it takes.
        self.size = 2_000 + sum(bits.bit_length() // 7 for bits in planes)

    def counts(self, within: int) -> tuple[Histogram, Histogram]:
        """How many traces of a set have their smallest, and their largest, number in each cell."""
        low = histogram(self.low, within)
        return low, low if self.high is self.low else histogram(self.high, within)

    def base_counts(self, base: int) -> tuple[Histogram, Histogram]:
        """The same of a set that will be asked about again: the base of a discovery."""
        if self._last[0] != base:
            self._last = base, self.counts(base)
        return self._last[1]

    def members(self, op: str, cut: int) -> int:
        """The positions with some number at or above a cut (``>=``), or below it (``<``)."""
        planes = self.high if op == ">=" else self.low
        there = _there(planes)
        less, equal = bitmaps.compare_counts(planes, there, cut)
        below = less | equal
        return there & ~below if op == ">=" else below


def _there(planes: Planes) -> int:
    there = 0
    for bits in planes:
        there |= bits
    return there


def histogram(planes: Planes, within: int) -> Histogram:
    """How often each cell occurs among the members of a set."""
    # The members whose cell begins with each number of bits so far, in order.
    parted = [_there(planes) & within]
    for bits in reversed(planes):
        deeper: list[int] = []
        for members in parted:
            ones = members & bits
            deeper += (members ^ ones, ones)
        parted = deeper
    found: Histogram = {}
    for cell, members in enumerate(parted):
        if members:
            found[cell] = bitmaps.count(members)
    return found


def bytes_of(planes: Planes, used: int) -> bytes:
    """The cell at each position as a byte."""
    digits = 0
    for bit, bits in enumerate(planes):
        digits |= int.from_bytes(bitmaps.flags(bits, used), "little") << bit
    return digits.to_bytes(used, "little")


# ------------------------------------------------------------- numbers as slices


class Sliced:
    """The numbers of traces of one signature, bit by bit, as the index stores them.

    Every slice is decoded when it is first asked for, and then at hand.
    """

    def __init__(self, slices: Mapping[tuple[str, int], bytes]) -> None:
        self._stored = slices
        self._decoded: dict[tuple[str, int], int] = {}
        #: The positions with a number.
        self.there = self.slice("n", bitmaps.HAS_NUMBER)
        #: Those of them with several different ones.
        self.several = self.slice("x", bitmaps.HAS_NUMBER)

    def slice(self, role: str, bit: int) -> int:
        """One slice: of the smallest numbers (``n``), or where the largest differ (``x``)."""
        known = self._decoded.get((role, bit))
        if known is None:
            stored = self._stored.get((role, bit))
            known = 0 if stored is None else bitmaps.decode(stored)
            self._decoded[role, bit] = known
        return known

    def bits(self) -> list[int]:
        """The bits that some number has."""
        return sorted({bit for _, bit in self._stored} - {bitmaps.HAS_NUMBER})

    @property
    def low(self) -> bitmaps.Slices:
        """The slices of the smallest numbers."""
        return _Low(self)

    @property
    def high(self) -> bitmaps.Slices:
        """The slices of the largest numbers."""
        return _High(self)

    def sample(self, used: int, within: int) -> list[int]:
        """The smallest and largest numbers of some traces, from all over the block."""
        few = bitmaps.count(within) <= FEW_TRACES
        chosen, size = (_all, used) if few else (_windows, min(used, _WINDOWS * _WINDOW))
        sample: list[int] = []
        for slices, there in ((self.low, self.there), (self.high, self.several)):
            positions = bitmaps.positions(chosen(there & within, used))
            if positions:
                own = {bit: chosen(slices.get(bit, 0), used) for bit in self.bits()}
                found = bitmaps.numbers(own, size)
                sample += [found[position] ^ _SIGN for position in positions]
        return sample


class _Low:
    """The slices of the smallest numbers."""

    __slots__ = ("_sliced",)

    def __init__(self, sliced: Sliced) -> None:
        self._sliced = sliced

    def get(self, bit: int, otherwise: int, /) -> int:
        return self._sliced.slice("n", bit)


class _High(_Low):
    """The slices of the largest numbers: those of the smallest, changed where they differ."""

    __slots__ = ()

    def get(self, bit: int, otherwise: int, /) -> int:
        return self._sliced.slice("n", bit) ^ self._sliced.slice("x", bit)


# Traces of a block that a sample takes: so many stretches of so many positions.
_WINDOWS = 8
_WINDOW = 256


def _windows(bits: int, used: int) -> int:
    """Some stretches of a set, one after the other."""
    if used <= _WINDOWS * _WINDOW or not bits:
        return bits
    stored = bits.to_bytes((used + 7) >> 3, "little")
    step = len(stored) / _WINDOWS
    starts = [int(number * step) for number in range(_WINDOWS)]
    return int.from_bytes(
        b"".join([stored[start : start + (_WINDOW >> 3)] for start in starts]), "little"
    )


def _all(bits: int, used: int) -> int:
    return bits


_SIGN = 1 << (bitmaps.WIDTH - 1)


def partition(slices: bitmaps.Slices, there: int, starts: Sequence[int]) -> dict[int, int]:
    """The positions whose number lies in each cell: after how many of the ascending starts.

    The bits are followed from the top, but only as far as a start lies between the
    numbers that agree in the bits so far.
    """
    first = bisect_right(starts, 0)
    found: dict[int, int] = {}
    if first == len(starts):
        return {first: there} if there else found
    # Positions, the first of the numbers that begin as theirs do, and the starts among these.
    nodes = [(there, 0, first, len(starts))] if there else []
    for bit in range(bitmaps.WIDTH - 1, -1, -1):
        if not nodes:
            break
        having = slices.get(bit, 0)
        if bit == bitmaps.WIDTH - 1:
            having = there & ~having  # set means negative
        deeper = []
        for members, begin, first, last in nodes:
            middle = begin + (1 << bit)
            between = bisect_left(starts, middle, first, last)
            ones = members & having
            zeros = members ^ ones
            if zeros:
                if first == between:
                    found[first] = found.get(first, 0) | zeros
                else:
                    deeper.append((zeros, begin, first, between))
            if ones:
                # A start at the very first of the numbers is before all of them.
                if between < last and starts[between] == middle:
                    between += 1
                if between == last:
                    found[between] = found.get(between, 0) | ones
                else:
                    deeper.append((ones, middle, between, last))
        nodes = deeper
    return found


def cells_of_slices(several: Sequence[Sliced], cuts: Cuts) -> Cells:
    """The cells of numbers that the index stores, over all signatures."""
    lows: dict[int, int] = {}
    highs: dict[int, int] = {}
    alike = len(several) < 2
    for sliced in several:
        low = partition(sliced.low, sliced.there, cuts.starts)
        high = low
        if sliced.several:
            alike = False
            changed = partition(sliced.high, sliced.several, cuts.starts)
            high = {cell: members & ~sliced.several for cell, members in low.items()}
            for cell, members in changed.items():
                high[cell] = high.get(cell, 0) | members
        for total, parts in ((lows, low), (highs, high)):
            for cell, members in parts.items():
                total[cell] = total.get(cell, 0) | members
    smallest = _planes(lows, sorted(lows))
    if alike:
        return Cells(smallest, smallest, cuts)
    return Cells(smallest, _planes(highs, sorted(highs, reverse=True)), cuts)


def _planes(members: Mapping[int, int], order: Sequence[int]) -> Planes:
    """The number of the first cell, in an order, that each position is in; from 1."""
    planes = [0] * (max(members, default=0) + 1).bit_length()
    seen = 0
    for cell in order:
        fresh = members[cell] & ~seen
        seen |= fresh
        for bit in range(len(planes)):
            if (cell + 1) >> bit & 1:
                planes[bit] |= fresh
    return planes


# ------------------------------------------------------------- numbers in a list


def united(several: Sequence[Numbers]) -> Numbers:
    """The smallest and largest numbers over several signatures."""
    if len(several) == 1:
        return several[0]
    low: dict[int, int] = {}
    high: dict[int, int] = {}
    for numbers in several:
        for position, least, most in zip(*numbers):
            low[position] = min(least, low.get(position, least))
            high[position] = max(most, high.get(position, most))
    positions = sorted(low)
    return Numbers(
        positions, list(map(low.__getitem__, positions)), list(map(high.__getitem__, positions))
    )


def cells_of(numbers: Numbers, cuts: Cuts) -> Cells:
    """The cells that numbers lie in."""
    low = _cells(numbers.positions, numbers.low, cuts)
    if numbers.high == numbers.low:
        return Cells(low, low, cuts)
    return Cells(low, _cells(numbers.positions, numbers.high, cuts), cuts)


def _cells(positions: Sequence[int], numbers: Sequence[int], cuts: Cuts) -> Planes:
    members: dict[int, list[int]] = {}
    for position, number in zip(positions, numbers):
        members.setdefault(bisect_right(cuts.starts, number), []).append(position)
    sets = {cell: bitmaps.of_positions(chosen) for cell, chosen in members.items()}
    return _planes(sets, sorted(sets))


def sampled(numbers: Numbers, most: int) -> list[int]:
    """Some of the numbers, evenly; the largest where they are others than the smallest."""
    step = max(1, len(numbers.positions) // max(most, 1))
    low, high = numbers.low[::step], numbers.high[::step]
    return [*low, *(most for least, most in zip(low, high) if most != least)]


# -------------------------------------------------------------------- the fields


def is_whole(name: Name) -> bool:
    """Whether numbers are stored as 64-bit integers, not as doubles."""
    kind, key = name[1], name[2]
    if kind == "span":
        return True
    return kind == "trace" and key in tree.TRACE_NUMBER_FIELDS and not key.endswith("_cost")


def _value(name: Name, place: int) -> Union[int, float]:
    """The number that an ordered integer stands for, in the unit of the field."""
    pattern = place ^ _SIGN
    if not is_whole(name):
        return bitmaps.double_of(pattern)
    number = pattern - (1 << bitmaps.WIDTH) if pattern & _SIGN else pattern
    return number / 1e6 if name[1] == "span" else number


def _start(name: Name, value: Union[int, float]) -> int:
    """The first ordered integer that is not below a constant."""
    if name[1] == "span":
        return intervals.bounds_of_duration(float(value))[0]
    if not is_whole(name):
        return intervals.bounds_of_double(float(value))[0]
    if isinstance(value, float):
        return intervals.bounds_among_integers(value)[0]
    return intervals.bounds_of_integer(value)[0]


# ---------------------------------------------------------------------- the cuts


def choose_cuts(name: Name, sample: Iterable[int]) -> Cuts:
    """Where to cut a field, of some of its numbers."""
    counts = Counter(sample)
    places = sorted(counts)
    cumulative = list(accumulate(map(counts.__getitem__, places)))
    found: dict[int, Union[int, float]] = {}
    for low, high in _gaps(cumulative):
        value = _readable(name, _value(name, places[low]), _value(name, places[high]))
        if value is not None:
            found[_start(name, value)] = value
    starts = sorted(found)
    return Cuts([found[start] for start in starts], starts)


def _gaps(cumulative: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of values, by number: cut somewhere above the first, not above the second."""
    if len(cumulative) <= _EVEN + 2 * _TAIL:
        return [(number - 1, number) for number in range(1, len(cumulative))]
    total = cumulative[-1]
    step = 1 / _EVEN
    edges = [step * k for k in range(1, _EVEN)]
    for k in range(1, _TAIL + 1):
        edges += [step / 2**k, 1 - step / 2**k]
    edges.sort()
    found = []
    for begin, end in zip([0.0, *edges], [*edges, 1.0]):
        low = bisect_right(cumulative, begin * total)
        high = min(bisect_right(cumulative, end * total), len(cumulative) - 1)
        if low < high:
            found.append((low, high))
        else:
            # A value that is so frequent on its own: below it, and above it.
            found += [(at - 1, at) for at in (low, low + 1) if 0 < at < len(cumulative)]
    return found


def _readable(
    name: Name, low: Union[int, float], high: Union[int, float]
) -> Optional[Union[int, float]]:
    """A number above ``low`` and not above ``high`` that is good to read."""
    if not low < high:
        return None
    if name[1:3] == ("trace", "timestamp_ms"):
        for unit in _TIME_UNITS:
            value = int(high) // unit * unit
            if value > low:
                return value
    number = roundest(low, high)
    if number == number.to_integral_value() and abs(number) < 2**53:
        return int(number)
    return _as_float(number, low, high)


def _as_float(
    number: Decimal, low: Union[int, float], high: Union[int, float]
) -> Union[int, float]:
    value = float(number)
    return value if low < value <= high else high


_TIME_UNITS = (86_400_000, 21_600_000, 3_600_000, 600_000, 60_000, 10_000, 1_000)
''',
"insights_engine.columns": r'''"""The sets of all items in some traces, in a form in which counting is quick.

Most items are rare: their positions stand one after the other in one array, so
that counting how many of each are in a set is one pass over it, done by C code.
The others are bitmaps: an intersection and a population count each.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate
from operator import itemgetter
from typing import Callable, Optional

from insights_engine import bitmaps
from insights_engine.groups import all_positions

# Of an item that is kept as an integer: its object, and what refers to it.
_BITMAP_BYTES = 44
# Of a position that is listed: the number, and what refers to it.
_POSITION_BYTES = 10
# Of an item that is listed: its numbers, and its place in the dictionary.
_LISTED_BYTES = 120
# Of one that makes facts uncertain: its place in the dictionary.
_DOUBT_BYTES = 100


#: Every position once, to be referred to: each integer of its own would take 32 bytes.
ALL_POSITIONS = tuple(range(bitmaps.POSITIONS))


class _Sets:
    """The sets of some items."""

    __slots__ = (
        *("_flags_of", "_positions", "bitmap_counts", "bitmap_items", "bitmaps", "ends"),
        "listed_items",
    )

    def __init__(self) -> None:
        self.listed_items = array("i")
        #: Where the positions of each end; they begin where those before end.
        self.ends = array("I")
        self._positions = array("H")
        #: Looks all of them up in the flags of a set.
        self._flags_of: Optional[Callable[[bytes], tuple[int, ...]]] = None
        self.bitmap_items = array("i")
        self.bitmaps: list[int] = []
        self.bitmap_counts = array("I")

    def add_list(self, item: int, positions: array[int]) -> None:
        """An item with few positions, ascending."""
        self.listed_items.append(item)
        self._positions.extend(positions)
        self.ends.append(len(self._positions))

    def add_bitmap(self, item: int, bits: int) -> None:
        """An item with many."""
        self.bitmap_items.append(item)
        self.bitmaps.append(bits)
        self.bitmap_counts.append(bitmaps.count(bits))

    def size(self) -> int:
        """About how many bytes of memory they take."""
        return (
            _POSITION_BYTES * len(self._positions)
            + _LISTED_BYTES * len(self.listed_items)
            + sum(_BITMAP_BYTES + bits.bit_length() // 7 for bits in self.bitmaps)
        )

    def add_counts(self, totals: list[int], within: Optional[bytes], bits: int) -> None:
        """Adds the number of members of each item; of those in a set, unless it is None."""
        if within is None:
            start = 0
            for item, end in zip(self.listed_items, self.ends):
                totals[item] += end - start
                start = end
            for item, members in zip(self.bitmap_items, self.bitmap_counts):
                totals[item] += members
            return
        if self._flags_of is None:
            # Position 0 twice comes first: of several it gives a tuple, of one it would not.
            self._flags_of = itemgetter(0, 0, *map(ALL_POSITIONS.__getitem__, self._positions))
        # How many members of the set there are up to each place of the array.
        hits = list(accumulate(self._flags_of(within)))
        before = hits[1]
        for item, end in zip(self.listed_items, self.ends):
            until = hits[end + 1]
            if until != before:
                totals[item] += until - before
                before = until
        count = bitmaps.count
        for item, members in zip(self.bitmap_items, self.bitmaps):
            totals[item] += count(members & bits)

    def listed(self, place: int) -> array[int]:
        """The positions of the item at a place of ``listed_items``."""
        return self._positions[self.ends[place - 1] if place else 0 : self.ends[place]]


class Columns:
    """The items that some traces have, with their positions.

    Of what makes facts uncertain, which is seldom counted, it is known that it is
    there, and the positions as they are stored, where they were given.
    """

    __slots__ = ("_doubts", "_last", "_places", "facts", "size", "used")

    def __init__(
        self,
        postings: Iterable[tuple[int, bytes]],
        items: Mapping[int, Sequence[int]],
        doubts: Mapping[int, Sequence[bytes]],
        used: int,
    ) -> None:
        """Of (term, its positions as stored) and the facts that each term is part of.

        ``doubts``: the items that are no facts, with their positions, if they are known.
        """
        first: dict[int, bytes] = {}
        several: dict[int, list[bytes]] = {}
        for term, members in postings:
            for item in items[term]:
                if item not in first:
                    first[item] = members
                elif item in several:
                    several[item].append(members)
                else:
                    several[item] = [first[item], members]
        facts = _Sets()
        for item, members in first.items():
            if item in several and all(map(bitmaps.is_list, several[item])):
                listed: set[int] = set()
                for one in several[item]:
                    listed.update(bitmaps.listed_positions(one))
                if len(listed) <= LONGEST_LIST:
                    facts.add_list(item, array("H", sorted(listed)))
                else:
                    facts.add_bitmap(item, bitmaps.of_positions(sorted(listed)))
            elif item in several:
                bits = united(several[item], used)
                if bitmaps.count(bits) <= LONGEST_LIST:
                    facts.add_list(item, array("H", bitmaps.positions(bits)))
                else:
                    facts.add_bitmap(item, bits)
            elif bitmaps.is_list(members):
                facts.add_list(item, bitmaps.listed_positions(members))
            else:
                facts.add_bitmap(item, bitmaps.bits_of_bitmap(members))
        self._set(facts, doubts, used)

    @classmethod
    def of_sets(
        cls,
        lists: Mapping[int, array[int]],
        sets: Mapping[int, int],
        doubts: Mapping[int, Sequence[bytes]],
        used: int,
    ) -> Columns:
        """Of the positions of facts, ascending, where they are few, and the sets of others."""
        facts = _Sets()
        for item, positions in lists.items():
            if len(positions) > LONGEST_LIST:
                facts.add_bitmap(item, bitmaps.of_positions(positions))
            elif positions:
                facts.add_list(item, positions)
        for item, bits in sets.items():
            if bitmaps.count(bits) > LONGEST_LIST:
                facts.add_bitmap(item, bits)
            elif bits:
                facts.add_list(item, array("H", bitmaps.positions(bits)))
        found = cls.__new__(cls)
        found._set(facts, doubts, used)
        return found

    def _set(self, facts: _Sets, doubts: Mapping[int, Sequence[bytes]], used: int) -> None:
        self.used = used
        #: The facts.
        self.facts = facts
        self._doubts = doubts
        self._places: Optional[dict[int, int]] = None
        # The set that was last counted as a base, and how many members of it each fact has.
        self._last: tuple[int, array[int]] = (-1, array("I"))
        self.size = facts.size() + sum(
            [_DOUBT_BYTES + sum(map(len, stored)) for stored in doubts.values()]
        )

    def add_counts(self, totals: list[int], within: Optional[int]) -> None:
        """Adds the number of members of each fact in a set; None: in all positions."""
        if within is None:
            self.facts.add_counts(totals, None, 0)
        elif within:
            self.facts.add_counts(totals, bitmaps.flags(within, self.used), within)

    def add_base_counts(self, totals: list[int], base: int) -> None:
        """The same of a set that will be asked about again: the base of a discovery."""
        if base == all_positions(self.used):
            self.add_counts(totals, None)
            return
        items = [*self.facts.listed_items, *self.facts.bitmap_items]
        if self._last[0] != base:
            counts = [0] * len(totals)
            self.add_counts(counts, base)
            self._last = base, array("I", [counts[item] for item in items])
        for item, members in zip(items, self._last[1]):
            totals[item] += members

    @property
    def doubts(self) -> Collection[int]:
        """The items that are there and no facts."""
        return self._doubts.keys()

    def sets(self, items: Iterable[int]) -> dict[int, int]:
        """The sets of some items, as far as there are any; of no facts, what was given."""
        facts = self.facts
        if self._places is None:
            self._places = {item: place for place, item in enumerate(facts.listed_items)}
            self._places.update({item: ~place for place, item in enumerate(facts.bitmap_items)})
        found: dict[int, int] = {}
        for item in items:
            place = self._places.get(item)
            if place is not None:
                found[item] = (
                    facts.bitmaps[~place]
                    if place < 0
                    else bitmaps.of_positions(facts.listed(place))
                )
            elif self._doubts.get(item):
                found[item] = united(self._doubts[item], self.used)
        return found


#: Positions of an item that is listed.
LONGEST_LIST = 100


def united(stored: Sequence[bytes], used: int) -> int:
    """The union of sets as stored."""
    sparse: Optional[bytearray] = None
    found = 0
    for members in stored:
        if bitmaps.is_list(members):
            if sparse is None:
                sparse = bytearray((used + 7) >> 3)
            for position in bitmaps.listed_positions(members):
                sparse[position >> 3] |= 1 << (position & 7)
        else:
            found |= bitmaps.bits_of_bitmap(members)
    return found if sparse is None else found | int.from_bytes(sparse, "little")
''',
"insights_engine.conditions": r'''"""What the index knows about a filter: two sets of positions.

*Must*: these traces match for sure.  *May*: no others can.  A filter becomes a
tree of conditions, each of which gives both for a group of blocks.  Where must
and may are the same the index alone answers; the raw predicate settles the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any, Callable, Optional

from insights_engine import bitmaps
from insights_engine.groups import Group, Terms
from insights_engine.intervals import Intervals
from insights_engine.slices import Pair, Series


class Condition(ABC):
    """A condition on traces."""

    def parts(self) -> Sequence[Condition]:
        """The conditions it consists of."""
        return ()

    def terms(self) -> Iterable[int]:
        """The terms whose postings it needs."""
        return ()

    @abstractmethod
    def bounds(self, group: Group) -> Pair:
        """Must and may, within the group's universe."""


class Constant(Condition):
    """True or false everywhere."""

    def __init__(self, holds: bool) -> None:
        self._holds = holds

    def bounds(self, group: Group) -> Pair:
        return (group.universe, group.universe) if self._holds else (0, 0)


class Unknown(Condition):
    """What the index cannot say anything about."""

    def bounds(self, group: Group) -> Pair:
        return 0, group.universe


class Junction(Condition):
    """AND or OR."""

    def __init__(self, items: Sequence[Condition]) -> None:
        self._items = items

    def parts(self) -> Sequence[Condition]:
        return self._items

    def terms(self) -> Iterable[int]:
        for item in self._items:
            yield from item.terms()


class All(Junction):
    """AND."""

    def bounds(self, group: Group) -> Pair:
        must = may = group.universe
        for item in self._items:
            sure, possible = item.bounds(group)
            must &= sure
            may &= possible
            if not may:
                break
        return must, may


class Some(Junction):
    """OR."""

    def bounds(self, group: Group) -> Pair:
        must = may = 0
        for item in self._items:
            sure, possible = item.bounds(group)
            must |= sure
            may |= possible
        return must, may


class Complement(Condition):
    """NOT."""

    def __init__(self, item: Condition) -> None:
        self._item = item

    def parts(self) -> Sequence[Condition]:
        return (self._item,)

    def terms(self) -> Iterable[int]:
        return self._item.terms()

    def bounds(self, group: Group) -> Pair:
        must, may = self._item.bounds(group)
        return group.universe & ~may, group.universe & ~must


class Facts(Condition):
    """Traces with one of some terms for sure, with one of others perhaps.

    ``within`` turns it into "has one of these, but none of those".
    """

    def __init__(self, sure: Terms, unsure: Terms, within: Optional[Facts] = None) -> None:
        self._sure = sure
        self._unsure = unsure
        self._within = within

    def terms(self) -> Iterable[int]:
        yield from self._sure
        yield from self._unsure
        if self._within is not None:
            yield from self._within.terms()

    def bounds(self, group: Group) -> Pair:
        must = group.union(self._sure) & group.universe
        may = must | group.union(self._unsure) & group.universe
        if self._within is not None:
            sure, possible = self._within.bounds(group)
            return sure & ~may, possible & ~must
        return must, may


class Numbers(Condition):
    """Traces with a number in some intervals, in one of some series."""

    def __init__(self, series: Sequence[Series], wanted: Intervals, unsure: Terms) -> None:
        self._series = series
        self._wanted = wanted
        self._unsure = unsure

    def terms(self) -> Iterable[int]:
        for series in self._series:
            yield from series.terms()
        yield from self._unsure

    def bounds(self, group: Group) -> Pair:
        must, may = 0, group.union(self._unsure)
        for series in self._series:
            sure, possible = series.within(group, self._wanted)
            must |= sure
            may |= possible
        return must & group.universe, (must | may) & group.universe


class Times(Condition):
    """Traces that began in some intervals; most blocks lie wholly inside or outside."""

    def __init__(self, plpy: Any, series: Series, wanted: Intervals) -> None:
        self._plpy = plpy
        self._series = series
        self._wanted = wanted

    def bounds(self, group: Group) -> Pair:
        found = 0
        divided = []
        for block in group.blocks:
            first, last = _place(block.first_ms), _place(block.last_ms)
            if any(low <= first and last <= high for low, high in self._wanted):
                found |= ((1 << block.used) - 1) << block.start
            elif any(first <= high and low <= last for low, high in self._wanted):
                divided.append(block)
        if divided:
            part = Group(self._plpy, [copy(block) for block in divided])
            part.fetch(self._series.terms())
            inside, _ = self._series.within(part, self._wanted)
            for block, own in zip(divided, part.blocks):
                found |= (inside >> own.start & ((1 << own.used) - 1)) << block.start
        found &= group.universe
        return found, found


def _place(milliseconds: int) -> int:
    return bitmaps.ordered(bitmaps.pattern_of_integer(milliseconds))


class NotNumbers(Condition):
    """Some value is not a number of ``item``: ``NOT IN`` with numbers only.

    A text that reads as no number counts too.
    """

    def __init__(self, there: Condition, any_number: Condition, outside: Condition) -> None:
        self._items = (there, any_number, outside)

    def parts(self) -> Sequence[Condition]:
        return ()

    def terms(self) -> Iterable[int]:
        for item in self._items:
            yield from item.terms()

    def bounds(self, group: Group) -> Pair:
        there, any_number, outside = (item.bounds(group) for item in self._items)
        return there[0] & ~any_number[1] | outside[0], there[1]


class OfBlocks(Condition):
    """The traces of some experiments."""

    def __init__(self, holds: Callable[[int], bool]) -> None:
        self._holds = holds

    def bounds(self, group: Group) -> Pair:
        found = group.of_blocks(lambda block: self._holds(block.experiment_id)) & group.universe
        return found, found


class Listed(Condition):
    """Traces named by their ids."""

    def __init__(self, blocks: Sequence[int], positions: Sequence[int]) -> None:
        self._blocks = blocks
        self._positions = positions

    def bounds(self, group: Group) -> Pair:
        found = group.at(self._blocks, self._positions) & group.universe
        return found, found
''',
"insights_engine.correlate": r'''"""Counting: one filter, or two filters and how they meet."""

from __future__ import annotations

from typing import Any

from insights_engine import indexed, sessions, statistics, tree
from insights_engine.statement import Statement


def count_sql(statement: Statement, node: tree.Node) -> str:
    """The query that counts the traces matching ``node``."""
    return f"select count(*)\nfrom {statement.traces}\nwhere {statement.where(node)}"


def count(plpy: Any, statement: Statement, node: tree.Node, unit: str = sessions.TRACE) -> int:
    """How many traces, or sessions, match."""
    if statement.experiments == []:
        return 0
    if unit != sessions.TRACE:
        return sessions.count(plpy, statement, node, unit)
    counts = indexed.counts(plpy, statement, [node])
    if counts is not None:
        return counts[0]
    return _numbers(plpy, statement, [count_sql(statement, node)])[0]


def _numbers(plpy: Any, statement: Statement, queries: list[str], prefix: str = "") -> list[int]:
    """The results of some counting queries, in one statement and snapshot."""
    columns = ",\n".join(f"({query})::text" for query in queries)
    rows = statement.run_in_parallel(plpy, f"{prefix}select array[\n{columns}\n]")
    return [int(number or 0) for number in rows[0]]


def correlate(
    plpy: Any,
    statement: Statement,
    base: tree.Node,
    filter1: tree.Node,
    filter2: tree.Node,
    unit: str = sessions.TRACE,
) -> dict[str, Any]:
    """The counts of two filters and the statistics that follow from them.

    ``filter1`` and ``filter2`` include the base.
    """
    if unit == sessions.TRACE:
        return associated(*_four_counts(plpy, statement, base, filter1, filter2))
    table = sessions.pair_counts(plpy, statement, (base, filter1, filter2), unit)
    return associated(table[1][1], table[2][2], table[1][2], table[0][0])


def associated(filter1: int, filter2: int, joint: int, total: int) -> dict[str, Any]:
    """The columns of a correlation, of its counts."""
    counts = statistics.Counts(filter1, filter2, joint, total)
    found = statistics.associate(counts)
    return {
        "filter1_count": counts.filter1,
        "filter2_count": counts.filter2,
        "joint_count": counts.joint,
        "total_count": counts.total,
        **vars(found),
    }


def _four_counts(
    plpy: Any, statement: Statement, base: tree.Node, filter1: tree.Node, filter2: tree.Node
) -> list[int]:
    """The traces that match the first filter, the second, both, and the base.

    From MLflow's tables each filter is a set of its own, so that its subqueries
    become joins; as mere flags of one scan they would have to be hashed or
    probed trace by trace.
    """
    if statement.experiments == []:
        return [0, 0, 0, 0]
    found = indexed.counts(plpy, statement, [filter1, filter2, base], joint=(0, 1))
    if found is not None:
        return [found[0], found[1], found[3], found[2]]
    sets = ",\n".join(
        f"{name} as materialized (\n"
        f"select t.request_id\nfrom {statement.traces}\nwhere {statement.where(node)}\n)"
        for name, node in (("f1", filter1), ("f2", filter2))
    )
    queries = [
        "select count(*) from f1",
        "select count(*) from f2",
        # Not a join: estimates may be far off, and nested loops then never end.
        "select count(*) from (select * from f1 intersect select * from f2) both_match",
        count_sql(statement, base),
    ]
    return _numbers(plpy, statement, queries, f"with {sets}\n")
''',
"insights_engine.datebins": r'''"""Intervals of time that a calendar has a name for, in UTC."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Optional

from insights_engine import histogram

_SECOND, _MINUTE, _HOUR, _DAY = 1000, 60_000, 3_600_000, 86_400_000
#: Widths in milliseconds, each of which divides the next unit.
_CLOCK = (
    *(1, 2, 5, 10, 20, 50, 100, 200, 500),
    *(_SECOND * n for n in (1, 5, 15, 30)),
    *(_MINUTE * n for n in (1, 5, 15, 30)),
    *(_HOUR * n for n in (1, 3, 6, 12)),
    *(_DAY * n for n in (1, 7)),
)
#: Widths in months.
_CALENDAR = (1, 3, 6, *(12 * n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)))
#: 1970-01-05, a Monday.
_MONDAY = 4 * _DAY


def edges(low: int, high: int, most: int) -> histogram.Edges:
    """The edges of at most ``most`` intervals, all of one width, that hold ``low`` to ``high``.

    In milliseconds since 1970, ascending: clock hours, days, weeks from Mondays, months,
    years and so on.  Beyond the years 1 to 9999, round numbers.
    """
    for width in _CLOCK:
        start = _MONDAY if width == 7 * _DAY else 0
        first, last = (low - start) // width, (high - start) // width
        found = [start + number * width for number in (first, last + 1)]
        if last - first < most and found[0] >= -(2**63) and found[1] < 2**63:
            return range(found[0], found[1] + 1, width)
    return _months(low, high, most) or histogram.edges(low, high, most, whole=True)


def _months(low: int, high: int, most: int) -> Optional[list[int]]:
    begin, end = _month(low), _month(high)
    if begin is None or end is None:
        return None
    for width in _CALENDAR:
        first, last = begin // width, end // width
        if last - first < most:
            found = [_begin(number * width) for number in range(first, last + 2)]
            known = [moment for moment in found if moment is not None]
            return known if len(known) == len(found) else None
    return None


def _month(milliseconds: int) -> Optional[int]:
    """Months from January of year 0 to that of a moment, if Python knows its year."""
    days = milliseconds // _DAY + _DAYS_BEFORE_1970
    if not 1 <= days <= _LAST_DAY:
        return None
    day = datetime.fromordinal(days)
    return day.year * 12 + day.month - 1


def _begin(month: int) -> Optional[int]:
    year, of_year = divmod(month, 12)
    if not 1 <= year <= 9999:
        return None
    begin = datetime(year, of_year + 1, 1, tzinfo=timezone.utc)
    return (begin.toordinal() - _DAYS_BEFORE_1970) * _DAY


_DAYS_BEFORE_1970 = datetime(1970, 1, 1).toordinal()
_LAST_DAY = datetime.max.toordinal()
''',
"insights_engine.discover": r'''"""What goes with a target: every fact counted, tested, ranked.

Counting is exact and comes first: part by part, how many traces of the base and
of the target have each item of the vocabulary.  What is left are numbers: which
facts are significant among all that were tested, which of them merely restate the
target, which of them are the same thing twice.

Of millions of traces the facts are sought in a sample; those that lead there are
counted in all traces, and tested and ranked by these counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from insights_engine import candidates, findings
from insights_engine.findings import NOTHING, Shown, Tested, significant
from insights_engine.grouping import grouped
from insights_engine.multiple import TargetTests
from insights_engine.options import Options
from insights_engine.pairing import tested_pair, tested_pairs
from insights_engine.population import Population
from insights_engine.testing import Question, tested
from insights_engine.units import Traces


def discover(
    population: Population, units: Traces, question: Question, options: Options
) -> Iterator[dict[str, Any]]:
    """The rows of ``insights_discover``."""
    if not 0 < units.target < units.total:
        return
    screen = units.screen()
    if not 0 < screen.target < screen.total:
        return
    within, most = options, options.max_results
    if screen is not units:
        # Whether the support is enough turns out when all are counted.
        least = max(1, options.min_support * screen.total // units.total)
        within, most = options._replace(min_support=least), 2 * most
    facts = list(tested(population, screen, question, within))
    found = significant(facts, screen, within)
    if options.pairs:
        facts += tested_pairs(screen, found, within)
        found = significant(facts, screen, within)
    groups = grouped(screen, found, candidates.has_span_condition(question.base), most)
    if screen is not units:
        groups = _recounted(units, groups, options, len(facts))
    for shown in groups:
        yield findings.row(shown, units, question.restated, len(facts), screen.total)


def _recounted(
    units: Traces, groups: Sequence[Shown], options: Options, tested: int
) -> list[Shown]:
    """What leads in a sample, with its counts among all units: as many as are wanted.

    What is left out of them counts as tested, with nothing found.
    """
    tests = TargetTests(units.target, units.total)
    # The order may change a little, and some may turn out to be chance.
    at_once = options.max_results + options.max_results // 4 + 1
    facts: list[Tested] = []
    for start in range(0, len(groups), at_once):
        some = [shown.found.fact for shown in groups[start : start + at_once]]
        counts = units.counted([fact.name for fact in some])
        for fact in some:
            among, joint = counts[fact.name]
            if not options.min_support <= among < units.total:
                facts.append(NOTHING)
            elif fact.name[0] == "a":
                members = [counts[member] for member in fact.name[1:]]
                pair = fact._replace(among=among, joint=joint)
                facts.append(tested_pair(units, pair, members, options))
            else:
                facts.append(fact.counted(among, joint, tests))
        found = significant(facts, units, options, tested)
        if len(found) >= options.max_results:
            break
    shown_by_name = {shown.found.fact.name: shown for shown in groups}
    return [
        shown_by_name[one.fact.name]._replace(found=one) for one in found[: options.max_results]
    ]
''',
"insights_engine.errors": r'''"""The errors that users see: what is wrong, where, and what to write instead."""

from __future__ import annotations

import unicodedata
from typing import Any, Optional

#: invalid_parameter_value
SQLSTATE_INVALID = "22023"

#: Columns of the filter that an error shows, before and after the place.
_BEFORE, _AFTER = 60, 40


def visible(text: str, limit: int = 0) -> str:
    """``text`` on one line: control characters escaped, cut to ``limit``."""
    if limit and len(text) > limit:
        text = text[: limit - 3] + "..."
    return "".join([_visible_character(character) for character in text])


def _visible_character(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")


def _columns(text: str) -> int:
    """How many columns of a terminal ``text`` takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def blames_value(error: Any) -> bool:
    """Whether PostgreSQL refused a value, and did not fail or get stopped over it.

    Class 22, data exceptions: also what is wrong with an interval, a regular expression or
    a time zone.
    """
    return str(error.sqlstate).startswith("22")


class InsightsError(Exception):
    """A bad argument: a message in one line, an SQLSTATE, DETAIL and HINT."""

    def __init__(
        self,
        message: str,
        sqlstate: str = SQLSTATE_INVALID,
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate
        self._detail = detail
        self.hint = hint

    def detail(self) -> str | None:
        """The text for the error's DETAIL, or None."""
        return self._detail


class FilterError(InsightsError):
    """A filter that cannot be read.

    ``position`` and ``length`` count characters of ``filter`` (``position``
    None: the error is about the filter as a whole).
    """

    def __init__(
        self,
        message: str,
        position: int | None = None,
        length: int = 1,
        hint: str | None = None,
        filter: str = "",
    ) -> None:
        super().__init__(message, SQLSTATE_INVALID, None, hint)
        self.position = position
        self.length = length
        self.filter = filter

    def detail(self) -> str | None:
        """The filter with a caret under the place.

        Of a filter with several lines only the offending one is shown, and of
        a long line only what surrounds the place.
        """
        if self.position is None:
            return None
        position = min(self.position, len(self.filter))
        start = self.filter.rfind("\n", 0, position) + 1
        end = self.filter.find("\n", position)
        end = len(self.filter) if end < 0 else end
        number = self.filter.count("\n", 0, start) + 1
        total = number + self.filter.count("\n", end)
        cut_start = start if position - start <= _BEFORE + 3 else position - _BEFORE
        cut_end = end if end - position <= _AFTER + 3 else position + _AFTER
        before = ("..." if cut_start > start else "") + visible(self.filter[cut_start:position])
        marked = visible(self.filter[position : min(position + max(self.length, 1), cut_end)])
        rest = visible(self.filter[position:cut_end]) + ("..." if cut_end < end else "")
        caret = " " * _columns(before) + "^" * max(_columns(marked), 1)
        heading = f"Line {number} of {total}:\n" if total > 1 else ""
        return f"{heading}{before}{rest}\n{caret}"


def positive(given: Optional[int], name: str, hint: str) -> int:
    """``given``, which must be there and above 0; else an InsightsError names the parameter."""
    if given is None or given < 1:
        raise InsightsError(
            f"Invalid value {'NULL' if given is None else given} for parameter '{name}' supplied. "
            "It must be a positive integer",
            hint=hint,
        )
    return given
''',
"insights_engine.experiments": r'''"""Experiment ids, as MLflow's store takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from insights_engine.errors import InsightsError, visible

# trace_info.experiment_id is an integer column.
_LARGEST = 2**31 - 1


def experiment_ids(ids: Optional[Sequence[Any]], locations: bool = False) -> Optional[list[int]]:
    """The distinct ids in ascending order; None, every experiment, for None.

    Ids are read as Python's ``int`` reads them, which is what MLflow does.  An
    id that no experiment can have is left out: it finds nothing, like the id
    of an experiment that does not exist.  ``locations`` chooses the sentence
    of ``search_traces`` for an id with a dot in it.
    """
    if ids is None:
        return None
    if any(isinstance(one, (list, tuple)) for one in ids):
        raise InsightsError("Experiment ids must be an array of one dimension.")
    if locations:
        _refuse_dots(ids)
    numbers = {_experiment_id(one) for one in ids}
    return sorted(number for number in numbers if 0 <= number <= _LARGEST)


def _refuse_dots(ids: Sequence[Any]) -> None:
    dotted = ", ".join(visible(one) for one in ids if isinstance(one, str) and "." in one)
    if dotted:
        if len(dotted) > 20:
            dotted = dotted[:20] + "..."
        raise InsightsError(
            f"Locations must be a list of experiment IDs. Found invalid experiment IDs: {dotted}.",
            hint="Experiment ids are whole numbers, such as '0'.",
        )


def _experiment_id(one: Any) -> int:
    try:
        return int(one)
    except (TypeError, ValueError):
        shown = "NULL" if one is None else f"'{visible(str(one), 60)}'"
        raise InsightsError(
            f"Invalid experiment ID {shown}. Experiment ID must be a valid integer.",
            hint="Experiment ids are whole numbers, such as '0'; NULL instead of the "
            "array stands for all experiments.",
        ) from None
''',
"insights_engine.explain": r'''"""How a filter is understood and answered, as rows of a step and its detail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from insights_engine import correlate, fields, indexed, printer, tree
from insights_engine.statement import Statement

_LONGEST_VALUE = 200


def explain(plpy: Any, statement: Statement, node: tree.Node) -> Iterator[tuple[str, str]]:
    """The canonical filter, its predicates, the SQL that counts it, its plan."""
    yield "filter", printer.print_filter(node) or "(every trace)"
    for predicate in _predicates(node):
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
    """How the traces are settled that the index leaves open, or has not seen as they are now."""
    if undecided > most:
        return f"more than {most}: MLflow's tables are asked about all traces at once"
    if not undecided and not pending:
        return "none: the index alone answers"
    asked = f"MLflow's tables are asked about {_several(undecided + pending, 'trace')}"
    return f"{asked}, {pending} of them pending" if pending else asked


def _several(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _bounds(measured: Sequence[Any]) -> str:
    must, undecided, took = measured
    return f"must {must}, may {must + undecided}, residue {undecided}, {took:.2f} ms"


def _predicates(node: tree.Node) -> Iterator[tree.Node]:
    """The parts that AND, OR and NOT put together."""
    if isinstance(node, (tree.And, tree.Or)):
        for item in node.items:
            yield from _predicates(item)
    elif isinstance(node, tree.Not):
        yield from _predicates(node.item)
    else:
        yield node
''',
"insights_engine.facet_rows": r'''"""The rows that a facet may have: the values of a field, or intervals of its numbers.

Each comes with the filter for it.  From the index they are found without reading a
trace: its postings say how often each value occurs.  Only where it has not captured
every value of a trace are MLflow's tables asked about that trace.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from heapq import nsmallest
from typing import Any, NamedTuple, Optional, Union

from insights_engine import (
    bitmaps,
    datebins,
    fields,
    histogram,
    occurrences,
    sessions,
    times,
    tree,
    values,
)
from insights_engine.groups import Block, Group, Terms
from insights_engine.index_reader import Index
from insights_engine.statement import Statement
from insights_engine.vocabulary import (
    Vocabulary,
    distinct,
    extremes,
    value_column,
    vocabulary_of,
)

#: Of more values than these, which of them a trace has is kept by trace.
_FEW_VALUES = 50

Number = Union[int, float]

_EXPERIMENT = tree.TraceText("experiment_id")
_SESSION = tree.TraceText("session_id")


class Facet(NamedTuple):
    """A value, or an interval of numbers, and the filter for it."""

    value: Optional[str]
    low: Optional[float]
    high: Optional[float]
    node: tree.Node
    #: What decides between values that are equally frequent.
    place: Any


class Question(NamedTuple):
    """What is asked for."""

    node: tree.Node
    field: tree.Field
    most: int
    unit: str


# --------------------------------------------------------------------- the filters


def _any_span(field: tree.Field, condition: tree.Node) -> tree.Node:
    return tree.AnySpan(condition) if fields.is_span_field(field) else condition


def conjunction(first: tree.Node, second: tree.Node) -> tree.Node:
    """Both, each with spans of its own."""
    items = [
        part
        for one in (first, second)
        for part in (one.items if isinstance(one, tree.And) else (one,))
    ]
    return items[0] if len(items) == 1 else tree.And(tuple(items))


def present(field: tree.Field) -> tree.Node:
    return _any_span(field, tree.IsNull(field, negated=True))


def missing_of(field: tree.Field) -> Facet:
    node: tree.Node = tree.IsNull(field)
    if fields.is_span_field(field):
        node = tree.Not(present(field))
    return Facet(None, None, None, node, None)


def _some_number(field: tree.Field) -> tree.Node:
    """Whether some value is a number: every number satisfies one of these."""
    either = (tree.NumberCompare(field, "<", 0), tree.NumberCompare(field, ">=", 0))
    return _any_span(field, tree.Or(either))


def may_be_numeric(field: tree.Field) -> bool:
    """Whether a field without a type may turn out to hold numbers only; ids are texts."""
    return not isinstance(field, tree.TraceText) and fields.may_hold_numbers(field)


def of_text(field: tree.Field, text: str) -> Facet:
    node: tree.Node = tree.TextCompare(field, "=", text)
    unversioned = field == tree.TraceText("prompt") and text.count("/") != 1
    if unversioned or field == tree.SpanText("content"):
        # What the language, like MLflow, does not let `=` be asked about.
        pattern = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        node = tree.Match(field, "LIKE", pattern)
    return Facet(text, None, None, _any_span(field, node), text)


def of_number(field: tree.Field, number: Number) -> Facet:
    number = _plain(number)
    node = _any_span(field, tree.NumberCompare(field, "=", number))
    return Facet(_printed(number, field), _double(number), _double(number), node, number)


def _plain(number: Number) -> Number:
    """The number, as an integer where that is shorter."""
    if isinstance(number, float) and number.is_integer() and abs(number) < 10**15:
        return int(number)
    return number


def _printed(number: Number, field: tree.Field) -> str:
    if fields.is_time(field) and isinstance(number, int):
        return times.text_of(number) or str(number)
    return str(number) if isinstance(number, int) else repr(number)


def _double(number: Optional[Number]) -> Optional[float]:
    return None if number is None else float(number)


def intervals_of(field: tree.Field, edges: histogram.Edges) -> list[Facet]:
    found = []
    for low, high in zip(edges, edges[1:]):
        node = _any_span(field, _inside(field, low, high))
        name = "all" if low is None else f"from {_printed(low, field)}"
        if high is not None:
            name = (
                f"{_printed(low, field)} to {_printed(high, field)}"
                if low is not None
                else f"below {_printed(high, field)}"
            )
        found.append(Facet(name, _double(low), _double(high), node, None))
    return found


def _inside(field: tree.Field, low: Optional[Number], high: Optional[Number]) -> tree.Node:
    if low is None and high is None:
        either = (tree.NumberCompare(field, "<", 0), tree.NumberCompare(field, ">=", 0))
        return tree.Or(either)
    if low is None or high is None:
        if low is not None:
            return tree.NumberCompare(field, ">=", low)
        assert high is not None
        return tree.NumberCompare(field, "<", high)
    if isinstance(field, tree.Assessment):
        # Two comparisons might be satisfied by two assessments.
        return tree.Between(field, low, math.nextafter(high, -math.inf))
    return tree.And((tree.NumberCompare(field, ">=", low), tree.NumberCompare(field, "<", high)))


def edges_of(question: Question, numbers: Iterable[Number]) -> histogram.Edges:
    finite = [number for number in numbers if isinstance(number, int) or math.isfinite(number)]
    whole = values.is_whole(question.field)
    low, high = min(finite), max(finite)
    if fields.is_time(question.field) and isinstance(low, int) and isinstance(high, int):
        return datebins.edges(low, high, question.most)
    return histogram.edges(low, high, question.most, whole)


# ------------------------------------------------------------------ from the index


class Found(NamedTuple):
    """What the rows are made of."""

    facets: Sequence[Facet]
    #: Whether they are to be ranked by count; intervals are not.
    ranked: bool
    #: How many units have each, as far as that is known.
    counts: dict[Facet, int]


def most_frequent(ranking: Counter[str], most: int) -> list[str]:
    """The most frequent values, of equally frequent ones the first by code points."""
    least = sorted(ranking.values(), reverse=True)[:most][-1:]
    candidates = (value for value, count in ranking.items() if count >= (least or [0])[0])
    return nsmallest(most, candidates, key=lambda value: (-ranking[value], value))


def _numbers_first(vocabulary: Optional[Vocabulary], most: int) -> bool:
    """Whether a field looks as if intervals were to come of it."""
    return vocabulary is not None and bool(vocabulary.series) and len(vocabulary.values) > 4 * most


class Candidates:
    """The values that the rows are made of, of the traces of an index that match."""

    def __init__(
        self, index: Index, statement: Statement, question: Question, matching: Sequence[int]
    ) -> None:
        self._index = index
        self._statement = statement
        self._question = question
        self._matching = matching

    def found(self) -> Optional[Found]:
        """What the rows are made of; None: MLflow's tables have to tell."""
        question = self._question
        field, most = question.field, question.most
        vocabulary = vocabulary_of(self._index, field)
        ranking: Optional[Counter[str]] = None
        if not fields.is_number(field) and not _numbers_first(vocabulary, most):
            ranking = self._ranking(vocabulary)
            if ranking is not None and len(ranking) <= most:
                return self._ranked(ranking)
        numeric = self._numeric()
        if numeric is None:
            return None
        if numeric:
            numbers = self._numbers(vocabulary)
            if numbers is None:
                return None
            few, known = numbers
            if not known:
                return Found((), True, {})
            if not few or ranking is not None:
                return self._intervals(known)
            if isinstance(field, tree.TraceNumber):
                return Found([of_number(field, number) for number in known], True, {})
            if isinstance(field, tree.SpanNumber):
                return None
        if ranking is None:
            ranking = self._ranking(vocabulary)
        if ranking is None:
            return None
        return self._intervals(known) if numeric and len(ranking) > most else self._ranked(ranking)

    def _numeric(self) -> Optional[bool]:
        """Whether every matching trace that has the field has a number there."""
        field, node = self._question.field, self._question.node
        if fields.is_number(field):
            return True
        if not may_be_numeric(field):
            return False
        counts = sessions.counts_of_index(
            self._index.plpy,
            self._statement,
            [conjunction(node, one) for one in (present(field), _some_number(field))],
            sessions.TRACE,
        )
        return None if counts is None else counts[0] == counts[1] > 0

    def _ranked(self, ranking: Counter[str]) -> Found:
        field = self._question.field
        best = most_frequent(ranking, self._question.most)
        facets = [of_text(field, text) for text in best]
        # What is stored in two forms of text is one value of an assessment, whose traces
        # were counted for each form.
        counted = not isinstance(field, tree.Assessment)
        counts = {facet: ranking[text] for facet, text in zip(facets, best)} if counted else {}
        return Found(facets, True, counts)

    def _intervals(self, numbers: Sequence[Number]) -> Found:
        field = self._question.field
        return Found(intervals_of(field, edges_of(self._question, numbers)), False, {})

    # ------------------------------------------------------------------ numbers

    def _numbers(self, vocabulary: Optional[Vocabulary]) -> Optional[tuple[bool, Sequence[Number]]]:
        """Whether there are few, and then all of them that are known, else the extreme ones.

        Of several numbers of a trace the smallest and the largest are known.
        """
        most = self._question.most
        asked = self._asked_about(vocabulary and vocabulary.unsure_numbers)
        if asked is None:
            return None
        others = {row["number"] for row in self._asked(asked) if row["number"] is not None}
        if values.is_whole(self._question.field):
            others = {int(number) for number in others}
        known: set[Number] = {number for number in others if math.isfinite(number)}
        few = len(known) <= most
        ends: list[Number] = list(known)
        for group, within in self._groups():
            if vocabulary is None:
                break
            few = few and distinct(group, vocabulary, within, known, most)
            ends += extremes(group, vocabulary, within)
        return few, list(known) if few else [min(ends), max(ends)]

    def _groups(self) -> Iterator[tuple[Group, int]]:
        """The blocks, many at a time, and the traces of them that match."""
        place = 0
        for blocks in self._index.batches():
            group = Group(self._index.plpy, blocks)
            own = self._matching[place : place + len(blocks)]
            place += len(blocks)
            yield group, group.joined(own)

    # ------------------------------------------------------------------- values

    def _ranking(self, vocabulary: Optional[Vocabulary]) -> Optional[Counter[str]]:
        """How many units have each value."""
        field = self._question.field
        unsure = vocabulary and vocabulary.unsure
        if field in (_EXPERIMENT, _SESSION):
            unsure = ()
        asked = self._asked_about(unsure)
        if asked is None:
            return None
        score = Score(self._index, self._question.unit, field)
        if field == _EXPERIMENT:
            for group, within in self._groups():
                for number in {block.experiment_id for block in group.blocks}:
                    own = group.of_blocks(lambda block: block.experiment_id == number)  # noqa: B023
                    score.add(str(number), group, own & within)
        elif field == _SESSION:
            self._by_session(score)
        elif vocabulary is not None:
            if vocabulary.single and len(vocabulary.values) > _FEW_VALUES:
                self._by_column(vocabulary, asked, score)
            else:
                self._by_posting(vocabulary, asked, score)
        for row in self._asked(asked):
            if row["value"] is not None:
                score.add_trace(values.shown(field, row["value"]), row)
        return score.counts(self._statement)

    def _by_posting(self, vocabulary: Vocabulary, asked: dict[int, int], score: Score) -> None:
        """Scores the values of traces that are not asked about."""
        texts: dict[str, list[int]] = {}
        for stored, terms in vocabulary.values.items():
            texts.setdefault(values.shown(self._question.field, stored), []).extend(terms)
        for group, within in self._groups() if texts else ():
            group.fetch(term for terms in texts.values() for term in terms)
            sure = within & ~group.joined([asked.get(block.block, 0) for block in group.blocks])
            for text, terms in texts.items():
                score.add(text, group, group.union(tuple(terms)) & sure)

    def _by_column(self, vocabulary: Vocabulary, asked: dict[int, int], score: Score) -> None:
        """The same where a trace has one of many values."""
        text_of = {term: text for text, terms in vocabulary.values.items() for term in terms}
        terms = tuple(text_of)
        for block, bits in zip(self._index.blocks, self._matching):
            bits &= ~asked.get(block.block, 0)
            if bits:
                column = value_column(self._index, self._question.field, block, terms)
                score.add_column(text_of, block, column, bits)

    def _by_session(self, score: Score) -> None:
        """The same where the value is the session, which is known by number."""
        known = sessions.Sessions(self._index)
        traces = known.occurrences(self._matching)
        least = 1
        if self._question.unit == sessions.TRACE and len(traces) > self._question.most:
            # A session with fewer traces cannot be among the most frequent ones, even if
            # all pending traces are its.
            ranked = sorted(traces.values(), reverse=True)
            least = ranked[self._question.most] - len(self._index.pending)
        for number, count in traces.items():
            if count >= least:
                score.add_session(known.session_id(number), number, count)

    # ------------------------------------------------- what the index has not captured

    def _asked_about(self, unsure: Optional[Terms]) -> Optional[dict[int, int]]:
        """By block the matching traces whose values have to be read; None: too many.

        ``unsure``: those with one of these terms, None: all.
        """
        found: dict[int, int] = {}
        total = 0
        for group, within in self._groups() if unsure != () else ():
            if unsure is not None:
                group.fetch(unsure)
                within &= group.union(unsure)
            parts = group.divided(within)
            for block, bits in zip(group.blocks, parts):
                if bits:
                    found[block.block] = bits
                    total += bitmaps.count(bits)
            if total > self._index.most_undecided:
                return None
        return found

    def _asked(self, asked: dict[int, int]) -> list[dict[str, Any]]:
        """The values of these traces, and of pending ones that match."""
        index, question = self._index, self._question
        blocks = [block for block in index.blocks if block.block in asked]
        ids = index.ids(blocks, [asked[block.block] for block in blocks])
        found: list[dict[str, Any]] = []
        for chosen, node in ((ids, tree.EVERYTHING), (index.pending, question.node)):
            if not chosen:
                continue
            statement = self._statement.again()
            given = statement.params.add(list(chosen), "text[]")
            traces = (
                f"select t.* from {statement.traces} where t.request_id = any({given})"
                f" and {statement.where(node, 'probe')}"
            )
            pairs = values.pairs(statement, question.field, traces)
            found += statement.run(index.plpy, f"select distinct v.* from (\n{pairs}\n) v")
        return found


class Score:
    """How many units have each of some values."""

    def __init__(self, index: Index, unit: str, field: tree.Field) -> None:
        self._index = index
        self._unit = unit
        self._field = field
        self._sessions = sessions.Sessions(index)
        self._numbers: dict[int, Sequence[int]] = {}
        self._counts: Counter[str] = Counter()
        self._by_session: dict[str, Counter[int]] = {}
        self._asked: set[tuple[str, str]] = set()

    def add(self, value: str, group: Group, having: int) -> None:
        """Adds the traces of a group that have a value."""
        if not having:
            return
        if self._unit == sessions.TRACE:
            self._counts[value] += bitmaps.count(having)
            return
        own = self._by_session.setdefault(value, Counter())
        for block, bits in zip(group.blocks, group.divided(having)):
            if bits:
                own.update(bitmaps.chosen(self._of_block(block), bits))

    def add_column(
        self, text_of: dict[int, str], block: Block, column: Sequence[int], bits: int
    ) -> None:
        """Adds traces of a block, which have at most one value each, by its number."""
        if self._unit == sessions.TRACE:
            universe = self._index.universe(block)
            key = ("values", fields.spell(self._field))
            for term, count in occurrences.of_some(key, block, universe, column, bits).items():
                if term and count:
                    self._counts[text_of[term]] += count
            return
        pairs = zip(bitmaps.chosen(column, bits), bitmaps.chosen(self._of_block(block), bits))
        for (term, session), count in Counter(pairs).items():
            if term:
                self._by_session.setdefault(text_of[term], Counter())[session] += count

    def add_session(self, session_id: str, number: int, count: int) -> None:
        """Adds as many traces of a session, whose id is the value."""
        if self._unit == sessions.TRACE:
            self._counts[session_id] += count
        else:
            self._by_session.setdefault(session_id, Counter())[number] += count

    def _of_block(self, block: Block) -> Sequence[int]:
        found = self._numbers.get(block.block)
        if found is None:
            (found,) = self._sessions.numbers([block], [self._index.universe(block)])
            self._numbers[block.block] = found
        return found

    def add_trace(self, value: str, row: dict[str, Any]) -> None:
        """Adds a trace that was asked about by itself, once."""
        if (value, row["request_id"]) in self._asked:
            return
        self._asked.add((value, row["request_id"]))
        if self._unit == sessions.TRACE:
            self._counts[value] += 1
        elif row["session_id"] is not None:
            own = self._by_session.setdefault(value, Counter())
            own[self._sessions.number(row["session_id"])] += 1

    def counts(self, statement: Statement) -> Counter[str]:
        """The number of units by value."""
        if self._unit == sessions.TRACE:
            return self._counts
        whole: Counter[int] = Counter()
        if self._unit == sessions.SESSION_ALL:
            for block in self._index.blocks:
                universe = self._index.universe(block)
                whole.update(bitmaps.chosen(self._of_block(block), universe))
            pending = self._index.pending
            asked = sessions.asked(self._index.plpy, statement.again(), (), pending)
            for trace in asked:
                if trace.session_id is not None:
                    whole[self._sessions.number(trace.session_id)] += 1
        for value, own in self._by_session.items():
            own.pop(0, None)
            if self._unit == sessions.SESSION_ALL:
                self._counts[value] = sum(whole[number] == count for number, count in own.items())
            else:
                self._counts[value] = len(own)
        return self._counts
''',
"insights_engine.facets": r'''"""The values of a field among the traces that match a filter, with their counts.

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

from insights_engine import fields, histogram, printer, sessions, tree, values
from insights_engine.errors import InsightsError
from insights_engine.facet_rows import (
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
from insights_engine.index_reader import decided, open_index, prepare
from insights_engine.statement import Statement
from insights_engine.tokens import MAX_BYTES

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
    index = open_index(plpy, statement, (question.node, present(field)))
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
        whole = values.is_whole(field)
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
    if values.is_whole(field):
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
    if question.unit == sessions.TRACE and values.is_single(question.field):
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
        number = int(text) if values.is_whole(field) else float(text)
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
''',
"insights_engine.facts": r'''"""Extracts the facts of traces: what the index says about them.

`Facts` collects, for traces that are given one after the other under ascending
positions, at which positions each fact holds.  What a fact means is defined by
the raw predicate (rawsql.py, attributes.py); a fact may be left out only where a
fact of role ``o`` says so.  Pure: what the index knows already comes from a
`Vocabulary`.

A batch sees the same values over and over, so each stored value leads, through
dictionaries that fill themselves, straight to the lists of positions that it
belongs to.  They last for the batch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Optional, Protocol, Union

from insights_engine.attributes import attributes_of, loads, number_form, storable
from insights_engine.terms import (
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

#: Distinct texts of a key, signatures counted apart, that get a term each.
VALUES = 1_000
#: The same for keys that are not attributes', whose signature is always the same.
TRACE_VALUES = 4_000
#: Longer texts are always hashed.
LONGEST_VALUE = 250
#: Distinct keys of attributes, and of the parts of them, that are indexed.
KEYS = 2_000
#: Parts of an attribute's value that are indexed: how many of one value, how many
#: different ones of one attribute, and how far down.
PARTS_OF_VALUE = 24
PARTS_OF_KEY = 100
DEPTH = 3

#: Attributes with a value of their own in nearly every span.
UNINDEXED = frozenset(
    (
        "mlflow.spanInputs",
        "mlflow.spanOutputs",
        "mlflow.traceRequestId",
        "mlflow.spanStartTimeNs",
    )
)

# When a batch holds very many texts, no key may have more than some of its own.
_SOME_TEXTS = 100
_MOST_TEXTS_OF_ALL = 300_000
# Of the texts that numbers are printed as, which are seldom asked for, less is kept.
_MOST_PRINTED = 200
# When so many texts are found at fewer than so many traces, nearly every trace has
# its own: the texts need no terms.
_LOOKED_AT = 1_000
_MOSTLY_UNIQUE = 1_250
# Combinations of type, name and status that are remembered.
_MOST_COLUMNS = 10_000

# How deep JSON may be nested for certain, whatever calls the decoder: Python's
# limit counts the frames below as well.  With fewer brackets it is not looked at.
SURE_DEPTH = 300

# The first characters of texts that read as a number; the empty text does no harm.
_NUMBERS_BEGIN = "0123456789+-."

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_INT64 = range(-(2**63), 2**63)

#: Ascending; the first is -1, which is none.
Positions = list[int]
#: (kind, key, signature, role, slot)
Fact = tuple[str, str, int, str, int]
Number = Union[int, float]
Content = Optional[str]

TEXT_COLUMNS = ("name", "status", "session_id", "client_request_id")
PREVIEWS = ("request_preview", "response_preview")
INTEGER_COLUMNS = (
    "timestamp_ms",
    "execution_time_ms",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation_input_tokens_above_1hr",
)
COST_COLUMNS = ("input_cost", "output_cost", "total_cost")


class Vocabulary(Protocol):
    """What the index knows already."""

    def signature(self, type: Optional[str], name: Optional[str], status: str) -> int:
        """The number of a signature, a new one where needed."""

    def attribute_keys(self) -> Iterable[str]:
        """The keys of attributes that are indexed."""

    def full_keys(self) -> set[tuple[str, str]]:
        """The (kind, key) of which no more texts get a term."""

    def values(self, kind: str, key: str) -> frozenset[tuple[int, str]]:
        """The (signature, text) of a key that have a term of their own."""


class Series:
    """The numbers of one key and signature: the smallest and largest of each trace."""

    __slots__ = ("high", "low", "positions", "whole")

    def __init__(self, whole: bool) -> None:
        #: Whether they are integers, of 64 bits; otherwise finite doubles.
        self.whole = whole
        self.positions: Positions = [-1]
        self.low: list[Number] = [0]
        #: By position, where it differs.
        self.high: dict[int, Number] = {}

    def add(self, position: int, number: Number) -> None:
        """One more number of a trace."""
        if self.positions[-1] != position:
            self.positions.append(position)
            self.low.append(number)
            return
        low = self.low[-1]
        if number < low:
            self.low[-1] = number
            self.high.setdefault(position, low)
        elif number > low and number > self.high.get(position, low):
            self.high[position] = number


#: What a stored value says: lists of positions to append to, numbers to add.
_Entry = tuple[Sequence[Positions], Sequence[tuple[Series, Number]]]
_NOTHING: _Entry = ((), ())


class Texts:
    """The texts of one key."""

    __slots__ = (
        *("_buckets", "_facts", "_most", "_printed"),
        *("candidates", "full", "key", "kind", "known"),
    )

    def __init__(self, facts: Facts, kind: str, key: str) -> None:
        self._facts = facts
        self.kind = kind
        self.key = key
        self._printed = 0
        self._most = _SOME_TEXTS if (kind, key) in facts.full else 2 * most_values(kind)
        #: (signature, text, whether it is a number that JSON printed)
        self.candidates: dict[tuple[int, str, bool], Positions] = {}
        #: Whether texts are hashed from now on unless ``known``.
        self.full = False
        self.known: frozenset[tuple[int, str]] = frozenset()
        self._buckets: dict[int, Positions] = {}

    def at(self, signature: int, text: str, printed: bool = False) -> tuple[Positions, bool]:
        """Where a text's positions are collected, and whether that is for it alone."""
        found = self.candidates.get((signature, text, printed))
        if found is not None:
            return found, True
        if len(text) > LONGEST_VALUE:
            return self._shared(signature, text, printed), False
        if not self.full and (
            len(self.candidates) >= self._most
            or (printed and self._printed >= _MOST_PRINTED)
            or (
                len(self.candidates) >= _SOME_TEXTS and self._facts.text_count >= _MOST_TEXTS_OF_ALL
            )
        ):
            self.close()
        if self.full and (signature, text) not in self.known:
            return self._shared(signature, text, printed), False
        self._facts.text_count += 1
        self._printed += printed
        found = self.candidates[signature, text, printed] = [-1]
        return found, True

    def close(self) -> None:
        """From now on only known texts are collected by themselves."""
        self.full = True
        self.known = self._facts.vocabulary.values(self.kind, self.key)

    def _shared(self, signature: int, text: str, printed: bool) -> Positions:
        if printed:
            return self._facts.at(*self.shared_fact(signature, text, printed))
        bucket = bucket_of(text)
        found = self._buckets.get(bucket)
        if found is None:
            found = self._facts.at(self.kind, self.key, 0, "h", bucket)
            self._buckets[bucket] = found
        return found

    def shared_fact(self, signature: int, text: str, printed: bool) -> Fact:
        """What stands for a text without a term of its own.

        A number printed by JSON is found by its value, so it needs no bucket.
        """
        if printed:
            return (self.kind, self.key, signature, "o", TEXT)
        return (self.kind, self.key, 0, "h", bucket_of(text))


def most_values(kind: str) -> int:
    """How many texts of a key get a term each."""
    return VALUES if kind == "attribute" else TRACE_VALUES


class _Values(dict[Optional[str], _Entry]):
    """The entries of the texts under one key; no attribute's."""

    __slots__ = ("_facts", "_numbers", "_texts", "_there")

    def __init__(self, facts: Facts, kind: str, key: str, numbers: bool) -> None:
        super().__init__()
        self._facts = facts
        self._numbers = numbers
        self._texts = facts.texts_of(kind, key)
        self._there = facts.at(kind, key, 0, "p")

    def __missing__(self, text: Optional[str]) -> _Entry:
        if text is None:
            # There, yet nothing compares with it: left to the raw predicate.
            unknown = self._facts.at(self._texts.kind, self._texts.key, 0, "o", TEXT)
            self[text] = nothing = ((self._there, unknown), ())
            return nothing
        texts = self._texts
        if len(texts.candidates) == _LOOKED_AT and len(self._there) < _MOSTLY_UNIQUE:
            texts.close()
        positions, alone = texts.at(0, text)
        entry: _Entry = ((self._there, positions), ())
        if self._numbers and text[:1] in _NUMBERS_BEGIN:
            number = number_form(text)
            if number is not None:
                series = self._facts.series_of(texts.kind, texts.key, 0)
                entry = ((self._there, positions), ((series, number),))
        if alone:
            self[text] = entry
        return entry


class _Keys(dict[str, _Values]):
    """The values by key of one kind, which is not ``attribute``."""

    __slots__ = ("_facts", "_kind", "_numbers")

    def __init__(self, facts: Facts, kind: str, numbers: bool) -> None:
        super().__init__()
        self._facts = facts
        self._kind = kind
        self._numbers = numbers

    def __missing__(self, key: str) -> _Values:
        self[key] = values = _Values(self._facts, self._kind, key, self._numbers)
        return values


class _Path:
    """Where to note what spans of one signature have under one path of attributes."""

    __slots__ = ("_facts", "_series", "_text", "path", "signature", "texts", "there")

    def __init__(self, facts: Facts, path: str, signature: int) -> None:
        self._facts = facts
        self.path = path
        self.signature = signature
        self.there = facts.at("attribute", path, signature, "p")
        self.texts = facts.texts_of("attribute", path)
        self._series: Optional[Series] = None
        # Where it is noted that a text is not captured.
        self._text: Optional[Positions] = None

    def opaque(self, slot: int) -> Positions:
        """Where it is noted that something is not captured."""
        return self._facts.at("attribute", self.path, self.signature, "o", slot)

    def series(self) -> Series:
        """Where numbers are noted."""
        if self._series is None:
            self._series = self._facts.series_of("attribute", self.path, self.signature)
        return self._series

    def entry(self, value: Any) -> tuple[_Entry, bool]:
        """What a decoded value says, and whether its text has positions of its own."""
        if isinstance(value, (dict, list)):
            return ((self.there, self.opaque(TEXT)), ()), False
        if isinstance(value, str):
            positions, alone = self.texts.at(self.signature, storable(value))
        else:
            printed = not isinstance(value, bool)
            positions, alone = self.texts.at(self.signature, json.dumps(value), printed)
        number = number_form(value)
        numbers = ((self.series(), number),) if number is not None else ()
        return ((self.there, positions), numbers), alone

    def note_number(self, position: int, value: Number) -> None:
        """The same for a number, noted at once: most numbers do not come again."""
        if self.there[-1] != position:
            self.there.append(position)
        try:
            number = float(value)
        except OverflowError:  # an integer beyond every double
            number = math.inf
        if number - number == 0.0:
            series = self._series or self.series()
            if series.positions[-1] != position:
                series.positions.append(position)
                series.low.append(number)
            else:
                series.add(position, number)
            text = repr(value)
        else:
            text = json.dumps(value)
        texts = self.texts
        signature = self.signature
        positions = texts.candidates.get((signature, text, True))
        if positions is None:
            if texts.full and (not texts.known or (signature, text) not in texts.known):
                positions = self._text
                if positions is None:
                    positions = self._text = self.opaque(TEXT)
            else:
                positions, _ = texts.at(signature, text, True)
        if positions[-1] != position:
            positions.append(position)


class _Attribute(dict[str, _Entry]):
    """The entries of the stored texts of one attribute in spans of one signature."""

    __slots__ = ("_facts", "_where")

    def __init__(self, facts: Facts, signature: int, key: str) -> None:
        super().__init__()
        self._facts = facts
        self._where = _Path(facts, key, signature)

    def __missing__(self, stored: str) -> _Entry:
        if self._facts.bracketed and too_deep(stored):
            return self._facts.unread(self._where.signature)
        value = loads(stored, stored)
        if value is None:
            self[stored] = _NOTHING
            return _NOTHING
        if isinstance(value, (dict, list)):
            return self.describe(value)
        entry, alone = self._where.entry(value)
        if alone:
            self[stored] = entry
        return entry

    def describe(self, value: Any) -> _Entry:
        """What a decoded value says; its parts are noted already."""
        if value is None:
            return _NOTHING
        entry, _ = self._where.entry(value)
        if value and isinstance(value, dict):
            self._facts.note_parts(self._where, value)
        elif value and isinstance(value, list):
            return (*entry[0], self._where.opaque(PARTS)), ()
        return entry


class _Unindexed(_Attribute):
    """One of the attributes that are not indexed by value."""

    __slots__ = ("_any", "_compound", "_scalar")

    def __init__(self, facts: Facts, signature: int, key: str) -> None:
        super().__init__(facts, signature, key)
        there = self._where.there
        # Wherever it is there, its text is not captured.
        facts.share(there, "attribute", key, signature, "o", TEXT)
        number, parts = self._where.opaque(NUMBER), self._where.opaque(PARTS)
        self._scalar: _Entry = ((there, number), ())
        self._compound: _Entry = ((there, parts), ())
        self._any: _Entry = ((there, number, parts), ())

    def __getitem__(self, stored: str) -> _Entry:
        # Whatever begins like this is not null, be it JSON or a plain text.
        first = stored[:1]
        if first == "{" or first == "[":
            if self._facts.bracketed and too_deep(stored):
                return self._facts.unread(self._where.signature)
            return self._compound
        if first == '"' or first.isdecimal():
            return self._scalar
        if self._facts.bracketed and too_deep(stored):
            return self._facts.unread(self._where.signature)
        return self.describe(loads(stored, stored))

    def describe(self, value: Any) -> _Entry:
        return _NOTHING if value is None else self._any


class _Signature(dict[str, Optional[_Attribute]]):
    """The attributes by key of spans of one signature; None: the key is hidden."""

    __slots__ = ("_facts", "counts", "durations", "number", "timed")

    def __init__(self, facts: Facts, number: int) -> None:
        super().__init__()
        self._facts = facts
        self.number = number
        #: Where the number of spans has a bit set.
        self.counts: list[Positions] = []
        self.timed = facts.at("span", "duration", number, "p")
        self.durations = facts.series_of("span", "duration", number, True)

    def __missing__(self, key: str) -> Optional[_Attribute]:
        if _UNSTORABLE.search(key) or not self._facts.admit(key, key):
            return None
        kind = _Unindexed if key in UNINDEXED else _Attribute
        self[key] = attribute = kind(self._facts, self.number, key)
        return attribute


class _Column:
    """Where to note a number of the traces themselves."""

    __slots__ = ("_facts", "_name", "series", "there")

    def __init__(self, facts: Facts, name: str, whole: bool) -> None:
        self._facts = facts
        self._name = name
        self.there = facts.at("trace", name, 0, "p")
        self.series = facts.series_of("trace", name, 0, whole)

    def note(self, position: int, number: Optional[Number]) -> None:
        """A number that is there; None: it cannot be captured."""
        self.there.append(position)
        if number is None:
            self._facts.at("trace", self._name, 0, "o", NUMBER).append(position)
        else:
            self.series.add(position, number)


class Facts:
    """The facts of a batch of traces, each with the positions where it holds."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.full = vocabulary.full_keys()
        self.text_count = 0
        #: Facts of roles p, o and h.
        self.plain: dict[Fact, Positions] = {}
        self.series: dict[tuple[str, str, int], Series] = {}
        self.texts: dict[tuple[str, str], Texts] = {}
        self.signatures: dict[tuple[Optional[str], Optional[str], str], _Signature] = {}
        # Several triples may share a signature.
        self._by_number: dict[int, _Signature] = {}
        #: Keys of attributes and paths of parts that are indexed.
        self.keys = set(vocabulary.attribute_keys())
        self._parts: dict[tuple[int, str], dict[str, _Path]] = {}
        self._parts_of_key: dict[str, int] = {}
        for key in self.keys:
            top, _, part = key.partition(SEPARATOR)
            if part:
                self._parts_of_key[top] = self._parts_of_key.get(top, 0) + 1
        self._pairs = {
            kind: _Keys(self, kind, kind in ("tag", "metadata"))
            for kind in ("trace", "tag", "metadata", "feedback", "expectation")
        }
        self._columns = {
            **{name: _Column(self, name, True) for name in INTEGER_COLUMNS},
            **{name: _Column(self, name, False) for name in COST_COLUMNS},
        }
        self._end = _Column(self, "end_time_ms", True)
        self._span_count = _Column(self, "span_count", True)
        self._span_columns: dict[tuple[Optional[str], Optional[str], str], list[Positions]] = {}
        self._position = -1
        #: Whether the content at hand has so many brackets that it may nest too deep.
        self.bracketed = False
        self._links = {kind: _Values(self, kind, "", False) for kind in ("run", "prompt", "issue")}

    # ------------------------------------------------------------ collections

    def size(self) -> int:
        """How many facts there are."""
        return len(self.plain) + self.text_count + len(self.series)

    def at(self, kind: str, key: str, signature: int, role: str, slot: int = 0) -> Positions:
        """Where the positions of a fact are collected."""
        fact = (kind, key, signature, role, slot)
        found = self.plain.get(fact)
        if found is None:
            found = self.plain[fact] = [-1]
        return found

    def share(self, positions: Positions, *fact: Any) -> None:
        """Lets a fact hold wherever another one does."""
        self.plain[fact] = positions

    def series_of(self, kind: str, key: str, signature: int, whole: bool = False) -> Series:
        """Where the numbers of a key are collected."""
        found = self.series.get((kind, key, signature))
        if found is None:
            found = self.series[kind, key, signature] = Series(whole)
        return found

    def texts_of(self, kind: str, key: str) -> Texts:
        """Where the texts of a key are collected."""
        found = self.texts.get((kind, key))
        if found is None:
            found = self.texts[kind, key] = Texts(self, kind, key)
        return found

    def admit(self, top: str, path: str) -> bool:
        """Whether an attribute, or the part under ``path`` of it, is indexed."""
        if path in self.keys:
            return True
        if len(self.keys) >= KEYS or len(path) > LONGEST_KEY:
            return False
        if path != top:
            parts = self._parts_of_key.get(top, 0)
            if parts >= PARTS_OF_KEY:
                return False
            self._parts_of_key[top] = parts + 1
        elif SEPARATOR in top:
            return False
        self.keys.add(path)
        return True

    def _note(self, position: int, entry: _Entry) -> None:
        lists, numbers = entry
        for positions in lists:
            if positions[-1] != position:
                positions.append(position)
        for series, number in numbers:
            series.add(position, number)

    def _mark(self, position: int, *fact: Any) -> None:
        positions = self.at(*fact)
        if positions[-1] != position:
            positions.append(position)

    # ----------------------------------------------------------- trace columns

    def add_trace(self, position: int, row: dict[str, Any]) -> None:
        """The columns of trace_info; of the previews whether they are there."""
        values = self._pairs["trace"]
        for column in TEXT_COLUMNS:
            text = row[column]
            if text is not None:
                self._note(position, values[column][text])
        for column in PREVIEWS:
            if row[column]:
                self._mark(position, "trace", column, 0, "p")
                self._mark(position, "trace", column, 0, "o", TEXT)
        for name, noted in self._columns.items():
            number = row[name]
            if number is not None:
                finite = noted.series.whole or math.isfinite(number)
                noted.note(position, number if finite else None)
        end = row["timestamp_ms"] + (row["execution_time_ms"] or 0)
        self._end.note(position, end if end in _INT64 else None)

    def add_pairs(
        self, position: int, kind: str, keys: Iterable[str], values: Iterable[Optional[str]]
    ) -> None:
        """Tags or metadata."""
        known = self._pairs[kind]
        for key, value in zip(keys, values):
            lists, numbers = known[key][value]
            for positions in lists:
                if positions[-1] != position:
                    positions.append(position)
            for series, number in numbers:
                series.add(position, number)

    def add_link(self, position: int, kind: str, value: str) -> None:
        """A run, a prompt or an issue of the trace."""
        self._note(position, self._links[kind][value])

    def add_assessment(
        self,
        position: int,
        kind: str,
        name: str,
        value: Optional[str],
        numeric: bool,
        number: Optional[float],
    ) -> None:
        """A valid feedback or expectation of the trace or its session, with its stored value."""
        self._note(position, self._pairs[kind][name][value])
        if value is None:
            self._mark(position, kind, name, 0, "o", TEXT)
        if numeric:
            if number is None or not math.isfinite(number):
                self._mark(position, kind, name, 0, "o", NUMBER)
            else:
                self.series_of(kind, name, 0).add(position, number)

    def add_session_elsewhere(self, position: int) -> None:
        """The session has assessments in another experiment, which may count."""
        self._mark(position, "trace", "assessments", 0, "o", SESSION)

    # ------------------------------------------------------------------ spans

    def add_spans(
        self,
        position: int,
        spans: Iterable[tuple[Any, Optional[str], Optional[str], str, Optional[int], Content]],
    ) -> Optional[str]:
        """All spans of a trace: (any, type, name, status, duration, content); their rollup.

        ``content`` None was too long to be read.
        """
        self._position = position
        rollup: dict[int, list[Any]] = {}
        signatures = self.signatures
        columns: set[tuple[Optional[str], Optional[str], str]] = set()
        total = 0
        for _, type, name, status, duration, content in spans:
            total += 1
            columns.add((type, name, status))
            signature = signatures.get((type, name, status))
            if signature is None:
                signature = signatures[type, name, status] = self._signature(type, name, status)
            counted = rollup.get(signature.number)
            if counted is None:
                # Spans, those with a duration, sum, smallest and largest duration.
                counted = rollup[signature.number] = [0, 0, 0, None, None, signature]
            counted[0] += 1
            if duration is not None:
                counted[2] += duration
                if not counted[1] or duration < counted[3]:
                    counted[3] = duration
                if not counted[1] or duration > counted[4]:
                    counted[4] = duration
                counted[1] += 1
            if content is None:
                self._note(position, self.unread(signature.number))
                continue
            # Brackets may also be written as \u005b or \u007b, within a string.
            self.bracketed = bracketed = (
                content.count("{") + content.count("[") > SURE_DEPTH or "\\u00" in content
            )
            if bracketed and too_deep(content):
                self._note(position, self.unread(signature.number))
                continue
            for key, stored in attributes_of(content).items():
                attribute = signature[key]
                if attribute is None:
                    self._hide(position, signature.number, key)
                    continue
                if stored.__class__ is str:
                    lists, numbers = attribute[stored]
                else:
                    lists, numbers = attribute.describe(stored)
                for positions in lists:
                    if positions[-1] != position:
                        positions.append(position)
                for series, number in numbers:
                    # As in Series.add, for the first number of the trace.
                    if series.positions[-1] != position:
                        series.positions.append(position)
                        series.low.append(number)
                    else:
                        series.add(position, number)
        self._span_count.note(position, total)
        for three in columns:
            for positions in self._span_columns.get(three) or self._columns_of(*three):
                if positions[-1] != position:
                    positions.append(position)
        if not rollup:
            return None
        lows = [counted[3] for counted in rollup.values() if counted[1]]
        if lows:
            # Of all spans together, for conditions on the duration alone.
            self.at("span", "duration", 0, "p").append(position)
            durations = self.series_of("span", "duration", 0, True)
            durations.add(position, min(lows))
            durations.add(position, max(c[4] for c in rollup.values() if c[1]))
        return " ".join([self._finish(position, counted) for counted in rollup.values()])

    def _columns_of(self, type: Optional[str], name: Optional[str], status: str) -> list[Positions]:
        """Where the traces with a span of that type, name and status are collected, by column."""
        found = []
        for key, value in (("type", type), ("name", name), ("status", status)):
            if value is not None:
                found.append(self.texts_of("span", key).at(0, value)[0])
        if len(self._span_columns) < _MOST_COLUMNS:
            self._span_columns[type, name, status] = found
        return found

    def _signature(self, type: Optional[str], name: Optional[str], status: str) -> _Signature:
        number = self.vocabulary.signature(type, name, status)
        found = self._by_number.get(number)
        if found is None:
            found = self._by_number[number] = _Signature(self, number)
        return found

    def _finish(self, position: int, counted: list[Any]) -> str:
        """Notes what the spans of a signature have in common; its part of the rollup."""
        count, timed, total, low, high, signature = counted
        number = signature.number
        bits = signature.counts
        for bit in range(count.bit_length()):
            if bit == len(bits):
                bits.append(self.at("span", "count", number, "n", bit))
            if count >> bit & 1:
                bits[bit].append(position)
        if not timed:
            return f"{number}:{count}:::"
        signature.timed.append(position)
        signature.durations.add(position, low)
        if high != low:
            signature.durations.add(position, high)
        if count == 1:
            return f"{number}:{total}"
        return f"{number}:{count}:{total}:{low}:{high}"

    def unread(self, signature: int) -> _Entry:
        """Attributes of spans of this signature are not known."""
        return ((self.at("attribute", "", signature, "o", CONTENT),), ())

    def _hide(self, position: int, signature: int, key: str) -> None:
        """An attribute whose key is not indexed."""
        if not _UNSTORABLE.search(key):
            slot = hidden_slot_of(key)
            self._mark(position, "attribute", "", signature, "o", slot)

    def note_parts(self, where: _Path, value: dict[str, Any]) -> None:
        """Notes the parts of an object, an attribute of a span of the trace at hand."""
        position = self._position
        signature, top = where.signature, where.path
        left = PARTS_OF_VALUE
        whole = True
        todo = [(top, value)]
        for depth in range(1, DEPTH + 1):
            below: list[tuple[str, dict[str, Any]]] = []
            for path, inner in todo:
                known = self._parts.get((signature, path))
                if known is None:
                    known = self._parts[signature, path] = {}
                for name, part in inner.items():
                    if part is None:
                        continue
                    at = known.get(name)
                    if at is None:
                        if _UNSTORABLE.search(name):
                            continue  # no filter can name it
                        full = path + SEPARATOR + name
                        if not left or SEPARATOR in name or not self.admit(top, full):
                            whole = False
                            continue
                        at = known[name] = _Path(self, full, signature)
                    elif not left:
                        whole = False
                        continue
                    left -= 1
                    if part.__class__ is int or part.__class__ is float:
                        at.note_number(position, part)
                        continue
                    self._note(position, at.entry(part)[0])
                    if part and isinstance(part, dict) and depth < DEPTH:
                        below.append((at.path, part))
                    elif part and isinstance(part, (dict, list)):
                        whole = False
            todo = below
        if not whole:
            self._note(position, ((where.opaque(PARTS),), ()))


def too_deep(text: str) -> bool:
    """Whether JSON is nested so deep that it depends on the caller what decoding gives."""
    if text.count("{") + text.count("[") <= SURE_DEPTH:
        return False
    try:
        level: list[Any] = [[json.loads(text)]]
    except RecursionError:
        return True
    except ValueError:
        return False
    for _ in range(SURE_DEPTH):
        level = [
            inner
            for item in level
            for inner in (item.values() if isinstance(item, dict) else item)
            if inner and isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True
''',
"insights_engine.fields": r'''"""Every field of the language: its names, its type, what it may be compared with.

The one place to look a name up, for filters as for ``order_by``, and to print
a field in its canonical spelling.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from insights_engine import tree

# ------------------------------------------------------------- trace-level names

#: Names without an entity, or after ``trace.``/``attribute.``/``attributes.``.
TRACE_FIELDS: dict[str, tree.Field] = {
    **{name: tree.TraceText(name) for name in tree.TRACE_TEXT_FIELDS},
    **{name: tree.TraceNumber(name) for name in tree.TRACE_NUMBER_FIELDS},
    "request_id": tree.TraceText("trace_id"),
    "session": tree.TraceText("session_id"),
    "timestamp": tree.TraceNumber("timestamp_ms"),
    "execution_time": tree.TraceNumber("execution_time_ms"),
    "end_time": tree.TraceNumber("end_time_ms"),
    "text": tree.SpanText("content"),
}

#: The entity of ``entity.key``: what MLflow's aliases stand for, plus our own.
ENTITIES: dict[str, str] = {
    "trace": "trace",
    "attribute": "trace",
    "attributes": "trace",
    "tag": "tags",
    "tags": "tags",
    "metadata": "metadata",
    "request_metadata": "metadata",
    "feedback": "feedback",
    "expectation": "expectation",
    "assessment": "assessment",
    "issue": "issue",
    "span": "span",
}

SPAN_FIELDS: dict[str, tree.SpanField] = {
    "name": tree.SpanText("name"),
    "type": tree.SpanText("type"),
    "status": tree.SpanText("status"),
    "content": tree.SpanText("content"),
    "duration_ms": tree.SpanNumber("duration_ms"),
}

#: MLflow replaces these keys whatever entity they stand in (except ``span``),
#: compared in lower case; brackets reach the real key.
KEY_TO_FIELD: dict[str, tree.Field] = {
    "name": tree.TraceText("name"),
    "prompt": tree.TraceText("prompt"),
    "run_id": tree.TraceText("run_id"),
    "text": tree.SpanText("content"),
}
KEY_TO_KEY: dict[str, str] = {
    "timestamp": "timestamp_ms",
    "execution_time": "execution_time_ms",
    "end_time": "end_time_ms",
}

#: Keys whose value MLflow keeps in a column or in links of the trace.
PROMOTED_TAGS: dict[str, tree.Field] = {
    "mlflow.traceName": tree.TraceText("name"),
    "mlflow.linkedPrompts": tree.TraceText("prompt"),
}
PROMOTED_METADATA: dict[str, tree.Field] = {
    "mlflow.trace.session": tree.TraceText("session_id"),
    "mlflow.trace.user": tree.TraceText("user"),
    "mlflow.sourceRun": tree.TraceText("run_id"),
}

#: Metadata that MLflow synthesises as JSON text from the number columns.
USAGE_METADATA = ("mlflow.trace.tokenUsage", "mlflow.trace.cost")

#: Trace texts that users choose freely, so that a number may stand in them.
_FREE_TEXTS = frozenset(("experiment_id", "session_id", "user"))

#: Integer columns: a literal beyond bigint can only be a mistake there.
INTEGER_FIELDS = frozenset(name for name in tree.TRACE_NUMBER_FIELDS if not name.endswith("_cost"))

TIME_FIELDS = frozenset(("timestamp_ms", "end_time_ms"))


def is_span_field(field: tree.Field) -> bool:
    """Whether the field is one of a span (else of the trace)."""
    return isinstance(field, (tree.SpanText, tree.SpanNumber, tree.SpanAttribute))


def is_number(field: tree.Field) -> bool:
    """Whether the field holds numbers only."""
    return isinstance(field, (tree.TraceNumber, tree.SpanNumber))


def is_time(field: tree.Field) -> bool:
    """Whether the field is a point in time (milliseconds since 1970 UTC)."""
    return isinstance(field, tree.TraceNumber) and field.name in TIME_FIELDS


def is_usage(field: tree.Field) -> bool:
    """Whether the field is one of MLflow's two synthesised metadata entries."""
    return isinstance(field, tree.Metadata) and field.key in USAGE_METADATA


def may_hold_numbers(field: tree.Field) -> bool:
    """Whether the field can be compared with a number literal."""
    if isinstance(field, tree.TraceText):
        return field.name in _FREE_TEXTS
    if isinstance(field, tree.Metadata):
        return field.key not in USAGE_METADATA
    return not isinstance(field, (tree.SpanText, tree.Issue))


def may_hold_booleans(field: tree.Field) -> bool:
    """Whether the field can be compared with ``true`` and ``false``."""
    return isinstance(field, (tree.Tag, tree.Assessment, tree.SpanAttribute)) or (
        isinstance(field, tree.Metadata) and not is_usage(field)
    )


# ---------------------------------------------------------------------- spelling

_DOTTED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*\Z")
_INDEX = re.compile(r"(?:0|[1-9][0-9]{0,8})\Z")


def quote(text: str) -> str:
    """``text`` as a string of the language."""
    return "'" + text.replace("'", "''") + "'"


def spell(field: tree.Field) -> str:
    """The canonical text of a field."""
    if isinstance(field, (tree.TraceText, tree.TraceNumber)):
        return field.name
    if isinstance(field, (tree.SpanText, tree.SpanNumber)):
        return "span." + field.name
    if isinstance(field, tree.Tag):
        return _spell_key("tags", field.key)
    if isinstance(field, tree.Metadata):
        return _spell_key("metadata", field.key)
    if isinstance(field, tree.Assessment):
        return _spell_key(field.kind, field.name)
    if isinstance(field, tree.Issue):
        return "issue.id"
    if len(field.path) == 1 and _DOTTED.match(field.path[0]):
        return "span.attributes." + field.path[0]
    first, *rest = field.path
    return f"span.attributes[{quote(first)}]" + "".join(
        f"[{step}]" if _INDEX.match(step) else f"[{quote(step)}]" for step in rest
    )


def _spell_key(entity: str, key: str) -> str:
    plain = key.lower()
    if _DOTTED.match(key) and plain not in KEY_TO_FIELD and plain not in KEY_TO_KEY:
        return f"{entity}.{key}"
    return f"{entity}[{quote(key)}]"


# ------------------------------------------------------------------- suggestions

#: Names that other tools, or MLflow's own objects, give to what a field holds.
SYNONYMS: dict[str, str] = {
    "id": "trace_id",
    "traceid": "trace_id",
    "state": "status",
    "trace_status": "status",
    "trace_name": "name",
    "latency": "execution_time_ms",
    "latency_ms": "execution_time_ms",
    "duration": "execution_time_ms",
    "duration_ms": "execution_time_ms",
    "execution_duration": "execution_time_ms",
    "time": "timestamp_ms",
    "date": "timestamp_ms",
    "created": "timestamp_ms",
    "created_at": "timestamp_ms",
    "start_time": "timestamp_ms",
    "request_time": "timestamp_ms",
    "user_id": "user",
    "userid": "user",
    "sessionid": "session_id",
    "session": "session_id",
    "run": "run_id",
    "experiment": "experiment_id",
    "tokens": "total_tokens",
    "token_count": "total_tokens",
    "cost": "total_cost",
    "request": "request_preview",
    "input": "request_preview",
    "inputs": "request_preview",
    "response": "response_preview",
    "output": "response_preview",
    "outputs": "response_preview",
    "content": "span.content",
    "type": "span.type",
    "span_type": "span.type",
    "span_name": "span.name",
    "span_status": "span.status",
    "model": "span.attributes.model",
    "spans": "span_count",
}

SPAN_SYNONYMS: dict[str, str] = {
    "duration": "span.duration_ms",
    "latency": "span.duration_ms",
    "latency_ms": "span.duration_ms",
    "execution_time_ms": "span.duration_ms",
    "execution_time": "span.duration_ms",
    "duration_ns": "span.duration_ms",
    "span_type": "span.type",
    "kind": "span.type",
    "state": "span.status",
    "status_code": "span.status",
    "text": "span.content",
    "inputs": "span.attributes.mlflow.spanInputs",
    "outputs": "span.attributes.mlflow.spanOutputs",
}

ENTITY_SYNONYMS: dict[str, str] = {
    "assessments": "assessment",
    "feedbacks": "feedback",
    "expectations": "expectation",
    "scores": "feedback",
    "score": "feedback",
    "meta": "metadata",
    "attr": "span.attributes",
    "param": "tags",
    "params": "tags",
    "issues": "issue",
    "spans": "span",
    "traces": "trace",
}


#: What the messages list beside MLflow's lists, which lack whatever stock has not.
TRACE_NAMES = "Fields of the trace: " + ", ".join(
    sorted((*tree.TRACE_TEXT_FIELDS, *tree.TRACE_NUMBER_FIELDS))
)
SPAN_NAMES = "Fields of a span: " + ", ".join((*SPAN_FIELDS, "attributes['key']"))
ENTITY_NAMES = "Before a dot stand trace, span, tags, metadata, feedback, expectation, assessment"
ENTITY_NAMES += " or issue"


def operators(field: tree.Field) -> str:
    """The operators that a field takes, without their negations."""
    if is_usage(field):
        return "=, != or IS NULL"
    if field == tree.SpanText("content"):
        return "LIKE, ILIKE, RLIKE or IS NULL"
    if is_number(field):
        return "=, !=, <, <=, >, >=, IN, BETWEEN or IS NULL"
    if may_hold_numbers(field):
        return "=, !=, <, <=, >, >=, LIKE, ILIKE, RLIKE, IN, BETWEEN or IS NULL"
    return "=, !=, LIKE, ILIKE, RLIKE, IN or IS NULL"


def nearest(name: str, candidates: Sequence[str]) -> str | None:
    """The candidate that ``name`` is most likely a misspelling of, if any.

    One slip for names of up to five letters, one more for every three beyond them: a name
    that is only somewhat alike would lead astray.  Else one that ``name`` begins, if all
    that it begins are forms of one.
    """
    name = name[:100].lower()
    near: tuple[int, str] | None = None
    for candidate in candidates:
        most = max(1, min(len(name), len(candidate)) // 3)
        if near is not None:
            most = min(most, near[0] - 1)
        slips = _slips(name, candidate.lower(), most)
        if slips is not None:
            near = slips, candidate
    if near is not None:
        return near[1]
    begun = [one for one in candidates if len(name) > 2 and one.lower().startswith(name)]
    shortest = min(begun, key=len, default="")
    return shortest if begun and all(one.startswith(shortest) for one in begun) else None


def _slips(one: str, other: str, most: int) -> int | None:
    """How many letters are wrong, missing, too many or swapped; None if more than ``most``."""
    if most < 0 or abs(len(one) - len(other)) > most:
        return None
    before: list[int] = []
    last = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, wanted in enumerate(other, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return None
        before, last = last, row
    return last[-1] if last[-1] <= most else None
''',
"insights_engine.findings": r'''"""Facts with what was counted and tested of them, and the rows they are shown as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Optional, Protocol

from insights_engine import candidates, printer, ranking, statistics
from insights_engine.candidates import Name
from insights_engine.errors import FilterError
from insights_engine.multiple import TargetTests, benjamini_hochberg
from insights_engine.options import Options, goes
from insights_engine.parser import parse_filter
from insights_engine.units import Traces


class Searched(Protocol):
    """A search for a threshold, as `splits.Split` is the outcome of one."""

    @property
    def searched(self) -> int:
        """How many different thresholds were compared."""

    def price(self, p: float) -> float:
        """Pays for the search: the p value of the best of all compared, whose own is ``p``."""


class Tested(NamedTuple):
    """A fact with its counts and its p value."""

    name: Name
    #: Units of the base, and of the target, that have the fact.
    among: int
    joint: int
    p_value: float
    test: str
    #: What was searched for it, if anything was.
    search: Optional[Searched] = None

    def counted(self, among: int, joint: int, tests: TargetTests) -> Tested:
        """The fact with other counts, tested."""
        return measured(self.name, among, joint, tests, self.search)


#: Counts as tested, with nothing found.
NOTHING = Tested(("n",), 0, 0, 1.0, "")


class Found(NamedTuple):
    """A significant fact."""

    fact: Tested
    q_value: float
    #: How strongly it goes with the target, for the ranking.
    strength: float

    @property
    def order(self) -> tuple[float, bool, int, str]:
        """Sorts the strongest first; of equals what is said of traces, and is shorter to say."""
        name = self.fact.name
        text = repr(name)
        of_spans = name[0] in ("s", "a") or name[1] in ("span", "attribute")
        return -self.strength, of_spans, len(text), text


class Shown(NamedTuple):
    """A fact that is shown, under its filter."""

    found: Found
    filter: str
    #: The filters of weaker facts that are near-identical.
    similar: list[str]


def measured(
    name: Name, among: int, joint: int, tests: TargetTests, search: Optional[Searched] = None
) -> Tested:
    """A fact that was counted, tested; the search for a threshold is paid for."""
    p_value, test = tests.p_value(among, joint), tests.test(among)
    if search is None:
        return Tested(name, among, joint, p_value, test)
    test = f"best of {search.searched} splits, {test}"
    return Tested(name, among, joint, search.price(p_value), test, search)


def significant(
    facts: Sequence[Tested], units: Traces, options: Options, tested: Optional[int] = None
) -> list[Found]:
    """The significant facts that go in the direction asked for, the strongest first.

    ``tested``: of how many, where not all are given.  In a sample, in which facts are
    only sought, they are judged one by one.
    """
    p_values = [one.p_value for one in facts]
    q_values = p_values if units.sampled else benjamini_hochberg(p_values, tested)
    found = []
    for one, q_value in zip(facts, q_values):
        if q_value > options.fdr or one is NOTHING:
            continue
        if goes(table(units, one.among, one.joint), options.direction):
            found.append(Found(one, q_value, strength(units, one.among, one.joint, options)))
    found.sort(key=lambda one: one.order)
    return found


def table(units: Traces, among: int, joint: int) -> tuple[int, int, int, int]:
    """The cells (n11, n10, n01, n00) of target and fact."""
    return statistics.Counts(units.target, among, joint, units.total).table


def strength(units: Traces, among: int, joint: int, options: Options) -> float:
    """How strongly a fact of these counts goes with the target, in the direction asked for."""
    return ranking.strength(statistics.odds_ratio(*table(units, among, joint)), options.direction)


def written(name: Name, apart: bool) -> Optional[str]:
    """The filter of a fact; None where no filter can say it: not every key or value can be.

    ``apart``: it can be joined to other conditions on spans without speaking of their spans.
    """
    node = candidates.node_of(name)
    if name[0] == "a":
        text = " AND ".join([printer.print_apart(candidates.node_of(one)) for one in name[1:]])
    else:
        text = printer.print_apart(node) if apart else printer.print_filter(node)
    try:
        return text if parse_filter(text) == node else None
    except FilterError:
        return None


def row(
    shown: Shown, units: Traces, restated: candidates.Restated, tested: int, screened: int
) -> dict[str, Any]:
    """The row of ``insights_discover``; so many facts were tested, among so many units."""
    fact, q_value, _ = shown.found
    target, total, among, joint = units.target, units.total, fact.among, fact.joint
    cells = table(units, among, joint)
    odds = statistics.odds_ratio(*cells)
    inside = joint / target
    outside = (among - joint) / (total - target)
    return {
        "filter": shown.filter,
        **candidates.label(fact.name)._asdict(),
        "target_count": target,
        "fact_count": among,
        "joint_count": joint,
        "total_count": total,
        "target_share": inside,
        "other_share": outside,
        "difference": inside - outside,
        "lift": statistics.lift(*cells),
        "npmi": statistics.npmi_from_counts(joint, target, among, total)[0],
        "phi": statistics.phi(*cells),
        "odds_ratio": odds.value,
        "odds_ratio_low": odds.low,
        "odds_ratio_high": odds.high,
        "p_value": fact.p_value,
        "q_value": q_value,
        "test": fact.test,
        "restates": restated(fact.name),
        "similar": shown.similar,
        "tested": tested,
        "screened_count": screened,
    }
''',
"insights_engine.grouping": r'''"""Facts that are nearly the same are shown as one, under the strongest of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from insights_engine import ranking
from insights_engine.candidates import Name
from insights_engine.findings import Found, Shown, written
from insights_engine.units import Traces

#: The strongest facts are compared with each other so many at a time.
COMPARED_AT_ONCE = 60


def grouped(units: Traces, found: Sequence[Found], apart: bool, most: int) -> list[Shown]:
    """The strongest facts, each with the near-identical ones that are weaker."""
    groups: list[Shown] = []
    at_once = max(COMPARED_AT_ONCE, most)
    for start in range(0, len(found), at_once):
        some = []
        for one in found[start : start + at_once]:
            text = written(one.fact.name, apart)
            if text is not None:
                some.append(Shown(one, text, []))
        pairs = _near_identical(units, groups, some)
        for shown in some:
            name = shown.found.fact.name
            same = [group for group in groups if (group.found.fact.name, name) in pairs]
            if same:
                same[0].similar.append(shown.filter)
            else:
                groups.append(shown)
        if len(groups) >= most:
            break
    return groups[:most]


def _near_identical(
    units: Traces, before: Sequence[Shown], some: Sequence[Shown]
) -> set[tuple[Name, Name]]:
    """Pairs of facts, by name, that match nearly the same units."""
    least: dict[tuple[Name, Name], tuple[int, int]] = {}
    # Of near-identical facts the smaller has at least phi squared of the larger's units.
    share = ranking.NEAR_IDENTICAL_PHI**2
    everything = sorted(
        (shown.found.fact.among, place, shown.found.fact.name)
        for place, shown in enumerate([*before, *some])
    )
    for number, (count, place, name) in enumerate(everything):
        for other_count, other_place, other in islice(everything, number + 1, None):
            if count < share * other_count:
                break
            if max(place, other_place) < len(before):
                continue  # both lead a group of their own
            wanted = ranking.least_joint_of_near_identical(count, other_count, units.total)
            if wanted <= count:
                pair = (name, other) if place < other_place else (other, name)
                least[pair] = (count, other_count)
    return units.near_identical(least) if least else set()
''',
"insights_engine.groups": r'''"""Blocks as a reader needs them, and their postings as sets of positions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Callable, Optional

from insights_engine import bitmaps, plans

Terms = tuple[int, ...]


@lru_cache(maxsize=64)
def all_positions(used: int) -> int:
    """The set of all positions that were given out; one object for each number."""
    return (1 << used) - 1


class Block:
    """A block as the reader needs it; ``start`` is its place in the group."""

    __slots__ = (
        *("block", "experiment_id", "first_ms", "last_ms", "live", "live_count", "start", "used"),
    )

    def __init__(self, row: Any) -> None:
        self.block: int = row["block"]
        self.experiment_id: int = row["experiment_id"]
        self.used: int = row["used"]
        stored: Optional[bytes] = row["live"]
        #: The positions that stand for a trace.
        self.live = all_positions(self.used) if stored is None else bitmaps.decode(stored)
        self.live_count: int = row["live_count"]
        self.first_ms: int = row["first_ms"]
        self.last_ms: int = row["last_ms"]
        self.start = 0


class Group:
    """Some blocks side by side, as one range of positions; each starts at a whole byte.

    The universe is all positions that were given out, whether their trace is there
    still or not: what conditions say of a block must not depend on that.
    """

    def __init__(self, plpy: Any, blocks: Sequence[Block]) -> None:
        self._plpy = plpy
        self.blocks = list(blocks)
        self._bytes = 0
        self._starts: dict[int, int] = {}
        #: By term and the place where the block starts.
        self._rows: dict[int, dict[int, bytes]] = {}
        self._unions: dict[Terms, int] = {}
        for block in self.blocks:
            block.start = self._bytes * 8
            self._starts[block.block] = self._bytes
            self._bytes += (block.used + 7) >> 3
        self.universe = self.joined([all_positions(block.used) for block in self.blocks])

    def joined(self, sets: Iterable[int]) -> int:
        """One set, of a set of positions for each block."""
        parts = [
            one.to_bytes((block.used + 7) >> 3, "little") for block, one in zip(self.blocks, sets)
        ]
        return int.from_bytes(b"".join(parts), "little")

    def divided(self, bits: int) -> list[int]:
        """A set of positions for each block, of one set."""
        if len(self.blocks) == 1:
            return [bits]
        stored = memoryview(bits.to_bytes(self._bytes, "little"))
        return [
            int.from_bytes(stored[start : start + ((block.used + 7) >> 3)], "little")
            for block, start in zip(self.blocks, self._starts.values())
        ]

    def fetch(self, terms: Iterable[int]) -> None:
        """Reads the postings of terms that were not read yet."""
        wanted = sorted(set(terms) - self._rows.keys())
        if not wanted:
            return
        for term in wanted:
            self._rows[term] = {}
        for row in plans.run(
            self._plpy,
            "select p.block, p.term, p.members from insights.posting p"
            " where p.block = any($1) and p.term = any($2)",
            ("int[]", "int[]"),
            (list(self._starts), wanted),
        ):
            self._rows[row["term"]][self._starts[row["block"]]] = row["members"]

    def has(self, term: int) -> bool:
        """Whether the postings of a term were read."""
        return term in self._rows

    def union(self, terms: Terms) -> int:
        """The positions that have at least one of the terms, dead ones among them."""
        if not terms:
            return 0
        known = self._unions.get(terms)
        if known is not None:
            return known
        sparse: Optional[bytearray] = None
        # By block: a bitmap as it is, or the union of several.
        alone: dict[int, bytes] = {}
        united: dict[int, int] = {}
        for term in terms:
            for start, members in self._rows[term].items():
                if bitmaps.is_list(members):
                    if sparse is None:
                        sparse = bytearray(self._bytes)
                    for position in bitmaps.listed_positions(members):
                        sparse[start + (position >> 3)] |= 1 << (position & 7)
                    continue
                bitmap = bitmaps.stored_bitmap(members)
                if start in united:
                    united[start] |= int.from_bytes(bitmap, "little")
                elif start in alone:
                    first = int.from_bytes(alone.pop(start), "little")
                    united[start] = first | int.from_bytes(bitmap, "little")
                else:
                    alone[start] = bitmap
        found = 0 if sparse is None else int.from_bytes(sparse, "little")
        if alone or united:
            parts = []
            for block in self.blocks:
                start = block.start >> 3
                size = (block.used + 7) >> 3
                if start in united:
                    parts.append(united[start].to_bytes(size, "little"))
                else:
                    parts.append(alone.get(start) or bytes(size))
            found |= int.from_bytes(b"".join(parts), "little")
        self._unions[terms] = found
        return found

    def members(self, term: int, block: Block) -> int:
        """The positions in one block that have a term."""
        members = self._rows[term].get(block.start >> 3)
        return 0 if members is None else bitmaps.decode(members)

    def of_blocks(self, chosen: Callable[[Block], bool]) -> int:
        """All positions of some of the blocks."""
        found = 0
        for block in self.blocks:
            if chosen(block):
                found |= ((1 << block.used) - 1) << block.start
        return found

    def places(self, bits: int) -> tuple[list[int], list[int]]:
        """Blocks and positions in them, of a set."""
        numbers: list[int] = []
        places: list[int] = []
        for block in self.blocks:
            part = bits >> block.start & ((1 << block.used) - 1)
            if part:
                within = bitmaps.positions(part)
                places += within
                numbers += [block.block] * len(within)
        return numbers, places

    def at(self, numbers: Sequence[int], places: Sequence[int]) -> int:
        """The set of positions that are in the group, of blocks and positions."""
        bitmap = bytearray(self._bytes)
        for number, place in zip(numbers, places):
            start = self._starts.get(number)
            if start is not None:
                bitmap[start + (place >> 3)] |= 1 << (place & 7)
        return int.from_bytes(bitmap, "little")
''',
"insights_engine.histogram": r'''"""Intervals of round numbers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Optional, Union

Number = Union[int, float]
#: Where intervals begin and the last one ends; None at either end: without a bound.
Edges = Sequence[Optional[Number]]

#: Widths of intervals, times a power of ten.
_ROUND = (Fraction(1), Fraction(2), Fraction(5, 2), Fraction(5))
_INT64 = range(-(2**63), 2**63)


def edges(low: Number, high: Number, most: int, whole: bool) -> Edges:
    """The edges of at most ``most`` intervals, but two around 0, that hold ``low`` to ``high``.

    Ascending; their width is 1, 2, 2.5 or 5 times a power of ten, and one begins at 0
    if they reach that far.  ``whole``: of integers, of 64 bits.
    """
    # As they print: 0.3 lies at 0.3, not just below.
    least, greatest = Fraction(repr(low)), Fraction(repr(high))
    target = (greatest - least) / most
    power = Fraction(1)
    if target:
        digits = len(str(target.numerator)) - len(str(target.denominator))
        power = Fraction(10) ** (digits - 1)
    while True:
        for factor in _ROUND:
            step = factor * power
            if whole and step.denominator != 1:
                continue
            first, last = least // step, greatest // step
            if last - first + 1 <= max(most, 2 if first < 0 <= last else 1):
                found = [_edge(number * step, whole) for number in range(first, last + 2)]
                return _bounded(found, low, high)
        power *= 10


def _edge(number: Fraction, whole: bool) -> Optional[Number]:
    if number.denominator == 1 and (abs(number) < 10**15 or whole):
        return int(number) if not whole or int(number) in _INT64 else None
    try:
        return float(number)
    except OverflowError:
        return None


def _bounded(found: list[Optional[Number]], low: Number, high: Number) -> Edges:
    """Without the edges that rounding has made equal, or has moved inside."""
    inner = [edge for edge in found[1:-1] if edge is not None]
    first, last = found[0], found[-1]
    inner = sorted({edge for edge in inner if edge not in (first, last)})
    return [
        None if first is None or first > low else first,
        *inner,
        None if last is None or last <= high else last,
    ]
''',
"insights_engine.independence": r'''"""The two tests of independence in a 2x2 table: G², and Fisher's exact test.

One rule for correlations and discoveries: Fisher's up to an expected count of
100, G² beyond.  The usual limit is Cochran's 5, but it is meant for p values
around 0.05.  Far out, where one of 20,000 facts has to lie, those of G² are too
small with expected counts well above it: of 16 units among two halves, all in
one half has probability 3e-5 and a G² of 22.2, p = 2.5e-6.  Beyond 100, G² is
at worst 0.6 of the exact p value, down to 1e-7.

Both rest on the same deviance, and both must be cheap: a discovery tests
20,000 tables at once, some of totals of 1e8.  A G² takes about 2 µs; Fisher's
test reads the probability of the observed table off a closed form and then
walks only as far as terms matter: with an expected count of 100 some 30 µs.

The cells are named as in `statistics`; but for `p_value` no margin may be 0.
"""

from __future__ import annotations

import math

# Where some expected count is below this Fisher's test answers.
EXACT_BELOW = 100

# Cochran's rule: from this expected count on a count is nearly normal, close to
# its expectation.
SMALL_EXPECTED_COUNT = 5

# Two tables count as equally probable up to this relative difference, as in
# scipy.stats.fisher_exact.  Held as an integer: ties are decided exactly.
FISHER_TOLERANCE_INVERSE = 10**14

# Rounding changes the relative weight of two tables by less than this.
_DOUBT = 1e-9

# Below this, exp() is 0.
_UNDERFLOW = -746.0

_LOG_2_PI = math.log(2 * math.pi)

# Coefficients of ((1 + u) log(1 + u) - u) / u² = sum((-u)**k / ((k + 1)(k + 2))),
# highest first.  0.01**8 and 0.1**18 are below the rounding of a float.
_SERIES = tuple((-1) ** k / ((k + 1) * (k + 2)) for k in range(17, -1, -1))
_SHORT_SERIES = _SERIES[-8:]


def p_value(n11: int, n10: int, n01: int, n00: int, exact_below: int = EXACT_BELOW) -> float | None:
    """How probable so strong an association would be by chance, two-sided.

    Of the test that `name_of_test` names.  Undefined if a filter matches all
    traces or none.
    """
    if 0 in (n11 + n10, n01 + n00, n11 + n01, n10 + n00):
        return None
    if needs_fisher(n11 + n10, n11 + n01, n11 + n10 + n01 + n00, exact_below):
        return fisher_exact(n11, n10, n01, n00)
    return chi_square_sf(g_squared(n11, n10, n01, n00))


def name_of_test(first: int, second: int, total: int, exact_below: int = EXACT_BELOW) -> str:
    """The test that answers for these margins: ``Fisher`` or ``G2``."""
    return "Fisher" if needs_fisher(first, second, total, exact_below) else "G2"


def needs_fisher(first: int, second: int, total: int, expected: int) -> bool:
    """Whether two margins leave some cell an expected count below ``expected``."""
    rows, columns = min(first, total - first), min(second, total - second)
    return rows * columns < expected * total


# -------------------------------------------------------------------------- G²


def g_squared(n11: int, n10: int, n01: int, n00: int) -> float:
    """The likelihood-ratio statistic ``2 sum(O log(O / E))`` of independence.

    Without continuity correction, one degree of freedom (Agresti, Categorical
    Data Analysis, 3.2.1).

    All four ``O - E`` are ``+-(n11 n00 - n10 n01) / n``, exact in integers, and
    they add up to 0; subtracting them from the terms makes each term
    ``O log(O / E) - O + E`` positive, so that nothing cancels in the sum, not
    even for huge tables close to independence.
    """
    row1, row0 = n11 + n10, n01 + n00
    column1, column0 = n11 + n01, n10 + n00
    determinant = n11 * n00 - n10 * n01
    total = row1 + row0
    e11, e10, e01, e00 = row1 * column1, row1 * column0, row0 * column1, row0 * column0
    return (
        e11 / total * _deviance(determinant / e11)
        + e10 / total * _deviance(-determinant / e10)
        + e01 / total * _deviance(-determinant / e01)
        + e00 / total * _deviance(determinant / e00)
    ) * 2


def _deviance(u: float) -> float:
    """``(1 + u) log(1 + u) - u`` for u >= -1, accurate around 0."""
    if -0.1 < u < 0.1:
        value = 0.0
        for coefficient in _SHORT_SERIES if -0.01 < u < 0.01 else _SERIES:
            value = value * u + coefficient
        return value * u * u
    if u <= -1:
        return 1.0
    return (1 + u) * math.log1p(u) - u


def chi_square_sf(x: float) -> float:
    """The upper tail of the chi-square distribution with one degree of freedom.

    ``erfc(sqrt(x / 2))``, which keeps its relative precision far out until the
    result itself underflows, at x of about 1,400.
    """
    return math.erfc(math.sqrt(x / 2))


# -------------------------------------------------------- Fisher's exact test


def fisher_exact(n11: int, n10: int, n01: int, n00: int) -> float:
    """Fisher's exact test, two-sided: the p-value.

    The probability, given the margins, of all tables that are at most as
    probable as this one, within a relative tolerance of 1e-14: the definition
    of ``scipy.stats.fisher_exact`` and of R's ``fisher.test``.

    The probability of the observed table comes from `_log_probability`; the
    others follow from each other by
    ``w(k + 1) / w(k) = (r - k)(c - k) / ((k + 1)(n - r - c + k + 1))``, summed
    outwards until the terms vanish.  That is a few standard deviations of terms:
    some tens with an expected count of 5, some hundreds with one of 1,000,
    however large the other counts are.
    """
    total = n11 + n10 + n01 + n00
    # Mirror the table so that both margins are at most half: the cell's range
    # is then 0..min(row, column), and the cell is the one of least expectation.
    row, column, cell = n11 + n10, n11 + n01, n11
    if 2 * row > total:
        row, cell = total - row, column - cell
    if 2 * column > total:
        column, cell = total - column, row - cell
    return _Cell(row, column, total).two_sided(cell)


class _Cell:
    """The hypergeometric distribution of one cell, the margins given.

    Requires ``2 row <= total`` and ``2 column <= total``.
    """

    def __init__(self, row: int, column: int, total: int) -> None:
        self._row = row
        self._column = column
        self._rest = total - row - column
        self._high = min(row, column)
        self._symmetric = total in (2 * row, 2 * column)
        self._mode = (row + 1) * (column + 1) // (total + 2)
        self._constant = (
            _factorial_excess(row)
            + _factorial_excess(total - row)
            + _factorial_excess(column)
            + _factorial_excess(total - column)
            - _factorial_excess(total)
        )

    def two_sided(self, cell: int) -> float:
        if cell == self._mode:
            return 1.0
        log_cell = self._log_probability(cell)
        if log_cell < _UNDERFLOW:
            return 0.0
        step = 1 if cell > self._mode else -1
        tail = math.exp(log_cell) * self._outward_sum(cell, step)
        # With a margin of exactly one half the distribution is symmetric.
        return min(1.0, tail + (tail if self._symmetric else self._opposite(cell, -step, log_cell)))

    def _log_probability(self, k: int) -> float:
        """``log`` of the probability that the cell is k.

        Its nine factorials are ``(m / e)**m`` times an excess; the powers add
        up to half the G² of the table, which does not cancel as log-gammas of
        1e8 do (Loader, Fast and accurate computation of binomial
        probabilities, 2000).
        """
        table = (k, self._row - k, self._column - k, self._rest + k)
        return (
            self._constant
            - g_squared(*table) / 2
            - _factorial_excess(table[0])
            - _factorial_excess(table[1])
            - _factorial_excess(table[2])
            - _factorial_excess(table[3])
        )

    def _factors(self, k: int, step: int) -> tuple[int, int, int, int]:
        """``w(k + step) / w(k)``: two factors of the numerator, two of the denominator.

        The next ratio in that direction has the former less 1 and the latter plus 1.
        """
        if step > 0:
            return self._row - k, self._column - k, k + 1, self._rest + k + 1
        return k, self._rest + k, self._row - k + 1, self._column - k + 1

    def _outward_sum(self, start: int, step: int) -> float:
        """``sum(w(k) / w(start))`` from ``start`` to that end of the range."""
        a, b, c, d = map(float, self._factors(start, step))
        total = term = 1.0
        # The ratios fall on the way out, so what is left is below a geometric
        # series; it is negligible once a term is.  At the end a term is 0.
        while term > total * 1e-18:
            term *= a * b / (c * d)
            total += term
            a -= 1.0
            b -= 1.0
            c += 1.0
            d += 1.0
        return total

    def _opposite(self, cell: int, step: int, log_cell: float) -> float:
        """The probability of all beyond the mode that are as rare as ``cell``.

        They begin near the cell's mirror image: as far away as the distribution
        is skewed, less than 500 steps wherever the p value is above 1e-308.
        """
        k = max(0, min(self._high, 2 * self._mode - cell))
        difference = self._log_probability(k) - log_cell
        if self._is_as_rare(k, cell, difference):
            # Inwards, as long as the next one is as rare, too.
            while k != self._mode:
                a, b, c, d = self._factors(k, -step)
                nearer = difference + math.log(a * b / (c * d))
                if not self._is_as_rare(k - step, cell, nearer):
                    break
                k, difference = k - step, nearer
        else:
            while not self._is_as_rare(k, cell, difference):
                a, b, c, d = self._factors(k, step)
                if 0 in (a, b):
                    return 0.0
                k, difference = k + step, difference + math.log(a * b / (c * d))
        return math.exp(log_cell + difference) * self._outward_sum(k, step)

    def _is_as_rare(self, k: int, cell: int, difference: float) -> bool:
        """Whether k is as rare as the cell, of log probabilities that differ so.

        Within the doubt that rounding leaves it is decided in integers.
        """
        return difference < -_DOUBT or (difference < _DOUBT and self._as_rare(k, cell))

    def _as_rare(self, k: int, cell: int) -> bool:
        """Whether ``w(k) <= w(cell)``, within the tolerance of the test."""
        step = 1 if k > cell else -1
        ratios = [self._factors(i, step) for i in range(cell, k, step)]
        numerator = math.prod(a * b for a, b, _, _ in ratios)
        denominator = math.prod(c * d for _, _, c, d in ratios)
        return numerator * FISHER_TOLERANCE_INVERSE <= denominator * (FISHER_TOLERANCE_INVERSE + 1)


def _factorial_excess(m: int) -> float:
    """``log(m!) - m log(m) + m``, which grows only like ``log(2 pi m) / 2``."""
    if m < len(_SMALL_EXCESSES):
        return _SMALL_EXCESSES[m]
    square = m * m
    # Stirling's series; its next term is 1 / (1188 m**9), below 1e-16 from 29 on.
    correction = (1 / 12 - (1 / 360 - (1 / 1260 - 1 / 1680 / square) / square) / square) / m
    return (_LOG_2_PI + math.log(m)) / 2 + correction


_SMALL_EXCESSES = (
    0.0,
    *(math.log(math.factorial(m)) - m * math.log(m) + m for m in range(1, 30)),
)
''',
"insights_engine.index_reader": r'''"""The index as one call sees it: its blocks, and what they say of filters.

What the index leaves open about the traces it knows is settled by the raw predicate.
Traces that changed since (`pending`) are left to the caller.  Everything an answer is
made of is read in one snapshot: pending traces are pending there, whatever a refresh
commits meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import Any, NamedTuple, Optional, Union

from insights_engine import bitmaps, plans, printer, tree
from insights_engine.cache import CACHE, Known, cached_bytes
from insights_engine.groups import Block, Group, all_positions
from insights_engine.planner import Planner
from insights_engine.statement import Statement

#: More pending traces than these, and the index is left alone.
MOST_PENDING = 2000
#: Undecided traces that are asked about one by one in any case, ...
FEW_UNDECIDED = 2000
#: ... and the share of all traces up to which it beats asking about all of them.
UNDECIDED_SHARE = 0.05
#: Positions looked at together: bounds what a call holds in memory.
GROUP = 128 * bitmaps.POSITIONS

_TABLES = (
    "trace_info",
    "spans",
    "trace_tags",
    "trace_request_metadata",
    "assessments",
    "entity_associations",
)
_SESSION_MARK = '"mlflow.trace.session":'


class Leaf(NamedTuple):
    """A predicate of a filter, with its canonical text."""

    text: str
    node: tree.Node
    #: Whether it means the same at any time: ``now()`` is not in its text.
    lasting: bool


#: How leaves, by their number, make up a filter: ("and" | "or" | "not", parts).
_Shape = Union[int, tuple[str, tuple[Any, ...]]]


class Prepared:
    """A filter, taken apart into leaves."""

    __slots__ = ("lasting", "leaves", "node", "shape", "text")

    def __init__(self, node: tree.Node) -> None:
        self.node = node
        self.text = printer.print_filter(node)
        self.leaves: list[Leaf] = []
        self.shape = self._part(node)
        self.lasting = all(leaf.lasting for leaf in self.leaves)

    def _part(self, node: tree.Node) -> _Shape:
        if isinstance(node, (tree.And, tree.Or)):
            name = "and" if isinstance(node, tree.And) else "or"
            return name, tuple(self._part(item) for item in node.items)
        if isinstance(node, tree.Not):
            return "not", (self._part(node.item),)
        text = printer.print_filter(node)
        for number, leaf in enumerate(self.leaves):
            if leaf.text == text:
                return number
        self.leaves.append(Leaf(text, node, "now()" not in text))
        return len(self.leaves) - 1


_prepared: dict[int, Prepared] = {}
_MOST_PREPARED = 500


def prepare(node: tree.Node) -> Prepared:
    """A filter taken apart; known again by its identity, as the parser keeps trees."""
    known = _prepared.get(id(node))
    if known is None:
        if len(_prepared) >= _MOST_PREPARED:
            _prepared.clear()
        # It refers to the node, whose identity therefore is not given to another.
        known = _prepared[id(node)] = Prepared(node)
    return known


def _combined(shape: _Shape, parts: Sequence[Known], universe: int) -> tuple[int, int]:
    """Must and may of a filter, of those of its leaves."""
    if isinstance(shape, int):
        return parts[shape].must, parts[shape].may
    name, items = shape
    if name == "not":
        must, may = _combined(items[0], parts, universe)
        return universe & ~may, universe & ~must
    if name == "and":
        must = may = universe
        for item in items:
            sure, possible = _combined(item, parts, universe)
            must &= sure
            may &= possible
            if not may:
                break
        return must, may
    must = may = 0
    for item in items:
        sure, possible = _combined(item, parts, universe)
        must |= sure
        may |= possible
    return must, may


class Index:
    """The index as one snapshot shows it, for some experiments."""

    def __init__(
        self,
        plpy: Any,
        statement: Statement,
        version: str,
        pending: Sequence[str],
    ) -> None:
        self.plpy = plpy
        self._statement = statement
        experiments = statement.experiments
        #: What answers that are kept belong to.
        self.scope = (statement.schema, None if experiments is None else tuple(experiments))
        #: The blocks, newest first.
        self.blocks = self._blocks(version)
        #: Set where very many traces would have to be asked about.
        self.overcharged = False
        #: The traces that have to be asked about one by one.
        self.pending = list(pending)
        self.planner = CACHE.planner(
            self.scope, version, lambda: Planner(plpy, statement.schema, experiments)
        )
        self.planner.now_ms = statement.now_ms
        #: By filter and block: the traces that match, of filters that were asked everywhere.
        self._everywhere: dict[str, dict[int, int]] = {}
        self._away: dict[int, int] = {}
        if self.pending:
            for row in plans.run(
                plpy,
                "select t.block, t.position from insights.trace t where t.trace_id = any($1)",
                ("text[]",),
                (self.pending,),
            ):
                number = row["block"]
                self._away[number] = self._away.get(number, 0) | 1 << row["position"]

    def _blocks(self, version: str) -> list[Block]:
        known = CACHE.blocks(self.scope, version)
        if known is None:
            known = _blocks(self.plpy, self._statement.experiments)
            CACHE.keep_blocks(self.scope, version, known)
        return known

    @property
    def most_undecided(self) -> int:
        """How many undecided traces are worth asking about one by one."""
        return max(
            FEW_UNDECIDED, int(UNDECIDED_SHARE * sum(block.live_count for block in self.blocks))
        )

    def of_blocks(self, blocks: Sequence[Block]) -> Index:
        """The index of some of the blocks."""
        found = copy(self)
        found.blocks = list(blocks)
        found.overcharged = False
        return found

    def universe(self, block: Block) -> int:
        """The positions of a block that the index answers for."""
        away = self._away.get(block.block)
        return block.live if away is None else block.live & ~away

    def batches(self, first: int = GROUP, growth: int = 1) -> Iterator[list[Block]]:
        """The blocks, newest first, some at a time: so many positions or one block."""
        limit, size = first, 0
        taken: list[Block] = []
        for block in self.blocks:
            if taken and size + block.used > limit:
                yield taken
                limit, size = min(limit * growth, GROUP), 0
                taken = []
            taken.append(block)
            size += block.used
        if taken:
            yield taken

    # ------------------------------------------------------------------ bounds

    def bounds(self, filters: Sequence[Prepared], blocks: Sequence[Block]) -> list[list[Known]]:
        """By filter and block: must and may, within the block's universe."""
        tables = self._wholes(filters, blocks)
        if not self._away and all(block.live_count == block.used for block in blocks):
            return [[table[block.block] for block in blocks] for table in tables]
        found = []
        universes = [self.universe(block) for block in blocks]
        for table in tables:
            pairs = []
            for block, universe in zip(blocks, universes):
                known = table[block.block]
                pairs.append(
                    known if universe is all_positions(block.used) else known.within(universe)
                )
            found.append(pairs)
        return found

    def _wholes(
        self, filters: Sequence[Prepared], blocks: Sequence[Block]
    ) -> list[dict[int, Known]]:
        """By filter and block: must and may, of all positions given out."""
        tables = [CACHE.known((self.scope, one.text)) if one.lasting else {} for one in filters]
        lacking = [
            (number, one)
            for number, one in enumerate(filters)
            if any(block.block not in tables[number] for block in blocks)
        ]
        if not lacking:
            return tables
        leaves = self._leaves([one for _, one in lacking], blocks)
        for number, one in lacking:
            table = tables[number]
            if one.shape == 0:
                tables[number] = leaves[one.text]
                continue
            parts = [leaves[leaf.text] for leaf in one.leaves]
            fresh = {}
            for block in blocks:
                if block.block not in table:
                    own = [part[block.block] for part in parts]
                    must, may = _combined(one.shape, own, all_positions(block.used))
                    fresh[block.block] = Known(must, may)
            if one.lasting:
                CACHE.keep((self.scope, one.text), fresh)
            tables[number] = {**table, **fresh}
        return tables

    def _leaves(
        self, filters: Sequence[Prepared], blocks: Sequence[Block]
    ) -> dict[str, dict[int, Known]]:
        """By leaf and block: must and may, of all positions given out."""
        found: dict[str, dict[int, Known]] = {}
        lacking: dict[str, Leaf] = {}
        wanted: set[int] = set()
        for one in filters:
            for leaf in one.leaves:
                if leaf.text in found:
                    continue
                table = CACHE.known((self.scope, leaf.text)) if leaf.lasting else {}
                found[leaf.text] = table
                missing = [block.block for block in blocks if block.block not in table]
                if missing:
                    lacking[leaf.text] = leaf
                    wanted.update(missing)
        if lacking:
            group = Group(self.plpy, [block for block in blocks if block.block in wanted])
            conditions = {text: self.planner.leaf(*leaf) for text, leaf in lacking.items()}
            group.fetch({term for one in conditions.values() for term in one.terms()})
            for text, condition in conditions.items():
                must, may = condition.bounds(group)
                musts = group.divided(must)
                mays = musts if may == must else group.divided(may)
                fresh = {
                    block.block: Known(sure, possible)
                    for block, sure, possible in zip(group.blocks, musts, mays)
                    # What is known of the others may be more than the index says.
                    if block.block not in found[text]
                }
                if lacking[text].lasting:
                    CACHE.keep((self.scope, text), fresh)
                found[text] = {**found[text], **fresh}
        return found

    # ------------------------------------------------- what the bounds leave open

    def settle(self, one: Prepared, blocks: Sequence[Block], pairs: Sequence[Known]) -> list[Known]:
        """The positions that match, by block; the raw predicate is asked where bounds differ."""
        if all(pair.may is pair.must for pair in pairs):
            return list(pairs)
        found = self._everywhere.get(one.text)
        if found is None:
            found = self._asked(
                one.node,
                blocks,
                [0 if pair.may is pair.must else pair.may & ~pair.must for pair in pairs],
            )
        settled = []
        (before,) = self._wholes((one,), blocks)
        fresh = {}
        for block, pair in zip(blocks, pairs):
            if pair.may is pair.must:
                settled.append(pair)
                continue
            true = pair.must | pair.may & found.get(block.block, 0)
            settled.append(Known(true, true))
            # Of the positions that were asked about more is known than before.
            known = before[block.block]
            false = pair.may & ~true
            fresh[block.block] = Known(known.must | true, known.may & ~false)
        if one.lasting:
            CACHE.keep((self.scope, one.text), fresh)
        return settled

    def _asked(
        self, node: tree.Node, blocks: Sequence[Block], sets: Sequence[int]
    ) -> dict[int, int]:
        """By block: of some positions those that match, one trace after the other."""
        rows = self._places(blocks, sets)
        matching = set(self.matching(node, [trace_id for _, _, trace_id in rows]))
        found: dict[int, int] = {}
        for number, position, trace_id in rows:
            if trace_id in matching:
                found[number] = found.get(number, 0) | 1 << position
        return found

    def settle_everywhere(self, filters: Iterable[Prepared]) -> None:
        """Has the raw predicate say at once which of all traces match each filter.

        That takes as long as an answer without the index, and what it says is kept.
        """
        for one in filters:
            if one.text in self._everywhere:
                continue
            statement = self._statement.again(parallel=True)
            rows = statement.run_in_parallel(
                self.plpy,
                "with hits as materialized (\n"
                f"select t.request_id\nfrom {statement.traces}\nwhere {statement.where(one.node)}\n"
                ")\nselect array[i.block::text, pg_catalog.string_agg(i.position::text, ',')]\n"
                'from hits h join insights.trace i on i.trace_id = h.request_id collate "C"\n'
                "group by i.block",
            )
            found: dict[int, int] = {}
            for block, positions in rows:
                found[int(block or 0)] = bitmaps.of_positions(
                    sorted(map(int, (positions or "").split(",")))
                )
            self._everywhere[one.text] = found

    def is_settled(self, one: Prepared) -> bool:
        """Whether it is known of every position which match."""
        if not one.lasting:
            return False
        known = CACHE.known((self.scope, one.text))
        for block in self.blocks:
            pair = known.get(block.block)
            if pair is None:
                return False
            if pair.may is not pair.must:
                live = pair.within(self.universe(block))
                if live.may is not live.must:
                    return False
        return True

    def matching(self, node: tree.Node, ids: Sequence[str]) -> list[str]:
        """Those of some traces that match, by the raw predicate."""
        statement = self._statement.again()
        given = statement.params.add(list(ids), "text[]")
        rows = plans.run(
            self.plpy,
            f"select t.request_id from {statement.traces}"
            f" where t.request_id = any({given}) and {statement.where(node, 'probe')}",
            statement.params.types,
            statement.params.values,
        )
        return [row["request_id"] for row in rows]

    def _places(self, blocks: Sequence[Block], sets: Sequence[int]) -> list[tuple[int, int, str]]:
        """(block, position, trace id) of the members of a set for each block."""
        numbers: list[int] = []
        places: list[int] = []
        for block, bits in zip(blocks, sets):
            if bits:
                within = bitmaps.positions(bits)
                places += within
                numbers += [block.block] * len(within)
        if not numbers:
            return []
        rows = plans.run(
            self.plpy,
            "select t.block, t.position, t.trace_id from unnest($1, $2) as u (block, position)"
            " join insights.trace t on t.block = u.block and t.position = u.position",
            ("int[]", "smallint[]"),
            (numbers, places),
        )
        return [(row["block"], row["position"], row["trace_id"]) for row in rows]

    @property
    def schema(self) -> str:
        """MLflow's schema, as a quoted identifier."""
        return self._statement.schema

    def session_ids(
        self, blocks: Sequence[Block], sets: Sequence[int]
    ) -> list[tuple[int, int, Optional[str]]]:
        """(block, position, session id) of the members of a set for each block."""
        places = self._places(blocks, sets)
        rows = plans.run(
            self.plpy,
            "select i.request_id, i.session_id from pg_catalog.unnest($1) u (id)"
            f" join {self.schema}.trace_info i on i.request_id = u.id",
            ("text[]",),
            ([trace_id for _, _, trace_id in places],),
        )
        sessions = {row["request_id"]: row["session_id"] for row in rows}
        return [(number, place, sessions.get(trace_id)) for number, place, trace_id in places]

    def ids(self, blocks: Sequence[Block], sets: Sequence[int]) -> list[str]:
        """The trace ids at some positions of each block."""
        return [trace_id for _, _, trace_id in self._places(blocks, sets)]


def open_index(plpy: Any, statement: Statement, nodes: Sequence[tree.Node]) -> Optional[Index]:
    """The index, ready to answer ``nodes``; None where it is of no use."""
    # Row security of MLflow's tables hides rows from some roles; the index cannot.
    # Everything in one statement: each costs more than what it does.
    rows = plans.run(
        plpy,
        "select s.installation || '.' || s.tableoid as installation, s.version::text as version,"
        f" s.built and s.trusted >= m.last_value and {readable(statement)} as usable,"
        " pg_catalog.current_setting('insights.cache', true) as cache,"
        " array(select p.trace_id from insights.pending p limit $1) as pending"
        " from insights.state s, insights.missed m",
        ("int",),
        (20 * MOST_PENDING,),
    )
    if not len(rows) or not rows[0]["usable"]:
        return None
    (state,) = rows
    changed = set(state["pending"])
    if len(changed) > MOST_PENDING or len(state["pending"]) == 20 * MOST_PENDING:
        return None
    if changed and any(_assesses(node) for node in nodes):
        changed |= _same_sessions(plpy, statement, list(changed))
        if len(changed) > MOST_PENDING:
            return None
    CACHE.open(state["installation"], cached_bytes(state["cache"]))
    return Index(plpy, statement, state["version"], sorted(changed))


def readable(statement: Statement) -> str:
    """The condition that the caller may read every row of MLflow's tables."""
    names = [f"'{statement.schema}.{table}'" for table in _TABLES]
    return " and ".join(
        f"pg_catalog.has_table_privilege({name}, 'select')"
        f" and not pg_catalog.row_security_active({name})"
        for name in names
    )


def _blocks(plpy: Any, experiments: Optional[Sequence[int]]) -> list[Block]:
    chosen = "" if experiments is None else " and b.experiment_id = any($1)"
    rows = plans.run(
        plpy,
        "select b.block, b.experiment_id, b.used, b.live_count, b.first_ms, b.last_ms,"
        " case when b.live_count < b.used then b.live end as live"
        f" from insights.block b where b.live_count > 0{chosen} order by b.last_ms desc",
        () if experiments is None else ("int[]",),
        () if experiments is None else (list(experiments),),
    )
    return [Block(row) for row in rows]


def _assesses(node: tree.Node) -> bool:
    """Whether a filter asks about assessments, which may belong to a whole session."""
    if isinstance(node, (tree.And, tree.Or)):
        return any(_assesses(item) for item in node.items)
    if isinstance(node, tree.Not):
        return _assesses(node.item)
    if isinstance(node, (tree.AnySpan, tree.CountSpans, tree.AggregateSpans)):
        return False
    return isinstance(node.field, tree.Assessment)


def _same_sessions(plpy: Any, statement: Statement, changed: Sequence[str]) -> set[str]:
    """The traces to which changed traces lend assessments, or lent them when indexed."""
    schema = statement.schema
    rows = plans.run(
        plpy,
        f"select t.request_id from {schema}.trace_info t where t.session_id in ("
        " select c.session_id from insights.carrier c where c.trace_id = any($1)"
        f" union all select c.session_id from {schema}.trace_info c"
        f" join {schema}.assessments a on a.trace_id = c.request_id"
        " where c.request_id = any($1) and pg_catalog.strpos(a.assessment_metadata, $2) > 0"
        ") limit $3",
        ("text[]", "text", "int"),
        (list(changed), _SESSION_MARK, MOST_PENDING + 1),
    )
    return {row["request_id"] for row in rows}


def decided(index: Index, filters: Sequence[Prepared]) -> Iterator[list[int]]:
    """By block, newest first: for each filter the positions that match, pending traces apart.

    Ends early, with ``index.overcharged`` set, where very many traces would have to
    be asked about.
    """
    for sets in decided_sets(index, filters):
        yield [known.must for known in sets]


def decided_sets(index: Index, filters: Sequence[Prepared]) -> Iterator[Sequence[Known]]:
    undecided = 0
    for blocks in index.batches():
        found = index.bounds(filters, blocks)
        left = [sum(map(_left, pairs)) for pairs in found]
        undecided += sum(left)
        if undecided > index.most_undecided:
            if sum(block.used for block in index.blocks) > GROUP:
                index.overcharged = True
                return
            index.settle_everywhere(one for one, open_ in zip(filters, left) if open_)
        if undecided:
            found = [index.settle(one, blocks, pairs) for one, pairs in zip(filters, found)]
        yield from zip(*found)


def _left(pair: Known) -> int:
    """How many positions the index leaves open."""
    return 0 if pair.may is pair.must else bitmaps.count(pair.may & ~pair.must)
''',
"insights_engine.indexed": r'''"""Answers from the index, completed from MLflow's tables.

Each function returns None where the index is of no use: it is not built, has
missed a change, the caller may not read all of MLflow's tables, or very many traces
would have to be asked about.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator, Sequence
from typing import Any, Optional

from insights_engine import bitmaps, intervals, plans, tree
from insights_engine.conditions import Condition
from insights_engine.groups import Group
from insights_engine.index_reader import (
    FEW_UNDECIDED,
    GROUP,
    Index,
    decided_sets,
    open_index,
    prepare,
    readable,
)
from insights_engine.planner import Planner
from insights_engine.statement import Statement

#: A page begins with the newest blocks and grows by this factor.
FIRST_GROUP = 2 * bitmaps.POSITIONS
GROWTH = 4


# -------------------------------------------------------------------- counting


def counts(
    plpy: Any,
    statement: Statement,
    nodes: Sequence[tree.Node],
    joint: Sequence[int] = (),
) -> Optional[list[int]]:
    """The number of traces that match each node, then of those that match all ``joint`` ones."""
    index = open_index(plpy, statement, nodes)
    if index is None:
        return None
    filters = [prepare(node) for node in nodes]
    totals = [0] * (len(nodes) + 1)
    for sets in decided_sets(index, filters):
        for number, known in enumerate(sets):
            totals[number] += known.count()
        if joint:
            both = sets[joint[0]].must
            for number in joint[1:]:
                both &= sets[number].must
            totals[-1] += bitmaps.count(both)
    if index.overcharged:
        return None
    if index.pending:
        rest = _raw_counts(plpy, statement.again(), nodes, joint, index.pending)
        totals = [total + more for total, more in zip(totals, rest)]
    return totals


def _raw_counts(
    plpy: Any,
    statement: Statement,
    nodes: Sequence[tree.Node],
    joint: Sequence[int],
    ids: Sequence[str],
) -> list[int]:
    """The same counts among given traces, by the raw predicate."""
    flags = ", ".join(
        f"{statement.condition(node, 'probe')} as f{number}" for number, node in enumerate(nodes)
    )
    together = " and ".join(f"f{number}" for number in joint) or "false"
    columns = [f"count(*) filter (where f{number}) as c{number}" for number in range(len(nodes))]
    columns.append(f"count(*) filter (where {together}) as c{len(nodes)}")
    given = statement.params.add(list(ids), "text[]")
    sql = (
        f"select {', '.join(columns)} from (select {flags} from {statement.traces}"
        f" where t.request_id = any({given}) and {statement.scope()} offset 0) t"
    )
    (row,) = statement.run(plpy, sql)
    return [int(row[f"c{number}"]) for number in range(len(columns))]


# ------------------------------------------------------------------------ pages


class Settled(enum.Enum):
    """What a search asks of a filter that the index leaves open."""

    #: Some traces may be left open.
    WHATEVER = 0
    #: It has been settled for all traces, or the index is of no use.
    ALREADY = 1
    #: It is to be settled now, by asking about all traces.
    EVERYWHERE = 2


def newest(
    plpy: Any,
    statement: Statement,
    node: tree.Node,
    limit: int,
    before_ms: Optional[int],
    settled: Settled = Settled.WHATEVER,
) -> Optional[tuple[list[str], list[str]]]:
    """Traces among which are the ``limit`` newest that match: surely, and perhaps.

    ``before_ms``: only traces that began then or earlier.  Pending traces are
    always among the second; others are only where ``settled`` allows it.
    """
    index = open_index(plpy, statement, (node,))
    if index is None:
        return None
    one = prepare(node)
    if settled is Settled.ALREADY and not index.is_settled(one):
        return None
    if settled is Settled.EVERYWHERE:
        if sum(block.used for block in index.blocks) > GROUP:
            return None
        index.settle_everywhere((one,))
    times = index.planner.timestamps()
    sure_ids: list[str] = []
    open_ids = list(index.pending)
    found = 0
    # The oldest sure one; once they are enough, nothing older is wanted.
    oldest_ms: Optional[int] = None
    sure_count = 0
    for blocks in index.batches(FIRST_GROUP, GROWTH):
        enough = oldest_ms is not None and sure_count >= limit
        if enough and blocks[0].last_ms < (oldest_ms or 0):
            break
        (pairs,) = index.bounds((one,), blocks)
        if settled is Settled.EVERYWHERE:
            pairs = index.settle(one, blocks, pairs)
        group = Group(plpy, blocks)
        group.fetch(times.terms())
        must = group.joined([pair.must for pair in pairs])
        may = group.joined([pair.may for pair in pairs])
        slices = times.lowest(group)
        tied_with_start = 0
        if before_ms is not None:
            less = bitmaps.below(slices, may, intervals.ZERO + before_ms)
            may = bitmaps.below(slices, may, intervals.ZERO + before_ms + 1)
            tied_with_start = may & ~less
            must &= may
        if not may:
            continue
        # What is undecided may come to nothing, so that many sure ones are needed,
        # beside those that began when the page before ended: it may have had them.
        sure, tied = bitmaps.largest(slices, must & ~tied_with_start, limit)
        chosen = sure | tied | must & tied_with_start
        undecided = may & ~must
        if chosen:
            sure_count += bitmaps.count(sure | tied)
            own_ms = _least(slices, chosen)
            oldest_ms = own_ms if oldest_ms is None else min(oldest_ms, own_ms)
            if bitmaps.count(sure | tied) >= limit:
                undecided &= ~bitmaps.below(slices, undecided, intervals.ZERO + own_ms)
        if bitmaps.count(chosen) > limit + FEW_UNDECIDED:
            return None
        found += bitmaps.count(undecided)
        if found > FEW_UNDECIDED:
            return None
        sure_ids += index.ids(blocks, group.divided(chosen))
        open_ids += index.ids(blocks, group.divided(undecided))
    return sure_ids, open_ids


def _least(slices: bitmaps.Slices, within: int) -> int:
    """The smallest number of the members of a set."""
    value = 0
    for bit in range(bitmaps.WIDTH - 1, -1, -1):
        members = slices.get(bit, 0)
        if bit == bitmaps.WIDTH - 1:
            negative = within & members
            if negative:
                within = negative
                value -= 1 << bit
            continue
        without = within & ~members
        if without:
            within = without
        else:
            value += 1 << bit
    return value


def matches(
    plpy: Any, statement: Statement, node: tree.Node, most: int
) -> Optional[tuple[list[str], list[str]]]:
    """All traces that match, surely and perhaps, if they are no more than ``most``."""
    index = open_index(plpy, statement, (node,))
    if index is None:
        return None
    sure_ids: list[str] = []
    open_ids = list(index.pending)
    found = 0
    for blocks in index.batches():
        (pairs,) = index.bounds((prepare(node),), blocks)
        found += sum(bitmaps.count(pair.may) for pair in pairs)
        if found > most:
            return None
        sure_ids += index.ids(blocks, [pair.must for pair in pairs])
        open_ids += index.ids(blocks, [pair.may & ~pair.must for pair in pairs])
    return sure_ids, open_ids


# ------------------------------------------------------------------- explaining


def explained(plpy: Any, statement: Statement, node: tree.Node) -> Iterator[tuple[str, Any]]:
    """What the index contributes to an answer, step by step.

    Gives ("unused", reason), or ("index", blocks and pending), then for each
    predicate ("predicate", (node, hits, must, undecided, ms)), then
    ("whole", (must, undecided, ms, how many undecided ones are asked one by one)) and
    ("pending", traces that are asked about as they have changed).
    Nothing that the session keeps is used for that.
    """
    started = time.perf_counter()
    index = open_index(plpy, statement, (node,))
    if index is None:
        yield "unused", _reason(plpy, statement)
        return
    yield "index", (len(index.blocks), len(index.pending), _since(started))
    started = time.perf_counter()
    planner = Planner(plpy, statement.schema, statement.experiments)
    planner.now_ms = statement.now_ms
    whole = planner.plan(node)
    leaves = list(planner.hits)
    yield "vocabulary", (sum(hits for _, hits, _ in leaves), _since(started))
    for part, hits, condition in leaves:
        yield "predicate", (part, hits, *_measured(index, condition))
    yield "whole", (*_measured(index, whole), index.most_undecided)
    yield "pending", _in_scope(plpy, statement.again(), index.pending)


def _in_scope(plpy: Any, statement: Statement, ids: Sequence[str]) -> int:
    """How many of some traces are there, in the experiments that were asked for."""
    if not ids:
        return 0
    given = statement.params.add(list(ids), "text[]")
    (row,) = statement.run(
        plpy,
        f"select count(*) as found from {statement.traces}"
        f" where t.request_id = any({given}) and {statement.scope()}",
    )
    return int(row["found"])


def _measured(index: Index, condition: Condition) -> tuple[int, int, float]:
    started = time.perf_counter()
    sure = undecided = 0
    terms = set(condition.terms())
    for blocks in index.batches():
        group = Group(index.plpy, blocks)
        group.fetch(terms)
        must, may = condition.bounds(group)
        universe = group.joined([index.universe(block) for block in blocks])
        sure += bitmaps.count(must & universe)
        undecided += bitmaps.count(may & ~must & universe)
    return sure, undecided, _since(started)


def _since(started: float) -> float:
    return (time.perf_counter() - started) * 1000


def _reason(plpy: Any, statement: Statement) -> str:
    rows = plans.run(
        plpy,
        f"select s.built, s.trusted >= m.last_value as trusted, {readable(statement)} as readable"
        " from insights.state s, insights.missed m",
    )
    if not len(rows) or not rows[0]["built"]:
        return "it is not built yet (insights index)"
    if not rows[0]["readable"]:
        return "it is for those only who may read every row of MLflow's tables"
    if not rows[0]["trusted"]:
        return "it has missed a change (insights_rebuild)"
    return "too many traces are pending (insights_refresh)"
''',
"insights_engine.interrupts": r'''"""Lets a statement be cancelled in the midst of a long computation.

PostgreSQL attends to a cancel or a timeout whenever it runs something, but not while
Python computes.  What takes long, and asks the database nothing, looks at times.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, TypeVar

from insights_engine import plans

Item = TypeVar("Item")

#: Looks are as far apart at least: each costs as much as the smallest query, some 20 us.
SECONDS = 0.05

#: What the database is asked for nothing but that.
LOOK = "select"

_last = 0.0


def look(plpy: Any) -> None:
    """Raises plpy.SPIError if the statement has been cancelled; looks now and then only."""
    global _last
    if time.monotonic() >= _last + SECONDS:
        plans.run(plpy, LOOK)
        _last = time.monotonic()


class Watched(list[Item]):
    """A list with items that take long each: going through it looks before every one."""

    def __init__(self, plpy: Any) -> None:
        super().__init__()
        self._plpy = plpy

    def __iter__(self) -> Iterator[Item]:
        for item in super().__iter__():
            look(self._plpy)
            yield item
''',
"insights_engine.intervals": r'''"""Numeric conditions as intervals of whole numbers.

A condition on a number holds on a few intervals of its ordered domain: the
integers that `bitmaps.ordered` gives for integers and doubles alike.  Bounds are
found so that the condition means what the raw predicate means, rounding
included: an integer compared with a large double, or a duration in nanoseconds
compared in milliseconds, is compared as a double.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Callable

from insights_engine import tree
from insights_engine.bitmaps import ordered, pattern_of_double, pattern_of_integer

#: Both ends included, ascending, disjoint.
Intervals = tuple[tuple[int, int], ...]
#: For a constant: the first number not below it, and the first above it.
Bounds = tuple[int, int]

LAST = 2**64 - 1
#: Where 0 is, of integers and doubles alike.
ZERO = 2**63
ALL: Intervals = ((0, LAST),)

_EXACT = 2.0**53


def intervals_of(node: tree.Predicate, bounds: Callable[[tree.Value], Bounds]) -> Intervals:
    """Where a numeric predicate holds; ``bounds`` places a constant in the domain."""
    if isinstance(node, tree.NumberCompare):
        return _comparison(node.op, *bounds(node.value))
    if isinstance(node, tree.Between):
        found = _normal([(bounds(node.low)[0], bounds(node.high)[1] - 1)])
        return complement(found) if node.negated else found
    if isinstance(node, tree.In):
        found = _normal(
            [
                (start, end - 1)
                for start, end in (bounds(value) for value in node.values if _is_number(value))
            ]
        )
        return complement(found) if node.negated else found
    raise TypeError(f"not a comparison of numbers: {node}")


def _is_number(value: tree.Value) -> bool:
    return not isinstance(value, str)


def _comparison(op: str, start: int, end: int) -> Intervals:
    if op == "=":
        return _normal([(start, end - 1)])
    if op == "!=":
        return complement(_normal([(start, end - 1)]))
    if op == "<":
        return _normal([(0, start - 1)])
    if op == "<=":
        return _normal([(0, end - 1)])
    if op == ">":
        return _normal([(end, LAST)])
    if op == ">=":
        return _normal([(start, LAST)])
    raise ValueError(f"operator {op!r}")


def _normal(found: Sequence[tuple[int, int]]) -> Intervals:
    """Sorted, clipped to the domain, without empty ones, overlaps joined."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted((max(low, 0), min(high, LAST)) for low, high in found):
        if low > high:
            continue
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], high))
        else:
            joined.append((low, high))
    return tuple(joined)


def complement(found: Intervals) -> Intervals:
    """Where ``found`` does not hold."""
    rest = []
    start = 0
    for low, high in found:
        if start < low:
            rest.append((start, low - 1))
        start = high + 1
    if start <= LAST:
        rest.append((start, LAST))
    return tuple(rest)


def bounds_of_double(number: float) -> Bounds:
    """A constant among doubles."""
    place = ordered(pattern_of_double(number))
    return place, place + 1


def bounds_of_integer(number: int) -> Bounds:
    """A constant among 64-bit integers, which it may lie outside of."""
    if number < -(2**63):
        return 0, 0
    if number >= 2**63:
        return LAST + 1, LAST + 1
    place = ordered(pattern_of_integer(number))
    return place, place + 1


def bounds_among_integers(number: float) -> Bounds:
    """A double among 64-bit integers, as the raw predicate compares them.

    Below 2^53 the comparison is exact; from there on the integers are rounded
    to doubles first.
    """
    if abs(number) < _EXACT:
        low = bounds_of_integer(math.ceil(number))[0]
        return low, low + (number == math.floor(number))
    return search(number, float)


def bounds_of_duration(milliseconds: float) -> Bounds:
    """A constant in milliseconds among durations in nanoseconds."""
    return search(milliseconds, _milliseconds)


def _milliseconds(nanoseconds: int) -> float:
    return float(nanoseconds) / 1e6


def search(number: float, value: Callable[[int], float]) -> Bounds:
    """The bounds of ``number`` among integers whose ``value``, which ascends, is compared."""

    def first(holds: Callable[[float], bool]) -> int:
        low, high = -(2**63), 2**63
        while low < high:
            middle = (low + high) // 2
            if holds(value(middle)):
                high = middle
            else:
                low = middle + 1
        return bounds_of_integer(low)[0]

    return first(lambda found: found >= number), first(lambda found: found > number)
''',
"insights_engine.large_blocks": r'''"""Which large blocks lack what is stored beside postings, without a look at any number.

It is asked at the end of every refresh, and seldom is anything lacking: so it takes
few modules to tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple, Protocol, TypeVar

from insights_engine import plans
from insights_engine.groups import Block
from insights_engine.terms import LARGE_BLOCK

#: Where numbers are cut is chosen from a sample of so many blocks: of large ones, if there are any.
SAMPLED = 4


class Sizable(Protocol):
    """A block."""

    @property
    def block(self) -> int:
        """Its number."""

    @property
    def experiment_id(self) -> int:
        """Whose traces it has."""

    @property
    def used(self) -> int:
        """How many positions it has given out."""


AnyBlock = TypeVar("AnyBlock", bound=Sizable)


def sample_of(blocks: Sequence[AnyBlock]) -> list[AnyBlock]:
    """The blocks from whose numbers cuts are chosen: the largest, of equals the oldest.

    Of several experiments they are those of the one with most traces.
    """
    sizes: Counter[int] = Counter()
    for block in blocks:
        sizes[block.experiment_id] += block.used
    chosen = min(sizes, key=lambda experiment: (-sizes[experiment], experiment))
    largest = sorted(
        [block for block in blocks if block.experiment_id == chosen],
        key=lambda block: (-block.used, block.block),
    )[:SAMPLED]
    return [block for block in largest if block.used >= LARGE_BLOCK] or largest


class Task(NamedTuple):
    """A block whose cells are not stored, or by the cuts of another sample."""

    block: Block
    sample: list[Block]


def without_cells(plpy: Any) -> list[Task]:
    """The large blocks whose cells have to be worked out."""
    rows = plans.run(
        plpy,
        "select b.block, b.experiment_id, b.used, null::bytea as live, b.live_count, b.first_ms,"
        " b.last_ms, (select c.sample from insights.cells c where c.block = b.block limit 1)"
        " as sample from insights.block b where b.used >= $1"
        # While the index is being built it is not known which blocks will be the largest.
        " and (select s.built from insights.state s) order by b.experiment_id, b.block",
        ("int",),
        (LARGE_BLOCK,),
    )
    found = []
    for _, of_experiment in groupby(rows, key=lambda row: row["experiment_id"]):
        own = [(Block(row), row["sample"]) for row in of_experiment]
        sample = sample_of([block for block, _ in own])
        numbers = [block.block for block in sample]
        found += [Task(block, sample) for block, stored in own if stored != numbers]
    # Those of the sample first: the others find the cuts stored with them.
    return sorted(found, key=lambda task: task.block not in task.sample)
''',
"insights_engine.malformed": r'''"""What is wrong with a filter that has no syntax."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NoReturn

from insights_engine import fields
from insights_engine.errors import FilterError, visible
from insights_engine.tables import RULES, STATES
from insights_engine.tokens import FUNCTIONS, Token, unit_hint, unit_in_ms, unquoted_message

_SQL_WORDS = re.compile(
    "SELECT|FROM|WITH|INSERT|UPDATE|DELETE|DROP|ALTER|CREATE|TRUNCATE|GRANT|UNION|EXPLAIN"
    "|ORDER|GROUP|HAVING|LIMIT|OFFSET|JOIN|RETURNING|INTO|VALUES|SET"
)
_OPERATOR_WORDS = {
    "CONTAINS": "LIKE '%text%'",
    "CONTAIN": "LIKE '%text%'",
    "INCLUDES": "LIKE '%text%'",
    "HAS": "LIKE '%text%'",
    "STARTSWITH": "LIKE 'text%'",
    "STARTS_WITH": "LIKE 'text%'",
    "STARTS": "LIKE 'text%'",
    "ENDSWITH": "LIKE '%text'",
    "ENDS_WITH": "LIKE '%text'",
    "ENDS": "LIKE '%text'",
    "REGEX": "RLIKE",
    "MATCHES": "RLIKE",
    "MATCH": "RLIKE",
    "SIMILAR": "RLIKE",
    "GLOB": "LIKE",
    "EQUALS": "=",
    "EQUAL": "=",
    "EQ": "=",
    "NE": "!=",
    "GT": ">",
    "GTE": ">=",
    "GE": ">=",
    "LT": "<",
    "LTE": "<=",
    "LE": "<=",
    "ISNULL": "IS NULL",
    "NOTNULL": "IS NOT NULL",
    "EXISTS": "IS NOT NULL",
}
_FUNCTION_WORDS = {
    "SOME": "any(...)",
    "EXISTS": "any(...)",
    "HAS": "any(...)",
    "ALL": "NOT any(NOT ...)",
    "EVERY": "NOT any(NOT ...)",
    "NONE": "NOT any(...)",
    "AVERAGE": "avg(...)",
    "MEAN": "avg(...)",
    "TOTAL": "sum(...)",
    "CURRENT_TIMESTAMP": "now()",
    "GETDATE": "now()",
    "LOWER": "field ILIKE 'text', which ignores case",
    "UPPER": "field ILIKE 'text', which ignores case",
}
_FUNCTION_NAMES = ("any", "count", "sum", "avg", "min", "max", "now")
_VALUES = ("STRING", "DOUBLE_QUOTED", "NUMBER", "BOOLEAN", "NULL", "RPAR", "NOW")
_DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}")

_QUOTING = "A name or text with spaces goes in quotes: tags['my key'] = 'my value'."
_CONDITION = "a condition such as status = 'OK'"


class Refusal:
    """Explains why the last of ``tokens`` cannot stand where it stands."""

    def __init__(
        self, text: str, tokens: list[Token], rest: Iterator[Token], states: list[int]
    ) -> None:
        self.text = text
        self.index = len(tokens) - 1
        self.token = tokens[-1]
        self.before = tokens[-2] if len(tokens) > 1 else None
        self.expected = _acceptable(states)
        end = Token("$END", len(text), len(text))
        try:
            following = next(rest, end)
        except FilterError:
            following = end
        self.tokens = [*tokens, following]

    def refuse(self) -> NoReturn:
        """Raise the FilterError."""
        token = self.token
        kind = token.kind
        if kind == "RPAR" and self._innermost(self.index) is None:
            self._fail("this parenthesis closes nothing", "Remove it, or open one before it.")
        if kind == "$END" and "RPAR" in self.expected:
            self._unclosed()
        if "STRING" in self.expected:
            self._value()
        if self.before is not None and self.before.kind in ("IN", "BETWEEN", "IS", "NOT"):
            self._after_word(self.before)
        if "CMP" in self.expected and "LIKE" in self.expected:
            self._operator()
        if "WHERE" in self.expected:
            self._aggregate(token)
        if "AND" in self.expected and "OR" not in self.expected and "FIELD" not in self.expected:
            self._fail(
                f"BETWEEN takes two values joined by AND, found {self._named(token)}",
                "For example execution_time_ms BETWEEN 100 AND 200.",
            )
        if "CMP" in self.expected:
            self._function_comparison()
        if "COMMA" in self.expected:
            self._list()
        if "FIELD" in self.expected and "OR" not in self.expected:
            self._condition()
        self._after_condition()

    # -------------------------------------------------------------- the cases

    def _value(self) -> NoReturn:
        """A value, or for LIKE a string, is missing."""
        token, before = self.token, self.before
        shown = self._shown(token)
        assert before is not None
        operator = self._source(before).upper()
        in_list = before.kind in ("LPAR", "COMMA")
        if token.kind == "FIELD":
            self._unquoted(token, shown)
        if in_list and token.kind == "RPAR":
            self._fail(
                "While parsing a list in the query, expected a non-empty list of string values,"
                " but got empty list",
                "Put at least one value between the parentheses.",
            )
        if in_list and token.kind == "COMMA":
            self._fail("a value is missing between the commas", "Remove one comma.")
        if before.kind == "SIGN":
            self._fail(
                f"expected a duration in quotes after {operator}, found {self._named(token)}",
                "For example now() - '24 hours'.",
            )
        if token.kind == "$END":
            self._fail(
                f"a value is missing after {operator}",
                f"For example {operator} '%text%'."
                if before.kind == "LIKE"
                else "For example 'text' or 100.",
            )
        if token.kind == "LPAR":
            self._fail(
                f"{operator} takes one value, found a parenthesis",
                "A list of values goes with IN: field IN ('a', 'b').",
            )
        if token.kind in ("CMP", "LIKE", "IN", "IS", "BETWEEN"):
            hint = "Remove one of them."
            if operator in ("!", "<", ">") and shown == "=":
                hint = f"Write {operator}{shown} without a space."
            self._fail(f"a second operator after {operator}: {shown}", hint)
        if token.kind in ("AGGREGATE", "COUNT", "ANY"):
            self._fail(
                f"expected a value after {operator}, found {shown}(...)",
                f"{shown}(...) stands on the left of a comparison with a number.",
            )
        self._fail(
            f"expected a value after {operator}, found {self._named(token)}",
            "For example 'text' or 100.",
        )

    def _unquoted(self, token: Token, shown: str) -> NoReturn:
        word = self._source(token)
        following = self.tokens[self.index + 1].kind
        if following == "LPAR":
            self._unknown_function(token, "now() is the only function that is a value.")
        if _SQL_WORDS.fullmatch(word.upper()):
            self._sql(token)
        hint = f"Write '{shown}'."
        if self._compares_function() or self._compares_number():
            hint = "A number must follow."
        if word.startswith("`"):
            hint = f"Write {visible(fields.quote(word[1:-1]), 60)}; backticks are for names."
        elif word.upper() in ("NOW", "CURRENT_TIMESTAMP", "CURRENT_DATE", "TODAY"):
            hint = "The present time is now()."
        elif word.upper() in ("NONE", "NIL"):
            hint = f"Write '{shown}' for the text, IS NULL for a missing value."
        elif "." in word or word in fields.TRACE_FIELDS:
            hint += " A field is compared with a value, not with another field."
        self._fail(unquoted_message(word), hint)

    def _compares_function(self) -> bool:
        """Whether the value at ``index`` is compared with count(...) or the like."""
        return self.index > 1 and self.tokens[self.index - 2].kind == "RPAR"

    def _compares_number(self) -> bool:
        """Whether it is compared with a field that is known to hold numbers."""
        name = self._source(self.tokens[self.index - 2]).rsplit(".", 1)[-1]
        field = fields.TRACE_FIELDS.get(name)
        return field is not None and fields.is_number(field)

    def _after_word(self, before: Token) -> NoReturn:
        """After IN, BETWEEN (which also takes values), IS, or NOT."""
        token = self.token
        if before.kind == "IN":
            shown = self._shown(token)
            if token.kind in ("STRING", "DOUBLE_QUOTED", "NUMBER"):
                self._fail("IN takes a list in parentheses", f"Write IN ({shown}).")
            self._fail(
                f"IN takes a list in parentheses, found {self._named(token)}",
                "For example IN ('a', 'b').",
            )
        if before.kind == "IS":
            self._fail(
                f"IS goes with NULL or NOT NULL only, found {self._named(token)}",
                "Compare with a value by = or !=.",
            )
        if "NULL" in self.expected:
            self._fail(
                f"IS NOT goes with NULL only, found {self._named(token)}",
                "Compare with a value by !=.",
            )
        if "LIKE" in self.expected and "FIELD" not in self.expected:
            hint = "Write != instead of NOT =." if token.kind == "CMP" else None
            self._fail(
                "after a field NOT goes with LIKE, ILIKE, RLIKE, IN or BETWEEN,"
                f" found {self._named(token)}",
                hint or "NOT before a whole condition negates it: NOT status = 'OK'.",
            )
        self._condition()

    def _operator(self) -> NoReturn:
        """A field stands here, and no operator follows."""
        token, before = self.token, self.before
        assert before is not None
        name = self._shown(before)
        word = self._source(before).upper()
        if token.kind == "LPAR":
            self._unknown_function(before)
        if _SQL_WORDS.fullmatch(word):
            self._sql(before)
        following = self._source(token).upper() if token.kind == "FIELD" else ""
        if _SQL_WORDS.fullmatch(following):
            self._sql(token)
        earlier = self.tokens[self.index - 2].kind if self.index > 1 else ""
        if earlier == "NUMBER" and unit_in_ms(word) is not None:
            number = self.tokens[self.index - 2]
            literal = f"{self._source(number)} {name}"
            self._fail(
                f"number with a unit. {unquoted_message(literal)}",
                unit_hint(self._source(number), word),
                Token("", number.start, before.end),
            )
        if token.kind == "SIGN" and self.text.startswith("->", token.start):
            self._fail("unknown operator ->", f"A key goes in brackets: {name}['key'].", length=2)
        if (
            token.kind in ("FIELD", "STRING", "DOUBLE_QUOTED", "NUMBER")
            and earlier in _VALUES
            and word not in FUNCTIONS
            and following not in _OPERATOR_WORDS
            and "." not in word
            and name not in fields.TRACE_FIELDS
        ):
            self._fail(f"expected AND or OR, found {name}", _QUOTING, before)
        if following in _OPERATOR_WORDS:
            self._fail(
                f"unknown operator {self._shown(token)}",
                f"Use {_OPERATOR_WORDS[following]}.",
            )
        if token.kind in ("STRING", "DOUBLE_QUOTED", "NUMBER", "BOOLEAN", "NOW"):
            self._fail(
                f"an operator is missing between {name} and {self._shown(token)}",
                f"Write {name} = {self._shown(token)}.",
            )
        if token.kind == "STAR" or token.kind == "SIGN":
            self._fail(
                f"there is no arithmetic on fields: {name} {self._shown(token)}",
                "Compare a field directly with a value.",
            )
        if token.kind == "FIELD":
            if word in FUNCTIONS:
                self._fail(
                    f"a parenthesis is missing after {name}",
                    f"{name}(...) is a function.",
                    before,
                )
            self._fail(f"expected an operator after {name}, found {self._shown(token)}", _QUOTING)
        where = "" if token.kind == "$END" else f", found {self._named(token)}"
        hint = f"For example {name} = 'value', or {name} IS NOT NULL."
        opening = self._innermost(self.index)
        function = self._function_of(opening) if opening is not None else None
        if function is not None and function.kind == "COUNT" and token.kind == "RPAR":
            hint = "count() counts all spans, count(span.type = 'LLM') those of one type."
        self._fail(
            f"{name} is compared with nothing{where}", hint, before if where == "" else token
        )

    def _aggregate(self, token: Token) -> NoReturn:
        """sum(field stands here, and neither ) nor WHERE follows."""
        opening = self._innermost(self.index)
        function = self._function_of(opening) if opening is not None else None
        assert function is not None
        name = self._shown(function).lower()
        form = f"{name}(span.duration_ms WHERE span.type = 'LLM') > 1000"
        if token.kind in ("CMP", "LIKE", "IN", "IS", "BETWEEN", "NOT"):
            self._fail(
                f"{name}() takes a numeric span field, not a condition",
                f"A condition comes after WHERE: {form}. count(...) counts spans.",
            )
        self._fail(
            f"expected ')' or WHERE after the field of {name}(), found {self._named(token)}",
            f"For example {form}.",
        )

    def _function_comparison(self) -> NoReturn:
        """count(...) or an aggregate is complete, and nothing compares it."""
        closing = self.index - 1
        depth = 0
        opening = closing
        for opening in range(closing, -1, -1):
            kind = self.tokens[opening].kind
            depth += (kind == "RPAR") - (kind == "LPAR")
            if depth == 0:
                break
        function = self._function_of(opening)
        assert function is not None
        name = self._shown(function).lower()
        token = self.token
        place = Token("", function.start, self.tokens[closing].end)
        if token.kind in ("IN", "BETWEEN", "LIKE", "IS", "NOT"):
            self._fail(
                f"{name}(...) is compared by =, !=, <, <=, > or >=, found {self._shown(token)}",
                f"For example {name}(...) >= 2 AND {name}(...) <= 5.",
            )
        self._fail(
            f"{name}(...) is a number and must be compared",
            f"Add > 0, as in {name}(...) > 0.",
            place,
        )

    def _list(self) -> NoReturn:
        """In a list of values: neither a comma nor the end follows."""
        token = self.token
        if token.kind in ("STRING", "DOUBLE_QUOTED", "NUMBER", "BOOLEAN", "FIELD"):
            self._fail(
                f"a comma is missing in the list before {self._shown(token)}",
                f"Write , {self._shown(token)}. A quote inside a string is written twice: ''.",
            )
        self._fail(f"expected , or ) in the list, found {self._named(token)}", "Close it with ).")

    def _condition(self) -> NoReturn:
        """A condition is expected."""
        token, before = self.token, self.before
        shown = self._shown(token)
        after = "at the beginning" if before is None else f"after {self._shown(before)}"
        if before is not None and before.kind == "LPAR":
            function = self._function_of(self.index - 1)
            if function is not None and token.kind == "RPAR":
                name = self._shown(function).lower()
                if function.kind == "ANY":
                    self._fail(
                        "any() needs a condition on spans",
                        "For example any(span.type = 'LLM'); a trace with any span at all has"
                        " span_count > 0.",
                    )
                self._fail(
                    f"{name}() needs a numeric span field", f"For example {name}(span.duration_ms)."
                )
            if token.kind == "RPAR":
                self._fail("there is nothing in the parentheses", f"Put {_CONDITION} there.")
        if before is not None and before.kind == "LPAR" and self._is_aggregate(self.index - 1):
            function = self._function_of(self.index - 1)
            assert function is not None
            name = self._shown(function).lower()
            self._fail(
                f"{name}() needs a numeric span field, found {self._named(token)}",
                f"For example {name}(span.duration_ms).",
            )
        if token.kind in ("STRING", "NUMBER", "BOOLEAN", "NULL", "NOW"):
            self._fail(
                f"Invalid comparison clause. Expected 'Identifier' found '{shown}'",
                "The field stands on the left, the value on the right: status = 'OK'.",
            )
        if token.kind == "OR" and before is None:
            self._fail(
                "a condition is missing before OR", f"OR joins two conditions, {_CONDITION}."
            )
        if token.kind in ("$END", "OR", "RPAR", "AND"):
            assert before is not None
            self._fail(
                f"a condition is missing after {self._shown(before)}",
                f"Add {_CONDITION}, or remove {self._shown(before)}.",
                before if token.kind == "$END" else token,
            )
        if token.kind == "CMP":
            self._fail(f"a field is missing before {shown}", f"For example status {shown} 'OK'.")
        if token.kind == "COMMA":
            self._comma()
        if token.kind == "WHERE":
            self._fail("a filter begins without WHERE", "Remove WHERE.")
        self._fail(
            f"Invalid clause(s) in filter string: '{shown}': expected a condition {after}",
            f"For example {_CONDITION[len('a condition such as ') :]}.",
        )

    def _after_condition(self) -> NoReturn:
        """A condition is complete, and something follows that cannot."""
        token, before = self.token, self.before
        shown = self._shown(token)
        assert before is not None
        if token.kind == "COMMA":
            self._comma()
        if token.kind in ("CMP", "LIKE", "IN", "IS", "BETWEEN"):
            if before.kind in ("STRING", "DOUBLE_QUOTED", "NUMBER", "BOOLEAN", "NOW"):
                self._fail(
                    f"a comparison cannot be continued with {shown}",
                    "Write two conditions joined by AND, or field BETWEEN low AND high.",
                )
            if before.kind == "RPAR":
                self._fail(
                    f"what is in parentheses is a condition and is not compared: {shown}",
                    "Only count(...), sum(...), avg(...), min(...) and max(...) are.",
                )
        if token.kind in ("STRING", "NUMBER", "DOUBLE_QUOTED"):
            hint = "Join conditions with AND or OR."
            date = _DATE.match(self.text, before.start)
            if date:
                hint = f"A time goes in quotes: '{date[0]}'."
            elif before.kind == "NOW":
                hint = "A duration goes in quotes: now() - '24 hours'."
            elif token.kind != "NUMBER":
                hint += " A quote inside a string is written twice: ''."
            self._fail(
                f"Invalid clause(s) in filter string: '{shown}': a value without a field", hint
            )
        if token.kind in ("SIGN", "STAR"):
            self._fail(
                f"there is no arithmetic on values: {shown}",
                "Only now() takes + or -, and one duration: now() - '1 day 2 hours'.",
            )
        if token.kind == "WHERE":
            self._fail(
                "WHERE stands inside sum, avg, min and max only",
                "Join conditions with AND.",
            )
        self._fail(
            f"Invalid clause(s) in filter string: '{shown}': expected AND, OR or the end",
            "Join conditions with AND or OR.",
        )

    # ---------------------------------------------------------------- helpers

    def _comma(self) -> NoReturn:
        before, after = self.before, self.tokens[self.index + 1]
        if before is not None and before.kind == after.kind == "NUMBER":
            self._fail(
                "a comma stands inside a number",
                f"Write {self._shown(before)}{self._shown(after)}.",
            )
        self._fail(
            "Invalid clause(s) in filter string: ',': conditions are not separated by commas",
            "Use AND or OR.",
        )

    def _unclosed(self) -> NoReturn:
        opening = self._innermost(self.index)
        assert opening is not None
        self._fail(
            "the parenthesis opened here is not closed: ) is missing",
            "Close it with ).",
            self.tokens[opening],
        )

    def _sql(self, token: Token) -> NoReturn:
        word = self._shown(token).upper()
        hints = {
            "ORDER": "The order is an argument of its own (order_by), not part of the filter.",
            "LIMIT": "The limit is an argument of its own (max_results), not part of the filter.",
        }
        self._fail(
            f"Invalid clause(s) in filter string: '{self._shown(token)}': a filter is a condition,"
            " not an SQL statement",
            hints.get(word, f"Write only {_CONDITION}."),
            token,
        )

    def _unknown_function(self, token: Token, otherwise: str | None = None) -> NoReturn:
        word = self._source(token)
        name = self._shown(token)
        if _SQL_WORDS.fullmatch(word.upper()):
            self._sql(token)
        known = _FUNCTION_WORDS.get(word.upper())
        near = None if known else fields.nearest(word, _FUNCTION_NAMES)
        if known:
            hint = f"Write {known}."
        elif near:
            hint = f"Did you mean {near}(...)?"
        else:
            hint = otherwise or "The functions are any, count, sum, avg, min, max and now."
        self._fail(f"unknown function {name}()", hint, token)

    def _innermost(self, index: int) -> int | None:
        """The index of the parenthesis that is open before ``index``."""
        opened = []
        for position in range(index):
            kind = self.tokens[position].kind
            if kind == "LPAR":
                opened.append(position)
            elif kind == "RPAR" and opened:
                opened.pop()
        return opened[-1] if opened else None

    def _function_of(self, opening: int) -> Token | None:
        """The function whose parenthesis stands at ``opening``."""
        token = self.tokens[opening - 1] if opening else None
        return token if token and token.kind in ("ANY", "COUNT", "AGGREGATE") else None

    def _is_aggregate(self, opening: int) -> bool:
        function = self._function_of(opening)
        return function is not None and function.kind == "AGGREGATE"

    def _source(self, token: Token) -> str:
        return self.text[token.start : token.end]

    def _shown(self, token: Token) -> str:
        return visible(self._source(token), 60)

    def _named(self, token: Token) -> str:
        return "the end" if token.kind == "$END" else self._shown(token)

    def _fail(
        self, message: str, hint: str, token: Token | None = None, length: int = 0
    ) -> NoReturn:
        token = token or self.token
        length = length or token.end - token.start
        raise FilterError(message, token.start, length, hint, self.text)


def _acceptable(states: list[int]) -> frozenset[str]:
    """The kinds of tokens that could follow.

    The table's row alone names too many: it would reduce on some that turn out
    not to fit afterwards.
    """
    return frozenset(
        kind for kind in STATES[states[-1]] if kind.isupper() and _can_shift(states, kind)
    )


def _can_shift(states: list[int], kind: str) -> bool:
    states = list(states)
    while True:
        step = STATES[states[-1]].get(kind, 0)
        if step >= 0:
            return step > 0
        symbol, size, _, _ = RULES[-step - 1]
        if symbol == "start":
            return True
        if size:
            del states[-size:]
        states.append(STATES[states[-1]][symbol])
''',
"insights_engine.matrix": r'''"""Many filters at once: how each two of them go together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Callable, Optional

from insights_engine import correlate, sessions, tree
from insights_engine.errors import FilterError, InsightsError
from insights_engine.statement import Statement

FEWEST, MOST = 2, 50


def check_filters(filters: Optional[Sequence[Any]]) -> Sequence[Optional[str]]:
    """The filters, of which each may be None as anywhere.  Raises InsightsError."""
    if filters is None or any(isinstance(one, (list, tuple)) for one in filters):
        raise InsightsError("The filters must be an array of texts, of one dimension.")
    if not FEWEST <= len(filters) <= MOST:
        raise InsightsError(
            f"A matrix takes {FEWEST} to {MOST} filters, not {len(filters)}.",
            hint="insights_count takes one filter, insights_discover finds filters by itself.",
        )
    return filters


def each(
    filters: Sequence[Optional[str]], parse: Callable[[Optional[str]], tree.Node]
) -> list[tree.Node]:
    """The trees of some filters; an error tells the number of the filter, from 1."""
    nodes = []
    for number, filter in enumerate(filters, 1):
        try:
            nodes.append(parse(filter))
        except FilterError as error:
            raise FilterError(
                f"filter {number}: {error.message}",
                error.position,
                error.length,
                error.hint,
                error.filter,
            ) from None
    return nodes


def correlations(
    plpy: Any,
    statement: Statement,
    base: tree.Node,
    filters: Sequence[tree.Node],
    unit: str,
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(first, second, what insights_correlate says) of each two filters, numbered from 0.

    ``filters`` include the base.
    """
    table = sessions.pair_counts(plpy, statement, (base, *filters), unit)
    for first in range(1, len(table)):
        for second in range(first + 1, len(table)):
            yield (
                first - 1,
                second - 1,
                correlate.associated(
                    table[first][first], table[second][second], table[first][second], table[0][0]
                ),
            )
''',
"insights_engine.merging": r'''"""Puts small blocks together, and drops the positions of traces that have left.

Size-tiered, as in Lucene: blocks of about the same size are merged once there
are `FACTOR` of them, so a trace is moved a logarithmic number of times.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from insights_engine import bitmaps, plans
from insights_engine.postings import insert

#: Blocks of one tier that are merged; the sizes within a tier differ by this factor.
FACTOR = 8
#: Positions of the blocks that one call merges; more are left to the next.
MOST_POSITIONS = 2 * bitmaps.POSITIONS
_AT_ONCE = 20_000


class Block(NamedTuple):
    """A row of ``insights.block``."""

    block: int
    experiment_id: int
    used: int
    live: int
    live_count: int
    first_ms: int
    last_ms: int


def blocks_of(plpy: Any, experiments: Iterable[int]) -> list[Block]:
    """The blocks of some experiments, by experiment and time."""
    rows = plans.run(
        plpy,
        "select b.block, b.experiment_id, b.used, b.live, b.live_count, b.first_ms, b.last_ms"
        " from insights.block b where b.experiment_id = any($1)"
        " order by b.experiment_id, b.first_ms, b.block",
        ("int[]",),
        (sorted(set(experiments)),),
    )
    return [Block(**{**row, "live": bitmaps.decode(row["live"])}) for row in rows]


def vacate(plpy: Any, trace_ids: Sequence[str]) -> set[int]:
    """Takes traces out of the blocks they are in; the experiments of these blocks."""
    rows = plans.run(
        plpy,
        "delete from insights.trace t using pg_catalog.unnest($1) as g (trace_id)"
        " where t.trace_id = g.trace_id returning t.block, t.position",
        ("text[]",),
        (list(trace_ids),),
    )
    left: dict[int, list[int]] = {}
    for row in rows:
        left.setdefault(row["block"], []).append(row["position"])
    if not left:
        return set()
    blocks = plans.run(
        plpy,
        "select b.block, b.experiment_id, b.used, b.live from insights.block b"
        " where b.block = any($1)",
        ("int[]",),
        (sorted(left),),
    )
    changed: list[tuple[int, bytes, int]] = []
    empty: list[int] = []
    for row in blocks:
        gone = bitmaps.decode(bitmaps.encode(sorted(left[row["block"]]), row["used"]))
        live = bitmaps.decode(row["live"]) & ~gone
        if live:
            changed.append(
                (row["block"], bitmaps.encode_set(live, row["used"]), bitmaps.count(live))
            )
        else:
            empty.append(row["block"])
    if changed:
        plans.run(
            plpy,
            "update insights.block b set live = c.live, live_count = c.live_count from rows from"
            " (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))"
            " as c (block, live, live_count) where b.block = c.block",
            ("int[]", "bytea[]", "int[]"),
            [list(column) for column in zip(*changed)],
        )
    drop(plpy, empty)
    return {row["experiment_id"] for row in blocks}


def drop(plpy: Any, blocks: Sequence[int]) -> None:
    """Deletes blocks with all that is stored of them, but for their traces."""
    if blocks:
        for table in ("posting", "cells", "sessions", "block"):
            plans.run(
                plpy,
                f"delete from insights.{table} d where d.block = any($1)",
                ("int[]",),
                (list(blocks),),
            )


def merge(plpy: Any, experiments: Iterable[int]) -> int:
    """Merges what should be merged in some experiments; how many blocks went into it."""
    merged = 0
    left = MOST_POSITIONS
    for _, found in groupby(blocks_of(plpy, experiments), key=lambda block: block.experiment_id):
        blocks = list(found)
        while True:
            chosen = choose(blocks)
            if not chosen or sum(block.used for block in chosen) > left:
                break
            left -= sum(block.used for block in chosen)
            made = rewrite(plpy, chosen)
            merged += len(chosen)
            blocks = [block for block in blocks if block not in chosen]
            blocks.append(made)
            blocks.sort(key=lambda block: (block.first_ms, block.block))
    return merged


def choose(blocks: Sequence[Block]) -> list[Block]:
    """The blocks of an experiment, in order of time, that should become one; or none."""
    tiers: dict[int, list[Block]] = {}
    for block in blocks:
        tier, size = 0, FACTOR
        while size <= block.live_count:
            tier, size = tier + 1, size * FACTOR
        tiers.setdefault(tier, []).append(block)
    for _, tier_blocks in sorted(tiers.items()):
        if len(tier_blocks) < FACTOR:
            continue
        # Of as many as fit into one block, those that lie closest together in time.
        best: list[Block] = []
        for start in range(len(tier_blocks)):
            total = 0
            run: list[Block] = []
            for block in tier_blocks[start : start + FACTOR]:
                total += block.live_count
                if total > bitmaps.POSITIONS:
                    break
                run.append(block)
            if len(run) > len(best) or (
                len(run) == len(best) > 0 and _duration(run) < _duration(best)
            ):
                best = run
        if len(best) > 1:
            return best
    for block in blocks:
        if 2 * block.live_count < block.used:
            return [block]
    return []


def _duration(blocks: Sequence[Block]) -> int:
    return max(block.last_ms for block in blocks) - min(block.first_ms for block in blocks)


def rewrite(plpy: Any, blocks: Sequence[Block]) -> Block:
    """Makes one block of the live positions of some."""
    used = sum(block.live_count for block in blocks)
    first_ms = min(block.first_ms for block in blocks)
    last_ms = max(block.last_ms for block in blocks)
    made = add_block(plpy, blocks[0].experiment_id, used, first_ms, last_ms)
    moves: dict[int, list[int]] = {}
    start = 0
    for block in blocks:
        moves[block.block] = _moves(block, start)
        start += block.live_count
    insert(plpy, _merged(plpy, moves, made, used))
    for block in blocks:
        olds = bitmaps.positions(block.live)
        news = [moves[block.block][old] for old in olds]
        plans.run(
            plpy,
            "update insights.trace t set block = $1, position = m.new from rows from"
            " (pg_catalog.unnest($3), pg_catalog.unnest($4)) as m (old, new)"
            " where t.block = $2 and t.position = m.old",
            ("int", "int", "smallint[]", "smallint[]"),
            (made, block.block, olds, news),
        )
    drop(plpy, [block.block for block in blocks])
    return Block(made, blocks[0].experiment_id, used, (1 << used) - 1, used, first_ms, last_ms)


def _moves(block: Block, start: int) -> list[int]:
    """Of each position of a block the new one; -1 where the trace has left."""
    moves = [-1] * block.used
    for new, old in enumerate(bitmaps.positions(block.live), start):
        moves[old] = new
    return moves


def _merged(
    plpy: Any, moves: dict[int, list[int]], made: int, used: int
) -> Iterator[tuple[int, int, bytes]]:
    """The postings of the new block, by term."""
    plan = plpy.prepare(
        "select p.term, p.block, p.members from insights.posting p where p.block = any($1)"
        " order by p.term",
        ["int[]"],
    )
    cursor = plpy.cursor(plan, [list(moves)])

    def rows() -> Iterator[tuple[int, int, bytes]]:
        while True:
            some = cursor.fetch(1_000)
            for row in some:
                yield row["term"], row["block"], row["members"]
            if len(some) < 1_000:
                cursor.close()
                return

    order = {block: number for number, block in enumerate(moves)}
    for term, found in groupby(rows(), key=itemgetter(0)):
        positions: list[int] = []
        several = list(found)
        if len(several) > 1:
            several.sort(key=lambda row: order[row[1]])
        for _, block, members in several:
            positions += map(moves[block].__getitem__, bitmaps.stored_positions(members))
        if -1 in positions:
            positions = [position for position in positions if position >= 0]
        if positions:
            yield made, term, bitmaps.encode(positions, used)


def add_block(plpy: Any, experiment_id: int, used: int, first_ms: int, last_ms: int) -> int:
    """A new block, all of whose positions are live."""
    rows = plans.run(
        plpy,
        "insert into insights.block (experiment_id, used, live, live_count, first_ms, last_ms)"
        " values ($1, $2, $3, $2, $4, $5) returning block",
        ("int", "int", "bytea", "bigint", "bigint"),
        (experiment_id, used, bitmaps.encode_set((1 << used) - 1, used), first_ms, last_ms),
    )
    return int(rows[0]["block"])
''',
"insights_engine.multiple": r'''"""Many facts tested against one target: their p values, and what to believe.

With 20,000 facts, a thousand fall below p = 0.05 by chance.  A discovery
therefore reports the facts whose q value is at most its false discovery rate:
of those, about that share is expected to be chance.

That holds for p values that are not too small themselves, also far out, where
one of 20,000 has to lie: `independence` says how that is seen to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from insights_engine import independence

# G² is below this at least wherever p is above 0.05: a quick way to see so.
_NOT_SIGNIFICANT = 3.841458820694124
_NOT_SIGNIFICANT_P = 0.05


class TargetTests:
    """Tests facts for independence of one target; equal tables only once.

    ``target`` and ``total`` are the numbers of units (traces or sessions) of
    the target and of the base.  Below an expected count of ``exact_below``
    Fisher's test answers, above G².  Raises ValueError unless
    ``0 <= target <= total``.
    """

    def __init__(
        self, target: int, total: int, exact_below: int = independence.EXACT_BELOW
    ) -> None:
        if not 0 <= target <= total:
            raise ValueError(f"a target of {target} among {total}")
        self._target = target
        self._total = total
        self._exact_below = exact_below
        self._known: dict[tuple[int, int], float] = {}

    def p_value(self, fact: int, joint: int) -> float:
        """The two-sided p value of a fact with these counts.

        1 for a fact (or target) of all units or of none, which tells nothing.
        Raises ValueError for counts that contradict each other.
        """
        known = self._known.get((fact, joint))
        if known is None:
            known = self._known[fact, joint] = self._compute(fact, joint)
        return known

    def p_values(
        self, facts: Iterable[int], joints: Iterable[int], relevant: float = 1.0
    ) -> list[float]:
        """`p_value` of each pair of counts, in their order.

        Where p is well above ``relevant`` the answer may be 1 instead, which
        saves most of the work: `benjamini_hochberg` yields the same q values up
        to ``relevant`` from either.
        """
        pairs = zip(facts, joints)
        if relevant > _NOT_SIGNIFICANT_P:
            return [self.p_value(fact, joint) for fact, joint in pairs]
        target, total = self._target, self._total
        others = target * (total - target)
        values = []
        for fact, joint in pairs:
            # Pearson's X² is (n11 n - r c)² n / (product of margins).  G² is at
            # most 2 X², since (1 + u) log(1 + u) - u <= u²: where that is too
            # little for p = 0.05, no test needs to be done.  Fisher's does not
            # follow X² at small expected counts, so there nothing is skipped.
            deviation = joint * total - target * fact
            unlikely = _NOT_SIGNIFICANT * others * fact * (total - fact)
            if 2 * deviation * deviation * total < unlikely and not independence.needs_fisher(
                target, fact, total, independence.SMALL_EXPECTED_COUNT
            ):
                values.append(1.0)
            else:
                values.append(self.p_value(fact, joint))
        return values

    def test(self, fact: int) -> str:
        """The name of the test that answers for a fact of this count."""
        return independence.name_of_test(self._target, fact, self._total, self._exact_below)

    def _compute(self, fact: int, joint: int) -> float:
        table = (
            joint,
            self._target - joint,
            fact - joint,
            self._total - self._target - fact + joint,
        )
        if min(table) < 0:
            raise ValueError(
                f"counts contradict each other: {fact}, {joint}, {self._target}, {self._total}"
            )
        found = independence.p_value(*table, self._exact_below)
        return 1.0 if found is None else found


def benjamini_hochberg(p_values: Sequence[float], tested: int | None = None) -> list[float]:
    """The q value of each p value: the least false discovery rate that admits it.

    ``min(p_(j) m / j for j >= i)`` for the i-th smallest of m p values, at most
    1 (Benjamini and Hochberg, Journal of the Royal Statistical Society B 57,
    1995).  Reporting all with ``q <= 0.05`` keeps the expected share of false
    ones at 0.05, also where the facts overlap so that their tests depend on
    each other positively (Benjamini and Yekutieli, Annals of Statistics 29,
    2001).  Equal p values have equal q values, and q rises with p.

    ``tested`` is m where p values close to 1 have been left out of the list; it
    is the length of the list otherwise.  Raises ValueError for a p value
    outside of [0, 1], NaN included, and for a ``tested`` below the length.
    """
    count = len(p_values) if tested is None else tested
    if count < len(p_values):
        raise ValueError(f"{len(p_values)} p values of {count} tests")
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    q_values = [1.0] * len(p_values)
    least = 1.0
    for rank in range(len(order), 0, -1):
        index = order[rank - 1]
        p = p_values[index]
        # Sorting is undefined with a NaN, but each value passes here once.
        if not 0 <= p <= 1:
            raise ValueError(f"not a probability: {p}")
        least = min(least, p * (count / rank))
        q_values[index] = least
    return q_values
''',
"insights_engine.names": r'''"""What the names in a filter stand for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NoReturn, Protocol

from insights_engine import fields, tree
from insights_engine.errors import FilterError, visible
from insights_engine.tokens import FUNCTIONS, Token, unquote

# What stock MLflow prints in its messages; sets are printed sorted.
_MLFLOW_ENTITIES = (
    "attribute",
    "attributes",
    "expectation",
    "feedback",
    "issue",
    "metadata",
    "request_metadata",
    "span",
    "tag",
    "tags",
    "trace",
)
_MLFLOW_ATTRIBUTES = (
    "client_request_id",
    "end_time",
    "end_time_ms",
    "execution_time",
    "execution_time_ms",
    "name",
    "prompt",
    "request_id",
    "run_id",
    "status",
    "text",
    "timestamp",
    "timestamp_ms",
)

_PART = re.compile(r"""[^.`"']+|`[^`]*(?:``[^`]*)*`|"[^"]*(?:""[^"]*)*"|'[^']*(?:''[^']*)*'""")
_QUOTED_KEY = re.compile(r"""(?:`[^`]*(?:``[^`]*)*`|"[^"]*(?:""[^"]*)*"|'[^']*(?:''[^']*)*')\Z""")


class Place(Protocol):
    """A part of the filter."""

    @property
    def start(self) -> int: ...

    @property
    def end(self) -> int: ...


class Names:
    """Resolves the names in one filter."""

    def __init__(self, text: str) -> None:
        self._text = text

    def field(self, token: Token) -> tree.Field:
        """The field that a name stands for."""
        text = self._text
        end = token.name_end or token.end
        name = text[token.start : end]
        first = _PART.match(name)
        assert first is not None
        entity = unquote_name(first[0])
        key_start = token.start + first.end() + 1
        if first.end() == len(name):
            if token.steps:
                return self._bracket_field(token, entity)
            field = fields.TRACE_FIELDS.get(entity)
            return field or self._refuse_name(token, entity)
        key = name[first.end() + 1 :]
        group = fields.ENTITIES.get(entity)
        if group is None:
            self._refuse_entity(token, entity, key, first.end())
        if group == "span":
            return self._span_field(token, key, key_start)
        key = self._plain_key(key, key_start, entity)
        if token.steps:
            self._fail(
                f"{visible(name, 60)} is text without parts, brackets cannot follow",
                Token("", end, token.end),
                f"A key in brackets stands directly after {entity}: {entity}['key']."
                if group != "trace"
                else "Only span.attributes, tags, metadata and assessments have keys.",
            )
        if group == "trace":
            field = fields.TRACE_FIELDS.get(key)
            return field or self._refuse_name(Token("", key_start, end), key)
        remapped = fields.KEY_TO_FIELD.get(key.lower())
        if remapped is not None:
            return remapped
        key = fields.KEY_TO_KEY.get(key.lower(), key)
        return self._keyed_field(group, key, Token("", key_start, end))

    def _keyed_field(self, group: str, key: str, place: Token) -> tree.Field:
        if group == "tags":
            return fields.PROMOTED_TAGS.get(key) or tree.Tag(key)
        if group == "metadata":
            return fields.PROMOTED_METADATA.get(key) or tree.Metadata(key)
        if group == "issue":
            if key != "id":
                self._fail(
                    f"Invalid issue attribute '{visible(key, 60)}'. Supported attributes: id",
                    place,
                    "Did you mean issue.id?",
                )
            return tree.Issue()
        if not key:
            self._fail(
                "Assessment field name cannot be empty",
                place,
                f"For example {group}.quality.",
            )
        return tree.Assessment(group, key)

    def _plain_key(self, key: str, start: int, entity: str) -> str:
        if _QUOTED_KEY.match(key):
            return unquote(key)
        if any(mark in key for mark in "`\"'"):
            whole = ".".join(unquote_name(part[0]) for part in _PART.finditer(key))
            self._fail(
                f"a key is quoted as a whole, not in parts: {visible(key, 60)}",
                Token("", start, start + len(key)),
                f"Write {visible(f'{entity}[{fields.quote(whole)}]', 100)}.",
            )
        return key

    def _bracket_field(self, token: Token, entity: str) -> tree.Field:
        end = token.name_end
        place = Token("", end, token.end)
        group = fields.ENTITIES.get(entity)
        key = token.steps[0]
        if group is None and entity not in fields.TRACE_FIELDS:
            self._refuse_entity(token, entity, "", end - token.start)
        if group == "span":
            hint = "Use span.attributes['key'] for an attribute."
            if key in fields.SPAN_FIELDS:
                hint = f"Write span.{key}."
            self._fail("span has no keys in brackets", place, hint)
        if group is None or group == "trace":
            hint = "Only span.attributes, tags, metadata and assessments have keys."
            if entity == "attributes":
                hint = f"Did you mean span.attributes[{visible(fields.quote(key), 60)}]?"
            elif group is not None and key in fields.TRACE_FIELDS:
                hint = f"Write {key}."
            self._fail(f"{visible(entity, 60)} has no keys in brackets", place, hint)
        if len(token.steps) > 1:
            self._fail(
                f"{entity} have one key: a value of theirs is text without parts",
                place,
                f"Only span.attributes go deeper: {entity}[{visible(fields.quote(key), 60)}].",
            )
        return self._keyed_field(group, key, place)

    def _span_field(self, token: Token, key: str, start: int) -> tree.Field:
        place = Token("", start, token.name_end or token.end)
        if _QUOTED_KEY.match(key):
            key = unquote(key)
            start += 1
        if key == "attributes" and token.steps:
            return tree.SpanAttribute(token.steps)
        if key.startswith("attributes."):
            name = self._plain_key(key[11:], start + 11, "span.attributes")
            if not key[11:]:
                self._fail(
                    "Span attribute name cannot be empty after 'attributes.'",
                    place,
                    "For example span.attributes.model.",
                )
            return tree.SpanAttribute((name, *token.steps))
        field = fields.SPAN_FIELDS.get(key)
        if field is None:
            shown = visible(key, 60)
            known = fields.SPAN_SYNONYMS.get(key.lower())
            near = fields.nearest(key, [*fields.SPAN_FIELDS, "attributes"])
            hint = ""
            if key == "attributes":
                hint = "Write span.attributes['key'] or span.attributes.key."
            elif known:
                hint = f"Did you mean {known}?"
            elif near == "attributes":
                hint = "Did you mean span.attributes['key']?"
            elif near:
                hint = f"Did you mean span.{near}?"
            elif re.match(r"\w+\Z", key):
                hint = f"If it is an attribute, write span.attributes.{shown}."
            self._fail(
                f"Invalid span attribute '{shown}'. Supported attributes: name, status, type,"
                " attributes.<attribute_name>.",
                place,
                f"{hint} {fields.SPAN_NAMES}.".lstrip(),
            )
        if token.steps:
            self._fail(
                f"span.{key} has no keys in brackets",
                Token("", token.name_end, token.end),
                "Only span.attributes['key'] has.",
            )
        return field

    def _refuse_name(self, place: Token, name: str) -> NoReturn:
        key = name.lower()
        entity = name.split(".", 1)[0]
        near = fields.nearest(name, list(fields.TRACE_FIELDS))
        if key in fields.TRACE_FIELDS:
            hint = f"Names are written in lower case: {key}."
        elif "." in name and entity in fields.ENTITIES:
            hint = f"Did you mean {visible(name, 60)}, without anything before it?"
        elif key.upper() in FUNCTIONS:
            hint = f"{key}(...) is a function, as in count(span.type = 'LLM') > 0."
        elif key in fields.ENTITIES:
            hint = f"A name must follow: {key}.name."
            if fields.ENTITIES[key] not in ("trace", "span", "issue"):
                hint = f"A key must follow: {key}.key or {key}['key']."
        elif key in fields.SYNONYMS:
            hint = f"Did you mean {fields.SYNONYMS[key]}?"
        elif near:
            hint = f"Did you mean {near}?"
        else:
            shown = visible(name, 40)
            hint = (
                f"If it is a tag, write tags.{shown}; other keys are metadata.{shown},"
                f" feedback.{shown} and span.attributes.{shown}."
                if re.match(r"[\w.-]+\Z", name)
                else ""
            )
        self._fail(
            f"Invalid attribute key '{visible(name, 60)}' specified. Valid keys are"
            f" {quoted_set(_MLFLOW_ATTRIBUTES)}",
            place,
            f"{hint} {fields.TRACE_NAMES}.".lstrip(),
        )

    def _refuse_entity(self, token: Token, entity: str, key: str, length: int) -> NoReturn:
        lower = entity.lower()
        near = fields.nearest(entity, list(fields.ENTITIES))
        rest = f".{visible(key, 60)}" if key else ""
        if "." in entity:
            hint = "Quote the key alone: tags.`my key`."
        elif lower in fields.ENTITIES:
            hint = f"Names are written in lower case: {lower}{rest}."
        elif lower in fields.ENTITY_SYNONYMS:
            hint = f"Did you mean {fields.ENTITY_SYNONYMS[lower]}{rest}?"
        elif near:
            hint = f"Did you mean {near}{rest}?"
        else:
            hint = ""
        self._fail(
            f"Invalid entity type '{visible(entity, 60)}'. Valid values are"
            f" {bare_set(_MLFLOW_ENTITIES)}",
            Token("", token.start, token.start + length),
            f"{hint} {fields.ENTITY_NAMES}.".lstrip(),
        )

    def _source(self, token: Token) -> str:
        return self._text[token.start : token.end]

    def _fail(self, message: str, place: Place, hint: str | None) -> NoReturn:
        raise FilterError(message, place.start, place.end - place.start, hint, self._text)


def quoted_set(names: Iterable[str]) -> str:
    """A set as MLflow's messages print it within quotes."""
    return f"'{bare_set(names)}'"


def bare_set(names: Iterable[str]) -> str:
    """A set as MLflow's messages print it."""
    return "{" + ", ".join(f"'{name}'" for name in names) + "}"


def unquote_name(part: str) -> str:
    """A name or key without its quotes, if it has any."""
    return unquote(part) if part[0] in "`\"'" else part
''',
"insights_engine.narrowing": r'''"""Filters that MLflow's own indexes narrow down to a few traces.

A trace's id, a session and the time a trace began have indexes.  Where a filter
requires one of them and few traces have it, looking at those few is quicker than
all that our index would need to be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from insights_engine import plans, tree
from insights_engine.statement import Statement

#: More traces than these are not few: each may have to be asked about its spans.
FEW = 100

TIME = tree.TraceNumber("timestamp_ms")
_ID = tree.TraceText("trace_id")
_SESSION = tree.TraceText("session_id")


def find(plpy: Any, statement: Statement, node: tree.Node) -> Optional[tuple[list[str], list[str]]]:
    """All traces that match, surely and perhaps; None if they may be many.

    ``statement`` has no parameters yet, and gets some.
    """
    experiments = statement.experiments
    items = conjuncts(node)
    # MLflow's index on sessions begins with the experiment.
    fields = (_ID,) if experiments is None else (_ID, _SESSION)
    names = [item for item in items if _names(item, fields)]
    bounds = time_bounds(node)
    order = ""
    if not names:
        if not any(map(_lower, bounds)) or (experiments is not None and len(experiments) > 1):
            return None
        # Lest the planner hope to meet enough of them early in the table, where the
        # oldest are; this order has an index, in one experiment as in all.
        order = " order by t.timestamp_ms desc"
    narrow = names + bounds
    where = [statement.scope(), *(statement.condition(item, "probe") for item in narrow)]
    sql = (
        f"select t.request_id from {statement.traces} where {' and '.join(where)}{order}"
        f" limit {statement.params.add(FEW + 1, 'bigint')}"
    )
    rows = plans.run(plpy, sql, statement.params.types, statement.params.values)
    if len(rows) > FEW:
        return None
    ids = [row["request_id"] for row in rows]
    return (ids, []) if len(narrow) == len(items) else ([], ids)


def conjuncts(node: tree.Node) -> Sequence[tree.Node]:
    """What a filter requires, each by itself; nothing where it requires nothing."""
    return node.items if isinstance(node, tree.And) else (node,)


def time_bounds(node: tree.Node) -> list[tree.Node]:
    """What a filter requires of the time a trace began."""
    return [
        item
        for item in conjuncts(node)
        if isinstance(item, (tree.NumberCompare, tree.Between)) and item.field == TIME
    ]


def _lower(bound: tree.Node) -> bool:
    """Whether it excludes all that is older than some time, as newest first would not."""
    if isinstance(bound, tree.Between):
        return not bound.negated
    return isinstance(bound, tree.NumberCompare) and bound.op in (">", ">=", "=")


def _names(item: tree.Node, fields: Sequence[tree.TraceText]) -> bool:
    """Whether it requires one of some values of one of the fields."""
    if isinstance(item, tree.In):
        return not item.negated and item.field in fields
    return isinstance(item, tree.TextCompare) and item.op == "=" and item.field in fields
''',
"insights_engine.occurrences": r'''"""How often each number occurs in a column of a block, where most of it is asked about.

A facet over everything would count 200,000 numbers to sum up what is always the same:
a session keeps the counts of all positions of a block that the index answers for, and
counts only what a question leaves out.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

from insights_engine import bitmaps
from insights_engine.cache import CACHE
from insights_engine.groups import Block


class Whole(NamedTuple):
    """How often each number occurs at some positions."""

    positions: int
    numbers: array[int]
    counts: array[int]

    @classmethod
    def of(cls, positions: int, counts: Mapping[int, int]) -> Whole:
        """Made of the counts by number."""
        return cls(positions, array("i", counts.keys()), array("i", counts.values()))

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return (self.positions.bit_length() >> 3) + 8 * len(self.numbers)

    def by_number(self) -> dict[int, int]:
        """The counts by number."""
        return dict(zip(self.numbers, self.counts))


def of_some(
    key: Hashable, block: Block, universe: int, column: Sequence[int], bits: int
) -> Mapping[int, int]:
    """How often each number occurs in a column at some positions of a block.

    ``universe`` are those for which the index answers, and ``key`` stands for what the
    column is of.  A number that does not occur may be there with 0.
    """
    if 2 * bitmaps.count(bits) <= bitmaps.count(universe):
        return Counter(bitmaps.chosen(column, bits))
    own_key = ("occurrences", key)
    known = CACHE.columns(own_key).get(block.block)
    if not isinstance(known, Whole) or known.positions != universe:
        known = Whole.of(universe, Counter(bitmaps.chosen(column, universe)))
        CACHE.keep(own_key, {block.block: known})
    found = known.by_number()
    for number, count in Counter(bitmaps.chosen(column, universe & ~bits)).items():
        found[number] -= count
    return found
''',
"insights_engine.options": r'''"""What a caller may choose in a discovery, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

from insights_engine import fields
from insights_engine.candidates import KINDS
from insights_engine.errors import InsightsError, positive, visible
from insights_engine.search import check_max_results
from insights_engine.sessions import check_unit

DIRECTIONS = ("positive", "negative", "both")


class Options(NamedTuple):
    """The options of ``insights_discover`` and ``insights_compare``."""

    kinds: frozenset[str]
    min_support: int
    max_results: int
    fdr: float
    direction: str
    pairs: bool
    restatements: bool
    unit: str


def options(
    kinds: Optional[Sequence[Any]],
    min_support: Optional[int],
    max_results: Optional[int],
    fdr: Optional[float],
    direction: Optional[str],
    pairs: Optional[bool],
    restatements: Optional[bool],
    unit: Optional[str],
) -> Options:
    """The options, with what NULL stands for.  Raises InsightsError."""
    if kinds is None:
        chosen = frozenset(KINDS)
    else:
        chosen = frozenset([_one_of("kind", kind, KINDS) for kind in kinds])
    support = positive(
        min_support,
        "min_support",
        "Facts of fewer units of the base are not tested; the default is 5.",
    )
    if fdr is None or not (math.isfinite(fdr) and 0 < fdr <= 1):
        raise InsightsError(
            f"Invalid value {_shown(fdr)} for parameter 'fdr' supplied. "
            "It must be greater than 0 and at most 1",
            hint="The false discovery rate is the share of the rows that may be chance: "
            "0.05 is one in twenty.",
        )
    return Options(
        chosen,
        support,
        check_max_results(max_results),
        fdr,
        _one_of("direction", direction, DIRECTIONS),
        bool(pairs),
        bool(restatements),
        check_unit(unit),
    )


def _shown(given: Optional[float]) -> str:
    return "NULL" if given is None else str(given)


def _one_of(name: str, given: Any, known: Sequence[str]) -> str:
    if given in known:
        return str(given)
    shown = "NULL" if given is None else f"'{visible(str(given), 60)}'"
    near = None if given is None else fields.nearest(str(given), known)
    listed = ", ".join(f"'{one}'" for one in known)
    raise InsightsError(
        f"Invalid {name} {shown}.",
        hint=f"Did you mean '{near}'? Possible are {listed}."
        if near
        else f"Possible are {listed}.",
    )


def goes(table: tuple[int, int, int, int], direction: str) -> bool:
    """Whether the cells (n11, n10, n01, n00) of target and fact go in a direction."""
    n11, n10, n01, n00 = table
    determinant = n11 * n00 - n10 * n01
    if direction == "positive":
        return determinant > 0
    return determinant < 0 if direction == "negative" else determinant != 0
''',
"insights_engine.ordering": r'''"""The clauses of ``order_by``: what MLflow takes, and every other field with one value.

Missing values come last, ascending and descending.  ``timestamp_ms DESC`` and
``trace_id ASC`` are appended unless a clause orders by them already, so the
order is total.

``feedback.x``, ``expectation.x`` and ``assessment.x`` order by the trace's own
newest valid assessment of that name (by last update, then creation, then id).
Its values order so: numbers by value, then all others, booleans included, by
their decoded text (of long texts the first 1,000 characters); DESC is the exact
reverse, except that JSON's null counts as missing and stays last.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional, Union

from insights_engine import fields, tree
from insights_engine.errors import InsightsError, visible
from insights_engine.rawsql import Params

MAX_CLAUSES = 32

# What tells one trace from all others, newest first: MLflow's tie-breakers.
_TIME = tree.TraceNumber("timestamp_ms")
_ID = tree.TraceText("trace_id")

_HINT = "A clause is a field, optionally followed by ASC or DESC: timestamp_ms DESC, tags.env."

# A name, plain or in one of the quotes, and whatever stands between the dots.
_QUOTED = r"`[^`]+`|\"[^\"]*\"|'[^']*'"
_CLAUSE = re.compile(
    rf"""
    (?P<entity>{_QUOTED}|[^\s.,;()\[\]`"']+)
    (?:
        \.(?P<key>(?:{_QUOTED}|[^\s,;()\[\]`"'])*)
      | \[(?P<bracket>'(?:[^']|'')*'|"(?:[^"]|"")*")\]
    )?
    (?:\s+(?P<rest>\S.*))?
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class Clause:
    """One clause: a field of the trace and its direction."""

    field: tree.TraceField
    descending: bool = False

    def __str__(self) -> str:
        return fields.spell(self.field) + (" DESC" if self.descending else " ASC")


@dataclass(frozen=True)
class SortColumn:
    """One SQL expression to sort by, over the alias ``t`` and the order's joins."""

    expression: str
    type: str
    nullable: bool
    descending: bool

    def __str__(self) -> str:
        direction = " desc" if self.descending else ""
        # An index on a column without nulls only serves if nothing is said
        # about nulls where they would come first by default.
        return f"{self.expression}{direction}{' nulls last' if self.nullable else ''}"


# --------------------------------------------------------------------- parsing


def parse_order(clauses: Optional[Sequence[Optional[str]]]) -> tuple[Clause, ...]:
    """The clauses, the tie-breakers included.  Raises InsightsError."""
    clauses = clauses or ()
    if len(clauses) > MAX_CLAUSES:
        raise InsightsError(f"`order_by` has more than {MAX_CLAUSES} clauses.")
    order = [_parse_clause(clause) for clause in clauses]
    seen = [clause.field for clause in order]
    if len(set(seen)) < len(seen):
        shown = [visible(clause or "", 100) for clause in clauses]
        raise InsightsError(
            f"`order_by` contains duplicate fields: {shown}",
            hint="Name each field once; timestamp and timestamp_ms are the same field.",
        )
    if _TIME not in seen:
        order.append(Clause(_TIME, descending=True))
    if _ID not in seen:
        order.append(Clause(_ID))
    return tuple(order)


def _parse_clause(clause: Optional[str]) -> Clause:
    if not isinstance(clause, str):
        raise InsightsError("`order_by` must be an array of texts without NULL.", hint=_HINT)
    match = _CLAUSE.fullmatch(clause.strip())
    if match is None:
        raise _unreadable(clause)
    rest = (match["rest"] or "asc").split()
    if len(rest) > 1:
        raise _unreadable(clause)
    direction = rest[0].lower()
    if direction not in ("asc", "desc"):
        raise InsightsError(
            f"Invalid ordering key in order_by clause '{visible(clause, 100)}'.", hint=_HINT
        )
    return Clause(_resolve(match), direction == "desc")


def _unreadable(clause: str) -> InsightsError:
    return InsightsError(
        f"Invalid order_by clause '{visible(clause, 100)}'. Could not be parsed.", hint=_HINT
    )


def _unquoted(name: str) -> str:
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] and name[0] in "`\"'" else name


def _resolve(match: re.Match[str]) -> tree.TraceField:
    entity_name = _unquoted(match["entity"])
    if match["key"] is None and match["bracket"] is None:
        return _attribute(entity_name)
    entity = fields.ENTITIES.get(entity_name)
    if entity is None:
        guess = fields.nearest(entity_name, list(fields.ENTITIES))
        raise InsightsError(
            f"Invalid entity type '{visible(entity_name, 60)}'. "
            f"Valid values are {_set(fields.ENTITIES)}",
            hint=f"did you mean {guess}?" if guess else None,
        )
    if match["bracket"] is not None:
        quote = match["bracket"][0]
        key = match["bracket"][1:-1].replace(quote * 2, quote)
        return _keyed(entity, key, clean=False)
    key = "".join(_unquoted(part) for part in re.findall(rf"{_QUOTED}|[^`\"']+", match["key"]))
    return _keyed(entity, key, clean=True)


def _set(names: Union[Sequence[str], dict[str, str]]) -> str:
    return "{" + ", ".join(repr(name) for name in sorted(names)) + "}"


#: The attributes of a trace with one value each.
_ATTRIBUTES = {
    name: field
    for name, field in fields.TRACE_FIELDS.items()
    if isinstance(field, (tree.TraceText, tree.TraceNumber)) and name != "prompt"
}


def _attribute(key: str) -> tree.TraceField:
    field = _ATTRIBUTES.get(key)
    if field is None:
        guess = fields.nearest(key, list(_ATTRIBUTES))
        raise InsightsError(
            f"Invalid attribute key '{visible(key, 60)}' specified. "
            f"Valid keys are '{_set(list(_ATTRIBUTES))}'",
            hint=f"did you mean {guess}?" if guess else None,
        )
    return field


def _keyed(entity: str, key: str, clean: bool) -> tree.TraceField:
    """The field ``entity.key``, or ``entity['key']`` without MLflow's remapping."""
    if entity == "trace":
        return _attribute(key)
    if entity == "span":
        raise _no_order("span")
    if clean:
        remapped = fields.KEY_TO_FIELD.get(key.lower())
        if isinstance(remapped, tree.SpanText):
            raise _no_order("span")
        if isinstance(remapped, tree.TraceText):
            # Ordering by links is ordering by the tag that MLflow once kept.
            return tree.Tag("mlflow.linkedPrompts") if remapped.name == "prompt" else remapped
        key = fields.KEY_TO_KEY.get(key.lower(), key)
    if entity == "tags":
        promoted = fields.PROMOTED_TAGS.get(key)
        return promoted if promoted == tree.TraceText("name") else tree.Tag(key)
    if entity == "metadata":
        if key in fields.USAGE_METADATA:
            raise InsightsError(
                f"Ordering by reserved metadata '{key}' is not supported because it is "
                "represented by multiple columns.",
                hint="Order by total_tokens or total_cost, for example.",
            )
        promoted_metadata = fields.PROMOTED_METADATA.get(key)
        if isinstance(promoted_metadata, tree.TraceText):
            return promoted_metadata
        return tree.Metadata(key)
    if entity == "issue":
        raise _no_order("issue")
    if not key:
        raise InsightsError("Assessment field name cannot be empty", hint=_HINT)
    return tree.Assessment(entity, key)


def _no_order(kind: str) -> InsightsError:
    return InsightsError(
        f"Invalid identifier type '{kind}'",
        hint="Traces can be ordered by their own fields, tags.x, metadata.x, feedback.x, "
        "expectation.x and assessment.x.",
    )


# ------------------------------------------------------------------- compiling

_COLUMNS = {
    "trace_id": SortColumn("t.request_id", "text", False, False),
    "experiment_id": SortColumn("t.experiment_id", "bigint", False, False),
    "status": SortColumn("t.status", "text", False, False),
    "client_request_id": SortColumn("t.client_request_id", "text", True, False),
    "name": SortColumn("t.trace_name", "text", True, False),
    "session_id": SortColumn("t.session_id", "text", True, False),
    "request_preview": SortColumn("t.request_preview", "text", True, False),
    "response_preview": SortColumn("t.response_preview", "text", True, False),
    "timestamp_ms": SortColumn("t.timestamp_ms", "bigint", False, False),
    # numeric, because two bigints can add up to more than one.
    "end_time_ms": SortColumn(
        "(t.timestamp_ms::numeric + coalesce(t.execution_time_ms, 0))", "numeric", False, False
    ),
}

_METADATA_KEYS = {"user": "mlflow.trace.user", "run_id": "mlflow.sourceRun"}


def compile_order(
    order: Sequence[Clause], params: Params, schema: str
) -> tuple[list[SortColumn], str]:
    """The expressions to sort by, and the joins (with ``t``) that they need."""
    columns: list[SortColumn] = []
    joins: list[str] = []
    for number, clause in enumerate(order):
        alias = f"o{number}"
        found, join = _compile(clause.field, alias, params, schema)
        if join:
            joins.append(join)
        columns += [
            SortColumn(column.expression, column.type, column.nullable, clause.descending)
            for column in found
        ]
    return columns, "\n".join(joins)


def _compile(
    field: tree.TraceField, alias: str, params: Params, schema: str
) -> tuple[list[SortColumn], str]:
    if isinstance(field, tree.TraceText) and field.name in _METADATA_KEYS:
        field = tree.Metadata(_METADATA_KEYS[field.name])
    if isinstance(field, (tree.Tag, tree.Metadata)):
        table = "trace_tags" if isinstance(field, tree.Tag) else "trace_request_metadata"
        key = params.add(field.key, "text")
        join = (
            f"left join {schema}.{table} {alias}"
            f" on {alias}.request_id = t.request_id and {alias}.key = {key}"
        )
        return [SortColumn(f"{alias}.value", "text", True, False)], join
    if isinstance(field, tree.Assessment):
        columns = [
            SortColumn(f"{alias}.kind", "bigint", True, False),
            SortColumn(f"{alias}.number", "double precision", True, False),
            SortColumn(f"{alias}.text", "text", True, False),
        ]
        return columns, _newest_assessment(field, alias, params, schema)
    if isinstance(field, tree.Issue):
        raise _no_order("issue")
    if field.name == "span_count":
        join = (
            f"cross join lateral (select count(*) as value from {schema}.spans s"
            f" where s.trace_id = t.request_id and s.experiment_id = t.experiment_id) {alias}"
        )
        return [SortColumn(f"{alias}.value", "bigint", False, False)], join
    column = _COLUMNS.get(field.name)
    if column is None:
        type_ = "double precision" if field.name.endswith("_cost") else "bigint"
        column = SortColumn(f"t.{field.name}", type_, True, False)
    return [column], ""


def _newest_assessment(field: tree.Assessment, alias: str, params: Params, schema: str) -> str:
    kinds = ["feedback", "expectation"] if field.kind == "assessment" else [field.kind]
    name = params.add(field.name, "text")
    types = params.add(kinds, "text[]")
    return f"""left join lateral (
    select
        case when a.is_numeric_value then 0 when v.text is not null then 1 end as kind,
        case when a.is_numeric_value then a.aggregate_value end as number,
        case when a.is_numeric_value then null else v.text end as text
    from (
        select a.is_numeric_value, a.aggregate_value, a.value
        from {schema}.assessments a
        where a.trace_id = t.request_id and a.name = {name}
            and a.assessment_type = any({types}) and a.valid
        order by a.last_updated_timestamp desc, a.created_timestamp desc, a.assessment_id desc
        limit 1
    ) a
    cross join lateral (select pg_catalog.left(insights.json_text(a.value), 1000) as text) v
) {alias} on true"""
''',
"insights_engine.paging": r'''"""Page tokens: where the next page of a search begins.

A token holds the sort values of the last row of its page, so the next page is
"what comes after this row" and stays right while traces arrive or vanish; an
offset would repeat or skip rows then.  It is base64url text around JSON::

    [fingerprint, now, [values], checksum]

``fingerprint`` stands for the experiments, the filter and the order: a token
continues the search that gave it and no other.  ``now`` is the time that
``now()`` in the filter stood for on the first page and keeps standing for.
The values are exact (no rounding) and reach SQL as parameters only.  The
checksum finds accidents and edits; it is no secret, since whoever makes up a
token merely asks for another part of an answer that is theirs anyway.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

from insights_engine.errors import InsightsError, visible
from insights_engine.ordering import SortColumn
from insights_engine.rawsql import Params

SortValue = Union[str, int, float, None]

# 32 sort values of 8,000 characters that JSON escapes to 12 bytes each fit.
MAX_TOKEN = 8 * 1024 * 1024

_HINT = (
    "A token continues the search that returned it, with the same experiments, filter and "
    "order; leave it out to begin with the first page."
)
_DECIMAL = re.compile(r"-?[0-9]{1,40}")
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class Position:
    """The row after which a page begins, and the time the search began (ms)."""

    values: tuple[SortValue, ...]
    now_ms: int


def fingerprint(experiments: Optional[Sequence[int]], filter: str, order: Sequence[str]) -> str:
    """What a token must have in common with the search it is used for.

    ``filter`` and ``order`` in canonical form, ``experiments`` sorted.
    """
    search = json.dumps([experiments, filter, list(order)])
    return hashlib.sha256(search.encode()).hexdigest()[:32]


def encode(position: Position, fingerprint: str) -> str:
    """The token for the page after ``position``."""
    values = [_to_json(value) for value in position.values]
    body = [fingerprint, position.now_ms, values]
    text = json.dumps([*body, _checksum(body)], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(token: str, fingerprint: str, columns: Sequence[SortColumn]) -> Position:
    """The position that a token stands for.  Raises InsightsError."""
    body = _read(token)
    if not (
        isinstance(body, list)
        and len(body) == 4
        and isinstance(body[0], str)
        and type(body[1]) is int
        and abs(body[1]) < 2**63
        and isinstance(body[2], list)
    ):
        hint = _HINT
        if isinstance(body, dict) and "offset" in body:
            hint = "This is an offset token of MLflow's own search. " + _HINT
        raise _invalid(f"parsed value={visible(repr(body), 100)}", hint)
    if body[3] != _checksum(body[:3]):
        raise _invalid("it has been changed or cut off")
    if body[0] != fingerprint:
        raise _invalid("it belongs to another search")
    if len(body[2]) != len(columns):
        raise _invalid("it has been changed or cut off")
    return Position(tuple(map(_from_json, body[2], columns)), body[1])


def _read(token: str) -> Any:
    if len(token) > MAX_TOKEN:
        raise _invalid(f"it is longer than {MAX_TOKEN} characters")
    try:
        text = token.strip().rstrip("=").encode("ascii")
        # MLflow's tokens use the other alphabet; reading both gives those a
        # better message than "could not base64-decode".
        text = text.replace(b"-", b"+").replace(b"_", b"/")
        raw = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise _invalid("could not base64-decode") from None
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise _invalid(f"decoded value={visible(repr(raw), 100)}") from None


def _invalid(reason: str, hint: str = _HINT) -> InsightsError:
    return InsightsError(f"Invalid page token, {reason}", hint=hint)


def _checksum(body: list[Any]) -> str:
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()[:16]


def _to_json(value: SortValue) -> Union[SortValue, dict[str, str]]:
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if value is None or isinstance(value, (str, int, float)):
        return value
    return str(value)  # numeric arrives as a Decimal


def _from_json(value: Any, column: SortColumn) -> SortValue:
    """A value of a token, if the column can have it."""
    if value is None and column.nullable:
        return None
    if column.type == "text":
        if isinstance(value, str) and _storable(value):
            return value
    elif column.type == "bigint":
        if type(value) is int and -(2**63) <= value < 2**63:
            return value
    elif column.type == "numeric":
        if isinstance(value, str) and _DECIMAL.fullmatch(value):
            return value
    elif isinstance(value, dict):
        if list(value) == ["float"] and value["float"] in _SPECIAL:
            return _SPECIAL[value["float"]]
    elif type(value) is float:
        return value
    raise _invalid("it has been changed or cut off")


def _storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def after(columns: Sequence[SortColumn], values: Sequence[SortValue], params: Params) -> str:
    """The SQL condition that a row comes after ``values`` in the order.

    Lexicographic: a row is after if it is after in the first column, or equal
    there and after in the rest.  Nulls are equal to each other and after all
    else, whatever the direction.
    """
    names = [
        None if value is None else params.add(value, column.type)
        for column, value in zip(columns, values)
    ]
    condition = ""
    for column, name in reversed(list(zip(columns, names))):
        equal = f"{column.expression} {'is null' if name is None else f'= {name}'}"
        beyond = _beyond(column, name)
        parts = [beyond] if beyond else []
        if condition:
            parts.append(f"{equal} and {condition}")
        if not parts:
            condition = "false"
        elif len(parts) == 1:
            condition = f"({parts[0]})"
        else:
            condition = f"({parts[0]} or ({parts[1]}))"
    first, name = columns[0], names[0]
    if name is not None and not first.nullable:
        # Says nothing new, but can be an index's bound, which OR cannot.
        comparator = "<=" if first.descending else ">="
        condition = f"({first.expression} {comparator} {name} and {condition})"
    return condition


def _beyond(column: SortColumn, name: Optional[str]) -> Optional[str]:
    """That the column's value comes after the parameter; None: nothing does."""
    if name is None:
        return None
    further = f"{column.expression} {'<' if column.descending else '>'} {name}"
    return f"({further} or {column.expression} is null)" if column.nullable else further
''',
"insights_engine.pairing": r'''"""Pairs of facts, ``a AND b``, that go with a target more strongly than either alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple, Optional

from insights_engine import ranking, statistics
from insights_engine.findings import NOTHING, Found, Searched, Tested, strength, table
from insights_engine.grouping import grouped
from insights_engine.independence import g_squared
from insights_engine.multiple import TargetTests
from insights_engine.options import Options, goes
from insights_engine.units import Traces

#: Pairs are made of so many of the strongest facts, and of the most significant others.
MOST_MEMBERS = 25


def tested_pairs(units: Traces, found: Sequence[Found], options: Options) -> list[Tested]:
    """Every pair of the facts that matter most, with p = 1 where it is not the stronger one.

    No more units have both facts than have the rarer of them, which rules most
    pairs out before anything is counted.
    """
    facts: list[Tested] = []
    likely: list[tuple[Found, Found]] = []
    members = _members(units, found)
    for number, one in enumerate(members):
        for other in islice(members, number + 1, None):
            if _may_be_stronger(units, one, other, options):
                likely.append((one, other))
            else:
                facts.append(NOTHING)
    counts = units.both([(one.fact.name, other.fact.name) for one, other in likely])
    for (one, other), (among, joint) in zip(likely, counts):
        if not options.min_support <= among < units.total:
            facts.append(NOTHING)
            continue
        name = ("a", one.fact.name, other.fact.name)
        pair = Tested(name, among, joint, 1.0, "", _search(one, other))
        alone = [(member.fact.among, member.fact.joint) for member in (one, other)]
        facts.append(tested_pair(units, pair, alone, options))
    return facts


def tested_pair(
    units: Traces,
    pair: Tested,
    members: Sequence[tuple[int, int]],
    options: Options,
) -> Tested:
    """A pair with its p value; ``members`` are the counts of base and target of its facts.

    Two facts that go with the target do so together as well, which is no news.  News
    are pairs in which each fact tells something among the traces that have the other:
    p is the largest of both tests and that of the pair itself, as all three have to
    hold (Berger, Technometrics 24, 1982).
    """
    counts = (pair.among, pair.joint)
    if not _is_stronger(units, counts, members, options):
        return NOTHING
    tests = [TargetTests(units.target, units.total)]
    for among, joint in members:
        if not goes(statistics.Counts(joint, *counts, among).table, options.direction):
            return NOTHING
        tests.append(TargetTests(joint, among))
    p_values = [test.p_value(*counts) for test in tests]
    weakest = max(range(len(tests)), key=p_values.__getitem__)
    p_value = p_values[weakest]
    test = f"both count, {tests[weakest].test(pair.among)}"
    if pair.search is not None:
        p_value = pair.search.price(p_value)
        test = f"best of {pair.search.searched} splits, {test}"
    return pair._replace(p_value=p_value, test=test)


class _Searches(NamedTuple):
    """The searches for the thresholds that a pair is made of."""

    searches: tuple[Searched, ...]

    @property
    def searched(self) -> int:
        """How many thresholds were compared."""
        return sum([search.searched for search in self.searches])

    def price(self, p: float) -> float:
        """Pays for all of them."""
        return min(1.0, sum([search.price(p) for search in self.searches]))


def _search(one: Found, other: Found) -> Optional[_Searches]:
    searches = [one.fact.search, other.fact.search]
    found = tuple([search for search in searches if search is not None])
    return _Searches(found) if found else None


def _is_stronger(
    units: Traces,
    pair: tuple[int, int],
    members: Sequence[tuple[int, int]],
    options: Options,
) -> bool:
    """Whether a pair says more than its members; all given as counts of base and target."""
    needed = max(strength(units, among, joint, options) for among, joint in members)
    return strength(units, *pair, options) > needed and not any(
        # Nearly all of one fact with the other is that fact once more.
        ranking.near_identical(among, pair[0], pair[0], units.total)
        for among, _ in members
    )


def _members(units: Traces, found: Sequence[Found]) -> list[Found]:
    """The facts that pairs are made of: the strongest, and the most significant.

    Of near-identical ones only the strongest is among them.
    """
    evident = sorted(
        found, key=lambda one: -g_squared(*table(units, one.fact.among, one.fact.joint))
    )
    some = [*found[: 2 * MOST_MEMBERS], *evident[: 2 * MOST_MEMBERS]]
    distinct = sorted({one.fact.name: one for one in some}.values(), key=lambda one: one.order)
    leaders = [shown.found for shown in grouped(units, distinct, True, len(distinct))]
    chosen = leaders[:MOST_MEMBERS]
    rank = {one.fact.name: place for place, one in enumerate(evident)}
    others = sorted(leaders[MOST_MEMBERS:], key=lambda one: rank[one.fact.name])
    return chosen + others[:MOST_MEMBERS]


def _may_be_stronger(units: Traces, one: Found, other: Found, options: Options) -> bool:
    """Whether a pair can be stronger than both of its members."""
    first, second = one.fact, other.fact
    joint = min(first.joint, second.joint)
    outside = min(first.among - first.joint, second.among - second.joint)
    needed = max(one.strength, other.strength)
    best = (
        # All that both have in the target and nothing outside, or the reverse.
        (joint, joint),
        (outside, 0),
    )
    return any(
        strength(units, among, inside, options) > needed
        for among, inside in best
        if among >= options.min_support
    )
''',
"insights_engine.parser": r'''"""Text of a filter in, syntax tree in normal form out."""

from __future__ import annotations

from functools import lru_cache

from insights_engine import tree
from insights_engine.errors import FilterError, visible
from insights_engine.names import Names
from insights_engine.resolver import Resolver
from insights_engine.syntax import parse_syntax
from insights_engine.tokens import OPERATORS, check_text, scan, tokenize


def parse_filter(text: str | None) -> tree.Node:
    """The tree of a filter (None and '' match every trace).

    Raises FilterError.  Results are cached: trees are immutable.
    """
    return _parse_filter(text) if text else tree.EVERYTHING


@lru_cache(maxsize=256)
def _parse_filter(text: str) -> tree.Node:
    return _resolve(text).filter()


def parse_conjunction(*texts: str | None) -> tree.Node:
    """All of the filters ANDed into one.

    The scope rule for spans sees them as one text: plain ``span.*`` conditions
    of different filters speak of the same span.  A filter with OR counts as
    parenthesised.  Raises FilterError, placed in the text that is wrong.
    """
    return _parse_conjunction(tuple(text for text in texts if text))


@lru_cache(maxsize=256)
def _parse_conjunction(texts: tuple[str, ...]) -> tree.Node:
    if len(texts) == 1:
        return _parse_filter(texts[0])
    return Resolver.conjunction([_resolve(text) for text in texts])


def parse_field(text: str) -> tree.Field:
    """The field that ``text`` names, as in a filter.  Raises FilterError."""
    check_text(text)
    tokens = tokenize(text)
    if len(tokens) != 1 or tokens[0].kind not in ("FIELD", "DOUBLE_QUOTED"):
        raise FilterError(
            "expected the name of one field",
            tokens[0].start if tokens else None,
            tokens[-1].end - tokens[0].start if tokens else 1,
            "For example timestamp_ms, tags.environment or span.attributes['model'].",
            text,
        )
    return Names(text).field(tokens[0])


def _resolve(text: str) -> Resolver:
    check_text(text)
    if not text.strip():
        raise FilterError(
            f"Invalid filter '{visible(text, 60)}'. Could not be parsed.",
            hint="The filter that matches every trace is the empty string.",
            filter=text,
        )
    try:
        return _resolve_once(text, escaped_quotes=False)
    except FilterError:
        # MLflow's lexer lets a backslash keep a quote inside a string.  Such a
        # filter is read, too, but only if it makes no sense otherwise.
        if "\\'" not in text and '\\"' not in text:
            raise
        try:
            return _resolve_once(text, escaped_quotes=True)
        except FilterError:
            pass
        raise


def _resolve_once(text: str, *, escaped_quotes: bool) -> Resolver:
    try:
        raw = parse_syntax(text, escaped_quotes=escaped_quotes)
    except FilterError as error:
        if error.position is not None:
            _check_names(text, error.position, escaped_quotes=escaped_quotes)
        raise
    resolver = Resolver(text, raw)
    resolver.resolve()
    return resolver


def _check_names(text: str, end: int, *, escaped_quotes: bool) -> None:
    """Raise for a wrong name before ``end``: the first error is the one to tell."""
    names = Names(text)
    before = None
    for token in scan(text, escaped_quotes=escaped_quotes):
        if before is not None and before.kind == "FIELD" and token.kind in OPERATORS:
            names.field(before)
        if token.end >= end:
            break
        before = token
''',
"insights_engine.parts": r'''"""Traces that a discovery is about, by position: a part of them at a time.

A part is a block of the index, or some traces that the index does not answer for
(see `unindexed`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from itertools import chain
from typing import Any, Optional

from insights_engine import bitmaps, cells, plans, stored_cells
from insights_engine.cache import CACHE
from insights_engine.candidates import Items, Name
from insights_engine.cells import Cells, Cuts, Sliced
from insights_engine.columns import Columns, united
from insights_engine.groups import Block, all_positions
from insights_engine.terms import LARGE_BLOCK

#: About what there is beside the numbers of a field that are kept.
_BYTES_OF_A_COLUMN = 250


class Part(ABC):
    """Some traces by position: which are in the base, and which in the target as well."""

    def __init__(self, used: int, base: int, target: int) -> None:
        self.used = used
        self.base = base
        self.target = target

    def without_target(self) -> Part:
        """The same, of what is not in the target."""
        found = copy(self)
        found.base &= ~self.target
        found.target = 0
        return found

    @abstractmethod
    def columns(self) -> Columns:
        """The items that the traces have."""

    def sets(self, items: Iterable[int]) -> dict[int, int]:
        """The traces that have some items, as far as there are any."""
        return self.columns().sets(items)

    @abstractmethod
    def cells(self, cuts: Mapping[Name, Cuts]) -> dict[Name, Cells]:
        """Where their numbers lie."""

    def known_cells(self, cuts: Mapping[Name, Cuts]) -> dict[Name, Cells]:
        """The same of the fields for which it is quickly told."""
        return self.cells(cuts)

    @abstractmethod
    def sample(self, names: Sequence[Name]) -> dict[Name, Sequence[int]]:
        """Some of the numbers in the base, for `cells.choose_cuts`; all of few traces."""

    @abstractmethod
    def trace_ids(self) -> Sequence[Optional[str]]:
        """The trace at each position, where there is one in the base."""


#: By block and field: slices that were read, and will be read again at once.
AtHand = dict[int, dict[Name, Sequence[Sliced]]]


class Indexed(Part):
    """A block."""

    def __init__(
        self,
        plpy: Any,
        items: Items,
        block: Block,
        base: int,
        target: int,
        at_hand: AtHand,
    ) -> None:
        super().__init__(block.used, base, target)
        self._plpy = plpy
        self._items = items
        self._at_hand = at_hand
        self.block = block

    def columns(self) -> Columns:
        known = CACHE.column(self.block.block, "columns")
        if isinstance(known, Columns):
            return known
        found = self._read()
        CACHE.keep_column(self.block.block, "columns", found, found.size)
        return found

    def sets(self, items: Iterable[int]) -> dict[int, int]:
        wanted = set(items)
        known = CACHE.column(self.block.block, "columns")
        if isinstance(known, Columns):
            doubts = wanted.intersection(known.doubts)
            found = known.sets(wanted - doubts)
            return {**found, **self._stored_sets(doubts)} if doubts else found
        return self._stored_sets(wanted)

    def _stored_sets(self, wanted: set[int]) -> dict[int, int]:
        of_term = self._items.terms_of(wanted)
        stored: dict[int, list[bytes]] = {}
        for term, members in self._postings(list(of_term)):
            for item in wanted.intersection(of_term[term]):
                stored.setdefault(item, []).append(members)
        found = {item: united(several, self.used) for item, several in stored.items()}
        experiment = self._items.number(("e", self.block.experiment_id))
        if experiment in wanted:
            found[experiment] = all_positions(self.used)
        return found

    def cells(self, cuts: Mapping[Name, Cuts]) -> dict[Name, Cells]:
        found = self.known_cells(cuts)
        rest = {name: chosen for name, chosen in cuts.items() if name not in found}
        if rest:
            found.update(self.worked_out(rest))
        for name, one in found.items():
            if CACHE.column(self.block.block, name) is not one:
                CACHE.keep_column(self.block.block, name, one, one.size)
        return found

    def known_cells(self, cuts: Mapping[Name, Cuts]) -> dict[Name, Cells]:
        """The cells that the session knows, or that are stored with the index."""
        found: dict[Name, Cells] = {}
        for name, chosen in cuts.items():
            known = CACHE.column(self.block.block, name)
            if isinstance(known, Cells) and known.cuts == chosen:
                found[name] = known
        lacking = {name: chosen for name, chosen in cuts.items() if name not in found}
        if lacking and self.used >= LARGE_BLOCK:
            found.update(stored_cells.read(self._plpy, self.block.block, lacking))
        return found

    def worked_out(self, cuts: Mapping[Name, Cuts]) -> dict[Name, Cells]:
        """The cells, of the numbers bit by bit."""
        sliced = self._sliced(cuts)
        return {name: cells.cells_of_slices(sliced[name], chosen) for name, chosen in cuts.items()}

    def sample(self, names: Sequence[Name]) -> dict[Name, Sequence[int]]:
        found: dict[Name, Sequence[int]] = {}
        for name in names:
            known = CACHE.column(self.block.block, ("sample", name))
            if known is not None and known[0] == self.base:
                found[name] = known[1]
        few = bitmaps.count(self.base) <= cells.FEW_TRACES
        lacking = [name for name in names if name not in found]
        sliced = self._sliced(lacking)
        for name in lacking:
            some = [one.sample(self.used, self.base) for one in sliced[name]]
            numbers = found[name] = array("Q", chain.from_iterable(some))
            if few:
                size = 8 * len(numbers) + _BYTES_OF_A_COLUMN
                CACHE.keep_column(self.block.block, ("sample", name), (self.base, numbers), size)
        return found

    def _sliced(self, names: Iterable[Name]) -> Mapping[Name, Sequence[Sliced]]:
        own = self._at_hand.setdefault(self.block.block, {})
        lacking = [name for name in names if name not in own]
        wanted = {
            term: (name, signature, slot)
            for name in lacking
            for signature, slices in self._items.slices.get(name, {}).items()
            for slot, term in slices.items()
        }
        found: dict[Name, dict[int, dict[tuple[str, int], bytes]]] = {}
        for term, members in self._postings(list(wanted)) if wanted else ():
            name, signature, slot = wanted[term]
            found.setdefault(name, {}).setdefault(signature, {})[slot] = members
        for name in lacking:
            own[name] = [Sliced(slices) for slices in found.get(name, {}).values()]
        return own

    def _postings(self, terms: Sequence[int]) -> list[tuple[int, bytes]]:
        (row,) = plans.run(
            self._plpy,
            "select pg_catalog.array_agg(p.term) as terms,"
            " pg_catalog.array_agg(p.members) as members"
            " from insights.posting p where p.block = $1 and p.term = any($2)",
            ("int", "int[]"),
            (self.block.block, terms),
        )
        return list(zip(row["terms"] or (), row["members"] or ()))

    def _read(self) -> Columns:
        (row,) = plans.run(
            self._plpy,
            # Of most terms it is enough to know that they are there, which an index tells.
            "select pg_catalog.array_agg(p.term) as terms from insights.posting p"
            " where p.block = $1",
            ("int",),
            (self.block.block,),
        )
        terms = row["terms"] or ()
        facts_of, doubts_of = self._items.facts_of, self._items.doubts_of
        stored = self._postings([term for term in terms if term in facts_of])
        everywhere = bitmaps.encode_set(all_positions(self.used), self.used)
        experiment = self._items.number(("e", self.block.experiment_id))
        doubts = {item: () for term in terms if term in doubts_of for item in doubts_of[term]}
        return Columns(
            [(-1, everywhere), *stored], {**facts_of, -1: (experiment,)}, doubts, self.used
        )

    def trace_ids(self) -> Sequence[Optional[str]]:
        found: list[Optional[str]] = [None] * self.used
        for row in plans.run(
            self._plpy,
            "select t.position, t.trace_id from insights.trace t where t.block = $1",
            ("int",),
            (self.block.block,),
        ):
            found[row["position"]] = row["trace_id"]
        return found
''',
"insights_engine.planner": r'''"""Turns filters into conditions on the index, by looking up the vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Callable, Optional

from insights_engine import fields, intervals, plans, rawsql, tree
from insights_engine.conditions import (
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
from insights_engine.groups import Terms
from insights_engine.intervals import Intervals
from insights_engine.slices import Series
from insights_engine.span_conditions import (
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
from insights_engine.terms import (
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
        if isinstance(node, tree.And):
            if not node.items:
                return Constant(True)
            return All([self.plan(item) for item in node.items])
        if isinstance(node, tree.Or):
            return Some([self.plan(item) for item in node.items])
        if isinstance(node, tree.Not):
            return Complement(self.plan(node.item))
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
        condition: Callable[[rawsql._Compiler], str],
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

    def _compiler(self, params: rawsql.Params) -> rawsql._Compiler:
        scope = None if self._experiments is None else list(self._experiments)
        return rawsql._Compiler(params, self._schema, scope, self.now_ms, "set")

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
        columns = rawsql._SYNTHESISED[key]
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
        if isinstance(node, (tree.AnySpan, tree.CountSpans, tree.AggregateSpans)):
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


def _columns(condition: Optional[tree.Node]) -> list[tree.Predicate]:
    """The predicates on type, name and status in a span condition, each once."""
    found: dict[tree.Predicate, None] = {}
    todo = [] if condition is None else [condition]
    while todo:
        node = todo.pop()
        if isinstance(node, (tree.And, tree.Or)):
            todo.extend(node.items)
        elif isinstance(node, tree.Not):
            todo.append(node.item)
        elif isinstance(node, (tree.AnySpan, tree.CountSpans, tree.AggregateSpans)):
            raise TypeError(f"a span quantifier within a span condition: {node}")
        elif _is_column(node):
            found[node] = None
    return list(found)


def _is_duration(node: tree.Node) -> TypeGuard[tree.Predicate]:
    """Whether a node is a predicate on the duration of a span."""
    if isinstance(
        node, (tree.And, tree.Or, tree.Not, tree.AnySpan, tree.CountSpans, tree.AggregateSpans)
    ):
        return False
    return isinstance(node.field, tree.SpanNumber)


def _is_column(node: tree.Node) -> TypeGuard[tree.Predicate]:
    """Whether a node is a predicate on the type, name or status of a span."""
    if isinstance(
        node, (tree.And, tree.Or, tree.Not, tree.AnySpan, tree.CountSpans, tree.AggregateSpans)
    ):
        return False
    return isinstance(node.field, tree.SpanText) and node.field.name != "content"


def _assessed(sql: rawsql._Compiler, node: tree.Predicate) -> str:
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
''',
"insights_engine.plans": r'''"""Prepared statements that a session keeps, by their text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: More different texts than any workload needs at a time; then all start anew.
_MOST = 500
#: Of longer texts the plan takes more memory than planning again takes time.
_LONGEST = 10_000

_kept: dict[tuple[str, tuple[str, ...]], Any] = {}


def run(plpy: Any, sql: str, types: Sequence[str] = (), values: Sequence[Any] = ()) -> Any:
    """The rows of ``sql``, prepared once a session.

    For statements whose text does not depend on the data.  PostgreSQL plans them
    anew when a table changes, and decides itself whether the parameters matter.
    """
    key = (sql, tuple(types))
    plan = _kept.get(key)
    if plan is None and len(sql) > _LONGEST:
        plan = plpy.prepare(sql, list(types))
    elif plan is None:
        if len(_kept) >= _MOST:
            _kept.clear()
        plan = _kept[key] = plpy.prepare(sql, list(types))
    return plpy.execute(plan, list(values))
''',
"insights_engine.population": r'''"""The traces that a discovery is about, in parts: their items, base and target.

A part is a block of the index, or some traces that the index does not answer for:
those that changed since, or all where there is no index to be used.  The sets of
base and target are exact in all parts; what is not known of a trace's facts is an
item of its own (see `candidates`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Optional

from insights_engine import bitmaps, cells, large_blocks, plans, stored_cells, tree
from insights_engine.cache import CACHE
from insights_engine.candidates import MARK_OF_SESSIONS, Items, Name, node_of, uncertain_by
from insights_engine.cells import Cuts
from insights_engine.groups import Block, all_positions
from insights_engine.index_reader import Index, Prepared, decided, open_index, prepare
from insights_engine.interrupts import Watched
from insights_engine.parts import AtHand, Indexed, Part
from insights_engine.rows import Placed
from insights_engine.statement import Statement
from insights_engine.unindexed import Unindexed

#: Traces that are not indexed are read so many at a time, ...
READ_AT_ONCE = 4_000
#: ... and these bytes of what was found in them are kept, to be looked at again.
KEPT_BYTES = 64 * 2**20

#: Cuts are chosen from a sample, unless there are few traces, among no more positions than these.
FEW_POSITIONS = 2 * bitmaps.POSITIONS

#: Fields whose slices are in memory at once.
SERIES_AT_ONCE = 8

#: With no more positions than these, a session keeps what single facts match.
KEPT_POSITIONS = 1_000_000

#: Whatever a filter asks, facts about assessments are looked at.
_ASSESSED = tree.IsNull(tree.Assessment("assessment", "any"), negated=True)


def _passing(node: tree.Node) -> Prepared:
    """A filter of which a session keeps nothing."""
    found = Prepared(node)
    found.leaves = [leaf._replace(lasting=False) for leaf in found.leaves]
    found.lasting = False
    return found


class Population:
    """The parts; ``base`` and ``target`` are filters, of which the second includes the first."""

    def __init__(self, plpy: Any, statement: Statement, base: tree.Node, target: tree.Node) -> None:
        self._plpy = plpy
        self._statement = statement
        self._base = base
        self._target = target
        self._left = KEPT_BYTES
        self._at_hand: AtHand = {}
        #: The index, if it is of use.
        self.index: Optional[Index] = None
        self._known: Optional[Items] = None
        self._blocks: Sequence[Block] = ()
        self.items = Items()
        #: Those of the index come first.
        self.parts: list[Part] = Watched(plpy)
        if statement.experiments == []:
            return
        index = open_index(plpy, statement, (base, target, _ASSESSED))
        if index is None:
            self._add_everything()
        else:
            known = CACHE.items(Items)
            known.read(plpy)
            for block in index.blocks:
                known.number(("e", block.experiment_id))
            self.index, self._known, self._blocks = index, known, index.blocks
            # From here on it stays as it is: the numbers of what else is found follow.
            self.items = Items(known)
            away = index.pending + self._add_blocks(index, known)
            self._add_given(away)

    def sets(self, part: Part, names: Iterable[Name]) -> dict[Name, int]:
        """The traces of a part's base that have some facts, as far as there are any."""
        numbers: dict[Name, list[Name]] = {}
        items: dict[int, Name] = {}
        names = set(names)
        pairs = [name for name in names if name[0] == "a"]
        for name in names.union(*(pair[1:] for pair in pairs)):
            if name[0] == "n":
                numbers.setdefault(name[:4], []).append(name)
            else:
                item = self.items.known(name)
                if item is not None:
                    items[item] = name
        found = {items[item]: bits for item, bits in part.sets(items).items()}
        if numbers:
            for field, cells in part.cells(self.cuts(list(numbers))).items():
                for name in numbers[field]:
                    found[name] = cells.members(name[4], name[6])
            self._at_hand.clear()
        for pair in pairs:
            found[pair] = found.get(pair[1], 0) & found.get(pair[2], 0)
        return {name: bits & part.base for name, bits in found.items() if name in names}

    def facts(self, parts: Sequence[Part], names: Collection[Name]) -> dict[Name, list[int]]:
        """For each of some parts the traces of its base that have each of some facts.

        Exactly: what the index leaves uncertain is asked about.
        """
        items = {name: self.items.known(name) for name in names if name[0] != "n"}
        doubts = {name: set(map(self.items.known, uncertain_by(name))) for name in names}
        everything = set(items.values()).union(*doubts.values())
        looked_at = [item for item in everything if item is not None]
        fields: dict[Name, list[Name]] = {}
        for name in names:
            if name[0] == "n":
                fields.setdefault(name[:4], []).append(name)
        cuts = self.cuts(list(fields))
        found: dict[Name, list[int]] = {name: [] for name in names}
        asked: dict[Name, list[int]] = {name: [] for name in names}
        there: set[Optional[int]] = set()
        for number, part in enumerate(parts):
            sets = {item: bits & part.base for item, bits in part.sets(looked_at).items()}
            there.update(item for item, bits in sets.items() if bits)
            for name, item in items.items():
                found[name].append(0 if item is None else sets.get(item, 0))
            cells = part.known_cells(cuts) if cuts else {}
            for field, of_field in fields.items():
                for name in of_field:
                    if field in cells:
                        bits = cells[field].members(name[4], name[6]) & part.base
                        found[name].append(bits)
                    else:
                        found[name].append(0)
                        asked[name].append(number)
        for name, some in doubts.items():
            if not there.isdisjoint(some):
                asked[name] = list(range(len(parts)))
        for name, numbers in asked.items():
            if numbers:
                matching = self.matching(node_of(name), [parts[number] for number in numbers])
                for number, bits in zip(numbers, matching):
                    found[name][number] = bits & parts[number].base
        return found

    def targets(self) -> list[Part]:
        """The indexed traces of the target, to be looked at one by one."""
        traces: list[Placed] = []
        for part in self.parts:
            if isinstance(part, Indexed) and self.index is not None:
                ids = self.index.ids((part.block,), (part.target,))
                traces += [Placed(0, one, part.block.experiment_id) for one in ids]
        found: list[Part] = []
        for start in range(0, len(traces), READ_AT_ONCE):
            some = [
                trace._replace(position=position)
                for position, trace in enumerate(traces[start : start + READ_AT_ONCE])
            ]
            everything = all_positions(len(some))
            one = Unindexed(self._plpy, self._statement, self.items, some, everything)
            one.keep = True
            found.append(one)
        return found

    def matching(self, node: tree.Node, parts: Sequence[Part]) -> list[int]:
        """For each of some parts the traces that match a filter of its own."""
        sets: dict[int, int] = {}
        blocks = [part.block for part in parts if isinstance(part, Indexed)]
        if self.index is not None and blocks:
            index = self.index.of_blocks(blocks)
            # Of many traces it is not to be kept: other things are worth more.
            few = sum(block.used for block in blocks) <= KEPT_POSITIONS
            matching = self._sets(index, node, lasting=few)
            sets = {block.block: members for block, (members,) in zip(blocks, matching)}
        found = []
        for part in parts:
            if isinstance(part, Indexed):
                found.append(sets[part.block.block])
                continue
            statement = self._statement.again()
            ids = [trace_id for trace_id in part.trace_ids() if trace_id is not None]
            given = statement.params.add(ids, "text[]")
            (row,) = statement.run(
                self._plpy,
                "select pg_catalog.array_agg(u.n - 1 order by u.n) as positions"
                f" from {statement.traces}"
                f" join pg_catalog.unnest({given}) with ordinality as u (trace_id, n)"
                f" on t.request_id = u.trace_id where {statement.where(node, 'probe')}",
            )
            found.append(bitmaps.of_positions(row["positions"] or ()))
        return found

    # ------------------------------------------------------------------ numbers

    def series(self) -> list[Name]:
        """The fields with numbers; known once the columns of all parts were read."""
        found = set(self._known.slices) if self._known is not None else set()
        for part in self.parts:
            if isinstance(part, Unindexed):
                found |= part.series
        return sorted(found)

    def some_series(self, names: Sequence[Name]) -> Iterator[Sequence[Name]]:
        """The fields, a few at a time: what was read of them is at hand until the next."""
        for start in range(0, len(names), SERIES_AT_ONCE):
            yield names[start : start + SERIES_AT_ONCE]
            self._at_hand.clear()

    def cuts(self, names: Sequence[Name]) -> dict[Name, Cuts]:
        """Where to cut the fields, whatever the target is.

        Of few traces all numbers in the base say so, wherever the traces are.  Of many
        the constants come from the largest blocks, which change seldom; so do they, and
        they are stored with the index.  Fields that have numbers since then only are cut
        by those of the newest blocks, or of traces that are not indexed yet.
        """
        unindexed = [part for part in self.parts if isinstance(part, Unindexed)]
        if (
            sum(bitmaps.count(part.base) for part in self.parts) <= cells.FEW_TRACES
            and sum(part.used for part in self.parts) <= FEW_POSITIONS
        ):
            return self._cuts_of(names, self.parts)
        if self._known is None or not self._blocks:
            return self._chosen(names, unindexed[: large_blocks.SAMPLED])
        known = self._known
        sample = large_blocks.sample_of(self._blocks)
        everywhere = tuple([(block.block, all_positions(block.used)) for block in sample])
        if any(known.cuts.get(name, ((), None))[0] != everywhere for name in names):
            stored = stored_cells.cuts_of(self._plpy, [block.block for block in sample])
            known.cuts.update({name: (everywhere, cuts) for name, cuts in stored.items()})
        found = self._cuts_of(names, self._whole(sample))
        rest = sorted(
            [block for block in self._blocks if block not in sample],
            key=lambda block: (-block.last_ms, -block.block),
        )[: large_blocks.SAMPLED]
        for parts in (self._whole(rest), unindexed[: large_blocks.SAMPLED]):
            lacking = [name for name in names if not found[name].values]
            if lacking and parts:
                found.update(self._cuts_of(lacking, parts, later=True))
        return found

    def _whole(self, blocks: Sequence[Block]) -> list[Part]:
        assert self._known is not None
        return [
            Indexed(self._plpy, self._known, block, all_positions(block.used), 0, self._at_hand)
            for block in blocks
        ]

    def _cuts_of(
        self, names: Sequence[Name], parts: Sequence[Part], later: bool = False
    ) -> dict[Name, Cuts]:
        """Cuts chosen from the numbers of some parts, as before if they are what they were.

        ``later``: of fields without numbers in the parts that are asked first.
        """
        blocks = [(part.block.block, part.base) for part in parts if isinstance(part, Indexed)]
        if self._known is None or len(blocks) < len(parts):
            return self._chosen(names, parts)
        sample, known = tuple(blocks), self._known.later_cuts if later else self._known.cuts
        lacking = [name for name in names if known.get(name, ((), None))[0] != sample]
        for name, cuts in self._chosen(lacking, parts).items():
            known[name] = (sample, cuts)
        return {name: known[name][1] for name in names}

    def _chosen(self, names: Sequence[Name], parts: Sequence[Part]) -> dict[Name, Cuts]:
        samples: dict[Name, list[int]] = {name: [] for name in names}
        for part in parts if names else ():
            for name, numbers in part.sample(names).items():
                samples[name] += numbers
        return {name: cells.choose_cuts(name, sample) for name, sample in samples.items()}

    # ---------------------------------------------------------------- the index

    def _add_blocks(self, index: Index, known: Items) -> list[str]:
        """Adds the blocks; the traces of theirs that have to be looked at one by one."""
        sets = self._sets(index, self._base, self._target)
        marked = self._marked(index)
        away: list[str] = []
        for block, (base, target) in zip(index.blocks, sets):
            target &= base
            unsure = marked.get(block.block, 0) & base
            if unsure:
                base &= ~unsure
                target &= ~unsure
                away += index.ids((block,), (unsure,))
            if base:
                self.parts.append(Indexed(self._plpy, known, block, base, target, self._at_hand))
        return away

    def _sets(
        self, index: Index, *nodes: tree.Node, lasting: bool = True
    ) -> Iterable[Sequence[int]]:
        """What matches some filters, by block."""
        prepared = [prepare(node) if lasting else _passing(node) for node in nodes]
        found = list(decided(index, prepared))
        if not index.overcharged:
            return found
        # The index leaves too much open: MLflow's tables are asked about all.
        index.overcharged = False
        raw = [self._raw_sets(index, node) for node in nodes]
        return [[one.get(block.block, 0) for one in raw] for block in index.blocks]

    def _raw_sets(self, index: Index, node: tree.Node) -> dict[int, int]:
        if node == tree.EVERYTHING:
            return {block.block: index.universe(block) for block in index.blocks}
        statement = self._statement.again()
        rows = statement.run(
            self._plpy,
            "select i.block, pg_catalog.array_agg(i.position) as positions"
            f" from (select t.request_id from {statement.traces}"
            f" where {statement.where(node)} offset 0) t"
            " join insights.trace i on i.trace_id = t.request_id group by i.block",
        )
        used = {block.block: block for block in index.blocks}
        return {
            row["block"]: bitmaps.of_positions(sorted(row["positions"]))
            & index.universe(used[row["block"]])
            for row in rows
            if row["block"] in used
        }

    def _marked(self, index: Index) -> dict[int, int]:
        """By block the traces whose session has assessments in another experiment."""
        rows = plans.run(
            self._plpy,
            "select p.block, p.members from insights.term v"
            " join insights.posting p on p.term = v.term"
            " where v.kind = $1 and v.key = $2 and v.role = 'o' and v.slot = $3"
            " and p.block = any($4)",
            ("text", "text", "smallint", "int[]"),
            (*MARK_OF_SESSIONS[1:], [block.block for block in index.blocks]),
        )
        return {row["block"]: bitmaps.decode(row["members"]) for row in rows}

    # ------------------------------------------------------------- other traces

    def _add_given(self, ids: Sequence[str]) -> None:
        """Adds those of some traces that are in the base."""
        if not ids:
            return
        statement = self._statement.again()
        given = statement.params.add(list(ids), "text[]")
        flag = statement.condition(self._target, "probe")
        rows = statement.run(
            self._plpy,
            f"select t.request_id, t.experiment_id, {flag} as wanted from {statement.traces}"
            f" where t.request_id = any({given}) and {statement.where(self._base, 'probe')}"
            " order by t.request_id",
        )
        for start in range(0, len(rows), READ_AT_ONCE):
            self._add_unindexed(rows[start : start + READ_AT_ONCE])

    def _add_everything(self) -> None:
        """Adds all traces in the base."""
        statement = self._statement.again()
        flag = statement.condition(self._target, "set")
        sql = (
            f"select t.request_id, t.experiment_id, {flag} as wanted from {statement.traces}"
            f" where {statement.where(self._base)}"
        )
        plan = self._plpy.prepare(sql, statement.params.types)
        cursor = self._plpy.cursor(plan, statement.params.values)
        while True:
            rows = cursor.fetch(READ_AT_ONCE)
            self._add_unindexed(rows)
            if len(rows) < READ_AT_ONCE:
                cursor.close()
                return

    def _add_unindexed(self, rows: Sequence[dict[str, Any]]) -> None:
        traces = [
            Placed(position, row["request_id"], row["experiment_id"])
            for position, row in enumerate(rows)
        ]
        wanted = [position for position, row in enumerate(rows) if row["wanted"]]
        if traces:
            part = Unindexed(
                self._plpy, self._statement, self.items, traces, bitmaps.of_positions(wanted)
            )
            # Those that come first are kept; the others are read once more if need be.
            part.keep = self._left > 0
            self._left -= len(traces) * _BYTES_OF_A_TRACE
            self.parts.append(part)


#: About what is kept of a trace of 40 facts.
_BYTES_OF_A_TRACE = 400
''',
"insights_engine.postings": r'''"""Turns collected facts into terms and postings."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Optional

from insights_engine import bitmaps, plans
from insights_engine.facts import (
    LONGEST_VALUE,
    TRACE_VALUES,
    VALUES,
    Fact,
    Facts,
    Positions,
    Series,
    most_values,
)
from insights_engine.terms import name_bucket_of

#: Signatures with a row of their own; then, rows for hash buckets of names.
SIGNATURES = 4_000
_ROWS = 2 * SIGNATURES
# A list of positions of a rare value: no longer than this, with the one that is none.
RARE = 4
# Terms looked up at once.
_AT_ONCE = 20_000

#: (kind, key, signature, role, slot, value)
Term = tuple[str, str, int, str, int, str]


class Extent(NamedTuple):
    """A block's share of a batch: positions ``start`` to ``start + used - 1``."""

    block: int
    start: int
    used: int


class Stored:
    """The vocabulary in the database; ``growing``: new signatures are added."""

    def __init__(self, plpy: Any, growing: bool) -> None:
        self._plpy = plpy
        self._growing = growing
        self._signatures: dict[tuple[Optional[str], Optional[str], str], int] = {}
        self._buckets: dict[tuple[Optional[str], str, int], int] = {}
        for row in plans.run(
            plpy, "select s.signature, s.type, s.name, s.status, s.bucket from insights.signature s"
        ):
            if row["bucket"] is None:
                self._signatures[row["type"], row["name"], row["status"]] = row["signature"]
            else:
                self._buckets[row["type"], row["status"], row["bucket"]] = row["signature"]
        self._keys: Optional[list[str]] = None

    def signature(self, type: Optional[str], name: Optional[str], status: str) -> int:
        """The number of a signature; -1: it is not known, and the vocabulary is not growing."""
        known = self._signatures.get((type, name, status))
        if known is not None:
            return known
        if len(self._signatures) < SIGNATURES and len(name or "") <= LONGEST_VALUE:
            known = self._add(type, name, status, None)
            self._signatures[type, name, status] = known
            return known
        bucket = name_bucket_of(name or "")
        known = self._buckets.get((type, status, bucket))
        if known is None and len(self._signatures) + len(self._buckets) >= _ROWS:
            # Types and statuses are as many: only "some span" is left.
            bucket = name_bucket_of(repr((type, name, status)))
            type, status = None, ""
            known = self._buckets.get((type, status, bucket))
        if known is None:
            known = self._buckets[type, status, bucket] = self._add(type, None, status, bucket)
        return known

    def _add(
        self, type: Optional[str], name: Optional[str], status: str, bucket: Optional[int]
    ) -> int:
        if not self._growing:
            return -1
        rows = plans.run(
            self._plpy,
            "insert into insights.signature (type, name, status, bucket) values ($1, $2, $3, $4)"
            " returning signature",
            ("text", "text", "text", "int"),
            (type, name, status, bucket),
        )
        return int(rows[0]["signature"])

    def attribute_keys(self) -> Iterable[str]:
        """The keys of attributes that are indexed."""
        if self._keys is None:
            rows = plans.run(
                self._plpy, "select v.key from insights.vocabulary v where v.kind = 'attribute'"
            )
            self._keys = [row["key"] for row in rows]
        return self._keys

    def full_keys(self) -> set[tuple[str, str]]:
        """The (kind, key) of which no more texts get a term."""
        rows = plans.run(
            self._plpy,
            'select v.kind, v.key from insights.vocabulary v where v."values" >='
            f" case v.kind when 'attribute' then {VALUES} else {TRACE_VALUES} end",
        )
        return {(row["kind"], row["key"]) for row in rows}

    def values(self, kind: str, key: str) -> frozenset[tuple[int, str]]:
        """The (signature, text) of a key that have a term of their own."""
        rows = plans.run(
            self._plpy,
            "select t.signature, t.value from insights.term t"
            " where t.kind = $1 and t.key = $2 and t.role = 'v'",
            ("text", "text"),
            (kind, key),
        )
        return frozenset((row["signature"], row["value"]) for row in rows)


class Settled:
    """Facts whose texts have been told apart: those with a term, and those in buckets."""

    def __init__(self, plpy: Any, facts: Facts, growing: bool) -> None:
        self._plpy = plpy
        self._facts = facts
        #: Of each term its positions, in the batch, ascending.
        self.positions: dict[Term, Sequence[int]] = {
            (*fact, ""): positions[1:]
            for fact, positions in facts.plain.items()
            if len(positions) > 1
        }
        #: What is known of the terms' numbers.
        self.numbers: dict[Term, int] = {}
        #: Values by key, where it differs from what the database has.
        self.vocabulary: dict[tuple[str, str], int] = {}
        self._settle_texts(growing)

    def _settle_texts(self, growing: bool) -> None:
        of_value: dict[Term, list[tuple[Positions, bool]]] = {}
        for texts in self._facts.texts.values():
            for (signature, text, printed), positions in texts.candidates.items():
                term = (texts.kind, texts.key, signature, "v", 0, text)
                of_value.setdefault(term, []).append((positions, printed))
        self.numbers = look_up(self._plpy, list(of_value))
        unknown: dict[tuple[str, str], list[Term]] = {}
        for term in of_value:
            if term not in self.numbers:
                unknown.setdefault((term[0], term[1]), []).append(term)
        counts = self._value_counts()
        # Facts that several texts share get their positions from all of them.
        shared: dict[Fact, set[int]] = {}
        overflowed = set()
        for (kind, key), texts in self._facts.texts.items():
            known = counts.get((kind, key), 0)
            wanted = unknown.get((kind, key), [])
            room = max(0, most_values(kind) - known) if growing else 0
            if len(wanted) > room or texts.full:
                # The most frequent ones first; those that are as good as unique would
                # make the vocabulary long, and are found in their buckets.
                wanted.sort(key=lambda term: -sum(len(p) for p, _ in of_value[term]))
                room = min(room, len(wanted))
                while room and sum(len(p) for p, _ in of_value[wanted[room - 1]]) <= RARE:
                    room -= 1
                overflowed.add((kind, key))
                for term in wanted[room:]:
                    for positions, printed in of_value.pop(term):
                        fact = texts.shared_fact(term[2], term[5], printed)
                        if fact not in shared:
                            shared[fact] = set(self.positions.get((*fact, ""), ()))
                        shared[fact].update(positions[1:])
                del wanted[room:]
            total = known + len(wanted)
            if texts.full or (kind, key) in overflowed:
                total = max(total, most_values(kind))
            if total != known or (kind, key) not in counts:
                self.vocabulary[kind, key] = total
        for key in self._facts.keys:
            if ("attribute", key) not in counts:
                self.vocabulary.setdefault(("attribute", key), 0)
        for term, lists in of_value.items():
            if len(lists) == 1:
                self.positions[term] = lists[0][0][1:]
            else:
                self.positions[term] = sorted({p for one, _ in lists for p in one[1:]})
        for fact, members in shared.items():
            self.positions[(*fact, "")] = sorted(members)

    def _value_counts(self) -> dict[tuple[str, str], int]:
        keys = self._facts.texts.keys() | {("attribute", key) for key in self._facts.keys}
        rows = plans.run(
            self._plpy,
            'select w.kind, w.key, v."values" from'
            " rows from (pg_catalog.unnest($1), pg_catalog.unnest($2)) as w (kind, key)"
            ' cross join lateral (select v."values" from insights.vocabulary v'
            " where v.kind = w.kind and v.key = w.key offset 0) v",
            ("text[]", "text[]"),
            ([kind for kind, _ in keys], [key for _, key in keys]),
        )
        return {(row["kind"], row["key"]): row["values"] for row in rows}

    def members(self, extents: Sequence[Extent]) -> Iterator[tuple[int, Term, bytes]]:
        """(number in ``extents``, term, what is stored) of every posting."""
        for term, positions in self.positions.items():
            for number, within in split(positions, extents):
                yield number, term, bitmaps.encode(within, extents[number].used)
        for (kind, key, signature), series in self._facts.series.items():
            for number, (begin, end) in ranges(series.positions, extents):
                for role, slot, members in sliced(series, begin, end, extents[number]):
                    yield number, (kind, key, signature, role, slot, ""), members


def ranges(
    positions: Positions, extents: Sequence[Extent]
) -> Iterator[tuple[int, tuple[int, int]]]:
    """Of each extent that has some of the positions, from the second on: where these are."""
    if len(extents) == 1:
        if len(positions) > 1:
            yield 0, (1, len(positions))
        return
    begin = 1
    while begin < len(positions):
        number = _extent_of(positions[begin], extents)
        extent = extents[number]
        end = bisect_left(positions, extent.start + extent.used, begin)
        yield number, (begin, end)
        begin = end


def split(
    positions: Sequence[int], extents: Sequence[Extent]
) -> Iterator[tuple[int, Sequence[int]]]:
    """The positions of each extent that has some, counted from its start."""
    if len(extents) == 1 and not extents[0].start:
        yield 0, positions
        return
    begin = 0
    while begin < len(positions):
        number = _extent_of(positions[begin], extents)
        extent = extents[number]
        end = bisect_left(positions, extent.start + extent.used, begin)
        yield number, [position - extent.start for position in positions[begin:end]]
        begin = end


def _extent_of(position: int, extents: Sequence[Extent]) -> int:
    low, high = 0, len(extents) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if extents[middle].start <= position:
            low = middle
        else:
            high = middle - 1
    return low


def sliced(
    series: Series, begin: int, end: int, extent: Extent
) -> Iterator[tuple[str, int, bytes]]:
    """(role, slot, what is stored) of the numbers of some traces."""
    positions: Sequence[int] = series.positions[begin:end]
    low = series.low[begin:end]
    patterns = _patterns(low, series.whole)
    spread: Sequence[int] = ()
    spread_at: list[int] = []
    if series.high:
        # Those were noted in the order of positions, too.
        if len(series.high) <= len(positions):
            inside = range(extent.start, extent.start + extent.used)
            spread_at = [position for position in series.high if position in inside]
        else:
            spread_at = [position for position in positions if position in series.high]
        largest = _patterns([series.high[position] for position in spread_at], series.whole)
        places = [bisect_left(positions, position) for position in spread_at]
        spread = array("Q", [high ^ patterns[place] for high, place in zip(largest, places)])
    if extent.start:
        positions = [position - extent.start for position in positions]
        spread_at = [position - extent.start for position in spread_at]
    yield "n", bitmaps.HAS_NUMBER, bitmaps.encode(positions, extent.used)
    for slot, members in bitmaps.sliced(patterns, positions, extent.used):
        yield "n", slot, members
    if spread:
        yield "x", bitmaps.HAS_NUMBER, bitmaps.encode(spread_at, extent.used)
        for slot, members in bitmaps.sliced(spread, spread_at, extent.used):
            yield "x", slot, members


_SIGN = 1 << (bitmaps.WIDTH - 1)


def _patterns(numbers: Sequence[Any], whole: bool) -> array[int]:
    """`bitmaps.pattern_of_integer` or `bitmaps.pattern_of_double` of all of them."""
    if whole:
        return array("Q", array("q", numbers).tobytes())
    patterns = array("Q", struct.pack(f"={len(numbers)}d", *numbers))
    if patterns and max(patterns) >= _SIGN:
        return array("Q", map(bitmaps.pattern_of_double, numbers))
    return patterns


# ------------------------------------------------------------------- the tables

_TERM_TYPES = ("text[]", "text[]", "int[]", "text[]", "smallint[]", "text[]")
_GIVEN = (
    "rows from ("
    + ", ".join(f"pg_catalog.unnest(${number})" for number in range(1, 7))
    + ") with ordinality as w (kind, key, signature, role, slot, value, n)"
)


def look_up(plpy: Any, terms: Sequence[Term]) -> dict[Term, int]:
    """The numbers of those terms that there are."""
    found: dict[Term, int] = {}
    for start in range(0, len(terms), _AT_ONCE):
        some = terms[start : start + _AT_ONCE]
        (row,) = plans.run(
            plpy,
            "select pg_catalog.array_agg(w.n) as places, pg_catalog.array_agg(t.term) as terms"
            f" from {_GIVEN} cross join lateral (select t.term from insights.term t"
            " where t.kind = w.kind and t.key = w.key"
            ' and t.role = w.role::"char" and t.value = w.value and t.signature = w.signature'
            " and t.slot = w.slot offset 0) t",
            _TERM_TYPES,
            [list(column) for column in zip(*some)],
        )
        for place, number in zip(row["places"] or (), row["terms"] or ()):
            found[some[place - 1]] = number
    return found


def intern(plpy: Any, terms: Sequence[Term]) -> dict[Term, int]:
    """The numbers of all the terms; new ones are added."""
    found = look_up(plpy, terms)
    new = [term for term in terms if term not in found]
    for start in range(0, len(new), _AT_ONCE):
        plans.run(
            plpy,
            "insert into insights.term (kind, key, signature, role, slot, value)"
            ' select w.kind, w.key, w.signature, w.role::"char", w.slot, w.value'
            f" from {_GIVEN}",
            _TERM_TYPES,
            [list(column) for column in zip(*new[start : start + _AT_ONCE])],
        )
    if new:
        found.update(look_up(plpy, new))
    return found


def write(plpy: Any, facts: Facts, extents: Sequence[Extent]) -> None:
    """Stores the facts of a batch as postings of its blocks."""
    settled = Settled(plpy, facts, growing=True)
    postings = list(settled.members(extents))
    numbers = settled.numbers
    numbers.update(
        intern(plpy, list({term: None for _, term, _ in postings if term not in numbers}))
    )
    insert(
        plpy,
        sorted(
            (extents[extent].block, numbers[term], members) for extent, term, members in postings
        ),
    )
    if settled.vocabulary:
        plans.run(
            plpy,
            'insert into insights.vocabulary (kind, key, "values")'
            " select * from"
            " rows from (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) as w"
            ' on conflict (kind, key) do update set "values" = excluded."values"',
            ("text[]", "text[]", "int[]"),
            (
                [kind for kind, _ in settled.vocabulary],
                [key for _, key in settled.vocabulary],
                list(settled.vocabulary.values()),
            ),
        )


def insert(plpy: Any, rows: Iterable[tuple[int, int, bytes]]) -> None:
    """Adds postings: (block, term, members)."""
    rest = iter(rows)
    while some := list(islice(rest, _AT_ONCE)):
        plans.run(
            plpy,
            "insert into insights.posting (block, term, members) select * from"
            " rows from (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) as p",
            ("int[]", "int[]", "bytea[]"),
            [list(column) for column in zip(*some)],
        )
''',
"insights_engine.printer": r'''"""The canonical text of a filter: ``parse_filter(print_filter(t)) == t``."""

from __future__ import annotations

from insights_engine import fields, times, tree

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
    if isinstance(node, (tree.And, tree.Or)):
        return any(_has_not(item) for item in node.items)
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
''',
"insights_engine.ranking": r'''"""The order of discovered facts, and which of them say the same.

A ratio of 50 from two traces is no better news than a ratio of 5 from two
thousand.  Facts are therefore ranked by the end of the 95 % interval of their
log odds ratio that is nearer to 0: by what is nearly certain about them.
"""

from __future__ import annotations

import math

from insights_engine import statistics
from insights_engine.statistics import OddsRatio

# From this phi on, two facts count as near-identical and are shown as one.  It
# allows about 1 of 20 units to differ: of two facts of 1,000 rare units each,
# 950 in common.
NEAR_IDENTICAL_PHI = 0.95


def strength(odds: OddsRatio, direction: str) -> float:
    """What to rank by, greatest first: a bound of the log odds ratio.

    ``direction`` is ``positive`` (the lower bound), ``negative`` (the upper
    bound, smallest first) or ``both``: the distance from 0 of the nearer
    bound, negative where 0 lies between them.  Raises ValueError for any
    other.
    """
    if direction == "positive":
        return math.log(odds.low)
    if direction == "negative":
        return -math.log(odds.high)
    if direction == "both":
        return max(math.log(odds.low), -math.log(odds.high))
    raise ValueError(f"no direction: {direction}")


def near_identical(first: int, second: int, joint: int, total: int) -> bool:
    """Whether two facts of these counts match nearly the same units.

    That is a phi (see `statistics.phi`) of at least `NEAR_IDENTICAL_PHI`.
    Unlike Jaccard's index it does not take two facts for the same because both
    match nearly everything.  Where phi is undefined, a fact being all units or
    none, only equal facts are identical.
    """
    phi = statistics.phi(*statistics.Counts(first, second, joint, total).table)
    if phi is None:
        return first == second == joint
    return phi >= NEAR_IDENTICAL_PHI


def least_joint_of_near_identical(first: int, second: int, total: int) -> int:
    """The joint count from which `near_identical` holds; may exceed both counts.

    With it most pairs need no intersection: where the result is above
    ``min(first, second)`` the sizes alone rule the pair out.
    """
    margins = first * (total - first) * second * (total - second)
    if margins == 0:
        return first if first == second else max(first, second)
    exact = (first * second + NEAR_IDENTICAL_PHI * math.sqrt(margins)) / total
    # Rounding may be off by one for totals whose square exceeds 2**53.
    joint = max(0, math.floor(exact) - 1)
    while joint <= min(first, second) and not near_identical(first, second, joint, total):
        joint += 1
    return joint
''',
"insights_engine.rawsql": r'''"""Compiles a filter to SQL over MLflow's own tables: the raw predicate.

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
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, Optional, Union

from . import tree
from .errors import FilterError, blames_value
from .tokens import pattern_place

#: The requested experiments; None: all of them.  The caller restricts the
#: traces to them itself; here they bound what session-scoped assessments cover.
Scope = Optional[Sequence[int]]

TOKEN_USAGE = "mlflow.trace.tokenUsage"
COST = "mlflow.trace.cost"
SESSION = "mlflow.trace.session"
TRACE_NAME = "mlflow.traceName"
SOURCE_RUN = "mlflow.sourceRun"
USER = "mlflow.trace.user"

#: Keys of the JSON text that MLflow synthesises, each with its column, in order.
_TOKEN_COLUMNS = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation_input_tokens_above_1hr",
)
_COST_COLUMNS = ("input_cost", "output_cost", "total_cost")
_SYNTHESISED = {TOKEN_USAGE: _TOKEN_COLUMNS, COST: _COST_COLUMNS}

# Columns of trace_info: (column, nullable).
_TEXT_COLUMNS = {
    "trace_id": ("request_id", False),
    "status": ("status", False),
    "client_request_id": ("client_request_id", True),
    "name": ("trace_name", True),
    "session_id": ("session_id", True),
    "request_preview": ("request_preview", True),
    "response_preview": ("response_preview", True),
}
_BIGINT_COLUMNS = {
    "timestamp_ms": False,
    "execution_time_ms": True,
    **dict.fromkeys(_TOKEN_COLUMNS, True),
}

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
    compiler = _Compiler(params, schema, None if scope is None else list(scope), now_ms, shape)
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
class _Compiler:
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
        target = node.field
        if isinstance(target, tree.TraceText):
            return self.trace_text(node, target.name, t)
        if isinstance(target, tree.TraceNumber):
            return self.trace_number(node, target.name, t)
        if isinstance(target, tree.Tag):
            if target.key == TRACE_NAME:
                return self.trace_text(node, "name", t)
            return self.keyed("trace_tags", target.key, node, t)
        if isinstance(target, tree.Metadata):
            if target.key == SESSION:
                return self.trace_text(node, "session_id", t)
            if target.key in _SYNTHESISED:
                return self.synthesised(node, target.key, t)
            return self.keyed("trace_request_metadata", target.key, node, t)
        if isinstance(target, tree.Assessment):
            return self.assessment(node, target, t)
        if isinstance(target, tree.Issue):
            return self.issue(node, t)
        raise TypeError(f"a span predicate outside of any span: {node}")

    def trace_text(self, node: tree.Predicate, name: str, t: str) -> str:
        if name == "user":
            return self.keyed("trace_request_metadata", USER, node, t)
        if name == "run_id":
            return self.run(node, t)
        if name == "prompt":
            return self.prompt(node, t)
        if name == "experiment_id":
            return self.experiment(node, t)
        column, nullable = _TEXT_COLUMNS[name]
        column = f"{t}.{column}"
        if isinstance(node, tree.IsNull):
            if not nullable:
                return "true" if node.negated else "false"
            return f"{column} is {'not ' if node.negated else ''}null"
        condition = self.text(column, node)
        if nullable or _numeric(node):
            return self.known(column, condition, node)
        return condition

    def known(self, column: str, condition: str, node: tree.Predicate) -> str:
        """``condition`` with NULL made false."""
        if _numeric(node):
            return f"coalesce({condition}, false)"
        return f"({column} is not null and {condition})"

    def experiment(self, node: tree.Predicate, t: str) -> str:
        column = f"{t}.experiment_id"
        if isinstance(node, tree.IsNull):
            return "true" if node.negated else "false"
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

    def trace_number(self, node: tree.Predicate, name: str, t: str) -> str:
        if name == "span_count":
            return self.span_count(node, None, t)
        if name == "end_time_ms":
            if isinstance(node, tree.IsNull):
                return "true" if node.negated else "false"
            near = "between -4611686018427387904 and 4611686018427387903"
            start, took = f"{t}.timestamp_ms", f"coalesce({t}.execution_time_ms, 0)"
            return (
                f"case when {start} {near} and {took} {near}"
                f" then {self.bigint(f'({start} + {took})', node)}"
                f" else {self.bigint(f'({start}::numeric + {took})', node)} end"
            )
        column = f"{t}.{name}"
        if isinstance(node, tree.IsNull):
            if not _BIGINT_COLUMNS.get(name, True):
                return "true" if node.negated else "false"
            return f"{column} is {'not ' if node.negated else ''}null"
        if name not in _BIGINT_COLUMNS:
            return f"({column} is not null and {self.double(column, node)})"
        condition = self.bigint(column, node)
        return f"({column} is not null and {condition})" if _BIGINT_COLUMNS[name] else condition

    def keyed(self, table: str, key: str, node: tree.Predicate, t: str) -> str:
        """A predicate on a tag or a metadata entry."""
        where = f"k.request_id = {t}.request_id and k.key = {self.params.add(key, 'text')}"
        if isinstance(node, tree.IsNull):
            found = self.exists(f"{self.schema}.{table} k", where)
            return found if node.negated else f"(not {found})"
        return self.exists(f"{self.schema}.{table} k", f"{where} and {self.text('k.value', node)}")

    def exists(self, source: str, where: str) -> str:
        # OFFSET 0 keeps the planner from making a join of it.
        fence = " offset 0" if self.shape == "probe" else ""
        return f"exists (select from {source} where {where}{fence})"

    def synthesised(self, node: tree.Predicate, key: str, t: str) -> str:
        """Metadata that MLflow synthesises as JSON text from number columns.

        As in MLflow, only the very text that it synthesises equals.
        """
        columns = _SYNTHESISED[key]
        present = _any([f"{t}.{column} is not null" for column in columns])
        if isinstance(node, tree.IsNull):
            return present if node.negated else f"(not {present})"
        if isinstance(node, tree.TextCompare):
            same = self.same_json(node.value, key, t)
            return same if node.op == "=" else f"({present} and not {same})"
        if isinstance(node, tree.In):
            texts = [value for value in node.values if isinstance(value, str)]
            same = _any([self.same_json(text, key, t) for text in texts])
            return f"({present} and not {same})" if node.negated else same
        raise FilterError(
            f"Comparator '{_comparator(node)}' is not supported for reserved metadata '{key}'. "
            "Only '=', '!=', 'IS NULL', and 'IS NOT NULL' are supported."
        )

    def same_json(self, text: str, key: str, t: str) -> str:
        columns = _SYNTHESISED[key]
        numbers = canonical_numbers(text, columns, whole=key == TOKEN_USAGE)
        if not numbers:
            return "false"
        pgtype = "bigint" if key == TOKEN_USAGE else "double precision"
        parts = [
            f"({t}.{column} is not null and"
            f" {t}.{column} = {self.params.add(numbers[column], pgtype)})"
            if column in numbers
            else f"{t}.{column} is null"
            for column in columns
        ]
        return _all(parts)

    # ------------------------------------------------------- links and runs

    def run(self, node: tree.Predicate, t: str) -> str:
        """Runs of a trace: its source run and those it has been linked to."""
        if isinstance(node, tree.IsNull):
            tests = ("m.value is not null", "true")
        else:
            tests = (self.text("m.value", node), self.text("e.destination_id", node))
        found = self.either(
            f"select m.request_id as trace_id from {self.schema}.trace_request_metadata m"
            f" where m.key = {self.params.add(SOURCE_RUN, 'text')} and {tests[0]}",
            f"select e.source_id from {self.schema}.entity_associations e"
            f" where e.source_type = {self.params.add('trace', 'text')}"
            f" and e.destination_type = {self.params.add('run', 'text')} and {tests[1]}",
            t,
        )
        return f"(not {found})" if isinstance(node, tree.IsNull) and not node.negated else found

    def either(self, first: str, second: str, t: str) -> str:
        return self.exists(f"({first} union all {second}) u", f"u.trace_id = {t}.request_id")

    def prompt(self, node: tree.Predicate, t: str) -> str:
        test = "true" if isinstance(node, tree.IsNull) else self.text("e.destination_id", node)
        found = self.exists(
            f"{self.schema}.entity_associations e",
            f"e.source_type = {self.params.add('trace', 'text')}"
            f" and e.source_id = {t}.request_id"
            f" and e.destination_type = {self.params.add('prompt_version', 'text')} and {test}",
        )
        return f"(not {found})" if isinstance(node, tree.IsNull) and not node.negated else found

    def issue(self, node: tree.Predicate, t: str) -> str:
        test = "true" if isinstance(node, tree.IsNull) else self.text("a.name", node)
        found = self.exists(
            f"{self.schema}.assessments a",
            f"a.trace_id = {t}.request_id"
            f" and a.assessment_type = {self.params.add('issue', 'text')} and {test}",
        )
        return f"(not {found})" if isinstance(node, tree.IsNull) and not node.negated else found

    # ------------------------------------------------------------ assessments

    def assessment(self, node: tree.Predicate, target: tree.Assessment, t: str) -> str:
        """Valid assessments of the trace, or, session-scoped, of its session."""
        if target.kind == "assessment":
            kinds = self.params.add(["feedback", "expectation"], "text[]")
            kind = f"a.assessment_type = any({kinds})"
        else:
            kind = f"a.assessment_type = {self.params.add(target.kind, 'text')}"
        wanted = f"{kind} and a.name = {self.params.add(target.name, 'text')} and a.valid"
        if not isinstance(node, tree.IsNull):
            wanted += f" and {self.assessed(node)}"
        mark = self.params.add(f'"{SESSION}":', "text")
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
            found = f"({direct} or ({t}.session_id is not null and {covered}))"
        else:
            found = self.either(
                f"select a.trace_id from {self.schema}.assessments a where {wanted}",
                f"select m.request_id from {self.schema}.trace_info m"
                f" where {self.within_scope('m')}m.session_id in (select c.session_id {covering})",
                t,
            )
        return f"(not {found})" if isinstance(node, tree.IsNull) and not node.negated else found

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
        if isinstance(node, (tree.AnySpan, tree.CountSpans, tree.AggregateSpans)):
            raise TypeError(f"a span quantifier within a span condition: {node}")
        target = node.field
        if isinstance(target, tree.SpanAttribute):
            return self.span_attribute(node, target)
        if isinstance(target, tree.SpanNumber):
            return _SpanSql((self.span_number(node),))
        if isinstance(target, tree.SpanText):
            return _SpanSql((self.span_text(node, target.name),))
        raise TypeError(f"a trace predicate within a span condition: {node}")

    def span_number(self, node: tree.Predicate) -> str:
        if isinstance(node, tree.IsNull):
            return f"s.duration_ns is {'not ' if node.negated else ''}null"
        return self.double("(s.duration_ns / 1e6::float8)", node)

    def span_text(self, node: tree.Predicate, name: str) -> str:
        column = f"s.{name}"
        if isinstance(node, tree.IsNull):
            if name == "content":
                return f"s.content {'<>' if node.negated else '='} ''"
            return f"{column} is {'not ' if node.negated else ''}null"
        condition = self.text(column, node)
        # Content that was archived is empty, and missing.
        if name == "content" and _may_match_empty(node):
            return f"(s.content <> '' and {condition})"
        return condition

    def span_attribute(self, node: tree.Predicate, target: tree.SpanAttribute) -> _SpanSql:
        path = self.params.add(list(target.path), "text[]")
        text = f"insights.span_attribute(s.content, {path})"
        number = f"insights.span_attribute_number(s.content, {path})"
        keys = _key_fragments(target.path)
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
        compare = tree.NumberCompare(tree.TraceNumber("span_count"), node.op, node.value)
        return self.span_count(compare, node.condition, t)

    def span_count(self, node: tree.Predicate, condition: tree.Node | None, t: str) -> str:
        if isinstance(node, tree.IsNull):
            return "true" if node.negated else "false"
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
            fragments = _key_fragments(node.field.path)
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
    if isinstance(node, (tree.And, tree.Or)):
        return all(_own_columns(item) for item in node.items)
    if isinstance(node, tree.Not):
        return _own_columns(node.item)
    if isinstance(node, (tree.AnySpan, tree.CountSpans, tree.AggregateSpans)):
        return False
    target = node.field
    if isinstance(target, tree.TraceText):
        return target.name in _TEXT_COLUMNS or target.name == "experiment_id"
    if isinstance(target, tree.TraceNumber):
        return target.name != "span_count"
    if isinstance(target, tree.Tag):
        return target.key == TRACE_NAME
    return isinstance(target, tree.Metadata) and (
        target.key == SESSION or target.key in _SYNTHESISED
    )


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


def _key_fragments(path: Sequence[str]) -> _Fragments:
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


def canonical_numbers(text: str, keys: Sequence[str], whole: bool) -> dict[str, Union[int, float]]:
    """The numbers of the JSON text that MLflow would synthesise as ``text``.

    Empty when MLflow would never synthesise that very text.  Follows
    ``get_trace_analytics_metadata_filter`` of MLflow 3.17.
    """
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(parsed, dict) or not set(parsed).issubset(keys):
        return {}
    numbers: dict[str, Union[int, float]] = {}
    for key in keys:
        value = parsed.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if whole:
            if isinstance(value, int) and _BIGINT_MIN <= value <= _BIGINT_MAX:
                numbers[key] = value
        elif isinstance(value, float) and math.isfinite(value):
            numbers[key] = value
    return numbers if json.dumps(numbers) == text else {}


# ------------------------------------------------------------------- patterns


def check_patterns(plpy: Any, node: tree.Node, text: str = "") -> None:
    """Raises FilterError for a pattern that PostgreSQL would refuse.

    ``text`` is what ``node`` was parsed from; the error shows the place in it.
    """
    for match in patterns(node):
        if match.op == "RLIKE":
            try:
                plan = plpy.prepare("select '' ~ $1", ["text"])
                plpy.execute(plan, [match.pattern])
            except plpy.SPIError as error:
                if not blames_value(error):
                    raise
                place, length = pattern_place(text, match.pattern)
                raise FilterError(str(error), place, length, filter=text) from None
        elif (len(match.pattern) - len(match.pattern.rstrip("\\"))) % 2:
            place, length = pattern_place(text, match.pattern)
            raise FilterError(
                "LIKE pattern must not end with escape character",
                place,
                length,
                "A backslash in a LIKE pattern is written twice.",
                text,
            )


def patterns(node: tree.Node | None) -> list[tree.Match]:
    """Every pattern predicate of a filter, each once."""
    found: dict[tree.Match, None] = {}
    todo: list[tree.Node | None] = [node]
    while todo:
        item = todo.pop()
        if isinstance(item, (tree.And, tree.Or)):
            todo.extend(reversed(item.items))
        elif isinstance(item, tree.Not):
            todo.append(item.item)
        elif isinstance(item, (tree.AnySpan, tree.CountSpans, tree.AggregateSpans)):
            todo.append(item.condition)
        elif isinstance(item, tree.Match):
            found[item] = None
    return list(found)
''',
"insights_engine.refresh": r'''"""Keeps the index up to date; the only writer of its tables.

Every call is part of one transaction, so that a reader's snapshot has both the
old state of the index and the traces as pending, or neither.  Pending traces are
taken before MLflow's tables are read: what is committed in between has noted its
traces again.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from insights_engine import bitmaps, large_blocks, merging, plans, postings, stored_sessions
from insights_engine.errors import InsightsError
from insights_engine.facts import Facts
from insights_engine.rows import MARK, Placed, Reader, Rollups

#: Held by whoever writes the index: "insights" in ASCII.
LOCK = int.from_bytes(b"insights", "big")

# Traces whose rows are read together, and bounds on what a batch keeps in memory.
_CHUNK = 1_000
_MOST_TEXTS = 300_000
_MOST_FACTS = 1_000_000
_MOST_BLOCKS = 250
# MLflow notes a trace again with nearly every statement.
_NOTES_OF_A_TRACE = 40
_COUNTED = 1_000_000


class Trace(NamedTuple):
    """A trace to be indexed, in the order of blocks."""

    experiment_id: int
    timestamp_ms: int
    trace_id: str


def refresh(plpy: Any, schema: str, max_traces: int) -> dict[str, Any]:
    """Indexes up to ``max_traces`` pending traces, and merges small blocks.

    Traces that share a session with them may come on top.  ``busy``: another
    session is at it, nothing was done.
    """
    if not _locked(plpy):
        return {"indexed": 0, "removed": 0, "merged": 0, "pending": _pending(plpy), "busy": True}
    ids = _take_pending(plpy, max_traces)
    if ids:
        _change_version(plpy)
    indexed, removed, experiments = _index(plpy, schema, ids) if ids else (0, 0, set())
    merged = merging.merge(plpy, experiments) if experiments else 0
    _complete(plpy, schema)
    return {
        "indexed": indexed,
        "removed": removed,
        "merged": merged,
        "pending": _pending(plpy),
        "busy": False,
    }


def _complete(plpy: Any, schema: str) -> int:
    """Stores some of what large blocks lack beside their postings; of how many blocks.

    If the largest blocks of an experiment have changed, then so have the cells of all.
    """
    stored = stored_sessions.complete(plpy, schema)
    tasks = large_blocks.without_cells(plpy)
    if tasks:
        # What reads numbers; as a rule it is not needed.
        from insights_engine import cell_writer

        stored += cell_writer.store(plpy, tasks)
    return stored


def _change_version(plpy: Any) -> None:
    """Has sessions forget which blocks there are, once this transaction is committed."""
    plans.run(plpy, "update insights.state set version = pg_catalog.gen_random_uuid()")


def _locked(plpy: Any) -> bool:
    """Whether the index is ours until the transaction ends."""
    (row,) = plans.run(
        plpy,
        "select pg_catalog.current_setting('transaction_isolation') as isolation,"
        f" pg_catalog.pg_try_advisory_xact_lock({LOCK}) as locked",
    )
    if row["isolation"] not in ("read committed", "read uncommitted"):
        # It has to see what was committed after the pending traces were taken.
        raise InsightsError("The index is refreshed in transactions that are READ COMMITTED.")
    return bool(row["locked"])


def _pending(plpy: Any) -> int:
    """How many pending notes there are; above a million, a million."""
    (row,) = plans.run(
        plpy,
        "select count(*) as found from (select from insights.pending p limit $1) p",
        ("int",),
        (_COUNTED,),
    )
    return int(row["found"])


def _take_pending(plpy: Any, max_traces: int) -> list[str]:
    (row,) = plans.run(
        plpy,
        "with wanted as materialized (select distinct n.trace_id from"
        " (select p.trace_id from insights.pending p limit $2) n limit $1),"
        " gone as (delete from insights.pending p using wanted w"
        " where p.trace_id = w.trace_id returning p.trace_id)"
        " select pg_catalog.array_agg(distinct g.trace_id) as ids from gone g",
        ("int", "bigint"),
        (max_traces, max_traces * _NOTES_OF_A_TRACE),
    )
    return list(row["ids"] or ())


def _index(plpy: Any, schema: str, ids: Sequence[str]) -> tuple[int, int, set[int]]:
    """Puts traces into new blocks; how many, how many are gone, the experiments touched."""
    ids = [*ids, *_same_sessions(plpy, schema, ids)]
    experiments = merging.vacate(plpy, ids)
    traces = _existing(plpy, schema, ids)
    experiments |= add(plpy, schema, traces)
    return len(traces), len(ids) - len(traces), experiments


def _existing(plpy: Any, schema: str, ids: Sequence[str]) -> list[Trace]:
    rows = plans.run(
        plpy,
        "select t.experiment_id, t.timestamp_ms, t.request_id as trace_id"
        " from pg_catalog.unnest($1) as g (trace_id) cross join lateral ("
        f" select * from {schema}.trace_info t where t.request_id = g.trace_id offset 0) t",
        ("text[]",),
        (list(ids),),
    )
    return sorted(Trace(row["experiment_id"], row["timestamp_ms"], row["trace_id"]) for row in rows)


def _same_sessions(plpy: Any, schema: str, ids: Sequence[str]) -> list[str]:
    """Indexed traces to which these lend assessments, or lent them; notes who lends."""
    (before,) = plans.run(
        plpy,
        "with gone as (delete from insights.carrier k using pg_catalog.unnest($1) as g (trace_id)"
        " where k.trace_id = g.trace_id returning k.session_id)"
        " select pg_catalog.array_agg(distinct g.session_id) as sessions from gone g",
        ("text[]",),
        (list(ids),),
    )
    (now,) = plans.run(
        plpy,
        "with found as (insert into insights.carrier (trace_id, session_id)"
        " select t.request_id, t.session_id from pg_catalog.unnest($1) as g (trace_id)"
        f" join {schema}.trace_info t on t.request_id = g.trace_id"
        f" where t.session_id is not null and exists (select from {schema}.assessments a"
        " where a.trace_id = t.request_id"
        f" and pg_catalog.strpos(a.assessment_metadata, '{MARK}') > 0 offset 0)"
        " returning session_id)"
        " select pg_catalog.array_agg(distinct f.session_id) as sessions from found f",
        ("text[]",),
        (list(ids),),
    )
    sessions = sorted({*(before["sessions"] or ()), *(now["sessions"] or ())})
    if not sessions:
        return []
    rows = plans.run(
        plpy,
        # Through the index on (experiment, session).
        f"select i.trace_id from {schema}.experiments e cross join lateral ("
        f" select t.request_id from {schema}.trace_info t"
        " where t.experiment_id = e.experiment_id and t.session_id = any($1) offset 0) t"
        " cross join lateral (select i.trace_id from insights.trace i"
        " where i.trace_id = t.request_id offset 0) i",
        ("text[]",),
        (sessions,),
    )
    return sorted({row["trace_id"] for row in rows} - set(ids))


def add(plpy: Any, schema: str, traces: Sequence[Trace]) -> set[int]:
    """Indexes traces that are in no block, given in order; their experiments."""
    start = 0
    while start < len(traces):
        with _uncollected():
            start = _add_batch(plpy, schema, traces, start)
        if start > _CHUNK:
            # The facts refer to each other.
            gc.collect()
    return {trace.experiment_id for trace in traces}


def _add_batch(plpy: Any, schema: str, traces: Sequence[Trace], start: int) -> int:
    """Indexes traces from ``start`` on; where the next batch starts."""
    batch = Batch(plpy, schema)
    while start < len(traces):
        chunk = traces[start : start + _CHUNK]
        if batch.full(len(chunk)):
            break
        batch.add(chunk)
        start += len(chunk)
    batch.write()
    return start


@contextmanager
def _uncollected() -> Iterator[None]:
    """Garbage collection would go through all the facts time and again, to find nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Batch:
    """Traces whose facts are collected together: a block for each experiment."""

    def __init__(self, plpy: Any, schema: str) -> None:
        self._plpy = plpy
        self._reader = Reader(plpy, schema)
        self._facts = Facts(postings.Stored(plpy, growing=True))
        self._traces: list[Trace] = []
        self._experiments: set[int] = set()
        self._rollups: dict[int, Rollups] = {}

    def full(self, more: int) -> bool:
        """Whether ``more`` traces are better put into another batch."""
        return (
            len(self._traces) + more > bitmaps.POSITIONS
            or len(self._experiments) > _MOST_BLOCKS
            or self._facts.text_count > _MOST_TEXTS
            or self._facts.size() > _MOST_FACTS
        )

    def add(self, traces: Sequence[Trace]) -> None:
        """Collects the facts of traces, which come after those before in order."""
        start = len(self._traces)
        self._traces += traces
        self._experiments.update(trace.experiment_id for trace in traces)
        placed = [
            Placed(position, trace.trace_id, trace.experiment_id)
            for position, trace in enumerate(traces, start)
        ]
        self._rollups.update(self._reader.collect(self._facts, placed))

    def write(self) -> None:
        """Stores blocks, postings and rollups."""
        extents: list[postings.Extent] = []
        start = 0
        while start < len(self._traces):
            experiment = self._traces[start].experiment_id
            end = start
            while end < len(self._traces) and self._traces[end].experiment_id == experiment:
                end += 1
            block = merging.add_block(
                self._plpy,
                experiment,
                end - start,
                self._traces[start].timestamp_ms,
                self._traces[end - 1].timestamp_ms,
            )
            extents.append(postings.Extent(block, start, end - start))
            start = end
        self._write_traces(extents)
        postings.write(self._plpy, self._facts, extents)

    def _write_traces(self, extents: Sequence[postings.Extent]) -> None:
        nothing = Rollups(None, None)
        for extent in extents:
            numbers = range(extent.start, extent.start + extent.used)
            rollups = [self._rollups.get(number, nothing) for number in numbers]
            plans.run(
                self._plpy,
                "insert into insights.trace (trace_id, block, position, spans, assessments)"
                " select w.trace_id, $1, w.n - 1, w.spans, w.assessments from rows from"
                " (pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4))"
                " with ordinality as w (trace_id, spans, assessments, n)",
                ("int", "text[]", "text[]", "text[]"),
                (
                    extent.block,
                    [self._traces[number].trace_id for number in numbers],
                    [rollup.spans for rollup in rollups],
                    [rollup.assessments for rollup in rollups],
                ),
            )


# ------------------------------------------------------------------- building


def build(plpy: Any, schema: str, max_traces: int) -> dict[str, Any]:
    """Indexes the next traces of a database that had traces before it had an index.

    ``done``: the index is built, and what large blocks have beside it.
    ``busy``: nothing could be done yet.
    """
    if not _locked(plpy):
        return {"indexed": 0, "done": False, "busy": True}
    (state,) = plans.run(plpy, "select s.built, s.indexed_through from insights.state s")
    if state["built"]:
        return {"indexed": 0, "done": not _complete(plpy, schema), "busy": False}
    _change_version(plpy)
    through = state["indexed_through"] or ""
    if through == _BEGIN:
        _begin(plpy)
        return {"indexed": 0, "done": False, "busy": False}
    if through.startswith(_CLEAR):
        if not _clear(plpy):
            return {"indexed": 0, "done": False, "busy": False}
        through = _AFTER + through[len(_CLEAR) :]
        _set_through(plpy, through)
    if through.startswith(_AFTER):
        if not _ended(plpy, int(through[len(_AFTER) :])):
            return {"indexed": 0, "done": False, "busy": True}
        through = ""
    if not through:
        _note_carriers(plpy, schema)
    found = plans.run(
        plpy,
        "select t.experiment_id, t.timestamp_ms, t.trace_id, i.trace_id is not null as indexed"
        f" from (select t.experiment_id, t.timestamp_ms, {_ID} as trace_id"
        f" from {schema}.trace_info t"
        # The index on (experiment, time) serves the first condition.
        " where (t.experiment_id, t.timestamp_ms) >= ($1, $2)"
        f" and (t.experiment_id, t.timestamp_ms, {_ID}) > ($1, $2, $3)"
        f" order by t.experiment_id, t.timestamp_ms, {_ID} limit $4) t"
        " left join lateral (select i.trace_id from insights.trace i"
        " where i.trace_id = t.trace_id offset 0) i on true"
        " order by t.experiment_id, t.timestamp_ms, t.trace_id",
        ("int", "bigint", "text", "int"),
        (*_place(through), max_traces),
    )
    traces = [
        Trace(row["experiment_id"], row["timestamp_ms"], row["trace_id"])
        for row in found
        if not row["indexed"]
    ]
    experiments = add(plpy, schema, traces)
    merging.merge(plpy, experiments)
    done = len(found) < max_traces
    if found:
        last = found[len(found) - 1]
        through = f"{last['experiment_id']} {last['timestamp_ms']} {last['trace_id']}"
    if done:
        plans.run(plpy, "update insights.state set built = true")
    _set_through(plpy, "" if done else through)
    # Only now is it known which blocks are the largest.
    done = done and not _complete(plpy, schema)
    return {"indexed": len(traces), "done": done, "busy": False}


def start_over(plpy: Any) -> dict[str, Any]:
    """Has the index built anew, by `build`; until then it is not used.

    What could not be noted so far is made up for by that, provided that it begins
    when the transactions that missed to note it have ended.
    """
    if not _locked(plpy):
        return {"busy": True}
    _change_version(plpy)
    plans.run(
        plpy,
        f"update insights.state set built = false, trusted = {_AHEAD}, indexed_through = $1",
        ("text",),
        (_BEGIN,),
    )
    return {"busy": False}


def _begin(plpy: Any) -> None:
    """Moves ``insights.missed`` on to where it is trusted from now on.

    No rollback undoes that, so what is trusted has been committed before.
    """
    (state,) = plans.run(
        plpy,
        "select s.trusted >= m.last_value as ahead from insights.state s, insights.missed m",
    )
    if not state["ahead"]:
        plans.run(plpy, f"update insights.state set trusted = {_AHEAD}")
        return
    plans.run(plpy, "select pg_catalog.setval('insights.missed', s.trusted) from insights.state s")
    # That was the first thing that this transaction wrote, so its number is higher
    # than those of all that missed something before.
    plans.run(
        plpy,
        f"update insights.state set indexed_through = '{_CLEAR}'"
        " || pg_catalog.pg_current_xact_id()::text",
    )


def _clear(plpy: Any) -> bool:
    """Deletes some of the index; whether it is empty now.

    Rows are deleted, because readers may still be using them.
    """
    rows = plans.run(
        plpy,
        "select b.block from insights.block b order by b.block limit $1",
        ("int",),
        (_CLEARED,),
    )
    if rows:
        blocks = [row["block"] for row in rows]
        plans.run(
            plpy, "delete from insights.trace t where t.block = any($1)", ("int[]",), (blocks,)
        )
        merging.drop(plpy, blocks)
        return False
    for table in (
        "posting",
        "cells",
        "sessions",
        "trace",
        "term",
        "vocabulary",
        "signature",
        "carrier",
    ):
        plans.run(plpy, f"delete from insights.{table}")
    return True


def _set_through(plpy: Any, through: str) -> None:
    plans.run(plpy, "update insights.state set indexed_through = $1", ("text",), (through,))


#: A trace's id as the index compares it.
_ID = 't.request_id collate "C"'

# Far ahead: after a crash a sequence may go on 32 numbers further.
_AHEAD = "(select m.last_value + 1000 from insights.missed m)"

# In insights.state.indexed_through: the index is to be built anew.
_BEGIN = "begin"
# The same, before the number of a transaction: the index is to be cleared, and then
# to be built ...
_CLEAR = "clear "
# ... from the first trace on, as soon as that transaction and all before have ended.
_AFTER = "after "

# Blocks that are deleted in one transaction.
_CLEARED = 16


def _ended(plpy: Any, transaction: int) -> bool:
    """Whether no transaction that is as old as this one runs."""
    (row,) = plans.run(
        plpy,
        "select pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::bigint"
        " as oldest",
    )
    return int(row["oldest"]) > transaction


def _place(through: str) -> tuple[int, int, str]:
    """Experiment, time and id of the trace that the last batch ended with."""
    if not through:
        return -(2**31), -(2**63), ""
    experiment, timestamp, trace_id = through.split(" ", 2)
    return int(experiment), int(timestamp), trace_id


def _note_carriers(plpy: Any, schema: str) -> None:
    """Notes who lends assessments, which must be known before anyone borrows."""
    plans.run(
        plpy,
        "insert into insights.carrier (trace_id, session_id)"
        f" select t.request_id, t.session_id from {schema}.trace_info t"
        " where t.session_id is not null and t.request_id in ("
        f" select a.trace_id from {schema}.assessments a"
        f" where pg_catalog.strpos(a.assessment_metadata, '{MARK}') > 0)"
        " on conflict (trace_id) do update set session_id = excluded.session_id",
    )
''',
"insights_engine.resolver": r'''"""From concrete syntax to the tree: names, types and the scope of spans.

Everything here recurses at most as deep as the filter is nested, which
tokens.py has bounded before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import NamedTuple, NoReturn, Union

from insights_engine import fields, times, tree
from insights_engine.errors import visible
from insights_engine.names import Names, bare_set, quoted_set, unquote_name
from insights_engine.syntax import Raw
from insights_engine.times import NUMBER_AND_UNIT
from insights_engine.tokens import Token, unit_hint, unquote

# What stock MLflow prints in its messages; sets are printed sorted.
_MLFLOW_NUMBERS = (
    "end_time",
    "end_time_ms",
    "execution_time",
    "execution_time_ms",
    "timestamp",
    "timestamp_ms",
)
_MLFLOW_LISTS = ("client_request_id", "name", "request_id", "run_id", "status")
_MLFLOW_STRING_COMPARATORS = ("!=", "=", "ILIKE", "IN", "LIKE", "NOT IN", "RLIKE")
_MLFLOW_TAG_COMPARATORS = (
    "!=",
    "=",
    "ILIKE",
    "IS NOT NULL",
    "IS NULL",
    "LIKE",
    "RLIKE",
)
_MLFLOW_ASSESSMENT_COMPARATORS = (
    "!=",
    "<",
    "<=",
    "=",
    ">",
    ">=",
    "ILIKE",
    "IS NOT NULL",
    "IS NULL",
    "LIKE",
    "RLIKE",
)

#: How stock MLflow calls the type of what follows an entity.
_MLFLOW_TYPES = {
    "tag": "tag",
    "tags": "tag",
    "metadata": "request_metadata",
    "request_metadata": "request_metadata",
    "span": "span",
    "feedback": "feedback",
    "expectation": "expectation",
    "assessment": "assessment",
    "issue": "issue",
}

_ORDERINGS = frozenset(("<", "<=", ">", ">="))
_COMPARISONS = frozenset(("=", "!=", *_ORDERINGS))
_OPERATOR_HINTS = {
    "==": "Use = instead of ==.",
    "===": "Use = instead of ===.",
    "<>": "Use != instead of <>.",
    "!==": "Use != instead of !==.",
    "=!": "Use != instead of =!.",
    "=>": "Use >= instead of =>.",
    "=<": "Use <= instead of =<.",
    "REGEXP": "Use RLIKE instead of REGEXP.",
    "~": "Use RLIKE instead of ~.",
    "~~": "Use LIKE instead of ~~.",
    "=~": "Use RLIKE instead of =~.",
    "!~": "Use NOT RLIKE instead of !~.",
}

#: Beside MLflow's list of six.
_NUMBERS = (
    f"Numbers go with {', '.join(sorted(tree.TRACE_NUMBER_FIELDS))},"
    " span.duration_ms, tags, metadata, assessments and attributes."
)

_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\Z", re.ASCII)
_INTEGER = re.compile(r"([+-]?)(\d+)\Z", re.ASCII)


class _Part(NamedTuple):
    """A piece of the tree.

    ``pure``: it consists of plain conditions on spans, and still has to learn
    which others speak of the same span.
    """

    node: tree.Node
    pure: bool


class _Value(NamedTuple):
    """A value with its type settled: text, number, boolean or now()."""

    kind: str
    value: Union[str, int, float, tree.Now]
    start: int
    end: int


class Resolver(Names):
    """Resolves one filter."""

    def __init__(self, text: str, raw: Raw) -> None:
        super().__init__(text)
        self._raw = raw
        self._parts: list[_Part] = []

    def resolve(self) -> None:
        """Resolve everything but what joins the filter with others."""
        child = self._raw.children[0]
        if child.name == "ands":
            self._parts = []
        elif len(child.children) == 1:
            conjunction = child.children[0]
            self._parts = self._conditions(conjunction, None)
        else:
            self._parts = [self._disjunction(child, None)]

    def filter(self) -> tree.Node:
        """The tree of the filter."""
        return self.conjunction([self])

    @staticmethod
    def conjunction(resolvers: Iterable[Resolver]) -> tree.Node:
        """The tree of the AND of several filters."""
        parts = [part for resolver in resolvers for part in resolver._parts]
        return _close(_conjoin(parts)) if parts else tree.EVERYTHING

    # ------------------------------------------------------------------ algebra

    def _disjunction(self, raw: Raw, scope: str | None) -> _Part:
        """``scope`` is the function inside whose parentheses we are, if any."""
        alternatives = [child for child in raw.children if isinstance(child, Raw)]
        parts = []
        for alternative in alternatives:
            self._check_ands(alternative)
            parts.append(_conjoin(self._conditions(alternative, scope)))
        return _disjoin(parts)

    def _conditions(self, raw: Raw, scope: str | None) -> list[_Part]:
        return [
            self._condition(child, scope)
            for child in raw.children
            if isinstance(child, Raw) and child.name != "ands"
        ]

    def _check_ands(self, conjunction: Raw) -> None:
        """Outside a plain list of conditions AND stands between two of them."""
        leading, *rest = conjunction.children
        if leading.children:
            token = leading.children[0]
            self._fail("a condition is missing before AND", token, "Remove AND.")
        previous: Raw | Token | None = None
        for child in rest:
            if isinstance(child, Token) and isinstance(previous, Token):
                self._fail(
                    "a condition is missing between AND and AND",
                    child,
                    "Remove one AND.",
                )
            previous = child
        if isinstance(previous, Token):
            self._fail("a condition is missing after AND", previous, "Remove AND.")

    def _condition(self, raw: Raw, scope: str | None) -> _Part:
        children = raw.children
        if raw.name == "group":
            inner = children[1]
            return self._disjunction(inner, scope)
        if raw.name == "negation":
            inner = children[1]
            return _Part(tree.Not(_close(self._condition(inner, scope))), False)
        if raw.name == "any_span":
            token, condition = children[0], children[2]
            self._check_not_nested(token, scope)
            return _Part(tree.AnySpan(self._disjunction(condition, "any()").node), False)
        if raw.name == "count":
            return _Part(self._count(raw, scope), False)
        if raw.name == "aggregate":
            return _Part(self._aggregate(raw, scope), False)
        token = children[0]
        field = self.field(token)
        span = fields.is_span_field(field)
        if scope is not None and not span:
            self._refuse_trace_field(token, scope)
        return _Part(self._predicate(raw, field), span and scope is None)

    def _check_not_nested(self, token: Token, scope: str | None) -> None:
        if scope is not None:
            self._fail(
                f"{self._source(token).lower()}(...) cannot stand inside {scope}",
                token,
                f"{scope} looks at one span at a time; join two of them with AND instead.",
            )

    def _refuse_trace_field(self, token: Token, scope: str) -> NoReturn:
        name = self._source(token)
        key = name.rsplit(".", 1)[-1]
        hint = f"Conditions on the trace stand outside: {scope[:-1]}...) AND {name} ..."
        if "." not in name and key in fields.SPAN_FIELDS:
            hint = f"Did you mean span.{key}?"
        self._fail(
            f"{scope} takes conditions on spans, and {visible(name, 60)} is a field of the trace",
            token,
            visible(hint, 200),
        )

    # ------------------------------------------------------------- count and sum

    def _count(self, raw: Raw, scope: str | None) -> tree.CountSpans:
        token, operator, value = raw.children[0], raw.children[-2], raw.children[-1]
        self._check_not_nested(token, scope)
        inner = raw.children[2]
        condition = None
        if isinstance(inner, Raw):
            condition = self._disjunction(inner, "count()").node
        op = self._plain_operator(operator, "count(...)")
        number = self._value(value)
        if number.kind != "number" or not isinstance(number.value, int):
            hint = "For example count(...) > 0."
            if isinstance(number.value, float):
                hint = f"Write {math.floor(number.value)} or {math.ceil(number.value)}."
            elif isinstance(number.value, str) and _INTEGER.match(number.value):
                hint = f"Remove the quotes: {visible(number.value, 40)}."
            self._fail(
                f"count(...) is compared with a whole number, found {self._shown(number)}",
                number,
                hint,
            )
        self._check_bigint(number)
        return tree.CountSpans(condition, op, number.value)

    def _aggregate(self, raw: Raw, scope: str | None) -> tree.AggregateSpans:
        token, operand = raw.children[0], raw.children[2]
        operator, value = raw.children[-2], raw.children[-1]
        self._check_not_nested(token, scope)
        function = self._source(token).lower()
        field = self.field(operand)
        if not isinstance(field, (tree.SpanNumber, tree.SpanAttribute)):
            name = visible(self._source(operand), 60)
            if fields.is_span_field(field):
                problem = f"{name} is text"
            else:
                problem = f"{name} is a field of the trace"
            self._fail(
                f"{function}() needs a numeric span field, and {problem}",
                operand,
                "Use span.duration_ms or span.attributes['key']."
                + (
                    ""
                    if fields.is_span_field(field)
                    else " Fields of the trace are compared as they are."
                ),
            )
        condition = None
        inner = raw.children[4]
        if isinstance(inner, Raw):
            condition = self._disjunction(inner, f"{function}()").node
        op = self._plain_operator(operator, f"{function}(...)")
        number = self._value(value)
        if isinstance(number.value, (str, tree.Now)):
            hint = f"For example {function}(...) > 1000."
            if isinstance(number.value, str):
                duration = NUMBER_AND_UNIT.fullmatch(number.value)
                if _NUMBER.match(number.value):
                    hint = f"Remove the quotes: {visible(number.value, 40)}."
                elif duration:
                    hint = unit_hint(duration[1], duration[2])
            self._fail(
                f"{function}(...) is compared with a number, found {self._shown(number)}",
                number,
                hint,
            )
        return tree.AggregateSpans(function, field, condition, op, number.value)

    def _plain_operator(self, operator: Token, subject: str) -> str:
        op = self._source(operator)
        if op not in _COMPARISONS:
            self._fail(
                f"unknown operator {op} after {subject}",
                operator,
                _OPERATOR_HINTS.get(op, "Use =, !=, <, <=, > or >=."),
            )
        return op

    # --------------------------------------------------------------- predicates

    def _predicate(self, raw: Raw, field: tree.Field) -> tree.Predicate:
        children = raw.children
        name, operator = children[0], children[1]
        negated = operator.kind == "NOT"
        if raw.name == "is_null":
            return tree.IsNull(field, len(children) == 4)
        if raw.name == "compare":
            return self._compare(name, field, operator, children[2])
        word = self._source(operator).upper()
        if negated:
            following = children[2]
            operator = Token("", operator.start, following.end)
            word = "NOT " + self._source(following).upper()
        values = children[3:] if negated else children[2:]
        if raw.name == "match":
            pattern = self._value(values[0])
            if not fields.is_number(field) and pattern.kind != "text":
                self._refuse_type(name, field, word, pattern)
            self._check_comparator(name, field, word, operator)
            assert isinstance(pattern.value, str)
            return tree.Match(field, word.replace("NOT ", ""), pattern.value, negated)
        if raw.name == "in_list":
            items = values[1]
            return self._in_list(name, field, word, operator, items, negated)
        self._check_comparator(name, field, word, operator)
        low = self._number(name, field, word, self._value(values[0]))
        high = self._number(name, field, word, self._value(values[2]))
        return tree.Between(field, low, high, negated)

    def _compare(
        self, name: Token, field: tree.Field, operator: Token, raw: Raw | Token
    ) -> tree.Predicate:
        op = self._source(operator).upper()
        value = self._value(raw)
        self._check_type(name, field, op, value)
        self._check_comparator(name, field, op, operator, value)
        if fields.is_number(field):
            return tree.NumberCompare(field, op, self._number(name, field, op, value))
        if value.kind == "time":
            self._refuse_now(name, value)
        if value.kind == "number" or op in _ORDERINGS:
            return tree.NumberCompare(field, op, self._number(name, field, op, value))
        return tree.TextCompare(field, op, self._text_value(name, field, op, value))

    def _check_type(self, name: Token, field: tree.Field, op: str, value: _Value) -> None:
        """Refuse NULL, and numbers where only text can stand."""
        if value.kind == "null" or (value.kind == "number" and not fields.may_hold_numbers(field)):
            self._refuse_type(name, field, op, value)

    def _refuse_type(self, name: Token, field: tree.Field, op: str, value: _Value) -> NoReturn:
        """Raise with the sentence that stock MLflow has for a value that is no string."""
        shown = self._shown(value)
        entity = unquote_name(self._source(name).split(".", 1)[0])
        kind = _MLFLOW_TYPES.get(entity)
        if value.kind == "null" and isinstance(field, tree.Assessment) and op in _ORDERINGS:
            message = (
                f"Expected a numeric value for {field.kind} when using comparator '{op}'."
                f" Got value {shown}"
            )
        elif kind is not None:
            message = (
                f"Expected a quoted string value for {kind} (e.g. 'my-value'). Got value {shown}"
            )
        elif value.kind == "number":
            message = (
                f"Only the {quoted_set(_MLFLOW_NUMBERS)} attributes support comparison with numeric"
                " values."
            )
        else:
            message = (
                "Expected a quoted string value or a list of quoted string values for attributes."
                f" Got value {shown}"
            )
        hint = f"Write '{shown}'."
        if value.kind == "null":
            hint = "Missing values are found with IS NULL."
            if op == "!=":
                hint = "Values that are there are found with IS NOT NULL."
        elif op in _ORDERINGS or op.endswith("BETWEEN"):
            hint = self._takes(name, field, " is text: use")
        elif value.kind == "time":
            hint = "Times are timestamp_ms and end_time_ms."
        elif value.kind == "number" and kind is None:
            hint += f" {_NUMBERS}"
        self._fail(message, value, hint)

    def _takes(self, name: Token, field: tree.Field, verb: str = " takes") -> str:
        """Which operators there are, in a sentence."""
        return f"{visible(self._source(name), 60)}{verb} {fields.operators(field)}."

    def _text_value(self, name: Token, field: tree.Field, op: str, value: _Value) -> str:
        if value.kind == "boolean" and not fields.may_hold_booleans(field):
            self._fail(
                f"{visible(self._source(name), 60)} is text: expected a quoted string value."
                f" Got value {self._shown(value)}",
                value,
                f"Write '{value.value}'.",
            )
        if isinstance(field, tree.TraceText) and field.name == "prompt":
            self._check_prompt(value)
        assert isinstance(value.value, str)
        return value.value

    def _check_prompt(self, value: _Value) -> None:
        if str(value.value).count("/") != 1:
            self._fail(
                f"Invalid prompts filter value '{visible(str(value.value), 100)}'."
                ' Expected format: prompt = "name/version"',
                value,
                "For example prompt = 'greeting/2'.",
            )

    def _in_list(
        self,
        name: Token,
        field: tree.Field,
        word: str,
        operator: Token,
        raw: Raw,
        negated: bool,
    ) -> tree.In:
        self._check_comparator(name, field, word, operator)
        values = [self._value(child) for child in raw.children if not _is_comma(child)]
        items: list[tree.Value] = []
        for value in values:
            if value.kind == "null":
                self._refuse_type(name, field, word, value)
            if fields.is_number(field):
                items.append(self._number(name, field, word, value, values))
            elif value.kind == "time":
                self._refuse_now(name, value)
            elif value.kind == "number":
                if not fields.may_hold_numbers(field):
                    self._refuse_list(value, values)
                items.append(self._number(name, field, word, value))
            else:
                items.append(self._text_value(name, field, word, value))
        return tree.In(field, tuple(items), negated)

    def _refuse_list(self, value: _Value, values: list[_Value]) -> NoReturn:
        shown = visible(repr(tuple(item.value for item in values[:20])), 200)
        self._fail(
            "While parsing a list in the query, expected string value, punctuation, or"
            f" whitespace, but got different type in list: {shown}",
            value,
            f"Write '{self._shown(value)}'.",
        )

    # ------------------------------------------------------------------ operators

    def _check_comparator(
        self,
        name: Token,
        field: tree.Field,
        op: str,
        operator: Token,
        value: _Value | None = None,
    ) -> None:
        """Refuse an operator that the type of the field does not have."""
        word = op.replace("NOT ", "")
        if value is not None and op not in _COMPARISONS:
            hint = f"{_OPERATOR_HINTS.get(op, '')} {self._takes(name, field)}".lstrip()
            self._bad_comparator(name, field, op, operator, hint)
        if fields.is_number(field):
            if word in ("LIKE", "ILIKE", "RLIKE"):
                self._bad_comparator(
                    name,
                    field,
                    op,
                    operator,
                    self._takes(name, field, " is a number: use"),
                )
            return
        if fields.is_usage(field):
            if op not in ("=", "!="):
                assert isinstance(field, tree.Metadata)
                numbers = "total_tokens" if "token" in field.key else "total_cost"
                self._fail(
                    f"Comparator '{op}' is not supported for reserved metadata '{field.key}'."
                    " Only '=', '!=', 'IS NULL', and 'IS NOT NULL' are supported.",
                    operator,
                    f"The numbers in it have fields of their own, such as {numbers}.",
                )
            return
        if field == tree.SpanText("content") and op in ("=", "!="):
            negation = "NOT " if op == "!=" else ""
            text = visible(str(value.value), 40) if value is not None else "text"
            self._bad_comparator(
                name,
                field,
                op,
                operator,
                f"It is a whole document: use {negation}LIKE '%{text}%'."
                f" {self._takes(name, field)}",
            )
        if fields.may_hold_numbers(field):
            return
        if word == "BETWEEN" or op in _ORDERINGS:
            self._bad_comparator(
                name,
                field,
                op,
                operator,
                self._takes(name, field, " is text: use"),
            )

    def _bad_comparator(
        self, name: Token, field: tree.Field, op: str, operator: Token, hint: str
    ) -> NoReturn:
        """Raise with the sentence that stock MLflow has for the field's type."""
        if isinstance(field, tree.SpanText) and field.name == "content":
            message = f"span.content comparator '{op}' not one of '{{'ILIKE', 'LIKE'}}'"
        elif fields.is_span_field(field):
            message = (
                f"{self._source(name)} comparator '{op}' not one of"
                f" {quoted_set(_MLFLOW_STRING_COMPARATORS)}"
            )
        elif isinstance(field, tree.Assessment):
            message = (
                f"assessment.{field.name} comparator '{op}' not one of"
                f" {quoted_set(_MLFLOW_ASSESSMENT_COMPARATORS)}"
            )
        elif isinstance(field, tree.Issue):
            message = f"issue.id comparator '{op}' not one of '{{'='}}'"
        elif isinstance(field, tree.Metadata) or (
            isinstance(field, tree.TraceText) and field.name in ("run_id", "session_id", "user")
        ):
            message = f"Invalid comparator '{op}' not one of {quoted_set(_MLFLOW_TAG_COMPARATORS)}"
        elif isinstance(field, tree.Tag) or (
            isinstance(field, tree.TraceText) and field.name in ("name", "prompt")
        ):
            message = (
                f"Invalid comparator '{op}' not one of {quoted_set(_MLFLOW_TAG_COMPARATORS)[:-1]}"
            )
        elif isinstance(field, tree.TraceNumber):
            # MLflow's sentence lacks the closing quote here, and for tags.
            message = (
                f"Invalid comparator '{op}' not one of"
                f" {quoted_set(_MLFLOW_STRING_COMPARATORS)[:-1]}"
            )
        else:
            message = (
                f"Invalid comparator '{op}' not one of {quoted_set(_MLFLOW_STRING_COMPARATORS)}"
            )
        self._fail(visible(message, 400), operator, hint)

    # --------------------------------------------------------------------- values

    def _value(self, raw: Raw | Token) -> _Value:
        if isinstance(raw, Raw):
            return self._now(raw)
        source = self._source(raw)
        if raw.kind == "NUMBER":
            return _Value("number", self._literal(source, raw), raw.start, raw.end)
        if raw.kind == "NULL":
            return _Value("null", source, raw.start, raw.end)
        if raw.kind == "BOOLEAN":
            return _Value("boolean", source.lower(), raw.start, raw.end)
        return _Value("text", unquote(source), raw.start, raw.end)

    def _literal(self, source: str, place: Token | _Value) -> int | float:
        number = float(source)
        if math.isinf(number):
            self._fail(
                f"number out of range: {visible(source, 40)}",
                place,
                "Numbers reach up to about 1.8e308.",
            )
        integer = _INTEGER.match(source)
        # Without the zeros, because Python reads no integer of 4300 digits.
        return int(integer[1] + (integer[2].lstrip("0") or "0")) if integer else number

    def _number(
        self,
        name: Token,
        field: tree.Field,
        op: str,
        value: _Value,
        values: list[_Value] | None = None,
    ) -> tree.Number:
        """The value as a number, for a numeric comparison of ``field``."""
        if value.kind == "null":
            self._refuse_type(name, field, op, value)
        if isinstance(value.value, tree.Now):
            if not fields.is_time(field):
                self._refuse_now(name, value)
            return value.value
        if value.kind == "number" and not isinstance(value.value, str):
            self._check_type(name, field, op, value)
            if isinstance(field, tree.TraceNumber) and field.name in fields.INTEGER_FIELDS:
                self._check_bigint(value)
            return value.value
        shown = visible(self._source(name), 60)
        assert isinstance(value.value, str)
        text = value.value
        if value.kind == "text" and fields.is_time(field):
            try:
                moment = times.time_in_ms(text)
            except ValueError as error:
                self._fail(
                    f"invalid time {self._shown(value)}: {error}",
                    value,
                    "For example '2025-01-31' or '2025-01-31T12:00:00Z'.",
                )
            if moment is not None:
                return moment
            hint = "For example '2025-01-31', '2025-01-31T12:00:00Z' or now() - '24 hours'."
            if values is not None:
                self._refuse_text_list(f"{shown} takes a list of times", value, hint)
            if _NUMBER.match(text):
                hint = f"Milliseconds stand without quotes: {visible(text, 40)}."
            elif times.duration_in_ms(text) is not None:
                hint = f"Write now() - '{visible(text, 40)}'."
            self._fail(f"invalid time {self._shown(value)} for {shown}", value, hint)
        reads_as_number = value.kind == "text" and _NUMBER.match(text) is not None
        if fields.is_number(field):
            hint = "For example 1000; text goes with text fields."
            duration = NUMBER_AND_UNIT.fullmatch(text)
            if reads_as_number:
                hint = f"Remove the quotes: {visible(text, 40)}."
            elif duration:
                hint = unit_hint(duration[1], duration[2])
            if values is not None:
                self._refuse_text_list(f"{shown} takes a list of numbers", value, hint)
            self._fail(
                f"Expected a numeric value for {shown}. Got value {self._shown(value)}",
                value,
                hint,
            )
        if isinstance(field, tree.Assessment):
            hint = f"Remove the quotes: {visible(text, 40)}."
            if not reads_as_number:
                hint = f"{op} compares numbers; text is compared by =, !=, LIKE or IN."
            self._fail(
                f"Expected a numeric value for {field.kind} when using comparator '{op}'."
                f" Got value {self._shown(value)}",
                value,
                hint,
            )
        if reads_as_number:
            return self._literal(text, value)
        operator = Token("", value.start, value.end)
        self._bad_comparator(
            name,
            field,
            op,
            operator,
            f"{op} compares numbers, and {self._shown(value)} is none. {self._takes(name, field)}",
        )

    def _refuse_text_list(self, instead: str, value: _Value, hint: str) -> NoReturn:
        self._fail(
            f"Only attributes in {bare_set(_MLFLOW_LISTS)} supports comparison with a list of"
            f" quoted string values. {instead}",
            value,
            hint,
        )

    def _check_bigint(self, value: _Value) -> None:
        if isinstance(value.value, int) and not -(2**63) <= value.value < 2**63:
            self._fail(
                f"number out of range: {self._shown(value)}",
                value,
                f"Whole numbers reach up to {2**63 - 1} here.",
            )

    def _refuse_now(self, name: Token, value: _Value) -> NoReturn:
        self._fail(
            f"now() cannot be compared with {visible(self._source(name), 60)}",
            value,
            "Times are timestamp_ms and end_time_ms.",
        )

    def _now(self, raw: Raw) -> _Value:
        first, last = raw.children[0], raw.children[-1]
        offset = 0
        if len(raw.children) > 1:
            offset = self._duration(last)
            if self._source(raw.children[1]) == "-":
                offset = -offset
        return _Value("time", tree.Now(offset), first.start, last.end)

    def _duration(self, token: Token) -> int:
        text = unquote(self._source(token))
        milliseconds = times.duration_in_ms(text)
        if milliseconds is None:
            self._fail(
                f"invalid duration {visible(self._source(token), 60)}",
                token,
                times.duration_hint(text),
            )
        return milliseconds

    # -------------------------------------------------------------------- helpers

    def _shown(self, value: _Value) -> str:
        return visible(self._text[value.start : value.end], 60)


def _conjoin(parts: list[_Part]) -> _Part:
    """AND, by the rule that its plain conditions on spans share one span."""
    if len(parts) == 1:
        return parts[0]
    spans: list[tree.Node] = []
    items: list[tree.Node] = []
    place = 0
    for node, pure in parts:
        nodes = node.items if isinstance(node, tree.And) else (node,)
        if pure:
            if not spans:
                place = len(items)
            spans.extend(nodes)
        else:
            items.extend(nodes)
    if not items:
        return _Part(tree.And(tuple(spans)), True)
    if spans:
        items.insert(place, tree.AnySpan(tree.And(tuple(spans)) if len(spans) > 1 else spans[0]))
    return _Part(tree.And(tuple(items)), False)


def _disjoin(parts: list[_Part]) -> _Part:
    if len(parts) == 1:
        return parts[0]
    pure = all(part.pure for part in parts)
    items: list[tree.Node] = []
    for part in parts:
        node = part.node if pure else _close(part)
        items.extend(node.items if isinstance(node, tree.Or) else (node,))
    return _Part(tree.Or(tuple(items)), pure)


def _close(part: _Part) -> tree.Node:
    return tree.AnySpan(part.node) if part.pure else part.node


def _is_comma(child: Raw | Token) -> bool:
    return isinstance(child, Token) and child.kind == "COMMA"
''',
"insights_engine.rows": r'''"""Reads MLflow's rows of some traces, and has their facts collected."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple, Optional

from insights_engine.facts import COST_COLUMNS, INTEGER_COLUMNS, PREVIEWS, TEXT_COLUMNS, Facts
from insights_engine.rawsql import SESSION, SOURCE_RUN

#: Longer contents of spans are not decoded; long ones are read one by one.
LONGEST_CONTENT = 4 * 1024 * 1024
_LONG_CONTENT = 64 * 1024
#: Characters of an assessment's value that its rollup keeps.
_LONGEST_SHOWN = 250
_AT_ONCE = 500

MARK = f'"{SESSION}":'


class Placed(NamedTuple):
    """A trace and the position that its facts get."""

    position: int
    trace_id: str
    experiment_id: int


class Rollups(NamedTuple):
    """What ``insights.trace`` shows of a trace."""

    spans: Optional[str]
    assessments: Optional[str]


class Reader:
    """Reads traces; its plans serve one call."""

    def __init__(self, plpy: Any, schema: str) -> None:
        self._plpy = plpy
        self._schema = schema
        self._plans: dict[str, Any] = {}
        self._with_sessions = bool(
            plpy.execute("select exists (select from insights.carrier) as found")[0]["found"]
        )

    def collect(self, facts: Facts, traces: Sequence[Placed]) -> dict[int, Rollups]:
        """Has the facts of traces collected, whose positions ascend; their rollups.

        Traces that are no longer there have no facts and no rollup.
        """
        assessed = self._assessments(traces)
        linked = self._links(traces)
        lent = self._lent_assessments(traces) if self._with_sessions else {}
        shown: dict[int, Optional[str]] = {}
        ascending = 0
        for row in self._traces(traces):
            n = row["n"] - 1
            if n < ascending:
                raise RuntimeError("traces did not come in the order of their positions")
            ascending = n
            position = traces[n].position
            facts.add_trace(position, row)
            runs = linked.get(("run", n), [])
            for kind in ("tag", "metadata"):
                if row[f"{kind}_keys"]:
                    facts.add_pairs(position, kind, row[f"{kind}_keys"], row[f"{kind}_values"])
            for run in (row["source_run"], *runs):
                if run is not None:
                    facts.add_link(position, "run", run)
            for prompt in linked.get(("prompt", n), ()):
                facts.add_link(position, "prompt", prompt)
            own = assessed.get(n, ())
            for a in own:
                if a["kind"] == "issue":
                    facts.add_link(position, "issue", a["name"])
            for a in (*own, *lent.get(n, ())):
                if a["kind"] == "issue" or not a["valid"]:
                    continue
                if a["elsewhere"]:
                    facts.add_session_elsewhere(position)
                else:
                    facts.add_assessment(
                        position, a["kind"], a["name"], a["value"], a["numeric"], a["number"]
                    )
            shown[position] = _rollup(own) if own else None
        rollups = {}
        spans = groupby(self._spans(traces), key=itemgetter(0))
        found, of_trace = next(spans, (None, iter(())))
        for n, trace in enumerate(traces):
            if n == found:
                rollup = facts.add_spans(trace.position, of_trace)
                found, of_trace = next(spans, (None, iter(())))
            elif trace.position in shown:
                rollup = facts.add_spans(trace.position, ())
            else:
                continue
            rollups[trace.position] = Rollups(rollup, shown.get(trace.position))
        if found is not None:
            raise RuntimeError("spans did not come in the order of their traces")
        return rollups

    # ---------------------------------------------------------------- queries

    def _rows(self, sql: str, traces: Sequence[Placed]) -> Iterator[dict[str, Any]]:
        """The rows of a statement about ``u``: (trace_id, experiment_id, n), in the order of n.

        The order is that of a nested loop, which is the only way to join what is
        LATERAL and has an OFFSET: sorting would keep all the rows, contents and all.
        """
        plan = self._plans.get(sql)
        if plan is None:
            plan = self._plans[sql] = self._plpy.prepare(sql, ["text[]", "int[]"])
        ids = [trace.trace_id for trace in traces]
        experiments = [trace.experiment_id for trace in traces]
        cursor = self._plpy.cursor(plan, [ids, experiments])
        while True:
            rows = cursor.fetch(_AT_ONCE)
            yield from rows
            if len(rows) < _AT_ONCE:
                cursor.close()
                return

    def _traces(self, traces: Sequence[Placed]) -> Iterator[dict[str, Any]]:
        columns = "".join(
            f", t.{name}"
            for name in (*INTEGER_COLUMNS, *COST_COLUMNS, *TEXT_COLUMNS)
            if name != "name"
        )
        previews = "".join(f", t.{name} is not null as {name}" for name in PREVIEWS)
        return self._rows(
            f"select u.n, t.trace_name as name{columns}{previews},"
            " k.keys as tag_keys, k.texts as tag_values,"
            " m.keys as metadata_keys, m.texts as metadata_values, m.source_run"
            f" from {_GIVEN}"
            " cross join lateral ("
            f"  select * from {self._schema}.trace_info t"
            "  where t.request_id = u.trace_id offset 0) t"
            " cross join lateral ("
            "  select pg_catalog.array_agg(k.key) as keys, pg_catalog.array_agg(k.value) as texts"
            f"  from {self._schema}.trace_tags k where k.request_id = t.request_id offset 0) k"
            " cross join lateral ("
            "  select pg_catalog.array_agg(m.key) as keys, pg_catalog.array_agg(m.value) as texts,"
            f"  pg_catalog.min(m.value) filter (where m.key = '{SOURCE_RUN}') as source_run"
            f"  from {self._schema}.trace_request_metadata m where m.request_id = t.request_id"
            "  offset 0) m",
            traces,
        )

    def _spans(self, traces: Sequence[Placed]) -> Iterator[Any]:
        """(n, type, name, status, duration, content) of each span, by trace."""
        size = "pg_catalog.octet_length(s.content)"
        for row in self._rows(
            "select u.n, s.type, s.name, s.status, s.duration_ns, s.content, s.span_id"
            f" from {_GIVEN} cross join lateral ("
            "  select s.type, s.name, s.status, s.duration_ns,"
            f"  case when {size} <= {_LONG_CONTENT} then s.content end as content,"
            f"  case when {size} between {_LONG_CONTENT + 1} and {LONGEST_CONTENT}"
            "    then s.span_id end as span_id"
            f"  from {self._schema}.spans s"
            # The sum keeps the planner away from indexes on experiments.
            "  where s.trace_id = u.trace_id and s.experiment_id + 0 = u.experiment_id offset 0) s",
            traces,
        ):
            n = row["n"] - 1
            content = row["content"]
            if content is None and row["span_id"] is not None:
                content = self._content(traces[n].trace_id, row["span_id"])
            yield n, row["type"], row["name"], row["status"], row["duration_ns"], content

    def _content(self, trace_id: str, span_id: str) -> Optional[str]:
        rows = self._plpy.execute(
            self._plpy.prepare(
                f"select s.content from {self._schema}.spans s"
                " where s.trace_id = $1 and s.span_id = $2"
                f" and pg_catalog.octet_length(s.content) <= {LONGEST_CONTENT}",
                ["text", "text"],
            ),
            [trace_id, span_id],
        )
        return str(rows[0]["content"]) if rows else None

    def _assessments(self, traces: Sequence[Placed]) -> dict[int, list[dict[str, Any]]]:
        """The traces' own assessments, the latest first."""
        return _by_trace(
            self._rows(
                "select u.n, a.assessment_type as kind, a.name, a.value, a.valid,"
                " a.is_numeric_value as numeric, a.aggregate_value as number, false as elsewhere"
                f" from {_GIVEN} cross join lateral ("
                f"  select * from {self._schema}.assessments a where a.trace_id = u.trace_id"
                "  and a.assessment_type in ('feedback', 'expectation', 'issue')"
                "  order by a.last_updated_timestamp desc, a.created_timestamp desc,"
                "  a.assessment_id desc offset 0) a",
                traces,
            )
        )

    def _lent_assessments(self, traces: Sequence[Placed]) -> dict[int, list[dict[str, Any]]]:
        """What other traces of the same session lend."""
        return _by_trace(
            self._rows(
                "select u.n, a.assessment_type as kind, a.name, a.value, a.valid,"
                " a.is_numeric_value as numeric, a.aggregate_value as number,"
                " c.experiment_id <> t.experiment_id as elsewhere"
                f" from {_GIVEN}"
                f" join {self._schema}.trace_info t on t.request_id = u.trace_id"
                " join insights.carrier k on k.session_id = t.session_id"
                f" join {self._schema}.trace_info c on c.request_id = k.trace_id"
                " and c.session_id = t.session_id and c.request_id <> t.request_id"
                f" join {self._schema}.assessments a on a.trace_id = c.request_id"
                " where a.valid and a.assessment_type in ('feedback', 'expectation')"
                f" and pg_catalog.strpos(a.assessment_metadata, '{MARK}') > 0",
                traces,
            )
        )

    def _links(self, traces: Sequence[Placed]) -> dict[tuple[str, int], list[str]]:
        links: dict[tuple[str, int], list[str]] = {}
        for row in self._rows(
            "select u.n, e.destination_type, e.destination_id"
            f" from {_GIVEN} cross join lateral ("
            f"  select * from {self._schema}.entity_associations e"
            "  where e.source_type = 'trace' and e.source_id = u.trace_id"
            "  and e.destination_type in ('run', 'prompt_version') offset 0) e",
            traces,
        ):
            kind = "run" if row["destination_type"] == "run" else "prompt"
            links.setdefault((kind, row["n"] - 1), []).append(row["destination_id"])
        return links


_GIVEN = (
    "rows from (pg_catalog.unnest($1), pg_catalog.unnest($2)) with ordinality"
    " as u (trace_id, experiment_id, n)"
)


def _by_trace(rows: Iterator[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["n"] - 1, []).append(row)
    return found


def _rollup(assessments: Sequence[dict[str, Any]]) -> Optional[str]:
    """[[kind, name, how many, the latest value, its number], ...] as JSON."""
    found: dict[tuple[str, str], list[Any]] = {}
    for a in assessments:
        if not a["valid"] or a["kind"] == "issue":
            continue
        entry = found.get((a["kind"], a["name"]))
        if entry is not None:
            entry[2] += 1
            continue
        number = a["number"] if a["number"] is not None and math.isfinite(a["number"]) else None
        value = None if a["value"] is None else a["value"][:_LONGEST_SHOWN]
        found[a["kind"], a["name"]] = [a["kind"], a["name"], 1, value, number]
    if not found:
        return None
    return json.dumps(list(found.values()), ensure_ascii=False, separators=(",", ":"))
''',
"insights_engine.search": r'''"""Search: which traces, in which order, and the rows that show them.

A page is made of the few traces to which MLflow's own indexes or ours narrow the
filter down.  Where neither does, newest-first pages of filters that match often
are answered by walking the index on (experiment, time) and probing trace by
trace, as stock MLflow does.  Filters that match seldom would make that walk long;
they are answered as a set.  No estimate decides between the two but a look: the
walk begins with a window of the newest traces and goes on only while its hits
promise that the page will soon be full.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

from insights_engine import attributes, indexed, narrowing, paging, plans, printer, tree
from insights_engine.errors import InsightsError
from insights_engine.ordering import Clause, SortColumn, compile_order
from insights_engine.paging import Position
from insights_engine.statement import Statement

MAX_RESULTS = 50_000
DEFAULT_RESULTS = 100

#: Traces in the first window of a walk, at least.
FIRST_WINDOW = 200
#: How many times what it has walked a walk may plan to go on.
PATIENCE = 10
#: As many traces are walked in any case, if there were hits among the first.
SHORT_WALK = 5000
#: As many hits of the index are sorted by something else than time.
SMALL_SET = 5000

TOKEN_KEYS = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation_input_tokens_above_1hr",
)
COST_KEYS = ("input_cost", "output_cost", "total_cost")


def check_max_results(max_results: Optional[int], hint: Optional[str] = None) -> int:
    """``max_results`` within MLflow's bounds, refused in MLflow's words.

    ``hint``: what to do when there are more results.
    """
    if max_results is None or max_results < 1:
        raise InsightsError(
            f"Invalid value {max_results} for parameter 'max_results' supplied. "
            "It must be a positive integer"
        )
    if max_results > MAX_RESULTS:
        raise InsightsError(
            f"Invalid value {max_results} for parameter 'max_results' supplied. "
            f"It must be at most {MAX_RESULTS}",
            hint=hint,
        )
    return max_results


_NEWEST_FIRST = Clause(narrowing.TIME, descending=True)


@dataclass(frozen=True)
class Query:
    """A search: everything that its pages have in common."""

    schema: str
    experiments: Optional[list[int]]
    filter: tree.Node
    order: tuple[Clause, ...]

    @property
    def fingerprint(self) -> str:
        return paging.fingerprint(
            self.experiments, printer.print_filter(self.filter), [str(c) for c in self.order]
        )

    def columns(self) -> list[SortColumn]:
        """What the order sorts by."""
        return compile_order(self.order, Statement(self.schema, None, 0).params, self.schema)[0]


@dataclass(frozen=True)
class Page:
    """The trace ids of a page, and the token of the next if there is one."""

    trace_ids: list[str]
    next_page_token: Optional[str]


def find_page(
    plpy: Any,
    query: Query,
    max_results: int,
    now_ms: int,
    page_token: Optional[str],
    offset: int = 0,
) -> Page:
    """One page of a search; ``offset`` skips rows, for tokens of stock MLflow."""
    start = None
    if page_token:
        start = paging.decode(page_token, query.fingerprint, query.columns())
        now_ms = start.now_ms
    if query.experiments == []:
        return Page([], None)
    # One more than asked for tells whether another page exists.
    rows = _Finder(plpy, query, now_ms).rows(max_results + 1, start, offset)
    ids = [row.trace_id for row in rows[:max_results]]
    if len(rows) <= max_results:
        return Page(ids, None)
    last = Position(rows[max_results - 1].values, now_ms)
    return Page(ids, paging.encode(last, query.fingerprint))


@dataclass(frozen=True)
class _Row:
    """A found trace and its sort values."""

    trace_id: str
    values: tuple[Any, ...]


class _Finder:
    def __init__(self, plpy: Any, query: Query, now_ms: int) -> None:
        self._plpy = plpy
        self._query = query
        self._now_ms = now_ms
        self._types = [column.type for column in query.columns()]
        self._names = [f"k{n}" for n in range(len(self._types))]

    def rows(self, limit: int, start: Optional[Position], offset: int) -> list[_Row]:
        """The first ``limit`` rows after ``start``."""
        by_time = self._query.order[0].field == narrowing.TIME
        # The walk heeds the bounds on the time by itself.
        everything = len(narrowing.time_bounds(self._query.filter)) == len(
            narrowing.conjuncts(self._query.filter)
        )
        if everything and by_time and not offset:
            return self._walk(limit, limit, start)
        if self._query.filter != tree.EVERYTHING:
            few = self._few(limit, start, offset)
            if few is not None:
                return self._sorted(*few, limit, start, offset)
        if offset or not by_time:
            return self._as_set(limit, start, offset)
        found: list[_Row] = []
        walked = 0
        window = max(FIRST_WINDOW, 2 * limit)
        while True:
            found += self._walk(window, limit - len(found), start)
            if len(found) >= limit:
                return found
            start = self._end_of_window(window, start)
            if start is None:
                return found
            walked += window
            missing = limit - len(found)
            expected = missing * walked / len(found) if found else math.inf
            patience = max(PATIENCE * walked, SHORT_WALK)
            if expected > patience:
                few = self._newest(missing, start, indexed.Settled.EVERYWHERE)
                if few is not None:
                    return found + self._sorted(*few, missing, start, 0)
                return found + self._as_set(missing, start, 0)
            window = max(FIRST_WINDOW, math.ceil(expected * 1.3))

    def _statement(self, parallel: bool = False) -> Statement:
        return Statement(
            self._query.schema, self._query.experiments, self._now_ms, parallel=parallel
        )

    # ------------------------------------------------------------ a few traces

    def _few(
        self, limit: int, start: Optional[Position], offset: int
    ) -> Optional[tuple[list[str], list[str]]]:
        """Traces among which are those of the page, surely and perhaps; None: too many."""
        few = narrowing.find(self._plpy, self._statement(), self._query.filter)
        if few is not None:
            return few
        settled = indexed.Settled.WHATEVER
        if _about_content(self._query.filter):
            settled = indexed.Settled.ALREADY
        if self._query.order[0] == _NEWEST_FIRST and not offset:
            return self._newest(limit, start, settled)
        if settled is indexed.Settled.ALREADY:
            return None
        return indexed.matches(self._plpy, self._statement(), self._query.filter, SMALL_SET)

    def _newest(
        self, limit: int, start: Optional[Position], settled: indexed.Settled
    ) -> Optional[tuple[list[str], list[str]]]:
        """The same by the index, of the newest first."""
        if self._query.order[0] != _NEWEST_FIRST:
            return None
        before_ms = None if start is None else start.values[0]
        assert before_ms is None or isinstance(before_ms, int)
        return indexed.newest(
            self._plpy, self._statement(), self._query.filter, limit, before_ms, settled
        )

    def _sorted(
        self,
        sure: Sequence[str],
        perhaps: Sequence[str],
        limit: int,
        start: Optional[Position],
        offset: int,
    ) -> list[_Row]:
        """The page among these traces, the second of which are asked whether they match."""
        if not sure and not perhaps:
            return []
        statement = self._statement()
        columns, joins = compile_order(self._query.order, statement.params, statement.schema)
        where = f"t.request_id = any({statement.params.add([*sure, *perhaps], 'text[]')})"
        if perhaps:
            asked = statement.params.add(list(perhaps), "text[]")
            condition = statement.condition(self._query.filter, "probe")
            where += (
                f"\nand {statement.scope()}"
                f"\nand case when t.request_id = any({asked}) then {condition} else true end"
            )
        if start is not None:
            where += f"\nand {paging.after(columns, start.values, statement.params)}"
        keys = "".join(f", {column.expression} as k{n}" for n, column in enumerate(columns))
        sql = (
            f"select t.request_id{keys}\nfrom {statement.traces}\n{joins}\nwhere {where}\n"
            f"order by {', '.join(str(column) for column in columns)}\n"
            f"limit {statement.params.add(limit, 'bigint')}"
            f" offset {statement.params.add(offset, 'bigint')}"
        )
        # The plan to sort ids is always the same, and worth keeping.
        rows = (
            statement.run(self._plpy, sql)
            if perhaps
            else plans.run(self._plpy, sql, statement.params.types, statement.params.values)
        )
        return [_Row(row["request_id"], self._values(row)) for row in rows]

    # -------------------------------------------------------------- as a set

    def _as_set(self, limit: int, start: Optional[Position], offset: int) -> list[_Row]:
        statement = self._statement(parallel=True)
        columns, joins = compile_order(self._query.order, statement.params, statement.schema)
        where = statement.where(self._query.filter, "set")
        if start is not None:
            where += f"\nand {paging.after(columns, start.values, statement.params)}"
        keys = "".join(f", {column.expression} as k{n}" for n, column in enumerate(columns))
        texts = "".join(f", k{n}::text" for n in range(len(columns)))
        order = _order_by(columns, "k")
        # Materialized where an index would serve the order, lest the planner hope
        # for an early end of a long walk; any other order has to see all hits.
        by_time = self._query.order[0].field == narrowing.TIME
        fence = "materialized" if by_time else "not materialized"
        sql = (
            f"with hits as {fence} (\n"
            f"select t.request_id{keys}\nfrom {statement.traces}\n{joins}\nwhere {where}\n"
            f")\nselect array[request_id::text{texts}]\nfrom hits\norder by {order}\n"
            f"limit {statement.params.add(limit, 'bigint')}"
            f" offset {statement.params.add(offset, 'bigint')}"
        )
        return [
            _Row(trace_id or "", tuple(map(_typed, values, self._types)))
            for trace_id, *values in statement.run_in_parallel(self._plpy, sql)
        ]

    # ------------------------------------------------------------- the walk

    def _window(
        self, statement: Statement, size: int, start: Optional[Position]
    ) -> tuple[str, list[SortColumn]]:
        """The next ``size`` traces in order, whether they match or not.

        Bounds on the time are not left to the probes: they say where to walk.
        """
        columns, joins = compile_order(self._query.order, statement.params, statement.schema)
        where = statement.scope()
        for bound in narrowing.time_bounds(self._query.filter):
            where += f"\nand {statement.condition(bound, 'probe')}"
        if start is not None:
            where += f"\nand {paging.after(columns, start.values, statement.params)}"
        keys = "".join(f", {column.expression} as k{n}" for n, column in enumerate(columns))
        order = ", ".join(str(column) for column in columns)
        limit = statement.params.add(size, "bigint")
        sql = (
            f"select t.*{keys}\nfrom {statement.traces}\n{joins}\nwhere {where}\n"
            f"order by {order}\nlimit {limit}"
        )
        return sql, columns

    def _walk(self, window: int, limit: int, start: Optional[Position]) -> list[_Row]:
        """The matches among the next ``window`` traces, ``limit`` at most."""
        statement = self._statement()
        inner, columns = self._window(statement, window, start)
        condition = statement.condition(self._query.filter, "probe")
        keys = "".join(f", t.k{n}" for n in range(len(columns)))
        sql = (
            f"select t.request_id{keys}\nfrom (\n{inner}\n) t\nwhere {condition}\n"
            f"order by {_order_by(columns, 't.k')}\n"
            f"limit {statement.params.add(limit, 'bigint')}"
        )
        return [
            _Row(row["request_id"], self._values(row)) for row in statement.run(self._plpy, sql)
        ]

    def _end_of_window(self, window: int, start: Optional[Position]) -> Optional[Position]:
        """The last row of a window; None if the traces ended within it."""
        statement = self._statement()
        inner, _ = self._window(statement, window, start)
        last = statement.params.add(window - 1, "bigint")
        rows = statement.run(self._plpy, f"select w.* from (\n{inner}\n) w offset {last}")
        return Position(self._values(rows[0]), self._now_ms) if len(rows) else None

    def _values(self, row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple([row[name] for name in self._names])


def _about_content(filter: tree.Node) -> bool:
    """Whether it asks for patterns in whole spans, of which our index knows nothing."""
    bounds = narrowing.time_bounds(filter)
    rest = [item for item in narrowing.conjuncts(filter) if item not in bounds]
    return bool(rest) and all(
        isinstance(item, tree.AnySpan)
        and isinstance(item.condition, tree.Match)
        and item.condition.field == tree.SpanText("content")
        for item in rest
    )


def _order_by(columns: Sequence[SortColumn], prefix: str) -> str:
    """The order by the columns under the names that a subquery gave them."""
    return ", ".join(
        str(replace(column, expression=f"{prefix}{n}")) for n, column in enumerate(columns)
    )


def _typed(text: Optional[str], type: str) -> Any:
    """A sort value from its text."""
    if text is None:
        return None
    return int(text) if type == "bigint" else float(text) if type == "double precision" else text


def match_trace_ids(plpy: Any, query: Query, trace_ids: Sequence[str], now_ms: int) -> list[str]:
    """Those of the given traces that match, in the order given."""
    statement = Statement(query.schema, query.experiments, now_ms)
    given = statement.params.add(list(trace_ids), "text[]")
    rows = statement.run(
        plpy,
        f"select t.request_id from {statement.traces}\n"
        f"where t.request_id = any({given}) and {statement.where(query.filter, 'probe')}",
    )
    found = {row["request_id"] for row in rows}
    return [trace_id for trace_id in dict.fromkeys(trace_ids) if trace_id in found]


# ------------------------------------------------------------------------ rows

#: Traces whose rows are read together.
ROW_BATCH = 1000


def read_rows(plpy: Any, schema: str, page: Page) -> Iterator[dict[str, Any]]:
    """The rows that show the traces of a page, in its order.

    A trace that is deleted between finding and reading cannot occur: both read
    the same snapshot.
    """
    numbers = ", ".join(f"t.{name}" for name in TOKEN_KEYS + COST_KEYS)
    plan = plpy.prepare(
        f"""select
    t.request_id, t.experiment_id::text as experiment_id, t.timestamp_ms,
    t.execution_time_ms, t.status, t.trace_name, t.session_id,
    t.request_preview, t.response_preview, {numbers},
    (
        select pg_catalog.jsonb_object_agg(g.key, g.value)
        from {schema}.trace_tags g
        where g.request_id = t.request_id and g.key <> 'mlflow.traceName'
    ) as tags,
    (
        select pg_catalog.jsonb_object_agg(m.key, m.value)
        from {schema}.trace_request_metadata m
        where m.request_id = t.request_id and m.key not in (
            'mlflow.trace.session', 'mlflow.trace.tokenUsage', 'mlflow.trace.cost'
        )
    ) as metadata,
    (
        select pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
            'assessment_id', a.assessment_id,
            'name', a.name,
            'type', a.assessment_type,
            'value', a.value,
            'error', a.error,
            'rationale', a.rationale,
            'source_type', a.source_type,
            'source_id', a.source_id,
            'metadata', a.assessment_metadata,
            'valid', a.valid,
            'overrides', a.overrides,
            'span_id', a.span_id,
            'run_id', a.run_id,
            'create_time_ms', a.created_timestamp,
            'last_update_time_ms', a.last_updated_timestamp
        ) order by a.created_timestamp, a.assessment_id)
        from {schema}.assessments a
        where a.trace_id = t.request_id
    ) as assessments
from pg_catalog.unnest($1) with ordinality o(trace_id, number)
cross join lateral (
    -- One by one through the primary key, whatever the planner believes about
    -- the size of the table: many batches run with one plan.
    select * from {schema}.trace_info i where i.request_id = o.trace_id offset 0
) t
order by o.number""",
        ["text[]"],
    )
    for first in range(0, len(page.trace_ids), ROW_BATCH):
        for row in plpy.execute(plan, [page.trace_ids[first : first + ROW_BATCH]]):
            yield _shown(row, page.next_page_token)


def _shown(row: dict[str, Any], next_page_token: Optional[str]) -> dict[str, Any]:
    stored = row["assessments"]
    return {
        "trace_id": row["request_id"],
        "experiment_id": row["experiment_id"],
        "timestamp_ms": row["timestamp_ms"],
        "execution_time_ms": row["execution_time_ms"],
        "status": row["status"],
        "trace_name": row["trace_name"],
        "session_id": row["session_id"],
        "request_preview": row["request_preview"],
        "response_preview": row["response_preview"],
        "tags": _with(row["tags"], {"mlflow.traceName": row["trace_name"]}),
        "metadata": _with(row["metadata"], _promoted(row)),
        "assessments": _json([_assessment(a) for a in json.loads(stored)]) if stored else "[]",
        "next_page_token": next_page_token,
    }


def _promoted(row: dict[str, Any]) -> dict[str, Optional[str]]:
    """The metadata that MLflow keeps in columns and shows as entries."""
    promoted = {"mlflow.trace.session": row["session_id"]}
    for key, columns in (
        ("mlflow.trace.tokenUsage", TOKEN_KEYS),
        ("mlflow.trace.cost", COST_KEYS),
    ):
        numbers = {column: row[column] for column in columns if row[column] is not None}
        promoted[key] = json.dumps(numbers) if numbers else None
    return promoted


def _with(stored: Optional[str], more: dict[str, Optional[str]]) -> str:
    """The JSON text of an object with the entries of ``more`` that exist.

    Without decoding what is there: a page may have 50,000 rows.
    """
    entries = [f"{_json(key)}:{_json(value)}" for key, value in more.items() if value is not None]
    if stored and stored != "{}":
        entries.insert(0, stored[1:-1])
    return "{" + ",".join(entries) + "}"


def _assessment(stored: dict[str, Any]) -> dict[str, Any]:
    """An assessment for reading: JSON decoded, the source in one object."""
    shown = dict(stored)
    shown["source"] = {
        "source_type": shown.pop("source_type"),
        "source_id": shown.pop("source_id"),
    }
    for key in ("value", "error", "metadata"):
        shown[key] = decoded(stored[key])
    return shown


def decoded(text: Optional[str]) -> Any:
    """Stored JSON as jsonb can hold it; what is not JSON as the text itself."""
    if text is None:
        return None
    try:
        value = storable(json.loads(text))
        json.dumps(value)
    except (ValueError, RecursionError):
        return text
    return value


def storable(value: Any) -> Any:
    """``value`` without what JSON has no place for.

    NaN and the infinities become strings, characters that PostgreSQL cannot
    hold U+FFFD.
    """
    if isinstance(value, str):
        return attributes.storable(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {attributes.storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [storable(item) for item in value]
    return value


_json = json.JSONEncoder(ensure_ascii=False).encode
''',
"insights_engine.series_index": r'''"""Buckets of a series from the index: what is kept of them, and what has to be looked at.

What is told of a bucket is kept by filter (cache.py): the blocks that its traces are in never
change.  Only buckets with pending traces are put together anew each time.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, compress
from operator import itemgetter
from typing import Any, Callable, NamedTuple, Optional

from insights_engine import bitmaps, plans, sessions, tree
from insights_engine.cache import CACHE
from insights_engine.groups import Block, all_positions
from insights_engine.index_reader import Index, decided, open_index, prepare
from insights_engine.series_rows import (
    FINEST,
    NOTHING,
    NULL,
    Bucket,
    Columns,
    Row,
    columns_of,
    nothing,
    sum_of,
    texts_of_percentiles,
    texts_of_totals,
)
from insights_engine.statement import Statement
from insights_engine.timelines import Sliced, Timeline, timelines

_FAILED = tree.TextCompare(tree.TraceText("status"), "=", "ERROR")
#: Up to so many matching traces of a bucket in a block are looked at one by one.
_FEW = 800


def of_index(
    plpy: Any,
    statement: Statement,
    node: tree.Node,
    edges: array[int],
    unit: str,
    calendar: Any,
) -> Optional[Columns]:
    """The columns, if the index is of use; bucket n ends at edge n + 1.

    ``calendar`` is what the edges come from.
    """
    if statement.experiments == []:
        return nothing(len(edges) - 1)
    index = open_index(plpy, statement, (node,))
    if index is None:
        return None
    index.blocks = [
        block for block in index.blocks if block.last_ms >= edges[0] and block.first_ms < edges[-1]
    ]
    one = prepare(node)
    key = ("series", index.scope, one.text, unit, calendar) if one.lasting else None
    pending = _pending(index, statement.again(), node) if index.pending else ()
    collected = _Collected(index, edges, unit, key, [row["timestamp_ms"] for row in pending])
    # What is kept leaves little to ask about, or nothing.
    index.blocks = [part.block for part in collected.lacking]
    ways = zip(
        collected.lacking,
        timelines(index, index.blocks),
        decided(index, (one, prepare(_FAILED))),
    )
    for part, timeline, (matching, failed) in ways:
        collected.add(part, timeline, matching, failed)
    if index.overcharged:
        return None
    collected.keep()
    for row in pending:
        collected.add_pending(row)
    return collected.columns()


class Kept(NamedTuple):
    """What is told of the buckets of a stretch, see `_Stretch`."""

    #: Where the buckets begin, and the last one ends.
    edges: array[int]
    #: Of which blocks which positions were looked at.
    looked_at: tuple[tuple[int, int], ...]
    columns: Columns

    @property
    def nbytes(self) -> int:
        """About what it takes in memory."""
        return (
            _KEPT_BYTES
            + self.edges.itemsize * len(self.edges)
            + sum(universe.bit_length() >> 3 for _, universe in self.looked_at)
            + sum(map(len, self.columns))
        )


#: What the parts take beside what is in them.
_KEPT_BYTES = 1200


class AllKept(dict[int, Kept]):
    """What is kept of the stretches of which a block is the first, by when they begin."""

    @property
    def nbytes(self) -> int:
        """About what it takes in memory."""
        return sum(one.nbytes for one in self.values())


class _Part:
    """A block with the buckets that it has traces in: from ``first`` to before ``end``."""

    __slots__ = ("block", "end", "first", "universe", "whole")

    def __init__(self, block: Block, universe: int, first: int, end: int) -> None:
        self.block = block
        self.universe = universe
        self.first = first
        self.end = end
        #: Stretches that are looked at as a whole.
        self.whole: list[_Stretch] = []


class _Stretch:
    """Buckets in succession that the same blocks have traces in."""

    __slots__ = ("columns", "edges", "end", "first", "kept", "looked_at", "parts")

    def __init__(self, first: int, end: int, parts: Sequence[_Part], edges: array[int]) -> None:
        self.first = first
        self.end = end
        self.parts = parts
        #: These two as in `Kept`.
        self.edges = edges
        self.looked_at = tuple((part.block.block, part.universe) for part in parts)
        self.columns = None if parts else nothing(end - first)
        self.kept: Optional[Kept] = None


class _Collected:
    """Buckets that fill with the traces of blocks.

    Those of a stretch that one block alone has traces in are made from all of its traces
    at once; the others are filled by one block after the other.
    """

    def __init__(
        self, index: Index, edges: array[int], unit: str, key: Any, moments: Iterable[int]
    ) -> None:
        """``key``: what is kept by, None: nothing is; ``moments`` of pending traces."""
        self._index = index
        self._edges = edges
        self._unit = unit
        self._key = key
        self._sessions = sessions.Sessions(index)
        self._buckets: dict[int, Bucket] = {}
        last = len(edges) - 1
        parts = [
            _Part(
                block,
                index.universe(block),
                max(bisect_right(edges, block.first_ms) - 1, 0),
                min(bisect_right(edges, block.last_ms), last),
            )
            for block in index.blocks
        ]
        self._stretches = list(self._divide(parts))
        #: By bucket 1 if it is filled by one block after the other.
        self._filled = bytearray(last)
        #: The buckets that pending traces are in.
        self._pending = {number for number in map(self._number, moments) if number is not None}
        for number in self._pending:
            self._filled[number] = 1
        known: Mapping[int, AllKept] = {} if key is None else CACHE.columns(key)
        for stretch in self._stretches:
            if stretch.parts:
                self._begin(stretch, known.get(stretch.parts[0].block.block, {}))
        #: The blocks that have to be added.
        self.lacking = [
            part for part in parts if part.whole or self._filled.find(1, part.first, part.end) >= 0
        ]

    def _divide(self, parts: Sequence[_Part]) -> Iterator[_Stretch]:
        """All buckets."""
        begin: dict[int, list[_Part]] = {}
        finish: dict[int, list[_Part]] = {}
        for part in parts:
            begin.setdefault(part.first, []).append(part)
            finish.setdefault(part.end, []).append(part)
        now: dict[int, _Part] = {}
        ends = sorted({0, len(self._edges) - 1, *begin, *finish})
        for first, end in zip(ends, ends[1:]):
            for part in finish.get(first, ()):
                del now[part.block.block]
            for part in begin.get(first, ()):
                now[part.block.block] = part
            yield _Stretch(first, end, tuple(now.values()), self._edges[first : end + 1])

    def _begin(self, stretch: _Stretch, known: Mapping[int, Kept]) -> None:
        kept = known.get(stretch.edges[0])
        if kept is not None and kept.edges == stretch.edges and kept.looked_at == stretch.looked_at:
            stretch.kept = kept
            stretch.columns = kept.columns
            return
        size = stretch.end - stretch.first
        part = stretch.parts[0]
        # To look at all traces of a block is worth it for much of it.
        if len(stretch.parts) == 1 and 2 * size >= part.end - part.first:
            part.whole.append(stretch)
        else:
            self._fill(stretch)

    def _fill(self, stretch: _Stretch) -> None:
        """Has the buckets of a stretch filled by one block after the other."""
        self._filled[stretch.first : stretch.end] = b"\1" * (stretch.end - stretch.first)

    def _bucket(self, number: int) -> Bucket:
        found = self._buckets.get(number)
        if found is None:
            found = self._buckets[number] = Bucket()
        return found

    def add(self, part: _Part, timeline: Timeline, matching: int, failed: int) -> None:
        """Adds the traces of a block: those that match, and those that failed."""
        odd = timeline.odd & matching
        if odd:
            for stretch in part.whole:
                self._fill(stretch)
            part.whole = []
        traces = self._in_order(part, timeline, matching, failed)
        for stretch in part.whole:
            stretch.columns = self._single(traces, stretch.edges)
        end = part.first
        while True:
            start = self._filled.find(1, end, part.end)
            if start < 0:
                break
            end = self._filled.find(0, start, part.end)
            end = part.end if end < 0 else end
            self._add_buckets(traces, start, end)
        if odd:
            self._add_odd(part.block, odd)

    def keep(self) -> None:
        """Keeps what has become known of buckets, before pending traces are added."""
        found: dict[int, AllKept] = {}
        fresh = set()
        for stretch in self._stretches:
            if stretch.columns is None:
                numbers = range(stretch.first, stretch.end)
                stretch.columns = columns_of([self._row(number) for number in numbers])
            if stretch.parts:
                block = stretch.parts[0].block.block
                if stretch.kept is None:
                    stretch.kept = Kept(stretch.edges, stretch.looked_at, stretch.columns)
                    fresh.add(block)
                found.setdefault(block, AllKept())[stretch.edges[0]] = stretch.kept
        if fresh and self._key is not None:
            # In place of what was kept of other stretches, which are no more.
            CACHE.keep(self._key, {block: found[block] for block in fresh})

    def _row(self, number: int) -> Row:
        bucket = self._buckets.get(number)
        return NOTHING if bucket is None else bucket.row(self._unit)

    def columns(self) -> Columns:
        """What is told of all buckets."""
        found = []
        for stretch in self._stretches:
            columns: Sequence[str] = stretch.columns or ()
            numbers = self._pending.intersection(range(stretch.first, stretch.end))
            if numbers:
                texts = [column.split(",") for column in columns]
                for number in numbers:
                    for column, text in zip(texts, self._row(number)):
                        column[number - stretch.first] = text
                columns = tuple(map(",".join, texts))
            found.append(columns)
        return tuple(map(",".join, zip(*found)))

    def _in_order(self, part: _Part, timeline: Timeline, matching: int, failed: int) -> _InOrder:
        numbers: Sequence[int] = ()
        if self._unit != sessions.TRACE:
            (by_position,) = self._sessions.numbers([part.block], [part.universe])
            numbers = timeline.in_order(by_position)
        sets = [timeline.ordered(bits) for bits in (part.universe, matching, matching & failed)]
        return _InOrder(timeline, sets, numbers)

    # ---------------------------------------------------- buckets of a single block

    def _single(self, traces: _InOrder, edges: Sequence[int]) -> Columns:
        """What is told of buckets that a block alone has traces in, column by column."""
        timeline = traces.timeline
        places = timeline.ends_before(edges)
        runs = list(zip(places, places[1:]))
        used = len(timeline)
        matched = counts_of(traces.matching, runs, used)
        # Without those before the first of the buckets, and after the last.
        few = traces.matching & ((1 << places[-1]) - (1 << places[0]))
        many = [number for number, count in enumerate(matched) if count > _FEW]
        counts = matched[:] if many else matched
        for number in many:
            start, end = runs[number]
            few &= ~((1 << end) - (1 << start))
            counts[number] = 0
        latencies, tokens, costs = _by_run(timeline, few, runs, counts)
        columns = [
            list(map(str, matched)),
            list(map(str, counts_of(traces.universe, runs, used))),
            list(map(str, counts_of(traces.failed, runs, used))),
            *texts_of_percentiles(latencies),
            [str(sum(numbers)) if numbers else NULL for numbers in tokens],
            texts_of_totals(costs),
        ]
        for number in many:
            bucket = Bucket()
            self._add_run(bucket, traces, *runs[number])
            for texts, text in zip(columns, bucket.row(self._unit)):
                texts[number] = text
        if self._unit != sessions.TRACE:
            for number, (start, end) in enumerate(runs):
                bucket = Bucket()
                sets = traces.part(start, end)
                self._add_sessions(bucket, traces.sessions[start:end], *sets)
                for texts, text in zip(columns, bucket.counts(self._unit)):
                    texts[number] = text
        return tuple(map(",".join, columns))

    # ---------------------------------------------------- buckets of several blocks

    def _add_buckets(self, traces: _InOrder, first: int, last: int) -> None:
        """Adds the traces in some buckets, from a first one to before another."""
        timeline, edges = traces.timeline, self._edges
        number = first
        start = timeline.end_before(edges[number], 0)
        while start < len(timeline) and number < last:
            began = timeline.time_ms(start)
            if began >= edges[number + 1]:
                number = bisect_right(edges, began) - 1
                if number >= last:
                    break
            end = timeline.end_before(edges[number + 1], start)
            self._add_run(self._bucket(number), traces, start, end)
            start = end
            number += 1

    def _add_run(self, bucket: Bucket, traces: _InOrder, start: int, end: int) -> None:
        """Adds the traces at some places in time, which a bucket has of a block."""
        timeline = traces.timeline
        first, last = start >> 3, (end + 7) >> 3
        universe, matching, failed = sets = traces.part(start, end)
        bucket.total += bitmaps.count(universe)
        if self._unit != sessions.TRACE:
            self._add_sessions(bucket, traces.sessions[start:end], *sets)
        if not matching:
            return
        # As a set of bits of whole bytes.
        matching <<= start & 7
        bucket.matched += bitmaps.count(matching)
        bucket.errors += bitmaps.count(failed)
        if bitmaps.count(matching) <= _FEW:
            self._add_few(bucket, timeline, start, end, matching)
            return
        within = matching.to_bytes(last - first, "little")
        bucket.latencies.add(timeline.execution.part(first, last), within)
        tokens = timeline.tokens.part(first, last)
        having = matching & int.from_bytes(tokens.there, "little")
        if having:
            spent = sum_of(having, tokens.slices, timeline.tokens.sign)
            bucket.tokens = spent + (bucket.tokens or 0)
        costs, exponent = timeline.costs.part(first, last), timeline.costs.exponent
        having = matching & int.from_bytes(costs.there, "little")
        if having and exponent is None:
            values = timeline.numbers[2]
            bucket.costs += (
                values[start + place] for place in bitmaps.positions(having >> (start & 7))
            )
        elif having:
            cost = sum_of(having, costs.slices, timeline.costs.sign)
            bucket.spent = (cost << ((exponent or 0) - FINEST)) + (bucket.spent or 0)

    def _add_few(
        self, bucket: Bucket, timeline: Timeline, start: int, end: int, matching: int
    ) -> None:
        """Adds the numbers of a few traces, for which slices would be too much to look at."""
        first, last, shift = start >> 3, (end + 7) >> 3, start & 7
        execution, tokens, costs = timeline.numbers
        ways: Sequence[tuple[Sliced, array[Any], Callable[[Any], None]]] = (
            (timeline.execution, execution, bucket.latencies.others.extend),
            (timeline.tokens, tokens, bucket.add_tokens),
            (timeline.costs, costs, bucket.costs.extend),
        )
        every = (1 << (end - start)) - 1
        for sliced, numbers, add in ways:
            having = (matching & int.from_bytes(sliced.there[first:last], "little")) >> shift
            if having == every:
                add(numbers[start:end])
            elif having:
                add(bitmaps.chosen(numbers[start:end], having))

    def _add_sessions(
        self, bucket: Bucket, numbers: Sequence[int], universe: int, matching: int, failed: int
    ) -> None:
        sets = (universe, matching, failed)
        if self._unit == sessions.SESSION_ALL:
            sets = (universe, universe & ~matching, universe & ~failed)
        for known, bits in zip(bucket.sessions, sets):
            known.update(bitmaps.chosen(numbers, bits))
            known.discard(0)

    def _add_odd(self, block: Block, odd: int) -> None:
        """Adds costs that are no finite numbers to buckets that are being filled."""
        index = self._index
        for row in plans.run(
            index.plpy,
            f"select t.timestamp_ms, t.total_cost from {index.schema}.trace_info t"
            " where t.request_id = any($1)",
            ("text[]",),
            (index.ids([block], [odd]),),
        ):
            number = self._number(row["timestamp_ms"])
            if number is not None and self._filled[number]:
                self._bucket(number).costs.append(row["total_cost"])

    def _number(self, time_ms: int) -> Optional[int]:
        if not self._edges[0] <= time_ms < self._edges[-1]:
            return None
        return bisect_right(self._edges, time_ms) - 1

    def add_pending(self, row: Any) -> None:
        """Adds a trace that was asked about by itself."""
        number = self._number(row["timestamp_ms"])
        if number is None:
            return
        bucket = self._bucket(number)
        matches = int(row["matches"])
        failed = int(row["matches"] and row["failed"])
        if self._unit != sessions.TRACE and row["session_id"] is not None:
            session = self._sessions.number(row["session_id"])
            self._add_sessions(bucket, (session,), 1, matches, failed)
        bucket.total += 1
        bucket.matched += matches
        bucket.errors += failed
        if matches:
            if row["execution_time_ms"] is not None:
                bucket.latencies.others.append(row["execution_time_ms"])
            if row["total_tokens"] is not None:
                bucket.add_tokens((row["total_tokens"],))
            if row["total_cost"] is not None:
                bucket.costs.append(row["total_cost"])


class _InOrder:
    """Sets of the traces of a block, in the order of time."""

    __slots__ = ("failed", "matching", "sessions", "stored", "timeline", "universe")

    def __init__(self, timeline: Timeline, sets: Sequence[int], sessions: Sequence[int]) -> None:
        self.timeline = timeline
        #: All traces, those that match, and those that match and failed.
        self.universe, self.matching, self.failed = sets
        size = (len(timeline) + 7) >> 3
        self.stored = [bits.to_bytes(size, "little") for bits in sets]
        #: The numbers of their sessions, if sessions are counted.
        self.sessions = sessions

    def part(self, start: int, end: int) -> tuple[int, int, int]:
        """The three sets of the traces at some places, of which the first is 0."""
        first, last, shift = start >> 3, (end + 7) >> 3, start & 7
        mask = (1 << (end - start)) - 1
        universe, matching, failed = (
            int.from_bytes(bits[first:last], "little") >> shift & mask for bits in self.stored
        )
        return universe, matching, failed


def counts_of(bits: int, runs: Sequence[tuple[int, int]], used: int) -> list[int]:
    """How many members of a set are in each run of places."""
    if not bits:
        return [0] * len(runs)
    if bits == all_positions(used):
        return [end - start for start, end in runs]
    stored = bits.to_bytes((used + 7) >> 3, "little")
    count = bitmaps.count
    return [
        count(
            int.from_bytes(stored[start >> 3 : (end + 7) >> 3], "little")
            & ((1 << (end - start)) - 1) << (start & 7)
        )
        for start, end in runs
    ]


def _by_run(
    timeline: Timeline, bits: int, runs: Sequence[tuple[int, int]], counts: Sequence[int]
) -> Iterator[list[Sequence[Any]]]:
    """Latencies, tokens and costs: for each run of places those of the members of a set.

    ``counts`` says how many members are in each.
    """
    used = len(timeline)
    # Most often those that have one number have all.
    before, chosen = bits, _chooser(bits, used)
    columns: tuple[array[Any], ...] = timeline.numbers
    for sliced, numbers in zip((timeline.execution, timeline.tokens, timeline.costs), columns):
        having = bits & int.from_bytes(sliced.there, "little")
        if having != before:
            before, chosen = having, _chooser(having, used)
            counts = counts_of(having, runs, used)
        yield _cut(chosen(numbers), counts)


def _chooser(bits: int, used: int) -> Callable[[array[Any]], Sequence[Any]]:
    """What takes the members of a set out of columns."""
    if bits == all_positions(used):
        return list
    if 2 * bitmaps.count(bits) > used:
        flags = bitmaps.flags(bits, used)
        return lambda column: list(compress(column, flags))
    places = bitmaps.positions(bits)
    if len(places) < 2:
        # Of one place `itemgetter` would give no sequence.
        return lambda column: [column[place] for place in places]
    return itemgetter(*places)


def _cut(numbers: Sequence[Any], counts: Sequence[int]) -> list[Sequence[Any]]:
    """Numbers in parts of some sizes."""
    ends = list(accumulate(counts))
    return [numbers[start:end] for start, end in zip([0, *ends], ends)]


def _pending(index: Index, statement: Statement, node: tree.Node) -> Sequence[Any]:
    """The traces that have to be asked about one by one."""
    condition = statement.condition(node, "probe")
    given = statement.params.add(index.pending, "text[]")
    found: Sequence[Any] = statement.run(
        index.plpy,
        "select t.timestamp_ms, t.execution_time_ms, t.total_tokens, t.total_cost,"
        f" t.session_id, t.status = 'ERROR' as failed, {condition} as matches"
        f" from {statement.traces} where t.request_id = any({given}) and {statement.scope()}",
    )
    return found
''',
"insights_engine.series_rows": r'''"""What a series tells of a bucket: counts, percentiles of latencies, sums.

Latencies are told by percentiles as PostgreSQL's ``percentile_cont`` has them: between
the two nearest by rank, in a straight line.  Costs are summed without rounding between
them.  Everything is written as PostgreSQL writes it in an array, since a series goes
there column by column: making a row of each bucket takes several times as long.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Optional

from insights_engine import bitmaps, sessions
from insights_engine.timelines import Part

#: What is told of a bucket, beside when it begins.
COLUMNS = ("matched", "total", "errors", "p50_ms", "p95_ms", "p99_ms", "tokens", "cost")

PERCENTILES = (0.5, 0.95, 0.99)
#: Costs are summed as multiples of two to the power of this, of which every double is one,
#: and those of the smallest doubles whose last bits are zero.
FINEST = -1200


class Numbers:
    """Integers of some traces: parts of whole bytes of slices, and others one by one."""

    __slots__ = ("_parts", "_within", "others")

    def __init__(self) -> None:
        self._within: list[bytes] = []
        self._parts: list[dict[int, bytes]] = []
        self.others: list[int] = []

    def add(self, part: Part, within: bytes) -> None:
        """Adds those of a part that are ``within`` and have a number."""
        chosen = int.from_bytes(part.there, "little") & int.from_bytes(within, "little")
        if chosen:
            size = len(within)
            self._within.append(chosen.to_bytes(size, "little"))
            self._parts.append(part.slices)

    def percentiles(self, fractions: Sequence[float]) -> list[Optional[float]]:
        """Percentiles of all of them."""
        if not self._parts:
            return percentiles(sorted(self.others), fractions)
        if self.others:
            patterns = [bitmaps.pattern_of_integer(number) for number in self.others]
            size = (len(patterns) + 7) >> 3
            slices = bitmaps.transpose(patterns)
            part = {bit: bits.to_bytes(size, "little") for bit, bits in slices.items()}
            all_there = ((1 << len(patterns)) - 1).to_bytes(size, "little")
            self.add(Part(all_there, part), all_there)
            self.others = []
        return percentiles_of_slices(*self._joined(), fractions)

    def _joined(self) -> tuple[int, dict[int, int]]:
        """Which have a number, and the slices, as sets of places in all parts."""
        if len(self._parts) == 1:
            (part,) = self._parts
            slices = {bit: int.from_bytes(own, "little") for bit, own in part.items()}
            return int.from_bytes(self._within[0], "little"), slices
        found = {}
        for bit in set().union(*self._parts):
            rows = (
                part.get(bit) or bytes(len(within))
                for part, within in zip(self._parts, self._within)
            )
            found[bit] = int.from_bytes(b"".join(rows), "little")
        return int.from_bytes(b"".join(self._within), "little"), found


class Bucket:
    """What is known of the traces of a bucket."""

    __slots__ = (
        *("costs", "errors", "latencies", "matched"),
        *("sessions", "spent", "tokens", "total"),
    )

    def __init__(self) -> None:
        self.total = self.matched = self.errors = 0
        self.latencies = Numbers()
        self.tokens: Optional[int] = None
        #: The sum of costs, in multiples of a power of two; further costs by themselves.
        self.spent: Optional[int] = None
        self.costs: list[float] = []
        #: By number: those with a trace, with one that matches, with one that matches
        #: and failed; or with ``session_all`` with one that does not.
        self.sessions: tuple[set[int], set[int], set[int]] = (set(), set(), set())

    def add_tokens(self, tokens: Iterable[int]) -> None:
        """Adds the tokens of some traces."""
        self.tokens = sum(tokens) + (self.tokens or 0)

    def counts(self, unit: str) -> tuple[str, str, str]:
        """How many match, how many there are, and how many failed."""
        total, matched, errors = self.total, self.matched, self.errors
        if unit != sessions.TRACE:
            total, matched, errors = map(len, self.sessions)
            if unit == sessions.SESSION_ALL:
                matched, errors = total - matched, total - errors
        return str(matched), str(total), str(errors)

    def row(self, unit: str) -> Row:
        """What is told of it."""
        cost = None
        if self.spent is not None or self.costs:
            cost = total_of(self.costs, self.spent or 0)
        numbers = self.latencies.percentiles(PERCENTILES)
        return (*self.counts(unit), *texts_of(*numbers, self.tokens, cost))


#: The `COLUMNS` of a bucket, as PostgreSQL writes them in an array.
Row = tuple[str, ...]
NULL = "NULL"
NOTHING: Row = ("0",) * 3 + (NULL,) * 5


def texts_of(*numbers: Optional[float]) -> Iterator[str]:
    return (NULL if number is None else repr(number) for number in numbers)


#: The columns of buckets in succession, each as one text.
Columns = tuple[str, ...]


def columns_of(rows: Sequence[Row]) -> Columns:
    return tuple(map(",".join, zip(*rows)))


def nothing(size: int) -> Columns:
    """The columns of so many buckets without traces."""
    return tuple(",".join([text] * size) for text in NOTHING)


def texts_of_percentiles(parts: Iterable[Sequence[int]]) -> list[list[str]]:
    """The columns of the percentiles of some numbers each."""
    rows = [texts_of(*percentiles(sorted(numbers), PERCENTILES)) for numbers in parts]
    return [list(texts) for texts in zip(*rows)]


def texts_of_totals(parts: Iterable[Sequence[float]]) -> list[str]:
    """The column of the sums of some numbers each."""
    return [repr(total_of(numbers, 0)) if numbers else NULL for numbers in parts]


def percentiles(ranked: Sequence[int], fractions: Sequence[float]) -> list[Optional[float]]:
    """Percentiles of ascending integers as ``percentile_cont`` has them; None of no numbers."""
    found: list[Optional[float]] = []
    for below, above, share in _ranks(len(ranked), tuple(fractions)):
        low = float(ranked[below])
        found.append(low + share * (float(ranked[above]) - low) if share else low)
    return found or [None] * len(fractions)


@lru_cache(maxsize=2000)
def _ranks(size: int, fractions: tuple[float, ...]) -> tuple[tuple[int, int, float], ...]:
    """Between which ranks percentiles of so many numbers are, and how far from the first."""
    if not size:
        return ()
    ranks = [fraction * (size - 1) for fraction in fractions]
    return tuple((math.floor(rank), math.ceil(rank), rank - math.floor(rank)) for rank in ranks)


def percentiles_of_slices(
    within: int, slices: Mapping[int, int], fractions: Sequence[float]
) -> list[Optional[float]]:
    """The same of sliced integers."""
    total = bitmaps.count(within)
    if not total:
        return [None] * len(fractions)
    # Negative ones have the highest bit, and are the smallest.
    top = bitmaps.WIDTH - 1
    ordered = [(bit, slices[bit]) for bit in sorted(slices, reverse=True)]
    if top in slices:
        ordered[0] = (top, within & ~slices[top])
    offset = 1 << top if top in slices else 0

    def ranked(rank: int) -> tuple[int, int]:
        """The number of a rank from 0, and the last rank that has it."""
        last, left, members, number = rank, rank, within, 0
        size = total
        for bit, having in ordered:
            upper = members & having
            above = bitmaps.count(upper)
            below = size - above
            if left < below:
                members ^= upper
                size = below
            else:
                left -= below
                members, size = upper, above
                number |= 1 << bit
        return number - offset, last - left + size - 1

    found: list[Optional[float]] = []
    for fraction in fractions:
        rank = fraction * (total - 1)
        below, above = math.floor(rank), math.ceil(rank)
        number, last = ranked(below)
        low = high = float(number)
        if above > last:
            high = float(ranked(above)[0])
        found.append(low if below == above else low + (rank - below) * (high - low))
    return found


def sum_of(within: int, slices: Mapping[int, bytes], sign: int) -> int:
    """The sum of sliced integers."""
    total = 0
    for bit, own in slices.items():
        found = bitmaps.count(int.from_bytes(own, "little") & within) << bit
        total += -found if bit == sign else found
    return total


def total_of(numbers: Sequence[float], further: int) -> float:
    """The sum of doubles and of a multiple of the finest one."""
    try:
        if not further:
            return math.fsum(numbers)
        return math.fsum((*numbers, float(Fraction(further, 1 << -FINEST))))
    except ValueError:  # infinities of both signs
        return math.nan
    except OverflowError:  # on the way at least
        exact = sum(map(Fraction, numbers), Fraction(further, 1 << -FINEST))
        try:
            return float(exact)
        except OverflowError:
            return math.inf if exact > 0 else -math.inf
''',
"insights_engine.session_space": r'''"""Sets of traces turned into sets of sessions, many at a time.

A discovery over sessions asks of every fact in which sessions some trace has it, or
all traces do.  Going through the traces of each fact would take seconds, so many facts
go through together: a trace is a record of some bytes, of which each bit is a fact, or
each byte the number of a cell.  The records are put in such an order that those of a
session are as far apart as there are sessions.  "Some trace has it" is then a handful
of operations on integers that are as long as all records together.
"""

from __future__ import annotations

import operator
from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from operator import itemgetter
from typing import Callable, NamedTuple

from insights_engine import bitmaps
from insights_engine.candidates import Name
from insights_engine.cells import Cells, Cuts, bytes_of
from insights_engine.columns import ALL_POSITIONS, Columns
from insights_engine.groups import all_positions
from insights_engine.parts import Part

# Records of a session that are folded in one step; more of them in several.
_AT_ONCE = 16
# Bytes of a record.
_WIDEST = 64
#: The largest byte that can be compared: cells have smaller numbers.
_MOST = 127

# Of a position: its session, and two places.
_FOLD_BYTES = 24
# Of a field: about as many bits of cells.
_PLANES = 12

#: How two bytes become one, by the byte that changes no other.
OR, LEAST = 0, _MOST


def _repeated(byte: int, length: int) -> int:
    return int.from_bytes(bytes([byte]) * length, "little")


def _combination(neutral: int, length: int) -> Callable[[int, int], int]:
    """Of each two bytes the bits of both, or the smaller one; both are `_MOST` at most then."""
    if neutral == OR:
        return operator.or_
    high = _repeated(128, length)

    def least(one: int, other: int) -> int:
        # The highest bit of each byte where the first is not smaller, then all below it.
        larger = ((one | high) - other) & high
        larger -= larger >> 7
        return one ^ ((one ^ other) & larger)

    return least


def _records(columns: bytes, width: int) -> list[bytes]:
    return [columns[start : start + width] for start in range(0, len(columns), width)]


def _getter(places: Sequence[int]) -> Callable[[Sequence[bytes]], Iterable[bytes]]:
    """Looks up the records at some places."""
    if len(places) < 2:
        return lambda records: [records[place] for place in places]
    return itemgetter(*places)


class _Step:
    """Folds records that belong together, up to `_AT_ONCE` of them into one."""

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        """``groups``: the places of records that belong together, the largest groups first."""
        self._groups = len(groups)
        #: Where each layer ends: the first record of each group, the second of those with two, ...
        self._ends: list[int] = []
        places: list[int] = []
        rank, size = 0, len(groups)
        while size:
            places += map(itemgetter(rank), groups[:size])
            self._ends.append(len(places))
            rank += 1
            while size and len(groups[size - 1]) == rank:
                size -= 1
        self._get = _getter(places)

    def __call__(self, records: Sequence[bytes], width: int, neutral: int) -> bytes:
        ordered = b"".join(self._get(records))
        length = self._groups * width
        found = int.from_bytes(ordered[:length], "little")
        combined = _combination(neutral, length)
        fill = bytes([neutral])
        for start, end in zip(self._ends, self._ends[1:]):
            layer = ordered[start * width : end * width].ljust(length, fill)
            found = combined(found, int.from_bytes(layer, "little"))
        return found.to_bytes(length, "little")


class _Fold:
    """The traces of a part, by session."""

    def __init__(self, sessions: Sequence[int]) -> None:
        """``sessions``: the number of each position's session, -1 where there is none."""
        self._steps: list[_Step] = []
        of_owner: defaultdict[int, list[int]] = defaultdict(list)
        for place, owner in zip(ALL_POSITIONS, sessions):
            of_owner[owner].append(place)
        of_owner.pop(-1, None)
        while True:
            groups = list(of_owner.items())
            if max((len(own) for own in of_owner.values()), default=0) > _AT_ONCE:
                groups = [
                    (owner, own[start : start + _AT_ONCE])
                    for owner, own in groups
                    for start in range(0, len(own), _AT_ONCE)
                ]
            groups.sort(key=lambda group: -len(group[1]))
            self._steps.append(_Step([own for _, own in groups]))
            if len(groups) == len(of_owner):
                break
            of_owner = defaultdict(list)
            for place, (owner, _) in zip(ALL_POSITIONS, groups):
                of_owner[owner].append(place)
        owners = [owner for owner, _ in groups]
        #: The sessions are between these.
        self.low = min(owners, default=0)
        self.high = max(owners, default=-1) + 1
        # After the last record there is one for sessions that have no trace here.
        found = [len(owners)] * (self.high - self.low)
        for place, owner in zip(ALL_POSITIONS, owners):
            found[owner - self.low] = place
        self._spread = _getter(found)

    def __call__(self, columns: bytes, width: int, neutral: int) -> bytes:
        """By session the fold of the records of its traces."""
        for step in self._steps:
            columns = step(_records(columns, width), width, neutral)
        records = _records(columns, width)
        records.append(bytes([neutral]) * width)
        return b"".join(self._spread(records))


class SessionPart(Part):
    """Some sessions, by number."""

    def __init__(self, space: Space, number: int, columns: Columns, target: int) -> None:
        super().__init__(columns.used, all_positions(columns.used), target)
        self._space = space
        self._number = number
        self._columns = columns

    def columns(self) -> Columns:
        return self._columns

    def cells(self, cuts: Mapping[Name, Cuts]) -> dict[Name, Cells]:
        return {name: of_parts[self._number] for name, of_parts in self._space.cells(cuts).items()}

    def sample(self, names: Sequence[Name]) -> dict[Name, Sequence[int]]:
        raise TypeError("where to cut is chosen by the numbers of traces")

    def trace_ids(self) -> Sequence[None]:
        raise TypeError("sessions are no traces")


class Space:
    """The sessions that traces of some parts belong to, and what these have.

    ``every``: a session has what all of its traces have; otherwise what some trace has.
    """

    def __init__(
        self, parts: Sequence[Part], numbers: Sequence[Sequence[int]], every: bool
    ) -> None:
        """``numbers``: for each part the number of the session at each position; 0: none."""
        self._parts = parts
        #: Of how many parts sets of traces have to be given.
        self.parts_given = len(parts)
        self._every = every
        known: dict[int, int] = {}
        #: For each part the session at each position of its base, -1: none.
        self._sessions: list[array[int]] = []
        self._folds: list[_Fold] = []
        for part, column in zip(parts, numbers):
            for number in dict.fromkeys(bitmaps.chosen(column, part.base)):
                if number:
                    known.setdefault(number, len(known))
            flags = bitmaps.flags(part.base, part.used)
            found = [known.get(number, -1) if flag else -1 for number, flag in zip(column, flags)]
            self._sessions.append(array("i", found))
            self._folds.append(_Fold(found))
        #: The number of each session, as it was given.
        self.numbers = array("i", known)
        #: How many sessions there are.
        self.size = len(known)
        self._columns: list[Columns] = []
        self._cells: dict[Name, tuple[Cuts, list[Cells]]] = {}
        #: How many traces each has, if that matters.
        self._counts: Counter[int] = Counter()
        for own in self._sessions if every else ():
            self._counts.update(own)

    def size_with(self, series: int) -> int:
        """About how many bytes of memory it takes, once so many fields were looked at."""
        per_position = _FOLD_BYTES * sum([part.used for part in self._parts])
        of_cells = series * _PLANES * (self.size // 7)
        return per_position + of_cells + sum([columns.size for columns in self._columns])

    # ---------------------------------------------------------------------- sets

    def set_of(self, sets: Sequence[int]) -> int:
        """The sessions that match, of which traces of each part do."""
        return next(iter(self.sets_of([[bits] for bits in sets])), 0)

    def sets_of(self, several: Sequence[Sequence[int]]) -> list[int]:
        """The same of several sets, given together for each part."""
        count = max(map(len, several), default=0)
        return self._sets(count, lambda number, start, end: several[number][start:end])

    def _sets(self, count: int, of_part: Callable[[int, int, int], Sequence[int]]) -> list[int]:
        """``of_part`` gives those from one number up to another, in a part by its number."""
        found: list[int] = []
        for start in range(0, count, 8 * _WIDEST):
            end = min(count, start + 8 * _WIDEST)

            def columns(number: int) -> list[bytes]:
                part, sets = self._parts[number], of_part(number, start, end)  # noqa: B023
                return [
                    self._column(part, sets[first : first + 8]) for first in range(0, len(sets), 8)
                ]

            width = -(-(end - start) // 8)
            for column in self._folded(width, columns, OR):
                found += [_plane(column, bit) for bit in range(8)]
        everything = all_positions(self.size)
        return [everything & ~bits if self._every else bits for bits in found[:count]]

    def _column(self, part: Part, sets: Sequence[int]) -> bytes:
        """Up to eight sets of traces as a byte for each."""
        column = 0
        for bit, members in enumerate(sets):
            members = part.base & ~members if self._every else part.base & members
            if members:
                column |= int.from_bytes(bitmaps.flags(members, part.used), "little") << bit
        return column.to_bytes(part.used, "little")

    def _folded(
        self, width: int, columns: Callable[[int], Sequence[bytes]], neutral: int
    ) -> list[bytes]:
        """Columns of a byte for each position of a part, given its number: one for each session."""
        length = self.size * width
        found = _repeated(neutral, length)
        combined = _combination(neutral, length)
        fill = bytes([neutral])
        for number, (part, fold) in enumerate(zip(self._parts, self._folds)):
            together = bytearray(part.used * width)
            for place, column in enumerate(columns(number)):
                together[place::width] = column
            own = fold(bytes(together), width, neutral)
            own = own.rjust(fold.high * width, fill).ljust(length, fill)
            found = combined(found, int.from_bytes(own, "little"))
        sessions = found.to_bytes(length, "little")
        return [sessions[place::width] for place in range(width)]

    # --------------------------------------------------------------------- parts

    def as_parts(self, target: int) -> list[Part]:
        """The sessions as parts, of which a target is given."""
        if not self._columns:
            self._columns = self._read()
        found: list[Part] = []
        for number, columns in enumerate(self._columns):
            found.append(SessionPart(self, number, columns, self.part_of(target, number)))
        return found

    def part_of(self, sessions: int, number: int) -> int:
        """Of a set of sessions those in one of the parts."""
        return sessions >> number * bitmaps.POSITIONS & all_positions(bitmaps.POSITIONS)

    def joined(self, sets: Sequence[int]) -> int:
        """One set, of a set for each of the parts."""
        return sum([bits << number * bitmaps.POSITIONS for number, bits in enumerate(sets)])

    def _read(self) -> list[Columns]:
        lists, sets = self._items()
        doubts: Mapping[int, Sequence[bytes]] = dict.fromkeys(
            {item for part in self._parts for item in part.columns().doubts}, ()
        )
        found = []
        for start in range(0, self.size, bitmaps.POSITIONS):
            used = min(bitmaps.POSITIONS, self.size - start)
            own = {item: bits >> start & all_positions(used) for item, bits in sets.items()}
            listed = {item: _between(some, start, used) for item, some in lists.items()}
            found.append(Columns.of_sets(listed, own, doubts, used))
        return found

    def _items(self) -> tuple[dict[int, Sequence[int]], dict[int, int]]:
        """The sessions of each item: as numbers of those that are few, as sets of others."""
        listed: dict[int, array[int]] = {}
        large: dict[int, None] = {}
        for part, sessions in zip(self._parts, self._sessions):
            facts = part.columns().facts
            for place, item in enumerate(facts.listed_items):
                own = map(sessions.__getitem__, facts.listed(place))
                listed.setdefault(item, array("i")).extend(own)
            large.update(zip(facts.bitmap_items, repeat(None)))
        lists: dict[int, Sequence[int]] = {}
        for item, found in listed.items():
            if item not in large:
                counts = Counter(found)
                counts.pop(-1, None)
                if self._every:
                    for one in [one for one in counts if counts[one] < self._counts[one]]:
                        del counts[one]
                lists[item] = array("i", sorted(counts))
        items = list(large)

        def sets(number: int, start: int, end: int) -> list[int]:
            own = self._parts[number].columns().sets(items[start:end])
            return [own.get(item, 0) for item in items[start:end]]

        return lists, dict(zip(items, self._sets(len(items), sets)))

    # --------------------------------------------------------------------- cells

    def cells(self, cuts: Mapping[Name, Cuts]) -> dict[Name, list[Cells]]:
        """Of a few fields, for each part, the cells that decide about ``<``, and about ``>=``.

        If some trace is enough that is the one of the smallest, and of the largest,
        number; if every trace has to, the one of the trace that comes last to it.
        """
        lacking = {
            name: chosen
            for name, chosen in cuts.items()
            if name not in self._cells or self._cells[name][0] != chosen
        }
        if lacking:
            self._fold_cells(lacking)
        return {name: self._cells[name][1] for name in cuts}

    def _fold_cells(self, cuts: Mapping[Name, Cuts]) -> None:
        low, high = _LAST if self._every else _FIRST

        def columns(number: int) -> list[bytes]:
            part = self._parts[number]
            found = []
            of_part = part.cells(cuts)
            for name in cuts:
                cells = of_part[name]
                lows = bytes_of(cells.low, part.used)
                highs = lows if cells.high is cells.low else bytes_of(cells.high, part.used)
                found += [lows.translate(low.into), highs.translate(high.into)]
            return found

        folded = iter(self._folded(2 * len(cuts), columns, LEAST))
        for name, chosen in cuts.items():
            lows, highs = next(folded).translate(low.back), next(folded).translate(high.back)
            width = max(max(lows, default=0), max(highs, default=0)).bit_length()
            cells = []
            for start in range(0, self.size, bitmaps.POSITIONS):
                own = [one[start : start + bitmaps.POSITIONS] for one in (lows, highs)]
                planes = [[_plane(one, bit) for bit in range(width)] for one in own]
                cells.append(Cells(planes[0], planes[1], chosen))
            self._cells[name] = chosen, cells


class Enlarged(Space):
    """The sessions of some traces and of more beside, where those of the first are known.

    Some trace of a session has what some of the first or some of the others has, and so
    for all of them: a session of the first is like one more trace.
    """

    def __init__(
        self, known: Space, others: Sequence[Part], numbers: Sequence[Sequence[int]], every: bool
    ) -> None:
        """``numbers``: of the others, as those of the first."""
        self._known = known
        parts = known.as_parts(0)
        starts = range(0, known.size, bitmaps.POSITIONS)
        own = [known.numbers[start : start + bitmaps.POSITIONS] for start in starts]
        super().__init__([*parts, *others], [*own, *numbers], every)
        self.parts_given = known.parts_given + len(others)

    def sets_of(self, several: Sequence[Sequence[int]]) -> list[int]:
        first = self._known.sets_of(several[: self._known.parts_given])
        sessions = [
            [self._known.part_of(bits, number) for bits in first]
            for number in range(-(-self._known.size // bitmaps.POSITIONS))
        ]
        return super().sets_of([*sessions, *several[self._known.parts_given :]])


class _Order(NamedTuple):
    """What bytes are replaced by so that the smallest is the one that is wanted, and back."""

    into: bytes
    back: bytes


def _order(key: Callable[[int], int]) -> _Order:
    """Numbers of cells, 0 for none, are sorted by a key."""
    into = [key(number) for number in range(_MOST + 1)]
    back = {place: number for number, place in reversed(list(enumerate(into)))}
    rest = bytes(range(_MOST + 1, 256))
    return _Order(
        bytes(into) + rest, bytes([back.get(place, 0) for place in range(_MOST + 1)]) + rest
    )


# The smallest cell, and the largest; none at all only if all have none.
_FIRST = (_order(lambda cell: cell - 1 if cell else _MOST), _order(lambda cell: _MOST - cell))
# The largest, and the smallest; none at all if one has none.
_LAST = (_order(lambda cell: _MOST - cell if cell else 0), _order(lambda cell: cell))


def _between(numbers: Sequence[int], start: int, used: int) -> array[int]:
    """Those of ascending numbers that are in a range, counted from its start."""
    first, last = (bisect_left(numbers, edge) for edge in (start, start + used))
    return array("H", [number - start for number in numbers[first:last]])


_BITS = [bytes([48 + (byte >> bit & 1) for byte in range(256)]) for bit in range(8)]


def _plane(column: bytes, bit: int) -> int:
    """The places whose byte has a bit."""
    return int(column[::-1].translate(_BITS[bit]), 2) if column else 0
''',
"insights_engine.sessions": r'''"""What is counted: traces, or the sessions that they belong to.

A session matches a filter if some trace of it does (unit ``session``), or if all of
its traces do (``session_all``), among the traces of the base and the requested
experiments.  A session that spans several experiments is one session.  Traces without
a session id belong to none.

The index knows sessions by hash only.  Which session the trace at a position belongs to is
stored of large blocks (stored_sessions.py), else read from MLflow's tables; it is kept by
block like everything else that cannot change (cache.py).  Sessions are numbered from 1
as they are met; a set of sessions is an integer, bit by number, as a set of positions is.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, repeat
from typing import Any, NamedTuple, Optional

from insights_engine import bitmaps, fields, plans, stored_sessions, tree
from insights_engine.cache import CACHE, Column
from insights_engine.errors import InsightsError, visible
from insights_engine.groups import Block
from insights_engine.index_reader import Index, decided, open_index, prepare
from insights_engine.occurrences import Whole
from insights_engine.statement import Statement
from insights_engine.terms import LARGE_BLOCK

TRACE, SESSION, SESSION_ALL = "trace", "session", "session_all"
UNITS = (TRACE, SESSION, SESSION_ALL)

#: Sessions that are known by number; more of them start anew.
_MOST_NUMBERED = 1_000_000
#: Below this share of a block's positions, they are looked up one by one.
_FEW = 0.05
#: Blocks that are read beside one.
_MOST_AHEAD = 7

_numbered: dict[str, int] = {}
#: The session ids by number; there is no number 0.
_named: list[str] = [""]
#: Numbers of different generations have nothing to do with each other.
_generation = 0


def check_unit(unit: Optional[str]) -> str:
    """The unit, of which None stands for traces.  Raises InsightsError."""
    if unit is None:
        return TRACE
    if unit not in UNITS:
        near = fields.nearest(unit, UNITS)
        raise InsightsError(
            f"Invalid unit '{visible(unit, 60)}'.",
            hint=(f"Did you mean '{near}'? " if near else "")
            + "Units are 'trace', 'session' (some trace of it matches) and 'session_all' (all of "
            "its traces match).",
        )
    return unit


class Numbers:
    """The numbers that stand for session ids, the same from one call to the next."""

    def __init__(self) -> None:
        global _generation
        if len(_numbered) > _MOST_NUMBERED:
            _numbered.clear()
            del _named[1:]
            _generation += 1
        #: Numbers of another one are others.
        self.generation = _generation

    def number(self, session_id: str) -> int:
        """The number of a session."""
        found = _numbered.get(session_id)
        if found is None:
            found = _numbered[session_id] = len(_named)
            _named.append(session_id)
        return found

    def all_numbers(self, session_ids: Iterable[str]) -> list[int]:
        """The numbers of some sessions."""
        number = _numbered.setdefault
        found = [number(session_id, len(_numbered) + 1) for session_id in session_ids]
        # New ones have come last.
        fresh = len(_numbered) + 1 - len(_named)
        _named.extend(list(islice(reversed(_numbered), fresh))[::-1])
        return found

    def session_id(self, number: int) -> str:
        """The id of a session."""
        return _named[number]

    def __len__(self) -> int:
        """How many numbers have been given out."""
        return len(_numbered)


class Sessions(Numbers):
    """Which session the trace at each position of an index belongs to."""

    def __init__(self, index: Index) -> None:
        super().__init__()
        self._index = index
        self._key = ("sessions", self.generation)
        #: How many blocks to read beside the next one.
        self._ahead = 0
        #: Those that were read beside one, until they are asked for.
        self._held: dict[int, Column] = {}

    def numbers(self, blocks: Sequence[Block], sets: Sequence[int]) -> list[Sequence[int]]:
        """By block and position the number of the session, 0 for none.

        Right for the positions of ``sets``, a set for each block, which must be such
        as the index answers for.
        """
        known: dict[int, Any] = {**CACHE.columns(self._key), **self._held}
        few: list[tuple[Block, int]] = []
        for block, bits in zip(blocks, sets):
            column = known.get(block.block)
            lacking = bits if column is None else bits & ~column.known
            if not lacking:
                continue
            if bitmaps.count(lacking) < _FEW * block.used:
                few.append((block, lacking))
            else:
                read = self._read(self._following(block, known))
                known.update(read)
                self._held = dict(read)
        if few:
            known.update(self._look_up(few, known))
        nothing = Column(0, array("i"))
        found: list[Sequence[int]] = []
        for block in blocks:
            self._held.pop(block.block, None)
            numbers = known.get(block.block, nothing).numbers
            found.append(numbers or array("i", bytes(4 * block.used)))
        return found

    def occurrences(self, sets: Sequence[int]) -> Mapping[int, int]:
        """How many traces each session has, in a set of each block of the index."""
        blocks = [(block, bits) for block, bits in zip(self._index.blocks, sets) if bits]
        if not blocks or not all(self.whole(block, bits) for block, bits in blocks):
            return self._counted(blocks)
        # The same is asked again as long as nothing has changed.
        key = ("occurrences", self._key, tuple([(block.block, bits) for block, bits in blocks]))
        for known in CACHE.columns(key).values():
            if isinstance(known, Whole):
                return known.by_number()
        found = self._counted(blocks)
        CACHE.keep(key, {blocks[0][0].block: Whole.of(0, found)})
        return found

    def _counted(self, blocks: Sequence[tuple[Block, int]]) -> Mapping[int, int]:
        found: Counter[int] = Counter()
        for block, bits in blocks:
            (column,) = self.numbers([block], [bits])
            found.update(bitmaps.chosen(column, bits))
        found.pop(0, None)
        return found

    def present(self, block: Block) -> int:
        """The sessions, bit by number, of all traces of a block that the index answers for."""
        key = ("present", self._key)
        universe = self._index.universe(block)
        known = CACHE.columns(key).get(block.block)
        if not isinstance(known, _Present) or known.positions != universe:
            (column,) = self.numbers([block], [universe])
            found = sorted(set(bitmaps.chosen(column, universe)) - {0})
            known = _Present(universe, bitmaps.of_positions(found))
            CACHE.keep(key, {block.block: known})
        return known.sessions

    def whole(self, block: Block, bits: int) -> bool:
        """Whether a set has all traces of a block that the index answers for."""
        return bits == self._index.universe(block)

    def _following(self, block: Block, known: Mapping[int, Column]) -> list[Block]:
        """A block and more of those after it each time, of which nothing is known.

        Whoever needs several blocks needs most of them, and in their order.
        """
        first = next(
            (place for place, one in enumerate(self._index.blocks) if one.block == block.block),
            len(self._index.blocks),
        )
        after = (one for one in self._index.blocks[first + 1 :] if one.block not in known)
        found = [block, *islice(after, self._ahead)]
        self._ahead = min(2 * self._ahead + 1, _MOST_AHEAD)
        return found

    def _read(self, blocks: Sequence[Block]) -> dict[int, Column]:
        """The sessions of whole blocks."""
        found: dict[int, Column] = {}
        for block in blocks:
            # A trace that is pending may have another session by now than when it was indexed.
            nothing = array("i", bytes(4 * block.used))
            found[block.block] = Column(self._index.universe(block), nothing)
        large = [block.block for block in blocks if block.used >= LARGE_BLOCK]
        stored = set()
        for one in stored_sessions.read(self._index.plpy, large) if large else ():
            numbers = [0, *self.all_numbers(one.ids)]
            column = array("i", map(numbers.__getitem__, one.places))
            found[one.block] = found[one.block]._replace(numbers=column)
            stored.add(one.block)
        rest = [block for block in blocks if block.block not in stored]
        if rest:
            self._read_from_traces(rest, found)
        CACHE.keep(self._key, found)
        return found

    def _read_from_traces(self, blocks: Sequence[Block], found: Mapping[int, Column]) -> None:
        for row in plans.run(
            self._index.plpy,
            "select t.block, array_agg(t.position) as positions,"
            " array_agg(i.session_id) as sessions"
            f" from insights.trace t join {self._index.schema}.trace_info i"
            " on i.request_id = t.trace_id where t.block = any($1) and i.session_id is not null"
            # Traces for which this is no longer so are pending.
            " and i.experiment_id = any($2) and i.timestamp_ms between $3 and $4 group by t.block",
            ("int[]", "int[]", "bigint", "bigint"),
            (
                [block.block for block in blocks],
                list({block.experiment_id for block in blocks}),
                min(block.first_ms for block in blocks),
                max(block.last_ms for block in blocks),
            ),
        ):
            numbers = found[row["block"]].numbers
            values = self.all_numbers(row["sessions"])
            deque(map(numbers.__setitem__, row["positions"], values), maxlen=0)

    def _look_up(
        self, wanted: Sequence[tuple[Block, int]], known: dict[int, Column]
    ) -> dict[int, Column]:
        """The sessions at a few positions, beside those that are known."""
        found: dict[int, Column] = {}
        for block, bits in wanted:
            before = known.get(block.block)
            mask, numbers = (0, None) if before is None else before
            numbers = array("i", bytes(4 * block.used)) if numbers is None else numbers[:]
            found[block.block] = Column(mask | bits, numbers)
        blocks = [block for block, _ in wanted]
        places = [bits for _, bits in wanted]
        for number, position, session_id in self._index.session_ids(blocks, places):
            if session_id is not None:
                found[number].numbers[position] = self.number(session_id)
        CACHE.keep(self._key, found)
        return found


class _Present(NamedTuple):
    """The sessions of the traces at some positions of a block."""

    positions: int
    sessions: int

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return self.positions.bit_length() + self.sessions.bit_length() >> 3


class Marks:
    """A set of sessions in the making."""

    def __init__(self) -> None:
        self._flags = bytearray()
        self._set = 0

    def add_numbers(self, numbers: Iterable[int], most: int) -> None:
        """Adds sessions by number, of which ``most`` is the largest possible."""
        if len(self._flags) <= most:
            self._flags += bytes(most + 1 - len(self._flags))
        deque(map(self._flags.__setitem__, numbers, repeat(1)), maxlen=0)

    def add(self, numbers: Sequence[int], bits: int, most: int) -> None:
        """Adds the sessions of the traces at some positions of a block."""
        if bits:
            self.add_numbers(bitmaps.chosen(numbers, bits), most)

    def add_set(self, sessions: int) -> None:
        """Adds sessions, bit by number."""
        self._set |= sessions

    def set(self) -> int:
        """The sessions, bit by number."""
        if not self._flags:
            return self._set
        self._flags[0] = 0  # the traces without a session
        return self._set | bitmaps.of_flags(self._flags)


class Flags(NamedTuple):
    """A trace that was asked about by itself: what it belongs to, and what it matches."""

    session_id: Optional[str]
    matches: tuple[bool, ...]


def asked(
    plpy: Any, statement: Statement, nodes: Sequence[tree.Node], ids: Sequence[str]
) -> list[Flags]:
    """Of some traces in scope which nodes they match, by the raw predicate."""
    conditions = ", ".join(statement.condition(node, "probe") for node in nodes)
    given = statement.params.add(list(ids), "text[]")
    rows = statement.run(
        plpy,
        f"select t.session_id, array[{conditions}]::bool[] as matches from {statement.traces}"
        f" where t.request_id = any({given}) and {statement.scope()}",
    )
    return [Flags(row["session_id"], tuple(row["matches"])) for row in rows]


# -------------------------------------------------------------------- counting

#: How many units match both of two nodes, by their numbers.
Table = list[list[int]]


def pair_counts(plpy: Any, statement: Statement, nodes: Sequence[tree.Node], unit: str) -> Table:
    """How many units match each node, on the diagonal, and each two of them.

    The first node is the base: only traces that match it may match any other.
    ``statement`` is for running in parallel.
    """
    if statement.experiments == []:
        return _table(len(nodes))
    return _of_index(plpy, statement, nodes, unit) or _of_tables(plpy, statement, nodes, unit)


def count(plpy: Any, statement: Statement, node: tree.Node, unit: str) -> int:
    """How many sessions match."""
    # Only where all traces must match do those that do not match matter.
    nodes = (tree.EVERYTHING, node) if unit == SESSION_ALL else (node,)
    return pair_counts(plpy, statement, nodes, unit)[-1][-1]


def counts_of_index(
    plpy: Any, statement: Statement, nodes: Sequence[tree.Node], unit: str
) -> Optional[list[int]]:
    """How many units match each node; None where the index is of no use."""
    base = [tree.EVERYTHING] if unit == SESSION_ALL else []
    table = _of_index(plpy, statement, [*base, *nodes], unit, pairs=False)
    return None if table is None else [row[n] for n, row in enumerate(table)][len(base) :]


def counts_of_tables(
    plpy: Any, statement: Statement, nodes: Sequence[tree.Node], unit: str
) -> list[int]:
    """The same from MLflow's tables; ``statement`` is fresh for each call of this."""
    base = [tree.EVERYTHING] if unit == SESSION_ALL else []
    found: list[int] = []
    for first in range(0, len(nodes), _MOST_AT_ONCE):
        some = [*base, *nodes[first : first + _MOST_AT_ONCE]]
        table = _of_tables(plpy, statement.fresh(), some, unit)
        found += [row[n] for n, row in enumerate(table)][len(base) :]
    return found


#: Nodes that have a bit each in a bigint.
_MOST_AT_ONCE = 50


def _table(size: int) -> Table:
    return [[0] * size for _ in range(size)]


def add_pairs(table: Table, sets: Sequence[int]) -> None:
    """Adds the sizes of sets, and of what each two have in common."""
    for number, bits in enumerate(sets):
        if not bits:
            continue
        table[number][number] += bitmaps.count(bits)
        for other in range(number):
            both = bitmaps.count(bits & sets[other])
            table[number][other] += both
            table[other][number] += both


def _of_index(
    plpy: Any,
    statement: Statement,
    nodes: Sequence[tree.Node],
    unit: str,
    pairs: bool = True,
) -> Optional[Table]:
    """The table; without ``pairs`` its diagonal only."""
    add = add_pairs if pairs else _add_each
    index = open_index(plpy, statement, nodes)
    if index is None:
        return None
    filters = [prepare(node) for node in nodes]
    table = _table(len(nodes))
    sessions = Sessions(index)
    tally = Tally(sessions, len(nodes), unit)
    for block, sets in zip(index.blocks, decided(index, filters)):
        if unit == TRACE:
            add(table, sets)
        else:
            tally.add(block, sets)
    if index.overcharged:
        return None
    for one in asked(plpy, statement.again(), nodes, index.pending) if index.pending else ():
        if unit == TRACE:
            add(table, [int(matches) for matches in one.matches])
        elif one.session_id is not None:
            tally.add_trace(one)
    if unit != TRACE:
        add(table, tally.sets())
    return table


def _add_each(table: Table, sets: Sequence[int]) -> None:
    for number, bits in enumerate(sets):
        table[number][number] += bitmaps.count(bits)


class Tally:
    """The sessions that match each of some nodes, of which the first is the base."""

    def __init__(self, sessions: Sessions, nodes: int, unit: str) -> None:
        self._sessions = sessions
        self._every = unit == SESSION_ALL
        # With ``session_all`` all but the first: sessions with a trace that does not match.
        self._marks = [Marks() for _ in range(nodes)]

    def add(self, block: Block, sets: Sequence[int]) -> None:
        """Adds the traces of a block: for each node the positions that match."""
        if not sets[0]:
            return
        (numbers,) = self._sessions.numbers([block], [sets[0]])
        most = len(self._sessions)
        for mark, bits in zip(self._marks, self._kept(sets)):
            if self._sessions.whole(block, bits):
                mark.add_set(self._sessions.present(block))
            else:
                mark.add(numbers, bits, most)

    def add_trace(self, trace: Flags) -> None:
        """Adds a trace by itself."""
        number = self._sessions.number(trace.session_id or "")
        most = len(self._sessions)
        for mark, bits in zip(self._marks, self._kept([int(one) for one in trace.matches])):
            if bits:
                mark.add_numbers((number,), most)

    def _kept(self, sets: Sequence[int]) -> Sequence[int]:
        if not self._every:
            return sets
        return [sets[0], *(sets[0] & ~bits for bits in sets[1:])]

    def sets(self) -> list[int]:
        """The sessions that match each node."""
        sets = [mark.set() for mark in self._marks]
        if self._every:
            return [sets[0], *(sets[0] & ~bits for bits in sets[1:])]
        return sets


def _of_tables(plpy: Any, statement: Statement, nodes: Sequence[tree.Node], unit: str) -> Table:
    """The same from MLflow's tables: how often each combination of nodes is matched.

    Each filter is a set of its own, so that its subqueries become joins; as mere flags
    of one scan they would have to be hashed or probed trace by trace.
    """
    matches = "\nunion all\n".join(
        f"select t.request_id, t.session_id, {1 << number}::bigint as mask\n"
        f"from {statement.traces}\nwhere {statement.where(node)}"
        + ("" if unit == TRACE else " and t.session_id is not null")
        for number, node in enumerate(nodes)
    )
    units = (
        "select t.session_id, bit_or(t.mask) as mask\n"
        f"from (\n{matches}\n) t\ngroup by t.request_id, t.session_id"
    )
    if unit != TRACE:
        together = "bit_and" if unit == SESSION_ALL else "bit_or"
        units = f"select {together}(u.mask) as mask from (\n{units}\n) u group by u.session_id"
    table = _table(len(nodes))
    for mask, number in statement.run_in_parallel(
        plpy,
        f"select array[m.mask::text, count(*)::text]\nfrom (\n{units}\n) m\ngroup by m.mask",
    ):
        matched = bitmaps.positions(int(mask or 0))
        for one in matched:
            for other in matched:
                table[one][other] += int(number or 0)
    return table
''',
"insights_engine.slices": r'''"""Numbers of traces, bit by bit (see bitmaps.py), and which of them lie in intervals."""

from __future__ import annotations

from collections.abc import Iterable

from insights_engine import bitmaps, intervals
from insights_engine.groups import Block, Group
from insights_engine.intervals import Intervals

Pair = tuple[int, int]

#: Bits of numbers that are read together.  Of N traces about log2(N) bits, counted
#: from the first in which they differ, tell all but the equal ones from a constant.
READ_AT_ONCE = 18


class Series:
    """The numbers of a key: the smallest and largest of each trace, bit by bit."""

    def __init__(self, low: dict[int, int], spread: dict[int, int]) -> None:
        # Bit: term.
        self._low = low
        self._spread = spread

    def terms(self) -> Iterable[int]:
        """The terms that are read in any case; lower bits seldom matter."""
        for terms in (self._low, self._spread):
            for bit in sorted(terms, reverse=True)[: 1 + READ_AT_ONCE]:
                yield terms[bit]

    def slices(self, group: Group) -> dict[int, int]:
        """All slices of the smallest numbers, by bit."""
        group.fetch(self._low.values())
        return {bit: group.union((term,)) for bit, term in self._low.items()}

    def there(self, group: Group) -> int:
        """The positions that have a number."""
        term = self._low.get(bitmaps.HAS_NUMBER)
        return 0 if term is None else group.union((term,))

    def lowest(self, group: Group) -> bitmaps.Slices:
        """The slices of the smallest numbers."""
        return _Slices(group, self._low)

    def highest(self, group: Group) -> bitmaps.Slices:
        """The slices of the largest numbers."""
        low = _Slices(group, self._low)
        if bitmaps.HAS_NUMBER not in self._spread:
            return low
        return _Largest(low, _Slices(group, self._spread))

    def within(self, group: Group, wanted: Intervals) -> Pair:
        """The traces with a number in one of the intervals."""
        there = self.there(group)
        if not there or not wanted:
            return 0, 0
        if wanted == intervals.ALL:
            return there, there
        spread = self._spread.get(bitmaps.HAS_NUMBER)
        several = 0 if spread is None else group.union((spread,)) & there
        # Block by block: in most of them a few slices tell all numbers from a constant.
        pairs = []
        for block, own, different in zip(
            group.blocks, group.divided(there), group.divided(several)
        ):
            low = _OfBlock(group, block, self._low)
            inside = _inside(low, own, wanted)
            if different:
                high = _Largest(low, _OfBlock(group, block, self._spread))
                pairs.append(_between(low, high, inside, different, wanted))
            else:
                pairs.append((inside, inside))
        must = group.joined([sure for sure, _ in pairs])
        if not several:
            return must, must
        return must, group.joined([possible for _, possible in pairs])


def _between(
    low: bitmaps.Slices, high: bitmaps.Slices, inside: int, several: int, wanted: Intervals
) -> Pair:
    """Must and may, where the smallest number of some is inside and ``several`` have more."""
    must = inside | _inside(high, several, wanted)
    may = must
    for start, end in wanted:
        if start == 0 or end == intervals.LAST:
            continue  # if any number is inside, the smallest or the largest is
        # Some number in between, which is not known, may be the one.
        may |= bitmaps.below(low, several, end + 1) & ~bitmaps.below(high, several, start)
    return must, may


def _inside(slices: bitmaps.Slices, there: int, wanted: Intervals) -> int:
    found = 0
    for start, end in wanted:
        inside = bitmaps.below(slices, there, end + 1)
        found |= inside & ~bitmaps.below(slices, inside, start)
    return found


class _Slices:
    """Slices that are read when they are asked for, some at a time from the top."""

    def __init__(self, group: Group, terms: dict[int, int]) -> None:
        self._group = group
        self._terms = terms

    def get(self, bit: int, otherwise: int, /) -> int:
        term = self._terms.get(bit)
        if term is None:
            return otherwise
        _fetch(self._group, self._terms, bit)
        return self._group.union((term,))


class _OfBlock:
    """The slices of one block of a group, of which each is read and decoded but once."""

    def __init__(self, group: Group, block: Block, terms: dict[int, int]) -> None:
        self._group = group
        self._block = block
        self._terms = terms
        self._known: dict[int, int] = {}

    def get(self, bit: int, otherwise: int, /) -> int:
        term = self._terms.get(bit)
        if term is None:
            return otherwise
        known = self._known.get(bit)
        if known is None:
            _fetch(self._group, self._terms, bit)
            known = self._known[bit] = self._group.members(term, self._block)
        return known


def _fetch(group: Group, terms: dict[int, int], bit: int) -> None:
    """Reads a slice unless it was read, and with it some of those below."""
    if not group.has(terms[bit]):
        rest = sorted((slot for slot in terms if slot <= bit), reverse=True)
        group.fetch(terms[slot] for slot in rest[:READ_AT_ONCE])


class _Largest:
    """The slices of the largest numbers: those of the smallest, changed where they differ."""

    def __init__(self, low: bitmaps.Slices, spread: bitmaps.Slices) -> None:
        self._low = low
        self._spread = spread

    def get(self, bit: int, otherwise: int, /) -> int:
        return self._low.get(bit, otherwise) ^ self._spread.get(bit, otherwise)
''',
"insights_engine.span_conditions": r'''"""Conditions on spans, as the index knows them.

They are taken apart by *signature*, the type, name and status that spans share:
for one signature every predicate on these three is simply true or false, and what
is left of a condition speaks of the facts that carry this signature.  If one
predicate is left, the traces are known exactly.  If several are, they are known
where the trace has one span of the signature, and bounded where it has more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Optional

from insights_engine import bitmaps
from insights_engine.conditions import Condition
from insights_engine.groups import Group, Terms
from insights_engine.intervals import Intervals
from insights_engine.slices import Pair, Series


class SpanCondition(ABC):
    """A condition on a span, asked about the spans of some signatures.

    `some` bounds the traces of which some span of the signatures satisfies it.
    """

    def terms(self, signatures: Sequence[int]) -> Iterable[int]:
        return ()

    @abstractmethod
    def some(self, spans: Spans, group: Group, signatures: Sequence[int]) -> Pair:
        """Must and may of the traces, for `terms` of the signatures."""

    def candidates(self, signatures: Sequence[int]) -> Sequence[int]:
        """The signatures that can satisfy it at all."""
        return signatures

    def counted(self) -> bool:
        """Whether it has to know which traces have spans of a signature, and how many."""
        return True


class Spans:
    """How many spans of a signature a trace has."""

    def __init__(self, counts: dict[int, list[tuple[int, int]]]) -> None:
        # Signature: (bit, term) in ascending order.
        self._counts = counts

    def terms(self, signatures: Iterable[int]) -> Iterable[int]:
        for signature in signatures:
            for _, term in self._counts.get(signature, ()):
                yield term

    def there(self, group: Group, signatures: Sequence[int]) -> int:
        """The traces with a span of one of the signatures."""
        return group.union(tuple(self.terms(signatures)))

    def one(self, group: Group, signature: int) -> int:
        """The traces with exactly one span of the signature."""
        lowest = several = 0
        for bit, term in self._counts.get(signature, ()):
            if bit:
                several |= group.union((term,))
            else:
                lowest = group.union((term,))
        return lowest & ~several

    def slices(self, group: Group, signature: int) -> list[int]:
        """The number of spans of the signature, bit by bit."""
        found: list[int] = []
        for bit, term in self._counts.get(signature, ()):
            found += [0] * (bit - len(found))
            found.append(group.union((term,)))
        return found


class SpanUnknown(SpanCondition):
    """What the index cannot say about a span."""

    def some(self, spans: Spans, group: Group, signatures: Sequence[int]) -> Pair:
        return 0, spans.there(group, signatures)


class SpanConstant(SpanCondition):
    """True or false for every span of the signatures."""

    def __init__(self, holds: bool) -> None:
        self.holds = holds

    def some(self, spans: Spans, group: Group, signatures: Sequence[int]) -> Pair:
        there = spans.there(group, signatures) if self.holds else 0
        return there, there


class SpanFacts(SpanCondition):
    """Facts about spans: by signature for sure, by signature perhaps, of any span perhaps."""

    def __init__(
        self, sure: dict[int, list[int]], unsure: dict[int, list[int]], anywhere: Terms
    ) -> None:
        self._sure = sure
        self._unsure = unsure
        self._anywhere = anywhere

    def counted(self) -> bool:
        return bool(self._anywhere)

    def candidates(self, signatures: Sequence[int]) -> Sequence[int]:
        if self._anywhere:
            return signatures
        return [one for one in signatures if one in self._sure or one in self._unsure]

    def terms(self, signatures: Sequence[int]) -> Iterable[int]:
        for signature in signatures:
            yield from self._sure.get(signature, ())
            yield from self._unsure.get(signature, ())
        yield from self._anywhere

    def some(self, spans: Spans, group: Group, signatures: Sequence[int]) -> Pair:
        must = group.union(_chosen(self._sure, signatures))
        may = must | group.union(_chosen(self._unsure, signatures))
        anywhere = group.union(self._anywhere)
        if anywhere:
            may |= anywhere & spans.there(group, signatures)
        return must, may


def _chosen(terms: dict[int, list[int]], signatures: Sequence[int]) -> Terms:
    return tuple(term for one in signatures for term in terms.get(one, ()))


class SpanNumbers(SpanCondition):
    """A number of a span in some intervals."""

    def __init__(
        self,
        series: dict[int, Series],
        wanted: Intervals,
        unsure: SpanFacts,
    ) -> None:
        self._series = series
        self._wanted = wanted
        self._unsure = unsure

    def counted(self) -> bool:
        return self._unsure.counted()

    def candidates(self, signatures: Sequence[int]) -> Sequence[int]:
        unsure = set(self._unsure.candidates(signatures))
        return [one for one in signatures if one in self._series or one in unsure]

    def terms(self, signatures: Sequence[int]) -> Iterable[int]:
        for signature in signatures:
            if signature in self._series:
                yield from self._series[signature].terms()
        yield from self._unsure.terms(signatures)

    def some(self, spans: Spans, group: Group, signatures: Sequence[int]) -> Pair:
        must = 0
        _, may = self._unsure.some(spans, group, signatures)
        for signature in signatures:
            if signature in self._series:
                sure, possible = self._series[signature].within(group, self._wanted)
                must |= sure
                may |= possible
        return must, must | may


class SpanAny(SpanCondition):
    """OR: some span satisfies one of the items."""

    def __init__(self, items: Sequence[SpanCondition]) -> None:
        self._items = items

    def counted(self) -> bool:
        return any(item.counted() for item in self._items)

    def candidates(self, signatures: Sequence[int]) -> Sequence[int]:
        found: set[int] = set()
        for item in self._items:
            found.update(item.candidates(signatures))
        return [one for one in signatures if one in found]

    def terms(self, signatures: Sequence[int]) -> Iterable[int]:
        for item in self._items:
            yield from item.terms(signatures)

    def some(self, spans: Spans, group: Group, signatures: Sequence[int]) -> Pair:
        must = may = 0
        for item in self._items:
            sure, possible = item.some(spans, group, signatures)
            must |= sure
            may |= possible
        return must, may


class SpanAll(SpanCondition):
    """AND: one span satisfies every item; known where there is one span only."""

    def __init__(self, items: Sequence[SpanCondition]) -> None:
        self._items = items

    def candidates(self, signatures: Sequence[int]) -> Sequence[int]:
        for item in self._items:
            signatures = item.candidates(signatures)
        return signatures

    def terms(self, signatures: Sequence[int]) -> Iterable[int]:
        signatures = self.candidates(signatures)
        for item in self._items:
            yield from item.terms(signatures)

    def some(self, spans: Spans, group: Group, signatures: Sequence[int]) -> Pair:
        must = may = 0
        for signature in self.candidates(signatures):
            sure = possible = -1
            for item in self._items:
                one_sure, one_possible = item.some(spans, group, (signature,))
                sure &= one_sure
                possible &= one_possible
            if sure:
                must |= sure & spans.one(group, signature)
            may |= possible
        return must, may


class SpanNot(SpanCondition):
    """NOT: some span does not satisfy the item."""

    def __init__(self, item: SpanCondition) -> None:
        self._item = item

    def terms(self, signatures: Sequence[int]) -> Iterable[int]:
        return self._item.terms(signatures)

    def some(self, spans: Spans, group: Group, signatures: Sequence[int]) -> Pair:
        must = may = 0
        for signature in signatures:
            there = spans.there(group, (signature,))
            one = spans.one(group, signature)
            sure, possible = self._item.some(spans, group, (signature,))
            must |= there & ~possible
            # Where there are several, one may fail what another satisfies.
            may |= there & ~(one & sure)
        return must, may


class AnySpan(Condition):
    """Some span satisfies what is left of a condition, signature by signature."""

    def __init__(self, spans: Spans, cases: Sequence[tuple[SpanCondition, Sequence[int]]]) -> None:
        self._spans = spans
        self._cases = [(case, case.candidates(signatures)) for case, signatures in cases]

    def terms(self) -> Iterable[int]:
        for case, signatures in self._cases:
            yield from case.terms(signatures)
            if case.counted():
                yield from self._spans.terms(signatures)

    def bounds(self, group: Group) -> Pair:
        must = may = 0
        for case, signatures in self._cases:
            if signatures:
                sure, possible = case.some(self._spans, group, signatures)
                must |= sure
                may |= possible
        return must & group.universe, may & group.universe


class CountSpans(Condition):
    """How many spans satisfy what is left of a condition."""

    def __init__(
        self,
        spans: Spans,
        cases: Sequence[tuple[SpanCondition, Sequence[int]]],
        wanted: Sequence[tuple[int, Optional[int]]],
    ) -> None:
        self._spans = spans
        self._cases = [(case, case.candidates(signatures)) for case, signatures in cases]
        # Intervals of counts, both ends included; None: no upper end.
        self._wanted = wanted

    def terms(self) -> Iterable[int]:
        for case, signatures in self._cases:
            yield from case.terms(signatures)
            yield from self._spans.terms(signatures)

    def bounds(self, group: Group) -> Pair:
        fewest: list[int] = []
        most: list[int] = []
        for case, signatures in self._cases:
            for signature in signatures:
                counts = self._spans.slices(group, signature)
                if isinstance(case, SpanConstant):
                    if case.holds:
                        fewest = bitmaps.add(fewest, counts)
                        most = bitmaps.add(most, counts)
                    continue
                sure, possible = case.some(self._spans, group, (signature,))
                # Of several spans at least one, and perhaps all.
                fewest = bitmaps.add(fewest, [sure])
                most = bitmaps.add(most, [possible & bits for bits in counts])
        universe = group.universe
        must = may = 0
        for low, high in self._wanted:
            below_low, _ = bitmaps.compare_counts(fewest, universe, low)
            short, _ = bitmaps.compare_counts(most, universe, low)
            sure, possible = universe & ~below_low, universe & ~short
            if high is not None:
                less, equal = bitmaps.compare_counts(most, universe, high)
                sure &= less | equal
                less, equal = bitmaps.compare_counts(fewest, universe, high)
                possible &= less | equal
            must |= sure
            may |= possible
        return must, may
''',
"insights_engine.splits": r'''"""Numbers against a target: the threshold that tells most, and its fair price.

The best of 32 thresholds is significant by chance far more often than one in
twenty times, so the search is paid for in the p value.  A threshold is found
rather than a Kolmogorov-Smirnov or Mann-Whitney test done because it *is* a
filter, to go on with, and because it also finds what sets in at some value and
no shift of the whole distribution shows: a timeout, a score of 0.

Of a field whose units have one number each, ``x >= cut`` and ``x < cut`` are
compared for all cuts; without missing values they are each other's negation.
Where a unit may have several numbers (attributes, durations, feedback), "some
number is at least" is asked of the largest and "some number is below" of the
smallest; those are two searches, both of which are paid for.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional

from insights_engine import independence
from insights_engine.options import goes
from insights_engine.thresholds import quantile_cuts
from insights_engine.units import CellCounts


class Split(NamedTuple):
    """The best threshold: the fact ``value >= cut`` or ``value < cut``."""

    op: str
    #: Cut 1 is between the cells 1 and 2.
    cut: int
    #: Units of the base, and of the target, that have the fact.
    among: int
    joint: int
    searches: tuple[Search, ...]
    #: The p value of these counts by themselves, roughly.
    estimate: float

    @property
    def searched(self) -> int:
        """How many different thresholds were compared."""
        return sum([search.size for search in self.searches])

    def price(self, p: float) -> float:
        """Pays for the search: the p value of the best of all compared, whose own is ``p``."""
        return min(1.0, sum([search.price(p) for search in self.searches]))


class _Side(NamedTuple):
    """The facts of one operator: cuts with the numbers of units beyond them."""

    op: str
    cuts: list[int]
    among: list[int]
    joint: list[int]
    #: Units with a number.
    present: int


def best_split(
    counts: CellCounts, target: int, total: int, direction: str, min_support: int
) -> tuple[bool, Optional[Split]]:
    """Whether there is any threshold, and the one with the smallest p value.

    Considered are those that ``min_support`` units of the base or more match
    (not all of them), at the `quantile_cuts` of the cells; the best is of those
    that go with the ``target`` of ``total`` units in the ``direction`` wanted:
    ``positive``, ``negative`` or ``both``.  The price is that of all considered
    in either direction.  Where none goes there after a search, p is 1.

    Of equal p values (0 where a strong one underflows) the greater G² wins, then
    the fact that goes with the target and not its negation, then the lower cut.
    """
    sides = _sides(counts, min_support, total)
    best: Optional[tuple[tuple[float, float, bool, int], _Side, int]] = None
    for side in sides:
        for number, (among, joint) in enumerate(zip(side.among, side.joint)):
            table = (joint, target - joint, among - joint, total - target - among + joint)
            if not goes(table, direction):
                continue
            # Fisher's test where it is quick.  Whatever chooses, the price holds: that
            # one of several exact p values is small is no likelier than it says.
            statistic = independence.g_squared(*table)
            if independence.needs_fisher(target, among, total, independence.SMALL_EXPECTED_COUNT):
                p_value = independence.fisher_exact(*table)
            else:
                p_value = independence.chi_square_sf(statistic)
            against = not goes(table, "positive")
            order = (p_value, -statistic, against, side.cuts[number])
            if best is None or order < best[0]:
                best = (order, side, number)
    if best is None:
        return bool(sides), None
    (estimate, *_), side, number = best
    return True, Split(
        side.op,
        side.cuts[number],
        side.among[number],
        side.joint[number],
        tuple(_searches(sides, counts.several, target, total)),
        estimate,
    )


def _sides(counts: CellCounts, min_support: int, total: int) -> list[_Side]:
    """The facts that are compared; those of the smallest numbers first."""
    sides = []
    for op, number in (("<", 0), (">=", 1)):
        base, inside = counts.base[number], counts.target[number]
        cells = sorted(base)
        cumulative: list[int] = []
        joint: list[int] = []
        below = joint_below = 0
        for cell in cells:
            below += base[cell]
            joint_below += inside.get(cell, 0)
            cumulative.append(below)
            joint.append(joint_below)
        side = _Side(op, [], [], [], below)
        for cut in quantile_cuts(cumulative):
            among, of_target = cumulative[cut - 1], joint[cut - 1]
            if op == ">=":
                among, of_target = below - among, joint_below - of_target
            if max(1, min_support) <= among < total:
                # The cut that begins the cell: cell 1 is before cut 1.
                side.cuts.append(cells[cut] - 1)
                side.among.append(among)
                side.joint.append(of_target)
        if side.cuts:
            sides.append(side)
    return sides


def _searches(sides: Sequence[_Side], several: bool, target: int, total: int) -> list[Search]:
    """What was compared, for its price: two searches where smallest and largest differ."""
    below: list[int] = []
    at_least_below: list[int] = []
    missing = total
    for side in sides:
        missing = total - side.present
        if side.op == "<":
            below = side.among
        else:
            at_least_below = [side.present - among for among in side.among]
    if not several:
        return [Search(below, at_least_below, missing, target, total)]
    return [
        Search(below, [], missing, target, total),
        Search([], at_least_below, missing, target, total),
    ]


# ----------------------------------------------------------------- the price


@dataclass(frozen=True)
class Search:
    """What a search for a threshold compared.

    ``below`` are the numbers of units below the cut, ascending, for each fact
    ``value < cut``; ``at_least_below`` the same for each ``value >= cut``.
    ``missing`` units of ``total`` have no value and match neither.
    """

    below: Sequence[int]
    at_least_below: Sequence[int]
    missing: int
    target: int
    total: int

    @property
    def size(self) -> int:
        """How many different facts those are, a fact and its negation being one."""
        if not self.missing:
            return len({*self.below, *self.at_least_below})
        return len(set(self.below)) + len(set(self.at_least_below))

    def price(self, p: float) -> float:
        """The p value of the best of these thresholds, whose own is ``p``.

        That is an upper bound of the probability that some threshold of the
        search would reach ``p`` if the target were independent of the number.
        Bonferroni's is p times their number, far too much where neighbouring
        cuts nearly agree.  The improved one (Worsley, Biometrika 69, 1982;
        Hothorn and Lausen, Computational Statistics and Data Analysis 43, 2003)
        counts of each further threshold only the case that it reaches p while
        its neighbour does not,

            P(|Z_i| >= b, |Z_j| < b) <= 2 phi(b) / b erf(a b / sqrt(2)),
            a = sqrt((1 - r) / (1 + r)),

        with b the normal quantile of p and r the correlation of the two, which
        for a threshold in a threshold is that of a Brownian bridge.  (The left
        side is at most 4 T(b, a) with Owen's function T, and the right one
        bounds that; Lausen and Schumacher's expansion of the same probability
        is no bound and turns negative for small p.)  The asymptotic formula of
        Lausen and Schumacher (Biometrics 48, 1992) is for all cuts of an
        interval: of 32 cuts it asks twice the price at p = 0.001, more than Bonferroni.

        The normal approximation of two counts at once is trusted only at
        expected counts of 5.  A threshold with less, or whose neighbour has
        less, is counted in full; for those alone the price is Bonferroni's, of
        Fisher's exact p values, and thus never too low.  That it is never too
        low elsewhere either, the tests show by exact computation, for 60 to
        20,000 units and p down to 1e-5.  The actual error is 0.5 to 0.8 of the
        promised one where counts allow; by Bonferroni's price 0.3 to 0.6.
        """
        if not 0 < p < 1:
            return p
        b = normal_quantile(p)
        factor = 0.0
        for index, count in enumerate(self.below):
            factor += self._added(self.below[index - 1], count, b) if index else 1.0
        # Each of the others joins its predecessor, or the last that is below
        # within it, whichever it resembles more.  The neighbourhoods together
        # are a tree, which is what the bound requires.
        for index, count in enumerate(self.at_least_below):
            # "Not at least" includes the units without a value.
            outer = count + self.missing
            added = 1.0
            if index:
                added = self._added(self.at_least_below[index - 1] + self.missing, outer, b)
            position = bisect_right(self.below, count)
            if position:
                added = min(added, self._added(self.below[position - 1], outer, b))
            factor += added
        return min(1.0, p * factor)

    def _added(self, inner: int, outer: int, b: float) -> float:
        """The part of p that one of two nested sets adds to the other's."""
        if inner == outer:
            return 0.0
        total = self.total
        if self._is_small(inner) or self._is_small(outer):
            return 1.0
        # 1 - r², of r² = s (n - t) / (t (n - s)) for sets of s and t units.
        apart = total * (outer - inner) / (outer * (total - inner))
        a = math.sqrt(apart) / (1 + math.sqrt(max(0.0, 1 - apart)))
        # 2 phi(b) / b is at most (1 + 1 / b²) P(|Z| >= b).
        return min(1.0, (1 + 1 / (b * b)) * math.erf(a * b / math.sqrt(2)))

    def _is_small(self, count: int) -> bool:
        return independence.needs_fisher(
            self.target, count, self.total, independence.SMALL_EXPECTED_COUNT
        )


def normal_quantile(p: float) -> float:
    """The b with ``P(|Z| >= b) = p`` of a standard normal Z, for p in (0, 1].

    By Newton's method on the logarithm of erfc, which is concave: from
    ``sqrt(-2 log(p))``, which is above b, it descends without overshooting.
    """
    b = math.sqrt(-2 * math.log(p))
    if p < 1e-290:
        # Close enough, where erfc loses its digits and then underflows.
        return b
    for _ in range(50):
        tail = math.erfc(b / math.sqrt(2))
        density = math.sqrt(2 / math.pi) * math.exp(-b * b / 2)
        step = math.log(p / tail) * tail / density
        b -= step
        if step < 1e-12:
            break
    return b
''',
"insights_engine.splitting": r'''"""Numbers as facts: for each field the threshold that tells most about the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional, Union

from insights_engine.candidates import Name
from insights_engine.population import Population
from insights_engine.splits import Split, best_split
from insights_engine.units import Traces


class Threshold(NamedTuple):
    """A field compared with a constant, the best of all constants that were."""

    name: Name
    value: Union[int, float]
    split: Split

    @property
    def fact(self) -> Name:
        """The name of the fact."""
        return (*self.name, self.split.op, self.value, self.split.cut)


def best_thresholds(
    population: Population,
    units: Traces,
    names: Sequence[Name],
    direction: str,
    min_support: int,
) -> list[Optional[Threshold]]:
    """The best threshold of each field, None where none goes in that direction.

    Fields that have no threshold at all are left out.
    """
    found: list[Optional[Threshold]] = []
    for some in population.some_series(names):
        cuts = {name: chosen for name, chosen in population.cuts(some).items() if chosen.values}
        for name, counts in units.cells(cuts).items():
            searched, best = best_split(counts, units.target, units.total, direction, min_support)
            if best is not None:
                found.append(Threshold(name, cuts[name].values[best.cut - 1], best))
            elif searched:
                found.append(None)
    return found
''',
"insights_engine.statement": r'''"""One SQL statement in the making: its scope, its parameters, how it is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from insights_engine import plans, tree
from insights_engine.rawsql import Params, compile_filter


class ArrayParams(Params):
    """Parameters that travel as one array of texts, for `Statement.run_in_parallel`."""

    def add(self, value: Any, pgtype: str) -> str:
        """``(($1)[n]::type)`` for ``value``."""
        return f"(($1)[{super().add(value, pgtype)[1:]}]::{pgtype})"

    def texts(self) -> list[str]:
        """The values as PostgreSQL reads them."""
        return [_text(value) for value in self.values]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        items = [_text(item).replace("\\", "\\\\").replace('"', '\\"') for item in value]
        return "{" + ",".join(f'"{item}"' for item in items) + "}"
    return repr(value)


class Statement:
    """Collects the parameters of one statement over ``trace_info t``.

    ``parallel`` chooses how it is going to be run: in parallel, which suits
    going through all traces, or as it is, which suits looking at a few.
    """

    def __init__(
        self,
        schema: str,
        experiments: Optional[list[int]],
        now_ms: int,
        parallel: bool = False,
    ) -> None:
        self.schema = schema
        self.experiments = experiments
        self.now_ms = now_ms
        self.params = ArrayParams() if parallel else Params()

    def again(self, parallel: bool = False) -> Statement:
        """A fresh statement about the same."""
        return Statement(self.schema, self.experiments, self.now_ms, parallel)

    def fresh(self) -> Statement:
        """A fresh statement about the same, to be run in parallel."""
        return Statement(self.schema, self.experiments, self.now_ms, parallel=True)

    @property
    def traces(self) -> str:
        """The table of traces under its alias."""
        return f"{self.schema}.trace_info t"

    def scope(self) -> str:
        """The condition that a trace is in the requested experiments."""
        if self.experiments is None:
            return "true"
        if len(self.experiments) == 1:
            # Unlike any(), this lets an index on (experiment, time) sort.
            return f"t.experiment_id = {self.params.add(self.experiments[0], 'int')}"
        return f"t.experiment_id = any({self.params.add(self.experiments, 'int[]')})"

    def where(self, node: tree.Node, shape: str = "set") -> str:
        """The condition that a trace is in scope and matches ``node``."""
        if node == tree.EVERYTHING:
            return self.scope()
        return f"{self.scope()} and {self.condition(node, shape)}"

    def condition(self, node: tree.Node, shape: str) -> str:
        """The condition that a trace matches ``node``."""
        return compile_filter(
            node,
            self.params,
            schema=self.schema,
            scope=self.experiments,
            now_ms=self.now_ms,
            shape=shape,
        )

    def run(self, plpy: Any, sql: str) -> Sequence[dict[str, Any]]:
        """The rows of ``sql``, which uses the parameters collected so far."""
        rows: Sequence[dict[str, Any]] = plpy.execute(
            plpy.prepare(sql, self.params.types), self.params.values
        )
        return rows

    def run_in_parallel(self, plpy: Any, sql: str) -> list[list[Optional[str]]]:
        """The rows of ``sql``, which selects one array of texts each."""
        assert isinstance(self.params, ArrayParams)
        plan = plpy.prepare("select r from insights.parallel_rows($1, $2) r", ["text", "text[]"])
        return [row["r"] for row in plpy.execute(plan, [sql, self.params.texts()])]


def current_time_ms(plpy: Any) -> int:
    """What ``now()`` in a filter stands for: when this statement began."""
    rows = plans.run(
        plpy,
        "select pg_catalog.floor(extract(epoch from pg_catalog.statement_timestamp()) * 1000)"
        "::bigint as now_ms",
    )
    return int(rows[0]["now_ms"])
''',
"insights_engine.statistics": r'''"""What the four counts of two filters say about how the filters belong together.

The counts form a 2x2 contingency table over the traces of the base filter:

======== =================== ====================
         filter 2 matches    filter 2 does not
filter 1 ``n11`` (joint)     ``n10``
not 1    ``n01``             ``n00``
======== =================== ====================

Everything here is plain arithmetic on those integers: standard library only,
no state, no database.  A statistic that the table does not determine is NaN
for the two NPMI values (that is what MLflow answers) and None, SQL NULL, for
all others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from insights_engine import independence

# Jeffreys' prior for a multinomial cell, the smoothing that MLflow uses.
JEFFREYS_PRIOR = 0.5

# What the odds ratio adds to each cell.
HALDANE_ANSCOMBE = 0.5

# The 97.5 % quantile of the standard normal distribution: a 95 % interval.
Z_95 = 1.959963984540054

_NAN = float("nan")


@dataclass(frozen=True)
class Counts:
    """Numbers of traces: matching filter 1, filter 2, both, and the base."""

    filter1: int
    filter2: int
    joint: int
    total: int

    @property
    def table(self) -> tuple[int, int, int, int]:
        """The cells ``(n11, n10, n01, n00)``."""
        return (
            self.joint,
            self.filter1 - self.joint,
            self.filter2 - self.joint,
            self.total - self.filter1 - self.filter2 + self.joint,
        )


@dataclass(frozen=True)
class Association:
    """The statistics of one pair of filters; None where undefined."""

    npmi: float
    npmi_smoothed: float
    lift: float | None
    phi: float | None
    odds_ratio: float | None = None
    odds_ratio_low: float | None = None
    odds_ratio_high: float | None = None
    p_value: float | None = None
    #: The test that the p value comes from: ``Fisher`` or ``G2``.
    test: str | None = None


def associate(counts: Counts) -> Association:
    """Every statistic of the table behind ``counts``."""
    npmi, npmi_smoothed = npmi_from_counts(
        counts.joint, counts.filter1, counts.filter2, counts.total
    )
    table = counts.table
    if min(table) < 0:
        raise ValueError(f"counts contradict each other: {counts}")
    known = npmi, npmi_smoothed, lift(*table), phi(*table)
    p_value = independence.p_value(*table)
    if p_value is None:
        # A filter that matches all traces or none: nothing about association.
        return Association(*known)
    odds = odds_ratio(*table)
    test = independence.name_of_test(counts.filter1, counts.filter2, counts.total)
    return Association(*known, odds.value, odds.low, odds.high, p_value, test)


# ------------------------------------------------------------------------ NPMI


def npmi_from_counts(joint: int, filter1: int, filter2: int, total: int) -> tuple[float, float]:
    """Normalised pointwise mutual information, plain and smoothed, in [-1, 1].

    ``pmi / -log p(1, 2)`` with ``pmi = log(p(1, 2) / (p(1) p(2)))``: Bouma,
    "Normalized (pointwise) mutual information in collocation extraction",
    GSCL 2009.  NaN where a filter matches nothing, -1 (plain) where they never
    meet; the smoothed value adds 0.5 to each cell.

    The order of the floating-point operations is that of MLflow's
    ``calculate_npmi_from_counts``, so the results are equal to the last bit.
    """
    if total <= 0 or filter1 == 0 or filter2 == 0:
        return _NAN, _NAN
    n11 = joint
    n10 = filter1 - joint
    n01 = filter2 - joint
    n00 = total - filter1 - filter2 + joint
    if min(n11, n10, n01, n00) < 0:
        return _NAN, _NAN
    plain = -1.0 if joint == 0 else _npmi(n11, n10, n01, n00, 0)
    return plain, _npmi(n11, n10, n01, n00, JEFFREYS_PRIOR)


def _npmi(n11: int, n10: int, n01: int, n00: int, smoothing: float) -> float:
    s11, s10, s01, s00 = n11 + smoothing, n10 + smoothing, n01 + smoothing, n00 + smoothing
    total = s11 + s10 + s01 + s00
    first = s11 + s10
    second = s11 + s01
    if first <= 0 or second <= 0 or s11 <= 0:
        return _NAN
    if n10 == 0 and n01 == 0 and n00 == 0:
        return 1.0
    log_joint = math.log(s11)
    log_total = math.log(total)
    pmi = (log_joint + log_total) - (math.log(first) + math.log(second))
    return max(-1.0, min(1.0, pmi / -(log_joint - log_total)))


# ---------------------------------------------------------------- effect sizes


def lift(n11: int, n10: int, n01: int, n00: int) -> float | None:
    """How much likelier both are together than if they were independent.

    ``p(1, 2) / (p(1) p(2))``; 1 is independence; undefined if a filter matches
    nothing.  Brin, Motwani, Ullman and Tsur, SIGMOD 1997 (there: "interest").
    """
    first, second = n11 + n10, n11 + n01
    if first == 0 or second == 0:
        return None
    return (n11 * (first + n01 + n00)) / (first * second)


def phi(n11: int, n10: int, n01: int, n00: int) -> float | None:
    """Pearson's correlation of the two yes/no variables, in [-1, 1].

    ``(n11 n00 - n10 n01) / sqrt(product of the four margins)`` (Yule 1912);
    undefined if a filter matches all traces or none.
    """
    margins = (n11 + n10) * (n01 + n00) * (n11 + n01) * (n10 + n00)
    if margins == 0:
        return None
    # isqrt on a scaled integer: the product of four counts of 1e8 has 107 bits,
    # and a float would round it before the square root does.
    scale = 64
    root = math.isqrt(margins << (2 * scale))
    return max(-1.0, min(1.0, ((n11 * n00 - n10 * n01) << scale) / root))


@dataclass(frozen=True)
class OddsRatio:
    """An odds ratio with its 95 % bounds; all finite and greater than 0."""

    value: float
    low: float
    high: float


def odds_ratio(n11: int, n10: int, n01: int, n00: int) -> OddsRatio:
    """The odds ratio of a table after adding 0.5 to each cell, with its 95 % interval.

    ``(n11 + 0.5)(n00 + 0.5) / ((n10 + 0.5)(n01 + 0.5))`` (Haldane, Annals of Human
    Genetics 20, 1956; Anscombe, Biometrika 43, 1956), whose logarithm is nearly
    unbiased (Agresti, Categorical Data Analysis, 3.1.1), and to both sides of that
    1.96 of Gart's standard errors, ``sqrt(sum of 1 / (n + 0.5))`` (Gart,
    Biometrika 53, 1966).

    Every table is corrected, not only one with a 0 in it: an estimate must not
    jump where a cell becomes 1, and the flukes of small tables must not lead.

    The bounds hold the true value in 95 % of cases on average, in 94 % or more
    wherever each cell is expected to be 1.5 or greater.  Below that, where
    hardly a unit of one filter is expected to match the other, it can be markedly less.
    """
    a, b, c, d = (cell + HALDANE_ANSCOMBE for cell in (n11, n10, n01, n00))
    ratio = (a * d) / (b * c)
    spread = math.exp(Z_95 * math.sqrt(1 / a + 1 / b + 1 / c + 1 / d))
    return OddsRatio(ratio, ratio / spread, ratio * spread)
''',
"insights_engine.stored_cells": r'''"""The cells of numbers in large blocks, stored with the index for discoveries.

In which cell a trace's number lies (see `cells`) takes reading the number bit by bit,
of every field that there is.  A block is written once, and where its experiment's
numbers are cut depends on its largest blocks alone, so that is worked out when the
index is written.  It is a copy of what a session would compute, and no more: where
nothing is stored, or other cuts are wanted, the session computes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from insights_engine import bitmaps, plans
from insights_engine.candidates import Name
from insights_engine.cells import Cells, Cuts


def cuts_of(plpy: Any, sample: Sequence[int]) -> dict[Name, Cuts]:
    """The cuts chosen from a sample, by field, as far as they are stored; perhaps none."""
    rows = plans.run(
        plpy,
        "select distinct on (c.kind, c.key, c.span_name) c.kind, c.key, c.span_name, c.cuts"
        " from insights.cells c where c.block = any($1) and c.sample = $1",
        ("int[]",),
        (list(sample),),
    )
    return _cuts(rows)


def cuts_in(plpy: Any, block: int) -> dict[Name, Cuts]:
    """The cuts of the cells that are stored of a block."""
    rows = plans.run(
        plpy,
        "select c.kind, c.key, c.span_name, c.cuts from insights.cells c where c.block = $1",
        ("int",),
        (block,),
    )
    return _cuts(rows)


def _cuts(rows: Iterable[Mapping[str, Any]]) -> dict[Name, Cuts]:
    found = {}
    for row in rows:
        pairs = json.loads(row["cuts"])
        found[_name(row)] = Cuts([value for value, _ in pairs], [start for _, start in pairs])
    return found


def read(plpy: Any, block: int, cuts: Mapping[Name, Cuts]) -> dict[Name, Cells]:
    """The cells of fields that are cut so, as far as they are stored."""
    columns = [list(column) for column in zip(*[name[1:] for name in cuts])]
    if not columns:
        return {}
    rows = plans.run(
        plpy,
        "select c.kind, c.key, c.span_name, c.low, c.high from rows from"
        " (pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),"
        " pg_catalog.unnest($5)) as w (kind, key, span_name, cuts) join insights.cells c"
        " on c.block = $1 and c.kind = w.kind and c.key = w.key and c.span_name = w.span_name"
        " and c.cuts = w.cuts",
        ("int", "text[]", "text[]", "text[]", "text[]"),
        (block, *columns, [_text(chosen) for chosen in cuts.values()]),
    )
    found = {}
    for row in rows:
        name = _name(row)
        low = [bitmaps.decode(plane) for plane in row["low"]]
        high = row["high"]
        found[name] = Cells(
            low, low if high is None else [bitmaps.decode(plane) for plane in high], cuts[name]
        )
    return found


def write(
    plpy: Any, block: int, used: int, sample: Sequence[int], cells: Mapping[Name, Cells]
) -> None:
    """Stores the cells of a block, in place of what was stored of it."""
    plans.run(plpy, "delete from insights.cells c where c.block = $1", ("int",), (block,))
    for name, one in cells.items():
        plans.run(
            plpy,
            "insert into insights.cells (block, kind, key, span_name, sample, cuts, low, high)"
            " values ($1, $2, $3, $4, $5, $6, $7, $8)",
            ("int", "text", "text", "text", "int[]", "text", "bytea[]", "bytea[]"),
            (
                block,
                *name[1:],
                list(sample),
                _text(one.cuts),
                [bitmaps.encode_set(plane, used) for plane in one.low],
                None
                if one.high is one.low
                else [bitmaps.encode_set(plane, used) for plane in one.high],
            ),
        )


def _name(row: Mapping[str, Any]) -> Name:
    return ("n", row["kind"], row["key"], row["span_name"])


def _text(cuts: Cuts) -> str:
    """Cuts as they are stored."""
    return json.dumps(list(zip(*cuts)))
''',
"insights_engine.stored_sessions": r'''"""Which session each trace of a large block belongs to, stored with the index.

A session has to know that of all traces before it can count sessions, and reading it
from MLflow's tables, trace by trace, takes a second for 200,000.  What is stored is
right for the traces that the index answers for: one whose session changes is pending
from then on, and has another position once it is indexed again.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from insights_engine import plans
from insights_engine.terms import LARGE_BLOCK

#: Blocks that one call works out.
AT_ONCE = 8


class Stored(NamedTuple):
    """The sessions of a block."""

    block: int
    ids: Sequence[str]
    #: By position the place of the session's id, from 1; 0: there is none.
    places: array[int]


def read(plpy: Any, blocks: Sequence[int]) -> Iterator[Stored]:
    """The sessions of some blocks, as far as they are stored."""
    for row in plans.run(
        plpy,
        "select s.block, s.ids, s.places from insights.sessions s where s.block = any($1)",
        ("int[]",),
        (list(blocks),),
    ):
        places = array("H", row["places"])
        if sys.byteorder == "big":
            places.byteswap()
        yield Stored(row["block"], row["ids"], places)


def complete(plpy: Any, schema: str) -> int:
    """Stores the sessions of large blocks that lack them, of so many at most; of how many."""
    lacking = plans.run(
        plpy,
        "select b.block, b.used from insights.block b where b.used >= $1"
        " and not exists (select from insights.sessions s where s.block = b.block)"
        " and (select s.built from insights.state s) order by b.block limit $2",
        ("int", "int"),
        (LARGE_BLOCK, AT_ONCE),
    )
    for row in lacking:
        _write(plpy, schema, row["block"], row["used"])
    return len(lacking)


def _write(plpy: Any, schema: str, block: int, used: int) -> None:
    (row,) = plans.run(
        plpy,
        "select pg_catalog.array_agg(i.position) as positions,"
        " pg_catalog.array_agg(t.session_id) as sessions from insights.trace i"
        f" join {schema}.trace_info t on t.request_id = i.trace_id"
        " where i.block = $1 and t.session_id is not null",
        ("int",),
        (block,),
    )
    numbers: dict[str, int] = {}
    places = array("H", bytes(2 * used))
    for position, session_id in zip(row["positions"] or (), row["sessions"] or ()):
        places[position] = numbers.setdefault(session_id, len(numbers) + 1)
    if sys.byteorder == "big":
        places.byteswap()
    plans.run(
        plpy,
        "insert into insights.sessions (block, ids, places) values ($1, $2, $3)",
        ("int", "text[]", "bytea"),
        (block, list(numbers), places.tobytes()),
    )
''',
"insights_engine.syntax": r'''"""The concrete syntax of a filter."""

from __future__ import annotations

from typing import Any, NamedTuple

from insights_engine.tables import EXTEND, PASS_ON, RULES, STATES
from insights_engine.tokens import Token, scan


class Raw(NamedTuple):
    """A node of the concrete syntax, named as in grammar.lark.

    Its children, nodes and tokens, are the symbols of the rule.
    """

    name: str
    children: list[Any]


def parse_syntax(text: str, *, escaped_quotes: bool = False) -> Raw:
    """Shift and reduce by the tables, without recursion.  Raises FilterError."""
    stream = scan(text, escaped_quotes=escaped_quotes)
    tokens: list[Token] = []
    states = [0]
    values: list[Any] = []
    for token in stream:
        tokens.append(token)
        kind = token.kind
        while True:
            step = STATES[states[-1]].get(kind, 0)
            if step > 0:
                states.append(step)
                values.append(token)
                break
            if step == 0:
                # Importing the explanations takes longer than parsing does.
                from insights_engine.malformed import Refusal

                Refusal(text, tokens, stream, states).refuse()
            symbol, size, name, how = RULES[-step - 1]
            if how != PASS_ON:
                children = values[len(values) - size :]
                if how == EXTEND:
                    node: Raw = children[0]
                    node.children.extend(children[1:])
                else:
                    node = Raw(name, children)
                if symbol == "start":
                    return node
                if size:
                    del values[-size:]
                values.append(node)
            if size:
                del states[-size:]
            states.append(STATES[states[-1]][symbol])
    raise AssertionError("the grammar accepts nothing after the end")
''',
"insights_engine.tables": r'''"""LALR(1) tables, generated from grammar.lark by generate_tables.py.

RULES: (left side, number of symbols, node, how).  ``how``: make a new node,
pass the only child on, or extend the first child by the others.
STATES: symbol -> n: shift and go to n; -n: reduce by rule n - 1.
"""

from __future__ import annotations

NEW, PASS_ON, EXTEND = 0, 1, 2
# fmt: off
RULES: tuple[tuple[str, int, str, int], ...] = (
    ("ands", 0, "ands", 0),
    ("ands", 2, "ands", 2),
    ("condition", 2, "negation", 0),
    ("condition", 3, "group", 0),
    ("condition", 3, "compare", 0),
    ("condition", 3, "match", 0),
    ("condition", 4, "match", 0),
    ("condition", 5, "in_list", 0),
    ("condition", 6, "in_list", 0),
    ("condition", 6, "in_list", 0),
    ("condition", 7, "in_list", 0),
    ("condition", 5, "between", 0),
    ("condition", 6, "between", 0),
    ("condition", 3, "is_null", 0),
    ("condition", 4, "is_null", 0),
    ("condition", 4, "any_span", 0),
    ("condition", 5, "count", 0),
    ("condition", 6, "count", 0),
    ("condition", 6, "count", 0),
    ("condition", 6, "aggregate", 0),
    ("condition", 8, "aggregate", 0),
    ("conjunction", 2, "conjunction", 0),
    ("conjunction", 2, "conjunction", 2),
    ("conjunction", 2, "conjunction", 2),
    ("disjunction", 1, "disjunction", 0),
    ("disjunction", 3, "disjunction", 2),
    ("field", 1, "field", 1),
    ("field", 1, "field", 1),
    ("start", 1, "start", 0),
    ("start", 1, "start", 0),
    ("string", 1, "string", 1),
    ("string", 1, "string", 1),
    ("time", 1, "time", 0),
    ("time", 3, "time", 0),
    ("time", 4, "time", 0),
    ("value", 1, "value", 1),
    ("value", 1, "value", 1),
    ("value", 1, "value", 1),
    ("value", 1, "value", 1),
    ("value", 1, "value", 1),
    ("values", 1, "values", 0),
    ("values", 3, "values", 2),
)
STATES: tuple[dict[str, int], ...] = (
    {"$END": -1, "AGGREGATE": -1, "AND": -1, "ANY": -1, "COUNT": -1, "DOUBLE_QUOTED": -1,
     "FIELD": -1, "LPAR": -1, "NOT": -1, "ands": 1, "conjunction": 2, "disjunction": 3,
     "start": 4},
    {"$END": -29, "AGGREGATE": 5, "AND": 6, "ANY": 7, "COUNT": 8, "DOUBLE_QUOTED": 9,
     "FIELD": 10, "LPAR": 11, "NOT": 12, "condition": 13, "field": 14},
    {"$END": -25, "AGGREGATE": 5, "AND": 15, "ANY": 7, "COUNT": 8, "DOUBLE_QUOTED": 9,
     "FIELD": 10, "LPAR": 11, "NOT": 12, "OR": -25, "RPAR": -25, "condition": 16, "field": 14},
    {"$END": -30, "OR": 17},
    {},
    {"LPAR": 18},
    {"$END": -2, "AGGREGATE": -2, "AND": -2, "ANY": -2, "COUNT": -2, "DOUBLE_QUOTED": -2,
     "FIELD": -2, "LPAR": -2, "NOT": -2},
    {"LPAR": 19},
    {"LPAR": 20},
    {"BETWEEN": -28, "CMP": -28, "IN": -28, "IS": -28, "LIKE": -28, "NOT": -28, "RPAR": -28,
     "WHERE": -28},
    {"BETWEEN": -27, "CMP": -27, "IN": -27, "IS": -27, "LIKE": -27, "NOT": -27, "RPAR": -27,
     "WHERE": -27},
    {"AGGREGATE": -1, "AND": -1, "ANY": -1, "COUNT": -1, "DOUBLE_QUOTED": -1, "FIELD": -1,
     "LPAR": -1, "NOT": -1, "ands": 21, "conjunction": 2, "disjunction": 22},
    {"AGGREGATE": 5, "ANY": 7, "COUNT": 8, "DOUBLE_QUOTED": 9, "FIELD": 10, "LPAR": 11,
     "NOT": 12, "condition": 23, "field": 14},
    {"$END": -22, "AGGREGATE": -22, "AND": -22, "ANY": -22, "COUNT": -22, "DOUBLE_QUOTED": -22,
     "FIELD": -22, "LPAR": -22, "NOT": -22, "OR": -22, "RPAR": -22},
    {"BETWEEN": 24, "CMP": 25, "IN": 26, "IS": 27, "LIKE": 28, "NOT": 29},
    {"$END": -24, "AGGREGATE": -24, "AND": -24, "ANY": -24, "COUNT": -24, "DOUBLE_QUOTED": -24,
     "FIELD": -24, "LPAR": -24, "NOT": -24, "OR": -24, "RPAR": -24},
    {"$END": -23, "AGGREGATE": -23, "AND": -23, "ANY": -23, "COUNT": -23, "DOUBLE_QUOTED": -23,
     "FIELD": -23, "LPAR": -23, "NOT": -23, "OR": -23, "RPAR": -23},
    {"AGGREGATE": -1, "AND": -1, "ANY": -1, "COUNT": -1, "DOUBLE_QUOTED": -1, "FIELD": -1,
     "LPAR": -1, "NOT": -1, "ands": 21, "conjunction": 30},
    {"DOUBLE_QUOTED": 9, "FIELD": 10, "field": 31},
    {"AGGREGATE": -1, "AND": -1, "ANY": -1, "COUNT": -1, "DOUBLE_QUOTED": -1, "FIELD": -1,
     "LPAR": -1, "NOT": -1, "ands": 21, "conjunction": 2, "disjunction": 32},
    {"AGGREGATE": -1, "AND": -1, "ANY": -1, "COUNT": -1, "DOUBLE_QUOTED": -1, "FIELD": -1,
     "LPAR": -1, "NOT": -1, "RPAR": 33, "STAR": 34, "ands": 21, "conjunction": 2,
     "disjunction": 35},
    {"AGGREGATE": 5, "AND": 6, "ANY": 7, "COUNT": 8, "DOUBLE_QUOTED": 9, "FIELD": 10, "LPAR": 11,
     "NOT": 12, "condition": 13, "field": 14},
    {"OR": 17, "RPAR": 36},
    {"$END": -3, "AGGREGATE": -3, "AND": -3, "ANY": -3, "COUNT": -3, "DOUBLE_QUOTED": -3,
     "FIELD": -3, "LPAR": -3, "NOT": -3, "OR": -3, "RPAR": -3},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NULL": 40, "NUMBER": 41, "STRING": 42,
     "string": 43, "time": 44, "value": 45},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NULL": 40, "NUMBER": 41, "STRING": 42,
     "string": 43, "time": 44, "value": 46},
    {"LPAR": 47},
    {"NOT": 48, "NULL": 49},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NULL": 40, "NUMBER": 41, "STRING": 42,
     "string": 43, "time": 44, "value": 50},
    {"BETWEEN": 51, "IN": 52, "LIKE": 53},
    {"$END": -26, "AGGREGATE": 5, "AND": 15, "ANY": 7, "COUNT": 8, "DOUBLE_QUOTED": 9,
     "FIELD": 10, "LPAR": 11, "NOT": 12, "OR": -26, "RPAR": -26, "condition": 16, "field": 14},
    {"RPAR": 54, "WHERE": 55},
    {"OR": 17, "RPAR": 56},
    {"CMP": 57},
    {"RPAR": 58},
    {"OR": 17, "RPAR": 59},
    {"$END": -4, "AGGREGATE": -4, "AND": -4, "ANY": -4, "COUNT": -4, "DOUBLE_QUOTED": -4,
     "FIELD": -4, "LPAR": -4, "NOT": -4, "OR": -4, "RPAR": -4},
    {"$END": -38, "AGGREGATE": -38, "AND": -38, "ANY": -38, "COMMA": -38, "COUNT": -38,
     "DOUBLE_QUOTED": -38, "FIELD": -38, "LPAR": -38, "NOT": -38, "OR": -38, "RPAR": -38},
    {"$END": -32, "AGGREGATE": -32, "AND": -32, "ANY": -32, "COMMA": -32, "COUNT": -32,
     "DOUBLE_QUOTED": -32, "FIELD": -32, "LPAR": -32, "NOT": -32, "OR": -32, "RPAR": -32},
    {"$END": -33, "AGGREGATE": -33, "AND": -33, "ANY": -33, "COMMA": -33, "COUNT": -33,
     "DOUBLE_QUOTED": -33, "FIELD": -33, "LPAR": -33, "NOT": -33, "OR": -33, "RPAR": -33,
     "SIGN": 60},
    {"$END": -39, "AGGREGATE": -39, "AND": -39, "ANY": -39, "COMMA": -39, "COUNT": -39,
     "DOUBLE_QUOTED": -39, "FIELD": -39, "LPAR": -39, "NOT": -39, "OR": -39, "RPAR": -39},
    {"$END": -37, "AGGREGATE": -37, "AND": -37, "ANY": -37, "COMMA": -37, "COUNT": -37,
     "DOUBLE_QUOTED": -37, "FIELD": -37, "LPAR": -37, "NOT": -37, "OR": -37, "RPAR": -37},
    {"$END": -31, "AGGREGATE": -31, "AND": -31, "ANY": -31, "COMMA": -31, "COUNT": -31,
     "DOUBLE_QUOTED": -31, "FIELD": -31, "LPAR": -31, "NOT": -31, "OR": -31, "RPAR": -31},
    {"$END": -36, "AGGREGATE": -36, "AND": -36, "ANY": -36, "COMMA": -36, "COUNT": -36,
     "DOUBLE_QUOTED": -36, "FIELD": -36, "LPAR": -36, "NOT": -36, "OR": -36, "RPAR": -36},
    {"$END": -40, "AGGREGATE": -40, "AND": -40, "ANY": -40, "COMMA": -40, "COUNT": -40,
     "DOUBLE_QUOTED": -40, "FIELD": -40, "LPAR": -40, "NOT": -40, "OR": -40, "RPAR": -40},
    {"AND": 61},
    {"$END": -5, "AGGREGATE": -5, "AND": -5, "ANY": -5, "COUNT": -5, "DOUBLE_QUOTED": -5,
     "FIELD": -5, "LPAR": -5, "NOT": -5, "OR": -5, "RPAR": -5},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NULL": 40, "NUMBER": 41, "STRING": 42,
     "string": 43, "time": 44, "value": 62, "values": 63},
    {"NULL": 64},
    {"$END": -14, "AGGREGATE": -14, "AND": -14, "ANY": -14, "COUNT": -14, "DOUBLE_QUOTED": -14,
     "FIELD": -14, "LPAR": -14, "NOT": -14, "OR": -14, "RPAR": -14},
    {"$END": -6, "AGGREGATE": -6, "AND": -6, "ANY": -6, "COUNT": -6, "DOUBLE_QUOTED": -6,
     "FIELD": -6, "LPAR": -6, "NOT": -6, "OR": -6, "RPAR": -6},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NULL": 40, "NUMBER": 41, "STRING": 42,
     "string": 43, "time": 44, "value": 65},
    {"LPAR": 66},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NULL": 40, "NUMBER": 41, "STRING": 42,
     "string": 43, "time": 44, "value": 67},
    {"CMP": 68},
    {"AGGREGATE": -1, "AND": -1, "ANY": -1, "COUNT": -1, "DOUBLE_QUOTED": -1, "FIELD": -1,
     "LPAR": -1, "NOT": -1, "ands": 21, "conjunction": 2, "disjunction": 69},
    {"$END": -16, "AGGREGATE": -16, "AND": -16, "ANY": -16, "COUNT": -16, "DOUBLE_QUOTED": -16,
     "FIELD": -16, "LPAR": -16, "NOT": -16, "OR": -16, "RPAR": -16},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NULL": 40, "NUMBER": 41, "STRING": 42,
     "string": 43, "time": 44, "value": 70},
    {"CMP": 71},
    {"CMP": 72},
    {"DOUBLE_QUOTED": 38, "INTERVAL": 73, "STRING": 42, "string": 74},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NULL": 40, "NUMBER": 41, "STRING": 42,
     "string": 43, "time": 44, "value": 75},
    {"COMMA": -41, "RPAR": -41},
    {"COMMA": 76, "RPAR": 77},
    {"$END": -15, "AGGREGATE": -15, "AND": -15, "ANY": -15, "COUNT": -15, "DOUBLE_QUOTED": -15,
     "FIELD": -15, "LPAR": -15, "NOT": -15, "OR": -15, "RPAR": -15},
    {"AND": 78},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NULL": 40, "NUMBER": 41, "STRING": 42,
     "string": 43, "time": 44, "value": 62, "values": 79},
    {"$END": -7, "AGGREGATE": -7, "AND": -7, "ANY": -7, "COUNT": -7, "DOUBLE_QUOTED": -7,
     "FIELD": -7, "LPAR": -7, "NOT": -7, "OR": -7, "RPAR": -7},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NULL": 40, "NUMBER": 41, "STRING": 42,
     "string": 43, "time": 44, "value": 80},
    {"OR": 17, "RPAR": 81},
    {"$END": -17, "AGGREGATE": -17, "AND": -17, "ANY": -17, "COUNT": -17, "DOUBLE_QUOTED": -17,
     "FIELD": -17, "LPAR": -17, "NOT": -17, "OR": -17, "RPAR": -17},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NULL": 40, "NUMBER": 41, "STRING": 42,
     "string": 43, "time": 44, "value": 82},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NULL": 40, "NUMBER": 41, "STRING": 42,
     "string": 43, "time": 44, "value": 83},
    {"DOUBLE_QUOTED": 38, "STRING": 42, "string": 84},
    {"$END": -34, "AGGREGATE": -34, "AND": -34, "ANY": -34, "COMMA": -34, "COUNT": -34,
     "DOUBLE_QUOTED": -34, "FIELD": -34, "LPAR": -34, "NOT": -34, "OR": -34, "RPAR": -34},
    {"$END": -12, "AGGREGATE": -12, "AND": -12, "ANY": -12, "COUNT": -12, "DOUBLE_QUOTED": -12,
     "FIELD": -12, "LPAR": -12, "NOT": -12, "OR": -12, "RPAR": -12},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NULL": 40, "NUMBER": 41, "RPAR": 85,
     "STRING": 42, "string": 43, "time": 44, "value": 86},
    {"$END": -8, "AGGREGATE": -8, "AND": -8, "ANY": -8, "COUNT": -8, "DOUBLE_QUOTED": -8,
     "FIELD": -8, "LPAR": -8, "NOT": -8, "OR": -8, "RPAR": -8},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NULL": 40, "NUMBER": 41, "STRING": 42,
     "string": 43, "time": 44, "value": 87},
    {"COMMA": 88, "RPAR": 89},
    {"$END": -20, "AGGREGATE": -20, "AND": -20, "ANY": -20, "COUNT": -20, "DOUBLE_QUOTED": -20,
     "FIELD": -20, "LPAR": -20, "NOT": -20, "OR": -20, "RPAR": -20},
    {"CMP": 90},
    {"$END": -18, "AGGREGATE": -18, "AND": -18, "ANY": -18, "COUNT": -18, "DOUBLE_QUOTED": -18,
     "FIELD": -18, "LPAR": -18, "NOT": -18, "OR": -18, "RPAR": -18},
    {"$END": -19, "AGGREGATE": -19, "AND": -19, "ANY": -19, "COUNT": -19, "DOUBLE_QUOTED": -19,
     "FIELD": -19, "LPAR": -19, "NOT": -19, "OR": -19, "RPAR": -19},
    {"$END": -35, "AGGREGATE": -35, "AND": -35, "ANY": -35, "COMMA": -35, "COUNT": -35,
     "DOUBLE_QUOTED": -35, "FIELD": -35, "LPAR": -35, "NOT": -35, "OR": -35, "RPAR": -35},
    {"$END": -9, "AGGREGATE": -9, "AND": -9, "ANY": -9, "COUNT": -9, "DOUBLE_QUOTED": -9,
     "FIELD": -9, "LPAR": -9, "NOT": -9, "OR": -9, "RPAR": -9},
    {"COMMA": -42, "RPAR": -42},
    {"$END": -13, "AGGREGATE": -13, "AND": -13, "ANY": -13, "COUNT": -13, "DOUBLE_QUOTED": -13,
     "FIELD": -13, "LPAR": -13, "NOT": -13, "OR": -13, "RPAR": -13},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NULL": 40, "NUMBER": 41, "RPAR": 91,
     "STRING": 42, "string": 43, "time": 44, "value": 86},
    {"$END": -10, "AGGREGATE": -10, "AND": -10, "ANY": -10, "COUNT": -10, "DOUBLE_QUOTED": -10,
     "FIELD": -10, "LPAR": -10, "NOT": -10, "OR": -10, "RPAR": -10},
    {"BOOLEAN": 37, "DOUBLE_QUOTED": 38, "NOW": 39, "NULL": 40, "NUMBER": 41, "STRING": 42,
     "string": 43, "time": 44, "value": 92},
    {"$END": -11, "AGGREGATE": -11, "AND": -11, "ANY": -11, "COUNT": -11, "DOUBLE_QUOTED": -11,
     "FIELD": -11, "LPAR": -11, "NOT": -11, "OR": -11, "RPAR": -11},
    {"$END": -21, "AGGREGATE": -21, "AND": -21, "ANY": -21, "COUNT": -21, "DOUBLE_QUOTED": -21,
     "FIELD": -21, "LPAR": -21, "NOT": -21, "OR": -21, "RPAR": -21},
)
''',
"insights_engine.terms": r'''"""How facts are written as terms of the vocabulary: buckets, slots, keys.

Writers and readers have to agree on all of it.
"""

from __future__ import annotations

from binascii import crc32

#: Hash buckets that the texts of a key share that have no term of their own.
BUCKETS = 1_024
#: Hash buckets that keys of attributes share that are not indexed.
HIDDEN_BUCKETS = 256
#: Hash buckets that names of spans share, of a type and status, beyond a limit.
NAME_BUCKETS = 256
#: Longer keys of attributes are not indexed.
LONGEST_KEY = 250
#: Between the keys of a path into an attribute's value.
SEPARATOR = "\x1f"

#: Blocks of so many positions have cells and sessions stored beside their postings.
LARGE_BLOCK = 8_000

# Slots of role "o": what was not captured.
TEXT, NUMBER, PARTS, CONTENT, SESSION, HIDDEN = 0, 1, 2, 3, 4, 16


def bucket_of(text: str) -> int:
    """The hash bucket of a text that has no term of its own."""
    return crc32(text.encode("utf-8", "surrogatepass")) % BUCKETS


def hidden_slot_of(key: str) -> int:
    """The slot of role ``o`` for spans with an attribute whose key is not indexed."""
    return HIDDEN + crc32(key.encode("utf-8", "surrogatepass")) % HIDDEN_BUCKETS


def name_bucket_of(name: str) -> int:
    """The hash bucket of a span's name that has no signature of its own."""
    return crc32(name.encode("utf-8", "surrogatepass")) % NAME_BUCKETS
''',
"insights_engine.testing": r'''"""Every fact tested: which of them there are, how many units have each, and its p value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from insights_engine import candidates, tree
from insights_engine.candidates import Name
from insights_engine.findings import NOTHING, Tested, measured, written
from insights_engine.multiple import TargetTests
from insights_engine.options import Options
from insights_engine.population import Population
from insights_engine.splitting import Threshold, best_thresholds
from insights_engine.units import Traces

#: Facts that the index leaves uncertain are counted one by one if they might be
#: significant: the most promising of them, so many.
MOST_SETTLED = 50
#: Fields whose thresholds are searched.
MOST_SERIES = 500


class Question(NamedTuple):
    """A target among a base, as trees; and what tells which facts restate it."""

    base: tree.Node
    target: tree.Node
    restated: candidates.Restated


def tested(
    population: Population, units: Traces, question: Question, options: Options
) -> Iterator[Tested]:
    """Every fact that is tested; p may be 1 where it is far above what counts.

    Their counts are exact, but in a sample, where what the index leaves uncertain
    is left out: nobody sees them.
    """
    tests = TargetTests(units.target, units.total)
    counts, joints = units.items(options.min_support)
    items = population.items
    question.restated.is_of_roots = _of_roots(items, counts)
    chosen: list[int] = []
    unsure: dict[int, tuple[int, ...]] = {}
    for item, count in enumerate(counts):
        if not options.min_support <= count < units.total:
            continue
        name = items.name(item)
        if name[0] not in candidates.FACTS or not _is_wanted(name, items, question, options):
            continue
        opaque = () if units.sampled else _there(items, candidates.uncertain_by(name), counts)
        if opaque:
            unsure[item] = opaque
        elif not _is_whole(name, count, items, counts):
            chosen.append(item)
    p_values = tests.p_values(
        [counts[item] for item in chosen], [joints[item] for item in chosen], options.fdr
    )
    for item, p_value in zip(chosen, p_values):
        count = counts[item]
        yield Tested(items.name(item), count, joints[item], p_value, tests.test(count))
    for item in _promising(units, options, tests, unsure, counts, joints):
        name = items.name(item)
        if written(name, apart=True) is not None:
            fact = measured(name, *units.matching(candidates.node_of(name)), tests)
            if options.min_support <= fact.among < units.total:
                yield fact
    if "number" in options.kinds:
        yield from _tested_thresholds(population, units, question, options, tests, counts)


def _of_roots(items: candidates.Items, counts: Sequence[int]) -> Callable[[str], bool]:
    def is_of_roots(span_name: str) -> bool:
        """Whether spans of a name are in no more traces than MLflow has called by it."""
        spans, traces = [items.known(("v", kind, "name", span_name)) for kind in ("span", "trace")]
        return spans is not None and traces is not None and 0 < counts[spans] <= counts[traces]

    return is_of_roots


def _there(
    items: candidates.Items, names: Iterable[Name], counts: Sequence[int]
) -> tuple[int, ...]:
    """Those of some items that some trace has."""
    known = [items.known(name) for name in names]
    return tuple([item for item in known if item is not None and counts[item]])


def _tested_thresholds(
    population: Population,
    units: Traces,
    question: Question,
    options: Options,
    tests: TargetTests,
    counts: Sequence[int],
) -> Iterator[Tested]:
    """The best threshold of every field with numbers, with the search for it paid for."""
    items = population.items
    names = [
        name for name in population.series() if options.restatements or not question.restated(name)
    ][:MOST_SERIES]
    unsure: list[Threshold] = []
    for threshold in best_thresholds(
        population, units, names, options.direction, options.min_support
    ):
        if threshold is None:
            yield NOTHING
        elif not units.sampled and _there(items, candidates.uncertain_by(threshold.name), counts):
            unsure.append(threshold)
        else:
            split = threshold.split
            yield measured(threshold.fact, split.among, split.joint, tests, split)
    unsure.sort(key=lambda threshold: threshold.split.estimate)
    for place, threshold in enumerate(unsure):
        if (
            place < MOST_SETTLED
            and threshold.split.estimate <= options.fdr
            and written(threshold.fact, apart=True) is not None
        ):
            counted = units.matching(candidates.node_of(threshold.fact))
            yield measured(threshold.fact, *counted, tests, threshold.split)
        else:
            yield NOTHING


def _promising(
    units: Traces,
    options: Options,
    tests: TargetTests,
    unsure: Mapping[int, Sequence[int]],
    counts: Sequence[int],
    joints: Sequence[int],
) -> list[int]:
    """The uncertain facts that are most likely to be significant."""
    if not unsure:
        return []
    total, target = units.total, units.target
    opaque = units.opaque({other for others in unsure.values() for other in others})
    promises = []
    for item, others in unsure.items():
        count, joint = counts[item], joints[item]
        # At most so many more; the same unit may be among them twice.
        base = sum([opaque[other][0] for other in others])
        inside = sum([opaque[other][1] for other in others])
        outside = min(base - inside, total - target - (count - joint))
        inside = min(inside, target - joint)
        promise = 1.0
        if options.direction != "negative":
            promise = tests.p_value(count + inside, joint + inside)
        if options.direction != "positive":
            promise = min(promise, tests.p_value(count + outside, joint))
        if promise <= options.fdr:
            promises.append((promise, item))
    return [item for _, item in sorted(promises)[:MOST_SETTLED]]


def _is_wanted(name: Name, items: candidates.Items, question: Question, options: Options) -> bool:
    if candidates.kind_of(name) not in options.kinds:
        return False
    if not options.restatements and question.restated(name):
        return False
    if name[0] == "v":
        # Of what is measured no single value is of interest.
        numeric = items.numeric_values(name[1], name[2])
        if numeric > candidates.MOST_EQUAL_NUMBERS and candidates.reads_as_number(name):
            return False
    return True


def _is_whole(name: Name, count: int, items: candidates.Items, counts: Sequence[int]) -> bool:
    """Whether a pair of span columns says no more than one of them."""
    if name[0] != "s":
        return False
    for other in (("v", "span", name[1], name[2]), ("v", "span", "status", name[3])):
        number = items.known(other)
        if number is not None and counts[number] == count:
            return True
    return False
''',
"insights_engine.thresholds": r'''"""Where to cut a number: candidates by quantiles, and readable values for them.

Cuts are chosen from the base alone, before anyone looks at the target; only
then does a test of each cut remain a fair test.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from decimal import Decimal
from typing import Union

# Evenly spaced quantiles, and halvings beyond them in both tails: latencies
# and costs have their causes in the last percents.
EVEN_CUTS = 20
TAIL_CUTS = 6
MOST_CUTS = EVEN_CUTS + 2 * TAIL_CUTS

Number = Union[int, float, Decimal]


def quantile_cuts(cumulative: Sequence[int]) -> list[int]:
    """Where to cut values that occur often, at most `MOST_CUTS` times.

    ``cumulative[i]`` is the number of units of the base whose value is at most
    the i-th distinct value, in ascending order.  The result is ascending: cut
    ``i`` lies between the distinct values ``i - 1`` and ``i``, and
    ``cumulative[i - 1]`` units lie below it.  With few distinct values there is
    a cut between any two; otherwise at the 20 quantiles 1/21, 2/21, ... and,
    in each tail, at 1/42, 1/84, ... 1/1344, moved to the nearest gap.
    """
    if len(cumulative) <= MOST_CUTS + 1:
        return list(range(1, len(cumulative)))
    total = cumulative[-1]
    even = EVEN_CUTS + 1
    quantiles = [k / even for k in range(1, even)]
    for k in range(1, TAIL_CUTS + 1):
        quantiles += [1 / even / 2**k, 1 - 1 / even / 2**k]
    cuts = set()
    for quantile in quantiles:
        rank = quantile * total
        cut = bisect_left(cumulative, rank) + 1
        # cumulative[cut - 1] is at or above the rank, cumulative[cut - 2] below.
        if cut >= 2 and rank - cumulative[cut - 2] < cumulative[cut - 1] - rank:
            cut -= 1
        if cut < len(cumulative):
            cuts.add(cut)
    return sorted(cuts)


def roundest(low: Number, high: Number) -> Decimal:
    """The number of fewest significant digits in ``low < x <= high``.

    As a threshold it cuts ``value >= x`` from ``value < x`` exactly where any
    other number of the gap does: 10000 between 9871 and 10412.  Of several
    equally short ones it is the one that ends in 5, otherwise the one nearest
    to the middle; the result has no trailing zeros after a decimal point, and
    `decimal_text` writes it.  Floats are taken at their shortest decimal form,
    and the result, read as a float, lies in the gap as well.  Raises ValueError
    unless ``low < high``, both finite.
    """
    if not (math.isfinite(low) and math.isfinite(high)) or not low < high:
        raise ValueError(f"no number to find between {low} and {high}")
    below, above = _exact(low), _exact(high)
    exponent = max(below.adjusted(), above.adjusted()) + 1
    while True:
        found = _multiple(below, above, exponent)
        # A decimal next to a float may be read as that float.  The search ends
        # at ``above`` at the latest, whose own digits are a multiple.
        if found is not None and (not isinstance(low, float) or float(found) > low):
            return found
        exponent -= 1


def decimal_text(number: Decimal) -> str:
    """``number`` in plain digits, without an exponent."""
    return format(number, "f")


def _exact(number: Number) -> Decimal:
    return Decimal(repr(number)) if isinstance(number, float) else Decimal(number)


def _multiple(below: Decimal, above: Decimal, exponent: int) -> Decimal | None:
    """The best multiple of ``10**exponent`` in the gap, None if there is none.

    No multiple of the next power of ten may be in it.
    """
    first = _floor(below, exponent) + 1
    last = _floor(above, exponent)
    if first > last:
        return None
    if first <= 0 <= last:
        return Decimal(0)
    middle = (first + last) / 2
    best = min(range(first, last + 1), key=lambda m: (m % 5 != 0, abs(m - middle), m))
    if exponent >= 0:
        return Decimal(best * 10**exponent)
    return Decimal((int(best < 0), tuple(map(int, str(abs(best)))), exponent))


def _floor(number: Decimal, exponent: int) -> int:
    """``floor(number / 10**exponent)``, in integers and so without rounding."""
    sign, digits, own = number.as_tuple()
    mantissa = int("".join(map(str, digits)))
    mantissa = -mantissa if sign else mantissa
    shift = (own if isinstance(own, int) else 0) - exponent
    power: int = 10 ** abs(shift)
    return mantissa * power if shift >= 0 else mantissa // power
''',
"insights_engine.timelines": r'''"""The traces of a block in the order of time, with their numbers.

A bucket of a series is then a run of bits.  In most blocks the order is that of the
positions; where it is not, the slices are put into it once a session, as a block's
numbers never change.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import Any, NamedTuple, Optional

from insights_engine import bitmaps
from insights_engine.cache import CACHE
from insights_engine.groups import Block, Group, all_positions
from insights_engine.index_reader import GROUP, Index

_KEY = ("timelines",)
#: Slices of fixed-point numbers; numbers that need more are summed one by one.
_MOST_BITS = 2 * bitmaps.WIDTH
#: Stored digits of a double's significand, and what power of two the last of them is
#: a multiple of in the smallest numbers (IEEE 754, binary64).
_FRACTION, _LEAST = 52, -1074


class Sliced(NamedTuple):
    """Numbers, bit by bit, of the traces that have one; the highest bit is negative."""

    there: bytes
    slices: dict[int, bytes]
    #: The bit that is negative.
    sign: int = bitmaps.WIDTH - 1
    #: The numbers are multiples of two to the power of this; None: there are no slices.
    exponent: Optional[int] = 0

    def part(self, start: int, end: int) -> Part:
        """What is in some whole bytes."""
        found = {}
        for bit, members in self.slices.items():
            own = members[start:end]
            if any(own):
                found[bit] = own
        return Part(self.there[start:end], found)


class Part(NamedTuple):
    """A few whole bytes of sliced numbers."""

    there: bytes
    slices: dict[int, bytes]


class Timeline:
    """The traces of a block, dead ones among them, in the order of time."""

    __slots__ = (
        *("_first_ms", "_order", "_places", "_times"),
        *("costs", "execution", "nbytes", "numbers", "odd", "tokens"),
    )

    def __init__(
        self,
        first_ms: int,
        times: array[int],
        order: Optional[array[int]],
        sliced: tuple[Sliced, Sliced, Sliced],
        numbers: tuple[array[int], array[int], array[float]],
        odd: int,
    ) -> None:
        # When they began, ms after a moment.
        self._first_ms = first_ms
        self._times = times
        self.execution, self.tokens, self.costs = sliced
        #: The same numbers one by one, 0 for none.
        self.numbers = numbers
        #: Positions whose cost is there, but no finite number.
        self.odd = odd
        # The position of each, and the place of each position; None: they are the same.
        self._order = order
        self._places: Optional[array[int]] = None
        if order is not None:
            self._places = array("H", bytes(2 * len(order)))
            for place, position in enumerate(order):
                self._places[position] = place
        #: About what it takes in memory.
        self.nbytes = (
            sum(one.itemsize * len(one) for one in (self._times, *numbers))
            + (0 if order is None else 4 * len(order))
            + sum(len(one.there) * (1 + len(one.slices)) for one in sliced)
        )

    def __len__(self) -> int:
        return len(self._times)

    def time_ms(self, place: int) -> int:
        """When a trace began."""
        return self._first_ms + self._times[place]

    def ordered(self, bits: int) -> int:
        """A set of positions as a set of places in time."""
        order, places = self._order, self._places
        if order is None or places is None:
            return bits
        used = len(order)
        if bits == all_positions(used):
            return bits
        if 10 * bitmaps.count(bits) < used:
            flags = bytearray(used)
            for position in bitmaps.positions(bits):
                flags[places[position]] = 1
            return bitmaps.of_flags(flags)
        return bitmaps.of_flags(bytes(map(bitmaps.flags(bits, used).__getitem__, order)))

    def in_order(self, numbers: Sequence[int]) -> Sequence[int]:
        """Numbers by position as numbers by place in time."""
        if self._order is None:
            return numbers
        return [numbers[position] for position in self._order]

    def end_before(self, time_ms: int, start: int) -> int:
        """How many began before then, if ``start`` of them did."""
        return bisect_left(self._times, time_ms - self._first_ms, start)

    def ends_before(self, times_ms: Iterable[int]) -> list[int]:
        """How many began before each of some moments."""
        times, first_ms = self._times, self._first_ms
        return [bisect_left(times, time_ms - first_ms) for time_ms in times_ms]


def narrow(numbers: array[int]) -> array[int]:
    """The same integers in half the room, if they fit."""
    if numbers and min(numbers) >= -(2**31) and max(numbers) < 2**31:
        return array("i", numbers)
    return numbers


def timelines(index: Index, blocks: Sequence[Block]) -> Iterator[Timeline]:
    """The timeline of each block, in their order."""
    size = GROUP // bitmaps.POSITIONS
    for first in range(0, len(blocks), size):
        some = blocks[first : first + size]
        known = dict(CACHE.columns(_KEY))
        lacking = [block for block in some if block.block not in known]
        if lacking:
            fresh = _read(index, lacking)
            CACHE.keep(_KEY, fresh)
            known.update(fresh)
        for block in some:
            yield known[block.block]


def _read(index: Index, blocks: Sequence[Block]) -> dict[int, Timeline]:
    # The places of blocks in a group belong to the group.
    group = Group(index.plpy, [copy(block) for block in blocks])
    planner = index.planner
    all_times = _divided(group, planner.timestamps().slices(group))
    execution, tokens, costs = (
        _divided(group, planner.column(name)[0].slices(group))
        for name in ("execution_time_ms", "total_tokens", "total_cost")
    )
    _, odd = planner.column("total_cost")
    group.fetch(odd)
    odd_ones = group.divided(group.union(odd))
    found: dict[int, Timeline] = {}
    for number, block in enumerate(blocks):
        used = block.used
        first_ms, times = _times(all_times[number], used)
        order = _order(times)
        found[block.block] = Timeline(
            first_ms,
            _ordered(times, order),
            order,
            (
                _sliced(execution[number], order, used),
                _sliced(tokens[number], order, used),
                _fixed_point(costs[number], order, used),
            ),
            (
                _integers(execution[number], order, used),
                _integers(tokens[number], order, used),
                _ordered(bitmaps.doubles(bitmaps.numbers(costs[number], used)), order),
            ),
            odd_ones[number],
        )
    return found


def _times(slices: dict[int, int], used: int) -> tuple[int, array[int]]:
    """A moment, and how many ms after it the trace at each position began."""
    every = all_positions(used)
    high = {bit: members for bit, members in slices.items() if 32 <= bit < bitmaps.WIDTH}
    if all(members == every or not members for members in high.values()):
        # They differ by no more than their lower halves do.
        pattern = sum(1 << bit for bit, members in high.items() if members)
        return bitmaps.integer_of(pattern), bitmaps.low_numbers(slices, used)
    return 0, bitmaps.integers(bitmaps.numbers(slices, used))


def _order(times: array[int]) -> Optional[array[int]]:
    """The positions in the order of time; None: that is their own."""
    listed = times.tolist()
    # Those that are in order already take no time to sort.
    if sorted(listed) == listed:
        return None
    return array("H", sorted(range(len(listed)), key=listed.__getitem__))


def _ordered(numbers: array[Any], order: Optional[array[int]]) -> array[Any]:
    if order is None:
        return numbers
    return array(numbers.typecode, map(numbers.__getitem__, order))


def _integers(slices: dict[int, int], order: Optional[array[int]], used: int) -> array[int]:
    if any(members for bit, members in slices.items() if 31 <= bit < bitmaps.WIDTH):
        return narrow(_ordered(bitmaps.integers(bitmaps.numbers(slices, used)), order))
    return _ordered(array("i", bitmaps.low_numbers(slices, used).tobytes()), order)


def _divided(group: Group, slices: dict[int, int]) -> list[dict[int, int]]:
    """Slices for each block."""
    found: list[dict[int, int]] = [{} for _ in group.blocks]
    for bit, members in slices.items():
        for own, part in zip(found, group.divided(members)):
            own[bit] = part
    return found


def _sliced(slices: dict[int, int], order: Optional[array[int]], used: int) -> Sliced:
    """Slices in the order of time."""
    there = slices.get(bitmaps.HAS_NUMBER, 0)
    rest = {bit: bits for bit, bits in slices.items() if bits and bit != bitmaps.HAS_NUMBER}
    return Sliced(*_stored(there, rest, order, used))


def _stored(
    there: int, slices: dict[int, int], order: Optional[array[int]], used: int
) -> tuple[bytes, dict[int, bytes]]:
    if order is not None:
        there = _permuted(there, order)
        slices = {bit: _permuted(bits, order) for bit, bits in slices.items()}
    size = (used + 7) >> 3
    return (
        there.to_bytes(size, "little"),
        {bit: bits.to_bytes(size, "little") for bit, bits in slices.items()},
    )


def _permuted(bits: int, order: array[int]) -> int:
    flags = bitmaps.flags(bits, len(order))
    return bitmaps.of_flags(bytes(map(flags.__getitem__, order)))


def _fixed_point(slices: dict[int, int], order: Optional[array[int]], used: int) -> Sliced:
    """The slices of doubles as those of fixed-point numbers in the order of time, exactly.

    Without slices, if that takes too many of them.
    """
    there = slices.get(bitmaps.HAS_NUMBER, 0)
    negative = slices.get(bitmaps.WIDTH - 1, 0)
    # The patterns of negative doubles have all other bits turned.
    bits = [slices.get(bit, 0) ^ negative for bit in range(bitmaps.WIDTH - 1)]
    significand, exponent = bits[:_FRACTION], bits[_FRACTION:]
    by_power = _by_power(exponent, _union(bits))
    low, high = min(by_power, default=0), max(by_power, default=0)
    if high - low + _FRACTION + 2 > _MOST_BITS:
        return Sliced(*_stored(there, {}, order, used), exponent=None)
    # The first digit, which is not stored, is 1, but of the smallest numbers.
    significand.append(_union(exponent))
    found = dict.fromkeys(range(high - low + len(significand)), 0)
    for power, members in by_power.items():
        for bit, part in enumerate(significand, power - low):
            found[bit] |= part & members
    if negative:
        _negate(found, negative)
    found = {bit: part for bit, part in found.items() if part}
    return Sliced(*_stored(there, found, order, used), _MOST_BITS - 1, _LEAST + low)


def _by_power(exponent: Sequence[int], numbers: int) -> dict[int, int]:
    """Which numbers are multiples of what power of two above the least, of their exponents."""
    found = {0: numbers}
    for bit in range(len(exponent) - 1, -1, -1):
        parts = {}
        for power, members in found.items():
            upper = members & exponent[bit]
            if upper:
                parts[power | 1 << bit] = upper
            if upper != members:
                parts[power] = members ^ upper
        found = parts
    # The two lowest exponents mean the same.
    lowest = found.pop(0, 0) | found.pop(1, 0)
    found = {power - 1: members for power, members in found.items()}
    return {0: lowest, **found} if lowest else found


def _negate(slices: dict[int, int], those: int) -> None:
    """Turns some of the numbers, all of which are positive, into two's complements."""
    carry = those
    for bit in range(_MOST_BITS):
        turned = slices.get(bit, 0) ^ those
        slices[bit] = turned ^ carry
        carry &= turned


def _union(sets: Iterable[int]) -> int:
    """The members of any of some sets."""
    found = 0
    for members in sets:
        found |= members
    return found
''',
"insights_engine.times": r'''"""Durations and times that filters write as text."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta, timezone

from insights_engine import fields
from insights_engine.tokens import unit_in_ms

_QUANTITY = r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*([A-Za-z]+)\s*"
NUMBER_AND_UNIT = re.compile(_QUANTITY, re.ASCII)
_DURATION_PART = re.compile(_QUANTITY + ",?", re.ASCII)
_TIME = re.compile(
    r"\s*(\d{4})-(\d{1,2})-(\d{1,2})"
    r"(?:[T ]\s*(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?"
    r"\s*(Z|UTC|[+-]\d{2}(?::?\d{2})?)?)?\s*",
    re.ASCII | re.IGNORECASE,
)
_DAY_MS = 86_400_000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
#: No duration reaches farther: 2**53 ms are 285,000 years.
_MAX_DURATION_MS = 2**53


def duration_in_ms(text: str) -> int | None:
    """Milliseconds of a duration such as '1 day 2 hours'; None if it is none."""
    total = 0.0
    position = 0
    while position < len(text):
        part = _DURATION_PART.match(text, position)
        unit = unit_in_ms(part[2]) if part else None
        if part is None or unit is None:
            return None
        total += float(part[1]) * unit
        position = part.end()
    if not text.strip() or not math.isfinite(total) or abs(total) > _MAX_DURATION_MS:
        return None
    return round(total)


def duration_hint(text: str) -> str:
    """What to write instead of a text that is no duration."""
    hint = "For example '30 minutes', '24 hours', '7 days' or '1 day 2 hours'."
    part = _DURATION_PART.match(text)
    if part is None:
        return f"A unit is missing. {hint}" if text.strip().isdecimal() else hint
    unit = part[2].lower().rstrip("s")
    if unit in ("month", "mon", "year", "yr", "y", "quarter"):
        return "Months and years have no fixed length: use days, such as '30 days'."
    units = ("milliseconds", "seconds", "minutes", "hours", "days", "weeks")
    near = fields.nearest(part[2], units)
    if near and unit_in_ms(part[2]) is None:
        return f"Did you mean {near}? {hint}"
    return hint


def time_in_ms(text: str) -> int | float | None:
    """Milliseconds since 1970 of an ISO 8601 text; None if it is none.

    UTC without a zone.  Raises ValueError, with the reason, for a text of that
    form that is no time, such as 2025-02-30.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        moment = datetime(
            int(year),
            int(month),
            int(day),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            tzinfo=_zone(zone),
        )
        milliseconds: int | float = (moment - _EPOCH) // timedelta(milliseconds=1)
    except OverflowError as error:
        raise ValueError(str(error)) from None
    if fraction:
        nanoseconds = int(fraction.ljust(9, "0"))
        milliseconds += nanoseconds // 1_000_000
        if nanoseconds % 1_000_000:
            milliseconds += nanoseconds % 1_000_000 / 1e6
    return milliseconds


def text_of(milliseconds: int) -> str | None:
    """The shortest ISO 8601 text of a time in UTC; None beyond the years that it can write.

    ``time_in_ms(text_of(n)) == n``.
    """
    try:
        moment = _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None
    if not milliseconds % _DAY_MS:
        return moment.date().isoformat()
    parts = "minutes" if not milliseconds % 60_000 else "seconds"
    if milliseconds % 1000:
        parts = "milliseconds"
    return moment.replace(tzinfo=None).isoformat(timespec=parts) + "Z"


def _zone(zone: str | None) -> timezone:
    if zone is None or zone.upper() in ("Z", "UTC"):
        return timezone.utc
    hours, minutes = int(zone[1:3]), int(zone[-2:]) if len(zone) > 3 else 0
    if hours > 23 or minutes > 59:
        raise ValueError("the zone must lie within a day")
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if zone[0] == "-" else offset)
''',
"insights_engine.timeseries": r'''"""Traces by time: how many, how many match, and what those that match were like.

Costs are summed without rounding between them, from the index; without it PostgreSQL
sums the decimals that they print as, which differs by less than one part in a billion
of what is summed.

With sessions as the unit, a bucket counts the sessions that have some trace in it: a
session matches in a bucket if some of its traces there do, or all of them.  Latencies,
tokens and costs are always those of the traces that match.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Optional

from insights_engine import buckets, plans, sessions, tree
from insights_engine.errors import InsightsError
from insights_engine.series_index import of_index
from insights_engine.series_rows import (
    COLUMNS,
    NOTHING,
    PERCENTILES,
    Columns,
    columns_of,
    nothing,
    texts_of,
)
from insights_engine.statement import Statement


def _answer(starts: Iterable[int], columns: Columns) -> dict[str, str]:
    """The columns as texts of arrays, with when the buckets begin."""
    named = dict(zip(COLUMNS, columns))
    for tokens in _LONG.findall(named["tokens"]):
        if not -(2**63) <= int(tokens) < 2**63:
            raise InsightsError("The sum of the tokens is out of range for bigint.", "22003")
    named["start_ms"] = ",".join(map(str, starts))
    return {name: "{" + texts + "}" for name, texts in named.items()}


#: Integers that may be beyond 64 bits.
_LONG = re.compile("-?[0-9]{19,}")


def series(
    plpy: Any,
    statement: Statement,
    node: tree.Node,
    width: buckets.Width,
    time_zone: Optional[str],
    first_ms: Optional[int],
    end_ms: Optional[int],
    unit: str,
) -> dict[str, str]:
    """By column, and ``start_ms``, the text of an array with an element for each bucket.

    The buckets go from ``first_ms`` to before ``end_ms``, None: as far as traces go.
    """
    if first_ms is not None and end_ms is not None and end_ms <= first_ms:
        raise InsightsError("start_time must be before end_time.")
    if first_ms is None or end_ms is None:
        extent = _extent(plpy, statement)
        if extent is None:
            buckets.edges(plpy, width, time_zone, 0, 1)  # for its errors
            return _answer((), nothing(0))
        first_ms = extent[0] if first_ms is None else first_ms
        end_ms = extent[1] + 1 if end_ms is None else end_ms
        if end_ms <= first_ms:
            return _answer((), nothing(0))
    edges = buckets.edges(plpy, width, time_zone, first_ms, end_ms)
    within = [max(edges[0], first_ms), *edges[1:-1], min(edges[-1], end_ms)]
    columns = of_index(plpy, statement, node, array("q", within), unit, (width, time_zone))
    if columns is None:
        columns = _of_tables(plpy, statement, node, within, unit)
    return _answer(edges[:-1], columns)


def _extent(plpy: Any, statement: Statement) -> Optional[tuple[int, int]]:
    """When the first and the last trace in scope began, ms; through the index on both."""
    statement = statement.again()
    traces = statement.traces
    if statement.experiments is None:
        ids = (
            f"with recursive e (id) as (select min(t.experiment_id) from {traces} union all"
            f" select (select min(t.experiment_id) from {traces} where t.experiment_id > e.id)"
            " from e where e.id is not null) "
        )
    else:
        given = statement.params.add(statement.experiments, "int[]")
        ids = f"with e (id) as (select pg_catalog.unnest({given})) "
    ends = ", ".join(
        f"(select {end}(t.timestamp_ms) from {traces} where t.experiment_id = e.id) as {end}_ms"
        for end in ("min", "max")
    )
    (row,) = plans.run(
        plpy,
        f"{ids}select min(x.min_ms) as first_ms, max(x.max_ms) as last_ms"
        f" from (select {ends} from e where e.id is not null) x",
        statement.params.types,
        statement.params.values,
    )
    return None if row["first_ms"] is None else (row["first_ms"], row["last_ms"])


def _of_tables(
    plpy: Any, statement: Statement, node: tree.Node, within: Sequence[int], unit: str
) -> Columns:
    """The rows, by one statement over MLflow's tables."""
    add = statement.params.add
    matching = (
        f"select t.request_id from {statement.traces}\nwhere {statement.where(node)}"
        f" and t.timestamp_ms >= {add(within[0], 'bigint')}"
        f" and t.timestamp_ms < {add(within[-1], 'bigint')}"
    )
    if unit == sessions.TRACE:
        counts = [
            "count(*)",
            "count(*) filter (where t.matches)",
            "count(*) filter (where t.matches and t.failed)",
        ]
    else:
        # Distinct ones are sorted, which no language's order is needed for.
        of = 'count(distinct t.session_id collate "C")'
        counts = [of]
        for condition in ("t.matches", "(t.matches and t.failed)"):
            if unit == sessions.SESSION_ALL:
                counts.append(f"{of} - {of} filter (where not {condition})")
            else:
                counts.append(f"{of} filter (where {condition})")
    fractions = ", ".join(map(repr, PERCENTILES))
    columns = [
        "t.number",
        *counts,
        f"percentile_cont(array[{fractions}]) within group (order by t.latency)"
        " filter (where t.matches)",
        "sum(t.total_tokens) filter (where t.matches)",
        # As decimals, whose sum depends on no order of the rows.
        "sum(t.total_cost::text::numeric) filter (where t.matches)",
    ]
    texts = ", ".join(f"({column})::text" for column in columns)
    # The parameter stands in a subquery, lest its text be read anew for every trace.
    place = f"pg_catalog.width_bucket(t.timestamp_ms, (select {add(list(within), 'bigint[]')}))"
    rows = statement.run_in_parallel(
        plpy,
        f"with m as materialized (\n{matching}\n)\nselect array[{texts}]\nfrom (\n"
        f"select {place} as number, m.request_id is not null as matches,"
        " t.status = 'ERROR' as failed, t.execution_time_ms::float8 as latency,"
        " t.total_tokens, t.total_cost, t.session_id\n"
        f"from {statement.traces} left join m on m.request_id = t.request_id\n"
        f"where {statement.scope()} and t.timestamp_ms >= {add(within[0], 'bigint')}"
        f" and t.timestamp_ms < {add(within[-1], 'bigint')}\n) t\ngroup by t.number",
    )
    found = [NOTHING] * (len(within) - 1)
    for number, total, matched, errors, latencies, tokens, cost in rows:
        found[int(number or 0) - 1] = (
            *(matched or "0", total or "0", errors or "0"),
            *texts_of(
                *_doubles(latencies),
                None if tokens is None else int(tokens),
                None if cost is None else float(cost),
            ),
        )
    return columns_of(found)


def _doubles(array: Optional[str]) -> Sequence[Optional[float]]:
    """The numbers of an array's text."""
    if array is None:
        return (None,) * len(PERCENTILES)
    return [float(number) for number in array.strip("{}").split(",")]
''',
"insights_engine.tokens": r'''"""Cuts a filter into tokens, and refuses what cannot be part of any filter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple, NoReturn

from insights_engine.errors import FilterError, visible

MAX_BYTES = 64 * 1024
MAX_PREDICATES = 1000
MAX_VALUES = 5000
MAX_NESTING = 100


class Token(NamedTuple):
    """``text[start:end]`` of a filter.

    ``kind`` is a terminal of grammar.lark.  A FIELD that is followed by keys
    in brackets has them in ``steps``, and ``name_end`` is where its name ends.
    """

    kind: str
    start: int
    end: int
    name_end: int = 0
    steps: tuple[str, ...] = ()


KEYWORDS = {
    "AND": "AND",
    "OR": "OR",
    "NOT": "NOT",
    "LIKE": "LIKE",
    "ILIKE": "LIKE",
    "RLIKE": "LIKE",
    "REGEXP": "CMP",  # to be refused like any other operator that is none of ours
    "IN": "IN",
    "BETWEEN": "BETWEEN",
    "IS": "IS",
    "NULL": "NULL",
    "TRUE": "BOOLEAN",
    "FALSE": "BOOLEAN",
    "WHERE": "WHERE",
    "INTERVAL": "INTERVAL",
}
#: Every predicate has exactly one of these.
OPERATORS = frozenset(("CMP", "LIKE", "IN", "BETWEEN", "IS"))
FUNCTIONS = {
    "ANY": "ANY",
    "COUNT": "COUNT",
    "SUM": "AGGREGATE",
    "AVG": "AGGREGATE",
    "MIN": "AGGREGATE",
    "MAX": "AGGREGATE",
}

# A key may hold dashes without being quoted: nothing else in the language
# gives a dash between two words a meaning.
_SINGLE = r"'[^']*(?:''[^']*)*'"
_DOUBLE = r'"[^"]*(?:""[^"]*)*"'
_BACK = r"`[^`]*(?:``[^`]*)*`"
_KEY = rf"\.(?:\w+(?:-\w+)*|{_BACK}|{_DOUBLE}|{_SINGLE})?"
# MLflow's lexer: a backslash keeps the quote after it inside the string.
_SINGLE_ESCAPED = r"'(?:''|\\'|[^'])*'"
_DOUBLE_ESCAPED = r'"(?:""|\\"|[^"])*"'


@lru_cache(maxsize=2)
def _token_pattern(escaped_quotes: bool) -> re.Pattern[str]:
    single = _SINGLE_ESCAPED if escaped_quotes else _SINGLE
    double = _DOUBLE_ESCAPED if escaped_quotes else _DOUBLE
    return re.compile(
        rf"""
          (?P<SPACE>\s+)
        | (?P<FIELD>(?:[^\W\d]\w*|{_BACK}|{_DOUBLE}(?=\.))(?:{_KEY})*)
        | (?P<STRING>{single})
        | (?P<DOUBLE_QUOTED>{double})
        | (?P<NUMBER>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
        | (?P<COMMENT>--[^\n]*|/\*)
        | (?P<CMP>[<>=!~]+)
        | (?P<LPAR>\()
        | (?P<RPAR>\))
        | (?P<COMMA>,)
        | (?P<SIGN>[+-])
        | (?P<STAR>\*)
        """,
        re.VERBOSE,
    )


_OPEN_PARENTHESIS = re.compile(r"\s*\(")
_NOW = re.compile(r"\s*\(\s*\)")
_STEP = re.compile(rf"\s*\[\s*(?:({_SINGLE}|{_DOUBLE}|{_BACK})|(\d+))\s*\]")
_OPEN_BRACKET = re.compile(r"\s*\[")
_WORD = re.compile(r"\w+")

_SMART_QUOTES = "\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f\u2032\u2033\u00b4\u00ab\u00bb"
_INVISIBLE = {
    "\u200b": "zero-width space",
    "\u200c": "zero-width non-joiner",
    "\u200d": "zero-width joiner",
    "\u2060": "word joiner",
    "\ufeff": "byte order mark",
    "\u00ad": "soft hyphen",
}


def unquote(quoted: str) -> str:
    """The text inside a pair of quotes, in which a doubled quote is one."""
    mark = quoted[0]
    return quoted[1:-1].replace(mark * 2, mark)


def pattern_place(text: str, pattern: str) -> tuple[int | None, int]:
    """Where ``text`` has the string ``pattern`` after LIKE, and how long it is there.

    A tree does not know the places of its nodes; this finds one again for the
    errors that come after parsing.
    """
    for escaped_quotes in (False, True):
        try:
            tokens = tokenize(text, escaped_quotes=escaped_quotes)
        except FilterError:
            continue
        for before, token in zip(tokens, tokens[1:]):
            if before.kind == "LIKE" and unquote(text[token.start : token.end]) == pattern:
                return token.start, token.end - token.start
    return None, 1


def check_text(text: str) -> None:
    """Refuse what is too long, or cannot be text in PostgreSQL at all."""
    try:
        size = len(text) if len(text) > MAX_BYTES else len(text.encode())
    except UnicodeEncodeError as error:
        raise FilterError(
            "the filter contains half of a surrogate pair, which is not a character",
            error.start,
            filter=text,
        ) from None
    if size > MAX_BYTES:
        raise FilterError(
            f"the filter is too long: {size} bytes, at most {MAX_BYTES} are allowed",
            hint="Many values of one field fit into a list: field IN ('a', 'b', ...).",
            filter=text,
        )
    place = text.find("\0")
    if place >= 0:
        raise FilterError(
            "the filter contains a NUL character, which PostgreSQL's text cannot hold",
            place,
            filter=text,
        )


def tokenize(text: str, *, escaped_quotes: bool = False) -> list[Token]:
    """All tokens of a filter.  Raises FilterError."""
    return list(scan(text, escaped_quotes=escaped_quotes))[:-1]


def scan(text: str, *, escaped_quotes: bool = False) -> Iterator[Token]:
    """The tokens of a filter that `check_text` let pass, then one of kind $END.

    ``escaped_quotes``: a quote after a backslash does not end a string, as in
    MLflow's lexer (the backslash stays part of the string there, too).

    Raises FilterError on reaching a place where there is no token, or one
    beyond the limits; a reader that stops before never learns of it.
    """
    pattern = _token_pattern(escaped_quotes)
    tokens: list[Token] = []
    position = 0
    predicates = 0
    commas = 0
    opened: list[int] = []  # how deep each open parenthesis goes
    depth = 0
    while position < len(text):
        match = pattern.match(text, position)
        if match is None:
            _refuse_character(text, position, tokens)
        kind = match.lastgroup
        start, position = match.span()
        if kind == "SPACE":
            continue
        if kind == "FIELD":
            token, position = _word_or_field(text, start, position)
            kind = token.kind
        else:
            assert kind is not None
            token = Token(kind, start, position)
            if kind == "NUMBER":
                _check_number(text, token)
            elif kind == "COMMENT":
                _refuse_comment(text, start, position)
        if kind == "NOT":
            depth += 1
        elif kind == "LPAR":
            depth += 1
            opened.append(depth)
        elif kind == "COMMA":
            commas += 1
            if commas >= MAX_VALUES:
                _refuse_excess(text, token, f"has more than {MAX_VALUES} values in lists")
        else:
            if kind == "RPAR" and opened:
                opened.pop()
            depth = opened[-1] if opened else 0
            if kind in OPERATORS:
                predicates += 1
                if predicates > MAX_PREDICATES:
                    _refuse_excess(text, token, f"has more than {MAX_PREDICATES} predicates")
        if depth > MAX_NESTING:
            _refuse_excess(text, token, f"is nested more than {MAX_NESTING} levels deep")
        tokens.append(token)
        yield token
    yield Token("$END", len(text), len(text))


def _refuse_excess(text: str, token: Token, problem: str) -> NoReturn:
    hints = {
        "COMMA": "Split the list over several filters.",
        "LPAR": "Parentheses and NOT may stand inside one another no deeper than that.",
        "NOT": "Parentheses and NOT may stand inside one another no deeper than that.",
    }
    raise FilterError(
        f"the filter {problem}",
        token.start,
        token.end - token.start,
        hints.get(token.kind, "Values of one field fit into a list: field IN ('a', 'b', ...)."),
        text,
    )


def _word_or_field(text: str, start: int, end: int) -> tuple[Token, int]:
    word = text[start:end].upper()
    keyword = KEYWORDS.get(word)
    if keyword is not None:
        return Token(keyword, start, end), end
    function = FUNCTIONS.get(word)
    if function is not None and _OPEN_PARENTHESIS.match(text, end):
        return Token(function, start, end), end
    if word == "NOW":
        call = _NOW.match(text, end)
        if call:
            return Token("NOW", start, call.end()), call.end()
    name_end = end
    steps: list[str] = []
    step = _STEP.match(text, end)
    while step:
        steps.append(unquote(step[1]) if step[1] else step[2])
        end = step.end()
        step = _STEP.match(text, end)
    bracket = _OPEN_BRACKET.match(text, end)
    if bracket:
        _refuse_bracket(text, bracket.end() - 1)
    return Token("FIELD", start, end, name_end, tuple(steps)), end


def unquoted_message(literal: str) -> str:
    """What stock MLflow says to a value without quotes."""
    return (
        "Parameter value is either not quoted or unidentified quote types used for string value"
        f" {visible(literal, 60)}. Use either single or double quotes."
    )


def _check_number(text: str, token: Token) -> None:
    unit = _WORD.match(text, token.end)
    if unit is None:
        return
    literal = text[token.start : unit.end()]
    problem = "malformed number" if unit_in_ms(unit[0]) is None else "number with a unit"
    raise FilterError(
        f"{problem}. {unquoted_message(literal)}",
        token.start,
        len(literal),
        unit_hint(text[token.start : token.end], unit[0]),
        text,
    )


#: Milliseconds of the units of time (without the plural s).
UNITS = {
    "ms": 1,
    "msec": 1,
    "millisecond": 1,
    "s": 1000,
    "sec": 1000,
    "second": 1000,
    "m": 60_000,
    "min": 60_000,
    "minute": 60_000,
    "h": 3_600_000,
    "hr": 3_600_000,
    "hour": 3_600_000,
    "d": 86_400_000,
    "day": 86_400_000,
    "w": 604_800_000,
    "week": 604_800_000,
}


def unit_in_ms(unit: str) -> int | None:
    """Milliseconds of a unit of time, singular or plural; None for other words."""
    unit = unit.lower()
    return UNITS.get(unit) or (UNITS.get(unit[:-1]) if unit.endswith("s") else None)


def unit_hint(number: str, unit: str) -> str:
    """What to write instead of a number with a unit."""
    factor = unit_in_ms(unit)
    if factor is None or len(number) > 20:
        return "Write the plain number; a text goes in quotes."
    milliseconds = float(number) * factor
    plain = int(milliseconds) if milliseconds == int(milliseconds) else milliseconds
    return f"Durations are plain numbers of milliseconds: write {plain}."


def _refuse_comment(text: str, start: int, end: int) -> NoReturn:
    if text.startswith("/*", start):
        close = text.find("*/", end)
        end = close + 2 if close >= 0 else len(text)
    raise FilterError(
        f"Invalid clause(s) in filter string: '{visible(text[start:end], 60)}':"
        " a filter holds no comments",
        start,
        end - start,
        "Remove the comment.",
        text,
    )


def _refuse_bracket(text: str, start: int) -> NoReturn:
    rest = re.compile(r"\[\s*([^\]\['\"`\s]+)\s*\]").match(text, start)
    if rest:
        raise FilterError(
            f"a key in brackets must be quoted: [{visible(rest[1], 60)}]",
            start,
            rest.end() - start,
            f"Write ['{visible(rest[1], 60)}'].",
            text,
        )
    if re.compile(r"\[\s*\]").match(text, start):
        raise FilterError("there is no key in the brackets", start, 2, "Write ['key'].", text)
    raise FilterError(
        "the bracket opened here is not closed after one quoted key",
        start,
        1,
        "Write ['key'].",
        text,
    )


def _refuse_character(text: str, position: int, tokens: list[Token]) -> NoReturn:
    character = text[position]
    hint: str | None = None
    length = 1
    if character in "'\"`":
        name = {"'": "string", '"': "string", "`": "name"}[character]
        message = f"the {name} opened here is not closed: {character} is missing"
        hint = f"Close it with {character}."
        if (
            character != "`"
            and len(tokens) > 1
            and tokens[-1].kind != "CMP"
            and any(t.kind in ("STRING", "DOUBLE_QUOTED") for t in tokens[-8:])
        ):
            hint += f" A {character} inside a string is written twice: {character * 2}."
    elif character in _SMART_QUOTES:
        message = f"typographic quotation mark {character}"
        hint = "Use straight quotes: 'text'."
    elif character in _INVISIBLE:
        message = f"invisible character in the filter: {_INVISIBLE[character]}"
        hint = "Remove it; it may have been pasted with the text around it."
    elif character == ";":
        message, hint, length = _semicolon(text, position)
    elif character == "&" or character == "|":
        length = 2 if text.startswith(character * 2, position) else 1
        word = "AND" if character == "&" else "OR"
        message = f"unknown operator {text[position : position + length]}"
        hint = f"Use {word}."
    else:
        message = f"unexpected character '{visible(character)}'"
        hint = _character_hint(text, position, tokens)
    raise FilterError(message, position, length, hint, text)


def _character_hint(text: str, position: int, tokens: list[Token]) -> str | None:
    before = tokens[-1] if tokens else None
    if before is None:
        return "A filter is a condition such as status = 'OK'."
    if before.kind == "FIELD" and before.end == position:
        if text[position] == ":":
            return f"Compare with =: {visible(text[before.start : before.end], 60)} = 'value'."
        return (
            "Quote a key that holds other characters than letters, digits, _, - and dots:"
            " tags['my key']."
        )
    if text[position] in "[{":
        return "A list of values stands in parentheses: field IN ('a', 'b')."
    if before.kind in ("CMP", "LIKE") and text[position] in "$:%?@":
        return "Parameters are not filled in: write the value itself, a text in quotes."
    return None


def _semicolon(text: str, position: int) -> tuple[str, str, int]:
    if text[position:].strip(" \t\r\n;"):
        return (
            f"Search filter contained multiple expression {visible(repr(text), 200)}."
            " Provide AND-ed expression list.",
            "A filter is one expression: join conditions with AND or OR.",
            1,
        )
    return "Invalid clause(s) in filter string: ';'", "Remove the semicolon.", 1
''',
"insights_engine.tree": r'''"""The syntax tree of a trace filter.

Every node is a frozen dataclass, so trees compare by value and can be cached.
The parser hands out trees in *normal form*, in which everything that depends
on the surroundings has been settled:

* names are resolved (``tags.name`` is the trace name, ``tags['name']`` a tag);
* every value has its type (a comparison is either a `TextCompare` or a
  `NumberCompare`);
* the scope of span conditions is explicit: plain ``span.*`` predicates of one
  AND group have been gathered into one `AnySpan`, so a span predicate never
  stands outside `AnySpan`, `CountSpans` or `AggregateSpans`;
* ``And`` and ``Or`` are flat (no And directly in And) and have at least two
  items, except that the filter matching everything is ``And(())``.

Consumers (the SQL compiler, the printer, the tests' oracle) rely on that and
need no context of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Union

# --------------------------------------------------------------------- fields


@dataclass(frozen=True)
class TraceText:
    """A text field of the trace itself.

    ``name`` is one of TRACE_TEXT_FIELDS.  ``run_id`` and ``prompt`` are sets
    of values per trace: a comparison holds if some value satisfies it.
    """

    name: str


@dataclass(frozen=True)
class TraceNumber:
    """A numeric field of the trace; ``name`` is one of TRACE_NUMBER_FIELDS."""

    name: str


@dataclass(frozen=True)
class Tag:
    """The tag whose key is exactly ``key`` (never one of the promoted keys)."""

    key: str


@dataclass(frozen=True)
class Metadata:
    """The request metadata entry whose key is exactly ``key``.

    ``mlflow.trace.tokenUsage`` and ``mlflow.trace.cost`` are possible here and
    stand for the JSON text that MLflow synthesises from the number columns.
    """

    key: str


@dataclass(frozen=True)
class Assessment:
    """The valid assessments called ``name``; a set of values per trace.

    ``kind`` is ``feedback``, ``expectation`` or ``assessment`` (either).
    """

    kind: str
    name: str


@dataclass(frozen=True)
class Issue:
    """The ids of the issues a trace is linked to; a set of values per trace."""


@dataclass(frozen=True)
class SpanText:
    """A text column of a span: ``name``, ``type``, ``status`` or ``content``."""

    name: str


@dataclass(frozen=True)
class SpanNumber:
    """A numeric column of a span: ``duration_ms`` (missing while it runs)."""

    name: str


@dataclass(frozen=True)
class SpanAttribute:
    """A span attribute: the key, then keys or list indexes inside its value."""

    path: tuple[str, ...]


TRACE_TEXT_FIELDS = (
    "trace_id",
    "experiment_id",
    "status",
    "client_request_id",
    "name",
    "session_id",
    "user",
    "run_id",
    "prompt",
    "request_preview",
    "response_preview",
)

TRACE_NUMBER_FIELDS = (
    "timestamp_ms",
    "execution_time_ms",
    "end_time_ms",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation_input_tokens_above_1hr",
    "input_cost",
    "output_cost",
    "total_cost",
    "span_count",
)

TraceField = Union[TraceText, TraceNumber, Tag, Metadata, Assessment, Issue]
SpanField = Union[SpanText, SpanNumber, SpanAttribute]
Field = Union[TraceField, SpanField]

# --------------------------------------------------------------------- values


@dataclass(frozen=True)
class Now:
    """``now()`` plus ``offset_ms`` (negative for the past), in milliseconds.

    Stays symbolic in the tree, so that a cached tree never holds a stale time.
    """

    offset_ms: int = 0


Number = Union[int, float, Now]
Value = Union[str, int, float, Now]

# ----------------------------------------------------------------- predicates


@dataclass(frozen=True)
class TextCompare:
    """``field = 'value'`` or ``field != 'value'``; ``op`` is ``=`` or ``!=``.

    The boolean literals arrive as the texts ``true`` and ``false``.
    """

    field: Field
    op: str
    value: str


@dataclass(frozen=True)
class NumberCompare:
    """A numeric comparison; ``op`` is one of ``= != < <= > >=``.

    A text field's value takes part if it is a JSON number or wholly reads as
    a finite decimal number; an assessment's only if it is a JSON number.
    Any other value is missing here and satisfies nothing, ``!=`` included.
    """

    field: Field
    op: str
    value: Number


@dataclass(frozen=True)
class Match:
    """``field [NOT] LIKE|ILIKE|RLIKE 'pattern'``; ``op`` is in upper case.

    Negated: the value exists and does not match.
    """

    field: Field
    op: str
    pattern: str
    negated: bool = False


@dataclass(frozen=True)
class In:
    """``field [NOT] IN (values)``: equal to some value.

    Text items compare as text, numbers as numbers.  Negated: the value exists
    and equals none of them.
    """

    field: Field
    values: tuple[Value, ...]
    negated: bool = False


@dataclass(frozen=True)
class Between:
    """``field [NOT] BETWEEN low AND high``, both bounds included, numeric.

    Negated: the value exists as a number and lies outside.
    """

    field: Field
    low: Number
    high: Number
    negated: bool = False


@dataclass(frozen=True)
class IsNull:
    """``field IS NULL``, or with ``negated`` ``field IS NOT NULL``."""

    field: Field
    negated: bool = False


Predicate = Union[TextCompare, NumberCompare, Match, In, Between, IsNull]

# ------------------------------------------------------------- span quantifiers


@dataclass(frozen=True)
class AnySpan:
    """Some span of the trace satisfies ``condition``."""

    condition: Node


@dataclass(frozen=True)
class CountSpans:
    """The number of spans that satisfy ``condition`` (None: all) compares so."""

    condition: Node | None
    op: str
    value: int


@dataclass(frozen=True)
class AggregateSpans:
    """``function(field WHERE condition) op value``.

    ``function`` is ``sum``, ``avg``, ``min`` or ``max`` over the numeric
    values of ``field``; over none of them it is missing and satisfies nothing.
    """

    function: str
    field: SpanNumber | SpanAttribute
    condition: Node | None
    op: str
    value: int | float


# ---------------------------------------------------------------------- algebra


@dataclass(frozen=True)
class And:
    """Every item holds; ``And(())`` is the filter that matches every trace."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Or:
    """Some item holds."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Not:
    """The item does not hold (a complement: missing values do match it)."""

    item: Node


Node = Union[And, Or, Not, Predicate, AnySpan, CountSpans, AggregateSpans]

EVERYTHING = And(())


def fields_of(node: Node) -> Iterator[Field]:
    """The fields of all predicates of a filter."""
    todo: list[Node] = [node]
    while todo:
        node = todo.pop()
        if isinstance(node, (And, Or)):
            todo.extend(node.items)
        elif isinstance(node, Not):
            todo.append(node.item)
        elif isinstance(node, AnySpan):
            todo.append(node.condition)
        elif isinstance(node, (CountSpans, AggregateSpans)):
            if isinstance(node, AggregateSpans):
                yield node.field
            else:
                yield TraceNumber("span_count")
            if node.condition is not None:
                todo.append(node.condition)
        else:
            yield node.field
''',
"insights_engine.unindexed": r'''"""Traces that the index does not answer for, as a part of a discovery.

Their facts are collected as a refresh would, in memory: nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Optional

from insights_engine import bitmaps, cells
from insights_engine.candidates import FACTS, Items, Name, Signature, Term, items_of, series_of
from insights_engine.cells import Cells, Cuts, Numbers
from insights_engine.columns import Columns
from insights_engine.facts import Facts, Number, Series
from insights_engine.groups import all_positions
from insights_engine.large_blocks import SAMPLED
from insights_engine.parts import Part
from insights_engine.rows import MARK, Placed, Reader
from insights_engine.statement import Statement


class Unindexed(Part):
    """Traces whose facts are collected when they are asked for."""

    def __init__(
        self, plpy: Any, statement: Statement, items: Items, traces: Sequence[Placed], target: int
    ) -> None:
        super().__init__(len(traces), all_positions(len(traces)), target)
        self._plpy = plpy
        self._statement = statement
        self._items = items
        self._traces = traces
        self._columns: Optional[Columns] = None
        self._numbers: dict[Name, Numbers] = {}
        #: The fields that have been found to have numbers.
        self.series: set[Name] = set()
        #: Whether what was found is kept between two questions.
        self.keep = False

    def columns(self) -> Columns:
        if self._columns is not None:
            return self._columns
        return self._collect()[0]

    def sample(self, names: Sequence[Name]) -> dict[Name, Sequence[int]]:
        most = cells.SAMPLE // SAMPLED
        return {name: cells.sampled(one, most) for name, one in self._some(names).items()}

    def cells(self, cuts: Mapping[Name, Cuts]) -> dict[Name, Cells]:
        numbers = self._some(cuts)
        return {
            name: cells.cells_of(numbers.get(name, NO_NUMBERS), chosen)
            for name, chosen in cuts.items()
        }

    def _some(self, names: Iterable[Name]) -> dict[Name, Numbers]:
        numbers = self._numbers if self._columns is not None else self._collect()[1]
        return {name: numbers[name] for name in names if name in numbers}

    def _collect(self) -> tuple[Columns, dict[Name, Numbers]]:
        vocabulary = _Vocabulary()
        facts = Facts(vocabulary)
        _Reader(self._plpy, self._statement).collect(facts, self._traces)
        found = self._of(facts, vocabulary)
        numbers: dict[Name, list[Numbers]] = {}
        for (kind, key, signature), one in facts.series.items():
            name = series_of(kind, key, signature, vocabulary.signatures)
            if name is not None and len(one.positions) > 1:
                numbers.setdefault(name, []).append(_numbers(one))
        united = {name: cells.united(several) for name, several in numbers.items()}
        self.series.update(united)
        if self.keep:
            self._columns, self._numbers = found, united
        return found, united

    def _of(self, facts: Facts, vocabulary: _Vocabulary) -> Columns:
        of_term: dict[int, tuple[int, ...]] = {}
        stored: list[tuple[int, bytes]] = []
        doubts: dict[int, list[bytes]] = {}
        for term, positions in _terms(facts):
            members = bitmaps.encode(positions, self.used)
            found = []
            for name in items_of(term, vocabulary.signatures):
                item = self._items.number(name)
                if name[0] in FACTS:
                    found.append(item)
                else:
                    doubts.setdefault(item, []).append(members)
            if found:
                of_term[len(stored)] = tuple(found)
                stored.append((len(stored), members))
        by_experiment: dict[int, list[int]] = {}
        for trace in self._traces:
            by_experiment.setdefault(trace.experiment_id, []).append(trace.position)
        for experiment_id, positions in by_experiment.items():
            of_term[len(stored)] = (self._items.number(("e", experiment_id)),)
            stored.append((len(stored), bitmaps.encode(positions, self.used)))
        return Columns(stored, of_term, doubts, self.used)

    def trace_ids(self) -> Sequence[Optional[str]]:
        return [trace.trace_id for trace in self._traces]


def _terms(facts: Facts) -> Iterator[tuple[Term, Sequence[int]]]:
    """Collected facts, but for numbers, as terms with their positions."""
    for (kind, key, signature, role, slot), positions in facts.plain.items():
        if len(positions) > 1:
            yield Term(0, kind, key, signature, role, slot, ""), positions[1:]
    for texts in facts.texts.values():
        for (signature, text, _), positions in texts.candidates.items():
            yield Term(0, texts.kind, texts.key, signature, "v", 0, text), positions[1:]


def _numbers(collected: Series) -> Numbers:
    """The numbers of one key and signature."""

    def place(number: Number) -> int:
        if collected.whole:
            return bitmaps.ordered(bitmaps.pattern_of_integer(int(number)))
        return bitmaps.ordered(bitmaps.pattern_of_double(number))

    positions = collected.positions[1:]
    low = [place(number) for number in collected.low[1:]]
    if not collected.high:
        return Numbers(positions, low, low)
    high = [
        place(collected.high[position]) if position in collected.high else least
        for position, least in zip(positions, low)
    ]
    return Numbers(positions, low, high)


NO_NUMBERS = Numbers((), (), ())


class _Vocabulary:
    """What a collection of facts starts with: nothing, but signatures get numbers."""

    def __init__(self) -> None:
        self.signatures: dict[int, Signature] = {}
        self._numbers: dict[tuple[Optional[str], Optional[str], str], int] = {}

    def signature(self, type: Optional[str], name: Optional[str], status: str) -> int:
        """The number of a signature."""
        number = self._numbers.setdefault((type, name, status), len(self._numbers) + 1)
        self.signatures[number] = Signature(type, name, status, None)
        return number

    def attribute_keys(self) -> Iterable[str]:
        """None are known."""
        return ()

    def full_keys(self) -> set[tuple[str, str]]:
        """None are."""
        return set()

    def values(self, kind: str, key: str) -> frozenset[tuple[int, str]]:
        """None are known."""
        return frozenset()


class _Reader(Reader):
    """Reads what others of the same session lend from MLflow's tables alone.

    ``insights.carrier`` knows indexed traces only, and not every role may read it.
    """

    def __init__(self, plpy: Any, statement: Statement) -> None:
        super().__init__(plpy, statement.schema)
        self._statement = statement
        self._with_sessions = True

    def _lent_assessments(self, traces: Sequence[Placed]) -> dict[int, list[dict[str, Any]]]:
        statement = self._statement.again()
        schema = statement.schema
        ids = statement.params.add([trace.trace_id for trace in traces], "text[]")
        scope = statement.scope().replace("t.experiment_id", "c.experiment_id")
        rows = statement.run(
            self._plpy,
            "with sessions as materialized ("
            "  select u.n, t.request_id, t.session_id"
            f"  from pg_catalog.unnest({ids}) with ordinality as u (trace_id, n)"
            f"  join {schema}.trace_info t on t.request_id = u.trace_id"
            "  where t.session_id is not null),"
            " carriers as materialized ("
            f"  select c.request_id, c.session_id from {schema}.trace_info c"
            f"  where {scope} and c.session_id in (select s.session_id from sessions s)"
            f"  and exists (select from {schema}.assessments a where a.trace_id = c.request_id"
            f"  and pg_catalog.strpos(a.assessment_metadata, '{MARK}') > 0))"
            " select s.n, a.assessment_type as kind, a.name, a.value, a.valid,"
            " a.is_numeric_value as numeric, a.aggregate_value as number, false as elsewhere"
            " from sessions s join carriers c on c.session_id = s.session_id"
            " and c.request_id <> s.request_id"
            f" join {schema}.assessments a on a.trace_id = c.request_id"
            " where a.valid and a.assessment_type in ('feedback', 'expectation')"
            f" and pg_catalog.strpos(a.assessment_metadata, '{MARK}') > 0",
        )
        found: dict[int, list[dict[str, Any]]] = {}
        for row in rows:
            found.setdefault(row["n"] - 1, []).append(row)
        return found
''',
"insights_engine.units": r'''"""What a discovery counts: traces, or the sessions that they belong to.

A session matches a filter if some of its traces does (unit ``session``), or if all
of them do (``session_all``), among the traces of the base.  Traces without a session
belong to none, and a session may have traces in several experiments.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Optional

from insights_engine import bitmaps, plans, ranking, tree
from insights_engine.cache import CACHE
from insights_engine.candidates import Name
from insights_engine.cells import Cuts, Histogram
from insights_engine.interrupts import Watched
from insights_engine.parts import Indexed, Part
from insights_engine.population import READ_AT_ONCE, Population
from insights_engine.session_space import Enlarged, Space
from insights_engine.sessions import Numbers
from insights_engine.sessions import Sessions as SessionsOfBlocks
from insights_engine.unindexed import Unindexed

#: How many units have their smallest, and their largest, number in each cell.
Histograms = tuple[Histogram, Histogram]

#: With more positions than these, and than a session may keep the items of, facts are
#: sought in a sample, ...
MOST_POSITIONS = 400_000
BYTES_OF_A_POSITION = 220
#: ... of about so many.
SAMPLED_POSITIONS = 250_000

#: Parts whose sets of some facts are in memory at once.
_PARTS_AT_ONCE = 64

#: Pairs of facts that are looked at together.
_PAIRS_AT_ONCE = 200


class CellCounts:
    """In which cells of a field the numbers of base and target lie."""

    __slots__ = ("base", "several", "target")

    def __init__(self) -> None:
        self.base: Histograms = ({}, {})
        self.target: Histograms = ({}, {})
        #: Whether some unit has several numbers.
        self.several = False


class Traces:
    """Counts traces."""

    def __init__(
        self,
        population: Population,
        parts: Optional[Sequence[Part]] = None,
        sampled: bool = False,
    ) -> None:
        """``parts``: other ones than the population's, as a sample of it."""
        self._population = population
        #: Whether these are a sample of the units that are meant.
        self.sampled = sampled
        self.parts = population.parts if parts is None else parts
        #: Units of the base, and of the target.
        self.total = sum(bitmaps.count(part.base) for part in self.parts)
        self.target = sum(bitmaps.count(part.target) for part in self.parts)

    def items(self, least: int) -> tuple[list[int], list[int]]:
        """Of each item: how many units of the base have it, and how many of the target.

        Items of fewer than ``least`` units may be given as having none.  Of those that
        are no facts it is only told, by a 1, that some trace has them, in the base or not.
        """
        counts: list[int] = []
        joints: list[int] = []
        for part in self.parts:
            columns = part.columns()
            for totals in (counts, joints):
                totals += [0] * (len(self._population.items) - len(totals))
            columns.add_base_counts(counts, part.base)
            columns.add_counts(joints, part.target)
            for item in columns.doubts:
                counts[item] = 1
        return counts, joints

    def opaque(self, items: Iterable[int]) -> dict[int, tuple[int, int]]:
        """How many units of the base, and of the target, items that are no facts may concern."""
        found = dict.fromkeys(items, (0, 0))
        for part in self.parts:
            for item, bits in part.sets(found).items():
                base, target = found[item]
                found[item] = (
                    base + bitmaps.count(bits & part.base),
                    target + bitmaps.count(bits & part.target),
                )
        return found

    def matching(self, node: tree.Node) -> tuple[int, int]:
        """How many units of the base, and of the target, match a filter."""
        return self._measured(self._population.matching(node, self.parts), self.parts)

    def _measured(self, sets: Sequence[int], parts: Sequence[Part]) -> tuple[int, int]:
        """How many units of the base, and of the target, a set for each part comes to."""
        among = joint = 0
        for part, bits in zip(parts, sets):
            among += bitmaps.count(bits & part.base)
            joint += bitmaps.count(bits & part.target)
        return among, joint

    def near_identical(
        self, pairs: Mapping[tuple[Name, Name], tuple[int, int]]
    ) -> set[tuple[Name, Name]]:
        """Those pairs of facts, of these counts, that match nearly the same units."""
        met = dict.fromkeys(pairs, 0)
        names = {name for pair in pairs for name in pair}
        for part in self.parts:
            sets = self._population.sets(part, names)
            for pair in pairs:
                both = sets.get(pair[0], 0) & sets.get(pair[1], 0)
                if both:
                    met[pair] += bitmaps.count(both)
        return self._near_identical(pairs, met)

    def _near_identical(
        self,
        pairs: Mapping[tuple[Name, Name], tuple[int, int]],
        met: Mapping[tuple[Name, Name], int],
    ) -> set[tuple[Name, Name]]:
        return {
            pair
            for pair, sizes in pairs.items()
            if ranking.near_identical(*sizes, met[pair], self.total)
        }

    def both(self, pairs: Sequence[tuple[Name, Name]]) -> Iterator[tuple[int, int]]:
        """How many units have a trace with both of two facts: of the base, of the target."""
        among = [0] * len(pairs)
        joint = [0] * len(pairs)
        names = {name for pair in pairs for name in pair}
        for part in self.parts:
            sets = self._population.sets(part, names)
            inside = {name: bits & part.target for name, bits in sets.items()}
            for number, (one, other) in enumerate(pairs):
                if one in sets and other in sets:
                    among[number] += bitmaps.count(sets[one] & sets[other])
                    joint[number] += bitmaps.count(inside[one] & inside[other])
        yield from zip(among, joint)

    def screen(self) -> Traces:
        """These units, or a sample of them where looking at all would take too long.

        Then facts are sought in the sample, and counted in all where they stand out.
        """
        blocks = [part for part in self.parts if isinstance(part, Indexed)]
        positions = sum(part.used for part in blocks)
        if positions <= max(MOST_POSITIONS, CACHE.limit // BYTES_OF_A_POSITION):
            return self
        # Evenly over time; the same ones each time, which the session then keeps.
        blocks.sort(key=lambda part: (part.block.last_ms, part.block.block))
        step = max(1, -(-positions // SAMPLED_POSITIONS))
        some: list[Part] = [*blocks[step // 2 :: step]]
        if 0 < sum(bitmaps.count(part.target) for part in blocks) <= READ_AT_ONCE:
            # All cases with some controls: odds ratios are the same as in all traces.
            some = [*self._population.targets(), *map(Part.without_target, some)]
        some += [part for part in self.parts if isinstance(part, Unindexed)]
        return Traces(self._population, some, sampled=True)

    def counted(self, names: Iterable[Name]) -> dict[Name, tuple[int, int]]:
        """How many units of the base, and of the target, have some facts; and members of pairs.

        Exactly, whatever the index leaves uncertain.
        """
        single = {one for name in names for one in (name[1:] if name[0] == "a" else (name,))}
        pairs = [name for name in names if name[0] == "a"]
        counts = dict.fromkeys([*single, *pairs], (0, 0))
        for start in range(0, len(self.parts), _PARTS_AT_ONCE):
            parts = self.parts[start : start + _PARTS_AT_ONCE]
            facts = self._population.facts(parts, single)
            for pair in pairs:
                facts[pair] = [one & other for one, other in zip(facts[pair[1]], facts[pair[2]])]
            for name, sets in facts.items():
                before, more = counts[name], self._measured(sets, parts)
                counts[name] = before[0] + more[0], before[1] + more[1]
        return counts

    def cells(self, cuts: Mapping[Name, Cuts]) -> dict[Name, CellCounts]:
        """Where the numbers of some fields lie."""
        found = {name: CellCounts() for name in cuts}
        for part in self.parts:
            for name, cells in part.cells(cuts).items():
                counts = found[name]
                counts.several |= cells.high is not cells.low
                _add(counts.base, cells.base_counts(part.base))
                _add(counts.target, cells.counts(part.target))
        return found


def _add(totals: Histograms, more: Histograms) -> None:
    for total, histogram in zip(totals, more):
        for cell, count in histogram.items():
            total[cell] = total.get(cell, 0) + count


class Sessions(Traces):
    """Counts sessions: those of which some trace matches, or all do."""

    def __init__(self, population: Population, plpy: Any, schema: str, every: bool) -> None:
        self._traces = Traces(population)
        self._space = _space(population, plpy, schema, every)
        #: The sessions of the target.
        self._target = self._space.set_of([part.target for part in population.parts])
        super().__init__(population, self._space.as_parts(self._target))

    def opaque(self, items: Iterable[int]) -> dict[int, tuple[int, int]]:
        # Whether the traces concerned are those of the target's sessions is left open.
        found = self._traces.opaque(items)
        return {item: (2 * base, base) for item, (base, _) in found.items()}

    def matching(self, node: tree.Node) -> tuple[int, int]:
        return self._counts(self._space.set_of(self._population.matching(node, self._traces.parts)))

    def _counts(self, sessions: int) -> tuple[int, int]:
        return bitmaps.count(sessions), bitmaps.count(sessions & self._target)

    def near_identical(
        self, pairs: Mapping[tuple[Name, Name], tuple[int, int]]
    ) -> set[tuple[Name, Name]]:
        names = {name for pair in pairs for name in pair}
        single = [name for name in names if name[0] != "a"]
        of_parts = [self._population.sets(part, single) for part in self.parts]
        sets = {name: self._space.joined([own.get(name, 0) for own in of_parts]) for name in single}
        # Both facts of a pair are had by the same trace.
        both = [name[1:] for name in names if name[0] == "a"]
        sets.update({("a", *pair): bits for pair, bits in zip(both, self._both(both))})
        met = {pair: bitmaps.count(sets[pair[0]] & sets[pair[1]]) for pair in pairs}
        return self._near_identical(pairs, met)

    def both(self, pairs: Sequence[tuple[Name, Name]]) -> Iterator[tuple[int, int]]:
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            yield from map(self._counts, self._both(pairs[start : start + _PAIRS_AT_ONCE]))

    def _both(self, pairs: Sequence[tuple[Name, Name]]) -> list[int]:
        """The sessions of traces with both of two facts."""
        names = {name for pair in pairs for name in pair}
        of_parts = []
        for part in self._traces.parts if pairs else ():
            sets = self._population.sets(part, names)
            of_parts.append([sets.get(one, 0) & sets.get(other, 0) for one, other in pairs])
        return self._space.sets_of(of_parts)

    def screen(self) -> Traces:
        return self  # some traces of many sessions would tell nothing


def _space(population: Population, plpy: Any, schema: str, every: bool) -> Space:
    """The sessions of a base; those of indexed traces are kept."""
    indexed: list[Indexed] = Watched(plpy)
    indexed += [part for part in population.parts if isinstance(part, Indexed)]
    others = [part for part in population.parts if not isinstance(part, Indexed)]
    numbers = Numbers()
    lasting = _of_blocks(population, numbers.generation, indexed, every) if indexed else None
    columns = [_looked_up(plpy, schema, part, numbers) for part in others]
    if lasting is None:
        return Space(others, columns, every)
    return Enlarged(lasting, others, columns, every) if others else lasting


def _of_blocks(
    population: Population, generation: int, parts: Sequence[Indexed], every: bool
) -> Space:
    """The sessions of indexed traces, by numbers of a generation."""
    key = ("space", every, generation, tuple([(part.block.block, part.base) for part in parts]))
    for known in CACHE.columns(key).values():
        if isinstance(known, Kept):
            return known.space
    assert population.index is not None
    numbers = SessionsOfBlocks(population.index).numbers(
        [part.block for part in parts], [part.base for part in parts]
    )
    space = Space(parts, numbers, every)
    space.as_parts(0)
    size = space.size_with(len(population.series()))
    CACHE.keep(key, {parts[0].block.block: Kept(space, size)})
    return space


class Kept(NamedTuple):
    """Sessions that are kept from one call to the next."""

    space: Space
    nbytes: int


def _looked_up(plpy: Any, schema: str, part: Part, numbers: Numbers) -> Sequence[int]:
    """The number of the session at each position; 0: none."""
    (row,) = plans.run(
        plpy,
        "select pg_catalog.array_agg(u.n - 1) as positions,"
        " pg_catalog.array_agg(t.session_id) as sessions"
        " from pg_catalog.unnest($1) with ordinality as u (trace_id, n)"
        f" join {schema}.trace_info t on t.request_id = u.trace_id"
        " where t.session_id is not null",
        ("text[]",),
        (list(part.trace_ids()),),
    )
    column = array("i", bytes(4 * part.used))
    given = numbers.all_numbers(row["sessions"] or ())
    for position, number in zip(row["positions"] or (), given):
        column[position] = number
    return column
''',
"insights_engine.values": r'''"""The values of any field, from MLflow's tables: for what the index cannot list.

What counts as a value is what the raw predicate compares (rawsql.py), so that the
traces with a value are those that a filter for the value finds.
"""

from __future__ import annotations

import json
from typing import Optional

from insights_engine import fields, rawsql, tree
from insights_engine.attributes import storable
from insights_engine.rawsql import SESSION, SOURCE_RUN, TOKEN_USAGE, TRACE_NAME, USER
from insights_engine.statement import Statement

#: Fields of integers; their numbers are compared exactly, all others as doubles.
WHOLE = fields.INTEGER_FIELDS


def is_whole(field: tree.Field) -> bool:
    """Whether the field holds integers only."""
    return isinstance(field, tree.TraceNumber) and field.name in WHOLE


def is_single(field: tree.Field) -> bool:
    """Whether a trace has one value at the most."""
    if isinstance(field, tree.TraceText):
        return field.name not in ("run_id", "prompt")
    return isinstance(field, (tree.TraceNumber, tree.Tag, tree.Metadata))


def number_type(field: tree.Field) -> str:
    """The type of the column ``number`` of `pairs`."""
    return "numeric" if is_whole(field) else "float8"


def pairs(
    statement: Statement,
    field: tree.Field,
    traces: str,
    *,
    numbers: bool = True,
    nulls: bool = False,
) -> str:
    """A query for (request_id, session_id, value, number) of the traces of a subquery.

    A trace has a row for each of its values, perhaps several times.  ``traces`` gives
    rows of trace_info.  ``value`` is text, of assessments their stored JSON; ``number``
    is NULL where the value is none, or without ``numbers``.  With ``nulls`` there are
    rows for what is there without a value, such as a tag that is NULL.
    """
    schema = statement.schema
    add = statement.params.add
    cast = number_type(field)
    source, value, number = "", "", ""
    if isinstance(field, tree.TraceNumber):
        if field.name == "span_count":
            source = (
                f"cross join lateral (select count(*) as n from {schema}.spans s"
                " where s.trace_id = m.request_id and s.experiment_id = m.experiment_id) v"
            )
            value, number = "v.n::text", "v.n::numeric"
        elif field.name == "end_time_ms":
            number = "(m.timestamp_ms::numeric + coalesce(m.execution_time_ms, 0))"
            value = f"{number}::text"
        else:
            value, number = f"m.{field.name}::text", f"m.{field.name}::{cast}"
    elif isinstance(field, tree.SpanNumber):
        source = _spans(schema)
        number = "(s.duration_ns / 1e6::float8)"
        value = f"{number}::text"
    elif isinstance(field, tree.SpanText):
        source = _spans(schema)
        value = "nullif(s.content, '')" if field.name == "content" else f"s.{field.name}"
    elif isinstance(field, tree.SpanAttribute):
        source = _spans(schema) + _having(statement, field)
        path = add(list(field.path), "text[]")
        value = f"insights.span_attribute(s.content, {path})"
        number = f"insights.span_attribute_number(s.content, {path})"
    elif isinstance(field, tree.Assessment):
        source = _assessments(statement, field)
        value = "v.value"
        number = "case when v.is_numeric_value then v.aggregate_value end"
    else:
        source, value = _texts(statement, field)
        if fields.may_hold_numbers(field):
            number = f"insights.text_number({value})"
    columns = f"{value} as value"
    columns += f", {number if numbers and number else 'null::' + cast} as number"
    keyed = isinstance(field, (tree.Tag, tree.Metadata, tree.Assessment))
    there = "" if nulls and keyed else f"\nwhere {value} is not null"
    return f"select m.request_id, m.session_id, {columns}\nfrom ({traces}) m {source}{there}"


def _having(statement: Statement, field: tree.SpanAttribute) -> str:
    """Spares decoding the contents in which the key cannot be."""
    fragments = rawsql._key_fragments(field.path)
    if not fragments:
        return ""
    compiler = rawsql._Compiler(statement.params, statement.schema, None, 0, "set")
    return f" and {compiler.contains([fragments])}"


def _spans(schema: str) -> str:
    return (
        f"join {schema}.spans s on s.trace_id = m.request_id and s.experiment_id = m.experiment_id"
    )


def _texts(statement: Statement, field: tree.Field) -> tuple[str, str]:
    """The join, and the value, of a field of the trace that holds texts."""
    schema = statement.schema
    add = statement.params.add
    key: Optional[tuple[str, str]] = None
    if isinstance(field, tree.Tag):
        if field.key == TRACE_NAME:
            return "", "m.trace_name"
        key = ("trace_tags", field.key)
    elif isinstance(field, tree.Metadata):
        if field.key == SESSION:
            return "", "m.session_id"
        if fields.is_usage(field):
            return "", _usage(field.key)
        key = ("trace_request_metadata", field.key)
    elif isinstance(field, tree.Issue):
        return (
            f"join {schema}.assessments v on v.trace_id = m.request_id"
            f" and v.assessment_type = {add('issue', 'text')}"
        ), "v.name"
    elif isinstance(field, tree.TraceText) and field.name == "user":
        key = ("trace_request_metadata", USER)
    if key is not None:
        return (
            f"join {schema}.{key[0]} v on v.request_id = m.request_id"
            f" and v.key = {add(key[1], 'text')}"
        ), "v.value"
    assert isinstance(field, tree.TraceText)
    if field.name == "prompt":
        return _linked(statement, "prompt_version"), "v.destination_id"
    if field.name == "run_id":
        return (
            "join (select k.request_id, k.value"
            f" from {schema}.trace_request_metadata k where k.key = {add(SOURCE_RUN, 'text')}"
            f" union all select e.source_id, e.destination_id from {schema}.entity_associations e"
            f" where e.source_type = {add('trace', 'text')}"
            f" and e.destination_type = {add('run', 'text')}) v (request_id, value)"
            " on v.request_id = m.request_id"
        ), "v.value"
    if field.name == "experiment_id":
        return "", "m.experiment_id::text"
    column, _ = rawsql._TEXT_COLUMNS[field.name]
    return "", f"m.{column}"


def _linked(statement: Statement, kind: str) -> str:
    add = statement.params.add
    return (
        f"join {statement.schema}.entity_associations v on v.source_id = m.request_id"
        f" and v.source_type = {add('trace', 'text')} and v.destination_type = {add(kind, 'text')}"
    )


def _assessments(statement: Statement, field: tree.Assessment) -> str:
    """The valid assessments of the trace itself, and those that cover its session."""
    schema = statement.schema
    kinds = ["feedback", "expectation"] if field.kind == "assessment" else [field.kind]
    add = statement.params.add
    wanted = (
        f"a.assessment_type = any({add(kinds, 'text[]')}) and a.name = {add(field.name, 'text')}"
        " and a.valid"
    )
    columns = "a.value, a.is_numeric_value, a.aggregate_value"
    scope = statement.scope().replace("t.", "c.")
    mark = add(f'"{SESSION}":', "text")
    return (
        "join lateral ("
        f"select {columns} from {schema}.assessments a where a.trace_id = m.request_id and {wanted}"
        f" union all select {columns} from {schema}.trace_info c"
        f" join {schema}.assessments a on a.trace_id = c.request_id"
        f" where c.session_id = m.session_id and {scope} and {wanted}"
        f" and pg_catalog.strpos(a.assessment_metadata, {mark}) > 0) v on true"
    )


#: Between the numbers of a synthesised value, as `_usage` gives them.
_SEPARATOR = " "


def _usage(key: str) -> str:
    """The columns of metadata that MLflow synthesises, as one text; '-' for none."""
    columns = [f"m.{column}" for column in rawsql._SYNTHESISED[key]]
    there = " or ".join(f"{column} is not null" for column in columns)
    parts = f" || '{_SEPARATOR}' || ".join(f"coalesce({column}::text, '-')" for column in columns)
    return f"(case when {there} then {parts} end)"


def shown(field: tree.Field, value: str) -> str:
    """What a value of `pairs` is in a filter."""
    if isinstance(field, tree.Assessment):
        return canonical(value)
    if fields.is_usage(field):
        assert isinstance(field, tree.Metadata)
        columns = rawsql._SYNTHESISED[field.key]
        parse = int if field.key == TOKEN_USAGE else float
        numbers = {
            column: parse(text)
            for column, text in zip(columns, value.split(_SEPARATOR))
            if text != "-"
        }
        return json.dumps(numbers)
    return value


def canonical(stored: str) -> str:
    """The text for which ``=`` finds an assessment stored as ``stored``.

    The raw predicate finds what is stored as the text, or as the JSON string of it.
    """
    if not stored.startswith('"'):
        return stored
    try:
        text = json.loads(stored)
    except (ValueError, RecursionError):
        return stored
    if not isinstance(text, str) or json.dumps(text) != stored:
        return stored
    # A text that PostgreSQL cannot hold can be in no filter.
    return text if storable(text) == text else stored
''',
"insights_engine.verify": r'''"""Proves that the index says what MLflow's tables say.

Everything is read in one snapshot.  The facts of each block's traces are collected
again and compared with its postings; pending traces, and those that borrow
assessments from pending ones, are left out, as readers do not ask the index
about them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, Optional

from insights_engine import bitmaps, cell_writer, plans, postings, stored_sessions
from insights_engine.candidates import Items
from insights_engine.errors import visible
from insights_engine.facts import Facts
from insights_engine.groups import Block
from insights_engine.rows import MARK, Placed, Reader

_CHUNK = 1_000
_PENDING = "select p.trace_id from insights.pending p"


class Problem(NamedTuple):
    """What is wrong, and with which trace, if with one."""

    trace_id: Optional[str]
    problem: str


def verify(plpy: Any, schema: str, limit: int) -> Iterator[Problem]:
    """Up to ``limit`` problems; none: the index is right."""
    return islice(_problems(plpy, schema), limit)


def _problems(plpy: Any, schema: str) -> Iterator[Problem]:
    (state,) = plans.run(
        plpy,
        "select s.built, s.trusted >= m.last_value as trusted"
        " from insights.missed m left join insights.state s on true",
    )
    if not state["built"]:
        yield Problem(None, "the index is not built")
    elif not state["trusted"]:
        yield Problem(None, "changes were missed since the index was built")
    yield from _membership(plpy, schema, bool(state["built"]))
    yield from _carriers(plpy, schema)
    yield from _vocabulary(plpy)
    sessions = _pending_sessions(plpy, schema)
    blocks = plans.run(
        plpy,
        "select b.block, b.experiment_id, b.used, b.live, b.live_count, b.first_ms, b.last_ms"
        " from insights.block b order by b.block",
    )
    items = Items()
    items.read(plpy)
    for row in blocks:
        yield from _Check(plpy, schema, row, sessions).problems()
        yield from _cells(plpy, items, Block({**row, "live": None}))


# ------------------------------------------------------------- whole tables


def _membership(plpy: Any, schema: str, built: bool) -> Iterator[Problem]:
    """Traces are in the index or pending, and nothing else is in the index."""
    if built:
        for row in _rows(
            plpy,
            f"select t.request_id as trace_id from {schema}.trace_info t"
            " where not exists (select from insights.trace i where i.trace_id = t.request_id)"
            f" and t.request_id not in ({_PENDING})",
        ):
            yield Problem(row["trace_id"], "is neither indexed nor pending")
    for row in _rows(
        plpy,
        "select i.trace_id from insights.trace i where not exists"
        f" (select from {schema}.trace_info t where t.request_id = i.trace_id)"
        f" and i.trace_id not in ({_PENDING})",
    ):
        yield Problem(row["trace_id"], "is indexed, but gone and not pending")
    for row in _rows(
        plpy,
        "select i.trace_id, i.block from insights.trace i"
        " where not exists (select from insights.block b where b.block = i.block)",
    ):
        yield Problem(row["trace_id"], f"is in block {row['block']}, which is not there")
    for table in ("cells", "sessions"):
        for row in _rows(
            plpy,
            f"select distinct c.block from insights.{table} c"
            " where not exists (select from insights.block b where b.block = c.block)",
        ):
            yield Problem(None, f"{table} of block {row['block']}, which is not there")
    for row in _rows(
        plpy,
        # From one block to the next by the index: there are thousands of postings in each.
        "with recursive found as ("
        " (select p.block from insights.posting p order by p.block limit 1)"
        " union all select n.block from found f cross join lateral ("
        "  select p.block from insights.posting p where p.block > f.block"
        "  order by p.block limit 1) n)"
        " select f.block from found f"
        " where not exists (select from insights.block b where b.block = f.block)",
    ):
        yield Problem(None, f"postings of block {row['block']}, which is not there")


def _cells(plpy: Any, items: Items, block: Block) -> Iterator[Problem]:
    """What is stored of the numbers of a block for discoveries."""
    try:
        for name in cell_writer.wrong(plpy, items, block):
            field = _named(*name[1:3]) + (f" of {visible(name[3], 100)}" if name[3] else "")
            yield Problem(None, f"block {block.block} has other cells than numbers of {field}")
    except (IndexError, TypeError, ValueError, zlib.error):
        yield Problem(None, f"cells of block {block.block} cannot be read")


def _carriers(plpy: Any, schema: str) -> Iterator[Problem]:
    for row in _rows(
        plpy,
        "select coalesce(k.trace_id, c.trace_id) as trace_id from insights.carrier k full join ("
        f" select t.request_id as trace_id, t.session_id from {schema}.trace_info t"
        " where t.session_id is not null and t.request_id in ("
        f"  select a.trace_id from {schema}.assessments a"
        f"  where pg_catalog.strpos(a.assessment_metadata, '{MARK}') > 0)) c"
        " on c.trace_id = k.trace_id"
        " where k.session_id is distinct from c.session_id"
        f" and coalesce(k.trace_id, c.trace_id) not in ({_PENDING})",
    ):
        yield Problem(row["trace_id"], "lends assessments to another session than is noted")


def _vocabulary(plpy: Any) -> Iterator[Problem]:
    for row in _rows(
        plpy,
        "select t.kind, t.key from insights.term t where t.role = 'v' group by t.kind, t.key"
        ' having count(*) > coalesce((select v."values" from insights.vocabulary v'
        " where v.kind = t.kind and v.key = t.key), 0)",
    ):
        yield Problem(None, f"{_named(row['kind'], row['key'])} has more values than counted")


def _pending_sessions(plpy: Any, schema: str) -> set[str]:
    """The sessions to which pending traces lend assessments, or did when indexed."""
    rows = _rows(
        plpy,
        f"select k.session_id from insights.carrier k where k.trace_id in ({_PENDING})"
        f" union select t.session_id from {schema}.trace_info t"
        f" join {schema}.assessments a on a.trace_id = t.request_id"
        f" where t.session_id is not null and t.request_id in ({_PENDING})"
        f" and pg_catalog.strpos(a.assessment_metadata, '{MARK}') > 0",
    )
    return {row["session_id"] for row in rows}


def _rows(plpy: Any, sql: str) -> Iterator[dict[str, Any]]:
    yield from plpy.cursor(sql)


# ------------------------------------------------------------------- a block


class _Check:
    """A block, its traces and what they should say."""

    def __init__(self, plpy: Any, schema: str, block: dict[str, Any], sessions: set[str]) -> None:
        self._plpy = plpy
        self._schema = schema
        self._block: int = block["block"]
        self._used: int = block["used"]
        self._row = block
        self._sessions = sessions
        self._traces = plans.run(
            plpy,
            "select i.trace_id, i.position, i.spans, i.assessments, t.experiment_id,"
            f" t.timestamp_ms, t.session_id, i.trace_id in ({_PENDING}) as pending"
            f" from insights.trace i left join {schema}.trace_info t on t.request_id = i.trace_id"
            " where i.block = $1 order by i.position",
            ("int",),
            (self._block,),
        )
        self._ids = {row["position"]: row["trace_id"] for row in self._traces}

    def problems(self) -> Iterator[Problem]:
        yield from self._places()
        placed = []
        for row in self._traces:
            # What is gone, or out of place, has been reported.
            if row["pending"] or row["experiment_id"] is None or row["position"] >= self._used:
                continue
            if row["session_id"] is not None and row["session_id"] in self._sessions:
                continue
            if row["experiment_id"] != self._row["experiment_id"]:
                yield Problem(row["trace_id"], "is in a block of another experiment")
                continue
            if not self._row["first_ms"] <= row["timestamp_ms"] <= self._row["last_ms"]:
                yield Problem(row["trace_id"], "began outside of its block's time")
            placed.append(Placed(row["position"], row["trace_id"], row["experiment_id"]))
        facts = Facts(postings.Stored(self._plpy, growing=False))
        yield from self._stored_sessions(placed)
        yield from self._rollups(facts, placed)
        yield from self._postings(facts, placed)

    def _places(self) -> Iterator[Problem]:
        live = bitmaps.decode(self._row["live"])
        if bitmaps.count(live) != self._row["live_count"]:
            yield Problem(None, f"block {self._block} counts its live positions wrongly")
        for position in bitmaps.positions(live):
            if position not in self._ids:
                yield Problem(None, f"block {self._block} has no trace at position {position}")
        for position, trace_id in self._ids.items():
            if not live >> position & 1 or position >= self._used:
                yield Problem(trace_id, f"is not live in block {self._block}")

    def _stored_sessions(self, placed: Sequence[Placed]) -> Iterator[Problem]:
        """Compares what is stored of sessions, if anything is."""
        of_trace = {row["trace_id"]: row["session_id"] for row in self._traces}
        for stored in stored_sessions.read(self._plpy, (self._block,)):
            ids = [None, *stored.ids]
            for trace in placed:
                place = stored.places[trace.position : trace.position + 1]
                if not place or place[0] >= len(ids) or ids[place[0]] != of_trace[trace.trace_id]:
                    yield Problem(trace.trace_id, "is stored with another session")

    def _rollups(self, facts: Facts, placed: Sequence[Placed]) -> Iterator[Problem]:
        """Collects the facts, and compares the rollups."""
        reader = Reader(self._plpy, self._schema)
        stored = {row["position"]: row for row in self._traces}
        for start in range(0, len(placed), _CHUNK):
            rollups = reader.collect(facts, placed[start : start + _CHUNK])
            for position, rollup in rollups.items():
                row = stored[position]
                # Its parts stand in the order in which the spans came, which may be any.
                if sorted((rollup.spans or "").split()) != sorted((row["spans"] or "").split()):
                    yield Problem(row["trace_id"], "has another rollup of its spans")
                if rollup.assessments != row["assessments"]:
                    yield Problem(row["trace_id"], "has another rollup of its assessments")

    def _postings(self, facts: Facts, placed: Sequence[Placed]) -> Iterator[Problem]:
        checked = 0
        for trace in placed:
            checked |= 1 << trace.position
        settled = postings.Settled(self._plpy, facts, growing=False)
        members = settled.members([postings.Extent(self._block, 0, self._used)])
        collected = {term: bitmaps.decode(stored) for _, term, stored in members}
        numbers = postings.look_up(self._plpy, list(collected))
        expected = {
            numbers[term]: (term, bits) for term, bits in collected.items() if term in numbers
        }
        for term, bits in collected.items():
            if term not in numbers:
                yield from self._at(bits, f"{_fact(term)} is not in the vocabulary")
        plan = self._plpy.prepare(
            "select p.term, p.members, t.term is not null as known, t.kind, t.key, t.signature,"
            " t.role::text as role, t.slot, t.value from insights.posting p"
            " left join insights.term t on t.term = p.term where p.block = $1",
            ["int"],
        )
        for row in self._plpy.cursor(plan, [self._block]):
            _, wanted = expected.pop(row["term"], (None, 0))
            try:
                stored = bitmaps.decode(row["members"])
            except (IndexError, ValueError, zlib.error):
                yield Problem(None, f"a posting of block {self._block} cannot be read")
                continue
            if not row["known"]:
                yield from self._at(stored & checked, f"has term {row['term']}, which is not there")
                continue
            term = (*(row[name] for name in ("kind", "key", "signature", "role", "slot", "value")),)
            yield from self._at(stored & checked & ~wanted, f"has wrongly {_fact(term)}")
            yield from self._at(wanted & ~stored, f"lacks {_fact(term)}")
        for term, wanted in expected.values():
            yield from self._at(wanted, f"lacks {_fact(term)}")

    def _at(self, bits: int, problem: str) -> Iterator[Problem]:
        for position in bitmaps.positions(bits):
            yield Problem(self._ids[position], problem)


_ROLES = {
    "v": "the value",
    "h": "the bucket",
    "p": "that it is there",
    "o": "that it is not captured, in respect",
    "n": "bit",
    "x": "differing bit",
}


def _named(kind: str, key: str) -> str:
    return visible(f"{kind} {key}" if key else kind, 100)


def _fact(term: tuple[Any, ...]) -> str:
    kind, key, signature, role, slot, value = term
    of = f" of signature {signature}" if signature else ""
    what = visible(value, 100) if role == "v" else "" if role == "p" else str(slot)
    return f"of {_named(kind, key)}{of} {_ROLES.get(role, role)} {what}".rstrip()
''',
"insights_engine.vocabulary": r'''"""What the index knows of a field: its values, its numbers, and what it did not capture."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Callable, NamedTuple, Optional, Union

from insights_engine import bitmaps, fields, plans, rawsql, tree
from insights_engine import values as values_of_fields
from insights_engine.cache import CACHE, Column
from insights_engine.groups import Block, Group, Terms, all_positions
from insights_engine.index_reader import Index
from insights_engine.slices import Series
from insights_engine.terms import (
    CONTENT,
    LONGEST_KEY,
    NUMBER,
    PARTS,
    SEPARATOR,
    SESSION,
    TEXT,
    hidden_slot_of,
)


class Vocabulary(NamedTuple):
    """The terms of a field."""

    #: By value: traces with one of these terms have it.
    values: dict[str, list[int]]
    #: Traces with one of these may have further values, ...
    unsure: Terms
    #: ... or further numbers.
    unsure_numbers: Terms
    #: The smallest and largest numbers of each trace.
    series: Sequence[Series]
    #: From the pattern of a number to the number as filters compare it.
    number: Callable[[int], Union[int, float]]
    #: Whether a trace has one value at the most.
    single: bool


def vocabulary_of(index: Index, field: tree.Field) -> Optional[Vocabulary]:
    """What the index knows of a field; None: its values are not in it."""
    found = _place(field)
    if found is None:
        return None
    kinds, key = found
    duration = isinstance(field, tree.SpanNumber)
    rows = plans.run(
        index.plpy,
        "select v.term, v.kind, v.role::text as role, v.signature, v.slot, v.value"
        " from insights.term v where v.kind = any($1) and v.key = $2"
        " and (not $3 or v.signature = 0 and v.value = '')",
        ("text[]", "text", "bool"),
        (list(kinds), key, duration),
    )
    values: dict[str, list[int]] = {}
    texts: list[int] = []
    numbers: list[int] = []
    slices: dict[tuple[str, int], tuple[dict[int, int], dict[int, int]]] = {}
    for row in rows:
        role, slot, term = row["role"], row["slot"], row["term"]
        if role == "v":
            values.setdefault(row["value"], []).append(term)
        elif role == "h" or (role == "o" and slot == TEXT):
            texts.append(term)
        elif role == "o" and slot == NUMBER:
            numbers.append(term)
        elif role in "nx":
            low, spread = slices.setdefault((row["kind"], row["signature"]), ({}, {}))
            (low if role == "n" else spread)[slot] = term
    lost = _lost(index, field)
    return Vocabulary(
        values,
        (*texts, *lost),
        (*numbers, *lost),
        [Series(low, spread) for low, spread in slices.values()],
        _number_of(field),
        values_of_fields.is_single(field),
    )


def _number_of(field: tree.Field) -> Callable[[int], Union[int, float]]:
    if isinstance(field, tree.SpanNumber):
        return lambda pattern: float(bitmaps.integer_of(pattern)) / 1e6
    if isinstance(field, tree.TraceNumber) and field.name in fields.INTEGER_FIELDS:
        return bitmaps.integer_of
    return bitmaps.double_of


def _place(field: tree.Field) -> Optional[tuple[Sequence[str], str]]:
    """The kinds and the key of a field's terms."""
    if isinstance(field, tree.TraceText):
        if field.name in ("trace_id", "experiment_id", "request_preview", "response_preview"):
            return None
        if field.name == "user":
            return ("metadata",), rawsql.USER
        if field.name in ("run_id", "prompt"):
            return (field.name.partition("_")[0],), ""
        return ("trace",), field.name
    if isinstance(field, tree.TraceNumber):
        return ("trace",), field.name
    if isinstance(field, tree.Tag):
        return (("trace",), "name") if field.key == rawsql.TRACE_NAME else (("tag",), field.key)
    if isinstance(field, tree.Metadata):
        if field.key == rawsql.SESSION:
            return ("trace",), "session_id"
        return None if fields.is_usage(field) else (("metadata",), field.key)
    if isinstance(field, tree.Assessment):
        both = ("feedback", "expectation")
        return both if field.kind == "assessment" else (field.kind,), field.name
    if isinstance(field, tree.Issue):
        return ("issue",), ""
    if isinstance(field, tree.SpanText):
        return None if field.name == "content" else (("span",), field.name)
    if isinstance(field, tree.SpanNumber):
        return ("span",), "duration"
    if any(SEPARATOR in step for step in field.path) or len(field.path[0]) > LONGEST_KEY:
        return None
    return ("attribute",), SEPARATOR.join(field.path)


def _lost(index: Index, field: tree.Field) -> Terms:
    """The terms of traces with values that stand under no key."""
    wanted: list[tuple[str, str, list[int]]] = []
    if isinstance(field, tree.Assessment):
        wanted.append(("trace", "assessments", [SESSION]))
    elif isinstance(field, tree.SpanAttribute):
        top = field.path[0]
        wanted.append(("attribute", "", [CONTENT, hidden_slot_of(top)]))
        if len(field.path) > 1:
            wanted.append(("attribute", top, [PARTS]))
    found: list[int] = []
    for kind, key, slots in wanted:
        rows = plans.run(
            index.plpy,
            "select v.term from insights.term v where v.kind = $1 and v.key = $2"
            " and v.role = 'o' and v.slot = any($3)",
            ("text", "text", "int[]"),
            (kind, key, slots),
        )
        found += (row["term"] for row in rows)
    return tuple(found)


# ------------------------------------------------------------------ of values


def value_column(index: Index, field: tree.Field, block: Block, terms: Terms) -> Sequence[int]:
    """By position the term of the value, 0 for none, of a field with one value at the most.

    A block's values never change, so they are kept for as long as there is room.
    """
    key = ("values", fields.spell(field))
    known: Optional[Column] = CACHE.columns(key).get(block.block)
    if known is not None:
        return known.numbers
    numbers = array("i", bytes(4 * block.used))
    for row in plans.run(
        index.plpy,
        "select p.term, p.members from insights.posting p where p.block = $1 and p.term = any($2)",
        ("int", "int[]"),
        (block.block, list(terms)),
    ):
        term = row["term"]
        for position in bitmaps.stored_positions(row["members"]):
            numbers[position] = term
    CACHE.keep(key, {block.block: Column(all_positions(block.used), numbers)})
    return numbers


# ------------------------------------------------------------------ of numbers


def distinct(group: Group, vocabulary: Vocabulary, within: int, known: set[Any], most: int) -> bool:
    """Adds the smallest and largest numbers of some traces, if no more than ``most`` are known.

    Gives up and says False as soon as there are more.
    """
    group.fetch(term for series in vocabulary.series for term in series.terms())
    for series in vocabulary.series:
        there = series.there(group) & within
        for slices in (series.lowest(group), series.highest(group)):
            patterns = _patterns(slices, there, most) if there else ()
            if patterns is None:
                return False
            known.update(vocabulary.number(pattern) for pattern in patterns)
            if len(known) > most:
                return False
    return True


def _patterns(slices: bitmaps.Slices, within: int, most: int) -> Optional[Iterable[int]]:
    """The different patterns of the members of a set; None if they are more than ``most``."""
    parts = {0: within}
    for bit in range(bitmaps.WIDTH - 1, -1, -1):
        members = slices.get(bit, 0)
        divided: dict[int, int] = {}
        for pattern, bits in parts.items():
            upper = bits & members
            if upper:
                divided[pattern | 1 << bit] = upper
            if upper != bits:
                divided[pattern] = bits & ~members
        parts = divided
        if len(parts) > most:
            return None
    return parts


def extremes(group: Group, vocabulary: Vocabulary, within: int) -> list[Any]:
    """Numbers of some traces, among them the smallest and the largest."""
    group.fetch(term for series in vocabulary.series for term in series.terms())
    found = []
    for series in vocabulary.series:
        there = series.there(group) & within
        if there:
            low = _extreme(series.lowest(group), there, largest=False)
            high = _extreme(series.highest(group), there, largest=True)
            found += [vocabulary.number(low), vocabulary.number(high)]
    return found


def _extreme(slices: bitmaps.Slices, within: int, largest: bool) -> int:
    """The pattern of the smallest or largest number of the members of a set."""
    pattern = 0
    for bit in range(bitmaps.WIDTH - 1, -1, -1):
        upper = within & slices.get(bit, 0)
        # Of the highest bit it is the other way round.
        wants = largest != (bit == bitmaps.WIDTH - 1)
        if upper and (wants or upper == within):
            pattern |= 1 << bit
            within = upper
        else:
            within &= ~upper
    return pattern
''',
}

import importlib.abc, importlib.machinery, linecache, sys

class Loader(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Compiles a module of the engine when it is first imported."""

    def find_spec(self, name, path=None, target=None):
        if name not in sources:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=self.is_package(name))

    def is_package(self, name):
        return name == "insights_engine"

    def get_source(self, name):
        return text(sources[name])

    def exec_module(self, module):
        name = module.__name__
        source = self.get_source(name)
        place = "<insights 3057b75c55f55fb7 " + name + ">"
        linecache.cache[place] = (len(source), None, source.splitlines(True), place)
        exec(compile(source, place, "exec", dont_inherit=True), module.__dict__)

# An engine from before an upgrade makes room: its modules, its finder, its api.
for name in [name for name in sys.modules if name.partition(".")[0] == "insights_engine"]:
    del sys.modules[name]
sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "engine", None) != "insights"]
for key in GD.pop("insights_engines", ()):
    GD.pop(key, None)

loader = Loader()
loader.engine = "insights"
sys.meta_path.insert(0, loader)
import insights_engine.api
GD["3057b75c55f55fb7"] = sys.modules["insights_engine.api"]
GD["insights_engines"] = ["3057b75c55f55fb7"]
$insights_engine$;

comment on function insights.load_engine() is
    'Loads the filter engine into this session; internal, called by the other functions';

revoke all on function insights.load_engine() from public;
grant execute on function insights.load_engine() to public;

-- sql/internal/accept.sql
-- Lets a row pass, or raises the problem that came instead of rows.  The only
-- place where this project raises a user's mistake: from here its CONTEXT shows
-- SQL, never Python.
create or replace function insights.accept(problem insights.problem) returns boolean
language plpgsql
stable
parallel safe
set search_path = pg_catalog, pg_temp
as $plpgsql$
begin
    if problem is null then
        return true;
    elsif problem.detail is null and problem.hint is null then
        raise exception using errcode = problem.sqlstate, message = problem.message;
    elsif problem.detail is null then
        raise exception using errcode = problem.sqlstate, message = problem.message,
            hint = problem.hint;
    elsif problem.hint is null then
        raise exception using errcode = problem.sqlstate, message = problem.message,
            detail = problem.detail;
    end if;
    raise exception using errcode = problem.sqlstate, message = problem.message,
        detail = problem.detail, hint = problem.hint;
end
$plpgsql$;

comment on function insights.accept(insights.problem) is
    'True where there is no problem; raises it where there is one';

revoke all on function insights.accept(insights.problem) from public;
grant execute on function insights.accept(insights.problem) to public;

-- sql/internal/run_build_batch.sql
create or replace function insights.run_build_batch(
    max_traces int,
    out indexed int,
    out done boolean,
    out busy boolean,
    out problem insights.problem
)
language plpython3u
volatile
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "3057b75c55f55fb7" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["3057b75c55f55fb7"].build_index(plpy, '@mlflow@', max_traces)
$python$;

comment on function insights.run_build_batch(int) is
    'build_batch without raising';

revoke all on function insights.run_build_batch(int) from public;

-- sql/internal/decode_json_text.sql
-- What json_text leaves over: escapes, objects, arrays, unusual numbers.
create or replace function insights.decode_json_text(value text) returns text
language plpython3u
immutable
strict
parallel safe
cost 500
as $python$
read = SD.get("read")
if read is None:
    """Reads values out of the JSON that MLflow stores: span content, assessments.

    This module uses nothing but the standard library and no other module of the
    engine, because its source is inlined into small PL/Python helper functions:
    those also run in parallel workers, which must not load the whole engine.
    For the same reason its annotations are valid without ``__future__`` imports.

    A span's ``content`` is the JSON text of ``Span.to_dict()``.  Its ``attributes``
    map each key to a string that again is JSON text (``"\\"gpt-4\\""``), or, from
    other writers, to a plain value.  Whatever cannot be read counts as missing.
    """

    import json
    import math
    import re
    from collections.abc import Sequence
    from typing import Any, Optional

    #: Stands for a value that is not there; JSON's null counts as missing too.
    MISSING = None

    # The decimal numbers that a text may consist of; float() alone would take
    # blanks, underscores, other scripts' digits, "nan" and "infinity" as well.
    _NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

    # What PostgreSQL's text cannot hold.
    _UNSTORABLE = re.compile("[\0\ud800-\udfff]")


    # json.loads() without its detours: the value that starts at an index, and where
    # it ends.  The settings are the same: NaN is a number, of equal keys the last counts.
    _scan = vars(json.JSONDecoder())["scan_once"]


    def loads(text: str, otherwise: Any = MISSING) -> Any:
        """What ``json.loads(text)`` gives, or ``otherwise`` where it fails.

        It fails with ValueError (not JSON, or an integer of more than 4,300 digits)
        and with RecursionError.
        """
        try:
            value, end = _scan(text, 0)
            if end == len(text):
                return value
        except (ValueError, RecursionError):
            return otherwise
        except StopIteration:  # blanks come first, or nothing that JSON knows
            pass
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return otherwise


    def storable(text: str) -> str:
        """``text`` with U+FFFD for each character that PostgreSQL cannot hold."""
        if text.isascii() and "\0" not in text:
            return text
        return _UNSTORABLE.sub("\ufffd", text)


    def attributes_of(content: str) -> Any:
        """The ``attributes`` of a span's content, ``{}`` where there are none."""
        span = loads(content)
        attributes = span.get("attributes") if isinstance(span, dict) else MISSING
        return attributes if isinstance(attributes, dict) else {}


    def remembered(memory: dict[str, Any], content: str) -> Any:
        """`attributes_of`, which ``memory`` keeps for another look at the same span."""
        last = memory.get("insights_span")
        if last is None or last[0] != content:
            last = memory["insights_span"] = (content, attributes_of(content))
        return last[1]


    def step_into(value: Any, path: Sequence[str]) -> Any:
        """The value under ``path``: keys of objects and decimal indexes of lists."""
        for step in path:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and step.isascii() and step.isdigit() and len(step) < 10:
                index = int(step)
                value = value[index] if index < len(value) else MISSING
            else:
                return MISSING
        return value


    def attribute_in(attributes: Any, path: Sequence[str]) -> Any:
        """The decoded value of one attribute, or of a part of it."""
        value = attributes.get(path[0])
        if isinstance(value, str):
            # What is not JSON is a text that is its own value.
            value = loads(value, value)
        return step_into(value, path[1:]) if len(path) > 1 else value


    def attribute(content: str, path: Sequence[str]) -> Any:
        """The decoded value under ``path`` of a span's content, or MISSING."""
        return attribute_in(attributes_of(content), path)


    def text_form(value: Any) -> Optional[str]:
        """A decoded value as text: strings as they are, all else as JSON prints it."""
        if value is MISSING:
            return None
        if not isinstance(value, str):
            try:
                value = json.dumps(value, ensure_ascii=False)
            except (ValueError, RecursionError):
                return None
        return storable(value)


    def number_form(value: Any) -> Optional[float]:
        """A decoded value as a finite number, or None.

        Numbers count, and strings that wholly read as a decimal number; booleans
        do not.
        """
        if isinstance(value, bool):
            return None
        if isinstance(value, str):
            if not _NUMBER.fullmatch(value):
                return None
        elif not isinstance(value, (int, float)):
            return None
        try:
            number = float(value)
        except OverflowError:  # an integer beyond every double
            return None
        return number if math.isfinite(number) else None

    def read(value):
        return text_form(loads(value))

    SD["read"] = read
return read(value)
$python$;

comment on function insights.decode_json_text(text) is
    'The text of a JSON value: a string without quotes and escapes, all else as JSON prints it; '
    'NULL for null and for what is not JSON';

revoke all on function insights.decode_json_text(text) from public;
grant execute on function insights.decode_json_text(text) to public;

-- sql/internal/experiment_ids.sql
-- The array that a text such as '1', '1,2' or '{1,2}' stands for.
--
-- Meant to be inlined, hence neither STRICT nor a SET clause; the body was
-- resolved when it was created.
create or replace function insights.experiment_ids(exp_ids text) returns text[]
language sql
immutable
parallel safe
return string_to_array(translate(exp_ids, '{}" ', ''), ',');

comment on function insights.experiment_ids(text) is
    'The array of experiment ids that a text such as ''1'', ''1,2'' or ''{1,2}'' stands for';

revoke all on function insights.experiment_ids(text) from public;
grant execute on function insights.experiment_ids(text) to public;

-- sql/internal/forget_noted.sql
-- Whoever takes notes away in a transaction that has written some (a refresh right
-- after a change) must not keep later changes from being noted.
create or replace function insights.forget_noted() returns trigger
language plpgsql
volatile
parallel unsafe
set search_path = pg_catalog, pg_temp
as $plpgsql$
begin
    perform set_config('insights.noted', '', true);
    return null;
end
$plpgsql$;

comment on function insights.forget_noted() is
    'Trigger: lets every trace be noted again, in this transaction';

revoke all on function insights.forget_noted() from public;

-- sql/internal/run_match_trace_ids.sql
create or replace function insights.run_match_trace_ids(
    exp_ids text[],
    filter text,
    trace_ids text[]
)
returns table (
    trace_id text,
    problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "3057b75c55f55fb7" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["3057b75c55f55fb7"].match_trace_ids(plpy, '@mlflow@', exp_ids, filter, trace_ids)
$python$;

comment on function insights.run_match_trace_ids(text[], text, text[]) is
    'match_trace_ids without raising';

revoke all on function insights.run_match_trace_ids(text[], text, text[]) from public;
grant execute on function insights.run_match_trace_ids(text[], text, text[]) to public;

-- sql/internal/may_read.sql
-- Whether the caller may read the index: exactly if it may read every row of all
-- of MLflow's tables that the index is made of.  False where one is missing.
--
-- Meant to be inlined, hence neither STRICT nor a SET clause; the body was
-- resolved when it was created.
create or replace function insights.may_read() returns boolean
language sql
stable
parallel safe
return coalesce(
    has_table_privilege(to_regclass('@mlflow@.trace_info'), 'select')
    and has_table_privilege(to_regclass('@mlflow@.spans'), 'select')
    and has_table_privilege(to_regclass('@mlflow@.trace_tags'), 'select')
    and has_table_privilege(to_regclass('@mlflow@.trace_request_metadata'), 'select')
    and has_table_privilege(to_regclass('@mlflow@.assessments'), 'select')
    and has_table_privilege(to_regclass('@mlflow@.entity_associations'), 'select')
    and not row_security_active(to_regclass('@mlflow@.trace_info'))
    and not row_security_active(to_regclass('@mlflow@.spans'))
    and not row_security_active(to_regclass('@mlflow@.trace_tags'))
    and not row_security_active(to_regclass('@mlflow@.trace_request_metadata'))
    and not row_security_active(to_regclass('@mlflow@.assessments'))
    and not row_security_active(to_regclass('@mlflow@.entity_associations')),
    false
);

comment on function insights.may_read() is
    'Whether the caller may read everything that the index is made of';

revoke all on function insights.may_read() from public;
grant execute on function insights.may_read() to public;

-- sql/internal/note_missed.sql
-- The only wait here is for somebody who alters the sequence, and it is short.  The
-- limit is here and not in the triggers because setting it takes as long as noting.
create or replace function insights.note_missed() returns void
language plpgsql
volatile
parallel unsafe
set search_path = pg_catalog, pg_temp
set lock_timeout = '1s'
as $plpgsql$
begin
    perform nextval('insights.missed');
end
$plpgsql$;

comment on function insights.note_missed() is
    'Counts a change that could not be noted; for the triggers only';

revoke all on function insights.note_missed() from public;

-- sql/internal/parallel_rows.sql
-- Runs a query of the engine's so that PostgreSQL may use parallel workers,
-- which it never does for the prepared plans of PL/Python.  Rows come as arrays
-- of text; the query finds its parameters in the array $1.
--
-- Where the tables are small, or nobody has counted them yet, the planner takes
-- every set for a row or two and joins them by nested loops, which then run for
-- minutes.  There hashing costs milliseconds at the most, so it has to hash.
--
-- The caller's rights apply, and a STABLE function can run no command that
-- writes: whoever calls this can do nothing that they could not do anyway.
create or replace function insights.parallel_rows(query text, args text[]) returns setof text[]
language plpgsql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
set extra_float_digits = 1
set enable_nestloop = on
as $plpgsql$
begin
    if exists (
        select from pg_class c
        where c.oid in ('@mlflow@.trace_info'::regclass, '@mlflow@.spans'::regclass)
        and c.relpages < 1000
    ) then
        -- Until the function returns, thanks to its SET clause.
        perform set_config('enable_nestloop', 'off', true);
    end if;
    return query execute query using args;
end
$plpgsql$;

comment on function insights.parallel_rows(text, text[]) is
    'Runs a query, in parallel where that pays, with its parameters in one array';

revoke all on function insights.parallel_rows(text, text[]) from public;
grant execute on function insights.parallel_rows(text, text[]) to public;

-- sql/internal/parse_number.sql
-- The numbers that PostgreSQL's own cast might refuse (see text_number): it
-- raises an error where Python's float() gives zero or infinity.
create or replace function insights.parse_number(value text) returns double precision
language plpython3u
immutable
strict
parallel safe
cost 300
as $python$
read = SD.get("read")
if read is None:
    """Reads values out of the JSON that MLflow stores: span content, assessments.

    This module uses nothing but the standard library and no other module of the
    engine, because its source is inlined into small PL/Python helper functions:
    those also run in parallel workers, which must not load the whole engine.
    For the same reason its annotations are valid without ``__future__`` imports.

    A span's ``content`` is the JSON text of ``Span.to_dict()``.  Its ``attributes``
    map each key to a string that again is JSON text (``"\\"gpt-4\\""``), or, from
    other writers, to a plain value.  Whatever cannot be read counts as missing.
    """

    import json
    import math
    import re
    from collections.abc import Sequence
    from typing import Any, Optional

    #: Stands for a value that is not there; JSON's null counts as missing too.
    MISSING = None

    # The decimal numbers that a text may consist of; float() alone would take
    # blanks, underscores, other scripts' digits, "nan" and "infinity" as well.
    _NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

    # What PostgreSQL's text cannot hold.
    _UNSTORABLE = re.compile("[\0\ud800-\udfff]")


    # json.loads() without its detours: the value that starts at an index, and where
    # it ends.  The settings are the same: NaN is a number, of equal keys the last counts.
    _scan = vars(json.JSONDecoder())["scan_once"]


    def loads(text: str, otherwise: Any = MISSING) -> Any:
        """What ``json.loads(text)`` gives, or ``otherwise`` where it fails.

        It fails with ValueError (not JSON, or an integer of more than 4,300 digits)
        and with RecursionError.
        """
        try:
            value, end = _scan(text, 0)
            if end == len(text):
                return value
        except (ValueError, RecursionError):
            return otherwise
        except StopIteration:  # blanks come first, or nothing that JSON knows
            pass
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return otherwise


    def storable(text: str) -> str:
        """``text`` with U+FFFD for each character that PostgreSQL cannot hold."""
        if text.isascii() and "\0" not in text:
            return text
        return _UNSTORABLE.sub("\ufffd", text)


    def attributes_of(content: str) -> Any:
        """The ``attributes`` of a span's content, ``{}`` where there are none."""
        span = loads(content)
        attributes = span.get("attributes") if isinstance(span, dict) else MISSING
        return attributes if isinstance(attributes, dict) else {}


    def remembered(memory: dict[str, Any], content: str) -> Any:
        """`attributes_of`, which ``memory`` keeps for another look at the same span."""
        last = memory.get("insights_span")
        if last is None or last[0] != content:
            last = memory["insights_span"] = (content, attributes_of(content))
        return last[1]


    def step_into(value: Any, path: Sequence[str]) -> Any:
        """The value under ``path``: keys of objects and decimal indexes of lists."""
        for step in path:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and step.isascii() and step.isdigit() and len(step) < 10:
                index = int(step)
                value = value[index] if index < len(value) else MISSING
            else:
                return MISSING
        return value


    def attribute_in(attributes: Any, path: Sequence[str]) -> Any:
        """The decoded value of one attribute, or of a part of it."""
        value = attributes.get(path[0])
        if isinstance(value, str):
            # What is not JSON is a text that is its own value.
            value = loads(value, value)
        return step_into(value, path[1:]) if len(path) > 1 else value


    def attribute(content: str, path: Sequence[str]) -> Any:
        """The decoded value under ``path`` of a span's content, or MISSING."""
        return attribute_in(attributes_of(content), path)


    def text_form(value: Any) -> Optional[str]:
        """A decoded value as text: strings as they are, all else as JSON prints it."""
        if value is MISSING:
            return None
        if not isinstance(value, str):
            try:
                value = json.dumps(value, ensure_ascii=False)
            except (ValueError, RecursionError):
                return None
        return storable(value)


    def number_form(value: Any) -> Optional[float]:
        """A decoded value as a finite number, or None.

        Numbers count, and strings that wholly read as a decimal number; booleans
        do not.
        """
        if isinstance(value, bool):
            return None
        if isinstance(value, str):
            if not _NUMBER.fullmatch(value):
                return None
        elif not isinstance(value, (int, float)):
            return None
        try:
            number = float(value)
        except OverflowError:  # an integer beyond every double
            return None
        return number if math.isfinite(number) else None

    read = SD["read"] = number_form
return read(value)
$python$;

comment on function insights.parse_number(text) is
    'The finite number that a text of any length wholly reads as, otherwise NULL';

revoke all on function insights.parse_number(text) from public;
grant execute on function insights.parse_number(text) to public;

-- sql/internal/run_compare.sql
create or replace function insights.run_compare(
    exp_ids text[],
    selection text,
    baseline text,
    kinds text[],
    min_support int,
    max_results int,
    fdr double precision,
    direction text,
    pairs boolean,
    restatements boolean,
    unit text
)
returns table (
    filter text,
    kind text,
    key text,
    value text,
    target_count bigint,
    fact_count bigint,
    joint_count bigint,
    total_count bigint,
    target_share double precision,
    other_share double precision,
    difference double precision,
    lift double precision,
    npmi double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    q_value double precision,
    test text,
    restates boolean,
    similar text[],
    tested bigint,
    screened_count bigint,
    problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "3057b75c55f55fb7" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["3057b75c55f55fb7"].compare(
    plpy, '@mlflow@', exp_ids, selection, baseline, kinds,
    min_support, max_results, fdr, direction, pairs, restatements, unit
)
$python$;

comment on function insights.run_compare(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) is
    'insights_compare without raising';

revoke all on function insights.run_compare(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) from public;
grant execute on function insights.run_compare(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) to public;

-- sql/internal/run_correlate.sql
create or replace function insights.run_correlate(
    exp_ids text[],
    filter1 text,
    filter2 text,
    base_filter text,
    unit text,
    out filter1_count bigint,
    out filter2_count bigint,
    out joint_count bigint,
    out total_count bigint,
    out npmi double precision,
    out npmi_smoothed double precision,
    out lift double precision,
    out phi double precision,
    out odds_ratio double precision,
    out odds_ratio_low double precision,
    out odds_ratio_high double precision,
    out p_value double precision,
    out test text,
    out problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "3057b75c55f55fb7" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["3057b75c55f55fb7"].correlate(
    plpy, '@mlflow@', exp_ids, filter1, filter2, base_filter, unit
)
$python$;

comment on function insights.run_correlate(text[], text, text, text, text) is
    'insights_correlate without raising';

revoke all on function insights.run_correlate(text[], text, text, text, text) from public;
grant execute on function insights.run_correlate(text[], text, text, text, text) to public;

-- sql/internal/run_correlation_matrix.sql
create or replace function insights.run_correlation_matrix(
    exp_ids text[],
    filters text[],
    base_filter text,
    unit text
)
returns table (
    filter1_number int,
    filter2_number int,
    filter1 text,
    filter2 text,
    filter1_count bigint,
    filter2_count bigint,
    joint_count bigint,
    total_count bigint,
    npmi double precision,
    npmi_smoothed double precision,
    lift double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    test text,
    problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "3057b75c55f55fb7" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["3057b75c55f55fb7"].correlation_matrix(
    plpy, '@mlflow@', exp_ids, filters, base_filter, unit
)
$python$;

comment on function insights.run_correlation_matrix(text[], text[], text, text) is
    'insights_correlation_matrix without raising';

revoke all on function insights.run_correlation_matrix(text[], text[], text, text) from public;
grant execute on function insights.run_correlation_matrix(text[], text[], text, text) to public;

-- sql/internal/run_count.sql
create or replace function insights.run_count(
    exp_ids text[],
    filter text,
    unit text,
    out result bigint,
    out problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "3057b75c55f55fb7" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["3057b75c55f55fb7"].count(plpy, '@mlflow@', exp_ids, filter, unit)
$python$;

comment on function insights.run_count(text[], text, text) is
    'insights_count without raising';

revoke all on function insights.run_count(text[], text, text) from public;
grant execute on function insights.run_count(text[], text, text) to public;

-- sql/internal/run_discover.sql
create or replace function insights.run_discover(
    exp_ids text[],
    target text,
    base_filter text,
    kinds text[],
    min_support int,
    max_results int,
    fdr double precision,
    direction text,
    pairs boolean,
    restatements boolean,
    unit text
)
returns table (
    filter text,
    kind text,
    key text,
    value text,
    target_count bigint,
    fact_count bigint,
    joint_count bigint,
    total_count bigint,
    target_share double precision,
    other_share double precision,
    difference double precision,
    lift double precision,
    npmi double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    q_value double precision,
    test text,
    restates boolean,
    similar text[],
    tested bigint,
    screened_count bigint,
    problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "3057b75c55f55fb7" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["3057b75c55f55fb7"].discover(
    plpy, '@mlflow@', exp_ids, target, base_filter, kinds,
    min_support, max_results, fdr, direction, pairs, restatements, unit
)
$python$;

comment on function insights.run_discover(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) is
    'insights_discover without raising';

revoke all on function insights.run_discover(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) from public;
grant execute on function insights.run_discover(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) to public;

-- sql/internal/run_explain.sql
-- VOLATILE because PostgreSQL runs EXPLAIN in no other; it changes nothing.
create or replace function insights.run_explain(
    exp_ids text[],
    filter text
)
returns table (
    step text,
    detail text,
    problem insights.problem
)
language plpython3u
volatile
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "3057b75c55f55fb7" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["3057b75c55f55fb7"].explain(plpy, '@mlflow@', exp_ids, filter)
$python$;

comment on function insights.run_explain(text[], text) is
    'insights_explain without raising';

revoke all on function insights.run_explain(text[], text) from public;
grant execute on function insights.run_explain(text[], text) to public;

-- sql/internal/run_facets.sql
create or replace function insights.run_facets(
    exp_ids text[],
    filter_text text,
    field text,
    max_results int,
    unit text
)
returns table (
    value text,
    low double precision,
    high double precision,
    filter text,
    count bigint,
    share double precision,
    problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "3057b75c55f55fb7" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["3057b75c55f55fb7"].facets(
    plpy, '@mlflow@', exp_ids, filter_text, field, max_results, unit
)
$python$;

comment on function insights.run_facets(text[], text, text, int, text) is
    'insights_facets without raising';

revoke all on function insights.run_facets(text[], text, text, int, text) from public;
grant execute on function insights.run_facets(text[], text, text, int, text) to public;

-- sql/internal/run_rebuild.sql
create or replace function insights.run_rebuild(
    batch_size int default 32000,
    out busy boolean,
    out problem insights.problem
)
language plpython3u
volatile
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "3057b75c55f55fb7" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["3057b75c55f55fb7"].start_over(plpy, batch_size)
$python$;

comment on function insights.run_rebuild(int) is
    'Marks the index as to be built anew, in batches of the size given; without raising';

revoke all on function insights.run_rebuild(int) from public;

-- sql/internal/run_refresh.sql
create or replace function insights.run_refresh(
    max_traces int,
    out indexed int,
    out removed int,
    out merged int,
    out pending int,
    out busy boolean,
    out problem insights.problem
)
language plpython3u
volatile
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "3057b75c55f55fb7" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["3057b75c55f55fb7"].refresh_index(plpy, '@mlflow@', max_traces)
$python$;

comment on function insights.run_refresh(int) is
    'insights_refresh without raising';

revoke all on function insights.run_refresh(int) from public;

-- sql/internal/run_search.sql
create or replace function insights.run_search(
    exp_ids text[],
    filter text,
    max_results int,
    order_by text[],
    page_token text
)
returns table (
    trace_id text,
    experiment_id text,
    timestamp_ms bigint,
    execution_time_ms bigint,
    status text,
    trace_name text,
    session_id text,
    request_preview text,
    response_preview text,
    tags jsonb,
    metadata jsonb,
    assessments jsonb,
    next_page_token text,
    problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "3057b75c55f55fb7" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["3057b75c55f55fb7"].search_traces(
    plpy, '@mlflow@', exp_ids, filter, max_results, order_by, page_token
)
$python$;

comment on function insights.run_search(text[], text, int, text[], text) is
    'insights_search without raising';

revoke all on function insights.run_search(text[], text, int, text[], text) from public;
grant execute on function insights.run_search(text[], text, int, text[], text) to public;

-- sql/internal/run_search_page.sql
-- One row, ids and all: returning them one by one, each with its problem, took longer.
create or replace function insights.run_search_page(
    exp_ids text[],
    filter text,
    max_results int,
    order_by text[],
    page_token text,
    page_offset int,
    out trace_ids text[],
    out next_page_token text,
    out problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "3057b75c55f55fb7" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["3057b75c55f55fb7"].search_page(
    plpy, '@mlflow@', exp_ids, filter, max_results, order_by, page_token, page_offset
)
$python$;

comment on function insights.run_search_page(text[], text, int, text[], text, int) is
    'The trace ids of search_page, without raising';

revoke all on function insights.run_search_page(text[], text, int, text[], text, int) from public;
grant execute on function insights.run_search_page(text[], text, int, text[], text, int) to public;

-- sql/internal/run_timeseries.sql
create or replace function insights.run_timeseries(
    exp_ids text[],
    filter text,
    bucket text,
    first_ms bigint,
    end_ms bigint,
    time_zone text,
    unit text,
    -- Arrays as texts, with an element for each bucket: PL/Python takes much longer for rows.
    out start_ms text,
    out matched text,
    out total text,
    out errors text,
    out p50_ms text,
    out p95_ms text,
    out p99_ms text,
    out tokens text,
    out cost text,
    out problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "3057b75c55f55fb7" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["3057b75c55f55fb7"].timeseries(
    plpy, '@mlflow@', exp_ids, filter, bucket, first_ms, end_ms, time_zone, unit
)
$python$;

comment on function insights.run_timeseries(text[], text, text, bigint, bigint, text, text) is
    'insights_timeseries without raising';

revoke all on function insights.run_timeseries(text[], text, text, bigint, bigint, text, text) from public;
grant execute on function insights.run_timeseries(text[], text, text, bigint, bigint, text, text) to public;

-- sql/internal/run_validate.sql
create or replace function insights.run_validate(
    filter text,
    out result text,
    out problem insights.problem
)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "3057b75c55f55fb7" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["3057b75c55f55fb7"].validate(plpy, filter)
$python$;

comment on function insights.run_validate(text) is
    'insights_validate without raising';

revoke all on function insights.run_validate(text) from public;
grant execute on function insights.run_validate(text) to public;

-- sql/internal/run_verify.sql
create or replace function insights.run_verify(max_problems int)
returns table (trace_id text, disagreement text, problem insights.problem)
language plpython3u
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
as $python$
if "3057b75c55f55fb7" not in GD:
    plpy.execute("select insights.load_engine()")
return GD["3057b75c55f55fb7"].verify_index(plpy, '@mlflow@', max_problems)
$python$;

comment on function insights.run_verify(int) is
    'insights_verify without raising';

revoke all on function insights.run_verify(int) from public;

-- sql/internal/span_attribute.sql
-- The text of a span attribute, decoded from the stored content.
--
-- Called for each candidate span, so it carries no SET clause (it runs no SQL)
-- and its COST keeps the planner from evaluating it before cheap conditions.
create or replace function insights.span_attribute(content text, path text[]) returns text
language plpython3u
immutable
strict
parallel safe
cost 1000
as $python$
read = SD.get("read")
if read is None:
    """Reads values out of the JSON that MLflow stores: span content, assessments.

    This module uses nothing but the standard library and no other module of the
    engine, because its source is inlined into small PL/Python helper functions:
    those also run in parallel workers, which must not load the whole engine.
    For the same reason its annotations are valid without ``__future__`` imports.

    A span's ``content`` is the JSON text of ``Span.to_dict()``.  Its ``attributes``
    map each key to a string that again is JSON text (``"\\"gpt-4\\""``), or, from
    other writers, to a plain value.  Whatever cannot be read counts as missing.
    """

    import json
    import math
    import re
    from collections.abc import Sequence
    from typing import Any, Optional

    #: Stands for a value that is not there; JSON's null counts as missing too.
    MISSING = None

    # The decimal numbers that a text may consist of; float() alone would take
    # blanks, underscores, other scripts' digits, "nan" and "infinity" as well.
    _NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

    # What PostgreSQL's text cannot hold.
    _UNSTORABLE = re.compile("[\0\ud800-\udfff]")


    # json.loads() without its detours: the value that starts at an index, and where
    # it ends.  The settings are the same: NaN is a number, of equal keys the last counts.
    _scan = vars(json.JSONDecoder())["scan_once"]


    def loads(text: str, otherwise: Any = MISSING) -> Any:
        """What ``json.loads(text)`` gives, or ``otherwise`` where it fails.

        It fails with ValueError (not JSON, or an integer of more than 4,300 digits)
        and with RecursionError.
        """
        try:
            value, end = _scan(text, 0)
            if end == len(text):
                return value
        except (ValueError, RecursionError):
            return otherwise
        except StopIteration:  # blanks come first, or nothing that JSON knows
            pass
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return otherwise


    def storable(text: str) -> str:
        """``text`` with U+FFFD for each character that PostgreSQL cannot hold."""
        if text.isascii() and "\0" not in text:
            return text
        return _UNSTORABLE.sub("\ufffd", text)


    def attributes_of(content: str) -> Any:
        """The ``attributes`` of a span's content, ``{}`` where there are none."""
        span = loads(content)
        attributes = span.get("attributes") if isinstance(span, dict) else MISSING
        return attributes if isinstance(attributes, dict) else {}


    def remembered(memory: dict[str, Any], content: str) -> Any:
        """`attributes_of`, which ``memory`` keeps for another look at the same span."""
        last = memory.get("insights_span")
        if last is None or last[0] != content:
            last = memory["insights_span"] = (content, attributes_of(content))
        return last[1]


    def step_into(value: Any, path: Sequence[str]) -> Any:
        """The value under ``path``: keys of objects and decimal indexes of lists."""
        for step in path:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and step.isascii() and step.isdigit() and len(step) < 10:
                index = int(step)
                value = value[index] if index < len(value) else MISSING
            else:
                return MISSING
        return value


    def attribute_in(attributes: Any, path: Sequence[str]) -> Any:
        """The decoded value of one attribute, or of a part of it."""
        value = attributes.get(path[0])
        if isinstance(value, str):
            # What is not JSON is a text that is its own value.
            value = loads(value, value)
        return step_into(value, path[1:]) if len(path) > 1 else value


    def attribute(content: str, path: Sequence[str]) -> Any:
        """The decoded value under ``path`` of a span's content, or MISSING."""
        return attribute_in(attributes_of(content), path)


    def text_form(value: Any) -> Optional[str]:
        """A decoded value as text: strings as they are, all else as JSON prints it."""
        if value is MISSING:
            return None
        if not isinstance(value, str):
            try:
                value = json.dumps(value, ensure_ascii=False)
            except (ValueError, RecursionError):
                return None
        return storable(value)


    def number_form(value: Any) -> Optional[float]:
        """A decoded value as a finite number, or None.

        Numbers count, and strings that wholly read as a decimal number; booleans
        do not.
        """
        if isinstance(value, bool):
            return None
        if isinstance(value, str):
            if not _NUMBER.fullmatch(value):
                return None
        elif not isinstance(value, (int, float)):
            return None
        try:
            number = float(value)
        except OverflowError:  # an integer beyond every double
            return None
        return number if math.isfinite(number) else None

    def read(content, path):
        return text_form(attribute_in(remembered(GD, content), path))

    SD["read"] = read
return read(content, path)
$python$;

comment on function insights.span_attribute(text, text[]) is
    'The decoded text of a span attribute, or of the part of it under the further keys of path; '
    'NULL where it is missing or the content is not JSON';

revoke all on function insights.span_attribute(text, text[]) from public;
grant execute on function insights.span_attribute(text, text[]) to public;

-- sql/internal/span_attribute_decimal.sql
-- The number in a span attribute as a decimal: as short as identifies the double
-- (0.1, not 0.1000000000000000055), for sums that depend on no order of the rows.
--
-- Called for each candidate span, so it carries no SET clause (it runs no SQL)
-- and its COST keeps the planner from evaluating it before cheap conditions.
create or replace function insights.span_attribute_decimal(content text, path text[])
returns numeric
language plpython3u
immutable
strict
parallel safe
cost 1000
as $python$
read = SD.get("read")
if read is None:
    """Reads values out of the JSON that MLflow stores: span content, assessments.

    This module uses nothing but the standard library and no other module of the
    engine, because its source is inlined into small PL/Python helper functions:
    those also run in parallel workers, which must not load the whole engine.
    For the same reason its annotations are valid without ``__future__`` imports.

    A span's ``content`` is the JSON text of ``Span.to_dict()``.  Its ``attributes``
    map each key to a string that again is JSON text (``"\\"gpt-4\\""``), or, from
    other writers, to a plain value.  Whatever cannot be read counts as missing.
    """

    import json
    import math
    import re
    from collections.abc import Sequence
    from typing import Any, Optional

    #: Stands for a value that is not there; JSON's null counts as missing too.
    MISSING = None

    # The decimal numbers that a text may consist of; float() alone would take
    # blanks, underscores, other scripts' digits, "nan" and "infinity" as well.
    _NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

    # What PostgreSQL's text cannot hold.
    _UNSTORABLE = re.compile("[\0\ud800-\udfff]")


    # json.loads() without its detours: the value that starts at an index, and where
    # it ends.  The settings are the same: NaN is a number, of equal keys the last counts.
    _scan = vars(json.JSONDecoder())["scan_once"]


    def loads(text: str, otherwise: Any = MISSING) -> Any:
        """What ``json.loads(text)`` gives, or ``otherwise`` where it fails.

        It fails with ValueError (not JSON, or an integer of more than 4,300 digits)
        and with RecursionError.
        """
        try:
            value, end = _scan(text, 0)
            if end == len(text):
                return value
        except (ValueError, RecursionError):
            return otherwise
        except StopIteration:  # blanks come first, or nothing that JSON knows
            pass
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return otherwise


    def storable(text: str) -> str:
        """``text`` with U+FFFD for each character that PostgreSQL cannot hold."""
        if text.isascii() and "\0" not in text:
            return text
        return _UNSTORABLE.sub("\ufffd", text)


    def attributes_of(content: str) -> Any:
        """The ``attributes`` of a span's content, ``{}`` where there are none."""
        span = loads(content)
        attributes = span.get("attributes") if isinstance(span, dict) else MISSING
        return attributes if isinstance(attributes, dict) else {}


    def remembered(memory: dict[str, Any], content: str) -> Any:
        """`attributes_of`, which ``memory`` keeps for another look at the same span."""
        last = memory.get("insights_span")
        if last is None or last[0] != content:
            last = memory["insights_span"] = (content, attributes_of(content))
        return last[1]


    def step_into(value: Any, path: Sequence[str]) -> Any:
        """The value under ``path``: keys of objects and decimal indexes of lists."""
        for step in path:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and step.isascii() and step.isdigit() and len(step) < 10:
                index = int(step)
                value = value[index] if index < len(value) else MISSING
            else:
                return MISSING
        return value


    def attribute_in(attributes: Any, path: Sequence[str]) -> Any:
        """The decoded value of one attribute, or of a part of it."""
        value = attributes.get(path[0])
        if isinstance(value, str):
            # What is not JSON is a text that is its own value.
            value = loads(value, value)
        return step_into(value, path[1:]) if len(path) > 1 else value


    def attribute(content: str, path: Sequence[str]) -> Any:
        """The decoded value under ``path`` of a span's content, or MISSING."""
        return attribute_in(attributes_of(content), path)


    def text_form(value: Any) -> Optional[str]:
        """A decoded value as text: strings as they are, all else as JSON prints it."""
        if value is MISSING:
            return None
        if not isinstance(value, str):
            try:
                value = json.dumps(value, ensure_ascii=False)
            except (ValueError, RecursionError):
                return None
        return storable(value)


    def number_form(value: Any) -> Optional[float]:
        """A decoded value as a finite number, or None.

        Numbers count, and strings that wholly read as a decimal number; booleans
        do not.
        """
        if isinstance(value, bool):
            return None
        if isinstance(value, str):
            if not _NUMBER.fullmatch(value):
                return None
        elif not isinstance(value, (int, float)):
            return None
        try:
            number = float(value)
        except OverflowError:  # an integer beyond every double
            return None
        return number if math.isfinite(number) else None

    def read(content, path):
        return number_form(attribute_in(remembered(GD, content), path))

    SD["read"] = read
return read(content, path)
$python$;

comment on function insights.span_attribute_decimal(text, text[]) is
    'A span attribute as span_attribute_number has it, as a decimal for exact sums';

revoke all on function insights.span_attribute_decimal(text, text[]) from public;
grant execute on function insights.span_attribute_decimal(text, text[]) to public;

-- sql/internal/span_attribute_number.sql
-- The number in a span attribute, decoded from the stored content.
--
-- Called for each candidate span, so it carries no SET clause (it runs no SQL)
-- and its COST keeps the planner from evaluating it before cheap conditions.
create or replace function insights.span_attribute_number(content text, path text[])
returns double precision
language plpython3u
immutable
strict
parallel safe
cost 1000
as $python$
read = SD.get("read")
if read is None:
    """Reads values out of the JSON that MLflow stores: span content, assessments.

    This module uses nothing but the standard library and no other module of the
    engine, because its source is inlined into small PL/Python helper functions:
    those also run in parallel workers, which must not load the whole engine.
    For the same reason its annotations are valid without ``__future__`` imports.

    A span's ``content`` is the JSON text of ``Span.to_dict()``.  Its ``attributes``
    map each key to a string that again is JSON text (``"\\"gpt-4\\""``), or, from
    other writers, to a plain value.  Whatever cannot be read counts as missing.
    """

    import json
    import math
    import re
    from collections.abc import Sequence
    from typing import Any, Optional

    #: Stands for a value that is not there; JSON's null counts as missing too.
    MISSING = None

    # The decimal numbers that a text may consist of; float() alone would take
    # blanks, underscores, other scripts' digits, "nan" and "infinity" as well.
    _NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

    # What PostgreSQL's text cannot hold.
    _UNSTORABLE = re.compile("[\0\ud800-\udfff]")


    # json.loads() without its detours: the value that starts at an index, and where
    # it ends.  The settings are the same: NaN is a number, of equal keys the last counts.
    _scan = vars(json.JSONDecoder())["scan_once"]


    def loads(text: str, otherwise: Any = MISSING) -> Any:
        """What ``json.loads(text)`` gives, or ``otherwise`` where it fails.

        It fails with ValueError (not JSON, or an integer of more than 4,300 digits)
        and with RecursionError.
        """
        try:
            value, end = _scan(text, 0)
            if end == len(text):
                return value
        except (ValueError, RecursionError):
            return otherwise
        except StopIteration:  # blanks come first, or nothing that JSON knows
            pass
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return otherwise


    def storable(text: str) -> str:
        """``text`` with U+FFFD for each character that PostgreSQL cannot hold."""
        if text.isascii() and "\0" not in text:
            return text
        return _UNSTORABLE.sub("\ufffd", text)


    def attributes_of(content: str) -> Any:
        """The ``attributes`` of a span's content, ``{}`` where there are none."""
        span = loads(content)
        attributes = span.get("attributes") if isinstance(span, dict) else MISSING
        return attributes if isinstance(attributes, dict) else {}


    def remembered(memory: dict[str, Any], content: str) -> Any:
        """`attributes_of`, which ``memory`` keeps for another look at the same span."""
        last = memory.get("insights_span")
        if last is None or last[0] != content:
            last = memory["insights_span"] = (content, attributes_of(content))
        return last[1]


    def step_into(value: Any, path: Sequence[str]) -> Any:
        """The value under ``path``: keys of objects and decimal indexes of lists."""
        for step in path:
            if isinstance(value, dict):
                value = value.get(step)
            elif isinstance(value, list) and step.isascii() and step.isdigit() and len(step) < 10:
                index = int(step)
                value = value[index] if index < len(value) else MISSING
            else:
                return MISSING
        return value


    def attribute_in(attributes: Any, path: Sequence[str]) -> Any:
        """The decoded value of one attribute, or of a part of it."""
        value = attributes.get(path[0])
        if isinstance(value, str):
            # What is not JSON is a text that is its own value.
            value = loads(value, value)
        return step_into(value, path[1:]) if len(path) > 1 else value


    def attribute(content: str, path: Sequence[str]) -> Any:
        """The decoded value under ``path`` of a span's content, or MISSING."""
        return attribute_in(attributes_of(content), path)


    def text_form(value: Any) -> Optional[str]:
        """A decoded value as text: strings as they are, all else as JSON prints it."""
        if value is MISSING:
            return None
        if not isinstance(value, str):
            try:
                value = json.dumps(value, ensure_ascii=False)
            except (ValueError, RecursionError):
                return None
        return storable(value)


    def number_form(value: Any) -> Optional[float]:
        """A decoded value as a finite number, or None.

        Numbers count, and strings that wholly read as a decimal number; booleans
        do not.
        """
        if isinstance(value, bool):
            return None
        if isinstance(value, str):
            if not _NUMBER.fullmatch(value):
                return None
        elif not isinstance(value, (int, float)):
            return None
        try:
            number = float(value)
        except OverflowError:  # an integer beyond every double
            return None
        return number if math.isfinite(number) else None

    def read(content, path):
        return number_form(attribute_in(remembered(GD, content), path))

    SD["read"] = read
return read(content, path)
$python$;

comment on function insights.span_attribute_number(text, text[]) is
    'A span attribute as a finite number: a JSON number, or a text that wholly reads as a decimal '
    'number; otherwise NULL';

revoke all on function insights.span_attribute_number(text, text[]) from public;
grant execute on function insights.span_attribute_number(text, text[]) to public;

-- sql/internal/try_commit.sql
-- A transaction block, or a function, around a procedure does not let it commit, which PostgreSQL
-- says in three words when it is too late.  There is no other way to ask than to try, and
-- PL/pgSQL cannot catch what comes of it: its exception blocks do not let commit either.
--
-- A procedure that commits can have no SET clause; it resolves no names.
create or replace procedure insights.try_commit(
    caller text,
    inout problem insights.problem
)
language plpython3u
as $python$
try:
    plpy.commit()
except plpy.spiexceptions.InvalidTransactionTermination:
    return ("25001", caller + " cannot run inside a transaction block",
            None, "It commits time and again. Call it by itself, with autocommit."),
return None,
$python$;

comment on procedure insights.try_commit(text, insights.problem) is
    'Commits, for a procedure that is going to; the problem says where it cannot';

revoke all on procedure insights.try_commit(text, insights.problem) from public;

-- sql/internal/build_batch.sql
-- A session may plan its statements while the index is still empty, and keep the plans:
-- they must use indexes nevertheless.
-- Indexes a database that had traces before, batch by batch: one transaction each,
-- until `done`.
create or replace function insights.build_batch(
    max_traces int default 32000,
    out indexed int,
    out done boolean,
    out busy boolean
)
language sql
volatile
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
set enable_seqscan = off
as $sql$
select insights.load_engine();
select r.indexed, r.done, r.busy
from insights.run_build_batch(max_traces) r
where insights.accept(r.problem)
$sql$;

comment on function insights.build_batch(int) is
    'Indexes the next traces while the index is being built; busy: another session writes the index';

revoke all on function insights.build_batch(int) from public;

-- sql/internal/json_text.sql
-- The decoded text of an assessment's stored JSON value.  The frequent cases
-- (plain strings, small integers, booleans) are settled without Python.
--
-- Meant to be inlined, hence neither STRICT nor a SET clause; the body was
-- resolved when it was created.
create or replace function insights.json_text(value text) returns text
language sql
immutable
parallel safe
return case
    when value ~ '^"[^"\\\x01-\x1f]*"$' then substr(value, 2, length(value) - 2)
    when value ~ '^(true|false|0|-?[1-9][0-9]{0,15})$' then value
    when value = 'null' then null
    else insights.decode_json_text(value)
end;

comment on function insights.json_text(text) is
    'The text of a JSON value: a string without quotes and escapes, all else as JSON prints it; '
    'NULL for null and for what is not JSON';

revoke all on function insights.json_text(text) from public;
grant execute on function insights.json_text(text) to public;

-- sql/internal/match_trace_ids.sql
create or replace function insights.match_trace_ids(
    exp_ids text[],
    filter text,
    trace_ids text[]
)
returns setof text
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select insights.load_engine();
select r.trace_id
from insights.run_match_trace_ids(exp_ids, filter, trace_ids) r
where insights.accept(r.problem)
$sql$;

comment on function insights.match_trace_ids(text[], text, text[]) is
    'Those of the given traces that match the filter, for the MLflow plugin';

revoke all on function insights.match_trace_ids(text[], text, text[]) from public;
grant execute on function insights.match_trace_ids(text[], text, text[]) to public;

-- sql/internal/note_request_id.sql
-- For tables that name the trace in request_id; the rules are in note_trace_id.
create or replace function insights.note_request_id() returns trigger
language plpgsql
volatile
parallel unsafe
security definer
set search_path = pg_catalog, pg_temp
as $plpgsql$
declare
    noted text;
begin
    if array[coalesce(new.request_id, old.request_id), coalesce(old.request_id, new.request_id)]::text[]
        <@ ('{' || current_setting('insights.noted', true) || '}')::text[]
    then
        return null;
    end if;

    lock table insights.pending in row exclusive mode nowait;
    insert into insights.pending (trace_id) values (coalesce(new.request_id, old.request_id));
    if old.request_id <> new.request_id then
        insert into insights.pending (trace_id) values (old.request_id);
    end if;
    -- Statements that go back and forth between some traces note each of them once;
    -- looking through a long list would take longer than noting.
    noted := current_setting('insights.noted', true);
    noted := set_config(
        'insights.noted',
        case when length(noted) between 1 and 1000 then noted || ',' else '' end
            || '"' || replace(replace(coalesce(new.request_id, old.request_id), '\', '\\'), '"', '\"') || '"',
        true
    );
    return null;
exception when others then
    begin
        perform insights.note_missed();
        return null;
    exception when others then
        return null;
    end;
end
$plpgsql$;

comment on function insights.note_request_id() is
    'Trigger: notes the trace of a changed row whose column request_id names it';

revoke all on function insights.note_request_id() from public;

-- sql/internal/note_source_id.sql
-- For entity_associations, where some of the sources are traces; the rules are in
-- note_trace_id.
create or replace function insights.note_source_id() returns trigger
language plpgsql
volatile
parallel unsafe
security definer
set search_path = pg_catalog, pg_temp
as $plpgsql$
declare
    noted text;
    old_id text;
    new_id text;
begin
    if old.source_type = 'trace' then
        old_id := old.source_id;
    end if;
    if new.source_type = 'trace' then
        new_id := new.source_id;
    end if;
    if coalesce(new_id, old_id) is null then
        return null;
    end if;
    if array[coalesce(new_id, old_id), coalesce(old_id, new_id)]
        <@ ('{' || current_setting('insights.noted', true) || '}')::text[]
    then
        return null;
    end if;

    lock table insights.pending in row exclusive mode nowait;
    insert into insights.pending (trace_id) values (coalesce(new_id, old_id));
    if old_id <> new_id then
        insert into insights.pending (trace_id) values (old_id);
    end if;
    -- Statements that go back and forth between some traces note each of them once;
    -- looking through a long list would take longer than noting.
    noted := current_setting('insights.noted', true);
    noted := set_config(
        'insights.noted',
        case when length(noted) between 1 and 1000 then noted || ',' else '' end
            || '"' || replace(replace(coalesce(new_id, old_id), '\', '\\'), '"', '\"') || '"',
        true
    );
    return null;
exception when others then
    begin
        perform insights.note_missed();
        return null;
    exception when others then
        return null;
    end;
end
$plpgsql$;

comment on function insights.note_source_id() is
    'Trigger: notes the trace that is the source of a changed association';

revoke all on function insights.note_source_id() from public;

-- sql/internal/note_trace_id.sql
-- Notes which trace a row of MLflow's belongs to that a statement has changed, and
-- nothing else.
--
-- The statement must never fail or wait because of it.  So it takes a lock only
-- where it can have it at once, and catches every error: what cannot be noted is
-- counted in insights.missed, which no transaction holds back and no rollback
-- undoes, and readers then leave the index alone.  What cannot even be counted is
-- let go: the sequence is then missing, and with it readers fail or do without
-- the index.  Only the user's own cancelling gets through, as it has to.
--
-- MLflow changes a trace by several statements of a transaction; one note of it is
-- enough, since nobody sees it before the transaction ends.  The setting
-- insights.noted lists what has been noted, the latest traces at least, as the
-- elements of an array are written.  It ends with the transaction, is rolled back
-- with its savepoints, and insights.forget_noted resets it.  Most calls end there, so
-- that is a single expression.
--
-- For each row, because a table of the rows that a statement has changed takes longer
-- to be made than these calls, and copies the contents of spans.  No WHEN and no
-- UPDATE OF: with these MLflow's migrations could neither drop the column nor change
-- its type.
--
-- SECURITY DEFINER because MLflow's role may write its own tables only.
create or replace function insights.note_trace_id() returns trigger
language plpgsql
volatile
parallel unsafe
security definer
set search_path = pg_catalog, pg_temp
as $plpgsql$
declare
    noted text;
begin
    if array[coalesce(new.trace_id, old.trace_id), coalesce(old.trace_id, new.trace_id)]::text[]
        <@ ('{' || current_setting('insights.noted', true) || '}')::text[]
    then
        return null;
    end if;

    lock table insights.pending in row exclusive mode nowait;
    insert into insights.pending (trace_id) values (coalesce(new.trace_id, old.trace_id));
    if old.trace_id <> new.trace_id then
        insert into insights.pending (trace_id) values (old.trace_id);
    end if;
    -- Statements that go back and forth between some traces note each of them once;
    -- looking through a long list would take longer than noting.
    noted := current_setting('insights.noted', true);
    noted := set_config(
        'insights.noted',
        case when length(noted) between 1 and 1000 then noted || ',' else '' end
            || '"' || replace(replace(coalesce(new.trace_id, old.trace_id), '\', '\\'), '"', '\"') || '"',
        true
    );
    return null;
exception when others then
    begin
        perform insights.note_missed();
        return null;
    exception when others then
        return null;
    end;
end
$plpgsql$;

comment on function insights.note_trace_id() is
    'Trigger: notes the trace of a changed row whose column trace_id names it';

revoke all on function insights.note_trace_id() from public;

-- sql/internal/note_truncate.sql
-- TRUNCATE shows no rows, so it counts as something missed.  It is not for
-- MLflow, which deletes traces by DELETE.
create or replace function insights.note_truncate() returns trigger
language plpgsql
volatile
parallel unsafe
security definer
set search_path = pg_catalog, pg_temp
as $plpgsql$
begin
    perform insights.note_missed();
    return null;
exception when others then
    return null;
end
$plpgsql$;

comment on function insights.note_truncate() is
    'Trigger: counts in insights.missed that a table was emptied';

revoke all on function insights.note_truncate() from public;

-- sql/internal/text_number.sql
-- The number that a text reads as.  Texts whose cast cannot leave the range of
-- double precision are cast right here, the others go to parse_number.
--
-- Meant to be inlined, hence neither STRICT nor a SET clause; the body was
-- resolved when it was created.
create or replace function insights.text_number(value text) returns double precision
language sql
immutable
parallel safe
return case
    when value ~ '^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$'
        then case
            when length(value) <= 100 and value !~ '[eE]' then value::double precision
            else insights.parse_number(value)
        end
end;

comment on function insights.text_number(text) is
    'The finite number that a text wholly reads as (12, -0.5, 1e3), otherwise NULL';

revoke all on function insights.text_number(text) from public;
grant execute on function insights.text_number(text) to public;

-- sql/internal/search_page.sql
-- What belongs to a trace comes as one JSON text, [tags, metadata, assessments], as
-- the tables have it: MLflow would read it in three statements and some thousand rows.
-- In PL/pgSQL, because that keeps the statement's plan from one call to the next.
create or replace function insights.search_page(
    exp_ids text[],
    filter text,
    max_results int default 100,
    order_by text[] default null,
    page_token text default null,
    page_offset int default null
)
returns table (
    trace_id text,
    attached text,
    next_page_token text
)
language plpgsql
stable
parallel unsafe
rows 100
set search_path = pg_catalog, pg_temp
set jit = off
as $plpgsql$
declare
    page record;
begin
    perform insights.load_engine();
    page := insights.run_search_page(
        exp_ids, filter, max_results, order_by, page_token, page_offset
    );
    perform insights.accept(page.problem);
    return query
    select
        i.trace_id,
        pg_catalog.json_build_array(
            (
                select pg_catalog.json_object_agg(g.key, g.value)
                from @mlflow@.trace_tags g
                where g.request_id = i.trace_id
            ),
            (
                select pg_catalog.json_object_agg(m.key, m.value)
                from @mlflow@.trace_request_metadata m
                where m.request_id = i.trace_id
            ),
            (
                -- Values alone, in the order that the plugin knows: names would be half
                -- of the text.  MLflow asks for no order of rows, and gets the table's.
                select pg_catalog.json_agg(
                    pg_catalog.json_build_array(
                        a.assessment_id, a.trace_id, a.name, a.assessment_type, a.value, a.error,
                        a.created_timestamp, a.last_updated_timestamp, a.source_type, a.source_id,
                        a.run_id, a.span_id, a.rationale, a.overrides, a.valid,
                        a.assessment_metadata
                    )
                    order by a.ctid
                )
                from @mlflow@.assessments a
                where a.trace_id = i.trace_id
            )
        )::text,
        page.next_page_token
    from pg_catalog.unnest(page.trace_ids) with ordinality i(trace_id, number)
    order by i.number;
end
$plpgsql$;

comment on function insights.search_page(text[], text, int, text[], text, int) is
    'insights_search for the MLflow plugin: trace ids and what is attached to the traces; '
    'page_offset stands for an offset token of stock MLflow';

revoke all on function insights.search_page(text[], text, int, text[], text, int) from public;
grant execute on function insights.search_page(text[], text, int, text[], text, int) to public;

-- sql/functions/insights_compare.sql
create or replace function @mlflow@.insights_compare(
    exp_ids text[],
    selection text,
    baseline text,
    kinds text[] default null,
    min_support int default 5,
    max_results int default 20,
    fdr double precision default 0.05,
    direction text default 'positive',
    pairs boolean default false,
    restatements boolean default false,
    unit text default 'trace'
)
returns table (
    filter text,
    kind text,
    key text,
    value text,
    target_count bigint,
    fact_count bigint,
    joint_count bigint,
    total_count bigint,
    target_share double precision,
    other_share double precision,
    difference double precision,
    lift double precision,
    npmi double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    q_value double precision,
    test text,
    restates boolean,
    similar text[],
    tested bigint,
    screened_count bigint
)
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select insights.load_engine();
select
    r.filter,
    r.kind,
    r.key,
    r.value,
    r.target_count,
    r.fact_count,
    r.joint_count,
    r.total_count,
    r.target_share,
    r.other_share,
    r.difference,
    r.lift,
    r.npmi,
    r.phi,
    r.odds_ratio,
    r.odds_ratio_low,
    r.odds_ratio_high,
    r.p_value,
    r.q_value,
    r.test,
    r.restates,
    r.similar,
    r.tested,
    r.screened_count
from insights.run_compare(
    exp_ids, selection, baseline, kinds, min_support, max_results, fdr, direction, pairs, restatements, unit
) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_compare(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) is
    'What sets a selection of traces apart from a baseline: a row per significant fact, as a filter to go on
with, the surest effect first.

- `exp_ids`: as in insights_count
- `selection`, `baseline`: two filters. Traces that match both count as selected, those that match neither are left out
- `kinds`: the kinds of facts to test: trace, tag, metadata, feedback, expectation, run, prompt, issue, span, attribute,
  number; NULL means all
- `min_support`: facts of fewer traces of the base are not tested
- `max_results`: rows at most, 1 to 50000
- `fdr`: the false discovery rate, above 0 and at most 1: the share of rows that may be chance
- `direction`: ''positive'' for facts that are more frequent in the selection, ''negative'' for rarer ones, ''both''
- `pairs`: conjunctions of two facts, too, where they go with it more strongly than each alone
- `restatements`: also facts about the fields that one of the two asks about
- `unit`: as in insights_count; ''session'' and ''session_all'' count sessions

The columns are those of insights_discover with the selection as target and the baseline as the rest: `target_share` is
the share of the fact in the selection, `other_share` that in the baseline. SQLSTATEs as there.';

revoke all on function @mlflow@.insights_compare(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) from public;
grant execute on function @mlflow@.insights_compare(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) to public;

-- The other two take the ids as numbers or as one text.  They have no SET clause
-- and name every object in full, so that they are inlined and cost nothing.

create or replace function @mlflow@.insights_compare(
    exp_ids int[],
    selection text,
    baseline text,
    kinds text[] default null,
    min_support int default 5,
    max_results int default 20,
    fdr double precision default 0.05,
    direction text default 'positive',
    pairs boolean default false,
    restatements boolean default false,
    unit text default 'trace'
)
returns table (
    filter text,
    kind text,
    key text,
    value text,
    target_count bigint,
    fact_count bigint,
    joint_count bigint,
    total_count bigint,
    target_share double precision,
    other_share double precision,
    difference double precision,
    lift double precision,
    npmi double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    q_value double precision,
    test text,
    restates boolean,
    similar text[],
    tested bigint,
    screened_count bigint
)
language sql
stable
parallel unsafe
as $sql$
select * from @mlflow@.insights_compare(
    exp_ids::pg_catalog.text[], selection, baseline, kinds, min_support, max_results, fdr, direction, pairs, restatements, unit
)
$sql$;

comment on function @mlflow@.insights_compare(int[], text, text, text[], int, int, double precision, text, boolean, boolean, text) is
    'As insights_compare of text[], with ids as numbers';

revoke all on function @mlflow@.insights_compare(int[], text, text, text[], int, int, double precision, text, boolean, boolean, text) from public;
grant execute on function @mlflow@.insights_compare(int[], text, text, text[], int, int, double precision, text, boolean, boolean, text) to public;

create or replace function @mlflow@.insights_compare(
    exp_ids text,
    selection text,
    baseline text,
    kinds text[] default null,
    min_support int default 5,
    max_results int default 20,
    fdr double precision default 0.05,
    direction text default 'positive',
    pairs boolean default false,
    restatements boolean default false,
    unit text default 'trace'
)
returns table (
    filter text,
    kind text,
    key text,
    value text,
    target_count bigint,
    fact_count bigint,
    joint_count bigint,
    total_count bigint,
    target_share double precision,
    other_share double precision,
    difference double precision,
    lift double precision,
    npmi double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    q_value double precision,
    test text,
    restates boolean,
    similar text[],
    tested bigint,
    screened_count bigint
)
language sql
stable
parallel unsafe
as $sql$
select * from @mlflow@.insights_compare(
    insights.experiment_ids(exp_ids), selection, baseline, kinds, min_support, max_results, fdr, direction, pairs, restatements, unit
)
$sql$;

comment on function @mlflow@.insights_compare(text, text, text, text[], int, int, double precision, text, boolean, boolean, text) is
    'As insights_compare of text[], with ids as one text: ''1'', ''1,2'' or ''{1,2}''';

revoke all on function @mlflow@.insights_compare(text, text, text, text[], int, int, double precision, text, boolean, boolean, text) from public;
grant execute on function @mlflow@.insights_compare(text, text, text, text[], int, int, double precision, text, boolean, boolean, text) to public;

-- sql/functions/insights_correlate.sql
-- PL/pgSQL, whose plans last for the session: planning the call anew took a third of it.
create or replace function @mlflow@.insights_correlate(
    exp_ids text[],
    f1 text,
    f2 text,
    base_filter text default null,
    unit text default 'trace'
)
returns table (
    filter1_count bigint,
    filter2_count bigint,
    joint_count bigint,
    total_count bigint,
    npmi double precision,
    npmi_smoothed double precision,
    lift double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    test text
)
language plpgsql
stable
parallel unsafe
rows 1
set search_path = pg_catalog, pg_temp
set jit = off
as $plpgsql$
#variable_conflict use_column
begin
    perform insights.load_engine();
    return query
    select
        r.filter1_count,
        r.filter2_count,
        r.joint_count,
        r.total_count,
        r.npmi,
        r.npmi_smoothed,
        r.lift,
        r.phi,
        r.odds_ratio,
        r.odds_ratio_low,
        r.odds_ratio_high,
        r.p_value,
        r.test
    from insights.run_correlate(exp_ids, f1, f2, base_filter, unit) r
    where insights.accept(r.problem);
end
$plpgsql$;

comment on function @mlflow@.insights_correlate(text[], text, text, text, text) is
    'How two filters go together among the traces of a base filter. One row.

- `exp_ids`, `unit`: as in insights_count. With unit ''session'' all counts are of sessions
- `f1`, `f2`: the filters
- `base_filter`: only its traces are looked at; conditions on spans that are joined to it by AND speak of one span

With n traces in all, n11 of them match both filters, n10 only the first, n01 only the second, and n00 neither:

- `filter1_count`, `filter2_count`, `joint_count`, `total_count`: n11 + n10, n11 + n01, n11 and n
- `npmi`: normalised pointwise mutual information as MLflow has it, to the last bit:
  log(n11 n / ((n11 + n10) (n11 + n01))) / -log(n11 / n). From -1 (never together) over 0 (independent) to 1 (only
  together)
- `npmi_smoothed`: the same after adding 0.5 to n11, n10, n01 and n00
- `lift`: n11 n / ((n11 + n10) (n11 + n01)), how many times as often together as by chance
- `phi`: (n11 n00 - n10 n01) / sqrt((n11 + n10) (n01 + n00) (n11 + n01) (n10 + n00)), Pearson''s correlation, from -1
  to 1
- `odds_ratio`: (n11 + 0.5) (n00 + 0.5) / ((n10 + 0.5) (n01 + 0.5)). 0.5 is always added (Haldane-Anscombe), which
  makes it nearly unbiased, and finite
- `odds_ratio_low`, `odds_ratio_high`: its 95 % bounds, odds_ratio * exp(-+1.96 s) with s the root of the sum of
  1 / (n.. + 0.5) over the four
- `p_value`: how probable an association at least this strong would be by chance, two-sided
- `test`: where it comes from. ''Fisher'', the exact test, if some expected count, such as (n11 + n10) (n11 + n01) / n,
  is below 100; ''G2'', the likelihood-ratio test without continuity correction, otherwise. insights_discover has
  the same rule

If a filter matches nothing, `npmi` and `npmi_smoothed` are NaN and `lift` is NULL. If it matches nothing or everything,
`phi`, the odds ratio, its bounds, `p_value` and `test` are NULL. SQLSTATE 22023 as in insights_count.';

revoke all on function @mlflow@.insights_correlate(text[], text, text, text, text) from public;
grant execute on function @mlflow@.insights_correlate(text[], text, text, text, text) to public;

-- The other two take the ids as numbers or as one text.  They have no SET clause
-- and name every object in full, so that they are inlined and cost nothing.

create or replace function @mlflow@.insights_correlate(
    exp_ids int[],
    f1 text,
    f2 text,
    base_filter text default null,
    unit text default 'trace'
)
returns table (
    filter1_count bigint,
    filter2_count bigint,
    joint_count bigint,
    total_count bigint,
    npmi double precision,
    npmi_smoothed double precision,
    lift double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    test text
)
language sql
stable
parallel unsafe
as $sql$
select * from @mlflow@.insights_correlate(exp_ids::pg_catalog.text[], f1, f2, base_filter, unit)
$sql$;

comment on function @mlflow@.insights_correlate(int[], text, text, text, text) is
    'As insights_correlate of text[], with ids as numbers';

revoke all on function @mlflow@.insights_correlate(int[], text, text, text, text) from public;
grant execute on function @mlflow@.insights_correlate(int[], text, text, text, text) to public;

create or replace function @mlflow@.insights_correlate(
    exp_ids text,
    f1 text,
    f2 text,
    base_filter text default null,
    unit text default 'trace'
)
returns table (
    filter1_count bigint,
    filter2_count bigint,
    joint_count bigint,
    total_count bigint,
    npmi double precision,
    npmi_smoothed double precision,
    lift double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    test text
)
language sql
stable
parallel unsafe
as $sql$
select *
from @mlflow@.insights_correlate(insights.experiment_ids(exp_ids), f1, f2, base_filter, unit)
$sql$;

comment on function @mlflow@.insights_correlate(text, text, text, text, text) is
    'As insights_correlate of text[], with ids as one text: ''1'', ''1,2'' or ''{1,2}''';

revoke all on function @mlflow@.insights_correlate(text, text, text, text, text) from public;
grant execute on function @mlflow@.insights_correlate(text, text, text, text, text) to public;

-- sql/functions/insights_correlation_matrix.sql
create or replace function @mlflow@.insights_correlation_matrix(
    exp_ids text[],
    filters text[],
    base_filter text default null,
    unit text default 'trace'
)
returns table (
    filter1_number int,
    filter2_number int,
    filter1 text,
    filter2 text,
    filter1_count bigint,
    filter2_count bigint,
    joint_count bigint,
    total_count bigint,
    npmi double precision,
    npmi_smoothed double precision,
    lift double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    test text
)
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select insights.load_engine();
select
    r.filter1_number,
    r.filter2_number,
    r.filter1,
    r.filter2,
    r.filter1_count,
    r.filter2_count,
    r.joint_count,
    r.total_count,
    r.npmi,
    r.npmi_smoothed,
    r.lift,
    r.phi,
    r.odds_ratio,
    r.odds_ratio_low,
    r.odds_ratio_high,
    r.p_value,
    r.test
from insights.run_correlation_matrix(exp_ids, filters, base_filter, unit) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_correlation_matrix(text[], text[], text, text) is
    'Each two of several filters as insights_correlate has them, found in one pass: a row per pair.

- `exp_ids`, `base_filter`, `unit`: as in insights_correlate
- `filters`: 2 to 50 filters; each may be NULL, which matches every trace
- `filter1_number`, `filter2_number`: the places of the two in the array, from 1; the first is the smaller
- `filter1`, `filter2`: the filters as they were given

The other columns are those of insights_correlate. SQLSTATE 22023 as in insights_count (the message names the number of
the filter), and for another number of filters.';

revoke all on function @mlflow@.insights_correlation_matrix(text[], text[], text, text) from public;
grant execute on function @mlflow@.insights_correlation_matrix(text[], text[], text, text) to public;

-- The others take the ids as numbers or as one text.  They have no SET
-- clause and name every object in full, so that they are inlined and cost nothing.

create or replace function @mlflow@.insights_correlation_matrix(
    exp_ids int[],
    filters text[],
    base_filter text default null,
    unit text default 'trace'
)
returns table (
    filter1_number int,
    filter2_number int,
    filter1 text,
    filter2 text,
    filter1_count bigint,
    filter2_count bigint,
    joint_count bigint,
    total_count bigint,
    npmi double precision,
    npmi_smoothed double precision,
    lift double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    test text
)
language sql
stable
parallel unsafe
as $sql$
select *
from @mlflow@.insights_correlation_matrix(exp_ids::pg_catalog.text[], filters, base_filter, unit)
$sql$;

comment on function @mlflow@.insights_correlation_matrix(int[], text[], text, text) is
    'As insights_correlation_matrix of text[], with ids as numbers';

revoke all on function @mlflow@.insights_correlation_matrix(int[], text[], text, text) from public;
grant execute on function @mlflow@.insights_correlation_matrix(int[], text[], text, text) to public;

create or replace function @mlflow@.insights_correlation_matrix(
    exp_ids text,
    filters text[],
    base_filter text default null,
    unit text default 'trace'
)
returns table (
    filter1_number int,
    filter2_number int,
    filter1 text,
    filter2 text,
    filter1_count bigint,
    filter2_count bigint,
    joint_count bigint,
    total_count bigint,
    npmi double precision,
    npmi_smoothed double precision,
    lift double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    test text
)
language sql
stable
parallel unsafe
as $sql$
select *
from @mlflow@.insights_correlation_matrix(
    insights.experiment_ids(exp_ids), filters, base_filter, unit
)
$sql$;

comment on function @mlflow@.insights_correlation_matrix(text, text[], text, text) is
    'As insights_correlation_matrix of text[], with ids as one text: ''1'', ''1,2'' or ''{1,2}''';

revoke all on function @mlflow@.insights_correlation_matrix(text, text[], text, text) from public;
grant execute on function @mlflow@.insights_correlation_matrix(text, text[], text, text) to public;

-- sql/functions/insights_count.sql
create or replace function @mlflow@.insights_count(
    exp_ids text[],
    filter text default null,
    unit text default 'trace'
)
returns bigint
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select insights.load_engine();
select r.result
from insights.run_count(exp_ids, filter, unit) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_count(text[], text, text) is
    'How many traces match a filter.

- `exp_ids`: the experiments; NULL means all, an empty array none
- `filter`: in the language of MLflow''s search_traces and more; NULL and '''' match every trace
- `unit`: what is counted. ''trace''; ''session'': the sessions of which some trace matches; ''session_all'': those of
  which all traces do, among the requested experiments. Traces without a session id belong to none. NULL is ''trace''

Exact, whatever the state of the index. SQLSTATE 22023 if the filter (DETAIL: the filter with a caret under the
place), an experiment id or the unit is wrong; the HINT says what to write.';

revoke all on function @mlflow@.insights_count(text[], text, text) from public;
grant execute on function @mlflow@.insights_count(text[], text, text) to public;

-- The other two take the ids as numbers or as one text.  They have no SET clause
-- and name every object in full, so that they are inlined and cost nothing.

create or replace function @mlflow@.insights_count(
    exp_ids int[],
    filter text default null,
    unit text default 'trace'
)
returns bigint
language sql
stable
parallel unsafe
as $sql$
select @mlflow@.insights_count(exp_ids::pg_catalog.text[], filter, unit)
$sql$;

comment on function @mlflow@.insights_count(int[], text, text) is
    'As insights_count of text[], with ids as numbers';

revoke all on function @mlflow@.insights_count(int[], text, text) from public;
grant execute on function @mlflow@.insights_count(int[], text, text) to public;

create or replace function @mlflow@.insights_count(
    exp_ids text,
    filter text default null,
    unit text default 'trace'
)
returns bigint
language sql
stable
parallel unsafe
as $sql$
select @mlflow@.insights_count(insights.experiment_ids(exp_ids), filter, unit)
$sql$;

comment on function @mlflow@.insights_count(text, text, text) is
    'As insights_count of text[], with ids as one text: ''1'', ''1,2'' or ''{1,2}''';

revoke all on function @mlflow@.insights_count(text, text, text) from public;
grant execute on function @mlflow@.insights_count(text, text, text) to public;

-- sql/functions/insights_discover.sql
create or replace function @mlflow@.insights_discover(
    exp_ids text[],
    target text,
    base_filter text default null,
    kinds text[] default null,
    min_support int default 5,
    max_results int default 20,
    fdr double precision default 0.05,
    direction text default 'positive',
    pairs boolean default false,
    restatements boolean default false,
    unit text default 'trace'
)
returns table (
    filter text,
    kind text,
    key text,
    value text,
    target_count bigint,
    fact_count bigint,
    joint_count bigint,
    total_count bigint,
    target_share double precision,
    other_share double precision,
    difference double precision,
    lift double precision,
    npmi double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    q_value double precision,
    test text,
    restates boolean,
    similar text[],
    tested bigint,
    screened_count bigint
)
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select insights.load_engine();
select
    r.filter,
    r.kind,
    r.key,
    r.value,
    r.target_count,
    r.fact_count,
    r.joint_count,
    r.total_count,
    r.target_share,
    r.other_share,
    r.difference,
    r.lift,
    r.npmi,
    r.phi,
    r.odds_ratio,
    r.odds_ratio_low,
    r.odds_ratio_high,
    r.p_value,
    r.q_value,
    r.test,
    r.restates,
    r.similar,
    r.tested,
    r.screened_count
from insights.run_discover(
    exp_ids, target, base_filter, kinds, min_support, max_results, fdr, direction, pairs, restatements, unit
) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_discover(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) is
    'What goes with a target: a row per significant fact of the traces, as a filter to go on with, the surest
effect first.

- `exp_ids`: as in insights_count
- `target`: the filter in question
- `base_filter`: only its traces are looked at, those of the target and others
- `kinds`: the kinds of facts to test: trace, tag, metadata, feedback, expectation, run, prompt, issue, span, attribute,
  number; NULL means all
- `min_support`: facts of fewer traces of the base are not tested
- `max_results`: rows at most, 1 to 50000
- `fdr`: the false discovery rate, above 0 and at most 1: the share of rows that may be chance
- `direction`: ''positive'' for facts that are more frequent in the target, ''negative'' for rarer ones, ''both''
- `pairs`: conjunctions of two facts, too, where they go with it more strongly than each alone
- `restatements`: also facts about the fields that the target asks about
- `unit`: as in insights_count; ''session'' and ''session_all'' count sessions

Every fact of the wanted kinds is counted exactly inside and outside of the target (beyond 400,000 traces those that
stand out in a sample) and tested:

- `filter`: the fact; insights_correlate(exp_ids, target, filter, base_filter) gives its counts
- `kind`, `key`, `value`: what it is about; `value` is NULL where it is that there is one
- `target_count`, `fact_count`, `joint_count`, `total_count`: traces of the base in the target, with the fact, with
  both, and all
- `target_share`, `other_share`: joint / target, and (fact - joint) / (total - target)
- `difference`: the first minus the second
- `lift`, `npmi`, `phi`, `odds_ratio`, `odds_ratio_low`, `odds_ratio_high`: as in insights_correlate
- `p_value`, `test`: as in insights_correlate; for the best of several thresholds ''best of N splits, ...'', with the
  search paid for in p
- `q_value`: the least false discovery rate that admits the row (Benjamini-Hochberg over all facts tested)
- `restates`: whether the fact merely restates the target
- `similar`: filters of near-identical facts (phi of 0.95 or more), which have no row of their own
- `tested`: how many facts were tested
- `screened_count`: among how many traces facts were sought: total_count, or fewer in a sample of very many

Rows are ordered by the lower bound of the odds ratio (''negative'': the upper bound ascending; ''both'': the bound nearer
to 1). A target of none or all of the traces has no rows. SQLSTATE 22023 as in insights_count, and for the options.';

revoke all on function @mlflow@.insights_discover(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) from public;
grant execute on function @mlflow@.insights_discover(text[], text, text, text[], int, int, double precision, text, boolean, boolean, text) to public;

-- The other two take the ids as numbers or as one text.  They have no SET clause
-- and name every object in full, so that they are inlined and cost nothing.

create or replace function @mlflow@.insights_discover(
    exp_ids int[],
    target text,
    base_filter text default null,
    kinds text[] default null,
    min_support int default 5,
    max_results int default 20,
    fdr double precision default 0.05,
    direction text default 'positive',
    pairs boolean default false,
    restatements boolean default false,
    unit text default 'trace'
)
returns table (
    filter text,
    kind text,
    key text,
    value text,
    target_count bigint,
    fact_count bigint,
    joint_count bigint,
    total_count bigint,
    target_share double precision,
    other_share double precision,
    difference double precision,
    lift double precision,
    npmi double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    q_value double precision,
    test text,
    restates boolean,
    similar text[],
    tested bigint,
    screened_count bigint
)
language sql
stable
parallel unsafe
as $sql$
select * from @mlflow@.insights_discover(
    exp_ids::pg_catalog.text[], target, base_filter, kinds, min_support, max_results, fdr, direction, pairs, restatements, unit
)
$sql$;

comment on function @mlflow@.insights_discover(int[], text, text, text[], int, int, double precision, text, boolean, boolean, text) is
    'As insights_discover of text[], with ids as numbers';

revoke all on function @mlflow@.insights_discover(int[], text, text, text[], int, int, double precision, text, boolean, boolean, text) from public;
grant execute on function @mlflow@.insights_discover(int[], text, text, text[], int, int, double precision, text, boolean, boolean, text) to public;

create or replace function @mlflow@.insights_discover(
    exp_ids text,
    target text,
    base_filter text default null,
    kinds text[] default null,
    min_support int default 5,
    max_results int default 20,
    fdr double precision default 0.05,
    direction text default 'positive',
    pairs boolean default false,
    restatements boolean default false,
    unit text default 'trace'
)
returns table (
    filter text,
    kind text,
    key text,
    value text,
    target_count bigint,
    fact_count bigint,
    joint_count bigint,
    total_count bigint,
    target_share double precision,
    other_share double precision,
    difference double precision,
    lift double precision,
    npmi double precision,
    phi double precision,
    odds_ratio double precision,
    odds_ratio_low double precision,
    odds_ratio_high double precision,
    p_value double precision,
    q_value double precision,
    test text,
    restates boolean,
    similar text[],
    tested bigint,
    screened_count bigint
)
language sql
stable
parallel unsafe
as $sql$
select * from @mlflow@.insights_discover(
    insights.experiment_ids(exp_ids), target, base_filter, kinds, min_support, max_results, fdr, direction, pairs, restatements, unit
)
$sql$;

comment on function @mlflow@.insights_discover(text, text, text, text[], int, int, double precision, text, boolean, boolean, text) is
    'As insights_discover of text[], with ids as one text: ''1'', ''1,2'' or ''{1,2}''';

revoke all on function @mlflow@.insights_discover(text, text, text, text[], int, int, double precision, text, boolean, boolean, text) from public;
grant execute on function @mlflow@.insights_discover(text, text, text, text[], int, int, double precision, text, boolean, boolean, text) to public;

-- sql/functions/insights_explain.sql
-- VOLATILE because PostgreSQL runs EXPLAIN in no other function; it changes nothing.
create or replace function @mlflow@.insights_explain(
    exp_ids text[],
    filter text default null
)
returns table (
    step text,
    detail text
)
language sql
volatile
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select insights.load_engine();
select
    r.step,
    r.detail
from insights.run_explain(exp_ids, filter) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_explain(text[], text) is
    'How a filter is understood and answered.

- `exp_ids`, `filter`: as in insights_count

A row says:

- `step`: ''filter'' (the canonical form), ''predicate'' (a part of it), ''index'' (whether it is used), ''vocabulary'',
  ''bounds'' (how many traces must match, and how many may), ''residue'' (of how many MLflow''s tables decide, pending ones
  included), ''left out'' (of how many the spans cannot be read, as they are archived), ''sql'' and
  ''parameter'' (the query that MLflow''s tables alone would answer), ''plan'' (PostgreSQL''s for it)
- `detail`: a line of text about it

It changes nothing, and is VOLATILE only because PostgreSQL runs EXPLAIN in no other function. SQLSTATE 22023 as in
insights_count.';

revoke all on function @mlflow@.insights_explain(text[], text) from public;
grant execute on function @mlflow@.insights_explain(text[], text) to public;

-- The other two take the ids as numbers or as one text.  They have no SET clause
-- and name every object in full, so that they are inlined and cost nothing.

create or replace function @mlflow@.insights_explain(
    exp_ids int[],
    filter text default null
)
returns table (
    step text,
    detail text
)
language sql
volatile
parallel unsafe
as $sql$
select * from @mlflow@.insights_explain(exp_ids::pg_catalog.text[], filter)
$sql$;

comment on function @mlflow@.insights_explain(int[], text) is
    'As insights_explain of text[], with ids as numbers';

revoke all on function @mlflow@.insights_explain(int[], text) from public;
grant execute on function @mlflow@.insights_explain(int[], text) to public;

create or replace function @mlflow@.insights_explain(
    exp_ids text,
    filter text default null
)
returns table (
    step text,
    detail text
)
language sql
volatile
parallel unsafe
as $sql$
select * from @mlflow@.insights_explain(insights.experiment_ids(exp_ids), filter)
$sql$;

comment on function @mlflow@.insights_explain(text, text) is
    'As insights_explain of text[], with ids as one text: ''1'', ''1,2'' or ''{1,2}''';

revoke all on function @mlflow@.insights_explain(text, text) from public;
grant execute on function @mlflow@.insights_explain(text, text) to public;

-- sql/functions/insights_facets.sql
create or replace function @mlflow@.insights_facets(
    exp_ids text[],
    filter text,
    field text,
    max_results int default 20,
    unit text default 'trace'
)
returns setof insights.facet
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select insights.load_engine();
select
    r.value,
    r.low,
    r.high,
    r.filter,
    r.count,
    r.share
from insights.run_facets(exp_ids, filter, field, max_results, unit) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_facets(text[], text, text, int, text) is
    'The values of a field among the traces that match a filter, most frequent first; or intervals of its
numbers in ascending order, once there are more different ones than `max_results`.

- `exp_ids`, `filter`, `unit`: as in insights_count
- `field`: any field of the language, such as ''tags.env'' or ''span.attributes.model''
- `max_results`: values or intervals at most, 1 to 1000

A row says:

- `value`: the value as text, or the interval; NULL in the last row, for traces without any
- `low`, `high`: of an interval, low <= x < high; of a number itself, twice; otherwise NULL
- `filter`: matches what the row counts, joined to the filter by AND; NULL if it would be longer than 64 KiB
- `count`: the matching traces that have the value; a trace of several values counts for each
- `share`: `count` over all matching traces

SQLSTATE 22023 as in insights_count, and for `field` and `max_results`.';

revoke all on function @mlflow@.insights_facets(text[], text, text, int, text) from public;
grant execute on function @mlflow@.insights_facets(text[], text, text, int, text) to public;

-- The others take the ids as numbers or as one text.  They have no SET
-- clause and name every object in full, so that they are inlined and cost nothing.

create or replace function @mlflow@.insights_facets(
    exp_ids int[],
    filter text,
    field text,
    max_results int default 20,
    unit text default 'trace'
)
returns setof insights.facet
language sql
stable
parallel unsafe
as $sql$
select * from @mlflow@.insights_facets(exp_ids::pg_catalog.text[], filter, field, max_results, unit)
$sql$;

comment on function @mlflow@.insights_facets(int[], text, text, int, text) is
    'As insights_facets of text[], with ids as numbers';

revoke all on function @mlflow@.insights_facets(int[], text, text, int, text) from public;
grant execute on function @mlflow@.insights_facets(int[], text, text, int, text) to public;

create or replace function @mlflow@.insights_facets(
    exp_ids text,
    filter text,
    field text,
    max_results int default 20,
    unit text default 'trace'
)
returns setof insights.facet
language sql
stable
parallel unsafe
as $sql$
select *
from @mlflow@.insights_facets(insights.experiment_ids(exp_ids), filter, field, max_results, unit)
$sql$;

comment on function @mlflow@.insights_facets(text, text, text, int, text) is
    'As insights_facets of text[], with ids as one text: ''1'', ''1,2'' or ''{1,2}''';

revoke all on function @mlflow@.insights_facets(text, text, text, int, text) from public;
grant execute on function @mlflow@.insights_facets(text, text, text, int, text) to public;

-- sql/functions/insights_rebuild.sql
-- Commits after every step, so that neither locks nor old versions of rows pile up;
-- meanwhile MLflow's tables answer.  What is interrupted goes on with the next call,
-- or with insights.build_batch.
--
-- A procedure that commits can have no SET clause, so every name is written in full.
create or replace procedure @mlflow@.insights_rebuild(batch_size int default 32000)
language plpgsql
as $plpgsql$
declare
    step record;
    problem insights.problem;
begin
    perform insights.load_engine();
    call insights.try_commit('insights_rebuild', problem);
    perform insights.accept(problem);
    loop
        select r.busy, insights.accept(r.problem) as accepted into step
        from insights.run_rebuild(batch_size) r;
        commit;
        exit when not step.busy;
        perform pg_catalog.pg_sleep(0.05);
    end loop;
    loop
        select b.done, b.busy into step from insights.build_batch(batch_size) b;
        commit;
        exit when step.done;
        if step.busy then
            perform pg_catalog.pg_sleep(0.05);
        end if;
    end loop;
end
$plpgsql$;

comment on procedure @mlflow@.insights_rebuild(int) is
    'Builds the index anew. Filters are answered all the while, but without the index.

- `batch_size`: traces a transaction

It commits batch by batch, so it has to be called with CALL outside of a transaction; interrupted, `insights index`
goes on, and another call begins anew. SQLSTATE 25001 in a transaction block, 22023 if `batch_size` is not positive.';

revoke all on procedure @mlflow@.insights_rebuild(int) from public;

-- sql/functions/insights_refresh.sql
-- A session may plan its statements while the index is still empty, and keep the plans:
-- they must use indexes nevertheless.
create or replace function @mlflow@.insights_refresh(
    max_traces int default 5000,
    out indexed int,
    out removed int,
    out merged int,
    out pending int,
    out busy boolean
)
language sql
volatile
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
set enable_seqscan = off
as $sql$
select insights.load_engine();
select r.indexed, r.removed, r.merged, r.pending, r.busy
from insights.run_refresh(max_traces) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_refresh(int) is
    'Indexes traces that have changed, in the caller''s transaction, and merges small blocks. It is what
pg_cron calls.

- `max_traces`: so many pending traces at most; those that share a session with them may come on top

A row says:

- `indexed`, `removed`: traces that were indexed anew, and that are gone from the index
- `merged`: blocks that were merged into others
- `pending`: changes that are still to be indexed; a million at most are counted
- `busy`: another session is at it, so nothing was done

SQLSTATE 22023 in a transaction that is not READ COMMITTED.';

revoke all on function @mlflow@.insights_refresh(int) from public;

-- sql/functions/insights_search.sql
create or replace function @mlflow@.insights_search(
    exp_ids text[],
    filter text default null,
    max_results int default 100,
    order_by text[] default null,
    page_token text default null
)
returns table (
    trace_id text,
    experiment_id text,
    request_time timestamptz,
    timestamp_ms bigint,
    execution_time_ms bigint,
    status text,
    trace_name text,
    session_id text,
    request_preview text,
    response_preview text,
    tags jsonb,
    metadata jsonb,
    assessments jsonb,
    next_page_token text
)
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select insights.load_engine();
select
    r.trace_id,
    r.experiment_id,
    -- NULL where the number is no time that PostgreSQL knows.
    case
        when r.timestamp_ms between -210866803200000 and 9224318015999000
            then to_timestamp(r.timestamp_ms / 1000.0)
    end,
    r.timestamp_ms,
    r.execution_time_ms,
    r.status,
    r.trace_name,
    r.session_id,
    r.request_preview,
    r.response_preview,
    r.tags,
    r.metadata,
    r.assessments,
    r.next_page_token
from insights.run_search(exp_ids, filter, max_results, order_by, page_token) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_search(text[], text, int, text[], text) is
    'The traces that match a filter, newest first or as `order_by` says, a page at a time.

- `exp_ids`, `filter`: as in insights_count
- `max_results`: rows of a page, 1 to 50000
- `order_by`: clauses such as ''timestamp_ms DESC'', ''tags.env'', ''feedback.quality desc'', of fields with one value a
  trace. Missing values come last in both directions; `timestamp_ms DESC` and `trace_id ASC` decide ties
- `page_token`: the `next_page_token` of the page before. It belongs to the same experiments, filter and order

A row is a trace as MLflow has it:

- `trace_id`, `experiment_id`, `trace_name`, `session_id`, `status`
- `request_time`, `timestamp_ms`: when it began; the former is NULL if that is no time that PostgreSQL knows
- `execution_time_ms`: how long it took, in milliseconds
- `request_preview`, `response_preview`: the first characters of input and output
- `tags`, `metadata`: objects of texts
- `assessments`: an array of objects, those of the trace itself
- `next_page_token`: the same in each row; NULL on the last page

SQLSTATE 22023 as in insights_count, and for `max_results`, `order_by` and `page_token`.';

revoke all on function @mlflow@.insights_search(text[], text, int, text[], text) from public;
grant execute on function @mlflow@.insights_search(text[], text, int, text[], text) to public;

-- The other two take the ids as numbers or as one text.  They have no SET clause
-- and name every object in full, so that they are inlined and cost nothing.

create or replace function @mlflow@.insights_search(
    exp_ids int[],
    filter text default null,
    max_results int default 100,
    order_by text[] default null,
    page_token text default null
)
returns table (
    trace_id text,
    experiment_id text,
    request_time timestamptz,
    timestamp_ms bigint,
    execution_time_ms bigint,
    status text,
    trace_name text,
    session_id text,
    request_preview text,
    response_preview text,
    tags jsonb,
    metadata jsonb,
    assessments jsonb,
    next_page_token text
)
language sql
stable
parallel unsafe
as $sql$
select *
from @mlflow@.insights_search(
    exp_ids::pg_catalog.text[], filter, max_results, order_by, page_token
)
$sql$;

comment on function @mlflow@.insights_search(int[], text, int, text[], text) is
    'As insights_search of text[], with ids as numbers';

revoke all on function @mlflow@.insights_search(int[], text, int, text[], text) from public;
grant execute on function @mlflow@.insights_search(int[], text, int, text[], text) to public;

create or replace function @mlflow@.insights_search(
    exp_ids text,
    filter text default null,
    max_results int default 100,
    order_by text[] default null,
    page_token text default null
)
returns table (
    trace_id text,
    experiment_id text,
    request_time timestamptz,
    timestamp_ms bigint,
    execution_time_ms bigint,
    status text,
    trace_name text,
    session_id text,
    request_preview text,
    response_preview text,
    tags jsonb,
    metadata jsonb,
    assessments jsonb,
    next_page_token text
)
language sql
stable
parallel unsafe
as $sql$
select *
from @mlflow@.insights_search(
    insights.experiment_ids(exp_ids), filter, max_results, order_by, page_token
)
$sql$;

comment on function @mlflow@.insights_search(text, text, int, text[], text) is
    'As insights_search of text[], with ids as one text: ''1'', ''1,2'' or ''{1,2}''';

revoke all on function @mlflow@.insights_search(text, text, int, text[], text) from public;
grant execute on function @mlflow@.insights_search(text, text, int, text[], text) to public;

-- sql/functions/insights_status.sql
-- Large tables are not counted but estimated, so that asking costs milliseconds.
create or replace function @mlflow@.insights_status(
    out built boolean,
    out pending bigint,
    out lag_seconds double precision,
    out missed bigint,
    out traces bigint,
    out blocks bigint,
    out terms bigint,
    out postings bigint,
    out index_bytes bigint,
    out mlflow_bytes bigint,
    out index_share double precision
)
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select
    s.built,
    case when a.visible then p.traces end,
    case when a.visible then greatest(extract(epoch from statement_timestamp() - p.oldest), 0) end,
    s.missed,
    case when a.visible then b.traces end,
    case when a.visible then b.blocks end,
    case
        when not a.visible then null
        when pg_relation_size('insights.term') < 2 ^ 24 then (select count(*) from insights.term)
        else (select c.reltuples from pg_class c where c.oid = 'insights.term'::regclass)
    end,
    case
        when not a.visible then null
        when pg_relation_size('insights.posting') < 2 ^ 24
            then (select count(*) from insights.posting)
        else (select c.reltuples from pg_class c where c.oid = 'insights.posting'::regclass)
    end,
    size.index_bytes,
    size.mlflow_bytes,
    size.index_bytes / nullif(size.mlflow_bytes, 0)::double precision
-- Row-level security leaves others no rows to count, and 0 would read as up to date.
from (select exists (select from insights.state)) a (visible)
cross join (
    select
        count(distinct n.trace_id) as traces,
        min(n.noted_at) as oldest
    from (select p.trace_id, p.noted_at from insights.pending p limit 1000000) n
) p
cross join (
    select
        coalesce(sum(b.live_count), 0) as traces,
        count(*) as blocks
    from insights.block b
) b
cross join (
    select
        (
            select sum(pg_total_relation_size(c.oid))
            from pg_class c
            where c.relnamespace = 'insights'::regnamespace
            and c.relkind = 'r'
        )::bigint as index_bytes,
        (
            select sum(pg_total_relation_size(to_regclass('@mlflow@.' || name)))
            from unnest(array[
                'trace_info', 'spans', 'trace_tags', 'trace_request_metadata', 'assessments',
                'entity_associations'
            ]) name
        )::bigint as mlflow_bytes
) size
left join (
    select
        s.built,
        greatest(m.last_value - s.trusted, 0) as missed
    from insights.state s, insights.missed m
) s on true
$sql$;

comment on function @mlflow@.insights_status() is
    'The state of the index. One row, in milliseconds however large the index is.

- `built`: until then the index is not used
- `pending`: changed traces that are not indexed yet; only a million changes are looked at
- `lag_seconds`: for how long the oldest of them has been pending
- `missed`: changes that could not be noted; if there are any, the index is not used until insights_rebuild
- `traces`, `blocks`, `terms`, `postings`: what is in it; the last two are estimated where they are many
- `index_bytes`, `mlflow_bytes`, `index_share`: its size on disk, that of MLflow''s trace tables, and the ratio of the two

NULL, but for the sizes, for roles that may not read MLflow''s tables.';

revoke all on function @mlflow@.insights_status() from public;
grant execute on function @mlflow@.insights_status() to public;

-- sql/functions/insights_timeseries.sql
create or replace function @mlflow@.insights_timeseries(
    exp_ids text[],
    filter text,
    bucket text default '1 hour',
    start_time timestamptz default null,
    end_time timestamptz default null,
    time_zone text default 'UTC',
    unit text default 'trace'
)
returns table (
    "time" timestamptz,
    matched bigint,
    total bigint,
    rate double precision,
    errors bigint,
    error_rate double precision,
    p50_ms double precision,
    p95_ms double precision,
    p99_ms double precision,
    tokens bigint,
    cost double precision
)
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select insights.load_engine();
select
    to_timestamp(b.start_ms / 1000.0::double precision),
    b.matched,
    b.total,
    b.matched / nullif(b.total, 0)::double precision,
    b.errors,
    b.errors / nullif(b.matched, 0)::double precision,
    b.p50_ms,
    b.p95_ms,
    b.p99_ms,
    b.tokens,
    b.cost
from insights.run_timeseries(
    exp_ids,
    filter,
    bucket,
    -- The first millisecond that is not before; an infinite time is no bound.
    case when isfinite(start_time) then ceil(extract(epoch from start_time) * 1000)::bigint end,
    case when isfinite(end_time) then ceil(extract(epoch from end_time) * 1000)::bigint end,
    time_zone,
    unit
) r
cross join lateral unnest(
    r.start_ms::bigint[],
    r.matched::bigint[],
    r.total::bigint[],
    r.errors::bigint[],
    r.p50_ms::double precision[],
    r.p95_ms::double precision[],
    r.p99_ms::double precision[],
    r.tokens::bigint[],
    r.cost::double precision[]
) b (start_ms, matched, total, errors, p50_ms, p95_ms, p99_ms, tokens, cost)
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_timeseries(
    text[], text, text, timestamptz, timestamptz, text, text
) is
    'The traces that match a filter, and all traces, by time: a row per bucket, empty ones too.

- `exp_ids`, `filter`, `unit`: as in insights_count; the unit is of `matched`, `total`, `errors` and their ratios
- `bucket`: an interval or its text: whole months, whole days, or less than a day. At most 10,000 buckets
- `start_time`, `end_time`: from the one on and before the other; NULL or infinite: as far as the traces go
- `time_zone`: where days and months begin

A row says:

- `time`: when the bucket begins
- `matched`, `total`, `rate`: traces that match, all of them, and the ratio of the two
- `errors`, `error_rate`: those that match and have status ERROR, and their share of those that match
- `p50_ms`, `p95_ms`, `p99_ms`: percentiles of the execution time of those that match, in milliseconds, as
  percentile_cont has them
- `tokens`, `cost`: sums of total_tokens and total_cost of those that match

Ratios of nothing, and percentiles and sums of no numbers, are NULL. SQLSTATE 22023 as in insights_count, and for
`bucket`, `time_zone` and the times.';

revoke all on function @mlflow@.insights_timeseries(
    text[], text, text, timestamptz, timestamptz, text, text
) from public;
grant execute on function @mlflow@.insights_timeseries(
    text[], text, text, timestamptz, timestamptz, text, text
) to public;

-- The others take the ids as numbers or as one text, the bucket as an interval.  They have no SET
-- clause and name every object in full, so that they are inlined and cost nothing.

create or replace function @mlflow@.insights_timeseries(
    exp_ids int[],
    filter text,
    bucket text default '1 hour',
    start_time timestamptz default null,
    end_time timestamptz default null,
    time_zone text default 'UTC',
    unit text default 'trace'
)
returns table (
    "time" timestamptz,
    matched bigint,
    total bigint,
    rate double precision,
    errors bigint,
    error_rate double precision,
    p50_ms double precision,
    p95_ms double precision,
    p99_ms double precision,
    tokens bigint,
    cost double precision
)
language sql
stable
parallel unsafe
as $sql$
select *
from @mlflow@.insights_timeseries(
    exp_ids::pg_catalog.text[], filter, bucket, start_time, end_time, time_zone, unit
)
$sql$;

comment on function @mlflow@.insights_timeseries(
    int[], text, text, timestamptz, timestamptz, text, text
) is
    'As insights_timeseries of text[], with ids as numbers';

revoke all on function @mlflow@.insights_timeseries(
    int[], text, text, timestamptz, timestamptz, text, text
) from public;
grant execute on function @mlflow@.insights_timeseries(
    int[], text, text, timestamptz, timestamptz, text, text
) to public;

create or replace function @mlflow@.insights_timeseries(
    exp_ids text,
    filter text,
    bucket text default '1 hour',
    start_time timestamptz default null,
    end_time timestamptz default null,
    time_zone text default 'UTC',
    unit text default 'trace'
)
returns table (
    "time" timestamptz,
    matched bigint,
    total bigint,
    rate double precision,
    errors bigint,
    error_rate double precision,
    p50_ms double precision,
    p95_ms double precision,
    p99_ms double precision,
    tokens bigint,
    cost double precision
)
language sql
stable
parallel unsafe
as $sql$
select *
from @mlflow@.insights_timeseries(
    insights.experiment_ids(exp_ids), filter, bucket, start_time, end_time, time_zone, unit
)
$sql$;

comment on function @mlflow@.insights_timeseries(
    text, text, text, timestamptz, timestamptz, text, text
) is
    'As insights_timeseries of text[], with ids as one text: ''1'', ''1,2'' or ''{1,2}''';

revoke all on function @mlflow@.insights_timeseries(
    text, text, text, timestamptz, timestamptz, text, text
) from public;
grant execute on function @mlflow@.insights_timeseries(
    text, text, text, timestamptz, timestamptz, text, text
) to public;

create or replace function @mlflow@.insights_timeseries(
    exp_ids text[],
    filter text,
    bucket interval,
    start_time timestamptz default null,
    end_time timestamptz default null,
    time_zone text default 'UTC',
    unit text default 'trace'
)
returns table (
    "time" timestamptz,
    matched bigint,
    total bigint,
    rate double precision,
    errors bigint,
    error_rate double precision,
    p50_ms double precision,
    p95_ms double precision,
    p99_ms double precision,
    tokens bigint,
    cost double precision
)
language sql
stable
parallel unsafe
as $sql$
select *
from @mlflow@.insights_timeseries(
    exp_ids, filter, bucket::pg_catalog.text, start_time, end_time, time_zone, unit
)
$sql$;

comment on function @mlflow@.insights_timeseries(
    text[], text, interval, timestamptz, timestamptz, text, text
) is
    'As insights_timeseries of text[], with a bucket as interval';

revoke all on function @mlflow@.insights_timeseries(
    text[], text, interval, timestamptz, timestamptz, text, text
) from public;
grant execute on function @mlflow@.insights_timeseries(
    text[], text, interval, timestamptz, timestamptz, text, text
) to public;

create or replace function @mlflow@.insights_timeseries(
    exp_ids int[],
    filter text,
    bucket interval,
    start_time timestamptz default null,
    end_time timestamptz default null,
    time_zone text default 'UTC',
    unit text default 'trace'
)
returns table (
    "time" timestamptz,
    matched bigint,
    total bigint,
    rate double precision,
    errors bigint,
    error_rate double precision,
    p50_ms double precision,
    p95_ms double precision,
    p99_ms double precision,
    tokens bigint,
    cost double precision
)
language sql
stable
parallel unsafe
as $sql$
select *
from @mlflow@.insights_timeseries(
    exp_ids::pg_catalog.text[],
    filter,
    bucket::pg_catalog.text,
    start_time,
    end_time,
    time_zone,
    unit
)
$sql$;

comment on function @mlflow@.insights_timeseries(
    int[], text, interval, timestamptz, timestamptz, text, text
) is
    'As insights_timeseries of text[], with a bucket as interval and with ids as numbers';

revoke all on function @mlflow@.insights_timeseries(
    int[], text, interval, timestamptz, timestamptz, text, text
) from public;
grant execute on function @mlflow@.insights_timeseries(
    int[], text, interval, timestamptz, timestamptz, text, text
) to public;

create or replace function @mlflow@.insights_timeseries(
    exp_ids text,
    filter text,
    bucket interval,
    start_time timestamptz default null,
    end_time timestamptz default null,
    time_zone text default 'UTC',
    unit text default 'trace'
)
returns table (
    "time" timestamptz,
    matched bigint,
    total bigint,
    rate double precision,
    errors bigint,
    error_rate double precision,
    p50_ms double precision,
    p95_ms double precision,
    p99_ms double precision,
    tokens bigint,
    cost double precision
)
language sql
stable
parallel unsafe
as $sql$
select *
from @mlflow@.insights_timeseries(
    insights.experiment_ids(exp_ids),
    filter,
    bucket::pg_catalog.text,
    start_time,
    end_time,
    time_zone,
    unit
)
$sql$;

comment on function @mlflow@.insights_timeseries(
    text, text, interval, timestamptz, timestamptz, text, text
) is
    'As insights_timeseries of text[], with a bucket as interval and with ids as one text: ''1'', ''1,2'' or ''{1,2}''';

revoke all on function @mlflow@.insights_timeseries(
    text, text, interval, timestamptz, timestamptz, text, text
) from public;
grant execute on function @mlflow@.insights_timeseries(
    text, text, interval, timestamptz, timestamptz, text, text
) to public;

-- sql/functions/insights_validate.sql
create or replace function @mlflow@.insights_validate(
    filter text
)
returns text
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select insights.load_engine();
select r.result
from insights.run_validate(filter) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_validate(text) is
    'The canonical form of a filter.

- `filter`: as in insights_count; NULL and '''' have the form ''''

SQLSTATE 22023 as in insights_count if it is wrong: to check filters before they are used.';

revoke all on function @mlflow@.insights_validate(text) from public;
grant execute on function @mlflow@.insights_validate(text) to public;

-- sql/functions/insights_verify.sql
create or replace function @mlflow@.insights_verify(max_problems int default 100)
returns table (trace_id text, problem text)
language sql
stable
parallel unsafe
set search_path = pg_catalog, pg_temp
set jit = off
as $sql$
select insights.load_engine();
select r.trace_id, r.disagreement
from insights.run_verify(max_problems) r
where insights.accept(r.problem)
$sql$;

comment on function @mlflow@.insights_verify(int) is
    'Reads every indexed trace again and reports where the index is wrong. No rows: nowhere.

- `max_problems`: rows at most

A row says:

- `trace_id`: the trace; NULL where it is no single one
- `problem`: what is wrong';

revoke all on function @mlflow@.insights_verify(int) from public;

-- sql/views/assessment_rollup.sql
create or replace view insights.assessment_rollup
with (security_barrier)
as
select
    t.trace_id,
    a.item ->> 0 as kind,
    a.item ->> 1 as name,
    (a.item ->> 2)::int as assessment_count,
    a.item ->> 3 as value,
    (a.item ->> 4)::float8 as numeric_value
from insights.trace t
cross join lateral json_array_elements(t.assessments::json) as a (item)
-- Views read with their owner's rights.
where (select insights.may_read());

comment on view insights.assessment_rollup is
    'The valid assessments of each indexed trace by kind and name, for BI tools. As fresh as the index.

- `trace_id`
- `kind`, `name`: feedback or expectation, and its name
- `assessment_count`: how many there are
- `value`: the latest, as stored
- `numeric_value`: that as a number, if it is one

No rows for roles that may not read all of MLflow''s tables.';

revoke all on insights.assessment_rollup from public;
grant select on insights.assessment_rollup to public;

-- sql/views/span_rollup.sql
-- insights.trace keeps an item per signature: its number and one duration, or its
-- number, how many spans, and the sum, smallest and largest of their durations in ns.
create or replace view insights.span_rollup
with (security_barrier)
as
select
    t.trace_id,
    s.type as span_type,
    s.name as span_name,
    s.status,
    case when cardinality(i.item) = 2 then 1 else i.item[2]::int end as span_count,
    case when cardinality(i.item) = 2 then i.item[2] else nullif(i.item[3], '') end::float8 / 1e6
        as total_ms,
    case when cardinality(i.item) = 2 then i.item[2] else nullif(i.item[4], '') end::float8 / 1e6
        as min_ms,
    case when cardinality(i.item) = 2 then i.item[2] else nullif(i.item[5], '') end::float8 / 1e6
        as max_ms
from insights.trace t
cross join lateral string_to_table(t.spans, ' ') as l (packed)
cross join lateral (select string_to_array(l.packed, ':') as item) i
join insights.signature s on s.signature = i.item[1]::int
-- Views read with their owner's rights.
where (select insights.may_read());

comment on view insights.span_rollup is
    'The spans of each indexed trace by type, name and status, for BI tools. As fresh as the index.

- `trace_id`
- `span_type`, `span_name`, `status`: what the spans have in common
- `span_count`: how many there are
- `total_ms`, `min_ms`, `max_ms`: their durations in milliseconds: the sum, the shortest and the longest; NULL without an end

No rows for roles that may not read all of MLflow''s tables.';

revoke all on insights.span_rollup from public;
grant select on insights.span_rollup to public;

-- sql/triggers/assessments.sql
create or replace trigger insights_change
after insert or update or delete on @mlflow@.assessments
for each row execute function insights.note_trace_id();

create or replace trigger insights_truncate
after truncate on @mlflow@.assessments
for each statement execute function insights.note_truncate();

-- sql/triggers/entity_associations.sql
create or replace trigger insights_change
after insert or update or delete on @mlflow@.entity_associations
for each row execute function insights.note_source_id();

create or replace trigger insights_truncate
after truncate on @mlflow@.entity_associations
for each statement execute function insights.note_truncate();

-- sql/triggers/pending.sql
create or replace trigger forget_noted
after delete or update or truncate on insights.pending
for each statement execute function insights.forget_noted();

-- sql/triggers/spans.sql
create or replace trigger insights_change
after insert or update or delete on @mlflow@.spans
for each row execute function insights.note_trace_id();

create or replace trigger insights_truncate
after truncate on @mlflow@.spans
for each statement execute function insights.note_truncate();

-- sql/triggers/trace_info.sql
create or replace trigger insights_change
after insert or update or delete on @mlflow@.trace_info
for each row execute function insights.note_request_id();

create or replace trigger insights_truncate
after truncate on @mlflow@.trace_info
for each statement execute function insights.note_truncate();

-- sql/triggers/trace_request_metadata.sql
create or replace trigger insights_change
after insert or update or delete on @mlflow@.trace_request_metadata
for each row execute function insights.note_request_id();

create or replace trigger insights_truncate
after truncate on @mlflow@.trace_request_metadata
for each statement execute function insights.note_truncate();

-- sql/triggers/trace_tags.sql
create or replace trigger insights_change
after insert or update or delete on @mlflow@.trace_tags
for each row execute function insights.note_request_id();

create or replace trigger insights_truncate
after truncate on @mlflow@.trace_tags
for each statement execute function insights.note_truncate();

-- sql/install/privileges.sql
-- The index holds values of MLflow's tables.  So a role sees rows of it if, and
-- only if, it may read those tables.  Superusers, the role that owns those tables,
-- and the role insights_writer, if there is one, keep the index up to date.
do $do$
declare
    index_tables constant name[] := array[
        'block', 'trace', 'signature', 'term', 'vocabulary', 'posting', 'cells', 'sessions',
        'carrier', 'pending', 'state'
    ];
    writers constant name[] := array[
        'insights_refresh', 'insights_rebuild', 'insights_verify', 'build_batch',
        'run_refresh', 'run_rebuild', 'run_verify', 'run_build_batch',
        'try_commit'
    ];
    mlflow_schema oid;
    mlflow_owner oid;
    grantee name;
    one text;
begin
    select c.relnamespace, c.relowner
    into strict mlflow_schema, mlflow_owner
    from pg_catalog.pg_class c
    where c.oid = '@mlflow@.trace_info'::pg_catalog.regclass;

    foreach one in array index_tables loop
        execute format('grant select on insights.%I to public', one);
        execute format('alter table insights.%I enable row level security', one);
        execute format('drop policy if exists readers_of_traces on insights.%I', one);
        -- As a subquery it is asked once a statement, not once a row.
        execute format(
            'create policy readers_of_traces on insights.%I'
            ' using ((select insights.may_read())) with check (true)',
            one
        );
    end loop;
    grant select on sequence insights.missed to public;

    for grantee in
        select r.rolname
        from pg_catalog.pg_roles r
        where not r.rolsuper
        and (r.rolname = 'insights_writer' or r.oid = mlflow_owner)
    loop
        foreach one in array index_tables loop
            execute format('grant insert, update, delete on insights.%I to %I', one, grantee);
        end loop;
        execute format('grant usage, update on sequence insights.missed to %I', grantee);
        for one in
            select p.oid::pg_catalog.regprocedure
            from pg_catalog.pg_proc p
            where p.pronamespace in (mlflow_schema, 'insights'::pg_catalog.regnamespace)
            and p.proname = any (writers)
        loop
            execute format('grant execute on routine %s to %I', one, grantee);
        end loop;
    end loop;
end
$do$;

-- sql/install/state.sql
-- With no trace in MLflow's tables there is nothing to build; the triggers have
-- been there for a moment, and none can have come in between.
insert into insights.state (built, trusted, indexed_through)
select
    not exists (select from @mlflow@.trace_info),
    m.last_value,
    ''
from insights.missed m
on conflict do nothing;
