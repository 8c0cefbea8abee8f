"""Checkpoints and truncated journals: a damaged run continues to the same bits."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from zotune.bench.workbench import Bench, same
from zotune.errors import RunFolderError
from zotune.search import checkpoint
from zotune.search.journal import Journal

STEPS, EVERY = 8, 2


def bench(folder: Path, journal: Journal) -> Bench:
    from zotune_optimizers.zo_adamu import ZOAdaMU

    made = Bench(ZOAdaMU(lr=1e-2, eps=1e-2), steps=STEPS, journal=journal, assess=lambda b: b.loss(range(6)).value)
    made.engine.settings.eval_steps = made.engine.settings.save_steps = EVERY
    start = made.weights()
    made.engine.store = checkpoint.FolderStore(folder, 2, lambda: start)
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A finished run with fields, two checkpoints and a journal."""
    folder = tmp_path_factory.mktemp("whole")
    run = bench(folder, Journal.create(folder / "journal.jsonl", {})).run()
    run.journal.close()
    assert len(checkpoint.checkpoints(folder)) >= 2
    return folder, run.weights()


def go_on(folder: Path) -> tuple[Bench, list[str]]:
    """Load the newest usable checkpoint, replay the journal, and run the rest, as a resume does."""
    journal = Journal.open(folder / "journal.jsonl")
    run, notes = bench(folder, journal), list[str]()
    newest = checkpoint.load_newest(folder, run.space, journal, notes.append)
    if newest is not None:
        run.engine.restore(newest[1])
    run.run()
    journal.close()
    return run, notes


def test_a_journal_cut_at_every_byte_of_its_last_three_lines(
    whole: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    source, weights = whole
    text = (source / "journal.jsonl").read_bytes()
    third = len(b"".join(text.splitlines(keepends=True)[:-3]))
    for cut in range(third, len(text)):
        folder = tmp_path / str(cut)
        shutil.copytree(source, folder)
        (folder / "journal.jsonl").write_bytes(text[:cut])
        run, _ = go_on(folder)
        assert same(run.weights(), weights), cut
        assert (folder / "journal.jsonl").read_bytes() == text
        shutil.rmtree(folder)


def damages(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Ways to damage the newest checkpoint."""
    *_, older, newest = (folder / f"checkpoint-{s}" for s in checkpoint.checkpoints(folder))
    for name in (checkpoint.WEIGHTS, checkpoint.FIELDS, checkpoint.STATE):
        path = newest / name
        raw = path.read_bytes()
        for cut in (0, 7, len(raw) // 2, len(raw) - 1):
            yield f"{name} cut at {cut}", lambda path=path, raw=raw, cut=cut: path.write_bytes(raw[:cut])
        for at in (0, len(raw) // 2, len(raw) - 2):
            changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
            yield f"{name} changed at {at}", lambda path=path, changed=changed: path.write_bytes(changed)
        yield f"{name} swapped", lambda path=path, name=name: shutil.copyfile(older / name, path)
        yield f"{name} gone", path.unlink
    yield "another step's", lambda: (shutil.rmtree(newest), shutil.copytree(older, newest))


def test_a_damaged_or_swapped_checkpoint_is_recognised_and_an_older_one_is_used(
    whole: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    source, weights = whole
    lines = (source / "journal.jsonl").read_bytes()
    names = [name for name, _ in damages(source)]
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        shutil.copytree(source, folder)
        list(damages(folder))[number][1]()
        run, notes = go_on(folder)
        assert same(run.weights(), weights), name
        assert (folder / "journal.jsonl").read_bytes() == lines
        harmless = name == f"{checkpoint.STATE} gone"  # equal to a checkpoint that was never written
        assert len(notes) == (0 if harmless else 1), (name, notes)
        assert all("not used; the journal is replayed" in text for text in notes)


def test_a_checkpoint_of_another_run_is_not_used(whole: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path / "other")
    (tmp_path / "other/journal.jsonl").unlink()
    other = Journal.create(tmp_path / "other/journal.jsonl", {"seed": 3})
    other.append({"kind": "init", "tape": []})
    other.close()
    run, notes = go_on(tmp_path / "other")
    assert len(notes) == 2
    assert all("does not belong to the journal" in text for text in notes)
    assert same(run.weights(), whole[1])


def test_torn_checkpoints_are_removed(whole: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path / "run")
    (tmp_path / "run/.checkpoint-6.tmp").mkdir()
    (tmp_path / "run/checkpoint-4").mkdir(exist_ok=True)
    (tmp_path / "run/checkpoint-4" / checkpoint.STATE).unlink(missing_ok=True)
    go_on(tmp_path / "run")
    assert not (tmp_path / "run/.checkpoint-6.tmp").exists()
    assert all((p / checkpoint.STATE).exists() for p in (tmp_path / "run").glob("checkpoint-*"))


def test_a_lost_checkpoint_is_rebuilt_by_a_replay(whole: tuple[Path, dict[str, torch.Tensor]]) -> None:
    asked: list[int] = []
    run = bench(whole[0], Journal.create(None, {}))

    def rebuild(step: int) -> tuple[Any, dict[str, Any]]:
        asked.append(step)
        return run.space, {"step": step, "state": None}

    store = checkpoint.FolderStore(whole[0], 2, run.weights, rebuild)
    assert same(dict(store.weights(99)), run.weights())
    assert store.restore(99, run.space) == {"step": 99, "state": None}
    assert asked == [99, 99]
    with pytest.raises(RunFolderError, match="cannot be read"):
        checkpoint.FolderStore(whole[0], 2, run.weights).weights(99)
