"""What the rows gave that this project has run, from its committed results."""

import dataclasses
import functools
from pathlib import Path

from experiments.configs.experiment import Published, Row
from experiments.data import catalogue
from experiments.results import wording
from experiments.results.contents import COMPARISON, Comparison, Entry, quoted
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
    entry = content["methods"].get(method) if content else None
    if content is None or entry is None or not _is_of(entry, row, content):
        return None
    found = entry["summary"]
    accuracy = quoted(found, wording.key(content))
    mean, std = accuracy["mean"], accuracy["std_over_seeds"]
    if mean is None:
        return None
    return Published(
        accuracy=100 * mean,
        spread=None if std is None else 100 * std,
        seeds=found["seeds"],
        source=f"Ours, {found['seeds']} seeds, {content['machine']['cpu']} "
        f"(results/reference/reproduce/{row.family})".replace(" 1 seeds", " 1 seed"),
    )


@functools.cache
def _content(path: Path) -> Comparison | None:
    # Without a clone of the project there are only published figures.
    return COMPARISON.read(path) if path.exists() else None


def _is_of(entry: Entry, row: Row, content: Comparison) -> bool:
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
    pixels = catalogue.named(row.experiment.dataset).pixels
    same.append(content["protocol"].get("pixels", "") == pixels)
    return now == one["hyperparameters"] and all(same)
