"""The comparisons on generated text: disjoint openings, completions that padding does not change, an exact KL."""

from __future__ import annotations

import runpy
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


def test_a_row_s_credit_is_what_the_set_loses_without_it() -> None:
    from head_to_head_parts.tasks import TASKS

    task = TASKS["first-words"]
    texts = ["The cat ran.", "the dog", "A bird", "The end"]
    assert task.credits(texts, [{}] * 4) == pytest.approx([2 / 4 - 2 / 3, 2 / 4 - 2 / 3, 2 / 4 - 1 / 3, 2 / 4 - 2 / 3])
    assert task.mean_reward(["a", "b"] * 10 + ["c"] * 20, [{}] * 40) == pytest.approx((2 / 20 + 1 / 20) / 2)


@pytest.mark.parametrize(
    ("name", "completions", "columns", "expected"),
    [
        ("word", ["A big Bird sang", "no songbird"], {}, [1.0, 0.0]),
        ("first-words", ["One day", "one fish", "two"], {}, 2 / 3),
        ("json", ['{"name": "A", "age": 3}', '{"name": "A"}'], {"name": ["A", "A"], "age": [3, 3]}, [1.0, 0.0]),
        ("conciseness", ["Rain falls.", "", "word " * 40], {}, [1.0, 0.0, 0.0]),
    ],
)
def test_the_objective_file_of_a_task_gives_its_reward(
    tmp_path: Path, name: str, completions: list[str], columns: dict[str, list[object]], expected: object
) -> None:
    from head_to_head_parts.methods import write_objective
    from head_to_head_parts.tasks import TASKS

    write_objective(TASKS[name], tmp_path / "objective.py")
    reward = runpy.run_path(str(tmp_path / "objective.py"))["reward"]
    assert reward(completions, **columns) == expected
    chats = [[{"role": "assistant", "content": text}] for text in completions]
    assert reward(chats, **columns) == expected


def test_a_job_leaves_weights_and_its_cost_and_is_not_repeated(folders: list[Path], tmp_path: Path) -> None:
    from head_to_head_parts.processes import cost_of, run_worker
    from safetensors.torch import load_file

    records = [{"prompt": p} for p in PROMPTS * 4]
    common = {"task": "word", "model": str(folders[0]), "seed": 0, "records": records, "lr": 0.01}
    jobs = [{**common, "folder": str(tmp_path / str(n)), "completions": 32 * n} for n in (1, 2)]
    run_worker("sft_process.py", jobs)
    assert [cost_of(tmp_path / n)["completions"] for n in "12"] == [32, 64]
    assert all(cost_of(tmp_path / n)["cpu_seconds"] > 0 for n in "12")
    base, tuned = (load_file(f / "model.safetensors") for f in (folders[0], tmp_path / "1" / "run"))
    assert any((base[name] != tuned[name]).any() for name in tuned)
    (tmp_path / "1" / "cost.json").write_text("{}")
    run_worker("sft_process.py", jobs)
    assert cost_of(tmp_path / "1") == {}


def test_the_report_interpolates_the_time_to_grpo_s_reward(tmp_path: Path) -> None:
    from head_to_head_parts import report

    def line(method: str, budget: int, greedy: float, seconds: float, sampled: float = 0.1) -> dict[str, object]:
        scores = {"greedy": greedy, "sampled": sampled, "kl": 0.05, "completions": budget, "held_out": 0}
        return {"key": ["word", method, 0, budget], **scores, "cpu_seconds": seconds, "peak_mib": 500.0}

    lines = [
        {"key": ["word", "base"], "greedy": 0.1, "sampled": 0.1, "kl": 0.0},
        *(line("grpo", 640, 0.6, 8.0), line("grpo", 1280, 0.95, 16.0, 0.5)),
        *(line("zotune", 640, 0.4, 2.0), line("zotune", 1280, 0.8, 4.0)),
        line("zotune-sampled", 1280, 0.8, 4.0, 0.4),
        {"key": ["word", "grpo", "choice", "{}"], "greedy": 0.9, "sampled": 0.5, "kl": 0.2},
    ]
    text = report.tables(lines, ["word"])
    assert "| GRPO (TRL) | 1280 | 1 | 0.950 | 0.500 | 0.050 |" in text
    assert "sampled gain of zotune --temperature 1 at 1280: 0.75 of GRPO's 0.400" in text
    assert "sampled gain of zotune, default at 1280: 0.00" in text
    assert "default at 640" not in text
    assert "reward at 640 (0.600): 3.0 s, 0.38 of its 8.0 s" in text
    assert "reward at 1280 (0.950): not reached" in text
    pytest.importorskip("matplotlib")
    report.picture(lines, ["word"], tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").stat().st_size > 1000
