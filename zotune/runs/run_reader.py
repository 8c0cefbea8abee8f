"""A run directory as the record that a page shows. What is missing or damaged is left out and named.

Reads files; loads no model and runs no code that a run directory names.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from zotune import lock
from zotune.errors import RunFolderError, ZotuneError
from zotune.pages.run_record import (
    Evaluation,
    Interpolation,
    Predictions,
    RunRecord,
    Scale,
    State,
    Step,
    start_of,
)
from zotune.runs import sample_reader
from zotune.runs.journal_summary import JournalSummary, whole
from zotune.runs.ratings_reader import read_ratings
from zotune.runs.repeat_command import changed_options, fit_command
from zotune.runs.result import Result
from zotune.runs.run_directory import (
    COMPLETIONS,
    CONFIG,
    ENVIRONMENT,
    JOURNAL,
    METRICS,
    PREDICTIONS,
    PROGRESS,
    RESULT,
    check_files,
)
from zotune.runs.summary import decided_by, verdict
from zotune.yaml_file import read_yaml

MOST_SCALE_POINTS: Final = 2000
MOST_PROBLEMS: Final = 5
_HASHES: Final = {
    "base_weights": "base model, tuned tensors",
    "frozen_weights": "base model, other tensors",
    "data": "data",
    "objective_source": "objective's source",
    "optimizer_source": "optimizer's source",
}


def read_run(folder: str | Path, ended: bool = False, texts: bool = True) -> RunRecord:
    """The record of a run directory. ended: whether the run is known to have ended, though its directory is still
    locked. texts: whether outputs for prompts are read. Raises RunFolderError where it holds no run."""
    path = Path(folder)
    if not (path / JOURNAL).is_file() and not (path / CONFIG).is_file():
        raise RunFolderError(f"{path} holds no run", hint="a run directory has a journal.jsonl")
    check_files(path)
    return _Reader(path, str(folder)).record(not ended and lock.is_held(path), texts)


class _Reader:
    """Reads the files of one directory. problems: those that could not be read whole."""

    def __init__(self, path: Path, named: str) -> None:
        self.path, self.named = path, named
        self.problems: list[str] = []

    def record(self, running: bool, texts: bool) -> RunRecord:
        journal = JournalSummary()
        for text in self._texts(JOURNAL):
            journal.take(text)
        header = journal.header
        config, env, result = self._config(), self._object(ENVIRONMENT), self._result()
        spent: dict[str, float] = {}
        marked: dict[int, dict[str, Any]] = {}
        seconds = list[tuple[float, float]]()
        about: dict[str, Any] = {}
        for row in self._rows(PROGRESS):
            if isinstance(row.get("about"), dict):
                about = row["about"]
                continue
            step = whole(row.get("step"))
            if isinstance(row.get("spent"), dict):
                spent = {str(k): float(v) for k, v in row["spent"].items() if isinstance(v, int | float)}
            if isinstance(row.get("seconds"), int | float):
                seconds.append((step, float(row["seconds"])))
            if row.get("evaluated"):
                marked[step] = row
        if not about.get("named", True):  # config.yaml has no name for it
            config = {**config, "objective": about.get("objective")}
        sign = -1.0 if header.get("direction") != "minimize" else 1.0
        evaluations = [_evaluation(line, marked.get(whole(line.get("step")), {})) for line in journal.evaluations]
        predictions = list(self._rows(PREDICTIONS)) if texts else []
        changed = changed_options(config)
        classes = _class_names(header)
        tuned = bool((result or {}).get("best_step"))
        completions = self._rows(COMPLETIONS) if texts else iter(())
        samples = sample_reader.from_completions(completions, (result or {}).get("best_step"))
        return RunRecord(
            folder=self.named,
            name=Path(self.named).resolve().name,
            state=_state(result, running),
            header=header,
            config=config,
            environment={k: v for k, v in env.items() if k != "directory"},
            result=result,
            card=self._sentences(result),
            steps=list(self._steps(sign)),
            evaluations=evaluations,
            interpolations=[
                Interpolation(whole(x.get("step")), x.get("share", 1.0), x.get("score")) for x in journal.between
            ],
            rollbacks=journal.rollbacks,
            dropped=journal.dropped,
            samples=samples or sample_reader.from_predictions(predictions, start_of(header, result), tuned),
            predictions=_predictions(predictions, classes),
            ratings=read_ratings(self.path, self.problems),
            scales=_scales(journal, header, seconds or journal.seconds, evaluations),
            spent=spent,
            calibrated=journal.calibrated,
            hashes=_hashes(header, journal),
            changed=changed,
            about=about,
            command=fit_command(changed) if about.get("named", True) else "",
            written=self._written(),
            problems=self.problems[:MOST_PROBLEMS],
        )

    def _steps(self, sign: float) -> Iterator[Step]:
        for row in self._rows(METRICS):
            if "evaluations" in row or "score" in row or "failed" in row:
                continue
            loss, difference = row.get("loss"), row.get("difference")
            score = None if not isinstance(loss, int | float) else sign * loss
            signal = None if not isinstance(difference, int | float) else difference > 0
            yield Step(whole(row.get("step")), score, signal)

    def _sentences(self, result: Mapping[str, Any] | None) -> list[str]:
        if result is None:
            return []
        read = Result.from_json(result)
        return [verdict(read), decided_by(read)]

    def _result(self) -> dict[str, Any] | None:
        """The content of result.json where it is complete; a newer version's keys are left out."""
        values = self._object(RESULT)
        if not values:
            return None
        known = {name: values[name] for name in values if name == "after" or name in Result.__dataclass_fields__}
        try:
            Result.from_json(known)
        except (TypeError, ValueError, KeyError, AttributeError):
            self.problems.append(f"{RESULT} is no result of a run")
            return None
        return known

    def _config(self) -> dict[str, Any]:
        try:
            return dict(read_yaml(self.path / CONFIG))
        except (ZotuneError, OSError, TypeError, ValueError):
            self.problems.append(f"{CONFIG} cannot be read")
            return {}

    def _object(self, name: str) -> dict[str, Any]:
        try:
            value = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError):
            self.problems.append(f"{name} is no JSON")
            return {}
        return value if isinstance(value, dict) else {}

    def _texts(self, name: str) -> Iterator[bytes]:
        try:
            with (self.path / name).open("rb") as file:
                yield from file
        except FileNotFoundError:
            return
        except OSError as error:
            self.problems.append(f"{name}: {error.strerror}")

    def _rows(self, name: str) -> Iterator[dict[str, Any]]:
        """The objects of a file of JSON lines; a torn last line is left out, other broken ones are reported once."""
        broken = False
        for text in self._texts(name):
            try:
                row = json.loads(text)
            except (ValueError, RecursionError):
                broken = broken or text.endswith(b"\n")
                continue
            if isinstance(row, dict):
                yield row
        if broken:
            self.problems.append(f"{name} has broken lines")

    def _written(self) -> str:
        times = [p.stat().st_mtime for n in (RESULT, METRICS, JOURNAL) if (p := self.path / n).is_file()]
        return datetime.datetime.fromtimestamp(max(times)).strftime("%Y-%m-%d %H:%M") if times else ""


