"""What a comparison or another table of methods leaves and shows at its end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.results import plots, terminal
from experiments.results.contents import COMPARISON, Comparison

RESULTS, PARTIAL = "results.json", "results.partial.json"
PICTURE, SLICE = "comparison.png", "slice.png"


def keep(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes what there is so far; an earlier run's results stay until all is done."""
    COMPARISON.write(folder / PARTIAL, content)


def finish(folder: Path, content: Mapping[str, Any], console: Console) -> Comparison:
    """Writes the results, shows them and draws their picture; returns what was written."""
    finished = COMPARISON.write(folder / RESULTS, content)
    terminal.show(finished, console)
    plots.accuracy_against_cost(finished, folder / PICTURE)
    (folder / PARTIAL).unlink(missing_ok=True)
    return finished
