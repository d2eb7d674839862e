"""Words and numbers that tables and charts write alike."""

from __future__ import annotations

from typing import Literal

#: What a matrix can show: the measures that go from -1 over 0 to 1.
Statistic = Literal["npmi", "npmi_smoothed", "phi"]
STATISTICS: tuple[Statistic, ...] = ("npmi", "npmi_smoothed", "phi")

MEANING: dict[Statistic, str] = {
    "npmi": "npmi: -1 never together, 0 independent, 1 always",
    "npmi_smoothed": "npmi, smoothed: -1 never together, 0 independent, 1 always",
    "phi": "phi: -1 opposites, 0 independent, 1 the same",
}


def unit_name(unit: str) -> str:
    """What one thing is called that was counted."""
    return "session" if unit.startswith("session") else "trace"


def coefficient(value: float) -> str:
    """A number from -1 to 1, without a negative zero."""
    return f"{round(value, 2) + 0.0:.2f}"
