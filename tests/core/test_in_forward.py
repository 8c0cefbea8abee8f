"""Perturbing in the forward pass, on the model families that read their weights in different ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

from zotune.core.in_forward import InForward, Scratch, outputs_of, same_outputs
from zotune.core.recipe import Factor, Noise, Recipe, outer, weighted_sum
from zotune.core.space import Space
from zotune.testing import TinyNet

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft.*")

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
LLAMA = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2}
BERT = {**SMALL, "intermediate_size": 48, "max_position_embeddings": 64}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def causal(config: Any) -> nn.Module:
    model: nn.Module = tf.AutoModelForCausalLM.from_config(config)
    return model


def lora(**options: Any) -> nn.Module:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **options)
    model: nn.Module = peft.get_peft_model(causal(tf.LlamaConfig(**LLAMA)), config)
    return model


def lora_embedding() -> nn.Module:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"], init_lora_weights=False)
    model: nn.Module = peft.get_peft_model(causal(tf.LlamaConfig(**LLAMA)), config)
    return model


def prefix() -> nn.Module:
    peft = pytest.importorskip("peft")
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model: nn.Module = peft.get_peft_model(causal(tf.LlamaConfig(**LLAMA)), config)
    return model


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "llama-gqa": lambda: causal(tf.LlamaConfig(**LLAMA)),
    "llama-tied": lambda: causal(tf.LlamaConfig(**LLAMA, tie_word_embeddings=True)),
    "gpt2": lambda: causal(tf.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, n_positions=64)),
    "opt": lambda: causal(
        tf.OPTConfig(**SMALL, ffn_dim=48, max_position_embeddings=64, word_embed_proj_dim=32, **SPECIAL)
    ),
    "t5": lambda: tf.T5ForConditionalGeneration(
        tf.T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=64, decoder_start_token_id=0)
    ),
    "bart": lambda: tf.BartForConditionalGeneration(
        tf.BartConfig(
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            vocab_size=64,
            max_position_embeddings=64,
            decoder_start_token_id=2,
            **SPECIAL,
        )
    ),
    "bert": lambda: tf.BertForSequenceClassification(tf.BertConfig(**BERT)),
    "bert-encoder": lambda: tf.BertModel(tf.BertConfig(**BERT)),
    "roberta-masked": lambda: tf.RobertaForMaskedLM(tf.RobertaConfig(**BERT, **SPECIAL)),
    "mixtral": lambda: causal(tf.MixtralConfig(**LLAMA, num_local_experts=4, num_experts_per_tok=2)),
    "qwen3": lambda: causal(tf.Qwen3Config(**LLAMA, head_dim=8)),
    "mamba": lambda: causal(tf.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=64, state_size=4)),
    "deberta-v2": lambda: tf.DebertaV2ForSequenceClassification(
        tf.DebertaV2Config(
            **BERT, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8, norm_rel_ebd="layer_norm"
        )
    ),
    "lora": lora,
    "lora-embedding": lora_embedding,
    "dora": lambda: lora(use_dora=True),
    "prefix": prefix,
}


def build(family: str, dtype: torch.dtype) -> tuple[nn.Module, Callable[[], Tensor]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = FAMILIES[family]().to(dtype).eval()
        for p in model.parameters():
            if p.requires_grad and p.dim() == 1:  # biases and norms as constants hide mistakes
                p.data.add_(0.05 * torch.randn(p.shape, dtype=torch.float32).to(dtype))
        ids = torch.randint(3, 64, (2, 9))
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if getattr(model.config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids[:, :5]
    if family == "mamba":
        inputs["use_cache"] = False

    @torch.no_grad()
    def forward() -> Tensor:
        out = model(**inputs)
        found: Tensor = out.logits if hasattr(out, "logits") else out.last_hidden_state
        return found

    return model, forward


def logits_at(space: Space, point: Recipe, forwards: int, forward: Callable[[], Tensor]) -> Tensor:
    with space.at(point, forwards):
        return forward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_in_forward_equals_copy_bit_for_bit_and_no_weight_changes(family: str, dtype: torch.dtype) -> None:
    model, forward = build(family, dtype)
    space = Space(model, seed=5)
    space.small = 0
    before, clean = space.digest(), forward()
    assert space.perturb_in_forward(forward) == []
    for step in range(3):
        space.step = step
        z = Noise("normal", step, 0)
        for point in (space.theta + 1e-2 * z, space.theta - 1e-2 * z):
            copied = logits_at(space, point, 2, forward)
            assert torch.equal(logits_at(space, point, 1, forward), copied)
            assert not torch.equal(copied, clean)
    assert space.digest() == before
    assert torch.equal(forward(), clean)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_thousand_evaluations_leave_every_bit(family: str, dtype: torch.dtype) -> None:
    model, forward = build(family, dtype)
    space = Space(model, seed=5)
    space.small = 0
    before, clean = space.digest(), forward()
    space.perturb_in_forward(forward)
    for step in range(1000):
        logits_at(space, space.theta + 1e-2 * Noise("normal", step, 0), 1 + step % 2, forward)
    assert space.digest() == before
    assert torch.equal(forward(), clean)


class ReadsElsewhere(nn.Module):
    """The first layer's weight is read by the root as well, outside of the layer that owns it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.second(torch.tanh(self.first(x)))
        return h + 0.1 * self.first.weight.sum()


