"""Kinds about labels: how rows name the classes of a classifier, and how config.json does."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

from safetensors.torch import load_file

from wrong_file_kinds import tiny_models as tiny
from wrong_file_kinds.model_kinds import WEIGHTS, rewrite
from wrong_file_kinds.variant import Draw, Variant, edit_json, kind


def drawn_rows(draw: Draw, classes: tuple[int, ...] = (0, 1, 2)) -> list[dict[str, Any]]:
    """Rows of these classes in a drawn order; the labels of some are another of these classes."""
    rows = [r for r in tiny.nli_rows() if r["label"] in classes]
    draw.random.shuffle(rows)
    for row in draw.random.sample(rows, draw.choice((1, 2, 3))):
        row["label"] = draw.choice(classes)
    return rows


def right_accuracy(draw: Draw, rows: list[dict[str, Any]]) -> float:
    """The undamaged classifier's accuracy on rows with class indices; None is no class."""
    return tiny.accuracy(tiny.classify(draw.base.nli, [r["text"] for r in rows]), [r["label"] for r in rows])


def evaluated(draw: Draw, data: Any, model: Any = None, **more: Any) -> dict[str, Any]:
    return {"model": str(model or draw.base.nli), "dataset": str(data), "objective": "accuracy", **more}


def renamed(draw: Draw, names: list[str], model_names: list[str] | None = None) -> str:
    """A copy of the classifier whose classes have these names in config.json."""
    folder = draw.base.copy("nli", draw.folder)
    names = model_names or names
    edit_json(
        folder / "config.json",
        id2label={str(i): n for i, n in enumerate(names)},
        label2id={n: i for i, n in enumerate(names)},
    )
    return str(folder)


@kind
def text_labels(draw: Draw) -> Variant:
    """Labels that are the names of the classes, in any case."""
    rows = drawn_rows(draw)
    right = right_accuracy(draw, rows)
    spelled = draw.choice((str, str.upper, str.title, str.capitalize))
    data = draw.lines([{**r, "label": spelled(tiny.NAMES[r["label"]])} for r in rows])
    return Variant(evaluated(draw, data), right, about=spelled.__name__)


@kind
def any_class_names(draw: Draw) -> Variant:
    """Names in an order that sorting would change, and names that look like something else."""
    names = list(
        draw.choice(
            (
                ("zero", "one", "two"),
                ("3", "1", "2"),
                ("10", "9", "1"),
                ("c", "b", "a"),
                ("LABEL_2", "LABEL_0", "LABEL_1"),
                ("True", "False", "None"),
                ("yes, certainly", "no, never", "maybe"),
                ("①", "②", "③"),
                ("négatif", "été", "neutre"),
                ("-1", "0", "1"),
            )
        )
    )
    rows = drawn_rows(draw)
    right = right_accuracy(draw, rows)
    model = renamed(draw, names)
    data = draw.lines([{**r, "label": names[r["label"]]} for r in rows])
    # Digits that are names of other classes than their indices cannot be told from indices: a refusal is right, too.
    numeric = all(n.lstrip("-").isdecimal() for n in names)
    return Variant(evaluated(draw, data, model), right, ("label", "class") if numeric else (), about=", ".join(names))


@kind
def class_subset(draw: Draw) -> Variant:
    """A file that shows two of the three classes, or one."""
    classes = draw.choice(((0, 1), (1, 2), (0, 2), (2,), (0,)))
    rows = drawn_rows(draw, classes)
    right = right_accuracy(draw, rows)
    how = draw.choice(("text", "index"))
    shown = [{**r, "label": tiny.NAMES[r["label"]] if how == "text" else r["label"]} for r in rows]
    return Variant(evaluated(draw, draw.lines(shown)), right, about=f"{classes}, {how}")


@kind
def index_labels(draw: Draw) -> Variant:
    """Class indices as numbers, floats, texts and LABEL_n."""
    rows = drawn_rows(draw)
    right = right_accuracy(draw, rows)
    how, write = draw.choice(
        (
            ("int", int),
            ("float", float),
            ("text", str),
            ("float text", lambda i: f"{i}.0"),
            ("LABEL", "LABEL_{}".format),
        )
    )
    return Variant(evaluated(draw, draw.lines([{**r, "label": write(r["label"])} for r in rows])), right, about=how)


