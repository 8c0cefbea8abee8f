"""Results as lines of text: of a run, of its estimate and of an evaluation. Knows results; prints nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from zotune.config import RunConfig
from zotune.runs.summary import decided_by, scored, verdict
from zotune.text import duration, number, short_name
from zotune.yaml_file import as_yaml

if TYPE_CHECKING:
    from zotune.runs.result import Result, ScoreEstimate

MUCH_WITHOUT_SIGNAL: Final = 0.3
"""Share of steps without signal from which advice is given."""
Line = tuple[str, str]
"""A text and its style."""


def result_lines(name: str, result: Result) -> list[Line]:
    """The last lines of `zotune fit`. name: the objective."""
    if result.reason == "interrupted":
        return [
            (f"interrupted after step {result.steps}; a checkpoint is written", "yellow"),
            (f"resume with: zotune resume {result.folder}", ""),
        ]
    out = [("", ""), (f"test {short_name(name)} ({result.before.rows} rows, ± one standard error)", "bold")]
    after = "bold green" if result.kept == "tuned" else ""
    if result.base is not None:
        rows = [("base model", result.base, "", ""), ("linear probe", result.before, "", "   where tuning started")]
    else:
        rows = [("base model", result.before, "", "")]
    rows.append(("kept weights", result.after, after, ""))
    if result.probe is not None and result.base is None:
        rows.append(("linear probe", result.probe, "", "   logistic regression on the base model's embeddings"))
    out += [(f"  {title:<13} {scored(s)}{parts_text(s.parts)}{note}", style) for title, s, style, note in rows]
    out += [(verdict(result), ""), (decided_by(result), "")]
    interpolated = "" if result.best_share == 1.0 else f" (interpolated, {result.best_share:g} of the distance)"
    dropped = f", {result.dropped} dropped" if result.dropped else ""
    out.append(
        (
            f"{result.steps:,} steps{dropped}, {result.forwards:,} evaluations in {result.seconds:.0f} s; "
            f"best step {result.best_step:,}{interpolated}; {100 * result.zero_share:.0f} % of steps without signal",
            "",
        )
    )
    if result.optimizer:
        out.append((f"optimizer: {', '.join(f'{name} {value:.3g}' for name, value in result.optimizer.items())}", ""))
    if result.zero_share > MUCH_WITHOUT_SIGNAL:
        out.append(("  many steps without signal: try --eps auto, a larger --batch-size or a smoother objective", ""))
    scoring = result.scoring
    if scoring.share > 0.1 or any(scoring.faults.values()):
        faults = "".join(f", {count} {name}" for name, count in scoring.faults.items() if count)
        cached = f", {scoring.known} from the cache" if scoring.known else ""
        out.append(
            (f"scoring: {100 * scoring.share:.0f} % of the time, {scoring.rows} rows scored{cached}{faults}", "")
        )
    if result.kept == "start" and result.best_step:
        step = f"zotune export {result.folder} --step {result.best_step} -o DIRECTORY"
        out.append((f"export the tuned weights all the same: {step}", ""))
    if result.files:
        out.append((f"kept weights: {result.folder}", ""))
    else:
        out.append((f"no model is written; rebuild the weights with: zotune replay {result.folder} -o DIRECTORY", ""))
    return out


def report_line(path: Path) -> str:
    """The last line of `zotune fit`: where its page is."""
    return f"report: {path}"


def estimate_lines(estimate: Mapping[str, Any]) -> list[str]:
    """The lines of `zotune fit --dry-run`."""
    default = asdict(RunConfig())
    changed = {k: v for k, v in estimate["config"].items() if v != default.get(k)}
    memory = estimate["memory_mb"]
    task = f"classes: {', '.join(estimate['classes'])}" if estimate["classes"] else f"task: {estimate['task']}"
    return [
        "options other than the defaults:" if changed else "options: all have their defaults",
        *(f"  {line}" for line in as_yaml(changed).splitlines() if changed),
        f"model: {estimate['model']} ({estimate['head']} head), {estimate['tuned_weights']:,} weights tuned",
        task,
        f"estimate: {estimate['steps']:,} steps, {estimate['evaluations']:,} evaluations, "
        f"about {_estimated(estimate['seconds'])}",
        f"memory: model {memory['model']:.1f} MB, perturbation {memory['probing']:.1f} MB, "
        f"optimizer {memory['fields']:.1f} MB; peak about {memory['peak']:,.0f} MB",
    ]


def _estimated(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 90 else duration(seconds)


def score_lines(scores: Mapping[str, ScoreEstimate]) -> list[str]:
    """The lines of `zotune eval`, with the numbers in one column."""
    width = max(map(len, scores), default=0)
    return [f"{name:<{width}} {scored(s)} ({s.rows} rows)" for name, s in scores.items()]


def parts_text(parts: Any) -> str:
    """The values of the objectives in a sum; empty where there is one objective."""
    return f" ({', '.join(f'{name} {number(value)}' for name, value in parts)})" if parts else ""


__all__ = ["estimate_lines", "report_line", "result_lines", "score_lines"]
