"""Ways to adapt the embedded encoder: which weights are tuned and from where, with 16 and 512 rows per class.

    python benchmarks/adaptations.py                     # restartable: finished runs are read from adaptations.jsonl
    python benchmarks/adaptations.py --data sst2 --k 16  # a part of it
    python benchmarks/adaptations.py --only-table

MiniLM with label descriptions on SST-2, SST-5, RTE and CoLA from ../shared if it exists, else on the embedded data.
Zeroth-order runs have 300 evaluations of 8 rows of at most 24 tokens, cross-entropy; `auto` has no options, `mezo` a
learning rate of 1e-3 and ε 1e-2. Adam with gradients tunes all weights for 60 steps of 8 rows; seed 0 chooses its
learning rate. 100 validation rows select the checkpoint with the lowest cross-entropy, 100 more rows decide whether it
is kept, and 300 further rows (RTE: 277) are scored once. The sets are small because the table, with two seeds, takes
two hours of one core; all runs of seed 0 come first. If a class has fewer than 512 rows, each class gets as many as the
smallest one has.

One JSON line per run; the table, in Markdown, at the end.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

import zotune
from zotune.data import presets
from zotune.data.sources import read_splits
from zotune.data.splits import load_splits
from zotune.models.model_files import embedded_model_folder
from zotune.runs.plan import embedded_data

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
DATA = ("sst2", "sst5", "rte", "cola")
KS, SEEDS = (16, 512), 2
FORWARDS, BATCH, TOKENS, SELECT, GUARD, TEST = 300, 8, 24, 100, 100, 300
STEPS, RATES, SHARPNESS = 60, (3e-5, 1e-4, 3e-4), 20.0

MEZO = {"optimizer": "mezo", "learning_rate": 1e-3, "eps": 1e-2}
PROBE = {"init": "linear-probe"}
METHODS: dict[str, dict[str, Any]] = {
    "linear probe": {**PROBE, **MEZO, "learning_rate": 1e-12, "max_evals": 2},  # one step that moves nothing
    "linear probe, then mezo": {**PROBE, **MEZO},
    "linear probe, then auto": PROBE,
    "full (--tune all)": {"tune": "all"},
    "biases (--tune bias)": {"tune": "bias"},
    "last two blocks (--tune last:2)": {"tune": "last:2"},
    "LoRA (--peft lora)": {"peft": "lora"},
}
"""Options of `zotune.fit` beside those that all runs share."""
ZERO, ADAM = "zero-shot", "Adam, back-propagated"


@zotune.objective(direction="maximize", level="set")
def mcc(predictions: list[int], labels: list[int]) -> float:
    """Matthews' correlation of two classes; 0 where only one is predicted."""
    pairs = Counter(zip(map(bool, predictions), map(bool, labels), strict=True))
    tp, tn, fp, fn = pairs[True, True], pairs[False, False], pairs[True, False], pairs[False, True]
    return (tp * tn - fp * fn) / max((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn), 1) ** 0.5


def prepare(name: str, folder: Path) -> dict[str, Any]:
    """A folder of splits with few held-out rows, and the options of zotune that say what the task is.

    To zotune, `test` are the rows that guard what is kept; the test rows lie in a file of their own."""
    source = SHARED / name if name in DATA else embedded_data()
    rows = read_splits(source)
    drawn = random.Random(0).sample(rows["validation"], min(SELECT + GUARD, len(rows["validation"])))
    test = random.Random(0).sample(rows["test"], min(TEST, len(rows["test"])))
    half = len(drawn) // 2
    (folder / "fit").mkdir()
    parts = {"fit/train": rows["train"], "fit/validation": drawn[:half], "fit/test": drawn[half:], "scored": test}
    for part, chosen in parts.items():
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in chosen))
    return {"head": "embedding", "max_length": TOKENS, **({"task": name} if name in DATA else {})}


def most(folder: Path, k: int) -> int:
    """k, or as many as the smallest class has."""
    return min(k, *Counter(str(r["label"]) for r in read_splits(folder / "fit")["train"]).values())


