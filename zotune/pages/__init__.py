"""Runs as a page: curves, completions, tables and the verdict in one HTML file that needs no network.

Knows records of a run (`run_record`), HTML and SVG. Knows no run directory, no model, no optimizer and no server.
"""
