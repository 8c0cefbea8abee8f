"""Tiny models of every family with random weights, their tokenizers, and reference loops that score with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zotune.data.classes import Classes
from zotune.data.task import TaskSpec
from zotune.data.templates import Template
from zotune.models import loading
from zotune.models.loaded_model import LoadedModel
from zotune.models.model_files import find_model
from zotune.tasks import build

WORDS = (
    "the a was it so very not and who what said says because film plot cast dog cat man left ran sat saw great good "
    "fine lovely bad poor awful dull yes no maybe true false right wrong question answer . : ?"
)
SENTENCES = [
    "the film was sogood and it was sobad",
    "it was sogood that the cat sat, so good",
    "the dog saw the cat and the man ran",
    "Answer: the dog. Question: who saw the cat?",
    "what a lovely film it was, not a bad plot",
    "it was sobad because the plot was poor",
] * 4

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}plot : {{ m.content }} . "
    "{% elif m.role == 'user' %}question : {{ m.content }} "
    "{% else %}answer : {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{% if thinking is defined and not thinking %}no {% endif %}answer : {% endif %}"
)
NO_SYSTEM = CHAT_TEMPLATE.replace("plot : {{ m.content }} . ", "{{ raise_exception('no system role') }}")
"""The same template for a model without a system role."""

CONFIGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "Llama", {"num_key_value_heads": 2, "max_position_embeddings": 96}),
    "opt": ("OPTForCausalLM", "OPT", {"ffn_dim": 32, "word_embed_proj_dim": 32, "max_position_embeddings": 96}),
    "gpt2": ("GPT2LMHeadModel", "GPT2", {"n_positions": 96}),
    "bert": ("BertForMaskedLM", "Bert", {"max_position_embeddings": 96}),
    "roberta": ("RobertaForMaskedLM", "Roberta", {"max_position_embeddings": 98, "type_vocab_size": 1}),
    "t5": (
        "T5ForConditionalGeneration",
        "T5",
        {"d_kv": 8, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 2, "decoder_start_token_id": 0},
    ),
    "bart": (
        "BartForConditionalGeneration",
        "Bart",
        {
            "decoder_layers": 2,
            "encoder_layers": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "max_position_embeddings": 96,
            "decoder_start_token_id": 3,
        },
    ),
    "bert-head": ("BertForSequenceClassification", "Bert", {"num_labels": 3}),
    "roberta-head": ("RobertaForSequenceClassification", "Roberta", {"num_labels": 3, "type_vocab_size": 1}),
    "llama-head": ("LlamaForSequenceClassification", "Llama", {"num_key_value_heads": 2, "num_labels": 3}),
    "bert-embedding": ("BertModel", "Bert", {}),
}
CAUSAL, MASKED, SEQ2SEQ = ("llama", "opt", "gpt2"), ("bert", "roberta"), ("t5", "bart")
PAD, BOS, EOS = 0, 2, 3
SPECIAL_TOKENS = {
    "llama": ("<s> $A", "<s> $A $B"),
    "opt": ("<s> $A", "<s> $A $B"),
    "gpt2": ("$A", "$A $B"),
    "bert": ("<s> $A </s>", "<s>:0 $A:0 </s>:0 $B:1 </s>:1"),
    "roberta": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "bart": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "t5": ("$A </s>", "$A </s> $B </s>"),
}
"""Special tokens around one text and around a pair."""


def tokenizer(family: str, kind: str) -> Any:
    """kind: "words" has one token a word; "bytes" merges byte pairs, across the boundary of prompt and answer too."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
    from tokenizers import models as parts
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    if kind == "words":
        result = Tokenizer(parts.WordLevel({w: i for i, w in enumerate([*special, *WORDS.split()])}, unk_token="<unk>"))
        result.pre_tokenizer = pre_tokenizers.Whitespace()
    else:
        result = Tokenizer(parts.BPE())
        result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        result.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=360, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        result.train_from_iterator(SENTENCES, trainer)
    single, pair = SPECIAL_TOKENS[family]
    result.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if family == "bert" else [])]
    return PreTrainedTokenizerFast(
        tokenizer_object=result,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        mask_token="<mask>",
        model_input_names=names,
    )


