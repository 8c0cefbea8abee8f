"""Random files, scorers and requests: the outcome is a result or a one-line error, in time, and nothing is written
outside of the run directory.

python -m pytest tests/test_fuzz.py                      # the same few inputs every time
ZOTUNE_FUZZ=10000 python -m pytest tests/test_fuzz.py    # so many new inputs of each kind
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import shutil
import signal
import socket
import string
import sys
import threading
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from effects import Effects
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from zotune_objectives import http
from zotune_objectives.exec_ import Exec
from zotune_objectives.scorer_replies import number, parse, server_scores

from zotune import config, plugin_options, plugins
from zotune.cli import app
from zotune.config import RunConfig
from zotune.data import presets, readers
from zotune.data.splits import load_splits
from zotune.data.templates import Template
from zotune.errors import ObjectiveError, OptionError, ZotuneError
from zotune.humans.page import Server, serve
from zotune.humans.ratings import Question, Ratings
from zotune.models.model_files import find_model
from zotune.runs import evaluate
from zotune.search.journal import Journal, Tape
from zotune.tasks import resolve_task
from zotune.yaml_file import write_yaml

EXAMPLES = int(os.environ.get("ZOTUNE_FUZZ", "100"))
SECONDS = 60
"""An input that takes longer hangs, also on a machine that is busy with other things."""


def fuzz(share: float = 1.0) -> Any:
    """So much of the usual number of examples."""
    return settings(
        max_examples=max(int(EXAMPLES * share), 1),
        derandomize="ZOTUNE_FUZZ" not in os.environ,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def harmless(folder: Path | None = None) -> Iterator[None]:
    """Inside: a result or a ZotuneError of one line, in time, without an effect outside of `folder`."""

    def late(number: int, frame: Any) -> None:
        raise AssertionError(f"still busy after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with Effects(folder) as effects:
            yield
    except ZotuneError as error:
        one_line(str(error))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert effects.seen == []


def one_line(text: str) -> None:
    assert text
    assert "\n" not in text
    assert "Traceback" not in text


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for files that are read."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import what is imported when it is first used."""
    with contextlib.suppress(ImportError):  # an extra
        import pyarrow.parquet  # noqa: F401

    folder = tmp_path_factory.mktemp("warm")
    (folder / "a.yaml").write_text("seed: 1")
    config.resolve({}, str(folder / "a.yaml"))
    for plugin in plugins.default().plugins:
        plugin.load()


NASTY = st.sampled_from(
    ["", " ", "\0", "\x1b[2J", "\u2028", "\ud800", "\ufeff", "NaN", "nan", "inf", "-1", "1e999", "9" * 400, "0x1",
     "none", "true", "null", "{}", "[]", "../../x", "/etc/passwd", "file:///etc/passwd", "@/etc/passwd",
     "~nobody-at-all", "a,b", "a=b", "=", "%s", "{0.__class__}", "{text.__class__}", "{text!r:>99}", "*",
     "$(touch x)", "; touch x", "x" * 5000, "!!python/object/apply:os.system ['touch x']", "<script>",
     "\N{RIGHT-TO-LEFT OVERRIDE}"]
)  # fmt: skip
TEXT = st.one_of(st.text(max_size=20), NASTY)
NUMBER = st.one_of(
    st.integers(-3, 20),
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 2**31, 2**63, 10**30, 10**400, math.nan, math.inf, -math.inf, 1e308, -0.0]),
)
SCALAR = st.one_of(st.none(), st.booleans(), NUMBER, TEXT)
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=8,
)


def mostly(*usual: Any) -> st.SearchStrategy[Any]:
    """These, three times out of four, else anything."""
    return st.one_of(*[st.sampled_from(usual)] * 3, VALUE)


def writable(value: Any) -> Any:
    """A value as JSON can say it: without the floats that it lacks."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {k: writable(v) for k, v in value.items()}
    return [writable(v) for v in value] if isinstance(value, list) else value


def has_type(value: Any, hint: Any) -> bool:
    """Whether a value is what an annotation says."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(has_type(value, a) for a in args)
    if origin is tuple:
        return isinstance(value, tuple) and all(has_type(v, args[0]) for v in value)
    if origin is dict:
        return isinstance(value, dict) and all(has_type(k, args[0]) and has_type(v, args[1]) for k, v in value.items())
    if origin is typing.Literal:
        return value in args
    if hint is type(None):
        return value is None
    return isinstance(value, hint) and not (hint in (int, float) and isinstance(value, bool))


