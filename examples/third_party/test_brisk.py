"""All that a plugin author writes to have the whole contract tested."""

from zotune_brisk.objective import recall
from zotune_brisk.optimizer import Brisk

from zotune.testing import ObjectiveContract, OptimizerContract


class TestBrisk(OptimizerContract):
    def optimizer(self):
        return Brisk()


class TestRecall(ObjectiveContract):
    def objective(self):
        return recall
