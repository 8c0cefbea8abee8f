"""A loaded model: the transformers model, its tokenizer, and what the rest of zotune asks of both.

Knows attributes of transformers' and peft's models; knows no files and no task.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zotune.errors import ModelError
from zotune.models.configuration import config_value, text_config
from zotune.models.heads import Head
from zotune.models.sentence_encoder import SentenceEncoder

LINEAR_HEAD = "linear_head"
"""The attribute that holds a linear classification head on an embedding model, and the name of its saved tensors."""
POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "longformer")
"""Model types whose position ids start after the padding's id: their position table has two entries without a token."""


@dataclass
class LoadedModel:
    """A model in eval mode with its tokenizer.

    model: the transformers model, or peft's wrapper around it; source: the folder or hub id that it was loaded from;
    folder: the folder of its files, None for a hub id; encoder: how an embedding model pools its tokens;
    virtual_tokens: tokens of a prefix, which take part of the context length. notes: what the user must know of how the
    files were read. drawn: names of the tensors of a classification head that were drawn, for the files have none.
    """

    model: Any
    tokenizer: Any
    head: Head
    source: str
    folder: Path | None
    device: torch.device
    encoder: SentenceEncoder = field(default_factory=SentenceEncoder)
    virtual_tokens: int = 0
    notes: tuple[str, ...] = ()
    drawn: frozenset[str] = frozenset()

    @property
    def unwrapped(self) -> Any:
        """The transformers model, without peft's wrapper."""
        get_base_model = config_value(self.model, "get_base_model")
        return self.model if get_base_model is None else get_base_model()

    @property
    def config(self) -> Any:
        """The configuration of the transformers model, or of its text part."""
        return text_config(self.unwrapped.config)

    @property
    def linear_head(self) -> Any:
        """The linear classification head on an embedding model, a torch.nn.Linear, or None."""
        return config_value(self.unwrapped, LINEAR_HEAD)

    def last_linear(self) -> nn.Linear:
        """The linear layer at the end of a classification head. Raises ModelError where there is none."""
        classes = self.unwrapped.config.num_labels
        layers = [m for m in self.unwrapped.modules() if isinstance(m, nn.Linear) and m.out_features == classes]
        if not layers:
            raise ModelError(
                f"the classification head of {self.source} does not end in a linear layer of {classes} classes"
            )
        return layers[-1]

    @property
    def context_length(self) -> int | None:
        """Tokens that the model reads at once, a prefix included; None where its configuration does not tell."""
        config = self.config
        positions = config_value(config, "max_position_embeddings") or config_value(config, "n_positions")
        if not isinstance(positions, int) or positions <= 0:
            return None
        return positions - 2 if config_value(config, "model_type", "") in POSITIONS_AFTER_PADDING else positions

    def accepts(self, argument: str) -> bool:
        """Whether the forward pass has an argument of this name."""
        return argument in signature(self.unwrapped.forward).parameters

    @property
    def pad_token_id(self) -> int:
        """The id that rows are padded with. The configuration's id comes first: some models find padding by it."""
        configured: int | None = config_value(self.config, "pad_token_id")
        return self.tokenizer.pad_token_id or 0 if configured is None else configured

    @property
    def decoder_start_ids(self) -> tuple[int, ...]:
        """The ids that the decoder of a sequence-to-sequence model starts from: one id, or two where generation forces
        a first token."""
        config, generation = self.unwrapped.config, config_value(self.unwrapped, "generation_config")
        start = config_value(config, "decoder_start_token_id")
        start = config_value(generation, "decoder_start_token_id") if start is None else start
        start = config.pad_token_id if start is None else start
        forced = config_value(generation, "forced_bos_token_id")
        return (start,) if forced is None else (start, forced)

    @property
    def class_names(self) -> list[str]:
        """The class names in the model's configuration, in class order."""
        names: dict[int, str] = self.unwrapped.config.id2label
        return [names[key] for key in sorted(names)]

    def set_class_names(self, names: list[str]) -> None:
        """Write the class names into the model's configuration, which is saved with the model."""
        config: Any = self.unwrapped.config
        config.id2label = dict(enumerate(names))
        config.label2id = {name: i for i, name in enumerate(names)}


def base_dtype(loaded: LoadedModel) -> str:
    """The name of the type of a model's first weight, such as bfloat16."""
    return str(next(iter(loaded.model.parameters())).dtype).removeprefix("torch.")


def add_linear_head(loaded: LoadedModel, classes: int) -> nn.Linear:
    """Add a linear classification head to an embedding model: weight (classes, hidden size) and bias (classes,), all
    zero. The head is tuned, saved and loaded with the model."""
    layer = nn.Linear(loaded.config.hidden_size, classes, device=loaded.device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    setattr(loaded.unwrapped, LINEAR_HEAD, layer)
    return layer


def load_linear_head(loaded: LoadedModel, folder: Path) -> None:
    """Add the linear classification head that the folder of a model or adapter holds, if it holds one. Neither
    transformers nor peft loads it: the head is no part of the model's class."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            names = {n: n.rpartition(".")[2] for n in file.keys() if n.split(".")[-2:-1] == [LINEAR_HEAD]}  # noqa: SIM118
            if names:
                tensors = {short: file.get_tensor(name) for name, short in names.items()}
                add_linear_head(loaded, len(tensors["bias"])).load_state_dict(tensors)
                return


__all__ = ["LINEAR_HEAD", "LoadedModel", "add_linear_head", "base_dtype", "load_linear_head"]
