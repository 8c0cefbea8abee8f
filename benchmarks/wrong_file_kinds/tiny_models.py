"""Tiny models on disk, and scores of them by plain transformers loops.

nli: a BERT classifier of three named classes, trained for some steps so that its accuracy is 1. llama: a decoder with
random weights and tied embeddings. encoder: a BERT encoder that is pooled by the mean. All share one vocabulary of
whole words.
"""

from __future__ import annotations

import functools
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

NAMES = ("entailment", "neutral", "contradiction")
TEXTS = {
    0: ("yes indeed certainly", "yes true", "certainly true", "indeed yes"),
    1: ("maybe perhaps", "unclear perhaps", "maybe unclear", "perhaps maybe so"),
    2: ("no never", "false no", "never false", "no wrong"),
}
WORDS = (
    *("yes", "indeed", "certainly", "true", "maybe", "perhaps", "unclear", "so", "no", "never", "false", "wrong"),
    *("the", "a", "cat", "dog", "sat", "ran", "saw", "on", "mat", "and", "it", "was", "good", "bad"),
    *("not", "very", "who", "what", "Paris", "user", "assistant", "system"),
)
SPECIAL = ("[PAD]", "[UNK]", "<s>", "</s>", "<end>", "<turn>")
PAD, BOS, EOS, END = 0, 2, 3, 4
EMBEDDING_SCALE = 20.0
"""Cosines times this are the logits of an embedding model, as sentence-transformers trains them."""
CHAT_TEMPLATE = (
    "{% for m in messages %}<turn> {{ m['role'] }} {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<turn> assistant {% endif %}"
)


def tokenizer(single: str = "$A", pair: str = "$A $B", typed: bool = False, **more: Any) -> Any:
    """A tokenizer of whole words; single and pair: the special tokens around one text and around two."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "eos_token": "</s>", "bos_token": "<s>", **more}
    inputs = ["input_ids", *(["token_type_ids"] if typed else []), "attention_mask"]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, model_input_names=inputs, **{k: v for k, v in names.items() if v}
    )


def bert_tokenizer() -> Any:
    return tokenizer("<s> $A </s>", "<s>:0 $A:0 </s>:0 $B:1 </s>:1", typed=True, cls_token="<s>", sep_token="</s>")


def bert_config(**more: Any) -> Any:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return transformers.BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS), max_position_embeddings=64, pad_token_id=PAD, **{**sizes, **off, **more}
    )


def make_nli(folder: Path, names: Sequence[str] = NAMES) -> Path:
    """Class i is called names[i]."""
    torch.manual_seed(0)
    tok, model = bert_tokenizer(), transformers.BertForSequenceClassification(bert_config(num_labels=3)).train()
    rows = nli_rows()
    batch = tok([r["text"] for r in rows], return_tensors="pt", padding=True)
    gold = torch.tensor([r["label"] for r in rows])
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        loss = model(**batch, labels=gold).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: i for i, name in enumerate(names)}
    return save(folder, model, tok)


def make_llama(folder: Path, **more: Any) -> Path:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    ids = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
    config = transformers.LlamaConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        intermediate_size=48,
        max_position_embeddings=96,
        **{"tie_word_embeddings": True, **sizes, **ids, **more},
    )
    torch.manual_seed(5)
    return save(folder, roughened(transformers.LlamaForCausalLM(config)), tokenizer("<s> $A", "<s> $A $B"))


def make_encoder(folder: Path) -> Path:
    torch.manual_seed(9)
    return save(folder, roughened(transformers.BertModel(bert_config())), bert_tokenizer())


@torch.no_grad()
def roughened(model: Any) -> Any:
    """The model with weights larger than initial ones, so that every tensor changes the scores."""
    for p in model.parameters():
        p.add_(torch.randn_like(p) * (0.25 if p.dim() > 1 else 0.1))
    return model


def save(folder: Path, model: Any, tok: Any) -> Path:
    model.eval().save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


def nli_rows() -> list[dict[str, Any]]:
    """Texts with the index of their class."""
    return [{"text": text, "label": label} for label, texts in TEXTS.items() for text in texts]


class Base:
    """The undamaged models below a root, each created at its first use."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @functools.cached_property
    def nli(self) -> Path:
        return make_nli(self.root / "nli")

    @functools.cached_property
    def llama(self) -> Path:
        return make_llama(self.root / "llama")

    @functools.cached_property
    def encoder(self) -> Path:
        return make_encoder(self.root / "encoder")

    def folder(self, name: str) -> Path:
        """The folder of the model of this name."""
        return {"nli": self.nli, "llama": self.llama, "encoder": self.encoder}[name]

    def copy(self, name: str, folder: Path) -> Path:
        """A copy of a model for a variant to damage."""
        shutil.copytree(self.folder(name), folder / "model")
        return folder / "model"


