"""Kills runs at random moments, resumes them, and compares their files with those of an uninterrupted run.

    python benchmarks/kills.py                                               # 50 kills per case; restartable
    python benchmarks/kills.py --kills 5 --optimizers mezo --dtypes float32  # what the tests do

A case is an optimizer and a dtype, or a kind of text that `auto` scores by populations. Each attempt is a command
line that tunes the embedded encoder, or stories260K of ../shared, in a process of its own. SIGKILL ends it after some
seconds, or before or after a call somewhere between a forward pass and a checkpoint. `zotune resume` continues until
the run ends; then weights, journal and metrics are compared byte by byte. The moments follow from the case and the
number of the attempt. Scorers outside of zotune note the rows that they are asked for: beyond the rows of the
uninterrupted run, a kill may cost the call that was under way and no more. One JSON object per finished run goes to
--out, one line per case to standard error.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kill_parts import scorers

from zotune.cli import app
from zotune.models import loading
from zotune.models.model_files import find_model
from zotune.runs.plan import embedded_data

OPTIMIZERS: dict[str, tuple[str, ...]] = {
    "mezo": ("lr=1e-4",),
    "zo-adamu": ("lr=1e-4", "eps=1e-3"),
    "mezo-svrg": ("q=3",),
    "sparse-mezo": ("lr=1e-4",),
    "dizo": ("lr=1e-4", "interval=4", "iters=2"),
    "rank-sgd": ("points=4",),
    "auto": ("rows=16",),
}
VARIANTS: dict[str, tuple[str, ...]] = {
    "mezo-one-point": ("mezo", "lr=1e-4", "n=4", "estimate=one-point"),
    "zo-adamu-gradient": ("zo-adamu", "lr=1e-4", "eps=1e-3", "on=gradient"),
    "zo-adamm-rmsgrad": ("zo-adamm", "lr=1e-4", "momentum=rmsgrad"),
    "mezo-svrg-p": ("mezo-svrg", "q=3", "p=2"),
    "sparse-mezo-one-bit": ("sparse-mezo", "lr=1e-4", "mask=constant", "diagnose=3"),
    "sparse-mezo-largest": ("sparse-mezo", "lr=1e-4", "tuned=largest"),
    "dizo-previous": ("dizo", "lr=1e-4", "interval=4", "iters=2", "base=previous", "reinit=false"),
    "dizo-lr": ("dizo", "lr=1e-4", "interval=4", "iters=2", "base=lr"),
}
"""Variants of the papers: an optimizer and its options."""
TEXTS: dict[str, tuple[str, ...]] = {
    "greedy-text": (),
    "sampled-text": ("--temperature", "1"),
    "set-of-texts": ("-O", "sets=true"),
}
"""Populations of `auto` on completions of stories260K: flags of `zotune fit`."""
CASES = [*OPTIMIZERS, *VARIANTS, *TEXTS, *scorers.KINDS]
STORIES = Path(__file__).parents[2] / "shared" / "models" / "stories260K" / "hf"
SCORER = '''"""Share of vowels; of a set with sets=true: different first letters."""
import zotune
from zotune.types import ObjectiveInfo


class Vowels:
    def __init__(self, sets: bool = False) -> None:
        self.sets = sets

    def info(self) -> ObjectiveInfo:
        return ObjectiveInfo(level="set" if self.sets else "sample", fast=True)

    def __call__(self, completions: list[str]) -> list[float] | float:
        if self.sets:
            return len({c.strip()[:1] for c in completions}) / len(completions)
        return [sum(x in "aeiou" for x in c) / max(len(c), 1) for c in completions]
'''
DTYPES = ("float32", "bfloat16")
STEPS, ROWS = 8, {"train": 16, "validation": 6, "test": 6}
COMPARED = ("journal.jsonl", "metrics.jsonl", "model.safetensors", "config.json")
OUTSIDE = "rows that were paid twice"
"""What differs in a run whose scorer was asked for more rows than kills explain."""
PLACES = {
    "in a forward": "torch.nn:Linear.forward",
    "at a journal line": "zotune.search.journal:Journal._write",
    "at a write of weights": "zotune.core.evaluation:Evaluation.run_all",
    "at a row of metrics": "zotune.files:append",
    "at a checkpoint's tensors": "zotune.search.checkpoint:save_file",
    "at a checkpoint's sync": "zotune.files:sync",
    "at an old checkpoint": "zotune.search.checkpoint:_remove",
    "at a small file": "zotune.files:write",
    "at the model's files": "zotune.models.saving:save",
    "at kept scores": "zotune.scoring.pending_scores:PendingScores.keep",
    "in a replay": "zotune.search.engine:Engine.step",
}
TORN, TIME = "in the middle of a journal line", "after a time"


def find(where: str) -> tuple[Any, str]:
    """The object that holds a function, and the function's name there."""
    module, _, path = where.partition(":")
    owner: Any = importlib.import_module(module)
    *parents, name = path.split(".")
    return functools.reduce(getattr, parents, owner), name


