#!/usr/bin/env bash
# Installs the built wheel into an empty environment and prints what a new user meets: seconds and size of the
# installation, seconds of `zotune --help`, a first run, its report, and a start without an environment (uvx, pipx).
#   scripts/fresh-install.sh [EXTRAS] [PYTHON]      extras: minilm by default
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras=${1:-minilm} python=${2:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
export HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1

seconds() { # LABEL COMMAND…: wall and CPU seconds
  local label=$1 TIMEFORMAT='%R s, of which %U s of computing'
  shift
  { time "$@" >"$work/out" 2>"$work/err" || { cat "$work/err" >&2; exit 1; }; } 2>"$work/time"
  printf '%-46s %s\n' "$label" "$(tail -n 1 "$work/time")"
}

builder=.venv/bin/python
[ -x "$builder" ] || builder=$python
"$builder" -m pip wheel --quiet --no-deps -c constraints.txt -w "$work/dist" .
wheel=$(ls "$work"/dist/*.whl)
printf '%-46s %s\n' "the wheel" "$(du -h "$wheel" | cut -f1)"
"$python" -m venv "$work/venv"
before=$(du -sm "$work/venv" | cut -f1)
seconds "pip install zotune[$extras]" "$work/venv/bin/python" -m pip install --quiet -c constraints.txt "$wheel[$extras]"
after=$(du -sm "$work/venv" | cut -f1)
torch=$(du -sm "$work"/venv/lib/python*/site-packages/torch | cut -f1)
printf '%-46s %s\n' "the environment" "$((after - before)) MB, of which torch $torch MB"

cd "$work"
zotune=$work/venv/bin/zotune
"$zotune" --help >/dev/null # compiles the modules' bytecode
for try in 1 2 3; do seconds "zotune --help, try $try" "$zotune" --help; done
seconds "zotune fit --objective f1 --max-evals 300" "$zotune" fit --objective f1 --max-evals 300 --output-dir run
sed -n '/^test f1/,/kept weights  /p' "$work/err"
seconds "zotune report run" "$zotune" report run
printf '%-46s %s\n' "run/report.html" "$(du -h run/report.html | cut -f1)"
for starter in uvx pipx; do
  command -v $starter >/dev/null || { printf '%-46s %s\n' "$starter" "not installed"; continue; }
  case $starter in
    uvx) seconds "uvx --from WHEEL zotune --version" uvx --python "$python" -c "$OLDPWD/constraints.txt" --from "$wheel" zotune --version ;;
    pipx) seconds "pipx run --spec WHEEL zotune --version" pipx run --python "$python" --pip-args="-c $OLDPWD/constraints.txt" --spec "$wheel" zotune --version ;;
  esac
done
