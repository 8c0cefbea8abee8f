"""Parts that crash, hang and run out of memory on purpose, for the test of the check itself (--faults)."""

from __future__ import annotations

import os
import signal
import time

from benchmarks.gpu_parts import Check, part


@part("crash", "ends with a segmentation fault", seconds=60, fault=True)
def crash(check: Check) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@part("hang", "never ends", seconds=15, fault=True)
def hang(check: Check) -> None:
    while True:
        time.sleep(60)


@part("memory-out", "asks for more memory than there is", seconds=60, fault=True)
def memory_out(check: Check) -> None:
    import torch

    torch.empty(1 << 55, dtype=torch.uint8, device=check.device)
