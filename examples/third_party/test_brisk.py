"""Two classes, and pytest runs the whole contract on both plugins."""

from zotune_brisk.objective import recall
from zotune_brisk.optimizer import Brisk

from zotune.testing import ObjectiveContract, OptimizerContract
from zotune.types import Objective, Optimizer


class TestBrisk(OptimizerContract):
    def optimizer(self) -> Optimizer[None]:
        return Brisk()


class TestRecall(ObjectiveContract):
    def objective(self) -> Objective:
        return recall
