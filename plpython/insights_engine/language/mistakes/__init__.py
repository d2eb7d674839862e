"""What is wrong with a filter that makes no sense, where, and what to write instead.

It is asked only once reading has stopped somewhere, and is given what had been read by then.
It imports tokens, tables and fields of the language, and is imported where a mistake is found.
"""
