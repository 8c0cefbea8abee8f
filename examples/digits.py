"""Any torch module, any callable: a small CNN on scikit-learn's digits, tuned for accuracy itself.

    python examples/digits.py                 # 3,000 forwards of 256 images

Accuracy has no gradient. No transformers is imported.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

import zotune

TRAIN = 1200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evals", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    images, digits = load_digits(return_X_y=True)
    order = torch.randperm(len(images))
    x, y = torch.tensor(images).float().view(-1, 1, 8, 8)[order] / 16, torch.tensor(digits)[order]
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))

    def accuracy(model: nn.Module, batch: list[int]) -> list[float]:
        return [float(right) for right in model(x[batch]).argmax(-1) == y[batch]]

    tuner = zotune.Tuner(
        net,
        objective=accuracy,
        optimizer="mezo",
        data=list(range(TRAIN)),
        batch_size=256,
        seed=args.seed,
        optimizer_args={"lr": 0.3, "eps": 0.3},
    )
    held = list(range(TRAIN, len(x)))
    print(f"before {tuner.score(held):.3f}")
    tuner.fit(max_evals=args.evals)
    print(f"after {tuner.score(held):.3f} on {len(held)} images that it was not tuned on")


if __name__ == "__main__":
    main()
