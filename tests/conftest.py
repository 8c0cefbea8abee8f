"""Fixtures: tiny models, created here, and the real models and data where they are installed. Nothing is downloaded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True, scope="session")
def _handle_interrupts() -> None:
    """Handle Ctrl-C in the tests and in the processes that they start: a shell's background job ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and data beside the checkout, or a skipped test."""
    if not (SHARED / "models").is_dir():
        pytest.skip("no shared models and data beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the embedded encoder, or a skipped test."""
    from zotune.errors import ModelError
    from zotune.models.model_files import embedded_model_folder

    try:
        return embedded_model_folder()
    except ModelError:
        pytest.skip("the embedded encoder is not installed")


GOOD = ["good", "fine", "nice", "great", "lovely"]
BAD = ["bad", "poor", "awful", "weak", "dull"]
THINGS = ["film", "plot", "cast"]
WORDS = [*GOOD, *BAD, *THINGS, "the", "a", "was", "it", "very", "so", "not"]


def _tokenizer(folder: Path) -> None:
    """A word-level tokenizer, saved as a fast Hugging Face tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocab = {w: i for i, w in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)


def _save(folder: Path, cls: str, config: Any) -> Path:
    """Save a model of random weights and its tokenizer."""
    import torch
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        getattr(transformers, cls)(config).save_pretrained(folder)
    _tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig

    config = BertConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    return _save(tmp_path_factory.mktemp("encoder"), "BertModel", config)


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig

    config = BertConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        num_labels=2,
    )
    return _save(tmp_path_factory.mktemp("classifier"), "BertForSequenceClassification", config)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    return _save(tmp_path_factory.mktemp("llama"), "LlamaForCausalLM", config)


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Tiny models of every family, with a word-level and a byte-level tokenizer."""
    from families import Families

    return Families(tmp_path_factory.mktemp("families"))


def rows(n: int, offset: int = 0) -> list[dict[str, Any]]:
    """n records that a model can learn: good words have label 1, bad words label 0."""
    records = []
    for i in range(offset, offset + n):
        label = (i * 7) % 2
        word = (GOOD if label else BAD)[(i * 3) % 5]
        records.append({"text": f"the {THINGS[i % 3]} was {'very ' * (i % 3)}{word}", "label": label})
    return records


def numbered(n: int, classes: int = 2) -> list[dict[str, Any]]:
    """n records with numbered texts and alternating labels."""
    return [{"text": f"row {i}", "label": i % classes} for i in range(n)]


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A folder with train, validation and test files of `rows`."""
    folder = tmp_path / "toy"
    for i, (name, n) in enumerate((("train", 64), ("validation", 20), ("test", 20))):
        write_jsonl(folder / f"{name}.jsonl", rows(n, i * 100))
    return folder


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, families: Any) -> dict[str, Path]:
    """Run directories of five kinds, by kind; see `run_kinds`. Tests copy what they change."""
    from run_kinds import make_runs, prompts

    root = tmp_path_factory.mktemp("runs")
    for i, (name, n) in enumerate((("train", 32), ("validation", 20), ("test", 20))):
        write_jsonl(root / f"toy/{name}.jsonl", rows(n, i * 100))
    for i, (name, n) in enumerate((("train", 12), ("validation", 4), ("test", 6))):
        write_jsonl(root / f"data/{name}.jsonl", prompts(n, i * 12))
    return make_runs(root, tiny_encoder, families.folder("llama"), root / "toy", root / "data")


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs `python -m zotune` with these arguments in an empty folder."""

    def run(*args: object, env: dict[str, str] | None = None, **kw: Any) -> subprocess.CompletedProcess[str]:
        full = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **(env or {})}
        command = [sys.executable, "-m", "zotune", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=full, timeout=300, **kw)

    return run
