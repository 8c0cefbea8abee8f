"""The options of a run with their types, for editors and type checkers.

Generated from zotune/config.py by `python scripts/fit_options.py`; do not edit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

Number = float | Literal["auto"] | None


class FitOptions(TypedDict, total=False):
    """Options of `zotune.fit`: the flags of `zotune fit` with _ for -."""

    model_revision: str | None
    head: str
    quantize: str | None
    attn_implementation: str | None
    trust_remote_code: bool
    allow_pickle: bool
    columns: Mapping[str, str]
    train_split: str
    eval_split: str | None
    test_split: str | None
    limit: int | None
    train_size: int | None
    k_per_class: int | None
    validation_rows: int | None
    test_rows: int | None
    task: str | None
    template: str | None
    labels: str | Sequence[str] | None
    choices: str | None
    system: str | None
    chat_template: str
    chat_args: Mapping[str, Any]
    shots: int
    calibrate: bool
    max_length: int | None
    max_new_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    samples_per_prompt: int
    tune: str
    embeddings: bool
    new_head: bool
    init: str
    peft: str
    lora_r: int
    lora_alpha: int
    lora_target_modules: Sequence[str]
    prefix_tokens: int
    prefix_init: str
    optimizer_args: Mapping[str, Any]
    learning_rate: Number
    eps: Number
    batch_size: int | None
    stratify: bool | None
    perturb: str
    pass_rows: int | None
    rounding: int
    seed: int
    max_evals: int | None
    max_steps: int | None
    max_time: float | None
    max_score_calls: int | None
    patience: int | None
    max_failures: int
    objective_args: Mapping[str, Any]
    weight: Sequence[float]
    direction: str | None
    smooth: int
    score_concurrency: int | None
    score_batch_size: int | None
    score_timeout: float | None
    score_cache: bool | None
    eval_batch_size: int
    eval_steps: int | None
    max_kl: float | None
    kl_estimate: str
    guard: float
    rollback: float
    interpolate: bool | None
    preflight: bool
    output_dir: str | Path | None
    run_name: str | None
    save_steps: int | None
    save_total_limit: int
    journal_only: bool
    push_to_hub: str | None
    hub_private: bool
    report_to: Sequence[str]
    device: str
    dtype: str
    threads: int | None
    compile: str
    parallel: str
    engine: str
    engine_args: Mapping[str, Any]
    process_timeout: float | None
    device_map: str | None


class ResumeOptions(TypedDict, total=False):
    """Options of `zotune.resume`."""

    max_evals: int | None
    max_steps: int | None
    max_time: float | None
    max_score_calls: int | None
    device: str
    threads: int | None


__all__ = ["FitOptions", "ResumeOptions"]
