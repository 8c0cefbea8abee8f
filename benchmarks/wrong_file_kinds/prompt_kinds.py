"""Kinds about prompts and completions of a decoder: begin and end tokens, chat templates, stops, shapes of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers

from wrong_file_kinds import tiny_models as tiny
from wrong_file_kinds.model_kinds import COMPLETIONS, PROMPTS
from wrong_file_kinds.variant import Draw, Variant, edit_json, kind

COUNT = 8
"""New tokens of a completion."""


def ids_of(text: str, begin: bool = True) -> list[int]:
    """Tokens of a text, one for each word."""
    tok = tiny.tokenizer()
    return [tiny.BOS] * begin + list(tok(text, add_special_tokens=False)["input_ids"])


def text_of(ids: list[int]) -> str:
    text: str = tiny.tokenizer().decode(ids, skip_special_tokens=True)
    return text


def exact_match(draw: Draw, folder: Path, prompts: list[list[int]], ends: set[int], count: int = COUNT) -> list[str]:
    """The right completions of prompts."""
    model = tiny.causal(folder)
    return [text_of(tiny.greedy(model, p, count, ends)) for p in prompts]


def with_wrong(draw: Draw, completions: list[str]) -> tuple[list[str], float]:
    """References of which some are wrong, and the exact match that they give. A reference is never empty."""
    wrong = set(draw.random.sample(range(len(completions)), draw.choice((0, 1, 2))))
    shown = [f"{c} wrong wrong" if i in wrong or not c else c for i, c in enumerate(completions)]
    return shown, sum(s == c for s, c in zip(shown, completions, strict=True)) / len(shown)


def generated(model: Any, data: Any, **more: Any) -> dict[str, Any]:
    options = {"model": str(model), "dataset": str(data), "objective": "exact-match", "max_new_tokens": COUNT}
    return {**options, **more}


@kind
def end_tokens(draw: Draw) -> Variant:
    """End tokens that the generation configuration, the configuration and the tokenizer name: all end a completion."""
    folder = draw.base.copy("llama", draw.folder)
    paths = [tiny.greedy(tiny.causal(folder), ids_of(p), COUNT, ()) for p in PROMPTS]
    emitted = sorted({t for path in paths for t in path[1:] if t > tiny.EOS} | {tiny.END})
    places = draw.random.sample(("generation_config", "config", "tokenizer"), draw.choice((1, 2, 3)))
    ends, about = set(), []
    for place in places:
        token = draw.choice(emitted)
        ends.add(token)
        about.append(f"{place}: {token}")
        if place == "tokenizer":
            word = tiny.tokenizer().convert_ids_to_tokens(token)
            edit_json(folder / "tokenizer_config.json", eos_token=word)
        else:
            several = [token, tiny.EOS] if draw.choice((True, False)) else token
            ends |= {tiny.EOS} if isinstance(several, list) else set()
            edit_json(folder / f"{place}.json", eos_token_id=several)
    for place in {"generation_config", "config", "tokenizer"} - set(places):
        if place != "tokenizer" and draw.choice((True, False)):
            edit_json(folder / f"{place}.json", eos_token_id=None)
            about.append(f"{place}: none")
        else:
            ends.add(tiny.EOS)
    right = exact_match(draw, draw.base.llama, [ids_of(p) for p in PROMPTS], ends)
    references, value = with_wrong(draw, right)
    data = draw.lines([{"prompt": p, "completion": r} for p, r in zip(PROMPTS, references, strict=True)])
    return Variant(generated(folder, data), value, about=", ".join(about))


@kind
def generation_defaults(draw: Draw) -> Variant:
    """Sampling, beams and penalties in generation_config.json: `eval` is greedy at temperature 0."""
    folder = draw.base.copy("llama", draw.folder)
    extra = draw.choice(
        (
            {"do_sample": True, "temperature": 1.5, "top_k": 5},
            {"num_beams": 3},
            {"repetition_penalty": 5.0},
            {"min_new_tokens": 6},
            {"max_length": 4},
            {"max_new_tokens": 2},
            {"suppress_tokens": [7, 8, 9, 10, 11, 12]},
            {"bad_words_ids": [[9], [10]]},
            {"no_repeat_ngram_size": 1},
            {"forced_eos_token_id": 3},
        )
    )
    edit_json(folder / "generation_config.json", **extra)
    right = exact_match(draw, draw.base.llama, [ids_of(p) for p in PROMPTS], {tiny.EOS})
    references, value = with_wrong(draw, right)
    data = draw.lines([{"prompt": p, "completion": r} for p, r in zip(PROMPTS, references, strict=True)])
    return Variant(generated(folder, data), value, about=str(extra))


@kind
def generation_file(draw: Draw) -> Variant:
    """generation_config.json that is broken or names an end beyond the vocabulary."""
    folder = draw.base.copy("llama", draw.folder)
    how = draw.choice(("broken", "empty", "beyond", "list"))
    path = folder / "generation_config.json"
    if how == "beyond":
        edit_json(path, eos_token_id=[tiny.EOS, 99999])
    else:
        path.write_text({"broken": '{"eos_token_id": ', "empty": "", "list": "[]"}[how])
    right = exact_match(draw, draw.base.llama, [ids_of(p) for p in PROMPTS], {tiny.EOS})
    references, value = with_wrong(draw, right)
    data = draw.lines([{"prompt": p, "completion": r} for p, r in zip(PROMPTS, references, strict=True)])
    return Variant(generated(folder, data), value, ("generation_config", "99999"), about=how)


@kind
def begin_token(draw: Draw) -> Variant:
    """A begin token that the tokenizer adds, the prompt has already, or neither: one at most."""
    folder = draw.base.copy("llama", draw.folder)
    added, written = draw.choice(((True, True), (True, False), (False, True), (False, False)))
    if not added:
        tiny.tokenizer().save_pretrained(folder)
    pairs = [(ids_of(p, added or written), ids_of(c, False)) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    start = "<s> " if written else ""
    rows = [{"prompt": start + p, "completion": " " + c} for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    right = tiny.completion_loss(tiny.causal(folder), pairs)
    options = {"model": str(folder), "dataset": str(draw.lines(rows)), "objective": "cross-entropy"}
    return Variant(options, right, about=f"added {added}, written {written}")


@kind
def end_added(draw: Draw) -> Variant:
    """A tokenizer that adds an end token to every text: none stands between prompt and completion."""
    folder = draw.base.copy("llama", draw.folder)
    tiny.tokenizer("<s> $A </s>").save_pretrained(folder)
    if draw.choice((True, False)):
        rows = [{"prompt": p, "completion": " " + c} for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
        pairs = [(ids_of(p), ids_of(c, False)) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
        right = tiny.completion_loss(tiny.causal(folder), pairs)
        options = {"model": str(folder), "dataset": str(draw.lines(rows)), "objective": "cross-entropy"}
        return Variant(options, right, about="cross-entropy")
    right_texts = exact_match(draw, folder, [ids_of(p) for p in PROMPTS], {tiny.EOS})
    references, value = with_wrong(draw, right_texts)
    data = draw.lines([{"prompt": p, "completion": r} for p, r in zip(PROMPTS, references, strict=True)])
    return Variant(generated(folder, data), value, about="exact-match")


@kind
def stop_text(draw: Draw) -> Variant:
    """A stop text cuts completions; one that never comes does not."""
    texts = exact_match(draw, draw.base.llama, [ids_of(p) for p in PROMPTS], {tiny.EOS})
    words = sorted({w for t in texts for w in t.split()[1:]})
    stop = draw.choice([*words, "zebra"])
    cut = [t.split(stop)[0].rstrip() for t in texts]
    references, value = with_wrong(draw, cut)
    data = draw.lines([{"prompt": p, "completion": r} for p, r in zip(PROMPTS, references, strict=True)])
    return Variant(generated(draw.base.llama, data, stop=(stop,)), value, about=stop)


@kind
def answer_shape(draw: Draw) -> Variant:
    """Right answers under the names that data sets use, one or several."""
    texts = exact_match(draw, draw.base.llama, [ids_of(p) for p in PROMPTS], {tiny.EOS})
    references, value = with_wrong(draw, texts)
    how = draw.choice(("completion", "answers", "answer", "target", "output", "response", "SQuAD", "two", "null"))
    rows: list[dict[str, Any]] = []
    for i, (p, r) in enumerate(zip(PROMPTS, references, strict=True)):
        shape: dict[str, Any] = {how: r}
        if how in ("answers", "two"):
            shape = {"answers": [r] if how == "answers" else ["no", r]}
        elif how == "SQuAD":
            shape = {"answers": {"text": [r, r], "answer_start": [0, 0]}}
        elif how == "null":
            shape = {"completion": None if i == 2 else r}
        rows.append({"prompt": p, **shape})
    if how == "null":
        rest = [r == t for i, (r, t) in enumerate(zip(references, texts, strict=True)) if i != 2]
        value = sum(rest) / len(rest)
    refusal = ("completion", "reference", "record") if how == "null" else ()
    return Variant(generated(draw.base.llama, draw.lines(rows)), value, refusal, about=how)


CHATS = {
    "plain": tiny.CHAT_TEMPLATE,
    "with begin token": "<s> " + tiny.CHAT_TEMPLATE,
    "no system": "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + tiny.CHAT_TEMPLATE,
    "thinking": tiny.CHAT_TEMPLATE.replace(
        "assistant {% endif %}", "assistant {% if enable_thinking is false %}very {% endif %}{% endif %}"
    ),
    "default system": "{% if messages[0]['role'] != 'system' %}<turn> system not bad <end> {% endif %}"
    + tiny.CHAT_TEMPLATE,
}


def chat_folder(draw: Draw, chat: str) -> Path:
    folder = draw.base.copy("llama", draw.folder)
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    tok.chat_template = chat
    tok.save_pretrained(folder)
    return folder


def chat_ids(folder: Path, messages: list[dict[str, str]]) -> list[int]:
    """The prompt of a conversation, whose template writes every special token."""
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    text = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(tok(text, add_special_tokens=False)["input_ids"])


@kind
def conversation(draw: Draw) -> Variant:
    """Rows of messages: the model's chat template gives the prompt."""
    how = draw.choice(sorted(CHATS))
    folder = chat_folder(draw, CHATS[how])
    rows, pairs = [], []
    system = draw.choice((True, False))
    for p, c in zip(PROMPTS, COMPLETIONS, strict=True):
        turns = [{"role": "system", "content": "not bad"}] * system + [{"role": "user", "content": p}]
        rows.append({"messages": [*turns, {"role": "assistant", "content": c}]})
        if not (system and how == "no system"):
            pairs.append((chat_ids(folder, turns), ids_of(c, False)))
    right = tiny.completion_loss(tiny.causal(folder), pairs) if pairs else None
    options = {"model": str(folder), "dataset": str(draw.lines(rows)), "objective": "cross-entropy"}
    # Without a system role the message may go elsewhere, if a note says so.
    return Variant(
        options, right, () if pairs else ("system",), noted=None if pairs else -1.0, about=f"{how}, system {system}"
    )


