"""Instruments of `zotune bench`: a clock, a space that times itself, a model on random tokens, peak memory, and
the pass that writes weights.

Rows are random tokens of one length, because costs depend on nothing else of them. Knows models and spaces; knows no
data set and no optimizer.
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

TRAINING_BATCHES = 4
"""Training rows, in batches: what an optimizer evaluates that asks for all rows."""
MIN_ROUNDS = 5
"""Fewer rounds have no useful median."""
COPY_BUFFER_BYTES = 1 << 28
"""Size of the buffer that weights are copied to; larger weights go to it piece after piece."""
NO_TARGET = -100
"""Target of a token that is not predicted: `ignore_index` of torch's cross-entropy."""


@dataclass(frozen=True)
class Options:
    """What is measured.

    rows, tokens: of a batch; rounds: measured, after `warmup` rounds that are not; tune, perturb: as in `zotune fit`.
    Raises OptionError for values out of range.
    """

    rows: int = 16
    tokens: int = 64
    rounds: int = 9
    warmup: int = 1
    tune: str = "all"
    perturb: str = "auto"
    compile: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("rows", 1), ("tokens", 2), ("rounds", MIN_ROUNDS), ("warmup", 0)):
            value = getattr(self, name)
            if value < least:
                raise OptionError(f"--{name} must be at least {least}, got {value}")
        if self.perturb not in ("auto", "forward", "copy"):
            raise OptionError(f"--perturb must be one of auto, forward, copy, got {self.perturb!r}")
        check_tune(self.tune)


class Clock:
    """Measures seconds by name. On an accelerator it waits for the work that is queued."""

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

    def time(self, run: Callable[[], Any]) -> float:
        """Seconds that a call takes."""
        began = self.now()
        run()
        return self.now() - began


