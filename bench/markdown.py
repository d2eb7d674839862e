"""``python -m bench.markdown .dev/bench.json``: the tables of docs/performance.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Section = tuple[str, list[str], list[list[str]]]
"""A heading, the names of the columns, the rows."""

_MATCHES = {
    "search": "matches",
    "correlation": "both match",
    "count": "matches",
    "discovery": "traces of the target",
    "series": "rows",
}


def sections(results: dict[str, Any]) -> Iterator[Section]:
    """The tables of what was measured; the same for people and for Markdown."""
    for name, summary in results.get("never_asked", {}).items():
        yield _distributions(f"never asked: {name}", summary)
    for kind, matches in _MATCHES.items():
        timings = [timing for timing in results["timings"] if timing["kind"] == kind]
        if timings:
            yield _section(kind, matches, timings)
    built = results.get("build")
    if built:
        rows = [
            ["traces", f"{built['traces']:,}"],
            ["seconds", f"{built['seconds']:,.1f}"],
            ["traces a second", f"{built['traces_per_second']:,.0f}"],
        ]
        yield "building the index, one core", ["", "value"], rows
    size = results.get("size")
    if size:
        rows = [
            ["index", f"{size['index_bytes'] / 2**20:,.0f} MiB"],
            ["MLflow's tables", f"{size['mlflow_bytes'] / 2**20:,.0f} MiB"],
            ["share", f"{size['share']:.1%}"],
        ]
        yield "size", ["", "value"], rows
    for key, heading, first in (
        ("first_calls_ms", "a new connection", "step"),
        ("refresh_ms", "indexing traces that changed", "traces"),
    ):
        if results.get(key):
            yield heading, [first, "ms"], [[n, f"{v:.1f}"] for n, v in results[key].items()]
    if results.get("growth"):
        yield (
            "growth",
            ["correlation", "positions", "both match", "ms", "anew, ms", "ns a position"],
            [
                [
                    row["question"],
                    f"{row['positions']:,}",
                    f"{row['joint']:,}",
                    _ms(row["ms"]),
                    _ms(row["anew_ms"]),
                    f"{row['ns_per_position']:.2f}",
                ]
                for row in results["growth"]
            ],
        )
    if results.get("millions"):
        yield (
            "discoveries among millions",
            ["target", "positions", "traces of the target", "tested", *map(_label, _SECONDS)],
            [
                [
                    row["target"],
                    *(f"{row[name]:,}" for name in ("positions", "matches", "tested")),
                    *(f"{row[name]:.2f}" for name in _SECONDS),
                ]
                for row in results["millions"]
            ],
        )


def _distributions(heading: str, summary: dict[str, Any]) -> Section:
    """Median, percentiles and maximum of each kind of question, by who was asked."""
    systems = list(summary["all"])
    systems.sort(key=lambda name: not name.startswith("ours"))
    header = ["kind", "asked", *(f"{name}: median, p95, p99, max ms" for name in systems)]
    rows = []
    for kind, taken in {"all": summary["all"], **summary["kinds"]}.items():
        row = [kind, f"{taken['ours']['asked']:,}"]
        for name in systems:
            figures = taken.get(name)
            row.append(
                ", ".join(_ms(figures[which]) for which in ("median", "p95", "p99", "max"))
                if figures
                else "-"
            )
        rows.append(row)
    return heading, header, rows


_SECONDS = ("first_s", "later_s", "with_pairs_s")


def _label(name: str) -> str:
    return name[:-2].replace("_", " ") + ", s"


def _section(kind: str, matches: str, timings: list[dict[str, Any]]) -> Section:
    """One kind of question; a column for everyone asked, and for everyone beside ours."""
    names: dict[str, None] = {}
    for timing in timings:
        names |= dict.fromkeys(timing["ms"])
    systems = sorted(names, key=lambda name: (name.startswith("ours"), name != "stock"))
    others = [name for name in systems if not name.startswith("ours")] if "ours" in names else []
    header = [kind, matches, *(f"{name}, ms" for name in systems)]
    header += [f"{name} / ours" for name in others]
    rows = []
    for timing in timings:
        name = timing["name"] if timing["in_aim"] else f"{timing['name']} (no fact of the index)"
        row = [name, f"{timing['matches']:,}"]
        row += [_ms(timing["ms"][s]) if s in timing["ms"] else "-" for s in systems]
        ratios = timing["ratios"]
        row += [f"{ratios[s]:,.2f}" if ratios.get(s) is not None else "-" for s in others]
        rows.append(row)
    return kind, header, rows


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:,.2f}" if milliseconds < 10 else f"{milliseconds:,.1f}"


def tables(results: dict[str, Any]) -> str:
    """All tables and the machine, as Markdown."""
    lines = []
    for heading, header, rows in sections(results):
        lines += [f"### {heading.capitalize()}", ""]
        lines += ["| " + " | ".join(header) + " |"]
        lines += ["|---|" + "--:|" * (len(header) - 1)]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        lines.append("")
    lines += [f"- {name}: {value}" for name, value in results.get("machine", {}).items()]
    lines += [
        f"- {name}: {value / 2**20:,.0f} MiB" if name.endswith("_bytes") else f"- {name}: {value:,}"
        for name, value in results.get("data", {}).items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables(json.loads(Path(sys.argv[1]).read_text())))
