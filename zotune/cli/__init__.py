"""The command line: one module a command, built from option records, and what the terminal shows.

Knows options, commands and text. Does not know how the work of a command is done: `zotune.runs`, `zotune.bench` and
`zotune.humans` do it.
"""
