"""The papers' experiments: cells are kept, verdicts follow from numbers, and the page is what the command writes."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the documents are not beside the tests")
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="module")
def papers() -> Any:
    from benchmarks import papers

    return papers


def test_names_are_unique_and_cells_of_a_group_agree(papers: Any) -> None:
    names = [e.name for e in papers.EXPERIMENTS]
    assert len(set(names)) == len(names) > 30
    assert {e.paper for e in papers.EXPERIMENTS} >= {"MeZO", "ZO-AdaMU", "MeZO-SVRG", "Sparse-MeZO", "DiZO"}
    assert all(e.cells and e.claim and e.place for e in papers.EXPERIMENTS)
    assert not {e.kept_as for e in papers.EXPERIMENTS if e.gpu} & {e.kept_as for e in papers.EXPERIMENTS if not e.gpu}


def test_the_page_is_what_the_command_writes(papers: Any) -> None:
    from benchmarks.papers_parts.experiment import Store, page

    text = page(papers.EXPERIMENTS, Store(papers.RESULTS))
    assert papers.PAGE.read_text(encoding="utf-8") == text
    assert all(f"| {e.paper} | {e.place} | {e.claim} |" in text for e in papers.EXPERIMENTS)


def test_finished_cells_are_not_run_again_and_a_cut_line_is(tmp_path: Path) -> None:
    from benchmarks.papers_parts.experiment import Experiment, Finding, Store, finding

    ran: list[str] = []

    def cell(name: str) -> Any:
        def run() -> dict[str, Any]:
            ran.append(name)
            return {"value": len(ran)}

        return run

    def judge(cells: Any) -> Finding:
        return Finding(str(sum(x["value"] for x in cells.values())), "holds")

    cells = {"a": cell("a"), "b": cell("b")}
    e = Experiment("try", "paper", "Table 1", "a claim", "setting", cells, judge)
    other = Experiment("again", "paper", "Table 2", "another", "setting", {"a": cell("a")}, judge, group="try")
    path = tmp_path / "papers.jsonl"
    store = Store(path)
    assert finding(e, store) is None
    store.run(e, lambda name, seconds: None)
    assert finding(e, store) == Finding("3", "holds")
    Store(path).run(e, lambda name, seconds: None)
    Store(path).run(other, lambda name, seconds: None)
    assert ran == ["a", "b"], "finished cells, and those of the group, are kept"
    text = path.read_text()
    path.write_text(text[: len(text) - 9])  # a kill in the middle of the last line
    store = Store(path)
    store.run(e, lambda name, seconds: None)
    assert ran == ["a", "b", "b"]
    assert set(Store(path).of(e)) == {"a", "b"}
    with pytest.raises(ValueError, match="a verdict is holds, does not hold"):
        Finding("", "maybe")


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ([1.0, 1.1, 0.9], [2.0, 2.2, 1.9], "holds"),
        ([2.0, 2.2, 1.9], [1.0, 1.1, 0.9], "does not hold"),
        ([1.0, 2.0, 1.5], [1.1, 1.8, 1.6], "cannot be told here"),
        ([1.0], [2.0], "cannot be told here"),
        ([1.0, 1.0], [math.inf, 1.0], "holds"),
        ([math.inf, 1.0], [1.0, 1.0], "does not hold"),
    ],
)
def test_smaller_by_two_standard_errors(a: list[float], b: list[float], verdict: str) -> None:
    from benchmarks.papers_parts.verdicts import is_below

    assert is_below(a, b) == verdict


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ([0.50, 0.51, 0.50], [0.50, 0.50, 0.51], "holds"),
        ([0.60, 0.61, 0.60], [0.50, 0.50, 0.51], "does not hold"),
        ([0.50, 0.60, 0.40], [0.50, 0.50, 0.51], "cannot be told here"),
        ([math.inf, 0.5], [0.5, 0.5], "does not hold"),
    ],
)
def test_equal_within_a_tolerance(a: list[float], b: list[float], verdict: str) -> None:
    from benchmarks.papers_parts.verdicts import is_equal

    assert is_equal(a, b, 0.03) == verdict


def test_an_unknown_experiment_is_refused_and_nothing_is_written(papers: Any, tmp_path: Path, capsys: Any) -> None:
    page, out = tmp_path / "papers.md", tmp_path / "papers.jsonl"
    assert papers.main(["nothing", "--page", str(page), "--out", str(out)]) == 2
    assert "unknown experiment 'nothing'; the experiments are directions," in capsys.readouterr().err
    assert not page.exists()
    assert papers.main(["--only-table", "--page", str(page), "--out", str(out)]) == 0
    assert "not run | cannot be told here |" in page.read_text(encoding="utf-8")


def test_a_small_experiment_runs_from_the_command(papers: Any, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """The perceptron with few queries: the whole way from a cell to the page."""
    from benchmarks.papers_parts import sparse

    monkeypatch.setattr(sparse, "SEEDS", range(2))
    e = next(e for e in papers.EXPERIMENTS if e.name == "step-effect")
    few = {c: run for c, run in e.cells.items() if c.endswith(("seed 0", "seed 1"))}
    quick = {c: (lambda c=c: {"own": 0.1 + 0.001 * len(c), "other": 0.5}) for c in few if not c.startswith("SGD")}
    small = type(e)(e.name, e.paper, e.place, e.claim, e.setting, {**few, **quick}, e.judge, group=e.group)
    monkeypatch.setattr(papers, "EXPERIMENTS", (small,))
    page, out = tmp_path / "papers.md", tmp_path / "papers.jsonl"
    assert papers.main(["step-effect", "--page", str(page), "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert {row["cell"] for row in rows} == set(small.cells)
    sgd = [row for row in rows if row["cell"].startswith("SGD")]
    assert all(0 <= row["own"] <= row["other"] < 0.5 for row in sgd), "true gradients help their batch, and most others"
    assert "| holds |" in page.read_text(encoding="utf-8")
