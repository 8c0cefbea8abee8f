"""`zotune report`: the page of a run, or of several beside each other."""

from __future__ import annotations

from dataclasses import dataclass

from zotune.cli.command import command
from zotune.cli.shared_flags import output_flag
from zotune.options import argument


@dataclass(frozen=True)
class ReportFlags:
    """What `report` takes."""

    runs: tuple[str, ...] = argument("Run directories, finished or not.", "RUN [RUN …]")
    output: str | None = output_flag("HTML file to write.", "report.html: in RUN, or for several runs here")


def report(flags: ReportFlags) -> None:
    """Write one HTML file that shows a run, or several beside each other: result, curves, outputs, failures, options.

    The file needs no network and runs no foreign script. `zotune fit` writes it at its end.
    """
    from zotune.runs import run_report

    print(run_report.report(*flags.runs, output=flags.output))


COMMAND = command("report", report, ReportFlags)

__all__ = ["COMMAND"]
