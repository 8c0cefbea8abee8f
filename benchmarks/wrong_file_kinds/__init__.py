"""The kinds of damaged and odd files of `benchmarks/wrong_files.py`, and the right score of each.

Right scores come from plain transformers, peft and safetensors: nothing here imports zotune.
"""
