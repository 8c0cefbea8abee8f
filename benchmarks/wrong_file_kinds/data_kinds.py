"""Kinds about data files: formats, encodings, shapes, columns and odd texts."""

from __future__ import annotations

import csv
import gzip
import io
import json
from typing import Any

from wrong_file_kinds import tiny_models as tiny
from wrong_file_kinds.label_kinds import drawn_rows, evaluated, right_accuracy
from wrong_file_kinds.variant import Draw, Variant, kind

Rows = list[dict[str, Any]]


def as_jsonl(rows: Rows) -> str:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)


def as_csv(rows: Rows, delimiter: str = ",", **more: Any) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), delimiter=delimiter, **more)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def as_parquet(rows: Rows) -> bytes:
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def named_rows(draw: Draw) -> tuple[Rows, float]:
    """Rows with text labels, and their right accuracy."""
    rows = drawn_rows(draw)
    return [{**r, "label": tiny.NAMES[r["label"]]} for r in rows], right_accuracy(draw, rows)


@kind
def file_format(draw: Draw) -> Variant:
    """The same rows in every format that is read: the same score."""
    rows, right = named_rows(draw)
    name, content = draw.choice(
        (
            ("d.jsonl", as_jsonl(rows)),
            ("d.ndjson", as_jsonl(rows)),
            ("d.json", json.dumps(rows)),
            ("d.json", json.dumps({"data": rows})),
            ("d.csv", as_csv(rows)),
            ("d.csv", as_csv(rows, quoting=csv.QUOTE_ALL)),
            ("d.tsv", as_csv(rows, "\t")),
            ("d.parquet", as_parquet(rows)),
            ("D.CSV", as_csv(rows)),
            ("d.jsonl", as_jsonl(rows).replace("\n", "\r\n")),
            ("d.csv", as_csv(rows).replace("\r\n", "\n")),
            ("d.jsonl", b"\xef\xbb\xbf" + as_jsonl(rows).encode()),
            ("d.csv", b"\xef\xbb\xbf" + as_csv(rows).encode()),
            ("d.jsonl", "\n\n" + as_jsonl(rows).replace("\n", "\n\n")),
            ("d.csv", as_csv(rows).rstrip() + "\n\n\n"),
        )
    )
    return Variant(evaluated(draw, draw.write(name, content)), right, about=f"{name}, {str(content)[:12]!r}")


@kind
def odd_format(draw: Draw) -> Variant:
    """Formats that may be read or refused, never misread."""
    rows, right = named_rows(draw)
    half = {"train": rows[:4], "test": rows}
    columns = {k: [r[k] for r in rows] for k in rows[0]}
    how, name, content = draw.choice(
        (
            ("gzip", "d.jsonl.gz", gzip.compress(as_jsonl(rows).encode())),
            ("gzip csv", "d.csv.gz", gzip.compress(as_csv(rows).encode())),
            ("lines in json", "d.json", as_jsonl(rows)),
            ("list in jsonl", "d.jsonl", json.dumps(rows)),
            ("indented in jsonl", "d.jsonl", json.dumps(rows, indent=1)),
            ("UTF-16", "d.jsonl", as_jsonl(rows).encode("utf-16")),
            ("UTF-16 csv", "d.csv", as_csv(rows).encode("utf-16")),
            ("UTF-32", "d.jsonl", as_jsonl(rows).encode("utf-32")),
            ("UTF-16 without mark", "d.csv", as_csv(rows).encode("utf-16-le")),
            ("splits in json", "d.json", json.dumps(half)),
            ("columns in json", "d.json", json.dumps(columns)),
            ("semicolons", "d.csv", as_csv(rows, ";")),
            ("tabs in csv", "d.csv", as_csv(rows, "\t")),
            ("commas in tsv", "d.tsv", as_csv(rows)),
            ("pipes", "d.csv", as_csv(rows, "|")),
            ("no header", "d.csv", as_csv(rows).partition("\n")[2]),
            ("old Mac lines", "d.csv", as_csv(rows).replace("\r\n", "\r")),
            ("parquet named csv", "d.csv", as_parquet(rows)),
            ("csv named jsonl", "d.jsonl", as_csv(rows)),
            ("jsonl named csv", "d.csv", as_jsonl(rows)),
            ("json named parquet", "d.parquet", json.dumps(rows)),
            ("text file", "d.txt", as_csv(rows)),
        )
    )
    return Variant(evaluated(draw, draw.write(name, content)), right, (name, "d.", "column"), about=how)


