"""Tuned weights that an inference engine holds: the same updates, members and hashes as the run computes.

A tensor may be a view of a larger one, such as the rows of q_proj in fused query, key and value weights: noise is
indexed by the elements of the tensor that a name stands for. Knows tensors by name; knows no engine and no file but
those of tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from zotune.core import noise
from zotune.core.members import member_factors
from zotune.core.recipe import Directions
from zotune.core.recipe_codec import decode
from zotune.core.space import Space
from zotune.inference import Members, WeightUpdate


class TensorWeights:
    """The tuned tensors of a run, written in place.

    tensors: contiguous, by the run's canonical names. seed, rounding: as in `zotune.inference.EngineModel`. compile:
    whether updates are compiled; the bits are the same.
    """

    def __init__(self, tensors: Mapping[str, Tensor], seed: int, rounding: int, compile: bool = False) -> None:
        if apart := [n for n, x in tensors.items() if not x.is_contiguous()]:
            raise ValueError(f"{apart[0]} is not contiguous: writing it would change a copy")
        self._space = Space(_module_of(tensors), seed, lambda t: True, compile=compile, rounding=rounding)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors by name."""
        return {name: p.data for name, p in self._space.params.items()}

    def update(self, update: WeightUpdate) -> None:
        """Write the next weights: the bits that the run writes. Raises RecipeError for a text that is no recipe."""
        self._space.step = update.step
        self._space.assign(decode(update.recipe, self._space.theta))

    def load(self, file: Path) -> None:
        """Read the weights from a safetensors file of the same names and shapes."""
        from safetensors.torch import load_file

        self._space.load(load_file(file))

    def export(self, file: Path) -> None:
        """Write the weights to a safetensors file."""
        from safetensors.torch import save_file

        save_file({name: x.cpu().contiguous() for name, x in self._space.snapshot().items()}, file)

    def hash(self) -> str:
        """A hash of every bit of the weights."""
        return self._space.digest()

    def factors(self, members: Members, name: str) -> tuple[Tensor, Tensor]:
        """u_p and v_p of one matrix for the pairs of `members`: float32 (pairs, rows) and (pairs, columns), mean 0 and
        variance 1. The member with + has θ + S · scale_p · u_p v_pᵀ."""
        directions = Directions(members.shapes, members.count, members.step, members.draw)
        device = self._space.params[name].device
        left, right = member_factors(directions, name, self._space.key, device)
        pairs = slice(members.first, members.last)
        return left[pairs] * noise.NORMAL_SCALE, right[pairs] * noise.NORMAL_SCALE


def _module_of(tensors: Mapping[str, Tensor]) -> nn.Module:
    """A module whose parameters are these tensors under these dotted names."""
    root = nn.Module()
    for name, x in tensors.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            inner = module._modules[part]
            assert inner is not None
            module = inner
        module.register_parameter(leaf, nn.Parameter(x, requires_grad=False))
    return root


__all__ = ["TensorWeights"]
