"""A hook of mkdocs: orders the pages, and generates the command line and the list of plugins from the program."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import command_line_page

from zotune import plugins
from zotune.cli.plugins_command import described

SECTIONS = {
    "Start": ("README", "quickstart", "report", "python"),
    "What goes in": ("data", "tasks", "models", "objectives"),
    "Tuning": ("optimizers", "cost", "processes", "scale", "gpu"),
    "Reference": ("command-line", "plugin-list", "plugins", "glossary"),
    "Promises": ("reliability", "security", "versioning", "log"),
}
"""Titles of sections and their pages; every other page stands in the last section."""
PLUGIN_LIST = "plugin-list.md"


def on_files(files: Any, config: Any) -> Any:
    """Add the list of plugins."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, PLUGIN_LIST, content=plugin_list()))
    listed = [page for pages in SECTIONS.values() for page in pages]
    present = [f.src_uri.removesuffix(".md") for f in files.documentation_pages()]
    rest = [page for page in present if page not in listed]
    nav = {title: [f"{page}.md" for page in pages if page in present] for title, pages in SECTIONS.items()}
    nav["Promises"] += [f"{page}.md" for page in sorted(rest)]
    config["nav"] = [{title: pages} for title, pages in nav.items() if pages]
    return files


def on_page_read_source(page: Any, config: Any) -> str | None:
    """The command line page as the program has it now."""
    return command_line_page.page() if page.file.src_uri == "command-line.md" else None


def plugin_list() -> str:
    """Every built-in optimizer, objective and tracker with its options, as Markdown."""
    parts = ["# Built-in plugins\n\nGenerated from the program: `zotune plugins show NAME` prints the same.\n"]
    for kind in plugins.KINDS:
        parts.append(f"## {kind.capitalize()}s\n")
        for plugin in plugins.default().plugins:
            if plugin.kind == kind and plugin.distribution == "zotune":
                parts.append(section(described(plugin)))
    return "\n".join(parts)


def section(entry: dict[str, Any]) -> str:
    """The section of one plugin."""
    titles = {"paper": "Paper", "forwards": "Evaluations a step", "memory": "Memory"}
    facts = [f"{title}: {entry[key]}" for key, title in titles.items() if entry[key]]
    lines = [f"### {entry['name']}\n", f"{entry['summary']}.\n", *(f"- {fact}" for fact in facts)]
    if entry["options"]:
        lines += ["", "| option | default | meaning |", "|---|---|---|"]
        lines += [f"| `{o['name']}` | `{o['default']}` | {cell(o['meaning'])} |" for o in entry["options"]]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """A text in a cell of a table."""
    return text.replace("|", "\\|")
