"""Conditions put together, and which of them speak of the same span."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from insights_engine.language import tree


class Piece(NamedTuple):
    """A piece of the tree.

    ``open``: it consists of plain conditions on spans, and still has to learn
    which others speak of the same span.
    """

    node: tree.Node
    open: bool


def conjoin(pieces: Sequence[Piece]) -> Piece:
    """AND, by the rule that its plain conditions on spans share one span."""
    if len(pieces) == 1:
        return pieces[0]
    spans: list[tree.Node] = []
    items: list[tree.Node] = []
    place = 0
    for piece in pieces:
        nodes = tree.conjuncts(piece.node)
        if piece.open:
            if not spans:
                place = len(items)
            spans.extend(nodes)
        else:
            items.extend(nodes)
    if not items:
        return Piece(tree.And(tuple(spans)), bool(spans))
    if spans:
        items.insert(place, tree.AnySpan(tree.And(tuple(spans)) if len(spans) > 1 else spans[0]))
    return Piece(tree.And(tuple(items)), False)


def disjoin(pieces: Sequence[Piece]) -> Piece:
    """OR, within one span if all of it are plain conditions on spans."""
    if len(pieces) == 1:
        return pieces[0]
    open_ = all(piece.open for piece in pieces)
    items: list[tree.Node] = []
    for piece in pieces:
        node = piece.node if open_ else close(piece)
        items.extend(node.items if isinstance(node, tree.Or) else (node,))
    return Piece(tree.Or(tuple(items)), open_)


def close(piece: Piece) -> tree.Node:
    """The tree of a piece that nothing joins any more."""
    return tree.AnySpan(piece.node) if piece.open else piece.node
