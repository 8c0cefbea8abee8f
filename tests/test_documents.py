"""The documents are true: links, commands, flags and code exist, and what is quick runs."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import documents
import pytest
import yaml
from documents import PAGES, ROOT, Command

import zotune
from zotune import config, plugins
from zotune.cli.app import app
from zotune.cli.command import RecordCommand, values
from zotune.cli.result_lines import report_line, result_lines
from zotune.cli.terminal import Terminal
from zotune.data import presets
from zotune.events import Evaluated, Event, Example, Examples, Finished, Interpolated, PreflightDone, RunStarted
from zotune.runs.result import Difference, Result, ScoreEstimate, ScoringCost

README = ROOT / "README.md"
DOCS = ROOT / "docs"
LOG = DOCS / "log.md"

pytestmark = pytest.mark.skipif(not (README.exists() and DOCS.exists()), reason="documents are not beside the tests")

COMMANDS = [command for page in PAGES for command in documents.commands(page)]
RUN_PAGES = ("README.md", "docs/python.md", "docs/models.md", "docs/objectives.md")
"""Pages whose Python blocks run by themselves."""
HELPS = """
import contextlib, io, json, runpy, sys
sys.path.insert(0, "benchmarks")
found = {}
for name in json.loads(sys.argv[1]):
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            runpy.run_module(name, run_name="__main__")
        except SystemExit as end:
            assert not end.code, name
    found[name] = out.getvalue()
