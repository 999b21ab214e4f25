# make run    the main job on the demo world          make test   everything that must hold
# make viz    the pipelines in the browser            make mlflow the runs in the browser
# make lint   ruff, mypy, import-linter               make bench  speed against the bare maths
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: run test lint viz mlflow bench docs clean install

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
ARGS ?=

run: $(STAMP)
	$(BIN)/kedro run $(ARGS)
	@$(BIN)/python -m s5_kedro.summary

test: lint
	$(BIN)/pytest -n 2 --cov --cov-report=term-missing:skip-covered --cov-fail-under=85 $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

viz: $(STAMP)
	$(BIN)/kedro viz run $(ARGS)

mlflow: $(STAMP)
	$(BIN)/kedro mlflow ui $(ARGS)

bench: $(STAMP)
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/s4p_step.py
	$(BIN)/python benchmarks/loading.py
	$(BIN)/python benchmarks/networks.py
	$(BIN)/python benchmarks/scoring.py --shards
	$(BIN)/python benchmarks/selection.py
	$(BIN)/python benchmarks/scene_inference.py

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

install: $(STAMP)

# The stamp is newer than what it was made from, or everything is installed again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "S5 needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; give another one with make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $(STAMP)

# Leaves .venv, data/ and the MLflow store alone.
clean:
	rm -rf build site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage* src/*.egg-info
