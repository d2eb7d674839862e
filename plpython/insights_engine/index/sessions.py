"""What is counted: traces, or the sessions that they belong to.

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

from insights_engine.base import interrupts, plans
from insights_engine.exact import given
from insights_engine.exact.statement import Statement
from insights_engine.facts.terms import LARGE_BLOCK
from insights_engine.index import stored_sessions
from insights_engine.index.cache import CACHE, Column
from insights_engine.index.groups import Block
from insights_engine.index.index_reader import UNDECIDED_SHARE, Index, decided, open_index, prepare
from insights_engine.index.occurrences import Whole
from insights_engine.language import fields, tree
from insights_engine.language.errors import InsightsError, visible
from insights_engine.sets import bitmaps

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


class SessionNumbers:
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


class Sessions(SessionNumbers):
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
        for block, bits in interrupts.each(self._index.plpy, blocks):
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


class GivenTrace(NamedTuple):
    """A trace of which exact SQL has told what it matches, and its session."""

    session_id: Optional[str]
    matches: Sequence[bool]


def given_traces(
    plpy: Any, statement: Statement, nodes: Sequence[tree.Node], trace_ids: Sequence[str]
) -> list[GivenTrace]:
    """The given traces in scope, with a flag for each node."""
    statement = statement.again()
    sql = given.select(statement, trace_ids, nodes, ("t.session_id",))
    return [GivenTrace(row["session_id"], row["matches"]) for row in statement.run(plpy, sql)]


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
    index = open_index(plpy, statement, nodes, UNDECIDED_SHARE)
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
    for one in given_traces(plpy, statement, nodes, index.pending) if index.pending else ():
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

    def add_trace(self, trace: GivenTrace) -> None:
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