def tuned(task: dict[str, Any], folder: Path, k: int, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    given = {"objective": "cross-entropy", "max_evals": FORWARDS, "compile": "on", "init": "none", **task, **options}
    run = str(folder / "run")
    rows = {"dataset": str(folder / "fit"), "k_per_class": k, "batch_size": BATCH, "seed": seed}
    result = zotune.fit(output_dir=run, eval_steps=FORWARDS // 6, **rows, **given)
    found = {"kept": result.kept, "forwards": result.forwards, "best_step": result.best_step}
    return found | scored(folder, model=run, **task)


def scored(folder: Path, **options: Any) -> dict[str, Any]:
    goals = ["accuracy", mcc] if options.get("task") == "cola" else ["accuracy"]
    found = zotune.evaluate(dataset=str(folder / "scored.jsonl"), objective=goals, **options)
    return {name: [s.value, s.error] for name, s in found.items()}


class Encoder(nn.Module):
    """MiniLM against label descriptions, with gradients."""

    def __init__(self, name: str, labels: list[Any]) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(embedded_model_folder()).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(embedded_model_folder())
        if name in DATA:
            described = {v: x.description for x in presets.load(name).labels for v in x.values}
            words = [described[str(value)] for value in labels]
        else:
            words = [str(value) for value in labels]
        self.labels = [self.ids({"text": word}) for word in words]

    def ids(self, row: dict[str, Any]) -> list[int]:
        """Tokens; of two texts the first is cut."""
        first, second = (row["premise"], row["hypothesis"]) if "premise" in row else (row["text"], "")
        head, tail = ([*self.tokenizer(x, add_special_tokens=False)["input_ids"]] for x in (first, second))
        room = max(TOKENS - 2 - len(tail), 0)
        return [self.tokenizer.cls_token_id, *(head[:room] + tail)[: TOKENS - 2], self.tokenizer.sep_token_id]

    def embed(self, rows: list[list[int]]) -> Tensor:
        ids = nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True)
        mask = nn.utils.rnn.pad_sequence([torch.ones(len(r)) for r in rows], batch_first=True)
        hidden = self.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return nn.functional.normalize((hidden * mask[..., None]).sum(1) / mask.sum(1)[:, None], dim=-1)

    def forward(self, rows: list[list[int]]) -> Tensor:
        """Label scores: (rows, labels)."""
        return SHARPNESS * self.embed(rows) @ self.embed(self.labels).T

    @torch.no_grad()
    def scores(self, rows: list[list[int]]) -> Tensor:
        return torch.cat([self(rows[i : i + 16]) for i in range(0, len(rows), 16)])


def adam(name: str, folder: Path, k: int, seed: int, rate: float) -> dict[str, Any]:
    """A plain fine-tuning loop on the rows that zotune draws; the best of four checkpoints on the selection rows."""
    split = load_splits(folder / "fit", seed=seed, k_per_class=k)
    labels = sorted({r["label"] for r in split.train})
    torch.manual_seed(seed)
    model, gold = Encoder(name, labels), {value: i for i, value in enumerate(labels)}
    test = read_splits(folder / "scored.jsonl")["train"]
    coded = {
        part: ([model.ids(r) for r in rows], torch.tensor([gold[r["label"]] for r in rows]))
        for part, rows in (("train", split.train), ("select", split.validation), ("test", test))
    }
    rng, order = random.Random(seed), []
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    best: dict[str, Any] = {"select": float("inf")}
    for step in range(STEPS + 1):
        if step % (STEPS // 3) == 0:
            loss = float(nn.functional.cross_entropy(model.scores(coded["select"][0]), coded["select"][1]))
            if loss < best["select"]:
                best = {"select": loss, "best_step": step, "predicted": model.scores(coded["test"][0]).argmax(-1)}
        if step == STEPS:
            break
        while len(order) < BATCH:
            order += rng.sample(range(len(split.train)), len(split.train))
        batch, order = order[:BATCH], order[BATCH:]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model([coded["train"][0][i] for i in batch]), coded["train"][1][batch]).backward()
        optimizer.step()
    predicted, truth = best.pop("predicted"), coded["test"][1]
    accuracy = float((predicted == truth).float().mean())
    error = (accuracy * (1 - accuracy) / len(truth)) ** 0.5
    found: dict[str, Any] = {"accuracy": [accuracy, error]}
    if name == "cola":
        found["mcc"] = [mcc(predicted.tolist(), truth.tolist()), None]
    return {**best, "rate": rate, "kept": "tuned" if best["best_step"] else "start", **found}


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


def rate_of(lines: list[dict[str, Any]], name: str, k: int) -> float:
    """The learning rate that did best with seed 0 on the selection rows; 0 where none was tried yet."""
    tried = [x for x in lines if x["key"][:2] == [name, k] and x["key"][2].startswith(ADAM) and x["key"][3] == 0]
    best: float = min(tried, key=lambda x: x["select"])["rate"] if tried else 0.0
    return best


def runs(out: Path, name: str, k: int, seed: int) -> Iterator[tuple[str, Callable[..., dict[str, Any]]]]:
    for method, options in METHODS.items():
        yield method, functools.partial(tuned, options=options)
    for rate in RATES if seed == 0 else [rate_of(read(out), name, k)]:
        yield f"{ADAM} {rate:g}", functools.partial(reference, name=name, rate=rate)


def reference(task: dict[str, Any], folder: Path, k: int, seed: int, name: str, rate: float) -> dict[str, Any]:
    return adam(name, folder, k, seed, rate)


def table(lines: list[dict[str, Any]], name: str) -> None:
    mine = [x for x in lines if x["key"][0] == name]
    ks = sorted({x["key"][1] for x in mine} - {0})
    metrics = ["accuracy", *(["mcc"] if name == "cola" else [])]
    size = {x["key"][1]: x.get("k") for x in mine}
    print(f"\n{name}: {' and '.join(metrics)} on {mine[0]['rows']} test rows\n")
    heads = [f"{m}, {size[k]} a class" for k in ks for m in metrics]
    print(f"| method | {' | '.join(heads)} | kept | CPU seconds a run |\n|---|{'---|' * (len(heads) + 2)}")
    for method in (ZERO, *METHODS, ADAM):
        cells, all_runs = [], []
        for k in ks:
            wanted = 0 if method == ZERO else k
            label = f"{ADAM} {rate_of(lines, name, k):g}" if method == ADAM else method
            found = [x for x in mine if x["key"][1:3] == [wanted, label]]
            all_runs += found
            cells += [_cell([x[m] for x in found]) for m in metrics]
        kept = [x["kept"] == "tuned" for x in all_runs if "kept" in x and method != "linear probe"]
        seconds = f"{statistics.mean(x['cpu'] for x in all_runs):.0f}" if all_runs else ""
        print(f"| {method} | {' | '.join(cells)} | {f'{sum(kept)} of {len(kept)}' if kept else ''} | {seconds} |")


def _cell(found: list[list[float]]) -> str:
    """Mean ± standard error over seeds, then that of the test rows."""
    if not found:
        return "not run yet"
    values = [v for v, _ in found]
    mean = statistics.mean(values)
    errors = [e for _, e in found if e is not None]
    rows = f" ({statistics.mean(errors):.3f})" if errors else ""
    return f"{mean:.3f}{f' ± {statistics.stdev(values) / len(values) ** 0.5:.3f}' if len(values) > 1 else ''}{rows}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("adaptations.jsonl"))
    parser.add_argument("--data", action="append", choices=[*DATA, "support"])
    parser.add_argument("--k", action="append", type=int)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only-table", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.touch()
    names = args.data or [d for d in DATA if (SHARED / d).is_dir()] or ["support"]

    def once(key: list[Any], about: dict[str, Any], run: Callable[..., dict[str, Any]], **given: Any) -> None:
        if any(line["key"] == key for line in read(args.out)):
            return
        began = time.process_time()
        line = {"key": key, **about, **run(**given)}
        line["cpu"] = time.process_time() - began
        with args.out.open("a") as file:
            file.write(json.dumps(line) + "\n")

    for seed in [] if args.only_table else range(args.seeds):
        for name in names:
            with tempfile.TemporaryDirectory() as home:
                folder = Path(home)
                task = prepare(name, folder)
                about = {"rows": len(read_splits(folder / "scored.jsonl")["train"])}
                if seed == 0:
                    once([name, 0, ZERO, 0], about, scored, folder=folder, **task)
                for k in args.k or KS:
                    size = most(folder, k)
                    for method, run in runs(args.out, name, k, seed):
                        with tempfile.TemporaryDirectory(dir=home) as work:
                            place = Path(work)
                            for part in ("fit", "scored.jsonl"):
                                (place / part).symlink_to(folder / part)
                            given = {"task": task, "folder": place, "k": size, "seed": seed}
                            once([name, k, method, seed], {**about, "k": size}, run, **given)
    for name in names:
        table(read(args.out), name)


if __name__ == "__main__":
    main()
