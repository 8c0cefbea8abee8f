"""Trainable tensors: what each form of --tune selects."""

from __future__ import annotations

from pathlib import Path

import pytest

from zotune.core.space import describe
from zotune.errors import OptionError
from zotune.models.trainable import match_tensors
from zotune.types import TensorInfo


def test_tune_selects_tensors_by_kind_block_and_name(
    tiny_encoder: Path, tiny_llama: Path, tiny_classifier: Path
) -> None:
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

    bert = list(describe(AutoModel.from_pretrained(tiny_encoder)).values())
    llama = list(describe(AutoModelForCausalLM.from_pretrained(tiny_llama)).values())
    head = list(describe(AutoModelForSequenceClassification.from_pretrained(tiny_classifier)).values())
    auto = match_tensors("auto", bert, "embedding")
    assert auto
    assert all(n.startswith("encoder.layer.0.") and n.endswith("bias") for n in auto)
    assert match_tensors("auto", llama, "causal") == {f"model.layers.{k}.self_attn.v_proj.weight" for k in (0, 1)}
    assert "classifier.weight" in match_tensors("auto", head, "classification")
    probe = [*bert, TensorInfo("linear_head.weight", (3, 32), "linear", None)]
    expected = {*auto, "linear_head.weight"}  # not the pooler: nothing reads it
    assert match_tensors("auto", probe, "embedding") == expected
    assert match_tensors("all", llama, "causal") == {t.name for t in llama}
    assert match_tensors("last:1", llama, "causal") == {t.name for t in llama if ".layers.1." in t.name}
    assert match_tensors("value", bert, "embedding") == {
        f"encoder.layer.{k}.attention.self.value.weight" for k in (0, 1)
    }
    assert match_tensors("norm", llama, "causal") == {t.name for t in llama if "norm" in t.name}
    assert match_tensors("bias", bert, "embedding") == {t.name for t in bert if t.name.endswith("bias")}
    assert match_tensors(r"mlp\.up", llama, "causal") == {t.name for t in llama if "mlp.up" in t.name}
    with pytest.raises(OptionError, match="matches no tensor"):
        match_tensors("bias", llama, "causal")
