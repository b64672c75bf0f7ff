# `make demo` and `make test` need nothing but Python >= 3.11: each creates .venv and installs from PyPI.
# Options:  PYTHON=python3.12       the interpreter to build .venv from
#           PIP_FLAGS="..."         more flags for pip, e.g. an index with CPU-only torch wheels (a much smaller download)
#           PYTEST_FLAGS="..."      more flags for pytest

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_FLAGS ?=
PYTEST_FLAGS ?=
PYTEST_WORKERS ?= 3

# Every test process computes on one thread. Three workers on two cores: many tests wait for processes to start and to end.
SINGLE_THREADED := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# Tests start hundreds of processes: none is to translate our sources anew because the environment forbids to keep that.
TESTED := $(SINGLE_THREADED) PYTHONDONTWRITEBYTECODE=

DEMO_STAMP := $(VENV)/.installed-demo
TEST_STAMP := $(VENV)/.installed-test

# PLUMED for the tests: a kernel and the module `plumed`, which this wheel carries. What else it needs is not wanted here.
PLUMED_WHEEL := $(shell sed -n 's/^\# \(hillclimber==.*\)/\1/p' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-quick physics lint format types loops bench clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "make: '$(PYTHON)' is not on PATH. Install Python 3.11 or newer, or say which one: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: deltaqmmm needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Say which one to use: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) -V 2>&1)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "make: '$(PYTHON) -m venv' failed. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

$(DEMO_STAMP): $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_FLAGS) -c constraints.txt -e '.[demo]'
	@touch $@

$(TEST_STAMP): $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_FLAGS) -c constraints.txt -e '.[test]'
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_FLAGS) --no-deps $(PLUMED_WHEEL) || \
	  echo "make: $(PLUMED_WHEEL) could not be installed (it has wheels for Linux on x86_64): the tests that need PLUMED are skipped" >&2
	@touch $@ $(DEMO_STAMP)

install: $(DEMO_STAMP)  ## create .venv with deltaqmmm and i-PI in it

demo: $(DEMO_STAMP)  ## path-integral MD of uracil in water, end to end (about 3 minutes)
	$(BIN)/python examples/uracil_water/demo.py

test: $(TEST_STAMP)  ## lint, format check, types, import rules, and every test
	@$(MAKE) --no-print-directory --jobs 2 lint types loops
	$(TESTED) $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal $(PYTEST_FLAGS)

test-quick: $(TEST_STAMP)  ## only the tests not marked slow
	$(TESTED) $(BIN)/python -m pytest -n $(PYTEST_WORKERS) -m "not slow and not physics" $(PYTEST_FLAGS)

physics: $(TEST_STAMP)  ## the physics of ipi_inputs: simulations of minutes each, against theory and each other
	$(TESTED) $(BIN)/python -m pytest -m physics tests/physics $(PYTEST_FLAGS)

lint: $(TEST_STAMP)  ## ruff (lint and format) and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(TEST_STAMP)  ## mypy --strict on the package
	$(BIN)/mypy --strict driver

# Otherwise the first tests wait for them, and two workers compile the same.
loops: $(TEST_STAMP)  ## compile the loops once, for all that starts later
	$(TESTED) $(BIN)/deltaqmmm check examples/uracil_water/box/config.toml

format: $(TEST_STAMP)  ## rewrite the sources in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What to time, and how: make bench BENCH="dftb --quick"
BENCH ?= all

bench: $(DEMO_STAMP)  ## times beside DFTB+, sander, OpenMM, LAPACK and i-PI (about an hour; BENCH="--help" explains)
	$(BIN)/python -m benchmarks $(BENCH)

clean:  ## remove .venv and everything that can be made again
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf driver/*.egg-info examples/uracil_water/demo ipi_inputs/*/study
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
