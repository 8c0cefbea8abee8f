"""Check on a GPU everything that zotune promises there, in under five minutes.

    python benchmarks/gpu_check.py                                   # or: make gpu-check
    python benchmarks/gpu_check.py --device cpu                      # the same parts on tiny shapes, in two minutes
    python benchmarks/gpu_check.py --only bits,weights --out build/gpu-check
    python benchmarks/gpu_check.py --list

Each part (benchmarks/gpu_parts) runs in a process of its own with a time limit, so a crash, a hang or a lack of memory
in one part is a row of the table and the others still run. Every row is written at once to OUT/rows.jsonl and
OUT/table.md. The most valuable parts run first; a part that would begin after --total seconds is reported as not run.

The script runs from a plain checkout. It needs Python 3.11, torch, transformers, safetensors, numpy and scikit-learn at
the lower bounds of pyproject.toml; pure-Python packages that are missing are named, and `benchmarks/gpu_wheels.sh`
collects them as wheels in build/gpu-wheels, from where this script unpacks them. No network is used.

Exit code: 0 if every part ran and every claim that was judged holds, 1 if a part failed or a claim falls short, 2 for
wrong arguments or missing packages.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PROMISES = ROOT / "docs" / "gpu.md"
WHEELS = ROOT / "build" / "gpu-wheels"
MODULES = {"scikit-learn": "sklearn", "pyyaml": "yaml"}
"""The modules of required distributions whose names do not tell them."""
OPTIONAL = ("rouge-score", "click", "rich", "peft")
"""Requirements that only some parts need: a part that fails for one names it."""
SECONDS, CPU_SECONDS = 290.0, 1800.0
"""Seconds after which no further part begins. Two minutes suffice on two idle cores; a busy machine takes longer."""
CPU_PATIENCE = 6
"""On a CPU the time limits of parts are so many times longer: a test machine may be busy."""
DRAIN = 0.2
"""Seconds between two looks at a running part."""
STDERR_LINES = 12
"""Last lines of a failed part's output that the report keeps."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _arguments(arguments)
    if options.part:
        return _child(options)
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        environment = _environment(Path(folder), options.wheels)
        if missing := _missing(environment):
            hard = [name for name in missing if name not in OPTIONAL]
            print(f"missing packages: {', '.join(missing)}", file=sys.stderr)
            print(
                "bash benchmarks/gpu_wheels.sh collects the pure-Python ones where pip has a network", file=sys.stderr
            )
            if hard:
                print(f"the check cannot run without {', '.join(hard)}", file=sys.stderr)
                return 2
        if options.list:
            return subprocess.call([sys.executable, __file__, "--part", "list"], env=environment)
        listed = subprocess.run(
            [sys.executable, __file__, "--part", "names", *(["--faults"] if options.faults else [])],
            env=environment,
            capture_output=True,
            text=True,
        )
        if listed.returncode:
            print(listed.stderr, file=sys.stderr)
            return 2
        limits: dict[str, float] = json.loads(listed.stdout.splitlines()[-1])
        names = options.only.split(",") if options.only else list(limits)
        if unknown := [name for name in names if name not in limits]:
            print(f"unknown part {unknown[0]!r}; the parts are {', '.join(limits)}", file=sys.stderr)
            return 2
        return _run(options, names, limits, environment, out)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: tiny shapes [cuda]")
    parser.add_argument("--only", default="", help="parts to run, separated by commas [all]")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-check", help="folder of the results")
    parser.add_argument(
        "--total", type=float, default=None, help="seconds after which no further part begins [290; on a CPU 1800]"
    )
    parser.add_argument("--wheels", type=Path, default=WHEELS, help="folder of wheels to unpack [build/gpu-wheels]")
    parser.add_argument("--list", action="store_true", help="list the parts and what each checks")
    parser.add_argument("--patience", type=float, default=None, help=argparse.SUPPRESS)  # factor of all time limits
    parser.add_argument("--faults", action="store_true", help=argparse.SUPPRESS)  # parts that fail on purpose
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)  # run one part in this process
    parser.add_argument("--rows", type=Path, default=None, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


# The parent process imports nothing but the standard library: it must survive whatever a part does.


def _environment(folder: Path, wheels: Path) -> dict[str, str]:
    """The environment of the parts: the checkout, its plugins and unpacked wheels on the path.

    A plain checkout is not installed, so the entry points of pyproject.toml are written to a metadata folder.
    """
    version = re.findall(r'"(.+)"', (ROOT / "zotune" / "version.py").read_text())[-1]
    metadata = folder / "site" / f"zotune-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: zotune\nVersion: {version}\n")
    points = _project()["entry-points"]["zotune"]
    (metadata / "entry_points.txt").write_text("[zotune]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))
    for wheel in sorted(wheels.glob("*.whl")) if wheels.is_dir() else ():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "wheels")
    path = [ROOT, ROOT / "plugins", ROOT / "objectives", folder / "site"]
    before = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    python_path = os.pathsep.join([*map(str, path), *before, str(folder / "wheels")])
    cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    return {**os.environ, "PYTHONPATH": python_path, "HF_HUB_OFFLINE": "1", "TORCHINDUCTOR_CACHE_DIR": cache}


