"""Kernels: programs that run as plain Python or compiled into one kernel each.

A compiled program is one pass over memory, noise included, compiled once for all tensors and all numbers: by torch's
compiler, or from C++ (`cpu_source`) where weights below float32 are rounded on a CPU. A new program first runs both
ways on test values, and its kernel is used only where every bit agrees. A fault of the compiler (none installed, an
error, other bits, unexpected arguments) costs time alone: the source then runs as plain Python, and `notes` holds the
reason.

Knows flat tensors, programs and products of factors; knows no model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from zotune.core import noise
from zotune.core.codegen import function
from zotune.core.cpu_kernels import CpuKernel
from zotune.core.member_kernels import MemberKernels, member_kernels

CHUNK = 1 << 18
"""Elements that an uncompiled program evaluates at a time: a few megabytes of temporaries, which fit into the cache. A
power of two of at least 32, so that no chunk crosses a noise block."""
LAUNCHED = 1 << 24
"""The same on a GPU, where many small chunks would wait for the launches of their operations."""
PIECE = 1 << 30
"""Elements that a compiled program evaluates at a time on a GPU: the reach of 32-bit indices."""
COUNTED = 1 << 20
"""The same on a CPU, where reading 0, 1, 2 … from the cache is faster than counting, and for programs that read buffers
of their own size (sums, outer products)."""
WORTH = 5e9
"""Elements evaluated in a run from which on compiling pays: eager evaluation takes some 8 ns an element longer, so this
is 40 s of work against at most some 15 s of compiling."""
UNKNOWN_EVALS = 10_000
"""Evaluations that are assumed for a run whose number of evaluations is unknown."""

ROUNDED = " rounded"
"""What the text of a program holds that rounds stochastically."""
TESTED = (1 << 14) + 13
"""Elements on which a C++ kernel is compared with plain Python."""

TERMS = 8
"""Products that one compiled pass sums, each in a register."""


class Kernels:
    """Runs programs, compiled or not.

    compile: whether to compile; chunk: elements that an uncompiled program evaluates at a time. on_note: called with
    texts for the user. compilations: how often the compiler was entered; recompilations: how often for a program that
    it had compiled, normally 0; seconds: time spent compiling; notes: why programs run uncompiled.
    """

    def __init__(self, compile: bool = False, chunk: int = CHUNK) -> None:
        self.compile, self.chunk = compile, chunk
        self.on_note: Callable[[str], None] = lambda note: None
        self.compilations = self.recompilations = 0
        self.seconds = 0.0
        self.notes: list[str] = []
        self._plain: dict[tuple[str, torch.dtype], Callable[..., None]] = {}
        self._kernels: dict[tuple[Any, ...], Fused | None] = {}
        self._cpu: dict[tuple[Any, ...], CpuKernel | None] = {}
        self._counted: Tensor | None = None
        self._buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def buffer(self, place: str, numel: int, like: Tensor) -> Tensor:
        """Memory for a tensor that the next call reads. It is reused, for new memory costs more than the arithmetic.

        place: a name; each has its own memory.
        """
        key = (place, like.dtype, like.device)
        if key not in self._buffers or self._buffers[key].numel() < numel:
            self._buffers[key] = like.new_empty(numel)
        return self._buffers[key][:numel]

    def piece(self, buffered: bool, device: torch.device) -> int:
        """Elements that one call evaluates."""
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
        """Run a source, compiled where that is switched on and works.

        tensors: flat, of one length; s, k: numbers and keys on their device; numbers: the same on the host; places:
        indices of the elements (int64, below 2**32) where these are not contiguous.
        """
        like = tensors[0]
        if self.compile and (written := self._cpu_for(text, dtype, tensors, s, k)):
            written(tensors, s, k, None if places is None else places.to(torch.int32))  # wraps
            return
        if self.compile and like.numel() > 1 and (places is None or like.device.type == "cpu"):
            count = self._count(like) if places is None else places.float()
            exact = places is None or int(places.max()) <= 1 << 24  # float32 holds all integers up to here
            if exact and (kernel := self._fused_for(text, dtype, tensors, s, k)):
                kernel(*tensors, s, k, count)
                return
        if places is not None:
            places = places.to(torch.int32)  # wraps
        self.plain(text, dtype)(*tensors, *numbers.arguments(s, like, places))

    def plain(self, text: str, dtype: torch.dtype) -> Callable[..., None]:
        """The source as a plain Python function, called with flat tensors and `Numbers.arguments`."""
        key = (text, dtype)
        if key not in self._plain:
            self._plain[key] = function(text, dtype, fused=False)
        return self._plain[key]

    def _count(self, like: Tensor) -> Tensor:
        """The last argument of a compiled call."""
        if like.device.type != "cpu":
            return like
        if self._counted is None:
            self._counted = torch.arange(COUNTED, dtype=torch.float32)  # kernels read integers slowly
        return self._counted[: like.numel()]

    def _cpu_for(
        self, text: str, dtype: torch.dtype, tensors: Sequence[Tensor], s: Tensor, k: Tensor
    ) -> CpuKernel | None:
        """The C++ kernel of a program that rounds on a CPU, or None for other programs and where compiling failed."""
        if dtype != torch.float32 or not all(self.from_source(text, x.device) for x in tensors):
            return None
        signature = (text, dtype, tuple(x.dtype for x in tensors))
        if signature not in self._cpu:
            start = time.monotonic()
            self._announce()
            try:
                self._cpu[signature] = self._build_cpu(text, tensors, s, k)
            except Exception:  # a compiler may raise anything; torch's own kernels or plain Python give the same bits
                self._cpu[signature] = None
            self.seconds += time.monotonic() - start
        return self._cpu[signature]

    def _build_cpu(self, text: str, tensors: Sequence[Tensor], s: Tensor, k: Tensor) -> CpuKernel:
        """Raises RuntimeError where the kernel writes other bits than plain Python."""
        kernel = CpuKernel(text, [x.dtype for x in tensors])
        self.compilations += 1
        k = k.clone()
        k[-1] += 7  # a start and a length inside of a run
        values = [_special_values(x.new_empty(TESTED), j) for j, x in enumerate(tensors)]
        expected = [x.clone() for x in values]
        self.plain(text, torch.float32)(*expected, *Numbers.of(s, k).arguments(s, expected[0]))
        places = torch.arange(TESTED, dtype=torch.int32) + k[-1]
        for indices in (None, places):
            own = [x.clone() for x in values]
            kernel(own, s, k, indices)
            if not all(_same_bits(a, b) for a, b in zip(own, expected, strict=True)):
                raise RuntimeError("the compiled kernel gives other bits")
        return kernel

    def from_source(self, text: str, device: torch.device) -> bool:
        """Whether a program is compiled from C++: one that rounds, on a CPU."""
        return self.compile and ROUNDED in text and device.type == "cpu"

    def members(self) -> MemberKernels | None:
        """The kernels of populations, where compiling is switched on and works."""
        return member_kernels() if self.compile else None

    def _announce(self) -> None:
        """Tell the user, once, why nothing happens for some seconds."""
        if not self._kernels and not self._cpu:
            self.on_note("compiling the arithmetic of perturbations and steps (once, takes some seconds)")

    def _fused_for(
        self, text: str, dtype: torch.dtype, tensors: Sequence[Tensor], s: Tensor, k: Tensor
    ) -> Fused | None:
        """The kernel for tensors of these dtypes on these devices, or None where compiling failed.

        It is called with (*tensors, s, k, count), at least two elements each.
        """
        signature = (text, dtype, tuple((x.dtype, x.device) for x in tensors))
        return self._cached(signature, lambda *_: self._build(text, dtype, [x.new_empty(CHUNK) for x in tensors], s, k))

    def _cached(self, signature: tuple[Any, ...], build: Callable[..., Fused]) -> Fused | None:
        """The kernel for this signature, built the first time, or None where that failed."""
        if signature not in self._kernels:
            start = time.monotonic()
            self._announce()
            try:
                self._kernels[signature] = build(*signature)
            except Exception as error:  # a compiler may raise anything, and the run does not need it
                self._kernels[signature] = None
                cause = vars(error).get("inner_exception", error)  # torch wraps the error of its backend
                why = f"{type(cause).__name__}: {cause}".splitlines()[0][:200]
                note = f"compiling failed; the same bits are computed uncompiled, more slowly ({why})"
                if note not in self.notes:
                    self.notes.append(note)
                    self.on_note(note)
            self.seconds += time.monotonic() - start
        return self._kernels[signature]

    def _build(self, text: str, dtype: torch.dtype, tensors: Sequence[Tensor], s: Tensor, k: Tensor) -> Fused:
        values = [_test_values(x, j) for j, x in enumerate(tensors)]
        s, k = s.clone(), k.clone()  # of a view, the compiler would make the offset an argument

        def plain(*own: Tensor) -> None:
            self.plain(text, dtype)(*own, *Numbers.of(s, k).arguments(s, own[0]))

        return self._compiled(function(text, dtype, fused=True), [*values, s, k, self._count(values[0])], values, plain)

    def _compiled(
        self,
        fn: Callable[..., None],
        arguments: Sequence[Tensor],
        written: Sequence[Tensor],
        plain: Callable[..., None],
    ) -> Fused:
        """A function compiled for arguments like these. written: the first arguments, which it writes.

        Raises RuntimeError where the values it writes are not, bit for bit, those that `plain` writes.
        """
        from torch._inductor.compile_fx import compile_fx

        entered: list[tuple[Fused, tuple[Any, ...]]] = []

        def backend(graph: Any, inputs: Any) -> Fused:
            self.compilations += 1
            self.recompilations += bool(entered)
            kernel: Any = compile_fx(graph, inputs, config_patches=exact_options(written[0].device))

            def first_call(*received: Any) -> Any:
                entered.append((kernel, received))
                return kernel(*received)

            return first_call

        # fullgraph: an error instead of a silent fall back to eager
        guarded = torch.compile(fn, backend=backend, dynamic=True, fullgraph=True)
        expected = [x.clone() for x in written]
        guarded(*arguments)
        plain(*expected)
        for a, b in zip(written, expected, strict=True):
            if not _same_bits(a, b):
                raise RuntimeError("the compiled kernel gives other bits")
        if len(entered) != 1:
            raise RuntimeError("the compiler was entered again in the first call")
        return _direct(*entered[0], arguments)

    def products(self, out: Tensor, rows: Tensor, columns: Tensor) -> bool:
        """Write Σ rows[j] · columns[j], summed in order, to `out` by a kernel; False where that is not possible.

        rows: (terms, height); columns: (terms, width); out: (height, width).
        """
        if not self.compile or min(out.shape) < 2:
            return False
        for first in range(0, len(rows), TERMS):
            factors = [*rows[first : first + TERMS], *columns[first : first + TERMS]]
            signature = ("products", out.dtype, first == 0, len(factors) // 2, out.device)
            kernel = self._cached(signature, self._build_products)
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
    """A function that adds products of columns and rows to a matrix in order. begin: it overwrites the matrix.

    Each number of terms has a source of its own, for torch stops compiling the same code after some variants.
    """
    parameters = ", ".join(f"{x}{j}" for x in "uv" for j in range(terms))
    added = " + ".join([*([] if begin else ["out"]), *(f"u{j}[:, None] * v{j}" for j in range(terms))])
    scope: dict[str, Any] = {}
    exec(f"def kernel(out, {parameters}):\n    out.copy_({added})\n", scope)
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
    """Whether compiling saves more time than it takes. weights: tuned ones; evals: evaluations of the run, None where
    unknown."""
    return weights * (evals if evals is not None else UNKNOWN_EVALS) >= WORTH


Fused = Callable[..., Any]


def _direct(kernel: Fused, received: Sequence[Any], arguments: Sequence[Tensor]) -> Fused:
    """The kernel without torch's check of the arguments at every call.

    The arguments always have the kinds that the kernel was compiled for (`Kernels.run`, `Kernels.products`), and the
    check takes several times as long as the work on a small tensor. received: the kernel's arguments in its first call,
    which was made with `arguments`; they show in which order it takes tensors and lengths. Raises RuntimeError where
    they do not.
    """
    order: list[tuple[bool, int]] = []
    for x in received:
        whole = isinstance(x, Tensor)
        matches = [j for j, a in enumerate(arguments) if (a is x if whole else isinstance(x, int) and a.numel() == x)]
        if not matches:
            raise RuntimeError(f"the compiled kernel takes an unexpected {type(x).__name__}")
        order.append((whole, matches[0]))

    def call(*tensors: Tensor) -> None:
        kernel(*[tensors[j] if whole else tensors[j].numel() for whole, j in order])

    return call


class Numbers:
    """A program's numbers and keys on the host. place: index of the first element within its noise block."""

    __slots__ = ("keys", "place", "scalars")

    def __init__(self, scalars: Sequence[float], keys: Sequence[int], place: int) -> None:
        self.scalars, self.keys, self.place = scalars, keys, place

    @classmethod
    def of(cls, s: Tensor, k: Tensor) -> Numbers:
        """The numbers and keys that two rows of tables hold."""
        *keys, place = k.tolist()
        return cls(s.tolist(), keys, place & 0xFFFFFFFF)

    def arguments(self, s: Tensor, like: Tensor, places: Tensor | None = None) -> tuple[Any, Any, Any]:
        """(s, k, n) for an uncompiled call on as many elements as `like` has, or on those at indices `places` (int32).

        On a GPU the numbers are on the device, for torch divides by a number of the host with other bits.
        """
        numbers = self.scalars if s.device.type == "cpu" else list(s.unbind())
        return numbers, self.keys, noise.Span(self.place, like.numel(), like.device) if places is None else places


