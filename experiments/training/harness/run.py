"""A whole run: from wherever its folder has got to, to its report."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from experiments.configs.experiment import Experiment, Row
from experiments.results import listing, wording
from experiments.shell import cli
from experiments.shell.cli import RunError
from experiments.training.harness import finish, folder, job, judging, report
from experiments.training.harness.checkpoints import Checkpoints, Restored
from experiments.training.harness.contents import CONFIG, Result, found
from experiments.training.harness.display import Live
from experiments.training.harness.job import Job
from experiments.training.harness.loop import Loop, Pace
from experiments.training.harness.metrics import Metrics

OUT_OF_MEMORY = (
    "the device has too little memory for this: try a smaller --batch-size, --dtype "
    "bfloat16, or more devices, in another --out"
)


class CannotWriteError(RunError):
    """The disk is full, or refuses otherwise: a matter of the place, not of the run."""


def run(
    row: Row,
    experiment: Experiment,
    *,
    data_dir: Path | None,
    out: Path,
    pace: Pace,
    console: Console | None,
    done: Callable[[int], None] = lambda step: None,
    prepared: Job | None = None,
) -> Result | None:
    """Trains, or goes on, or does nothing if all is done; returns the result.

    Args:
      row: the config that was named.
      experiment: its settings, as changed.
      data_dir: of the datasets.
      out: folder for all that is written.
      pace: how often to look and save.
      console: shows what happens; None shows nothing.
      done: is told after each step.
      prepared: the experiment's job, if somebody has made it before.

    Returns:
      The content of result.json; None in all processes but the first if it is new.

    Raises:
      UsageError: if settings, data or the folder are wrong; nothing is lost.
      RunError: if training broke down, or was told to stop.
    """
    job.check(experiment)
    with folder.claimed(out) if _is_first() else nullcontext():
        if _is_first():
            folder.check_config(out, experiment)
        before = folder.result(out, experiment)
        if before is not None:
            if console:
                text = f"{out} is of a run that is done: nothing to do"
                console.print(text, highlight=False, soft_wrap=True)
            return before
        if console:
            console.print(
                listing.details(row, _changed(row, experiment)),
                style="dim",
                highlight=False,
            )
        mine = prepared or job.prepare(row.name, experiment, data_dir, console)
        try:
            how = command(row, experiment, pace.evaluate, data_dir)
            return _trained(mine, out, pace, how, console, done)
        except OSError as error:
            raise CannotWriteError(_cannot_write(out, error)) from error
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise RunError(OUT_OF_MEMORY) from error


def _changed(row: Row, experiment: Experiment) -> list[str]:
    """Options that aren't the row's, but for the seed."""
    same_seed = dataclasses.replace(row.experiment, seed=experiment.seed)
    return cli.changed(same_seed, experiment)


def _is_first() -> bool:
    """Whether this process writes what only one of them writes."""
    return not jax.process_index()


def _trained(
    mine: Job,
    out: Path,
    pace: Pace,
    command: str,
    console: Console | None,
    done: Callable[[int], None],
) -> Result | None:
    shown = console or Console(quiet=True)
    if _is_first():
        CONFIG.write(out / folder.CONFIG, folder.plain(mine.name, mine.experiment))
    where = cli.writable(out / folder.CHECKPOINTS)
    with Checkpoints(where) as checkpoints, jax.set_mesh(mine.mesh):
        restored = _restored(mine, checkpoints, shown)
        after = restored.step if restored else 0
        title = report.title(finish.about(mine))
        live = Live(
            shown,
            title,
            mine.steps,
            mine.steps_per_epoch,
            after,
            metric=judging.metric(mine),
            judged_on=mine.inputs.train.judged_on,
            quiet=not console,
        )
        with Metrics(out, after) if _is_first() else nullcontext() as metrics, live:
            loop = Loop(mine, pace, checkpoints, metrics, live, done)
            state, measured = loop.run(restored)
            result = finish.write(out, mine, state, measured, command)
            if result is not None:
                report.write(out)
                live.finished(_summary(out, result))
    return result


def _summary(out: Path, result: Result) -> str:
    last = result["last"]
    score = found(last, wording.key(result))
    return (
        f"{wording.quoted(result)} {score:.2%} at the last step, "
        f"{last['step']}; written: {out / 'report.md'}"
    )


def _restored(mine: Job, checkpoints: Checkpoints, shown: Console) -> Restored | None:
    def check(about: Mapping[str, Any]) -> None:
        folder.check_same(about, mine.experiment, checkpoints.folder)

    def warn(text: str) -> None:
        shown.print(f"warning: {text}", style="yellow", highlight=False, soft_wrap=True)

    found = checkpoints.restore(mine.like(), check, warn)
    if found is None:
        return None
    checkpoints.forget(found.step)
    there, here = found.about["devices"], jax.device_count()
    if there != here:
        warn(
            f"the checkpoint was made on {there} devices, and this goes on with {here}: "
            f"each selects and normalizes among its own examples, so the result differs"
        )
    shown.print(f"goes on after step {found.step} of {mine.steps}", highlight=False)
    return found


def command(
    row: Row, experiment: Experiment, evaluate_every: int, data_dir: Path | None
) -> str:
    """The command that gives a run's result, with a placeholder for a private folder."""
    words = ["python -m experiments.train --config", row.name]
    words += cli.changed(row.experiment, experiment)
    if evaluate_every != Pace().evaluate:
        words += ["--evaluate-every", str(evaluate_every)]
    if data_dir is not None:
        words += ["--data-dir", "DIR"]
    return " ".join(words)


def _cannot_write(out: Path, error: OSError) -> str:
    return (
        f"can't write to {out}: {error.strerror or error}; checkpoints that were finished "
        f"are whole, and the same command goes on from the last when there is room"
    )
