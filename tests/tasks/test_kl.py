"""The KL divergence from the base model: both estimates against a plain loop, and texts that rows beside them leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import Families
from torch import Tensor

from zotune.data.task import TaskSpec
from zotune.data.templates import Template
from zotune.distributed import ALONE
from zotune.tasks import kl
from zotune.tasks.kl import EXPECTED, SAMPLED, KLDivergence

SPEC = TaskSpec("generation", Template("{prompt}"), max_new_tokens=7)
PROMPTS = ("the cat", "the dog saw the man and", "what", "the film was", "who ran . the cat", "it was so")
FAMILIES = ("llama", "t5")


def measured(families: Families, family: str, version: str, micro_batch: int = 4) -> tuple[KLDivergence, Any]:
    task = families.task(family, SPEC)
    task.forward.set_micro_batch(micro_batch)
    estimate = KLDivergence.for_task(task, task.rows([{"prompt": p} for p in PROMPTS]), ALONE, version)
    assert estimate is not None
    return estimate, task


def perturb(task: Any, size: float = 0.3) -> None:
    generator = torch.Generator().manual_seed(1)
    for p in task.loaded.model.parameters():
        p.data += size * p.data.std() * torch.randn(p.shape, generator=generator)


def log_p(task: Any, answer: Any) -> Tensor:
    """Log-probabilities of all tokens at an answer's positions, one text at a time."""
    ids = torch.tensor([answer.ids])
    more = {"decoder_input_ids": torch.tensor([answer.decoder_ids])} if answer.decoder_ids else {}
    with torch.no_grad():
        return torch.log_softmax(
            task.loaded.model(input_ids=ids, **more).logits[0, list(answer.positions)].double(), -1
        )


def plain(estimate: KLDivergence, task: Any, value: Callable[[Tensor, Tensor, Tensor], Tensor]) -> float:
    """The mean over positions of `value(log p, log q, sampled tokens)` after a perturbation of the task's model."""
    before = [log_p(task, answer) for answer in estimate._completions]
    perturb(task)
    parts = []
    for answer, p in zip(estimate._completions, before, strict=True):
        parts.append(value(p, log_p(task, answer), torch.tensor(answer.targets)[:, None]))
    return float(torch.cat(parts).mean())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_expected_estimate_is_the_whole_sum_where_all_tokens_are_likely(
    families: Families, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kl, "LIKELY", 10**6)
    estimate, task = measured(families, family, EXPECTED)
    assert estimate() == pytest.approx(0.0, abs=1e-6)
    expected = plain(estimate, task, lambda p, q, _: (p.exp() * (p - q)).sum(-1))
    assert expected > 0.01
    assert estimate() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_unlikely_tokens_count_where_they_are_sampled(
    families: Families, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kl, "LIKELY", 3)
    estimate, task = measured(families, family, EXPECTED)
    seen = []

    def value(p: Tensor, q: Tensor, sampled: Tensor) -> Tensor:
        likely = p.topk(3, -1).indices
        seen.append((likely == sampled).any(-1))
        own = torch.where(seen[-1], 0.0, (p - q + (q - p).exp() - 1).gather(1, sampled)[:, 0])
        return (p.exp() * (p - q) + q.exp() - p.exp()).gather(1, likely).sum(-1) + own

    expected = plain(estimate, task, value)
    assert torch.cat(seen).any()
    assert not torch.cat(seen).all()
    assert estimate() == pytest.approx(expected, rel=1e-4)


def test_the_sampled_estimate_is_that_of_earlier_versions(families: Families) -> None:
    estimate, task = measured(families, "llama", SAMPLED)
    expected = plain(estimate, task, lambda p, q, sampled: (p - q).gather(1, sampled)[:, 0])
    assert estimate() == pytest.approx(expected, rel=1e-4)


def test_expectations_agree_and_the_expected_estimate_has_less_spread(families: Families) -> None:
    """Over many sampled texts of one model both estimates have one mean."""
    task = families.task("llama", SPEC)
    rows = task.rows([{"prompt": PROMPTS[i % len(PROMPTS)]} for i in range(240)])
    texts = task.sample_completions(rows, range(240), by_row=True)
    groups = [texts[k : k + 12] for k in range(0, 240, 12)]
    both = [[KLDivergence(task, g, version) for g in groups] for version in (EXPECTED, SAMPLED)]
    perturb(task, 0.5)
    first, second = (torch.tensor([e() for e in estimates]) for estimates in both)
    error = float((first - second).std()) / len(groups) ** 0.5
    assert abs(float(first.mean() - second.mean())) < 4 * error
    assert float(first.std()) < 0.5 * float(second.std())


def test_texts_do_not_depend_on_rows_in_a_pass(families: Families) -> None:
    wholes = [measured(families, "llama", EXPECTED, size)[0]._completions for size in (1, 2, 5, 12)]
    assert all(w == wholes[0] for w in wholes)
    assert len({answer.targets for answer in wholes[0]}) > 1
