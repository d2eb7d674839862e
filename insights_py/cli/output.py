"""How results leave: tables for people, JSON and CSV for programs, errors in colour."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from insights_py.display import Grid, printable
from insights_py.errors import InsightsError
from insights_py.rows import Row, Rows

if TYPE_CHECKING:
    from insights_py.worker import Progress

#: With one of these in front a spreadsheet takes a cell for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")


def show(grid: Grid) -> None:
    """A table on standard output: fitted and coloured in a terminal, whole elsewhere."""
    if sys.stdout.isatty():
        Console(highlight=False, soft_wrap=False).print(grid)
    else:
        sys.stdout.write(grid.plain() + "\n")


def row(form: str | None, one: Row) -> None:
    """One row in the form that was asked for: a table, JSON or CSV."""
    if form == "json":
        document(one.as_dict())
    elif form == "csv":
        table(one.columns(), [one.as_dict()])
    else:
        show(one.grid())


def rows(form: str | None, name: str, several: Rows[Any], grid: Grid | None = None) -> None:
    """Rows in the form that was asked for; ``name`` is their key in JSON."""
    if form == "json":
        document({name: [one.as_dict() for one in several]})
    elif form == "csv":
        table(several.kind.columns(), [one.as_dict() for one in several])
    else:
        show(several.grid() if grid is None else grid)


def document(value: Any) -> None:
    """A JSON document on standard output."""
    sys.stdout.write(dumps(value) + "\n")


def dumps(value: Any, indent: int | None = 2) -> str:
    """JSON.  NaN and the infinities are null: it has no such numbers."""
    encoding = (getattr(sys.stdout, "encoding", None) or "").lower()
    return json.dumps(
        _finite(value),
        indent=indent,
        ensure_ascii=encoding.replace("-", "") != "utf8",
        allow_nan=False,
        default=_text,
    )


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value


def _not_finite(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """CSV on standard output: a line of names, then a line for each row (RFC 4180).

    Objects and arrays are written as JSON; None as nothing.  Text that a
    spreadsheet would run as a formula gets an apostrophe in front, as does
    text that begins with one; so the text is what follows one leading ``'``.
    """
    _write_csv([columns])
    for row in rows:
        _write_csv([[cell(row[column]) for column in columns]])


def _write_csv(lines: Iterable[Sequence[str]]) -> None:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    sys.stdout.write(buffer.getvalue())


def cell(value: Any) -> str:
    """One value as the text of a CSV cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else _not_finite(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    text = value if isinstance(value, str) else dumps(value, indent=None)
    return "'" + text if text.startswith(_FORMULA) else text


def note(text: str) -> None:
    """A remark for people on standard error; nothing where that is no terminal."""
    if sys.stderr.isatty():
        Console(stderr=True, highlight=False).print(Text(text, style="dim"), soft_wrap=True)


def warning(text: str) -> None:
    """Something to be mended, on standard error; the command goes on."""
    _lines(sys.stderr, [[("insights: warning: ", "bold yellow"), (text, "")]])


def report(lines: Iterable[Sequence[tuple[str, str]]]) -> None:
    """Lines of styled pieces on standard output; nothing is cut."""
    _lines(sys.stdout, lines)


def failure(error: InsightsError) -> None:
    """An error on standard error: the message, the filter with its caret, the hint."""
    _lines(sys.stderr, [[("insights: ", "bold red"), (error.message, "bold")]])
    for line in (error.detail or "").splitlines():
        caret = line.strip(" ^") == "" and "^" in line
        # Not folded by us: the caret must stay under its place.
        _lines(sys.stderr, [[("  " + line, "bold red" if caret else "")]], fold=False)
    if error.hint:
        _lines(sys.stderr, [[("Hint: ", "green"), (error.hint, "")]])


def complaint(message: str, usage: str = "") -> None:
    """A wrong use of the command line, on standard error."""
    first, *rest = message.splitlines()
    _lines(
        sys.stderr,
        [
            *([(line, "dim")] for line in usage.splitlines()),
            [("insights: ", "bold red"), (first, "bold")],
            *([(line, "")] for line in rest),
        ],
    )


def log(text: str) -> None:
    """A line with the time on standard output, at once."""
    sys.stdout.write(f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M:%S} {text}\n")
    sys.stdout.flush()


def progress(steps: Iterable[Progress]) -> Progress:
    """Shows how the index grows: a bar in a terminal, a line a batch elsewhere; the last step."""
    iterator = iter(steps)
    last = next(iterator)
    if not sys.stderr.isatty():
        for last in iterator:
            if not last.waiting:
                sys.stderr.write(f"{last.indexed:,} of {last.total:,} traces indexed\n")
                sys.stderr.flush()
        return last
    from rich import progress as parts  # only here, for it takes a while to import

    with parts.Progress(
        parts.TextColumn("{task.description}"),
        parts.BarColumn(),
        parts.TaskProgressColumn(),
        parts.TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task("indexing", total=last.total, completed=last.indexed)
        for last in iterator:
            doing = "waiting for other transactions" if last.waiting else "indexing"
            bar.update(task, description=doing, completed=last.indexed, total=last.total)
    return last


def _lines(stream: IO[str], lines: Iterable[Sequence[tuple[str, str]]], fold: bool = True) -> None:
    """Coloured, and folded at blanks, in a terminal; as they are elsewhere."""
    if stream.isatty():
        console = Console(file=stream, highlight=False)
        for pieces in lines:
            harmless = [(printable(text), style) for text, style in pieces]
            console.print(Text.assemble(*harmless), soft_wrap=not fold)
    else:
        for pieces in lines:
            stream.write("".join(text for text, _ in pieces) + "\n")
