"""GenerationTask text: prompts to completions in batches, and the log-probability of the right ones by teacher forcing.

Prompts are padded on the left, so that every row goes on from its own last token. Greedy unless a temperature is given;
then the sampling's randomness belongs to the step, is shared by all of its points, and the global generators are put
back.

Knows models, tokens and records; knows no objective and no optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from zotune import seeds
from zotune.data.answers import reference_texts
from zotune.data.records import Record
from zotune.data.task import TaskSpec
from zotune.data.templates import SHOTS, FilledTemplate
from zotune.errors import DataError, ModelError, OptionError
from zotune.models.configuration import config_value
from zotune.models.generation_settings import generation_config, ignore_generation_defaults
from zotune.models.library_calls import quiet
from zotune.tasks.classification import EncodedRows, LabelWordTask, Option
from zotune.tasks.forward import Tokens, retries_smaller
from zotune.tasks.prompt_cache import PromptCache
from zotune.text import texts

PAIRS = frozenset({"chosen_logps", "rejected_logps", "chosen_tokens", "rejected_tokens"})
"""What pairs of a chosen and a rejected completion give: Σ log p of the tokens, and how many there are."""
_ALWAYS = frozenset({"prompts", "model", "batch"})


class GenerationTask(LabelWordTask):
    """Free text. `references` are the right texts: one string a row, a list where there are several. Where a `prompt`
    is a list of messages, prompts and completions are given as lists of messages too, as TRL gives them."""

    fields = _ALWAYS | {"completions", "completion_ids", "references", "losses"}
    samples_predictions = False
    step = 0
    """Which step's randomness sampling uses; set by who drives the run."""
    draw = 0
    """Which of several samples of a prompt; likewise."""

    def __init__(self, loaded: Any, spec: TaskSpec, max_length: int, micro: int, seed: int = 0) -> None:
        super().__init__(loaded, spec, max_length, micro, seed)
        room = self.forward.max_length - (spec.max_new_tokens if loaded.head == "causal" else 0)
        if room < 1:
            raise OptionError(
                f"--max-new-tokens {spec.max_new_tokens} leaves no room for a prompt in {self.max_length} tokens",
                hint="--max-length more, or fewer new tokens",
            )
        self.room, self.prompts = room, PromptCache(self.forward)

    # -- records -------------------------------------------------------------------------------------------------------

    def rows(self, records: Sequence[Record]) -> EncodedRows:
        filled = [self._prompt(r) for r in records]
        goes_on = self.loaded.head == "causal"  # an end token after the prompt would end it
        coded = [
            self.forward.tokenizer.encode(f, self._special(r), self.room, tail=not goes_on)
            for f, r in zip(filled, records, strict=True)
        ]
        gold = [reference_completions(r) for r in records]
        tokens = [
            (c.ids, tuple(self._option_of(r, g[:1])) if g else (), tuple(self._pair(r)))
            for c, r, g in zip(coded, records, gold, strict=True)
        ]
        prompts = [f.text for f in filled]
        return EncodedRows(
            records, prompts, [list(range(len(g))) for g in gold], gold, tokens, sum(c.truncated for c in coded)
        )

    def _option_of(self, record: Record, gold: Sequence[str]) -> Iterator[Option]:
        for text in gold:
            if text.strip():
                yield self._taught_option(record, text)

    def _pair(self, record: Record) -> Iterator[Option]:
        """The chosen and the rejected completion."""
        for column in ("chosen", "rejected") if "chosen" in record and "rejected" in record else ():
            said = texts([record[column]])[0]
            if not said.strip():
                raise DataError(f"a {column} completion is empty: {record!r:.80}")
            yield self._taught_option(record, said)

    def _turns(self, record: Record) -> list[Record] | None:
        """The messages that the model answers; None where the prompt is plain text."""
        system = [{"role": "system", "content": self.spec.system}] if self.spec.system else []
        if "messages" not in record:
            if not system:
                return None
            filled = self.spec.template.fill(record, "completion", "", "drop").text.rstrip(" ")
            return [*system, {"role": "user", "content": filled}]
        asked = prompt_messages(record)
        return [*(system if asked[:1] and asked[0]["role"] != "system" else []), *asked]

    def _special(self, record: Record) -> bool:
        """Whether the tokenizer adds its special tokens: a chat template has them already."""
        return "messages" not in record and not self.spec.system

    def _prompt(self, record: Record) -> FilledTemplate:
        turns = self._turns(record)
        if turns is not None:
            said = self._chat(turns)
            return FilledTemplate(said, {SHOTS: (0, len(said))})  # what was said first goes first
        filled = self.spec.template.fill(record, "completion", "", "drop")
        made = filled.truncate(len(filled.text.rstrip(" ")))
        return made.prepend(self.spec.demonstrations) if self.spec.demonstrations else made

    def _chat(self, turns: Sequence[Record]) -> str:
        try:
            said: str = self.loaded.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # templates raise errors of their own
            if not config_value(self.loaded.tokenizer, "chat_template"):
                raise ModelError(
                    f"{self.loaded.source} has no chat template for {'--system' if self.spec.system else '`messages`'}",
                    hint="use `prompt` and `completion`",
                ) from None
            raise DataError(f"the model's chat template refuses a record: {str(error).splitlines()[0]}") from None
        return said

    def _taught_option(self, record: Record, text: str) -> Option:
        """The right completion after its prompt, tokenised together."""
        prompt = self._prompt(record)
        head = self.loaded.head
        if not self._special(record):
            filled = FilledTemplate(prompt.text + text, prompt.spans, (len(prompt.text), len(prompt.text) + len(text)))
        else:
            filled = self.spec.template.fill(record, "completion", text, "score")
            if filled.target is None:  # no place for it: it follows the prompt
                filled = FilledTemplate(
                    filled.text + text, filled.spans, (len(filled.text), len(filled.text) + len(text))
                )
            filled = filled.prepend(self.spec.demonstrations) if self.spec.demonstrations else filled
        if head == "seq2seq":
            return self._decoded(filled, "")[0]
        coded = self.forward.tokenizer.encode(filled, self._special(record), tail=False)
        first, last = max(coded.target_positions[0], 1), coded.target_positions[-1]
        if first > last:
            raise OptionError(f"{text!r:.60} has nothing before it: a causal model predicts from what came before")
        return Option(coded.ids[:last], (), tuple(range(first - 1, last)), coded.ids[first : last + 1])

    def sequences(self, rows: EncodedRows) -> set[Tokens]:
        return set()

    def cache_prefix(self, tuned: Iterable[str], parts: Sequence[EncodedRows]) -> bool:
        return False

    def forward_passes(self, count: int) -> int:
        return -(-count // self.forward.micro_batch) * self.spec.max_new_tokens

    # -- what objectives see -------------------------------------------------------------------------------------------

    def outputs(self, rows: EncodedRows, indices: Sequence[int], wants: frozenset[str] = fields) -> dict[str, Any]:
        """What is wanted, and what costs nothing: text is generated for `completions`, and the right answers are run
        for `losses`."""
        records = [rows.records[i] for i in indices]
        columns = {name: [r.get(name) for r in records] for name in records[0]} if records else {}
        out = {
            **columns,
            "prompts": [r["prompt"] if _is_chat(r) else rows.prompts[i] for i, r in zip(indices, records, strict=True)],
            "references": [g[0] if len(g) == 1 else list(g) or None for g in (rows.options[i] for i in indices)],
            "model": self.loaded.model,
            "batch": records,
        }
        out.pop("completion", None)
        if wants & {"completions", "completion_ids"}:
            ids = self.generate([rows.tokens[i][0] for i in indices], indices)
            said = [self.text(x) for x in ids]
            as_told = [_told(t) if _is_chat(r) else t for t, r in zip(said, records, strict=True)]
            out |= {"completion_ids": [list(x) for x in ids], "completions": as_told}
        if "losses" in wants:
            out["losses"] = self._losses_of([rows.tokens[i][1] for i in indices])
        if wants & PAIRS:
            out |= self._pairs_of([rows.tokens[i][2] for i in indices])
        return out

    def _pairs_of(self, pairs: Sequence[Sequence[Option]]) -> dict[str, Any]:
        """Σ log p of both completions of each pair, in nats, and their lengths in tokens."""
        found = iter(self.log_probabilities([option for pair in pairs for option in pair]))
        sums = [[next(found) for _ in pair] for pair in pairs]
        out: dict[str, Any] = {}
        for k, side in enumerate(("chosen", "rejected")):
            out[f"{side}_logps"] = [s[k] for s in sums]
            out[f"{side}_tokens"] = [len(pair[k].targets) for pair in pairs]
        return out

    def _losses_of(self, options: Sequence[Sequence[Option]]) -> list[float | None]:
        """Mean negative log-likelihood of the first right completion's tokens, in nats; None where there is none."""
        known = [o[0] for o in options if o]
        found = iter(self.log_probabilities(known))
        return [-next(found) / len(o[0].targets) if o else None for o in options]

    def text(self, ids: Sequence[int]) -> str:
        """Completion tokens as text, up to the first stop string. The blank between prompt and answer is neither's."""
        said: str = self.loaded.tokenizer.decode(list(ids), skip_special_tokens=True)
        for stop in self.spec.stop:
            said = said.split(stop)[0]
        literal = self._before_target()
        return said.removeprefix(" ") if literal.endswith(" ") else said

    def _before_target(self) -> str:
        for literal, name, _ in self.spec.template.parts:
            if name == "completion":
                return literal
        return ""

    @torch.no_grad()
    def sample_completions(self, rows: EncodedRows, indices: Sequence[int]) -> list[Option]:
        """What the model as it is now says to these rows, sampled at temperature 1, ready to be read by it again."""
        prompts = [rows.tokens[i][0] for i in indices]
        said = self.generate(prompts, indices, (1.0, 1.0))
        pairs = [(p, tuple(ids)) for p, ids in zip(prompts, said, strict=True) if ids]
        if self.loaded.head == "seq2seq":
            begin = self.loaded.decoder_start_ids
            first = len(begin) - 1
            return [Option(p, begin + ids[:-1], tuple(range(first, first + len(ids))), ids) for p, ids in pairs]
        return [Option(p + ids[:-1], (), tuple(range(len(p) - 1, len(p) - 1 + len(ids))), ids) for p, ids in pairs]

    @retries_smaller
    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Tokens], indices: Sequence[int] = (), sampling: tuple[float, float] | None = None
    ) -> list[list[int]]:
        """Completion ids for each prompt, without what follows the end token. sampling: temperature and top-p, where
        not the run's own."""
        temperature, top_p = sampling or (self.spec.temperature, self.spec.top_p)
        settings = generation_config(self.loaded, self.spec.max_new_tokens, temperature, top_p)
        devices = [self.loaded.device] if self.loaded.device.type == "cuda" else []
        which = [self.draw] if self.draw else []
        them = self.forward.processes
        parts = [*list(indices)[:1], *which]
        if not them.alone and them.split == "batch":  # rows of their own, and randomness of their own
            parts += [them.rank] if them.rank else []
        seed = seeds.derive(self.seed, "sampling", self.step, *parts)
        with quiet(), torch.random.fork_rng(devices=devices, enabled=temperature > 0):
            if temperature > 0:
                torch.manual_seed(seed)
            return self.forward.map_rows(
                [len(p) for p in prompts],
                lambda places: self._said([prompts[k] for k in places], settings),
                alike=temperature == 0,
            )

    def _said(self, rows: Sequence[Tokens], settings: Any) -> list[list[int]]:
        """What the model says to these rows; sampled, each point by itself, for they share their randomness."""
        if settings.do_sample:
            return list(self._generate(rows, settings))
        said: list[list[int]] = self.forward.run_joint(
            ("said", *map(tuple, rows)), rows, lambda rows, points: list(self._generate(rows, settings, points))
        )
        return said

    def _generate(self, rows: Sequence[Tokens], settings: Any, points: int = 1) -> Iterator[list[int]]:
        loaded, coder = self.loaded, self.forward.tokenizer
        inputs = self.prompts.inputs(rows, points) if loaded.head == "causal" else coder.pad_right(rows, loaded.device)
        inputs.pop("token_type_ids", None)
        more = {"stop_strings": list(self.spec.stop), "tokenizer": loaded.tokenizer} if self.spec.stop else {}
        start = inputs["input_ids"].shape[1] if loaded.head == "causal" else len(loaded.decoder_start_ids)
        with ignore_generation_defaults(loaded):
            found: Tensor = loaded.model.generate(**inputs, generation_config=settings, **more)
        ends, pad = settings.eos_token_id, settings.pad_token_id
        for row in found[:, start:].tolist():
            last = next((i for i, x in enumerate(row) if x in ends), len(row))
            while self.spec.stop and last and row[last - 1] == pad:  # up to the longest row's end
                last -= 1
            yield row[:last]


def reference_completions(record: Record) -> list[str]:
    """The right texts of a record: its completion, or what the assistant says last."""
    if "messages" in record:
        last = record["messages"][-1]
        return [str(last["content"])] if last["role"] == "assistant" else []
    return reference_texts(record, "completion")


def prompt_messages(record: Record) -> list[Record]:
    """The messages of a record that a model answers: without the right answer that may follow them."""
    turns: list[Record] = record["messages"]
    return turns[:-1] if turns[-1]["role"] == "assistant" else turns


def _is_chat(record: Record) -> bool:
    return isinstance(record.get("prompt"), list)


def _told(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


__all__ = ["PAIRS", "GenerationTask", "prompt_messages", "reference_completions"]
