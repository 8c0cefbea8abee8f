"""Ids of models on the Hugging Face hub."""

from __future__ import annotations

import re
from typing import Final

from zotune.errors import OptionError

_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def check_hub_id(hub_id: str) -> None:
    """Raises OptionError for what is no id of a model on the hub."""
    if not _ID.fullmatch(hub_id) or ".." in hub_id or "--" in hub_id or hub_id.endswith((".git", "-", ".")):
        raise OptionError(f"{hub_id!r:.80} is no id of a model on the hub", hint="OWNER/NAME")


__all__ = ["check_hub_id"]
