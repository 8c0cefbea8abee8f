"""How long a person waits between answers: a scripted person rates through the page's server, one answer in so many
seconds, while the tuner learns and generates the next questions.

    python benchmarks/waiting_time.py SmolLM2-135M-Instruct.Q4_1.gguf
    python benchmarks/waiting_time.py MODEL --seconds 2 --answers 24

A wait is the time from sending an answer until a reply holds the next question; where none is open, the script asks as
often as the page does. The waits for the first batch and for the last comparison, which begins when the tuning has
ended, are told apart. The person prefers the shorter answer. Prompts are short requests that the model answers in 40
tokens. The one-minute load before and after is printed, for other programs make waits longer, and so are the longest
waits with the number of the answer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from head_to_head_parts.processes import cpu_seconds

TOKENS = 40
PLACES = ("a bakery", "a school", "a small shop", "a library", "a garden", "a museum", "a harbour", "a station")
KINDS = ("an opening sentence about", "a friendly note for", "a one-line advert for", "a short warning sign for")
KINDS += ("a question about", "a memory of", "a reason to visit", "a name for", "a greeting at", "a rule for")
POLL = 0.3
"""Seconds between two requests of the page while no question is open."""
BATCH = 8
"""Questions of a step."""
MEDIAN, LONGEST = 0.3, 2.0
"""Seconds that a person should wait at most: in the median, and ever after the first batch."""


class Person(threading.Thread):
    """Rates until nothing is left. waits: seconds before each question, in the order of the answers."""

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__(daemon=True)
        self.folder, self.seconds = folder, seconds
        self.waits: list[float] = []

    def run(self) -> None:
        from zotune.humans.page import serve

        with serve(self.folder) as server:
            reply, since = ask(server.address, "next"), time.monotonic()
            while not (reply["progress"] and reply["progress"]["done"]):
                if (question := reply["question"]) is None:
                    time.sleep(POLL)
                    reply = ask(server.address, "next")
                    continue
                self.waits.append(time.monotonic() - since)
                time.sleep(self.seconds)
                answers = question["answers"]
                best = min(range(len(answers)), key=lambda i: len(answers[i]))
                since = time.monotonic()
                reply = ask(server.address, "answer", {"id": question["id"], "verdict": str(best + 1)})


def ask(address: str, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One call of the page."""
    request = urllib.request.Request(address + name)
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
        request.add_header("Origin", address.rsplit("/", 2)[0])
    with urllib.request.urlopen(request) as response:
        reply: dict[str, Any] = json.load(response)
    return reply


def summary(waits: list[float]) -> list[str]:
    """What is printed of the waits: the first questions, those after the first batch, and the last comparison."""
    first, later, last = waits[:BATCH], waits[BATCH:-1], waits[-1]
    median, most = statistics.median(later), max(later)
    longest = sorted(range(len(later)), key=lambda i: -later[i])[:5]
    kept = median <= MEDIAN and most <= LONGEST
    return [
        f"first question after {first[0]:.1f} s, longest other wait of the first batch {max(first[1:]):.2f} s",
        f"after it {len(later)} waits: median {median:.3f} s, longest {most:.2f} s, "
        f"{sum(w > LONGEST for w in later)} longer than {LONGEST:g} s: {'within' if kept else 'NOT within'} the limits",
        "longest: " + ", ".join(f"{later[i]:.2f} s before answer {i + BATCH + 1}" for i in longest),
        f"last comparison after {last:.1f} s",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--seconds", type=float, default=4.0, help="that the person takes for an answer")
    parser.add_argument("--answers", type=int, default=48)
    arguments = parser.parse_args()
    import zotune

    prompts = [{"prompt": f"Write {kind} {place}."} for place in PLACES for kind in KINDS]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split, rows in (("train", prompts[:60]), ("validation", prompts[60:72]), ("test", prompts[72:])):
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        person = Person(folder / "run", arguments.seconds)
        person.start()
        result = zotune.fit(
            model=arguments.model,
            dataset=str(folder),
            objective="human",
            objective_args={"questions": str(arguments.answers + 1), "judged": "1"},
            max_new_tokens=TOKENS,
            output_dir=str(folder / "run"),
        )
        person.join()
    print(
        f"{len(person.waits)} questions in {result.steps} steps, {arguments.seconds:g} s an answer, "
        f"{cpu_seconds():.0f} CPU s, load {load:.1f} to {os.getloadavg()[0]:.1f}"
    )
    print("\n".join(summary(person.waits)))


if __name__ == "__main__":
    main()
