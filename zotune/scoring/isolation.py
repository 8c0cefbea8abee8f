"""What an objective may change: nothing but its own inputs and its own random numbers.

An objective is code of the user's that runs inside the tuning process. It gets lists of its own; the state of the
process and of the model is put back after each call, and a changed weight, which cannot be put back, ends the run by
name. Knows processes and torch modules; knows neither objectives nor results.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from zotune.errors import SideEffectError

MOST_BUFFER_BYTES: Final = 1 << 26
"""Buffers of a model that are copied before a call so that they can be put back; where they take more, a changed buffer
is refused."""


def own_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs with lists, dictionaries and tensors that nobody else holds. The model and the items of a batch that
    are no containers are passed as they are."""
    return {name: values if name == "model" else _own(values, tensors=True) for name, values in inputs.items()}


def grad_mode() -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Makes a context in which another thread computes gradients only if this thread does."""
    torch = sys.modules.get("torch")
    if torch is None:
        return contextlib.nullcontext
    enabled = torch.is_grad_enabled()
    return lambda: torch.set_grad_enabled(enabled)  # type: ignore[no-any-return]


def _own(value: Any, tensors: bool = False) -> Any:
    kind = type(value)
    if kind is list:
        return [_own(item) for item in value]
    if kind is dict:
        return {key: _own(item) for key, item in value.items()}
    if kind is tuple:
        return tuple(_own(item) for item in value)
    if tensors and (torch := sys.modules.get("torch")) is not None and isinstance(value, torch.Tensor):
        return value.clone()
    return value


class Isolation:
    """The surroundings of one objective's calls.

    The global random generators of Python, numpy and torch have states of their own inside its calls, which begin as
    copies, so that an objective that draws or seeds changes no other draw.
    """

    def __init__(self) -> None:
        self._generators: dict[str, Any] = {}
        self._calls = 0
        self._exact = False

    @contextlib.contextmanager
    def around(self, name: str, inputs: Mapping[str, Any]) -> Iterator[None]:
        """A call of the objective `name` with these inputs. Afterwards the process and the model are as before.

        Put back: working directory, environment variables, standard streams, torch's default dtype and device, its
        threads, grad mode, matmul precision and deterministic algorithms, the global random generators; of the model
        mode flags, requires_grad, gradients, buffers, configurations, hooks, and tensors and modules that were
        replaced. Raises SideEffectError for a weight that was changed in place.
        """
        process = _process_state()
        outer = _generator_states()
        _set_generators({**outer, **self._generators})
        model = inputs.get("model")
        weights = self._watch(name, model) if "torch" in sys.modules and model is not None else None
        try:
            yield
        finally:
            self._generators = _generator_states()
            _set_generators(outer)
            for put_back in process:
                put_back()
            if weights is not None:
                weights()

    def _watch(self, name: str, model: Any) -> Callable[[], None] | None:
        """A function that puts the model's state back, and raises SideEffectError for a weight changed in place.

        In-place changes show in the version counter of a tensor, except those through `.data` and numpy. So the 1st,
        2nd, 4th, 8th … call compares every bit. An objective that changes weights and changes them back raises the
        counters; once that has been seen, each of its calls compares every bit.
        """
        import torch

        if not isinstance(model, torch.nn.Module):
            return None
        self._calls += 1
        before = _digests(model) if self._exact or self._calls & (self._calls - 1) == 0 else None
        state = _ModelState(model)

        def put_back() -> None:
            touched = state.put_back()
            if before is not None:
                self._exact = self._exact or bool(touched)
                after = _digests(model)
                touched = [tensor for tensor, digest in before.items() if after.get(tensor) != digest]
            if touched:
                shown = ", ".join(touched[:3]) + (f" and {len(touched) - 3} more" if len(touched) > 3 else "")
                raise SideEffectError(
                    f"objective {name!r} changed the model's weights: {shown}",
                    hint="an objective may read the model; let it change a copy.deepcopy of it",
                )

        return put_back


class _ModelState:
    """What can be put back of a module, and the version counters of its tensors."""

    def __init__(self, model: Any) -> None:
        modules = list(model.modules())
        self._modules = [(m, m.training, [(table, dict(table)) for table in _tables(m)]) for m in modules]
        configs = {id(c): c for m in modules for c in _configs(m)}.values()
        self._configs = [(vars(c), copy.deepcopy(vars(c))) for c in configs]
        self._weights = [
            (n, p, p.data, p.data_ptr(), p.requires_grad, p.grad, _version(p)) for n, p in model.named_parameters()
        ]
        buffers = list(model.named_buffers())
        copied = sum(b.numel() * b.element_size() for _, b in buffers) <= MOST_BUFFER_BYTES
        self._buffers = [(n, b, b.clone() if copied else None, _version(b)) for n, b in buffers]

    def put_back(self) -> list[str]:
        """Put back what can be; returns the names of tensors that were changed in place."""
        import torch

        for module, training, tables in self._modules:
            module.training = training
            for table, entries in tables:
                if list(table) != list(entries) or any(table[k] is not x for k, x in entries.items()):
                    table.clear()
                    table.update(entries)
        for present, entries in self._configs:
            if present != entries:
                present.clear()
                present.update(entries)
        touched = []
        for name, p, data, pointer, requires_grad, grad, version in self._weights:
            if p.data_ptr() != pointer and p.is_floating_point():  # quantized layers replace their own data
                p.data = data
            if p.requires_grad != requires_grad:
                p.requires_grad_(requires_grad)
            p.grad = grad
            if _version(p) != version:
                touched.append(name)
        for name, buffer, kept, version in self._buffers:
            if (
                kept is not None and not buffer.is_inference()
            ):  # batch norm writes its statistics without raising the counter
                with torch.no_grad():
                    buffer.copy_(kept)
            elif _version(buffer) != version:
                touched.append(name)
        return touched


def _tables(module: Any) -> tuple[dict[str, Any], ...]:
    """A module's own parameters, buffers, modules and hooks by name."""
    return (
        module._parameters,
        module._buffers,
        module._modules,
        module._forward_hooks,
        module._forward_pre_hooks,
    )


