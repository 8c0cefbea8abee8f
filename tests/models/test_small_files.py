"""Damaged small files of a model are refused by name before its weights are used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from families import Families

from zotune.errors import ModelError
from zotune.models import loading
from zotune.models.model_files import find_model
from zotune.models.small_files import SMALL_FILES


def load(folder: Path) -> Any:
    files = find_model(str(folder))
    return loading.load(files.source, files.folder, files.head, device="cpu")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"])
@pytest.mark.parametrize("content", ["", '{"eos_token_id": ', "[1, 2]", "3", "\udc80"])
def test_a_file_that_is_no_mapping_is_named(families: Families, tmp_path: Path, name: str, content: str) -> None:
    assert name in SMALL_FILES
    folder = Path(shutil.copytree(families.folder("llama"), tmp_path / "m"))
    (folder / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ModelError, match=f"{name}.* (cannot be read|must hold a mapping)"):
        load(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eos_token_id": "abc"}, "eos_token_id must be the number of a token, got 'abc'"),
        ({"eos_token_id": [3, None]}, "eos_token_id must be the number of a token"),
        ({"pad_token_id": 0.5}, "pad_token_id must be the number of a token, got 0.5"),
        ({"eos_token_id": [3], "max_new_tokens": "many"}, "cannot be used: TypeError"),
    ],
)
def test_generation_settings_of_another_type_are_named(
    families: Families, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    folder = Path(shutil.copytree(families.folder("llama"), tmp_path / "m"))
    (folder / "generation_config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=f"generation_config.json.* {message}"):
        load(folder)


def test_a_tokenizer_of_another_form_is_named(families: Families, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(families.folder("llama"), tmp_path / "m"))
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**content, "model": {"type": "Unheard", "vocab": {}}}))
    with pytest.raises(ModelError, match="its tokenizer cannot be loaded"):
        load(folder)


def test_a_file_that_the_tokenizer_does_not_read_is_named(families: Families, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(families.folder("llama"), tmp_path / "m"))
    (folder / "special_tokens_map.json").write_text("{")
    with pytest.raises(ModelError, match=r"special_tokens_map\.json cannot be read"):
        load(folder)
