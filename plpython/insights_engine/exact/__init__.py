"""Exact SQL: what a filter or a field means over MLflow's own tables.

It knows MLflow's columns and how MLflow stores JSON, and nothing of the index. It may import
`language` and `base`.
"""
