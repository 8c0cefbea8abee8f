"""Tensors that scale all logits are found by what they do, whatever the model calls them."""

from __future__ import annotations

import pytest
import torch
from families import Families

from zotune.core.space import named_tensors
from zotune.data.task import TaskSpec
from zotune.data.templates import Template
from zotune.models.logit_scale import logit_scales

EXPECTED = {
    "llama": {"model.norm.weight"},
    "gpt2": {"transformer.ln_f.bias", "transformer.ln_f.weight"},
    "opt": {"model.decoder.final_layer_norm.bias", "model.decoder.final_layer_norm.weight"},
    "t5": {"decoder.final_layer_norm.weight"},
    "bart": set(),  # its last normalisation stands in a block, and its head is tied
}


@pytest.mark.parametrize("family", sorted(EXPECTED))
def test_the_tensors_of_each_family(families: Families, family: str) -> None:
    task = families.task(family, TaskSpec("generation", Template("{prompt}"), max_new_tokens=5))
    rows = task.rows([{"prompt": p} for p in ("the cat", "the dog saw the man and")])
    prompts = [tokens[0] for tokens in rows.tokens]
    tensors = named_tensors(task.loaded.model)
    before = {n: t.detach().clone() for n, t in tensors.items()}
    with task.forward.one_pass():
        names = logit_scales(task.loaded, lambda: task.forced_logits(prompts))
        assert set(names) == EXPECTED[family]
        assert all(torch.equal(t, before[n]) for n, t in tensors.items())
        plain, greedy = task.forced_logits(prompts), task.generate(prompts)
        with torch.no_grad():
            for name in names:
                tensors[name].mul_(1.3)
        assert torch.allclose(task.forced_logits(prompts), (1.3 if names else 1.0) * plain, rtol=1e-4, atol=1e-5)
        assert task.generate(prompts) == greedy


def test_weights_are_restored_where_the_model_fails(families: Families) -> None:
    task = families.task("llama", TaskSpec("generation", Template("{prompt}"), max_new_tokens=5))
    before = {n: t.detach().clone() for n, t in named_tensors(task.loaded.model).items()}
    calls = iter([torch.ones(1)])

    with pytest.raises(StopIteration):
        logit_scales(task.loaded, lambda: next(calls))
    assert all(torch.equal(t, before[n]) for n, t in named_tensors(task.loaded.model).items())
