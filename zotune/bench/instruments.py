"""What `zotune bench` measures with: a clock, a space that takes its own time, a model on random rows, peak memory, and
the pass that writes weights.

Rows are random tokens of one length: what costs depend on. Knows models and spaces; no data and no metric.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zotune.bench.workbench import LiveTensors
from zotune.core.recipe import Noise, Recipe
from zotune.core.space import Space
from zotune.errors import ModelError, OptionError, OutOfMemory
from zotune.models.loaded_model import LoadedModel
from zotune.models.trainable import check_tune
from zotune.tasks.forward import out_of_memory
from zotune.types import Score

SET = 4
"""Training rows, in batches: what an optimizer evaluates that asks for all of them."""
ROUNDS = 5
"""The fewest rounds that have a median."""
BUFFER = 1 << 28
"""Bytes that the copy goes to, over and over, where more than these are tuned."""
NO_TARGET = -100
"""In the place of a token that is not predicted."""


@dataclass(frozen=True)
class Options:
    """What is measured. rows, tokens: of a batch; rounds: measured, after `warmup` that are not; tune: as in fit."""

    rows: int = 16
    tokens: int = 64
    rounds: int = 9
    warmup: int = 1
    tune: str = "all"
    perturb: str = "auto"
    compile: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("rows", 1), ("tokens", 2), ("rounds", ROUNDS), ("warmup", 0)):
            value = getattr(self, name)
            if value < least:
                raise OptionError(f"--{name} must be at least {least}, got {value}")
        if self.perturb not in ("auto", "forward", "copy"):
            raise OptionError(f"--perturb must be one of auto, forward, copy, got {self.perturb!r}")
        check_tune(self.tune)


class Clock:
    """Seconds by name, of work that is done: an accelerator is waited for."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: Counter[str] = Counter()
        waits: dict[str, Callable[[], None]] = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}
        self._wait = waits.get(device.type, lambda: None)

    def now(self) -> float:
        self._wait()
        return time.perf_counter()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = self.now()
        try:
            yield
        finally:
            self.seconds[name] += self.now() - began  # type: ignore[assignment]

    def of(self, run: Callable[[], Any]) -> float:
        """Seconds that a call takes."""
        began = self.now()
        run()
        return self.now() - began


class Watched(Space):
    """A space that takes the time of what it does: `probed` (the whole block, whatever is done inside), `update`,
    `norms`."""

    clock: Clock

    @contextlib.contextmanager
    def at(self, point: Recipe, forwards: int | None = None) -> Iterator[None]:
        with self.clock("probed"), super().at(point, forwards):
            yield

    def assign(self, theta: Recipe, state: Any = None) -> Any:
        with self.clock("update"):
            return super().assign(theta, state)

    def reduce(self, *given: Any, **named: Any) -> dict[str, float]:
        with self.clock("norms"):
            return super().reduce(*given, **named)

    def ordered(self, *given: Any, **named: Any) -> dict[str, float]:
        with self.clock("norms"):
            return super().ordered(*given, **named)


