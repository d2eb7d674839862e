"""Walking a tree."""

from __future__ import annotations

from hypothesis import given
from insights_engine.language import tree
from insights_engine.language.parser import parse_filter

from tests.unit.language.tree_strategies import filters

TEXT = (
    "status = 'a' AND (name = 'b' OR NOT user = 'c')"
    " AND count(span.type = 'd' AND span.name = 'e') > 1 AND span.name = 'f'"
)


def test_leaves_and_what_is_inside_come_in_the_order_of_the_filter() -> None:
    node = parse_filter(TEXT)
    values = [getattr(leaf, "value", None) for leaf in tree.leaves(node)]
    assert values == ["a", "b", "c", 1, None]
    values = [getattr(leaf, "value", None) for leaf in tree.walk(node)]
    assert values == ["a", "b", "c", 1, "d", "e", None, "f"]


def test_everything_has_no_leaves() -> None:
    assert list(tree.walk(tree.EVERYTHING)) == []
    assert list(tree.conjuncts(tree.EVERYTHING)) == []


@given(filters())
def test_a_fold_of_the_same_nodes_is_the_tree(node: tree.Node) -> None:
    def same(leaf: tree.Leaf) -> tree.Node:
        return leaf

    def every(items: list[tree.Node]) -> tree.Node:
        return tree.And(tuple(items))

    def some(items: list[tree.Node]) -> tree.Node:
        return tree.Or(tuple(items))

    assert tree.fold(node, same, every, some, tree.Not) == node


@given(filters())
def test_a_fold_meets_the_leaves(node: tree.Node) -> None:
    def joined(parts: list[list[tree.Leaf]]) -> list[tree.Leaf]:
        return [leaf for part in parts for leaf in part]

    folded = tree.fold(node, lambda leaf: [leaf], joined, joined, list)
    assert folded == list(tree.leaves(node))
