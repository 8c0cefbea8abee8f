"""`--model-revision`: everything that is read of a hub id belongs to the revision that was named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from zotune.errors import ModelError
from zotune.models.model_files import find_model, saved_config

for revision in sys.argv[1:]:
    try:
        files = find_model("own/tiny", revision=None if revision == "none" else revision)
    except ModelError as error:
        print("refused", error)
    else:
        print(files.head, saved_config(files)["architectures"][0])
"""


def heads(cache: Path, *revisions: str) -> list[str]:
    """What a process of its own finds of each revision; the hub client reads its cache folder at import."""
    env = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *revisions], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_the_head_is_that_of_the_revision(tmp_path: Path) -> None:
    """A cache with two revisions stands for the hub: a classifier on the main branch, a language model on another."""
    repository = tmp_path / "models--own--tiny"
    kinds = {"main": "LlamaForSequenceClassification", "text": "LlamaForCausalLM"}
    for number, (branch, name) in enumerate(kinds.items()):
        commit = str(number) * 40
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text(json.dumps({"architectures": [name], "model_type": "llama"}))
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / branch).write_text(commit)
    assert heads(tmp_path, "none", "main", "text", "1" * 40) == [
        "classification LlamaForSequenceClassification",
        "classification LlamaForSequenceClassification",
        "causal LlamaForCausalLM",
        "causal LlamaForCausalLM",
    ]
    (refusal,) = heads(tmp_path, "gone")
    assert refusal.startswith("refused --model 'own/tiny': no such folder, and HF_HUB_OFFLINE forbids downloading it")
