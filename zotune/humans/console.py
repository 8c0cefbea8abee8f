"""Rating in a terminal: the same questions, sides and keys as on the page, for where there is no browser."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from zotune.errors import RunFolderError
from zotune.humans.store import FILE, Progress, Ratings, Shown
from zotune.text import plain

POLL: Final = 0.5
_KEYS = {"t": "tie", "b": "bad", "s": "skip"}
_UNDONE = {
    "undone": "Taken back. Answer it again.",
    "used": "The tuner has used that answer already: it stays.",
    "nothing": "There is nothing to undo.",
}


def rate(folder: str | Path, ask: Callable[[str], str] = input, tell: Callable[[str], object] = print) -> None:
    """Show questions and take answers until the tuner is done, the person quits, or the input ends.

    Waits where there is nothing to answer yet, or no store. Raises RunFolderError where there is no folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunFolderError(f"{folder} does not exist", hint="is this a run folder?")
    told = _wait_for(folder, tell)
    with Ratings(folder) as store:
        while True:
            shown, progress = store.next(), store.progress()
            if shown is None:
                if progress.done:
                    tell("All done, thank you.")
                    return
                told = _tell_once(_waiting(progress), told, tell)
                time.sleep(POLL)
                continue
            told = ""
            tell(_page(shown, progress))
            if not _one(store, shown, ask, tell):
                return


def summary(progress: Progress | None) -> str:
    """One line: how many are answered, and how often a repeat had the same answer."""
    if progress is None:
        return "no questions yet"
    count = progress.answered
    text = f"{count} question{'' if count == 1 else 's'} answered"
    if progress.planned:
        text += f" of {progress.planned}"
    if progress.repeated:
        text += f"; the same answer on {progress.agreed} of {progress.repeated} repeats"
    return text


def span(seconds: float) -> str:
    """Seconds in words, to the minute."""
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"about {hours} h {minutes} min" if minutes else f"about {hours} h"
    return f"about {minutes} min" if minutes else "under a minute"


def _one(store: Ratings, shown: Shown, ask: Callable[[str], str], tell: Callable[[str], object]) -> bool:
    """Take the answer to one question, or an undo; False where the person quits."""
    places = [str(i + 1) for i in range(len(shown.answers))]
    while True:
        try:
            said = ask("> ").strip().lower()
        except EOFError:
            return False
        if said == "q":
            return False
        if said == "u":
            tell(_UNDONE[store.undo()])
            return True
        if said in places or said in _KEYS:
            if not store.answer(shown.id, _KEYS.get(said, said)):
                tell("That one was answered already.")
            return True
        tell(f"The keys are {', '.join(places)}, t, b, s, u and q.")


def _page(shown: Shown, progress: Progress) -> str:
    head = f"{progress.answered + 1}" + (f" of {progress.planned}" if progress.planned else "")
    if progress.left:
        head += f" · {span(progress.left)} left"
    parts = [f"── {head} ──", plain(shown.prompt)]
    parts += [f"[{i}]\n{plain(text) or '(empty)'}" for i, text in enumerate(shown.answers, 1)]
    bad = "both bad" if len(shown.answers) == 2 else "all bad"
    parts.append(f"1 to {len(shown.answers)} choose · t tie · b {bad} · s skip · u undo · q quit")
    return "\n" + "\n\n".join(parts)


def _waiting(progress: Progress) -> str:
    if progress.running:
        return "Waiting for the next answers" + (f": {plain(progress.state)}" if progress.state else "") + " …"
    return "The tuner is not running. Your answers are kept; waiting for it …"


def _wait_for(folder: Path, tell: Callable[[str], object]) -> str:
    told = ""
    while not (folder / FILE).exists():
        told = _tell_once("Waiting for the tuner …", told, tell)
        time.sleep(POLL)
    return told


def _tell_once(text: str, told: str, tell: Callable[[str], object]) -> str:
    if text != told:
        tell(text)
    return text
