"""Several processes that tune one model, started by torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import rows, write_jsonl

from zotune import distributed
from zotune.errors import ObjectiveError, UsageError
from zotune.search.journal import Journal

FIT = ["--optimizer", "mezo", "--lr", "0.05", "--eps", "0.05", "--tune", "all", "--smooth", "0", "--batch-size", "6"]
SLOW = """
import time

def slow(losses, **_):
    time.sleep(0.2)  # time for a kill
    return [-x for x in losses]
"""
SHORT = ["--max-steps", "6", "--eval-steps", "3", "--save-steps", "2", "--threads", "1", "--guard", "0"]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **more}


def launch(arguments: list[str], count: int = 2) -> subprocess.Popen[str]:
    """`torchrun --nproc-per-node count …`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return subprocess.Popen(
        [*command, *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )


def launched(arguments: list[str], count: int = 2) -> tuple[int, str, str]:
    done = launch(arguments, count)
    out, err = done.communicate(timeout=300)
    return done.returncode, out, err


def fit(folder: Path, model: Path, data: Path, *more: str) -> list[str]:
    given = ["-m", "zotune", "fit", "-m", str(model), "-d", str(data), "--output-dir", str(folder)]
    given += ["-o", f"{data}/slow.py:slow"]
    return [*given, *FIT, *SHORT, *more]


def alone(arguments: list[str]) -> None:
    subprocess.run([sys.executable, *arguments], check=True, env=environment(), capture_output=True, timeout=300)


def steps(folder: Path) -> list[dict[str, Any]]:
    return [x for x in Journal.open(folder / "journal.jsonl", read_only=True).lines if x["kind"] == "step"]


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reviews")
    (folder / "slow.py").write_text(SLOW)
    for split, count in (("train", 24), ("validation", 10), ("test", 10)):
        write_jsonl(folder / f"{split}.jsonl", rows(count, len(split)))
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, tiny_classifier: Path, reviews: Path) -> Path:
    folder = tmp_path_factory.mktemp("single") / "run"
    alone(fit(folder, tiny_classifier, reviews))
    return folder


