"""Classification with every model family against reference loops over single, unpadded rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from families import CAUSAL, MASKED, SEQ2SEQ, Families, classification, log_p, mean, option_scores

from zotune.data.templates import Template
from zotune.errors import ModelError, OptionError
from zotune.tasks import build

TEXTS = [
    "the film was bad",
    "a cat ran",
    "what a lovely film it was and so was the plot because the cast was great",
    "the dog saw the cat and the cat saw the man",
    "yes",
]
ROWS = [{"text": text, "label": k % 2} for k, text in enumerate(TEXTS)]
LM_FAMILIES = (*CAUSAL, *MASKED, *SEQ2SEQ)
HEAD_FAMILIES = ("bert-head", "roberta-head", "llama-head", "bert-embedding")


def scores(task: Any, rows: list[dict[str, Any]]) -> torch.Tensor:
    logits: torch.Tensor = task.logits(task.rows(rows), range(len(rows)))
    return logits


def close(a: Any, b: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["words", "bytes"])
@pytest.mark.parametrize("family", LM_FAMILIES)
def test_label_words_equal_a_reference_loop(families: Families, family: str, kind: str) -> None:
    """The second word has several tokens; a masked model reads the text after the label, others do not."""
    after = ". the cat sat" if family in MASKED else ""
    task = families.task(family, classification("{text} it was {label}. the cat sat"), kind)
    got = scores(task, ROWS)
    for i, text in enumerate(TEXTS):
        for k, word in enumerate(("bad", "so good")):
            close(got[i, k], mean(option_scores(task.loaded, f"{text} it was ", word, after)))


@pytest.mark.parametrize("family", [*CAUSAL, *MASKED])
def test_a_token_across_prompt_and_label_word_belongs_to_the_label_word(families: Families, family: str) -> None:
    task = families.task(family, classification("{text} it was so{label}", ("good", "bad")), "bytes")
    tokenizer = task.loaded.tokenizer
    assert "Ġsogood" in tokenizer.tokenize("it was sogood"), (
        "the last letters of the prompt and the label word share a token"
    )
    got = scores(task, ROWS)
    for i, text in enumerate(TEXTS):
        for k, word in enumerate(("good", "bad")):
            (score,) = option_scores(task.loaded, f"{text} it was so", word)
            close(got[i, k], score)


@pytest.mark.parametrize("family", [*LM_FAMILIES, *HEAD_FAMILIES])
def test_scores_do_not_depend_on_batches_order_and_padding_side(families: Families, family: str) -> None:
    template = "{text} it was {label}" if family in LM_FAMILIES else "{text}"
    spec = classification(template, ("bad", "so good", "great"))
    single = families.task(family, spec, micro=1)
    want = scores(single, ROWS)
    for micro, side in ((2, "left"), (64, "right")):
        task = families.task(family, spec, micro=micro)
        task.loaded.tokenizer.padding_side = side
        close(task.logits(task.rows(ROWS), [4, 2, 0, 1, 3]), want[[4, 2, 0, 1, 3]])


@pytest.mark.parametrize("family", ["llama", "roberta", "t5"])
def test_calibration_subtracts_the_neutral_prompt(families: Families, family: str) -> None:
    spec = classification("{text} it was {label}", calibration=Template("it was {label}"))
    task = families.task(family, spec)
    got = scores(task, ROWS)
    for i, text in enumerate(TEXTS):
        for k, word in enumerate(("bad", "so good")):
            score = sum(option_scores(task.loaded, f"{text} it was ", word))
            close(got[i, k], score - sum(option_scores(task.loaded, "it was ", word)))


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
def test_demonstrations_stand_before_every_prompt(families: Families, family: str) -> None:
    lead = "the film was bad it was bad\n\n"
    task = families.task(family, replace(classification("{text} it was {label}"), demonstrations=lead))
    close(scores(task, ROWS)[1, 1], mean(option_scores(task.loaded, f"{lead}a cat ran it was ", "so good")))


@pytest.mark.parametrize("family", ["llama", "roberta", "t5"])
def test_a_label_word_that_begins_with_another_is_refused(families: Families, family: str) -> None:
    task = families.task(family, classification("{text} it was {label}", ("so", "so good")))
    with pytest.raises(OptionError, match="'so' and 'so good' start with the same tokens"):
        task.rows(ROWS)


def test_a_masked_model_without_a_mask_token_is_refused(families: Families) -> None:
    loaded = families.load("bert")
    loaded.tokenizer.mask_token = None
    with pytest.raises(ModelError, match="no mask token"):
        build.build(loaded, classification("{text} it was {label}"), 90, 4)


@pytest.mark.parametrize("head", HEAD_FAMILIES)
def test_heads_equal_a_reference_loop(families: Families, head: str) -> None:
    task = families.task(head, classification("{text}", ("bad film", "good", "the plot was great")))
    got, loaded = scores(task, ROWS), task.loaded

    def embed(text: str) -> torch.Tensor:
        with torch.no_grad():
            hidden = loaded.model(input_ids=torch.tensor([loaded.tokenizer(text)["input_ids"]])).last_hidden_state
        return torch.nn.functional.normalize(hidden[0].mean(0), dim=0)

    for i, text in enumerate(TEXTS):
        if head == "bert-embedding":
            close(got[i] / 20, torch.stack([embed(w) for w in task.spec.classes.words]) @ embed(text))
        else:
            with torch.no_grad():
                close(got[i], loaded.model(input_ids=torch.tensor([loaded.tokenizer(text)["input_ids"]])).logits[0])


@pytest.mark.parametrize("pad", [5, -1, None])
def test_a_head_reads_the_last_token_before_the_padding(families: Families, pad: int | None, tmp_path: Any) -> None:
    """The model finds padding by its configuration's id; the tokenizer here has another."""
    import json
    import shutil

    from zotune.models import loading

    spec = classification("{text}", ("a", "b", "c"))
    folder = tmp_path / "llama"
    shutil.copytree(families.folder("llama-head"), folder)
    config = json.loads((folder / "config.json").read_text()) | {"pad_token_id": pad}
    (folder / "config.json").write_text(json.dumps(config))
    loaded = loading.load(str(folder), folder, "classification", device="cpu", classes=3)
    loaded.tokenizer.pad_token = "</s>" if pad == 5 else "<pad>"
    single, batched = (build.build(loaded, spec, 90, micro) for micro in (1, 16))
    close(scores(single, ROWS), scores(batched, ROWS))


