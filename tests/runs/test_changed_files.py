"""Runs whose files, programs or place have changed: resumed to the same bits, or refused by name."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from test_fit import options

import zotune
from zotune.cli.app import main
from zotune.errors import OptionError, RunFolderError
from zotune.runs import replay, run_directory, verify
from zotune.runs.export_step import export_step
from zotune.runs.file_hashes import helper_modules
from zotune.search.journal import Journal

HELPED = "import helper\nimport package.inner\n\ndef score(losses, **_):\n    return [helper.sign(x) for x in losses]\n"


def usual(model: Path, toy: Path, tmp_path: Path, **more: Any) -> dict[str, Any]:
    rule = {"optimizer": "mezo", "learning_rate": 1e-3, "objective": "cross-entropy", "guard": 0.0, "max_steps": 2}
    return {**options(model, toy, tmp_path), **rule, **more}


def command(*arguments: str) -> None:
    """Run a command that succeeds."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == 0


def header(folder: Path) -> dict[str, Any]:
    return Journal.open(folder / "journal.jsonl", read_only=True).header


@pytest.fixture
def model(tiny_encoder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_encoder, tmp_path / "model"))


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json", "1_Pooling/config.json"]
)
def test_a_changed_file_of_the_model_is_refused_by_name(name: str, model: Path, toy: Path, tmp_path: Path) -> None:
    zotune.fit(**usual(model, toy, tmp_path))
    (model / name).parent.mkdir(exist_ok=True)
    text = (model / name).read_text() if (model / name).exists() else "{}"
    (model / name).write_text(text + "\n")
    more = {**usual(model, toy, tmp_path), "max_steps": 3}
    with pytest.raises(RunFolderError, match=rf"another {name} \(model files\): .*--force"):
        zotune.fit(**more, resume="last")
    assert zotune.fit(**more, resume="last", force=True).steps == 3


