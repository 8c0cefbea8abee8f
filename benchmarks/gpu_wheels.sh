#!/usr/bin/env bash
# Collects the pure-Python packages that benchmarks/gpu_check.py needs as wheels in build/gpu-wheels (ignored by git), for
# a GPU machine without a network. Compiled packages (torch, transformers' tokenizers, …) must be on that machine already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=${1:-build/gpu-wheels}
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
mkdir -p "$folder"
"$python" -m pip wheel --quiet --no-deps --disable-pip-version-check -c constraints.txt -w "$folder" \
  pluggy peft accelerate click rich markdown-it-py mdurl pygments \
  rouge-score nltk defusedxml absl-py six narwhals
for wheel in "$folder"/*.whl; do
  case $wheel in
    *-none-any.whl) ;;
    *) echo "gpu_wheels: $wheel holds compiled code for this machine" >&2; exit 1 ;;
  esac
done
du -sh "$folder"
