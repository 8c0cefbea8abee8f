"""Products with packed weights: the bits of torch's own, the present weights, and modules as they were."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from zotune.core import packed_weights
from zotune.core.packed_weights import FEW_ROWS, WAIT, PackedWeights
from zotune.core.population import Population, RowWise
from zotune.core.recipe import Directions
from zotune.core.space import Space

pytestmark = pytest.mark.skipif(not packed_weights._supported(), reason="torch packs no bfloat16 weights here")


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the operations that were called."""
    called: list[str] = []
    real = torch.ops.mkldnn

    class Recorded:
        def __getattr__(self, name: str) -> object:
            def call(*args: object) -> object:
                called.append(name)
                return getattr(real, name)(*args)

            return call

    monkeypatch.setattr(packed_weights, "_operations", Recorded)
    monkeypatch.setattr(packed_weights, "_same", {})
    return called


def net(dtype: torch.dtype = torch.bfloat16) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(96, 160), nn.SiLU(), nn.Linear(160, 64, bias=False)).to(dtype)


def inputs(rows: int) -> Tensor:
    return torch.randn(rows, 96, generator=torch.Generator().manual_seed(rows)).bfloat16()


@torch.no_grad()
def test_bits_are_those_of_torch(operations: list[str]) -> None:
    model = net()
    xs = [inputs(rows) for rows in (1, 16, 48)] + [inputs(48).view(3, 16, 96)]
    expected = [model(x) for x in xs]
    with PackedWeights().of(model):
        for _ in range(WAIT):
            model(xs[1])
        assert not operations
        for _ in range(2):
            assert all(torch.equal(model(x), y) for x, y in zip(xs, expected, strict=True))
    assert operations.count("_reorder_linear_weight") == 2
    assert operations.count("_linear_pointwise") >= 8
    assert not any("forward" in m.__dict__ for m in model.modules())


@torch.no_grad()
def test_weights_are_read_anew_in_every_block(operations: list[str]) -> None:
    model, x = net(), inputs(8)
    for _ in range(2):
        expected = model(x)
        with PackedWeights().of(model):
            assert all(torch.equal(model(x), expected) for _ in range(WAIT + 2))
        model[0].weight.data.mul_(-0.5)
    assert operations.count("_reorder_linear_weight") == 4


@torch.no_grad()
def test_other_bits_are_not_used(operations: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = net(), inputs(8)
    expected = model(x)
    real = packed_weights._operations()

    class Wrong:
        @staticmethod
        def _reorder_linear_weight(*args: object) -> Tensor:
            return real._reorder_linear_weight(*args)

        @staticmethod
        def _linear_pointwise(*args: object) -> Tensor:
            return real._linear_pointwise(*args) + 1

    monkeypatch.setattr(packed_weights, "_operations", Wrong)
    with PackedWeights().of(model):
        assert all(torch.equal(model(x), expected) for _ in range(WAIT + 4))
    assert operations.count("_linear_pointwise") == 2


@torch.no_grad()
def test_many_rows_other_types_and_patched_modules_stay(operations: list[str]) -> None:
    model, wide = net(), net(torch.float32)
    model[0].__dict__["forward"] = lambda x: x.new_zeros(*x.shape[:-1], 160)
    with PackedWeights().of(model), PackedWeights().of(wide):
        for _ in range(WAIT + 2):
            assert not model(inputs(FEW_ROWS + 1)).any()
            wide(inputs(8).float())
    assert not operations
    assert "forward" in model[0].__dict__


@torch.no_grad()
def test_members_of_a_population_read_packed_weights(operations: list[str]) -> None:
    model, x = net(), inputs(8)
    space = Space(model, 0)
    rows = RowWise(space, lambda: model(x), len(x))
    shapes = {t.name: t.shape for t in space.theta.tensors if len(t.shape) == 2}
    population = Population(Directions(shapes, 2, 0), dict.fromkeys(shapes, 0.05))
    for _ in range(2):
        with rows.at(population):
            outputs = [model(x) for _ in range(WAIT + 2)]
        assert all(torch.equal(y, outputs[0]) for y in outputs)
        assert not torch.equal(outputs[0], model(x))
        model[0].weight.data.mul_(0.5)
    assert operations.count("_reorder_linear_weight") == 4
