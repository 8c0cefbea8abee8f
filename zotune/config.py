"""The configuration of a run: groups of options, and one frozen record of all of them.

Each field declares its type, default, help, range and names once; the flags of the commands, the keys of a `--config`
file and docs/command-line.md follow from it. Knows what an option is called and which values it takes; what an option
does is known by the folder that reads it. Imports neither torch nor transformers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from zotune.errors import OptionError, nearest
from zotune.options import Option, option, options_of
from zotune.yaml_file import read_yaml

Number = float | Literal["auto"] | None


@dataclass(frozen=True)
class ModelOptions:
    """The model and how its files are read."""

    model: str | None = option(
        None,
        "Model directory, run directory, adapter or hub id.",
        "--model",
        "-m",
        aliases=["--model-name-or-path"],
        first=1,
        shown="embedded MiniLM",
    )
    model_revision: str | None = option(None, "Branch, tag or commit on the hub.")
    head: str = option(
        "auto",
        "Output of the model: causal, masked, seq2seq, classification or embedding.",
        shown="inferred from the model's files and the task",
    )
    quantize: str | None = option(
        None,
        "Quantize the base weights under an adapter: 4bit or 8bit by bitsandbytes; int8, int4 or fp8 by torchao, also "
        "on a CPU. Without --peft, --peft lora-fa.",
    )
    attn_implementation: str | None = option(None, "Attention: eager, sdpa, flash_attention_2, …")
    trust_remote_code: bool = option(False, "Run code that a hub model ships.")
    allow_pickle: bool = option(False, "Read pickled weights, which can run code.")


@dataclass(frozen=True)
class DataOptions:
    """The data set, its splits and its columns."""

    dataset: str | None = option(
        None,
        "File, directory of splits or hub id.",
        "--dataset",
        "-d",
        aliases=["--dataset-name"],
        first=2,
        shown="embedded",
    )
    columns: dict[str, str] = option(
        {}, "Read a field from another column, such as text=sentence. Repeatable.", "--column", metavar="FIELD=COLUMN"
    )
    train_split: str = option("train", "Split or file to train on.", aliases=["--dataset-train-split"])
    eval_split: str | None = option(
        None,
        "Split or file of the validation set, which selects the best weights.",
        aliases=["--dataset-test-split"],
        shown="validation",
    )
    test_split: str | None = option(None, "Split or file of the test set.", shown="test")
    limit: int | None = option(None, "Use at most this many training rows.", above=0)
    train_size: int | None = option(None, "Draw exactly this many training rows.", above=0)
    k_per_class: int | None = option(None, "Draw this many training rows of each class.", above=0)
    validation_rows: int | None = option(
        None, "Draw at most this many validation rows.", above=0, shown="as the budget affords, at least 300"
    )
    test_rows: int | None = option(
        None, "Draw at most this many test rows.", above=0, shown="as the budget affords, at least 300"
    )


@dataclass(frozen=True)
class TaskOptions:
    """How a record becomes a prompt and an answer."""

    task: str | None = option(
        None,
        "A preset (see 'zotune ls tasks'), a YAML file, or classification, choice or generation.",
        first=4,
        shown="from the data",
    )
    template: str | None = option(
        None, "Prompt template with {column} placeholders, and {label}, {choice} or {completion} for the answer."
    )
    labels: str | tuple[str, ...] | None = option(
        None, "Label words: a,b,c in class order, or value=word,…; quote a word with a comma: '\"yes, sir\",no'."
    )
    choices: str | None = option(None, "Columns of the options of multiple choice, or one column that holds a list.")
    system: str | None = option(None, "System message of every chat.")
    chat_template: str = option(
        "auto",
        "Chat template around plain prompts: auto (text generation by a model that has one), on (label words and "
        "choices too) or off. Messages always get it.",
        choices=["auto", "on", "off"],
    )
    chat_args: dict[str, Any] = option(
        {},
        "Argument of the chat template, such as enable_thinking=false. Repeatable.",
        "--chat-arg",
        metavar="NAME=VALUE",
    )
    shots: int = option(0, "Training rows with their answers before every prompt, drawn by --seed.", least=0)
    calibrate: bool = option(
        False, "Subtract the score of the label words without the row, which is a bias of surface forms."
    )
    max_length: int | None = option(
        None,
        "Maximum tokens per row.",
        aliases=["--max-seq-length"],
        above=0,
        shown="256; choice 512, generation 1024; more for longer rows if the model reads more",
    )


@dataclass(frozen=True)
class GenerationOptions:
    """How completions are generated."""

    max_new_tokens: int | None = option(
        None,
        "Maximum tokens to generate.",
        aliases=["--max-completion-length"],
        above=0,
        shown="64, or the task's",
    )
    stop: tuple[str, ...] = option((), "Text that ends a completion. Repeatable.")
    temperature: float = option(0.0, "Sampling temperature. 0: greedy.", least=0, zero="greedy")
    top_p: float = option(1.0, "Sample from the most probable tokens that hold this much probability.", above=0, most=1)
    top_k: int = option(0, "Sample from this many most probable tokens. 0: all.", least=0, zero="all")
    min_p: float = option(
        0.0, "Sample from tokens with at least this share of the largest probability.", least=0, most=1, zero="all"
    )
    repetition_penalty: float = option(
        1.0, "Divide the scores of tokens that prompt or completion have already by this number. 1: off.", above=0
    )
    samples_per_prompt: int = option(
        1, "Completions sampled per training prompt.", aliases=["--num-generations"], above=0
    )


@dataclass(frozen=True)
class TuningOptions:
    """Which weights are tuned."""

    tune: str = option(
        "auto", "Weights to tune: all, auto, head, value, bias, norm, bias+norm, last:N or a regular expression."
    )
    embeddings: bool = option(True, "Tune embeddings too, where --tune selects them.")
    new_head: bool = option(
        False, "Draw a new classification head for the classes of the data, where the model has a head of its own."
    )
    init: str = option(
        "auto",
        "Initial head. linear-probe: logistic regression; auto: where that has the better validation score.",
        choices=["auto", "none", "linear-probe"],
    )
    peft: str = option(
        "none",
        "Tune an adapter on frozen weights: none, lora, prefix, or lora-fa, whose A stays as it was drawn.",
        first=6,
        choices=["none", "lora", "prefix", "lora-fa"],
    )
    lora_r: int = option(8, "Rank of LoRA.", above=0)
    lora_alpha: int = option(16, "Scale of LoRA, which is divided by its rank.")
    lora_target_modules: tuple[str, ...] = option(
        (), "Names of the modules that get LoRA. Repeatable.", shown="query and value; lora-fa: all of a block"
    )
    prefix_tokens: int = option(5, "Virtual tokens of a prefix.", above=0)
    prefix_init: str = option(
        "tokens",
        "How a prefix starts: from the keys and values of real tokens, or from random numbers.",
        choices=["tokens", "random"],
    )


@dataclass(frozen=True)
class OptimizerOptions:
    """The optimizer and its batches."""

    optimizer: str = option("auto", "Name or file.py:Class; see 'zotune plugins'.", first=5)
    optimizer_args: dict[str, Any] = option(
        {}, "Option of the optimizer. Repeatable.", "--optimizer-arg", metavar="NAME=VALUE"
    )
    learning_rate: Number = option(
        None,
        "Learning rate of the optimizer. auto: calibrate it with a few evaluations before the first step.",
        "--learning-rate",
        "--lr",
        shown="the optimizer's",
    )
    eps: Number = option(
        None, "Perturbation scale of the optimizer. auto: calibrate it likewise.", shown="the optimizer's"
    )
    batch_size: int | None = option(
        None, "Training rows per batch.", aliases=["--per-device-train-batch-size"], above=0, shown="16"
    )
    stratify: bool | None = option(
        None, "Draw batches with the classes in proportion.", shown="yes for --optimizer auto"
    )
    perturb: str = option(
        "auto",
        "How weights are perturbed. population: a direction for every row, where the optimizer asks for it; forward: "
        "during a forward pass, without a copy of them; copy: in a copy; joint: all points of a step in one pass.",
        aliases=["--probe"],
        old_values={"together": "joint"},
        choices=["auto", "population", "forward", "copy", "joint"],
    )
    pass_rows: int | None = option(
        None,
        "Rows of a population in a forward pass at most; processes share whole passes.",
        above=1,
        shown="128; on a GPU --eval-batch-size where that is more",
    )
    rounding: int = option(
        2,
        "Version of the stochastic rounding of bfloat16 and float16 weights. 2 keeps updates of 1e-8 of a weight on "
        "average; 1 repeats runs of earlier versions.",
        least=1,
        most=2,
    )
    seed: int = option(0, "Random seed of data order, noise and sampling.", first=8)


@dataclass(frozen=True)
class BudgetOptions:
    """When a run ends."""

    max_evals: int | None = option(
        None,
        "Budget in evaluations: one batch at one point.",
        first=7,
        above=0,
        shown="2400; for generated text at most half an hour of them",
    )
    max_steps: int | None = option(None, "Budget in tuning steps.", above=0)
    max_time: float | None = option(
        None,
        "Budget in time of tuning: seconds, or 90s, 10m, 1h30m. A batch is timed once; the evaluations that fit are "
        "planned and recorded.",
        above=0,
        time=True,
    )
    max_score_calls: int | None = option(
        None,
        "Budget in rows that the objective scores, those of the validation and test sets included. A row that is "
        "scored again in other sets, which is done where an objective declares fast=True, counts once.",
        above=0,
    )
    patience: int | None = option(
        None,
        "Early stopping: stop after this many validations without a new best score.",
        aliases=["--early-stopping-patience"],
        above=0,
    )
    max_failures: int = option(
        10, "Dropped steps after which the run fails with exit code 3: the objective failed on them.", least=0
    )


@dataclass(frozen=True)
class ScoringOptions:
    """The objective, how it is called, and which weights it lets through."""

    objective: str | tuple[str, ...] = option(
        "cross-entropy",
        "Name, name:text, file.py:function or package.module:function. Repeatable: several are summed.",
        "--objective",
        "-o",
        aliases=["--reward-funcs"],
        first=3,
    )
    objective_args: dict[str, Any] = option(
        {},
        "Option of the objective; objective.name=value for one of several. Repeatable.",
        "--objective-arg",
        metavar="NAME=VALUE",
    )
    weight: tuple[float, ...] = option(
        (), "Weights of several objectives, such as 1,0.1.", aliases=["--reward-weights"], shown="1 each"
    )
    direction: str | None = option(
        None,
        "Whether larger or smaller values are better.",
        choices=["maximize", "minimize"],
        shown="declared by the objective",
    )
    smooth: int = option(
        64,
        "Training signal of a metric of predictions: its mean over this many sampled sets of predictions. 0: off.",
        least=0,
        zero="off",
    )
    score_concurrency: int | None = option(
        None, "Concurrent calls of a scorer (exec, http, async).", above=0, shown="1"
    )
    score_batch_size: int | None = option(None, "Rows per call of a scorer.", above=0)
    score_timeout: float | None = option(None, "Seconds that one call of a scorer may take.", above=0)
    score_cache: bool | None = option(
        None, "Score equal rows only once.", shown="yes, where rows are scored one by one"
    )
    eval_batch_size: int = option(
        64, "Maximum rows per forward pass.", aliases=["--per-device-eval-batch-size"], above=0
    )
    eval_steps: int | None = option(None, "Steps between validations.", above=0, shown="a tenth of the run")
    max_kl: float | None = option(
        None,
        "Maximum KL divergence of the kept weights from the base model, in nats per token of generated text.",
        least=0,
        zero="no limit",
        shown="0.3 for generated text",
    )
    kl_estimate: str = option(
        "expected",
        "Estimate of the KL divergence from the base model. expected: over the likely tokens at each position of 12 "
        "texts; sampled: of the tokens of 32 texts alone, as in earlier versions.",
        choices=["expected", "sampled"],
    )
    guard: float = option(
        2.0,
        "Keep tuned weights only if they win on the test set by this many paired standard errors. 0: any gain.",
        least=0,
        zero="any gain",
    )
    rollback: float = option(
        3.0,
        "Restore the best checkpoint and quarter the step size when the validation score falls this many standard "
        "errors below the base model. 0: never.",
        least=0,
        zero="never",
    )
    interpolate: bool | None = option(
        None,
        "Evaluate weights interpolated between the base model and the last step too.",
        shown="yes for --optimizer auto",
    )
    preflight: bool = option(True, "Estimate the training signal with a few dozen evaluations before tuning.")


@dataclass(frozen=True)
class OutputOptions:
    """The run directory."""

    output_dir: str | None = option(
        None,
        "Run directory; with --run-name its parent.",
        first=9,
        shown="runs/<objective>-<n>",
    )
    run_name: str | None = option(None, "Name of the run directory inside --output-dir.", shown="none")
    save_steps: int | None = option(None, "Steps between checkpoints.", above=0, shown="as --eval-steps")
    save_total_limit: int = option(2, "Checkpoints to keep, besides the best.", above=0)
    journal_only: bool = option(
        False, "Write no checkpoints and no model; 'zotune replay' rebuilds the weights from the journal."
    )
    push_to_hub: str | None = option(
        None,
        "Upload model, model card and journal to this id on the hub at the end; see 'zotune push'.",
        metavar="ID",
    )
    hub_private: bool = option(False, "Create the repository on the hub as a private one.")
    report_to: tuple[str, ...] = option(
        (),
        "Tracker of steps, evaluations and samples: tensorboard, trackio, wandb, a plugin or file.py:Class; text after "
        "a colon is its first option. Repeatable.",
        metavar="NAME",
    )


@dataclass(frozen=True)
class RuntimeOptions:
    """The machine."""

    device: str = option("auto", "Device: auto, cuda, mps or cpu.")
    dtype: str = option("auto", "Type of the weights: auto, float32, bfloat16 or float16.", aliases=["--torch-dtype"])
    threads: int | None = option(None, "CPU threads.", above=0, shown="chosen by torch")
    compile: str = option(
        "auto",
        "Compile perturbations, updates and the directions of single rows: auto (where it pays), on or off.",
        choices=["auto", "on", "off"],
    )
    parallel: str = option(
        "auto",
        "What processes started by torchrun share: batch (rows of a batch), points (points of a step) or auto.",
        choices=["auto", "batch", "points"],
    )
    engine: str = option(
        "transformers",
        "Inference engine that generates completions: transformers (the loaded model itself), vllm, a plugin or "
        "file.py:Class.",
    )
    engine_args: dict[str, Any] = option({}, "Option of the engine. Repeatable.", "--engine-arg", metavar="NAME=VALUE")
    process_timeout: float | None = option(
        None,
        "Time that a process waits for another before the run ends and names it: seconds, or 90s, 10m, 1h30m.",
        above=0,
        time=True,
        shown="a week, for a scorer or a person may be slow",
    )
    device_map: str | None = option(None, "auto: spread a large model over several devices with accelerate.")


GROUPS: Final[Mapping[str, type]] = {
    "Model": ModelOptions,
    "Data": DataOptions,
    "Task": TaskOptions,
    "Generation": GenerationOptions,
    "Tuned weights": TuningOptions,
    "Optimizer": OptimizerOptions,
    "Budget": BudgetOptions,
    "Objective and validation": ScoringOptions,
    "Output": OutputOptions,
    "Runtime": RuntimeOptions,
}
"""The groups by the titles of their panels."""


@dataclass(frozen=True)
class RunConfig(
    RuntimeOptions,
    OutputOptions,
    ScoringOptions,
    BudgetOptions,
    OptimizerOptions,
    TuningOptions,
    GenerationOptions,
    TaskOptions,
    DataOptions,
    ModelOptions,
):
    """All options of a run. Flags of `zotune fit`, keys of a `--config` file and arguments of `zotune.fit` have these
    names. Dataclasses collect fields from the last base to the first, so that the model stands first.

    Raises OptionError for values that are out of range, no choice, or exclude each other.
    """

    @property
    def objective_name(self) -> str:
        """The objective as one name: several joined by +."""
        return self.objective if isinstance(self.objective, str) else " + ".join(self.objective)

    def __post_init__(self) -> None:
        for name, record in run_options().items():
            record.check(getattr(self, name))
        for record, number in (
            (run_options()[n], v) for n, v in (("learning_rate", self.learning_rate), ("eps", self.eps))
        ):
            if number not in (None, "auto") and not (isinstance(number, int | float) and math.isfinite(number)):
                raise OptionError(f"{record.flag} must be a finite number or auto, got {number!r:.80}")
        if self.samples_per_prompt > 1 and self.temperature == 0:
            raise OptionError("--samples-per-prompt: greedy completions are all the same", hint="--temperature 1")
        for flag, value in (("--top-k", self.top_k), ("--min-p", self.min_p)):
            if value and self.temperature == 0:
                raise OptionError(f"{flag} {value:g}: greedy completions are not sampled", hint="--temperature 1")
        if self.push_to_hub and self.journal_only:
            raise OptionError("--push-to-hub uploads a model, and --journal-only writes none")
        if self.device_map and self.device != "auto":
            raise OptionError(f"--device-map {self.device_map} and --device {self.device} exclude each other")


@functools.cache
def run_options() -> Mapping[str, Option]:
    """The records of all options of a run, by name, group after group."""
    return {name: o for title, group in GROUPS.items() for name, o in options_of(group, title).items()}


def resolve(values: Mapping[str, Any], file: str | None) -> RunConfig:
    """Values (None: not given) over the YAML file over the defaults. Mappings in both are merged.

    Raises OptionError; an unknown name comes with the nearest one.
    """
    merged = _named(read_yaml(file), f"{file}: ", "unknown key") if file else {}
    arguments = {key: value for key, value in values.items() if value is not None and value != {}}
    for name, value in _named(arguments, "", "unknown option").items():
        if isinstance(value, dict) and isinstance(merged.get(name), dict):
            value = {**merged[name], **value}
        merged[name] = value
    return RunConfig(**merged)


def _named(values: Mapping[Any, Any], source: str, unknown: str) -> dict[str, Any]:
    """Converted values by the present names of their options. source: begins every message."""
    options, names = run_options(), _keys()
    converted: dict[str, Any] = {}
    for key, value in values.items():
        name = names.get(str(key).replace("-", "_"))
        if name is None:
            hint = nearest(str(key).replace("-", "_"), options)
            listed = "zotune fit --help lists the options"  # too many for one line
            raise OptionError(f"{source}{unknown} {key!r:.80}", hint=hint if "mean" in hint else listed)
        if name in converted:
            raise OptionError(f"{source}{key} is given twice: it is another name of {name}")
        converted[name] = options[name].convert(value, f"{source}{key}" if source else options[name].flag)
    return converted


@functools.cache
def _keys() -> Mapping[str, str]:
    """The option's name by each of its keys, hidden ones included."""
    return {key: name for name, o in run_options().items() for key in o.keys}


def select(*names: str, **helps: str) -> dict[str, Option]:
    """The records of some options of a run, in the order of the names. helps: help texts that differ, by name."""
    return {n: replace(run_options()[n], help=helps.get(n, run_options()[n].help)) for n in names}


__all__ = ["GROUPS", "RunConfig", "resolve", "run_options", "select"]
