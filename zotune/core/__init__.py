"""The numeric core: noise, recipes, and the space of tuned weights, which alone writes a weight.

Knows torch modules and tensors. Knows no model family, no task, no objective and no optimizer.
"""
