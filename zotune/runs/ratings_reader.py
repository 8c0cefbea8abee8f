"""What people have answered in a run, as the record that a page shows. Reads the run's ratings file and changes nothing
in it."""

from __future__ import annotations

from pathlib import Path

from zotune.errors import ZotuneError
from zotune.humans.preferences import agreement, verdict_counts, wilson_interval
from zotune.humans.raters import rater_counts
from zotune.humans.store import FILE_NAME, Store
from zotune.pages.run_record import RaterRecord, RatingsRecord


def read_ratings(folder: Path, problems: list[str]) -> RatingsRecord | None:
    """The answers of a run so far; None where people were asked nothing. problems: gets a line where the file cannot
    be read."""
    if not (folder / FILE_NAME).is_file():
        return None
    try:
        store = Store(folder, read_only=True)
        try:
            verdicts, (agreed, repeated), counts = verdict_counts(store), agreement(store), rater_counts(store)
        finally:
            store.close()
    except ZotuneError as error:
        problems.append(f"{FILE_NAME} cannot be read: {error}")
        return None
    if not any(verdicts.values()):
        return None
    raters = [RaterRecord(x.name, x.ratings, x.agreed, x.repeated, _interval(x.agreed, x.repeated)) for x in counts]
    return RatingsRecord(verdicts, agreed, repeated, _interval(agreed, repeated), raters)


def _interval(agreed: int, repeated: int) -> tuple[float, float]:
    return wilson_interval(agreed / repeated if repeated else 0.5, repeated)


__all__ = ["read_ratings"]