# Scores by plain loops


@torch.no_grad()
def classify(folder: Path, texts: Iterable[Any], **load: Any) -> list[Tensor]:
    """Logits of a classifier for texts, or for pairs of texts, one row at a time."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, **load).eval()
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    out = []
    for text in texts:
        parts = text if isinstance(text, tuple) else (text,)
        out.append(model(**tok(*parts, return_tensors="pt", truncation=True, max_length=64)).logits[0])
    return out


def accuracy(logits: Sequence[Tensor], gold: Sequence[int | None]) -> float:
    """The share of right predictions; rows without a class do not count."""
    hits = [int(x.argmax()) == g for x, g in zip(logits, gold, strict=True) if g is not None]
    return sum(hits) / len(hits)


def class_loss(logits: Sequence[Tensor], gold: Sequence[int]) -> float:
    """Mean cross-entropy in nats."""
    losses = [-float(torch.log_softmax(x.float(), -1)[g]) for x, g in zip(logits, gold, strict=True)]
    return sum(losses) / len(losses)


def causal(folder: Path, **load: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **load).eval()


@torch.no_grad()
def completion_loss(model: Any, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> float:
    """Mean over rows of the mean negative log-likelihood of a completion's tokens after its prompt, in nats."""
    losses = []
    for prompt, completion in pairs:
        log_p = torch.log_softmax(model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0].float(), -1)
        scores = [float(log_p[len(prompt) - 1 + j, t]) for j, t in enumerate(completion)]
        losses.append(-sum(scores) / len(scores))
    return sum(losses) / len(losses)


@torch.no_grad()
def greedy(model: Any, prompt: Sequence[int], count: int, ends: Iterable[int] = (EOS,)) -> list[int]:
    """Greedy completion by a full forward pass a token."""
    out: list[int] = []
    while len(out) < count:
        token = int(model(input_ids=torch.tensor([[*prompt, *out]])).logits[0, -1].argmax())
        if token in set(ends):
            break
        out.append(token)
    return out


Pooling = Callable[[Tensor], Tensor]
POOLINGS: dict[str, Pooling] = {
    "cls": lambda x: x[0],
    "mean": lambda x: x.mean(0),
    "cls and mean": lambda x: torch.cat([x[0], x.mean(0)]),
    "lasttoken": lambda x: x[-1],
    "max": lambda x: x.max(0).values,
    "mean_sqrt_len_tokens": lambda x: x.sum(0) / math.sqrt(len(x)),
    "weightedmean_tokens": lambda x: (x * torch.arange(1, len(x) + 1)[:, None]).sum(0) / (len(x) * (len(x) + 1) / 2),
}


@torch.no_grad()
def embed(folder: Path, texts: Iterable[str], pooling: Pooling, after: Pooling = lambda x: x) -> list[Tensor]:
    """Unit vectors of texts; after: what stands between pooling and normalization."""
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    out = []
    for text in texts:
        hidden = model(**tok(text, return_tensors="pt")).last_hidden_state[0]
        out.append(torch.nn.functional.normalize(after(pooling(hidden)), dim=-1))
    return out


def described(rows: Sequence[Tensor], labels: Sequence[Tensor]) -> list[Tensor]:
    """Logits of rows by their cosines with label descriptions."""
    return [EMBEDDING_SCALE * torch.stack([row @ label for label in labels]) for row in rows]
