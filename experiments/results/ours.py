"""What the rows gave that this project has run, from its committed results."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

from experiments.configs.experiment import Published, Row
from experiments.results import wording
from experiments.shell import files

FOLDER = Path(__file__).parents[2] / "results" / "reference" / "reproduce"


def ours(row: Row, folder: Path = FOLDER) -> Published | None:
    """Our own result with just the row's settings; None if there is none.

    Args:
      row: a named experiment.
      folder: of reproduced tables, one folder each.
    """
    method = row.experiment.method
    content = _content(folder / row.family / "results.json")
    entry = content.get("methods", {}).get(method)
    if entry is None or not _is_of(entry, row, content):
        return None
    found = entry["summary"]
    accuracy = found[wording.key(content)]
    std = accuracy["std_over_seeds"]
    return Published(
        accuracy=100 * accuracy["mean"],
        spread=None if std is None else 100 * std,
        seeds=found["seeds"],
        source=f"Ours, {found['seeds']} seeds, {content['machine']['cpu']} "
        f"(results/reference/reproduce/{row.family})".replace(" 1 seeds", " 1 seed"),
    )


@functools.cache
def _content(path: Path) -> dict[str, Any]:
    # Without a clone of the project there are only published figures.
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _is_of(entry: dict[str, Any], row: Row, content: dict[str, Any]) -> bool:
    """Whether it was made with the settings that the row has now."""
    (one,) = entry["runs"]
    now = {name: getattr(row.experiment, name) for name in one["hyperparameters"]}
    # Older files lack settings that are new, and the model is there in words.
    shared = files.plain(dataclasses.asdict(row.experiment))
    same = [
        shared[name] == value
        for name, value in content["protocol"].items()
        if name in shared and name != "model"
    ]
    return now == one["hyperparameters"] and all(same)
