"""MeZO with d from back-propagated gradient norms: Table 8 of arXiv:2305.17333, where the paper "cheats" with one
back-propagation to see what variance-modified SPSA (Definition 6) could gain at best.

    python examples/backprop_norms.py

zotune itself makes forward passes only; this program makes the one backward pass with torch, before the run, and hands
the norms to an optimizer as numbers. Tune the same network with MeZO and compare.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import zotune
from zotune.types import At, Oracle, PerTensor, Recipe, Theta


@dataclass(frozen=True)
class GivenNorms:
    """z ~ N(0, I);  g = (L(θ + ε z/d) − L(θ − ε z/d)) / 2ε;  θ ← θ − η g d z, with one d a tensor."""

    norms: tuple[tuple[str, float], ...]  # d by name of the tensor
    lr: float = 1e-3  # η: learning rate
    eps: float = 1e-3  # ε: perturbation scale

    forwards = 2
    needs = "comparisons"

    def init(self, theta: Theta) -> PerTensor:
        d = dict(self.norms)
        least = min((x for x in d.values() if x > 0), default=1.0)
        return theta.per(lambda t: d[t.name] or least)

    def step(self, theta: Theta, oracle: Oracle, state: PerTensor, at: At) -> tuple[Recipe, PerTensor]:
        z = at.normal()
        up, down = oracle(theta + self.eps * (z / state), theta - self.eps * (z / state))
        return theta - self.lr * (up - down) / (2 * self.eps) * (state * z), state


def group_gradient_norms(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> dict[str, float]:
    """‖∇L‖ of the module that owns each parameter, by the parameter's name: one back-propagation. Layers are the
    groups, as in the paper. Gradients are removed afterwards."""
    for p in model.parameters():
        p.requires_grad_(True)
    torch.autograd.backward(loss(model))
    squares: dict[str, float] = {}
    for name, p in model.named_parameters():
        owner = name.rpartition(".")[0]
        squares[owner] = squares.get(owner, 0.0) + float(p.grad.square().sum() if p.grad is not None else 0.0)
    model.zero_grad(set_to_none=True)
    return {name: squares[name.rpartition(".")[0]] ** 0.5 for name, _ in model.named_parameters()}


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 8, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long()

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 2))

    @zotune.objective(direction="minimize")
    def loss(model: nn.Module, batch: list[int]) -> list[float]:
        losses: list[float] = nn.functional.cross_entropy(model(x[batch]), y[batch], reduction="none").tolist()
        return losses

    model = network()
    norms = group_gradient_norms(model, lambda m: nn.functional.cross_entropy(m(x), y))
    print("back-propagated norms:", {name: round(norm, 4) for name, norm in norms.items()})
    d = tuple(norms.items())
    for lr in (3e-3, 1e-2, 3e-2):
        for name, optimizer in (("MeZO", "mezo"), ("d from gradients", GivenNorms(d, lr=lr))):
            model = network()
            options = {"lr": lr, "eps": 1e-3} if optimizer == "mezo" else None
            tuner = zotune.Tuner(model, loss, optimizer, data=list(range(256)), batch_size=32, optimizer_args=options)
            before = tuner.score(range(256))
            tuner.fit(max_evals=2000)
            print(f"η {lr:g}, {name}: cross-entropy {before:.3f}, then {tuner.score(range(256)):.3f}")


if __name__ == "__main__":
    main()
