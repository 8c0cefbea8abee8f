"""The command line: parse first, import later.

`zotune --help` and `zotune plugins` import neither torch nor transformers. Human text goes to standard error,
`--json` to
standard output. Exit codes: 0 done, 1 failed, 2 refused before training, 3 the objective failed too often, 130
interrupted by Ctrl-C after a checkpoint, 143 by SIGTERM.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any, Literal

import typer

from zotune import __version__, config, options, plugin_options
from zotune import plugins as host
from zotune.cli.bench_command import bench
from zotune.cli.check_command import check
from zotune.cli.compare_command import compare
from zotune.cli.new_command import new
from zotune.cli.rate_command import rate
from zotune.cli.run_commands import replay, resume, run_to_the_end, verify
from zotune.errors import UsageError, ZotuneError
from zotune.text import one_line

app = typer.Typer(
    name="zotune",
    help="Tune a local model's weights for any scalar you can compute, with forward passes only.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
plugins_app = typer.Typer(help="List, show and check the installed optimizers and objectives.", add_completion=False)
app.add_typer(plugins_app, name="plugins", invoke_without_command=True)
ls_app = typer.Typer(help="List what ships: tasks.", add_completion=False, no_args_is_help=True)
app.add_typer(ls_app, name="ls")

Opt = typer.Option
Text = str | None
Whole = int | None
Real = float | None


def _version(value: bool) -> None:
    if value:
        print(f"zotune {__version__}")
        raise typer.Exit()


@app.callback()
def top(
    version: Annotated[bool, Opt("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command()
def fit(
    model: Annotated[
        Text, Opt("--model", "-m", "--model-name-or-path", help="Folder or hub id. [embedded MiniLM]")
    ] = None,
    dataset: Annotated[
        Text, Opt("--dataset", "-d", "--dataset-name", help="File, or folder of splits. [embedded]")
    ] = None,
    objective: Annotated[
        list[str] | None,
        Opt(
            "--objective",
            "-o",
            help="Name, name:text, file.py:function or package.module:function; several are summed. [cross-entropy]",
        ),
    ] = None,
    weight: Annotated[Text, Opt(help="Weights of several objectives, such as 1,0.1. [1 each]")] = None,
    objective_arg: Annotated[
        list[str] | None,
        Opt(help="Option of the objective, name=value; of one of several: objective.name=value. Repeatable."),
    ] = None,
    direction: Annotated[Text, Opt(help="maximize or minimize, over what the objective declares.")] = None,
    optimizer: Annotated[Text, Opt(help="Name or file.py:Class; see 'zotune plugins'. [auto]")] = None,
    optimizer_arg: Annotated[list[str] | None, Opt(help="Option of the optimizer, name=value. Repeatable.")] = None,
    learning_rate: Annotated[
        Text, Opt("--learning-rate", "--lr", help="The optimizer's lr; auto: found by some forwards at the start.")
    ] = None,
    eps: Annotated[Text, Opt(help="The optimizer's perturbation scale; or auto.")] = None,
    head: Annotated[
        Text, Opt(help="causal, masked, seq2seq, classification or embedding. [from the model and the task]")
    ] = None,
    task: Annotated[
        Text,
        Opt(help="A preset ('zotune ls tasks'), a YAML file, or classification, choice, generation. [from the data]"),
    ] = None,
    template: Annotated[
        Text, Opt(help="Prompt with {column} places, and {label}, {choice} or {completion} for what is asked.")
    ] = None,
    labels: Annotated[Text, Opt(help="Label words: a,b,c in class order, or value=word,…")] = None,
    choices: Annotated[Text, Opt(help="Columns of the options, or one that holds a list: multiple choice.")] = None,
    column: Annotated[list[str] | None, Opt(help="wanted=found: use another column. Repeatable.")] = None,
    train_split: Annotated[Text, Opt(help="Split, or file, to train on. [train]")] = None,
    eval_split: Annotated[Text, Opt(help="Split, or file, that selects the best weights. [validation]")] = None,
    test_split: Annotated[Text, Opt(help="Split, or file, that judges. [test]")] = None,
    limit: Annotated[Whole, Opt(help="Use at most this many training rows.")] = None,
    train_size: Annotated[Whole, Opt(help="Draw exactly this many training rows.")] = None,
    k_per_class: Annotated[Whole, Opt(help="Draw this many training rows of every class.")] = None,
    max_length: Annotated[Whole, Opt(help="Tokens a row at most. [256; choice 512, generation 1024]")] = None,
    max_new_tokens: Annotated[Whole, Opt(help="Tokens to generate at most. [64, or the task's]")] = None,
    stop: Annotated[list[str] | None, Opt(help="Text that ends a completion. Repeatable.")] = None,
    temperature: Annotated[Real, Opt(help="Sample completions at this temperature; 0: greedy. [0]")] = None,
    top_p: Annotated[Real, Opt(help="Sample from this much of the probability. [1]")] = None,
    samples_per_prompt: Annotated[Whole, Opt(help="Completions sampled for each training prompt. [1]")] = None,
    system: Annotated[Text, Opt(help="First message of every chat.")] = None,
    tune: Annotated[
        Text, Opt(help="all, auto, head, value, bias, norm, bias+norm, last:N or a regular expression. [auto]")
    ] = None,
    embeddings: Annotated[
        bool | None, Opt("--embeddings/--no-embeddings", help="Whether embeddings are among the tuned. [yes]")
    ] = None,
    init: Annotated[Text, Opt(help="linear-probe: fit the head by logistic regression first. [none]")] = None,
    peft: Annotated[Text, Opt(help="none, lora or prefix: tune an adapter on frozen weights. [none]")] = None,
    lora_r: Annotated[Whole, Opt(help="Rank of LoRA. [8]")] = None,
    lora_alpha: Annotated[Whole, Opt(help="Scale of LoRA, divided by its rank. [16]")] = None,
    lora_target_modules: Annotated[
        list[str] | None, Opt(help="Names of LoRA's modules. Repeatable. [query and value]")
    ] = None,
    prefix_tokens: Annotated[Whole, Opt(help="Tokens of a prefix. [5]")] = None,
    batch_size: Annotated[Whole, Opt(help="Rows a batch. [16]")] = None,
    stratify: Annotated[
        bool | None,
        Opt(
            "--stratify/--no-stratify",
            help="Draw batches with the classes in proportion. [where the optimizer wants it: auto]",
        ),
    ] = None,
    eval_batch_size: Annotated[Whole, Opt(help="Rows a forward at most. [64]")] = None,
    smooth: Annotated[
        Whole, Opt(help="Average metrics of predictions over this many sampled sets while training; 0: off. [64]")
    ] = None,
    max_steps: Annotated[Whole, Opt(help="Budget in steps.")] = None,
    max_evals: Annotated[Whole, Opt(help="Budget in forwards: one batch at one point. [2400]")] = None,
    max_time: Annotated[Real, Opt(help="Budget in seconds of tuning.")] = None,
    seed: Annotated[Whole, Opt(help="[0]")] = None,
    eval_steps: Annotated[Whole, Opt(help="Steps between evaluations. [a tenth of the run]")] = None,
    save_steps: Annotated[Whole, Opt(help="Steps between checkpoints. [eval-steps]")] = None,
    save_total_limit: Annotated[Whole, Opt(help="Checkpoints kept, besides the best. [2]")] = None,
    journal_only: Annotated[
        bool, Opt("--journal-only", help="Write no checkpoints and no model: 'zotune replay' rebuilds the weights.")
    ] = False,
    patience: Annotated[Whole, Opt(help="Stop after this many evaluations without a new best.")] = None,
    max_failures: Annotated[Whole, Opt(help="Dropped steps before the run stops with exit code 3. [10]")] = None,
    max_kl: Annotated[
        Real,
        Opt(help="Nats a token by which the model's own text may become less likely, in weights that are kept."),
    ] = None,
    guard: Annotated[
        Real, Opt(help="Paired standard errors by which tuned weights must win to be kept; 0: any gain. [2]")
    ] = None,
    preflight: Annotated[
        bool | None,
        Opt("--preflight/--no-preflight", help="Say from a few dozen forwards what to expect. [yes]"),
    ] = None,
    rollback: Annotated[
        Real,
        Opt(
            help="Paired standard errors below the start at which a run goes back to its best weights, with a quarter "
            "of the step; 0: never. [3]"
        ),
    ] = None,
    interpolate: Annotated[
        bool | None,
        Opt(
            "--interpolate/--no-interpolate",
            help="Assess weights between the start and the last, too. [where the optimizer wants it: auto]",
        ),
    ] = None,
    max_score_calls: Annotated[Whole, Opt(help="Budget in rows that the objective scores, held-out ones too.")] = None,
    score_concurrency: Annotated[Whole, Opt(help="Calls of a scorer at a time: exec, http, async. [1]")] = None,
    score_batch_size: Annotated[Whole, Opt(help="Rows a call of a scorer.")] = None,
    score_timeout: Annotated[Real, Opt(help="Seconds that a call of a scorer may take.")] = None,
    score_cache: Annotated[
        bool | None,
        Opt("--score-cache/--no-score-cache", help="Score equal rows once. [where each row is scored by itself]"),
    ] = None,
    output_dir: Annotated[Text, Opt(help="The run folder; with --run-name its parent. [runs/<objective>-<n>]")] = None,
    run_name: Annotated[Text, Opt(help="Name of the run folder in --output-dir. [runs]")] = None,
    resume_from_checkpoint: Annotated[Text, Opt(help="last, or a checkpoint folder; see also 'zotune resume'.")] = None,
    force: Annotated[
        bool, Opt("--force", help="Resume also with other versions, data or scoring; the journal says so.")
    ] = False,
    device: Annotated[Text, Opt(help="auto, cuda, mps or cpu.")] = None,
    dtype: Annotated[Text, Opt(help="auto, float32, bfloat16 or float16.")] = None,
    threads: Annotated[Whole, Opt(help="CPU threads. [torch's choice]")] = None,
    compile: Annotated[
        Text, Opt(help="Compile probes and steps: auto (where the run is long enough), on, off.")
    ] = None,
    probe: Annotated[
        Text,
        Opt(
            help="forward: perturb weights while a pass runs, without a copy of them; copy; together: a step's points "
            "in one pass, where few weights are tuned; auto."
        ),
    ] = None,
    parallel: Annotated[
        Text, Opt(help="What processes started by torchrun share: batch (rows), points (a step's points), auto.")
    ] = None,
    attn_implementation: Annotated[Text, Opt(help="eager, sdpa, flash_attention_2, …")] = None,
    device_map: Annotated[Text, Opt(help="auto: spread a large model over several devices, by accelerate.")] = None,
    quantize: Annotated[Text, Opt(help="4bit or 8bit base weights under an adapter, by bitsandbytes on a GPU.")] = None,
    trust_remote_code: Annotated[bool, Opt("--trust-remote-code", help="Run code that a hub model brings.")] = False,
    allow_pickle: Annotated[bool, Opt("--allow-pickle", help="Read pickle weights, which can run code.")] = False,
    model_revision: Annotated[Text, Opt(help="Branch, tag or commit on the hub.")] = None,
    config_file: Annotated[Text, Opt("--config", "-c", help="YAML with any of these options; flags win.")] = None,
    dry_run: Annotated[bool, Opt("--dry-run", help="Resolve, check and estimate; tune nothing.")] = False,
    as_json: Annotated[bool, Opt("--json", help="The result as JSON on standard output.")] = False,
    quiet: Annotated[bool, Opt("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Tune weights for an objective. Without --model and --dataset: the embedded encoder and data."""
    said = dict(locals())
    for name in (
        "objective",
        "weight",
        "objective_arg",
        "optimizer_arg",
        "column",
        "resume_from_checkpoint",
        "force",
        "config_file",
        "dry_run",
        "as_json",
        "quiet",
    ):
        said.pop(name)
    said |= {"trust_remote_code": trust_remote_code or None, "allow_pickle": allow_pickle or None}
    said |= {"journal_only": journal_only or None}
    said |= {"stop": tuple(stop or ()) or None, "lora_target_modules": tuple(lora_target_modules or ()) or None}
    said["objective"] = (objective[0] if len(objective) == 1 else tuple(objective)) if objective else None
    rate = float | Literal["auto"] | None
    said["learning_rate"] = options.convert(learning_rate, rate, "--learning-rate")
    said["eps"] = options.convert(eps, rate, "--eps")
    said["weight"] = options.convert(weight, tuple[float, ...], "--weight") if weight else None
    said["objective_args"] = options.pairs(objective_arg or [], "--objective-arg")
    said["optimizer_args"] = options.pairs(optimizer_arg or [], "--optimizer-arg")
    said["columns"] = options.pairs(column or [], "--column", "wanted=found")
    cfg = config.resolve(said, config_file)

    if not dry_run:
        run_to_the_end(cfg, resume_from_checkpoint, force, quiet, as_json)
        return
    from zotune.cli.terminal import Terminal
    from zotune.runs.estimate import estimate

    terminal = Terminal(quiet)
    try:
        _print_estimate(terminal, estimate(cfg, terminal), as_json)
    finally:
        terminal.close()


