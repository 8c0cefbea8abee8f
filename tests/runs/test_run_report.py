"""The page of a run from its directory: what it shows of real runs, of old ones, of hostile and of huge ones."""

from __future__ import annotations

import json
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import zotune
import zotune.errors
from zotune.cli.app import main
from zotune.errors import RunFolderError
from zotune.runs.run_list import run_list
from zotune.runs.run_reader import read_run
from zotune.runs.run_report import records
from zotune.text import number

Runs = dict[str, Path]
HOSTILE = "</script><img src=x onerror=alert(1)>\u202eevil\u2066 \x1b[31m '\"& <b>"
VOID = {"meta", "input", "br", "link"}


class Page(HTMLParser):
    """A page's elements and texts; complains about elements that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source, self.open, self.texts = text, list[str](), list[str]()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def count(self, tag: str, **attributes: str) -> int:
        return sum(t == tag and all(a.get(k) == v for k, v in attributes.items()) for t, a in self.tags)


def page(*folders: Path, tmp_path: Path) -> Page:
    return Page(zotune.report(*folders, output=tmp_path / "page.html").read_text(encoding="utf-8"))


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_run_ends_with_its_page(finished_runs: Runs) -> None:
    for kind, folder in finished_runs.items():
        shown, values = Page((folder / "report.html").read_text()), result(folder)
        before, difference = values["before"], values["difference"]
        assert f"{before['value']:.4f}" in shown.text, kind
        if values["best_step"]:
            assert number(difference["value"], sign=True) in shown.text, kind
        assert shown.count("figure", **{"class": "chart"}) >= 2, kind
        assert ("tuned weights kept" if values["kept"] == "tuned" else "base model kept") in shown.text
        repeated = "zotune fit --model" in shown.text
        assert repeated == (kind == "classes"), "the other objectives are Python functions"
        assert f"zotune replay {folder}" in shown.text
        assert ("dropped step, weights unchanged" in shown.text) == (kind == "failed")


def test_the_page_allows_no_foreign_content(finished_runs: Runs) -> None:
    for folder in finished_runs.values():
        shown = Page((folder / "report.html").read_text())
        (policy,) = [a["content"] for t, a in shown.tags if a.get("http-equiv") == "Content-Security-Policy"]
        assert "default-src 'none'" in str(policy)
        assert "unsafe" not in str(policy)
        assert shown.count("script") == shown.count("style") == 1
        assert not [a for _, a in shown.tags if {"src", "style"} & set(a) or any(k.startswith("on") for k in a)]
        assert all(str(a["href"]).startswith("#") for _, a in shown.tags if "href" in a)
        assert "http://" not in shown.source
        assert "https://" not in shown.source


def test_classes_have_a_table_and_two_matrices(finished_runs: Runs) -> None:
    record = read_run(finished_runs["classes"])
    assert record.predictions is not None
    assert list(record.predictions.names) == ["awful film", "lovely film"]
    assert len(record.predictions.correct) == 20
    shown = Page((finished_runs["classes"] / "report.html").read_text())
    assert shown.count("table", **{"class": "matrix"}) == 1 + record.tuned
    hits = sum(a == b for a, b in zip(record.predictions.correct, record.predictions.before, strict=True))
    cells = re.findall(r'<td class="h\d hit">(\d*)</td>', shown.source)
    assert sum(int(x or 0) for x in cells[:2]) == hits
    assert len(record.samples[0].versions) == 1 + record.tuned
    assert len(record.samples) == 20
    assert {v.verdict for s in record.samples for v in s.versions} <= {"right", "wrong"}


def test_outputs_stand_in_the_order_of_the_steps(finished_runs: Runs) -> None:
    record = read_run(finished_runs["text"])
    written = rows(finished_runs["text"] / "completions.jsonl")
    sample = record.samples[0]
    lines = [x for x in written if x["set"] == sample.part and x["row"] == 0]
    assert sample.prompt == lines[0]["prompt"]
    assert [v.text for v in sample.versions] == [x["completion"] for x in lines[: len(sample.versions)]]
    assert [v.score for v in sample.versions] == [x["score"] for x in lines[: len(sample.versions)]]
    assert [v.step for v in sample.versions] == sorted(v.step for v in sample.versions)
    assert sample.versions[0].label == "base model"


def test_scales_and_times_cover_the_run(finished_runs: Runs) -> None:
    for kind, folder in finished_runs.items():
        record = read_run(folder)
        assert set(record.scales) == {"steps", "completions", "seconds"}, kind
        assert record.scales["steps"].at(8) == 8
        size = 8 if kind == "classes" else 4
        assert record.scales["completions"].at(8) == 2 * 8 * size, kind
        assert 0 < record.scales["seconds"].at(0) < record.scales["seconds"].at(8)
        assert sum(record.spent.values()) <= record.scales["seconds"].at(8) + 0.1
        assert record.spent["model"] > 0
        assert [e.step for e in record.evaluations] == [0, 2, 4, 6, 8]


def test_noise_of_validation_scores_is_that_of_the_paired_difference(finished_runs: Runs) -> None:
    record = read_run(finished_runs["text"])
    written = [x for x in rows(finished_runs["text"] / "completions.jsonl") if x["set"] == "validation"]
    base = [x["score"] for x in written if x["step"] == 0]
    for e in record.evaluations[1:]:
        if e.error is None:
            assert e.diverged
            continue
        gaps = [x["score"] - b for x, b in zip([x for x in written if x["step"] == e.step], base, strict=True)]
        mean = sum(gaps) / len(gaps)
        deviation = (sum((g - mean) ** 2 for g in gaps) / (len(gaps) - 1)) ** 0.5
        assert e.error == pytest.approx(deviation / len(gaps) ** 0.5)


def test_failures_are_counted_and_escaped(finished_runs: Runs) -> None:
    record = read_run(finished_runs["failed"])
    assert len(record.dropped) == result(finished_runs["failed"])["dropped"] >= 1
    shown = Page((finished_runs["failed"] / "report.html").read_text())
    assert "the scorer </script> is down" in shown.text
    assert "the scorer &lt;/script&gt; is down" in shown.source


def test_several_runs_stand_beside_each_other(finished_runs: Runs, tmp_path: Path) -> None:
    shown = page(finished_runs["text"], finished_runs["set"], tmp_path=tmp_path)
    assert "2 runs" in shown.text
    assert "Options that differ between these runs" in shown.text
    assert shown.text.count("Validation words") == shown.text.count("Validation distinct") >= 1
    copies = [shutil.copytree(finished_runs["text"], tmp_path / name / "same") for name in ("a", "b")]
    assert len({run.name for run in records(copies)}) == 2


def test_a_report_of_a_running_a_killed_and_a_damaged_run(finished_runs: Runs, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_runs["text"], tmp_path / "killed"))
    (folder / "result.json").unlink()
    assert read_run(folder).state == "interrupted"
    assert "not decided anything yet" in page(folder, tmp_path=tmp_path).text
    from zotune import lock

    with lock.held(folder):
        assert read_run(folder).state == "running"
    for name in ("metrics.jsonl", "completions.jsonl", "progress.jsonl", "env.json", "config.yaml", "journal.jsonl"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(b"\xff\x00{broken\n[1, 2]\nnull\n" + content[: len(content) // 2])
        page(folder, tmp_path=tmp_path)
        (folder / name).unlink()
        if name != "journal.jsonl":
            page(folder, tmp_path=tmp_path)
    with pytest.raises(RunFolderError):
        read_run(folder)


def test_old_runs_have_a_page(tmp_path: Path) -> None:
    found = sorted((Path(__file__).parents[1] / "fixtures/runs").glob("*/run"))
    assert found
    for folder in found:
        shown = page(folder, tmp_path=tmp_path)
        assert "Times of the parts were not recorded." in shown.text


def test_hostile_and_long_texts_are_shown_as_text(finished_runs: Runs, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_runs["text"], tmp_path / "<b>run"))
    lines = rows(folder / "completions.jsonl")
    for i, line in enumerate(lines):
        line |= {"prompt": HOSTILE + str(line["row"]), "completion": HOSTILE + "x" * (1_000_000 if i % 9 == 0 else 9)}
    (folder / "completions.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (folder / "env.json").write_text(json.dumps({"versions": {HOSTILE: HOSTILE}, "python": HOSTILE}))
    shown = page(folder, tmp_path=tmp_path)
    assert len(shown.source) < 3_000_000
    assert shown.count("img") == 0
    assert "more characters" in shown.text
    assert not set("\u202e\u2066\x1b") & set(shown.source)
    assert "</script><img src=x onerror=alert(1)>" in shown.text


def test_a_hundred_thousand_steps_make_a_small_page_soon(finished_runs: Runs, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_runs["text"], tmp_path / "long"))
    text = (folder / "journal.jsonl").read_text().splitlines()
    steps = [
        f'{{"body":{{"kind":"step","step":{i},"evals":{2 * i + 2},"tape":[["values",[-1.0,-{i % 7}.5]]]}},"sum":"0"}}'
        for i in range(100_000)
    ]
    evals = [
        json.dumps({"body": {"kind": "eval", "step": i, "score": i % 13 / 13, "drift": i / 1e6}, "sum": "0"})
        for i in range(0, 100_001, 20)
    ]
    (folder / "journal.jsonl").write_text("\n".join([text[0], *steps, *evals]) + "\n")
    (folder / "metrics.jsonl").write_text(
        "".join(f'{{"step":{i},"difference":{i % 3}.0,"loss":-{i % 10}.25}}\n' for i in range(1, 100_001))
    )
    (folder / "progress.jsonl").write_text(
        "".join(f'{{"step":{i},"seconds":{i / 10},"spent":{{}}}}\n' for i in range(0, 100_001, 10))
    )
    started = time.process_time()
    shown = page(folder, tmp_path=tmp_path)
    assert time.process_time() - started < 20
    assert len(shown.source) < 3_000_000
    longest = max(len(str(a["d"]).split("L")) for t, a in shown.tags if t == "path")
    assert longest <= 2001


def test_the_commands(
    finished_runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = finished_runs["text"].parent
    for arguments, file in (
        ([str(finished_runs["text"]), "-o", "one.html"], "one.html"),
        ([str(root / "text"), str(root / "judge")], "report.html"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(["report", *arguments])
        assert exit_.value.code == 0
        assert (tmp_path / capsys.readouterr().out.strip()).samefile(tmp_path / file)
    for wrong in ([], ["none"], [str(tmp_path)]):
        with pytest.raises(SystemExit) as exit_:
            main(["report", *wrong])
        assert exit_.value.code == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_runs_are_listed_and_sorted(
    finished_runs: Runs, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = finished_runs["text"].parent
    for order in ("time", "gain", "score", "name"):
        listed = run_list(root, order)
        assert {Path(x.folder).name for x in listed} == set(finished_runs)
    gains = [x.gain for x in run_list(root, "gain")]
    assert gains == sorted(gains, reverse=True)  # type: ignore[type-var]
    with pytest.raises(SystemExit):
        main(["ls", "runs", str(root), "--json"])
    printed = {Path(x["folder"]).name: x for x in json.loads(capsys.readouterr().out)}
    for kind, folder in finished_runs.items():
        values = result(folder)
        assert printed[kind]["before"] == values["before"]["value"]
        assert printed[kind]["after"] == values["after"]["value"]
        assert printed[kind]["steps"] == 8
    with pytest.raises(SystemExit):
        main(["ls", "runs", str(root)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[0].split() == ["run", "objective", "model", "before", "after", "kept", "steps", "time"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(["ls", "runs"])
    assert exit_.value.code == 0
    assert "holds no run" in capsys.readouterr().out


def small(encoder: Path, toy: Path, folder: Path, **more: Any) -> dict[str, Any]:
    usual = {"optimizer": "mezo", "learning_rate": 1e-3, "eps": 1e-2, "max_steps": 6, "eval_steps": 2, "batch_size": 8}
    usual |= {"smooth": 0, "preflight": False, "init": "none", "labels": "awful film,lovely film"}
    usual |= {"objective": "cross-entropy"}
    return {"model": str(encoder), "dataset": str(toy), "output_dir": str(folder), **usual, **more}


def test_an_interrupted_run_has_a_page_and_its_times_count_on(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    folder, asked = tmp_path / "out", iter([False, False, True])
    first = zotune.fit(**small(tiny_encoder, toy, folder), stop=lambda: next(asked))
    assert first.reason == "interrupted"
    assert "interrupted" in Page((folder / "report.html").read_text()).text
    before = rows(folder / "progress.jsonl")
    with (folder / "progress.jsonl").open("a") as file:
        file.write('{"step":99,"seconds":1e9,"spent":{}}\n{"step":3,"sec')  # beyond the journal, and torn
    zotune.fit(**small(tiny_encoder, toy, folder), resume="last")
    lines = rows(folder / "progress.jsonl")
    assert lines[: len(before)] == before
    seconds = [x["seconds"] for x in lines[1:]]
    assert seconds == sorted(seconds)
    for kind in ("model", "scoring", "validation"):
        spent = [x["spent"][kind] for x in lines[1:]]
        assert spent == sorted(spent)
    evaluated = [x["step"] for x in lines if x.get("evaluated")]
    assert evaluated == [0, 2, 4, 6]
    left = [x["left"] for x in lines if "left" in x]
    assert left
    assert all(seconds >= 0 for seconds in left)
    record = read_run(folder)
    assert record.state in ("tuned", "start")
    assert [e.error is not None for e in record.evaluations] == [True] * 4
    assert record.best is None or record.best.step == result(folder)["best_step"]


def test_a_run_from_a_linear_probe_says_so(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    zotune.fit(**small(tiny_encoder, toy, tmp_path / "out", init="linear-probe"))
    shown, values = Page((tmp_path / "out/report.html").read_text()), result(tmp_path / "out")
    assert "linear probe" in shown.text
    assert "where tuning started" in shown.text
    for part in ("base", "before"):
        assert f"{values[part]['value']:.4f}" in shown.text
    kept = "tuned" if values["kept"] == "tuned" else "linear probe"
    assert [run.kept for run in run_list(tmp_path / "out")] == [kept]


def test_a_run_whose_scorer_stays_down_leaves_a_page(tiny_encoder: Path, toy: Path, tmp_path: Path) -> None:
    calls = iter(range(1000))

    def gone(predictions: list[int], labels: list[int]) -> list[float]:
        if next(calls) > 6:
            raise RuntimeError("gone for good")
        return [float(p == y) for p, y in zip(predictions, labels, strict=True)]

    with pytest.raises(zotune.errors.ObjectiveFailures):
        zotune.fit(**small(tiny_encoder, toy, tmp_path / "out", objective=gone, max_failures=2))
    shown = Page((tmp_path / "out/report.html").read_text())
    assert "gone for good" in shown.text
    assert "interrupted" in shown.text


def test_a_page_that_cannot_be_written_ends_no_run(
    tiny_encoder: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> str:
        raise OSError("no space left")

    monkeypatch.setattr("zotune.runs.run_report.html_page", broken)
    notes: list[str] = []
    emit = lambda event: notes.append(getattr(event, "text", ""))  # noqa: E731
    assert zotune.fit(**small(tiny_encoder, toy, tmp_path / "out"), emit=emit).reason == "done"
    assert any("no space left" in note for note in notes)
