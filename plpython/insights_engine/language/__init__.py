"""The filter language, from text to tree and back, and what is said of a filter that makes no
sense.

It knows which fields there are, what they are called, and in one table that all other packages
read, how they are kept.
It imports nothing of the engine.
"""