def _print_estimate(terminal: Any, found: dict[str, Any], as_json: bool) -> None:
    import yaml

    shown = {k: v for k, v in found["config"].items() if v not in (None, {}, [])}
    terminal.say("configuration:")
    for line in yaml.safe_dump(shown, sort_keys=False).splitlines():
        terminal.say(f"  {line}")
    memory = found["memory_mb"]
    terminal.say(f"model: {found['model']} ({found['head']}), {found['tuned_weights']:,} weights tuned")
    terminal.say(f"classes: {', '.join(found['classes'])}" if found["classes"] else f"task: {found['task']}")
    terminal.say(
        f"estimate: {found['steps']} steps, {found['evaluations']} forwards, about {found['seconds']:.3g} s; memory: "
        f"model {memory['model']} MB, probing {memory['probing']} MB, fields {memory['fields']} MB"
    )
    if as_json:
        print(json.dumps(found, indent=1))


@app.command("eval")
def evaluate(
    model: Annotated[
        Text, Opt("--model", "-m", help="Folder, run folder, adapter or hub id. [embedded MiniLM]")
    ] = None,
    dataset: Annotated[Text, Opt("--dataset", "-d", help="File, folder of splits or hub id. [embedded]")] = None,
    objective: Annotated[
        list[str] | None, Opt("--objective", "-o", help="What to score. Repeatable. [the task's, or accuracy]")
    ] = None,
    objective_arg: Annotated[list[str] | None, Opt(help="Option of the objective, name=value.")] = None,
    split: Annotated[Text, Opt(help="[test, else validation]")] = None,
    shots: Annotated[int, Opt(help="Training rows with their answers before every prompt, drawn by --seed.")] = 0,
    calibrate: Annotated[
        bool, Opt("--calibrate", help="Subtract what label words score without the row (surface forms).")
    ] = False,
    head: Annotated[Text, Opt(help="causal, masked, seq2seq, classification or embedding.")] = None,
    task: Annotated[Text, Opt(help="A preset, a YAML file, or classification, choice, generation.")] = None,
    template: Annotated[Text, Opt(help="Prompt with {column} places.")] = None,
    labels: Annotated[Text, Opt(help="Label words.")] = None,
    choices: Annotated[Text, Opt(help="Columns of the options.")] = None,
    column: Annotated[list[str] | None, Opt(help="wanted=found.")] = None,
    limit: Annotated[Whole, Opt(help="Rows at most.")] = None,
    max_length: Annotated[Whole, Opt(help="Tokens a row at most.")] = None,
    max_new_tokens: Annotated[Whole, Opt(help="Tokens to generate at most.")] = None,
    stop: Annotated[list[str] | None, Opt(help="Text that ends a completion.")] = None,
    temperature: Annotated[Real, Opt(help="0: greedy.")] = None,
    top_p: Annotated[Real, Opt(help="Sample from this much of the probability.")] = None,
    eval_batch_size: Annotated[Whole, Opt(help="Rows a forward at most. [64]")] = None,
    seed: Annotated[Whole, Opt(help="[0]")] = None,
    device: Annotated[Text, Opt(help="auto, cuda, mps or cpu.")] = None,
    dtype: Annotated[Text, Opt(help="auto, float32, bfloat16 or float16.")] = None,
    attn_implementation: Annotated[Text, Opt(help="eager, sdpa, flash_attention_2, …")] = None,
    device_map: Annotated[Text, Opt(help="auto: spread over several devices.")] = None,
    trust_remote_code: Annotated[bool, Opt("--trust-remote-code", help="Run code that a hub model brings.")] = False,
    allow_pickle: Annotated[bool, Opt("--allow-pickle", help="Read pickle weights, which can run code.")] = False,
    model_revision: Annotated[Text, Opt(help="Branch, tag or commit on the hub.")] = None,
    as_json: Annotated[bool, Opt("--json", help="JSON on standard output.")] = False,
) -> None:
    """Score a model, a run folder or an adapter, with a standard error."""
    said = dict(locals())
    for name in ("objective", "objective_arg", "column", "as_json"):
        said.pop(name)
    said |= {"trust_remote_code": trust_remote_code or None, "allow_pickle": allow_pickle or None}
    said |= {"stop": tuple(stop or ()) or None, "columns": options.pairs(column or [], "--column", "wanted=found")}
    said["objective_args"] = options.pairs(objective_arg or [], "--objective-arg")

    from zotune.cli.terminal import Terminal
    from zotune.runs import evaluate as measure
    from zotune.runs.summary import scored

    wanted: list[str | None] = [*objective] if objective else [None]
    found = measure.evaluate(objective=wanted, emit=Terminal(), **said)
    lines = [{"objective": name, "value": f.value, "error": f.error, "rows": f.rows} for name, f in found.items()]
    if as_json:
        print(json.dumps(lines if len(lines) > 1 else lines[0]))
        return
    for name, f in found.items():
        print(f"{name} {scored(f)} ({f.rows} rows)")