@kind
def no_data(draw: Draw) -> Variant:
    """A data path with nothing to score."""
    how, name, content = draw.choice(
        (
            ("empty", "d.jsonl", ""),
            ("empty csv", "d.csv", ""),
            ("header", "d.csv", "text,label\n"),
            ("empty list", "d.json", "[]"),
            ("null", "d.json", "null"),
            ("number", "d.jsonl", "3\n4\n"),
            ("picture", "d.csv", b"\x89PNG\r\n\x1a\n" + bytes(range(256))),
            ("zip", "d.jsonl", b"PK\x03\x04" + bytes(200)),
            ("lfs", "d.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 100\n"),
            ("html", "d.json", "<html><body>404 not found</body></html>"),
            ("missing", "", ""),
            ("blank lines", "d.jsonl", "\n \n\n"),
            ("empty folder", "folder/", ""),
            ("arrow folder", "arrow/data-00000-of-00001.arrow", b"ARROW1\0\0"),
        )
    )
    path: Any = draw.folder / (name or "nowhere.jsonl")
    if name.endswith("/"):
        path.mkdir()
    elif name:
        path = draw.write(name, content)
    path = draw.folder / "arrow" if how == "arrow folder" else path
    return Variant(evaluated(draw, path), None, (path.name,), about=how)


