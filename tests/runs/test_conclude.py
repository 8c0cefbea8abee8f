"""The end of a run: what is kept was tuned, and the exported model is the one that was scored."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import rows, write_jsonl
from safetensors.torch import load_file, save_file

import zotune
from zotune import files
from zotune.errors import RunFolderError, SideEffectError
from zotune.runs import summary
from zotune.runs.export import export
from zotune.runs.run_directory import RESULT
from zotune.runs.verify import verify
from zotune.search.journal import Journal

OPTIONS: dict[str, Any] = {"labels": "awful film,lovely film", "eval_steps": 1, "batch_size": 8, "max_steps": 3}
OPTIONS |= {"preflight": False, "init": "none"}


def test_a_base_model_that_the_validation_set_selects_is_not_scored_again(
    tiny_encoder: Path, toy: Path, tmp_path: Path
) -> None:
    """The objective drifts: every later test score is better, whatever the weights are."""
    write_jsonl(toy / "test.jsonl", rows(12, 200))
    sizes: Counter[int] = Counter()

    def drifting(predictions: list[int], labels: list[int]) -> list[float]:
        sizes[len(labels)] += 1
        drift = 0.1 * sizes[len(labels)]
        return [(drift if len(labels) == 12 else -drift) + 0.001 * i for i in range(len(labels))]

    result = zotune.fit(
        model=str(tiny_encoder), dataset=str(toy), objective=drifting, output_dir=str(tmp_path / "run"), **OPTIONS
    )
    assert (result.kept, result.best_step, sizes[12]) == ("start", 0, 2)  # the linear probe is scored, too
    assert result.before == result.tuned == result.after
    assert (result.difference.value, result.difference.error) == (0.0, None)
    assert "nothing was tuned" in summary.verdict(result)
    assert "decided nothing" in summary.decided_by(result)
    kept = Journal.open(tmp_path / "run" / "journal.jsonl", read_only=True).lines[-1]
    assert (kept["kind"], kept["step"]) == ("kept", 0)
    assert all(check.ok for check in verify(tmp_path / "run"))


@pytest.mark.parametrize("way", ["no_grad", "data"])
def test_a_run_stops_at_an_objective_that_changes_frozen_weights(
    way: str, tiny_encoder: Path, toy: Path, tmp_path: Path
) -> None:
    def change(predictions: list[int], labels: list[int], model: Any) -> list[float]:
        tensor = model.get_parameter("embeddings.word_embeddings.weight")
        with torch.no_grad():
            (tensor if way == "no_grad" else tensor.data).mul_(1.01)
        return [float(p == y) for p, y in zip(predictions, labels, strict=True)]

    with pytest.raises(SideEffectError, match=r"'change' changed the model's weights: embeddings\.word_embeddings"):
        zotune.fit(
            model=str(tiny_encoder), dataset=str(toy), objective=change, output_dir=str(tmp_path / "run"), **OPTIONS
        )
    assert not (tmp_path / "run").exists()


def test_frozen_weights_changed_behind_the_back_are_not_exported_and_verify_notices(
    tiny_encoder: Path, toy: Path, tmp_path: Path
) -> None:
    models: list[Any] = []

    class Optimizer:
        """Random search that finds the model through the garbage collector and changes a frozen weight."""

        forwards = 2

        def init(self, theta: Any) -> None:
            import gc

            models.extend(m for m in gc.get_objects() if type(m).__name__ == "BertEmbeddings")

        def step(self, theta: Any, oracle: Any, state: None, at: Any) -> Any:
            z = at.normal()
            oracle(theta + 0.01 * z, theta - 0.01 * z)
            for model in models:
                model.word_embeddings.weight.data.mul_(1.01)
            return theta - 0.01 * z, None

    with pytest.raises(SideEffectError, match="frozen weights of the model have changed"):
        zotune.fit(
            model=str(tiny_encoder),
            dataset=str(toy),
            objective="accuracy",
            optimizer=Optimizer(),
            tune="encoder.layer.1",
            output_dir=str(tmp_path / "run"),
            **OPTIONS,
        )
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_verify_names_frozen_tensors_that_differ(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    zotune.fit(
        model=str(tiny_encoder),
        dataset=str(toy),
        objective="accuracy",
        tune="encoder.layer.1",
        output_dir=str(run),
        **OPTIONS,
    )
    assert all(check.ok for check in verify(run))
    tensors = load_file(run / "model.safetensors")
    before = files.checksum(run / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"] *= 1.01
    save_file(tensors, run / "model.safetensors", metadata={"format": "pt"})
    text = (run / RESULT).read_text().replace(before, files.checksum(run / "model.safetensors"))
    (run / RESULT).write_text(text)
    failed = [check for check in verify(run) if not check.ok]
    assert [check.name for check in failed] == ["weights"]
    assert "frozen tensors differ" in failed[0].detail


def test_an_adapter_is_not_exported_over_another_base_model(tiny_llama: Path, toy: Path, tmp_path: Path) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(tiny_llama, base)
    options = OPTIONS | {"labels": "bad,good", "template": "{text} it was {label}", "peft": "lora"}
    zotune.fit(model=str(base), dataset=str(toy), output_dir=str(run), **options)
    export(run, tmp_path / "merged", merge=True)
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"] *= 1.01
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunFolderError, match="the weights that were not tuned differ"):
        export(run, tmp_path / "again", merge=True)
    assert not (tmp_path / "again").exists()
    assert "weights" in [check.name for check in verify(run) if not check.ok]