@kind
def unknown_label(draw: Draw) -> Variant:
    """One row whose label is no class of the model."""
    rows = drawn_rows(draw)
    how = draw.choice(("text", "index"))
    shown = [{**r, "label": tiny.NAMES[r["label"]] if how == "text" else r["label"]} for r in rows]
    odd = draw.choice(("other", "entail", "contradictory", "unknown")) if how == "text" else draw.choice((3, 7, -1))
    shown[draw.random.randrange(len(shown))]["label"] = odd
    return Variant(evaluated(draw, draw.lines(shown)), None, (f"{odd}",), about=f"{odd}")


@kind
def absent_label(draw: Draw) -> Variant:
    """One row without a label: refused, or scored on the other rows with a note."""
    rows = drawn_rows(draw)
    place = draw.random.randrange(len(rows))
    others = right_accuracy(draw, rows[:place] + rows[place + 1 :])
    shown = [{**r, "label": tiny.NAMES[r["label"]]} for r in rows]
    how, value = draw.choice((("null", None), ("empty", ""), ("blank", "  "), ("NaN", float("nan")), ("nan", "nan")))
    shown[place]["label"] = value
    if draw.choice((True, False)) and how == "null":
        del shown[place]["label"]
        how = "no key"
    words = (f"{place + 1}", "label")
    return Variant(evaluated(draw, draw.lines(shown)), None, words, noted=others, about=how)


@kind
def label_spelling(draw: Draw) -> Variant:
    """Labels that differ from the classes' names in blanks, Unicode form or case alone."""
    names = ["négatif", "über", "neutre"]
    rows = drawn_rows(draw)
    right = right_accuracy(draw, rows)
    how = draw.choice(("NFD", "NFC", "blanks", "mixed case", "mixed form"))
    changes: dict[str, Any] = {
        "NFD": lambda i, x: unicodedata.normalize("NFD", x),
        "NFC": lambda i, x: x,
        "blanks": lambda i, x: f" {x} ",
        "mixed case": lambda i, x: x.upper() if i % 2 else x,
        "mixed form": lambda i, x: unicodedata.normalize("NFD" if i % 2 else "NFC", x),
    }
    shown = [{**r, "label": changes[how](i, names[r["label"]])} for i, r in enumerate(rows)]
    return Variant(evaluated(draw, draw.lines(shown), renamed(draw, names)), right, about=how)


@kind
def nameless_classes(draw: Draw) -> Variant:
    """Text labels for a model whose classes have no names: nothing tells which is which."""
    folder = draw.base.copy("nli", draw.folder)
    edit_json(folder / "config.json", id2label={str(i): f"LABEL_{i}" for i in range(3)})
    edit_json(folder / "config.json", label2id={f"LABEL_{i}": i for i in range(3)})
    data = draw.lines([{**r, "label": tiny.NAMES[r["label"]]} for r in drawn_rows(draw)])
    return Variant(evaluated(draw, data, folder), None, ("LABEL_0", "entailment", "id2label"))


@kind
def class_order_in_config(draw: Draw) -> Variant:
    """id2label in another order of keys, without label2id, or contradicted by it."""
    folder = draw.base.copy("nli", draw.folder)
    rows = drawn_rows(draw)
    right = right_accuracy(draw, rows)
    how = draw.choice(("order", "no label2id", "contradiction", "text numbers"))
    path = folder / "config.json"
    if how == "order":
        edit_json(path, id2label={str(i): tiny.NAMES[i] for i in (2, 0, 1)})
    elif how == "no label2id":
        edit_json(path, label2id=None)
    elif how == "contradiction":
        edit_json(path, label2id={n: 2 - i for i, n in enumerate(tiny.NAMES)})
    else:
        edit_json(path, label2id={n: str(i) for i, n in enumerate(tiny.NAMES)})
    data = draw.lines([{**r, "label": tiny.NAMES[r["label"]]} for r in rows])
    refusal = ("label2id",) if how == "contradiction" else ()
    return Variant(evaluated(draw, data, folder), right, refusal, about=how)


@kind
def head_size(draw: Draw) -> Variant:
    """config.json counts other classes than the head's weights."""
    folder = draw.base.copy("nli", draw.folder)
    count = draw.choice((2, 4))
    edit_json(folder / "config.json", id2label={str(i): f"c{i}" for i in range(count)}, label2id=None)
    rows = drawn_rows(draw, (0, 1))
    return Variant(evaluated(draw, draw.lines(rows), folder), None, ("classifier", "class"), about=f"{count}")


