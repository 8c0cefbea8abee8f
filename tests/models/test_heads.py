"""Heads: what is inferred from a model's configuration, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from zotune.errors import ModelError
from zotune.models.heads import AUTO_CLASSES, HEADS, adapter_head, infer_head, parse_head


@pytest.mark.parametrize(
    ("config", "head"),
    [
        ({"architectures": ["BertForSequenceClassification"]}, "classification"),
        ({"architectures": ["T5Model"], "is_encoder_decoder": True}, "seq2seq"),
        ({"architectures": ["BartForConditionalGeneration"]}, "seq2seq"),
        ({"architectures": ["LlamaForCausalLM"]}, "causal"),
        ({"architectures": ["GPT2LMHeadModel"]}, "causal"),
        ({"architectures": ["BertForMaskedLM"]}, "masked"),
        ({"architectures": ["BertForPreTraining"]}, "masked"),
        ({"architectures": ["BertModel"]}, "embedding"),
    ],
)
def test_the_architecture_tells_the_head(config: dict[str, Any], head: str) -> None:
    assert infer_head(config) == head


def test_a_sentence_encoder_is_an_embedding_model() -> None:
    assert infer_head({"architectures": ["BertForMaskedLM"]}, sentence_encoder=True) == "embedding"
    assert infer_head({}, sentence_encoder=True) == "embedding"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["ViTForImageNet"]}, "the architecture 'ViTForImageNet'"),
        ({}, "no architecture in its config.json"),
        ({"architectures": "BertModel"}, "no architecture in its config.json"),
    ],
)
def test_an_unknown_architecture_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        infer_head(config)
    assert all(head in str(error.value) for head in HEADS)


def test_the_head_option_is_parsed() -> None:
    assert parse_head("auto") is None
    assert [parse_head(head) for head in HEADS] == list(HEADS) == list(AUTO_CLASSES)
    with pytest.raises(ModelError, match=r"got 'casual' \(did you mean 'causal'\?\)"):
        parse_head("casual")


def test_an_adapters_task_type_tells_the_head() -> None:
    assert adapter_head({"task_type": "CAUSAL_LM"}) == "causal"
    assert adapter_head({"task_type": "SEQ_CLS"}) == "classification"
    assert adapter_head({"task_type": None}) is None
