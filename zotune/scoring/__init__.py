"""Objectives: from what a user names to a callable with its declaration, its calls and its scores.

Knows declarations, options and plugins. Knows no model, no optimizer and no file of a run; `score_budget` counts only.
"""
