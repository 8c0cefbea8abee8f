"""A run's kept weights beside the GGUF file that `zotune export --gguf f16` wrote of them, both in float32.

    python benchmarks/exported_file.py RUN FILE.gguf              # 16 prompts of the task json
    python benchmarks/exported_file.py RUN FILE.gguf --prompts 4 --tokens 16

Prints the largest and the root mean square difference of logits over all places of the prompts, and the share of equal
greedy answers.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from zotune.data.synthetic import make_splits
from zotune.models import loading
from zotune.models.loaded_model import LoadedModel
from zotune.models.model_files import find_model


def load(path: str) -> LoadedModel:
    files = find_model(path)
    return loading.load(files.source, files.folder, "causal", device="cpu", dtype="float32")


def prompts_of(loaded: LoadedModel, count: int) -> list[torch.Tensor]:
    """Token ids (1, length) of prompts in the model's chat template."""
    rows = make_splits("json")["test"][:count]
    chats = [[{"role": "user", "content": row["prompt"]}] for row in rows]
    return [
        loaded.tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).input_ids
        for chat in chats
    ]


@torch.no_grad()
def answers(loaded: LoadedModel, ids: torch.Tensor, tokens: int) -> tuple[torch.Tensor, Any]:
    """Logits (length, vocabulary) of a prompt, and the ids of a greedy answer."""
    model = loaded.unwrapped
    ids = ids.to(loaded.device)
    generated = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False
    )
    return model(input_ids=ids).logits[0].float(), generated[0, ids.shape[1] :].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run")
    parser.add_argument("file")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32)
    options = parser.parse_args()
    run, file = load(options.run), load(options.file)
    largest, squares, places, equal, spread, top = 0.0, 0.0, 0, 0, 0.0, 0
    ours, theirs = prompts_of(run, options.prompts), prompts_of(file, options.prompts)
    assert all(map(torch.equal, ours, theirs)), "the tokenizers split a prompt otherwise"
    for ids in ours:
        (a, answer), (b, exported) = (answers(model, ids, options.tokens) for model in (run, file))
        largest = max(largest, float((a - b).abs().max()))
        squares += float((a - b).square().mean(-1).sum())
        spread += float(a.std(-1).sum())
        top += int((a.argmax(-1) == b.argmax(-1)).sum())
        places += len(a)
        equal += answer == exported
    print(f"largest difference of logits {largest:.2g}, root mean square {(squares / places) ** 0.5:.2g}")
    print(f"logits spread by {spread / places:.2g} at a place; equal most probable tokens {top} of {places}")
    print(f"equal greedy answers of {options.tokens} tokens: {equal} of {len(ours)}")


if __name__ == "__main__":
    main()
