"""One notebook in `make test`; the others take minutes, and CI runs them too."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
QUICK = "quickstart.ipynb"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == FOLDER and item.path.name != QUICK:
            item.add_marker(pytest.mark.slow)
