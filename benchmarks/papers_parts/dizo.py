"""DiZO (arXiv:2502.03304): distances by layer, the ablations of Figure 5, and the other bases of Table 9."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import zotune
from benchmarks.papers_parts import digits
from benchmarks.papers_parts.experiment import Experiment, Finding, Measured
from benchmarks.papers_parts.verdicts import is_below, is_equal, shown
from zotune.events import Event, StepDone

SEEDS = range(3)
QUERIES = 12_800
RATES = (1e-3, 3e-3)
DIZO: dict[str, Any] = {"pattern": "weight", "interval": 10, "iters": 5}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "MeZO": ("mezo", {}),
    "DiZO": ("dizo", DIZO),
    "no re-initialisation": ("dizo", {**DIZO, "reinit": False}),
    "no clipping": ("dizo", {**DIZO, "clip": False}),
    "learning rates": ("dizo", {**DIZO, "base": "lr"}),
    "θ_{t−1}": ("dizo", {**DIZO, "base": "previous"}),
}


def run(method: str, lr: float, seed: int) -> Measured:
    name, options = METHODS[method]
    return digits.tune(name, {"lr": lr, "eps": 1e-3, **options}, seed, queries=QUERIES, fine_tune=True)


def best(cells: Mapping[str, Measured], method: str, key: str = "accuracy") -> list[float]:
    """Values by seed at the learning rate of the smallest mean training loss."""
    runs = [[cells[f"{method} {lr:g} seed {s}"] for s in SEEDS] for lr in RATES]
    return [x[key] for x in min(runs, key=lambda r: sum(x["loss"] for x in r))]


def table(cells: Mapping[str, Measured]) -> tuple[str, ...]:
    methods = [m for m in METHODS if any(c.startswith(f"{m} ") for c in cells)]
    lines = ["| method | training loss | test accuracy |", "|---|---|---|"]
    lines += [f"| {m} | {shown(best(cells, m, 'loss'))} | {shown(best(cells, m))} |" for m in methods]
    return tuple(lines)


def told(cells: Mapping[str, Measured], methods: tuple[str, ...]) -> str:
    return "accuracy " + ", ".join(f"{m} {shown(best(cells, m))}" for m in methods)


def judge_dizo(cells: Mapping[str, Measured]) -> Finding:
    verdict = is_below(best(cells, "MeZO"), best(cells, "DiZO"))
    return Finding(told(cells, ("MeZO", "DiZO")), verdict, table(cells))


def judge_ablation(method: str, cells: Mapping[str, Measured]) -> Finding:
    return Finding(told(cells, ("MeZO", "DiZO", method)), is_below(best(cells, method), best(cells, "DiZO")))


def judge_bases(cells: Mapping[str, Measured]) -> Finding:
    """Both are close to MeZO and below DiZO."""
    others = ("learning rates", "θ_{t−1}")
    near = [is_equal(best(cells, m), best(cells, "MeZO"), 0.02) for m in others]
    below = [is_below(best(cells, m), best(cells, "DiZO")) for m in others]
    verdicts = {*near, *below}
    verdict = "does not hold" if "does not hold" in verdicts else "cannot be told here"
    return Finding(told(cells, ("MeZO", "DiZO", *others)), "holds" if verdicts == {"holds"} else verdict)


def experiment(name: str, place: str, claim: str, methods: tuple[str, ...], judge: Any) -> Experiment:
    cells = {f"{m} {lr:g} seed {s}": functools.partial(run, m, lr, s) for m in methods for lr in RATES for s in SEEDS}
    setting = "perceptron, moved digits, 12,800 queries, 3 seeds, all matrices projected every 10 steps"
    return Experiment(name, "DiZO", place, claim, setting, cells, judge, group="dizo")


EVALUATIONS, ENCODER_SEEDS = 200, range(2)
ENCODER: dict[str, tuple[str, dict[str, Any]]] = {
    "MeZO": ("mezo", {"lr": 1e-4, "eps": 1e-2}),
    "DiZO": ("dizo", {"lr": 1e-4, "eps": 1e-2, "interval": 10, "iters": 5, "gamma_lr": 2.0}),
    "SGD": ("", {}),
}


def distances(method: str, seed: int) -> Measured:
    """Distance of each query and value matrix of the embedded encoder from its first weights, and the loss."""
    from transformers import AutoModel, AutoTokenizer

    from zotune.models.model_files import embedded_model_folder
    from zotune.runs.plan import embedded_data

    rows = [json.loads(x) for x in (Path(embedded_data()) / "train.jsonl").open(encoding="utf-8")][:256]
    names = sorted({r["label"] for r in rows})
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_folder())
    model = AutoModel.from_pretrained(embedded_model_folder()).eval()
    chosen = {n: p for n, p in model.named_parameters() if n.endswith(("query.weight", "value.weight"))}
    start = {n: p.detach().clone() for n, p in chosen.items()}
    path: dict[str, list[float]] = {n: [0.0] for n in chosen}

    def encode(texts: list[str]) -> Tensor:
        ids = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
        mask = ids["attention_mask"][..., None]
        hidden = model(**ids).last_hidden_state
        return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    def entropy(batch: list[dict[str, str]]) -> Tensor:
        scores = 20 * encode([r["text"] for r in batch]) @ encode(names).T
        return nn.functional.cross_entropy(scores, torch.tensor([names.index(r["label"]) for r in batch]))

    @zotune.objective(direction="minimize")
    def loss(model: nn.Module, batch: list[dict[str, str]]) -> float:
        return float(entropy(batch))

    def seen(event: Event) -> None:
        if isinstance(event, StepDone):
            for n, p in chosen.items():
                path[n].append(float((p.detach() - start[n]).norm()))

    name, options = ENCODER[method]
    tuner = zotune.Tuner(
        model,
        loss,
        name or "mezo",
        data=rows,
        batch_size=16,
        select=lambda t: t.name.endswith(("query.weight", "value.weight")),
        seed=seed,
        optimizer_args=options,
        emit=seen,
    )
    before = tuner.score(rows)
    if name:
        tuner.fit(max_evals=EVALUATIONS, eval_steps=10**9)
    else:
        generator = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.SGD(chosen.values(), lr=0.1)
        for _ in range(50):
            batch = [rows[i] for i in torch.randperm(len(rows), generator=generator)[:16].tolist()]
            optimizer.zero_grad()
            entropy(batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            seen(StepDone(0, 0))
    ends = {n: x[-1] for n, x in path.items()}
    thinned = {n: [round(v, 4) for v in x[:: max(len(x) // 50, 1)]] for n, x in path.items()}
    ratio = max(ends.values()) / min(ends.values())
    return {"before": before, "loss": tuner.score(rows), "ratio": ratio, "path": thinned}


def ratios(cells: Mapping[str, Measured], method: str) -> list[float]:
    return [cells[f"{method} seed {s}"]["ratio"] for s in ENCODER_SEEDS]


def judge_uniform(cells: Mapping[str, Measured]) -> Finding:
    ours = ", ".join(f"{m} {sum(ratios(cells, m)) / len(ENCODER_SEEDS):.2f}" for m in ENCODER)
    mezo, sgd, dizo = (min(ratios(cells, m)) for m in ("MeZO", "SGD", "DiZO"))
    verdict = "holds" if max(ratios(cells, "MeZO")) < 1.1 and sgd > 1.5 and dizo > mezo else "does not hold"
    losses = [f"{m} {shown([cells[f'{m} seed {s}']['loss'] for s in ENCODER_SEEDS])}" for m in ENCODER]
    lines = ["| method | largest / smallest distance | loss |", "|---|---|---|"]
    lines += [
        f"| {m} | {shown(ratios(cells, m), 2)} | {text.removeprefix(m)[1:]} |"
        for m, text in zip(ENCODER, losses, strict=True)
    ]
    return Finding(f"largest over smallest distance: {ours}", verdict, tuple(lines))


ABLATED = ("MeZO", "DiZO", "no re-initialisation", "no clipping")
EXPERIMENTS = (
    Experiment(
        "divergence",
        "DiZO",
        "Figure 1",
        "MeZO moves all layers equally far; SGD and DiZO do not",
        f"query and value of the embedded encoder, {EVALUATIONS} evaluations, 2 seeds",
        {f"{m} seed {s}": functools.partial(distances, m, s) for m in ENCODER for s in ENCODER_SEEDS},
        judge_uniform,
    ),
    experiment("dizo", "Tables 2, 3", "DiZO is more accurate than MeZO", ("MeZO", "DiZO"), judge_dizo),
    experiment(
        "no-reinit",
        "Figure 5",
        "without re-initialisation accuracy drops",
        ABLATED,
        functools.partial(judge_ablation, "no re-initialisation"),
    ),
    experiment(
        "no-clip",
        "Figure 5",
        "without clipping accuracy drops",
        ABLATED,
        functools.partial(judge_ablation, "no clipping"),
    ),
    experiment(
        "bases",
        "Table 9",
        "projecting learning rates or from θ_{t−1} is close to MeZO, below DiZO",
        ("MeZO", "DiZO", "learning rates", "θ_{t−1}"),
        judge_bases,
    ),
)
