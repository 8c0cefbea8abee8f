"""The plain tensors inside a tensor subclass, such as those that torchao makes of quantised weights.

Knows tensors; knows no library that makes them.
"""

from __future__ import annotations

from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def plain_parts(x: Tensor) -> list[Tensor]:
    """The plain tensors that hold a tensor's bits: the tensor itself, or all that a subclass wraps."""
    own = x.detach()
    if not is_traceable_wrapper_subclass(own):
        return [own]
    return [part for name in own.__tensor_flatten__()[0] for part in plain_parts(getattr(own, name))]


__all__ = ["plain_parts"]