def test_a_weight_that_is_read_elsewhere_is_detected_and_copied() -> None:
    net = ReadsElsewhere()
    x = torch.linspace(-1, 1, 16).view(2, 8)
    space = Space(net, seed=0)
    space.small = 0

    @torch.no_grad()
    def forward() -> Tensor:
        out: Tensor = net(x)
        return out

    assert space.perturb_in_forward(forward) == ["first.weight"]
    assert space.in_forward is not None
    point = space.theta + 0.1 * Noise("normal", 0, 0)
    assert torch.equal(logits_at(space, point, 1, forward), logits_at(space, point, 2, forward))


def test_everything_is_copied_where_the_module_is_not_called() -> None:
    net = ReadsElsewhere()
    space = Space(net, seed=0)
    space.small = 0
    assert space.perturb_in_forward(lambda: net.first(torch.ones(1, 8))) == list(space.params)
    assert space.in_forward is None


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["first", "second"])
def test_an_exception_inside_a_module_leaves_every_bit(error: type[BaseException], place: str) -> None:
    net = ReadsElsewhere()
    x = torch.ones(1, 8)
    space = Space(net, seed=0)
    space.small = 0
    with torch.no_grad():
        space.perturb_in_forward(lambda: net(x))
        before, pointers = space.digest(), [p.data_ptr() for p in net.parameters()]

        def fail(module: nn.Module, args: Any) -> None:
            raise error("on purpose")

        handle = net.get_submodule(place).register_forward_pre_hook(fail)
        with pytest.raises(error), space.at(space.theta + Noise("normal", 0, 0), 1):
            net(x)
        handle.remove()
        assert space.digest() == before
        assert [p.data_ptr() for p in net.parameters()] == pointers
        assert not any(m._forward_pre_hooks or m._forward_hooks or "forward" in m.__dict__ for m in net.modules())
        with space.at(space.theta + Noise("normal", 0, 0), 1):
            got = net(x)
        with space.at(space.theta + Noise("normal", 0, 0), 2):
            assert torch.equal(net(x), got)


def test_small_tensors_are_written_at_once() -> None:
    net = nn.Sequential(nn.Linear(200, 100), nn.Linear(100, 3))
    space = Space(net, seed=0)
    x = torch.ones(2, 200)
    with torch.no_grad():
        assert space.perturb_in_forward(lambda: net(x)) == []
        assert space.in_forward is not None
        assert space.in_forward.names == {"0.weight"}
        point = space.theta + Noise("normal", 0, 0)
        assert torch.equal(logits_at(space, point, 1, lambda: net(x)), logits_at(space, point, 2, lambda: net(x)))


