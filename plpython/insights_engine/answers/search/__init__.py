"""Search: which traces, in which order, page by page.

It knows when to walk MLflow's own indexes and when to ask ours. It may import `index` and all
that `index` may.
"""
