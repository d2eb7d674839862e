"""The facts of a block as columns that can be counted, and the cells in which its numbers lie.

It knows what large blocks store of them, so that writers and discoveries agree. It may import
`index`, all that `index` may, and `stats`.
"""
