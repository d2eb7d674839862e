"""Sets of positions as long integers, bit-sliced numbers, and intervals of numbers.

It knows how they are encoded and computed with, and nothing of traces or tables. It may import
`language`, for the nodes that compare numbers.
"""
