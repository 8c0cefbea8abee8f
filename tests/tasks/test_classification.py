"""Classification against reference loops over single, unpadded rows: label words, label descriptions and heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import rows

from zotune.data.classes import Classes
from zotune.data.task import TaskSpec
from zotune.data.templates import Template
from zotune.models import loading
from zotune.models.model_files import find_model
from zotune.tasks import build


def build_task(
    folder: Path, template: str, words: tuple[str, ...] = ("bad", "good"), micro: int = 16, length: int = 32
) -> build.Task:
    files = find_model(str(folder))
    loaded = loading.load(files.source, files.folder, files.head, classes=len(words))
    spec = TaskSpec("classification", Template(template), Classes(("0", "1"), words))
    return build.build(loaded, spec, length, micro)


RECORDS = rows(12)


@torch.no_grad()
def test_label_words_equal_a_loop_over_single_rows(tiny_llama: Path) -> None:
    task = build_task(tiny_llama, "{text} it was {label}", ("awful", "so lovely"))
    got = task.logits(task.rows(RECORDS), range(12))
    model, tokenizer = task.loaded.model, task.loaded.tokenizer
    for i, record in enumerate(RECORDS):
        for k, word in enumerate(("awful", "so lovely")):
            whole = tokenizer(f"{record['text']} it was {word}", add_special_tokens=True)["input_ids"][:-1]
            count = len(word.split())
            log_p = torch.log_softmax(model(torch.tensor([whole])).logits[0].float(), -1)
            expected = (
                sum(log_p[len(whole) - count + j - 1, whole[len(whole) - count + j]] for j in range(count)) / count
            )
            assert abs(float(got[i, k]) - float(expected)) < 1e-5


@torch.no_grad()
def test_label_descriptions_equal_a_loop_over_single_rows(tiny_encoder: Path) -> None:
    task = build_task(tiny_encoder, "{text}", ("awful film", "lovely film"))
    got = task.logits(task.rows(RECORDS), range(12))

    def embed(text: str) -> torch.Tensor:
        inputs = task.loaded.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        hidden = task.loaded.model(**inputs).last_hidden_state[0].mean(0)
        return hidden / hidden.norm()

    labels = torch.stack([embed("awful film"), embed("lovely film")])
    for i, record in enumerate(RECORDS):
        torch.testing.assert_close(got[i], 20 * labels @ embed(record["text"]), rtol=0, atol=1e-4)
    features = task.features(task.rows(RECORDS))
    torch.testing.assert_close(features[3], embed(RECORDS[3]["text"]), rtol=0, atol=1e-5)


@torch.no_grad()
def test_heads_equal_a_loop_over_single_rows(tiny_classifier: Path) -> None:
    task = build_task(tiny_classifier, "{text}")
    got = task.logits(task.rows(RECORDS), range(12))
    for i, record in enumerate(RECORDS):
        inputs = task.loaded.tokenizer(record["text"], return_tensors="pt", return_token_type_ids=False)
        torch.testing.assert_close(got[i], task.loaded.model(**inputs).logits[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("fixture", ["tiny_llama", "tiny_encoder", "tiny_classifier"])
def test_scores_do_not_depend_on_batch_size_and_order(fixture: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(fixture)
    template = "{text} it was {label}" if fixture == "tiny_llama" else "{text}"
    single, batched = build_task(folder, template, micro=1), build_task(folder, template, micro=64)
    a = single.logits(single.rows(RECORDS), range(12))
    b = batched.logits(batched.rows(RECORDS), list(reversed(range(12))))
    torch.testing.assert_close(a, b.flip(0), rtol=0, atol=1e-5)


def test_a_new_head_depends_on_the_seed_and_keeps_the_global_generator(tiny_encoder: Path) -> None:
    state = torch.get_rng_state()
    options = {"classes": 3, "new_head": True}
    models = [loading.load(str(tiny_encoder), tiny_encoder, "classification", seed=s, **options) for s in (1, 1, 2)]
    a, b, c = (m.model.classifier.weight for m in models)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(state, torch.get_rng_state())


def test_truncation_keeps_the_label_word(tiny_llama: Path) -> None:
    task = build_task(tiny_llama, "{text} it was {label}", length=8)
    encoded = task.rows([{"text": "very " * 50 + "good", "label": 1}])
    ((options, _),) = encoded.tokens
    assert encoded.truncated == 1
    for option in options:
        assert len(option.ids) == 7, "the last token need not be read"
        assert option.positions == (6,)
        assert task.loaded.tokenizer.decode(option.ids).endswith("it was")


def test_shared_llama_scores_label_words(shared: Path) -> None:
    task = build_task(shared / "models/stories260K/hf", "{text} It was {label}", ("terrible", "great"))
    encoded = task.rows([{"text": "The movie made me happy.", "label": 1}])
    with torch.no_grad():
        got = task.logits(encoded, [0])
        for k, word in enumerate(("terrible", "great")):
            tokenizer = task.loaded.tokenizer
            prompt = tokenizer("The movie made me happy. It was")["input_ids"]
            ids = tokenizer(f"The movie made me happy. It was {word}")["input_ids"]
            assert ids[: len(prompt)] == prompt
            log_p = torch.log_softmax(task.loaded.model(torch.tensor([ids])).logits[0], -1)
            places = range(len(prompt), len(ids))
            expected = sum(float(log_p[j - 1, ids[j]]) for j in places) / len(places)
            assert float(got[0, k]) == pytest.approx(expected, abs=1e-5)


def test_sampled_predictions_follow_the_logits(tiny_encoder: Path) -> None:
    task = build_task(tiny_encoder, "{text}")
    encoded = task.rows(RECORDS * 4)
    gap = build.SAMPLING_TEMPERATURE * 1.0986  # probabilities 1/4 and 3/4
    logits = torch.tensor([[0.0, gap]]).repeat(48, 1)
    assert len(encoded) == 48
    draws = [d["predictions"] for d in task.sample_predictions(encoded, range(48), logits, 100)]
    share = sum(map(sum, draws)) / 4800
    assert abs(share - 0.75) < 0.03
    part = [d["predictions"] for d in task.sample_predictions(encoded, [5, 9], logits[:2], 100)]
    assert part == [[d[5], d[9]] for d in draws], "a row's samples must not depend on the rows beside it"
    close = [
        d["predictions"] for d in task.sample_predictions(encoded, range(48), logits + torch.tensor([0.0, 1e-3]), 100)
    ]
    changed = sum(a != b for x, y in zip(draws, close, strict=True) for a, b in zip(x, y, strict=True))
    assert changed < 10
