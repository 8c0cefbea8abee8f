"""Runs that an older version wrote, in tests/fixtures/runs: they replay, resume and come out as they did then.

A replay makes no forward pass, so its bits must be the old ones on every machine. A resumed run makes new forward
passes, and other CPUs or libraries round matrix products differently. `rounding`, a hash of a few forward passes by
torch and transformers alone, tells whether this machine rounds as the one that made the runs. Where it does, a resumed
run and a new run with the same options must have exactly the old values; that depends on no code of this package, so a
change of behaviour cannot hide behind it. Where it does not, these two tests are skipped, and the rest still holds: the
old lines are kept, the replayed part has the old bits, and the resumed run replays to the weights that it kept.

Commands run through `python -m zotune`'s entry, in this process: no test here depends on the package's modules.
"""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from fixtures.make_runs import KINDS, RUNS, SHARED, checkpoint_hashes, model_hashes, rounding, zotune

MAY_DIFFER = {"versions", "objective_source", "optimizer_source", "model_files", "objective_files"}
MAY_DIFFER |= {"objective_folders", "optimizer_files"}
"""What the header may record of a newer version: libraries, and hashes of source files."""


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(text)["body"] for text in (run / "journal.jsonl").read_text(encoding="utf-8").splitlines()]


class OldRun:
    """A copy of one run and of what it was made from; `resumed` is a second one that was resumed."""

    def __init__(self, kind: str, root: Path) -> None:
        self.kind, self.root = kind, root
        self.expected: dict[str, Any] = json.loads((RUNS / kind / "expected.json").read_text())
        self.folder = self.copy("old")

    def copy(self, name: str) -> Path:
        folder = self.root / name
        folder.mkdir()
        for part in (*SHARED, self.kind):
            source = RUNS / part
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, folder / part)
        return folder

    def resumed(self) -> Path:
        folder = self.root / "resumed"
        if not folder.exists():
            zotune(self.copy("resumed"), *self.expected["resume"], *([] if self.same_versions() else ["--force"]))
        return folder

    def same_versions(self) -> bool:
        """Whether the run's libraries are installed: `zotune resume` takes other ones with --force alone."""
        recorded = lines(RUNS / self.kind / "run")[0]["versions"]
        return all(metadata.version(name) == version for name, version in recorded.items())

    def replayed(self, folder: Path, *options: str) -> dict[str, str]:
        out = f"out{len(list(folder.glob('out*')))}"
        zotune(folder, "replay", f"{self.kind}/run", "-o", out, "--device", "cpu", *options)
        return model_hashes(folder / out)

    def needs_the_same_rounding(self) -> None:
        if rounding(self.folder / self.expected["model"], self.expected["dtype"]) != self.expected["rounding"]:
            pytest.skip("this machine or its libraries round matrix products differently from those of the old run")


@pytest.fixture(scope="module", params=sorted(KINDS))
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OldRun:
    kind = str(request.param)
    return OldRun(kind, tmp_path_factory.mktemp(kind))


def test_an_old_run_replays_to_its_bits(old: OldRun) -> None:
    last = ("--step", str(old.expected["last_step"]))
    for name, options in (("last", last), ("kept", ())):
        if name in old.expected["replayed"]:
            assert old.replayed(old.folder, *options) == old.expected["replayed"][name], name
    if "kept" in old.expected["replayed"]:
        assert model_hashes(old.folder / old.kind / "run") == old.expected["replayed"]["kept"]


def test_an_old_run_is_resumed_after_its_own_lines(old: OldRun) -> None:
    before = (RUNS / old.kind / "run/journal.jsonl").read_bytes()
    run = old.resumed() / old.kind / "run"
    assert (run / "journal.jsonl").read_bytes().startswith(before)
    added = lines(run)[before.count(b"\n") :]
    assert sum(line["kind"] == "step" for line in added) > 0
    assert all(line["changed"].keys() <= {"versions"} for line in added if line["kind"] == "override")
    last = ("--step", str(old.expected["last_step"]))
    assert old.replayed(old.resumed(), *last) == old.expected["replayed"]["last"]
    assert old.replayed(old.resumed()) == model_hashes(run)


def test_a_resumed_old_run_has_the_weights_of_then(old: OldRun) -> None:
    old.needs_the_same_rounding()
    run = old.resumed() / old.kind / "run"
    assert checkpoint_hashes(run) == old.expected["resumed"]["checkpoint"]
    assert model_hashes(run) == old.expected["resumed"]["model"]


def test_the_same_options_give_the_numbers_of_then(old: OldRun) -> None:
    old.needs_the_same_rounding()
    folder = old.copy("anew")
    shutil.rmtree(folder / old.kind)
    # By default generated text has populations and a limit of the KL divergence now, labelled text starts from a probe,
    # `auto` calibrates in another way and spends less KL, half precision is rounded otherwise, and the KL divergence is
    # estimated on fewer texts; the flags give what was before.
    first_edition = ("--optimizer-arg", "edition=1")
    before = {
        "generation": ("--perturb", "copy", "--max-kl", "0", "--kl-estimate", "sampled", *first_edition),
        "auto": first_edition,
        "population": ("--optimizer-arg", "edition=2", "--kl-estimate", "sampled"),
        "bfloat16": ("--rounding", "1"),
    }
    zotune(folder, *old.expected["fit"], "--init", "none", *before.get(old.kind, ()))
    run = folder / old.kind / "run"
    was, now = lines(RUNS / old.kind / "run"), lines(run)
    for line in (was[0], now[0]):
        for key in MAY_DIFFER:
            line.pop(key, None)
    for old_line, line in zip(was, now, strict=False):
        if line["kind"] in ("calibration", "preflight"):  # old lines held sentences where numbers stand beside the rest
            old_line.pop("lines", None)
            for key in line.keys() - old_line.keys():
                del line[key]
    killed = "kept" not in old.expected["replayed"]
    assert now[: len(was)] == was
    if killed:
        assert checkpoint_hashes(run) == old.expected["resumed"]["checkpoint"]
        assert model_hashes(run) == old.expected["resumed"]["model"]
    else:
        assert len(now) == len(was)
        assert model_hashes(run) == old.expected["replayed"]["kept"]


def test_a_new_run_in_half_precision_records_its_rounding_and_replays(tmp_path: Path) -> None:
    old = OldRun("bfloat16", tmp_path)
    folder = old.copy("anew")
    shutil.rmtree(folder / old.kind)
    zotune(folder, *old.expected["fit"])
    run = folder / old.kind / "run"
    assert lines(run)[0]["rounding"] == 2
    assert old.replayed(folder) == model_hashes(run)
    zotune(folder, *old.expected["resume"])
    assert old.replayed(folder) == model_hashes(run)
    assert "rounding" not in lines(RUNS / old.kind / "run")[0]
