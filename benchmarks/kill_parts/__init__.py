"""Parts of the kill harness (benchmarks/kills.py)."""
