"""``python -m bench.markdown .dev/bench.json``: the tables of docs/performance.md."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def tables(results: dict[str, Any]) -> str:
    """Both tables and the machine, as Markdown."""
    lines = []
    for kind in ("search", "correlation"):
        matches = "matches" if kind == "search" else "both match"
        lines += [f"| {kind} | {matches} | stock, ms | ours, ms | stock / ours |"]
        lines += ["|---|--:|--:|--:|--:|"]
        for timing in results["timings"]:
            if timing["kind"] == kind:
                lines.append(
                    f"| {timing['name']} | {timing['matches']:,} | {timing['stock_ms']:,.1f} "
                    f"| {timing['ours_ms']:,.1f} | {timing['ratio']:.2f} |"
                )
        lines.append("")
    lines += [f"- {name}: {value:.1f} ms" for name, value in results["first_calls_ms"].items()]
    lines.append("")
    lines += [f"- {name}: {value}" for name, value in results["machine"].items()]
    lines += [
        f"- {name}: {value / 2**20:,.0f} MiB" if name.endswith("_bytes") else f"- {name}: {value:,}"
        for name, value in results["data"].items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables(json.loads(Path(sys.argv[1]).read_text())))