def padded_scalars(values: Sequence[float]) -> list[float]:
    """Scalars padded to an even number of at least two, so that rows are aligned and no length is a special case."""
    return [*values, *([0.0] * (2 - len(values) if len(values) < 2 else len(values) % 2))]


def padded_keys(keys: Sequence[int], place: int) -> list[int]:
    """Keys and, last, the index of the first element, padded to a multiple of four words."""
    return [*keys, *([0] * (-(len(keys) + 1) % 4)), place if place < 1 << 31 else place - (1 << 32)]


def _test_values(like: Tensor, j: int) -> Tensor:
    """Values as weights have them, some zeros of both signs and some large values among them."""
    z = _normal(like.numel(), j, like.device)
    z[: 1 << 10] = 0.0
    z[1 << 9 : 1 << 10] *= -1
    z[1 << 10 : 1 << 11] *= 1e4
    return z.to(like.dtype)


def _normal(count: int, j: int, device: torch.device) -> Tensor:
    return noise.units("normal", noise.stream_key(0, 0, j, "normal", 0), 0, count, device).float() / 7000


def _special_values(like: Tensor, j: int) -> Tensor:
    """The same, and the smallest numbers, the largest ones, infinities and NaN."""
    z, run = _test_values(like, j), 1 << 9
    limits = torch.finfo(z.dtype)
    z[-run:] = torch.arange(run, dtype=_bits(z.dtype)).view(z.dtype)  # subnormal
    z[-2 * run : -run] = -z[-run:]
    z[-3 * run : -2 * run] = torch.tensor([limits.max, limits.min, math.inf, -math.inf, math.nan]).repeat(run)[:run]
    return z


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one dtype have the same bits; NaN equals NaN."""
    return bool(((a.view(_bits(a.dtype)) == b.view(_bits(b.dtype))) | (a.isnan() & b.isnan())).all())


def _bits(dtype: torch.dtype) -> torch.dtype:
    return {8: torch.int64, 4: torch.int32, 2: torch.int16}[dtype.itemsize]


__all__ = ["CHUNK", "Kernels", "Numbers", "padded_keys", "padded_scalars", "worth_compiling"]
