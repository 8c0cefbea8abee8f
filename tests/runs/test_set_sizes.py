"""What a run reads beside its steps is bounded by its budget: held-out sets, the rows of a probe, the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import zotune
from zotune import config
from zotune.events import Event, Note, RunStarted
from zotune.runs import session, set_sizes
from zotune.runs.plan import plan
from zotune.runs.set_sizes import affordable_rows, draw, drawn_places
from zotune.tasks import row_length


def budget(**options: Any) -> config.RunConfig:
    return config.RunConfig(**options)


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, 1200),
        ({"max_evals": 4}, 300),
        ({"max_evals": 24_000}, 12_000),
        ({"max_evals": 24_000, "batch_size": 4}, 3000),
        ({"max_steps": 2}, 300),
        ({"max_steps": 10_000}, 10_000),
        ({"max_steps": 10_000, "max_evals": 100}, 300),
        ({"max_time": 60.0}, 300),
        ({"max_time": 86_400.0}, 86_400),
        ({"max_score_calls": 64_000}, 2000),
    ],
)
def test_rows_follow_the_budget(options: dict[str, Any], rows: int) -> None:
    assert affordable_rows(budget(**options)) == rows


def test_drawn_rows_keep_their_order_and_follow_the_seed() -> None:
    records = [{"text": str(k)} for k in range(50)]
    few = draw(records, 10, 1, "test rows")
    assert [int(r["text"]) for r in few] == drawn_places(50, 10, 1, "test rows") == sorted(int(r["text"]) for r in few)
    assert len({r["text"] for r in few}) == 10
    assert few != draw(records, 10, 2, "test rows") != draw(records, 10, 2, "validation rows")
    assert draw(records, 50, 1, "test rows") is records


def write(path: Path, count: int) -> Path:
    words = ("refund the bill", "the parcel is late", "screen stays black")
    lines = ({"text": f"{words[k % 3]} {k}", "label": ("money", "parcel", "fault")[k % 3]} for k in range(count))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_sets_of_todays_sizes_are_read_whole(tmp_path: Path) -> None:
    made = plan(config.resolve({"dataset": str(write(tmp_path / "d.jsonl", 600)), "max_evals": 4}, None))
    assert (len(made.splits.validation), len(made.splits.test)) == (60, 60)
    assert made.config.validation_rows is made.config.test_rows is None
    assert not any("drawn" in note for note in made.notes)


def test_a_small_budget_reads_few_held_out_rows_and_records_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_sizes, "FEWEST_ROWS", 20)
    path = str(write(tmp_path / "d.jsonl", 600))
    made = plan(config.resolve({"dataset": path, "max_evals": 4}, None))
    assert (len(made.splits.validation), len(made.splits.test)) == (20, 20)
    assert (made.config.validation_rows, made.config.test_rows) == (20, 20)
    note = "validation set: 20 of 60 rows, test set: 20 of 60 rows are drawn, as the budget affords"
    assert any(note in text for text in made.notes)
    own = {"dataset": path, "max_evals": 4, "validation_rows": 30, "test_rows": 100}
    made = plan(config.resolve(own, None))
    assert (len(made.splits.validation), len(made.splits.test)) == (30, 60)
    whole = plan(config.resolve({"dataset": path, "max_evals": 4}, None), reduces=False)
    assert (len(whole.splits.validation), len(whole.splits.test)) == (60, 60)
    assert whole.splits.digest == made.splits.digest


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits so low that 600 rows are many."""
    for module, name, value in (
        (set_sizes, "FEWEST_ROWS", 12),
        (row_length, "EAGER_ROWS", 100),
        (row_length, "CHECKED_ROWS", 10),
        (session, "CACHED_ROWS", 50),
        (session, "PROBE_ROWS", 40),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.mark.usefixtures("small")
def test_a_run_on_large_data_resumes_with_a_larger_budget_on_the_same_rows(tmp_path: Path) -> None:
    run, events = tmp_path / "run", list[Event]()
    options: dict[str, Any] = {"dataset": str(write(tmp_path / "d.jsonl", 600)), "threads": 1, "batch_size": 4}
    options |= {"output_dir": str(run), "optimizer": "mezo", "learning_rate": 1e-3, "tune": "last:1", "init": "none"}
    zotune.fit(**options, max_steps=2, emit=events.append)
    notes = [e.text for e in events if isinstance(e, Note)]
    assert any("the blocks before them are computed once for each validation row" in text for text in notes)
    assert "the linear probe is fitted on 40 of 480 training rows" in notes
    assert yaml.safe_load((run / "config.yaml").read_text())["test_rows"] == 12
    events.clear()
    result = zotune.fit(**options, max_steps=3, resume="last", emit=events.append)
    started = next(e for e in events if isinstance(e, RunStarted))
    assert (started.training_rows, started.validation_rows, started.test_rows) == (480, 12, 12)
    assert (result.steps, result.before.rows) == (3, 12)


@pytest.mark.usefixtures("small")
def test_a_killed_run_on_large_data_ends_with_the_same_bits(tmp_path: Path) -> None:
    options: dict[str, Any] = {"dataset": str(write(tmp_path / "d.jsonl", 600)), "threads": 1, "batch_size": 4}
    options |= {"optimizer": "mezo", "learning_rate": 1e-3, "tune": "last:1", "max_steps": 4, "eval_steps": 2}
    zotune.fit(**options, output_dir=str(tmp_path / "whole"))
    asked = iter([False, False, True])
    zotune.fit(**options, output_dir=str(tmp_path / "cut"), stop=lambda: next(asked, True))
    zotune.fit(**options, output_dir=str(tmp_path / "cut"), resume="last")
    journals = [(tmp_path / name / "journal.jsonl").read_text().splitlines() for name in ("whole", "cut")]
    assert journals[0] == journals[1]
