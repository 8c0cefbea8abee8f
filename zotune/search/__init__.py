"""The search: optimizers at work. The engine's loop, oracle, journal, checkpoints, calibration and preflight.

Knows the numeric core and the optimizer protocol. Knows no data set, no metric and no algorithm.
"""
