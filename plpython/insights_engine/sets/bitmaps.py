"""Sets of positions: Python integers in memory, bytes in ``insights.posting``.

Bit ``p`` of an integer says whether position ``p`` is in the set, so union,
intersection and difference are ``|``, ``&`` and ``& ~``.  A number per position
is *bit-sliced*: slice ``b`` is the set of positions whose number has bit ``b``
(O'Neil and Quass, Improved Query Performance with Variant Indexes, 1997).
Comparing all of them with a constant is then one operation on sets per bit.
"""

from __future__ import annotations

import re
import struct
import sys
import zlib
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import compress, repeat
from typing import Any, Protocol

#: Positions of a block.  Two bitmaps of 4,000 bytes, with their row headers,
#: fill one page of 8 KiB.
POSITIONS = 32_000

# The first byte of a stored set is its format: a list of positions of 16 bits each, in
# little-endian order; a bitmap, position 0 the lowest bit of the first byte; or a deflated
# bitmap.
_LISTED, _BITMAP, _DEFLATED = b"\x00", b"\x01", b"\x02"
#: A longer list takes longer to read than a bitmap to inflate.
_LONGEST_LIST = 100
#: In shorter bitmaps the row header dominates the size.
_SHORTEST_DEFLATED = 64


def encode(positions: Sequence[int], used: int) -> bytes:
    """Ascending positions as stored; ``used`` is the number of positions given out."""
    if _as_list(len(positions), used):
        return _LISTED + _uint16(positions)
    size = (used + 7) >> 3
    if 20 * len(positions) < used:
        bitmap = bytearray(size)
        for position in positions:
            bitmap[position >> 3] |= 1 << (position & 7)
        return _bitmap(bytes(bitmap))
    digits = bytearray(b"0") * used
    deque(map(digits.__setitem__, positions, repeat(49)), maxlen=0)  # 49: "1"
    return _bitmap(int(digits[::-1], 2).to_bytes(size, "little"))


def encode_set(bits: int, used: int) -> bytes:
    """A set as stored."""
    if _as_list(count(bits), used):
        return _LISTED + _uint16(positions(bits))
    return _bitmap(bits.to_bytes((used + 7) >> 3, "little"))


def _as_list(length: int, used: int) -> bool:
    return length <= _LONGEST_LIST and 16 * length < used


def _bitmap(bitmap: bytes) -> bytes:
    if len(bitmap) < _SHORTEST_DEFLATED:
        return _BITMAP + bitmap
    # Incompressible data takes longest; a trial with the beginning avoids it.
    start = bitmap[: len(bitmap) >> 3]
    if len(start) > 100 and 10 * len(zlib.compress(start, 1)) > 9 * len(start):
        return _BITMAP + bitmap
    deflated = zlib.compress(bitmap, 1)
    # A small gain in size does not pay for inflating.
    if 4 * len(deflated) < 3 * len(bitmap):
        return _DEFLATED + deflated
    return _BITMAP + bitmap


def _uint16(positions: Iterable[int]) -> bytes:
    numbers = array("H", positions)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def decode(members: bytes) -> int:
    """The set that stored bytes stand for."""
    if members[0]:
        return bits_of_bitmap(members)
    return of_positions(listed_positions(members))


def is_list(members: bytes) -> bool:
    """Whether a set is stored as a list, for `listed_positions`."""
    return not members[0]


def stored_bitmap(members: bytes) -> bytes:
    """The bitmap of a set that is not stored as a list: a bit for every position given out."""
    stored = memoryview(members)[1:]
    return zlib.decompress(stored) if members[0] == 2 else bytes(stored)


def bits_of_bitmap(members: bytes) -> int:
    """The set, of one that is not stored as a list."""
    return int.from_bytes(stored_bitmap(members), "little")


def listed_positions(members: bytes) -> array[int]:
    """The positions, ascending, of a set that is stored as a list."""
    listed = array("H")
    listed.frombytes(memoryview(members)[1:])
    if sys.byteorder == "big":
        listed.byteswap()
    return listed


