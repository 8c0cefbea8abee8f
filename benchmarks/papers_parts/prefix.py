"""Prefix tuning of stories260K: real tokens or random numbers at the start (MeZO, Table 15), and CMA-ES on the prefix
in the place of BBTv2 (Table 19)."""

from __future__ import annotations

import functools
import importlib.util
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.papers_parts.experiment import Experiment, Finding, Measured
from benchmarks.papers_parts.verdicts import is_below, shown

MODEL = Path(__file__).resolve().parents[3] / "shared" / "models" / "stories260K" / "hf"
SEEDS = range(3)
EVALUATIONS, RATES, STEPS = 300, (1e-2, 1e-1), 50
NAMES = ("Lily", "Tim", "Ben", "Mia", "Tom", "Sara")
ENDS = (("dog", "ball"), ("cat", "toy"), ("bird", "tree"), ("fish", "boat"))


def needs() -> str:
    return "" if MODEL.is_dir() else "the model stories260K is not beside the checkout"


def write_data(folder: Path) -> None:
    """Sentences that a prefix can learn to expect: 72 for training, 24 and 24 for validation and testing."""
    rows = []
    for k in range(120):
        name, (animal, thing) = NAMES[k % 6], ENDS[k // 6 % 4]
        rows.append({"prompt": f"{name} had a {animal}.", "completion": f" The {animal} found a {thing} and was sad."})
    for split, part in (("train", rows[:72]), ("validation", rows[72:96]), ("test", rows[96:])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part), encoding="utf-8")


def session_of(folder: Path, init: str, seed: int) -> Any:
    """A session of zotune with a prefix on the model: its task, batches and test set."""
    from zotune import config
    from zotune.events import ignore
    from zotune.runs.plan import plan
    from zotune.runs.session import Session

    options = {"model": str(MODEL), "dataset": str(folder), "objective": "cross-entropy", "peft": "prefix"}
    return Session(plan(config.resolve({**options, "prefix_init": init, "seed": seed, "threads": 1}, None)), ignore)


def with_gradients(init: str, lr: float, seed: int) -> Measured:
    """Table 15 tunes prefixes with back-propagation: Adam on cross-entropy of the completions."""
    with tempfile.TemporaryDirectory() as home:
        write_data(Path(home))
        session = session_of(Path(home), init, seed)
        model, tokenizer = session.loaded.model, session.loaded.tokenizer
        weights = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(weights, lr=lr)
        rows = [json.loads(x) for x in (Path(home) / "train.jsonl").read_text().splitlines()]
        generator = torch.Generator().manual_seed(seed)
        for _ in range(STEPS):
            optimizer.zero_grad()
            for i in torch.randperm(len(rows), generator=generator)[:8].tolist():
                start = tokenizer(rows[i]["prompt"])["input_ids"]
                ids = torch.tensor([tokenizer(rows[i]["prompt"] + rows[i]["completion"])["input_ids"]])
                labels = ids.clone()
                labels[:, : len(start)] = -100
                (model(input_ids=ids, labels=labels).loss / 8).backward()
            optimizer.step()
        return {"loss": session.test.score()[1].value}


def forward_only(init: str, lr: float, seed: int) -> Measured:
    import zotune

    with tempfile.TemporaryDirectory() as home:
        write_data(Path(home))
        result = zotune.fit(
            model=str(MODEL),
            dataset=home,
            objective="cross-entropy",
            peft="prefix",
            prefix_init=init,
            optimizer="mezo",
            learning_rate=lr,
            eps=1e-1,
            max_evals=EVALUATIONS,
            seed=seed,
            threads=1,
            preflight=False,
            guard=0.0,
            output_dir=str(Path(home) / "run"),
        )
        return {"loss": result.tuned.value}


CMA_DIMENSIONS, CMA_SCALE = 16, 0.5


def cma_search(seed: int) -> Measured:
    """BBT: CMA-ES on 16 numbers that a random matrix projects onto the prefix, on as many evaluations of 16 rows."""
    import cma

    with tempfile.TemporaryDirectory() as home:
        write_data(Path(home))
        session = session_of(Path(home), "tokens", seed)
        (weight,) = (p for p in session.loaded.model.parameters() if p.requires_grad)
        base, generator = weight.detach().clone(), torch.Generator().manual_seed(seed)
        matrix = torch.randn(CMA_DIMENSIONS, base.numel(), generator=generator) * float(base.std())
        search = cma.CMAEvolutionStrategy(CMA_DIMENSIONS * [0.0], CMA_SCALE, {"seed": seed + 1, "verbose": -9})

        def place(z: Any) -> None:
            with torch.no_grad():
                weight.copy_(base + (torch.tensor(z, dtype=base.dtype) @ matrix).view(base.shape))

        spent, step = 0, 0
        while spent + search.popsize <= EVALUATIONS:
            points, values = search.ask(), []
            rows = session.batches.at(step).rows
            for z in points:
                place(z)
                values.append(session.signal.evaluate(rows).value)
            search.tell(points, values)
            spent, step = spent + search.popsize, step + 1
        place(search.result.xfavorite)
        return {"loss": session.test.score()[1].value}


def cells(kind: str, run: Callable[..., Measured]) -> dict[str, Callable[[], Measured]]:
    return {
        f"{kind}, {init}, {lr:g} seed {seed}": functools.partial(run, init, lr, seed)
        for init in ("tokens", "random")
        for lr in RATES
        for seed in SEEDS
    }


def best(cells: Mapping[str, Measured], kind: str, init: str) -> list[float]:
    runs = [[cells[f"{kind}, {init}, {lr:g} seed {seed}"]["loss"] for seed in SEEDS] for lr in RATES]
    return min(runs, key=sum)


def judge(kind: str, cells: Mapping[str, Measured]) -> Finding:
    real, random = best(cells, kind, "tokens"), best(cells, kind, "random")
    return Finding(f"test loss real tokens {shown(real)}, random {shown(random)}", is_below(real, random))


def judge_cma(cells: Mapping[str, Measured]) -> Finding:
    mezo, ours = best(cells, "MeZO", "tokens"), [cells[f"CMA-ES seed {s}"]["loss"] for s in SEEDS]
    return Finding(f"test loss MeZO {shown(mezo)}, CMA-ES {shown(ours)}", is_below(mezo, ours))


def cma_needs() -> str:
    return needs() or ("" if importlib.util.find_spec("cma") else "the package cma is not installed")


SETTING = f"prefix of 5 tokens on stories260K, {EVALUATIONS} evaluations (Adam: {STEPS} steps of 8 rows), 3 seeds"
EXPERIMENTS = (
    Experiment(
        "prefix-adam",
        "MeZO",
        "Table 15",
        "with Adam a prefix of real tokens beats a random one",
        SETTING,
        cells("Adam", with_gradients),
        functools.partial(judge, "Adam"),
        needs,
        group="prefix",
    ),
    Experiment(
        "prefix-mezo",
        "MeZO",
        "Appendix D.5",
        "with MeZO, too",
        SETTING,
        cells("MeZO", forward_only),
        functools.partial(judge, "MeZO"),
        needs,
        group="prefix",
    ),
    Experiment(
        "cma",
        "MeZO",
        "Table 19",
        "MeZO outperforms BBTv2 (here CMA-ES on a random projection of the prefix, as in BBT)",
        SETTING,
        cells("MeZO", forward_only) | {f"CMA-ES seed {s}": functools.partial(cma_search, s) for s in SEEDS},
        judge_cma,
        cma_needs,
        group="prefix",
    ),
)
