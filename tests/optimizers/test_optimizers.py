"""Every installed optimizer keeps the contract, refuses options out of range, and works in half precision."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from references import load, loss, net, target

from zotune import plugins
from zotune.declarations import optimizer_info
from zotune.errors import OptionError, UsageError
from zotune.plugin_options import parameters
from zotune.testing import Bench, OptimizerContract, data

TINY = {"lr": 1e-2, "lr1": 1e-2, "lr2": 2e-3, "eps": 1e-2, "q": 5, "sparsity": 0.25, "interval": 3}
TINY |= {"iters": 2, "gamma_lr": 0.05, "pattern": "^(?!embed)", "vector_lr": 1e-2, "rank": 4}
"""Options for tiny nets, where an optimizer has them: the papers' defaults suit large models."""
COSTLY = {"cma", "grzo", "zo-svrg", "es"}
"""Many evaluations a step, so the tests take fewer steps."""
OPTIONS: dict[str, Any] = {"cma": {"rank": 4}, "grzo": {"lr": 2e-4}, "es": {"n": 8}, "mezo-modified": {"lr": 3e-3}}
"""Options by optimizer: cma needs most directions of a matrix of 2 × 3, grzo divides η by 2σ, mezo-modified does not
normalise d, 30 members of es are slow."""


def tiny(name: str) -> Any:
    """An installed optimizer with options that suit a tiny net; one without a learning rate keeps its defaults."""
    optimizer = target(name)
    known = parameters(optimizer)
    chosen = {k: v for k, v in TINY.items() if k in known} if {"lr", "lr1"} & set(known) else {}
    return optimizer(**(chosen | OPTIONS.get(name, {})))


@pytest.mark.parametrize("name", plugins.default().names("optimizer"))
class TestEveryInstalledOptimizer(OptimizerContract):
    @pytest.fixture(autouse=True)
    def _configure(self, name: str) -> None:
        self.name, self.long = name, 100 if name in COSTLY else 200

    def optimizer(self) -> Any:
        return tiny(self.name)

    def test_it_lowers_the_loss(self) -> None:
        bench = self.bench(steps=300 if self.name not in COSTLY else 100, seed=1)
        everything = range(24)
        start = bench.oracle._evaluate(everything).value
        bench.run()
        assert bench.oracle._evaluate(everything).value < start - 0.05

    def test_options_are_a_frozen_dataclass_with_meanings(self) -> None:
        from zotune.plugin_options import comments

        target = plugins.default().find("optimizer", self.name).load()
        assert dataclasses.is_dataclass(target)
        with pytest.raises(dataclasses.FrozenInstanceError):
            self.optimizer().__setattr__(dataclasses.fields(target)[0].name, 1)
        assert set(comments(target)) >= {f.name for f in dataclasses.fields(target)}


POPULATIONS = {
    "eggroll": {},
    "es": {"population": True, "lr": 0.05, "eps": 0.05},
    "fzoo": {"population": True, "lr": 0.05, "eps": 0.05},
    "grzo": {"population": True, "lr": 5e-3, "eps": 0.05},
}


@pytest.mark.parametrize("name", POPULATIONS)
@pytest.mark.parametrize("row_wise", [False, True])
class TestPopulations(OptimizerContract):
    """Optimizers that evaluate populations, with rows of one pass that have directions of their own and without."""

    @pytest.fixture(autouse=True)
    def _configure(self, name: str, row_wise: bool) -> None:
        self.name, self.row_wise, self.long = name, row_wise, 100

    def optimizer(self) -> Any:
        return load(self.name, **POPULATIONS[self.name])

    def bench(self, **options: Any) -> Bench:
        return super().bench(**{"row_wise": self.row_wise and "module" not in options, **options})

    def test_it_converges_on_four_small_problems(self) -> None:
        if not self.row_wise:  # their modules have no rows
            super().test_it_converges_on_four_small_problems()

    def test_it_asks_for_populations_and_lowers_the_loss(self) -> None:
        assert optimizer_info(self.optimizer()).populations
        bench = self.bench(steps=150, seed=1)
        start = bench.loss(range(24)).value
        bench.run()
        assert bench.loss(range(24)).value < start - 0.05
        tapes = [kind for line in bench.journal.lines for kind, _ in line.get("tape", ())]
        assert tapes.count("members") == 150


def test_rows_of_the_bench_are_its_members_under_written_weights() -> None:
    values = []
    for row_wise in (False, True):
        bench = Bench(load("eggroll", rows=12), dtype=torch.float64, steps=1, row_wise=row_wise).run()
        values.append(next(v for line in bench.journal.lines for kind, v in line.get("tape", ()) if kind == "members"))
    np.testing.assert_allclose(*values, rtol=1e-6)  # losses are float32


