"""Sentence encoders: pooling and prompts as sentence-transformers' files say, equal to a plain transformers loop."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from families import Families, classification
from torch import Tensor

from zotune.errors import ModelError
from zotune.models import loading
from zotune.models.loaded_model import LoadedModel
from zotune.models.model_files import find_model
from zotune.models.saving import save
from zotune.models.sentence_encoder import FLAGS
from zotune.tasks import build

TEXTS = ["the film was so good", "a bad plot", "the dog saw the cat and the man ran", "it"]
WORDS = ("bad film", "good", "the plot was great")


def encoder(
    families: Families,
    target: Path,
    pooling: dict[str, Any],
    *,
    kinds: tuple[str, ...] = ("Transformer", "Pooling", "Normalize"),
    place: str = "1_Pooling",
    paths: dict[str, str] | None = None,
    **config: Any,
) -> Path:
    """A folder as sentence-transformers saves it."""
    shutil.copytree(families.folder("bert-embedding"), target)
    places = {"Transformer": "", "Pooling": place} | (paths or {})
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": places.get(kind, f"{i}_{kind}"),
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]
    (target / "modules.json").write_text(json.dumps(modules))
    (target / place).mkdir(exist_ok=True)
    (target / place / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pooling}))
    if config:
        (target / "config_sentence_transformers.json").write_text(json.dumps(config))
    return target


def load(folder: Path, head: str = "auto") -> LoadedModel:
    files = find_model(str(folder), head)
    return loading.load(files.source, files.folder, files.head, device="cpu")


def old_form(mode: str) -> dict[str, bool]:
    """A flag for each mode."""
    return {flag: name == mode for flag, name in FLAGS.items()}


@torch.no_grad()
def expected(loaded: LoadedModel, mode: str, prompt: str = "") -> Tensor:
    """Cosines of texts and label words, one row at a time."""

    def embed(text: str) -> Tensor:
        ids = loaded.tokenizer(prompt + text)["input_ids"]
        hidden = loaded.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        pooled = {"cls": hidden[0], "lasttoken": hidden[-1], "mean": hidden.mean(0), "max": hidden.max(0).values}[mode]
        return torch.nn.functional.normalize(pooled, dim=0)

    return torch.stack([embed(text) for text in TEXTS]) @ torch.stack([embed(word) for word in WORDS]).T


def cosines(loaded: LoadedModel) -> Tensor:
    task = build.build(loaded, classification("{text}", WORDS), 90, 8)
    rows = task.rows([{"text": text, "label": 0} for text in TEXTS])
    return task.logits(rows, range(len(TEXTS))) / 20


@pytest.mark.parametrize("place", ["1_Pooling", "2_Pooling"])
@pytest.mark.parametrize("mode", ["cls", "lasttoken", "mean", "max"])
def test_pooling_equals_a_plain_loop(families: Families, tmp_path: Path, mode: str, place: str) -> None:
    for name, config in (("old", old_form(mode)), ("new", {"pooling_mode": mode})):
        loaded = load(encoder(families, tmp_path / name, config, place=place))
        torch.testing.assert_close(cosines(loaded), expected(loaded, mode), rtol=0, atol=1e-5)
    other = "cls" if mode == "mean" else "mean"
    assert not torch.allclose(cosines(loaded), expected(loaded, other), atol=1e-2)
    save(loaded, tmp_path / "saved")
    torch.testing.assert_close(cosines(load(tmp_path / "saved")), cosines(loaded), rtol=0, atol=0)
    assert (tmp_path / "saved" / place / "config.json").is_file()


def test_another_folder_called_pooling_is_not_read(families: Families, tmp_path: Path) -> None:
    folder = encoder(families, tmp_path / "m", old_form("cls"), place="2_Pooling")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(old_form("max")))
    torch.testing.assert_close(cosines(load(folder)), expected(load(folder), "cls"), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("pooling", "options", "message"),
    [
        (old_form("weightedmean"), {}, "pools tokens by weightedmean, which zotune cannot compute"),
        (old_form("mean_sqrt_len_tokens"), {}, "pools tokens by mean_sqrt_len_tokens"),
        ({"pooling_mode": "attention"}, {}, "pools tokens by attention"),
        (dict.fromkeys(FLAGS, False), {}, "every pooling mode of its pooling configuration is false"),
        ({"pooling_mode": ["cls", "mean"]}, {}, r"joins several poolings \(cls, mean\)"),
        ({**old_form("mean"), "pooling_mode_cls_token": True}, {}, r"joins several poolings \(cls, mean\)"),
        (old_form("mean"), {"kinds": ("Transformer", "Pooling", "Dense")}, "go through the module Dense"),
        (old_form("mean"), {"kinds": ("Transformer", "Pooling", "LayerNorm")}, "go through the module LayerNorm"),
        (old_form("mean"), {"kinds": ("Transformer",)}, "lists Transformer, not Transformer and Pooling"),
        (old_form("mean"), {"paths": {"Transformer": "0_BERT"}}, "its transformer lies in the folder '0_BERT'"),
        (old_form("mean"), {"paths": {"Pooling": "../other"}}, "outside the model"),
        (old_form("mean"), {"paths": {"Pooling": "9_Pooling"}}, "lacks 9_Pooling/config.json"),
        (
            old_form("mean") | {"include_prompt": False},
            {"prompts": {"query": "so"}, "default_prompt_name": "query"},
            "leaves out the tokens of the prompt",
        ),
        (old_form("mean"), {"prompts": {}, "default_prompt_name": "query"}, "default prompt 'query' is not among"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(
    families: Families, tmp_path: Path, pooling: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    folder = encoder(families, tmp_path / "m", pooling, **options)
    with pytest.raises(ModelError, match=message):
        load(folder)


def test_the_default_prompt_stands_before_every_text(families: Families, tmp_path: Path) -> None:
    prompts = {"query": "what is it ", "document": ""}
    loaded = load(encoder(families, tmp_path / "m", old_form("mean"), prompts=prompts, default_prompt_name="query"))
    torch.testing.assert_close(cosines(loaded), expected(loaded, "mean", "what is it "), rtol=0, atol=1e-5)
    assert loaded.notes == ("the model's prompt 'query' is put before every text: 'what is it '",)
    other = load(encoder(families, tmp_path / "other", old_form("mean"), prompts=prompts))
    torch.testing.assert_close(cosines(other), expected(other, "mean"), rtol=0, atol=1e-5)
    assert "has prompts ('query') and no default" in other.notes[0]


def test_lowered_texts_need_a_tokenizer_that_lowers(families: Families, tmp_path: Path) -> None:
    folder = encoder(families, tmp_path / "m", old_form("mean"))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    loaded = load(folder)  # every upper-case word is unknown to this tokenizer, as every lower-case one is
    torch.testing.assert_close(cosines(loaded), expected(loaded, "mean"), rtol=0, atol=1e-5)


def test_another_similarity_is_noted(families: Families, tmp_path: Path) -> None:
    kinds = ("Transformer", "Pooling")
    loaded = load(encoder(families, tmp_path / "m", old_form("mean"), kinds=kinds, similarity_fn_name="dot"))
    assert loaded.notes == ("embeddings are compared by their cosine; the model's own similarity is dot",)


def test_a_hub_id_reads_the_same_files(families: Families, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's cache holds the files; what the repository lacks is recorded there, too."""
    from huggingface_hub import constants

    commit = "0" * 40
    repository = tmp_path / "hub" / "models--some--encoder"
    encoder(families, repository / "snapshots" / commit, old_form("lasttoken"), place="3_Pooling")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    absent = repository / ".no_exist" / commit
    absent.mkdir(parents=True)
    for name in ("config_sentence_transformers.json", "sentence_bert_config.json"):
        (absent / name).touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    loaded = loading.load("some/encoder", None, "embedding", device="cpu")
    torch.testing.assert_close(cosines(loaded), expected(loaded, "lasttoken"), rtol=0, atol=1e-5)
    save(loaded, tmp_path / "saved")
    torch.testing.assert_close(cosines(load(tmp_path / "saved")), cosines(loaded), rtol=0, atol=0)
    (absent / "sentence_bert_config.json").unlink()
    with pytest.raises(ModelError, match=r"sentence_bert_config\.json of 'some/encoder' is not in the cache"):
        loading.load("some/encoder", None, "embedding", device="cpu")


