"""Running programs: as they stand, or compiled into one kernel each.

A compiled program is one pass over memory, noise included; it is compiled once for all tensors and for all numbers. A
new program is first run both ways on made-up weights, and is used only where every bit agrees. Whatever goes wrong with
a compiler (none installed, an error, other bits, arguments that are not understood) costs time and nothing else: the
same text runs as it stands, and `notes` says why.

This module knows flat tensors, programs and products of factors; it knows nothing of models.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from zotune.core import noise
from zotune.core.codegen import function

CHUNK = 1 << 18
"""Elements that an uncompiled program takes at a time: a few megabytes of temporaries, small enough for the cache. A
power of two >= 32, so that a chunk never straddles a noise block."""
LAUNCHED = 1 << 24
"""The same on a GPU, where each operation is launched: many small chunks would wait for launches."""
PIECE = 1 << 30
"""Elements that a compiled program takes at a time on a GPU: 32-bit indices reach so far."""
COUNTED = 1 << 20
"""The same on a CPU, where counting is slower than reading 0, 1, 2 … from the cache, and where a program reads buffers
of its own size (sums, outer products)."""
WORTH = 5e9
"""Elements to be evaluated in a run from which compiling pays: eager evaluation takes some 8 ns an element more, so
these are 40 s of work against some 15 s of compiling at worst."""

TERMS = 8
"""Products that one compiled pass sums: a register each."""


class Kernels:
    """Makes programs callable.

    compile: whether to compile at all. compilations, recompilations: how often the compiler was entered in all, and
    again for a program that it knew (0 where all is well). seconds: what compiling took. notes: what went wrong; `tell`
    is called with each.
    """

    def __init__(self, compile: bool = False, chunk: int = CHUNK) -> None:
        self.compile, self.chunk = compile, chunk
        self.tell: Callable[[str], None] = lambda note: None
        self.compilations = self.recompilations = 0
        self.seconds = 0.0
        self.notes: list[str] = []
        self._plain: dict[tuple[str, torch.dtype], Callable[..., None]] = {}
        self._kernels: dict[tuple[Any, ...], Fused | None] = {}
        self._counted: Tensor | None = None
        self._buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def buffer(self, place: str, numel: int, like: Tensor) -> Tensor:
        """Memory for what the next call reads, the same every time: fresh memory costs more than the arithmetic."""
        key = (place, like.dtype, like.device)
        if key not in self._buffers or self._buffers[key].numel() < numel:
            self._buffers[key] = like.new_empty(numel)
        return self._buffers[key][:numel]

    def piece(self, buffered: bool, device: torch.device) -> int:
        """Elements a call takes."""
        if not self.compile:
            return LAUNCHED if device.type != "cpu" and self.chunk == CHUNK else self.chunk
        return COUNTED if buffered or device.type == "cpu" else PIECE

    def run(
        self,
        text: str,
        dtype: torch.dtype,
        tensors: Sequence[Tensor],
        s: Tensor,
        k: Tensor,
        numbers: Numbers,
        places: Tensor | None = None,
    ) -> None:
        """Run a text, compiled where that is on and works.

        tensors: flat, of one length; s, k: numbers and keys on their device; numbers: the same on the host. places: of
        the elements (int64, below 2**32) where they do not follow one another.
        """
        like = tensors[0]
        if self.compile and like.numel() > 1 and (places is None or like.device.type == "cpu"):
            count = self._count(like) if places is None else places.float()
            exact = places is None or int(places.max()) <= 1 << 24  # a float32 counts so far
            if exact and (kernel := self._fused_for(text, dtype, tensors, s, k)):
                kernel(*tensors, s, k, count)
                return
        if places is not None:
            places = places.to(torch.int32)  # wraps
        self.plain(text, dtype)(*tensors, *numbers.arguments(s, like, places))

    def plain(self, text: str, dtype: torch.dtype) -> Callable[..., None]:
        """The text's function as it stands: called with flat tensors, numbers and keys (`Numbers.arguments`)."""
        key = (text, dtype)
        if key not in self._plain:
            self._plain[key] = function(text, dtype, fused=False)
        return self._plain[key]

    def _count(self, like: Tensor) -> Tensor:
        """The last argument of a compiled call for these elements."""
        if like.device.type != "cpu":
            return like
        if self._counted is None:
            self._counted = torch.arange(COUNTED, dtype=torch.float32)  # torch's kernels read integers slowly
        return self._counted[: like.numel()]

    def _fused_for(
        self, text: str, dtype: torch.dtype, tensors: Sequence[Tensor], s: Tensor, k: Tensor
    ) -> Fused | None:
        """The compiled kernel for tensors of these dtypes on these devices, or None where compiling failed. Called with
        (*tensors, s, k, count): at least two elements each."""
        signature = (text, dtype, tuple((x.dtype, x.device) for x in tensors))
        return self._kept(signature, lambda *_: self._build(text, dtype, [x.new_empty(CHUNK) for x in tensors], s, k))

    def _kept(self, signature: tuple[Any, ...], build: Callable[..., Fused]) -> Fused | None:
        """What was built for this signature, or None where that failed."""
        if signature not in self._kernels:
            began = time.monotonic()
            if not self._kernels:
                self.tell("compiling the arithmetic of probes and steps (once; some seconds)")
            try:
                self._kernels[signature] = build(*signature)
            except Exception as error:  # whatever a compiler raises: none is needed
                self._kernels[signature] = None
                error = getattr(error, "inner_exception", error)  # torch wraps what its backend raised
                why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                note = f"compiling failed; the same bits are computed uncompiled, more slowly ({why})"
                if note not in self.notes:
                    self.notes.append(note)
                    self.tell(note)
            self.seconds += time.monotonic() - began
        return self._kernels[signature]

    def _build(self, text: str, dtype: torch.dtype, tensors: Sequence[Tensor], s: Tensor, k: Tensor) -> Fused:
        values = [_made_up(x, j) for j, x in enumerate(tensors)]
        s, k = s.clone(), k.clone()  # rows of tables: a compiler would take their place in it for an argument

        def plain(*own: Tensor) -> None:
            self.plain(text, dtype)(*own, *Numbers.of(s, k).arguments(s, own[0]))

        return self._compiled(function(text, dtype, fused=True), [*values, s, k, self._count(values[0])], values, plain)

    def _compiled(
        self, fn: Callable[..., None], given: Sequence[Tensor], written: Sequence[Tensor], plain: Callable[..., None]
    ) -> Fused:
        """A function compiled for arguments like these, the first of which it writes. Raises RuntimeError where that is
        not, bit for bit, what `plain` makes of those."""
        from torch._inductor.compile_fx import compile_fx

        entered: list[tuple[Fused, tuple[Any, ...]]] = []

        def backend(graph: Any, inputs: Any) -> Fused:
            self.compilations += 1
            self.recompilations += bool(entered)
            kernel: Any = compile_fx(graph, inputs, config_patches=exact_options(written[0].device))

            def first(*handed: Any) -> Any:
                entered.append((kernel, handed))
                return kernel(*handed)

            return first

        # fullgraph: an error, where torch would otherwise fall back to eager without a word
        guarded = torch.compile(fn, backend=backend, dynamic=True, fullgraph=True)
        expected = [x.clone() for x in written]
        guarded(*given)
        plain(*expected)
        for a, b in zip(written, expected, strict=True):
            same = (a.view(_bits(a.dtype)) == b.view(_bits(b.dtype))) | (a.isnan() & b.isnan())
            if not same.all():
                raise RuntimeError("the compiler gives other bits")
        if len(entered) != 1:
            raise RuntimeError("the compiler was entered again in the first call")
        return _direct(*entered[0], given)

    def products(self, out: Tensor, rows: Tensor, columns: Tensor) -> bool:
        """Σ rows[j] · columns[j] to `out`, summed in order, compiled; whether that was possible. rows: (terms, height);
        columns: (terms, width); out: (height, width), which a compiler understands better than flat ones."""
        if not self.compile or min(out.shape) < 2:
            return False
        for first in range(0, len(rows), TERMS):
            factors = [*rows[first : first + TERMS], *columns[first : first + TERMS]]
            signature = ("products", out.dtype, first == 0, len(factors) // 2, out.device)
            kernel = self._kept(signature, self._build_products)
            if kernel is None:
                return False
            kernel(out, *factors)
        return True

    def _build_products(self, name: str, dtype: torch.dtype, begin: bool, terms: int, device: torch.device) -> Fused:
        height, width = 96, 160
        sizes = [height * width, *[height] * terms, *[width] * terms]
        flat, *factors = (_normal(n, j, device).to(dtype) for j, n in enumerate(sizes))
        out, fn = flat.view(height, width), _products(begin, terms)
        return self._compiled(fn, [out, *factors], [out], lambda own: fn(own, *factors))


def _products(begin: bool, terms: int) -> Callable[..., None]:
    """Adds products of columns and rows to a matrix in order, or begins with the first. A text of its own for each, for
    torch counts how often it compiles the same code, and stops."""
    given = ", ".join(f"{x}{j}" for x in "uv" for j in range(terms))
    added = " + ".join([*([] if begin else ["out"]), *(f"u{j}[:, None] * v{j}" for j in range(terms))])
    scope: dict[str, Any] = {}
    exec(f"def kernel(out, {given}):\n    out.copy_({added})\n", scope)
    kernel: Callable[..., None] = scope["kernel"]
    return kernel


EXACT = ("emulate_precision_casts", "eager_numerics.division_rounding", "eager_numerics.disable_ftz")
"""Options of torch's compiler that keep eager's bits on a GPU: no fused multiply-add and every cast made, division
rounded to the nearest, subnormal numbers kept. A torch that lacks one is used without it; the comparison of bits before
first use decides."""


def exact_options(device: torch.device) -> dict[str, bool]:
    """Options of torch's compiler for kernels on this device: none on a CPU, whose kernels have eager's bits anyway."""
    from torch._inductor import config

    if device.type == "cpu":
        return {}
    known = config.get_config_copy()  # type: ignore[attr-defined]
    return {name: True for name in EXACT if name in known}


def worth_compiling(weights: int, evals: int | None) -> bool:
    """Whether a run of so many evaluations (None: unknown, many) of so many weights wins back what compiling costs."""
    return weights * (evals if evals is not None else 10_000) >= WORTH


Fused = Callable[..., Any]


def _direct(kernel: Fused, given: Sequence[Any], arguments: Sequence[Tensor]) -> Fused:
    """The kernel itself, without torch's check at every call that its arguments are of the kind it was compiled for:
    they always are (`Kernels.run`, `Kernels.products`), and the check costs several times a small tensor's work.

    given: what the kernel was handed in its first call, with these arguments: it says in which order tensors and
    lengths are taken. Raises RuntimeError where that does not explain all of it.
    """
    order: list[tuple[bool, int]] = []
    for x in given:
        whole = isinstance(x, Tensor)
        found = [j for j, a in enumerate(arguments) if (a is x if whole else isinstance(x, int) and a.numel() == x)]
        if not found:
            raise RuntimeError(f"the compiled kernel takes a {type(x).__name__} that is not understood")
        order.append((whole, found[0]))

    def call(*tensors: Tensor) -> None:
        kernel(*[tensors[j] if whole else tensors[j].numel() for whole, j in order])

    return call


class Numbers:
    """A program's numbers and keys on the host. place: of the first element within its noise block."""

    __slots__ = ("keys", "place", "scalars")

    def __init__(self, scalars: Sequence[float], keys: Sequence[int], place: int) -> None:
        self.scalars, self.keys, self.place = scalars, keys, place

    @classmethod
    def of(cls, s: Tensor, k: Tensor) -> Numbers:
        *keys, place = k.tolist()
        return cls(s.tolist(), keys, place & 0xFFFFFFFF)

    def arguments(self, s: Tensor, like: Tensor, places: Tensor | None = None) -> tuple[Any, Any, Any]:
        """(s, k, n) for an uncompiled call on as many elements as `like` has, or on those at `places` (int32). On a
        GPU the numbers come from the device: there torch divides by a host number with other bits."""
        numbers = self.scalars if s.device.type == "cpu" else list(s.unbind())
        return numbers, self.keys, noise.Span(self.place, like.numel(), like.device) if places is None else places


def padded_scalars(values: Sequence[float]) -> list[float]:
    """A row of at least two and an even number of scalars: rows stay aligned and no length is special."""
    return [*values, *([0.0] * (2 - len(values) if len(values) < 2 else len(values) % 2))]


def padded_keys(keys: Sequence[int], place: int) -> list[int]:
    """A row of keys that ends with the place of the first element: a multiple of four words."""
    return [*keys, *([0] * (-(len(keys) + 1) % 4)), place if place < 1 << 31 else place - (1 << 32)]


def _made_up(like: Tensor, j: int) -> Tensor:
    """Values such as weights have, with zeros of both signs, equal values and large ones among them."""
    z = _normal(like.numel(), j, like.device)
    z[: 1 << 10] = 0.0
    z[1 << 9 : 1 << 10] *= -1
    z[1 << 10 : 1 << 11] *= 1e4
    return z.to(like.dtype)


def _normal(count: int, j: int, device: torch.device) -> Tensor:
    return noise.units("normal", noise.stream_key(0, 0, j, "normal", 0), 0, count, device).float() / 7000


def _bits(dtype: torch.dtype) -> torch.dtype:
    return {8: torch.int64, 4: torch.int32, 2: torch.int16}[dtype.itemsize]


__all__ = ["CHUNK", "Kernels", "Numbers", "padded_keys", "padded_scalars", "worth_compiling"]