class TestMomentumOfLowRank(OptimizerContract):
    """LOZO-M: seeds and scalars as state, across changes of the subspace, and a field of some tensors alone."""

    def optimizer(self) -> Any:
        return load("lozo", lr=1e-2, eps=1e-2, rank=2, interval=4, beta=0.9, window=8)


@pytest.mark.parametrize("numbers", [["a line"], {"scale": "large"}, 1.0])
def test_a_description_holds_numbers_by_name(numbers: Any) -> None:
    class Describes:
        def init(self, theta: Any) -> None:
            return None

        def step(self, theta: Any, oracle: Any, state: None, at: Any) -> Any:
            return theta, None

        def describe(self, state: Any) -> Any:
            return numbers

    with pytest.raises(UsageError, match="Describes: describe must return numbers by name, got"):
        Bench(Describes(), steps=1).run()


def test_numpy_net_is_the_torch_net() -> None:
    bench = Bench(load("mezo"), dtype=torch.float64)
    weights = {n: p.detach().numpy() for n, p in bench.space.params.items()}
    with torch.no_grad():
        torch_logits = bench.module(data()[0]).numpy()
    np.testing.assert_allclose(net(weights, data()[0].numpy()), torch_logits, rtol=1e-10)
    assert loss(weights, tuple(range(24))) == pytest.approx(bench.loss(range(24)).value, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mezo", {"lr": 0}, "lr must be positive, got 0"),
        ("mezo", {"eps": -1.0}, "eps must be positive"),
        ("mezo", {"n": 0}, "n must be at least 1"),
        ("mezo", {"weight_decay": -0.1}, "weight_decay"),
        ("mezo", {"warmup": 1.0}, r"warmup must be in \[0, 1\), got 1.0"),
        ("mezo", {"diagnose": -1}, "diagnose must be at least 0, got -1"),
        ("mezo", {"estimate": "one-point", "modified": "variance"}, "are no options of mezo-modified .modified=no"),
        ("random-search", {"sigma": 0}, "sigma"),
        ("random-search", {"n": 0}, "n must be"),
        ("mezo", {"samples": 0}, "samples must be at least 1"),
        ("mezo-adam", {"beta2": 1.0}, r"mezo-adam: beta2 must be in \[0, 1\), got 1.0"),
        ("mezo-momentum", {"moments": "recomputed", "n": 2}, "moments=recomputed takes n = 1, got 2 .moments=stored"),
        ("mezo-adam", {"window": 0}, "window must be at least 1"),
        ("zo-adamu", {"warmup": 0.8, "anneal": 0.8}, "warmup < anneal"),
        ("zo-adamu", {"alpha": 1.5}, r"alpha must be in \[0, 1\]"),
        ("zo-adamm", {"sigma": 0.0}, "sigma must be positive"),
        ("mezo-svrg", {"q": 0}, "q must be at least 1"),
        ("mezo-svrg", {"anneal": 0.5}, "anneal must be at least 1"),
        ("zo-svrg", {"full": -1}, "full must be at least 0"),
        ("sparse-mezo", {"sparsity": 1.0}, r"sparsity must be in \[0, 1\), got 1.0"),
        ("sparse-mezo", {"dense": "bias,norms"}, "dense takes bias, norm, embedding, linear and other"),
        ("sparse-mezo", {"patterns": "embed"}, "takes REGEX=SHARE, with commas between several, got 'embed'"),
        ("sparse-mezo", {"patterns": "embed=most"}, "takes REGEX=SHARE.*could not convert"),
        ("sparse-mezo", {"patterns": "(=0.5"}, "takes REGEX=SHARE.*unterminated subpattern"),
        ("sparse-mezo", {"patterns": "embed=1.0"}, r"patterns must be in \[0, 1\), got 1.0"),
        ("sparse-mezo", {"diagnose": -1}, "diagnose must be at least 0, got -1"),
        ("dizo", {"tau": 0.5}, r"tau must be in \(0, 0.5\), got 0.5"),
        ("dizo", {"pattern": "("}, "is no regular expression"),
        ("dizo", {"interval": 0}, "interval must be at least 1"),
        ("hizoo", {"growth": 1.0}, "growth must be above 1"),
        ("es", {"n": 1}, "es: n must be at least 2, got 1"),
        ("es", {"n": 7, "sampling": "antithetic"}, "sampling=antithetic takes an even n, got 7 .n=8"),
        ("fzoo", {"n": 1}, "fzoo: n must be at least 2, got 1"),
        ("meazo", {"beta": 1.0}, r"meazo: beta must be in \[0, 1\), got 1.0"),
        ("meazo", {"zeta": 0.0}, "meazo: zeta must be positive"),
        ("lozo", {"rank": 0}, "lozo: rank must be at least 1, got 0"),
        ("lozo", {"beta": -0.1}, r"lozo: beta must be in \[0, 1\), got -0.1"),
        ("zo-muon", {"interval": 0}, "zo-muon: interval must be at least 1, got 0"),
        ("zo-muon", {"vector_lr": -1.0}, "zo-muon: vector_lr must be positive, got -1.0"),
        ("grzo", {"floor": 0.0}, "grzo: floor must be positive, got 0.0"),
        ("zo-sign", {"lr": float("nan")}, "zo-sign: lr must be positive"),
        ("zo-conservative", {"eps": 0.0}, "zo-conservative: eps must be positive"),
        ("cma", {"n": 1}, "cma: n must be at least 2, got 1 .n=2"),
        ("cma", {"rank": 0}, "cma: rank must be at least 1, got 0"),
        ("auto", {"cap": -1}, "cap must be positive"),
        ("auto", {"beta": 1.0}, "beta"),
        ("auto", {"bands": 0}, "bands"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        load(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "select", "message"),
    [
        (
            "dizo",
            {"pattern": "q_proj"},
            None,
            "pattern 'q_proj' matches none of the tuned tensors, such as embed.weight",
        ),
        (
            "sparse-mezo",
            {"patterns": "q_proj=0.5"},
            None,
            "'q_proj' matches none of the tuned tensors, such as embed.weight",
        ),
        (
            "sparse-mezo",
            {},
            lambda t: t.kind in ("bias", "norm"),
            "all tuned tensors are of kind bias or norm .tune matr",
        ),
    ],
)
def test_options_that_leave_nothing_to_do_are_refused(
    name: str, options: dict[str, Any], select: Any, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        Bench(load(name, **options), select=select).run()


def test_rows_are_compared_with_each_other_or_not_at_all() -> None:
    bench = Bench(load("grzo"))
    bench.batches.size = 1
    with pytest.raises(OptionError, match=r"a batch must have at least 2 rows, got 1 .--batch-size 16"):
        bench.run()


def test_a_recomputed_anchor_is_refused_in_half_precision() -> None:
    with pytest.raises(OptionError, match="needs float32 weights, but 7 tensors are narrower"):
        Bench(load("mezo-svrg", anchor="recomputed"), dtype=torch.bfloat16).run()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", plugins.default().names("optimizer"))
def test_two_hundred_steps_of_the_real_encoder_in_half_precision(name: str, dtype: torch.dtype, minilm: Any) -> None:
    """Its last block, on what the blocks before it give, computed once."""
    from transformers import AutoModel

    import zotune

    encoder = AutoModel.from_pretrained(minilm).to(dtype)
    ids = torch.randint(1000, 20000, (8, 4, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = [encoder(input_ids=x, output_hidden_states=True).hidden_states[-2] for x in ids]

    @zotune.objective(direction="minimize")
    def loss(model: Any, batch: list[int]) -> list[float]:
        after = model(before[batch[0]])
        after = after[0] if isinstance(after, tuple) else after
        return [float((after.float() - 0.1).square().mean())] * len(batch)

    optimizer = load(name) if name in ("auto", "random-search") else tiny(name)
    if "pattern" in parameters(type(optimizer)):
        optimizer = dataclasses.replace(optimizer, pattern="query|value")
    known = {k: 1e-4 for k in ("lr", "lr1", "lr2") if k in parameters(type(optimizer))}
    block = encoder.encoder.layer[-1]
    tuner = zotune.Tuner(block, loss, dataclasses.replace(optimizer, **known), data=list(range(8)), batch_size=1)
    start = {n: p.clone() for n, p in block.named_parameters()}
    tuner.fit(max_steps=200, eval_steps=10**9)
    assert all(torch.isfinite(p).all() and p.dtype == dtype for p in block.parameters())
    assert any(not torch.equal(p, start[n]) for n, p in block.named_parameters())
    assert all(t.dtype == torch.float32 for f in tuner.space.fields.values() for t in f.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", plugins.default().names("optimizer"))
def test_half_precision_stays_finite(name: str, dtype: torch.dtype) -> None:
    bench = Bench(tiny(name), steps=100, dtype=dtype).run()
    assert all(torch.isfinite(p).all() for p in bench.weights().values())
    assert all(p.dtype == dtype for p in bench.weights().values())