HINTS = typing.get_type_hints(RunConfig)
TOKENS = st.sampled_from(
    [*list(HINTS)[:12], ": ", "- ", "\n", "\n  ", "{", "}", "[", "]", ",", "&a ", "*a", "!!set ", "!!bool x",
     "!!timestamp y", "!!int z", "!!float q", "!!binary '='", "!!omap ", "!!python/name:os.system ", "? ", "| ", "> ",
     "'", '"', "#", "%YAML 9", "---\n", "...", "<<: ", "2001-99-99", "1:2:99", "0b", "0x", ".inf", ".nan", "1e5", "~",
     "=", "\t", "yes", "5", "x"]
)  # fmt: skip
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24)
)


def read_config(place: Path, raw: bytes) -> None:
    path = place / "x.yaml"
    path.write_bytes(raw)
    with harmless():
        found = config.resolve({}, str(path))
        for name, hint in HINTS.items():
            assert has_type(getattr(found, name), hint), (name, getattr(found, name))
        write_yaml(Path(os.devnull), asdict(found))


@fuzz()
@given(raw=st.one_of(st.binary(max_size=80), st.lists(TOKENS, max_size=20).map(lambda x: "".join(x).encode())))
@example(raw=b"[" * 100_000)
@example(raw=("seed: " + "{a: " * 5000).encode())
@example(raw=f"{LAUGHS}objective: *z".encode())
@example(raw=b"objective: &a [*a]")
@example(raw=b"seed: !!bool x")
@example(raw=b"seed: !!timestamp y")
@example(raw=b"seed: 2001-99-99")
@example(raw=b"seed: !!int z")
@example(raw=b"seed: " + b"9" * 5000)
@example(raw=b"seed: 0x" + b"f" * 5000)
@example(raw=b"0x" + b"f" * 5000 + b": 1")
@example(raw=b"seed: {a: 1}")
@example(raw=b"stop: 5")
@example(raw=b"columns: [1, 2]")
@example(raw=b"max_time: .nan")
@example(raw=b"objective_args: {1: 2}")
def test_configuration_as_text(place: Path, raw: bytes) -> None:
    read_config(place, raw)


@fuzz()
@given(values=st.dictionaries(st.sampled_from(list(HINTS)), VALUE, max_size=4))
def test_configuration_as_values(place: Path, values: dict[str, Any]) -> None:
    read_config(place, json.dumps(values).encode())


OPTIONS = {p.name: p.load() for p in plugins.default().plugins if isinstance(p.load(), type)}


@fuzz(2)
@given(drawn=st.data(), name=st.sampled_from(sorted(OPTIONS)))
def test_options_of_every_plugin(place: Path, drawn: st.DataObject, name: str) -> None:
    known = st.one_of(st.sampled_from(list(plugin_options.parameters(OPTIONS[name])) or ["x"]), TEXT)
    options = drawn.draw(st.dictionaries(known, VALUE, max_size=3))
    with contextlib.chdir(place), harmless():
        plugin_options.build(OPTIONS[name], options, f"plugin {name!r}")


WORDS = st.sampled_from(
    ["fit", "eval", "check", "compare", "rate", "resume", "replay", "verify",
     "plugins", "ls", "-m", "-d", "-o", "--objective-arg", "--column",
     "--weight", "--seed", "--lr", "--max-steps", "--limit", "--labels", "--template", "--task", "-c", "--stop",
     "--json", "--dry-run", "--temperature", "--eps", "--tune", "--head", "a=b", "1e-3", "7", "causal"]
)  # fmt: skip


