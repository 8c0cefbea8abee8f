"""Records and a model to the outputs that objectives score: classification, multiple choice and generation.

Knows models, templates, tokens and the forward pass.
Knows no objective, no optimizer and no run.
"""
