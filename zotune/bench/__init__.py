"""Benchmarks of tuning steps: `zotune bench`, and the small problems that the contract tests run on.

Knows models, spaces, optimizers and the engine. Knows no data set and no objective of a user.
"""
