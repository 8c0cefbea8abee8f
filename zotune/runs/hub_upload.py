"""The model of a run on the Hugging Face hub: weights, tokenizer, model card and journal in one commit.

Knows run directories and the hub's client; the token stays in the client.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from zotune import files
from zotune.errors import RunFolderError, ZotuneError
from zotune.events import Emit, Note, Phase, ignore
from zotune.models.library_calls import quiet
from zotune.runs.hub_id import check_hub_id
from zotune.runs.run_directory import JOURNAL, MODEL_CARD, RESULT, check_files
from zotune.text import one_line

_TOKEN: Final = re.compile(r"hf_\w{4,}")


def push(run: str | Path, hub_id: str, *, private: bool = False, emit: Emit = ignore) -> str:
    """Upload the model that a run directory holds, its model card and its journal; returns the address. The repository
    is created where there is none. The token is that of `hf auth login` or HF_TOKEN.

    Raises OptionError for a wrong id, RunFolderError where the directory holds no finished run with a model or its
    files have changed, and ZotuneError where the hub refuses.
    """
    check_hub_id(hub_id)
    folder = Path(run)
    names = [*_model_files(folder), MODEL_CARD, JOURNAL]
    emit(Phase(f"uploading {len(names)} files to {hub_id}"))
    try:
        import huggingface_hub

        with quiet():
            hub = huggingface_hub.HfApi(library_name="zotune")
            hub.create_repo(hub_id, private=private, exist_ok=True)
            done = hub.create_commit(
                hub_id,
                [huggingface_hub.CommitOperationAdd(name, str(folder / name)) for name in names],
                commit_message="Model, model card and journal of a run of zotune",
            )
    except Exception as error:  # the client, its network and its file system raise all kinds
        raise ZotuneError(
            f"the upload to {hub_id} failed: {_reason(error)}", hint=command(folder, hub_id, private)
        ) from None
    return str(done.repo_url)


def push_or_note(folder: Path, hub_id: str, private: bool, emit: Emit) -> None:
    """`push` at the end of a run: a failure is a note with the command that repeats it, for the run is complete."""
    try:
        emit(Note(f"uploaded: {push(folder, hub_id, private=private, emit=emit)}"))
    except ZotuneError as error:
        emit(Note(f"the run is complete, but {error}"))


def command(folder: Path, hub_id: str, private: bool) -> str:
    """The command that uploads a run."""
    return f"zotune push {folder} {hub_id}" + (" --hub-private" if private else "")


def _model_files(folder: Path) -> list[str]:
    """The names of the model's files, which are those that the run has written. Raises RunFolderError."""
    check_files(folder)
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        sums = dict(result["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise RunFolderError(
            f"{folder} holds no finished run of zotune", hint=f"zotune resume {folder} continues one"
        ) from None
    if not sums:
        raise RunFolderError(f"{folder} keeps no model", hint=f"zotune replay {folder} -o DIRECTORY")
    for name, checksum in sums.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            raise RunFolderError(f"{folder} lacks {name}, which the run has written")
        if files.checksum(path) != checksum:
            raise RunFolderError(f"{path} is not the file that the run has written")
    for name in (MODEL_CARD, JOURNAL):
        if not (folder / name).is_file():
            raise RunFolderError(f"{folder} lacks {name}")
    return sorted(sums)


def _reason(error: Exception) -> str:
    """An error of the hub's client in one line, without a token."""
    from huggingface_hub import get_token

    lines = [line for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {' '.join(lines)}"
    if token := get_token():
        text = text.replace(token, "…")
    return one_line(_TOKEN.sub("hf_…", text), 300)


__all__ = ["command", "push", "push_or_note"]
