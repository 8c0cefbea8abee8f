"""Run directories under damage: changed, truncated, swapped, locked, full, deleted.

Either the bits equal those of an undisturbed run, or a one-line error names the problem.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_fit import options

import zotune
from zotune import files as atomic
from zotune import lock
from zotune.cli.app import main
from zotune.errors import OptionError, RunFolderError, ZotuneError
from zotune.events import Event, Note, StepDone
from zotune.runs import provenance, replay, verify
from zotune.search import checkpoint
from zotune.search.journal import Journal, has_header


def made(tiny_encoder: Path, toy: Path, tmp_path: Path, **more: Any) -> dict[str, Any]:
    usual = {"optimizer": "mezo", "learning_rate": 1e-3, "eval_steps": 2, "objective": "cross-entropy", "guard": 0.0}
    return {**options(tiny_encoder, toy, tmp_path), **usual, **more}


def files(folder: Path) -> tuple[bytes, ...]:
    return tuple((folder / n).read_bytes() for n in ("journal.jsonl", "metrics.jsonl", "model.safetensors"))


def differing(folder: Path) -> list[str]:
    return [c.name for c in verify.verify(folder) if c.ok is False]


def test_a_larger_budget_continues_a_run_and_replays(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    usual = made(tiny_encoder, toy, tmp_path, optimizer="zo-adamu", eps=1e-2)
    zotune.fit(**usual)
    for steps in (9, 11):
        result = zotune.fit(**{**usual, "max_steps": steps}, resume="last")
        assert result.steps == steps
    lines = Journal.open(tmp_path / "out/journal.jsonl", read_only=True).lines
    assert [x["steps"] for x in lines if x["kind"] == "budget"] == [9, 11]
    assert sum(x["kind"] == "end" for x in lines) == 3
    assert differing(tmp_path / "out") == []
    replayed = replay.replay(tmp_path / "out", tmp_path / "again")
    assert replayed.confirmed
    assert (
        load_file(tmp_path / "again/model.safetensors").keys() == load_file(tmp_path / "out/model.safetensors").keys()
    )
    for name in checkpoint.checkpoints(tmp_path / "out"):  # the journal alone gives the same weights
        shutil.rmtree(tmp_path / f"out/checkpoint-{name}")
    before = files(tmp_path / "out")
    zotune.fit(**{**usual, "max_steps": 11}, resume="last")
    assert files(tmp_path / "out") == before


def test_replay_gives_every_step_without_a_forward_pass(
    tiny_encoder: Path, toy: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    zotune.fit(**made(tiny_encoder, toy, tmp_path, save_steps=1, save_total_limit=9))
    from transformers import AutoModel

    monkeypatch.setattr(torch.nn.Linear, "forward", lambda *_: pytest.fail("a forward pass"))
    for number in range(7):
        replayed = replay.replay(tmp_path / "out", tmp_path / f"step{number}", step=number)
        made_by = load_file(tmp_path / f"step{number}/model.safetensors")
        saved = (
            (tmp_path / f"out/checkpoint-{number}/tuned.safetensors") if number else tiny_encoder / "model.safetensors"
        )
        assert all(torch.equal(x, made_by[name]) for name, x in load_file(saved).items())
        assert replayed.step == number
    AutoModel.from_pretrained(tmp_path / "step3")
    for bad in (-1, 7):
        with pytest.raises(OptionError, match=rf"--step {bad}: the journal has steps 0 to 6"):
            replay.replay(tmp_path / "out", tmp_path / "no", step=bad)
    with pytest.raises(RunFolderError, match="step3 exists already"):
        replay.replay(tmp_path / "out", tmp_path / "step3")
    assert not (tmp_path / "no").exists()


def test_replay_refuses_another_base_model(tiny_encoder: Path, tiny_llama: Path, toy: Path, tmp_path: Path) -> None:
    zotune.fit(**made(tiny_encoder, toy, tmp_path))
    with pytest.raises(ZotuneError, match="llama"):
        replay.replay(tmp_path / "out", tmp_path / "no", base=str(tiny_llama))
    shutil.copytree(tiny_encoder, tmp_path / "base")
    from safetensors.torch import save_file

    tensors = load_file(tmp_path / "base/model.safetensors")
    next(iter(tensors.values())).view(-1)[0] += 1.0
    save_file(tensors, tmp_path / "base/model.safetensors", {"format": "pt"})
    with pytest.raises(RunFolderError, match="are not the run's initial weights"):
        replay.replay(tmp_path / "out", tmp_path / "no", base=str(tmp_path / "base"))
    moved = shutil.copytree(tiny_encoder, tmp_path / "moved")
    assert replay.replay(tmp_path / "out", tmp_path / "yes", base=str(moved)).confirmed
    assert not (tmp_path / "no").exists()


def test_replay_runs_no_file_that_only_the_journal_names(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from dataclasses import dataclass\n"
        "print('it ran')\n"
        "@dataclass(frozen=True)\n"
        "class Own:\n"
        "    lr: float = 1e-3\n"
        "    forwards = 1\n"
        "    def init(self, theta): return None\n"
        "    def step(self, theta, oracle, state, at):\n"
        "        (loss,) = oracle(theta)\n"
        "        return theta - self.lr * loss * at.normal(), None\n"
    )
    rule = f"{tmp_path / 'own.py'}:Own"
    usual = {**made(tiny_encoder, toy, tmp_path), "optimizer": rule, "learning_rate": 1e-2}
    zotune.fit(**usual)
    with pytest.raises(OptionError, match=r"own.py:Own \(--optimizer .*own.py:Own allows running this file\)"):
        replay.replay(tmp_path / "out", tmp_path / "again")
    assert replay.replay(tmp_path / "out", tmp_path / "again", optimizer=rule).confirmed


@pytest.mark.parametrize("optimizer", ["mezo", "dizo", "sparse-mezo", "zo-muon", "mezo-svrg"])
def test_threads_and_compiling_change_no_replayed_bit(
    optimizer: str, tiny_encoder: Path, toy: Path, tmp_path: Path
) -> None:
    few = {"dizo": {"interval": 2, "iters": 1}, "mezo-svrg": {"q": 3}}.get(optimizer, {})
    usual = made(tiny_encoder, toy, tmp_path, optimizer=optimizer, optimizer_args=few, tune="last:1", max_steps=4)
    del usual["learning_rate"]
    zotune.fit(**usual)
    threads, replays = torch.get_num_threads(), []
    try:
        for number, (count, compile) in enumerate([(1, "off"), (2, "off")] + [(2, "on")] * (optimizer == "mezo")):
            out = tmp_path / str(number)
            replays.append(replay.replay(tmp_path / "out", out, step=4, threads=count, compile=compile))
    finally:
        torch.set_num_threads(threads)
    assert len({f.weights for f in replays}) == 1
    assert all(f.confirmed for f in replays)
    assert {f.portable for f in replays} == {optimizer != "zo-muon"}


PAGE = ("report.html", "progress.jsonl", "predictions.jsonl")


def test_journal_only_is_small_and_replays(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    usual = made(tiny_encoder, toy, tmp_path, batch_size=2, max_steps=1000, learning_rate=1e-5)
    del usual["eval_steps"]
    result = zotune.fit(**usual, journal_only=True)
    folder = tmp_path / "out"
    left = {p.name for p in folder.iterdir()}
    assert left == {"journal.jsonl", "metrics.jsonl", "config.yaml", "env.json", "result.json", "README.md", *PAGE}
    assert sum((folder / n).stat().st_size for n in ("journal.jsonl", "metrics.jsonl", "config.yaml")) < 200_000
    assert result.files == {}
    from transformers import AutoModel

    assert replay.replay(folder, tmp_path / "model").confirmed
    AutoModel.from_pretrained(tmp_path / "model")
    assert [(c.name, c.ok) for c in verify.verify(folder)] == [("journal", True), ("model", None)]


@pytest.mark.parametrize("rule", [{"optimizer": "zo-adamu", "eps": 1e-2}, {"optimizer": "dizo", "tune": "last:1"}])
def test_journal_only_can_be_stopped_anywhere(rule: Any, tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    usual = {**made(tiny_encoder, toy, tmp_path), **rule, "journal_only": True, "eval_steps": 3}
    zotune.fit(**{**usual, "output_dir": str(tmp_path / "whole")})
    asked = iter([False, False, True, False, True])
    for _ in range(2):
        stopped = zotune.fit(**usual, stop=lambda: next(asked), resume="last" if (tmp_path / "out").exists() else None)
        assert stopped.reason == "interrupted"
        assert not list((tmp_path / "out").glob("checkpoint-*"))
    assert zotune.fit(**usual, resume="last").reason == "done"
    for name in ("journal.jsonl", "metrics.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert replay.replay(tmp_path / "out", tmp_path / "model").confirmed


def test_verify_checks_the_files_of_a_sentence_encoder(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    """The pooling of a sentence encoder is configured in a folder of its own, as in the embedded encoder."""
    encoder = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    (encoder / "1_Pooling").mkdir()
    pooling = json.dumps({"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True})
    (encoder / "1_Pooling" / "config.json").write_text(pooling)
    modules = [{"path": "", "type": "x.Transformer"}, {"path": "1_Pooling", "type": "x.Pooling"}]
    (encoder / "modules.json").write_text(json.dumps(modules))
    zotune.fit(**made(encoder, toy, tmp_path))
    good = tmp_path / "out"
    assert "1_Pooling/config.json" in [c.name for c in verify.verify(good) if c.ok]
    assert differing(good) == []
    (good / "1_Pooling" / "config.json").write_text("{}")
    assert differing(good)[0] == "1_Pooling/config.json"
    shutil.rmtree(good / "1_Pooling")
    (good / "1_Pooling").symlink_to(encoder / "1_Pooling")
    (check,) = [c for c in verify.verify(good) if c.name == "1_Pooling/config.json"]
    assert (check.ok, check.detail) == (False, "is not a file of this directory")


def test_verify_names_what_differs(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    zotune.fit(**made(tiny_encoder, toy, tmp_path))
    good = tmp_path / "out"
    assert differing(good) == []
    raw = (good / "model.safetensors").read_bytes()

    def spoiled(change: Callable[[Path], object]) -> list[str]:
        folder = shutil.copytree(good, tmp_path / "spoiled", dirs_exist_ok=True)
        change(folder)
        names = differing(folder)
        shutil.rmtree(folder)
        return names

    assert spoiled(lambda f: (f / "config.json").write_text("{}")) == ["config.json", "weights"]
    assert spoiled(lambda f: (f / "model.safetensors").write_bytes(raw[:-3])) == ["model.safetensors", "weights"]
    assert spoiled(lambda f: (f / "tokenizer.json").unlink())[0] == "tokenizer.json"
    assert spoiled(lambda f: (f / "checkpoint-6/fields.safetensors").write_bytes(b"")) == ["checkpoint-6"]
    assert spoiled(lambda f: shutil.copytree(f / "checkpoint-4", f / "checkpoint-6", dirs_exist_ok=True)) == [
        "checkpoint-6"
    ]
    journal = (good / "journal.jsonl").read_bytes()
    assert spoiled(lambda f: (f / "journal.jsonl").write_bytes(journal.replace(b'"seed":0', b'"seed":1'))) == [
        "journal"
    ]

    def other_weights(folder: Path) -> None:
        from safetensors.torch import save_file

        tensors = load_file(folder / "model.safetensors")
        tensors["encoder.layer.0.attention.self.query.bias"][0] += 1.0
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        result = json.loads((folder / "result.json").read_text())
        result["files"]["model.safetensors"] = atomic.checksum(folder / "model.safetensors")
        (folder / "result.json").write_text(json.dumps(result))

    assert spoiled(other_weights) == ["weights"]


def test_other_versions_are_named_and_force_is_recorded(
    tiny_encoder: Path, toy: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    usual = made(tiny_encoder, toy, tmp_path)
    zotune.fit(**usual)
    before = files(tmp_path / "out")
    really = provenance.environment()
    other = {**really, "versions": {**really["versions"], "torch": "1.0"}}
    monkeypatch.setattr(provenance, "environment", lambda: other)
    with pytest.raises(RunFolderError, match=r"torch \(versions\): .* in the run, '1.0' now \(--force resumes"):
        zotune.fit(**usual, resume="last")
    assert files(tmp_path / "out") == before
    notes: list[str] = []
    emit = lambda event: notes.append(event.text) if isinstance(event, Note) else None  # noqa: E731
    for _ in range(2):  # the change is recorded once
        zotune.fit(**usual, resume="last", force=True, emit=emit)
    (line,) = [x for x in Journal.open(tmp_path / "out/journal.jsonl", read_only=True).lines if x["kind"] == "override"]
    assert line["changed"]["versions"][1]["torch"] == "1.0"
    assert sum("resumes with another torch" in text for text in notes) == 1
    with pytest.raises(RunFolderError, match="another seed: 0 in the run, 5 now"):
        zotune.fit(**{**usual, "seed": 5}, resume="last", force=True)


def test_a_run_killed_before_its_header_starts_from_the_beginning(
    tiny_encoder: Path, toy: Path, tmp_path: Path
) -> None:
    usual = made(tiny_encoder, toy, tmp_path)
    zotune.fit(**usual)
    whole = files(tmp_path / "out")
    for left in (None, b"", b'{"body":{"kind":"hea'):
        config = (tmp_path / "out/config.yaml").read_bytes()
        shutil.rmtree(tmp_path / "out")
        (tmp_path / "out").mkdir()
        (tmp_path / "out/config.yaml").write_bytes(config)
        if left is not None:
            (tmp_path / "out/journal.jsonl").write_bytes(left)
        assert not has_header(tmp_path / "out/journal.jsonl")
        with pytest.raises(RunFolderError, match="exists already"):
            zotune.fit(**usual)
        zotune.fit(**usual, resume="last")
        assert files(tmp_path / "out") == whole
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    for name in (lock.LOCK, ".config.yaml.tmp"):
        (tmp_path / "out" / name).write_text("")
    zotune.fit(**usual)  # the lock file of a dead process is no run
    assert files(tmp_path / "out") == whole


def test_a_clock_that_jumps_changes_nothing(tiny_encoder: Path, toy: Path, tmp_path: Path, monkeypatch: Any) -> None:
    usual = made(tiny_encoder, toy, tmp_path)
    zotune.fit(**usual)
    whole, jumps = files(tmp_path / "out"), iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: 1e9 * (-1) ** next(jumps))
    zotune.fit(**{**usual, "output_dir": str(tmp_path / "again")})
    assert files(tmp_path / "again") == whole


def test_a_directory_deleted_during_the_run_is_a_one_line_error(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    def emit(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 3:
            shutil.rmtree(tmp_path / "out")

    with pytest.raises(ZotuneError, match=r"(was deleted while|cannot be written: No such file)"):
        zotune.fit(**made(tiny_encoder, toy, tmp_path), emit=emit)
    assert not (tmp_path / "out").exists()


def test_a_directory_that_cannot_be_written_is_a_one_line_error(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ZotuneError, match=r"cannot be written: Not a directory"):
        zotune.fit(**{**made(tiny_encoder, toy, tmp_path), "output_dir": str(tmp_path / "file/out")})


@pytest.mark.parametrize("place", ["save_file", "sync", "write", "append", "save"])
def test_a_full_disk_is_a_one_line_error_and_the_run_resumes(
    place: str, tiny_encoder: Path, toy: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    usual = made(tiny_encoder, toy, tmp_path)
    zotune.fit(**{**usual, "output_dir": str(tmp_path / "whole")})
    from zotune.models import saving

    owner: Any = {"save_file": checkpoint, "save": saving}.get(place, atomic)
    really, calls = getattr(owner, place), 0
    at = {"append": 4, "write": 6, "save": 1}.get(place, 2)  # past the first step

    def full(*args: Any, **kw: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= at:
            with atomic.writing(Path("x")):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))
        return really(*args, **kw)

    monkeypatch.setattr(owner, place, full)
    with pytest.raises(ZotuneError, match="cannot be written: No space left on device") as error:
        zotune.fit(**usual)
    assert error.value.exit_code == 1
    monkeypatch.setattr(owner, place, really)
    zotune.fit(**usual, resume="last")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_full_disk_while_a_tokenizer_is_saved_is_a_one_line_error(
    tiny_encoder: Path, toy: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    from zotune.models import saving

    def full(*_: Any) -> None:
        raise Exception("No space left on device (os error 28)")

    monkeypatch.setattr(saving, "save", full)
    with pytest.raises(ZotuneError, match="out cannot be written: No space left on device"):
        zotune.fit(**made(tiny_encoder, toy, tmp_path))
    with pytest.raises(ZotuneError, match="again cannot be written: No space left on device") as error:
        replay.replay(tmp_path / "out", tmp_path / "again")
    assert "resume" not in str(error.value)
    assert not list(tmp_path.glob("again*"))


def test_a_foreign_journal_is_a_one_line_error(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "journal.jsonl", {"seed": 1})
    journal.append({"kind": "step", "step": 0, "evals": 2, "tape": [["values", [0.1, 2.0]]]})
    journal.close()
    with pytest.raises(RunFolderError, match=r"line 1: the header lacks base_weights, .*not the journal of a run"):
        replay.replay(tmp_path, tmp_path / "again")
    assert [c.ok for c in verify.verify(tmp_path)] == [True, None]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KB, where one can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_real_full_and_a_real_read_only_disk(small_disk: Path, tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    usual = {**made(tiny_encoder, toy, tmp_path), "tune": "all"}
    zotune.fit(**usual)
    (small_disk / "ballast").write_bytes(b"x" * 240_000)
    there = {**usual, "output_dir": str(small_disk / "out")}
    with pytest.raises(ZotuneError, match=r"cannot be written: .*No space left on device.*zotune resume") as error:
        zotune.fit(**there)
    assert error.value.exit_code == 1
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,ro,size=30m", str(small_disk)], check=True)
    with pytest.raises(ZotuneError, match="cannot be written: Read-only file system"):
        zotune.fit(**there, resume="last")
    subprocess.run(["mount", "-o", "remount,rw,size=30m", str(small_disk)], check=True)
    zotune.fit(**there, resume="last")
    assert files(small_disk / "out") == files(tmp_path / "out")


SLOW = (
    "import time, pathlib\n"
    "def score(predictions, labels):\n"
    "    time.sleep(5 if pathlib.Path('slow').exists() else 0.1)\n"
    "    return [float(p == y) for p, y in zip(predictions, labels)]\n"
)


@pytest.mark.parametrize("twice", [False, True])
def test_a_scheduler_stops_a_run(twice: bool, tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    flags = [*("fit", "-m", tiny_encoder, "-d", toy, "--labels", "awful film,lovely film", "-o", "slow.py:score")]
    flags += ["--smooth", 0, "--batch-size", 8, "--max-steps", 30, "--eval-steps", 100, "--optimizer", "mezo"]
    command = [sys.executable, "-m", "zotune", *map(str, flags), "--output-dir", "cut"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    journal = tmp_path / "cut/journal.jsonl"
    for _ in range(1200):
        if journal.exists() and '"kind":"step"' in journal.read_text():
            break
        time.sleep(0.05)
    output = ""
    if twice:
        (tmp_path / "slow").write_text("")
        time.sleep(0.5)  # the present step takes long
    process.send_signal(signal.SIGTERM)
    if twice:
        assert process.stderr is not None
        while "stopping after this step" not in output:
            output += process.stderr.readline()
        process.send_signal(signal.SIGTERM)
    output += process.communicate(timeout=60)[1]
    assert process.returncode == 143, output
    assert "Traceback" not in output
    assert "zotune resume" in output
    assert output.count("zotune: quit at once") == twice
    assert bool(list((tmp_path / "cut").glob("checkpoint-*"))) != twice
    assert not (tmp_path / "cut" / lock.LOCK).exists()
    *checked, last = verify.verify(tmp_path / "cut")
    assert all(c.ok for c in checked)
    assert "the run has not ended" in last.detail


def test_the_commands(tiny_encoder: Path, toy: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    def cli(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main([str(w) for w in words])
        output = capsys.readouterr()
        return int(left.value.code or 0), output.out, output.err

    monkeypatch.chdir(tmp_path)
    flags = ["-m", tiny_encoder, "-d", toy, "--labels", "awful film,lovely film", "-o", "f1", "-q", "--batch-size", 8]
    flags += ["--max-steps", 4, "--eval-steps", 2, "--optimizer", "mezo"]
    assert cli("fit", *flags, "--output-dir", "out")[0] == 0
    code, out, _ = cli("resume", "out", "--max-steps", 6, "-q", "--json")
    assert (code, json.loads(out)["steps"]) == (0, 6)
    code, out, _ = cli("replay", "out", "-o", "again")
    assert code == 0
    assert "equal to the journal's checksum" in out
    assert "portable    yes" in out
    (tmp_path / "out/model.safetensors").write_bytes(b"")
    code, out, _ = cli("verify", "out")
    assert code == 1
    assert "DIFFERS model.safetensors" in out
    assert "2 of" in out
    for wrong in (("resume", "nowhere"), ("replay", "nowhere", "-o", "x"), ("verify", "nowhere")):
        code, _, err = cli(*wrong)
        assert code == 2
        assert len([x for x in err.splitlines() if x.startswith("zotune: ")]) == 1
    with lock.held(tmp_path / "out"):
        code, _, err = cli("resume", "out", "-q")
    assert code == 2
    assert f"out is in use by process {os.getpid()}" in err


def test_the_header_names_what_the_bits_depend_on(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    zotune.fit(**made(tiny_encoder, toy, tmp_path, max_steps=1))
    header = Journal.open(tmp_path / "out/journal.jsonl", read_only=True).header
    assert {"zotune", "torch", "transformers", "tokenizers"} <= header["versions"].keys()
    named = {"base_weights", "frozen_weights", "data", "objective_source", "optimizer_source", "optimizer_options"}
    assert named | {"noise", "dtype", "seed", "device", "budget", "rows", "batch_size", "template"} <= header.keys()
    assert header["budget"] == {"steps": 1, "evals": None, "seconds": None}
