"""A chat template is found in a model's small files, as its loaded tokenizer has it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from families import CHAT_TEMPLATE, Families

from zotune.models import chat_files, loading
from zotune.models.chat_files import has_chat_template
from zotune.models.model_files import find_model


@pytest.mark.parametrize("place", ["none", "null", "settings", "jinja"])
def test_a_folder_has_a_template_where_its_tokenizer_has_one(families: Families, tmp_path: Path, place: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(families.folder("llama", "bytes"), folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    if place == "jinja":
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    elif place != "none":
        settings["chat_template"] = None if place == "null" else CHAT_TEMPLATE
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = loading.load_tokenizer(str(folder), str(folder), {})
    found = has_chat_template(find_model(str(folder)))
    assert found is bool(tokenizer.chat_template) is (place in ("settings", "jinja"))


@pytest.mark.parametrize("template", ["", CHAT_TEMPLATE])
def test_a_gguf_file_has_a_template_where_its_metadata_have_one(
    families: Families, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    from gguf_writer import gguf, write_gguf

    end = gguf.GGUFWriter.write_header_to_file

    def with_template(writer: object, *arguments: object) -> None:
        if template:
            writer.add_chat_template(template)  # type: ignore[attr-defined]
        end(writer, *arguments)

    monkeypatch.setattr(gguf.GGUFWriter, "write_header_to_file", with_template)
    path = write_gguf(families.folder("llama", "bytes"), tmp_path / "tiny.gguf")
    loads: list[str] = []
    load = loading.load_tokenizer
    monkeypatch.setattr(chat_files, "load_tokenizer", lambda source, *rest: loads.append(source) or load(source, *rest))
    assert has_chat_template(find_model(str(path))) is bool(template)
    assert len(loads) == (0 if template else 1)
