"""The values of a field with their counts, and intervals of its numbers.

It knows what the vocabulary says of a field, and where numbers and dates are cut. It may
import `index` and all that `index` may.
"""
