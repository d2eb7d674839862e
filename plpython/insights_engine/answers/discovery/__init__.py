"""Which facts are associated with a target, tested and ranked.

It knows among which traces or sessions facts are sought, how they are tested, and which of
them say the same. It may import `columns` and all that `columns` may.
"""