@kind
def prompt_for_chat(draw: Draw) -> Variant:
    """Plain prompts for a model with a chat template: templated, or a note says that they are not."""
    folder = chat_folder(draw, CHATS[draw.choice(("plain", "with begin token"))])
    rows = [{"prompt": p, "completion": c} for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    model = tiny.causal(folder)
    chats = [chat_ids(folder, [{"role": "user", "content": p}]) for p in PROMPTS]
    right = tiny.completion_loss(model, [(i, ids_of(c, False)) for i, c in zip(chats, COMPLETIONS, strict=True)])
    rows = [{"prompt": r["prompt"], "completion": " " + r["completion"]} for r in rows]
    plain = [(ids_of(p), ids_of(c, False)) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    options = {"model": str(folder), "dataset": str(draw.lines(rows)), "objective": "cross-entropy"}
    return Variant(options, right, ("template",), noted=tiny.completion_loss(model, plain))


@kind
def bad_chat_template(draw: Draw) -> Variant:
    """A chat template that is missing, renders to nothing, or has an error."""
    how, chat = draw.choice(
        (
            ("missing", None),
            ("nothing", "{# nothing #}"),
            ("blank", " "),
            ("syntax", "{% for m in messages %}{{ m['content'] }}"),
            ("undefined", "{{ nothing.at_all }}"),
            ("refuses", "{{ raise_exception('no such chat') }}"),
        )
    )
    folder = chat_folder(draw, chat) if chat is not None else draw.base.copy("llama", draw.folder)
    rows = [
        {"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": c}]}
        for p, c in zip(PROMPTS, COMPLETIONS, strict=True)
    ]
    options = {"model": str(folder), "dataset": str(draw.lines(rows)), "objective": "cross-entropy"}
    return Variant(options, None, ("template",), about=how)


