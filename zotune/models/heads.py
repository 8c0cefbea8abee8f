"""Model heads: which head a model has, inferred from its configuration.

Knows configuration files as dictionaries; loads nothing and imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from zotune.errors import ModelError, nearest

Head = Literal["classification", "embedding", "causal", "masked", "seq2seq"]
HEADS: tuple[Head, ...] = ("classification", "embedding", "causal", "masked", "seq2seq")
LM_HEADS: tuple[Head, ...] = ("causal", "masked", "seq2seq")
"""Language-model heads: they score or generate the words of an answer. The other heads read texts without answers."""

AUTO_CLASSES: Mapping[Head, str] = {
    "classification": "AutoModelForSequenceClassification",
    "embedding": "AutoModel",
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
}
"""The transformers class that loads a model with each head."""

PEFT_TASK_TYPES: Mapping[str, str] = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "classification": "SEQ_CLS"}
"""peft's `task_type` for the heads that it knows."""


def parse_head(text: str) -> Head | None:
    """The head named by `--head`, or None for "auto". Raises ModelError."""
    for head in HEADS:
        if text == head:
            return head
    if text == "auto":
        return None
    choices = ("auto", *HEADS)
    raise ModelError(f"--head must be one of {', '.join(choices)}, got {text!r}", hint=nearest(text, choices))


def infer_head(config: Mapping[str, Any], sentence_encoder: bool = False) -> Head:
    """The head of a model with this `config.json`. sentence_encoder: whether the folder has the `modules.json` of
    sentence-transformers. Raises ModelError where the architecture does not tell."""
    names = config.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else ""
    if architecture.endswith("ForSequenceClassification"):
        return "classification"
    if config.get("is_encoder_decoder") or architecture.endswith("ForConditionalGeneration"):
        return "seq2seq"
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return "causal"
    if sentence_encoder:
        return "embedding"
    if architecture.endswith(("ForMaskedLM", "ForPreTraining")):
        return "masked"
    if architecture.endswith("Model"):
        return "embedding"
    known = f"the architecture {architecture!r}" if architecture else "no architecture in its config.json"
    raise ModelError(f"cannot infer the head of a model with {known}", hint=f"--head {'|'.join(HEADS)}")


def adapter_head(config: Mapping[str, Any]) -> Head | None:
    """The head that an `adapter_config.json` was trained for, or None where its task type does not tell."""
    for head in HEADS:
        if head in PEFT_TASK_TYPES and PEFT_TASK_TYPES[head] == str(config.get("task_type")):
            return head
    return None


__all__ = [
    "AUTO_CLASSES",
    "HEADS",
    "LM_HEADS",
    "PEFT_TASK_TYPES",
    "Head",
    "adapter_head",
    "infer_head",
    "parse_head",
]
