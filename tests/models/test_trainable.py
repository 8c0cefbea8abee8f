"""Trainable tensors: what each form of --tune selects."""

from __future__ import annotations

from pathlib import Path

import pytest

from zotune.core.space import describe
from zotune.errors import OptionError
from zotune.models.trainable import match_tensors, names_in_words
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


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            [f"model.layers.{i}.self_attn.{n}_proj.weight" for i in range(3) for n in "qv"]
            + ["model.embed_tokens.weight"],
            "q_proj, v_proj (blocks 0 to 2); embed_tokens",
        ),
        (["encoder.layer.1.output.dense.bias"], "output.dense.bias (block 1)"),
        (["h.0.a.weight", "h.2.a.weight"], "a (2 blocks)"),
        (["classifier.weight", "classifier.bias"], "classifier, bias"),
        ([], ""),
        ([f"h.0.t{i}.weight" for i in range(12)], "t0, t1, t2, t3, t4, t5, t6, t7, … (block 0)"),
    ],
)
def test_names_of_tensors_in_words(names: list[str], words: str) -> None:
    assert names_in_words(names) == words
