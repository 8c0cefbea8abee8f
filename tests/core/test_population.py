"""Populations: rows of members give what written weights give, updates have the same bits everywhere."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zotune.core.members import exact_product, whole_weights
from zotune.core.population import Population, RowWise, matrix_shape
from zotune.core.recipe import Directions, direction_sum
from zotune.core.space import Space
from zotune.errors import RecipeError
from zotune.models import loading

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2, "intermediate_size": 48},
    "gpt2": {"n_positions": 64},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    "qwen3": {"num_key_value_heads": 2, "intermediate_size": 48, "head_dim": 8, "tie_word_embeddings": True},
    "bert": {"intermediate_size": 48},
}
PAIRS = 3


def model(family: str, dtype: str = "float32") -> nn.Module:
    common = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    head = "masked" if family == "bert" else "causal"
    loaded = loading.random_model(family, common | FAMILIES[family], head=head, device="cpu", dtype=dtype, seed=3)
    module: nn.Module = loaded.model
    return module


def population(space: Space, sigma: float = 0.1, pairs: int = PAIRS, step: int = 0, without: Any = ()) -> Population:
    shapes = {t.name: s for t in space.theta.tensors if t.name not in without and (s := matrix_shape(t))}
    rms = {n: float(space.params[n].detach().double().square().mean().sqrt()) for n in shapes}
    return Population(Directions(shapes, pairs, step), {n: sigma * r for n, r in rms.items()})


def inputs(rows: int, tokens: int = 5) -> dict[str, Tensor]:
    ids = (torch.arange(rows * tokens).view(rows, tokens) * 7) % 50
    half = ids[: rows // 2]
    return {"input_ids": torch.cat([half, half]), "attention_mask": torch.ones(rows, tokens, dtype=torch.long)}


@torch.no_grad()
def row_wise(space: Space, batch: dict[str, Tensor]) -> RowWise:
    return RowWise(space, lambda: space.module(**batch), len(batch["input_ids"]))


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("each", [1, 2])
@torch.no_grad()
def test_rows_give_what_written_weights_give(family: str, each: int) -> None:
    space = Space(model(family), seed=5)
    batch = inputs(2 * PAIRS * each)
    rows = row_wise(space, batch)
    members = population(space, without=rows.unsupported)
    before = space.digest()
    with rows.at(members):
        logits = space.module(**batch).logits
    assert space.digest() == before
    for pair in range(PAIRS):
        for half, sign in enumerate((1, -1)):
            part = slice((half * PAIRS + pair) * each, (half * PAIRS + pair + 1) * each)
            with space.at(members.member(space.theta, pair, sign)):
                alone = space.module(**{k: v[part] for k, v in batch.items()}).logits
            assert (logits[part] - alone).abs().max() < 1e-4 * alone.std()
    plain = space.module(**batch).logits
    assert (logits - plain).abs().max() > 1e-2 * plain.std(), "members differ from the base model"
    assert rows.agrees(members, lambda: space.module(**batch).logits)
    tables = {n for n in rows.unsupported if "position" in n or "wpe" in n}
    assert bool(tables) == (family in ("gpt2", "opt", "bert")), "a position table is read for all rows at once"


@torch.no_grad()
def test_a_pass_over_some_pairs_gives_their_rows() -> None:
    space = Space(model("llama"), seed=5)
    batch = inputs(2 * PAIRS)
    members, rows = population(space), row_wise(space, batch)
    with rows.at(members):
        whole = space.module(**batch).logits
    some = torch.tensor([1, 2, PAIRS + 1, PAIRS + 2])
    with rows.at(members, 1, 3):
        part = space.module(**{k: v[some] for k, v in batch.items()}).logits
    assert torch.allclose(part, whole[some], atol=1e-6)


@torch.no_grad()
def test_generation_with_a_cache_and_left_padding_follows_the_members() -> None:
    space = Space(model("llama"), seed=5)
    batch = inputs(2 * PAIRS)
    batch["attention_mask"][0, :2] = batch["attention_mask"][PAIRS, :2] = 0
    members, rows = population(space, sigma=0.5), row_wise(space, batch)
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": 49}
    with rows.at(members):
        together = space.module.generate(**batch, **settings)
    for pair in range(PAIRS):
        for half, sign in enumerate((1, -1)):
            row = half * PAIRS + pair
            with space.at(members.member(space.theta, pair, sign)):
                alone = space.module.generate(**{k: v[row : row + 1] for k, v in batch.items()}, **settings)
            assert together[row, : alone.shape[1]].tolist() == alone[0].tolist()


@torch.no_grad()
def test_modules_that_read_weights_in_another_way_are_found() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            mixed = self.first(x).flip(0)  # rows change places: a row sees another member
            out: Tensor = self.second(mixed)
            return out

    space = Space(Odd(), seed=1)
    members = population(space)
    x = torch.linspace(-1, 1, 24).view(6, 4)
    x[3:] = x[:3]
    rows = RowWise(space, lambda: space.module(x), len(x))
    assert not rows.unsupported
    assert not rows.agrees(members, lambda: space.module(x))


@torch.no_grad()
def test_the_update_equals_the_sum_of_members_in_float64() -> None:
    module = nn.Linear(40, 30, bias=False).double()
    space = Space(module, seed=2)
    members = population(space, pairs=5)
    weights = [0.3, -1.7, 0.0, 2.5, 0.01]
    base = module.weight.detach().clone().numpy()
    each = [
        (space.value(members.member(space.theta, p, 1))["weight"].numpy() - base) / members.sizes["weight"]
        for p in range(5)
    ]
    found = space.value(direction_sum(members.directions, weights))["weight"].numpy()
    expected = sum(w * e for w, e in zip(weights, each, strict=True))
    assert np.abs(found - expected).max() < 1e-12 * np.abs(expected).max() + 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_an_update_has_the_same_bits_by_any_way(dtype: torch.dtype) -> None:
    digests = set()
    for threads, compile, chunk in ((1, False, 64), (2, False, 1 << 18), (1, True, 1 << 18)):
        torch.manual_seed(0)
        module = nn.Linear(301, 203, bias=True).to(dtype)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            space = Space(module, seed=2, compile=compile, chunk=chunk)
            for step in range(2):
                space.step = step
                members = population(space, pairs=64, step=step)
                members = Population(members.directions, {"weight": 0.05})
                weights = [float(np.sin(7 * p + step)) for p in range(64)]
                space.assign(space.theta + 0.01 * direction_sum(members.directions, weights))
            digests.add(space.digest())
        finally:
            torch.set_num_threads(before)
    assert len(digests) == 1


def test_partial_sums_of_512_terms_are_exact() -> None:
    rng = np.random.default_rng(0)
    weights, unit = whole_weights(tuple(rng.normal(size=512).tolist()))
    assert max(map(abs, weights)) <= 2**24
    u, v = rng.integers(-510, 511, (3, 512)), rng.integers(-510, 511, (4, 512))
    left = torch.tensor(u * np.array(weights), dtype=torch.float64)
    exact = [[sum(int(w) * int(a) * int(b) for w, a, b in zip(weights, x, y, strict=True)) for y in v] for x in u]
    found = exact_product(left, torch.tensor(v, dtype=torch.float64), unit) / unit
    assert [[int(x) for x in row] for row in found.tolist()] == exact


def test_directions_do_not_depend_on_their_number_and_differ_between_tensors() -> None:
    space = Space(model("llama"), seed=5)
    few, many = population(space, pairs=2), population(space, pairs=7)
    name = next(iter(few.sizes))
    a = space.value(direction_sum(few.directions, [0.0, 1.0]))[name]
    b = space.value(direction_sum(many.directions, [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]))[name]
    assert torch.equal(a, b)
    found = space.value(direction_sum(many.directions, [1.0] * 7))
    hashes = {hashlib.sha256(found[n].numpy().tobytes()).hexdigest() for n in many.sizes}
    assert len(hashes) == len(many.sizes)
    with pytest.raises(RecipeError, match="7 directions take as many weights, got 2"):
        direction_sum(many.directions, [1.0, 2.0])
    with pytest.raises(RecipeError, match="must be finite"):
        space.value(direction_sum(few.directions, [float("nan"), 1.0]))
