"""top-k, min-p, repetition penalty, stop strings and several completions a prompt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_jsonl
from families import Families

import zotune
from zotune.config import RunConfig
from zotune.data.task import Sampling, TaskSpec
from zotune.data.templates import Template
from zotune.errors import OptionError, RunFolderError
from zotune.runs.replay import replay
from zotune.tasks import build
from zotune.tasks.gumbel import GumbelNoise, RepetitionPenalty, noisy_scores

CPU = torch.device("cpu")
SPEC = TaskSpec("generation", Template("{prompt}"), max_new_tokens=9)
PROMPTS = ("the cat", "the dog saw the man and", "what", "the film was", "who ran . the cat")
ROWS = [{"prompt": p} for p in PROMPTS]
P = torch.tensor([0.1, 0.5, 0.15, 0.25])


def counts(**options: Any) -> list[int]:
    keys = list(range(4000))
    ids = torch.zeros(len(keys), 3, dtype=torch.long)
    noise = GumbelNoise(keys, 1.0, options.pop("top_p", 1.0), 3, CPU, **options)
    found: list[int] = noise(ids, P.log().repeat(len(keys), 1)).argmax(-1).bincount(minlength=4).tolist()
    return found


def test_top_k_and_min_p_leave_the_most_probable_tokens() -> None:
    assert [c > 0 for c in counts(top_k=2)] == [False, True, False, True]
    assert [c > 0 for c in counts(min_p=0.25)] == [False, True, True, True]
    assert [c > 0 for c in counts(min_p=0.55)] == [False, True, False, False]
    assert [c > 0 for c in counts(top_k=3, top_p=0.7)] == [False, True, False, True]
    assert counts(top_k=4) == counts(top_k=9) == counts()


def test_rows_at_positions_of_their_own_get_the_same_noise() -> None:
    keys, positions, options = [3, 1 << 62, 17], [4, 0, 9], {"top_k": 6, "min_p": 0.01}
    scores = torch.sin(torch.arange(24.0) * 1.7).view(3, 8)
    found = noisy_scores(scores, keys, torch.tensor(positions), 0.7, 0.9, **options)
    for row, position in enumerate(positions):
        noise = GumbelNoise([keys[row]], 0.7, 0.9, 2, CPU, **options)
        ids = torch.zeros(1, 2 + position, dtype=torch.long)
        assert torch.equal(found[row : row + 1], noise(ids, scores[row : row + 1]))


def test_the_penalty_is_that_of_transformers_without_padding() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    torch.manual_seed(0)
    scores = torch.randn(1, 8)
    ids = torch.tensor([[5, 3, 3, 6]])
    ours = RepetitionPenalty([[5, 3]], 1.7, 2)
    ours(ids[:, :2], scores)  # one call for each new token
    ours(ids[:, :3], scores)
    assert torch.equal(ours(ids, scores), RepetitionPenaltyLogitsProcessor(1.7)(ids, scores))
    padded = RepetitionPenalty([[5, 3], [5, 3, 4]], 1.7, 3)
    found = padded(torch.tensor([[0, 5, 3], [5, 3, 4]]), scores.repeat(2, 1))
    assert found[0, 0] == scores[0, 0], "padding is no token of the row"
    assert found[1, 4] != scores[0, 4]


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "bart"])
@pytest.mark.parametrize(
    "sampling", [Sampling(repetition_penalty=1.5), Sampling(0.7, top_k=5, min_p=0.05, repetition_penalty=1.5)]
)
def test_completions_do_not_depend_on_the_rows_beside_them(families: Families, family: str, sampling: Sampling) -> None:
    loaded = families.load(family, "words")
    spec = replace(SPEC, **{n: getattr(sampling, n) for n in Sampling.__dataclass_fields__})
    task = build.build(loaded, spec, 60, 16)
    assert isinstance(task, build.GenerationTask)
    rows = task.rows(ROWS)
    prompts = [t[0] for t in rows.tokens]
    with task.forward.one_pass():
        together = task.generate(prompts, range(5))
        alone = [task.generate([p], [i])[0] for i, p in enumerate(prompts)]
    assert together == alone
    plain = build.build(loaded, SPEC, 60, 16)
    assert isinstance(plain, build.GenerationTask)
    assert plain.generate(prompts) != together
    if not sampling.temperature:
        assert task.generate(prompts, range(5)) == alone
        assert build.build(loaded, spec, 60, 2).generate(prompts, range(5)) == alone  # type: ignore[union-attr]


def test_one_most_probable_token_is_greedy(families: Families) -> None:
    loaded = families.load("llama", "words")
    greedy, one = (build.build(loaded, s, 60, 16) for s in (SPEC, replace(SPEC, temperature=1.0, top_k=1)))
    assert isinstance(greedy, build.GenerationTask)
    assert isinstance(one, build.GenerationTask)
    prompts = [t[0] for t in greedy.rows(ROWS).tokens]
    assert one.generate(prompts, range(5)) == greedy.generate(prompts)


def test_options_that_do_nothing_are_refused() -> None:
    for options in ({"top_k": 5}, {"min_p": 0.1}):
        with pytest.raises(OptionError, match="greedy completions are not sampled"):
            RunConfig(**options)  # type: ignore[arg-type]
    for options in ({"top_k": -1}, {"min_p": 1.5}, {"repetition_penalty": 0.0}):
        with pytest.raises(OptionError):
            RunConfig(temperature=1.0, **options)  # type: ignore[arg-type]
    assert Sampling().record() == {}
    assert Sampling(1.0, top_k=3).record() == {"top_k": 3}


@pytest.mark.parametrize("perturb", ["auto", "copy"])
def test_a_run_with_them_replays_and_resumes_with_the_same_options_alone(
    families: Families, tmp_path: Path, perturb: str
) -> None:
    folder = families.folder("llama", "words")
    rows = [{"prompt": PROMPTS[i % 5]} for i in range(24)]
    for name, part in (("train", rows[:16]), ("validation", rows[16:20]), ("test", rows[20:])):
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", part)
    options: dict[str, Any] = {
        "model": str(folder),
        "dataset": str(tmp_path / "data"),
        "objective": "length",
        "perturb": perturb,
        "max_steps": 3,
        "batch_size": 4,
        "max_new_tokens": 5,
        "temperature": 1.0,
        "top_k": 9,
        "min_p": 0.01,
        "repetition_penalty": 1.2,
        "samples_per_prompt": 2,
        "stop": ("dog",),
        "output_dir": str(tmp_path / "run"),
    }
    zotune.fit(**options)
    header = json.loads((tmp_path / "run/journal.jsonl").read_text().splitlines()[0])["body"]
    assert {n: header["task"][n] for n in ("top_k", "min_p", "repetition_penalty")} == {
        "top_k": 9,
        "min_p": 0.01,
        "repetition_penalty": 1.2,
    }
    assert replay(tmp_path / "run", tmp_path / "again").confirmed
    with pytest.raises(RunFolderError):
        zotune.fit(**{**options, "top_k": 5, "max_steps": 4}, resume="last")
    assert zotune.fit(**{**options, "max_steps": 4}, resume="last").steps == 4


def test_eval_averages_several_samples(families: Families, tmp_path: Path) -> None:
    folder = families.folder("llama", "words")
    data = write_jsonl(tmp_path / "d.jsonl", [{"prompt": p} for p in PROMPTS])
    options = {"model": str(folder), "dataset": str(data), "objective": "length", "max_new_tokens": 6}
    one, again = (zotune.evaluate(temperature=1.0, **options) for _ in range(2))
    many = zotune.evaluate(temperature=1.0, samples_per_prompt=8, **options)
    assert one == again
    assert many.rows == one.rows == 5
    assert many.value != one.value
    assert 40 * many.value == pytest.approx(round(40 * many.value)), "the mean of eight whole numbers of words"
