"""An inference engine as a plugin's author writes one: a model of its own, whose weights follow the run's.

It completes prompts greedily, each member under written weights, without zotune's own pass of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from zotune.core.tensor_weights import TensorWeights
from zotune.errors import EngineError
from zotune.inference import EngineModel, GenerationRequest, InferenceEngine, Members, WeightUpdate

CALLS: list[str] = []
"""What engines of this process were asked for: "update", "load", "members", "prompts", "close"."""


class Written(InferenceEngine):
    def __init__(self, fault: str = "", without: str = "") -> None:
        self.fault, self.without = fault, without
        self.weights: TensorWeights | None = None

    def start(self, model: EngineModel) -> None:
        from transformers import AutoModelForCausalLM

        if self.fault == "start":
            raise RuntimeError("no such\ndevice")
        self.model = AutoModelForCausalLM.from_pretrained(model.folder, dtype=getattr(torch, model.dtype)).eval()
        own = dict(self.model.named_parameters(remove_duplicate=False))
        if missing := model.tensors.keys() - own.keys():
            raise EngineError(f"this model has no tensor {min(missing)}")
        self.weights = TensorWeights({n: own[n].data for n in model.tensors}, model.seed, model.rounding)

    def versions(self) -> Mapping[str, str]:
        return {"double": "1.0"}

    def matrices(self) -> frozenset[str]:
        assert self.weights is not None
        return frozenset(n for n, x in self.weights.tensors.items() if x.dim() == 2 and n != self.without)

    def generate(self, request: GenerationRequest) -> list[list[int]]:
        members = request.members
        if members is None:
            CALLS.append("prompts")
            return [self._complete(p, request) for p in request.prompts]
        CALLS.append("members")
        rows = iter(request.prompts)
        each = len(request.prompts) // (2 * (members.last - members.first))
        return [self._complete(next(rows), request) for _ in self._written(members) for _ in range(each)]

    def _written(self, members: Members) -> Iterator[None]:
        """Once for each member, under its weights."""
        assert self.weights is not None
        tensors = self.weights.tensors
        base = {n: x.clone() for n, x in tensors.items()}
        factors = {n: self.weights.factors(members, n) for n in members.sizes}
        for sign in (1, -1):
            for pair in range(members.last - members.first):
                scale = members.scales[members.first + pair] if members.scales else 1.0
                for name, (u, v) in factors.items():
                    size = sign * scale * members.sizes[name]
                    tensors[name].copy_(base[name] + size * torch.outer(u[pair], v[pair]))
                yield
        for name, x in base.items():
            tensors[name].copy_(x)

    def _complete(self, prompt: tuple[int, ...], request: GenerationRequest) -> list[int]:
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(request.max_new_tokens):
                token = int(self.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
                if token in request.end_ids:
                    break
                ids.append(token)
        return ids[len(prompt) :]

    def update(self, update: WeightUpdate) -> None:
        assert self.weights is not None
        CALLS.append("update")
        if self.fault != "update":
            self.weights.update(update)

    def load(self, file: Path) -> None:
        assert self.weights is not None
        CALLS.append("load")
        self.weights.load(file)

    def export(self, file: Path) -> None:
        assert self.weights is not None
        self.weights.export(file)

    def weights_hash(self) -> str:
        assert self.weights is not None
        return self.weights.hash()

    def close(self) -> None:
        CALLS.append("close")


class Unfinished:
    def generate(self, request: Any) -> list[list[int]]:
        return []
