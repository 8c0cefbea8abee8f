"""Caches that grow in place hold what transformers' caches hold, and completions stay the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from zotune.models import loading
from zotune.models.kv_cache import growing_kv_cache
from zotune.models.loaded_model import LoadedModel

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {"num_key_value_heads": 2, "intermediate_size": 48}


def random_model(family: str, head: str = "causal", **options: Any) -> LoadedModel:
    loaded: LoadedModel = loading.random_model(
        family, SIZES | options, head=head, device="cpu", dtype="float32", seed=3
    )
    return loaded


@torch.no_grad()
def test_layers_hold_what_transformers_layers_hold() -> None:
    loaded = random_model("llama", **LLAMA)
    usual, growing = DynamicCache(config=loaded.config), growing_kv_cache(loaded)
    assert growing is not None
    generator = torch.Generator().manual_seed(0)
    rows = 3
    changes: dict[int, Any] = {
        3: lambda c: c.batch_repeat_interleave(2),
        6: lambda c: c.reorder_cache(torch.tensor([5, 0, 1, 1, 2, 3])),
        8: lambda c: c.batch_select_indices(torch.tensor([4, 2])),
        9: lambda c: c.crop(-2),
    }
    for step, tokens in enumerate([5, 1, 1, 1, 1, 40, 1, 1, 1, 1, 70, 1]):
        if change := changes.get(step):
            change(usual)
            change(growing)
            rows = usual.layers[0].keys.shape[0]
        for layer in (0, 1):
            k, v = torch.randn(2, rows, 2, tokens, 8, generator=generator)
            expected, found = usual.update(k, v, layer), growing.update(k.clone(), v.clone(), layer)
            assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
        assert growing.get_seq_length() == usual.get_seq_length()
    usual.reset()
    growing.reset()
    assert growing.get_seq_length() == usual.get_seq_length() == 0
    assert growing.update(k, v, 0)[0].equal(k)


@pytest.mark.parametrize(
    ("family", "options"),
    [("llama", LLAMA), ("gpt2", {"n_positions": 128}), ("qwen3", LLAMA | {"head_dim": 8})],
)
@torch.no_grad()
def test_completions_are_those_of_transformers_cache(family: str, options: dict[str, Any]) -> None:
    loaded = random_model(family, **options)
    ids = (torch.arange(3 * 6).view(3, 6) * 7) % 50
    mask = torch.ones_like(ids)
    ids[0, :3], mask[0, :3] = 0, 0  # padding on the left
    settings = {"attention_mask": mask, "max_new_tokens": 50, "do_sample": False, "pad_token_id": 0}
    settings |= {"eos_token_id": None, "output_logits": True, "return_dict_in_generate": True}
    expected = loaded.model.generate(ids, **settings)
    found = loaded.model.generate(ids, past_key_values=growing_kv_cache(loaded), **settings)
    assert torch.equal(found.sequences, expected.sequences)
    assert torch.allclose(torch.stack(found.logits), torch.stack(expected.logits), atol=1e-5)


def test_other_caches_are_left_to_transformers() -> None:
    window = LLAMA | {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 0}
    assert growing_kv_cache(random_model("qwen2", **window)) is None
    assert growing_kv_cache(random_model("mamba", state_size=4)) is None
    encoder_decoder = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    assert growing_kv_cache(random_model("t5", head="seq2seq", **encoder_decoder)) is None
