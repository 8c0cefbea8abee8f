"""Token rows through a model, padded and in batches, with what lies before the first tuned block computed once.

Where a batch does not fit into memory, it and all later ones have half as many rows; no value depends on that, but for
rounding, and for completions that are sampled.

Knows models and tokens; knows no task and no objective.
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
from zotune.tasks.frozen_prefix import FrozenPrefix, find_blocks

T = TypeVar("T")
P = ParamSpec("P")
Tokens = tuple[int, ...]


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, on whatever device."""
    said = str(error)
    words = ("out of memory", "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(w in said for w in words)


class Forward:
    """A model that is run on rows of tokens. micro: rows a pass at most, fewer once so many did not fit into memory;
    flag: what sets it; tell: told when it has become less; max_length: tokens a row at most, less where the model or
    its tokenizer takes fewer."""

    def __init__(
        self, loaded: LoadedModel, spec: TaskSpec, max_length: int, micro: int, flag: str = "--eval-batch-size"
    ) -> None:
        self.loaded, self.micro_batch, self.flag = loaded, micro, flag
        self.processes, self._whole = ALONE, micro
        self.joint: JointForward | None = None
        self.report: Callable[[str], None] = lambda text: None
        self._rows = 1  # of the pass under way
        config = loaded.config
        limits = [max_length, config_value(loaded.tokenizer, "model_max_length"), loaded.context_length]
        self.max_length = min(x for x in limits if isinstance(x, int) and x > 0) - loaded.virtual_tokens
        self.tokenizer = PromptTokenizer(loaded.tokenizer, self.max_length, spec.cut)
        self.tokenizer.pad = loaded.pad_token_id
        several = (config_value(config, "type_vocab_size") or 0) > 1  # GPT-2 would take words as types
        self.tokenizer.typed = self.tokenizer.typed and several and loaded.accepts("token_type_ids")
        self.frozen_prefix: FrozenPrefix | None = None

    def run(self, rows: Sequence[Tokens], **more: Tensor) -> Any:
        """The model on these rows, padded on the right. A tensor of one dimension in `more` is the same for all."""

        def forward(rows: Sequence[Tokens], times: int) -> Any:
            return self._pass(rows, {n: x.repeat(times, 1) if x.dim() > 1 else x for n, x in more.items()})

        return self.run_joint(
            ("pass", *map(tuple, rows), *(tuple(x.view(-1).tolist()) for x in more.values())), rows, forward
        )

    def run_joint(self, key: Hashable, rows: Sequence[Tokens], forward: Callable[[Sequence[Tokens], int], Any]) -> Any:
        """What `forward` gives for these rows: with those of other points, where points are evaluated together."""
        them = self.joint
        count = them.count if them is not None else 1
        self._rows = count * len(rows)
        if them is None or count == 1:
            return forward(rows, 1)
        return them.run(key, len(rows), lambda: forward([*rows] * count, count))

    def rows_per_point(self, rows: int) -> contextlib.AbstractContextManager[None]:
        """Inside, a pass has so many rows of each point that is evaluated in it."""
        return self.joint.rows_per_point(rows) if self.joint else contextlib.nullcontext()

    def _pass(self, rows: Sequence[Tokens], more: dict[str, Tensor]) -> Any:
        stored = self.frozen_prefix is not None and all(r in self.frozen_prefix for r in rows)
        inputs = self.tokenizer.pad_right(rows, self.loaded.device)
        with self.frozen_prefix.feed(rows) if self.frozen_prefix and stored else contextlib.nullcontext():
            return self.loaded.model(**inputs, **more)

    def chunks(self, lengths: Sequence[int], micro: int | None = None) -> Iterator[list[int]]:
        """Places in order of length, so many at a time: little padding is computed."""
        order = sorted(range(len(lengths)), key=lambda k: lengths[k])
        size, them = micro or self.micro_batch, self.joint
        if them is not None and them.count > 1:  # a larger pass, but less where memory was short
            size = max(them.most * self.micro_batch // (self._whole * them.count), 1)
        for start in range(0, len(order), size):
            places = order[start : start + size]
            self._rows = len(places)
            yield places

    def map_rows(
        self, lengths: Sequence[int], compute: Callable[[list[int]], Iterable[T]], alike: bool = True
    ) -> list[T]:
        """What `compute` gives for places, so many at a time in order of length; for each place one JSON value.

        Several processes compute some of them each: those of whole passes, so that the bits are as one process makes
        them, or, where they split batches, an equal share of the rows. alike: whether a pass gives the same whatever
        went before it; if not, they are split for equal shares only.
        """
        them, found = self.processes, dict[int, T]()
        if them.alone or not (alike or them.split == "batch"):
            for places in self.chunks(lengths):
                found.update(zip(places, compute(places), strict=True))
            return [found[k] for k in range(len(lengths))]
        size = self._whole if them.split == "points" else min(self._whole, -(-len(lengths) // them.size))
        order = sorted(range(len(lengths)), key=lambda k: lengths[k])
        mine = [order[start : start + size] for start in range(0, len(order), size)][them.rank :: them.size]

        def share() -> list[tuple[int, T]]:
            made: list[tuple[int, T]] = []
            for places in (
                part[k : k + self.micro_batch] for part in mine for k in range(0, len(part), self.micro_batch)
            ):
                self._rows = len(places)
                made += zip(places, compute(places), strict=True)
            return made

        for part in them.gather(lambda: self.retry_smaller(share)):
            found.update(part)
        return [found[k] for k in range(len(lengths))]

    def retry_smaller(self, compute: Callable[[], T]) -> T:
        """What `compute` gives; where memory does not suffice for the pass under way, it is made again with half as
        many rows a pass. Raises OutOfMemory where one row is too many, and whatever else `compute` raises."""
        before = self.micro_batch
        while True:
            try:
                found = compute()
                break
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                reason = " ".join(str(error).split())[:200] or type(error).__name__
            # out of the handler, whose traceback holds what the pass has allocated
            rows = min(self._rows, self.micro_batch)
            if rows < 2:
                raise OutOfMemory(
                    f"memory does not suffice for a single row: {reason}",
                    hint="a shorter --max-length, --dtype bfloat16 or a smaller model; --perturb forward keeps no copy",
                )
            self.micro_batch = rows // 2
            if self.loaded.device.type == "cuda":
                torch.cuda.empty_cache()
        if self.micro_batch < before:
            self.report(
                f"out of memory: {self.micro_batch} rows a forward pass from here ({self.flag} {self.micro_batch})"
            )
        return found

    @torch.no_grad()
    def cache_prefix(self, tuned: Iterable[str], rows: Iterable[Tokens]) -> bool:
        """Compute what lies before the first tuned block once for all these rows. Whether that was possible: the
        blocks must be one list, their states fit in memory, and the fed model agree with the plain one."""
        wanted, before = set(rows), self.micro_batch
        if self.loaded.head == "seq2seq" or not wanted:
            return False
        shortest = min(wanted, key=lambda r: (len(r), r))
        found = find_blocks(self.loaded.model, tuned, lambda: self.retry_smaller(lambda: self.run([shortest])))
        if found is None:
            return False
        try:
            return self.retry_smaller(lambda: self._fed(FrozenPrefix(*found), wanted))
        except OutOfMemory:  # what is stored may be what is too much
            self.frozen_prefix, self.micro_batch = None, before
            return False

    def _fed(self, prefix: FrozenPrefix, wanted: set[Tokens]) -> bool:
        """Fill the cache and hold what the model gives with it against what it gives without."""
        self.frozen_prefix = None
        few = sorted(wanted, key=len)[:: max(1, len(wanted) // 4)][: self.micro_batch]
        plain = self._first(few)
        try:
            if not prefix.fill(wanted, self.run, self.micro_batch):
                return False
            self.frozen_prefix = prefix
            fed = self._first(few)
            mask = self.tokenizer.pad_right(few, self.loaded.device)["attention_mask"].bool()
            mask = mask if plain.dim() == 3 else torch.ones(len(few), dtype=torch.bool, device=mask.device)
            same = torch.allclose(plain[mask].float(), fed[mask].float(), rtol=1e-3, atol=1e-4)
        except (IndexError, KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            if out_of_memory(error):
                raise
            same = False  # its blocks are called in another way
        if not same:
            self.frozen_prefix = None
        return same

    def _first(self, rows: Sequence[Tokens]) -> Tensor:
        out: Tensor = self.run(rows)[0]
        return out


class _Runs(Protocol):
    """Whatever runs a model."""

    forward: Forward


S = TypeVar("S", bound=_Runs)


def retries_smaller(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A method that runs the model, with as many rows a pass as memory has room for (`Forward.retry_smaller`)."""

    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.forward.retry_smaller(lambda: method(self, *args, **kwargs))

    functools.update_wrapper(run, method)
    return run


__all__ = ["Forward", "Tokens", "out_of_memory", "retries_smaller"]
