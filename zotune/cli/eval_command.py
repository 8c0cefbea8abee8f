"""`zotune eval`: scores of a model, a run directory or an adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zotune import config
from zotune.cli.command import command
from zotune.cli.shared_flags import json_flag
from zotune.options import like, option

SETTINGS = config.select(
    *("model", "dataset", "head", "task", "template", "labels", "choices", "columns", "system", "limit"),
    *("chat_template", "chat_args", "shots", "calibrate"),
    *("max_length", "max_new_tokens", "stop", "temperature", "top_p", "top_k", "min_p", "repetition_penalty"),
    *("samples_per_prompt", "objective_args", "eval_batch_size"),
    *("score_concurrency", "score_batch_size", "score_timeout", "score_cache", "seed", "device", "dtype"),
    *("attn_implementation", "device_map", "trust_remote_code", "allow_pickle", "model_revision"),
    limit="Score at most this many rows.",
    samples_per_prompt="Completions sampled per prompt, whose scores are averaged.",
    seed="Random seed of demonstrations, sampling and standard errors.",
)


@dataclass(frozen=True)
class EvalFlags:
    """What `eval` takes beside options of a run."""

    objective: tuple[str, ...] = like(
        config.run_options()["objective"],
        default=(),
        help="Objective to score. Repeatable.",
        shown="the task's, or accuracy",
    )
    split: str | None = option(None, "Split to score.", shown="test, else validation", group="Data")
    save_completions: str | None = option(
        None, "Write prompts, completions and scores to this file, a line of JSON each.", metavar="FILE", group="Output"
    )
    as_json: bool = json_flag()


def evaluate(flags: EvalFlags, settings: Mapping[str, Any]) -> None:
    """Score a model, a run directory or an adapter, with a standard error."""
    from zotune.cli.result_lines import score_lines
    from zotune.cli.terminal import Terminal
    from zotune.runs import evaluate as runs

    objectives: list[str | None] = [*flags.objective] or [None]
    with Terminal() as terminal:
        scores = runs.evaluate(
            objective=objectives,
            split=flags.split,
            save_completions=flags.save_completions,
            emit=terminal,
            **settings,
        )
    if flags.as_json:
        lines = [{"objective": name, "value": s.value, "error": s.error, "rows": s.rows} for name, s in scores.items()]
        print(json.dumps(lines if len(lines) > 1 else lines[0]))
        return
    for line in score_lines(scores):
        print(line)


COMMAND = command("eval", evaluate, EvalFlags, SETTINGS)

__all__ = ["COMMAND"]
