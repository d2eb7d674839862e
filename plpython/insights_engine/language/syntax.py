"""The concrete syntax of a filter."""

from __future__ import annotations

from typing import Any, NamedTuple

from insights_engine.language.tables import EXTEND, PASS_ON, RULES, STATES
from insights_engine.language.tokens import Token, scan


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
                from insights_engine.language.malformed import Refusal

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
