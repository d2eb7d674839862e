"""Tables for people: one description, drawn as plain text, in colour, or as HTML.

Traces hold what strangers typed into somebody's chatbot, so nothing of theirs
reaches a terminal or a notebook as it is: control characters, which could
move the cursor or recolour the screen, are replaced, and HTML is escaped.

A row is a line.  Where a line has too little room, the least important columns
are left out and the others are cut, with an ellipsis; only a column that says
so, for text that must be read to its end, goes on in the next line.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

GAP = "  "


@dataclass(frozen=True)
class Column:
    """A column of a `Grid`.

    ``least`` is the fewest cells the column can be cut to; None means it is
    never cut.  Of the columns that do not fit, those with the highest ``rank``
    go first; rank 0 always stays.  A column that ``wraps`` is folded, never cut.
    """

    title: str
    right: bool = False
    least: int | None = None
    rank: int = 0
    style: str = ""
    wraps: bool = False


@dataclass(frozen=True)
class Cell:
    """A cell whose style differs from its column's."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Grid:
    """A table to be drawn; ``note`` is a line below it."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell | str, ...], ...]
    note: str = ""
    headed: bool = True

    def plain(self, width: int | None = None) -> str:
        """As text without colour; a ``width`` of None means as wide as it takes."""
        lines = ["".join(text for text, _ in line).rstrip() for line in self._lines(width)]
        return "\n".join([*lines, *([self.note] if self.note else [])])

    def html(self) -> str:
        """As an HTML table, everything escaped, nothing left out."""
        head = "".join(
            f'<th style="text-align:{_side(column)}">{html.escape(column.title)}</th>'
            for column in self.columns
        )
        body = "".join(
            "<tr>"
            + "".join(
                f'<td style="text-align:{_side(column)};white-space:pre-wrap">'
                f"{html.escape(_text(cell))}</td>"
                for column, cell in zip(self.columns, row, strict=True)
            )
            + "</tr>"
            for row in self.rows
        )
        note = f"<p>{html.escape(self.note)}</p>" if self.note else ""
        thead = f"<thead><tr>{head}</tr></thead>" if self.headed else ""
        return f"<table>{thead}<tbody>{body}</tbody></table>{note}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        for line in self._lines(options.max_width):
            yield _rich_line(line)
        if self.note:
            yield Text(self.note, style="dim")

    def _lines(self, width: int | None) -> Iterator[list[tuple[str, str]]]:
        """Each line as pieces of text with their styles."""
        cells = [
            [
                _folded(_text(cell)) if column.wraps else [visible(_text(cell))]
                for column, cell in zip(self.columns, row, strict=True)
            ]
            for row in self.rows
        ]
        titles = [visible(column.title) for column in self.columns] if self.headed else []
        widths = self._widths(titles, cells, width)
        if self.headed:
            yield self._line(titles, ["bold"] * len(titles), widths)
        for row, texts in zip(self.rows, cells, strict=True):
            styles = [
                cell.style if isinstance(cell, Cell) else column.style
                for column, cell in zip(self.columns, row, strict=True)
            ]
            parts = [
                [piece for text in lines for piece in _wrapped(text, size or 0)]
                if column.wraps
                else lines
                for column, lines, size in zip(self.columns, texts, widths, strict=True)
            ]
            for line in zip_longest(*parts, fillvalue=""):
                yield self._line(line, styles, widths)

    def _line(
        self, texts: Sequence[str], styles: Sequence[str], widths: Sequence[int | None]
    ) -> list[tuple[str, str]]:
        pieces: list[tuple[str, str]] = []
        shown = [index for index, size in enumerate(widths) if size is not None]
        for index in shown:
            size = widths[index] or 0
            column = self.columns[index]
            last = index == shown[-1]
            if pieces:
                pieces.append((GAP, ""))
            text = fit(texts[index], size)
            padding = " " * (size - cell_len(text))
            if column.right:
                pieces += [(padding, ""), (text, styles[index])]
            else:
                pieces += [(text, styles[index]), ("" if last else padding, "")]
        return pieces

    def _widths(
        self, titles: Sequence[str], cells: Sequence[Sequence[Sequence[str]]], width: int | None
    ) -> list[int | None]:
        """A width for each column, None for one that is left out."""
        wanted = [
            max(
                [
                    cell_len(titles[i]) if self.headed else 0,
                    *(cell_len(text) for row in cells for text in row[i]),
                ]
            )
            for i in range(len(self.columns))
        ]
        if width is None:
            return list(wanted)
        least = [
            size if column.least is None else min(size, column.least)
            for column, size in zip(self.columns, wanted, strict=True)
        ]
        shown = list(range(len(self.columns)))

        def total(sizes: Sequence[int]) -> int:
            return sum(sizes[i] for i in shown) + len(GAP) * (len(shown) - 1)

        while total(least) > width:
            victims = [i for i in shown if self.columns[i].rank > 0]
            if not victims:
                break
            shown.remove(max(victims, key=lambda i: (self.columns[i].rank, i)))
        sizes = list(least)
        # The room that is left goes to the narrowest columns first, a cell at a time.
        room = width - total(sizes)
        while room > 0:
            growing = [i for i in shown if sizes[i] < wanted[i]]
            if not growing:
                break
            sizes[min(growing, key=lambda i: sizes[i])] += 1
            room -= 1
        # Nothing more can be left out: the widest columns are cut.
        while room < 0 and any(sizes[i] > 1 for i in shown):
            sizes[max(shown, key=lambda i: sizes[i])] -= 1
            room += 1
        return [sizes[i] if i in shown else None for i in range(len(sizes))]


def _rich_line(pieces: Iterable[tuple[str, str]]) -> Text:
    from rich.text import Text

    line = Text(no_wrap=True, overflow="ellipsis", end="\n")
    for text, style in pieces:
        line.append(text, style=style or None)
    line.rstrip()
    return line


def _side(column: Column) -> str:
    return "right" if column.right else "left"


def _text(cell: Cell | str) -> str:
    return cell.text if isinstance(cell, Cell) else cell


def fit(text: str, size: int) -> str:
    """``text`` in at most ``size`` terminal cells, an ellipsis where it was cut."""
    if cell_len(text) <= size:
        return text
    return set_cell_size(text, max(0, size - 1)).rstrip() + "…"


def _wrapped(text: str, size: int) -> list[str]:
    """``text`` in lines of at most ``size`` cells, broken at blanks where there are any."""
    if cell_len(text) <= size:
        return [text]
    indent = " " * min(len(text) - len(text.lstrip()), size // 2)
    lines = []
    rest = text
    while cell_len(rest) > size:
        room = len(set_cell_size(rest, max(size, 1)).rstrip("\0"))
        blank = rest.rfind(" ", len(indent) + 1, room + 1)
        cut = blank if blank > len(indent) else max(room, len(indent) + 1)
        lines.append(rest[:cut].rstrip())
        rest = indent + rest[cut:].lstrip()
    return [*lines, rest]


def _folded(text: str) -> list[str]:
    """The lines of ``text``, each with its indentation, each `visible`."""
    lines = text.expandtabs(4).splitlines() or [""]
    return [printable(line) for line in lines]


def visible(text: str) -> str:
    """``text`` on one line, without anything that a terminal would obey."""
    return " ".join(printable(text).split())


def printable(text: str) -> str:
    """``text`` without anything that a terminal would obey, blank for blank."""
    return "".join(
        " "
        if character in "\t\n\v\f\r\x85\u2028\u2029"
        else "\ufffd"
        if unicodedata.category(character) in ("Cc", "Cf", "Cs")
        and character not in "\u200c\u200d"  # the joiners of Persian and of emoji
        else character
        for character in text
    )


def moment(timestamp_ms: int) -> datetime | None:
    """Milliseconds since 1970 in UTC; None beyond the years that Python knows."""
    try:
        seconds, milliseconds = divmod(timestamp_ms, 1000)
        return datetime.fromtimestamp(seconds, timezone.utc).replace(
            microsecond=milliseconds * 1000
        )
    except (OverflowError, ValueError, OSError):
        return None


def clock(timestamp_ms: int) -> str:
    """A timestamp for people, in UTC, to the second."""
    when = moment(timestamp_ms)
    return f"{timestamp_ms} ms" if when is None else when.strftime("%Y-%m-%d %H:%M:%S")


def duration(milliseconds: float | None) -> str:
    """A duration for people: ``85 ms``, ``1.2 s``, ``3 m 20 s``; empty for None."""
    if milliseconds is None:
        return ""
    if abs(milliseconds) < 999.5:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if abs(seconds) < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} m {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} m"


def number(value: Any, digits: int = 4) -> str:
    """A number for people; counts with thousands separators, floats to ``digits`` places."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value != 0 and abs(value) < 10**-digits:
        return f"{value:.1e}"
    if abs(value) >= 10**6:
        return f"{value:.{digits}g}"
    return f"{value:,.{digits}f}".rstrip("0").rstrip(".")