PAIR = {"premise": "the cat ran.", "hypothesis": "a dog sat", "label": 1}


@pytest.mark.parametrize("head", ["bert-head", "roberta-head", "bert"])
def test_pairs_are_encoded_as_the_tokenizer_encodes_them(families: Families, head: str) -> None:
    label = " {label}" if head == "bert" else ""
    task = families.task(head, classification("{premise}{sep}{hypothesis}" + label, ("bad", "good", "fine")))
    loaded = task.loaded
    got = scores(task, [PAIR, {**PAIR, "premise": "so it was a very good film."}])[0]
    inputs = loaded.tokenizer("the cat ran.", "a dog sat" + (" <mask>" if label else ""), return_tensors="pt")
    assert ("token_type_ids" in inputs) == head.startswith("bert")
    with torch.no_grad():
        want = loaded.model(**inputs).logits[0]
    if label:
        want = torch.log_softmax(want[-2], -1)[loaded.tokenizer.convert_tokens_to_ids(["bad", "good", "fine"])]
    close(got, want)
    if head.startswith("bert"):
        with torch.no_grad():
            alone = loaded.model(input_ids=inputs["input_ids"]).logits[0]
        assert (alone - loaded.model(**inputs).logits[0]).abs().max() > 1e-2, "the types must matter for this test"


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_the_encoder_reads_pairs_too(families: Families, family: str) -> None:
    task = families.task(family, classification("{premise}{sep}{hypothesis} {label}", ("bad", "good")))
    tokenizer = task.loaded.tokenizer
    ids = tokenizer("the cat ran.", "a dog sat")["input_ids"]
    decoder = torch.tensor([[task.loaded.model.config.decoder_start_token_id]])
    want = log_p(task.loaded, ids, decoder_input_ids=decoder)[0, tokenizer.convert_tokens_to_ids(["bad", "good"])]
    close(scores(task, [PAIR])[0], want)


@pytest.mark.parametrize("family", ["gpt2", "roberta"])
def test_token_types_go_to_models_that_have_them(families: Families, family: str) -> None:
    """A generic tokenizer returns token types for GPT-2, which would add the embedding of token 0 to every position."""
    loaded = families.load(family)
    loaded.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    task = build.build(loaded, classification("{text}{sep}{text} it was {label}", ("bad", "good")), 90, 4)
    plain = families.task(family, task.spec)
    close(scores(task, ROWS), scores(plain, ROWS))
    assert not task.forward.tokenizer.typed
