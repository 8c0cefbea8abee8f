"""Commands built from records: names, conversion, refusals and help."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click
import pytest

from zotune import config
from zotune.cli import app as application
from zotune.cli import help_page
from zotune.cli.command import RecordCommand, RecordGroup, command
from zotune.options import argument, option

FORMER = {
    "fit": "--model -m --model-name-or-path --dataset -d --dataset-name --objective -o --weight --objective-arg "
    "--direction --optimizer --optimizer-arg --learning-rate --lr --eps --head --task --template --labels --choices "
    "--column --train-split --eval-split --test-split --limit --train-size --k-per-class --max-length --max-new-tokens "
    "--stop --temperature --top-p --samples-per-prompt --system --tune --embeddings --no-embeddings --init --peft "
    "--lora-r --lora-alpha --lora-target-modules --prefix-tokens --batch-size --stratify --no-stratify "
    "--eval-batch-size --smooth --max-steps --max-evals --max-time --seed --eval-steps --save-steps "
    "--save-total-limit --journal-only --patience --max-failures --max-kl --guard --preflight --no-preflight "
    "--rollback --interpolate --no-interpolate --max-score-calls --score-concurrency --score-batch-size "
    "--score-timeout --score-cache --no-score-cache --output-dir --run-name --resume-from-checkpoint --force --device "
    "--dtype --threads --compile --probe --parallel --attn-implementation --device-map --quantize "
    "--trust-remote-code --allow-pickle --model-revision --config -c --dry-run --json --quiet -q",
    "eval": "--model -m --dataset -d --objective -o --objective-arg --split --shots --calibrate --head --task "
    "--template --labels --choices --column --limit --max-length --max-new-tokens --stop --temperature --top-p "
    "--eval-batch-size --seed --device --dtype --attn-implementation --device-map --trust-remote-code --allow-pickle "
    "--model-revision --json",
    "check": "--objective -o --model -m --dataset -d --objective-arg --weight --direction --rows --optimizer --eps "
    "--batch-size --smooth --tune --peft --head --task --template --labels --choices --column --max-new-tokens --stop "
    "--temperature --system --score-concurrency --score-batch-size --score-timeout --seed --device --dtype "
    "--trust-remote-code --json",
    "compare": "--dataset -d --split --limit --judge --terminal --port --open --no-open --output-dir --task --template "
    "--column --max-length --max-new-tokens --stop --temperature --top-p --system --eval-batch-size "
    "--score-concurrency --score-batch-size --score-timeout --seed --device --dtype --trust-remote-code "
    "--allow-pickle --json",
    "bench": "--model -m --config --optimizer --optimizer-arg --rows --tokens --rounds --warmup --tune --peft --head "
    "--probe --compile --no-compile --device --dtype --threads --seed --trust-remote-code --json",
    "resume": "--checkpoint --max-steps --max-evals --max-time --max-score-calls --device --threads --force --json "
    "--quiet -q",
    "replay": "--output-dir -o --base --step --optimizer --device --threads --compile --trust-remote-code "
    "--allow-pickle --json",
    "verify": "--json",
    "export": "--output-dir -o --merge --dtype",
    "rate": "--terminal --port --open --no-open --export",
    "new": "--single-file --output-dir",
    "plugins": "--json --check",
    "env": "--json",
}
"""The flags of the commands before they were generated from records."""


@dataclass(frozen=True)
class Flags:
    """Flags of a command for these tests."""

    name: str = argument("Name.", "NAME")
    count: int = option(1, "Count.", "--count", "-c", least=1)
    mode: str = option("a", "Mode.", aliases=["--old-mode"], old_values={"alpha": "a"}, choices=["a", "b"])
    fast: bool = option(False, "Fast.")
    cached: bool = option(True, "Cached.")
    guess: bool | None = option(None, "Guess.")
    stop: tuple[str, ...] = option((), "Stop.")
    one_or_more: str | tuple[str, ...] = option("x", "One or more.")
    weights: tuple[float, ...] = option((), "Weights.")
    arguments: dict[str, Any] = option({}, "Arguments.", "--argument")
    renamed: dict[str, str] = option({}, "Renamed.", "--rename", metavar="FIELD=COLUMN")


def parsed(*arguments: str, settings: Mapping[str, Any] | None = None) -> Any:
    received: list[Any] = []
    made = command("demo", lambda *given: received.extend(given), Flags, settings)  # type: ignore[arg-type]
    made.main(list(arguments), standalone_mode=False)
    return received if settings else received[0]


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ([], {}),
        (["--count", "3", "--mode", "b"], {"count": 3, "mode": "b"}),
        (["-c", "3", "--old-mode", "alpha"], {"count": 3, "mode": "a"}),
        (["--fast", "--no-cached", "--guess"], {"fast": True, "cached": False, "guess": True}),
        (["--no-guess"], {"guess": False}),
        (["--stop", "x", "--stop", "-y,z"], {"stop": ("x", "-y,z")}),
        (["--stop", ""], {"stop": ("",)}),
        (["--one-or-more", "y"], {"one_or_more": "y"}),
        (["--one_or_more", "y", "--one-or-more", "z"], {"one_or_more": ("y", "z")}),
        (["--weights", "1,0.5"], {"weights": (1.0, 0.5)}),
        (["--argument", "a-b=1", "--argument", "c="], {"arguments": {"a_b": "1", "c": ""}}),
        (["--rename", "a-b=x=y"], {"renamed": {"a-b": "x=y"}}),
    ],
)
def test_flags_become_values(arguments: list[str], values: dict[str, Any]) -> None:
    assert parsed("me", *arguments) == Flags("me", **values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "x"], "--count must be a whole number, got 'x'"),
        (["--count", "0"], "--count must be at least 1, got 0"),
        (["--mode", "c"], "--mode must be a or b, got 'c'"),
        (["--old-mode", "c"], "--mode must be a or b, got 'c'"),
        (["--mode", "a", "--old-mode", "a"], "--mode and --old-mode are names of one option: give one of them"),
        (["--weights", "1,x"], "--weights must be a number, got 'x'"),
        (["--argument", "x"], "--argument takes name=value, got 'x'"),
        (["--rename", "x="], "--rename takes FIELD=COLUMN, got 'x='"),
    ],
)
def test_wrong_values_are_refused(arguments: list[str], message: str) -> None:
    from zotune.errors import OptionError

    with pytest.raises(OptionError) as refused:
        parsed("me", *arguments)
    assert str(refused.value) == message


def test_settings_are_what_was_given() -> None:
    flags, settings = parsed(
        "me", "--max-evals", "60", "--model-name-or-path", "m", settings=config.select("max_evals", "model")
    )
    assert flags == Flags("me")
    assert settings == {"max_evals": 60, "model": "m"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fitt"], "zotune has no command 'fitt' (did you mean 'fit'?)"),
        (["fit", "--modle", "x"], "zotune fit has no option '--modle' (did you mean '--model'?)"),
        (["fit", "--zzz", "x"], "zotune fit has no option '--zzz' (zotune fit --help lists the options)"),
        (["fit", "--max_eval", "x"], "zotune fit has no option '--max-eval' (did you mean '--max-evals'?)"),
        (["fit", "--seed"], "zotune fit: Option '--seed' requires an argument (zotune fit --help lists the options)"),
        (["plugins", "shwo"], "zotune plugins has no command 'shwo' (did you mean 'show'?)"),
        (["export"], "zotune export: the argument RUN is missing (zotune export --help shows how it is called)"),
        (["export", "x"], "zotune export: --output-dir is missing (zotune export RUN -o DIRECTORY)"),
        (["check"], "zotune check: --objective is missing (zotune check -o NAME)"),
        (["fit", "--sede\x1b[31m", "x"], "zotune fit has no option '--sede\\x1b[31m' (did you mean '--seed'?)"),
    ],
)
def test_a_wrong_command_line_is_one_line_with_the_nearest_name(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        application.main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"zotune: {message}\n")


def commands() -> dict[str, click.Command]:
    """Every command by its path below zotune."""
    found: dict[str, click.Command] = {}
    for name, made in application.app.commands.items():
        found[name] = made
        if isinstance(made, click.Group):
            found |= {f"{name} {inner}": c for inner, c in made.commands.items()}
    return found


@pytest.mark.parametrize("name", sorted(FORMER))
def test_every_former_flag_is_taken(name: str) -> None:
    taken = {flag for p in commands()[name].params for flag in (*p.opts, *p.secondary_opts)}
    assert set(FORMER[name].split()) <= taken


@pytest.mark.parametrize("name", sorted(commands()))
def test_names_and_help_texts(name: str) -> None:
    made = commands()[name]
    flags = [flag for p in made.params for flag in (*p.opts, *p.secondary_opts)]
    assert len(set(flags)) == len(flags)
    records = made.records if isinstance(made, RecordCommand) else [*made.own.values()]  # type: ignore[attr-defined]
    for record in records:
        assert record.help.endswith((".", "…", "?")), record
    assert made.help
    assert not any(word in made.help for word in ("said", "found"))


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", ["", *sorted(commands())])
def test_help_fits_the_width_and_hides_the_aliases(name: str, width: int) -> None:
    made: Any = commands()[name] if name else application.app
    page = made.page(f"zotune {name}".strip())
    for shown in (help_page.plain(page, width), plain_of(help_page.boxed(page, width))):
        assert max(map(len, shown.splitlines())) <= width
        assert "--probe" not in shown
        assert "--model-name-or-path" not in shown
        for panel in page.panels:
            assert panel.title in shown


def plain_of(text: str) -> str:
    """The text without the colours of the terminal."""
    return click.unstyle(text)


def test_the_help_of_fit_begins_with_the_ten_options_that_matter() -> None:
    made: Any = commands()["fit"]
    first = made.page("zotune fit").panels[0]
    assert first.title == help_page.MAIN
    assert [names.split()[-2] if " " in names else names for names, _ in first.rows] == [
        *("--model", "--dataset", "--objective", "--task", "--optimizer", "--peft", "--max-evals", "--seed"),
        *("--output-dir", "--config"),
    ]
    shown = dict(row for panel in made.page("zotune fit").panels for row in panel.rows)
    assert shown["--seed INT"] == "Random seed of data order, noise and sampling. [0]"
    assert set(config.run_options()) | {f.name for f in fields(made.flags)} == {o.name for o in made.records}


def test_help_is_plain_where_it_is_piped_and_needs_no_torch() -> None:
    code = (
        "import sys\nfrom zotune.cli.app import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "bad = {'torch', 'transformers', 'numpy', 'rich', 'typer'} & set(sys.modules)\nassert not bad, bad\n"
    )
    for arguments in (["--help"], ["fit", "--help"], ["plugins"], ["--version"], []):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
        assert "\x1b" not in done.stdout
        assert "╭" not in done.stdout


def test_help_starts_fast() -> None:
    """0.5 s of processor time, whatever else the machine does; the fastest of three."""
    code = "import time\nfrom zotune.cli.app import app\nassert app.commands\nprint(time.process_time())"
    seconds = [float(subprocess.run([sys.executable, "-c", code], capture_output=True).stdout) for _ in range(3)]
    assert min(seconds) < 0.5


def test_the_page_of_the_command_line_is_generated() -> None:
    root = Path(__file__).resolve().parents[2]
    page = root / "docs" / "command-line.md"
    if not page.exists():
        pytest.skip("the documents are not beside the tests")
    done = subprocess.run(
        [sys.executable, root / "scripts" / "command_line_page.py", "--print"], capture_output=True, text=True
    )
    assert done.stdout == page.read_text(encoding="utf-8"), "run: python scripts/command_line_page.py"


def test_a_group_without_a_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    group = RecordGroup("demo", "About.", {"Commands": [command("inner", lambda flags: None, Flags)]})
    with pytest.raises(SystemExit):
        group.main([])
    assert "inner" in capsys.readouterr().out
