"""Which tests a change is followed by."""

from __future__ import annotations

import pytest

from insights_dev import affected

TESTS = {
    "tests/client/test_cli.py": "from insights_py.cli import exits, output\n",
    "tests/client/test_docs.py": 'PAGES = ("python.md", "cli.md")\n',
    "tests/migrations/test_revisions.py": "from insights_py.install import upgrade\n",
    "tests/sql/test_catalogue.py": "",
    "tests/sql/test_count.py": "select insights_count(null, '')",
    "tests/sql/test_counting_rhymes.py": "",
    "tests/sql/test_order_by.py": "from insights_engine.answers.search import (\n  ordering,\n)\n",
    "tests/sql/test_search.py": "from insights_engine import paging\nimport tests.sql.plain\n",
}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("tests/sql/test_search.py", ["tests/sql/test_search.py"]),
        ("tests/sql/plain.py", ["tests/sql/test_search.py"]),
        ("tests/client/conftest.py", ["tests/client/test_cli.py", "tests/client/test_docs.py"]),
        (
            "sql/functions/insights_count.sql",
            ["tests/sql/test_catalogue.py", "tests/sql/test_count.py"],
        ),
        ("plpython/insights_engine/paging.py", ["tests/sql/test_search.py"]),
        ("plpython/insights_engine/answers/search/ordering.py", ["tests/sql/test_order_by.py"]),
        ("plpython/insights_engine/catalogue.py", ["tests/sql/test_catalogue.py"]),
        ("insights_py/cli/exits.py", ["tests/client/test_cli.py"]),
        ("insights_py/install.py", ["tests/migrations/test_revisions.py"]),
        ("migrations/versions/0002_more.py", ["tests/migrations/test_revisions.py"]),
        ("docs/cli.md", ["tests/client/test_cli.py", "tests/client/test_docs.py"]),
        ("LICENSE", []),
        ("tests/sql/test_removed.py", []),
    ],
)
def test_tests_of_a_file(changed: str, expected: list[str]) -> None:
    assert affected.tests_of([changed], TESTS) == expected


def test_every_test_that_always_runs_is_there() -> None:
    always = {test for _, tests in affected.ALWAYS for test in tests}
    assert always <= affected.texts_of_tests().keys()
