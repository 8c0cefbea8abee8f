"""Queries of single rows are counted beside evaluations of batches, in runs, replays and resumed runs alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zotune import plugins
from zotune.bench.workbench import ROWS
from zotune.search import checkpoint
from zotune.search.journal import Journal
from zotune.testing import Bench

STEPS, SIZE = 6, 5


def bench(name: str, journal: Journal | None = None, **options: Any) -> Bench:
    optimizer = plugins.default().find("optimizer", name).load()(**options)
    made = Bench(optimizer, steps=STEPS, journal=journal)
    made.batches.size = SIZE
    return made


def expected(name: str) -> int:
    """Rows that are scored: 24 rows, batches of 5."""
    if name == "mezo":
        return STEPS * 2 * SIZE
    if name == "mezo-svrg":  # q = 2: three full steps, three on a batch
        return 3 * 2 * ROWS + 3 * 4 * SIZE
    return 3 * 2 * ROWS + 3 * 4 * SIZE  # zo-svrg, row by row


@pytest.mark.parametrize("name", ["mezo", "mezo-svrg", "zo-svrg"])
def test_queries_count_rows_at_points(name: str, tmp_path: Path) -> None:
    run = bench(name).run()
    assert run.oracle.queries == expected(name)
    replayed = bench(name, Journal.of(run.journal.lines)).run()
    assert (replayed.calls, replayed.oracle.queries) == (0, run.oracle.queries)

    half = bench(name)
    half.engine.hooks.stop = lambda: half.engine.progress.step == 3
    half.engine.store = checkpoint.FolderStore(tmp_path, 1, base=dict)
    half.engine.run()
    rest = bench(name, Journal.of(half.journal.lines, 0))
    (step,) = checkpoint.checkpoints(tmp_path)
    rest.engine.restore(checkpoint.read(tmp_path / f"checkpoint-{step}", rest.space))
    rest.run()
    assert (rest.oracle.evaluations, rest.oracle.queries) == (run.oracle.evaluations, run.oracle.queries)


def test_a_checkpoint_without_queries_counts_whole_batches(tmp_path: Path) -> None:
    run = bench("mezo")
    run.engine.store = checkpoint.FolderStore(tmp_path, 1, base=dict)
    run.run()
    meta = checkpoint.read_meta(tmp_path / f"checkpoint-{STEPS}")
    del meta["progress"]["queries"]
    again = bench("mezo", Journal.of(run.journal.lines, 0))
    again.engine.restore(meta)
    assert again.oracle.queries == expected("mezo")
