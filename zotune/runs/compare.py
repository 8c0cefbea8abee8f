"""Two models on the same prompts, blind: who answers better, by a person or by a judge, with an interval.

    zotune compare A B -d prompts.jsonl                     on a local page
    zotune compare A B -d prompts.jsonl --terminal          in the terminal
    zotune compare A B -d prompts.jsonl --judge f.py:judge  by a function

Only one of the models is in memory at a time. The folder keeps what they said (`completions.jsonl`), what that was made
of (`compare.json`), the answers (`ratings.sqlite`, a judge's in `judged.jsonl`) and the result (`result.json`): started
again it goes on, generates nothing again and asks nothing twice. Where both say the same, nobody is asked: that is a
tie.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from zotune import config, files, plugins
from zotune.config import RunConfig
from zotune.data.records import Record
from zotune.data.task import TaskSpec
from zotune.errors import ObjectiveError, ObjectiveFailures, OptionError, RunFolderError
from zotune.events import Emit, Note, Phase, ignore
from zotune.humans import console
from zotune.humans.preferences import WinRate, agreement
from zotune.humans.ratings import ALL_ASKED, Question, Ratings
from zotune.humans.store import FILE_NAME
from zotune.models.model_files import ModelFiles
from zotune.runs import evaluate
from zotune.runs.heldout import win_shares
from zotune.runs.model_source import load_model
from zotune.runs.provenance import source_hash
from zotune.scoring import objective_spec
from zotune.scoring.calls import Calls
from zotune.scoring.objective import Objective
from zotune.tasks import build, task_spec
from zotune.tasks.generation import asked_turns, right_texts
from zotune.text import texts

SETTINGS: Final = "compare.json"
COMPLETIONS: Final = "completions.jsonl"
JUDGED: Final = "judged.jsonl"
RESULT: Final = "result.json"
AT_ONCE: Final = 64
"""Pairs that a judge is given at a time; what it says is on disk before it is given more."""

_SAID = ("dataset", "task", "template", "columns", "max_length", "max_new_tokens", "stop")
"""What a run folder remembers that must be the same for both, and can be said by a flag."""
_FLAGS = {"columns": "--column"}
_READ = (".safetensors", ".bin", ".pt", ".json", ".txt", ".model", ".jinja", ".py")
_RECORDS = ("result.json", "env.json")


class Pair(NamedTuple):
    """What was asked and what A and B said."""

    prompt: str
    a: str
    b: str

    @property
    def same(self) -> bool:
        return self.a == self.b

    @property
    def key(self) -> str:
        """A name for the question: equal ones have equal names."""
        return hashlib.blake2b(json.dumps(self).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Comparison:
    """What comparing came to, in rows.

    wins, losses, ties: of A; same: ties because both said the same; skipped: answered by "cannot say"; left: without an
    answer yet. rate: of A, a tie counting a half; low, high: its 95 % interval by Wilson (`WinRate`). agreed,
    repeated: of the questions that a person was shown twice, how many had the same answer. judge: None: a person.
    """

    folder: Path
    a: str
    b: str
    judge: str | None
    rows: int
    wins: int
    losses: int
    ties: int
    same: int
    skipped: int
    left: int
    rate: float
    low: float
    high: float
    agreed: int
    repeated: int

    @property
    def verdict(self) -> str:
        """One sentence: what the interval says."""
        if self.wins + self.losses + self.ties == 0:
            return "Nothing is compared yet."
        if self.low <= 0.5 <= self.high:
            return "The interval holds 1/2: these rows do not tell which is better."
        return f"The interval excludes 1/2: {'A' if self.low > 0.5 else 'B'} is better."

    def json(self) -> dict[str, Any]:
        return {**asdict(self), "folder": str(self.folder), "verdict": self.verdict}


def compare(
    a: str,
    b: str,
    *,
    dataset: str | None = None,
    split: str | None = None,
    judge: str | None = None,
    output_dir: str | None = None,
    ask: Callable[[Path], object] = console.rate,
    emit: Emit = ignore,
    **options: Any,
) -> Comparison:
    """Compare what two models (folders, run folders, adapters or hub ids) say to the prompts of a split: test, else
    validation, else all rows.

    judge: `file.py:function` or `package.module:function`, as the objective `judge` takes it; without it `ask` is
    called with the folder as soon as its questions wait, and returns when the person ends. output_dir: where
    everything is kept; one that holds this comparison is gone on with. options are fields of `RunConfig`: task,
    template, columns, limit, max_new_tokens, stop, temperature, top_p, system, seed, device, …; what both run folders
    remember of their task is taken from them where nothing is said.

    Ctrl-C while answers are given ends the asking: `left` says how many rows are without one. Raises UsageError of all
    kinds before a model is loaded (RunFolderError where the folder holds something else), ObjectiveFailures where the
    judge fails.
    """
    first, second = _sides(config.resolve({"dataset": dataset, **options}, None), a, b)
    if first.dataset is None:
        raise OptionError("compare needs prompts, and no --dataset is given", hint="-d prompts.jsonl")
    task = task_spec.read(first.task)
    _, name, rows = evaluate.held_out(first, split)
    kind = task_spec.kind_of(first, task, rows[0])
    if kind == "classification" and not (first.task or first.labels or "label" in rows[0]):  # nothing says that it is
        kind, task = "generation", replace(task, kind="generation")
    if kind != "generation":
        raise OptionError(
            f"compare is for generated text, and this is a {kind} task: zotune eval scores it",
            hint="--task generation with a --template of its own generates",
        )
    goal = _judge(judge, first) if judge is not None else None
    try:
        asked = [task_spec.resolve(side, task, {name: rows}) for side in (first, second)]
        found, spec, parts = asked[0]
        rows = parts[name]
        if goal is not None:
            goal.check(task_spec.offered(spec, found.head, parts), frozenset(rows[0]))
        made_of = _settings(first, (a, b), asked, name, rows)
        folder, ours = _folder(output_dir, a, b, made_of)
        try:
            pairs = _said_before(folder, len(rows))
            if pairs is None:
                pairs = _keep(folder, made_of, _generate((first, second), (a, b), asked, name, emit))
        except BaseException:  # Ctrl-C too
            if ours:
                with contextlib.suppress(OSError):
                    folder.rmdir()  # nothing was generated: leave nothing behind
            raise
        emit(Note(f"what they said is kept in {folder}"))
        outcomes = _judged(folder, goal, str(judge), rows, pairs, emit) if goal else _asked(folder, pairs, first, ask)
    finally:
        if goal is not None:
            goal.close()
    result = _result(folder, (a, b), judge, pairs, outcomes)
    files.write(folder / RESULT, json.dumps(result.json(), indent=1) + "\n", hint="")
    return result


# -- what is asked -----------------------------------------------------------------------------------------------------


def _sides(cfg: RunConfig, a: str, b: str) -> list[RunConfig]:
    """The configuration of each, with one task for both: as said, or as their run folders remember it. Raises
    OptionError where these remember different ones."""
    own, default = [evaluate.inherit(replace(cfg, model=model)) for model in (a, b)], RunConfig()
    shared: dict[str, Any] = {}
    for name in evaluate.REMEMBERED:
        if name == "head":  # each model has its own
            continue
        said = [getattr(side, name) for side in own if getattr(side, name) != getattr(default, name)]
        if name in _SAID and len(said) == 2 and said[0] != said[1]:
            flag = _FLAGS.get(name, f"--{name.replace('_', '-')}")
            raise OptionError(
                f"{a} was tuned with {flag} {_short(said[0])}, {b} with {_short(said[1])}", hint=f"say {flag}"
            )
        if said:
            shared[name] = said[0]
    return [replace(side, **shared) for side in own]


def _short(value: Any) -> str:
    return f"{value!r:.60}"


def _shown(record: Record, spec: TaskSpec) -> str:
    """A prompt as a person reads it, without what a chat template puts around it: of several messages, what was said
    in turn."""
    if "messages" not in record:
        return spec.template.fill(record, "completion", "", "drop").text.rstrip(" ")
    turns = asked_turns(record)
    if len(turns) == 1:
        return str(turns[0]["content"])
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


# -- the folder --------------------------------------------------------------------------------------------------------


def _settings(
    cfg: RunConfig,
    names: Sequence[str],
    asked: Sequence[tuple[ModelFiles, TaskSpec, task_spec.Parts]],
    split: str,
    rows: Sequence[Record],
) -> dict[str, Any]:
    """Everything that decides what is said."""
    (found, spec, _), (other, like, _) = asked  # a task file has a template for each head
    said = json.dumps(rows, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
    made_of = {
        "A": {"name": names[0], "files": _digest(found)},
        "B": {"name": names[1], "files": _digest(other)},
        "data": {"name": cfg.dataset, "split": split, "rows": len(rows), "digest": _hash(said)},
        "template": spec.template.text,
        "template of B": like.template.text,
        "stop": spec.stop,
        "max_new_tokens": spec.max_new_tokens,
        "temperature": spec.temperature,
        "top_p": spec.top_p,
        "system": spec.system,
        "max_length": task_spec.max_length(cfg, spec),
        "dtype": cfg.dtype,
        "seed": cfg.seed,
    }
    plain: dict[str, Any] = json.loads(json.dumps(made_of))
    return plain


def _digest(found: ModelFiles) -> str:
    """A hash of a model's files, its adapter's too; of a model on the hub its id."""
    h = hashlib.blake2b(digest_size=16)
    for folder in (found.folder, found.adapter):
        if folder is None:
            continue
        for path in sorted(folder.iterdir()):
            if path.suffix in _READ and path.name not in _RECORDS and path.is_file():
                h.update(path.name.encode())
                with path.open("rb") as file:
                    h.update(hashlib.file_digest(file, "blake2b").digest())
    if found.folder is None:
        h.update(found.source.encode())
    return h.hexdigest()


def _hash(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _folder(output_dir: str | None, a: str, b: str, made_of: Mapping[str, Any]) -> tuple[Path, bool]:
    """Where everything is kept, and whether it was made here. Raises RunFolderError where it is taken."""
    if output_dir is None:
        stem, number = f"{_stem(a)}-vs-{_stem(b)}", 1
        while True:
            folder = Path("compare") / f"{stem}-{number}"
            try:
                folder.mkdir(parents=True)
                return folder, True
            except FileExistsError:
                number += 1
    folder = Path(output_dir)
    if not folder.exists():
        folder.mkdir(parents=True)
        return folder, True
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / SETTINGS).is_file()):
        raise RunFolderError(f"{folder} exists already and holds no comparison", hint="another --output-dir")
    if (folder / SETTINGS).is_file():
        _check(folder, made_of)
    return folder, False


def _stem(model: str) -> str:
    """A model's own name, as part of a file's."""
    path = Path(model).expanduser()
    name = path.resolve().name if path.exists() else path.name
    return "".join(c if c.isalnum() or c in "._" else "-" for c in name).strip("-.")[:40] or "model"


def _check(folder: Path, made_of: Mapping[str, Any]) -> None:
    """Refuse a folder that was made of something else."""
    try:
        before = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise TypeError("not a mapping")
    except (OSError, ValueError, TypeError) as error:
        raise RunFolderError(f"{folder / SETTINGS} cannot be read: {error}") from None
    for key, now in made_of.items():
        then = before.get(key)
        if key in ("A", "B", "data") and isinstance(then, dict):
            told = "digest" if key == "data" else "files"
            if then.get(told) == now[told]:
                continue
            then, now = then.get("name"), now["name"]  # whole: paths differ at their ends
        elif then == now:
            continue
        what = {"A": "model A", "B": "model B"}.get(key, key.replace("_", " "))
        shown = f": {then} then, {now} now" if then != now else ": the same name, but it has changed"
        raise RunFolderError(f"{folder} was made with another {what}{shown}", hint="another --output-dir")


def _said_before(folder: Path, rows: int) -> list[Pair] | None:
    """The completions that are kept; None where they are not whole."""
    try:
        lines = (folder / COMPLETIONS).read_text(encoding="utf-8").split("\n")
        found = [json.loads(line) for line in lines if line]
        pairs = [Pair(row["prompt"], row["a"], row["b"]) for row in found]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    whole = len(pairs) == rows and all(isinstance(text, str) for pair in pairs for text in pair)
    return pairs if whole else None


def _keep(folder: Path, made_of: Mapping[str, Any], pairs: Sequence[Pair]) -> list[Pair]:
    """Write completions and what they were made of; the completions as they will be read."""
    files.write(folder / SETTINGS, json.dumps(made_of, indent=1) + "\n", hint="")
    text = "".join(json.dumps(pair._asdict(), ensure_ascii=False) + "\n" for pair in pairs)
    files.write(folder / COMPLETIONS, text, hint="")
    found = _said_before(folder, len(pairs))
    if found is None:
        raise RunFolderError(f"{folder / COMPLETIONS} cannot be read again")
    return found


# -- what they say -----------------------------------------------------------------------------------------------------


def _generate(
    sides: Sequence[RunConfig],
    names: Sequence[str],
    asked: Sequence[tuple[ModelFiles, TaskSpec, task_spec.Parts]],
    split: str,
    emit: Emit,
) -> list[Pair]:
    """What both say to every row, one after the other."""
    said = []
    for letter, name, cfg, (found, spec, parts) in zip("AB", names, sides, asked, strict=True):
        emit(Phase(f"{letter}, {name}, answers {len(parts[split])} prompts"))
        said.append(_completions(cfg, found, spec, parts[split], emit))
        gc.collect()  # a model and its task know each other: only this frees them
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    _, spec, parts = asked[0]
    prompts = [_shown(row, spec) for row in parts[split]]
    return [Pair(*row) for row in zip(prompts, *said, strict=True)]


def _completions(cfg: RunConfig, found: ModelFiles, spec: TaskSpec, rows: Sequence[Record], emit: Emit) -> list[str]:
    """What one model says to every row. It is loaded here and let go of."""
    loaded = load_model(cfg, found, spec)
    task = build.build(loaded, spec, task_spec.max_length(cfg, spec), cfg.eval_batch_size, cfg.seed)
    task.forward.tell = lambda text: emit(Note(text))
    coded = task.rows(rows)
    if coded.cut:
        emit(Note(f"{coded.cut} prompts are longer than {task.max_length} tokens and were cut"))
    return texts(task.outputs(coded, range(len(coded)), frozenset({"completions"}))["completions"])


# -- who is better -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Outcomes:
    """For each row that has an answer 1 where A wins, 0 where B does, ½ for a tie, None where it does not count."""

    won: Mapping[int, float | None]
    agreed: int = 0
    repeated: int = 0


def _asked(folder: Path, pairs: Sequence[Pair], cfg: RunConfig, ask: Callable[[Path], object]) -> _Outcomes:
    """What a person says: of rows that are equal, one is shown."""
    questions = {p.key: Question(p.key, p.prompt, (p.a, p.b), "compare") for p in pairs if not p.same}
    keys = list(questions)
    with Ratings(folder, cfg.seed) as store:
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
        found = store.scores(keys)
        agreed, repeated = agreement(store)
    strengths = {i: found[p.key] for i, p in enumerate(pairs) if p.key in found}
    return _Outcomes({i: None if s is None else s[0] for i, s in strengths.items()}, agreed, repeated)


def _judge(spec: str, cfg: RunConfig) -> Objective:
    """The judge as an objective that orders. Raises PluginError and OptionError."""
    calls = Calls(cfg.score_concurrency, cfg.score_batch_size, cfg.score_timeout, cfg.score_cache)
    return objective_spec.resolve(f"judge:{spec}", {}, calls=calls)


def _judged(
    folder: Path, goal: Objective, judge: str, rows: Sequence[Record], pairs: Sequence[Pair], emit: Emit
) -> _Outcomes:
    """What a judge says, some pairs at a time. What it said before is not asked again, unless its file has changed."""
    path = folder / JUDGED
    who = f"{judge} {_source(judge)}"
    lines = _judged_before(path)
    won: dict[int, float | None] = {line["row"]: line["won"] for line in lines if line["judge"] == who}
    waiting = [i for i, pair in enumerate(pairs) if not pair.same and i not in won]
    if waiting:
        emit(Phase(f"{judge} judges {len(waiting)} pairs"))
    with contextlib.suppress(KeyboardInterrupt):
        for start in range(0, len(waiting), AT_ONCE):
            part = waiting[start : start + AT_ONCE]
            records = [rows[i] for i in part]
            said = [tuple(_told(t, rows[i]) for t in (pairs[i].a, pairs[i].b)) for i in part]
            try:
                found = goal.compare(_inputs(records, [pairs[i].prompt for i in part]), said)
            except ObjectiveError as error:
                raise ObjectiveFailures(str(error)) from error
            new = {i: None if x is None else win_shares(x)[0] for i, x in zip(part, found, strict=True)}
            won |= new
            lines += [{"judge": who, "row": i, "won": x} for i, x in new.items()]
            files.write(path, "".join(json.dumps(line) + "\n" for line in lines), hint="")
    return _Outcomes(won)


def _source(judge: str) -> str:
    """A hash of the file that the judge is in; a file is not run again for it."""
    file = Path(judge.rpartition(":")[0])
    return _hash(file.read_bytes()) if file.suffix == ".py" else source_hash(plugins.by_path(judge, "judge"))


def _judged_before(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not all(line.keys() >= {"judge", "row", "won"} for line in lines):
            raise TypeError("not what a judge said")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}", hint="without it the judge is asked again") from None
    return lines


def _inputs(records: Sequence[Record], prompts: Sequence[str]) -> dict[str, Any]:
    """What a judge may ask for beside the pairs: the columns, and prompts as objectives see them."""
    right = [right_texts(r) for r in records]
    columns = {name: [r.get(name) for r in records] for name in records[0] if name != "completion"}
    asked = [r["prompt"] if isinstance(r.get("prompt"), list) else p for r, p in zip(records, prompts, strict=True)]
    references = [g[0] if len(g) == 1 else g or None for g in right]
    return {**columns, "prompts": asked, "references": references, "batch": list(records)}


def _told(text: str, record: Record) -> Any:
    """A completion as objectives see it: to a list of messages it is one too."""
    return [{"role": "assistant", "content": text}] if isinstance(record.get("prompt"), list) else text


def _result(
    folder: Path, names: Sequence[str], judge: str | None, pairs: Sequence[Pair], outcomes: _Outcomes
) -> Comparison:
    won = list(outcomes.won.values())
    same = sum(pair.same for pair in pairs)
    counts = WinRate.from_counts(won.count(1.0), won.count(0.0), won.count(0.5) + same)
    return Comparison(
        folder=folder,
        a=names[0],
        b=names[1],
        judge=judge,
        rows=len(pairs),
        **asdict(counts),
        same=same,
        skipped=won.count(None),
        left=len(pairs) - same - len(won),
        agreed=outcomes.agreed,
        repeated=outcomes.repeated,
    )


__all__ = ["Comparison", "compare"]
