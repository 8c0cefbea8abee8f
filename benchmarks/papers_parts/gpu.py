"""The papers' real models, for `--gpu`: OPT-1.3B on SST-2 and SQuAD, RoBERTa-large on SST-2, 1,000 steps each.

A model is found in the folder of --models, or in the cache of the hub; a data set beside the checkout.
"""

from __future__ import annotations

import functools
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.papers_parts.experiment import Experiment, Finding, Measured

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
MODELS = "ZOTUNE_PAPER_MODELS"
"""The variable that holds the folder of models; `--models` sets it."""
STEPS, SEED = 1000, 0
METHODS: dict[str, dict[str, Any]] = {
    "MeZO": {"optimizer": "mezo", "learning_rate": 1e-6, "eps": 1e-3},
    "ZO-AdaMU": {"optimizer": "zo-adamu", "learning_rate": 1e-6, "eps": 1e-3},
    "MeZO-SVRG": {"optimizer": "mezo-svrg", "eps": 1e-3, "optimizer_args": {"lr1": 1e-4, "lr2": 1e-6, "full": 512}},
    "Sparse-MeZO": {"optimizer": "sparse-mezo", "learning_rate": 3e-6, "eps": 1e-3},
    "DiZO": {"optimizer": "dizo", "learning_rate": 1e-6, "eps": 1e-3},
}
"""Learning rates of the papers' grids for full tuning."""
PAPERS = {"ZO-AdaMU": "Table 1", "MeZO-SVRG": "Section 4", "Sparse-MeZO": "Table 1", "DiZO": "Tables 2, 3"}


@dataclass(frozen=True)
class Setting:
    """A model on a task. options: of `zotune.fit`."""

    name: str
    model: str
    task: str
    options: Mapping[str, Any]

    @property
    def source(self) -> str:
        """A folder of --models, or the hub's id."""
        own = Path(os.environ.get(MODELS, "")) / self.model.partition("/")[2]
        return str(own) if os.environ.get(MODELS) and own.is_dir() else self.model

    def needs(self) -> str:
        if not torch.cuda.is_available():
            return "no GPU is here"
        if not (DATA / self.task).is_dir():
            return f"the data set {self.task} is not beside the checkout"
        if self.source == self.model:
            from huggingface_hub import try_to_load_from_cache

            if not isinstance(try_to_load_from_cache(self.model, "config.json"), str):
                return f"the model {self.model} is neither in --models nor in the hub's cache"
        return ""


SETTINGS = (
    Setting("opt-sst2", "facebook/opt-1.3b", "sst2", {"objective": "accuracy"}),
    Setting("opt-squad", "facebook/opt-1.3b", "squad", {"objective": "token-f1"}),
    Setting("roberta-sst2", "FacebookAI/roberta-large", "sst2", {"objective": "accuracy", "batch_size": 64}),
)


def fit(setting: Setting, method: str) -> Measured:
    """Test scores before and after 1,000 steps on cross-entropy; the objective scores, as in the papers."""
    import zotune

    with tempfile.TemporaryDirectory() as home:
        options = {"train_size": 1000, "validation_rows": 200, "test_rows": 500, "batch_size": 16, **setting.options}
        scored = options.pop("objective")
        run = Path(home) / "run"
        common = {"dataset": str(DATA / setting.task), "task": setting.task, "seed": SEED, "device": "cuda"}
        before = zotune.evaluate(model=setting.source, **common, objective=scored, limit=500)
        result = zotune.fit(
            model=setting.source,
            objective="cross-entropy",
            max_steps=STEPS,
            guard=0.0,
            preflight=False,
            dtype="bfloat16",
            output_dir=str(run),
            **common,
            **options,
            **METHODS[method],
        )
        after = zotune.evaluate(model=str(run), **common, objective=scored, limit=500)
        scores = [next(iter(x.values())) if isinstance(x, Mapping) else x for x in (before, after)]
        return {
            "before": scores[0].value,
            "after": scores[1].value,
            "error": scores[1].error,
            "loss": result.tuned.value,
            "queries": result.queries,
            "hours": result.seconds / 3600,
        }


def judge_zero_shot(cells: Mapping[str, Measured]) -> Finding:
    mezo = cells["MeZO"]
    ours = f"base model {mezo['before']:.3f}, MeZO {mezo['after']:.3f} ± {mezo['error']:.3f}"
    lines = ["| method | base model | tuned | test loss | queries | GPU hours |", "|---|---|---|---|---|---|"]
    for name, x in cells.items():
        numbers = f"{x['before']:.3f} | {x['after']:.3f} ± {x['error']:.3f} | {x['loss']:.3f}"
        lines.append(f"| {name} | {numbers} | {x['queries']:,} | {x['hours']:.2f} |")
    gain = mezo["after"] - mezo["before"]
    told = "holds" if gain > 2 * mezo["error"] else "does not hold" if gain < -2 * mezo["error"] else VAGUE
    return Finding(ours, told, tuple(lines))


VAGUE = "cannot be told here"


def judge_method(method: str, cells: Mapping[str, Measured]) -> Finding:
    mezo, ours = cells["MeZO"], cells[method]
    gain, error = ours["after"] - mezo["after"], math.hypot(ours["error"], mezo["error"])
    verdict = "holds" if gain > 2 * error else "does not hold" if gain < -2 * error else VAGUE
    return Finding(f"MeZO {mezo['after']:.3f}, {method} {ours['after']:.3f}, difference ± {error:.3f}", verdict)


def experiments_of(setting: Setting) -> list[Experiment]:
    cells = {m: functools.partial(fit, setting, m) for m in METHODS}
    where = f"{setting.model} on {setting.task}, {STEPS:,} steps, bfloat16"
    common = {"setting": where, "cells": cells, "needs": setting.needs, "gpu": True, "group": setting.name}
    first = Experiment(
        name=setting.name,
        paper="MeZO",
        place="Tables 1, 16",
        claim="MeZO gains over zero-shot",
        judge=judge_zero_shot,
        **common,  # type: ignore[arg-type]
    )
    return [
        first,
        *(
            Experiment(
                name=f"{setting.name}-{method.lower()}",
                paper=method,
                place=place,
                claim=f"{method} is more accurate than MeZO",
                judge=functools.partial(judge_method, method),
                **common,  # type: ignore[arg-type]
            )
            for method, place in PAPERS.items()
        ),
    ]


EXPERIMENTS = tuple(e for setting in SETTINGS for e in experiments_of(setting))
