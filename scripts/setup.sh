#!/usr/bin/env bash
# Makes .venv beside pyproject.toml and installs zotune with the extras given, such as minilm,gguf. A second call does
# nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras=${1:?usage: setup.sh EXTRAS}

stamp=.venv/.zotune-$(cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
missing=
for extra in ${extras//,/ }; do
  grep -qsx "$extra" "$stamp" || missing=$extra
done
if grep -qsx "$PWD" "$stamp" && [ -z "$missing" ]; then exit 0; fi

python=
for candidate in python3 python3.13 python3.12 python3.11; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
  echo "zotune: Python 3.11 or newer is needed; found $(python3 --version 2>&1 || echo none)" >&2
  exit 2
fi
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
  echo "zotune: $python has no venv module; on Debian: apt-get install python3-venv" >&2
  exit 2
fi
free=$(df -Pm . | awk 'NR == 2 {print $4}')
if [ "$free" -lt 4000 ]; then
  echo "zotune: the installation needs 4 GB of disk, $free MB are free in $PWD" >&2
  exit 2
fi

echo "installing zotune[$extras] into .venv (once; a few minutes)" >&2
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extras]"
installed=$(cat "$stamp" 2>/dev/null || true)
{ echo "$PWD"; printf '%s\n' ${extras//,/ } $installed; } | sort -u > "$stamp.new"
mv "$stamp.new" "$stamp"
