"""What every method's weights are judged by: completions of a model folder, and its KL divergence from the base model.

Knows model folders and prompts; knows no method and no reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

Prompt = str | list[dict[str, str]]
"""Plain text, or the messages of a chat."""
ROWS = 128
"""Rows of a batch."""


class Generator:
    """A model folder that completes prompts.

    base: the folder of the base model, whose tokenizer is used for every model. dtype: of the weights.
    """

    def __init__(self, model: Path, base: Path, dtype: torch.dtype = torch.float32) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(base, padding_side="left")
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()

    def encode(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """Token ids and mask, padded on the left: [prompts, tokens] each."""
        chats = [not isinstance(p, str) for p in prompts]
        texts = [
            self.tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True) if chat else p
            for p, chat in zip(prompts, chats, strict=True)
        ]
        return dict(self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=not any(chats)))

    @torch.no_grad()
    def sequences(
        self, prompts: Sequence[Prompt], tokens: int, seed: int | None
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(prompt ids, new ids) of each prompt without padding. seed: of samples at temperature 1; None: greedy."""
        rows = []
        stops = self.model.generation_config.eos_token_id
        stop_ids = stops if isinstance(stops, list) else [stops]
        if seed is not None:
            torch.manual_seed(seed)
        for start in range(0, len(prompts), ROWS):
            batch = self.encode(prompts[start : start + ROWS])
            sampling = {"do_sample": False} if seed is None else {"do_sample": True, "temperature": 1.0, "top_k": 0}
            out = self.model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=tokens,
                pad_token_id=self.tokenizer.pad_token_id,
                **({**sampling, "top_p": 1.0} if seed is not None else sampling),
            )
            width = batch["input_ids"].shape[1]
            for ids, mask, new in zip(batch["input_ids"], batch["attention_mask"], out[:, width:], strict=True):
                ends = [i for i, token in enumerate(new.tolist()) if token in stop_ids]
                rows.append((ids[mask.bool()], new[: ends[0] + 1] if ends else new))
        return rows

    def complete(self, prompts: Sequence[Prompt], tokens: int, seed: int | None = None) -> list[str]:
        """The completion of each prompt as text."""
        rows = self.sequences(prompts, tokens, seed)
        return list(self.tokenizer.batch_decode([new for _, new in rows], skip_special_tokens=True))

    @torch.no_grad()
    def log_probabilities(self, prompt: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of all tokens at each new position: [new tokens, vocabulary]."""
        ids = torch.cat([prompt, new])[None]
        logits = self.model(ids, attention_mask=torch.ones_like(ids)).logits[0, len(prompt) - 1 : -1]
        return torch.log_softmax(logits.float(), -1)


def kl_divergence(model: Generator, base: Generator, prompts: Sequence[Prompt], tokens: int, seed: int = 0) -> float:
    """KL(base model ‖ model) in nats a token, exact over the vocabulary, on text that the base model samples."""
    return _mean_divergence(model, base, base.sequences(prompts, tokens, seed))


def kl_on_texts(model: Generator, base: Generator, texts: Sequence[str]) -> float:
    """KL(base model ‖ model) in nats a token, exact over the vocabulary, on texts from their second token on."""
    rows = [base.tokenizer(text, return_tensors="pt")["input_ids"][0] for text in texts]
    return _mean_divergence(model, base, [(ids[:1], ids[1:]) for ids in rows])


def _mean_divergence(model: Generator, base: Generator, rows: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> float:
    total, count = 0.0, 0
    for prompt, new in rows:
        if len(new):
            ours, theirs = model.log_probabilities(prompt, new), base.log_probabilities(prompt, new)
            total, count = total + float((theirs.exp() * (theirs - ours)).sum()), count + len(new)
    return total / max(count, 1)


__all__ = ["Generator", "Prompt", "kl_divergence", "kl_on_texts"]
