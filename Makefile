# Each target does everything it needs from a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo benchmark test check format clean

demo: $(STAMP)  ## Compare all methods on digits: results/digits/
	$(BIN)/python -m experiments.compare

benchmark: $(STAMP)  ## Time, operations and memory of every method: results/benchmark/
	$(BIN)/python -m experiments.benchmark

test: check  ## Formatter, linter, type checker, then every test
	$(BIN)/python -m pytest -n auto --dist loadgroup

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

clean:  ## Remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
