"""The concrete syntax of a filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from insights_engine.language.tables import EXTEND, PASS_ON, RULES, STATES
from insights_engine.language.tokens import Tokens


class Raw(NamedTuple):
    """A node of the concrete syntax, named as in grammar.lark.

    Its children, nodes and tokens, are the symbols of the rule.
    """

    name: str
    children: list[Any]


class NoSyntax(Exception):
    """Tokens that are no filter.

    ``index``: of the first that cannot stand where it stands; of none where the tokens
    break off before one does.  ``states``: of the parser, in front of it.
    """

    def __init__(self, tokens: Tokens, index: int, states: Sequence[int]) -> None:
        super().__init__()
        self.tokens = tokens
        self.index = index
        self.states = states


def parse_syntax(tokens: Tokens) -> Raw:
    """Shift and reduce by the tables, without recursion.  Raises NoSyntax."""
    states = [0]
    values: list[Any] = []
    for index, token in enumerate(tokens.tokens):
        kind = token.kind
        while True:
            step = STATES[states[-1]].get(kind, 0)
            if step > 0:
                states.append(step)
                values.append(token)
                break
            if step == 0:
                raise NoSyntax(tokens, index, states)
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
    raise NoSyntax(tokens, len(tokens.tokens), states)
