"""Tune a small CNN on scikit-learn's digits for accuracy, which has no gradient. Needs no transformers.

python examples/digits.py                 # 3,000 evaluations of 256 images
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

import zotune

TRAINING_IMAGES = 1200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evals", type=int, default=3000, help="evaluations of one batch")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    images, digits = load_digits(return_X_y=True)
    order = torch.randperm(len(images))
    x, y = torch.tensor(images).float().view(-1, 1, 8, 8)[order] / 16, torch.tensor(digits)[order]
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))

    def accuracy(model: nn.Module, batch: list[int]) -> list[float]:
        """1 or 0 for each image of the batch, which holds image numbers."""
        correct = model(x[batch]).argmax(-1) == y[batch]
        return [float(c) for c in correct]

    tuner = zotune.Tuner(
        net,
        objective=accuracy,
        optimizer="mezo",
        data=list(range(TRAINING_IMAGES)),
        batch_size=256,
        seed=args.seed,
        optimizer_args={"lr": 0.3, "eps": 0.3},
    )
    test_images = list(range(TRAINING_IMAGES, len(x)))
    print(f"before {tuner.score(test_images):.3f}")
    tuner.fit(max_evals=args.evals)
    print(f"after {tuner.score(test_images):.3f} on {len(test_images)} test images")


if __name__ == "__main__":
    main()
