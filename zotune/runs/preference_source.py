"""Who compares the pairs of a comparison: a person, or a judge, with all earlier verdicts kept in its folder.

Knows pairs, ratings and judges; knows no models.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from zotune import files, plugins
from zotune.config import RunConfig
from zotune.data.records import Record
from zotune.errors import ObjectiveError, ObjectiveFailures, RunFolderError
from zotune.events import Emit, Note, Phase
from zotune.humans.preferences import agreement
from zotune.humans.ratings import ALL_ASKED, Question, Ratings
from zotune.humans.store import FILE_NAME
from zotune.runs.comparison_folder import Pair, hash_of
from zotune.runs.heldout import win_shares
from zotune.runs.provenance import source_hash
from zotune.scoring import objective_spec
from zotune.scoring.calls import Calls
from zotune.scoring.objective import Objective
from zotune.tasks.generation import reference_completions

VERDICTS: Final = "judged.jsonl"
PAIRS_A_CALL: Final = 64
"""Pairs that a judge gets in one call; its verdicts are written before the next call."""


@dataclass(frozen=True)
class Preferences:
    """Verdicts by row: 1 where A wins, 0 where B wins, ½ for a tie, None for a row that was skipped or is undecided.

    agreed, repeated: of the questions that a person saw twice, how many got the same answer.
    """

    by_row: Mapping[int, float | None]
    agreed: int = 0
    repeated: int = 0


def ask_person(folder: Path, pairs: Sequence[Pair], seed: int, ask: Callable[[Path], object]) -> Preferences:
    """Call `ask` with the folder while questions are open; Ctrl-C ends it. Pairs with equal completions are not asked,
    and equal pairs once. Raises RunFolderError where the folder has questions of another comparison."""
    questions = {p.key: Question(p.key, p.prompt, (p.a, p.b), "compare") for p in pairs if not p.same}
    keys = list(questions)
    with Ratings(folder, seed) as store:
        store.ask(list(questions.values()))
        progress = store.progress()
        if progress.answered + progress.open > len(keys):
            raise RunFolderError(
                f"{folder / FILE_NAME} holds questions about other completions", hint="another --output-dir"
            )
        store.set_planned(len(keys))
        store.set_state(ALL_ASKED)
        if store.count_open(keys):
            with contextlib.suppress(KeyboardInterrupt):
                ask(folder)
        scores = store.scores(keys)
        agreed, repeated = agreement(store)
    strengths = {i: scores[p.key] for i, p in enumerate(pairs) if p.key in scores}
    return Preferences({i: None if s is None else s[0] for i, s in strengths.items()}, agreed, repeated)


def judge_of(spec: str, config: RunConfig) -> Objective:
    """A judge as an objective that compares. Raises PluginError and OptionError."""
    calls = Calls(config.score_concurrency, config.score_batch_size, config.score_timeout, config.score_cache)
    return objective_spec.resolve(f"judge:{spec}", config.objective_args, calls=calls)


def ask_judge(
    folder: Path,
    judge: Objective,
    name: str,
    options: Mapping[str, Any],
    rows: Sequence[Record],
    pairs: Sequence[Pair],
    emit: Emit,
) -> Preferences:
    """Ask a judge about all pairs with different completions; Ctrl-C ends it. Recorded verdicts are used again, unless
    the judge's file or options have changed. Raises ObjectiveFailures and RunFolderError."""
    path = folder / VERDICTS
    identity = " ".join([name, _source(name), *([json.dumps(options, sort_keys=True)] if options else [])])
    lines = _read_verdicts(path)
    by_row: dict[int, float | None] = {line["row"]: line["won"] for line in lines if line["judge"] == identity}
    open_rows = [i for i, pair in enumerate(pairs) if not pair.same and i not in by_row]
    if open_rows:
        emit(Phase(f"{name} compares {len(open_rows)} pairs"))
    with contextlib.suppress(KeyboardInterrupt):
        for start in range(0, len(open_rows), PAIRS_A_CALL):
            part = open_rows[start : start + PAIRS_A_CALL]
            records = [rows[i] for i in part]
            candidates = [tuple(_message(text, rows[i]) for text in (pairs[i].a, pairs[i].b)) for i in part]
            try:
                strengths = judge.compare(_inputs(records, [pairs[i].prompt for i in part]), candidates)
            except ObjectiveError as error:
                raise ObjectiveFailures(str(error)) from error
            new = {i: None if x is None else win_shares(x)[0] for i, x in zip(part, strengths, strict=True)}
            by_row |= new
            lines += [{"judge": identity, "row": i, "won": x} for i, x in new.items()]
            files.write(path, "".join(json.dumps(line) + "\n" for line in lines), hint="")
    if counts := ", ".join(f"{count} {what}" for what, count in judge.faults().items() if count):
        emit(Note(f"judge: {counts}"))
    return Preferences(by_row)


def _source(judge: str) -> str:
    """A hash of the judge's file, which is not executed for it; "" for a server."""
    if judge.startswith(("http://", "https://")):
        return ""
    file = Path(judge.rpartition(":")[0])
    return hash_of(file.read_bytes()) if file.suffix == ".py" else source_hash(plugins.by_path(judge, "judge"))


def _read_verdicts(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not all(line.keys() >= {"judge", "row", "won"} for line in lines):
            raise TypeError("a line is not a verdict")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}", hint="delete it to ask the judge again") from None
    return lines


def _inputs(records: Sequence[Record], prompts: Sequence[str]) -> dict[str, Any]:
    """The inputs of a judge beside the candidates: columns, prompts and references as other objectives get them."""
    answers = [reference_completions(r) for r in records]
    columns = {name: [r.get(name) for r in records] for name in records[0] if name != "completion"}
    chats = [r["prompt"] if isinstance(r.get("prompt"), list) else p for r, p in zip(records, prompts, strict=True)]
    references = [a[0] if len(a) == 1 else a or None for a in answers]
    return {**columns, "prompts": chats, "references": references, "batch": list(records)}


def _message(text: str, record: Record) -> Any:
    """A completion as objectives get it: a list of messages where the prompt is one."""
    return [{"role": "assistant", "content": text}] if isinstance(record.get("prompt"), list) else text


__all__ = ["PAIRS_A_CALL", "Preferences", "ask_judge", "ask_person", "judge_of"]
