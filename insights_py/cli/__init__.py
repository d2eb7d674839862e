"""The command line: ``insights``.

It prints tables for people and, with ``--json`` or ``--csv``, documents with
stable keys for programs.  docs/cli.md is the reference; the exit codes are in
`insights_py.cli.exits`.
"""

from insights_py.cli.main import main

__all__ = ["main"]
