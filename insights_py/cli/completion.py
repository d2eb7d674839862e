"""Completion scripts: click's protocol, spelled out for three shells."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_INSIGHTS_COMPLETE"


def script(command: click.Command, shell: str) -> str:
    """The script that teaches ``shell`` to complete ``insights``."""
    kind = get_completion_class(shell)
    if kind is None:
        raise ValueError(f"{shell} is not one of {', '.join(SHELLS)}")
    complete = kind(command, {}, "insights", VARIABLE)
    # Not source(), which in bash's case first runs the bash of this machine.
    return complete.source_template % complete.source_vars()
