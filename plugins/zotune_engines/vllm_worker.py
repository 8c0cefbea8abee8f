"""What runs inside a worker of vLLM: tuned weights that are updated in place, and members as adapters.

vLLM injects `TunedWeights` into its worker class. Importing this module changes one thing of vLLM's: on a CPU, weights
that are packed for a kernel keep their plain form beside it, for it is what updates are written to.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from vllm.lora.lora_model import LoRAModel
from vllm.lora.lora_weights import LoRALayerWeights
from vllm.model_executor.layers import utils as gemm

from zotune.core.tensor_weights import TensorWeights
from zotune.inference import Members, WeightUpdate
from zotune_engines.vllm_layout import Layout, UnsupportedModel

SCHEME = "zotune:"
"""Begins the path of an adapter that is made in the worker."""
_pack: Callable[[nn.Module, bool], None] = gemm.dispatch_cpu_unquantized_gemm


def _pack_and_keep(layer: nn.Module, remove_weight: bool) -> None:
    _pack(layer, False)


gemm.dispatch_cpu_unquantized_gemm = _pack_and_keep


class TunedWeights:
    """Methods that zotune calls by name in every worker. Arguments and results are texts and plain values."""

    def zotune_start(self, text: str) -> dict[str, Any]:
        """Find the tuned tensors. Returns the names of those that can differ from member to member, or an error."""
        options = json.loads(text)
        if torch.cpu._is_amx_tile_supported():  # vLLM's attention in bfloat16 takes for granted that they are enabled
            torch.cpu._init_amx()
        runner: Any = self.model_runner  # type: ignore[attr-defined]
        shapes = {n: tuple(shape) for n, shape in options["tensors"].items()}
        try:
            self._zotune_layout = Layout(
                runner.get_model(), shapes, getattr(torch, options["dtype"]), options["copies"]
            )
        except UnsupportedModel as error:
            return {"error": str(error)}
        self._zotune = TensorWeights(self._zotune_layout.tensors, options["seed"], options["rounding"])
        manager: Any = runner.lora_manager
        read = manager._load_adapter
        manager._load_adapter = lambda request: (
            self._zotune_adapter(request) if request.lora_path.startswith(SCHEME) else read(request)
        )
        wrapped = frozenset(manager._adapter_manager.modules)
        self._zotune_modules = self._zotune_layout.adapted(wrapped)
        return {"matrices": sorted(self._zotune_modules)}

    def zotune_members(self, text: str) -> int:
        """Make the factors of the members that requests name from here on. Returns how many pairs these are."""
        x = json.loads(text)
        shapes = {n: (int(a), int(b)) for n, (a, b) in x["shapes"].items()}
        members = Members(**{**x, "shapes": shapes, "scales": tuple(x["scales"])})
        self._zotune_members = members
        self._zotune_factors = {n: self._zotune.factors(members, n) for n in members.sizes}
        return members.last - members.first

    def _zotune_adapter(self, request: Any) -> LoRAModel:
        """The adapter of a member: θ + S · scale · u vᵀ with its sign, as lora_b · lora_a."""
        members, member = self._zotune_members, int(request.lora_path.removeprefix(SCHEME))
        pairs = members.last - members.first
        pair, sign = member % pairs, 1.0 if member < pairs else -1.0
        scale = sign * (members.scales[members.first + pair] if members.scales else 1.0)
        dtype = self.model_runner.lora_manager.lora_config.lora_dtype  # type: ignore[attr-defined]
        loras: dict[str, LoRALayerWeights] = {}
        for name, (u, v) in self._zotune_factors.items():
            size = members.sizes[name]
            root = math.sqrt(abs(size)) or 1.0  # both factors stay in the range of float16
            left, right = u[pair] * (scale * size / root), v[pair] * root
            for module, is_look_up in self._zotune_modules[name]:
                a, b = (left, right) if is_look_up else (right, left)
                a, b = a[None].to("cpu", dtype), b[:, None].to("cpu", dtype)
                loras[module] = LoRALayerWeights(module, 1, 1, a, b)
        return LoRAModel(request.lora_int_id, 1, loras)

    def zotune_release(self) -> None:
        """Forget all members. A row without an adapter has the index −1, which the operations of a CPU take for the
        last place: it must hold zeros."""
        manager = self.model_runner.lora_manager._adapter_manager  # type: ignore[attr-defined]
        manager.remove_all_adapters()
        for module in manager.modules.values():
            module.reset_lora(manager.lora_slots - 1)
        self._zotune_factors = {}

    def zotune_update(self, step: int, recipe: str) -> None:
        """Write the next weights."""
        self._zotune.update(WeightUpdate(step, recipe))
        self._zotune_layout.written()

    def zotune_load(self, file: str) -> None:
        """Read the tuned weights from a file."""
        self._zotune.load(Path(file))
        self._zotune_layout.written()

    def zotune_export(self, file: str) -> None:
        """Write the tuned weights to a file, once."""
        if self.rank == 0:  # type: ignore[attr-defined]
            self._zotune.export(Path(file))

    def zotune_hash(self) -> str:
        """A hash of every bit of the tuned weights, as the model has them."""
        self._zotune_layout.check()
        return self._zotune.hash()


__all__ = ["TunedWeights"]