@fuzz(0.3)
@given(arguments=st.lists(st.one_of(TEXT, WORDS), max_size=8))
def test_the_command_line(place: Path, arguments: list[str]) -> None:
    said = io.StringIO()
    code: Any = 0
    with pytest.MonkeyPatch.context() as patched, contextlib.chdir(place):
        patched.setattr("zotune.runs.fit.make_plan", refuse)
        patched.setattr("zotune.runs.check.make_plan", refuse)
        patched.setattr("zotune.runs.estimate.make_plan", refuse)
        patched.setattr("zotune.runs.evaluate.evaluation_rows", refuse)
        patched.setattr("zotune.humans.page.serve", refuse)
        patched.setattr("zotune.runs.run_directory.directory_of", lambda cfg: place / "nothing-here")
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()), harmless():
            try:
                app.main(["fit", *arguments] if arguments[:1] != ["fit"] and len(arguments) % 2 else arguments)
            except SystemExit as ended:
                code = ended.code
    assert code in (0, 1, 2, None)
    assert "Traceback" not in said.getvalue()
    assert code in (0, None) or said.getvalue().strip()


def refuse(*args: Any, **kwargs: Any) -> Any:
    """In the place of what runs when everything is parsed."""
    raise OptionError("parsed")


COLUMNS = (
    "text",
    "label",
    "prompt",
    "completion",
    "messages",
    "chosen",
    "rejected",
    "answers",
    "label_text",
    "choices",
)
TURN = st.fixed_dictionaries({}, optional={"role": mostly("user", "assistant", "system"), "content": VALUE})
CELL = st.one_of(
    VALUE,
    st.lists(TURN, max_size=3),
    st.fixed_dictionaries({}, optional={"text": VALUE, "spans": VALUE}),
    st.just("good"),
)
RECORD = st.one_of(
    st.dictionaries(st.sampled_from(COLUMNS), CELL, max_size=4),
    st.fixed_dictionaries({"text": st.just("the film was good"), "label": mostly(0, 1, "0", "good")}),
)


def use(path: Path, cfg: RunConfig) -> None:
    """Records as far as they go without a model's weights."""
    splits = load_splits(path, seed=0, limit=cfg.limit, k_per_class=cfg.k_per_class, columns=cfg.columns)
    json.dumps(splits.train, default=str)
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    _, spec, found = resolve_task.resolve(cfg, resolve_task.parse_task(cfg.task), parts)
    for rows in found.values():
        for row in rows:
            spec.references(row)
            spec.template.fill(row, spec.target, "said", "drop")


@fuzz()
@given(
    suffix=st.sampled_from(readers.SUFFIXES),
    raw=st.one_of(st.binary(max_size=120), st.text(alphabet='a,"\t\r\n{}[]:1\\\0é\u2028', max_size=60).map(str.encode)),
)
@example(suffix=".json", raw=b"[" * 100_000)
@example(suffix=".jsonl", raw=b'{"a": ' + b"[" * 100_000)
@example(suffix=".jsonl", raw=b'{"a": ' + b"9" * 5000 + b"}")
@example(suffix=".json", raw=b'[{"a": ' + b"9" * 5000 + b"}]")
@example(suffix=".csv", raw=b'a,b\n"' + b"x" * 200_000)
@example(suffix=".csv", raw=b"a\n" + b"x" * 200_000)
@example(suffix=".csv", raw=b"a,b\n1,\0\n")
def test_data_as_bytes(place: Path, suffix: str, raw: bytes) -> None:
    path = place / f"x{suffix}"
    path.write_bytes(raw)
    with harmless():
        found = readers.read_file(path)
        assert found
        assert all(isinstance(row, dict) for row in found)


@pytest.fixture(scope="module")
def parquet(place: Path) -> bytes:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"text": f"the film was {i}", "label": i % 2, "answers": {"text": ["a"], "n": [i]}} for i in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), place / "whole.parquet")
    return (place / "whole.parquet").read_bytes()


@fuzz()
@given(drawn=st.data())
def test_damaged_parquet(place: Path, parquet: bytes, drawn: st.DataObject) -> None:
    raw = bytearray(parquet)
    for at, byte in drawn.draw(st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(0, 255)), max_size=6)):
        raw[at] = byte
    (place / "x.parquet").write_bytes(bytes(raw[: drawn.draw(st.just(len(raw)) | st.integers(0, len(raw)))]))
    with harmless():
        assert all(isinstance(row, dict) for row in readers.read_file(place / "x.parquet"))


