"""A real model and real data from the command line; the saved folder gives the same scores with transformers alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import zotune
from zotune.cli.app import main

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's

ROWS = 24
SMALL = ["--max-evals", "14", "--batch-size", "4", "--eval-steps", "2", "--threads", "1", "-q"]


@pytest.fixture(scope="session")
def small(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first rows of each split."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("sst2", "copa", "squad"):
        (folder / name).mkdir()
        for split in ("train", "validation", "test"):
            lines = (shared / "data" / name / f"{split}.jsonl").read_text().splitlines()
            (folder / name / f"{split}.jsonl").write_text("\n".join(lines[:ROWS]) + "\n")
    return folder


def loaded(base: Path, run: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a run directory, loaded without zotune."""
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if (run / "adapter_config.json").exists():
        model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run)
    else:
        model = AutoModelForCausalLM.from_pretrained(run)
    return model.eval(), AutoTokenizer.from_pretrained(run)


@torch.no_grad()
def mean_log_p(model: Any, tokenizer: Any, prompt: str, completion: str) -> float:
    """Mean log-probability of the completion's tokens; none of these merge with the prompt's last token."""
    ids, start = tokenizer(prompt + completion)["input_ids"], len(tokenizer(prompt.rstrip())["input_ids"])
    log_p = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), -1)
    return sum(float(log_p[i - 1, ids[i]]) for i in range(start, len(ids))) / (len(ids) - start)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]


def fit(shared: Path, data: Path, out: Path, *more: str) -> dict[str, Any]:
    model = shared / "models/stories260K/hf"
    main(["fit", "-m", str(model), "-d", str(data), "--output-dir", str(out), *SMALL, *more])
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result


@pytest.fixture(autouse=True)
def _no_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command line, and turn its exit with code 0 into a return."""
    from zotune.cli import app

    command = app.app

    def run(arguments: Any = None, **_: Any) -> None:
        command(arguments, standalone_mode=False)

    monkeypatch.setattr(app, "app", run)


@pytest.mark.parametrize("method", ["none", "lora", "prefix"])
@pytest.mark.parametrize("task", ["sst2", "copa"])
def test_option_scores_equal_those_without_zotune(
    shared: Path, small: Path, tmp_path: Path, task: str, method: str
) -> None:
    tune = ["--tune", "all"] if method == "none" else ["--peft", method]
    result = fit(shared, small / task, tmp_path / "run", "--task", task, "-o", "cross-entropy", *tune)
    model, tokenizer = loaded(shared / "models/stories260K/hf", tmp_path / "run")
    losses, right = [], 0
    for row in rows_of(small / task):
        if task == "sst2":
            scores = [mean_log_p(model, tokenizer, f"{row['text']} It was ", w) for w in ("terrible", "great")]
            losses.append(-float(torch.log_softmax(torch.tensor(scores), -1)[row["label"]]))
        else:
            joint = {"cause": "because", "effect": "so"}[row["question"]]
            both = (row["choice1"], row["choice2"])
            words = [c if c.startswith("I ") else c[0].lower() + c[1:] for c in both]
            prompt = f"{row['premise'].removesuffix('.')} {joint} "
            scores = [mean_log_p(model, tokenizer, prompt, s) for s in words]
            losses.append(-scores[row["label"]])
        right += max(range(2), key=lambda k: scores[k]) == row["label"]
    assert result["after"]["value"] == pytest.approx(sum(losses) / ROWS, abs=1e-5)
    results = zotune.evaluate(model=str(tmp_path / "run"), objective=["accuracy", "cross-entropy"])
    assert results["cross-entropy"].value == pytest.approx(sum(losses) / ROWS, abs=1e-5)
    assert results["accuracy"].value == pytest.approx(right / ROWS)
    assert results["accuracy"].error is not None


@pytest.mark.parametrize("method", ["none", "lora", "prefix"])
def test_generated_text_equals_that_without_zotune(shared: Path, small: Path, tmp_path: Path, method: str) -> None:
    (tmp_path / "o.py").write_text(
        "import json, pathlib\n"
        "def words(completions):\n"
        f"    pathlib.Path({str(tmp_path / 'said.json')!r}).write_text(json.dumps(list(completions)))\n"
        "    return [float(len(set(c.split()))) for c in completions]\n"
    )
    tune = ["--tune", "all"] if method == "none" else ["--peft", method]
    goal = f"{tmp_path / 'o.py'}:words"
    fit(shared, small / "squad", tmp_path / "run", "--task", "squad", "-o", goal, "--max-new-tokens", "6", *tune)
    score = zotune.evaluate(model=str(tmp_path / "run"), objective=goal)
    completions = json.loads((tmp_path / "said.json").read_text())
    model, tokenizer = loaded(shared / "models/stories260K/hf", tmp_path / "run")
    for row, completion in list(zip(rows_of(small / "squad"), completions, strict=True))[:8]:
        text = f"Context: {row['context']}\nQuestion: {row['question']}\nAnswer:"
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        if ids.shape[1] > 400:  # truncated by zotune, so another prompt
            continue
        with torch.no_grad():
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=0
            )
        expected = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).split("\n")[0]
        assert completion == expected.removeprefix(" ")
    assert score.value == pytest.approx(sum(len(set(c.split())) for c in completions) / ROWS)


def test_a_merged_adapter_loads_without_peft(shared: Path, small: Path, tmp_path: Path) -> None:
    fit(
        shared,
        small / "sst2",
        tmp_path / "run",
        "--task",
        "sst2",
        "--peft",
        "lora",
        "--optimizer",
        "mezo",
        "--lr",
        "0.01",
    )
    main(["export", str(tmp_path / "run"), "--merge", "-o", str(tmp_path / "merged")])
    assert not (tmp_path / "merged/adapter_config.json").exists()
    a = zotune.evaluate(model=str(tmp_path / "run"), objective="cross-entropy")
    b = zotune.evaluate(
        model=str(tmp_path / "merged"), dataset=str(small / "sst2"), task="sst2", objective="cross-entropy"
    )
    assert a.value == pytest.approx(b.value, abs=1e-5)
