"""`zotune bench`: what it says, and that it leaves all as it was. Nothing here depends on a machine's speed."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from zotune import plugins
from zotune.bench import bench, instruments, optimizer_cost, textbook
from zotune.bench.bench import Options
from zotune.bench.shapes import SHAPES
from zotune.cli import app, bench_tables
from zotune.core.space import named_tensors
from zotune.errors import ModelError, ObjectiveFailures, OptionError, PluginError
from zotune.models import loading
from zotune.models.heads import Head
from zotune.models.loaded_model import LoadedModel

TINY = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
KEYS = {
    "model",
    "head",
    "device",
    "dtype",
    "threads",
    "torch",
    "rows",
    "tokens",
    "rounds",
    "tune",
    "compiled",
    "seed",
    "weights",
    "weights_bytes",
    "tuned",
    "tensors",
    "largest",
    "forward",
    "optimizers",
    "textbook",
    "write",
    "skipped",
}


def small(**more: Any) -> Options:
    """Options of a single round, which has no median worth the name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instruments, "MIN_ROUNDS", 1)
        return Options(**{"rows": 2, "tokens": 5, "rounds": 1, "warmup": 0, "compile": False, **more})


def tiny(head: Head = "embedding", family: str = "bert", **more: Any) -> LoadedModel:
    sizes = {**TINY, "intermediate_size": 32, "max_position_embeddings": 12, **more}
    return loading.random_model(family, sizes, head=head, device="cpu")


def bits(loaded: LoadedModel) -> dict[str, bytes]:
    named = named_tensors(loaded.model).items()
    return {n: p.detach().clone().view(-1).view(torch.uint8).numpy().tobytes() for n, p in named}


def positive(found: Any) -> None:
    """Every time, size and ratio that cannot be zero or less."""
    assert all(x > 0 for x in found["forward"].values())
    for e in found["optimizers"]:
        assert all(e[k] > 0 for k in ("evaluations", "step_ms", "forwards_ms", "ratio", "two_forwards_ms"))
        assert math.isclose(sum(k["share"] for k in e["kinds"]), 1)
        assert set(e["parts"]) == set(optimizer_cost.PARTS)
        assert e["memory"]["step_bytes"] > e["memory"]["perturb_bytes"] > 0
        assert e["memory"]["inference_bytes"] > found["weights_bytes"]


@pytest.fixture(scope="module")
def everything() -> tuple[dict[str, Any], bool]:
    """All installed optimizers on a tiny encoder, and whether its weights are the same bits afterwards."""
    loaded = tiny()
    before = bits(loaded)
    rules, failed = bench.resolve(["all"])
    found = bench.measure(loaded, rules, small(tune="query|value"), strict=False, failed=failed)
    return found, bits(loaded) == before


def test_the_json_has_every_key_and_its_numbers_are_positive(everything: tuple[dict[str, Any], bool]) -> None:
    found, _ = everything
    assert set(found) == KEYS
    assert json.loads(json.dumps(found)) == found
    positive(found)
    assert found["textbook"]["beside"] == "mezo"
    for what in ("textbook", "write"):
        assert all(x > 0 for x in found[what].values() if x != "mezo")
    assert found["largest"]["weights"] < found["tuned"] < found["weights"]


def test_all_covers_every_installed_optimizer_or_says_why_not(everything: tuple[dict[str, Any], bool]) -> None:
    found, _ = everything
    measured, skipped = {e["name"] for e in found["optimizers"]}, {s["name"]: s["reason"] for s in found["skipped"]}
    assert measured | set(skipped) == {*plugins.default().names("optimizer")}
    assert not measured & set(skipped)
    assert all(skipped.values())
    assert {"mezo", "auto", "mezo-svrg", "dizo", "zo-muon", "grzo", "es"} <= measured


def test_weights_are_the_same_bits_afterwards(everything: tuple[dict[str, Any], bool]) -> None:
    assert everything[1]