@ls_app.command("tasks")
def list_tasks(as_json: Annotated[bool, Opt("--json", help="JSON on standard output.")] = False) -> None:
    """Tasks that --task knows by name; your own is a file of the same form."""
    from zotune.data import presets

    found = [presets.load(name) for name in presets.names()]
    if as_json:
        print(
            json.dumps([{"name": t.name, "kind": t.kind, "about": t.about, "paper": t.paper} for t in found], indent=1)
        )
        return
    for t in found:
        print(f"{t.name:<10} {t.kind:<15} {t.about}")


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="Run folder or adapter folder.")],
    output_dir: Annotated[str, Opt("--output-dir", "-o", help="Where to; must not exist, or be empty.")],
    merge: Annotated[bool, Opt("--merge", help="Write LoRA into the base model's weights.")] = False,
    dtype: Annotated[Text, Opt(help="auto, float32, bfloat16 or float16.")] = None,
) -> None:
    """Copy the model of a run, without the run: weights, tokenizer and configuration."""
    from zotune.runs import export as exporting

    print(exporting.export(run, output_dir, merge=merge, dtype=dtype or "auto"))


app.command()(bench)
app.command()(check)
app.command()(compare)
app.command()(rate)
app.command()(resume)
app.command()(replay)
app.command()(verify)
app.command()(new)


