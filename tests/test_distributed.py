"""Several processes that tune one model, started by torchrun."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import rows, write_jsonl

from zotune import distributed
from zotune.errors import ObjectiveError, UsageError
from zotune.runs.process_split import passes_of, shared_work
from zotune.search.journal import Journal
from zotune.search.population_plan import PopulationPlan

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
    code, victim, err = killed(running, folder, "1")
    assert code != 0
    assert f"process 1 ({socket.gethostname()}, pid {victim}) has ended" in err
    assert 2 <= len(steps(folder)) < 6
    alone(["-m", "zotune", "resume", str(folder)])
    for name in ("journal.jsonl", "metrics.jsonl", "model.safetensors"):
        assert (folder / name).read_bytes() == (single / name).read_bytes(), name


def killed(running: subprocess.Popen[str], folder: Path, rank: str) -> tuple[int, int, str]:
    """Kill one process after two steps of the run in `folder`: exit code, its id, and standard error."""
    try:
        deadline = time.monotonic() + 240
        while not (folder / "journal.jsonl").exists() or len(steps(folder)) < 2:
            assert running.poll() is None, running.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        victim = {dict(_variables(int(c))).get("RANK"): int(c) for c in children}[rank]
        os.kill(victim, signal.SIGKILL)
        _, err = running.communicate(timeout=120)
    finally:
        running.kill()
    return running.returncode, victim, err


def _variables(pid: int) -> list[tuple[str, str]]:
    raw = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return [(name.decode(), value.decode()) for name, _, value in (x.partition(b"=") for x in raw)]


POPULATION = ["--optimizer", "eggroll", "--optimizer-arg", "rows=16", "--eps", "1", "--pass-rows", "4"]
POPULATION += ["--max-steps", "5", "--eval-steps", "5"]
"""Four passes a step."""
LENGTHS = """
import time

def slow(completions, **_):
    time.sleep(0.4)  # time for a kill
    return [float(len(c)) for c in completions]
"""


def test_a_population_has_the_same_bits_in_one_two_and_four_processes(tmp_path: Path, tiny_llama: Path) -> None:
    """Four processes share the passes of each step until the third is killed and named; two go on to the end."""
    for split, count in (("train", 16), ("validation", 2), ("test", 2)):
        write_jsonl(
            tmp_path / f"data/{split}.jsonl", [{"prompt": f"the film {'was ' * (i % 3)}"} for i in range(count)]
        )
    (tmp_path / "lengths.py").write_text(LENGTHS)
    run = ["-m", "zotune", "fit", "-m", str(tiny_llama), "-d", str(tmp_path / "data"), "-o"]
    run += [
        f"{tmp_path}/lengths.py:slow",
        "--max-new-tokens",
        "6",
        "--threads",
        "1",
        "--max-steps",
        "5",
        "--eval-steps",
        "5",
        *POPULATION,
    ]
    folder, other = tmp_path / "many", tmp_path / "one"
    running = launch([*run, "--output-dir", str(folder)], 4)
    code, victim, said = killed(running, folder, "2")
    assert code != 0
    assert "4 processes share the" in said
    host = socket.gethostname()
    assert f"zotune: process 2 ({host}, pid {victim}) has ended (zotune resume continues from the run" in said
    assert said.count("zotune: ") == 1
    code, _, err = launched(["-m", "zotune", "resume", str(folder)])
    assert code == 0, err
    alone([*run, "--output-dir", str(other)])
    assert int(re.findall(r"each step sent (\d+) bytes to the other processes", err)[0]) < 4000
    for name in ("journal.jsonl", "metrics.jsonl", "model.safetensors"):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    lines = steps(folder)
    assert len(lines) == 5
    assert len({json.dumps(line["tape"]) for line in lines}) == 5


FOUR = """
    import json, pathlib, sys, time
    from zotune.distributed import Processes
    from zotune.errors import ZotuneError

    processes, notes = Processes.join(3.0), []
    for odd in (2, 0):
        try:
            processes.check_equal("the weights", "b" if processes.rank == odd else "a")
        except ZotuneError as error:
            notes.append([str(error), error.told])
    processes.gather(lambda: 1)
    if processes.rank == 3:
        time.sleep(6)
    try:
        processes.gather(lambda: processes.rank)
    except ZotuneError as error:
        notes.append([str(error), error.told])
    pathlib.Path(sys.argv[1], str(processes.rank)).write_text(json.dumps(notes))
"""


def test_processes_that_differ_or_hang_are_named(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(FOUR))
    launched([str(tmp_path / "script.py"), str(tmp_path)], 4)
    notes = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(4)]
    host = re.escape(socket.gethostname())
    named = [rf"process {rank} \({host}, pid \d+\)" for rank in range(4)]
    for second, first, hung in notes:
        assert re.match(
            rf"the weights of {named[2]} differ from those of the other processes \(zotune resume", second[0]
        )
        assert re.match(
            rf"the weights of {named[0]} differ from those of the other processes \(zotune verify", first[0]
        )
        assert re.match(rf"{named[3]} did not answer within 3 s \(--process-timeout\)", hung[0])
    assert [n[0][1] for n in notes] == [n[1][1] for n in notes] == [False, True, True, True]
    assert sum(not n[2][1] for n in notes) == 1  # one of them says it


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
    assert mine[7][1].startswith("the weights of process 1 (")
    assert other[7][:2] == mine[7][:2]
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


def test_what_processes_share_in_words() -> None:
    two = distributed.Processes(0, 2)
    assert shared_work(two, None) == "2 processes share the points of each step"
    plan = PopulationPlan(rows=128)
    assert passes_of(plan) == 1
    assert shared_work(two, plan) == (
        "2 processes share the one forward pass of each step's population: "
        "one process is busy (--pass-rows 64 uses all)"
    )
    assert [passes_of(replace(plan, in_pass=n)) for n in (64, 45, 2, 1)] == [2, 3, 64, 64]
    assert shared_work(two, replace(plan, in_pass=64)).endswith("the 2 forward passes of each step's population")
    three = shared_work(distributed.Processes(0, 3), replace(plan, in_pass=64))
    assert three.endswith("2 processes are busy at most (--pass-rows 44 uses all)")
    assert passes_of(replace(plan, in_pass=44)) == 3
    two.split = "passes"
    assert shared_work(two, replace(plan, rows=0)) == "2 processes share the forward passes of each step's population"
