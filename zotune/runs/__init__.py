"""A command's work from start to end: plan, session, fit, evaluate, check, compare, replay, verify and export.

Knows models, data, objectives, the search and run directories; does not know the command line.
"""
