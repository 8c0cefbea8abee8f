"""The GPU check itself: parts fail alone, rows are kept, and the list agrees with docs/gpu.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_check.py"

pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the documents are not beside the tests")


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--device", "cpu", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def test_parts_that_crash_hang_and_run_out_of_memory_are_rows(tmp_path: Path) -> None:
    done = check("--faults", "--only", "crash,hang,memory-out,logits", "--out", str(tmp_path), "--patience", "0.2")
    assert done.returncode == 1, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    failed = {row["part"]: row["measured"] for row in rows if row["verdict"] == "failed"}
    assert failed["crash"] == "crashed: SIGSEGV"
    assert failed["hang"].startswith("stopped after its ")
    assert failed["memory-out"] == "out of memory"
    table = (tmp_path / "table.md").read_text()
    assert all(f"| {part} |" in table for part in ("crash", "hang", "memory-out"))


def test_a_part_that_runs_exits_with_0_and_keeps_its_rows(tmp_path: Path) -> None:
    done = check("--only", "logits", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["verdict"] for row in rows if row["claim"] != "environment"] == ["holds", "holds"]
    assert done.stdout.endswith((tmp_path / "table.md").read_text() + "\n") or (
        (tmp_path / "table.md").read_text() in done.stdout
    )


def test_an_unknown_part_is_refused_by_name(tmp_path: Path) -> None:
    done = check("--only", "speed", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "unknown part 'speed'; the parts are bits," in done.stderr


def test_every_part_stands_in_the_document_and_every_promise_has_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import gpu_check
    from benchmarks.gpu_parts import PARTS

    promised = {part for _, part in gpu_check.promises()}
    assert promised == {part.name for part in PARTS if not part.fault}
    names = [part.name for part in PARTS]
    assert len(names) == len(set(names))