@plugins_app.callback()
def plugins(
    context: typer.Context,
    as_json: Annotated[bool, Opt("--json", help="JSON on standard output.")] = False,
    check: Annotated[bool, Opt("--check", help="Import every target and report what fails.")] = False,
) -> None:
    """List the installed optimizers and objectives, and what could not be loaded."""
    if context.invoked_subcommand:
        return
    found = host.default()
    failures = [*found.failures, *(found.check() if check else [])]
    if as_json:
        listing = {**host.listing(found), "failures": [vars(f) for f in failures]}
        print(json.dumps(listing, indent=1))
    else:
        width = max((len(p.name) for p in found.plugins), default=0)
        for kind in host.KINDS:
            print(f"{kind}s")
            for p in found.plugins:
                if p.kind == kind:
                    print(f"  {p.name:<{width}}  {p.distribution} {p.version}  {p.summary}")
        if failures:
            print("failures")
            for f in failures:
                print(f"  {f.distribution}/{f.plugin} {f.version}: {f.reason}")
        elif check:
            print(f"all {len(found.plugins)} targets load")
    if check and failures:
        raise typer.Exit(1)


@plugins_app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="Name, or distribution/name.")],
    as_json: Annotated[bool, Opt("--json", help="JSON on standard output.")] = False,
) -> None:
    """Everything about one optimizer or objective: paper, cost, options."""
    found = host.default()
    matches = [p for p in found.plugins if name in (p.name, p.qualified)]
    if not matches:
        from zotune.errors import PluginError, nearest

        raise PluginError(f"no plugin is named {name!r}", hint=nearest(name, [p.name for p in found.plugins]))
    shown: list[dict[str, Any]] = []
    for p in matches:
        target = p.load()
        comments = plugin_options.comments(target)
        shown.append(
            {
                "name": p.name,
                "kind": p.kind,
                "distribution": p.distribution,
                "version": p.version,
                "summary": p.summary,
                "paper": p.paper,
                "forwards": p.forwards,
                "memory": p.memory,
                "options": [
                    {
                        "name": o.name,
                        "default": None if o.default is o.empty else o.default,
                        "meaning": comments.get(o.name, ""),
                    }
                    for o in plugin_options.parameters(target).values()
                ]
                if isinstance(target, type)
                else [],
            }
        )
    if as_json:
        print(json.dumps(shown, indent=1, default=str))
        return
    for entry in shown:
        print(f"{entry['name']} ({entry['kind']}, {entry['distribution']} {entry['version']})")
        for key in ("summary", "paper", "forwards", "memory"):
            if entry[key]:
                print(f"  {key + ':':<10} {entry[key]}")
        if entry["options"]:
            print("  options:")
            for o in entry["options"]:
                print(f"    {o['name']} = {o['default']}" + (f"   {o['meaning']}" if o["meaning"] else ""))


