"""`zotune.evaluate` on layouts of model folders: its scores equal those of a plain transformers loop."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import write_jsonl
from families import BOS, EOS, PAD, WORDS, mean, tokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor

import zotune

VOCABULARY = 5 + len(WORDS.split())
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
IDS = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
PROMPTS = ("the film was", "who saw the cat and the dog", "what a lovely plot", "it was not")
ANSWERS = ("so good", "the man ran", "great", "bad because the cast was dull")
COUNT = 8
"""New tokens of a completion."""

Case = tuple[dict[str, Any], float]
"""Options of `zotune.evaluate`, and the right score."""
LAYOUTS: dict[str, Callable[[Path], Case]] = {}


def layout(function: Callable[[Path], Case]) -> Callable[[Path], Case]:
    LAYOUTS[function.__name__.replace("_", "-")] = function
    return function


def saved(folder: Path, cls: str, config: Any, coder: Any, **more: Any) -> Any:
    """A model of random weights, larger than initial ones, saved with its tokenizer; returns the model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = getattr(transformers, cls)(config)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p) * (0.3 if p.dim() > 1 else 0.1))
    model.eval().save_pretrained(folder, **more)
    coder.save_pretrained(folder)
    return model


def llama(folder: Path, coder: Any = None, **more: Any) -> Any:
    config = transformers.LlamaConfig(num_key_value_heads=2, max_position_embeddings=96, **{**SIZES, **IDS, **more})
    return saved(folder, "LlamaForCausalLM", config, coder or tokenizer("llama", "words"))


def options(folder: Path, rows: Sequence[dict[str, Any]], objective: str, **more: Any) -> dict[str, Any]:
    data = write_jsonl(folder.parent / "data.jsonl", list(rows))
    return {"model": str(folder), "dataset": str(data), "objective": objective, **more}


@torch.no_grad()
def loss(logits: Tensor, targets: Sequence[int]) -> float:
    """Mean negative log-likelihood of tokens that the last logits predict."""
    log_p = torch.log_softmax(logits[-len(targets) :].float(), -1)
    return -mean([float(log_p[i, t]) for i, t in enumerate(targets)])


@torch.no_grad()
def completion_loss(model: Any, coder: Any, prompts: Sequence[str], *, special: bool = True) -> float:
    """Cross-entropy of ANSWERS and a space before each, after prompts, in a decoder, one row at a time."""
    losses = []
    for prompt, answer in zip(prompts, ANSWERS, strict=True):
        first = coder(prompt, add_special_tokens=special)["input_ids"]
        targets = coder(f" {answer}", add_special_tokens=False)["input_ids"]
        logits = model(input_ids=torch.tensor([[*first, *targets[:-1]]])).logits[0]
        losses.append(loss(logits, targets))
    return mean(losses)


@torch.no_grad()
def greedy(model: Any, coder: Any, prompt: str, ends: set[int], special: bool = True) -> str:
    ids, completion = coder(prompt, add_special_tokens=special)["input_ids"], []
    while len(completion) < COUNT:
        token = int(model(input_ids=torch.tensor([[*ids, *completion]])).logits[0, -1].argmax())
        if token in ends:
            break
        completion.append(token)
    return str(coder.decode(completion, skip_special_tokens=True))


def completions() -> list[dict[str, Any]]:
    return [{"prompt": p, "completion": f" {a}"} for p, a in zip(PROMPTS, ANSWERS, strict=True)]


def conversations(*system: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {"messages": [*system, {"role": "user", "content": p}, {"role": "assistant", "content": a}]}
        for p, a in zip(PROMPTS, ANSWERS, strict=True)
    ]


def chat_prompts(coder: Any, rows: Sequence[dict[str, Any]], **more: Any) -> list[str]:
    settings = {"tokenize": False, "add_generation_prompt": True, **more}
    return [coder.apply_chat_template(r["messages"][:-1], **settings) for r in rows]


def classifier(folder: Path, names: Sequence[str], rows: Sequence[tuple[str, ...]]) -> tuple[list[int], float]:
    """A BERT classifier whose classes have names: its predictions, and its cross-entropy with the next class each."""
    config = transformers.BertConfig(num_labels=len(names), **SIZES, **IDS)
    config.id2label, config.label2id = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
    coder = tokenizer("bert", "words")
    model = saved(folder, "BertForSequenceClassification", config, coder)
    with torch.no_grad():
        logits = [model(**coder(*row, return_tensors="pt")).logits[0] for row in rows]
    predictions = [int(x.argmax()) for x in logits]
    return predictions, mean([loss(x[None], [(p + 1) % len(names)]) for x, p in zip(logits, predictions, strict=True)])


