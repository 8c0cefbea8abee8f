"""Whether the tuned weights influence the scores of a task, found by a large perturbation of them.

A layer can be part of a model and of its forward pass while no score reads its result, as the pooler of an encoder
whose embeddings are pooled from the last hidden state. Knows tasks and tensors; knows no objective.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import torch
from torch import Tensor

from zotune.core.space import describe
from zotune.tasks.build import Task
from zotune.tasks.encoded_rows import EncodedRows
from zotune.tasks.generation import GenerationTask
from zotune.tasks.teacher_forcing import EncodedAnswer

ROWS: Final = 2
"""Rows whose scores are compared."""
COPIED_BYTES: Final = 1 << 30
"""Tuned weights up to this size are copied, so that each group of them can be tested."""
MOST_GROUPS: Final = 24
"""Groups of tensors that are tested at most, each by one forward pass."""


@torch.no_grad()
def unread_weights(task: Task, rows: EncodedRows, tuned: Mapping[str, Tensor]) -> set[str]:
    """The names of the tuned tensors that influence no score of the first rows; the weights are left as they were.

    All tensors are perturbed by noise of the size of their weights. Then one group after the other, a block or the
    tensors of a module outside the blocks, is set back: where the scores stay what they were, nothing reads the group.
    Of tuned weights that are too large for a copy, only the case that none has influence is found.
    """
    indices = range(min(ROWS, len(rows)))
    before, groups = _scores(task, rows, indices), _groups(task, tuned)
    if sum(p.numel() * p.element_size() for p in tuned.values()) > COPIED_BYTES:
        return set() if any(_changes(task, rows, indices, before, tuned, group) for group in groups) else set(tuned)
    copies = {name: p.detach().clone() for name, p in tuned.items()}
    try:
        _perturb(tuned)
        latest = _scores(task, rows, indices)
        if torch.equal(before, latest):
            return set(tuned)
        unread: set[str] = set()
        for group in groups[:MOST_GROUPS] if len(groups) > 1 else ():
            _restore(tuned, copies, group)
            scores = _scores(task, rows, indices)
            if torch.equal(scores, latest):
                unread |= set(group)
            latest = scores
        return unread
    finally:
        _restore(tuned, copies, tuned)


def _changes(
    task: Task, rows: EncodedRows, indices: range, before: Tensor, tuned: Mapping[str, Tensor], group: list[str]
) -> bool:
    """Whether a perturbation of one group alone changes the scores."""
    copies = {name: tuned[name].detach().clone() for name in group}
    try:
        _perturb({name: tuned[name] for name in group})
        return not torch.equal(_scores(task, rows, indices), before)
    finally:
        _restore(tuned, copies, group)


def _scores(task: Task, rows: EncodedRows, indices: range) -> Tensor:
    """The logits of rows; of generation the log-probability of one token after each prompt, which depends on all
    logits there."""
    if not isinstance(task, GenerationTask):
        return task.logits(rows, indices).nan_to_num()
    answers = []
    for prompt in (rows.tokens[i][0] for i in indices):
        begin = task.loaded.decoder_start_ids if task.loaded.head == "seq2seq" else ()
        answers.append(EncodedAnswer(prompt, begin, (len(begin or prompt) - 1,), (task.forward.tokenizer.pad,)))
    return torch.tensor(task.teacher_forcing.log_probabilities(answers)).nan_to_num()


def _perturb(tensors: Mapping[str, Tensor]) -> None:
    """Add noise of the size of each tensor's weights, of size 1 where they are zero: the same for the same name."""
    for name, tensor in tensors.items():
        generator = torch.Generator().manual_seed(sum(name.encode()))
        noise = torch.randn(tensor.shape, generator=generator)
        size = float(tensor.float().square().mean().sqrt()) or 1.0
        tensor.add_((size * noise).to(tensor))


def _restore(tuned: Mapping[str, Tensor], copies: Mapping[str, Tensor], names: Iterable[str]) -> None:
    for name in names:
        tuned[name].copy_(copies[name])


def _groups(task: Task, tuned: Mapping[str, Tensor]) -> list[list[str]]:
    """Names of tensors outside the blocks by their module, then those of each block, from the last to the first."""
    outside: dict[str, list[str]] = {}
    blocks: dict[int, list[str]] = {}
    tensors = describe(task.loaded.model)
    for name in tuned:
        block = tensors[name].block
        if block is None:
            outside.setdefault(name.rpartition(".")[0], []).append(name)
        else:
            blocks.setdefault(block, []).append(name)
    return [*outside.values(), *(blocks[block] for block in sorted(blocks, reverse=True))]


__all__ = ["unread_weights"]
