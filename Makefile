# Each target does everything it needs from a fresh machine with Python 3.11 or newer.
PYTHON  ?= python3
# Of `make test-all`, which needs all of them: python3.11, python3.12, python3.13.
PYTHONS ?= 3.11 3.12 3.13
VENV    ?= .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile --editable
PYTEST  := -m pytest -n auto --dist loadgroup

# An environment that has this set would compile JAX anew in each process.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo benchmark test test-library test-experiments test-slow test-all test-lowest \
	$(PYTHONS:%=test-%) times docs parity package release-check check format clean

demo: $(STAMP)  ## Compare all methods on digits: results/digits/
	$(BIN)/python -m experiments.compare

benchmark: $(STAMP)  ## Time, operations and memory of every method: results/benchmark/
	$(BIN)/python -m experiments.benchmark

test: check  ## Formatter, linter, type checker, and the short tests of all
	$(BIN)/python $(PYTEST) -m "not slow"

test-library: $(STAMP)  ## The short tests of ksam_jax: of long families some cases, spread evenly
	$(BIN)/python $(PYTEST) -m "not slow" tests ksam_jax --ignore=tests/experiments

test-experiments: $(STAMP)  ## Those of the experiments
	$(BIN)/python $(PYTEST) -m "not slow" tests/experiments

test-slow: $(STAMP)  ## All other cases and tests, which CI runs as well
	$(BIN)/python $(PYTEST) -m slow

# The second run measures the choice of the first: what a test that is left out compiled
# for others is now compiled by the next.
times: $(STAMP)  ## Measure all tests, and choose anew which are short: tests/shares.txt
	$(BIN)/python $(PYTEST) --write-shares all
	$(BIN)/python $(PYTEST) --write-shares short -m "not slow"

test-all: test test-slow docs package $(PYTHONS:%=test-%) test-lowest  ## Everything, on all Pythons

$(PYTHONS:%=test-%): test-%: .venv-%/.installed  ## `make test` with one Python, such as test-3.12
	.venv-$*/bin/python $(PYTEST) -m "not slow"

test-lowest: .venv-lowest/.installed  ## The same with the oldest versions that pyproject.toml allows
	.venv-lowest/bin/python $(PYTEST) -m "not slow"

# The variable silences an advertisement for the successor of mkdocs-material.
docs: .venv-docs/.installed  ## The documentation, strictly, into site/
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

package: $(STAMP)  ## Wheel and sdist into dist/, and both tried in empty environments
	rm -rf dist .venv-package
	$(BIN)/python -m build --outdir dist
	sh tests/package.sh $(PYTHON) .venv-package dist/*

release-check: package  ## What stands against a release, and what of it is left for a person
	$(BIN)/python tests/release.py

parity: .venv-parity/.installed  ## Compare our BERT and methods with others', in an environment of its own (6 GB)
	.venv-parity/bin/python -m pytest tests/parity

check: $(STAMP)  ## Formatter, linter and type checker, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(STAMP)  ## Apply the formatter and the linter's safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Each is written last, so that an interrupted install is done again.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"ksam_jax needs Python 3.11 or newer; {sys.executable} is {v.major}.{v.minor}. Name another: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) '.[experiments,test]' --constraint constraints.txt
	touch $@

.venv-parity/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(INSTALL) '.[experiments,test,parity]' --constraint constraints.txt
	touch $@

.venv-docs/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(INSTALL) '.[docs]' --constraint constraints.txt
	touch $@

.venv-lowest/.installed: pyproject.toml tests/lowest.py
	python3.11 -m venv $(@D)
	python3.11 tests/lowest.py pyproject.toml > $(@D)/lowest.txt
	$(@D)/bin/python $(INSTALL) '.[experiments,test]' --constraint $(@D)/lowest.txt
	touch $@

.venv-3.%/.installed: pyproject.toml constraints.txt
	python3.$* -m venv $(@D)
	$(@D)/bin/python $(INSTALL) '.[experiments,test]' --constraint constraints.txt
	touch $@

clean:  ## Remove virtual environments, caches and what was built
	rm -rf .venv .venv-* $(VENV) .pytest_cache .ruff_cache .hypothesis site dist
