"""`zotune chat`: prompts to a run's base model and to its tuned one, side by side."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from zotune import config
from zotune.cli.command import command
from zotune.cli.shared_flags import json_flag
from zotune.options import argument, option
from zotune.text import plain

SETTINGS = config.select(
    *("system", "chat_template", "chat_args", "max_new_tokens", "stop"),
    *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed"),
    *("device", "dtype", "trust_remote_code", "allow_pickle"),
    max_new_tokens="Maximum tokens of an answer.",
    seed="Random seed of sampling.",
)
RESET: Final = "/reset"
QUIT: Final = ("/quit", "/exit")
HELP: Final = f"{RESET} begins a new conversation, /quit or Ctrl-D ends"


@dataclass(frozen=True)
class ChatFlags:
    """What `chat` takes beside options of a run."""

    run: str = argument("Run directory; or a model, which answers alone.", "RUN")
    prompt: tuple[str, ...] = option(
        (), "Ask this instead of reading from the terminal. Repeatable: the turns of one conversation.", group="Options"
    )
    base: bool = option(True, "Show the base model's answers too.", group="Options")
    as_json: bool = json_flag("Print a line of JSON for each prompt on standard output.")


def chat(flags: ChatFlags, settings: Mapping[str, Any]) -> None:
    """Ask a run's base model and its tuned weights the same questions, and show both answers.

    Each model has a conversation of its own. /reset begins a new one, /quit or Ctrl-D ends.
    """
    from zotune.cli.terminal import Terminal
    from zotune.runs.conversation import Chat

    with Terminal() as terminal:
        talk = Chat(flags.run, base=flags.base, emit=terminal, **settings)
    if not talk.remembers:
        _say("no chat template: each prompt is answered by itself")
    for prompt in flags.prompt or _typed():
        if prompt.strip() == RESET:
            talk.reset()
            _say("new conversation")
            continue
        if prompt.strip():
            _show(prompt, talk.ask(prompt), flags.as_json)


def _typed() -> Iterator[str]:
    """Lines of standard input until its end or /quit."""
    interactive = sys.stdin.isatty()
    if interactive:
        _say(HELP)
    while True:
        try:
            line = input("> " if interactive else "")
        except EOFError:
            return
        if line.strip() in QUIT:
            return
        yield line


def _show(prompt: str, answers: Mapping[str, str], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"prompt": prompt, **{name.replace(" ", "_"): text for name, text in answers.items()}}))
        return
    if sys.stdout.isatty() and len(answers) > 1 and shutil.get_terminal_size().columns >= 80:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
        for name in answers:
            table.add_column(name, ratio=1)
        table.add_row(*(Text(plain(text)) for text in answers.values()))
        Console(highlight=False).print(table)
        return
    width = max(map(len, answers))
    for name, text in answers.items():
        first, *others = plain(text).splitlines() or [""]
        print(f"{name:<{width}}  {first}")
        for line in others:
            print(f"{'':<{width}}  {line}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


COMMAND = command("chat", chat, ChatFlags, SETTINGS)

__all__ = ["COMMAND"]
