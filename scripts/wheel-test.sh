#!/usr/bin/env bash
# Builds the wheel, installs it in a clean environment and runs the suite against it from outside the checkout.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

.venv/bin/python -m pip wheel --quiet --no-deps --disable-pip-version-check -c constraints.txt -w "$work/dist" .
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt \
  "$(ls "$work"/dist/*.whl)[minilm,text,cma]" pytest pytest-xdist hypothesis hatchling
mkdir -p "$work/outside/zotune"
cp -r tests examples benchmarks pyproject.toml "$work/outside/zotune/"
[ -d ../shared ] && ln -s "$root/../shared" "$work/outside/shared"

cd "$work/outside/zotune"
export HF_HUB_OFFLINE=1
"$work/venv/bin/python" - "$root" <<'PY'
import sys, zotune, zotune_engines, zotune_optimizers, zotune_objectives, zotune_trackers
from zotune.runs.plan import embedded_data
for module in (zotune, zotune_engines, zotune_optimizers, zotune_objectives, zotune_trackers):
    assert "site-packages" in module.__file__, module.__file__
assert (embedded_data() / "test.jsonl").is_file()
PY
"$work/venv/bin/zotune" plugins --check
"$work/venv/bin/zotune" fit --objective f1 --max-evals 60 --eval-steps 10 --output-dir smoke --quiet --json > smoke.json
"$work/venv/bin/zotune" eval -m smoke -o f1 --limit 50
OMP_NUM_THREADS=1 "$work/venv/bin/python" -m pytest -n 2 --dist worksteal -p no:cacheprovider
