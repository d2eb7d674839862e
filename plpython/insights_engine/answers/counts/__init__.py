"""Counts of filters and of pairs of filters, and how a filter is answered.

It knows what is counted, not how it is found. It may import `index`, all that `index` may, and
`stats`.
"""
