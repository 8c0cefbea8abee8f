"""What a model, a data file, a task, a scorer or a text must not be able to do; each test tries to break one promise.

tests/humans/test_page.py tests the rating page: loopback, token, Host, Origin, content policy, text as data.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import rows, write_jsonl
from effects import Effects
from score_server import ScoreServer

import zotune
from zotune import config
from zotune import text as shown
from zotune.cli import app
from zotune.cli.terminal import Terminal
from zotune.data import presets
from zotune.errors import DataError, ModelError, ObjectiveError, OptionError
from zotune.events import Evaluated, Example, Examples, Note, Phase, RunStarted, StepDone
from zotune.humans import console
from zotune.humans.ratings import Question, Ratings
from zotune.models import loading
from zotune.models.model_files import find_model
from zotune.runs import replay, verify
from zotune.scoring import objective_spec

SECRET = "sk-verysecret-4711"
ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b1A\r\b\u202eevil"


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that hostile code creates when it runs."""
    return tmp_path / "it-ran"


@pytest.fixture
def hostile(mark: Path) -> str:
    """Python code that creates the mark."""
    return f"open({str(mark)!r}, 'w').close()\n"


def fit(model: Path, data: Path, folder: Path, **options: Any) -> Any:
    more = {"objective": "cross-entropy", "labels": "bad,good", "max_steps": 2, "eval_steps": 1, **options}
    return zotune.fit(model=str(model), dataset=str(data), output_dir=str(folder), **more)


