"""`zotune fit` in a process that reports what it cost: python fit_process.py COST.json FLAGS…

COST.json gets the CPU seconds up to the end of all imports (start_seconds) and after it (cpu_seconds), and the peak
memory in MiB with the memory after the imports beside it.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
from pathlib import Path


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    import peft  # noqa: F401
    import torch  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    import zotune  # noqa: F401
    from zotune.cli.app import main as command_line

    start, imported = cpu_seconds(), peak_mib()
    code: object = 0
    try:
        with contextlib.redirect_stdout(sys.stderr):
            command_line(["fit", *sys.argv[2:]])
    except SystemExit as end:
        code = end.code
    cost = {
        "start_seconds": start,
        "cpu_seconds": cpu_seconds() - start,
        "peak_mib": peak_mib(),
        "import_mib": imported,
    }
    Path(sys.argv[1]).write_text(json.dumps(cost))
    sys.exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    main()
