# Every target makes its own virtual environment: a fresh clone needs nothing but Python 3.11 or newer.
#   make demo               a synthetic release, converted, opened and plotted
#   make test               the tests
#   make test-quick         those of pure functions, in under two minutes
#   make test-versions      those that versions of Python and of the libraries could change
#   make fuzz               hostile input for as long as SECONDS says
#   make viewer             the page of `view`: lint, types and tests of its source, and that it is what is built; needs npm
#   make docs               the documentation, in site/; warnings are errors
#   make bench              the benchmarks at toy size, as the tests run them
#   make check              what CI runs: lint, types, docs, demo, notebooks, tests

VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= isles24-demo
SECONDS ?= 60
# the first Python that is new enough; PYTHON=... chooses another
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

# which read and write stores, and start processes; the others compute, or are as long for what they wait for
VERSION_TESTS := $(addprefix tests/test_,$(addsuffix .py,architecture cli cluster cohort convert dataset export images \
	records resume s3 synthetic tables urls verify versions))

QUICK_TESTS := $(addprefix tests/test_,$(addsuffix .py,accessors architecture charts grid layout masks nifti options \
	phenotype release rows shards))

.PHONY: demo test test-quick test-versions fuzz lint types viewer bench notebooks docs check clean
.DELETE_ON_ERROR:

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "isles24-zarr needs Python 3.11 or newer; give one by PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# what the demo needs, what the tests need, and all that developers and CI need
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[plot]"
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	@touch $(VENV)/.demo $@

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $(VENV)/.demo $(VENV)/.test $@

demo: $(VENV)/.demo
	$(BIN)/isles24-zarr demo $(DEMO)

test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

test-versions: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile $(VERSION_TESTS)

test-quick: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile $(QUICK_TESTS)

fuzz: $(VENV)/.test
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

viewer:
	@if ! command -v npm >/dev/null || ! npm ping --silent >/dev/null 2>&1; then echo "no npm, the page is not built again"; \
	else cd viewer && npm ci --silent --no-fund --no-audit && npm run --silent check; fi

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks --scale tiny

notebooks: $(VENV)/.installed
	@for notebook in notebooks/*.ipynb; do \
		if grep -q 'import torch' $$notebook && ! $(BIN)/python -c 'import torch' 2>/dev/null; then \
			echo "$$notebook is left out, PyTorch is not installed"; \
		else $(BIN)/jupyter execute $$notebook || exit 1; fi; done

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: lint types viewer docs demo notebooks test

clean:
	rm -rf $(VENV) $(DEMO) site .mypy_cache .pytest_cache .ruff_cache .hypothesis
