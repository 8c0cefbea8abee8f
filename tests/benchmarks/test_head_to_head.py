"""The comparisons on generated text: disjoint openings, completions that padding does not change, an exact KL."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not beside the tests")
sys.path.insert(0, str(ROOT / "benchmarks"))

PROMPTS = ["the film was", "it was so", "the cat sat . the dog"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A tiny causal model, and the same model with other weights."""
    import torch
    from families import Families
    from transformers import AutoModelForCausalLM

    home = tmp_path_factory.mktemp("models")
    base = Families(home).folder("llama")
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn_like(weight)
    model.save_pretrained(home / "other")
    return [base, home / "other"]


def test_openings_of_splits_and_benchmarks_are_disjoint() -> None:
    from head_to_head_parts import stories

    drawn = [stories.splits(parts) for parts in (stories.RARE_WORDS, stories.HEAD_TO_HEAD)]
    assert all([len(split[k]) for k in stories.SIZES] == list(stories.SIZES.values()) for split in drawn)
    openings = [p for split in drawn for rows in split.values() for p in rows]
    assert len(set(openings)) == len(openings)
    assert drawn[0] == stories.splits(stories.RARE_WORDS)


def test_padding_changes_no_completion(folders: list[Path]) -> None:
    from head_to_head_parts.evaluation import Generator

    model = Generator(folders[0], folders[0])
    assert model.complete(PROMPTS, 5) == [model.complete([p], 5)[0] for p in PROMPTS]
    assert model.complete(PROMPTS, 5, seed=3) == model.complete(PROMPTS, 5, seed=3)


def test_the_kl_divergence_is_the_log_ratio_of_what_the_base_model_samples(folders: list[Path]) -> None:
    from head_to_head_parts.evaluation import Generator, kl_divergence

    base, other = (Generator(f, folders[0]) for f in folders)
    assert kl_divergence(base, base, PROMPTS, 6) == 0
    exact = kl_divergence(other, base, PROMPTS * 20, 6)
    ratios: list[float] = []
    for prompt, new in base.sequences(PROMPTS * 200, 6, seed=5):
        gap = base.log_probabilities(prompt, new) - other.log_probabilities(prompt, new)
        ratios += gap[range(len(new)), new].tolist()
    assert exact > 0.01
    assert abs(sum(ratios) / len(ratios) - exact) < 0.25 * exact


def test_a_result_is_found_by_its_key(tmp_path: Path) -> None:
    from head_to_head_parts.processes import Lines

    lines = Lines(tmp_path / "results" / "lines.jsonl")
    lines.add(["word", 0], {"greedy": 0.5})
    assert Lines(lines.path).find(["word", 0]) == {"key": ["word", 0], "greedy": 0.5}
    assert lines.find(["word", 1]) is None
