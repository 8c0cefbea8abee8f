"""What a person sees of the tuning: how often the present model wins against the base model, by their own blind answers
and by a model of their taste, samples of both, and at the end what was kept.

Knows the store of a run directory and its `result.json`; knows no language model.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from zotune.humans import raters
from zotune.humans.preferences import WinRate, chosen_pairs, count_wins, verdict_counts
from zotune.humans.store import Store
from zotune.humans.taste_model import Pair, predict
from zotune.humans.verdicts import WRITTEN

SAMPLES: Final = 3
ENOUGH_ANSWERS: Final = 16
BAD_SHARE: Final = 0.6
"""The share of "both bad" among so many answers at least from which on a wish counts as rare."""
HARDLY_EVER: Final = 0.8
"""The share of "both bad" among the latest ENOUGH_ANSWERS from which on questions are wider."""
WIDER: Final = (
    "Most answers are bad, so questions now show four answers, written more freely. Name the best and the worst, write "
    "a better one, or state your wish, and the next ones are written with it in mind."
)
ADVICE: Final = (
    "Most answers are bad, so little can be learnt from them. End the run, and start one with the wish in words "
    '(--system "…" for instruct models), a higher --temperature, or examples to begin with.'
)
RESULT: Final = "result.json"


def progress_report(
    store: Store, prompts: Sequence[str], held_out: Sequence[Pair], shown: int, seed: int, wider: bool = False
) -> dict[str, Any]:
    """The report as a JSON value.

    held_out: (base model's completion, present completion) of each prompt. shown: the last `shown` prompts may be shown
    as samples, for nobody is asked about them. wider: whether questions are wider by now.

    advice: what to do where most answers are bad, else ""; wider: as given; raters: a line for each of several.
    predicted: `PredictedWinRate`, None while answers are few;
    blind: the win rate of the answers to questions with the purpose "progress"; enough: whether the predicted interval
    lies above one half, and the blind rate not below.
    """
    predicted = predict(chosen_pairs(store, ("tune",)), held_out, seed)
    blind = WinRate.from_counts(*count_wins(store, "progress"))
    blind = WinRate.from_counts(blind.losses, blind.wins, blind.ties)  # A is the base model
    first = len(prompts) - shown
    samples = [
        {"prompt": p, "before": before, "now": now}
        for p, (before, now) in list(zip(prompts, held_out, strict=True))[first:]
        if before != now
    ]
    return {
        "predicted": None if predicted is None else asdict(predicted),
        "blind": asdict(blind) if blind.wins + blind.losses + blind.ties else None,
        "changed": sum(before != now for before, now in held_out),
        "prompts": len(held_out),
        "enough": predicted is not None and predicted.low > 0.5 and blind.rate >= 0.5,
        "samples": samples[:SAMPLES],
        "advice": WIDER if wider else ADVICE if _mostly_bad(store) else "",
        "wider": wider,
        "raters": raters.in_words(raters.rater_counts(store)),
    }


def progress_is_due(store: Store) -> bool:
    """Whether questions of a training step were asked after the last one about the progress: one follows each batch,
    also where a killed run takes its step again."""
    with store.reading() as db:
        asked = "SELECT coalesce(max(number), 0) FROM questions WHERE purpose = ?"
        tune, progress = (db.execute(asked, (purpose,)).fetchone()[0] for purpose in ("tune", "progress"))
    return bool(tune > progress)


def _mostly_bad(store: Store) -> bool:
    """Whether most answers are "both bad" or texts of the person: the model hardly ever writes what they like."""
    counts = verdict_counts(store)
    answers = sum(counts.values()) - counts["skip"]
    return answers >= ENOUGH_ANSWERS and counts["bad"] + counts.get(WRITTEN, 0) > BAD_SHARE * answers


def outcome(folder: Path) -> str:
    """What was kept at the end of the run, as one or two sentences; "" where the run has not ended."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        share, rows = float(result["tuned"]["value"]), int(result["tuned"]["rows"])
        end = f" In the last, blind comparison it won {share:.0%} of {rows} questions, a tie counting as half."
        if result["kept"] == "tuned":
            return "The tuned model was kept." + end
        return "The base model was kept: the tuned model was not clearly better." + end
    return ""


def in_words(report: Any) -> list[str]:
    """A report as lines of text, for the terminal."""
    lines = [(report or {}).get("advice", "")] if (report or {}).get("advice") else []
    lines += (report or {}).get("raters", [])
    if (report or {}).get("wider"):
        lines.append("w states the wish")
    if predicted := (report or {}).get("predicted"):
        lines.append(
            f"win rate of the model now against the base model, predicted from {predicted['answers']} answers: "
            f"{predicted['rate']:.2f}, 95 % interval {predicted['low']:.2f} to {predicted['high']:.2f}"
        )
    if blind := (report or {}).get("blind"):
        n = blind["wins"] + blind["losses"] + blind["ties"]
        lines.append(f"by {n} blind answers: {blind['rate']:.2f}, {blind['low']:.2f} to {blind['high']:.2f}")
    if (report or {}).get("enough"):
        lines.append("the interval is above one half: x ends the tuning here")
    return lines


__all__ = ["in_words", "outcome", "progress_is_due", "progress_report"]