@fuzz()
@given(
    rows=st.lists(RECORD, max_size=6),
    task=mostly(None, "classification", "generation", "choice").filter(lambda x: x is None or isinstance(x, str)),
    options=st.fixed_dictionaries(
        {},
        optional={
            "template": st.sampled_from(
                ["{text}", "{text} {label}", "{prompt}", "{choices} {choice}", "{messages}", "x"]
            ),
            "labels": st.sampled_from(["bad,good", "0=bad,1=good", "a", "=", "0=a,0=b", ",", "1,2,3"]),
            "choices": st.sampled_from(["choices", "text,prompt", "answers", ",", "label"]),
            "columns": st.sampled_from([{"label": "answers"}, {"text": "nothing"}, {"completion": "label"}]),
            "limit": st.integers(1, 3),
            "k_per_class": st.integers(1, 2),
        },
    ),
)
def test_data_as_records(
    place: Path, tiny_encoder: Path, tiny_llama: Path, rows: list[Any], task: str | None, options: dict[str, Any]
) -> None:
    path = place / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = tiny_llama if len(rows) % 2 else tiny_encoder
    with contextlib.chdir(place), harmless():
        use(path, RunConfig(model=str(model), task=task, **options))


@fuzz()
@given(table=st.lists(st.lists(TEXT, min_size=1, max_size=3), max_size=6))
def test_tables(place: Path, tiny_encoder: Path, table: list[list[str]]) -> None:
    written = io.StringIO(newline="")
    csv.writer(written).writerows([["text", "label"], *table])
    (place / "x.csv").write_text(written.getvalue(), encoding="utf-8", errors="replace", newline="")
    with harmless():
        use(place / "x.csv", RunConfig(model=str(tiny_encoder)))


@fuzz(2)
@given(
    text=st.text(alphabet="{}|!:[]._%0textlabel é\n\x1b", max_size=30),
    record=st.dictionaries(st.sampled_from(COLUMNS), VALUE, max_size=4),
)
@example(text="{text.__class__.__init__.__globals__}", record={"text": "x"})
@example(text="{text[0]}", record={"text": "x"})
@example(text="{\n}", record={})
@example(text="{text!r:>9999999999}", record={"text": "x"})
@example(text="{" * 10_000, record={})
def test_templates(text: str, record: dict[str, Any]) -> None:
    with harmless():
        template = Template(text)
        if set(template.columns) <= set(record):
            filled = template.fill(record)
            plain = [str(record[f]) for f in template.columns]
            assert len(filled.text) <= len(text) + sum(map(len, plain))


TASK = st.fixed_dictionaries(
    {
        "template": mostly(
            "{text} {label}", "{text}", {"default": "{text}", "causal": "{text} {label}"}, "{choice|fill}"
        )
    },
    optional={
        "kind": mostly("classification", "choice", "generation"),
        "labels": mostly({"0": "bad", "1": "good"}, [{"values": [0, "no"], "word": "bad"}]),
        "columns": mostly({"text": ["sentence", ""]}, ["text"]),
        "values": mostly({"text": {"a": "b"}}),
        "choices": mostly(["a", "b"], "choices"),
        "cut": mostly("text"),
        "calibration": mostly("{label}"),
        "stop": mostly(["\n"]),
        "max_new_tokens": mostly(3),
        "objective": mostly("accuracy"),
        "dataset": VALUE,
    },
)


@fuzz()
@given(raw=st.one_of(st.binary(max_size=60), st.lists(TOKENS, max_size=16).map(lambda x: "".join(x).encode())))
def test_task_files_as_text(place: Path, raw: bytes) -> None:
    (place / "task.yaml").write_bytes(raw)
    with harmless():
        presets.load(str(place / "task.yaml"))


