"""Tasks and report of benchmarks/language_model.py.

Knows data, flags and result lines; starts no process.
"""
