"""The client for asyncio, written from the one that waits.

``python -m insights_dev.async_client`` writes ``insights_py/aio.py`` from
``insights_py/client.py``; with ``--check`` it only says whether that is to be done.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys

from insights_dev.cluster import ROOT

SOURCE = ROOT / "insights_py" / "client.py"
TARGET = ROOT / "insights_py" / "aio.py"

# What is different, in the order in which it is replaced.  Each pattern has to be found: one
# that no longer is would leave out a difference without a word.
_RULES = (
    # What it says of itself.
    (
        r'\A"""(?s:.*?)"""\n',
        '"""The client for asyncio: `AsyncInsights`, the twin of `Insights`."""\n\n'
        "# Written by insights_dev/async_client.py.  Edit client.py.\n",
    ),
    (
        r'class Insights:\n    """(?s:.*?)\n    """\n',
        '''class Insights:
    """`Insights` for asyncio: the same methods, awaited.

    ``database`` is a DSN, an SQLAlchemy ``AsyncEngine``, or a connection:
    psycopg's ``AsyncConnection``, SQLAlchemy's, or an ``AsyncSession``.  With a
    DSN, tasks take turns on one connection.
    """
''',
    ),
    (
        r'"; for asyncio take AsyncInsights" if ("async" in .*?) else ""',
        r'"" if \1 else "; without asyncio take Insights"',
    ),
    (
        r"SQLAlchemy engine, connection or session, ",
        "SQLAlchemy AsyncEngine, AsyncConnection or AsyncSession, ",
    ),
    (r"psycopg 3 connection, not", "psycopg 3 AsyncConnection, not"),
    # Names.
    (r"(?<=class )Insights|(?<=-> )Insights|(?<=\[\")Insights", "AsyncInsights"),
    (r"\bthreading\b", "asyncio"),
    (r"\bpsycopg\.connect\(", "psycopg.AsyncConnection.connect("),
    (r"\.(Connection|Engine|Session)\b", r".Async\1"),
    (r"\bsqlalchemy\.(engine|orm)\b", "sqlalchemy.ext.asyncio"),
    (r"    import sqlalchemy\n", ""),
    (r"\bIterator\b", "AsyncIterator"),
    (r"\bAbstractContextManager\b", "AbstractAsyncContextManager"),
    (r"\bcontextmanager\b", "asynccontextmanager"),
    (r"__(enter|exit)__", r"__a\1__"),
    (r"import (.*?)\bCallable\b", r"import \1Awaitable, Callable"),
    (r"^Run = Callable\[(.*?\]), (.*)\]$", r"Run = Callable[\1, Awaitable[\2]]"),
    # Whoever gives the connection back may have been cancelled, and must not wait again.
    (r"with self\._lock:\n +(self\._users -= 1)", r"\1"),
    # What is awaited.
    (r"^( +)def (?!__init__|_ids|_source)", r"\1async def "),
    (r"^( +)with (?!translated\(\))(?=.*:$)", r"\1async with "),
    (
        r"(?<!def )\b(self\.(_run|_connect|_write|_own\.close|close|search)|run|cursor\.\w+"
        r"|psycopg\.AsyncConnection\.connect)\(",
        r"await \1(",
    ),
    (r"connection\.execute\(.*\)(?=\.all)", r"(await \g<0>)"),
    (r"connection\.(isolation_level|read_only) = (.+)", r"await connection.set_\1(\2)"),
    (r"^( +)yield from (\w+)", r"\1for trace in \2:\n\1    yield trace"),
)


def written() -> str:
    """The text of ``aio.py``."""
    text = SOURCE.read_text(encoding="utf-8")
    for pattern, replacement in _RULES:
        text, found = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        if not found:
            raise ValueError(f"{SOURCE.name} has no {pattern!r} any more")
    for command in (["check", "--quiet", "--fix", "--select", "I"], ["format", "--quiet"]):
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", TARGET, "-"],
            input=text,
            capture_output=True,
            check=True,
            text=True,
        ).stdout
    return text


def main() -> int:
    """Writes the file, or checks it."""
    parser = argparse.ArgumentParser(description="the client for asyncio")
    parser.add_argument("--check", action="store_true", help="change nothing, say what is wrong")
    if not parser.parse_args().check:
        TARGET.write_text(written(), encoding="utf-8")
    elif TARGET.read_text(encoding="utf-8") != written():
        print(
            "aio.py is not made of client.py as it is: run python -m insights_dev.async_client",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
