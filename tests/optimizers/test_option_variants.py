"""The papers' variants that change what an optimizer stores, draws or asks for keep the contract of all optimizers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from references import load

from zotune import declarations, plugins
from zotune.testing import Bench, OptimizerContract

SPARSE = {"lr": 1e-2, "eps": 1e-2, "sparsity": 0.25}
SVRG = {"lr1": 1e-2, "lr2": 2e-3, "eps": 1e-2, "q": 5}
DIZO = {"lr": 1e-2, "eps": 1e-2, "interval": 3, "iters": 2, "gamma_lr": 0.05, "pattern": "^(?!embed)"}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "sparse-mezo, one-bit mask": ("sparse-mezo", {**SPARSE, "mask": "constant", "diagnose": 3}),
    "sparse-mezo, largest weights": ("sparse-mezo", {**SPARSE, "tuned": "largest", "patterns": "a=0.1,b=0.3"}),
    "dizo, γ of the round before, unclipped": (
        "dizo",
        {**DIZO, "interval": 4, "iters": 6, "gamma_lr": 0.5, "reinit": False, "clip": False},
    ),
    "dizo, from the weights before": ("dizo", {**DIZO, "base": "previous", "reinit": False}),
    "zo-adamu, momentum on the gradient": ("zo-adamu", {"lr": 2e-3, "eps": 1e-2, "on": "gradient"}),
    "zo-adamm, rmsgrad": ("zo-adamm", {"lr": 1e-3, "eps": 1e-2, "momentum": "rmsgrad"}),
    "mezo-svrg, p-SPSA": ("mezo-svrg", {**SVRG, "p": 2}),
    "mezo-svrg, p-SPSA without a field": ("mezo-svrg", {**SVRG, "p": 2, "anchor": "recomputed", "z": "independent"}),
    "mezo, one point": ("mezo", {"lr": 4e-3, "eps": 0.1, "n": 4, "estimate": "one-point", "diagnose": 3}),
    "mezo, warm-up": ("mezo", {"lr": 1e-2, "eps": 1e-2, "warmup": 0.5}),
    "dizo, learning rates": ("dizo", {**DIZO, "base": "lr"}),
}


@pytest.mark.parametrize("variant", VARIANTS)
class TestVariants(OptimizerContract):
    @pytest.fixture(autouse=True)
    def _configure(self, variant: str) -> None:
        self.variant = variant

    def optimizer(self) -> Any:
        name, options = VARIANTS[self.variant]
        return load(name, **options)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_stays_finite(self, dtype: torch.dtype) -> None:
        if VARIANTS[self.variant][1].get("anchor") == "recomputed":
            pytest.skip("refused below float32: tests/optimizers/test_optimizers.py")
        bench = Bench(self.optimizer(), steps=60, dtype=dtype).run()
        assert all(torch.isfinite(p).all() and p.dtype == dtype for p in bench.weights().values())


@pytest.mark.parametrize("name", plugins.default().names("optimizer"))
def test_runs_that_recorded_no_such_option_had_its_default_or_an_older_edition(name: str) -> None:
    optimizer = load(name)
    before = declarations.unrecorded(optimizer)
    defaults = {f.name: f.default for f in dataclasses.fields(optimizer)}
    assert before.keys() <= defaults.keys()
    assert all(value == defaults[option] for option, value in before.items() if option != "edition")