class TimedSpace(Space):
    """A space that times itself, as `perturbed` (a whole block at a point, with all that is done inside), `update` and
    `norms`."""

    clock: Clock

    @contextlib.contextmanager
    def at(self, point: Recipe, forwards: int | None = None) -> Iterator[None]:
        with self.clock("perturbed"), super().at(point, forwards):
            yield

    def assign(self, theta: Recipe, state: Any = None) -> Any:
        with self.clock("update"):
            return super().assign(theta, state)

    def reduce(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        with self.clock("norms"):
            return super().reduce(*args, **kwargs)

    def ordered(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self.clock("norms"):
            return super().ordered(*args, **kwargs)


class ModelOnRandomTokens:
    """A model with random token ids as input, and an objective of its output.

    The objective of a row: for causal and seq2seq models the mean cross-entropy of the next tokens (of the decoder,
    whose input is as long as the encoder's); for masked ones of all tokens; for others the mean square of the logits or
    of the last hidden state.

    passes: rows of each forward pass that `score` has made. Raises OptionError where the model takes fewer tokens.
    """

    def __init__(self, loaded: LoadedModel, options: Options, clock: Clock) -> None:
        self.loaded, self.rows, self.tokens, self.clock = loaded, options.rows, options.tokens, clock
        self.passes: list[int] = []
        limit = loaded.context_length
        if limit is not None and options.tokens > limit:
            raise OptionError(f"--tokens {options.tokens}: the model takes {limit} at most")
        vocabulary = int(loaded.config.vocab_size)
        generator = torch.Generator().manual_seed(options.seed)
        shape = (TRAINING_BATCHES * options.rows, options.tokens)

        def random_ids() -> Tensor:
            low = min(1000, vocabulary // 2)  # special tokens come first
            return torch.randint(low, vocabulary, shape, generator=generator).to(loaded.device)

        ids = random_ids()
        self.inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if loaded.head == "seq2seq":
            self.inputs["decoder_input_ids"] = random_ids()
        self.plain_pass(options.rows)

    def take(self, indices: Sequence[int]) -> dict[str, Tensor]:
        where = torch.tensor(indices, device=self.loaded.device)
        return {name: x[where] for name, x in self.inputs.items()}

    @torch.no_grad()
    def plain_pass(self, rows: int) -> Callable[[], Any]:
        """A call that makes one forward pass of so many rows. Raises OutOfMemory and ModelError where it fails."""
        inputs = self.take(range(rows))

        @torch.no_grad()
        def run() -> Any:
            return self.loaded.model(**inputs)

        try:
            run()
        except Exception as error:  # models that need other inputs raise anything
            if out_of_memory(error):
                raise OutOfMemory(f"{rows} rows of {self.tokens} tokens do not fit", hint="fewer --rows") from error
            reason = (str(error).splitlines() or [""])[0]
            what = f"{self.loaded.source} cannot be run on random tokens: {type(error).__name__}: {reason}"
            raise ModelError(what) from error
        return run

    @torch.no_grad()
    def score(self, indices: Sequence[int]) -> Score:
        """The mean objective of these rows, in passes of at most `rows` rows."""
        values: list[float] = []
        for first in range(0, len(indices), self.rows):
            part = indices[first : first + self.rows]
            with self.clock("objective"):
                inputs = self.take(part)
            out = self.loaded.model(**inputs)
            with self.clock("objective"):
                values += self._row_values(out, inputs).tolist()
            self.passes.append(len(part))
        return Score(math.fsum(values) / len(values), tuple(values))

    def loss(self) -> float:
        """The objective on the first batch."""
        return self.score(range(self.rows)).value

    def _row_values(self, out: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """The objective of each row, of shape (rows,)."""
        head = self.loaded.head
        if head in ("embedding", "classification"):
            x: Tensor = out.logits if head == "classification" else out.last_hidden_state
            return x.float().square().flatten(1).mean(1)
        logits = out.logits[:, -self.tokens :]  # prefix tokens have logits too in some models
        targets = inputs["decoder_input_ids" if head == "seq2seq" else "input_ids"]
        if head != "masked":  # the last token has no target; slicing its logits off would copy all others
            targets = nn.functional.pad(targets[:, 1:], (0, 1), value=NO_TARGET)
        losses = nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), reduction="none", ignore_index=NO_TARGET
        )
        per_row: Tensor = losses.view(len(targets), -1).sum(1) / (targets != NO_TARGET).sum(1)
        return per_row


def module_bytes(module: nn.Module) -> int:
    """Bytes of a module's weights and buffers."""
    each = {id(x): x for x in itertools.chain(module.parameters(), module.buffers())}
    return sum(x.numel() * x.element_size() for x in each.values())


def peak_bytes(device: torch.device, run: Callable[[], Any], held: int) -> int:
    """The largest number of bytes in use at one time while a call runs.

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


class WeightWrite:
    """The pass that writes weights, θ + c z, and a copy of as many bytes. Both read and write each byte once."""

    def __init__(self, space: Space) -> None:
        self.space = space
        sizes = [p.numel() * p.element_size() for p in space.params.values()]
        self.bytes = sum(sizes)
        most = max(max(sizes), min(self.bytes, COPY_BUFFER_BYTES))
        device = next(iter(space.params.values())).device
        self._buffer = torch.empty(most, dtype=torch.uint8, device=device)
        self._step = 0

    def write(self) -> None:
        self._step += 1
        self.space.step = self._step
        self.space.assign(self.space.theta + 1e-9 * Noise("normal", self._step, 0))

    def copy(self) -> None:
        """Copy every tuned tensor to the buffer, from its beginning again where it is full."""
        end = 0
        for p in self.space.params.values():
            size = p.numel() * p.element_size()
            begin = 0 if end + size > self._buffer.numel() else end
            self._buffer[begin : begin + size].view(p.dtype).copy_(p.data.view(-1))
            end = -(-(begin + size) // 64) * 64


__all__ = [
    "TRAINING_BATCHES",
    "Clock",
    "ModelOnRandomTokens",
    "Options",
    "TimedSpace",
    "WeightWrite",
    "module_bytes",
    "peak_bytes",
]