@fuzz()
@given(values=TASK)
def test_task_files_as_values(place: Path, values: dict[str, Any]) -> None:
    (place / "task.yaml").write_text(json.dumps(values), encoding="utf-8")
    with harmless():
        found = presets.load(str(place / "task.yaml"))
        for head in presets.HEADS:
            with contextlib.suppress(OptionError):
                Template(presets.template_for(found, head), found.values)


@fuzz()
@given(
    name=st.sampled_from(["config.json", "adapter_config.json"]),
    value=st.one_of(
        VALUE,
        st.dictionaries(
            st.sampled_from(
                ["architectures", "is_encoder_decoder", "base_model_name_or_path", "task_type", "model_type"]
            ),
            mostly(["BertModel"], "SEQ_CLS", "{here}"),
        ),
    ),
    raw=st.none() | st.binary(max_size=40),
)
@example(name="adapter_config.json", value={"base_model_name_or_path": "{here}"}, raw=None)
@example(name="config.json", value=None, raw=b"[" * 100_000)
def test_model_files(place: Path, name: str, value: Any, raw: bytes | None) -> None:
    folder = place / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"")
    text = json.dumps(value).replace("{here}", str(folder))
    (folder / name).write_bytes(text.encode() if raw is None else raw)
    with contextlib.chdir(place), harmless():
        find_model(str(folder))


@fuzz()
@given(values=st.dictionaries(st.sampled_from(evaluate.RECORDED_OPTIONS), VALUE, max_size=4))
@example(values={"template": 5})
@example(values={"stop": 5, "columns": ["a"]})
def test_recorded_task_options(place: Path, values: dict[str, Any]) -> None:
    (place / "config.yaml").write_text(json.dumps(values), encoding="utf-8")
    with harmless():
        found = evaluate.with_recorded_task(RunConfig(model=str(place)))
        assert all(has_type(getattr(found, name), HINTS[name]) for name in evaluate.RECORDED_OPTIONS)


@pytest.fixture(scope="module")
def journal(place: Path) -> bytes:
    path = place / "whole.jsonl"
    made = Journal.create(path, {"seed": 0})
    made.append({"kind": "init", "tape": []})
    for step in range(4):
        made.append({"kind": "step", "step": step, "evals": 2 * step, "tape": [["values", [0.1, 0.25 * step]]]})
    made.append({"kind": "end", "step": 4, "reason": "done", "weights": "00"})
    made.close()
    return path.read_bytes()


def read_journal(path: Path) -> Journal:
    found = Journal.open(path, read_only=True)
    while found.replaying:
        line = found.lines[found.cursor]
        found.take(line["kind"])
    return found


@fuzz()
@given(drawn=st.data())
def test_damaged_journals(place: Path, journal: bytes, drawn: st.DataObject) -> None:
    """Whatever is changed in it is named with its line, or was a last line that is dropped."""
    raw = bytearray(journal)
    kind = drawn.draw(st.sampled_from(["bytes", "cut", "insert", "lines"]))
    if kind == "bytes":
        for at, byte in drawn.draw(st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(0, 255)), max_size=4)):
            raw[at] = byte
    elif kind == "cut":
        raw = raw[: drawn.draw(st.integers(0, len(raw)))]
    elif kind == "insert":
        at = drawn.draw(st.integers(0, len(raw)))
        raw[at:at] = drawn.draw(st.binary(max_size=30))
    else:
        raw = bytearray(b"".join(drawn.draw(st.permutations(bytes(raw).splitlines(True)))))
    path = place / "x.jsonl"
    path.write_bytes(bytes(raw))
    with harmless():
        lines = read_journal(path).lines
        assert lines == read_journal(place / "whole.jsonl").lines[: len(lines)]


@fuzz()
@given(raw=st.binary(max_size=80), bodies=st.lists(VALUE, max_size=4))
@example(raw=b"[" * 100_000 + b"\n", bodies=[])
def test_foreign_journals(place: Path, raw: bytes, bodies: list[Any]) -> None:
    text = "".join(json.dumps({"body": writable(body), "sum": "0" * 12}) + "\n" for body in bodies)
    (place / "x.jsonl").write_bytes(raw + text.encode())
    with harmless():
        read_journal(place / "x.jsonl")


