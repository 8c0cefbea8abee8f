"""`zotune fit` in processes that report what they cost: python fit_process.py JOBS.json

A job has the folder of its results and the flags of `zotune fit`, which gets --output-dir FOLDER/run. held_out: prompts
of the validation and test sets; completions scored for them are counted apart. A completion counts once, also where a
metric of sets is computed again without it. completions.jsonl of the run holds every test row.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from head_to_head_parts.processes import run_jobs


def main() -> None:
    import peft  # noqa: F401
    import torch  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    import zotune  # noqa: F401
    from zotune.cli.app import main as command_line
    from zotune.runs import completions_log
    from zotune.tasks.generation import GenerationTask

    completions_log.TEST_ROWS = sys.maxsize  # type: ignore[misc]

    def job(settings: Mapping[str, Any]) -> dict[str, int]:
        counts = {"completions": 0, "held_out": 0}
        held_out = {json.dumps(p) for p in settings["held_out"]}
        outputs = GenerationTask.outputs

        def counting(self: GenerationTask, *args: Any, **options: Any) -> dict[str, Any]:
            out = outputs(self, *args, **options)
            for prompt in out["prompts"] if "completions" in out else ():
                counts["held_out" if json.dumps(prompt) in held_out else "completions"] += 1
            return out

        GenerationTask.outputs = counting  # type: ignore[method-assign]
        code: object = 0
        with contextlib.redirect_stdout(sys.stderr):
            try:
                command_line(
                    ["fit", *settings["flags"], "--output-dir", str(Path(settings["folder"], "run")), "--quiet"]
                )
            except SystemExit as end:
                code = end.code
        if code:
            raise RuntimeError(f"zotune fit: exit code {code}")
        return counts

    run_jobs(sys.argv[1], job)


if __name__ == "__main__":
    main()
