"""Traces by time, a row for each bucket.

It knows buckets, and percentiles and sums within them. It may import `index` and all that
`index` may.
"""
