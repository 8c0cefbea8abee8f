"""The papers' variants that change what an optimizer stores, draws or asks for keep the contract of all optimizers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from references import load

from zotune.testing import Bench, OptimizerContract

SPARSE = {"lr": 1e-2, "eps": 1e-2, "sparsity": 0.25}
DIZO = {"lr": 1e-2, "eps": 1e-2, "interval": 3, "iters": 2, "gamma_lr": 0.05, "pattern": "^(?!embed)"}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "sparse-mezo, one-bit mask": ("sparse-mezo", {**SPARSE, "mask": "constant", "diagnose": 3}),
    "sparse-mezo, largest weights": ("sparse-mezo", {**SPARSE, "tuned": "largest", "patterns": "a=0.1,b=0.3"}),
    "dizo, γ of the round before, unclipped": ("dizo", {**DIZO, "reinit": False, "clip": False}),
    "dizo, from the weights before": ("dizo", {**DIZO, "base": "previous", "reinit": False}),
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
        bench = Bench(self.optimizer(), steps=60, dtype=dtype).run()
        assert all(torch.isfinite(p).all() and p.dtype == dtype for p in bench.weights().values())
