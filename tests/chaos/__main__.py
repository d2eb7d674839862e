"""``make chaos``: a fault campaign of ten minutes, with a report at its end."""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
from pathlib import Path
from types import FrameType

from insights_dev.cluster import ROOT, say
from tests.chaos import campaign


def end(number: int, frame: FrameType | None) -> None:
    """Ended from outside: the server and its disk go away, too."""
    raise SystemExit(128 + number)


def main() -> int:
    signal.signal(signal.SIGTERM, end)
    parser = argparse.ArgumentParser(prog="make chaos")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, help="chosen at random without it")
    parser.add_argument("--only", nargs="+", default=(), metavar="FAULT")
    parser.add_argument("--without", nargs="+", default=(), metavar="FAULT")
    parser.add_argument("--report", type=Path, default=ROOT / ".dev" / "chaos.json")
    arguments = parser.parse_args()
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    say(f"a fault campaign of {arguments.seconds:.0f} s, seed {seed}")
    report = campaign.run(arguments.seconds, seed, arguments.only, arguments.without, say)
    campaign.write(report, arguments.report)
    print(report.text())
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
