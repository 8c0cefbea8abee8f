"""People's ratings: the questions to raters, their verdicts, and the page and the terminal that collect them.

This folder knows prompts and completions as text, and the file `ratings.sqlite` of a run directory.
It knows nothing of models, objectives or optimizers.
"""
