# Developer commands; `make help` lists them. PYTHON may name another interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help system venv build demo test lint bench sanitize clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

system: ## install the Debian packages that are missing (root)
	@sh tools/system.sh

venv: $(VENV)/.stamp ## make .venv with everything a developer needs

$(VENV)/.stamp: pyproject.toml | system
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]' 2>&1 | grep -v '^WARNING: Location' || true
	@touch $@

build: venv ## compile the C parts in place
	@$(BIN)/python setup.py -q build_ext --inplace

demo: build ## the main job on real input, step by step
	@$(BIN)/python tools/demo.py

test: build ## all tests
	@$(BIN)/ruff check -q . && $(BIN)/ruff format -q --check . && $(BIN)/mypy
	@$(BIN)/python -m pytest

lint: venv ## linters and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: build ## the benchmarks, as ratios against peers on this machine
	@$(BIN)/python -m pytest benchmarks -o testpaths=benchmarks

clean: ## remove what was built
	@rm -rf build dist *.egg-info layerfs/*.so layerfs/libexec $(VENV)/.stamp