def test_evaluations_counted_are_those_declared(everything: tuple[dict[str, Any], bool]) -> None:
    found, _ = everything
    for e in found["optimizers"]:
        assert e["as_declared"], e["name"]
        for k in e["kinds"]:
            rows = sum(rows * n for rows, n in k["passes"])
            single = all(rows == 1 for rows, _ in k["passes"]) and e["name"] != "eggroll"  # whose members share passes
            assert rows == k["evaluations"] * (1 if single else found["rows"]), e["name"]


def test_steps_of_several_kinds_are_weighted_by_their_share(everything: tuple[dict[str, Any], bool]) -> None:
    by_name = {e["name"]: e for e in everything[0]["optimizers"]}
    svrg, dizo = by_name["mezo-svrg"], by_name["dizo"]
    assert {k["evaluations"]: k["share"] for k in svrg["kinds"]} == {4: 0.5, 2 * instruments.TRAINING_BATCHES: 0.5}
    assert {k["evaluations"]: k["share"] for k in dizo["kinds"]} == {2: 0.98, 22: 0.02}
    assert math.isclose(dizo["evaluations"], 2.4)
    assert dizo["statistic"] == "the mean over 50 steps"
    assert by_name["mezo"]["statistic"] == "the median step"


def test_tables_hold_every_optimizer_in_a_hundred_columns(everything: tuple[dict[str, Any], bool]) -> None:
    from rich.console import Console

    out = io.StringIO()
    found = {**everything[0], "skipped": [{"name": "other", "reason": "cannot [be] built"}]}
    bench_tables.show(found, Console(file=out, width=bench_tables.WIDTH, highlight=False))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= bench_tables.WIDTH
    assert "\x1b" not in text
    for e in found["optimizers"]:
        assert text.count(f"\n{e['name']} ") >= 3, e["name"]
    assert "cannot [be] built" in text
    assert "textbook MeZO step" in text


@pytest.mark.parametrize(
    ("head", "family", "more"),
    [
        ("causal", "llama", {"num_key_value_heads": 1}),
        ("masked", "bert", {}),
        ("classification", "bert", {}),
        ("seq2seq", "t5", {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "decoder_start_token_id": 0}),
    ],
)
def test_every_head_has_a_number(head: Head, family: str, more: dict[str, Any]) -> None:
    loaded = tiny(head, family, **more)
    before = bits(loaded)
    found = bench.measure(loaded, bench.resolve(["mezo"])[0], small())
    positive(found)
    assert bits(loaded) == before
    assert found["head"] == head


def test_the_number_of_a_language_model_is_the_cross_entropy_of_next_tokens() -> None:
    loaded = tiny("causal", "llama", num_key_value_heads=1)
    subject = instruments.ModelOnRandomTokens(loaded, small(), instruments.Clock(loaded.device))
    ids = subject.inputs["input_ids"][:3]
    with torch.no_grad():
        logits = loaded.model(input_ids=ids).logits
    expected = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert math.isclose(subject.score(range(3)).value, float(expected), rel_tol=1e-6)
    assert subject.passes == [2, 1]


def test_the_textbook_loop_is_mezo() -> None:
    """θ − η (L(θ + ε z) − L(θ − ε z)) / 2ε z, by hand."""
    torch.manual_seed(0)
    net = nn.Linear(3, 2, dtype=torch.float64)
    params = list(net.parameters())
    start = [p.detach().clone() for p in params]
    generator = torch.Generator().manual_seed(5)
    z = [torch.normal(0.0, 1.0, p.shape, generator=generator, dtype=p.dtype) for p in params]
    lr, eps = 0.1, 1e-2

    def loss() -> float:
        return float(sum((p.detach() ** 3).sum() for p in params))

    def at(c: float) -> float:
        return float(sum(((p + c * x) ** 3).sum() for p, x in zip(start, z, strict=True)))

    slope = textbook.step(params, loss, 5, lr, eps)
    expected = (at(eps) - at(-eps)) / (2 * eps)
    assert math.isclose(slope, expected, rel_tol=1e-10)
    for p, before, x in zip(params, start, z, strict=True):
        torch.testing.assert_close(p.detach(), before - lr * expected * x, rtol=1e-12, atol=1e-12)