def _missing(environment: Mapping[str, str]) -> list[str]:
    """Required distributions that a part could not import."""
    required = [re.split(r"[<>=!~ \[]", line)[0] for line in _project()["dependencies"]]
    modules = {name: MODULES.get(name, name.replace("-", "_")) for name in required}
    code = "import sys, json; from importlib.util import find_spec; "
    code += "print(json.dumps([n for n in sys.argv[1:] if find_spec(n) is None]))"
    command = [sys.executable, "-c", code, *modules.values()]
    absent = json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    return [name for name, module in modules.items() if module in absent]


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def _run(
    options: argparse.Namespace,
    names: Sequence[str],
    limits: Mapping[str, float],
    environment: Mapping[str, str],
    out: Path,
) -> int:
    table = Table(out, options.device)
    began, cpu = time.monotonic(), options.device == "cpu"
    total = options.total or (CPU_SECONDS if cpu else SECONDS)
    for name in names:
        left = total - (time.monotonic() - began)
        if left <= 0:
            table.add({"part": name, "claim": "the part runs", "verdict": "not run", "measured": "time is up"})
            continue
        limit = min(limits[name] * (options.patience or (CPU_PATIENCE if cpu else 1)), left)
        print(f"part {name} (at most {limit:.0f} s)", flush=True)
        _run_part(options, name, limit, environment, table)
    table.finish(time.monotonic() - began)
    print()
    print(table.text(), flush=True)
    return 1 if table.failed else 0


def _run_part(
    options: argparse.Namespace, name: str, limit: float, environment: Mapping[str, str], table: Table
) -> None:
    """One part in a process group of its own; its rows reach the table as they are written."""
    with tempfile.TemporaryDirectory(prefix=f"gpu-check-{name}-") as folder:
        rows, log, work = (Path(folder) / name for name in ("rows.jsonl", "log", "work"))
        rows.touch()
        work.mkdir()
        command = [sys.executable, __file__, "--part", name, "--device", options.device, "--rows", str(rows)]
        began, read = time.monotonic(), 0
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=dict(environment), stdout=output, stderr=output, cwd=work, start_new_session=True
            )
            try:
                while process.poll() is None and time.monotonic() - began < limit:
                    read = _take(rows, read, table)
                    time.sleep(DRAIN)
                late = process.poll() is None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        _take(rows, read, table)
        seconds = time.monotonic() - began
        tail = log.read_text(errors="replace").splitlines()[-STDERR_LINES:]
        if late:
            table.fail(name, f"stopped after its {limit:.0f} s", tail)
        elif process.returncode < 0:
            table.fail(name, f"crashed: {signal.Signals(-process.returncode).name}", tail)
        elif process.returncode == OUT_OF_MEMORY:
            table.fail(name, "out of memory", tail)
        elif process.returncode:
            table.fail(name, f"failed: {_last_error(tail)}", tail)
        else:
            table.seconds[name] = seconds


def _take(rows: Path, read: int, table: Table) -> int:
    """Add the whole lines that a part has written since; returns how many bytes are read."""
    text = rows.read_bytes()[read:]
    whole = text[: text.rfind(b"\n") + 1]
    for line in whole.splitlines():
        table.add(json.loads(line))
    return read + len(whole)