def _configs(module: Any) -> list[Any]:
    """The configuration objects of a module that are classes of transformers."""
    found = [vars(module).get(name) for name in ("config", "generation_config")]
    return [c for c in found if any(base.__module__.startswith("transformers.") for base in type(c).__mro__)]


def _version(tensor: Any) -> int:
    """The version counter of a tensor; 0 for one that was made in inference mode, which has none."""
    return 0 if tensor.is_inference() else int(tensor._version)


def _digests(model: Any) -> dict[str, bytes]:
    """A hash of every bit of each parameter, by name."""
    import torch

    out = {}
    for name, p in model.named_parameters():
        if p.device.type != "meta":
            data = p.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            out[name] = hashlib.blake2b(data.data, digest_size=16).digest()
    return out


def _process_state() -> list[Callable[[], None]]:
    """Functions that put back the parts of the process's state that an objective may have changed."""
    return [_directory(), _environment(), _streams(), *(_torch_settings() if "torch" in sys.modules else [])]


def _directory() -> Callable[[], None]:
    before = _current_directory()

    def put_back() -> None:
        if before is not None and _current_directory() != before:
            try:
                os.chdir(before)
            except OSError as error:
                raise SideEffectError(f"an objective left the working directory {before}: {error.strerror}") from None

    return put_back


def _current_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return None


def _environment() -> Callable[[], None]:
    before = dict(os.environ)

    def put_back() -> None:
        if dict(os.environ) != before:
            for name in [n for n in os.environ if n not in before]:
                del os.environ[name]
            os.environ.update(before)

    return put_back


def _streams() -> Callable[[], None]:
    streams = sys.stdin, sys.stdout, sys.stderr
    closed = [s is None or s.closed for s in streams]

    def put_back() -> None:
        sys.stdin, sys.stdout, sys.stderr = streams
        for number in (1, 2):
            if streams[number] is not None and streams[number].closed and not closed[number]:
                stream = io.TextIOWrapper(open(number, "wb", closefd=False), "utf-8", "replace", line_buffering=True)  # noqa: SIM115
                if number == 1:
                    sys.stdout = stream
                else:
                    sys.stderr = stream

    return put_back


def _torch_settings() -> list[Callable[[], None]]:
    import torch

    settings: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.is_grad_enabled, torch._C._set_grad_enabled),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
        (torch.get_default_device, torch.set_default_device),
    ]

    def put_back(read: Callable[[], Any], write: Callable[[Any], Any], before: Any) -> Callable[[], None]:
        return lambda: write(before) if read() != before else None

    return [put_back(read, write, read()) for read, write in settings]


def _generator_states() -> dict[str, Any]:
    """The states of the global random generators, by library."""
    states: dict[str, Any] = {"random": random.getstate()}
    if (numpy := sys.modules.get("numpy.random")) is not None:
        states["numpy"] = numpy.get_state()
    if (torch := sys.modules.get("torch")) is not None:
        states["torch"] = torch.get_rng_state()
    return states


def _set_generators(states: Mapping[str, Any]) -> None:
    random.setstate(states["random"])
    if "numpy" in states:
        sys.modules["numpy.random"].set_state(states["numpy"])
    if "torch" in states:
        sys.modules["torch"].set_rng_state(states["torch"])


__all__ = ["Isolation", "grad_mode", "own_inputs"]
