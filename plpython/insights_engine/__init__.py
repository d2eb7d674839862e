"""The trace search engine that runs inside PostgreSQL.

An ordinary package: importable and testable without a database.  Functions
that need one take PL/Python's ``plpy`` module as their first argument.
"""
