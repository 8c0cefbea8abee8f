"""vLLM as the engine of a run, beside the loaded model: answers, weights, kills, throughput and a whole run.

    bash scripts/vllm-env.sh                                       # the CPU build of vLLM, once
    build/vllm/bin/python benchmarks/vllm_engine.py --model build/SmolLM2-135M-Instruct.Q4_1.gguf
    build/vllm/bin/python benchmarks/vllm_engine.py --only-table

Restartable: finished parts are read from results/vllm_engine.jsonl. Each part runs in a process of its own.

    answers     greedy answers of the base model in float32: equal to transformers'; likewise each member's
    weights     hashes after updates from given values, in the part's type
    plain       completions a second of vLLM without adapters, end tokens ignored
    step        the same prompts once for each of two partners, with a member for each row, and the update
    loaded      the same step on the loaded model
    run         the JSON run of the README, short, with an engine: values of its members, score before and after
    killed      the run killed by SIGKILL in the middle of a step and resumed

Costs are CPU seconds of the process beside wall seconds: a shared machine changes only the latter.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks" / "results" / "vllm_engine.jsonl"
PARTS = (
    *("answers float32", "weights float32", "weights bfloat16", "plain float32", "step float32", "loaded float32"),
    *("run vllm", "run transformers", "killed vllm"),
)
SIGMA = 0.05
"""Size of members, in units of each matrix's RMS."""