@fuzz()
@given(tape=st.lists(st.lists(VALUE, min_size=0, max_size=3), max_size=3))
def test_tapes(tape: list[list[Any]]) -> None:
    with harmless():
        Tape(tape).take("values", lambda: [0.0])


REPLY = st.one_of(
    st.binary(max_size=60),
    VALUE.map(lambda x: json.dumps(x).encode()),
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("score", "reward", "scores", "rewards", "data", "index"), VALUE)
    ).map(lambda x: json.dumps(x).encode()),
    st.lists(
        st.fixed_dictionaries(
            {}, optional={"index": VALUE, "score": VALUE, "label": VALUE, "probs": VALUE, "embedding": VALUE}
        ),
        max_size=3,
    ).map(lambda x: json.dumps(x).encode()),
    st.sampled_from(
        [b"1", b"[1, 2]", b"null", b"NaN", b"1e999", b"[" * 100_000, b'{"scores": [0.5, null]}', b"9" * 5000]
    ),
)


def fine(found: Sequence[float | None], rows: int) -> None:
    assert len(found) == rows
    assert all(x is None or (type(x) is float and math.isfinite(x)) for x in found)


@fuzz(2)
@given(raw=REPLY, rows=st.integers(1, 3), label=st.none() | st.sampled_from(["0", "1", "good", "²", "-1"]))
@example(raw=b'[{"index": 1e999, "score": 1}]', rows=1, label=None)
@example(raw=b'[[{"label": [], "score": 1}]]', rows=1, label="good")
@example(raw=b"[[1, 2]]", rows=1, label="\N{SUPERSCRIPT TWO}")
def test_replies_as_scores(raw: bytes, rows: int, label: str | None) -> None:
    with harmless():
        try:
            reply = parse(raw.decode())
        except (ValueError, RecursionError):
            return
        try:
            fine(server_scores(reply, rows, label), rows)
        except ValueError as error:
            one_line(str(error))
        with contextlib.suppress(ValueError):
            fine([number(reply)], 1)


class Web:
    """A server that answers every connection with `raw`, and closes it."""

    def __init__(self) -> None:
        self.raw, self.ended = b"", False
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while not self.ended:
            with contextlib.suppress(OSError):
                connection, _ = self.listening.accept()
                with connection:
                    connection.settimeout(2)
                    connection.recv(1 << 16)
                    connection.sendall(self.raw)

    def close(self) -> None:
        self.ended = True
        self.listening.close()


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.close()


STATUS = st.sampled_from(
    ["HTTP/1.1 200 OK", "HTTP/1.1 204 No", "HTTP/1.0 503 Busy", "HTTP/1.1 307 Go", "HTTP/9 x", "ICY 200"]
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            ["Content-Length", "Location", "Retry-After", "Transfer-Encoding", "Content-Type", "X", "", " "]
        ),
        st.one_of(
            TEXT, st.sampled_from(["5", "-5", "chunked", "//[", "http://[::1", "http://127.0.0.1:99999/", "/", "0"])
        ),
    ),
    max_size=4,
)


