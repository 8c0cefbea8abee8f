"""Every optimizer on real data with equal evaluations: query and value of the embedded encoder's last block.

    python benchmarks/compare_optimizers.py                # restartable: finished runs are read from compare.jsonl
    python benchmarks/compare_optimizers.py --data sst2    # one data set alone

600 evaluations of 16 rows of at most 24 tokens, cross-entropy over label descriptions. Each optimizer has a grid of
step sizes, mostly three, widened by up to two where the best one lies at an end. The step size that is best with seed 0
on one half of the held-out rows is run with two more seeds; the table shows the other half. Data: SST-2 and CoLA from
../shared if it exists, else the embedded data. The blocks before the last one are computed once. Two rows are no
optimizer: the base model, and the class frequencies of the training rows as the prediction for every row. One JSON line
per run; the tables, in Markdown, at the end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

import zotune
from zotune import plugins
from zotune.data.sources import read_splits
from zotune.models.model_files import embedded_model_folder
from zotune.runs.plan import embedded_data

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
LABELS = {"sst2": ["a terrible film", "a great film"], "cola": ["this is wrong English", "this is correct English"]}
FORWARDS, BATCH, TOKENS, TRAIN, HELD, SEEDS, SHARPNESS = 600, 16, 24, 512, 800, 3, 20.0
STEPS = (3e-4, 1e-3, 3e-3)
SCALED: dict[str, list[dict[str, Any]]] = {
    "auto": [{"cap": x} for x in (0.05, 0.15, 0.5, 1.5, 3.0, 6.0)],
    "random-search": [{"sigma": x} for x in (0.003, 0.01, 0.03)],
    "mezo-adam": [{"lr": x} for x in (1e-4, 3e-4, 1e-3)],
    "zo-adamm": [{"lr": x} for x in (3e-5, 1e-4, 3e-4)],
    "zo-sign": [{"lr": x} for x in (3e-5, 1e-4, 3e-4)],
    "sparse-mezo": [{"lr": 3 * x} for x in STEPS],
    "mezo-svrg": [{"lr1": x, "lr2": x / 3, "q": 10, "full": 128} for x in STEPS],
    "zo-svrg": [{"lr": x, "q": 5, "full": 32} for x in STEPS],
}
"""What the grid is of, where it is not lr alone."""
NONE, FREQUENCIES = "none", "class frequencies"


class LastBlock(nn.Module):
    """The encoder's last block on hidden states that were computed once, mean-pooled, against label descriptions."""

    def __init__(self, texts: list[str], labels: list[str]) -> None:
        super().__init__()
        folder = embedded_model_folder()
        encoder = AutoModel.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self.block = encoder.encoder.layer[-1]
        self.hidden: list[Tensor] = []
        with torch.no_grad():
            for text in [*labels, *texts]:
                ids = tokenizer(text, truncation=True, max_length=TOKENS, return_tensors="pt")
                self.hidden.append(encoder(**ids, output_hidden_states=True).hidden_states[-2][0])
        self.labels = len(labels)

    def forward(self, rows: list[int]) -> Tensor:
        """Label scores: (rows, labels)."""
        chosen = [*range(self.labels), *(self.labels + i for i in rows)]
        states = [self.hidden[i] for i in chosen]
        mask = nn.utils.rnn.pad_sequence([torch.ones(len(h)) for h in states], batch_first=True)
        padded = nn.utils.rnn.pad_sequence(states, batch_first=True)
        out = self.block(padded, attention_mask=(1.0 - mask)[:, None, None, :] * torch.finfo(torch.float32).min)
        out = out[0] if isinstance(out, tuple) else out
        pooled = nn.functional.normalize((out * mask[..., None]).sum(1) / mask.sum(1)[:, None], dim=-1)
        return SHARPNESS * pooled[self.labels :] @ pooled[: self.labels].T


def rows_of(name: str) -> tuple[list[str], list[int], list[str]]:
    """Texts, label indices and label descriptions; the first TRAIN rows are for training."""
    if name in LABELS:
        splits = [[json.loads(x) for x in (SHARED / name / f"{s}.jsonl").open()] for s in ("train", "validation")]
        rows, words = splits[0][:TRAIN] + splits[1][:HELD], LABELS[name]
        return [r["text"] for r in rows], [int(r["label"]) for r in rows], words
    loaded = read_splits(embedded_data())
    rows = loaded["train"][:TRAIN] + loaded["validation"] + loaded["test"]
    words = sorted({r["label"] for r in rows})
    return [r["text"] for r in rows], [words.index(r["label"]) for r in rows], words


def grid(name: str) -> list[dict[str, Any]]:
    return SCALED.get(name) or [{"lr": x} for x in STEPS]


def beyond(options: dict[str, Any], factor: float) -> dict[str, Any]:
    return {k: v * factor if k in ("lr", "lr1", "lr2", "cap", "sigma") else v for k, v in options.items()}


def runs(names: list[str], data: str, out: Path) -> Iterator[tuple[str, dict[str, Any], int]]:
    yield NONE, {}, 0
    yield FREQUENCIES, {}, 0
    for name in names:
        low, *_, high = points = grid(name)
        for options in points:
            yield name, options, 0
        for _ in range(2):
            if (best := chosen(read(out), data, name)) == high:
                high = beyond(high, 3.0)
                yield name, high, 0
            elif best == low:
                low = beyond(low, 1 / 3)
                yield name, low, 0
        for seed in range(1, SEEDS):
            yield name, chosen(read(out), data, name), seed


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


def chosen(lines: list[dict[str, Any]], data: str, name: str) -> dict[str, Any]:
    """The grid's value that did best with seed 0."""
    tried = [x for x in lines if (x["data"], x["optimizer"], x["seed"]) == (data, name, 0)]
    best: dict[str, Any] = min(tried, key=lambda x: x["select"])["options"]
    return best


