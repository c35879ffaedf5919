# Developer commands; `make help` lists them. Everything they need is installed by themselves: Debian packages as root,
# Python packages into .venv. PYTHON may name another interpreter (3.11 or newer), PYTEST hold options for pytest,
# FUZZ_SECONDS the time of each fuzzer. LAYERFS_STEPS and LAYERFS_ROUNDS in the environment make random tests and kills longer.
PYTHON ?= python3
PYTEST ?=
FUZZ_SECONDS ?= 60
VENV := .venv
BIN := $(VENV)/bin
LINT = $(BIN)/ruff check -q . && $(BIN)/ruff format -q --check . && $(BIN)/mypy

.DEFAULT_GOAL := help
.PHONY: help system needs venv build demo test lint bench sanitize fuzz clean
.NOTPARALLEL:

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

system: ## install the Debian packages that are missing, those of tests and benchmarks too (root)
	@sh tools/system.sh all

needs: # those alone without which nothing is built and used
	@sh tools/system.sh

venv: needs ## make .venv with everything a developer needs
	@PYTHON="$(PYTHON)" sh tools/venv.sh $(VENV)

build: venv ## compile the C parts in place: what has changed, on all processors
	@$(BIN)/python setup.py -q build_ext --inplace
	@$(BIN)/python -m compileall -q layerfs # as an installation does: where PYTHONDONTWRITEBYTECODE is set nobody else would

demo: build ## the main job on real input, step by step
	@$(BIN)/python tools/demo.py

test: system build ## linters, types and all tests
	@sh tools/docker.sh
	@failed=; { $(LINT); } || { failed=1; echo "the linters failed; the tests still run" >&2; }; \
	$(BIN)/python -m pytest $(PYTEST) && [ -z "$$failed" ]

lint: venv ## linters and types
	@$(LINT)

bench: system build ## the benchmarks, as ratios against peers on this machine; PYTEST="--quick" or "-k name" for a part
	@command -v npm >/dev/null || sh tools/system.sh npm || true
	@rm -f build/bench.json; LAYERFS_BENCH_OUT=build/bench.json $(BIN)/python -m pytest benchmarks -q -o testpaths=benchmarks --timeout=1200 $(PYTEST); \
	done=$$?; $(BIN)/python benchmarks/report.py build/bench.json && exit $$done

sanitize: system build ## the C parts under address, undefined and thread sanitizers
	@$(BIN)/python tools/sanitize.py

fuzz: build ## fuzz the readers of tars, trees and requests, FUZZ_SECONDS each
	@sh tools/system.sh clang libclang-rt-14-dev
	@$(BIN)/python tools/fuzz.py $(FUZZ_SECONDS)

clean: ## remove what was built
	@rm -rf build dist *.egg-info layerfs/*.so layerfs/libexec $(VENV)/.stamp
