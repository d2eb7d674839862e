"""Processes that tests start and interrupt."""

from __future__ import annotations

import signal


def heed_interrupts() -> None:
    """Reset SIGINT in a child process (``preexec_fn``).

    A shell without job control starts what is in the background with SIGINT ignored, and
    every child inherits that: it would wait for ever for the signal that a test sends.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
