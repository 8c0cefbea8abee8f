"""How the points of a step are evaluated: one by one in a copy of the weights, while a forward pass is under way, or
all of them in one pass.

Knows models, tasks and spaces; knows no metric and no optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from zotune.config import RunConfig
from zotune.core.in_forward import InForward
from zotune.core.joint_forward import Together
from zotune.core.space import Space
from zotune.distributed import Processes
from zotune.errors import OptionError
from zotune.search.batches import Batches
from zotune.search.oracle import Oracle
from zotune.tasks import build
from zotune.tasks.forward import Tokens

MANY = 1 << 20
"""Tuned weights from which they are probed while a forward pass is under way instead of by copy."""
FEW_WEIGHTS = 0.05
"""Share of the model's weights up to which points are evaluated together: each takes a copy of the tuned ones."""
ROWS = 16
"""Rows on which ways of probing are compared, at most."""


@dataclass(frozen=True)
class Points:
    """wants: what the objective asks for."""

    config: RunConfig
    task: build.Task
    train: build.Rows
    wants: frozenset[str]
    space: Space
    batches: Batches
    oracle: Oracle
    processes: Processes

    def prepare(self) -> list[str]:
        """Find out, by a few forward passes, which weights can be perturbed while a pass is under way, or whether
        points can share one. Few weights are cheaper to copy. The tensors that are probed by copy all the same, for
        they are read outside their module. Raises OptionError where a way that was asked for is none."""
        mode = self.config.probe
        if self.together:
            self._share()
            return []
        if mode == "together":
            raise OptionError("--probe together: the processes of a run share its points already", hint="--probe auto")
        if mode == "copy" or (mode == "auto" and (self.space.numel < MANY or self._says)):
            return []
        rows = self.batches.at(0).rows[:ROWS]
        self.space.most_in_forward = math.inf if mode == "forward" else 2
        micro, copied = 0, list[str]()
        while micro != self.task.forward.micro:  # what memory had no room for was cut in other parts: compare again
            micro = self.task.forward.micro
            with self.processes.apart():
                copied = self.space.probe_in_forward(lambda: self._logits(rows))
        return copied

    @property
    def together(self) -> bool:
        """Whether a step's points are to be evaluated in one pass: asked for, or few weights, and either a device that
        is not filled by one batch, or greedy text, of which a processor makes one token of each row at a time."""
        if self.config.probe != "auto" or self.processes.size > 1:
            return self.config.probe == "together" and self.processes.size == 1
        loaded = self.task.loaded
        small = self.space.numel <= FEW_WEIGHTS * sum(p.numel() for p in loaded.model.parameters())
        pays = self._says or loaded.device.type != "cpu"
        return small and pays and not (self._says and self.config.temperature)

    @property
    def _says(self) -> bool:
        """Whether text is generated for the objective."""
        return isinstance(self.task, build.Generating) and bool(self.wants & {"completions", "completion_ids"})

    def _share(self) -> None:
        """Evaluate points in one pass, where that gives what a pass each gives."""
        loaded, forward = self.task.loaded, self.task.forward
        tokens = [self._read(i) for i in self.batches.at(0).rows[:4]]
        more: dict[str, torch.Tensor] = {}
        if loaded.head == "seq2seq":
            more = {"decoder_input_ids": forward.coder.pad_right(tokens, loaded.device)["input_ids"]}
        with torch.no_grad(), self.processes.apart():
            with InForward.watch(loaded.model) as called:
                forward.run(tokens, **more)
            forward.together = Together(self.space, called, self.config.eval_batch_size)
            if forward.together.tried(lambda: forward.run(tokens, **more)[0]):
                self.oracle.together = forward.together
                return
        forward.together = None
        if self.config.probe == "together":
            raise OptionError("--probe together: not with these weights of this model", hint="--probe copy")

    def _read(self, row: int) -> Tokens:
        """Tokens of a row that the model reads."""
        found = self.train.tokens[row]
        while found and not isinstance(found[0], int):
            found = found[0]
        return tuple(found)

    def _logits(self, rows: Sequence[int]) -> torch.Tensor:
        if isinstance(self.task, build.Generating):
            return torch.tensor(self.task.log_probabilities([o for i in rows for o in self.train.tokens[i][1]]))
        return self.task.logits(self.train, rows)


__all__ = ["Points"]