def watch(where: str, before: Callable[[Any], None], after: Callable[[Any], None]) -> None:
    """Call `before` and `after` with the first argument of each call."""
    owner, name = find(where)
    inner = getattr(owner, name)

    @functools.wraps(inner)
    def outer(*args: Any, **kw: Any) -> Any:
        before(args[0] if args else None)
        out = inner(*args, **kw)
        after(args[0] if args else None)
        return out

    setattr(owner, name, outer)


def die(_: Any = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(place: str, call: int, late: bool) -> None:
    """Die at the given call (from 1) of a place, before or after it; a torn line has `call` bytes."""
    if place == TORN:
        journal: Any = find(PLACES["at a journal line"])[0]

        def tear(self: Any, line: bytes) -> None:
            self._file.write(line[: call % len(line)])
            die()

        journal._write = tear
        return
    seen = 0

    def at(what: Any) -> None:
        nonlocal seen
        if place != "in a replay" or what.journal.replaying:
            seen += 1
        if seen == call:
            die()

    watch(PLACES[place], *((lambda _: None, at) if late else (at, lambda _: None)))


def count(out: Path) -> None:
    """Write how often each place is called."""
    calls = dict.fromkeys(PLACES, 0)

    def add(place: str, _: Any) -> None:
        calls[place] += 1
        out.write_text(json.dumps(calls))

    for place, where in PLACES.items():
        watch(where, functools.partial(add, place), lambda _: None)


def start(arguments: list[str], log: Path, prepare: Callable[[], None]) -> int:
    """Start the command line in a process of its own. Returns its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        prepare()
        app.main(arguments)
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:  # whatever it is, the exit code says so
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def end(child: int, seconds: float = 1e9) -> int:
    """What the process left with: its exit code, or minus the signal that ended it, SIGKILL after so many seconds."""
    until = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)


class Case:
    """One optimizer in one dtype."""

    def __init__(self, optimizer: str, dtype: str, home: Path, data: Path) -> None:
        self.name, self.home, self.log = f"{optimizer} {dtype}", home, home / "log"
        self.optimizer, self.dtype = optimizer, dtype
        self.scorer: scorers.Scorer | None = None
        if optimizer in scorers.KINDS:
            self.scorer = scorers.Scorer(optimizer, home / "scorer")
            self.fit = self._of_texts(self.scorer.flags)
            return
        if optimizer in TEXTS:
            self.fit = self._of_texts(TEXTS[optimizer])
            return
        name, *given = VARIANTS.get(optimizer) or (optimizer, *OPTIMIZERS[optimizer])
        options = [x for option in given for x in ("--optimizer-arg", option)]
        self.fit = ["fit", "-d", str(data), "-o", "cross-entropy", "--optimizer", name, *options]
        self.fit += ["--dtype", dtype, "--tune", "last:1", "--batch-size", "4", "--max-steps", str(STEPS)]
        self.fit += [
            "--eval-steps",
            "3",
            "--save-steps",
            "2",
            "--compile",
            "off",
            "--max-length",
            "16",
            "--threads",
            "1",
            "-q",
        ]

    def _of_texts(self, flags: tuple[str, ...]) -> list[str]:
        """The command line of a run with populations."""
        prompts, scorer = self.home / "prompts", self.home / "vowels.py"
        prompts.mkdir()
        for split, rows in ROWS.items():
            lines = [json.dumps({"prompt": f"One {split} day, number {i} went"}) + "\n" for i in range(rows)]
            (prompts / f"{split}.jsonl").write_text("".join(lines))
        scorer.write_text(SCORER)
        flags = tuple("--objective-arg" if flag == "-O" else flag for flag in flags)
        flags = flags if "-o" in flags else ("-o", f"{scorer}:Vowels", *flags)
        fit = ["fit", "-m", str(STORIES), "-d", str(prompts), *flags]
        fit += ["--dtype", self.dtype, "--max-steps", str(STEPS), "--eval-steps", "3", "--save-steps", "2"]
        return [*fit, "--max-new-tokens", "6", "--compile", "off", "--threads", "1", "-q"]

    def close(self) -> None:
        if self.scorer:
            self.scorer.close()

    def whole(self) -> None:
        """The run that is left alone; and what can be counted in it."""
        begun = time.monotonic()
        arguments = [*self.fit, "--output-dir", str(self.home / "whole")]
        if end(start(arguments, self.log, functools.partial(count, self.home / "calls.json"))):
            raise SystemExit(self.log.read_text())
        self.seconds = time.monotonic() - begun
        self.paid = self.scorer.paid() if self.scorer else 0
        self.calls: dict[str, int] = json.loads((self.home / "calls.json").read_text())

    def attempt(self, folder: Path, number: int) -> tuple[str, int]:
        """One process, ended at the moment that belongs to its number: where that was, and what it left with."""
        rng = random.Random(f"{self.name} {number}")
        place = rng.choice([TIME, TORN, *PLACES])
        call, late = rng.randint(1, max(self.calls.get(place, 200), 1)), rng.random() < 0.5
        if place == "in a replay":
            call = rng.randint(1, 2)  # no more lines than those since the last checkpoint
        begun = (folder / "config.yaml").exists()
        arguments = ["resume", str(folder), "-q"] if begun else [*self.fit, "--output-dir", str(folder)]
        if place == TIME:
            moment = rng.uniform(0.0, self.seconds)
            return f"{place}, {moment:.2f} s", end(start(arguments, self.log, lambda: None), moment)
        code = end(start(arguments, self.log, lambda: arm(place, call, late)))
        return f"{place}, {'bytes' if place == TORN else 'after call' if late else 'before call'} {call}", code

    def one_run(self, number: int, first: int) -> dict[str, Any]:
        """A run that is killed until it comes to its end. first: the number of its first attempt."""
        folder, moments, left = self.home / f"run{number}", [], -signal.SIGKILL
        if self.scorer:
            self.scorer.forget()
        while left == -signal.SIGKILL:
            where, left = self.attempt(folder, first + len(moments))
            moments.append(where)
        moments.pop()  # the attempt that its moment did not reach
        bad = [n for n in COMPARED if not same(folder / n, self.home / "whole" / n)] if left == 0 else ["exit code"]
        said = self.log.read_text()[-2000:] if left else ""
        paid = self.scorer.paid() if self.scorer else 0
        if paid > self.paid + scorers.BATCH * len(moments):
            bad.append(OUTSIDE)
        if not bad:
            shutil.rmtree(folder)
        found = {"optimizer": self.optimizer, "dtype": self.dtype, "run": number, "kills": moments, "left": left}
        found |= {"paid": [paid, self.paid]} if self.scorer else {}
        return {**found, "differs": bad, **({"said": said} if said else {})}


def same(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and a.read_bytes() == b.read_bytes()


def warm() -> None:
    """Import once, for all attempts, what a run imports."""
    found = find_model(None)
    loading.load(found.source, found.folder, found.head)
    for where in PLACES.values():
        find(where)


def small(folder: Path) -> Path:
    """The first rows of each split of the embedded data."""
    folder.mkdir()
    for split, rows in ROWS.items():
        lines = (embedded_data() / f"{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / f"{split}.jsonl").write_text("".join(lines[:rows]), encoding="utf-8")
    return folder


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="kills for each case, at least")
    parser.add_argument("--optimizers", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--out", type=Path, default=Path("kills.jsonl"))
    args = parser.parse_args(arguments)
    known = [json.loads(x) for x in args.out.read_text().splitlines()] if args.out.exists() else []
    failed = 0
    warm()
    for optimizer, dtype in [(o, d) for d in args.dtypes for o in args.optimizers]:
        done = [x for x in known if (x["optimizer"], x["dtype"]) == (optimizer, dtype)]
        kills = sum(len(x["kills"]) for x in done)
        if kills < args.kills:
            with tempfile.TemporaryDirectory() as home:
                case = Case(optimizer, dtype, Path(home), small(Path(home) / "data"))
                try:
                    case.whole()
                    while kills < args.kills:
                        found = case.one_run(
                            len(done), kills + len(done)
                        )  # each run ended with one that was not killed
                        done.append(found)
                        kills += len(found["kills"])
                        with args.out.open("a") as file:
                            file.write(json.dumps(found) + "\n")
                finally:
                    case.close()
        bad = sum(bool(x["differs"]) for x in done)
        failed += bad
        print(f"{optimizer} {dtype}: {kills} kills in {len(done)} runs, {bad} differ", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
