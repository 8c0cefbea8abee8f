"""A reward model as the objective, against a load_plain loop with transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from zotune_objectives.reward_model import RewardModel

from zotune.errors import ModelError, ObjectiveError, OptionError
from zotune.scoring.objective import wrap
from zotune.testing import ObjectiveContract

CHAT = "{% for m in messages %}{{ '<s>' + m['role'] + ':' + m['content'] + '</s>' }}{% endfor %}"
TALK: dict[str, list[Any]] = {
    "prompts": ["the film was so", "who saw the dog?", "a", "the cat and the dog and the man ran", "it was"],
    "completions": [" good", " the man", "", " and the cat ran so very fast", " so bad."],
}


@pytest.fixture(scope="module")
def make_reward_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Makes directories of tiny models with random weights and a classification head."""

    def make(family: str, labels: int = 1, chat: bool = False, pad: bool = True, **config: Any) -> str:
        import transformers
        from families import CONFIGS, tokenizer

        cls, kind, more = CONFIGS[f"{family}-head"]
        coder = tokenizer(family, "bytes")
        coder.chat_template = CHAT if chat else None
        coder.pad_token = "<pad>" if pad else None
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
        ids = {"pad_token_id": 0 if pad else None, "bos_token_id": 2, "eos_token_id": 3, "max_position_embeddings": 64}
        names = {"num_labels": labels, **config}
        settings = getattr(transformers, f"{kind}Config")(vocab_size=len(coder), **{**more, **sizes, **ids, **names})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            model = getattr(transformers, cls)(settings)
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(torch.randn_like(p) * (0.2 if p.dim() > 1 else 0.1))
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        coder.save_pretrained(folder)
        return str(folder)

    return make


def load_plain(folder: str) -> tuple[Any, Any]:
    """(model, tokenizer) as transformers loads them."""
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def logits_of(model: Any, **inputs: Any) -> torch.Tensor:
    logits: torch.Tensor = model(**{k: torch.tensor([v]) for k, v in inputs.items()}).logits[0]
    return logits


