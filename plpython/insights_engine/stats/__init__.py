"""Tests, intervals, corrections for multiple tests, rankings and thresholds, each with the
source of its formula.

It knows counts and numbers only. It may import `base`, for long computations attend to a
cancel.
"""
