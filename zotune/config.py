"""Options: from strings and files to checked values.

Plugin options are checked against the plugin's own dataclass (or constructor): unknown names are refused with the
nearest known one, values are converted by annotation, and what the plugin itself raises is reported with its name. The
run's configuration is one frozen record; a YAML file supplies what no flag says.

This module imports neither torch nor transformers.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from zotune.errors import OptionError, ZotuneError, nearest

LARGEST = 1024
"""Bits of a whole number in a YAML file."""

# -- plugin options ----------------------------------------------------------------------------------------------------


def parameters(target: Any) -> dict[str, inspect.Parameter]:
    """The options of a plugin target by name. Positional-only, *args and **kwargs are not options."""
    if not callable(target):
        return {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p for p in inspect.signature(target).parameters.values() if p.kind in named}


def build(target: Any, options: Mapping[str, Any], what: str) -> Any:
    """`target(**options)` with every option converted and checked. `what` names the plugin in messages.

    Raises OptionError: unknown option, value of the wrong type, or whatever the plugin refuses.
    """
    if not inspect.isclass(target):
        if options:
            raise OptionError(f"{what} takes no options, got {', '.join(sorted(options))}")
        return target
    known = parameters(target)
    hints = _hints(target)
    for name in options:
        if name not in known:
            raise OptionError(f"{what} has no option {name!r:.80}", hint=nearest(name, known))
    values = {k: convert(v, hints.get(k, Any), f"{what}: option {k!r}") for k, v in options.items()}
    try:
        return target(**values)
    except ZotuneError:
        raise
    except (TypeError, ValueError) as error:
        raise OptionError(f"{what}: {error}") from error


def comments(target: Any) -> dict[str, str]:
    """What a plugin's source says beside each option, its own or inherited: the comment on the field's line."""
    if inspect.isclass(target):
        classes = [c for c in reversed(target.__mro__) if c is not object]
        return {name: said for c in classes for name, said in _own_comments(c).items()}
    return _own_comments(target)


def _own_comments(target: Any) -> dict[str, str]:
    import io
    import tokenize

    try:
        source = inspect.getsource(target)
        tokens = list(tokenize.generate_tokens(io.StringIO(inspect.cleandoc(source)).readline))
    except (OSError, TypeError, tokenize.TokenError, IndentationError):
        return {}
    said = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    out: dict[str, str] = {}
    for t in tokens:
        name, colon, _ = t.line.strip().partition(":")
        if t.start[0] in said and colon and name.isidentifier():
            out.setdefault(name, said[t.start[0]])
    return out


def _hints(target: Any) -> dict[str, Any]:
    source = target if dataclasses.is_dataclass(target) else target.__init__
    try:
        return typing.get_type_hints(source)
    except Exception:  # annotations of a stranger's class may name what does not exist; then values stay as given
        return {}


def convert(value: Any, hint: Any, what: str) -> Any:
    """A string (or a YAML value) to the annotated type. Raises OptionError with the value."""
    got = f"got {value!r:.80}"
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or hint is inspect.Parameter.empty:
        return _guess(value)
    if origin in (typing.Union, types.UnionType):
        if type(None) in args and (value is None or (isinstance(value, str) and value.lower() == "none")):
            return None
        problems = []
        possible = [a for a in args if a is not type(None)]
        if str in possible and isinstance(value, str):  # a text is no list of its parts
            possible = [a for a in possible if typing.get_origin(a) not in (tuple, list, Sequence)]
        elif str in possible and len(possible) > 1 and isinstance(value, list | tuple):
            possible.remove(str)
        for option in sorted(possible, key=lambda a: a is str):
            try:
                return convert(value, option, what)
            except OptionError as error:
                problems.append(str(error))
        raise OptionError(problems[0])
    if origin is typing.Literal:
        for choice in args:
            if value == choice or str(value) == str(choice):
                return choice
        raise OptionError(f"{what} must be one of {', '.join(map(str, args))}, {got}")
    if origin is dict:
        if not isinstance(value, dict):
            raise OptionError(f"{what} must map names to values, {got}")
        return {str(k): v if args[1] is Any else convert(v, args[1], f"{what}: {k!r:.40}") for k, v in value.items()}
    if origin in (tuple, list, Sequence) or hint in (tuple, list):
        if not isinstance(value, str | list | tuple):
            raise OptionError(f"{what} must be a list, {got}")
        items = [s for s in value.split(",") if s] if isinstance(value, str) else list(value)
        inner = args[0] if args else Any
        items = [convert(i, inner, what) for i in items]
        return items if (origin or hint) is list else tuple(items)
    if hint is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "yes", "on", "1"):
            return True
        if str(value).lower() in ("false", "no", "off", "0"):
            return False
        raise OptionError(f"{what} must be true or false, {got}")
    if hint in (int, float):
        if isinstance(value, bool):
            raise OptionError(f"{what} must be a number, {got}")
        try:
            number = float(value)
            if math.isnan(number) or (hint is int and number != int(number)):
                raise ValueError
            if hint is float:
                return number
            exact = isinstance(value, int) or (isinstance(value, str) and value.lstrip("+-").isdecimal())
            return int(value) if exact else int(number)
        except (TypeError, ValueError, OverflowError):
            kind = "a whole number" if hint is int else "a number"
            raise OptionError(f"{what} must be {kind}, {got}") from None
    if hint is str:
        if value is None or isinstance(value, dict | list | tuple | set | bytes):
            raise OptionError(f"{what} must be text, {got}")
        return str(value)
    return value


def _guess(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def pairs(items: Sequence[str], flag: str) -> dict[str, str]:
    """`["k=v", …]` to a dict. Raises OptionError where there is no "="."""
    out = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise OptionError(f"{flag} takes name=value, got {item!r:.80}")
        out[key.strip().replace("-", "_")] = value
    return out


def columns(items: Sequence[str]) -> dict[str, str]:
    """`["wanted=found", …]` of `--column` to a dict. Raises OptionError."""
    out = {}
    for item in items:
        wanted, equals, found = item.partition("=")
        if not equals or not wanted or not found:
            raise OptionError(f"--column takes wanted=found, got {item!r:.80}")
        out[wanted] = found
    return out


# -- the run's configuration -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunConfig:
    """Everything that a run is made of. Flags of `zotune fit` and keys of a `--config` file have these names."""

    model: str | None = None
    dataset: str | None = None
    objective: str | tuple[str, ...] = "cross-entropy"
    weight: tuple[float, ...] = ()
    objective_args: dict[str, Any] = field(default_factory=dict)
    direction: str | None = None
    optimizer: str = "auto"
    optimizer_args: dict[str, Any] = field(default_factory=dict)
    learning_rate: float | Literal["auto"] | None = None
    eps: float | Literal["auto"] | None = None
    head: str = "auto"
    task: str | None = None
    template: str | None = None
    labels: str | None = None
    choices: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    train_split: str = "train"
    eval_split: str | None = None
    test_split: str | None = None
    limit: int | None = None
    train_size: int | None = None
    k_per_class: int | None = None
    max_length: int | None = None
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    samples_per_prompt: int = 1
    system: str | None = None
    tune: str = "auto"
    embeddings: bool = True
    init: str = "none"
    peft: str = "none"
    lora_r: int = 8
    lora_alpha: int = 16
    lora_target_modules: tuple[str, ...] = ()
    prefix_tokens: int = 5
    batch_size: int | None = None
    stratify: bool | None = None
    smooth: int = 64
    eval_batch_size: int = 64
    max_steps: int | None = None
    max_evals: int | None = None
    max_time: float | None = None
    seed: int = 0
    eval_steps: int | None = None
    save_steps: int | None = None
    save_total_limit: int = 2
    journal_only: bool = False
    patience: int | None = None
    max_failures: int = 10
    max_kl: float | None = None
    guard: float = 2.0
    preflight: bool = True
    rollback: float = 3.0
    interpolate: bool | None = None
    max_score_calls: int | None = None
    score_concurrency: int | None = None
    score_batch_size: int | None = None
    score_timeout: float | None = None
    score_cache: bool | None = None
    output_dir: str | None = None
    run_name: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None
    compile: str = "auto"
    probe: str = "auto"
    parallel: str = "auto"
    attn_implementation: str | None = None
    device_map: str | None = None
    quantize: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    model_revision: str | None = None

    @property
    def goal(self) -> str:
        """The objective as one name: several joined by +."""
        return self.objective if isinstance(self.objective, str) else " + ".join(self.objective)

    def __post_init__(self) -> None:
        if self.direction not in (None, "maximize", "minimize"):
            raise OptionError(f"--direction must be maximize or minimize, got {self.direction!r}")
        for name, value, known in (
            ("compile", self.compile, ("auto", "on", "off")),
            ("probe", self.probe, ("auto", "forward", "copy", "together")),
            ("parallel", self.parallel, ("auto", "batch", "points")),
            ("init", self.init, ("none", "linear-probe")),
            ("peft", self.peft, ("none", "lora", "prefix")),
        ):
            if value not in known:
                raise OptionError(f"--{name} must be {', '.join(known[:-1])} or {known[-1]}, got {value!r}")
        positive = ("limit", "max_length", "batch_size", "eval_batch_size", "max_steps", "max_evals", "max_time")
        more = ("train_size", "k_per_class", "max_new_tokens", "lora_r", "lora_alpha", "prefix_tokens")
        scores = ("samples_per_prompt", "max_score_calls", "score_concurrency", "score_batch_size", "score_timeout")
        last = ("max_kl", "eval_steps", "save_steps", "save_total_limit", "patience", "threads")
        for name in (*positive, *more, *scores, *last):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise OptionError(f"--{name.replace('_', '-')} must be positive, got {value}")
        for name, step in (("learning-rate", self.learning_rate), ("eps", self.eps)):
            if step not in (None, "auto") and not (isinstance(step, int | float) and math.isfinite(step)):
                raise OptionError(f"--{name} must be a finite number or auto, got {step!r}")
        if self.smooth < 0:
            raise OptionError(f"--smooth must be 0 (off) or more, got {self.smooth}")
        if not self.guard >= 0:
            raise OptionError(f"--guard must be 0 (any gain) or more standard errors, got {self.guard}")
        if not self.rollback >= 0:
            raise OptionError(f"--rollback must be 0 (never) or more standard errors, got {self.rollback}")
        if not self.temperature >= 0:
            raise OptionError(f"--temperature must be 0 (greedy) or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise OptionError(f"--top-p must be in (0, 1], got {self.top_p}")
        if self.samples_per_prompt > 1 and self.temperature == 0:
            raise OptionError("--samples-per-prompt: greedy completions are all the same", hint="--temperature 1")
        if self.quantize and self.peft == "none":
            raise OptionError(
                "--quantize freezes the weights in few bits: only an adapter on top can be tuned", hint="--peft lora"
            )
        if self.device_map and self.device != "auto":
            raise OptionError(f"--device-map {self.device_map} and --device {self.device} exclude each other")
        if self.max_failures < 0:
            raise OptionError(f"--max-failures must be 0 or more, got {self.max_failures}")


def resolve(flags: Mapping[str, Any], file: str | None) -> RunConfig:
    """Flags (None: not given) over the YAML file over the defaults. Raises OptionError with the nearest name."""
    given = {k: v for k, v in flags.items() if v is not None and v != {}}
    hints = typing.get_type_hints(RunConfig)
    values: dict[str, Any] = {}
    for key, value in (read_yaml(file) if file else {}).items():
        name = str(key).replace("-", "_")
        if name not in hints:
            raise OptionError(f"{file}: unknown key {key!r:.80}", hint=nearest(name, hints))
        values[name] = convert(value, hints[name], f"{file}: {key}")
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            value = {**values[key], **value}
        values[key] = value
    return RunConfig(**values)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A mapping from a YAML file; `1e-5` is a number here, which plain YAML 1.1 reads as text.

    Only plain values: a tag makes no object, and there are no aliases, by which a few lines can stand for gigabytes or
    hold themselves. Raises OptionError.
    """
    import re

    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases are not read: write the value out")
            return super().compose_node(parent, index)

        def construct_number(self, node: Any) -> int:
            found: int = super().construct_yaml_int(node)
            if found.bit_length() > LARGEST:
                raise yaml.YAMLError("a whole number of that many digits is not read")
            return found

    exponent = re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_number)
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", exponent, list("-+.0123456789"))
    try:
        data = yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
    except RecursionError:
        raise OptionError(f"{path} cannot be read: nested too deeply") from None
    except Exception as error:  # of impossible values (a 99th day, !!bool x) its constructors raise what they like
        said = " ".join(str(error).split())[:300] if isinstance(error, OSError | ValueError | yaml.YAMLError) else ""
        raise OptionError(f"{path} cannot be read: {said or 'a value is not what its tag says'}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise OptionError(f"{path} must hold a mapping of options, got a {type(data).__name__}")
    return data


def as_yaml(values: Mapping[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    return text


def write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(as_yaml(values), encoding="utf-8")


__all__ = ["RunConfig", "as_yaml", "build", "convert", "pairs", "parameters", "read_yaml", "resolve", "write_yaml"]
