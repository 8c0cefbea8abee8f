"""A reward in a few lines: 1 where the answer is a JSON object with exactly the keys that the prompt asks for, else 0.

zotune fit -m MODEL --task json -o examples/json_reward.py:valid_json
"""

import json


def valid_json(completions: list[str], keys: list[list[str]]) -> list[float]:
    def score(text: str, wanted: list[str]) -> float:
        try:
            return float(sorted(json.loads(text)) == sorted(wanted))
        except (ValueError, TypeError):
            return 0.0

    return [score(*row) for row in zip(completions, keys, strict=True)]
