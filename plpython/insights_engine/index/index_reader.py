"""The index as one call sees it: its blocks, and what they say of filters.

What the index leaves open about the traces it knows is settled by the raw predicate.
Traces that changed since (`pending`) are left to the caller.  Everything an answer is
made of is read in one snapshot: pending traces are pending there, whatever a refresh
commits meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import Any, Callable, NamedTuple, Optional, Union

from insights_engine.base import interrupts, plans
from insights_engine.exact import given
from insights_engine.exact.rawsql import SESSION_MARK
from insights_engine.exact.statement import Statement
from insights_engine.index import integrity
from insights_engine.index.cache import CACHE, Known, cached_bytes
from insights_engine.index.groups import Block, Group, all_positions
from insights_engine.index.planner import Planner
from insights_engine.language import printer, tree
from insights_engine.sets import bitmaps

#: More pending traces than these are left to MLflow's tables, along with all others, ...
MOST_PENDING = 2000
#: ... but where each is asked about once, if they are a small share of all, or in a discovery,
#: which reads the facts of each trace that the index does not answer for.
MOST_PENDING_ONCE = 100_000
#: Notes that are read: a trace may have several.
_MOST_NOTES = 1_000_000
#: Undecided traces that are asked about one by one in any case, ...
_FEW_UNDECIDED = 2000
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


class Leaf(NamedTuple):
    """A predicate of a filter, with its canonical text."""

    text: str
    node: tree.Node
    #: Whether it means the same at any time: ``now()`` is not in its text.
    lasting: bool


#: How leaves, by their number, make up a filter: ("and" | "or" | "not", parts).
_Shape = Union[int, tuple[str, tuple[Any, ...]]]


def _joined(word: str) -> Callable[[list[_Shape]], _Shape]:
    return lambda parts: (word, tuple(parts))


def _negated(part: _Shape) -> _Shape:
    return "not", (part,)


class Prepared:
    """A filter, taken apart into leaves."""

    __slots__ = ("lasting", "leaves", "node", "shape", "text")

    def __init__(self, node: tree.Node) -> None:
        self.node = node
        self.text = printer.print_filter(node)
        self.leaves: list[Leaf] = []
        self.shape = tree.fold(node, self._number, _joined("and"), _joined("or"), _negated)
        self.lasting = all(leaf.lasting for leaf in self.leaves)

    def _number(self, node: tree.Leaf) -> _Shape:
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


class Settings(NamedTuple):
    """What the session says of how many traces are looked at one by one; None: nothing."""

    #: Of those that the index leaves undecided, ``insights.undecided_one_by_one``.
    undecided: Optional[str] = None
    #: Of those that are added to a bucket of a series, ``insights.added_one_by_one``.
    added: Optional[str] = None


class Index:
    """The index as one snapshot shows it, for some experiments."""

    def __init__(
        self,
        plpy: Any,
        statement: Statement,
        version: str,
        pending: Sequence[str],
        settings: Settings,
    ) -> None:
        self.plpy = plpy
        self.settings = settings
        #: How many undecided traces are worth asking about one by one, however few there are.
        self.few_undecided = at_most(settings.undecided, _FEW_UNDECIDED)
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
            rows = plans.run(
                plpy,
                "select t.block, t.position from insights.trace t where t.trace_id = any($1)",
                ("text[]",),
                (self.pending,),
            )
            for row in interrupts.each(plpy, rows):
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
        share = int(UNDECIDED_SHARE * sum(block.live_count for block in self.blocks))
        return at_most(self.settings.undecided, max(_FEW_UNDECIDED, share))

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
        for block in interrupts.each(self.plpy, self.blocks):
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
        trace_ids = [trace_id for _, _, trace_id in rows]
        matching = given.matching(self.plpy, self._statement, node, trace_ids)
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


def open_index(
    plpy: Any, statement: Statement, nodes: Sequence[tree.Node], share: float = 0
) -> Optional[Index]:
    """The index, ready to answer ``nodes``; None where it is of no use.

    Whoever asks has been here first, so this is where MLflow's tables are looked at, too.
    ``share``: of as many pending traces, among those of the index, it is of use, too.
    """
    state = read_state(plpy, statement)
    if state is None or not state["usable"]:
        integrity.guard(plpy)
        return None
    changed, most = set(state["pending"]), MOST_PENDING
    if len(changed) > MOST_PENDING or len(state["pending"]) == 20 * MOST_PENDING:
        changed, most = _many_pending(plpy, share)
        if len(changed) > most:
            return None
    if changed and any(_assesses(node) for node in nodes):
        changed |= _same_sessions(plpy, statement, list(changed), most)
        if len(changed) > most:
            return None
    CACHE.open(state["installation"], cached_bytes(state["cache"]))
    settings = Settings(state["undecided"], state["added"])
    return Index(plpy, statement, state["version"], sorted(changed), settings)


def at_most(setting: Optional[str], most: int) -> int:
    """What a setting makes of a limit: it can only be made smaller.

    What is no whole number is taken as no setting at all, as for ``insights.cache``: a
    setting that only affects speed must not make an answer fail.
    """
    found = _NUMBER.fullmatch((setting or "").strip())
    return most if found is None else min(most, int(found[0]))


_NUMBER = re.compile(r"[0-9]{1,12}", re.ASCII)


def read_state(plpy: Any, statement: Statement) -> Optional[dict[str, Any]]:
    """What the index says of itself and the catalogue of MLflow's tables.

    None for roles that may not read it.
    """
    # Everything in one statement: each costs more than what it does.
    try:
        rows = plans.run(
            plpy,
            _STATE.format(readable(statement)),
            ("text", "int"),
            (integrity.last_snapshot(), 20 * MOST_PENDING),
        )
    except plpy.SPIError as error:
        if integrity.denied(error):
            return None
        raise
    (state,) = rows
    integrity.found_intact(state["snapshot"])
    return dict(state)


_STATE = (
    "select s.installation || '.' || s.tableoid as installation, s.version::text as version,"
    " s.built, s.complete, s.watched, s.readable,"
    " s.built and s.complete and s.watched and s.readable as usable,"
    f" case when s.watched then {integrity.SNAPSHOT} else '' end as snapshot,"
    " pg_catalog.current_setting('insights.cache', true) as cache,"
    " pg_catalog.current_setting('insights.undecided_one_by_one', true) as undecided,"
    " pg_catalog.current_setting('insights.added_one_by_one', true) as added,"
    " array(select p.trace_id from insights.pending p limit $2) as pending"
    " from (select s.*, s.tableoid, s.awaited is null and s.trusted >= m.last_value as complete,"
    f" {integrity.WATCHED} as watched,"
    # Row security of MLflow's tables hides rows from some roles; the index cannot.
    " {} as readable"
    " from insights.state s, insights.missed m offset 0) s"
)


def _many_pending(plpy: Any, share: float) -> tuple[set[str], int]:
    """The pending traces, and how many may be; not all where there are more."""
    if not share:
        return {""}, 0
    (row,) = plans.run(
        plpy,
        "select l.most, array(select distinct p.trace_id from"
        " (select p.trace_id from insights.pending p limit $3) p limit l.most + 1) as pending,"
        " (select count(*) from (select from insights.pending p limit $3) p) as notes"
        " from (select greatest($4, least($2, coalesce(sum(b.live_count), 0) * $1))::int as most"
        "  from insights.block b) l",
        ("float8", "int", "int", "int"),
        (share, MOST_PENDING_ONCE, _MOST_NOTES, MOST_PENDING),
    )
    if row["notes"] == _MOST_NOTES:
        return {""}, 0
    return set(row["pending"]), row["most"]


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
    return any(
        not isinstance(leaf, tree.QUANTIFIERS) and isinstance(leaf.field, tree.Assessment)
        for leaf in tree.leaves(node)
    )


def _same_sessions(plpy: Any, statement: Statement, changed: Sequence[str], most: int) -> set[str]:
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
        (list(changed), SESSION_MARK, most + 1),
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
        yield from interrupts.each(index.plpy, zip(*found))


def _left(pair: Known) -> int:
    """How many positions the index leaves open."""
    return 0 if pair.may is pair.must else bitmaps.count(pair.may & ~pair.must)
