"""How facts are written as terms of the vocabulary: buckets, slots, keys.

Writers and readers have to agree on all of it.
"""

from __future__ import annotations

from binascii import crc32

#: Hash buckets that the texts of a key share that have no term of their own.
BUCKETS = 1_024
#: Hash buckets that keys of attributes share that are not indexed.
HIDDEN_BUCKETS = 256
#: Hash buckets that names of spans share, of a type and status, beyond a limit.
NAME_BUCKETS = 256
#: Longer keys of attributes are not indexed.
LONGEST_KEY = 250
#: Between the keys of a path into an attribute's value.
SEPARATOR = "\x1f"

#: Blocks of so many positions have cells and sessions stored beside their postings.
LARGE_BLOCK = 8_000

# Slots of role "o": what was not captured.
TEXT, NUMBER, PARTS, CONTENT, SESSION, HIDDEN = 0, 1, 2, 3, 4, 16


def bucket_of(text: str) -> int:
    """The hash bucket of a text that has no term of its own."""
    return crc32(text.encode("utf-8", "surrogatepass")) % BUCKETS


def hidden_slot_of(key: str) -> int:
    """The slot of role ``o`` for spans with an attribute whose key is not indexed."""
    return HIDDEN + crc32(key.encode("utf-8", "surrogatepass")) % HIDDEN_BUCKETS


def name_bucket_of(name: str) -> int:
    """The hash bucket of a span's name that has no signature of its own."""
    return crc32(name.encode("utf-8", "surrogatepass")) % NAME_BUCKETS
