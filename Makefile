# Each target does everything it needs from a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
VENV   ?= .venv
PARITY ?= .venv-parity
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo benchmark test test-slow parity check format clean

demo: $(STAMP)  ## Compare all methods on digits: results/digits/
	$(BIN)/python -m experiments.compare

benchmark: $(STAMP)  ## Time, operations and memory of every method: results/benchmark/
	$(BIN)/python -m experiments.benchmark

test: check  ## Formatter, linter, type checker, then every test but the slow ones
	$(BIN)/python -m pytest -n auto --dist loadgroup -m "not slow"

test-slow: $(STAMP)  ## The slow tests, which CI runs as well
	$(BIN)/python -m pytest -n auto --dist loadgroup -m slow

parity: $(PARITY)/.installed  ## Compare our BERT with transformers', in an environment of its own (6 GB)
	$(PARITY)/bin/python -m pytest tests/parity

check: $(STAMP)  ## Formatter, linter and type checker, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(STAMP)  ## Apply the formatter and the linter's safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Written last, so that an interrupted install is done again.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"ksam_jax needs Python 3.11 or newer; {sys.executable} is {v.major}.{v.minor}. Name another: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
		--constraint constraints.txt --editable '.[experiments,test]'
	touch $@

$(PARITY)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(PARITY)
	$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile \
		--constraint constraints.txt --editable '.[experiments,test,parity]'
	touch $@

clean:  ## Remove the virtual environment and caches
	rm -rf $(VENV) $(PARITY) .pytest_cache .ruff_cache .hypothesis