class Subject:
    """A model on random rows of one length, and a number a row that is read off its output.

    causal and seq2seq: mean cross-entropy of the next tokens (of the decoder, which has as many as the encoder);
    masked: of all tokens; others: mean square of the logits or of the last hidden state. passes: rows of each pass made
    for a score. Raises OptionError where the model takes fewer tokens.
    """

    def __init__(self, loaded: LoadedModel, options: Options, clock: Clock) -> None:
        self.loaded, self.rows, self.tokens, self.clock = loaded, options.rows, options.tokens, clock
        self.passes: list[int] = []
        limit = loaded.context_length
        if limit is not None and options.tokens > limit:
            raise OptionError(f"--tokens {options.tokens}: the model takes {limit} at most")
        vocabulary = int(loaded.config.vocab_size)
        generator = torch.Generator().manual_seed(options.seed)
        shape = (SET * options.rows, options.tokens)

        def drawn() -> Tensor:
            low = min(1000, vocabulary // 2)  # special tokens come first
            return torch.randint(low, vocabulary, shape, generator=generator).to(loaded.device)

        ids = drawn()
        self.inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if loaded.head == "seq2seq":
            self.inputs["decoder_input_ids"] = drawn()
        self.plain(options.rows)

    def take(self, indices: Sequence[int]) -> dict[str, Tensor]:
        where = torch.tensor(indices, device=self.loaded.device)
        return {name: x[where] for name, x in self.inputs.items()}

    @torch.no_grad()
    def plain(self, rows: int) -> Callable[[], Any]:
        """A pass over so many rows as a call. Raises ModelError where the model cannot make it."""
        inputs = self.take(range(rows))

        @torch.no_grad()
        def run() -> Any:
            return self.loaded.model(**inputs)

        try:
            run()
        except Exception as error:  # whatever a model raises that wants other inputs
            if out_of_memory(error):
                raise OutOfMemory(f"{rows} rows of {self.tokens} tokens do not fit", hint="fewer --rows") from error
            said = (str(error).splitlines() or [""])[0]
            what = f"{self.loaded.source} cannot be run on random tokens: {type(error).__name__}: {said}"
            raise ModelError(what) from error
        return run

    @torch.no_grad()
    def score(self, indices: Sequence[int]) -> Score:
        """The objective, in passes of at most `rows` rows."""
        found: list[float] = []
        for first in range(0, len(indices), self.rows):
            part = indices[first : first + self.rows]
            with self.clock("objective"):
                inputs = self.take(part)
            out = self.loaded.model(**inputs)
            with self.clock("objective"):
                found += self._read(out, inputs).tolist()
            self.passes.append(len(part))
        return Score(math.fsum(found) / len(found), tuple(found))

    def loss(self) -> float:
        """The objective on the first batch."""
        return self.score(range(self.rows)).value

    def _read(self, out: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """One number a row: (rows,)."""
        head = self.loaded.head
        if head in ("embedding", "classification"):
            x: Tensor = out.logits if head == "classification" else out.last_hidden_state
            return x.float().square().flatten(1).mean(1)
        logits = out.logits[:, -self.tokens :]  # a prefix has logits of its own in some models
        targets = inputs["decoder_input_ids" if head == "seq2seq" else "input_ids"]
        if head != "masked":  # the last token's logits have no target; cutting them off would copy all others
            targets = nn.functional.pad(targets[:, 1:], (0, 1), value=NO_TARGET)
        found = nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), reduction="none", ignore_index=NO_TARGET
        )
        each: Tensor = found.view(len(targets), -1).sum(1) / (targets != NO_TARGET).sum(1)
        return each


def bytes_of(module: nn.Module) -> int:
    """Bytes of a module's weights and buffers."""
    each = {id(x): x for x in itertools.chain(module.parameters(), module.buffers())}
    return sum(x.numel() * x.element_size() for x in each.values())


def peak(device: torch.device, run: Callable[[], Any], held: int) -> int:
    """Bytes that are in use at one time, at most, while a call runs.

    That is `held`, the bytes that the call works on, and what is allocated meanwhile: by CUDA's allocator on a GPU, as
    tensors elsewhere. Other memory in use, such as the benchmark's own copy of the weights, does not count.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return held + int(torch.cuda.max_memory_allocated()) - before
    live = LiveTensors()
    with live:
        run()
    return held + int(live.peak)


class Write:
    """The pass that writes weights, θ + c z, against a copy of as many bytes; both read and write them once."""

    def __init__(self, space: Space) -> None:
        self.space = space
        sizes = [p.numel() * p.element_size() for p in space.params.values()]
        self.bytes = sum(sizes)
        most = max(max(sizes), min(self.bytes, BUFFER))
        device = next(iter(space.params.values())).device
        self._buffer = torch.empty(most, dtype=torch.uint8, device=device)
        self._step = 0

    def write(self) -> None:
        self._step += 1
        self.space.step = self._step
        self.space.assign(self.space.theta + 1e-9 * Noise("normal", self._step, 0))

    def copy(self) -> None:
        """Every tuned tensor to a buffer, which begins again where it is full."""
        end = 0
        for p in self.space.params.values():
            size = p.numel() * p.element_size()
            begin = 0 if end + size > self._buffer.numel() else end
            self._buffer[begin : begin + size].view(p.dtype).copy_(p.data.view(-1))
            end = -(-(begin + size) // 64) * 64


__all__ = ["SET", "Clock", "Options", "Subject", "Watched", "Write", "bytes_of", "peak"]