def everything_in(folder: Path) -> str:
    """The content of all files in a run directory."""
    return "".join(p.read_bytes().decode("latin-1") for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def with_code(tiny_encoder: Path, tmp_path: Path, hostile: str) -> Path:
    """A model that names its own code for configuration, classes, tokenizer and generation."""
    folder = shutil.copytree(tiny_encoder, tmp_path / "with-code")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "evil.EvilConfig",
        "AutoModel": "evil.Evil",
        "AutoModelForCausalLM": "evil.Evil",
    }
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "evil"}))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["evil.EvilTokenizer", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(
        hostile + "from transformers import BertConfig, BertModel\nclass EvilConfig(BertConfig): model_type = 'evil'\n"
        "class Evil(BertModel): config_class = EvilConfig\n"
    )
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(hostile + "def generate(model, **kwargs): ...\n")
    return folder


@pytest.mark.parametrize("head", ["embedding", "causal"])
def test_model_code_runs_only_with_the_flag(
    with_code: Path, toy: Path, tmp_path: Path, mark: Path, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(ModelError, match=r"trust_remote_code|cannot be loaded") as refused:
        fit(with_code, toy, tmp_path / "run", head=head)
    assert "\n" not in str(refused.value)
    assert not mark.exists()
    files = find_model(str(with_code), head)
    with contextlib.suppress(ModelError):
        loading.load(files.source, files.folder, files.head, trust_remote_code=True)
    assert mark.exists(), "asked for, it runs: the test above would have seen it"


def test_a_known_architecture_is_loaded_without_its_code(with_code: Path, tiny_encoder: Path, mark: Path) -> None:
    shutil.copy(tiny_encoder / "config.json", with_code)
    config = json.loads((with_code / "config.json").read_text())
    (with_code / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Evil"}}))
    shutil.copy(tiny_encoder / "tokenizer_config.json", with_code)
    files = find_model(str(with_code), "embedding")
    loading.load(files.source, files.folder, files.head)
    assert not mark.exists()


def test_a_hub_model_is_inspected_without_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    def saved(source: str, revision: str) -> tuple[dict[str, Any], dict[str, Any]]:
        assert revision == "main"
        return {"architectures": ["LlamaForCausalLM"], "auto_map": {"AutoConfig": "evil.EvilConfig"}}, {}

    monkeypatch.setattr(transformers.PreTrainedConfig, "get_config_dict", saved)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert find_model("somebody/model").head == "causal"


class Evil:
    """An object whose unpickling creates the mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return open, (str(self.mark), "w")


@pytest.mark.parametrize("beside", [False, True], ids=["pickle alone", "beside safetensors"])
def test_pickles_are_read_only_with_the_flag(tiny_encoder: Path, tmp_path: Path, mark: Path, beside: bool) -> None:
    folder = shutil.copytree(tiny_encoder, tmp_path / "pickled")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"embeddings": Evil(mark)}))
    if beside:
        files = find_model(str(folder))
        loading.load(files.source, files.folder, files.head)
    else:
        (folder / "model.safetensors").unlink()
        with pytest.raises(ModelError, match="pickle files can run code; --allow-pickle reads them"):
            find_model(str(folder))
        files = find_model(str(folder), allow_pickle=True)
        with pytest.raises(ModelError, match="cannot be loaded"):  # with the flag, tensors are read and nothing else
            loading.load(files.source, files.folder, files.head, allow_pickle=True)
    assert not mark.exists()


def test_pickled_adapters_are_read_only_with_the_flag(tiny_llama: Path, tmp_path: Path, mark: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    adapter = {"base_model_name_or_path": str(tiny_llama), "peft_type": "LORA", "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps({**adapter, "r": 2, "target_modules": ["q_proj"]}))
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({"x": Evil(mark)}))
    with pytest.raises(ModelError, match="--allow-pickle"):
        find_model(str(folder))
    assert not mark.exists()


def test_a_run_directory_holds_no_pickle(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    fit(tiny_encoder, toy, tmp_path / "run")
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            assert path.suffix not in (".bin", ".pt", ".pth", ".pkl", ".pickle")
            assert not path.read_bytes().startswith((b"\x80\x02", b"\x80\x04", b"PK\x03\x04")), path


def test_python_files_that_are_not_named_do_not_run(
    toy: Path, tiny_encoder: Path, tmp_path: Path, hostile: str, mark: Path
) -> None:
    """The files lie beside the data, in the model's folder and in the working directory."""
    model = shutil.copytree(tiny_encoder, tmp_path / "model")
    here = tmp_path / "here"
    here.mkdir()
    for folder in (toy, model, here):
        for name in (
            "conftest",
            "setup",
            "objective",
            "f1",
            "cross_entropy",
            "toy",
            "train",
            "zotune_plugin",
            "plugins",
        ):
            (folder / f"{name}.py").write_text(hostile)
        for name in ("config.yaml", "zotune.yaml", "run.yaml", ".zotune.yaml", "task.yaml"):
            (folder / name).write_text("objective: ./objective.py:score\noptimizer: ./objective.py:Rule\n")
        (folder / "pyproject.toml").write_text('[project.entry-points.zotune]\nevil = "objective"\n')
    command = [sys.executable, "-m", "zotune", "fit", "-m", str(model), "-d", str(toy), "--labels", "bad,good"]
    more = ["-o", "f1", "--max-steps", "1", "--output-dir", str(tmp_path / "run")]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*command, *more], cwd=here, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert not mark.exists()
    named = subprocess.run(
        [*command, "-o", "./objective.py:score"], cwd=here, env=env, capture_output=True, timeout=200
    )
    assert named.returncode == 2
    assert mark.exists(), "named, it runs: the test above would have seen it"


YAML = [
    "objective: !!python/object/apply:os.system ['touch {mark}']",
    "objective: !!python/name:os.system ''",
    "seed: !!python/object/new:subprocess.Popen [['touch', '{mark}']]",
    "!!python/object/apply:builtins.open ['{mark}', 'w']: 1",
    "objective: !<tag:yaml.org,2002:python/object/apply:os.mkdir> ['{mark}']",
]


@pytest.mark.parametrize("text", YAML)
def test_yaml_creates_no_objects(tmp_path: Path, mark: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text.format(mark=mark))
    for read in (lambda: config.resolve({}, str(path)), lambda: presets.load(str(path))):
        with Effects() as effects, pytest.raises(OptionError, match="cannot be read"):
            read()
        assert effects.seen == []
    assert not mark.exists()
    yaml.unsafe_load(YAML[0].format(mark=mark))
    assert mark.exists(), "another loader would have run it"


@pytest.mark.parametrize(
    "name",
    [
        "./evil.py:score",
        "evil:score",
        "exec:./evil.sh",
        "http://evil.example/",
        "judge:./evil.py:better",
        "a b",
        "../x",
    ],
)
def test_a_task_file_cannot_name_code(tmp_path: Path, mark: Path, hostile: str, name: str) -> None:
    (tmp_path / "evil.py").write_text(hostile + "def score(predictions): return 0.0\n")
    (tmp_path / "task.yaml").write_text(json.dumps({"template": "{text}", "objective": name}))
    with pytest.raises(OptionError, match="must be the name of an installed objective"):
        presets.load(str(tmp_path / "task.yaml"))
    assert not mark.exists()


@pytest.mark.parametrize("key", ["dataset", "model", "config", "include", "plugins", "exec"])
def test_a_task_file_cannot_name_another_file(tmp_path: Path, key: str) -> None:
    (tmp_path / "task.yaml").write_text(json.dumps({"template": "{text}", key: "../../x"}))
    with pytest.raises(OptionError, match=f"unknown key '{key}'"):
        presets.load(str(tmp_path / "task.yaml"))


@pytest.mark.parametrize("option", ["command", "url", "model", "file", "normalise"])
def test_a_task_file_sets_no_option_that_names_a_program_or_a_file(tmp_path: Path, option: str) -> None:
    task = {"template": "{text}", "objective": "exec", "objective_args": {option: "./evil.sh"}}
    (tmp_path / "task.yaml").write_text(json.dumps(task))
    with pytest.raises(OptionError, match=f"a task file cannot set the option '{option}' of an objective"):
        presets.load(str(tmp_path / "task.yaml"))


def test_eval_of_a_run_directory_runs_none_of_its_objectives(
    tiny_encoder: Path, toy: Path, tmp_path: Path, hostile: str, mark: Path
) -> None:
    """The configuration in a model's folder gives its task and no objective."""
    model = shutil.copytree(tiny_encoder, tmp_path / "model")
    (model / "evil.py").write_text(hostile)
    config = {"objective": f"{model}/evil.py:score", "optimizer": f"{model}/evil.py:Rule", "labels": "bad,good"}
    (model / "config.yaml").write_text(json.dumps({**config, "trust_remote_code": True, "allow_pickle": True}))
    zotune.evaluate(model=str(model), dataset=str(toy))
    assert not mark.exists()


def test_replay_and_verify_run_nothing_that_only_the_directory_names(
    tiny_encoder: Path, toy: Path, tmp_path: Path, hostile: str, mark: Path
) -> None:
    file = tmp_path / "own.py"
    file.write_text(f"{hostile}def score(losses): return [-x for x in losses]\n")
    fit(tiny_encoder, toy, tmp_path / "run", objective=f"{file}:score", optimizer="mezo")
    mark.unlink()  # the file ran where it was named
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["objective"] == f"{file}:score"
    (tmp_path / "run" / "config.yaml").write_text(json.dumps({**config, "optimizer": f"{file}:Rule"}))
    replay.replay(tmp_path / "run", tmp_path / "again")
    assert all(check.ok is not False for check in verify.verify(tmp_path / "run"))
    assert not mark.exists()


def test_templates_cannot_read_attributes() -> None:
    from zotune.data.templates import Template

    for text in ("{text.__class__}", "{text[0]}", "{text!r}", "{text:>10}", "{0.__init__.__globals__}", "{text.a|cap}"):
        with pytest.raises(OptionError, match="plain column name"):
            Template(text)


@pytest.mark.parametrize(
    "more", ["; touch {mark}", "$(touch {mark})", "`touch {mark}`", "| touch {mark}", "&& touch {mark}"]
)
def test_no_shell_reads_a_command(tmp_path: Path, mark: Path, more: str, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "score.sh"
    script.write_text('#!/bin/sh\nwhile read -r line; do echo "$#"; done\n')
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    with Effects() as effects:
        goal = objective_spec.resolve(f"exec:./score.sh {more.format(mark=mark)}", {})
        goal.score(1, {"completions": ["x"], "prompts": ["p"]})
        goal.close()
    (started,) = [x for x in effects.seen if x.startswith("subprocess.Popen")]
    assert started.startswith(f"subprocess.Popen ('{script}', ['{script}', ")
    assert not mark.exists()


def test_the_text_of_a_row_is_no_command(tmp_path: Path, mark: Path) -> None:
    script = tmp_path / "score.sh"
    script.write_text('#!/bin/sh\nwhile read -r line; do echo "${#line}"; done\n')
    script.chmod(0o755)
    completions = [f"$(touch {mark})", f"`touch {mark}`", f"'; touch {mark}; '", f'"; touch {mark}; "\n0']
    goal = objective_spec.resolve(f"exec:{script}", {})
    score = goal.score(4, {"completions": completions, "prompts": ["p"] * 4})
    goal.close()
    assert score.samples is not None
    assert all(x and x > 20 for x in score.samples)
    assert not mark.exists()


def obeyed(text: str) -> bool:
    """Whether text holds control characters that a terminal acts on."""
    return any(c in text for c in "\x1b\x07\x9b\x08\u202e\0") or "\r" in text.replace("\r\n", "\n")


def test_control_characters_are_shown_and_have_no_effect() -> None:
    assert not obeyed(shown.plain(ESCAPE))
    assert shown.plain("né 👍\tx\r\ny") == "né 👍\tx\ny"
    assert shown.one_line(f"a\n\x1b[31mb {'x' * 5000}")[:15] == "a \\x1b[31mb xxx"
    assert len(shown.one_line("x" * 5000)) == 2000


@pytest.mark.parametrize("live", [False, True], ids=["plain lines", "a terminal"])
def test_events_reach_the_terminal_without_control_characters(live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    terminal = Terminal()
    output = io.StringIO()
    terminal.console = Console(file=output, force_terminal=live, no_color=True, highlight=False, width=400)
    terminal._live = live
    started = RunStarted(
        folder=ESCAPE,
        model=ESCAPE,
        head="causal",
        device="cpu",
        objective=ESCAPE,
        better="higher",
        direction="maximize",
        optimizer="mezo",
        tuned_weights=1,
        tensors=1,
        training_rows=1,
        validation_rows=1,
        test_rows=1,
        batch_size=1,
        test_score=0.0,
        max_steps=1,
    )
    terminal(Note(f"cannot be read: {ESCAPE}"))
    terminal(Phase(ESCAPE))
    terminal(started)
    terminal(StepDone(1, 2, dropped=f"printed {ESCAPE}"))
    terminal(Evaluated(1, 0.5, ((ESCAPE, 1.0),), best=True))
    terminal(Examples(1, (Example(ESCAPE, ESCAPE, f"[red]{ESCAPE}[/red]"),)))
    terminal(Evaluated(2, failed=ESCAPE))
    terminal.close()
    text = output.getvalue()
    assert "evil" in text
    own = ("\x1b[1m", "\x1b[2m", "\x1b[0m", "\x1b[22m", "\x1b[?25l", "\x1b[?25h", "\x1b[2K", "\x1b[1A", "\r")
    for style in own:  # those that rich writes itself
        text = text.replace(style, "") if live else text
    assert not obeyed(text)
    assert "[red]" in text or not live, "text is no markup"


def test_errors_reach_the_terminal_without_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A message that shows column names of foreign data."""
    path = write_jsonl(tmp_path / "x.jsonl", [{f"a{ESCAPE}": 1, "b": f"{ESCAPE}"}] * 8)
    for more in ([], ["--column", "label=b"], ["--column", f"label={ESCAPE}"], ["--labels", ESCAPE]):
        with pytest.raises(SystemExit) as ended:
            app.main(["fit", "-d", str(path), "-m", str(tmp_path), *more])
        assert ended.value.code == 2
        output = capsys.readouterr().err
        assert not obeyed(output)
        assert output.count("\n") == 1


def test_file_names_in_a_result_are_shown_plain_and_not_followed(
    tiny_encoder: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tiny_encoder, toy, tmp_path / "run")
    result = tmp_path / "run" / "result.json"
    values = json.loads(result.read_text())
    result.write_text(
        json.dumps({**values, "files": {**values["files"], ESCAPE: "00", "/dev/zero": "00", "../x": "00", "\0": "00"}})
    )
    with Effects() as effects, pytest.raises(SystemExit) as ended:
        app.main(["verify", str(tmp_path / "run")])
    assert ended.value.code == 1
    told = capsys.readouterr().out
    assert not obeyed(told)
    assert told.count("is not a file of this directory") == 3
    assert "/dev/zero" not in effects.reads


def test_questions_reach_the_terminal_without_control_characters(tmp_path: Path) -> None:
    told: list[str] = []
    with Ratings(tmp_path) as store:
        store.ask([Question("a", ESCAPE, (ESCAPE, f"{ESCAPE}!"))])
        store.set_state(ESCAPE)
        console.rate(tmp_path, lambda prompt: "q", lambda text: told.append(str(text)))
    assert "evil" in "".join(told)
    assert not any(obeyed(text) for text in told)


def test_a_model_card_shows_text_without_markup(toy: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    """Class names come from the data, and the model card is rendered as Markdown."""
    names = {0: "<script>alert(1)</script>", 1: "[x](javascript:alert(1))\n# heading\n---"}
    for path in toy.iterdir():
        write_jsonl(path, [{**r, "label": names[r["label"]]} for r in rows(24)])
    result = zotune.fit(
        model=str(tiny_encoder), dataset=str(toy), objective="accuracy", max_steps=1, output_dir=str(tmp_path / "run")
    )
    card = (result.folder / "README.md").read_text()
    assert f"`{names[0]}`, `[x](javascript:alert(1)) # heading ---`" in card
    outside = re.sub("`[^`\n]*`", "", card)
    assert not any(x in outside for x in ("<script>", "javascript", "heading"))


@pytest.fixture
def server() -> Iterator[ScoreServer]:
    made = ScoreServer()
    yield made
    made.close()


def test_secrets_stay_in_the_environment(
    toy: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    server: ScoreServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A whole run with a scorer that needs a token and a key, and repeats both in its answers."""
    for name in ("HF_TOKEN", "SCORER_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("SCORER_QUERY", f"code={SECRET}-query&v=1")
    batches = 0

    def answer(body: Any) -> Any:
        nonlocal batches
        batches += len(body["prompts"]) == 8  # the rows of a step
        if batches in (3, 4):  # the client retries once
            return 403, {}, f"bad token {SECRET}, bad code {SECRET}-query"
        return [len(completion) / 10 for completion in body["completions"]]

    server.answer = answer
    folder = tmp_path / "run"
    arguments = ["fit", "-m", str(tiny_encoder), "-d", str(toy), "--labels", "bad,good", "--max-steps", "4", "--json"]
    arguments += ["-o", f"http:{server.address}", "--objective-arg", "token_env=SCORER_TOKEN", "--smooth", "0"]
    arguments += ["--objective-arg", "query_env=SCORER_QUERY", "--output-dir", str(folder), "--no-score-cache"]
    arguments += ["--batch-size", "8", "--optimizer", "mezo"]
    with pytest.raises(SystemExit) as ended:
        app.main(arguments)
    assert ended.value.code == 0
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    output = capfd.readouterr()
    assert "replied 403: bad token ***, bad code ***" in output.err
    assert "replied 403" in everything_in(folder)
    assert SECRET not in output.err + output.out
    assert SECRET not in everything_in(folder)
    assert SECRET not in str(list(tmp_path.rglob("*")))


@pytest.mark.parametrize(
    "address", [f"//me:{SECRET}@host/x", f"//{SECRET}@host/x", f"//host/x?key={SECRET}", f"//h/#{SECRET}"]
)
def test_an_address_with_a_secret_is_refused(
    address: str, toy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        app.main(["fit", "-d", str(toy), "-o", f"http:{address}"])
    output = capfd.readouterr()
    assert ended.value.code == 2
    assert "must " in output.err
    assert "_env" in output.err
    assert SECRET not in output.err + output.out
    assert SECRET not in str(list(tmp_path.rglob("*")))


def test_the_query_is_sent_and_hidden(server: ScoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", f"code={SECRET}%2B1&v=1")
    asked: list[str] = []

    def answer(body: Any) -> Any:
        return 200, {}, f"no such key: {SECRET}+1"

    server.answer = answer
    plain = server.server.RequestHandlerClass.parse_request

    def parse(handler: Any) -> bool:
        answer = plain(handler)
        asked.append(handler.path)
        return bool(answer)

    monkeypatch.setattr(server.server.RequestHandlerClass, "parse_request", parse)
    scorer = server.scorer(query_env="KEY")
    with pytest.raises(ObjectiveError, match="no such key: ") as failed:
        scorer(["x"], ["p"])
    assert asked == [f"/score?code={SECRET}%2B1&v=1"]
    assert SECRET not in str(failed.value) + repr(scorer)
    for bad in ("", "a b", "a#b", "é"):
        monkeypatch.setenv("KEY", bad)
        with pytest.raises(OptionError, match="query_env"):
            server.scorer(query_env="KEY")


@pytest.mark.parametrize("form", ["{}", "file://{}", "@{}", "<{}", "!include {}", "![x]({})", "{{% include '{}' %}}"])
def test_a_row_cannot_name_a_file_to_read(tiny_llama: Path, tmp_path: Path, form: str) -> None:
    platform.processor()  # a library asks for it once in a process, which runs `uname`
    secret = tmp_path / "secret.txt"
    secret.write_text("top secret")
    text = form.format(secret)
    made: list[dict[str, Any]] = [
        {"prompt": text, "completion": text, "image": {"path": str(secret), "bytes": None}, "file": text, "label": text}
        for _ in range(8)
    ]
    for name in ("train", "validation", "test"):
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", made)
    with Effects(tmp_path) as effects:
        fit(
            tiny_llama,
            tmp_path / "data",
            tmp_path / "run",
            labels=None,
            task="generation",
            objective="contains:good",
            max_new_tokens=3,
            preflight=False,  # this model writes blanks alone
        )
    assert str(secret) not in effects.reads
    assert any("train.jsonl" in path for path in effects.reads), "what is read is seen"
    assert "top secret" not in everything_in(tmp_path / "run")
    assert [x for x in effects.seen if x.startswith(("subprocess", "os.system", "socket"))] == []


@pytest.mark.parametrize("objective", ["cross-entropy", "f1"])
def test_a_run_writes_only_in_its_directory(tiny_encoder: Path, toy: Path, tmp_path: Path, objective: str) -> None:
    fit(tiny_encoder, toy, tmp_path / "first", objective=objective)  # imports and compiles once
    with Effects(tmp_path / "run") as effects:
        fit(tiny_encoder, toy, tmp_path / "run", objective=objective)
    assert effects.seen == []
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_table_cannot_name_a_file_to_read(tmp_path: Path) -> None:
    from zotune.data.readers import read_file

    secret = tmp_path / "secret.txt"
    secret.write_text("top secret")
    (tmp_path / "x.csv").write_text(f"text,label\n{secret},1\n\"=cmd|' /C calc'!A0\",0\nfile://{secret},1\n")
    with Effects() as effects:
        records = read_file(tmp_path / "x.csv")
    assert [row["text"] for row in records] == [str(secret), "=cmd|' /C calc'!A0", f"file://{secret}"]
    assert effects.reads.count(str(tmp_path / "x.csv")) == 1
    assert str(secret) not in effects.reads
    assert effects.seen == []


def test_a_data_set_that_is_code_is_refused(tmp_path: Path, hostile: str, mark: Path) -> None:
    """A folder with a script of its own name, the old form of data sets on the hub."""
    folder = tmp_path / "squad"
    folder.mkdir()
    (folder / "squad.py").write_text(hostile)
    for source in (folder, folder / "squad.py"):
        with pytest.raises(DataError):
            zotune.fit(dataset=str(source), model=str(tmp_path))
    assert not mark.exists()