def stored_positions(members: bytes) -> Sequence[int]:
    """The positions that stored bytes stand for, ascending."""
    return positions(bits_of_bitmap(members)) if members[0] else listed_positions(members)


def of_positions(positions: Sequence[int]) -> int:
    """The set of ascending positions."""
    if not positions:
        return 0
    bitmap = bytearray((positions[-1] >> 3) + 1)
    for position in positions:
        bitmap[position >> 3] |= 1 << (position & 7)
    return int.from_bytes(bitmap, "little")


_NOT_ZERO = re.compile(rb"[^\0]")
#: The positions of the bits of each byte.
_BITS = tuple(tuple(bit for bit in range(8) if byte >> bit & 1) for byte in range(256))


def positions(bits: int) -> list[int]:
    """The members of a set, ascending."""
    found: list[int] = []
    used = bits.bit_length()
    members = count(bits)
    if 16 * members > used:
        return list(compress(range(used), flags(bits, used)))
    stored = bits.to_bytes((used + 7) >> 3, "little")
    if 16 * members < len(stored):
        # Between the few bytes that are not 0 there is much to skip.
        for place in _NOT_ZERO.finditer(stored):
            start = place.start() << 3
            found += [start + bit for bit in _BITS[place.group()[0]]]
        return found
    for index, byte in enumerate(stored):
        if byte:
            start = index << 3
            found += [start + bit for bit in _BITS[byte]]
    return found


def flags(bits: int, used: int) -> bytes:
    """A byte, 0 or 1, for each of the positions given out."""
    # The digits, lowest first; the one above the highest makes them complete.
    return bin(bits | 1 << used)[:2:-1].encode().translate(_VALUES)


def of_flags(flags: bytes | bytearray) -> int:
    """The set, of a byte for each position: 0, or 1 for a member."""
    return int(flags[::-1].translate(_DIGITS), 2)


def chosen(column: Sequence[Any], bits: int) -> Iterable[Any]:
    """What a column has at the members of a set, in the order of positions."""
    if 20 * count(bits) < len(column):
        return [column[position] for position in positions(bits)]
    return compress(column, flags(bits, len(column)))


#: Of digits the bytes 0 and 1.
_VALUES = bytes(int(byte == 49) for byte in range(256))  # 49: "1"

if hasattr(int, "bit_count"):  # Python 3.10

    def count(bits: int) -> int:
        """How many members a set has."""
        return bits.bit_count()

else:

    def count(bits: int) -> int:
        """How many members a set has."""
        return bin(bits).count("1")


# ------------------------------------------------------------- numbers as slices

#: Bits of a number.  The highest slice holds the negative ones, so that sets of
#: ordinary numbers do not need it.
WIDTH = 64
#: The slot of role ``n`` that holds the positions with a number at all: those
#: without one look like 0 in the slices.  Every series but span counts has it.  In
#: role ``x`` it holds those with several different numbers.
HAS_NUMBER = 64
_SIGN = 1 << (WIDTH - 1)
_ALL = (1 << WIDTH) - 1


class Slices(Protocol):
    """The slices of some numbers, by bit; a dictionary will do."""

    def get(self, bit: int, otherwise: int, /) -> int:
        """The positions whose number has the bit."""


def pattern_of_integer(number: int) -> int:
    """The 64 bits of an integer in two's complement; see `ordered`."""
    return number & _ALL


def pattern_of_double(number: float) -> int:
    """The 64 bits of a finite double; see `ordered`.

    IEEE 754 doubles order like integers, negative ones backwards.  -0.0 is 0.0.
    """
    (bits,) = struct.unpack("<Q", struct.pack("<d", number + 0.0))
    return int(bits ^ (_ALL >> 1)) if bits & _SIGN else int(bits)


def integer_of(pattern: int) -> int:
    """The integer that a pattern stands for."""
    return pattern - (1 << WIDTH) if pattern & _SIGN else pattern