@kind
def chat_shape(draw: Draw) -> Variant:
    """Conversations in other shapes: read as messages, or refused."""
    folder = chat_folder(draw, tiny.CHAT_TEMPLATE)
    how = draw.choice(
        ("prompt and completion", "ShareGPT", "content parts", "bare role", "no answer", "text content", "JSON text",
         "developer", "extra keys", "Alpaca")
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    for p, c in zip(PROMPTS, COMPLETIONS, strict=True):
        user, answer = {"role": "user", "content": p}, {"role": "assistant", "content": c}
        parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in (user, answer)]
        rows.append(
            {
                "prompt and completion": {"prompt": [user], "completion": [answer]},
                "ShareGPT": {"conversations": [{"from": "human", "value": p}, {"from": "gpt", "value": c}]},
                "content parts": {"messages": parts},
                "bare role": {"messages": [{"role": "human", "content": p}, answer]},
                "no answer": {"messages": [user]},
                "text content": {"messages": [user, {"role": "assistant", "content": None}]},
                "JSON text": {"messages": str([user, answer])},
                "developer": {"messages": [{"role": "developer", "content": "not"}, user, answer]},
                "extra keys": {"messages": [{**user, "name": "a"}, {**answer, "weight": 1}]},
                "Alpaca": {"instruction": p, "input": "", "output": c},
            }[how]
        )
    pairs = [
        (chat_ids(folder, [{"role": "user", "content": p}]), ids_of(c, False))
        for p, c in zip(PROMPTS, COMPLETIONS, strict=True)
    ]
    right: float | None = tiny.completion_loss(tiny.causal(folder), pairs)
    words: tuple[str, ...] = ("messages", "role", "content", "column", "losses", "prompt")
    if how in ("bare role", "no answer", "text content", "JSON text", "developer"):
        right = right if how == "bare role" else None
    if how in ("prompt and completion", "extra keys"):
        words = ()
    options = {"model": str(folder), "dataset": str(draw.lines(rows)), "objective": "cross-entropy"}
    return Variant(options, right, words, about=how)


