# make demo: from a fresh clone to two better models.   make smollm2: fetch the second one.
# make test: lint, types and the whole suite.
root := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
python := $(root).venv/bin/python
export HF_HUB_OFFLINE ?= 1

.PHONY: demo smollm2 test lint types suite wheel-test docs gpu-check setup setup-dev clean

demo: setup smollm2
	@bash $(root)scripts/demo.sh

smollm2: setup
	@bash $(root)scripts/smollm2.sh

test: setup-dev lint types suite

lint:
	cd $(root) && $(python) -m ruff check . && $(python) -m ruff format --check .

types:
	cd $(root) && $(python) -m mypy

suite:
	cd $(root) && OMP_NUM_THREADS=1 $(python) -m pytest -n 2 --dist worksteal

wheel-test: setup-dev
	bash $(root)scripts/wheel-test.sh

# make docs: build/site from docs/, with every link checked.
docs:
	@bash $(root)scripts/setup.sh docs
	cd $(root) && NO_MKDOCS_2_WARNING=1 $(python) -m mkdocs build --strict

# make gpu-check: measure all that is promised on a GPU; DEVICE=cpu runs the same parts on tiny shapes.
DEVICE ?= cuda
gpu-check:
	cd $(root) && $(if $(wildcard $(python)),$(python),python3) benchmarks/gpu_check.py --device $(DEVICE)

setup:
	@bash $(root)scripts/setup.sh minilm,gguf

setup-dev:
	@bash $(root)scripts/setup.sh minilm,gguf,dev

clean:
	rm -rf $(root).venv $(root)dist
