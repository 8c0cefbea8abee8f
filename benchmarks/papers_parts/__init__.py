"""Experiments of the five papers that benchmarks/papers.py runs: one module a paper, what they share in `experiment`,
`digits` and `verdicts`. Each experiment has a claim of its paper, cells that are run one by one, and a verdict."""