def test_a_header_without_hashes_of_files_is_not_compared(model: Path, toy: Path, tmp_path: Path) -> None:
    zotune.fit(**usual(model, toy, tmp_path))
    path = tmp_path / "out/journal.jsonl"
    bodies = [dict(line) for line in Journal.open(path, read_only=True).lines]
    path.unlink()
    shutil.rmtree(tmp_path / "out/checkpoint-2")
    journal = Journal.create(path, {k: v for k, v in bodies[0].items() if not k.endswith(("_files", "_folders"))})
    for body in bodies[1:]:
        journal.append(body)
    journal.close()
    (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    assert zotune.fit(**{**usual(model, toy, tmp_path), "max_steps": 3}, resume="last").steps == 3


def test_changed_helper_modules_and_programs_are_refused_by_name(model: Path, toy: Path, tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    for name, text in {
        "own.py": HELPED,
        "helper.py": "import deeper\n\ndef sign(x):\n    return -x\n",
        "deeper.py": "",
        "unused.py": "",
        "package/__init__.py": "",
        "package/inner.py": "",
    }.items():
        (tmp_path / name).write_text(text)
    paths = {str(p.relative_to(tmp_path)) for p in helper_modules(tmp_path / "own.py")}
    assert paths == {"helper.py", "deeper.py", "package/__init__.py", "package/inner.py"}
    program = tmp_path / "score.py"
    program.write_text(
        "import json, sys\nfor line in sys.stdin:\n    print(json.loads(line)['loss'] if 0 else 0.5, flush=True)\n"
    )
    for spec, name in ((f"{tmp_path}/own.py:score", "deeper.py"), (f"exec:{program}", str(program))):
        run = usual(model, toy, tmp_path, objective=spec, output_dir=str(tmp_path / Path(name).stem))
        zotune.fit(**run)
        assert name in header(tmp_path / Path(name).stem)["objective_files"]
        with Path(name if name.startswith("/") else tmp_path / name).open("a") as file:
            file.write("# changed\n")
        with pytest.raises(RunFolderError, match=rf"another {name} \(objective files\)"):
            zotune.fit(**{**run, "max_steps": 3}, resume="last")


OPTIMIZER = """
from dataclasses import dataclass
from small_steps import SIZE
@dataclass(frozen=True)
class Own:
    eps: float = 1e-3
    def init(self, theta):
        return None
    def step(self, theta, oracle, state, at):
        z = at.normal()
        up, down = oracle(theta + self.eps * z, theta - self.eps * z)
        return theta - SIZE * ((up - down) / (2 * self.eps)) * z, state
"""


def test_a_changed_helper_of_an_optimizer_is_refused_by_name(model: Path, toy: Path, tmp_path: Path) -> None:
    (tmp_path / "own_rule.py").write_text(OPTIMIZER)
    (tmp_path / "small_steps.py").write_text("SIZE = 1e-4\n")
    run = usual(model, toy, tmp_path, optimizer=f"{tmp_path}/own_rule.py:Own")
    del run["learning_rate"]
    zotune.fit(**run)
    assert list(header(tmp_path / "out")["optimizer_files"]) == ["small_steps.py"]
    assert zotune.fit(**{**run, "max_steps": 3}, resume="last").steps == 3
    (tmp_path / "small_steps.py").write_text("SIZE = 1e-3\n")
    with pytest.raises(RunFolderError, match=r"another small_steps.py \(optimizer files\)"):
        zotune.fit(**{**run, "max_steps": 4}, resume="last")


def test_an_option_whose_default_has_changed_keeps_its_recorded_value(
    model: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DiZO's default pattern once matched biases, too."""
    from zotune_optimizers.dizo import QUERY_VALUE, DiZO

    run = usual(model, toy, tmp_path, optimizer="dizo", optimizer_args={"interval": 1, "iters": 1})
    now = DiZO.__init__.__defaults__
    with monkeypatch.context() as older:
        old = tuple("query|value" if value == QUERY_VALUE else value for value in now or ())
        older.setattr(DiZO.__init__, "__defaults__", old)
        zotune.fit(**run)
        shutil.copytree(tmp_path / "out", tmp_path / "same")
        zotune.fit(**{**run, "max_steps": 4, "output_dir": str(tmp_path / "same")}, resume="last")
    assert header(tmp_path / "out")["optimizer_options"]["pattern"] == "query|value"
    zotune.fit(**{**run, "max_steps": 4}, resume="last")
    weights = [load_file(tmp_path / name / "checkpoint-4/tuned.safetensors") for name in ("out", "same")]
    assert all(bool((x == weights[1][name]).all()) for name, x in weights[0].items())
    with pytest.raises(RunFolderError, match="another pattern"):
        zotune.fit(**{**run, "optimizer_args": {**run["optimizer_args"], "pattern": QUERY_VALUE}}, resume="last")


def test_python_resumes_from_another_directory_as_the_command_does(
    model: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = {**usual(model, toy, tmp_path), "model": "model", "dataset": toy.name, "output_dir": "out"}
    zotune.fit(**run)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert zotune.fit(**{**run, "max_steps": 3, "output_dir": "../out"}, resume="last").steps == 3
    assert zotune.fit(**{**run, "max_steps": 4}, resume="../out/checkpoint-3").steps == 4
    assert Path.cwd() == tmp_path / "elsewhere"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_changed_reward_model_is_refused_by_name(
    model: Path, tiny_classifier: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    reward = Path(shutil.copytree(tiny_classifier, tmp_path / "reward"))
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"the {w}"}) + "\n" for w in ("film", "plot", "cast") * 4))
    own = {
        "objective": "reward-model",
        "task": "generation",
        "template": "{prompt}",
        "labels": None,
        "objective_args": {"model": str(reward), "reward_label": "LABEL_1"},
        "max_new_tokens": 2,
    }
    run = usual(tiny_llama, data, tmp_path, **own)
    zotune.fit(**run)
    assert list(header(tmp_path / "out")["objective_folders"]) == [str(reward)]
    tensors = load_file(reward / "model.safetensors")
    tensors["classifier.bias"] += 1.0
    save_file(tensors, reward / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunFolderError, match=r"another .*reward \(objective folders\)"):
        zotune.fit(**{**run, "max_steps": 3}, resume="last")


def test_force_does_not_accept_other_frozen_weights(model: Path, toy: Path, tmp_path: Path) -> None:
    run = usual(model, toy, tmp_path, tune="last:1")
    zotune.fit(**run)
    tensors = load_file(model / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"][5] += 1.0
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunFolderError, match="another frozen weights") as error:
        zotune.fit(**{**run, "max_steps": 3}, resume="last", force=True)
    assert error.value.hint == ""


@pytest.mark.parametrize("name", ["journal.jsonl", "result.json", "config.yaml", "checkpoint-2/trainer_state.json"])
def test_a_pipe_or_a_device_is_refused_and_not_read(name: str, model: Path, toy: Path, tmp_path: Path) -> None:
    zotune.fit(**usual(model, toy, tmp_path))
    folder = tmp_path / "out"
    for place, kind in ((os.mkfifo, "a named pipe"), (lambda p: os.symlink("/dev/zero", p), "a device")):
        (folder / name).unlink()
        place(folder / name)
        commands = (["verify"], ["replay", "-o", f"{tmp_path}/no"], ["resume"], ["export", "-o", f"{tmp_path}/no"])
        for name_of_command, *more in commands:
            with pytest.raises((RunFolderError, SystemExit)) as error:
                main([name_of_command, str(folder), *more])
            assert not isinstance(error.value, SystemExit) or error.value.code == 2, name_of_command
        with pytest.raises(RunFolderError, match=kind):
            verify.verify(folder)


def test_a_run_is_resumed_and_replayed_from_another_directory(
    model: Path, toy: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    (tmp_path / "own.py").write_text("def score(losses, **_):\n    return [-x for x in losses]\n")
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    relative = usual(Path("model"), Path("toy"), tmp_path, objective="own.py:score", output_dir="runs/one")
    zotune.fit(**relative)
    zotune.fit(**{**relative, "output_dir": str(tmp_path.parent / f"{tmp_path.name}-outside")})
    monkeypatch.chdir(tmp_path / "elsewhere/deep")
    for run in ("../../runs/one", f"../../../{tmp_path.name}-outside"):  # below the project, and far from it
        command("resume", run, "--max-steps", "4", "--quiet")
        assert json.loads((Path(run) / "result.json").read_text())["steps"] == 4
        command("replay", run, "-o", f"again-{Path(run).name}")
        again = load_file(f"again-{Path(run).name}/model.safetensors")
        kept = load_file(Path(run) / "model.safetensors")
        assert all((again[n] == x).all() for n, x in kept.items())
    assert Path.cwd() == tmp_path / "elsewhere/deep"


def test_verify_passes_on_an_untouched_lora_run(tiny_llama: Path, toy: Path, tmp_path: Path) -> None:
    template = {"template": "{text} It was {label}.", "labels": "awful,lovely"}
    zotune.fit(**{**usual(tiny_llama, toy, tmp_path, peft="lora", lora_r=2), **template})
    assert [c for c in verify.verify(tmp_path / "out") if c.ok is False] == []
    result = tmp_path / "out/result.json"
    values = json.loads(result.read_text())
    assert "adapter_model.safetensors" in values["files"]
    values["files"]["README.md"] = "0" * 32  # as versions recorded that took the checksum of peft's card
    result.write_text(json.dumps(values))
    assert [c for c in verify.verify(tmp_path / "out") if c.ok is False] == []


def test_rejected_weights_can_be_exported(model: Path, toy: Path, tmp_path: Path, capsys: Any) -> None:
    run = usual(model, toy, tmp_path, guard=1e9, learning_rate=1e-4, max_steps=6, eval_steps=1)
    result = zotune.fit(**run)
    assert result.kept == "start"
    assert result.best_step > 0
    from zotune.cli.result_lines import result_lines

    texts = [text for text, _ in result_lines("cross-entropy", result)]
    line = f"zotune export {result.folder} --step {result.best_step} -o DIRECTORY"
    assert f"export the tuned weights all the same: {line}" in texts
    command(*line.replace("DIRECTORY", str(tmp_path / "tuned")).split()[1:])
    assert str(tmp_path / "tuned") in capsys.readouterr().out
    replay.replay(tmp_path / "out", tmp_path / "again", step=result.best_step)
    tuned, again = (load_file(tmp_path / name / "model.safetensors") for name in ("tuned", "again"))
    assert all((tuned[n] == x).all() for n, x in again.items())
    base = load_file(model / "model.safetensors")
    assert any((tuned[n] != x).any() for n, x in base.items())
    for name in (tmp_path / "out").glob("checkpoint-*"):
        shutil.rmtree(name)
    export_step(tmp_path / "out", tmp_path / "replayed", result.best_step)
    replayed = load_file(tmp_path / "replayed/model.safetensors")
    assert all((tuned[n] == x).all() for n, x in replayed.items())
    with pytest.raises(OptionError, match="--step 7: the journal has steps 0 to 6"):
        export_step(tmp_path / "out", tmp_path / "no", 7)


def test_runs_at_the_same_time_take_directories_of_their_own(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    config = zotune.config.RunConfig(objective="f1")
    chosen = [run_directory.find_directory(config, None) for _ in range(8)]
    assert len(set(chosen)) == 1
    created: list[Path] = []
    threads = [
        threading.Thread(target=lambda f: created.append(run_directory.create(f, config)), args=(f,)) for f in chosen
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {p.name for p in created} == {f"f1-{n}" for n in range(1, 9)}
