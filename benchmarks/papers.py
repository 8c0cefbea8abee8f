"""Experiments of the five papers, repeated: each has its claim, our numbers and a verdict, in docs/papers.md.

    python benchmarks/papers.py                  # all small experiments
    python benchmarks/papers.py functions mlp    # some of them, by name
    python benchmarks/papers.py --list           # names and claims
    python benchmarks/papers.py --only-table     # the page alone, from what is finished
    python benchmarks/papers.py --gpu            # OPT-1.3B and RoBERTa-large too, where a GPU and the models are
    python benchmarks/papers.py --figures DIR    # pictures too: needs matplotlib (`pip install -e .[examples]`)

Restartable: an experiment consists of cells, one run of one method each, and a finished cell is a line of
benchmarks/results/papers.jsonl that is not run again. An experiment whose model, data or GPU is missing is reported and
left out. The small ones take 20 minutes of one core altogether; each one alone seconds to minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the parts are imported as benchmarks.papers_parts

import torch  # noqa: E402

from benchmarks.papers_parts import adamu, dizo, gpu, mezo, prefix, sparse, svrg  # noqa: E402
from benchmarks.papers_parts.experiment import Experiment, Store, finding, page  # noqa: E402

EXPERIMENTS: tuple[Experiment, ...] = (
    *mezo.EXPERIMENTS,
    *prefix.EXPERIMENTS,
    *adamu.EXPERIMENTS,
    *svrg.EXPERIMENTS,
    *sparse.EXPERIMENTS,
    *dizo.EXPERIMENTS,
    *gpu.EXPERIMENTS,
)
RESULTS = ROOT / "benchmarks" / "results" / "papers.jsonl"
PAGE = ROOT / "docs" / "papers.md"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments to run [all small ones]")
    parser.add_argument("--gpu", action="store_true", help="run the experiments of real models too")
    parser.add_argument("--models", type=Path, help="folder with opt-1.3b and roberta-large [the hub's cache]")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of finished cells")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page that is written")
    parser.add_argument("--figures", type=Path, help="folder for pictures")
    parser.add_argument("--list", action="store_true", help="list the experiments")
    parser.add_argument("--only-table", action="store_true", help="run nothing")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.list:
        for e in EXPERIMENTS:
            print(f"{e.name:<24} {e.paper}, {e.place}: {e.claim}")
        return 0
    known = {e.name: e for e in EXPERIMENTS}
    if unknown := [name for name in options.names if name not in known]:
        print(f"unknown experiment {unknown[0]!r}; the experiments are {', '.join(known)}", file=sys.stderr)
        return 2
    if options.models:
        os.environ[gpu.MODELS] = str(options.models.resolve())
    torch.set_num_threads(options.threads)
    chosen = [known[n] for n in options.names] or [e for e in EXPERIMENTS if options.gpu or not e.gpu]
    store = Store(options.out)
    for e in [] if options.only_table else chosen:
        if missing := e.needs():
            print(f"{e.name}: {missing}", flush=True)
            continue
        store.run(e, lambda cell, seconds, e=e: print(f"{e.name}: {cell}, {seconds:.1f} s", flush=True))  # type: ignore[misc]
        if found := finding(e, store):
            print(f"{e.name}: {e.claim}: {found.verdict} ({found.ours})", flush=True)
    options.page.write_text(page(EXPERIMENTS, store), encoding="utf-8")
    print(f"\n{options.page}")
    if options.figures:
        from benchmarks.papers_parts import figures

        figures.draw(store, options.figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
