"""Commands of the command line, built from option records.

`command` makes a click command from a function, a dataclass of the command's own flags and the run options that the
command takes. Names, conversion, ranges, hidden aliases and the help follow from the records. Knows how flags become
values; knows no particular command and no particular option.
"""

from __future__ import annotations

import inspect
import shutil
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from zotune.cli import help_page
from zotune.errors import OptionError, UsageError, nearest
from zotune.options import Option, mapping, options_of, pairs

HELP_NAMES = ["-h", "--help"]
CONTEXT: Mapping[str, Any] = {
    "help_option_names": HELP_NAMES,
    "token_normalize_func": lambda name: name.replace("_", "-"),  # --max_steps is --max-steps
}


class RecordCommand(click.Command):
    """A command whose parameters are option records."""

    def __init__(self, name: str, run: Callable[..., None], flags: type, settings: Mapping[str, Option]) -> None:
        self.own, self.settings, self.flags, self.run = options_of(flags, "Options"), settings, flags, run
        super().__init__(
            name,
            params=parameters(self.records),
            callback=self._call,
            help=inspect.cleandoc(run.__doc__ or ""),
            context_settings=dict(CONTEXT),
        )

    @property
    def records(self) -> list[Option]:
        """The records of all arguments and flags."""
        return [*self.settings.values(), *self.own.values()]

    def _call(self, **raw: Any) -> None:
        own = values(self.own, raw)
        for name, record in self.own.items():
            record.check(own.get(name))
        if self.settings:
            self.run(self.flags(**own), values(self.settings, raw))
        else:
            self.run(self.flags(**own))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # not every error of click knows its command
            raise

    def page(self, path: str) -> help_page.Page:
        """The help. path: the command with the commands above it."""
        arguments = "".join(f" {o.metavar}" for o in self.records if o.positional)
        return help_page.Page(f"{path} [OPTIONS]{arguments}", self.help or "", help_page.panels(self.records))

    def get_help(self, ctx: click.Context) -> str:
        return _rendered(self.page(ctx.command_path))


class RecordGroup(click.Group):
    """A group of commands in panels. run: what it does without a command; by default it prints its help."""

    def __init__(
        self,
        name: str,
        about: str,
        panels: Mapping[str, Sequence[click.Command]],
        run: Callable[..., None] | None = None,
        flags: type | None = None,
    ) -> None:
        self.panels, self.run, self.flags = panels, run, flags
        self.own = options_of(flags, "Options") if flags else {}
        super().__init__(
            name,
            commands=[c for commands in panels.values() for c in commands],
            params=parameters(list(self.own.values())),
            callback=self._call,
            invoke_without_command=run is not None,
            no_args_is_help=False,
            help=about,
            context_settings=dict(CONTEXT),
        )

    def _call(self, **raw: Any) -> None:
        if self.run and self.flags and not click.get_current_context().invoked_subcommand:
            self.run(self.flags(**values(self.own, raw)))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args or self.run else ["--help"])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in self.commands and not args[0].startswith("-"):
            raise UsageError(f"{ctx.command_path} has no command {args[0]!r:.80}", hint=nearest(args[0], self.commands))
        return super().resolve_command(ctx, args)

    def page(self, path: str) -> help_page.Page:
        """The help. path: the group with the groups above it."""
        options = " [OPTIONS]" if self.own else ""
        listed = [
            help_page.Panel(title, [(c.name or "", (c.help or "").partition("\n\n")[0]) for c in commands])
            for title, commands in self.panels.items()
        ]
        return help_page.Page(
            f"{path}{options} COMMAND [OPTIONS]", self.help or "", [*help_page.panels([*self.own.values()]), *listed]
        )

    def get_help(self, ctx: click.Context) -> str:
        return _rendered(self.page(ctx.command_path))


def _rendered(page: help_page.Page) -> str:
    """The page for where standard output goes: panels on a terminal, plain text elsewhere."""
    width = min(shutil.get_terminal_size((80, 24)).columns, help_page.WIDEST)
    return help_page.boxed(page, width) if sys.stdout.isatty() else help_page.plain(page, width)


