"""Multiple choice: a language model chooses one of each row's own options by the log-probability of their words.

Knows language models and records; knows no objective.
"""

from __future__ import annotations

from torch import Tensor

from zotune.tasks.worded_options import WordedOptions


class MultipleChoice(WordedOptions):
    """Multiple choice. The text after the option is part of what is scored; the loss is that of the correct option's
    words by teacher forcing, not a cross-entropy over the options."""

    after_answer = "score"

    def _log_probabilities(self, logits: Tensor) -> Tensor:
        return logits.float()


__all__ = ["MultipleChoice"]