class Case:
    """The model in this process, its prompts, and a population of all its matrices. rows: of a step."""

    def __init__(self, options: argparse.Namespace, dtype: str) -> None:
        import torch

        from benchmarks.head_to_head_parts.smollm2 import biographies
        from zotune.core.space import Space
        from zotune.data.task import TaskSpec
        from zotune.data.templates import Template
        from zotune.models.loading import load
        from zotune.models.trainable import trainable_names
        from zotune.tasks import build

        torch.set_num_threads(options.threads)
        self.dtype, self.rows, self.tokens = dtype, options.rows, options.tokens
        self.folder = options.folder / dtype
        self.loaded = load(str(options.model), None, "causal", device="cpu", dtype=dtype)
        if not (self.folder / "config.json").exists():
            self.loaded.unwrapped.save_pretrained(self.folder)
            self.loaded.tokenizer.save_pretrained(self.folder)
        spec = TaskSpec("generation", Template("{prompt}"), max_new_tokens=self.tokens)
        self.task = build.build(self.loaded, spec, 256, 16)
        names = trainable_names(self.loaded, "matrices")
        self.space = Space(self.loaded.model, 0, lambda t: t.name in names)
        self.shapes = {t.name: (t.shape[0], t.shape[1]) for t in self.space.theta.tensors}
        self.sizes = {n: SIGMA * float(p.detach().float().square().mean().sqrt()) for n, p in self.space.params.items()}
        half = [self._ids(r["prompt"]) for r in biographies(0)["test"][: self.rows // 2]]
        self.prompts = [*half, *half]

    def _ids(self, prompt: Any) -> tuple[int, ...]:
        messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        return tuple(self.loaded.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])

    def started(self) -> Any:
        """vLLM with the same weights."""
        from zotune_engines.vllm_engine import VLLMEngine

        from zotune.inference import EngineModel

        engine = VLLMEngine()
        shapes: dict[str, tuple[int, ...]] = {**self.shapes}
        engine.start(EngineModel(self.folder, self.dtype, shapes, 0, self.space.rounding, self.rows, 256, "cpu"))
        return engine

    def request(self, step: int | None, ends: bool = True) -> Any:
        """All prompts, at the present weights or one member a row. ends: whether end tokens end a completion."""
        from zotune.inference import GenerationRequest, Members
        from zotune.models.generation_settings import end_token_ids

        pairs = self.rows // 2
        members = None if step is None else Members(step, 0, pairs, self.shapes, self.sizes, (), 0, pairs)
        end_ids = tuple(end_token_ids(self.loaded)) if ends else ()
        return GenerationRequest(self.prompts, self.tokens, end_ids, members=members)

    def update(self, step: int) -> Any:
        """The recipe of an update from given values."""
        from zotune.core.recipe import Directions, direction_sum

        pairs = self.rows // 2
        scale = self.space.theta.per(lambda t: self.sizes[t.name])
        weights = [0.02 * ((7 * p + step) % 11 - 5) for p in range(pairs)]
        return self.space.theta + scale * direction_sum(Directions(self.shapes, pairs, step), weights)

    def take(self, step: int, engine: Any = None) -> None:
        """Write an update in this process, and in the engine."""
        from zotune.core.recipe_codec import encode
        from zotune.inference import WeightUpdate

        recipe = self.update(step)
        text = encode(recipe)
        self.space.step = step
        self.space.assign(recipe)
        if engine is not None:
            engine.update(WeightUpdate(step, text))

    def row_wise(self) -> None:
        """Let the loaded model evaluate rows of members."""
        import torch

        from zotune.core.population import RowWise

        with torch.no_grad(), self.task.forward.one_pass():
            forward = lambda: self.task.forced_logits(self.prompts[:4], 2)  # noqa: E731
            self.task.in_process.row_wise = RowWise(self.space, forward, 4)

    def without_ends(self) -> None:
        """No token ends a completion of the loaded model."""
        self.loaded.model.generation_config.eos_token_id = None
        self.loaded.tokenizer.eos_token_id = self.loaded.model.config.eos_token_id = None


def measured(run: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """Seconds of each round, after one that warms up."""
    run()
    out: dict[str, Any] = {"cpu": [], "wall": []}
    for _ in range(rounds):
        cpu, wall = time.process_time(), time.monotonic()
        run()
        out["cpu"].append(round(time.process_time() - cpu, 2))
        out["wall"].append(round(time.monotonic() - wall, 2))
    return out


def answers(options: argparse.Namespace, dtype: str) -> dict[str, Any]:
    case = Case(options, dtype)
    case.row_wise()
    engine, loaded = case.started(), case.task.in_process
    out: dict[str, Any] = {"rows": case.rows, "tokens": case.tokens, "versions": dict(engine.versions())}
    for name, step in (("base", None), ("members", 0), ("members after an update", 1)):
        if step == 1:
            case.take(0, engine)
        ours, theirs = loaded.generate(case.request(step)), engine.generate(case.request(step))
        out[name] = sum(a == b for a, b in zip(ours, theirs, strict=True))
        out[f"{name}: first tokens"] = sum(a[:8] == b[:8] for a, b in zip(ours, theirs, strict=True))
        if step == 0:
            base = loaded.generate(case.request(None))
            out["members that differ from the base"] = sum(a != b for a, b in zip(ours, base, strict=True))
    engine.close()
    return out


def weights(options: argparse.Namespace, dtype: str) -> dict[str, Any]:
    case = Case(options, dtype)
    engine = case.started()
    equal = [engine.weights_hash() == case.space.digest()]
    for step in range(3):
        case.take(step, engine)
        equal.append(engine.weights_hash() == case.space.digest())
    engine.close()
    return {"equal": sum(equal), "of": len(equal), "weights": case.space.numel, "tensors": len(case.shapes)}


def plain(options: argparse.Namespace, dtype: str) -> dict[str, Any]:
    case = Case(options, dtype)
    from zotune_engines import vllm_engine

    for name, value in vllm_engine.ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import vllm

    llm = vllm.LLM(
        str(case.folder), dtype=dtype, max_model_len=256, enforce_eager=True, kv_cache_memory_bytes=2 << 30, seed=0
    )
    settings = vllm.SamplingParams(temperature=0.0, max_tokens=case.tokens, ignore_eos=True, detokenize=False)
    prompts = [vllm.inputs.TokensPrompt(prompt_token_ids=list(p)) for p in case.prompts]

    def generate() -> None:
        llm.reset_prefix_cache()
        llm.generate(prompts, settings, use_tqdm=False)

    return {"completions": len(prompts), "tokens": case.tokens, **measured(generate, options.rounds)}


def step(options: argparse.Namespace, dtype: str) -> dict[str, Any]:
    case, steps = Case(options, dtype), iter(range(100))
    engine = case.started()

    def one() -> None:
        t = next(steps)
        engine.generate(case.request(t, ends=False))
        case.take(t, engine)

    out = {"completions": case.rows, "members": case.rows, "tokens": case.tokens, **measured(one, options.rounds)}
    out["seconds of the engine"] = {n: round(x, 2) for n, x in engine.seconds.items()}
    base = measured(lambda: engine.generate(case.request(None, ends=False)), 1)
    engine.close()
    return out | {"base with adapters on": base}


def loaded(options: argparse.Namespace, dtype: str) -> dict[str, Any]:
    case, steps = Case(options, dtype), iter(range(100))
    case.row_wise()
    case.without_ends()

    def one() -> None:
        t = next(steps)
        case.task.in_process.generate(case.request(t, ends=False))
        case.take(t)

    return {"completions": case.rows, "members": case.rows, "tokens": case.tokens, **measured(one, options.rounds)}


def fit(options: argparse.Namespace, folder: Path, engine: str) -> list[str]:
    """The command of the JSON run: 256 completions in two steps of training."""
    rows = ["--max-steps", "2", "--eval-steps", "2", "--validation-rows", "8", "--test-rows", "16"]
    model = ["-m", str(options.model), "--task", "json", "-o", options.objective]
    own = ["--max-new-tokens", "24", "--dtype", "float32", "--threads", str(options.threads), "--device", "cpu"]
    where = ["--output-dir", str(folder), "--engine", engine]
    return [sys.executable, "-W", "ignore", "-m", "zotune", "fit", *model, *rows, *own, *where]


def summary(folder: Path) -> dict[str, Any]:
    """What a run gave: values of members, hash of the last weights, scores."""
    lines = [json.loads(line)["body"] for line in (folder / "journal.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    values = [v for line in steps for kind, value in line["tape"] if kind == "members" for v in value]
    result = json.loads((folder / "result.json").read_text())
    return {
        "steps": len(steps),
        "values": values,
        "weights": next(line["weights"] for line in lines if line["kind"] == "end"),
        "result": {n: result[n] for n in ("kept", "before", "tuned", "seconds") if n in result},
    }


def run(options: argparse.Namespace, engine: str) -> dict[str, Any]:
    folder = options.folder / f"run-{engine}"
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    subprocess.run(fit(options, folder, engine), check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return summary(folder)


def killed(options: argparse.Namespace, engine: str) -> dict[str, Any]:
    """Kill the run once its first step is recorded, resume it, and compare it with the whole one; then replay it."""
    folder, whole = options.folder / f"killed-{engine}", options.folder / f"run-{engine}"
    subprocess.run(["rm", "-rf", str(folder), str(folder) + "-replayed"], check=True)
    process = subprocess.Popen(fit(options, folder, engine), cwd=ROOT, stdout=subprocess.DEVNULL)
    journal = folder / "journal.jsonl"
    while process.poll() is None and not (journal.exists() and '"kind":"step"' in journal.read_text().replace(" ", "")):
        time.sleep(0.2)
    time.sleep(1.0)
    process.send_signal(signal.SIGKILL)
    code = process.wait()
    zotune = [sys.executable, "-W", "ignore", "-m", "zotune"]
    subprocess.run([*zotune, "resume", str(folder)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    same = [n for n in ("journal.jsonl", "model.safetensors") if (folder / n).read_bytes() == (whole / n).read_bytes()]
    replayed = [*zotune, "replay", str(folder), "--output-dir", str(folder) + "-replayed", "--step", "2"]
    done = subprocess.run(replayed, cwd=ROOT, capture_output=True, text=True)
    return {"exit code of the kill": code, "same bytes": same, "replay without the engine": done.returncode}


KINDS: dict[str, Callable[[argparse.Namespace, str], dict[str, Any]]] = {
    "answers": answers,
    "weights": weights,
    "plain": plain,
    "step": step,
    "loaded": loaded,
    "run": run,
    "killed": killed,
}


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def table() -> None:
    """Print what was measured."""
    for model in dict.fromkeys(row["model"] for row in rows()):
        table_of({row["part"]: row for row in rows() if row["model"] == model})


def table_of(parts: dict[str, dict[str, Any]]) -> None:
    """Print what was measured with one model. parts: the rows by part."""
    for row in parts.values():
        print(json.dumps({k: v for k, v in row.items() if k != "values"}))
    if {"plain float32", "step float32"} <= parts.keys():
        fastest = {name: min(parts[f"{name} float32"]["cpu"]) for name in ("plain", "step")}
        members = parts["step float32"]["members"]
        print(f"a step with {members} members keeps {fastest['plain'] / fastest['step']:.2f} of plain vLLM (CPU time)")
    if {"run vllm", "run transformers"} <= parts.keys():
        a, b = (parts[f"run {name}"]["values"] for name in ("vllm", "transformers"))
        print(f"values of members equal in both engines: {sum(x == y for x, y in zip(a, b, strict=True))} of {len(a)}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, default=ROOT / "build" / "SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "vllm-engine")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--objective", default=f"{ROOT}/examples/json_reward.py:valid_json", help="of the runs")
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--part", help="run one part here and print its row")
    parser.add_argument("--only", default="", help="parts to run, separated by commas")
    parser.add_argument("--only-table", action="store_true")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.part:
        kind, argument = options.part.split()
        print(
            json.dumps({"part": options.part, "model": options.model.stem, **KINDS[kind](options, argument)}),
            flush=True,
        )
        return
    done = {row["part"] for row in rows() if row["model"] == options.model.stem}
    wanted = [p for p in PARTS if p not in done and (not options.only or p in options.only.split(","))]
    for name in [] if options.only_table else wanted:
        given = sys.argv[1:] if arguments is None else list(arguments)
        child = subprocess.run(
            [sys.executable, "-W", "ignore", __file__, *given, "--part", name], stdout=subprocess.PIPE
        )
        lines = [x for x in child.stdout.decode().splitlines() if x.startswith('{"part"')]
        if child.returncode or not lines:
            print(f"{name}: failed with exit code {child.returncode}", file=sys.stderr)
            continue
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a") as file:
            file.write(lines[-1] + "\n")
        print(f"{name}: done", flush=True)
    table()


if __name__ == "__main__":
    main()
