"""What a trace says: the facts of its rows, and how they are written as terms of the
vocabulary.

Who writes the index and who reads it agree on them here. It may import `language`, `exact` and
`base`.
"""