def test_split_points_give_the_bits_of_one_process(
    tmp_path: Path, single: Path, tiny_classifier: Path, reviews: Path
) -> None:
    code, out, err = launched(fit(tmp_path / "run", tiny_classifier, reviews, "--json"))
    assert code == 0, err
    assert "2 processes share the points of each step" in err
    for name in ("journal.jsonl", "metrics.jsonl", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (single / name).read_bytes(), name
    assert json.loads(out)["steps"] == 6  # printed once


def test_split_batches_equal_one_process_up_to_rounding(
    tmp_path: Path, single: Path, tiny_classifier: Path, reviews: Path
) -> None:
    code, _, err = launched(fit(tmp_path / "run", tiny_classifier, reviews, "--parallel", "batch"))
    assert code == 0, err
    assert "2 processes share the rows of each batch" in err
    for ours, theirs in zip(steps(tmp_path / "run"), steps(single), strict=True):
        assert ours["tape"][0][1] == pytest.approx(theirs["tape"][0][1], rel=1e-4)
    header = Journal.open(tmp_path / "run" / "journal.jsonl", read_only=True).header
    assert header["parallel"] == "batch over 2"


def test_a_run_resumes_after_a_killed_process(
    tmp_path: Path, single: Path, tiny_classifier: Path, reviews: Path
) -> None:
    folder = tmp_path / "run"
    running = launch(fit(folder, tiny_classifier, reviews))
    try:
        deadline = time.monotonic() + 240
        while not (folder / "journal.jsonl").exists() or len(steps(folder)) < 2:
            assert running.poll() is None, running.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        ranks = {dict(_variables(int(c))).get("RANK"): int(c) for c in children}
        os.kill(ranks["1"], signal.SIGKILL)
        running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode != 0
    assert 2 <= len(steps(folder)) < 6
    alone(["-m", "zotune", "resume", str(folder)])
    for name in ("journal.jsonl", "metrics.jsonl", "model.safetensors"):
        assert (folder / name).read_bytes() == (single / name).read_bytes(), name


def _variables(pid: int) -> list[tuple[str, str]]:
    raw = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return [(name.decode(), value.decode()) for name, _, value in (x.partition(b"=") for x in raw)]


SCRIPT = """
    import sys, torch
    from zotune.errors import ObjectiveError, ZotuneError
    from zotune.distributed import Processes

    processes = Processes.join()
    rank, notes = processes.rank, []

    def fails():
        raise ObjectiveError("no score", hint="try again")

    def breaks():
        if rank == 1:
            raise ValueError("odd")
        return 1

    def said(act):
        try:
            return act()
        except (ZotuneError, ValueError) as error:
            return [type(error).__name__, str(error), getattr(error, "told", None)]

    notes.append(processes.on_first(lambda: [rank, 0.1 + 0.2, None, "é", float("inf")]))
    notes.append(processes.gather(lambda: rank * 10))
    notes.append(processes.map_points([1, 2, 3], lambda x: x * x))
    processes.split = "batch"
    notes.append(processes.map_points([1, 2, 3], lambda x: x + rank))
    notes.append([processes.any(rank == 1), processes.any(False)])
    notes.append(said(lambda: processes.on_first(fails)))
    notes.append(said(lambda: processes.gather(breaks)))
    notes.append(said(lambda: processes.check_equal("the weights", f"digest {rank}")))
    with processes.local():
        notes.append(processes.gather(lambda: rank))
    before = processes.sent
    processes.gather(lambda: 0.1)
    notes.append(processes.sent - before)
    import json, pathlib
    notes.append(Processes.join().gather(lambda: rank))  # another run of the same script
    pathlib.Path(sys.argv[1], str(rank)).write_text(json.dumps(notes))
"""


def test_exchanges(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    code, _, err = launched([str(tmp_path / "script.py"), str(tmp_path)])
    assert code == 0, err
    mine, other = (json.loads((tmp_path / str(rank)).read_text()) for rank in (0, 1))
    assert mine[:5] == [[0, 0.1 + 0.2, None, "é", float("inf")], [0, 10], [1, 4, 9], [1, 2, 3], [True, False]]
    assert other[:5] == [*mine[:3], [2, 3, 4], [True, False]]
    assert mine[5] == ["ObjectiveError", "no score (try again)", False]
    assert other[5] == ["ObjectiveError", "no score (try again)", True]
    assert mine[6] == ["ZotuneError", "process 1: ValueError: odd", True]
    assert other[6] == ["ValueError", "odd", None]
    assert mine[7][1].startswith("the weights of process 1 differ from those of process 0")
    assert other[7] == mine[7]
    assert [mine[8], other[8]] == [[0], [1]]
    assert mine[9] == other[9] == 8 + len('{"value": 0.1}')
    assert mine[10] == other[10] == [0, 1]


def test_an_error_is_printed_once(tmp_path: Path, tiny_classifier: Path, reviews: Path) -> None:
    code, _, err = launched(fit(tmp_path / "run", tiny_classifier, reviews, "--optimizer-arg", "nothing=1"))
    assert code != 0
    assert err.count("zotune: ") == 1
    assert not (tmp_path / "run").exists()


def test_a_single_process_exchanges_nothing() -> None:
    single = distributed.Processes()
    assert single.alone
    assert single.on_first(lambda: 1) == 1
    assert single.gather(lambda: 1) == [1]
    assert single.map_points([1, 2], str) == ["1", "2"]
    assert single.on_each(dict) == {}
    assert not single.any(False)
    single.check_equal("anything", "x")
    assert single.sent == 0
    with pytest.raises(ObjectiveError):
        single.on_first(_fails)


def _fails() -> None:
    raise ObjectiveError("no")


def test_missing_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="torchrun"):
        distributed.Processes.join()
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UsageError, match="WORLD_SIZE is 'two'"):
        distributed.Processes.join()
