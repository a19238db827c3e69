"""A grid's outcomes as the content of results.json, in the format of a comparison's."""

import dataclasses
import datetime
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.configs.experiment import OWN, Experiment, Row
from experiments.configs.tables import Table
from experiments.data import catalogue
from experiments.data.drawn import SPLIT
from experiments.methods import COMMON
from experiments.models import zoo
from experiments.results import records
from experiments.results.report import counted
from experiments.shell import files
from experiments.training.harness.contents import Result, found
from experiments.training.harness.grid import Outcome

JPEG = (
    "The images here were stored as JPEG, with losses; published accuracies are of the "
    "lossless ones, so they aren't comparable."
)
# Settings that a method may have for itself; the rest is the table's.
METHODS_OWN = ("method", "seed", *COMMON, *OWN)


def content(table: Table, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What is known so far: all of results.json but the command and the costs.

    Args:
      table: what was reproduced.
      outcomes: of its runs, by seed and then by row; one is enough.
    """
    experiment = outcomes[0].cell.experiment
    metric = _quoted(experiment)
    by_row: dict[Row, list[Outcome]] = {}
    for outcome in outcomes:
        by_row.setdefault(outcome.cell.row, []).append(outcome)
    finished = [outcome.result for outcome in outcomes if outcome.result]
    summary = records.summarised(
        {row.experiment.method: [_entry(mine, metric)] for row, mine in by_row.items()},
        metric,
        experiment.optimizer,
    )
    for row, mine in by_row.items():
        summary["methods"][row.experiment.method] |= _beside(row, mine)
    return {
        "table": table.name,
        "metric": metric,
        "baseline": experiment.optimizer,
        "date": datetime.date.today().isoformat(),
        **_what(table, outcomes, finished),
        "config": {
            "methods": list(summary["methods"]),
            "seeds": len({outcome.cell.experiment.seed for outcome in outcomes}),
            "splits": 1,
            "label_noise": 0.0,
        },
        "notes": [*_notes(outcomes, finished), _origin(list(by_row))],
        "machine": files.machine(),
        "versions": files.versions(),
        "seconds": round(sum(result["seconds"] for result in finished), 1),
        **summary,
    }


def _quoted(experiment: Experiment) -> str:
    return catalogue.named(experiment.dataset).metrics[0]


def _entry(mine: Sequence[Outcome], metric: str) -> dict[str, Any]:
    """One method's finished runs, one value for each seed."""
    results = [outcome.result for outcome in mine if outcome.result]
    experiment = mine[0].cell.experiment
    given = {name: getattr(experiment, name) for name in (*COMMON, *OWN)}
    last = (f"test_{metric}", f"validation_{metric}", "train_loss")
    return {
        "split": SPLIT,
        "hyperparameters": {k: v for k, v in given.items() if v is not None},
        "seeds": [result["experiment"]["seed"] for result in results],
        **{name: [found(result["last"], name) for result in results] for name in last},
        "sharpness": [result["sharpness"] for result in results],
        "seconds": [round(result["seconds"], 2) for result in results],
    }


def _beside(row: Row, mine: Sequence[Outcome]) -> dict[str, Any]:
    """What a comparison doesn't have."""
    failed = [
        {"seed": outcome.cell.experiment.seed, "message": outcome.failure}
        for outcome in mine
        if outcome.failure
    ]
    same = _is_as_published(mine[0].cell.experiment, row.experiment)
    published = row.published if same else None
    return {
        "config": row.name,
        "failed": failed,
        "published": dataclasses.asdict(published) if published else None,
    }


def _is_as_published(experiment: Experiment, row: Experiment) -> bool:
    return experiment.epochs == row.epochs


def _what(
    table: Table, outcomes: Sequence[Outcome], finished: Sequence[Result]
) -> dict[str, Any]:
    """What was trained on what, in the words of a comparison."""
    experiment = outcomes[0].cell.experiment
    shared = dataclasses.asdict(experiment)
    shared = {name: value for name, value in shared.items() if name not in METHODS_OWN}
    if experiment.pretrained is not None:
        # Whose folder it is in is nobody's business.
        shared["pretrained"] = Path(experiment.pretrained).name
    pixels = catalogue.named(experiment.dataset).pixels
    sizes = {"title": table.title, "train": 0, "validation": 0, "test": 0}
    return {
        "dataset": {"name": experiment.dataset, **sizes, **_data(finished)},
        "protocol": shared
        | {"model": zoo.title(experiment.model, experiment.norm)}
        | ({"pixels": pixels} if pixels else {}),
    }


def _data(finished: Sequence[Result]) -> Mapping[str, Any]:
    return finished[0]["dataset"] if finished else {}


def _origin(rows: Sequence[Row]) -> str:
    """The sentences that all rows' origins begin with."""
    origins = [row.origin.rstrip(".").split(". ") for row in rows]
    in_step = zip(*origins, strict=False)
    shared = [
        one[0] for one in itertools.takewhile(lambda one: len(set(one)) == 1, in_step)
    ]
    if all(len(origin) == len(shared) for origin in origins):
        return f"{'. '.join(shared)}."
    rest = "Where other hyperparameters come from, experiments.train --config NAME tells"
    return f"{'. '.join([*shared, rest])}."


def _notes(outcomes: Sequence[Outcome], finished: Sequence[Result]) -> list[str]:
    experiment, row = outcomes[0].cell.experiment, outcomes[0].cell.row.experiment
    notes = []
    if not _is_as_published(experiment, row):
        epochs = counted(experiment.epochs, "epoch")
        notes.append(
            f"Trained for {epochs} instead of {row.epochs}: another setting, with which no "
            f"published value can be compared."
        )
    if experiment.dtype != row.dtype:
        notes.append(f"Computed in {experiment.dtype} instead of {row.dtype}.")
    notes += [JPEG] * _is_unlike_the_published(outcomes, finished)
    places = _named(result["machine"]["device"] for result in finished)
    if places != [files.machine()["device"]]:
        notes.append(f"Trained on {', '.join(places)}.")
    if (devices := jax.device_count()) > 1:
        notes.append(
            f"A step is spread over {devices} devices; operations are those of one."
        )
    return notes + [_failure(outcome) for outcome in outcomes if outcome.failure]


def _is_unlike_the_published(
    outcomes: Sequence[Outcome], finished: Sequence[Result]
) -> bool:
    is_jpeg = "JPEG" in _data(finished).get("source", "")
    return is_jpeg and any(outcome.cell.row.published for outcome in outcomes)


def _named(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _failure(outcome: Outcome) -> str:
    experiment = outcome.cell.experiment
    return f"{outcome.cell.row.name} with seed {experiment.seed} failed: {outcome.failure}."
