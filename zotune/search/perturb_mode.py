"""The perturb mode (`--perturb`): how the weights of perturbed points reach the model.

    copy     one extra copy of the tuned weights, written once for each point
    forward  the weights of one module at a time, written while the forward pass runs it
    joint    all points of a step in one forward pass
    auto     joint where few weights are tuned and it pays, forward where many are, else copy

Knows models, tasks and spaces; knows no metric and no optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from zotune.config import RunConfig
from zotune.core.in_forward import InForward
from zotune.core.joint_forward import JointForward
from zotune.core.space import Space
from zotune.distributed import Processes
from zotune.errors import OptionError
from zotune.search.batches import Batches
from zotune.search.oracle import Oracle
from zotune.tasks import build
from zotune.tasks.forward import Tokens

IN_FORWARD_WEIGHTS = 1 << 20
"""`auto` perturbs in the forward pass from so many tuned weights on; fewer are cheaper to copy."""
JOINT_SHARE = 0.05
"""`auto` evaluates points jointly up to this share of tuned weights in the model: each point takes a copy of them."""
CHECK_ROWS = 16
"""Rows on which perturbing in the forward pass is checked against a copy, at most."""
JOINT = ("joint", "together")
"""The mode's name, and its alias in older configurations."""


@dataclass(frozen=True)
class PerturbMode:
    """Chooses the perturb mode of a run and prepares the space and the oracle for it.

    wants: the inputs that the objective declares.
    """

    config: RunConfig
    task: build.Task
    train: build.EncodedRows
    wants: frozenset[str]
    space: Space
    batches: Batches
    oracle: Oracle
    processes: Processes

    def prepare(self) -> list[str]:
        """Switch the mode on, after checking by a few forward passes that it gives the values of written weights.

        Returns the tensors that are perturbed by copy all the same, because something outside their module reads them.
        Raises OptionError where the mode that the user chose does not work for this model.
        """
        mode = self.config.perturb
        if self.joint:
            self._enable_joint()
            return []
        if mode in JOINT:
            raise OptionError("--perturb joint: a run of several processes distributes points", hint="--perturb auto")
        if mode == "copy" or (mode == "auto" and (self.space.numel < IN_FORWARD_WEIGHTS or self._generates)):
            return []
        rows = self.batches.at(0).rows[:CHECK_ROWS]
        self.space.max_in_forward = math.inf if mode == "forward" else 2
        micro_batch, copied = 0, list[str]()
        while micro_batch != self.task.forward.micro_batch:  # where memory ran short, it was halved: check again
            micro_batch = self.task.forward.micro_batch
            with self.processes.local():
                copied = self.space.perturb_in_forward(lambda: self._logits(rows))
        return copied

    @property
    def joint(self) -> bool:
        """Whether a step's points are evaluated in one forward pass.

        `auto` does so where few weights are tuned and either the device is not filled by one batch, or text is
        generated greedily, which a CPU does one token a row at a time.
        """
        if self.config.perturb != "auto" or self.processes.size > 1:
            return self.config.perturb in JOINT and self.processes.size == 1
        loaded = self.task.loaded
        few = self.space.numel <= JOINT_SHARE * sum(p.numel() for p in loaded.model.parameters())
        pays = self._generates or loaded.device.type != "cpu"
        return few and pays and not (self._generates and self.config.temperature)

    @property
    def _generates(self) -> bool:
        """Whether text is generated for the objective."""
        return isinstance(self.task, build.GenerationTask) and bool(self.wants & {"completions", "completion_ids"})

    def _enable_joint(self) -> None:
        """Evaluate points jointly, where that gives the values of separate forward passes."""
        loaded, forward = self.task.loaded, self.task.forward
        tokens = [self._tokens(i) for i in self.batches.at(0).rows[:4]]
        more: dict[str, torch.Tensor] = {}
        if loaded.head == "seq2seq":
            more = {"decoder_input_ids": forward.tokenizer.pad_right(tokens, loaded.device)["input_ids"]}
        with torch.no_grad(), self.processes.local():
            with InForward.called_modules(loaded.model) as called:
                forward.run(tokens, **more)
            forward.joint = JointForward(self.space, called, self.config.eval_batch_size)
            if forward.joint.agrees(lambda: forward.run(tokens, **more)[0]):
                self.oracle.joint = forward.joint
                return
        forward.joint = None
        if self.config.perturb in JOINT:
            raise OptionError(
                "--perturb joint does not work for the tuned tensors of this model", hint="--perturb copy"
            )

    def _tokens(self, row: int) -> Tokens:
        """Token ids that the model reads for a training row."""
        tokens = self.train.tokens[row]
        while tokens and not isinstance(tokens[0], int):
            tokens = tokens[0]
        return tuple(tokens)

    def _logits(self, rows: Sequence[int]) -> torch.Tensor:
        if isinstance(self.task, build.GenerationTask):
            return torch.tensor(self.task.log_probabilities([o for i in rows for o in self.train.tokens[i][1]]))
        return self.task.logits(self.train, rows)


__all__ = ["PerturbMode"]
