"""A minute of what ``make chaos`` does for ten."""

from __future__ import annotations

import os

from tests.chaos import campaign

SECONDS = 60.0
SEED = 20


def test_faults_change_no_answer_and_fail_no_write() -> None:
    report = campaign.run(SECONDS, int(os.environ.get("INSIGHTS_CHAOS_SEED", SEED)))
    print(report.text())
    assert report.good, report.text()
    # It was a campaign: most kinds of faults had their occasion, and the index was at work.
    assert len(report.faults) > 20
    assert sum(report.answers.values()) > 100
    assert report.by_index > 0
    assert report.writes > 50