def command(
    name: str, run: Callable[..., None], flags: type, settings: Mapping[str, Option] | None = None
) -> RecordCommand:
    """A command. run: called with an instance of `flags`, a dataclass of options, and, where there are settings, with
    those that the user gave, by name. The docstring of `run` is the help."""
    return RecordCommand(name, run, flags, settings or {})


def parameters(records: Sequence[Option]) -> list[click.Parameter]:
    """Parameters of click for the records; values arrive as text and are converted by the records."""
    params: list[click.Parameter] = []
    for o in records:
        if o.positional:
            count = -1 if o.many else 1
            params.append(click.Argument([o.name], metavar=o.metavar, type=str, nargs=count, required=o.required))
            continue
        params.append(_parameter(o, o.name, o.flags, hidden=False))
        params += [_parameter(o, _alias(o, i), (flag,), hidden=True) for i, flag in enumerate(o.aliases)]
    return params


def _parameter(o: Option, name: str, flags: Sequence[str], hidden: bool) -> click.Option:
    if not o.switch:
        return click.Option([name, *flags], type=str, multiple=o.many, default=None, hidden=hidden)
    if o.default is False:
        return click.Option([name, *flags], is_flag=True, default=False, hidden=hidden)
    return click.Option([name, f"{flags[0]}/--no-{flags[0][2:]}", *flags[1:]], default=None, hidden=hidden)


def _alias(o: Option, index: int) -> str:
    return f"{o.name}__{index}"


def values(records: Mapping[str, Option], raw: Mapping[str, Any]) -> dict[str, Any]:
    """The converted values of the flags that were given, by the options' names. Raises OptionError."""
    converted: dict[str, Any] = {}
    for name, o in records.items():
        if o.positional:
            converted |= {} if raw[name] is None else {name: raw[name]}
            continue
        by_flag = {o.flag: raw[name], **{flag: raw[_alias(o, i)] for i, flag in enumerate(o.aliases)}}
        off = o.default is False  # a switch that is not set
        set_flags = {flag: v for flag, v in by_flag.items() if v not in (None, ()) and not (off and v is False)}
        if len(set_flags) > 1:
            raise OptionError(f"{' and '.join(set_flags)} are names of one option: give one of them")
        for flag, value in set_flags.items():
            converted[name] = _converted(o, flag, value)
    return converted


def _converted(o: Option, flag: str, value: Any) -> Any:
    """A value of click as the option's type: text, a list of texts, or a bool."""
    if not o.many:
        return o.convert(value, flag)
    items = list(value)
    if typing.get_origin(o.type) is dict:
        return pairs(items, flag) if Any in typing.get_args(o.type) else mapping(items, flag, o.metavar)
    alone = typing.get_origin(o.type) is not tuple and len(items) == 1  # the type is a text or a list of texts
    return items[0] if alone else tuple(items)


def usage_error(error: click.UsageError) -> UsageError:
    """A usage error of click, in one line with the nearest name."""
    context = error.ctx
    path = context.command_path if context else "zotune"
    if isinstance(error, click.NoSuchOption) and context:
        visible = [p for p in context.command.params if isinstance(p, click.Option) and not p.hidden]
        names = [*HELP_NAMES, *(name for p in visible for name in (*p.opts, *p.secondary_opts))]
        return UsageError(f"{path} has no option {error.option_name!r:.80}", hint=_near(error.option_name, names, path))
    if isinstance(error, click.MissingParameter) and error.param:
        name = error.param.metavar or error.param.name
        return UsageError(f"{path}: the argument {name} is missing", hint=f"{path} --help shows how it is called")
    return UsageError(f"{path}: {error.format_message().rstrip('.')}", hint=f"{path} --help lists the options")


def _near(name: str, names: Sequence[str], path: str) -> str:
    hint = nearest(name, [n for n in names if n.startswith("--") == name.startswith("--")])
    return hint if hint.startswith("did you mean") else f"{path} --help lists the options"


__all__ = ["RecordCommand", "RecordGroup", "command", "usage_error"]