class Families:
    """Folders of models below a root, each created at its first use."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, name: str, kind: str = "words") -> Path:
        import transformers

        folder = self.root / f"{name}-{kind}"
        if not folder.exists():
            cls, config, more = CONFIGS[name]
            coder = tokenizer(name.partition("-")[0], kind)
            sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
            ids = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
            configured = getattr(transformers, f"{config}Config")(vocab_size=len(coder), **sizes, **ids, **more)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(11)
                model = getattr(transformers, cls)(configured)
                with torch.no_grad():
                    for p in model.parameters():  # larger than usual initial weights: every tensor changes the scores
                        p.add_(torch.randn_like(p) * (0.2 if p.dim() > 1 else 0.1))
            model.save_pretrained(folder)
            coder.save_pretrained(folder)
        return folder

    def load(self, name: str, kind: str = "words", classes: int | None = None, new_head: bool = False) -> LoadedModel:
        files = find_model(str(self.folder(name, kind)))
        return loading.load(files.source, files.folder, files.head, device="cpu", classes=classes, new_head=new_head)

    def task(self, name: str, spec: TaskSpec, kind: str = "words", micro: int = 4, length: int = 90) -> Any:
        classes = len(spec.classes.words) if spec.classes else None
        return build.build(self.load(name, kind, classes), spec, length, micro)


def classification(template: str, words: tuple[str, ...] = ("bad", "so good"), **more: Any) -> TaskSpec:
    keys = tuple(map(str, range(len(words))))
    return TaskSpec("classification", Template(template), Classes(keys, words), **more)


@torch.no_grad()
def log_p(loaded: LoadedModel, ids: list[int], **more: Tensor) -> Tensor:
    """Log-probabilities of one row without padding: (positions, vocabulary)."""
    return torch.log_softmax(loaded.model(input_ids=torch.tensor([ids]), **more).logits[0].float(), -1)


def answer_positions(coder: Any, ids: list[int], before: str, option: str) -> list[int]:
    """Indices of the tokens that hold a letter of the option, counted by decoding all tokens before each."""

    def letters(text: str) -> int:
        return len("".join(text.split()))

    letters_before = [letters(coder.decode(ids[:j], skip_special_tokens=True)) for j in range(len(ids) + 1)]
    start, end = letters(before), letters(before + option)
    return [j for j in range(len(ids)) if letters_before[j + 1] > start and letters_before[j] < end]


def option_scores(loaded: LoadedModel, before: str, option: str, after: str = "") -> list[float]:
    """Log-probability of each token of an option."""
    coder = loaded.tokenizer
    if loaded.head == "seq2seq":
        targets = coder(option, add_special_tokens=False)["input_ids"]
        begin = [loaded.model.config.decoder_start_token_id]
        decoder = torch.tensor([begin + targets[:-1]])
        scores = log_p(loaded, coder(before.rstrip())["input_ids"], decoder_input_ids=decoder)
        return [float(scores[j, t]) for j, t in enumerate(targets)]
    ids = coder(before + option + after)["input_ids"]
    positions = answer_positions(coder, ids, before, option)
    if loaded.head == "masked":
        masked = [coder.mask_token_id if j in positions else t for j, t in enumerate(ids)]
        scores = log_p(loaded, masked)
        return [float(scores[j, ids[j]]) for j in positions]
    scores = log_p(loaded, ids)
    return [float(scores[j - 1, ids[j]]) for j in positions if j > 0]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@torch.no_grad()
def greedy(loaded: LoadedModel, prompt: list[int], count: int, ends: tuple[int, ...] = (EOS,)) -> list[int]:
    """Greedy completion by a full forward pass a token, without a cache."""
    completion: list[int] = []
    for _ in range(count):
        if loaded.head == "seq2seq":
            begin = [loaded.model.config.decoder_start_token_id]
            scores = log_p(loaded, prompt, decoder_input_ids=torch.tensor([begin + completion]))
        else:
            scores = log_p(loaded, prompt + completion)
        token = int(scores[-1].argmax())
        if token in ends:
            break
        completion.append(token)
    return completion
