"""Rating in a terminal: the same questions, sides and keys as on the page, for computers without a browser.

This module knows the queue of questions and nothing of the tuner.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from zotune.humans.progress_report import in_words, outcome
from zotune.humans.ratings import MAX_WISH, BlindQuestion, Progress, Ratings
from zotune.humans.store import FILE_NAME, check_folder
from zotune.humans.verdicts import FEWEST_WITH_WORST, MAX_WRITTEN, WRITTEN
from zotune.text import plain

POLL: Final = 0.5
"""Seconds between two checks for a new question."""
_KEYS = {"t": "tie", "b": "bad", "s": "skip"}
_UNDO_MESSAGES = {
    "undone": "Undone. Rate this question again.",
    "used": "Rate this question again. The tuner has used the old rating; the new one counts from here.",
    "nothing": "There is nothing to undo.",
}

Read = Callable[[str], str]
Write = Callable[[str], object]


def rate(folder: str | Path, read: Read = input, write: Write = print, rater: str = "") -> None:
    """Show questions and record verdicts until the tuner is done, the rater quits, or the input ends.

    Waits while no question is open or the tuner has not started. read: prints a prompt and returns a line, EOFError at
    the end of the input; write: prints a text. rater: their name, where several people rate. The run directory may not
    be there yet. Raises RunFolderError if the path is a file.
    """
    folder = check_folder(folder)
    status, report = _wait_for_store(folder, write), None
    with Ratings(folder) as ratings:
        while True:
            question, progress = ratings.next_question(rater), ratings.progress()
            if question is None:
                if progress.done:
                    write(" ".join(filter(None, ("All done, thank you.", outcome(folder)))))
                    return
                status = _write_change(_waiting_text(progress), status, write)
                time.sleep(POLL)
                continue
            status = ""
            if progress.report != report:
                report = progress.report
                write("\n".join(in_words(report)))
            write(_question_text(question, progress))
            if not _rate_question(ratings, question, read, write, rater):
                return


def summary(progress: Progress | None) -> str:
    """One line: how many questions are rated, and how often a repeat got the same rating."""
    if progress is None:
        return "no questions yet"
    count = progress.answered
    text = f"{count} of {progress.planned} questions rated" if progress.planned else f"{count} questions rated"
    if count == 1 and not progress.planned:
        text = "1 question rated"
    if progress.repeated:
        text += f"; {progress.agreed} of {progress.repeated} repeats got the same rating"
    return text


def duration(seconds: float) -> str:
    """Seconds in words, rounded to minutes."""
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"about {hours} h {minutes} min" if minutes else f"about {hours} h"
    return f"about {minutes} min" if minutes else "under a minute"


def _rate_question(ratings: Ratings, question: BlindQuestion, read: Read, write: Write, rater: str) -> bool:
    """Record one verdict or undo the last one; False if the rater quits, or the input ends."""
    with contextlib.suppress(EOFError):
        while (key := read("> ").strip().lower()) != "q":
            if _act(key, ratings, question, read, write, rater):
                return True
    return False


def _act(key: str, ratings: Ratings, question: BlindQuestion, read: Read, write: Write, rater: str) -> bool:
    """Do what a line says; whether another question follows."""
    places = [str(i + 1) for i in range(len(question.completions))]
    progress = ratings.progress()
    if key == "x" and progress.report is not None:
        ratings.stop_tuning()
        write("The tuning ends here. The last questions compare the model before and after.")
        return True
    if key == "w":
        ratings.set_wish(read("Your wish in words (empty: none)> ").strip()[:MAX_WISH])
        write("The next answers are written with these words in mind." if ratings.wish() else "No wish.")
        return False
    if key == "u":
        write(_UNDO_MESSAGES[ratings.undo(rater)])
        return True
    verdict, worst, text = _KEYS.get(key, ""), "", ""
    if key == "e" and progress.writing:
        text = read("Your answer, which is preferred to those above (empty: none)> ").strip()[:MAX_WRITTEN]
        if not text:
            return False
        verdict = WRITTEN
    elif not verdict:
        verdict, worst = _best_and_worst(key, places)
    if not verdict:
        own = ", e" if progress.writing else ""
        more = "; two places name the best and the worst" if len(places) >= FEWEST_WITH_WORST else ""
        write(f"Type one of {', '.join(places)}, t, b, s{own}, u or q{more}.")
    elif not ratings.record(question.id, verdict, rater, worst, text):
        write("This question was already rated.")
    return bool(verdict)


def _best_and_worst(key: str, places: Sequence[str]) -> tuple[str, str]:
    """The places in a line such as "2" or "2 4"; the worst one is "" where none is named, the best one where the line
    names no choice."""
    named = key.replace(">", " ").replace(",", " ").split()
    if not 1 <= len(named) <= (2 if len(places) >= FEWEST_WITH_WORST else 1) or len({*named} & {*places}) < len(named):
        return "", ""
    return named[0], named[1] if len(named) > 1 else ""


def _question_text(question: BlindQuestion, progress: Progress) -> str:
    head = f"{progress.answered + 1}" + (f" of {progress.planned}" if progress.planned else "")
    if progress.left:
        head += f" · {duration(progress.left)} left"
    parts = [f"── {head} ──", plain(question.prompt)]
    parts += [f"[{i}]\n{plain(text) or '(empty)'}" for i, text in enumerate(question.completions, 1)]
    bad = "both bad" if len(question.completions) == 2 else "all bad"
    choose = f"1 to {len(question.completions)} choose"
    if len(question.completions) >= FEWEST_WITH_WORST:
        choose += ", “1 3” best and worst"
    own = " · e write a better one" if progress.writing else ""
    parts.append(f"{choose} · t tie · b {bad} · s skip{own} · u undo · q quit")
    return "\n" + "\n\n".join(parts)


def _waiting_text(progress: Progress) -> str:
    if progress.running:
        return "Waiting for the next question" + (f": {plain(progress.state)}" if progress.state else "") + " …"
    return "The tuner is not running. Your ratings are saved; waiting for the tuner to start again …"


def _wait_for_store(folder: Path, write: Write) -> str:
    """Wait until the tuner has created the ratings file; the last status line."""
    status = ""
    if not folder.is_dir():
        status = _write_change(f"Waiting for the run directory {folder} …", status, write)
    while not (folder / FILE_NAME).exists():
        status = _write_change("Waiting for the tuner …", status, write)
        time.sleep(POLL)
    return status


def _write_change(text: str, previous: str, write: Write) -> str:
    """Write a status line unless it equals the previous one; returns it."""
    if text != previous:
        write(text)
    return text