def test_the_check_needs_no_copy_of_a_large_weight() -> None:
    net = nn.Sequential(nn.Linear(200, 100), nn.Linear(100, 3))
    space = Space(net, seed=0)
    copied: set[str] = set()

    @torch.no_grad()
    def forward() -> None:
        net(torch.ones(2, 200))
        copied.update(space._copy)

    assert space.perturb_in_forward(forward) == []
    assert "0.weight" not in copied


def test_only_rows_that_are_looked_up_are_written() -> None:
    net = nn.Sequential(nn.Embedding(1000, 8), nn.Linear(8, 3))
    ids = torch.tensor([[5, 7, 5, 999]])
    space = Space(net, seed=0)
    space.small = 0
    with torch.no_grad():
        assert space.perturb_in_forward(lambda: net(ids)) == []
    probes = space.in_forward
    assert isinstance(probes, InForward)
    written: list[int] = []
    evaluation = space.evaluation

    def counting(outputs: Any, fields: Any = None) -> Any:
        made = evaluation(outputs, fields)
        run = made.run

        def counted(name: str, outs: Any = (), start: int = 0, rows: Any = None) -> None:
            written.append(sum(o.numel() for o in outs))
            run(name, outs, start, rows)

        made.run = counted  # type: ignore[method-assign]
        return made

    space.evaluation = counting  # type: ignore[method-assign]
    with torch.no_grad(), space.at(space.theta + Noise("rademacher", 0, 0), 1):
        net(ids)
    assert sorted(written) == [3, 24, 24]  # bias, weight, three rows of eight


def test_points_that_need_whole_tensors_are_written_whole() -> None:
    net = nn.Sequential(nn.Embedding(1000, 8), nn.Linear(8, 3))
    ids = torch.tensor([[5, 7, 5, 999]])
    space = Space(net, seed=0)
    space.small = 0

    @torch.no_grad()
    def forward() -> Tensor:
        out: Tensor = net(ids)
        return out

    assert space.perturb_in_forward(forward) == []
    U = Factor({"0.weight": (1000, 2)}, 0, 0)
    V = Factor({"0.weight": (8, 2)}, 0, 1)
    zs = [Noise("normal", 0, j) for j in range(3)]
    for direction in (outer(U, V), weighted_sum([(0.5, z) for z in zs])):
        point = space.theta + direction
        assert torch.equal(logits_at(space, point, 1, forward), logits_at(space, point, 2, forward))


def test_scratch_is_a_stack() -> None:
    scratch = Scratch()
    a, b = torch.empty(100), torch.empty(10)
    first, _ = scratch.push("a", a)
    second, _ = scratch.push("b", b)
    assert scratch.nbytes == 4 * (128 + 64)
    scratch.pop(second)
    assert scratch.push("b", b)[0].data_ptr() == second.data_ptr()
    scratch.top.clear()
    flat, shaped = scratch.push("a", a.view(10, 10))
    assert flat.shape == (100,)
    assert shaped.shape == (10, 10)
    assert first.numel() == 100
    assert scratch.nbytes == 4 * 192


def test_outputs_are_compared_bit_for_bit() -> None:
    net = TinyNet()
    x = torch.arange(3)
    with torch.no_grad(), outputs_of(net) as a:
        net(x)
    with torch.no_grad(), outputs_of(net) as b:
        net(x)
    assert same_outputs(a, b)
    assert not same_outputs(a, [b[0] + 0.0 * float("nan")])
    assert not same_outputs(a, [])


def test_outputs_that_hold_themselves_are_read_once() -> None:
    class Record:
        def __init__(self, x: Tensor) -> None:
            self.states, self.owner, self.kind = [x, {"y": x + 1}], self, Record

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Record:
            return Record(x)

    net = Net()
    with outputs_of(net) as found:
        net(torch.ones(2))
    assert [float(x[0]) for x in found] == [1.0, 2.0]
