"""Seeds and keys for everything random on the host: pure functions of the run seed and a purpose.

Batches, held-out splits, resampling and the keys of noise come from here. There is no generator state, and no torch.
"""

from __future__ import annotations

import hashlib
from typing import Final

MASK64: Final = (1 << 64) - 1


def splitmix64(x: int) -> int:
    """One output of SplitMix64 for the 64-bit state `x` (Steele, Lea & Flood 2014)."""
    x = (x + 0x9E3779B97F4A7C15) & MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK64
    return x ^ (x >> 31)


def name_key(name: str) -> int:
    """A stable 64-bit hash of a parameter's canonical name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def derive(seed: int, *parts: int | str) -> int:
    """A 63-bit seed for choices on the host (batches, resampling). parts: the purpose."""
    key = splitmix64(seed & MASK64)
    for part in parts:
        key = splitmix64(key ^ ((name_key(part) if isinstance(part, str) else part) & MASK64))
    return key >> 1


def uniform(count: int, seed: int, *parts: int | str) -> list[float]:
    """`count` uniform numbers in (0, 1). parts: the purpose."""
    key = derive(seed, *parts)
    return [((splitmix64(key + i) >> 12) + 0.5) / 2.0**52 for i in range(count)]
