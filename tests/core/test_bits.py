"""One-bit fields: packed and unpacked, read in every way that a field is read, saved and restored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from zotune import bits as one_bit
from zotune import only, where
from zotune.core import bits
from zotune.core.recipe import Noise
from zotune.core.space import Space
from zotune.errors import RecipeError, RunFolderError
from zotune.search import checkpoint
from zotune.testing import TinyNet


@pytest.mark.parametrize("numel", [1, 7, 8, 9, 64, 1001])
def test_a_mask_comes_back_from_its_bits(numel: int) -> None:
    values = torch.randint(0, 3, (numel,), generator=torch.Generator().manual_seed(numel)).float() - 1.0
    packed = bits.pack(values)
    assert packed.dtype == torch.uint8
    assert packed.numel() == bits.packed_size(numel) == -(-numel // 8)
    out = torch.empty(8 * packed.numel(), dtype=torch.float64)
    bits.unpack(packed, out)
    expected = (values != 0).double()
    assert out[:numel].equal(expected)
    assert not out[numel:].any(), "bits beyond the tensor are 0"
    index = torch.randperm(numel)
    assert bits.pick(packed, index, torch.float32).equal(expected[index].float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("chunk", "compiled"), [(32, False), (4096, False), (4096, True)])
def test_a_one_bit_field_reads_as_a_stored_one(dtype: torch.dtype, chunk: int, compiled: bool) -> None:
    weights = []
    for stored in (one_bit, lambda condition: where(condition, 1.0, 0.0)):
        space = Space(TinyNet(dtype), 1, chunk=chunk, compile=compiled)
        z = Noise("normal", 0, 0)
        state = space.assign(space.theta, {"m": stored(space.theta > 0.1)})
        state = space.assign(space.theta + 0.5 * state["m"] * z, state)
        weights.append((space.snapshot(), space.value(where(state["m"] > 0, z, -1.0))))
        expected = 1 if stored is one_bit else {torch.float64: 64}.get(dtype, 32)
        size = sum(x.numel() * x.element_size() for x in space.fields["m"].values())
        assert size <= expected * (space.numel / 8) + len(space.params)
    for a, b in zip(*weights, strict=True):
        assert all(torch.equal(a[n], b[n]) for n in a)


def test_the_condition_reads_the_weights_and_bits_from_before_the_step() -> None:
    space = Space(TinyNet(), 1)
    start = space.snapshot()
    state = space.assign(space.theta + 100.0, {"m": one_bit(space.theta > 0)})
    for n, x in space.value(1.0 * state["m"]).items():
        assert x.equal((start[n] > 0).float())
    state = space.assign(space.theta, {"m": one_bit(1.0 - state["m"])})
    for n, x in space.value(1.0 * state["m"]).items():
        assert x.equal((start[n] <= 0).float())


def test_some_tensors_alone_have_bits_and_the_others_read_as_zero() -> None:
    space = Space(TinyNet(), 1)
    layers = space.theta.per(lambda t: t.name.startswith("layers"))
    state = space.assign(space.theta, {"m": only(layers, one_bit(space.theta < 1e9))})
    assert set(space.fields["m"]) == {n for n in space.params if n.startswith("layers")}
    for n, x in space.value(1.0 * state["m"]).items():
        assert x.equal(torch.full_like(x, float(n.startswith("layers"))))
    fewer = space.theta.per(lambda t: t.name == "layers.0.bias")
    space.assign(space.theta, {"m": only(fewer, state["m"])})
    assert set(space.fields["m"]) == {"layers.0.bias"}
    with pytest.raises(RecipeError, match="cannot stand inside arithmetic"):
        space.value(1.0 + one_bit(space.theta > 0))


def test_looked_up_rows_of_an_embedding_read_their_own_bits() -> None:
    class Lookup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(900, 13)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            rows: torch.Tensor = self.embed(ids)
            return rows

    torch.manual_seed(0)
    module = Lookup().requires_grad_(True)
    space = Space(module, 1)
    state = space.assign(space.theta, {"m": one_bit(space.theta > 0)})
    ids = torch.tensor([[3, 899], [41, 3]])
    point = space.theta + 0.25 * state["m"] * Noise("normal", 0, 0)

    def rows() -> torch.Tensor:
        with torch.no_grad(), space.at(point, 1):
            return module(ids).clone()  # type: ignore[no-any-return]

    by_copy = rows()
    with torch.no_grad():
        assert space.perturb_in_forward(lambda: module(ids)) == []
    assert space.in_forward is not None
    assert rows().equal(by_copy)


def test_bits_are_saved_and_restored_and_a_wrong_size_is_refused(tmp_path: Path) -> None:
    def started() -> tuple[Space, Any]:
        space = Space(TinyNet(), 1)
        return space, space.assign(space.theta, {"m": one_bit(space.theta > 0)})

    space, state = started()
    meta = {"step": 3, "lines": 0}
    checkpoint.write(tmp_path / "checkpoint-3", space, meta)
    other = Space(TinyNet(), 1)
    checkpoint.read(tmp_path / "checkpoint-3", other)
    for n, x in space.fields["m"].items():
        assert other.fields["m"][n].dtype == torch.uint8
        assert other.fields["m"][n].equal(x)
    space.fields["m"] = {n: x[:-1] for n, x in space.fields["m"].items()}
    checkpoint.write(tmp_path / "checkpoint-3", space, meta)
    with pytest.raises(RunFolderError, match="belongs to another model"):
        checkpoint.read(tmp_path / "checkpoint-3", other)
    assert state["m"].path == "m"