@layout
def bert_with_text_labels(folder: Path) -> Case:
    names = ("wrong", "maybe", "right")
    predictions, right = classifier(folder, names, [(p,) for p in PROMPTS])
    rows = [{"text": t, "label": names[(i + 1) % 3].upper()} for t, i in zip(PROMPTS, predictions, strict=True)]
    return options(folder, rows, "cross-entropy"), right


@layout
def nli_order(folder: Path) -> Case:
    """Pairs of texts; classes in an order that sorting would change, of which the rows show some."""
    names = ("entailment", "neutral", "contradiction")
    pairs = list(zip(PROMPTS, ANSWERS, strict=True))
    predictions, right = classifier(folder, names, pairs)
    rows = [{"a": a, "b": b, "label": names[(i + 1) % 3]} for (a, b), i in zip(pairs, predictions, strict=True)]
    return options(folder, rows, "cross-entropy", template="{a}{sep}{b}"), right


def pooled(folder: Path, flag: str, pool: Callable[[Tensor], Tensor]) -> Case:
    """A sentence-transformers folder; the rows' classes are described by their names."""
    names = ("a bad film", "a good film")
    coder = tokenizer("bert", "words")
    model = saved(folder, "BertModel", transformers.BertConfig(**SIZES, **IDS), coder)
    flags = ("cls_token", "mean_tokens", "lasttoken")
    settings = {f"pooling_mode_{f}": f == flag for f in flags}
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **settings}))
    entries = [{"idx": i, "path": p, "type": f"sentence_transformers.models.{t}"} for i, (p, t) in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(entries))

    @torch.no_grad()
    def embed(text: str) -> Tensor:
        hidden = model(**coder(text, return_tensors="pt")).last_hidden_state[0]
        return torch.nn.functional.normalize(pool(hidden), dim=-1)

    labels = torch.stack([embed(n) for n in names])
    right = mean([loss(20.0 * (labels @ embed(p))[None], [i % 2]) for i, p in enumerate(PROMPTS)])
    rows = [{"text": p, "label": names[i % 2]} for i, p in enumerate(PROMPTS)]
    return options(folder, rows, "cross-entropy"), right


@layout
def sentence_transformers_cls(folder: Path) -> Case:
    return pooled(folder, "cls_token", lambda x: x[0])


@layout
def sentence_transformers_mean(folder: Path) -> Case:
    return pooled(folder, "mean_tokens", lambda x: x.mean(0))


@layout
def sentence_transformers_last_token(folder: Path) -> Case:
    return pooled(folder, "lasttoken", lambda x: x[-1])


TURNS = "{% for m in messages %}{{ m.role }} : {{ m.content }} </s> {% endfor %}"
ANSWER = "{% if add_generation_prompt %}answer : {% endif %}"


def chat_coder(template: str) -> Any:
    coder = tokenizer("llama", "words")
    coder.chat_template = template
    return coder


@layout
def llama_instruct_with_two_end_tokens(folder: Path) -> Case:
    """generation_config.json names the end of a turn beside the end of a text; the tokenizer names the latter."""
    coder = chat_coder("<s> " + TURNS + ANSWER)
    model = llama(folder, coder)
    rows = conversations()
    prompts = chat_prompts(coder, rows)
    free = [greedy(model, coder, p, {EOS}, special=False) for p in prompts]
    turn = coder.convert_tokens_to_ids(next(word for text in free for word in text.split()[1:]))
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [turn, EOS]}))
    texts = [greedy(model, coder, p, {EOS, turn}, special=False) for p in prompts]
    assert texts != free
    for row, text in zip(rows, texts, strict=True):
        row["messages"][-1]["content"] = text or "nothing"
    rows[-1]["messages"][-1]["content"] += " nothing"
    right = mean([float(t == r["messages"][-1]["content"]) for t, r in zip(texts, rows, strict=True)])
    return options(folder, rows, "exact-match", max_new_tokens=COUNT), right


@layout
def gemma_like_without_system_role(folder: Path) -> Case:
    """The template writes the begin token, which the tokenizer adds too, and refuses a system message."""
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    coder = chat_coder(refuse + "{{ bos_token }} " + TURNS + ANSWER)
    model, rows = llama(folder, coder), conversations()
    right = completion_loss(model, coder, chat_prompts(coder, rows), special=False)
    return options(folder, rows, "cross-entropy"), right