print(json.dumps(found))
"""
"""Prints the help of modules as JSON. One process, so that torch is imported once."""


def page_id(page: Path) -> str:
    return documents.name(page)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    for link in documents.links(page):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in documents.anchors(target), link


def test_the_index_lists_every_page_and_every_figure_is_shown() -> None:
    assert {p.name for p in DOCS.glob("*.md")} - {"README.md"} <= set(documents.links(DOCS / "README.md"))
    shown = {(page.parent / link).resolve() for page in PAGES for link in documents.links(page)}
    assert set((DOCS / "figures").iterdir()) <= shown


def zotune_commands() -> Iterator[tuple[Command, list[str]]]:
    """The commands of zotune, with the arguments after `zotune`."""
    for command in COMMANDS:
        if "zotune" in command.words and not {"pip", "install"} & set(command.words):
            yield command, list(command.words[command.words.index("zotune") + 1 :])


def test_there_are_commands() -> None:
    assert len(list(zotune_commands())) > 60
    assert {w[0] for _, w in zotune_commands()} >= {"fit", "eval", "resume", "replay", "verify", "check", "bench"}


@pytest.mark.parametrize(("command", "arguments"), list(zotune_commands()), ids=str)
def test_command_lines_of_zotune_parse(command: Command, arguments: list[str]) -> None:
    found: click.Command = app
    while isinstance(found, click.Group) and arguments and arguments[0] in found.commands:
        found, arguments = found.commands[arguments[0]], arguments[1:]
    assert found is not app or not arguments or arguments[0].startswith("-"), f"no command {arguments[0]}"
    flags = {flag for p in found.params if not getattr(p, "hidden", False) for flag in (*p.opts, *p.secondary_opts)}
    given = {re.split("[ =]", a)[0] for a in arguments if re.match(r"--?[a-z]", a)} - {"--help"}
    assert given <= flags, f"unknown or hidden: {given - flags}"
    if not command.whole or "--help" in arguments:
        return
    context = found.make_context(found.name, arguments)
    if isinstance(found, RecordCommand):
        for records in (found.own, found.settings):
            for key, value in values(records, {**context.params}).items():
                records[key].check(value)


def test_flags_in_the_text_exist() -> None:
    known = {"--help", "--nproc-per-node", "--steps", "--seeds", "--rounds"}
    known |= {o for c in app.commands.values() for p in c.params for o in (*p.opts, *p.secondary_opts)}
    for page in PAGES:
        if page.name == "command-line.md":  # generated from the flags
            continue
        flags = {m for code in documents.inline(page) for m in re.findall(r"^--[a-z][a-z-]*[a-z]\b(?!-)", code)}
        assert flags - known <= {"--out"}, page.name


RUN = (
    RunStarted(
        "runs/f1-1",
        "MiniLM (embedded)",
        "embedding",
        "cpu",
        "f1",
        "higher is better",
        "maximize",
        "auto",
        6528,
        9,
        400,
        200,
        300,
        16,
        0.4899,
        max_evals=2400,
        probe_score=0.7438,
    ),
    *(
        Evaluated(step, score)
        for step, score in {
            0: 0.7710,
            120: 0.7382,
            240: 0.7550,
            360: 0.7480,
            480: 0.7214,
            600: 0.7408,
            720: 0.7521,
            840: 0.7441,
            960: 0.7251,
            1080: 0.7277,
            1114: 0.7270,
        }.items()
    ),
    PreflightDone(12, 16, 1200, 0.0, 0.304, 11.0),
    Interpolated(1114, 0.5, 0.7562),
)
"""Events of the run that the README and the quickstart show."""


def test_transcripts_have_the_words_of_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    base, probe = (ScoreEstimate(*s, rows=300) for s in ((0.4899, 0.0307), (0.7438, 0.0282)))
    result = Result(
        Path("runs/f1-1"),
        "done",
        "start",
        probe,
        probe,
        Difference(0.0, None, None, None),
        probe,
        1114,
        2400,
        0,
        0.0,
        0,
        1.0,
        202.0,
        ScoringCost(0, 0, 0.0, 0.0, {}),
        {"model.safetensors": ""},
        base=base,
    )
    terminal = Terminal()
    for event in RUN:
        terminal(event)
    for text, _ in result_lines("f1", result):
        terminal.say(text)
    terminal.say(report_line(Path("runs/f1-1/report.html")))
    printed = set(capsys.readouterr().err.splitlines())
    blocks = documents.blocks(DOCS / "quickstart.md", "")
    (transcript,) = (b for b in blocks if b.rstrip().endswith("report: runs/f1-1/report.html"))
    ours = [x for x in transcript.splitlines() if x not in ("", "…") and not re.match(r"·|  optimizer:|.*steps/s", x)]
    assert set(ours) <= printed, set(ours) - printed


FIRST_RUN = RunStarted(
    "runs/demo-json-1",
    "build/SmolLM2-135M-Instruct.Q4_1.gguf",
    "causal",
    "cpu",
    "examples/json_reward.py:valid_json",
    "higher is better",
    "maximize",
    "auto",
    134_479_872,
    211,
    256,
    16,
    40,
    16,
    0.2250,
    max_steps=4,
)
"""The event that opens the run which the README shows."""

PROMPT = "Return JSON with the keys name and age. At 59, Yusuf Larsen works as a chemist in Hanoi."
ANSWERS = {
    0: '{ "name": "Yusuf Larsen", "age": 59, "name": "Hanoi", "age',
    4: '{ "name": "Yusuf Larsen", "age": 59, }',
}
"""One of its prompts, and the answers at the start and at the end."""


def first_run() -> Iterator[Event]:
    yield FIRST_RUN
    for step, score, kl in ((0, 0.5, None), (2, 0.4375, 0.0389), (4, 0.6875, 0.0955)):
        yield Evaluated(step, score, kl=kl, best=step == 4)
        if step in ANSWERS:
            yield Examples(step, (Example(PROMPT, "", ANSWERS[step]),), True)
    yield Finished("runs/demo-json-1", "done", "tuned")


def test_the_first_run_has_the_words_of_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    base, tuned = (ScoreEstimate(*s, rows=40) for s in ((0.225, 0.0669), (0.85, 0.0572)))
    difference = Difference(0.625, 0.09, 0.45, 0.8)
    folder, costs = Path("runs/demo-json-1"), ScoringCost(0, 0, 0.0, 0.0, {})
    result = Result(folder, "done", "tuned", base, tuned, difference, None, 4, 16, 0, 0.0, 4, 1.0, 149.0, costs, {})
    terminal = Terminal()
    for event in first_run():
        terminal(event)
    for text, _ in result_lines("valid_json", result):
        terminal.say(text)
    printed = set(capsys.readouterr().err.splitlines())
    (transcript,) = (b for b in documents.blocks(README, "") if "valid_json" in b)
    ours = [x for x in transcript.splitlines() if x != "…" and not x.startswith("·")]
    assert len(ours) == 14
    assert set(ours) <= printed, set(ours) - printed
    demo = (ROOT / "scripts" / "demo.sh").read_text(encoding="utf-8")
    (command,) = (c for c in documents.commands(README) if "json_reward" in str(c) and "--max-steps" in str(c))
    flags = command.words[command.words.index("--task") : command.words.index("--output-dir")]
    assert " ".join(flags) in " ".join(demo.replace("\\\n", " ").split())


def test_quick_commands_run() -> None:
    quick = {
        tuple(arguments)
        for command, arguments in zotune_commands()
        if command.whole and command.page != "docs/plugins.md"  # its package has to be installed first
        if arguments[:1] in (["plugins"], ["ls"]) or "--help" in arguments
    }
    assert len(quick) > 2
    for arguments in quick:
        subprocess.run([sys.executable, "-m", "zotune", *arguments], check=True, capture_output=True, cwd=ROOT)


def scripts() -> Iterator[tuple[Command, str, tuple[str, ...]]]:
    """Commands that run a script or a module of this repository: the command, the module and its arguments."""
    for command in COMMANDS:
        words = command.words[1:] if command.words[0] == "python" else ()
        if words[:1] == ("-m",) and words[1].startswith("benchmarks."):
            yield command, words[1], words[2:]
        elif words and re.fullmatch(r"(benchmarks|examples|scripts)/\w+\.py", words[0]):
            yield command, words[0].removesuffix(".py").replace("/", "."), words[1:]


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """The help of every script that has flags, by module."""
    files = [p for folder in ("benchmarks", "examples", "scripts") for p in (ROOT / folder).glob("*.py")]
    names = [f"{p.parent.name}.{p.stem}" for p in files if "ArgumentParser" in p.read_text(encoding="utf-8")]
    arguments = [sys.executable, "-c", HELPS, json.dumps(names)]
    return json.loads(subprocess.run(arguments, check=True, capture_output=True, cwd=ROOT, text=True).stdout)


def test_every_benchmark_has_a_help(helps: dict[str, str]) -> None:
    without = {p.stem for p in (ROOT / "benchmarks").glob("*.py")} - {n.split(".")[1] for n in helps} - {"__init__"}
    assert not without
    assert all(text.startswith("usage:") for text in helps.values())


def test_command_lines_of_scripts_exist(helps: dict[str, str]) -> None:
    found = list(scripts())
    assert len(found) > 20
    for command, module, arguments in found:
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), command
        flags = {a.split("=")[0] for a in arguments if re.match(r"--?[a-z]", a)}
        assert all(re.search(rf"{flag}\b", helps.get(module, "")) for flag in flags), command


def test_other_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.M))
    for command in COMMANDS:
        words = command.words
        if words[0] == "make":
            assert all(re.search(rf"^{w}:", makefile, re.M) for w in words[1:] if "=" not in w), command
        for word in words:
            if re.match(r"(tests|scripts|benchmarks|examples)/[\w/.]+$", word) and command.whole:
                assert (ROOT / word).exists(), command
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for named in re.findall(r"(?:zotune|'\.)\[([\w,]+)\]", text):
        assert set(named.split(",")) <= extras, named


def test_tests_and_benchmarks_named_in_the_text_exist() -> None:
    for page in PAGES:
        for path in re.findall(
            r"\b((?:tests|benchmarks|examples|scripts|docs)/[\w/.-]+\.(?:py|jsonl|md|sh))", page.read_text()
        ):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


@pytest.mark.parametrize(
    ("page", "name"),
    [("README.md", "json_reward.py"), ("docs/objectives.md", "brevity.py"), ("docs/optimizers.md", "sign_sgd.py")],
)
def test_pages_show_the_examples(page: str, name: str) -> None:
    shown = [block.strip() for block in documents.blocks(ROOT / page, "python")]
    source = (ROOT / "examples" / name).read_text(encoding="utf-8")
    assert re.sub(r'^""".*?"""\n+', "", source, flags=re.S).strip() in shown


def test_examples_are_as_short_as_the_readme_says() -> None:
    def lines(name: str) -> int:
        code = re.sub(r'^""".*?"""\n+', "", (ROOT / "examples" / name).read_text(), flags=re.S)
        return sum(bool(x.strip()) for x in code.splitlines())

    assert lines("brevity.py") <= 6
    assert lines("json_reward.py") <= 8
    assert lines("sign_sgd.py") <= 20


def test_python_blocks_compile_and_short_ones_run() -> None:
    code = []
    for page in PAGES:
        for block in documents.blocks(page, "python"):
            compile(block, documents.name(page), "exec")
            if documents.name(page) in RUN_PAGES:
                code.append(f"exec(compile({block!r}, {documents.name(page)!r}, 'exec'), {{'__name__': 'block'}})")
    assert len(code) > 4
    subprocess.run([sys.executable, "-c", "\n".join(code)], check=True, capture_output=True, cwd=ROOT)


def test_configuration_and_task_files_are_read(tmp_path: Path) -> None:
    (run,) = documents.blocks(DOCS / "quickstart.md", "yaml")
    (tmp_path / "run.yaml").write_text(run)
    assert config.resolve({}, str(tmp_path / "run.yaml")).max_evals == yaml.safe_load(run)["max_evals"]
    (task,) = documents.blocks(DOCS / "tasks.md", "yaml")
    (tmp_path / "task.yaml").write_text(task)
    assert presets.load(str(tmp_path / "task.yaml")).cut == "premise"
    keys = {field.name for field in dataclasses.fields(presets.TaskFile)}
    assert keys <= set(documents.inline(DOCS / "tasks.md"))


def test_tables_name_every_optimizer_and_preset() -> None:
    host = plugins.default()
    optimizers = [host.find("optimizer", name) for name in host.names("optimizer")]
    assert {p.name for p in optimizers if p.distribution == "zotune"} <= set(documents.inline(README))
    text = (DOCS / "optimizers.md").read_text(encoding="utf-8")
    for p in optimizers:
        row = f"| `{p.name}` | {p.summary} | {p.forwards} | {p.memory} | {p.paper} |"
        assert row in text or p.distribution != "zotune", row
    tasks = (DOCS / "tasks.md").read_text(encoding="utf-8")
    listed = re.search(r"prompts of the papers: ([\w, ]+)\.", tasks)
    assert listed
    rewarded = {name for name in presets.names() if presets.load(name).reward}
    assert set(listed[1].split(", ")) == set(presets.names()) - rewarded
    assert set(re.findall(r"^\| `(\w+)` \| `[\w-]+`", tasks, re.M)) == rewarded


def test_the_log_stands_newest_first_with_a_command_or_a_setting() -> None:
    entries = LOG.read_text(encoding="utf-8").split("\n## ")[1:]
    dates = [re.search(r"\n\n(\d{4}-\d\d-\d\d)", entry) for entry in entries]
    assert all(dates), [e.split("\n")[0] for e, d in zip(entries, dates, strict=True) if not d]
    days = [d[1] for d in dates if d]
    assert days == sorted(days, reverse=True)


def test_glossary_is_sorted_and_each_term_has_one_sentence() -> None:
    terms = re.findall(r"^\*\*(.+?)\*\*: (.+)$", (DOCS / "glossary.md").read_text(encoding="utf-8"), re.M)
    assert len(terms) > 40
    assert [t.lower() for t, _ in terms] == sorted(t.lower() for t, _ in terms)
    assert all(text.endswith(".") and ". " not in text.removesuffix(".") for _, text in terms)


def test_the_version_is_in_one_place() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in pyproject
    assert f'"{zotune.__version__}"' in (ROOT / "zotune" / "version.py").read_text()
    assert not re.search(r"^version = ", pyproject, re.M)
    assert f"version = {{{zotune.__version__}}}" in README.read_text()


def test_the_readme_is_short_and_complete() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert text.count("ot yet measured") == 1
    for page in PAGES:
        assert not re.search(r"@[A-Z]+@|<!--", documents.prose(page)), page.name