@kind
def broken_line(draw: Draw) -> Variant:
    """One line of JSON lines, or one row of a table, that is broken."""
    rows, _ = named_rows(draw)
    place = draw.random.randrange(2, len(rows))
    how = draw.choice(("cut", "trailing comma", "single quotes", "list", "two objects", "more cells", "fewer cells"))
    if how in ("more cells", "fewer cells"):
        lines = as_csv(rows).splitlines()
        lines[place] = f"{lines[place]},4" if how == "more cells" else lines[place].partition(",")[0]
        return Variant(
            evaluated(draw, draw.write("d.csv", "\n".join(lines) + "\n")), None, (f"line {place + 1}", "row"), about=how
        )
    lines = as_jsonl(rows).splitlines()
    line = lines[place]
    lines[place] = {
        "cut": line[: len(line) // 2],
        "trailing comma": line[:-1] + ",}",
        "single quotes": str(rows[place]),
        "list": json.dumps(list(rows[place].values())),
        "two objects": line + line,
    }[how]
    data = draw.write("d.jsonl", "\n".join(lines) + "\n")
    return Variant(evaluated(draw, data), None, (f"line {place + 1}",), about=how)


@kind
def quotes(draw: Draw) -> Variant:
    """Quotes, separators and line breaks inside cells. The texts' words stay those of the model."""
    rows, right = named_rows(draw)
    how = draw.choice(("stray in tsv", "line break in csv", "separator in csv", "doubled in csv", "lone in csv"))
    extra = {
        "stray in tsv": 'a "quote',
        "line break in csv": "two\nlines",
        "separator in csv": "a, b",
        "doubled in csv": 'a "b" c',
        "lone in csv": 'five" wide',
    }[how]
    rows = [{"note": extra if i % 3 == 0 else "-", **r} for i, r in enumerate(rows)]
    if how == "stray in tsv":
        text = "\n".join("\t".join(r.values()) for r in [dict(zip(rows[0], rows[0], strict=True)), *rows]) + "\n"
        return Variant(evaluated(draw, draw.write("d.tsv", text)), right, about=how)
    if how == "lone in csv":
        text = "\n".join(",".join(r.values()) for r in [dict(zip(rows[0], rows[0], strict=True)), *rows]) + "\n"
        return Variant(evaluated(draw, draw.write("d.csv", text)), right, ("line", "d.csv"), about=how)
    return Variant(evaluated(draw, draw.write("d.csv", as_csv(rows))), right, about=how)


@kind
def large_cell(draw: Draw) -> Variant:
    """A cell beyond Python's own limit of 131,072 characters, in a column that nothing reads."""
    rows, right = named_rows(draw)
    rows = [{"page": "x" * (200_000 if i == 3 else 3), **r} for i, r in enumerate(rows)]
    name = draw.choice(("d.csv", "d.tsv", "d.jsonl"))
    text = as_jsonl(rows) if name == "d.jsonl" else as_csv(rows, "\t" if name == "d.tsv" else ",")
    return Variant(evaluated(draw, draw.write(name, text)), right, about=name)


@kind
def odd_text(draw: Draw) -> Variant:
    """Texts with control characters, surrogates, emoji, separators of lines: unknown words to the model."""
    rows, _ = named_rows(draw)
    how, extra = draw.choice(
        (
            ("surrogate", "\ud83d"),
            ("null", "\x00"),
            ("emoji", "👍🏽"),
            ("line separator", "\u2028"),
            ("next line", "\x85"),
            ("right to left", "\u202eabc"),
            ("zero width", "\u200b"),
            ("form feed", "\x0c"),
            ("long word", "z" * 3000),
            ("braces", "{text} {label} {{x}}"),
            ("special token", "[PAD]"),
            ("end token", "</s>"),
        )
    )
    place = draw.random.randrange(len(rows))
    rows[place]["text"] += f" {extra} so"
    read = [r["text"].encode("utf-8", "replace").decode().replace("?", "\ufffd") for r in rows]
    read = [r["text"] if how != "surrogate" else t for r, t in zip(rows, read, strict=True)]
    logits = tiny.classify(draw.base.nli, read)
    right = tiny.class_loss(logits, [tiny.NAMES.index(r["label"]) for r in rows])
    options = {**evaluated(draw, draw.lines(rows)), "objective": "cross-entropy"}
    return Variant(options, right, (f"record {place + 1}",) if how == "surrogate" else (), about=how)


@kind
def odd_value(draw: Draw) -> Variant:
    """A text that is empty, null, a number, a list or an object."""
    rows, _ = named_rows(draw)
    place = draw.random.randrange(len(rows))
    how, value = draw.choice(
        (("empty", ""), ("blank", "   "), ("number", 7), ("true", True), ("null", None), ("list", ["no", "never"]),
         ("object", {"en": "no never"}))
    )  # fmt: skip
    rows[place]["text"] = value
    options = {**evaluated(draw, draw.lines(rows)), "objective": "cross-entropy"}
    if how in ("null", "list", "object"):
        return Variant(options, None, (f"record {place + 1}", "text"), about=how)
    logits = tiny.classify(draw.base.nli, [str(r["text"]) for r in rows])
    right = tiny.class_loss(logits, [tiny.NAMES.index(r["label"]) for r in rows])
    refusal = ("record", "text") if how in ("empty", "blank", "true") else ()
    return Variant(options, right, refusal, about=how)


@kind
def second_text(draw: Draw) -> Variant:
    """A column that holds the second text of a pair: read, or named as a column that nothing uses."""
    rows, single = named_rows(draw)
    name = draw.choice(("text_pair", "text2", "sentence2", "hypothesis"))
    other = [draw.choice(rows)["text"] for _ in rows]
    gold = [tiny.NAMES.index(r["label"]) for r in rows]
    pairs = tiny.classify(draw.base.nli, [(r["text"], o) for r, o in zip(rows, other, strict=True)])
    data = draw.lines([{"text": r["text"], name: o, "label": r["label"]} for r, o in zip(rows, other, strict=True)])
    return Variant(evaluated(draw, data), tiny.accuracy(pairs, gold), (name,), noted=single, about=name)


@kind
def pair_template(draw: Draw) -> Variant:
    rows, _ = named_rows(draw)
    gold = [tiny.NAMES.index(r["label"]) for r in rows]
    other = [draw.choice(rows)["text"] for _ in rows]
    logits = tiny.classify(draw.base.nli, [(r["text"], o) for r, o in zip(rows, other, strict=True)])
    data = draw.lines([{"a": r["text"], "b": o, "label": r["label"]} for r, o in zip(rows, other, strict=True)])
    options = {**evaluated(draw, data, template="{a}{sep}{b}"), "objective": "cross-entropy"}
    return Variant(options, tiny.class_loss(logits, gold))


@kind
def template(draw: Draw) -> Variant:
    """Templates with a typing error, with format codes, with literal braces."""
    rows, right = named_rows(draw)
    text, words = draw.choice(
        (
            ("{txt}", ("txt",)),
            ("{text", ("template", "{text")),
            ("{}", ("template", "{}")),
            ("{0}", ("0",)),
            ("{text!r}", ("template", "!r", "text")),
            ("{text:>40}", ("template", ">40", "text")),
            ("{text.upper}", ("text.upper",)),
            ("{text[0]}", ("text[0]",)),
            ("no place", ("template",)),
            ("", ("template",)),
            ("{text} {label}", ("label",)),
            ("  {text}", ()),
            ("{text}\n", ()),
            ("{text|lower}", ("lower",)),
            ("{text|unknown}", ("unknown",)),
        )
    )
    valid = not words or text in ("{text|lower}", "")
    data = draw.lines(rows)
    return Variant(evaluated(draw, data, template=text), right if valid else None, words, about=repr(text))


@kind
def splits(draw: Draw) -> Variant:
    """A folder of splits: the test set is scored, else the validation set, else all rows."""
    rows, right = named_rows(draw)
    wrong = [{**r, "label": "entailment"} for r in rows]
    how = draw.choice(("test", "validation", "dev", "named", "parquet", "two", "unknown", "mixed case", "hidden"))
    folder = draw.folder / "data"
    files: dict[str, Any] = {"train.jsonl": as_jsonl(wrong)}
    more: dict[str, Any] = {}
    if how == "test":
        files |= {"validation.jsonl": as_jsonl(wrong), "test.csv": as_csv(rows)}
    elif how in ("validation", "dev"):
        files[f"{how}.jsonl"] = as_jsonl(rows)
    elif how == "named":
        files |= {"test.jsonl": as_jsonl(wrong), "odd.jsonl": as_jsonl(rows)}
        more = {"split": "odd"}
    elif how == "parquet":
        files["test-00000-of-00001.parquet"] = as_parquet(rows)
    elif how == "two":
        files |= {"test.jsonl": as_jsonl(rows), "test.csv": as_csv(wrong)}
    elif how == "unknown":
        files["test.jsonl"] = as_jsonl(rows)
        more = {"split": "tests"}
    elif how == "mixed case":
        files["Test.jsonl"] = as_jsonl(rows)
    else:
        files |= {"test.jsonl": as_jsonl(rows), ".test.csv": "junk", "README.md": "# data"}
    for name, content in files.items():
        draw.write(f"data/{name}", content)
    words = {"two": ("test.",), "unknown": ("tests",)}.get(how, ())
    return Variant(evaluated(draw, folder, **more), None if words else right, words, about=how)


@kind
def sharded_data(draw: Draw) -> Variant:
    """A split in several files: all rows, or a refusal."""
    rows, right = named_rows(draw)
    cut = draw.random.randrange(3, 9)
    names = draw.choice(
        (("test-00000-of-00002", "test-00001-of-00002"), ("test_0", "test_1"), ("test.part1", "test.part2"))
    )
    for name, part in zip(names, (rows[:cut], rows[cut:]), strict=True):
        draw.write(f"data/{name}.jsonl", as_jsonl(part))
    return Variant(evaluated(draw, draw.folder / "data"), right, ("test",), about=names[0])


@kind
def columns_twice(draw: Draw) -> Variant:
    """A table or object that names a column twice, in another case or with blanks."""
    rows, right = named_rows(draw)
    how = draw.choice(("csv", "blanks", "case", "json"))
    table = as_csv(rows)
    if how == "csv":
        data = draw.write("d.csv", "text,label,label\n" + "".join(f"{r['text']},{r['label']},no\n" for r in rows))
    elif how == "blanks":
        data = draw.write("d.csv", table.replace("text,label", " text , label ", 1))
    elif how == "case":
        data = draw.write("d.csv", table.replace("text,label", "Text,Label", 1))
    else:
        lines = [f'{{"text": "x", "text": {json.dumps(r["text"])}, "label": "{r["label"]}"}}\n' for r in rows]
        data = draw.write("d.jsonl", "".join(lines))
    return Variant(evaluated(draw, data), None if how == "csv" else right, ("column", "text", "label"), about=how)


@kind
def changing_columns(draw: Draw) -> Variant:
    """Rows of which some have other columns than the first."""
    rows, right = named_rows(draw)
    how = draw.choice(("extra", "text missing"))
    place = draw.random.randrange(1, len(rows))
    if how == "extra":
        rows[place]["more"] = "x"
        return Variant(evaluated(draw, draw.lines(rows)), right, about=how)
    rows[place]["sentence"] = rows[place].pop("text")
    return Variant(evaluated(draw, draw.lines(rows)), None, (f"record {place + 1}",), about=how)


@kind
def limit(draw: Draw) -> Variant:
    rows = drawn_rows(draw)
    count = draw.random.randrange(2, len(rows) + 4)
    right = right_accuracy(draw, rows[:count])
    named = [{**r, "label": tiny.NAMES[r["label"]]} for r in rows]
    return Variant(evaluated(draw, draw.lines(named), limit=count), right, about=f"{count} of {len(rows)}")
