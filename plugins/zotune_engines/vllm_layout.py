"""Where vLLM holds a tuned tensor: as it is, as rows of a fused one, or padded.

q_proj, k_proj and v_proj are rows of qkv_proj, gate_proj and up_proj rows of gate_up_proj, and vocabularies are padded
at their end. Rows of a matrix are contiguous, so that a tensor is a view that updates are written to, and its elements
have the indices of the unfused tensor. Where several workers share the weights, or a layer keeps them in another form,
each worker updates a copy of the whole tensors in host memory, and vLLM's own loader takes this worker's part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.layers import utils as gemm
from vllm.model_executor.layers.linear import QKVParallelLinear
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.weight_utils import default_weight_loader

WRAPPER = ".base_layer"
"""Part of a module's name that vLLM's adapters add."""


class UnsupportedModel(Exception):
    """A tuned tensor has no place in vLLM's model."""


class Layout:
    """The tuned tensors of a model.

    model: vLLM's, with adapters. shapes: of the tuned tensors by transformers' names; dtype: theirs. tensors: to be
    written in place; `written` has to follow. copies: whether these are whole copies in host memory, at first zeros.
    Raises UnsupportedModel.
    """

    def __init__(
        self, model: Any, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, copies: bool = False
    ) -> None:
        self._model = model
        self._modules = {n.replace(WRAPPER, ""): m for n, m in model.named_modules(remove_duplicate=False)}
        self._parameters: dict[str, Tensor] = {}
        for name, p in model.named_parameters(remove_duplicate=False):
            self._parameters[name.replace(WRAPPER, "")] = p
        self._fused = {part: whole for whole, parts in _packed(model).items() for part in parts}
        self._names = {name: _renamed(model, name) for name in shapes}
        self.copies = copies or get_tensor_model_parallel_world_size() > 1
        self.tensors: dict[str, Tensor] = {}
        for name, shape in shapes.items():
            view = None if self.copies else self._view(self._names[name], shape)
            if view is not None and view.dtype != dtype:
                raise UnsupportedModel(f"it holds {name} as {view.dtype}, the run as {dtype}")
            if view is None and (not self.copies or self._place(self._names[name]) is None):
                raise UnsupportedModel(f"this model is not supported: vLLM has no tensor {name} of shape {shape}")
            self.tensors[name] = torch.zeros(shape, dtype=dtype) if view is None else view
        self._packed_layers = self._layers()

    def _view(self, name: str, shape: tuple[int, ...]) -> Tensor | None:
        """The tensor as rows of a parameter; None where there is none of this shape."""
        if (whole := self._parameters.get(name)) is not None:
            fits = whole.shape[1:] == shape[1:] and (whole.shape[0] == shape[0] or self._is_padded(name, shape[0]))
            return whole.data[: shape[0]] if fits else None
        if (held := self._place(name)) is None:
            return None
        module, whole, place = held
        sizes: list[int] = list(module.output_partition_sizes)
        if place is None or len(sizes) <= place or sizes[place] != shape[0] or whole.shape[1:] != shape[1:]:
            return None
        first = sum(sizes[:place])
        return whole.data[first : first + shape[0]]

    def _place(self, name: str) -> tuple[Any, Tensor, int | None] | None:
        """The module and the parameter that hold a tensor, and which of its parts it is, None for the whole."""
        path, _, leaf = name.rpartition(".")
        if name in self._parameters:
            return self._modules[path], self._parameters[name], None
        parent, _, part = path.rpartition(".")
        fused = self._fused.get(part)
        module = self._modules.get(f"{parent}.{fused}")
        whole = self._parameters.get(f"{parent}.{fused}.{leaf}")
        if fused is None or module is None or whole is None:
            return None
        return module, whole, _packed(self._model)[fused].index(part)

    def _is_padded(self, name: str, rows: int) -> bool:
        """Whether a tensor is a vocabulary of so many tokens with padding at its end."""
        module = self._modules[name.rpartition(".")[0]]
        return isinstance(module, VocabParallelEmbedding) and module.org_vocab_size == rows

    def adapted(self, wrapped: frozenset[str]) -> dict[str, list[tuple[str, bool]]]:
        """For each tensor that members can vary: the modules that read it, and whether each looks its rows up.

        wrapped: the modules that take adapters. A tied matrix is read by two modules.
        """
        readers_of: dict[str, list[tuple[str, bool]]] = {}
        for name, tensor in self.tensors.items():
            module = self._names[name].removesuffix(".weight")
            if tensor.dim() != 2 or module == self._names[name]:
                continue
            readers = [module]
            if (own := self._parameters.get(f"{module}.weight")) is not None:
                readers = [n.removesuffix(".weight") for n, p in self._parameters.items() if p is own]
            plain = [r.replace(WRAPPER, "") for r in dict.fromkeys(readers)]
            if all(self._holder(r) in wrapped for r in plain):
                readers_of[name] = [(r, self._looks_up(r)) for r in plain]
        return readers_of

    def _looks_up(self, module: str) -> bool:
        layer = self._modules.get(module)
        return isinstance(layer, VocabParallelEmbedding) and not isinstance(layer, ParallelLMHead)

    def _holder(self, module: str) -> str:
        """The module that takes a module's adapter: itself, or the one that it is fused into."""
        parent, _, part = module.rpartition(".")
        return f"{parent}.{self._fused[part]}" if part in self._fused else module

    def _layers(self) -> list[nn.Module]:
        """Layers with a packed form of a tuned tensor beside the plain one."""
        held = (self._place(n) for n in self._names.values())
        storages = {x[1].untyped_storage().data_ptr() for x in held if x is not None}
        layers: dict[int, nn.Module] = {}
        for module in self._modules.values():
            weight = module._parameters.get("weight")
            packed = "cpu_linear" in module.__dict__ and weight is not None
            if packed and weight is not None and weight.untyped_storage().data_ptr() in storages:
                layers[id(module)] = module
        return list(layers.values())

    def written(self) -> None:
        """Tell the model that the tensors have changed."""
        if self.copies:
            for name, x in self.tensors.items():
                self._hand_over(self._names[name], x)
        for layer in self._packed_layers:
            gemm.dispatch_cpu_unquantized_gemm(layer, True)

    def _hand_over(self, name: str, x: Tensor) -> None:
        """Let vLLM's loader write this worker's part of a whole tensor."""
        held = self._place(name)
        assert held is not None
        module, part = held[0], held[2]
        parameter: Any = held[1]
        arguments: list[Any] = []
        if part is not None:
            arguments = ["qkv"[part] if isinstance(module, QKVParallelLinear) else part]
        try:
            loader = parameter.weight_loader
        except AttributeError:
            loader = default_weight_loader
        loader(parameter, x, *arguments)

    def check(self) -> None:
        """Raise RuntimeError where a tensor is no longer the memory that the model reads."""
        if self.copies:
            return
        current = {p.untyped_storage().data_ptr() for p in self._model.parameters()}
        for name, x in self.tensors.items():
            if x.untyped_storage().data_ptr() not in current:
                raise RuntimeError(f"vLLM has moved {name}")


def _packed(model: Any) -> Mapping[str, list[str]]:
    """The names of a fused module's parts in their order, by the fused module's own."""
    try:
        return model.packed_modules_mapping or {}
    except AttributeError:
        return {}


def _renamed(model: Any, name: str) -> str:
    """A tensor's name in vLLM's model, before parts are fused."""
    try:
        mapper = model.hf_to_vllm_mapper
    except AttributeError:
        return name
    names = mapper.get_rename_mapper().apply_list([name]) if mapper is not None else []
    return str(names[0]) if names else name


__all__ = ["Layout", "UnsupportedModel"]
