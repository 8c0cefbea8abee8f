"""`zotune plugins`: the installed optimizers and objectives, and what could not be loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zotune import plugin_options, plugins
from zotune.cli.command import RecordGroup, command
from zotune.cli.shared_flags import json_flag
from zotune.errors import PluginError, nearest
from zotune.options import argument, option
from zotune.text import one_line, plain


@dataclass(frozen=True)
class PluginsFlags:
    """What `plugins` takes."""

    as_json: bool = json_flag()
    check: bool = option(False, "Import every target and report what fails. Exit code 1 on a failure.", group="Output")


@dataclass(frozen=True)
class ShowFlags:
    """What `plugins show` takes."""

    name: str = argument("Name, or distribution/name.", "NAME")
    as_json: bool = json_flag()


def listed(flags: PluginsFlags) -> None:
    """List the installed optimizers and objectives, and what could not be loaded."""
    host = plugins.default()
    failures = [*host.failures, *(host.check() if flags.check else [])]
    if flags.as_json:
        print(json.dumps({**plugins.listing(host), "failures": [vars(f) for f in failures]}, indent=1))
    else:
        name_width = max((len(p.name) for p in host.plugins), default=0)
        source_width = max((len(f"{p.distribution} {p.version}") for p in host.plugins), default=0)
        for kind in plugins.KINDS:
            print(f"{kind}s")
            for p in (p for p in host.plugins if p.kind == kind):
                source = f"{p.distribution} {p.version}"
                print(plain(f"  {p.name:<{name_width}}  {source:<{source_width}}  {one_line(p.summary)}"))
        if failures:
            print("failures")
            for f in failures:
                print("  " + one_line(f"{f.distribution}/{f.plugin} {f.version}: {f.reason}"))
        elif flags.check:
            print(f"all {len(host.plugins)} targets load")
    if flags.check and failures:
        raise SystemExit(1)


def show(flags: ShowFlags) -> None:
    """Show one optimizer or objective: paper, cost and options."""
    host = plugins.default()
    matches = [p for p in host.plugins if flags.name in (p.name, p.qualified)]
    if not matches:
        raise PluginError(
            f"no plugin is named {flags.name!r:.80}", hint=nearest(flags.name, [p.name for p in host.plugins])
        )
    entries = [described(p) for p in matches]
    if flags.as_json:
        print(json.dumps(entries, indent=1, default=str))
        return
    for entry in entries:
        for line in lines(entry):
            print(plain(line.replace("\n", " ")))


def described(plugin: plugins.Plugin) -> dict[str, Any]:
    """Everything that is known of a plugin, as JSON."""
    target = plugin.load()
    comments = plugin_options.comments(target)
    options = plugin_options.parameters(target).values() if isinstance(target, type) else []
    return {
        "name": plugin.name,
        "kind": plugin.kind,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "summary": plugin.summary,
        "paper": plugin.paper,
        "forwards": plugin.forwards,
        "memory": plugin.memory,
        "options": [
            {
                "name": o.name,
                "default": None if o.default is o.empty else o.default,
                **dict(zip(("meaning", "source"), split_source(comments.get(o.name, "")), strict=True)),
            }
            for o in options
        ],
    }


def split_source(comment: str) -> tuple[str, str]:
    """The comment beside an option as its meaning and its source, which may stand in brackets at the end: "η: learning
    rate [Table 6]". A source "ours" is an option that the paper does not have."""
    match = re.fullmatch(r"(.*\S)\s*\[([^\[\]]+)\]", comment)
    if match is None:
        return comment, ""
    return match[1], "not in the paper" if match[2] == "ours" else match[2].replace("ours; ", "not in the paper; ")


HEADINGS = {"summary": "summary", "paper": "paper", "forwards": "evaluations", "memory": "memory"}
"""Keys of `described` and how they are called on the screen."""


def lines(entry: Mapping[str, Any]) -> list[str]:
    """A plugin as text."""
    out = [f"{entry['name']} ({entry['kind']}, {entry['distribution']} {entry['version']})"]
    out += [f"  {f'{title}:':<13}{entry[key]}" for key, title in HEADINGS.items() if entry[key]]
    if entry["options"]:
        out.append("  options:")
        shown = [(f"{o['name']} = {o['default']}", o["meaning"], o["source"]) for o in entry["options"]]
        width, long = (max(len(x[k]) for x in shown) for k in (0, 1))
        for option, meaning, source in shown:
            meaning = f"{meaning:<{long}}" if source else meaning
            out.append(f"    {option:<{width}}  {meaning}  {source}".rstrip())
    return out


COMMAND = RecordGroup(
    "plugins",
    "List, show and check the installed optimizers and objectives.",
    {"Commands": [command("show", show, ShowFlags)]},
    run=listed,
    flags=PluginsFlags,
)

__all__ = ["COMMAND", "described", "lines", "split_source"]