@app.command()
def env(as_json: Annotated[bool, Opt("--json", help="JSON on standard output.")] = False) -> None:
    """Versions, device and threads: what a bug report needs."""
    from zotune.runs import provenance

    found = provenance.environment()
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for key, value in found.items():
        if isinstance(value, dict):
            for name, version in value.items():
                print(f"{name:<14} {version or 'not installed'}")
        else:
            print(f"{key:<14} {value}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every ZotuneError becomes one line and its exit code."""
    debug = os.environ.get("ZOTUNE_DEBUG", "") not in ("", "0")
    try:
        app(arguments, standalone_mode=True)
    except ZotuneError as error:
        if debug:
            raise
        if not error.told:
            _complain(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        if debug:
            raise
        _complain("interrupted; zotune resume goes on with a run that has begun")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        from zotune.tasks.forward import out_of_memory

        if debug or not out_of_memory(error):
            raise
        _complain(f"out of memory: {str(error)[:200]} (a smaller model, --dtype bfloat16, or less --max-length)")
        sys.exit(1)
    except OSError as error:
        if debug:
            raise
        _complain(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        sys.exit(1)


def _complain(text: str) -> None:
    print("zotune: " + one_line(text), file=sys.stderr)


__all__ = ["UsageError", "app", "main"]