def _state(result: Mapping[str, Any] | None, running: bool) -> State:
    if running:  # a finished run that is resumed still has its old result
        return "running"
    if result is None:
        return "interrupted"
    return "tuned" if result["kept"] == "tuned" else "start"


def _evaluation(line: Mapping[str, Any], marked: Mapping[str, Any]) -> Evaluation:
    """An evaluation of the journal with what progress.jsonl adds."""
    error = marked.get("error", line.get("error"))
    parts = line.get("parts")
    return Evaluation(
        step=whole(line.get("step")),
        score=line.get("score"),
        kl=line.get("drift"),
        error=error if isinstance(error, int | float) else None,
        best=bool(marked.get("best")),
        diverged=str(line.get("ruined", "")),
        failed=str(line.get("failed", "")),
        parts=parts if isinstance(parts, dict) else {},
    )


def _scales(
    journal: JournalSummary,
    header: Mapping[str, Any],
    seconds: list[tuple[float, float]],
    evaluations: list[Evaluation],
) -> dict[str, Scale]:
    """The horizontal axes that the run's files allow."""
    last = max([*(s for s, _ in journal.evals[-1:]), *(e.step for e in evaluations), 1])
    scales = {"steps": Scale([(0, 0), (last, last)])}
    size, samples = header.get("batch_size"), (header.get("task") or {}).get("samples", 1)
    if journal.evals and isinstance(size, int) and isinstance(samples, int):
        each = size * samples
        first = journal.evals[0][1]
        if len(journal.evals) > 1:  # evaluations before the first step belong to its start
            first = max(2 * first - journal.evals[1][1], 0)
        points = [(0, each * first), *((step, each * evals) for step, evals in journal.evals)]
        scales["completions"] = Scale(_thinned(points))
    rising = [(0.0, 0.0)]
    for step, value in seconds:
        if step > rising[-1][0] and value >= rising[-1][1]:
            rising.append((step, value))
        elif step == 0 and len(rising) == 1:
            rising[0] = (0.0, value)
    if len(rising) > 1:
        scales["seconds"] = Scale(_thinned(rising))
    return scales


def _thinned(points: list[Any]) -> list[tuple[float, float]]:
    every = -(-len(points) // MOST_SCALE_POINTS)
    kept = points[::every]
    return [*kept, points[-1]] if kept[-1] != points[-1] else kept


def _class_names(header: Mapping[str, Any]) -> list[str]:
    labels = (header.get("task") or {}).get("labels")
    return [str(x) for x in labels[1]] if isinstance(labels, list) and len(labels) == 2 else []


def _predictions(rows: list[dict[str, Any]], names: list[str]) -> Predictions | None:
    """The classes of the test rows; None where the task has none."""
    complete = [
        r for r in rows if all(isinstance(r.get(k), int) for k in ("label", "predicted_before", "predicted_after"))
    ]
    if not names or not complete:
        return None
    return Predictions(
        names,
        [r["label"] for r in complete],
        [r["predicted_before"] for r in complete],
        [r["predicted_after"] for r in complete],
    )


def _hashes(header: Mapping[str, Any], journal: JournalSummary) -> dict[str, str]:
    hashes = {}
    for key, name in _HASHES.items():
        value = header.get(key)
        if value:
            hashes[name] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    if journal.kept.get("weights"):
        hashes["kept weights"] = str(journal.kept["weights"])
    if journal.last:
        hashes["journal, chained over all lines"] = journal.last
    return hashes


__all__ = ["read_run"]
