"""The protocol of inference engines: what generates a run's completions, of its present weights and of the members of a
population.

A run keeps the tuned weights itself: it reads the journal, writes checkpoints and measures the KL divergence. An engine
that holds weights of its own follows: it gets each step's update as text, a few numbers a member, and computes the same
bits; what no text describes, such as a restored checkpoint, it gets as a file. The run compares hashes.
`zotune.core.tensor_weights` has what an engine needs for that on torch tensors. This module knows no engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class EngineModel:
    """What an engine starts from.

    folder: configuration, weights and tokenizer as `from_pretrained` reads them. dtype: of the weights, such as
    "float32". tensors: shapes of the tuned tensors by canonical name, the names of transformers. seed: of the run, part
    of every noise key. rounding: version of stochastic rounding, 0 where no weight is rounded. rows: of a request with
    members, at most. max_length: tokens of prompt and completion together, at most. device: "cpu", "cuda" …
    """

    folder: Path
    dtype: str
    tensors: Mapping[str, tuple[int, ...]]
    seed: int
    rounding: int
    rows: int
    max_length: int
    device: str
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Members:
    """Members of a population of low-rank noise, θ ± S ∘ u_p v_pᵀ for pairs p = first … last − 1.

    step, draw: with the run's seed they fix the noise. count: pairs of the whole population. shapes: (rows, columns) of
    the matrices that have directions, by name. sizes: S by name; a matrix without one stays as it is. scales: a further
    factor of S for each pair of the population, empty for 1.
    """

    step: int
    draw: int
    count: int
    shapes: Mapping[str, tuple[int, int]]
    sizes: Mapping[str, float]
    scales: tuple[float, ...]
    first: int
    last: int


@dataclass(frozen=True)
class GenerationRequest:
    """Prompts to complete, as token ids.

    end_ids: tokens that end a completion. stop: texts that end one; an engine may go on after them, for the run cuts
    completions there. temperature: 0 is greedy, and the options after it do nothing; they are those of
    `zotune.data.task.Sampling`, in their order. keys: for each prompt the key of its Gumbel noise, which makes a draw
    independent of the other prompts (`zotune.tasks.gumbel`). seed: of the request, for engines with a generator of
    their own. members: None for the present weights; else the rows are ordered by sign, pair and place: as many for
    each member, those with + first.
    """

    prompts: Sequence[tuple[int, ...]]
    max_new_tokens: int
    end_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    keys: Sequence[int] = ()
    seed: int = 0
    members: Members | None = None


@dataclass(frozen=True)
class WeightUpdate:
    """The next weights of a run.

    step: the key of stochastic rounding. recipe: how they follow from the present ones, as text: for a population one
    number a pair and one a tensor, whatever the size of the model.
    """

    step: int
    recipe: str


class InferenceEngine(Protocol):
    """Generates completions with weights of its own that follow those of a run.

    Its class is what a plugin registers; the options of `--engine-arg` are the arguments of its constructor, which
    loads nothing. Every method may raise `zotune.errors.EngineError` with one line for the user.
    """

    def start(self, model: EngineModel) -> None:
        """Load the model. Called once, before every other method but `close`."""

    def versions(self) -> Mapping[str, str]:
        """Versions of the libraries that completions depend on, by name, for the journal's header."""

    def matrices(self) -> frozenset[str]:
        """Names of the tuned tensors that can differ from member to member."""

    def generate(self, request: GenerationRequest) -> list[list[int]]:
        """The ids of each completion, without the end token."""

    def update(self, update: WeightUpdate) -> None:
        """Replace the weights by those of the update: the same bits as the run computes."""

    def load(self, file: Path) -> None:
        """Replace the tuned weights by those of a safetensors file, by canonical name."""

    def export(self, file: Path) -> None:
        """Write the tuned weights to a safetensors file, by canonical name."""

    def weights_hash(self) -> str:
        """A hash of every bit of the tuned weights, as `TensorWeights.hash` computes it."""

    def close(self) -> None:
        """Free everything. May be called at any time, more than once."""


__all__ = ["EngineModel", "GenerationRequest", "InferenceEngine", "Members", "WeightUpdate"]
