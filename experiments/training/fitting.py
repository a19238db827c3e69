"""Trainings side by side for as many epochs as fit into a time."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.configs.accelerator import Sizes
from experiments.configs.experiment import Row
from experiments.costs import timing
from experiments.methods import METHODS
from experiments.processes import sharded
from experiments.shell.cli import RunError, UsageError
from experiments.shell.formats import Format, Versioned
from experiments.training.harness import contents, folder, job, run
from experiments.training.harness.contents import RESULT, Result
from experiments.training.harness.job import Job
from experiments.training.harness.loop import Pace

# Steps that are timed to know how long an epoch takes.
STEPS = 20
# An epoch's evaluation, in epochs; and what a training takes before its first step.
EVALUATION, START_SECONDS = 0.25, 25.0
PLAN = "epochs.json"


class Epochs(Versioned):
    """How long the trainings are; and by what that was decided, if it was."""

    epochs: int
    seconds_per_epoch: dict[str, float]


EPOCHS = Format("a number of epochs", Epochs, version=1, remedy="delete it")


def train_all(
    sizes: Sizes,
    data_dir: Path | None,
    where: Path,
    seconds: float,
    epochs: int | None,
    say: Callable[[str], None] = print,
) -> int:
    """Trains what isn't done yet, or goes on with it; returns the process's status.

    Args:
      sizes: has the configs.
      data_dir: of the datasets.
      where: folder for all that is written.
      seconds: that all of them may take; only the first time decides on the epochs.
      epochs: to train for; None: as many as fit.
      say: is told what was done.
    """
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    # A run that goes on compiles nothing that it had compiled before.
    jax.config.update("jax_compilation_cache_dir", str(where / "compiled"))
    try:
        number = _epochs(sizes, data_dir, where, seconds, epochs)
        for name, row in sizes.rows.items():
            result = _trained(row, sizes, number, data_dir, where / name)
            say(f"{name}, {number} epochs: {_words(result)}")
    except (UsageError, RunError) as error:
        say(f"{type(error).__name__.removesuffix('Error')}: {error}")
        return getattr(error, "status", 2)
    return 0


def _trained(
    row: Row, sizes: Sizes, epochs: int, data_dir: Path | None, out: Path
) -> Result:
    result = run.run(
        row,
        replace(row.experiment, **sizes.training(epochs)),
        data_dir=data_dir,
        out=out,
        pace=Pace(),
        console=None,
    )
    # One process alone trains here, which has it.
    assert result is not None
    return result


def _epochs(
    sizes: Sizes, data_dir: Path | None, where: Path, seconds: float, epochs: int | None
) -> int:
    """As an earlier call has decided; or by the time of an epoch."""
    path = where / PLAN
    if path.exists():
        return EPOCHS.read(path)["epochs"]
    taken = {}
    if epochs is None:
        for name, row in sizes.rows.items():
            experiment = replace(row.experiment, **sizes.training(1))
            taken[name] = _epoch_seconds(job.prepare(name, experiment, data_dir, None))
        epochs = fitting(taken, seconds, sizes.most_epochs)
    EPOCHS.write(path, {"epochs": epochs, "seconds_per_epoch": taken})
    return epochs


def fitting(taken: Mapping[str, float], seconds: float, most: int) -> int:
    """How many epochs of all trainings fit: at least 1.

    Args:
      taken: seconds of an epoch of each.
      seconds: that there are.
      most: epochs.
    """
    left = seconds - len(taken) * START_SECONDS
    each = (1 + EVALUATION) * sum(taken.values())
    return max(1, min(most, int(left / each)))


def _epoch_seconds(mine: Job) -> float:
    """By some steps, with the batches that they are given."""
    seed, size = jnp.int32(mine.experiment.seed), mine.experiment.batch_size
    with mine.batches() as batches, jax.set_mesh(mine.mesh):

        def step(state: Any) -> Any:
            rows = sharded.global_batch(mine.mesh, size, next(batches))
            return mine.programs.step(state, rows, seed)[0]

        burst = timing.repeated(step, mine.start())
        burst(2)
        return mine.steps_per_epoch * burst(STEPS)


def found(sizes: Sizes, where: Path) -> dict[str, Any] | None:
    """What is known of the trainings by now; None if none was begun."""
    plan = EPOCHS.kept(where / PLAN)
    if plan is None:
        return None
    runs = {}
    for name, row in sizes.rows.items():
        result = RESULT.kept(where / name / folder.RESULT)
        runs[name] = {"label": METHODS[row.experiment.method].label, **_figures(result)}
    return {"epochs": plan["epochs"], "runs": runs}


def _figures(result: Result | None) -> dict[str, Any]:
    if result is None:
        return dict.fromkeys(("seconds_per_epoch", "accuracy", "judged_on", "command"))
    last, metric = result["last"], result.get("metric", "accuracy")
    return {
        "seconds_per_epoch": result["seconds"] / result["experiment"]["epochs"],
        "accuracy": contents.found(last, f"test_{metric}"),
        "judged_on": result["dataset"]["title"],
        "command": result["command"],
    }


def _words(result: Result) -> str:
    figures = _figures(result)
    return f"{figures['accuracy']:.2%}, {figures['seconds_per_epoch']:.1f} s per epoch"
