"""What a comparison or another table of methods leaves and shows at its end."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.results import plots, terminal
from experiments.shell import files

RESULTS, PARTIAL = "results.json", "results.partial.json"
PICTURE, SLICE = "comparison.png", "slice.png"


def keep(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes what there is so far; an earlier run's results stay until all is done."""
    files.write_json(folder / PARTIAL, content)


def kept(folder: Path, name: str = PARTIAL) -> dict[str, Any]:
    """What `keep` has written of a run that was stopped; {} if there is nothing."""
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def finish(folder: Path, content: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """Shows the results, and writes them and their picture; returns what was written."""
    finished = files.plain(content)
    terminal.show(finished, console)
    files.write_json(folder / RESULTS, finished)
    plots.accuracy_against_cost(finished, folder / PICTURE)
    (folder / PARTIAL).unlink(missing_ok=True)
    return finished
