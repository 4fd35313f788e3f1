# perpgym: `make demo` and `make test` need nothing but Python 3.11; each makes .venv when it is missing.

PYTHON ?= python3.11
VENV := .venv
BENCH_VENV := .venv-bench
BIN := $(VENV)/bin
PACKAGES := envs agents live

.PHONY: demo test soak lint format bench clean help

help:
	@echo "make demo    train a small policy, backtest it, run it on the paper exchange"
	@echo "make test    run the tests"
	@echo "make lint    ruff, formatting, mypy"
	@echo "make bench   run the benchmarks (minutes; on an idle machine)"
	@echo "make soak    the long tests"

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "perpgym needs Python 3.11: install it, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp per set of extras: an install runs again only when pyproject.toml changes.
$(VENV)/.train: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[train,test]'
	@touch $@ $(VENV)/.train

# An environment of its own: what is measured beside pins old versions of libraries that the tests use.
$(BENCH_VENV)/.bench: pyproject.toml
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --editable '.[train,bench]'
	@touch $@

demo: $(VENV)/.train
	PYTHON=$(BIN)/python ./scripts/demo.sh

test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

soak: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES)
	$(BIN)/mypy live.py

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(BENCH_VENV)/.bench
	@for module in $(notdir $(basename $(filter-out tests/benchmarks/_%,$(wildcard tests/benchmarks/*.py)))); do \
		$(BENCH_VENV)/bin/python -m tests.benchmarks.$$module || exit 1; done

clean:
	rm -rf $(VENV) $(BENCH_VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
