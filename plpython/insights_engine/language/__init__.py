"""The filter language, from text to tree and back, and what is said of a filter that makes no
sense.

It knows which fields there are and what they are called, and nothing of how they are stored.
It imports nothing of the engine.
"""