@kind
def long_prompt(draw: Draw) -> Variant:
    """A prompt longer than the model's context: a note or a refusal names it."""
    rows = [{"prompt": p, "completion": " " + c} for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    rows[draw.random.randrange(5)]["prompt"] = " ".join(["the cat sat"] * draw.choice((40, 100)))
    options = {"model": str(draw.base.llama), "dataset": str(draw.lines(rows)), "objective": "cross-entropy"}
    return Variant(options, None, ("truncated", "longer", "shortened", "context"), noted=-1.0)


@kind
def multiple_choice(draw: Draw) -> Variant:
    """Multiple choice by the log-probability of the options; the answer is an index, a letter or a text."""
    options_of = [draw.random.sample(("cat", "dog", "mat", "Paris"), 3) for _ in PROMPTS]
    model = tiny.causal(draw.base.llama)
    best = []
    for p, options in zip(PROMPTS, options_of, strict=True):
        losses = [tiny.completion_loss(model, [(ids_of(p), ids_of(o, False))]) for o in options]
        best.append(losses.index(min(losses)))
    gold = [b if draw.choice((True, True, False)) else (b + 1) % 3 for b in best]
    right = sum(g == b for g, b in zip(gold, best, strict=True)) / len(gold)
    how = draw.choice(("index", "text index", "text", "letter", "one list", "beyond", "answerKey"))
    rows = []
    for p, o, g in zip(PROMPTS, options_of, gold, strict=True):
        label = {"index": g, "text index": str(g), "text": o[g], "letter": "ABC"[g], "beyond": g + 3}.get(how, g)
        row: dict[str, Any] = {"q": p, "label": "ABC"[g] if how == "answerKey" else label}
        rows.append({**row, "options": o} if how == "one list" else {**row, "a": o[0], "b": o[1], "c": o[2]})
    choices = "options" if how == "one list" else "a,b,c"
    more = {"choices": choices, "template": "{q} {choice}", "objective": "accuracy"}
    options = {"model": str(draw.base.llama), "dataset": str(draw.lines(rows)), **more}
    words = {"beyond": ("option",), "letter": ("option", "label"), "answerKey": ("option", "label")}.get(how, ())
    return Variant(options, None if how == "beyond" else right, words, about=how)


@kind
def choice_file_format(draw: Draw) -> Variant:
    """Options that are numbers: the same gold from CSV, where every cell is text, as from JSON."""
    from wrong_file_kinds.data_kinds import as_csv, as_jsonl

    rows = [{"q": p, "a": "cat", "b": "dog", "c": "mat", "label": draw.random.randrange(3)} for p in PROMPTS]
    model = tiny.causal(draw.base.llama)
    hits = []
    for r in rows:
        losses = [tiny.completion_loss(model, [(ids_of(r["q"]), ids_of(o, False))]) for o in (r["a"], r["b"], r["c"])]
        hits.append(losses.index(min(losses)) == r["label"])
    how = draw.choice(("csv", "jsonl", "tsv"))
    text = as_jsonl(rows) if how == "jsonl" else as_csv(rows, "\t" if how == "tsv" else ",")
    more = {"choices": "a,b,c", "template": "{q} {choice}", "objective": "accuracy"}
    options = {"model": str(draw.base.llama), "dataset": str(draw.write(f"d.{how}", text)), **more}
    return Variant(options, sum(hits) / len(hits), about=how)


@kind
def label_words_of_decoder(draw: Draw) -> Variant:
    """Label words that a decoder scores, in an order or with blanks of their own."""
    words = draw.random.sample(("good", "bad", "true", "false"), 3)
    model = tiny.causal(draw.base.llama)
    gold = draw.random.sample((0, 1, 2), 3) + [draw.random.randrange(3) for _ in PROMPTS[3:]]
    hits = []
    for p, g in zip(PROMPTS, gold, strict=True):
        losses = [tiny.completion_loss(model, [(ids_of(f"{p} it was"), ids_of(w, False))]) for w in words]
        hits.append(losses.index(min(losses)) == g)
    how = draw.choice(("numbers", "texts", "pairs", "label_text"))
    rows: list[dict[str, Any]] = [{"text": p, "label": g} for p, g in zip(PROMPTS, gold, strict=True)]
    more: dict[str, Any] = {"template": "{text} it was {label}", "labels": ",".join(words)}
    if how == "texts":
        rows = [{**r, "label": words[r["label"]]} for r in rows]
    elif how == "pairs":
        more["labels"] = ",".join(f"{i}={w}" for i, w in sorted(enumerate(words), reverse=True))
    elif how == "label_text":
        rows = [{**r, "label_text": words[r["label"]]} for r in rows]
        del more["labels"]
    options = {"model": str(draw.base.llama), "dataset": str(draw.lines(rows)), "objective": "accuracy", **more}
    return Variant(options, sum(hits) / len(hits), about=how)