@fuzz()
@given(
    raw=st.one_of(
        st.binary(max_size=80),
        st.builds(
            lambda status, headers, body: (
                "\r\n".join([status, *(f"{k}: {v}" for k, v in headers), "", ""]).encode("utf-8", "replace") + body
            ),
            STATUS,
            HEADERS,
            REPLY,
        ),
    )
)
@example(raw=b"HTTP/1.1 307 Go\r\nLocation: //[\r\n\r\n")
@example(raw=b"HTTP/1.1 302 Go\r\nLocation: http://[::1\r\n\r\n")
@example(raw=b"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:99999/\r\n\r\n")
@example(raw=b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n1")
@example(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n1")
@example(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 5000)
@example(raw=b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000)
@example(raw=b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000)
def test_replies_of_servers(web: Web, raw: bytes) -> None:
    web.raw = raw
    scorer = http.Http(f"//127.0.0.1:{web.port}/score", retries=0, timeout=3.0)
    signal.alarm(SECONDS)
    try:
        fine(scorer(["x", "y"], ["p", "q"]), 2)
    except ObjectiveError as error:
        one_line(str(error))
    finally:
        signal.alarm(0)


ECHO = """\
import sys, base64, json
for line in sys.stdin:
    sys.stdout.buffer.write(base64.b64decode(json.loads(line)["prompt"]))
    sys.stdout.flush()
"""


@pytest.fixture(scope="module")
def program(place: Path) -> Iterator[Exec]:
    path = place / "echo.py"
    path.write_text(ECHO)
    made = Exec(f"{sys.executable} -S -E {path}", timeout=5.0)
    yield made
    made.close()


@fuzz(0.2)
@given(
    replies=st.lists(st.tuples(REPLY, st.sampled_from([b"\n", b"\n", b"\n", b"\n\n", b"\r\n"])), min_size=1, max_size=3)
)
def test_replies_of_programs(program: Exec, replies: list[tuple[bytes, bytes]]) -> None:
    """Each row is answered with any bytes and the end of a line."""
    import base64

    prompts = [base64.b64encode(raw + end).decode() for raw, end in replies]
    try:
        fine(program([""] * len(prompts), prompts), len(prompts))
    except ObjectiveError as error:
        one_line(str(error))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Ratings, list[str]]]:
    """A page with a question, and what its threads raised."""
    folder = tmp_path_factory.mktemp("page")
    raised: list[str] = []
    with Ratings(folder) as store, serve(folder) as server:
        server._http.handle_error = lambda request, address: raised.append(repr(sys.exception()))  # type: ignore[method-assign]
        store.ask([Question("a", "p", ("x", "y"))])
        yield server, store, raised


PATHS = st.one_of(
    st.sampled_from(
        ["/", "/{token}/", "/{token}/next", "/{token}/answer", "/{token}/undo", "/{token}/rate.js", "*", "//"]
    ),
    st.text(alphabet=string.printable + "é\u2028", max_size=20),
)
BODY = st.one_of(
    st.binary(max_size=60),
    VALUE.map(lambda x: json.dumps(x).encode()),
    st.fixed_dictionaries({}, optional={"id": VALUE, "verdict": mostly("2000", "good", "")}).map(
        lambda x: json.dumps(x).encode()
    ),
)


@fuzz()
@given(
    method=st.one_of(st.sampled_from(["GET", "POST", "HEAD", "PUT"]), st.text(alphabet=string.printable, max_size=6)),
    path=PATHS,
    headers=st.lists(
        st.tuples(
            st.sampled_from(
                ["Host", "Origin", "Content-Type", "Content-Length", "Transfer-Encoding", "Expect", "X", ""]
            ),
            st.one_of(
                st.sampled_from(
                    ["{here}", "http://{here}", "application/json", "2", "-1", "chunked", "100-continue", "²"]
                ),
                st.text(alphabet=string.printable + "é", max_size=12),
            ),
        ),
        max_size=6,
    ),
    body=BODY,
    raw=st.none() | st.binary(max_size=60),
)
def test_requests_to_the_rating_page(
    page: tuple[Server, Ratings, list[str]],
    method: str,
    path: str,
    headers: list[tuple[str, str]],
    body: bytes,
    raw: bytes | None,
) -> None:
    server, store, raised = page
    here = f"127.0.0.1:{server.port}"
    lines = [f"{method} {path.replace('{token}', server.token)} HTTP/1.1"]
    lines += [f"{k}: {v.replace('{here}', here)}" for k, v in headers]
    said = "\r\n".join([*lines, "", ""]).encode("utf-8", "replace") + body if raw is None else raw
    with Effects(server.folder) as effects, socket.create_connection(("127.0.0.1", server.port), 5) as line:
        reply = b""
        with contextlib.suppress(OSError):  # it may hang up in the middle
            line.sendall(said)
            line.shutdown(socket.SHUT_WR)
            reply = line.makefile("rb").read()
    assert [x for x in effects.seen if "socket" not in x] == []
    assert raised == []
    assert b"Traceback" not in reply
    assert reply == b"" or reply.startswith((b"HTTP/1.0 ", b"zotune", b"<")) or b"\n" in reply
    assert server.token.encode() not in reply
    assert store.count_open(["a"]) == 1