@kind
def no_head(draw: Draw) -> Variant:
    """config.json names a classifier, and the files hold the encoder alone, or a part of the head."""
    folder = draw.base.copy("nli", draw.folder)
    how = draw.choice(("head", "bias", "architecture"))
    if how != "architecture":
        gone = [
            k for k in load_file(folder / WEIGHTS) if k.startswith("classifier.") and (how == "head" or "bias" in k)
        ]
        rewrite(folder, lambda t: [t.pop(k) for k in gone])
    else:
        folder_of_encoder = draw.base.encoder
        for path in folder_of_encoder.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
    data = draw.lines([{**r, "label": tiny.NAMES[r["label"]]} for r in drawn_rows(draw)])
    return Variant(evaluated(draw, data, folder, head="classification"), None, ("classifier", "head"), about=how)


@kind
def problem_type(draw: Draw) -> Variant:
    """A regression head, or one with a sigmoid for each class."""
    folder = draw.base.copy("nli", draw.folder)
    how = draw.choice(("regression", "multi-label"))
    rows: list[dict[str, Any]] = drawn_rows(draw)
    if how == "regression":
        rewrite(folder, lambda t: t.update({k: t[k][:1] for k in t if k.startswith("classifier.")}))
        names = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        edit_json(folder / "config.json", problem_type="regression", **names)
        shown = [{**r, "label": r["label"] / 2} for r in rows]
    else:
        edit_json(folder / "config.json", problem_type="multi_label_classification")
        shown = [{**r, "label": [int(r["label"] == i) for i in range(3)]} for r in rows]
    words = ("label", "class", "regression", "multi")
    return Variant(evaluated(draw, draw.lines(shown), folder), None, words, about=how)


@kind
def label_words(draw: Draw) -> Variant:
    """--labels with words for the class indices, or with the names in an order of its own."""
    rows = drawn_rows(draw)
    right = right_accuracy(draw, rows)
    how = draw.choice(("pairs", "order of the model", "another order", "one too few"))
    if how == "pairs":
        labels = ",".join(f"{i}={n}" for i, n in enumerate(tiny.NAMES))
        return Variant(evaluated(draw, draw.lines(rows), labels=labels), right, about=how)
    shown = [{**r, "label": tiny.NAMES[r["label"]]} for r in rows]
    order = {"order of the model": (0, 1, 2), "another order": (2, 0, 1), "one too few": (0, 1)}[how]
    labels = ",".join(tiny.NAMES[i] for i in order)
    refusal = () if how == "order of the model" else ("label", "class")
    return Variant(evaluated(draw, draw.lines(shown), labels=labels), right, refusal, about=how)


@kind
def label_column(draw: Draw) -> Variant:
    """The label under another name, beside a column of that name that is something else."""
    rows = drawn_rows(draw)
    right = right_accuracy(draw, rows)
    shown = [{"sentence": r["text"], "gold": tiny.NAMES[r["label"]], "idx": i} for i, r in enumerate(rows)]
    how = draw.choice(("named", "text not named", "label not named", "wrong name"))
    columns = {"text": "sentence", "label": "gold"}
    if how == "text not named":
        del columns["text"]
    elif how == "label not named":
        del columns["label"]
    elif how == "wrong name":
        columns["label"] = "golds"
    value = right if how == "named" else None
    words = {"named": (), "text not named": ("text",), "label not named": ("label",), "wrong name": ("golds",)}[how]
    return Variant(evaluated(draw, draw.lines(shown), columns=columns), value, words, about=how)


@kind
def class_name_column(draw: Draw) -> Variant:
    """Class indices of the data set with their names in `label_text`, in another order than the model's."""
    rows = drawn_rows(draw)
    right = right_accuracy(draw, rows)
    order = draw.choice(((2, 1, 0), (1, 2, 0), (0, 1, 2)))
    shown = [{"text": r["text"], "label": order[r["label"]], "label_text": tiny.NAMES[r["label"]]} for r in rows]
    # A number that means another class than its name does: the names decide, or a refusal, or a note.
    by_index = right_accuracy(draw, [{**r, "label": order[r["label"]]} for r in rows])
    return Variant(
        evaluated(draw, draw.lines(shown)), right, ("label_text", "label"), noted=by_index, about=json.dumps(order)
    )
