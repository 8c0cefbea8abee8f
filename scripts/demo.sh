#!/usr/bin/env bash
# make demo: the embedded encoder for macro-F1, then a language model for answers in valid JSON.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
zotune=".venv/bin/python -m zotune"
number=1
while [ -e "runs/demo-json-$number" ]; do number=$((number + 1)); done
run=runs/demo-json-$number

show() { printf '\n$ %s\n' "$*" >&2; }

show zotune fit --objective f1 --max-evals 300
$zotune fit --objective f1 --max-evals 300

printf '\nThe reward, examples/json_reward.py:\n' >&2
sed '1,/^import json/d' examples/json_reward.py >&2
set -- fit -m build/SmolLM2-135M-Instruct.Q4_1.gguf --task json -o examples/json_reward.py:valid_json \
  --max-steps 4 --eval-steps 2 --max-new-tokens 32 --validation-rows 16 --test-rows 40 --output-dir "$run"
show zotune "$*"
$zotune "$@"

printf '\nboth models, side by side:    zotune chat %s\n' "$run" >&2
if [ -f "$run/report.html" ]; then printf 'the report of this run:      %s/report.html\n' "$run" >&2; fi