@layout
def qwen_like_with_thinking(folder: Path) -> Case:
    """The template thinks unless it is told not to; without its argument it has its own default."""
    thinking = "{% if enable_thinking is defined and not enable_thinking %}not not {% endif %}"
    coder = chat_coder(TURNS + ANSWER.replace("answer : ", "answer : " + thinking))
    model, rows = llama(folder, coder), conversations({"role": "system", "content": "right or wrong"})
    right = completion_loss(model, coder, chat_prompts(coder, rows), special=False)
    return options(folder, rows, "cross-entropy"), right


@layout
def phi_like_with_fused_projections(folder: Path) -> Case:
    config = transformers.Phi3Config(num_key_value_heads=2, max_position_embeddings=96, **SIZES, **IDS)
    coder = tokenizer("llama", "words")
    model = saved(folder, "Phi3ForCausalLM", config, coder)
    return options(folder, completions(), "cross-entropy"), completion_loss(model, coder, PROMPTS)


@layout
def gpt2_without_padding_token(folder: Path) -> Case:
    coder = tokenizer("gpt2", "words")
    coder.pad_token = None
    ids = {**IDS, "pad_token_id": None}
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=96, **ids)
    model = saved(folder, "GPT2LMHeadModel", config, coder)
    texts = [greedy(model, coder, p, {EOS}) or "nothing" for p in PROMPTS]
    rows = [{"prompt": p, "completion": t} for p, t in zip(PROMPTS, texts, strict=True)]
    rows[0]["completion"] += " nothing"
    right = mean([float(greedy(model, coder, r["prompt"], {EOS}) == r["completion"]) for r in rows])
    return options(folder, rows, "exact-match", max_new_tokens=COUNT), right


@layout
def t5(folder: Path) -> Case:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4}
    config = transformers.T5Config(decoder_start_token_id=PAD, **sizes, **IDS)
    coder = tokenizer("t5", "words")
    model = saved(folder, "T5ForConditionalGeneration", config, coder)
    losses = []
    with torch.no_grad():
        for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
            targets = coder(answer, add_special_tokens=False)["input_ids"]
            decoder = torch.tensor([[PAD, *targets[:-1]]])
            ids = torch.tensor([coder(prompt)["input_ids"]])
            losses.append(loss(model(input_ids=ids, decoder_input_ids=decoder).logits[0], targets))
    return options(folder, completions(), "cross-entropy"), mean(losses)


@layout
def sharded_safetensors(folder: Path) -> Case:
    coder = tokenizer("llama", "words")
    model = llama(folder, coder, tie_word_embeddings=False)
    tensors = load_file(folder / "model.safetensors")
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    where = {k: names[i % 2] for i, k in enumerate(sorted(tensors))}
    for name in names:
        save_file({k: v for k, v in tensors.items() if where[k] == name}, folder / name, {"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return options(folder, completions(), "cross-entropy"), completion_loss(model, coder, PROMPTS)


@layout
def tied_embeddings_with_merged_lora(folder: Path) -> Case:
    """A merged adapter whose base has tied embeddings: the file holds the embeddings once."""
    import peft

    coder = tokenizer("llama", "words")
    base = llama(folder.parent / "base", coder, tie_word_embeddings=True)
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        for p in adapted.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * 0.3)
    merged = adapted.merge_and_unload().eval()
    merged.save_pretrained(folder)
    coder.save_pretrained(folder)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    return options(folder, completions(), "cross-entropy"), completion_loss(merged, coder, PROMPTS)


def quantized(folder: Path, kind: str) -> Case:
    """A GGUF file; its matrices are rounded to the kind of number that the file has."""
    pytest.importorskip("gguf")
    from gguf_writer import write_gguf

    sizes = {**SIZES, **IDS, "vocab_size": len(tokenizer("llama", "bytes"))}
    config = transformers.LlamaConfig(num_key_value_heads=2, max_position_embeddings=96, **sizes)
    saved(folder / "plain", "LlamaForCausalLM", config, tokenizer("llama", "bytes"))
    file = write_gguf(folder / "plain", folder / "tiny.gguf", kind=kind)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name).eval()
    coder = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    right = completion_loss(model, coder, PROMPTS)
    return {**options(folder, completions(), "cross-entropy"), "model": str(file)}, right


@layout
def gguf(folder: Path) -> Case:
    return quantized(folder, "F32")


@layout
def gguf_half(folder: Path) -> Case:
    return quantized(folder, "F16")


@layout
def gguf_eight_bits(folder: Path) -> Case:
    return quantized(folder, "Q8_0")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # peft asks transformers for it
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_score_of_a_layout_is_that_of_a_plain_loop(name: str, tmp_path: Path) -> None:
    settings, right = LAYOUTS[name](tmp_path / "model")
    score = zotune.evaluate(**settings)
    assert math.isclose(score.value, right, abs_tol=1e-4), f"{score.value} for {right}"
