"""Trains configs with several values of one setting, and ranks them on held-out examples.

The held-out examples are training examples (--validation-examples). Test examples have no
say, and their figures are neither shown nor in OUT/CONFIG/SETTING/tune.json; but each run
writes a folder below that as `python -m experiments.train` does, test figures included.
What is done isn't repeated.

Example: python -m experiments.tune --config digits_sam --setting rho --values 0.05 0.1 0.2
"""

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
from rich.console import Console
from tyro.conf import arg

from experiments.configs import rows
from experiments.configs.experiment import Experiment, Row
from experiments.configs.options import DataDir
from experiments.processes import distributed
from experiments.processes.stopping import stoppable
from experiments.processes.watch import Alone, Watch
from experiments.results import terminal, wording
from experiments.shell import cli, files, progress
from experiments.shell.cli import RunError, UsageError
from experiments.training.harness import folder, grid, job
from experiments.training.harness.contents import Result, found
from experiments.training.harness.grid import Cell, Jobs, Outcome

PROG = "python -m experiments.tune"
# Where and how, which doesn't change the result.
UNNAMED = tuple(field.name for field in dataclasses.fields(distributed.Options))
# What may be another than the config's.
CHANGED = (
    "train_examples",
    "epochs",
    "learning_rate",
    "weight_decay",
    "rho",
    "norm",
    "batch_size",
    "dtype",
    "pretrained",
)
# What can be ranked: numbers that change neither the data nor the model.
SETTINGS = ("learning_rate", "weight_decay", "rho", "k", "beta", "gamma", "sigma", "decay")


@dataclass(frozen=True)
class Config(distributed.Options):
    """Options of the search."""

    config: Annotated[str, arg(metavar="NAME", help="Whose settings to start from.")] = ""
    setting: Annotated[str, arg(help="What to vary.")] = "rho"
    values: Annotated[tuple[float, ...], arg(metavar="NUMBER ...", help="To try.")] = ()
    seeds: Annotated[int, arg(help="Runs of each value; their mean counts.")] = 1
    validation_examples: Annotated[
        int, arg(help="Training examples that are held out, to rank by.")
    ] = 1000
    train_examples: Annotated[
        int | None, arg(help="How many to train on; None: all others.")
    ] = None
    epochs: Annotated[int | None, arg(help="None: the config's.")] = None
    learning_rate: Annotated[float | None, arg(help="None: the config's.")] = None
    weight_decay: Annotated[float | None, arg(help="None: the config's.")] = None
    rho: Annotated[float | None, arg(help="None: the config's.")] = None
    norm: Annotated[str | None, arg(help="None: the config's.")] = None
    batch_size: Annotated[int | None, arg(help="None: the config's.")] = None
    dtype: Annotated[str | None, arg(help="None: the config's.")] = None
    pretrained: Annotated[
        str | None, arg(metavar="DIR", help="Folder of a BERT checkpoint.")
    ] = None
    data_dir: DataDir = None
    out: Annotated[Path, arg(metavar="DIR", help="Folder for the runs.")] = Path(
        "results/tune"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Trains what is missing, ranks, and returns the exit status."""
    config = cli.parse(Config, argv, PROG, __doc__ or "")
    if not config.config:
        raise UsageError("--config NAME is missing; experiments.train --list has them")
    if not config.values:
        raise UsageError("--values needs at least one number")
    cli.one_of("setting", config.setting, SETTINGS)
    if getattr(config, config.setting, None) is not None:
        option = config.setting.replace("_", "-")
        raise UsageError(f"--{option} can't be given beside --setting {config.setting}")
    cli.at_least("seeds", config.seeds, 1)
    cli.at_least("validation-examples", config.validation_examples, 1)
    row = rows.row(config.config)
    cells = _cells(row, config)
    for cell in cells:
        job.check(cell.experiment)
    try:
        return stoppable(config, lambda watch: _tune(row, cells, config, watch))
    except OSError as error:
        raise RunError(
            f"can't write to {config.out}: {error.strerror or error}; runs that were "
            f"finished are whole, and the same command goes on when there is room"
        ) from error


def _cells(row: Row, config: Config) -> list[Cell]:
    """A run for each value and seed, each in a folder of its own."""
    shared: dict[str, Any] = {"validation_examples": config.validation_examples}
    for name in CHANGED:
        if getattr(config, name) is not None:
            shared[name] = getattr(config, name)
    base = dataclasses.replace(row.experiment, **shared)
    return [
        Cell(row, _with(base, config.setting, value, seed), _place(config, value, seed))
        for value in config.values
        for seed in range(config.seeds)
    ]


def _with(base: Experiment, setting: str, value: float, seed: int) -> Experiment:
    changes: dict[str, Any] = {setting: value, "seed": seed}
    return dataclasses.replace(base, **changes)


def _where(config: Config) -> Path:
    return config.out / config.config / config.setting


def _place(config: Config, value: float, seed: int) -> Path:
    return _where(config) / str(value) / f"seed-{seed}"


def _tune(row: Row, cells: list[Cell], config: Config, watch: Watch | Alone) -> None:
    is_first = not jax.process_index()
    console = progress.console() if is_first else None
    with folder.claimed(_where(config)) if is_first else nullcontext():
        outcomes = grid.train_all(
            cells,
            Jobs(config.data_dir, console),
            console,
            retry=False,
            on_outcome=lambda outcomes: None,
            done=watch.done,
        )
        if all(outcome.failure for outcome in outcomes):
            raise RunError(f"all runs failed; {_where(config)} has a failed.json for each")
        if console:
            means = {value: _mean(value, outcomes, config) for value in config.values}
            _show(row, means, config, console)


def _mean(value: float, outcomes: Sequence[Outcome], config: Config) -> float | None:
    """Of the held-out metric after the last epoch; None if a run failed."""
    mine = [
        outcome.result
        for outcome in outcomes
        if getattr(outcome.cell.experiment, config.setting) == value
    ]
    scores = [_held_out(result) for result in mine if result]
    return sum(scores) / len(scores) if len(scores) == len(mine) else None


def _held_out(result: Result) -> Any:
    return found(result["last"], f"validation_{wording.metric(result)}")


def _show(
    row: Row, means: dict[float, float | None], config: Config, console: Console
) -> None:
    whole = {value: score for value, score in means.items() if score is not None}
    if not whole:
        raise RunError(
            f"a run of every value failed; {_where(config)} has a failed.json for each"
        )
    best = max(whole, key=lambda value: whole[value])
    command = cli.command(PROG, config, without=UNNAMED)
    content = {"command": command, "best": best, "found": [*means.items()]}
    files.write_json(_where(config) / "tune.json", content)
    cells = [
        (
            f"{value:g}" + " (best)" * (value == best),
            "failed" if score is None else f"{100 * score:.2f}",
        )
        for value, score in means.items()
    ]
    console.print(terminal.table((config.setting, "held-out metric, %"), cells, row.name))


if __name__ == "__main__":
    distributed.end(distributed.run(main, None))
