"""The settings of how many traces are looked at one by one."""

from __future__ import annotations

import pytest
from insights_engine.index.index_reader import at_most


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, 800),
        ("", 800),
        ("0", 0),
        (" 7 ", 7),
        ("007", 7),
        ("800", 800),
        # Nobody gets more work or memory than is foreseen.
        ("801", 800),
        ("9" * 12, 800),
        ("9" * 40, 800),
        ("-1", 800),
        ("1.5", 800),
        ("7kB", 800),
        ("many", 800),
        ("٣", 800),
    ],
)
def test_a_limit_can_only_be_made_smaller(setting: str | None, expected: int) -> None:
    assert at_most(setting, 800) == expected
