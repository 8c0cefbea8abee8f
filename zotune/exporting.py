"""A run's model on its own: what `zotune export` writes.

Knows models and adapters; tunes nothing.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from zotune import adapters, config, models
from zotune.errors import ModelError, RunFolderError


def export(run: str | Path, output: str | Path, *, merge: bool = False, dtype: str = "auto") -> Path:
    """Write the model of a run folder (or an adapter's) to a folder of its own, which must be empty or new.

    merge: LoRA is written into its base model, which then loads without peft. Raises ModelError, RunFolderError.
    """
    folder, target = Path(run), Path(output)
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: no such run folder")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunFolderError(f"{target} exists already", hint="name a new folder")
    saved = config.read_yaml(folder / "config.yaml") if (folder / "config.yaml").is_file() else {}
    found = models.inspect(str(folder), str(saved.get("head") or "auto"))
    if merge and found.adapter is None:
        raise ModelError(f"{folder} holds no adapter to merge; its weights are whole", hint="without --merge")
    loaded = models.load(found.source, found.folder, found.head, device="cpu", dtype=dtype, classes=_classes(folder))
    if found.adapter:
        adapters.load(loaded, found.adapter)
    if merge:
        adapters.merge(loaded)
    partial = target.with_name(target.name + ".partial")
    try:
        models.save(loaded, partial)
        if target.exists():
            target.rmdir()
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _classes(folder: Path) -> int | None:
    """How many classes the head of an adapter's model has, from the weights that were saved with it."""
    from safetensors import safe_open

    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118
            if name.endswith(("classifier.weight", "score.weight", "out_proj.weight")) and "lora" not in name:
                return int(file.get_slice(name).get_shape()[0])
    return None


__all__ = ["export"]
