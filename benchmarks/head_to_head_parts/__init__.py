"""The parts of the comparisons on generated text (benchmarks/head_to_head.py, benchmarks/rare_words.py).

Each task knows its prompts and its reward, each method is a process of its own that leaves a model folder, and every
folder is evaluated by the same code. Knows nothing of how a method works inside.
"""
