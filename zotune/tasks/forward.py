"""Forward passes on token rows, in padded micro-batches, with frozen blocks computed once.

If a micro-batch does not fit into memory, it is halved, and so are all later ones. Values do not depend on that, up to
rounding; sampled completions do. Knows models and tokens; knows no task and no objective.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor

from zotune.core.joint_forward import JointForward
from zotune.data.task import TaskSpec
from zotune.data.tokenization import PromptTokenizer
from zotune.distributed import ALONE
from zotune.errors import OutOfMemory
from zotune.models.configuration import config_value
from zotune.models.loaded_model import LoadedModel
from zotune.tasks.frozen_prefix import FrozenPrefix, Tokens, find_blocks

UNKNOWN_LENGTH = 10**9
"""A limit of a tokenizer from here on means that it has none."""
T = TypeVar("T")
P = ParamSpec("P")
OUT_OF_MEMORY = ("out of memory", "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")
"""What the messages of a device's memory errors contain."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of any device means that memory was too short."""
    text = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in text for words in OUT_OF_MEMORY)


class Forward:
    """Runs a model on rows of token ids.

    max_length: tokens a row at most; it is lowered to the limits of the model and of its tokenizer. micro_batch: rows a
    forward pass at most; it is halved when memory is short. flag: the option that sets micro_batch, for messages.

    model_length: tokens that model and tokenizer read at most, None where neither tells.

    Attributes that the caller may set: report, shows one line to the user; processes, which share the rows; joint, the
    evaluation of several points in one pass.
    """

    def __init__(
        self, loaded: LoadedModel, spec: TaskSpec, max_length: int, micro_batch: int, flag: str = "--eval-batch-size"
    ) -> None:
        self.loaded, self.micro_batch, self.flag = loaded, micro_batch, flag
        self.processes, self._configured = ALONE, micro_batch
        self.joint: JointForward | None = None
        self.report: Callable[[str], None] = lambda text: None
        self._rows = 1  # in the current forward pass
        limits = [config_value(loaded.tokenizer, "model_max_length"), loaded.context_length, loaded.encoder.max_length]
        self.model_length = min((x for x in limits if isinstance(x, int) and 0 < x < UNKNOWN_LENGTH), default=None)
        self.max_length = min(max_length, self.model_length or max_length) - loaded.virtual_tokens
        self.tokenizer = PromptTokenizer(loaded.tokenizer, self.max_length, spec.cut)
        self.tokenizer.at_model_limit = self.model_length is not None and max_length >= self.model_length
        self.tokenizer.pad = loaded.pad_token_id
        self.tokenizer.vocabulary = config_value(loaded.config, "vocab_size")
        # GPT-2 has no token types and would add the embeddings of the tokens 0 and 1 instead.
        token_types = (config_value(loaded.config, "type_vocab_size") or 0) > 1
        self.tokenizer.typed = self.tokenizer.typed and token_types and loaded.accepts("token_type_ids")
        self.frozen_prefix: FrozenPrefix | None = None
        self.in_one_pass = False

    def run(self, rows: Sequence[Tokens], **arguments: Tensor) -> Any:
        """The model's output for some rows, padded on the right.

        arguments: further arguments of the model's forward pass: tensors (rows, …), or of one dimension if all rows
        share them.
        """

        def forward(rows: Sequence[Tokens], points: int) -> Any:
            repeated = {name: x.repeat(points, 1) if x.dim() > 1 else x for name, x in arguments.items()}
            return self._pass(rows, repeated)

        values = (tuple(x.view(-1).tolist()) for x in arguments.values())
        return self.run_joint(("pass", *map(tuple, rows), *values), rows, forward)

    def run_joint(self, key: Hashable, rows: Sequence[Tokens], forward: Callable[[Sequence[Tokens], int], Any]) -> Any:
        """The output of `forward(rows, points)` for the current point.

        Where points are evaluated jointly, `forward` gets the rows once for each point and is called once for each key;
        else `points` is 1.
        """
        points = self.joint.count if self.joint is not None else 1
        self._rows = points * len(rows)
        if self.joint is None or points == 1:
            return forward(rows, 1)
        return self.joint.run(key, len(rows), lambda: forward([*rows] * points, points))

    def rows_per_point(self, rows: int) -> contextlib.AbstractContextManager[None]:
        """Inside the block, a forward pass holds so many rows of each point."""
        return self.joint.rows_per_point(rows) if self.joint else contextlib.nullcontext()

    def _pass(self, rows: Sequence[Tokens], arguments: dict[str, Tensor]) -> Any:
        stored = self.frozen_prefix is not None and all(r in self.frozen_prefix for r in rows)
        inputs = self.tokenizer.pad_right(rows, self.loaded.device)
        with self.frozen_prefix.feed(rows) if self.frozen_prefix and stored else contextlib.nullcontext():
            return self.loaded.model(**inputs, **arguments)

    def set_micro_batch(self, rows: int) -> None:
        """Rows of a forward pass from here on, at most."""
        self.micro_batch = self._configured = rows

    @contextlib.contextmanager
    def one_pass(self) -> Iterator[None]:
        """Inside the block, the rows of a call make one forward pass in their own order, in this process alone, and
        what prompts have in common is read for each row: each row may have weights of its own."""
        before = self.in_one_pass
        self.in_one_pass = True
        try:
            with self.processes.local():
                yield
        finally:
            self.in_one_pass = before

    def note_rows(self, rows: int) -> None:
        """Rows of the forward pass that comes next, for the message where memory is short."""
        self._rows = rows

    def micro_batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices of rows in micro-batches, shortest rows first, which saves padding."""
        if self.in_one_pass:
            self._rows = len(lengths)
            yield [*range(len(lengths))]
            return
        order = sorted(range(len(lengths)), key=lambda k: lengths[k])
        size, joint = self.micro_batch, self.joint
        if joint is not None and joint.count > 1:  # larger micro-batches, smaller if memory was short
            size = max(joint.most * self.micro_batch // (self._configured * joint.count), 1)
        for start in range(0, len(order), size):
            indices = order[start : start + size]
            self._rows = len(indices)
            yield indices

    def map_rows(
        self, lengths: Sequence[int], compute: Callable[[list[int]], Iterable[T]], deterministic: bool = True
    ) -> list[T]:
        """`compute(indices)` for all rows in micro-batches: one JSON value a row, in the order of the rows.

        lengths: the rows' lengths. Several processes share the rows: whole micro-batches, so that the bits are those of
        a single process, or equal parts where they split batches. deterministic: whether a forward pass gives the same
        values whatever came before it; if not, only processes that split batches share the rows.
        """
        processes, values = self.processes, dict[int, T]()
        if processes.alone or not (deterministic or processes.split == "batch"):
            for indices in self.micro_batches(lengths):
                values.update(zip(indices, compute(indices), strict=True))
            return [values[k] for k in range(len(lengths))]
        equal = -(-len(lengths) // processes.size)
        size = min(self._configured, equal) if processes.split == "batch" else self._configured
        order = sorted(range(len(lengths)), key=lambda k: lengths[k])
        own = [order[start : start + size] for start in range(0, len(order), size)][processes.rank :: processes.size]

        def compute_own() -> list[tuple[int, T]]:
            pairs: list[tuple[int, T]] = []
            for batch in own:
                for start in range(0, len(batch), self.micro_batch):
                    indices = batch[start : start + self.micro_batch]
                    self._rows = len(indices)
                    pairs += zip(indices, compute(indices), strict=True)
            return pairs

        for pairs in processes.gather(lambda: self.retry_smaller(compute_own)):
            values.update(pairs)
        return [values[k] for k in range(len(lengths))]

    def retry_smaller(self, compute: Callable[[], T]) -> T:
        """`compute()`, repeated with half the micro-batch as long as memory is short.

        Raises OutOfMemory where a single row does not fit, and any other error of `compute`.
        """
        before = self.micro_batch
        while True:
            try:
                value = compute()
                break
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                if self.in_one_pass:
                    raise OutOfMemory(f"memory is too small for {self._rows} rows of a population: {reason}") from None
            # Outside the handler: the traceback keeps the failed pass's tensors alive.
            rows = min(self._rows, self.micro_batch)
            if rows < 2:
                raise OutOfMemory(
                    f"memory is too small for a single row: {reason}",
                    hint="a shorter --max-length, --dtype bfloat16 or a smaller model; --perturb forward keeps no copy",
                )
            self.micro_batch = rows // 2
            if self.loaded.device.type == "cuda":
                torch.cuda.empty_cache()
        if self.micro_batch < before:
            rows = self.micro_batch
            self.report(f"out of memory: using {rows} rows a forward pass from here on ({self.flag} {rows})")
        return value

    @torch.no_grad()
    def cache_prefix(self, tuned: Iterable[str], rows: Iterable[Tokens]) -> bool:
        """Store the hidden states before the first tuned block for these rows; later passes skip the frozen blocks.

        tuned: names of the tuned tensors. Returns whether that is possible: the blocks must be one list, the states
        must fit in memory, and the outputs must equal those of whole passes up to rounding.
        """
        distinct, before = set(rows), self.micro_batch
        if self.loaded.head == "seq2seq" or not distinct:
            return False
        shortest = min(distinct, key=lambda r: (len(r), r))
        blocks = find_blocks(self.loaded.model, tuned, lambda: self.retry_smaller(lambda: self.run([shortest])))
        if blocks is None:
            return False
        try:
            return self.retry_smaller(lambda: self._fill_and_verify(FrozenPrefix(*blocks), distinct))
        except OutOfMemory:  # the stored states may take the memory
            self.frozen_prefix, self.micro_batch = None, before
            return False

    def _fill_and_verify(self, prefix: FrozenPrefix, rows: set[Tokens]) -> bool:
        """Fill the cache, and use it if it gives the outputs of whole passes on a few rows."""
        self.frozen_prefix = None
        few = sorted(rows, key=len)[:: max(1, len(rows) // 4)][: self.micro_batch]
        expected = self._first_output(few)
        try:
            if not prefix.fill(rows, self.run, self.micro_batch):
                return False
            self.frozen_prefix = prefix
            outputs = self._first_output(few)
            mask = self.tokenizer.pad_right(few, self.loaded.device)["attention_mask"].bool()
            mask = mask if expected.dim() == 3 else torch.ones(len(few), dtype=torch.bool, device=mask.device)
            equal = torch.allclose(expected[mask].float(), outputs[mask].float(), rtol=1e-3, atol=1e-4)
        except (IndexError, KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            if out_of_memory(error):
                raise
            equal = False  # the model calls its blocks in another way
        if not equal:
            self.frozen_prefix = None
        return equal

    def _first_output(self, rows: Sequence[Tokens]) -> Tensor:
        out: Tensor = self.run(rows)[0]
        return out


class _HasForward(Protocol):
    """An object that runs a model."""

    forward: Forward


S = TypeVar("S", bound=_HasForward)


def retries_smaller(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Decorates a method that runs the model: when memory is short, the call is repeated with smaller micro-batches."""

    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.forward.retry_smaller(lambda: method(self, *args, **kwargs))

    functools.update_wrapper(run, method)
    return run


__all__ = ["Forward", "Tokens", "out_of_memory", "retries_smaller"]
