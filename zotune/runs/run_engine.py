"""The engine of a run that generates with weights of its own: found, started, and kept at the run's weights.

Each update goes to the engine as text, in the step that computed it. Whatever else changes the weights, such as a
point, a restored checkpoint or the best weights at the end, reaches the engine as a file before it generates again, so
that its weights are always written, never restored by arithmetic. Knows spaces, models and the protocol; knows no
engine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from zotune import declarations, plugin_options, plugins
from zotune.core import recipe_codec
from zotune.core.recipe import Recipe
from zotune.core.space import Space
from zotune.errors import EngineError, OptionError, RecipeError, ZotuneError
from zotune.inference import EngineModel, GenerationRequest, InferenceEngine, WeightUpdate
from zotune.models.adapters import has_adapter
from zotune.models.loaded_model import LoadedModel
from zotune.models.saving import save
from zotune.text import one_line

IN_PROCESS: Final = "transformers"
"""The engine that every run has: the loaded model itself."""


def resolve(name: str, options: Mapping[str, Any]) -> InferenceEngine | None:
    """The engine of this name, `file.py:Class` or `package.module:Class`, before it is started; None for the loaded
    model itself. Raises PluginError and OptionError."""
    if name == IN_PROCESS:
        if options:
            raise OptionError(f"engine {name!r} takes no options, got {', '.join(sorted(options))}")
        return None
    target = plugins.by_path(name, "engine") if ":" in name else plugins.default().find("engine", name).load()
    engine: Any = plugin_options.build(target, options, f"engine {name!r}")
    if problem := declarations.plugin_problem("engine", engine):
        raise OptionError(f"engine {name!r}: {problem}")
    return engine  # type: ignore[no-any-return]


class RunEngine:
    """An engine that follows the weights of a run.

    name: as the user gave it. engine: not started yet. trust_remote_code: whether it may run code of the model.

    updates, loads: how often its weights were computed from an update, and read from a file.
    """

    def __init__(self, name: str, engine: InferenceEngine, trust_remote_code: bool = False) -> None:
        self.name, self._engine, self._trust = name, engine, trust_remote_code
        self.updates = self.loads = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._space: Space | None = None
        self._version: int | None = None

    @property
    def started(self) -> bool:
        """Whether it has a model."""
        return self._space is not None

    def start(self, loaded: LoadedModel, space: Space, rows: int, max_length: int) -> None:
        """Start it at the run's present weights. rows: of a request with members, at most; max_length: tokens of a
        prompt and its completion. Raises EngineError in one line, whatever the engine raises."""
        if has_adapter(loaded):
            raise EngineError(f"--engine {self.name} tunes weights, no adapter", hint="--peft none")
        self._folder = tempfile.TemporaryDirectory(prefix="zotune-engine-")
        folder = Path(self._folder.name) / "model"
        self._guarded("the model cannot be written for it", lambda: save(loaded, folder))
        model = EngineModel(
            folder=folder,
            dtype=str(next(iter(space.params.values())).dtype).removeprefix("torch."),
            tensors={t.name: t.shape for t in space.theta.tensors},
            seed=space.seed,
            rounding=space.rounding,
            rows=rows,
            max_length=max_length,
            device=loaded.device.type,
            trust_remote_code=self._trust,
        )
        self._guarded("it cannot be started", lambda: self._engine.start(model))
        self._space, self._version = space, None
        self._synchronise()
        self.check()
        space.on_assign = self._assigned

    def matrices(self) -> frozenset[str]:
        """Names of the tuned tensors that can differ from member to member."""
        return frozenset(self._guarded("it failed", self._engine.matrices))

    def record(self) -> dict[str, Any]:
        """What the journal's header holds."""
        return {"name": self.name, "versions": dict(self._guarded("it failed", self._engine.versions))}

    def __call__(self, request: GenerationRequest) -> list[list[int]]:
        """Complete prompts with the weights that the run has now. Raises EngineError."""
        self._synchronise()
        ids = self._guarded("generating failed", lambda: self._engine.generate(request))
        if len(ids) != len(request.prompts):
            raise EngineError(f"--engine {self.name}: {len(ids)} completions for {len(request.prompts)} prompts")
        return [[int(x) for x in row] for row in ids]

    def check(self) -> None:
        """Raise EngineError where the engine, brought to the run's weights, holds another bit."""
        self._synchronise()
        assert self._space is not None
        if self._guarded("it failed", self._engine.weights_hash) == self._space.digest():
            return
        raise EngineError(
            f"--engine {self.name} holds other weights than the run: {', '.join(self._differing()[:3])}",
            hint="--engine transformers",
        )

    def close(self) -> None:
        """Free the engine and its files."""
        if self._space is not None:
            self._space.on_assign = lambda theta, before: None
        self._space = None
        try:
            self._engine.close()
        finally:
            if self._folder is not None:
                self._folder.cleanup()

    def _assigned(self, theta: Recipe, before: int) -> None:
        """Follow a step's write. An engine that lags behind gets a file when it generates next."""
        assert self._space is not None
        if self._version != before:
            return
        try:
            text = recipe_codec.encode(theta)
        except RecipeError:  # stored fields, functions of the optimizer
            return
        self._version = None
        self._guarded("its weights cannot be updated", lambda: self._engine.update(WeightUpdate(self._step, text)))
        self._version = self._space.version
        self.updates += 1

    @property
    def _step(self) -> int:
        assert self._space is not None
        return self._space.step

    def _synchronise(self) -> None:
        """Bring the engine to the weights that the module has now."""
        space = self._space
        assert space is not None
        assert self._folder is not None
        if self._version == space.version:
            return
        from safetensors.torch import save_file

        file = Path(self._folder.name) / "tuned.safetensors"
        save_file({n: p.data.detach().to("cpu", copy=True).contiguous() for n, p in space.params.items()}, file)
        self._guarded("its weights cannot be loaded", lambda: self._engine.load(file))
        file.unlink(missing_ok=True)
        self._version = space.version
        self.loads += 1

    def _differing(self) -> list[str]:
        """Names of tensors that differ from the run's."""
        from safetensors.torch import load_file

        space = self._space
        assert space is not None
        assert self._folder is not None
        file = Path(self._folder.name) / "engine.safetensors"
        self._guarded("its weights cannot be exported", lambda: self._engine.export(file))
        weights = load_file(file)
        same = {n for n, p in space.params.items() if n in weights and weights[n].equal(p.data.cpu())}
        return [n for n in space.params if n not in same] or ["none differs by value"]

    def _guarded(self, what: str, call: Callable[[], Any]) -> Any:
        """`call()`. What an engine raises becomes one line; errors of zotune pass."""
        try:
            return call()
        except ZotuneError:
            raise
        except Exception as error:  # an engine is a plugin, and its library raises types of its own
            reason = one_line(str(error))[:300] or type(error).__name__
            raise EngineError(
                f"--engine {self.name}: {what}: {reason}", hint="--engine transformers runs the loaded model itself"
            ) from error


__all__ = ["IN_PROCESS", "RunEngine", "resolve"]