def double_of(pattern: int) -> float:
    """The double that a pattern stands for."""
    bits = pattern ^ (_ALL >> 1) if pattern & _SIGN else pattern
    (number,) = struct.unpack("<d", struct.pack("<Q", bits))
    return float(number)


def ordered(pattern: int) -> int:
    """A pattern as an unsigned number whose order is that of the numbers."""
    return pattern ^ _SIGN


def below(slices: Slices, within: int, bound: int) -> int:
    """The members of ``within`` whose number comes before a bound, as `ordered` has it.

    Slices are asked for from the highest bit on, as few as it takes.
    """
    if bound >> WIDTH:
        return within  # beyond all numbers
    # What agrees with the bound down to its lowest bit does not come before it.
    lowest = (bound & -bound).bit_length() - 1
    bits = range(WIDTH - 1, lowest - 1, -1) if bound else ()
    return _compare(slices, within, bound, bits, sign=WIDTH - 1)[0]


def _compare(
    slices: Slices, within: int, bound: int, bits: Iterable[int], sign: int | None = None
) -> tuple[int, int]:
    """The members of ``within`` whose number is less than a bound, and those that equal it.

    As far as some bits tell, the highest first; a set bit ``sign`` makes a number the lesser.
    """
    less, equal = 0, within
    for bit in bits:
        upper = equal & slices.get(bit, 0)
        if bit == sign:
            upper ^= equal
        if bound >> bit & 1:
            less |= equal ^ upper
            equal = upper
        else:
            equal ^= upper
        if not equal:
            break
    return less, equal


def largest(slices: Slices, within: int, wanted: int) -> tuple[int, int]:
    """The ``wanted`` members of ``within`` with the largest numbers.

    Gives those that are among them for sure, and those tied for the last places;
    all of them where there are no more than wanted.
    """
    sure, tied = 0, within
    if count(within) <= wanted:
        return within, 0
    for bit in range(WIDTH - 1, -1, -1):
        members = slices.get(bit, 0)
        upper = tied & (~members if bit == WIDTH - 1 else members)
        if not upper or upper == tied:
            continue
        if count(sure | upper) > wanted:
            tied = upper
        else:
            sure |= upper
            tied &= ~upper
    return sure, tied


def least(slices: Slices, within: int) -> int:
    """The smallest of the integers of a set that is not empty."""
    negative = within & slices.get(WIDTH - 1, 0)
    within, value = (negative, -1 << WIDTH - 1) if negative else (within, 0)
    for bit in range(WIDTH - 2, -1, -1):
        without = within & ~slices.get(bit, 0)
        if without:
            within = without
        else:
            value += 1 << bit
    return value


