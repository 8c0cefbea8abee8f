"""`zotune export --gguf`: the kept weights of a run as a GGUF file, which is loaded again and compared.

Knows run directories and models; tunes nothing.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from zotune import files
from zotune.config import RunConfig
from zotune.errors import ModelError, OptionError, RunFolderError
from zotune.models import adapters, gguf_export, loading
from zotune.models.gguf_export import GgufType
from zotune.models.gguf_files import gguf_path, is_gguf
from zotune.models.loaded_model import LoadedModel
from zotune.models.model_files import find_model
from zotune.runs.frozen_weights import check_loaded
from zotune.runs.model_source import load_recorded
from zotune.runs.recorded import read_header
from zotune.runs.run_directory import CONFIG, JOURNAL, check_files
from zotune.runs.working_directory import working_directory
from zotune.search.journal import Journal
from zotune.yaml_file import read_yaml

TOKENS: Final = 64
"""Tokens whose logits are compared."""
TEXT: Final = "Return JSON with the keys name and age.\n\nAt 22, Nadia works in Nairobi: {\"name\": 3.14, 'x': [1]}"
"""A text that both tokenizers must split alike."""
WRONG: Final = 0.25
"""A larger difference, root mean square, as a share of the logits' standard deviation, leaves another model."""
EQUAL: Final = 1e-2
"""The file's logits differ by less from those of the model with its weights rounded in the same way."""


@dataclass(frozen=True)
class GgufReport:
    """A written file beside the model that it was written from, both in float32.

    difference: the largest between two logits; spread: the standard deviation of the logits; agreed: the share of
    places with the same most probable token; beyond_rounding: the largest difference to the model with its weights
    rounded to the type of the file.
    """

    path: Path
    kind: GgufType
    bytes: int
    difference: float
    spread: float
    agreed: float
    beyond_rounding: float

    @property
    def text(self) -> str:
        return (
            f"{self.path}: {self.bytes / 2**20:,.0f} MiB; loaded again, its logits differ by at most "
            f"{self.difference:.2g} (they spread by {self.spread:.2g}), and {100 * self.agreed:.0f} % of the most "
            f"probable tokens are equal; beside the weights rounded to {self.kind} they differ by "
            f"{self.beyond_rounding:.2g}{'' if self.difference <= EQUAL else ' (--gguf f32 rounds nothing)'}"
        )


def export_gguf(run: str | Path, output: str | Path, kind: GgufType) -> GgufReport:
    """Write the kept weights of a run to a new GGUF file; LoRA is merged. Raises OptionError, RunFolderError, and
    ModelError where the model cannot be written, or where the file does not give the same logits."""
    folder, target = Path(run), Path(output)
    check_files(folder)
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: no such run directory")
    if not is_gguf(target):
        raise OptionError(f"--gguf writes one file, and {str(target)!r} does not end in .gguf", hint="-o model.gguf")
    if target.exists():
        raise RunFolderError(f"{target} exists already", hint="name a new file")
    config = read_yaml(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    model = find_model(str(folder), str(config.get("head") or "auto"))
    if model.head != "causal":
        raise ModelError(f"--gguf writes causal language models; {folder} has the head {model.head!r}")
    loaded = load_recorded(RunConfig(device="cpu", dtype="float32"), model, read_header(folder))
    if (folder / JOURNAL).is_file():
        check_loaded(loaded.model, Journal.open(folder / JOURNAL, read_only=True).header, str(folder))
    if adapters.has_adapter(loaded):
        adapters.merge(loaded)
    gguf_export.check(loaded.unwrapped, kind)
    partial = target.with_name(f".{target.stem}.partial.gguf")
    try:
        with files.writing(target, hint=""):
            source = _source(folder, config.get("model"))
            gguf_export.write(loaded.unwrapped, loaded.tokenizer, kind, partial, source)
            report = _compared(loaded, kind, partial, target)
            partial.rename(target)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return report


def _source(folder: Path, model: Any) -> Path | None:
    """The GGUF file that a run began from; None where it began from another kind of model, or the file is gone."""
    if not model or not is_gguf(str(model)):
        return None
    path = gguf_path(str(model))
    if path is None:
        return None
    path = working_directory(folder) / path
    return path if path.is_file() else None


def _compared(loaded: LoadedModel, kind: GgufType, path: Path, target: Path) -> GgufReport:
    """The written file beside its model, whose weights are rounded for that. Raises ModelError where they are not the
    same but for rounding, and where rounding leaves another model."""
    found = find_model(str(path.resolve()))
    again = loading.load(found.source, found.folder, "causal", device="cpu", dtype="float32")
    ours, theirs = (x.tokenizer(TEXT, add_special_tokens=False)["input_ids"] for x in (loaded, again))
    if ours != theirs:
        raise ModelError("--gguf: the tokenizer of the file splits a text otherwise", hint=gguf_export.TOOL)
    count = int(loaded.unwrapped.config.vocab_size)
    ids = (torch.arange(TOKENS) * max(count // TOKENS, 1))[None] % count
    with torch.no_grad():
        a, b = (x.unwrapped(input_ids=ids).logits.float() for x in (loaded, again))
        gguf_export.round_weights(loaded.unwrapped, kind)
        rounded = loaded.unwrapped(input_ids=ids).logits.float()
    difference, spread = float((a - b).abs().max()), float(a.std())
    beyond = float((rounded - b).abs().max())
    if not (beyond <= EQUAL and float((a - b).square().mean().sqrt()) <= WRONG * spread):
        raise ModelError(
            f"--gguf: the logits of the written file differ by {difference:.3g} (they spread by {spread:.3g}), and by "
            f"{beyond:.3g} from those of weights rounded to {kind}",
            hint=gguf_export.TOOL,
        )
    agreed = float((a.argmax(-1) == b.argmax(-1)).float().mean())
    return GgufReport(target, kind, path.stat().st_size, difference, spread, agreed, beyond)


__all__ = ["GgufReport", "export_gguf"]