def run(model: LastBlock, truth: list[int], name: str, options: dict[str, Any], seed: int) -> dict[str, Any]:
    targets = torch.tensor(truth)

    @zotune.objective(direction="minimize")
    def loss(model: nn.Module, batch: list[int]) -> list[float]:
        return nn.functional.cross_entropy(model(batch), targets[batch], reduction="none").tolist()

    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    tuned = name not in (NONE, FREQUENCIES)
    more = {"eps": 1e-2} if tuned and name not in ("auto", "random-search") else {}
    train, held = list(range(TRAIN)), list(range(TRAIN, len(truth)))
    made = options | more | ({"pattern": "query|value"} if name == "dizo" else {})
    tuner = zotune.Tuner(
        model,
        loss,
        name if tuned else "mezo",
        data=train,
        batch_size=BATCH,
        seed=seed,
        optimizer_args=made,
        select=lambda t: "query" in t.name or "value" in t.name,
    )
    began = time.perf_counter()
    forwards = tuner.fit(max_evals=FORWARDS).progress.evaluations if tuned else 0
    seconds = time.perf_counter() - began
    fields = sum(t.numel() * t.element_size() for f in tuner.space.fields.values() for t in f.values())
    found: dict[str, Any] = {"forwards": forwards, "seconds": seconds}
    found["memory"] = (tuner.space.perturb_bytes + fields) / sum(4 * p.numel() for p in tuner.space.params.values())
    frequencies = torch.bincount(targets[train], minlength=model.labels).log()
    for part, rows in (("select", held[::2]), ("judge", held[1::2])):
        with torch.no_grad():
            scores = torch.cat([model(rows[i : i + 64]) for i in range(0, len(rows), 64)])
        scores = frequencies.expand_as(scores) if name == FREQUENCIES else scores
        found[part] = float(nn.functional.cross_entropy(scores, targets[rows]))
        found[f"{part}_accuracy"] = float((scores.argmax(-1) == targets[rows]).float().mean())
    model.load_state_dict(start)
    return found


def rows_in(lines: list[dict[str, Any]], data: str) -> dict[str, dict[str, Any]]:
    """What the tables show of each optimizer, best loss first."""
    shown: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(x["optimizer"] for x in lines if x["data"] == data):
        options = chosen(lines, data, name)
        best = [x for x in lines if (x["data"], x["optimizer"], x["options"]) == (data, name, options)]
        judged = [x["judge"] for x in best]
        error = statistics.stdev(judged) / len(judged) ** 0.5 if len(judged) > 1 else 0.0
        keys = ("judge", "judge_accuracy", "forwards", "memory")
        shown[name] = {k: statistics.mean(x[k] for x in best) for k in keys}
        shown[name]["seconds"] = min(x["seconds"] for x in lines if (x["data"], x["optimizer"]) == (data, name))
        shown[name]["chosen"] = ", ".join(f"{k} {v:g}" for k, v in list(options.items())[:1])
        shown[name]["loss"] = f"{shown[name]['judge']:.3f}" + (f" ± {error:.3f}" if len(judged) > 1 else "")
    return dict(sorted(shown.items(), key=lambda x: float(x[1]["judge"])))


def table(lines: list[dict[str, Any]], data: str) -> None:
    print(f"\n{data}: cross-entropy and accuracy on held-out rows\n")
    print("| optimizer | chosen | cross-entropy | accuracy | forwards | seconds, fastest run | extra memory |")
    print("|---|---|---|---|---|---|---|")
    for name, x in rows_in(lines, data).items():
        print(f"| {name} | {x['chosen']} | {x['loss']} | {x['judge_accuracy']:.3f} | {costs([x])} |")


def costs(rows: list[dict[str, Any]]) -> str:
    forwards, memory = (statistics.mean(x[k] for x in rows) for k in ("forwards", "memory"))
    return f"{forwards:.0f} | {min(x['seconds'] for x in rows):.0f} | {memory:.0f} ×"


def together(lines: list[dict[str, Any]], wanted: list[str]) -> None:
    print("\ncross-entropy on held-out rows; forwards and memory of a run\n")
    print(f"| optimizer | {' | '.join(wanted)} | forwards | seconds, fastest run | extra memory |")
    print("|---|" + "---|" * len(wanted) + "---|---|---|")
    found = [rows_in(lines, data) for data in wanted]
    names = [n for n in found[-1] if all(n in x for x in found)]
    for name in sorted(names, key=lambda n: sum(float(x[n]["judge"]) for x in found)):
        print(f"| {name} | {' | '.join(x[name]['loss'] for x in found)} | {costs([x[name] for x in found])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("compare.jsonl"))
    parser.add_argument("--data", action="append", choices=[*LABELS, "support"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only-table", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.touch()
    names = [n for n in plugins.default().names("optimizer") if "/" not in n]
    wanted = args.data or [d for d in LABELS if (SHARED / d).is_dir()] or ["support"]
    for data in [] if args.only_table else wanted:
        texts, truth, words = rows_of(data)
        model = LastBlock(texts, words)
        for name, options, seed in runs(names, data, args.out):
            key = {"data": data, "optimizer": name, "options": options, "seed": seed}
            if any(all(line[k] == v for k, v in key.items()) for line in read(args.out)):
                continue
            with args.out.open("a") as file:
                file.write(json.dumps(key | run(model, truth, name, options, seed)) + "\n")
    for data in wanted:
        table(read(args.out), data)
    if len(wanted) > 1:
        together(read(args.out), wanted)


if __name__ == "__main__":
    main()
