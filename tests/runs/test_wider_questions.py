"""Several completions of the present weights, with a wish in words before the prompt of these alone."""

from __future__ import annotations

import pytest
from families import Families
from test_population_runs import PROMPTS, generation

from zotune.core.space import Space
from zotune.distributed import ALONE
from zotune.runs.training_signal import TrainingSignal
from zotune.runs.wider_questions import wider_completions
from zotune.scoring.objective import wrap
from zotune.types import WiderQuestions

CHAT = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


@pytest.mark.parametrize("chat", [False, True])
def test_the_wish_stands_before_the_prompt_of_these_completions_alone(families: Families, chat: bool) -> None:
    task, rows = generation(families, "llama")
    if chat:
        task.loaded.tokenizer.chat_template = CHAT
        rows = task.rows([{"messages": [{"role": "user", "content": p}]} for p in PROMPTS])
    plain = [rows.tokens[i][0] for i in range(len(PROMPTS))]
    assert task.prompts_after("", rows.records) == plain
    wished = task.prompts_after("the dog", rows.records)
    assert all(len(a) == len(b) + 2 and a[-1] == b[-1] for a, b in zip(wished, plain, strict=True))
    objective = wrap(lambda completions: [0.0 for _ in completions], "mine")
    signal = TrainingSignal(objective, task, rows, Space(task.loaded.model, 3), ALONE, smooth=0, samples=1)
    four = [wider_completions(signal, [0, 2], 4, WiderQuestions(4, 1.0, wish)) for wish in ("", "", "the dog")]
    assert four[0] == four[1]
    assert len(four[0]) == 8
    assert four[0] != four[2]
    assert len({tuple(ids) for ids in four[0][::2]}) > 1, "candidates of a prompt differ"
    assert (task.step, task.draw) == (0, 0)
