"""The engine that every run has: transformers' `generate` on the loaded model, in this process.

It reads the run's own weights, so it follows every update and every point by itself. Rows of one pass may belong to
members of a population, each with weights of its own (`zotune.core.population`). Knows models and tokens; knows no
record, no objective and no optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zotune.core.population import Population, RowWise
from zotune.core.recipe import Directions
from zotune.inference import GenerationRequest, Members
from zotune.models.generation_settings import generation_config, ignore_generation_defaults, score_processors
from zotune.models.kv_cache import growing_kv_cache
from zotune.models.library_calls import quiet
from zotune.tasks.forward import Forward, retries_smaller
from zotune.tasks.frozen_prefix import Tokens
from zotune.tasks.gumbel import GumbelNoise, RepetitionPenalty
from zotune.tasks.prompt_cache import PromptCache


class TransformersEngine:
    """Completes prompts with the loaded model, in padded micro-batches.

    row_wise: evaluates members of a population, where a run has one; the caller sets it. generated: completions so far.
    """

    row_wise: RowWise | None = None

    def __init__(self, forward: Forward, prompts: PromptCache) -> None:
        self.forward, self.loaded, self.prompts = forward, forward.loaded, prompts
        self.generated = 0
        self._population: tuple[Members, Population] | None = None

    @torch.no_grad()
    def generate(self, request: GenerationRequest) -> list[list[int]]:
        """The ids of each completion, without the end token. Raises OutOfMemory where rows of members do not fit."""
        if request.members is None:
            return self._generate(request)
        assert self.row_wise is not None
        members, population = request.members, self._population_of(request.members)
        with self.row_wise.at(population, members.first, members.last), self.forward.one_pass():
            return self._generate(request)

    def _population_of(self, members: Members) -> Population:
        """The population of these members; the same object for all passes over one, whose factors are kept."""
        whole = replace(members, first=0, last=0)
        if self._population is None or self._population[0] != whole:
            directions = Directions(members.shapes, members.count, members.step, members.draw)
            self._population = whole, Population(directions, members.sizes, members.scales)
        return self._population[1]

    @retries_smaller
    def _generate(self, request: GenerationRequest) -> list[list[int]]:
        prompts, temperature = request.prompts, request.temperature
        if self.forward.in_one_pass:
            return self._generate_in_one_pass(request)
        sampling = temperature, request.top_p, request.top_k, request.min_p
        settings = generation_config(self.loaded, request.max_new_tokens, *sampling)
        devices = [self.loaded.device] if self.loaded.device.type == "cuda" else []
        with quiet(), torch.random.fork_rng(devices=devices, enabled=temperature > 0):
            if temperature > 0:
                torch.manual_seed(request.seed)
            return self.forward.map_rows(
                [len(p) for p in prompts],
                lambda places: self._micro_batch([prompts[k] for k in places], settings, request),
                deterministic=temperature == 0,
            )

    def _generate_in_one_pass(self, request: GenerationRequest) -> list[list[int]]:
        """All prompts in one batch; sampled with noise that depends on step, row and draw alone."""
        prompts, processors = request.prompts, []
        settings = generation_config(self.loaded, request.max_new_tokens, 0.0, 1.0)
        self.forward.note_rows(len(prompts))
        if request.temperature > 0:
            start = max(map(len, prompts)) if self.loaded.head == "causal" else len(self.loaded.decoder_start_ids)
            processors = [
                GumbelNoise(
                    request.keys,
                    request.temperature,
                    request.top_p,
                    start,
                    self.loaded.device,
                    request.top_k,
                    request.min_p,
                )
            ]
        return self._complete(prompts, settings, 1, request, processors)

    def _micro_batch(self, prompts: Sequence[Tokens], settings: Any, request: GenerationRequest) -> list[list[int]]:
        """One micro-batch. Points never share a sampled pass: each needs the same random numbers."""
        if settings.do_sample:
            return self._complete(prompts, settings, 1, request)
        completions: list[list[int]] = self.forward.run_joint(
            ("generate", *map(tuple, prompts)),
            prompts,
            lambda rows, points: self._complete(rows, settings, points, request),
        )
        return completions

    def inputs(self, prompts: Sequence[Tokens], points: int) -> dict[str, Any]:
        """The padded prompts, as the model's `generate` takes them."""
        causal, pad = self.loaded.head == "causal", self.forward.tokenizer.pad_right
        inputs = self.prompts.inputs(prompts, points) if causal else pad(prompts, self.loaded.device)
        inputs.pop("token_type_ids", None)
        if "past_key_values" not in inputs and (cache := growing_kv_cache(self.loaded)):
            inputs["past_key_values"] = cache
        return inputs

    def _complete(
        self,
        prompts: Sequence[Tokens],
        settings: Any,
        points: int,
        request: GenerationRequest,
        processors: Sequence[GumbelNoise] = (),
    ) -> list[list[int]]:
        """Call the model's `generate`; the ids of each completion end before the first end token. processors: change
        the scores of every next token after the penalty of repetitions."""
        loaded, causal, penalty = self.loaded, self.loaded.head == "causal", request.repetition_penalty
        inputs = self.inputs(prompts, points)
        early = request.stop and _keeps_letters(loaded.tokenizer)
        arguments: dict[str, Any] = {"stop_strings": list(request.stop), "tokenizer": loaded.tokenizer} if early else {}
        start = inputs["input_ids"].shape[1] if causal else len(loaded.decoder_start_ids)
        penalties = [RepetitionPenalty(prompts if causal else [()] * len(prompts), penalty, start)]
        every: list[Callable[[Any, Any], Any]] = [*(penalties if penalty != 1.0 else []), *processors]
        if every:
            arguments["logits_processor"] = score_processors(every)
        self.generated += len(prompts)
        with ignore_generation_defaults(loaded):
            ids: Tensor = loaded.model.generate(**inputs, generation_config=settings, **arguments)
        completions = []
        for row in ids[:, start:].tolist():
            length = next((i for i, x in enumerate(row) if x in settings.eos_token_id), len(row))
            # After a stop string, a row is padded up to the end of the longest row.
            while request.stop and length and row[length - 1] == settings.pad_token_id:
                length -= 1
            completions.append(row[:length])
        return completions


def _keeps_letters(tokenizer: Any) -> bool:
    """Whether transformers can look for stop strings while it generates. It tries the tokenizer with these letters, and
    raises ValueError where they become an unknown token; then completions are cut afterwards alone."""
    letters = "abcdef"
    return letters in tokenizer.decode(tokenizer(letters, add_special_tokens=False)["input_ids"])


__all__ = ["TransformersEngine"]
