"""Reading the index: blocks and their postings, the planner from filters to conditions, the
bounds that they give, and the exact SQL that settles what these leave open.

It knows the index's tables and what a session keeps of them. It may import `base`, `language`,
`sets`, `exact` and `facts`.
"""
