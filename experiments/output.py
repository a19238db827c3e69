"""What a comparison or a reproduced table leaves and shows at its end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments import files, plots, terminal

RESULTS, PARTIAL, PICTURE = "results.json", "results.partial.json", "comparison.png"


def keep(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes what there is so far; an earlier run's results stay until all is done."""
    files.write_json(folder / PARTIAL, content)


def finish(folder: Path, content: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """Shows the results, and writes them and their picture; returns what was written."""
    finished = files.plain(content)
    terminal.show(finished, console)
    files.write_json(folder / RESULTS, finished)
    plots.accuracy_against_cost(finished, folder / PICTURE)
    (folder / PARTIAL).unlink(missing_ok=True)
    return finished
