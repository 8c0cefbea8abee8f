"""Everything that touches transformers and peft: loading, adapters, trainable tensors, saving.

Knows model files, heads and tensors.
Knows no records, no task, no objective and no run.
"""
