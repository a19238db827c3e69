"""What needs a library that isn't of the tests' own; see `make parity`."""

import importlib.util
import sys
from pathlib import Path

# Not skipped, so that the default run has nothing to say of it.
NEEDED = {
    "test_transformers.py": ("torch", "transformers"),
    "test_pytorch_optimizer.py": ("torch", "pytorch_optimizer"),
}
collect_ignore = [
    file
    for file, names in NEEDED.items()
    if not all(importlib.util.find_spec(name) for name in names)
]

# For the oracle beside the tests of the default suite.
sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
