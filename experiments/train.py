"""Trains a model by a method, from a named config to a report, and survives being killed.

Writes into OUT: metrics.jsonl and tensorboard/ as it goes, checkpoints/ (the last two, and
the best), and at the end result.json, curves.png and report.md. The same command again goes
on from the last checkpoint, to the very weights that it would have had without a break. On
SIGTERM or Ctrl-C it saves and ends, with status 143 or 130.

Every field of a config is an option. Batches are spread over all devices; on several hosts
start the same command on each (docs/scaling.md).

Example: python -m experiments.train --config digits_k_sam --epochs 30 --seed 1
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
from tyro.conf import arg

from experiments.configs import rows
from experiments.configs.experiment import Experiment, Row
from experiments.configs.options import DataDir
from experiments.processes import distributed, sharded
from experiments.processes.stopping import stoppable
from experiments.processes.watch import Alone, Watch
from experiments.results import listing
from experiments.shell import cli, progress
from experiments.training.harness import job, run
from experiments.training.harness.loop import Pace

PROG = "python -m experiments.train"
FOR_HELP = "digits_k_sam"


@dataclass(frozen=True)
class Config(distributed.Options):
    """Options of the training."""

    experiment: Annotated[Experiment, arg(name="")] = rows.ROWS[FOR_HELP].experiment
    config: Annotated[
        str, arg(metavar="NAME", help="Whose settings to start from; see --list.")
    ] = ""
    list: Annotated[bool, arg(help="Show all configs and what is known of them.")] = False
    data_dir: DataDir = None
    out: Annotated[
        Path | None,
        arg(
            metavar="DIR",
            help="Folder for all that is written.",
            help_behavior_hint="(default: results/train/NAME-seed-SEED)",
        ),
    ] = None
    log_every: Annotated[int, arg(help="Steps between two lines of numbers.")] = 50
    evaluate_every: Annotated[
        int, arg(help="Epochs between two evaluations; each ends with a checkpoint.")
    ] = 1
    checkpoint_every: Annotated[
        int | None,
        arg(
            metavar="INT",
            help="Steps between more checkpoints.",
            help_behavior_hint="(default: no more)",
        ),
    ] = None
    sharpness_every: Annotated[
        int | None,
        arg(
            metavar="EPOCHS",
            help="Epochs between two evaluations that measure sharpness, too: a multiple "
            "of --evaluate-every.",
            help_behavior_hint="(default: at the end only)",
        ),
    ] = None


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, and returns the exit status."""
    row, config = _parse(argv)
    if config.list:
        listing.show(progress.console(), rows.ROWS.values())
        return 0
    if row is None:
        raise cli.UsageError("--config NAME is missing; --list shows the names")
    _check(config)
    return stoppable(config, lambda watch: _run(row, config, watch))


def _run(row: Row, config: Config, watch: Watch | Alone) -> None:
    console = None if jax.process_index() else progress.console()
    if jax.process_count() > 1:
        print(_place(config.experiment.batch_size), flush=True)
    run.run(
        row,
        config.experiment,
        data_dir=config.data_dir,
        out=_folder(config),
        pace=_pace(config),
        console=console,
        done=watch.done,
    )


def _place(batch_size: int) -> str:
    """What this process does of the whole."""
    rows = sharded.local_rows(sharded.data_mesh(), batch_size)
    return (
        f"process {jax.process_index()} of {jax.process_count()}, with "
        f"{jax.local_device_count()} of {jax.device_count()} devices, loads rows "
        f"{rows[0]} to {rows[-1]} of each batch of {batch_size}"
    )


def _parse(argv: Sequence[str] | None) -> tuple[Row | None, Config]:
    """The config that is named, with the other options put in."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", default="", nargs="?")
    known, _ = finder.parse_known_args(argv)
    row = rows.row(known.config) if known.config else None
    given = row.experiment if row else rows.ROWS[FOR_HELP].experiment
    default = Config(experiment=given)
    return row, cli.parse(Config, argv, PROG, __doc__ or "", default)


def _check(config: Config) -> None:
    job.check(config.experiment)
    cli.at_least("log-every", config.log_every, 1)
    cli.at_least("evaluate-every", config.evaluate_every, 1)
    if config.checkpoint_every is not None:
        cli.at_least("checkpoint-every", config.checkpoint_every, 1)
    if config.sharpness_every is not None:
        _check_sharpness(config.sharpness_every, config.evaluate_every)


def _check_sharpness(every: int, evaluate_every: int) -> None:
    """It goes into records of evaluations; more of those would make more checkpoints."""
    cli.at_least("sharpness-every", every, 1)
    if every % evaluate_every:
        raise cli.UsageError(
            f"--sharpness-every must be a multiple of --evaluate-every, {evaluate_every}; "
            f"got {every}"
        )


def _pace(config: Config) -> Pace:
    return Pace(
        config.log_every,
        config.evaluate_every,
        config.checkpoint_every,
        config.sharpness_every,
    )


def _folder(config: Config) -> Path:
    if config.out is not None:
        return config.out
    return Path("results/train") / f"{config.config}-seed-{config.experiment.seed}"


if __name__ == "__main__":
    distributed.end(distributed.run(main, None))