def significant(value: float | None) -> str:
    """A number of any size to three digits, or to the last before the point: a ratio, a cost."""
    if value is None:
        return "–"
    if math.isnan(value) or math.isinf(value):
        return number(value)
    if 99.95 <= abs(value) < 999_999.5:
        return f"{value:,.0f}"
    return "0" if value == 0 else f"{value:#.3g}"


def percent(share: float | None) -> str:
    """A share from 0 to 1 as a percentage."""
    if share is None or math.isnan(share):
        return "–"
    percentage = 100 * share
    if 0 < abs(percentage) < 0.05:
        return "<0.1 %"
    return f"{percentage:.1f} %"


def probability(value: float | None) -> str:
    """A p or q value; one that is too small for a number is no zero."""
    if value is None or math.isnan(value):
        return "–"
    return "<1e-300" if value < 1e-300 else f"{value:.2g}"


def bar(value: float | None, most: float, cells: int) -> str:
    """A bar of up to ``cells`` characters, to an eighth of one; ``most`` fills them.

    What is more than nothing shows at least an eighth.
    """
    if value is None or not value > 0 or not most > 0:
        return ""
    eighths = max(1, min(cells * 8, round(cells * 8 * value / most)))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def size(value: int | None) -> str:
    """Bytes for people."""
    if value is None:
        return "–"
    amount = float(value)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:,.1f} TiB"


def terminal_width() -> int:
    """The width that reprs are made for: the terminal's, or 100 where there is none."""
    import shutil

    return shutil.get_terminal_size((100, 24)).columns
