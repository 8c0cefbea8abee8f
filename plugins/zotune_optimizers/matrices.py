"""Tensors as matrices, and arithmetic on their small random factors (LOZO, ZO-Muon, GRZO)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zotune.types import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor


def matrix_shape(t: TensorInfo) -> tuple[int, int] | None:
    """(rows, columns) of a tensor with at least two axes, where the first axis counts rows and all others together
    count columns; None for a tensor with one axis or none."""
    return (t.shape[0], t.numel // t.shape[0]) if len(t.shape) > 1 else None


def is_matrix(t: TensorInfo) -> bool:
    return matrix_shape(t) is not None


def scaled(c: float, factor: Tensor) -> Tensor:
    """c times a factor, a torch tensor of shape (rows or columns, rank), in float64."""
    return c * factor.double()


def added(c: float, total: Tensor, factor: Tensor) -> Tensor:
    """total + c times a factor of the same shape, in float64."""
    return total + c * factor.double()