def test_weights_are_given_back_where_a_step_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tiny()
    before = bits(loaded)
    read = instruments.ModelOnRandomTokens._row_values
    calls: list[int] = []

    def fails(self: instruments.ModelOnRandomTokens, *given: Any) -> torch.Tensor:
        calls.append(1)
        return read(self, *given) * (math.nan if len(calls) > 5 else 1.0)

    monkeypatch.setattr(instruments.ModelOnRandomTokens, "_row_values", fails)
    with pytest.raises(ObjectiveFailures, match="nan"):
        bench.measure(loaded, bench.resolve(["mezo"])[0], small())
    assert bits(loaded) == before


def test_an_adapter_is_what_is_tuned(tiny_llama: Path) -> None:
    loaded = bench.load(str(tiny_llama), device="cpu", peft="lora")
    found = bench.measure(loaded, bench.resolve(["mezo"])[0], small())
    assert found["tuned"] < found["weights"] / 2
    positive(found)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command in this process: exit code, standard output, standard error."""

    def run(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            app.main(["bench", *args])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


def test_the_command_measures_a_shape(
    said: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(SHAPES) == {"opt-1.3b", "opt-6.7b", "llama-8b"}
    sizes = {**TINY, "word_embed_proj_dim": 16, "ffn_dim": 32, "max_position_embeddings": 12}
    monkeypatch.setitem(SHAPES, "opt-1.3b", ("opt", sizes))
    asked = ("--config", "opt-1.3b", "--rows", "2", "--tokens", "4", "--rounds", "5", "--no-compile")
    code, out, _ = said(*asked, "--device", "cpu", "--json")
    found = json.loads(out)
    assert (code, found["model"], found["head"]) == (0, "opt-1.3b", "causal")
    positive(found)
    code, out, _ = said(*asked, "--device", "cpu", "--optimizer", "zo-sign", "--dtype", "bfloat16")
    assert code == 0
    assert "zo-sign" in out
    assert "bfloat16" in out


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--optimizer", "mezzo"), "did you mean 'mezo'"),
        (("--optimizer", "mezo", "--optimizer-arg", "epps=1"), "did you mean 'eps'"),
        (("--optimizer", "all", "--optimizer-arg", "eps=1"), "needs one --optimizer"),
        (("--rounds", "4"), "--rounds must be at least 5, got 4"),
        (("--tokens", "1"), "--tokens must be at least 2, got 1"),
        (("--threads", "0"), "--threads must be at least 1, got 0"),
        (("--config", "llama-9b"), "known: opt-1.3b"),
        (("--config", "llama-8b", "-m", "x"), "exclude each other"),
        (("--config", "llama-8b", "--peft", "prefix"), "no tokenizer"),
        (("-m", "./nowhere"), "no such folder"),
        (("--peft", "laura"), "--peft must be none, lora, prefix or lora-fa, got 'laura'"),
        (("--tune", "last:none"), "last:2"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    args: tuple[str, ...], says: str, said: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = said(*args)
    assert (code, out) == (2, "")
    line = err.splitlines()[-1]
    assert line.startswith("zotune: ")
    assert says in line
    assert all(x.startswith(("zotune: ", "· ")) for x in err.splitlines())


def test_more_tokens_than_the_model_takes() -> None:
    with pytest.raises(OptionError, match="12 at most"):
        bench.measure(tiny(), bench.resolve(["mezo"])[0], Options(rows=2, tokens=13))


def test_a_shape_that_cannot_be_made() -> None:
    with pytest.raises(ModelError, match="no-such-family"):
        loading.random_model("no-such-family", {}, device="cpu")


def test_an_optimizer_that_cannot_begin_is_named_or_raises() -> None:
    loaded, rules = tiny(), bench.resolve(["dizo", "mezo"])[0]
    options = small(tune="norm")
    found = bench.measure(loaded, rules, options, strict=False)
    assert [s["name"] for s in found["skipped"]] == ["dizo"]
    assert "matches none" in found["skipped"][0]["reason"]
    assert [e["name"] for e in found["optimizers"]] == ["mezo"]
    with pytest.raises(OptionError, match="matches none"):
        bench.measure(loaded, rules, options)
    with pytest.raises(PluginError, match="unknown optimizer"):
        bench.resolve(["no-such"])
