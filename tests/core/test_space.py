"""The space: one write a step, none during evaluations, tied and wrapped names, half precision."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from zotune.core.recipe import Noise, only, sqrt
from zotune.core.rounding import round_value
from zotune.core.space import Space, canonical_name, describe, named_tensors
from zotune.errors import UsageError
from zotune.testing import TinyNet, Weights


def test_perturbed_weights_are_swapped_in_and_out_bit_for_bit() -> None:
    space = Space(TinyNet(), seed=0)
    before, pointers = space.digest(), [p.data_ptr() for p in space.params.values()]
    z = Noise("normal", 0, 0)
    for _ in range(100):
        with space.at(space.theta + 1e-3 * z):
            assert space.digest() != before
    assert space.digest() == before
    assert [p.data_ptr() for p in space.params.values()] == pointers


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_during_an_evaluation_changes_nothing(error: type[BaseException]) -> None:
    space = Space(TinyNet(), seed=0)
    before = space.digest()
    with pytest.raises(error), space.at(space.theta + Noise("rademacher", 0, 0)):
        raise error
    assert space.digest() == before


def test_an_interrupt_waits_for_the_end_of_the_write() -> None:
    import signal

    space = Space(Weights(40_000), seed=0)  # one tensor too large to be written with the other
    other = Space(Weights(40_000), seed=0)
    recipe = space.theta - 0.1 * Noise("normal", 0, 0)
    other.assign(recipe)
    run, calls = space.kernels.plain, []

    def interrupting(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        return run(*args)

    space.kernels.plain = interrupting  # type: ignore[method-assign]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job of a shell
    try:
        with pytest.raises(KeyboardInterrupt):
            space.assign(recipe)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(calls) == 2
    assert space.digest() == other.digest()


class Alone:
    """Makes evaluations that take one tensor at a time."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def __call__(self, *args: Any) -> Any:
        made = self.make(*args)

        def run_all(names: Any, outs: Any = None) -> None:
            for name in names:
                made.run(name, [outs[name].view(-1)] if outs else ())

        made.run_all = run_all
        return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_small_tensors_in_a_group_have_the_bits_of_single_ones(dtype: torch.dtype) -> None:
    def evaluated(together: bool) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        space = Space(TinyNet(dtype), seed=4)
        if not together:
            space.evaluation = Alone(space.evaluation)  # type: ignore[method-assign]
        z, some = Noise("normal", 0, 0), space.theta.per(lambda t: t.kind != "bias")
        state = space.assign(space.theta - 0.1 * Noise("rademacher", 2, 0), {"m": only(some, 0.5 * z)})
        rate = space.theta.per(lambda t: 0.0 if t.kind == "norm" else 0.1)
        point = sqrt(abs(space.theta)) - rate * space.theta / 3.0 + state["m"] * z
        with space.at(point):
            probed = {n: p.detach().clone() for n, p in space.params.items()}
        space.assign(point, {"m": only(some, 0.9 * state["m"] + z)})
        return probed, space.snapshot(), space.fields["m"]

    for a, b in zip(evaluated(True), evaluated(False), strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[n], b[n]) for n in a)


def test_right_hand_sides_read_the_old_values() -> None:
    space = Space(TinyNet(), seed=0)
    t = {n: p.detach().clone() for n, p in space.params.items()}
    state = space.assign(space.theta, {"m": 1.0 * space.theta})
    state = space.assign(space.theta + state["m"], {"m": 2.0 * space.theta - state["m"], "k": 3})
    for n, p in space.params.items():
        torch.testing.assert_close(p.detach(), 2 * t[n])
        torch.testing.assert_close(space.fields["m"][n], t[n])
    assert state["k"] == 3
    space.assign(space.theta, None)
    assert space.fields == {}


def test_fields_can_swap_places() -> None:
    space = Space(TinyNet(), seed=0)
    state = space.assign(space.theta, (1.0 + 0.0 * space.theta, 2.0 + 0.0 * space.theta))
    space.assign(space.theta, (state[1], state[0]))
    assert float(space.fields["0"]["norm.bias"][0]) == 2.0
    assert float(space.fields["1"]["norm.bias"][0]) == 1.0


def test_tied_weights_count_once_under_the_first_name() -> None:
    names = named_tensors(TinyNet())
    assert "embed.weight" in names
    assert "head.weight" not in names
    assert list(names) == sorted(names)


def test_wrappers_do_not_change_names() -> None:
    assert canonical_name("base_model.model.layers.0.q_proj.base_layer.weight") == "layers.0.q_proj.weight"
    assert canonical_name("_orig_mod.head.weight") == "head.weight"
    assert canonical_name("model.layers.0.weight") == "model.layers.0.weight"


def test_kinds_are_decided_by_module_type() -> None:
    class RMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

    net = nn.ModuleDict({"a": nn.Linear(4, 4), "b": RMSNorm(), "e": nn.Embedding(3, 4), "c": nn.Conv1d(1, 1, 3)})
    kinds = {n: t.kind for n, t in describe(net).items()}
    assert kinds == {
        "a.weight": "linear",
        "a.bias": "bias",
        "b.weight": "norm",
        "e.weight": "embedding",
        "c.weight": "linear",
        "c.bias": "bias",
    }
    assert describe(TinyNet())["layers.1.weight"].block == 1