def _last_error(tail: Sequence[str]) -> str:
    return next((line.strip() for line in reversed(tail) if line.strip()), "no output")[:200]


class Table:
    """The rows, on disk as soon as they are known."""

    COLUMNS = ("part", "claim", "measured", "bound", "verdict")

    def __init__(self, out: Path, device: str) -> None:
        self.out, self.device, self.card = out, device, ""
        self.rows: list[dict[str, Any]] = []
        self.seconds: dict[str, float] = {}
        self.elapsed = 0.0
        (out / "rows.jsonl").write_text("")

    @property
    def failed(self) -> bool:
        return any(row["verdict"] in ("failed", "falls short") for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        if row.get("claim") == "environment":
            self.card = row["measured"]
        self.rows.append(row)
        with (self.out / "rows.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        (self.out / "table.md").write_text(self.text())
        shown = [str(row.get(key, "")) for key in self.COLUMNS]
        print("  " + "  ".join(x for x in shown[1:] if x), flush=True)

    def fail(self, part: str, why: str, tail: Sequence[str]) -> None:
        self.add({"part": part, "claim": "the part runs", "measured": why, "verdict": "failed", "log": list(tail)})

    def finish(self, seconds: float) -> None:
        self.elapsed = seconds
        (self.out / "table.md").write_text(self.text())

    def text(self) -> str:
        """The table as Markdown, and what the documents claim that no part measures."""
        head = f"GPU check on {self.card or self.device}"
        lines = [head + (f", {self.elapsed:.0f} s" if self.elapsed else ""), ""]
        lines += ["| " + " | ".join(self.COLUMNS) + " |", "|" + "---|" * len(self.COLUMNS)]
        for row in self.rows:
            if row.get("claim") != "environment":
                cells = [str(row.get(key, "")).replace("|", "/").replace("\n", " ") for key in self.COLUMNS]
                lines.append("| " + " | ".join(cells) + " |")
        verdicts = {name: self.verdict(name) for name in {part for _, part in promises()}}
        lines += ["", "| promise of docs/gpu.md | part | verdict |", "|---|---|---|"]
        lines += [f"| {claim} | {part} | {verdicts[part]} |" for claim, part in promises()]
        return "\n".join(lines) + "\n"

    def verdict(self, part: str) -> str:
        """What the rows of a part say together: the worst of them, or "not run"."""
        verdicts = [row["verdict"] for row in self.rows if row["part"] == part]
        return next((v for v in ("failed", "falls short", "not run", "holds", "measured") if v in verdicts), "not run")


def promises() -> list[tuple[str, str]]:
    """(claim, part) of each line in the table of docs/gpu.md."""
    rows = (line.strip("| ").split(" | ") for line in PROMISES.read_text().splitlines() if line.startswith("| "))
    return [(row[0], row[1]) for row in rows if len(row) == 2 and row != ["claim", "part"]]


# The child process.

OUT_OF_MEMORY = 77
"""Exit code of a part that ran out of memory."""


def _child(options: argparse.Namespace) -> int:
    sys.path.insert(0, str(ROOT))
    from benchmarks.gpu_parts import PARTS, Check

    parts = {part.name: part for part in PARTS if options.faults or not part.fault or options.part == part.name}
    if options.part == "names":
        print(json.dumps({name: part.seconds for name, part in parts.items()}))
        return 0
    if options.part == "list":
        for part in parts.values():
            print(f"{part.name:<12} {part.summary}")
        return 0
    with _memory_as_exit_code():
        check = Check(options.device, options.part, options.rows)
        check.environment()
        parts[options.part].run(check)
        return 0
    return OUT_OF_MEMORY


@contextlib.contextmanager
def _memory_as_exit_code() -> Iterator[None]:
    """Leaves the block without an error if memory was short; every other error goes on."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        short = isinstance(error, MemoryError) or type(error).__name__ in ("OutOfMemoryError", "OutOfMemory")
        if not short and "allocate memory" not in str(error):
            raise
        print(f"{type(error).__name__}: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
