"""How facts are written as terms of the vocabulary: buckets, slots, keys.

Writers and readers have to agree on all of it.
"""

from __future__ import annotations

from binascii import crc32
from typing import Final

#: Hash buckets that the texts of a key share that have no term of their own.
BUCKETS = 1_024
#: Hash buckets that keys of attributes share that are not indexed.
HIDDEN_BUCKETS = 256
#: Hash buckets that names of spans share, of a type and status, beyond a limit.
NAME_BUCKETS = 256

#: Blocks of so many positions have cells and sessions stored beside their postings.
LARGE_BLOCK = 8_000


class Role:
    """What a term says of its key, as ``insights.term`` has it."""

    VALUE: Final = "v"  # some value is this one
    BUCKET: Final = "h"  # some value is in this hash bucket
    PRESENT: Final = "p"  # there is a value
    UNKNOWN: Final = "o"  # something was not captured
    LOW: Final = "n"  # the smallest number has this bit
    SPREAD: Final = "x"  # the largest number differs from the smallest in this bit


# Slots of `Role.UNKNOWN`: what was not captured.
TEXT, NUMBER, PARTS, CONTENT, SESSION, HIDDEN = 0, 1, 2, 3, 4, 16


def bucket_of(text: str) -> int:
    """The hash bucket of a text that has no term of its own."""
    return crc32(text.encode("utf-8", "surrogatepass")) % BUCKETS


def hidden_slot_of(key: str) -> int:
    """The slot of `Role.UNKNOWN` for spans with an attribute whose key is not indexed."""
    return HIDDEN + crc32(key.encode("utf-8", "surrogatepass")) % HIDDEN_BUCKETS


def name_bucket_of(name: str) -> int:
    """The hash bucket of a span's name that has no signature of its own."""
    return crc32(name.encode("utf-8", "surrogatepass")) % NAME_BUCKETS