def test_selection_and_frozen_parameters() -> None:
    net = TinyNet()
    net.norm.weight.requires_grad_(False)
    assert "norm.weight" not in Space(net, 0).params
    assert set(Space(net, 0, lambda t: t.kind == "norm").params) == {"norm.weight", "norm.bias"}
    with pytest.raises(UsageError, match="no weight"):
        Space(net, 0, lambda t: False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stochastic_rounding_is_unbiased_and_keeps_exact_values(dtype: torch.dtype) -> None:
    from zotune.core import noise

    words = noise.units("rounding", 99, 0, 1 << 16, torch.device("cpu"))
    for x in (1.0 + 1e-4, -0.3333, 3e-5, 123.456, 2047.7 if dtype == torch.float16 else 2047.1):
        rounded = round_value(torch.full((1 << 16,), x), dtype, words)
        gap = float(torch.finfo(dtype).eps) * abs(x)
        assert len(rounded.unique()) <= 2
        assert abs(rounded.double().mean().item() - x) < 0.02 * gap + 1e-9
    exact = torch.randn(1 << 16, generator=torch.Generator().manual_seed(0)).to(dtype).float()
    assert torch.equal(round_value(exact, dtype, words).float(), exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_updates_are_kept_on_average(dtype: torch.dtype) -> None:
    net = nn.Linear(256, 64, bias=False)
    net.weight.data.fill_(0.02)
    net.to(dtype)
    start = net.weight.detach().double().mean().item()
    space = Space(net, seed=0)
    for step in range(200):
        space.step = step
        space.assign(space.theta + 1e-6)
    moved = net.weight.detach().double().mean().item() - start
    assert 0.95 < moved / 200e-6 < 1.05


def test_an_accepted_candidate_is_written_as_it_was_evaluated() -> None:
    net = nn.Linear(64, 64).to(torch.bfloat16)
    space = Space(net, seed=4)
    space.step = 7
    point = space.theta + 0.01 * Noise("normal", 7, 0)
    with space.at(point):
        probed = space.digest()
    space.assign(point)
    assert space.digest() == probed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_order_statistics_need_no_sorting(dtype: torch.dtype) -> None:
    module = nn.Module()
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(1001, generator=generator) * 10 ** torch.randn(1001, generator=generator)
    module.wide = nn.Parameter(wide.to(dtype))
    module.few = nn.Parameter(torch.tensor([0.0, -0.0, 1.0, 1.0, -5.0, 3e30], dtype=dtype))
    module.equal = nn.Parameter(torch.full((7,), -2.5, dtype=dtype))
    space = Space(module, seed=0, chunk=256)
    for k in range(0, 1001, 40):
        places = {n: min(k, p.numel() - 1) for n, p in space.params.items()}
        found = space.ordered(space.theta, places)
        assert found == {n: float(p.detach().sort().values[places[n]]) for n, p in space.params.items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_no_value_below_the_overflow_becomes_infinite(dtype: torch.dtype) -> None:
    from zotune.core import noise

    words = noise.units("rounding", 7, 0, 1 << 16, torch.device("cpu"))
    top = torch.finfo(dtype).max
    overflow = 65520.0 if dtype == torch.float16 else (2 - 2.0**-8) * 2.0**127
    below = torch.tensor(overflow).nextafter(torch.tensor(0.0))
    for x in (top, below.item(), (top + below.item()) / 2, -top, -below.item()):
        rounded = round_value(torch.full((1 << 16,), x), dtype, words)
        assert rounded.unique().tolist() == [math.copysign(top, x)]
    for x in (overflow, -overflow, math.inf):
        assert round_value(torch.tensor([x]), dtype, words[:1]).tolist() == [math.copysign(math.inf, x)]


def test_complex_weights_are_refused_by_name() -> None:
    net = nn.Module()
    net.real, net.phase = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    with pytest.raises(UsageError, match="tensor phase is complex"):
        Space(net, 0)
    assert set(Space(net, 0, lambda t: t.name == "real").params) == {"real"}


def test_weights_that_share_memory_are_refused_by_name() -> None:
    whole = torch.arange(12.0)
    net = nn.Module()
    net.a, net.b = nn.Parameter(whole[:8]), nn.Parameter(whole[6:])
    with pytest.raises(UsageError, match="tensors a and b share memory"):
        Space(net, 0)
    net.b = nn.Parameter(net.a.data.view(2, 4).t())  # a transposed view of the same weights
    with pytest.raises(UsageError, match="tensors a and b share memory"):
        Space(net, 0)
    net.b.requires_grad_(False)  # a frozen tensor would change with the tuned one
    with pytest.raises(UsageError, match="tensors a and b share memory"):
        Space(net, 0)
    net.b = nn.Parameter(torch.zeros(1).expand(5))
    with pytest.raises(UsageError, match="tensor b is expanded"):
        Space(net, 0)


def test_weights_in_parts_of_one_storage_and_strided_weights_are_tuned() -> None:
    whole = torch.arange(12.0)
    net = nn.Module()
    net.a, net.b = nn.Parameter(whole[:6]), nn.Parameter(whole[6:])
    columns = torch.arange(12.0).view(3, 4)
    net.left, net.right = nn.Parameter(columns[:, :2]), nn.Parameter(columns[:, 2:])
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    space = Space(net, 0)
    space.step = 0
    space.assign(space.theta + 1.0)
    assert all(torch.equal(p, before[n] + 1.0) for n, p in net.named_parameters())
