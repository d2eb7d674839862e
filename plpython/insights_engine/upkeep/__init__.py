"""Writing the index: refresh, merge, rebuild, verify.

It knows which traces are pending, what was missed, and who may write. It may import `columns`
and all that `columns` may; no answer imports it.
"""
