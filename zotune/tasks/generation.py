"""Generation: prompts to completions in batches, and the log-probabilities of reference completions.

Decoding is greedy unless a temperature is set. The randomness of sampling depends on the step, so all points of a step
share it, and the global generators are restored. Knows models, tokens and records; knows no objective and no optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zotune import seeds
from zotune.data.answers import reference_texts
from zotune.data.records import Record
from zotune.data.task import Sampling, TaskSpec
from zotune.data.templates import FilledTemplate
from zotune.data.tokenization import Encoding, first_that_fits
from zotune.errors import DataError, OptionError, OutOfMemory
from zotune.inference import GenerationRequest, Members
from zotune.models.configuration import config_value
from zotune.models.generation_settings import (
    end_token_ids,
    generation_config,
    ignore_generation_defaults,
    score_processors,
)
from zotune.models.library_calls import quiet
from zotune.models.loaded_model import LoadedModel
from zotune.tasks.chat import ChatTemplate
from zotune.tasks.encoded_rows import EncodedRows
from zotune.tasks.frozen_prefix import Tokens
from zotune.tasks.model_task import ModelTask, columns_of, naming
from zotune.tasks.prompt_cache import PromptCache
from zotune.tasks.teacher_forcing import EncodedAnswer, TeacherForcing
from zotune.tasks.transformers_engine import TransformersEngine
from zotune.text import texts

PAIRS = frozenset({"chosen_logps", "rejected_logps", "chosen_tokens", "rejected_tokens"})
"""Fields for pairs of a chosen and a rejected completion: Σ log p of the tokens in nats, and the number of tokens."""


class GenerationTask(ModelTask):
    """Free text. `references` are the reference completions: one text a row, or a list where a row has several.

    Where the column `prompt` holds messages, objectives get prompts and completions as lists of messages, as in TRL.
    Raises OptionError where the new tokens leave no room for a prompt.

    Attributes: step, the step whose randomness sampling uses; draw, the index of a sample among those of the same
    prompt; the training signal sets both. in_process: the engine that completes prompts with the loaded model; engine:
    what completes them in its place, where a run has another engine.
    """

    fields = frozenset({"prompts", "model", "batch", "completions", "completion_ids", "references", "losses"})
    step = 0
    draw = 0

    def __init__(self, loaded: LoadedModel, spec: TaskSpec, max_length: int, micro_batch: int, seed: int = 0) -> None:
        super().__init__(loaded, spec, max_length, micro_batch, seed)
        self.teacher_forcing = TeacherForcing(self.forward)
        self._prompt_length = self.max_length - (spec.max_new_tokens if loaded.head == "causal" else 0)
        if self._prompt_length < 1:
            all_read = self.forward.tokenizer.at_model_limit
            raise OptionError(
                f"--max-new-tokens {spec.max_new_tokens} leaves no room for a prompt in {self.max_length} tokens"
                + (", all that the model reads" if all_read else ""),
                hint="fewer new tokens" if all_read else "a larger --max-length, or fewer new tokens",
            )
        self.prompts, self.chat = PromptCache(self.forward), ChatTemplate(loaded, spec)
        self.in_process = TransformersEngine(self.forward, self.prompts)
        self.engine: Callable[[GenerationRequest], list[list[int]]] | None = None
        self._elsewhere = 0

    def rows(self, records: Sequence[Record]) -> EncodedRows:
        """Tokenise records.

        `tokens` holds for each record (prompt ids, reference, pair): at most one EncodedAnswer as the reference; two,
        chosen and rejected, or none as the pair.
        """
        references = [reference_completions(r) for r in records]
        encodings, answers = [], []
        for record, group in zip(records, references, strict=True):
            with naming(record):
                encodings.append(self._encode_prompt(record))
                answers.append(([*self._encode_reference(record, group[:1])], [*self._encode_pair(record)]))
        tokens = [
            (e.ids, *(tuple(answer for answer, _ in part) for part in parts))
            for (e, _, _), parts in zip(encodings, answers, strict=True)
        ]
        gold = [list(range(len(group))) for group in references]
        truncated = sum(
            truncated or any(shortened for part in parts for _, shortened in part)
            for (_, _, truncated), parts in zip(encodings, answers, strict=True)
        )
        prompts = [text for _, text, _ in encodings]
        return EncodedRows(records, prompts, gold, references, tokens, truncated)

    def prompts_after(self, words: str, records: Sequence[Record]) -> list[Tokens]:
        """The tokens of prompts that begin with some words; in a chat the last turn of the user does."""
        before = f"{words}\n\n" if words else ""
        return [self._encode_prompt(record, before)[0].ids for record in records]

    def _encode_prompt(self, record: Record, before: str = "") -> tuple[Encoding, str, bool]:
        """A prompt's tokens, its text as objectives get it, and whether it was shortened. before: text before it."""
        # An end token after the prompt of a causal model would end the text.
        tail, special = self.loaded.head != "causal", self._adds_special_tokens(record)

        def encode(filled: FilledTemplate) -> tuple[tuple[Encoding, str], bool]:
            encoding = self.forward.tokenizer.encode(filled, special, self._prompt_length, tail=tail)
            inner = filled.text[slice(*filled.content)] if filled.content and "messages" not in record else ""
            return (encoding, inner or filled.text), encoding.truncated

        (encoding, text), truncated = first_that_fits(self._prompts(record, before), encode)
        return encoding, text, truncated

    def _encode_reference(self, record: Record, references: Sequence[str]) -> Iterator[tuple[EncodedAnswer, bool]]:
        for text in references:
            if text.strip():
                yield self._encode_completion(record, text)

    def _encode_pair(self, record: Record) -> Iterator[tuple[EncodedAnswer, bool]]:
        """The chosen and the rejected completion, where the record has both. Raises DataError for an empty one."""
        for column in ("chosen", "rejected") if "chosen" in record and "rejected" in record else ():
            completion = texts([record[column]])[0]
            if not completion.strip():
                raise DataError(f"a {column} completion is empty: {record!r:.80}")
            yield self._encode_completion(record, completion)

    def _wrapped(self, record: Record) -> bool:
        """Whether the chat template goes around a plain prompt."""
        return "messages" not in record and self.spec.chat_template == "on"

    def _adds_special_tokens(self, record: Record) -> bool:
        """Whether the tokenizer adds its special tokens; a chat template has written them already."""
        return "messages" not in record and not self.spec.system and not self._wrapped(record)

    def _prompts(self, record: Record, before: str = "") -> Iterator[FilledTemplate]:
        """The prompt's text; then, in a chat, the same without its oldest turns, as far as that goes."""
        if "messages" in record:
            *earlier, last = prompt_messages(record)
            last = {**last, "content": f"{before}{last['content']}"} if before else last
            yield from self.chat.conversations([*earlier, last])
            return
        filled = self.spec.template.fill(record, "completion", "", "drop")
        prompt = filled.truncate(len(filled.text.rstrip(" "))).after(before)
        if self._wrapped(record):
            yield from self.chat.wraps(prompt)
        elif self.spec.system:
            yield from self.chat.conversations([{"role": "user", "content": prompt.text}], examples=False)
        else:
            yield prompt.prepend(self.spec.demonstrations) if self.spec.demonstrations else prompt

    def _encode_completion(self, record: Record, text: str) -> tuple[EncodedAnswer, bool]:
        """A completion after its prompt, tokenised together, and whether they were shortened."""
        special = self._adds_special_tokens(record)
        if special:
            filled = self.spec.template.fill(record, "completion", text, "score")
            if filled.target is None:  # the template has no place for the completion
                filled = _appended(filled, text)
            filled = filled.prepend(self.spec.demonstrations) if self.spec.demonstrations else filled
            return self.teacher_forcing.encode(filled, special=special)
        answered = (
            self.chat.answer(prompt, text) if self._wrapped(record) else _appended(prompt, text)
            for prompt in self._prompts(record)
        )
        return first_that_fits(answered, lambda filled: self.teacher_forcing.encode(filled, special=special))

    def sequences(self, rows: EncodedRows) -> set[Tokens]:
        """Empty: generated tokens are not known beforehand."""
        return set()

    def cache_prefix(self, tuned: Iterable[str], parts: Sequence[EncodedRows]) -> bool:
        """False: hidden states of generated tokens cannot be cached."""
        return False

    def forward_passes(self, count: int) -> int:
        """The number of forward passes that so many rows take at most: one a new token."""
        return super().forward_passes(count) * self.spec.max_new_tokens

    def outputs(
        self,
        rows: EncodedRows,
        indices: Sequence[int],
        wants: frozenset[str] = fields,
        generated: Sequence[Sequence[int]] | None = None,
    ) -> dict[str, Any]:
        """The inputs of an objective for some rows: what it wants, and what costs nothing.

        Text is generated for `completions` or `completion_ids` alone, and references are scored for `losses` alone.
        generated: ids of completions that exist already, one list a row.
        """
        records = [rows.records[i] for i in indices]
        references = [rows.options[i] for i in indices]
        out = {
            **columns_of(records),
            "prompts": [r["prompt"] if _is_chat(r) else rows.prompts[i] for i, r in zip(indices, records, strict=True)],
            "references": [x[0] if len(x) == 1 else list(x) or None for x in references],
            "model": self.loaded.model,
            "batch": records,
        }
        out.pop("completion", None)
        if wants & {"completions", "completion_ids"}:
            ids = generated or self.generate([rows.tokens[i][0] for i in indices], indices)
            completions = [self.text(x) for x in ids]
            out["completion_ids"] = [list(x) for x in ids]
            out["completions"] = [
                _assistant_message(text) if _is_chat(r) else text for text, r in zip(completions, records, strict=True)
            ]
        if "losses" in wants:
            out["losses"] = self._losses([rows.tokens[i][1] for i in indices])
        if wants & PAIRS:
            out |= self._pair_fields([rows.tokens[i][2] for i in indices])
        return out

    def _pair_fields(self, pairs: Sequence[Sequence[EncodedAnswer]]) -> dict[str, Any]:
        """The fields of PAIRS for each pair of answers."""
        log_p = iter(self.log_probabilities([answer for pair in pairs for answer in pair]))
        sums = [[next(log_p) for _ in pair] for pair in pairs]
        out: dict[str, Any] = {}
        for k, side in enumerate(("chosen", "rejected")):
            out[f"{side}_logps"] = [s[k] for s in sums]
            out[f"{side}_tokens"] = [len(pair[k].targets) for pair in pairs]
        return out

    def _losses(self, references: Sequence[Sequence[EncodedAnswer]]) -> list[float | None]:
        """Mean negative log-likelihood of each reference's tokens, in nats; None where a row has no reference."""
        log_p = iter(self.log_probabilities([x[0] for x in references if x]))
        return [-next(log_p) / len(x[0].targets) if x else None for x in references]

    def log_probabilities(self, answers: Sequence[EncodedAnswer]) -> list[float]:
        """Σ log p of each answer's tokens, in nats."""
        return self.teacher_forcing.log_probabilities(answers)

    def text(self, ids: Sequence[int]) -> str:
        """The text of a completion up to the first stop string, without a space that the template has before it."""
        text: str = self.loaded.tokenizer.decode(list(ids), skip_special_tokens=True)
        for stop in self.spec.stop:
            text = text.split(stop)[0]
        if self.spec.chat_template == "on" and self.chat.glue:
            return text.removeprefix(self.chat.glue)
        before = next((literal for literal, name, _ in self.spec.template.parts if name == "completion"), "")
        return text.removeprefix(" ") if before.endswith(" ") else text

    @torch.no_grad()
    def sample_completions(
        self, rows: EncodedRows, indices: Sequence[int], by_row: bool = False
    ) -> list[EncodedAnswer]:
        """Completions sampled from the current model at temperature 1, encoded for scoring; empty ones are left out.
        by_row: whether the noise of a row does not depend on the rows beside it."""
        prompts = [rows.tokens[i][0] for i in indices]
        completions = self._sampled_by_row(prompts, indices) if by_row else self.generate(prompts, indices, Sampling(1))
        pairs = [(p, tuple(ids)) for p, ids in zip(prompts, completions, strict=True) if ids]
        return [self._encode_ids(p, ids) for p, ids in pairs]

    def completion_ids(self, record: Record, text: str) -> list[int]:
        """A text as the completion of a record: its token ids after the prompt, `max_new_tokens` at most. Empty where
        it has no token, or no room beside the prompt."""
        try:
            answer, _ = self._encode_completion(record, text)
        except OptionError:
            return []
        ids = list(answer.targets)
        while ids and ids[-1] in end_token_ids(self.loaded):
            ids.pop()
        return ids[: self.spec.max_new_tokens]

    def encode_completion_ids(self, prompt: Tokens, ids: Sequence[int]) -> EncodedAnswer:
        """A completion as `generate` returns it, encoded for scoring: with the end token where the model has ended it
        before `max_new_tokens`."""
        ends = end_token_ids(self.loaded)
        own = config_value(self.loaded.tokenizer, "eos_token_id")
        end = (own,) if own in ends else tuple(ends[:1])
        ended = not ids or (len(ids) < self.spec.max_new_tokens and not self.spec.stop)
        return self._encode_ids(prompt, (*ids, *(end if ended else ())))

    def _encode_ids(self, prompt: Tokens, ids: Tokens) -> EncodedAnswer:
        if self.loaded.head == "seq2seq":
            return self.teacher_forcing.decoded(prompt, ids)
        first = len(prompt) - 1
        return EncodedAnswer(prompt + ids[:-1], (), tuple(range(first, first + len(ids))), ids)

    def _sampled_by_row(self, prompts: Sequence[Tokens], indices: Sequence[int]) -> list[list[int]]:
        """Completions sampled at temperature 1, in passes that fit into memory."""
        while True:
            size, ids = self.forward.micro_batch, list[list[int]]()
            try:
                for first in range(0, len(prompts), size):
                    part = slice(first, first + size)
                    with self.forward.one_pass():
                        ids += self.generate(prompts[part], indices[part], Sampling(1.0))
                return ids
            except OutOfMemory:
                if size == 1:
                    raise
            self.forward.micro_batch = size // 2

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Tokens],
        indices: Sequence[int] = (),
        sampling: Sampling | None = None,
        members: Members | None = None,
    ) -> list[list[int]]:
        """The completion's ids for each prompt, without the end token.

        indices: the rows of the prompts; the first of them goes into the seed. sampling: in place of the task's own.
        members: whose weights each row is completed with, by default the present weights.
        """
        chosen, step = sampling or self.spec.sampling, self.step
        sampled = chosen.temperature > 0
        request = GenerationRequest(
            prompts,
            self.spec.max_new_tokens,
            tuple(end_token_ids(self.loaded)),
            self.spec.stop,
            chosen.temperature,
            chosen.top_p,
            chosen.top_k,
            chosen.min_p,
            chosen.repetition_penalty,
            [seeds.derive(self.seed, "gumbel", step, row, self.draw) for row in indices] if sampled else (),
            seeds.derive(self.seed, "sampling", step, *self._seed_parts(indices)),
            members,
        )
        if self.engine is None:
            return self.in_process.generate(request)
        self._elsewhere += len(prompts)
        return self.engine(request)

    @property
    def generated(self) -> int:
        """Completions so far."""
        return self.in_process.generated + self._elsewhere

    @torch.no_grad()
    def forced_logits(self, prompts: Sequence[Tokens], tokens: int = 3) -> Tensor:
        """Logits of the next `tokens` tokens of each prompt, (rows, tokens, vocabulary), where each new token is the
        prompt's first one: a prefill and cached steps whose inputs do not depend on the weights."""
        settings = generation_config(self.loaded, tokens, 0.0, 1.0)
        settings.output_logits = settings.return_dict_in_generate = True
        settings.eos_token_id = None
        first = torch.tensor([p[0] for p in prompts], device=self.loaded.device)[:, None]

        def force(input_ids: Tensor, scores: Tensor) -> Tensor:
            return torch.full_like(scores, -torch.inf).scatter_(1, first, 0.0)

        with quiet(), ignore_generation_defaults(self.loaded):
            inputs = self.in_process.inputs(prompts, 1)
            out = self.loaded.model.generate(
                **inputs, generation_config=settings, logits_processor=score_processors([force])
            )
        return torch.stack(out.logits, 1)

    def _seed_parts(self, indices: Sequence[int]) -> list[int]:
        """What the seed of sampling depends on besides the step: the first row, the draw, and the rank of a process
        that has rows of its own."""
        processes = self.forward.processes
        parts = [*list(indices)[:1], *([self.draw] if self.draw else [])]
        if not processes.alone and processes.split == "batch" and processes.rank:
            parts.append(processes.rank)
        return parts


def reference_completions(record: Record) -> list[str]:
    """The reference completions of a record: those of its column `completion`, or its last message if that is the
    assistant's. A blank text is none."""
    if "messages" in record:
        last = record["messages"][-1]
        return [str(last["content"])] if last["role"] == "assistant" else []
    return [text for text in reference_texts(record, "completion") if text.strip()]


def prompt_messages(record: Record) -> list[Record]:
    """The messages of a record that the model answers: without the reference answer at their end."""
    messages: list[Record] = record["messages"]
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def _appended(filled: FilledTemplate, answer: str) -> FilledTemplate:
    """A text with an answer at its end."""
    start = len(filled.text)
    return replace(filled, text=filled.text + answer, target=(start, start + len(answer)))


def _is_chat(record: Record) -> bool:
    return isinstance(record.get("prompt"), list)


def _assistant_message(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


__all__ = ["PAIRS", "GenerationTask", "prompt_messages", "reference_completions"]