def add(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """The slices of the sums of two unsigned numbers per position."""
    sums = []
    carry = 0
    for bit in range(max(len(first), len(second))):
        one = first[bit] if bit < len(first) else 0
        other = second[bit] if bit < len(second) else 0
        half = one ^ other
        sums.append(half ^ carry)
        carry = one & other | half & carry
    if carry:
        sums.append(carry)
    return sums


def compare_counts(slices: Sequence[int], within: int, number: int) -> tuple[int, int]:
    """The members of ``within`` whose unsigned number is less than, and equal to, ``number``."""
    if number < 0:
        return 0, 0
    if number.bit_length() > len(slices):
        return within, 0
    return _compare(dict(enumerate(slices)), within, number, range(len(slices) - 1, -1, -1))


def transpose(patterns: Sequence[int]) -> dict[int, int]:
    """The slices of numbers, of which the first stands at position 0."""
    return {bit: int(column[::-1].translate(_DIGITS), 2) for bit, column in _columns(patterns)}


def numbers(slices: Slices, used: int) -> array[int]:
    """The patterns of all positions given out; 0 where there is no number."""
    found = array("Q")
    found.frombytes(_spread(slices, used, WIDTH >> 3))
    return found


def low_numbers(slices: Slices, used: int) -> array[int]:
    """The lower 32 bits of the patterns."""
    found = array("I")
    found.frombytes(_spread(slices, used, WIDTH >> 4))
    return found


def _spread(slices: Slices, used: int, width: int) -> bytearray:
    """The ``width`` lowest bytes of all patterns, as numbers of the machine."""
    size = (used + 7) >> 3
    spread = bytearray(width * used)
    for byte in range(width):
        # Byte ``n`` of eight: bit ``n`` of eight numbers.
        mixed = bytearray(8 * size)
        for bit in range(8):
            members = slices.get(8 * byte + bit, 0)
            if members:
                mixed[bit::8] = members.to_bytes(size, "little")
        if any(mixed):
            place = byte if sys.byteorder == "little" else width - 1 - byte
            spread[place::width] = _turned(mixed)[:used]
    return spread


def _turned(squares: bytearray) -> bytes:
    """Bits in squares of eight bytes with rows and columns swapped.

    Blocks of 1, 2 and 4 bits change places with those across the diagonal, in all squares
    at once (Warren, Hacker's Delight, 2nd edition 2012, section 7-3).
    """
    bits = int.from_bytes(squares, "little")
    for shift, mask in zip((7, 14, 28), _masks(len(squares) >> 3)):
        changed = (bits ^ (bits >> shift)) & mask
        bits ^= changed ^ (changed << shift)
    return bits.to_bytes(len(squares), "little")


@lru_cache(maxsize=8)
def _masks(squares: int) -> tuple[int, ...]:
    """Of so many squares the bits that change places with higher ones."""
    return tuple(
        int.from_bytes(mask.to_bytes(8, "little") * squares, "little")
        for mask in (0x00AA00AA00AA00AA, 0x0000CCCC0000CCCC, 0x00000000F0F0F0F0)
    )


def integers(patterns: array[int]) -> array[int]:
    """The integers that patterns stand for."""
    found = array("q")
    found.frombytes(patterns.tobytes())
    return found


def doubles(patterns: array[int]) -> array[float]:
    """The doubles that patterns stand for."""
    stored = patterns.tobytes()
    highest = stored[WIDTH // 8 - 1 if sys.byteorder == "little" else 0 :: WIDTH // 8]
    if highest.translate(None, _UNSIGNED):
        patterns = array("Q", (p ^ (_ALL >> 1) if p & _SIGN else p for p in patterns))
        stored = patterns.tobytes()
    found = array("d")
    found.frombytes(stored)
    return found


#: The highest bytes of patterns of numbers that are not negative.
_UNSIGNED = bytes(range(128))

#: Of bytes 0 and 1 the digits.
_DIGITS = bytes(48 + (byte & 1) for byte in range(256))
#: Of a byte whether it has a bit set, as 0 or 1, by bit.
_HAS_BIT = tuple(bytes(byte >> bit & 1 for byte in range(256)) for bit in range(8))


def _columns(patterns: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """Of each bit that some number has: bytes 0 and 1, one for each number."""
    numbers = patterns if isinstance(patterns, array) else array("Q", patterns)
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    stored = numbers.tobytes()
    for byte in range(WIDTH // 8):
        column = stored[byte :: WIDTH // 8]
        used = 0
        for value in set(column):
            used |= value
        for bit in range(8):
            if used >> bit & 1:
                yield 8 * byte + bit, column.translate(_HAS_BIT[bit])


def sliced(
    patterns: Sequence[int], positions: Sequence[int], used: int
) -> Iterator[tuple[int, bytes]]:
    """(bit, its slice as stored) of numbers that stand at ascending positions."""
    if 4 * len(positions) >= used:
        if len(positions) < used:
            spread = array("Q", bytes(8 * used))
            for position, pattern in zip(positions, patterns):
                spread[position] = pattern
            patterns = spread
        for bit, column in _columns(patterns):
            if _as_list(column.count(1), used):
                yield bit, _LISTED + _uint16(compress(range(used), column))
            else:
                bits = int(column[::-1].translate(_DIGITS), 2)
                yield bit, _bitmap(bits.to_bytes((used + 7) >> 3, "little"))
        return
    for bit, column in _columns(patterns):
        yield bit, encode(list(compress(positions, column)), used)
