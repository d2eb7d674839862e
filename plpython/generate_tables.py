"""Writes insights_engine/language/tables.py, the LALR(1) tables of grammar.lark.

The engine drives the tables itself (parser.py), because importing lark costs
40 to 50 ms in every database connection, and the tables 1 or 2.

    python plpython/generate_tables.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent / "insights_engine" / "language"


def load_grammar(**options: Any) -> Any:
    """The lark parser of the grammar, without a lexer of its own."""
    from lark import Lark
    from lark.lexer import Lexer

    class NoLexer(Lexer):
        """Never asked: only the tables are wanted here, and tokens.py makes the tokens."""

        def __init__(self, lexer_conf: Any) -> None:
            pass

        def lex(self, lexer_state: Any, parser_state: Any) -> Any:
            raise NotImplementedError

    grammar = (PACKAGE / "grammar.lark").read_text(encoding="utf-8")
    return Lark(
        grammar,
        parser="lalr",
        lexer=NoLexer,
        keep_all_tokens=True,
        maybe_placeholders=False,
        **options,
    )


def generate_tables() -> str:
    """The source text of tables.py."""
    from lark.parsers.lalr_analysis import Shift

    table = load_grammar().parser.parser._parse_table
    rules: list[Any] = []
    for actions in table.states.values():
        for action, argument in actions.values():
            if action is not Shift and argument not in rules:
                rules.append(argument)
    rules.sort(key=lambda rule: (rule.origin.name, rule.order, str(rule)))
    start = table.start_states["start"]
    # Numbered in the order of their discovery, so that the text never depends
    # on the order of lark's sets.
    order = [start]
    for state in order:
        actions = table.states.get(state, {})
        for symbol in sorted(actions):
            action, argument = actions[symbol]
            if action is Shift and argument not in order:
                order.append(argument)
    numbers = {state: number for number, state in enumerate(order)}

    lines = [
        '"""LALR(1) tables, generated from grammar.lark by generate_tables.py.',
        "",
        "RULES: (left side, number of symbols, node, how).  ``how``: make a new node,",
        "pass the only child on, or extend the first child by the others.",
        "STATES: symbol -> n: shift and go to n; -n: reduce by rule n - 1.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "NEW, PASS_ON, EXTEND = 0, 1, 2",
        "# fmt: off",
        "RULES: tuple[tuple[str, int, str, int], ...] = (",
    ]
    for rule in rules:
        name = rule.origin.name
        expansion = [symbol.name for symbol in rule.expansion]
        how = 0
        if rule.options.expand1 and len(expansion) == 1:
            how = 1
        elif rule.alias is None and expansion[:1] == [name]:
            how = 2
        lines.append(f'    ("{name}", {len(expansion)}, "{rule.alias or name}", {how}),')
    lines += [")", "STATES: tuple[dict[str, int], ...] = ("]
    for state in order:
        cells = []
        actions = table.states.get(state, {})
        for symbol in sorted(actions):
            action, argument = actions[symbol]
            number = numbers[argument] if action is Shift else -rules.index(argument) - 1
            cells.append(f'"{symbol}": {number}')
        lines += _wrap("    {", cells, "},")
    lines += [")", ""]
    return "\n".join(lines)


def _wrap(opening: str, cells: list[str], closing: str) -> list[str]:
    lines = []
    line = opening
    for index, cell in enumerate(cells):
        piece = cell if index == len(cells) - 1 else cell + ", "
        if len(line) + len(piece.rstrip()) + len(closing) > 99:
            lines.append(line.rstrip())
            line = "     "
        line += piece
    return [*lines, line + closing]


def main() -> None:
    """Write the tables next to the grammar."""
    (PACKAGE / "tables.py").write_text(generate_tables(), encoding="utf-8")


if __name__ == "__main__":
    main()
