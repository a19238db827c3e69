"""Many runs, rows times seeds: what is done isn't repeated, and a failure stops nothing."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

from experiments.configs.experiment import Experiment, Row
from experiments.methods import METHODS
from experiments.processes.stopping import StoppedError
from experiments.results import wording
from experiments.shell.cli import RunError
from experiments.shell.progress import Display
from experiments.training.harness import folder, job, run
from experiments.training.harness.contents import FAILED, Result, found
from experiments.training.harness.job import Job
from experiments.training.harness.loop import Pace
from experiments.training.harness.run import CannotWriteError

NOTE = "failed.json"
# Of each run, evenly spread; a quick one would spend most of its time on more.
EVALUATIONS = 20
# Steps between checkpoints besides those: minutes of a large network, never of a quick run.
CHECKPOINT = 1000


class Cell(NamedTuple):
    """One run of a grid, in a folder of its own."""

    row: Row
    experiment: Experiment
    folder: Path


class Outcome(NamedTuple):
    """What became of a run.

    Attributes:
      cell: which run.
      result: the content of its result.json; None if it failed, or another process has it.
      failure: why it failed, in a line; "" if it didn't.
    """

    cell: Cell
    result: Result | None
    failure: str


def cells(
    rows: Sequence[Row], seeds: int, changes: Mapping[str, Any], where: Path
) -> list[Cell]:
    """All runs in their order: every row with seed 0, then every row with seed 1, ...

    So what a stopped grid leaves can be compared.

    Args:
      rows: what to train.
      seeds: how many.
      changes: of all rows' settings.
      where: folder for the rows' folders.
    """
    return [
        Cell(
            row,
            dataclasses.replace(row.experiment, **changes, seed=seed),
            where / row.name / f"seed-{seed}",
        )
        for seed in range(seeds)
        for row in rows
    ]


class Jobs:
    """Jobs, each made when it is first asked for, and then for all seeds."""

    def __init__(self, data_dir: Path | None, console: Console | None):
        self.data_dir, self._console = data_dir, console
        self._made: dict[Experiment, Job] = {}

    def of(self, name: str, experiment: Experiment) -> Job:
        """The job of a row, with these settings.

        Raises:
          UsageError: as `job.prepare`.
        """
        seedless = dataclasses.replace(experiment, seed=0)
        if seedless not in self._made:
            made = job.prepare(name, experiment, self.data_dir, self._console)
            self._made[seedless] = made
        return job.seeded(self._made[seedless], experiment.seed)


def train_all(
    wanted: Sequence[Cell],
    jobs: Jobs,
    console: Console | None,
    *,
    retry: bool,
    on_outcome: Callable[[list[Outcome]], None],
    done: Callable[[int], None],
) -> list[Outcome]:
    """Trains what isn't done yet and returns what became of all, in their order.

    Args:
      wanted: the runs.
      jobs: of their rows.
      console: shows a line per run; None in all processes but the first.
      retry: whether to try again what failed before.
      on_outcome: sees all outcomes so far after each run.
      done: is told after each step.

    Raises:
      UsageError: if a folder has another experiment's run, or data aren't there.
      RunError: if the runs were told to stop, or nothing can be written.
    """
    known = {cell: before(cell, retry=retry) for cell in wanted}
    missing = [cell for cell, outcome in known.items() if outcome is None]
    shown = console or Console(quiet=True)
    _say_what_is_done(shown, len(wanted), len(missing))
    if missing:
        # Decoding has a bar of its own, before that of the runs.
        jobs.of(missing[0].row.name, missing[0].experiment)
    with Display(shown, len(missing)) as display:
        for cell in missing:
            known[cell] = _trained(cell, jobs, display, done)
            on_outcome([outcome for outcome in known.values() if outcome])
    return [outcome for outcome in known.values() if outcome]


def before(cell: Cell, *, retry: bool) -> Outcome | None:
    """What became of a run earlier; None if it isn't done yet, or is to be tried again.

    Raises:
      UsageError: if its folder has another experiment's.
    """
    result = folder.result(cell.folder, cell.experiment)
    if result is not None:
        return Outcome(cell, result, "")
    failed = cell.folder / NOTE
    if failed.exists() and not retry:
        noted = FAILED.read(failed)
        folder.check_same(noted, cell.experiment, cell.folder)
        return Outcome(cell, None, noted["message"])
    return None


def _from_the_start(cell: Cell) -> None:
    """Deletes what led to a failure: going on from there would lead to it again."""
    if (cell.folder / NOTE).exists() and not jax.process_index():
        shutil.rmtree(cell.folder / folder.CHECKPOINTS, ignore_errors=True)
        (cell.folder / NOTE).unlink()


def _say_what_is_done(console: Console, every: int, missing: int) -> None:
    if missing < every:
        text = f"{every - missing} of {every} runs were made before, {missing} to go"
        console.print(text, highlight=False)


def _trained(
    cell: Cell, jobs: Jobs, display: Display, done: Callable[[int], None]
) -> Outcome:
    mine = jobs.of(cell.row.name, cell.experiment)
    _from_the_start(cell)
    method = METHODS[cell.experiment.method].label
    display.begin(f"seed {cell.experiment.seed}, {method}", mine.steps)
    reached = 0

    def step_done(number: int) -> None:
        nonlocal reached
        done(number)
        # A run that was continued begins somewhere.
        display.advance(number - reached)
        reached = number

    try:
        result = _run(cell, mine, jobs.data_dir, step_done)
    except (StoppedError, CannotWriteError):
        raise
    except RunError as error:
        _note_failure(cell, str(error))
        display.end(f"failed: {error}")
        return Outcome(cell, None, str(error))
    display.end(_shown(result))
    return Outcome(cell, result, "")


def _shown(result: Result | None) -> str:
    """What came out: on held-out examples, if there are any."""
    if result is None:
        return "done"
    last = result["last"]
    held_out = found(last, f"validation_{wording.metric(result)}")
    if held_out is not None:
        return f"validation {held_out:.1%}"
    return f"{wording.judged_on(result)} {found(last, wording.key(result)):.1%}"


def _run(
    cell: Cell, mine: Job, data_dir: Path | None, done: Callable[[int], None]
) -> Result | None:
    every = max(1, cell.experiment.epochs // EVALUATIONS)
    return run.run(
        cell.row,
        cell.experiment,
        data_dir=data_dir,
        out=cell.folder,
        pace=Pace(evaluate=every, checkpoint=CHECKPOINT),
        console=None,
        done=done,
        prepared=mine,
    )


def _note_failure(cell: Cell, message: str) -> None:
    """So that the next call doesn't train for hours to fail again."""
    if not jax.process_index():
        about = folder.plain(cell.row.name, cell.experiment)
        FAILED.write(cell.folder / NOTE, {"message": message, **about})