@pytest.mark.parametrize("family", ["llama", "bert", "roberta"])
@pytest.mark.parametrize("chat", [False, True])
def test_scores_equal_a_plain_loop(make_reward_model: Any, family: str, chat: bool) -> None:
    folder = make_reward_model(family, chat=chat)
    model, coder = load_plain(folder)
    expected = []
    for prompt, completion in zip(*TALK.values(), strict=True):
        if chat:
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
            text = coder.apply_chat_template(turns, tokenize=False)
        else:
            text = prompt + completion
        expected.append(float(logits_of(model, **coder(text, add_special_tokens=not chat))))
    assert max(expected) - min(expected) > 0.01
    for size in (1, 2, 16):
        scorer = RewardModel(folder, batch_size=size, device="cpu")
        assert scorer(**TALK) == pytest.approx(expected, abs=1e-5)
        assert scorer.tally["calls"] == -(-5 // size)
    assert RewardModel(folder, device="cpu", template="text")(**TALK) == pytest.approx(
        [float(logits_of(model, **coder(p + c))) for p, c in zip(*TALK.values(), strict=True)], abs=1e-5
    )


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_pairs(make_reward_model: Any, family: str) -> None:
    folder = make_reward_model(family, chat=True)
    model, coder = load_plain(folder)
    expected = [float(logits_of(model, **coder(p, c))) for p, c in zip(*TALK.values(), strict=True)]
    assert RewardModel(folder, pair=True, device="cpu")(**TALK) == pytest.approx(expected, abs=1e-5)


def test_the_last_token_is_read_if_no_padding_token_is_saved(make_reward_model: Any) -> None:
    """Such a tokenizer pads with the end token, which conversations end with, too."""
    folder = make_reward_model("llama", chat=True, pad=False)
    model, coder = load_plain(folder)
    assert (model.config.pad_token_id, coder.pad_token_id) == (None, None)
    expected = []
    for prompt, completion in zip(*TALK.values(), strict=True):
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        ids = coder(coder.apply_chat_template(turns, tokenize=False), add_special_tokens=False)["input_ids"]
        assert ids[-1] == coder.eos_token_id
        expected.append(float(logits_of(model, input_ids=ids)))
    assert RewardModel(folder, device="cpu")(**TALK) == pytest.approx(expected, abs=1e-5)


def test_several_labels(make_reward_model: Any) -> None:
    names = {"id2label": {0: "bad", 1: "fair", 2: "good"}, "label2id": {"bad": 0, "fair": 1, "good": 2}}
    folder = make_reward_model("bert", labels=3, **names)
    model, coder = load_plain(folder)
    rows = [logits_of(model, **coder(p + c)) for p, c in zip(*TALK.values(), strict=True)]
    expected = [float(r.softmax(-1)[2]) for r in rows]
    for label in ("good", "2"):
        assert RewardModel(folder, reward_label=label, device="cpu")(**TALK) == pytest.approx(expected, abs=1e-5)
    alone = make_reward_model("bert", labels=3, problem_type="multi_label_classification")
    expected = [float(r.sigmoid()[0]) for r in rows]
    assert RewardModel(alone, reward_label="LABEL_0", device="cpu")(**TALK) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(OptionError, match=r"has 3 labels: bad, fair, good .*reward_label=good"):
        RewardModel(folder)
    with pytest.raises(OptionError, match=r"no label 'goood' .did you mean 'good'"):
        RewardModel(folder, reward_label="goood")
    with pytest.raises(OptionError, match="no label '3'"):
        RewardModel(folder, reward_label="3")
    with pytest.raises(OptionError, match="has 2 labels: LABEL_0, LABEL_1"):
        RewardModel(make_reward_model("bert", labels=2))


@pytest.mark.parametrize("chat", [False, True])
def test_a_long_prompt_loses_its_beginning(make_reward_model: Any, chat: bool) -> None:
    folder = make_reward_model("llama", chat=chat)
    model, coder = load_plain(folder)
    long, completion = "the dog saw the cat and " * 30, " so good"
    words = coder(long, add_special_tokens=False)["input_ids"]
    for limit, room in ((40, 40), (None, 64)):  # the option, and the limit of the model
        (score,) = RewardModel(folder, max_length=limit, device="cpu")([completion], [long])
        frame = coder("<s>user:" if chat else "<s>", add_special_tokens=False)["input_ids"]
        tail = coder("</s><s>assistant: so good</s>" if chat else completion, add_special_tokens=False)["input_ids"]
        kept = words[-(room - len(frame) - len(tail)) :]
        assert score == pytest.approx(float(logits_of(model, input_ids=frame + kept + tail)), abs=1e-5)


def test_conversations(make_reward_model: Any) -> None:
    """The reward model does not read the chat template of the tuned model."""
    folder = make_reward_model("llama", chat=True)
    model, coder = load_plain(folder)
    turns = [{"role": "system", "content": "good dog"}, {"role": "user", "content": "who ran?"}]
    right = {"role": "assistant", "content": "the cat"}
    text = coder.apply_chat_template([*turns, {"role": "assistant", "content": "the man"}], tokenize=False)
    expected = [float(logits_of(model, **coder(text, add_special_tokens=False)))] * 2
    scorer = RewardModel(folder, device="cpu")
    scores = scorer(["the man"] * 2, ["<|other|>who ran?"] * 2, messages=[[*turns, right], turns])
    assert scores == pytest.approx(expected, abs=1e-5)
    assert scorer([[{"role": "assistant", "content": "the man"}]], [turns]) == pytest.approx(expected[:1], abs=1e-5)


def test_a_reward_model_has_no_side_effects(make_reward_model: Any) -> None:
    before = torch.get_rng_state()
    scorer = RewardModel(make_reward_model("bert"), device="cpu")
    objective = wrap(scorer, "reward-model")
    assert objective.score(5, {**TALK, "model": None, "topic": ["x"] * 5}).samples == tuple(scorer(**TALK))
    assert torch.equal(before, torch.get_rng_state())
    loaded = scorer._classifier.forward.loaded
    assert not loaded.model.training
    assert all(p.grad is None for p in loaded.model.parameters())
    scorer.close()
    scorer.close()
    assert scorer(["x"], ["p"]) == scorer(["x"], ["p"])


def test_models_and_options_are_checked_before_loading(make_reward_model: Any, families: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"reward-model './nowhere': no such folder"):
        RewardModel("./nowhere")
    with pytest.raises(ModelError, match="has the head 'causal'"):
        RewardModel(str(families.folder("llama")))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": make_reward_model("bert")}))
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(ModelError, match=r"is an adapter .merge it"):
        RewardModel(str(tmp_path))
    folder = make_reward_model("llama")
    headless = _without(folder, "score.weight", tmp_path / "headless")
    with pytest.raises(ModelError, match=r"reward-model .* lacks score\.weight: these weights would be random"):
        RewardModel(headless, device="cpu")(["x"], ["p"])
    for options, message in (
        ({"dtype": "int3"}, "dtype must be auto, float32"),
        ({"batch_size": 0}, "batch_size must be positive"),
        ({"max_length": -1}, "max_length must be positive"),
        ({"pair": True, "template": "chat"}, "exclude each other"),
        ({"device": "abacus"}, "reward-model: device 'abacus' is not available"),
    ):
        with pytest.raises((OptionError, ModelError), match=message):
            RewardModel(folder, **options)
    with pytest.raises(ObjectiveError, match="its chat template refuses a row"):
        RewardModel(folder, template="chat", device="cpu")(["x"], ["p"])


def _without(folder: str, name: str, to: Path) -> str:
    """A copy of a model without one of its tensors."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, to)
    weights = load_file(to / "model.safetensors")
    del weights[name]
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    return str(to)


class TestRewardModelContract(ObjectiveContract):
    """Random weights know no labels, so the completions that this model prefers count as correct."""

    @pytest.fixture(autouse=True)
    def _scorer(self, make_reward_model: Any) -> None:
        self.scorer = RewardModel(make_reward_model("bert"), device="cpu")

    def objective(self) -> Callable[..., Any]:
        return self.scorer

    def inputs(self, rows: int = 12, right: float = 0.5) -> dict[str, Any]:
        inputs = super().inputs(rows, right)
        preferred, other = sorted(["so good", "so bad"], key=lambda text: -self.scorer([text], ["it was "])[0])
        hits = [p == y for p, y in zip(inputs["predictions"], inputs["labels"], strict=True)]
        return {**inputs, "prompts": ["it was "] * rows, "completions": [preferred if h else other for h in hits]}
