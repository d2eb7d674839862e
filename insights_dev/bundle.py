"""Temporary: replaced together with the migrations."""


def is_current() -> bool:
    """No bundle yet."""
    return False