@pytest.mark.parametrize("name", ["sentence_bert_config.json", "sentence_xlm-roberta_config.json"])
def test_texts_are_read_up_to_the_encoders_own_length(families: Families, tmp_path: Path, name: str) -> None:
    folder = encoder(families, tmp_path / "m", old_form("mean"))
    (folder / name).write_text(json.dumps({"max_seq_length": 6, "do_lower_case": False}))
    loaded = load(folder)
    task = build.build(loaded, classification("{text}", WORDS), 90, 8)
    rows = task.rows([{"text": text, "label": 0} for text in TEXTS])
    short = [loaded.tokenizer.decode(loaded.tokenizer(text)["input_ids"][1:-1][:4]) for text in TEXTS]
    for i, text in enumerate(short):
        ids = loaded.tokenizer(text)["input_ids"]
        with torch.no_grad():
            hidden = loaded.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        words = [loaded.model(**loaded.tokenizer(w, return_tensors="pt")).last_hidden_state[0].mean(0) for w in WORDS]
        right = torch.stack([torch.cosine_similarity(hidden.mean(0), w, dim=0) for w in words])
        torch.testing.assert_close(task.logits(rows, [i])[0] / 20, right.detach(), rtol=0, atol=1e-5)
    assert rows.truncated == 2
    (folder / name).write_text(json.dumps({"max_seq_length": "long"}))
    with pytest.raises(ModelError, match="max_seq_length must be a number of tokens, got 'long'"):
        load(folder)
