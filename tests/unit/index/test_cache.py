"""What a session keeps of the index."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from insights_engine.index.cache import DEFAULT_BYTES, Cache, Known, cached_bytes

FULL = (1 << 32_000) - 1
#: What a set of that many positions counts as, with its entry in the cache.
SIZE = Known(FULL, FULL).nbytes + 200


def opened(limit: int = DEFAULT_BYTES) -> Cache:
    cache = Cache()
    cache.open("one", limit)
    return cache


def blocks(*numbers: int) -> list[Any]:
    return [SimpleNamespace(block=number) for number in numbers]


def test_what_is_kept_is_known() -> None:
    cache = opened()
    cache.keep("a", {1: Known(5, 7)})
    cache.keep("a", {2: Known(1, 1)})
    assert {block: (one.must, one.may) for block, one in cache.known("a").items()} == {
        1: (5, 7),
        2: (1, 1),
    }
    assert cache.known("b") == {}


def test_equal_bounds_are_one_integer() -> None:
    must = FULL >> 1
    may = must - 1 + 1
    assert must is not may
    known = Known(must, may)
    assert known.may is known.must
    assert known.count() == 31_999
    assert Known(1, 3).may == 3


def test_a_part_of_a_block() -> None:
    part = Known(0b1100, 0b1111).within(0b0110)
    assert (part.must, part.may) == (0b0100, 0b0110)
    whole = Known(0b1100, 0b1100).within(0b0110)
    assert whole.may is whole.must
    assert whole.count() == 1


def test_least_recently_used_goes_first() -> None:
    cache = opened(3 * SIZE)
    for key in "abc":
        cache.keep(key, {1: Known(FULL, FULL)})
    assert cache.known("a")
    cache.keep("d", {1: Known(FULL, FULL)})
    assert [key for key in "abcd" if cache.known(key)] == ["a", "c", "d"]


def test_what_is_replaced_is_not_counted_twice() -> None:
    cache = opened(2 * SIZE)
    cache.keep("a", {1: Known(FULL, FULL)})
    for _ in range(5):
        cache.keep("b", {1: Known(FULL, FULL)})
    assert cache.known("a")
    assert cache.known("b")


def test_more_than_may_be_kept_is_not_kept() -> None:
    cache = opened(2 * SIZE)
    cache.keep("a", {1: Known(FULL, FULL)})
    cache.keep("b", {number: Known(FULL, FULL) for number in range(3)})
    assert cache.known("a")
    assert cache.known("b") == {}


def test_a_smaller_limit_counts_at_once() -> None:
    cache = opened()
    cache.keep("a", {1: Known(FULL, FULL)})
    cache.open("one", 100)
    assert cache.known("a") == {}


def test_nothing_is_kept_with_a_limit_of_zero() -> None:
    cache = opened()
    cache.keep_blocks("scope", "v1", blocks(1))
    cache.keep("a", {1: Known(0, 0)})
    cache.open("one", 0)
    assert cache.blocks("scope", "v1") is None
    cache.keep("a", {1: Known(0, 0)})
    assert cache.known("a") == {}


def test_another_installation_has_other_blocks() -> None:
    cache = opened()
    cache.keep_blocks("scope", "v1", blocks(1))
    cache.keep("a", {1: Known(5, 5)})
    cache.open("two", DEFAULT_BYTES)
    assert cache.known("a") == {}
    assert cache.blocks("scope", "v1") is None


def test_blocks_belong_to_a_version() -> None:
    cache = opened()
    kept = blocks(1, 2)
    cache.keep_blocks("scope", "v1", kept)
    assert cache.blocks("scope", "v1") is kept
    assert cache.blocks("scope", "v2") is None
    assert cache.blocks("other", "v1") is None


def test_what_is_known_of_blocks_that_are_gone_is_dropped() -> None:
    cache = opened(4 * SIZE)
    cache.keep_blocks("scope", "v1", blocks(1, 2))
    cache.keep("a", {1: Known(FULL, FULL), 2: Known(FULL, FULL)})
    cache.keep_blocks("scope", "v2", blocks(2, 3))
    assert list(cache.known("a")) == [2]
    # And its bytes are free again.
    cache.keep("b", {number: Known(FULL, FULL) for number in range(3)})
    assert cache.known("a")
    assert len(cache.known("b")) == 3


def test_what_discoveries_look_at_goes_first() -> None:
    cache = opened(3 * SIZE)
    cache.keep_blocks("scope", "v1", blocks(1, 2))
    cache.keep("a", {1: Known(FULL, FULL)})
    cache.keep_column(1, "counts", "of block 1", SIZE)
    cache.keep_column(2, "counts", "of block 2", SIZE)
    cache.keep_column(2, "more", "than there is room for", SIZE)
    assert cache.column(1, "counts") == "of block 1"
    assert cache.column(2, "counts") == "of block 2"
    assert cache.column(2, "more") is None
    cache.keep("b", {1: Known(FULL, FULL)})
    assert cache.known("a")
    assert cache.known("b")
    assert cache.column(1, "counts") is None
    assert cache.column(2, "counts") == "of block 2"
    cache.keep_blocks("scope", "v2", blocks(1, 3))
    assert cache.column(2, "counts") is None


def test_a_planner_lasts_for_a_version() -> None:
    cache = opened()
    made: list[Any] = []

    def make() -> Any:
        made.append(object())
        return made[-1]

    assert cache.planner("scope", "v1", make) is made[0]
    assert cache.planner("scope", "v1", make) is made[0]
    assert cache.planner("scope", "v2", make) is made[1]
    assert cache.planner("other", "v2", make) is made[2]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, DEFAULT_BYTES),
        ("", DEFAULT_BYTES),
        ("0", 0),
        ("4096", 4096),
        ("64kB", 65_536),
        (" 2 mb ", 2 * 2**20),
        ("1GB", 2**30),
        ("many", DEFAULT_BYTES),
        ("-1", DEFAULT_BYTES),
        ("1.5GB", DEFAULT_BYTES),
        ("٣MB", DEFAULT_BYTES),
        ("9" * 40, DEFAULT_BYTES),
    ],
)
def test_the_setting(setting: str | None, expected: int) -> None:
    assert cached_bytes(setting) == expected
