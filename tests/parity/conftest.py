"""What needs a library that isn't of the tests' own; see `make parity`."""

import importlib.util
import sys
from pathlib import Path

# Not skipped, so that the default run has nothing to say of it.
NEEDED = ("torch", "transformers")
is_there = all(importlib.util.find_spec(name) for name in NEEDED)
collect_ignore = [] if is_there else ["test_transformers.py"]

# For the oracle beside the tests of the default suite.
sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
