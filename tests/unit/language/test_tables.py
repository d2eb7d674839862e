"""The committed tables are lark's, and our driver reads them as lark does."""

from __future__ import annotations

import pytest
from insights_engine.language import tables
from insights_engine.language.syntax import NoSyntax, Raw, parse_syntax
from insights_engine.language.tokens import Token, tokenize
from lark import Lark, Tree
from lark import Token as LarkToken
from lark.exceptions import UnexpectedInput

from plpython.generate_tables import generate_tables, load_grammar

VALID = [
    "AND",
    "AND AND status = 'a' AND",
    "status = 'a' name = \"b\" AND AND tags.x != 'c'",
    "NOT (status = 'a' OR NOT name LIKE 'b')",
    "status NOT IN ('a', 'b',) OR status IN ('a')",
    "end_time NOT BETWEEN 1 AND now() - interval '2 hours' AND user IS NULL",
    "any(span.type = 'a' AND (span.name = 'b' OR span.status IS NOT NULL))",
    "count() > 1 AND count(*) > 1 AND count(span.type NOT LIKE 'x') <= 2",
    "sum(span.duration_ms) > 1 OR avg(span.attributes['a']['b'] WHERE span.type = 'x') < 2.5",
    "feedback.ok = true tags.a IN (1, 'x', false)",
]
INVALID = [
    "OR",
    "status",
    "status =",
    "status = 'a' OR",
    "status = 'a')",
    "(status = 'a'",
    "status IN ()",
    "status IN ('a' 'b')",
    "count(span.type = 'a')",
    "any()",
    "sum(span.type = 'a') > 1",
    "end_time BETWEEN 1 2",
    "status IS 'x'",
    "end_time > now() - 5",
    "NOT",
]


def as_text(node: Raw | Token | Tree[LarkToken] | LarkToken) -> str:
    """Both kinds of trees in one notation."""
    if isinstance(node, Token):
        return node.kind
    if isinstance(node, LarkToken):
        return node.type
    if isinstance(node, Raw):
        return f"{node.name}({' '.join(as_text(child) for child in node.children)})"
    children = list(node.children)
    # lark nests left-recursive rules, the driver builds one flat node.
    flat = {"ands", "conjunction", "disjunction", "values"}
    while children and isinstance(children[0], Tree) and node.data == children[0].data in flat:
        children[:1] = children[0].children
    return f"{node.data}({' '.join(as_text(child) for child in children)})"


@pytest.fixture(scope="module")
def lark_parser() -> Lark:
    parser: Lark = load_grammar()
    return parser


def lark_tree(parser: Lark, text: str) -> Tree[LarkToken]:
    interactive = parser.parse_interactive()
    for token in tokenize(text).tokens[:-1]:
        interactive.feed_token(LarkToken(token.kind, text[token.start : token.end]))
    result: Tree[LarkToken] = interactive.feed_eof()  # type: ignore[no-untyped-call]
    return result


def test_the_committed_tables_are_what_lark_generates() -> None:
    assert tables.__file__
    with open(tables.__file__, encoding="utf-8") as file:
        assert file.read() == generate_tables()


@pytest.mark.parametrize("text", VALID)
def test_driver_and_lark_build_the_same_tree(lark_parser: Lark, text: str) -> None:
    assert as_text(parse_syntax(tokenize(text))) == as_text(lark_tree(lark_parser, text))


@pytest.mark.parametrize("text", INVALID)
def test_driver_and_lark_refuse_the_same(lark_parser: Lark, text: str) -> None:
    with pytest.raises(NoSyntax):
        parse_syntax(tokenize(text))
    with pytest.raises(UnexpectedInput):
        lark_tree(lark_parser, text)
