# `make help` lists the targets. Each does all its own set-up and is quick when repeated.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Small networks gain nothing from more threads, and runs side by side lose.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help train test test-slow check format bench evidence clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

train: $(VENV)/.installed  ## install pliant and run the quickstart
	$(BIN)/train-agent quickstart

test: $(VENV)/.installed-dev  ## install the development tools and run the tests
	$(BIN)/python -m pytest --numprocesses 2

test-slow: $(VENV)/.installed-dev  ## the tests that take longer than a few seconds each
	$(BIN)/python -m pytest -m slow --numprocesses 2

check: $(VENV)/.installed-dev  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev  ## put every file into the common format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-dev  ## measure speed beside the peers, on an idle machine
	$(BIN)/python -m tests.bench

EVIDENCE := cartpole-offset minigrid-dqn slippery-ant digits-random-labels digits-permuted digits-spectra digits-data

evidence: $(VENV)/.installed-dev  ## run every sweep of docs/evidence and make its tables and pictures; hours
	for name in $(EVIDENCE); do $(BIN)/pliant sweep docs/evidence/$$name.toml || exit; done
	$(BIN)/python docs/evidence/arms.py $(EVIDENCE:%=results/%)
	$(BIN)/python docs/evidence/collapse.py
	$(BIN)/python docs/evidence/data_alone.py results/digits-data results/cartpole-offset
	$(BIN)/python docs/evidence/tables.py

clean:  ## remove everything that was built; results/ stays
	rm -rf $(VENV) .typing build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "pliant needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# The stamps: installed again when the requirements change, not otherwise.
$(VENV)/.installed: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@mkdir -p .typing && ln -sfn .. .typing/pliant
	@touch $@ $(VENV)/.installed
