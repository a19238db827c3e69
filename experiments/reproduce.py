"""Trains a table of configs with several seeds, and prints it beside what is published.

A table is one dataset with one network: a row for each method, with the number of runs,
mean and standard deviation of the test accuracy, or of a task's own metric, after the last
epoch, what a step costs against that of SGD or AdamW alone, and what others have printed
for the same settings.

Writes OUT/TABLE/results.json, comparison.png and table.md, and each run into a folder
below, OUT/TABLE/CONFIG/seed-N, as `python -m experiments.train` does. The same command
again goes on where it was stopped; what is done isn't repeated. All methods are trained
with seed 0 before seed 1, so a grid that was stopped can be looked at with fewer --seeds.
A run whose loss isn't finite is noted in its folder as failed.json, and in the table.

Example: python -m experiments.reproduce --table digits --methods sgd sam k_sam --seeds 3
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import jax
from rich.console import Console
from tyro.conf import arg

from experiments.configs import tables
from experiments.configs.experiment import Row
from experiments.configs.options import DataDir
from experiments.configs.rows import ROWS
from experiments.configs.tables import TABLES, Table
from experiments.models import zoo
from experiments.processes import distributed
from experiments.processes.stopping import stoppable
from experiments.processes.watch import Alone, Watch
from experiments.results import listing, markdown, output, records
from experiments.shell import cli, progress
from experiments.shell.cli import RunError, UsageError
from experiments.training.harness import costs, folder, grid, job, tabulated
from experiments.training.harness.grid import Cell, Jobs, Outcome

PROG = "python -m experiments.reproduce"
PAGE = "table.md"


@dataclass(frozen=True)
class Config(distributed.Options):
    """Options of the reproduction."""

    table: Annotated[str, arg(metavar="NAME", help="What to reproduce; see --list.")] = ""
    list: Annotated[bool, arg(help="Show all tables and what is known of them.")] = False
    seeds: Annotated[
        int | None,
        arg(
            metavar="INT",
            help="How many runs of each method, with seeds 0, 1, ...",
            help_behavior_hint="(default: the table's)",
        ),
    ] = None
    methods: Annotated[
        tuple[str, ...],
        arg(
            metavar="NAME ...",
            help="Which of the table's methods.",
            help_behavior_hint="(default: all)",
        ),
    ] = ()
    data_dir: DataDir = None
    out: Annotated[
        Path,
        arg(metavar="DIR", help="Results go into a folder in it, named after the table."),
    ] = Path("results/reproduce")
    epochs: Annotated[
        int | None,
        arg(
            metavar="INT",
            help="Passes over the training examples, for a quick look: then no published "
            "values are shown.",
            help_behavior_hint="(default: each config's)",
        ),
    ] = None
    dtype: Annotated[
        str | None,
        arg(
            metavar="{" + ",".join(zoo.DTYPES) + "}",
            help="Of the computation.",
            help_behavior_hint="(default: each config's)",
        ),
    ] = None
    pretrained: Annotated[
        str | None,
        arg(
            metavar="DIR",
            help="Folder of a BERT checkpoint as Hugging Face lays it out.",
            help_behavior_hint="(default: none)",
        ),
    ] = None
    retry: Annotated[bool, arg(help="Try again what has failed before.")] = False


# Where and how, which doesn't change the result.
UNNAMED = ("retry", *(field.name for field in fields(distributed.Options)))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs or resumes the grid, and returns the exit status."""
    config = cli.parse(Config, argv, PROG, __doc__ or "")
    if config.list:
        shown = [(t.name, [ROWS[n] for n in t.rows], t.seeds) for t in TABLES.values()]
        listing.show_tables(progress.console(), shown)
        return 0
    table, cells = _checked(config)
    try:
        return stoppable(config, lambda watch: _reproduce(table, cells, config, watch))
    except OSError as error:
        raise RunError(
            f"can't write to {config.out}: {error.strerror or error}; runs that were "
            f"finished are whole, and the same command goes on when there is room"
        ) from error


def _checked(config: Config) -> tuple[Table, list[Cell]]:
    """The table, and its runs as they are wanted."""
    if not config.table:
        raise UsageError("--table NAME is missing; --list shows the names")
    table = tables.table(config.table)
    seeds = table.seeds if config.seeds is None else config.seeds
    cli.at_least("seeds", seeds, 1)
    names = ("epochs", "dtype", "pretrained")
    options = {name: getattr(config, name) for name in names}
    changes = {name: value for name, value in options.items() if value is not None}
    if config.dtype is not None:
        cli.one_of("dtype", config.dtype, zoo.DTYPES)
    rows = _chosen(table, config.methods)
    cells = grid.cells(rows, seeds, changes, config.out / table.name)
    for cell in cells:
        job.check(cell.experiment)
    return table, cells


def _chosen(table: Table, methods: Sequence[str]) -> list[Row]:
    rows = {ROWS[name].experiment.method: ROWS[name] for name in table.rows}
    for name in methods:
        cli.one_of("method", name, rows)
    return [row for name, row in rows.items() if not methods or name in methods]


def _reproduce(
    table: Table, cells: list[Cell], config: Config, watch: Watch | Alone
) -> None:
    """Trains, measures, shows and writes."""
    where = config.out / table.name
    is_first = not jax.process_index()
    console = progress.console() if is_first else None
    with folder.claimed(where) if is_first else nullcontext():
        jobs = Jobs(config.data_dir, console)

        def content(outcomes: list[Outcome], complete: bool) -> dict[str, Any]:
            command = cli.command(PROG, config, without=UNNAMED)
            about = {"complete": complete, "command": command}
            return about | tabulated.content(table, outcomes)

        def save(outcomes: list[Outcome]) -> None:
            if is_first:
                output.keep(where, content(outcomes, complete=False))

        outcomes = grid.train_all(
            cells, jobs, console, retry=config.retry, on_outcome=save, done=watch.done
        )
        _check_some(outcomes)
        if console:
            console.print("measuring time and operations of a step")
        one_each = list({cell.row: cell for cell in reversed(cells)}.values())
        measured = costs.of_methods(one_each, jobs, where / costs.COST)
        if console:
            finished = records.with_costs(content(outcomes, complete=True), measured)
            _finish(table, where, finished, console)


def _check_some(outcomes: list[Outcome]) -> None:
    """Raises a RunError if there is nothing to show."""
    failures = [outcome.failure for outcome in outcomes if outcome.failure]
    if len(failures) == len(outcomes):
        raise RunError(f"all {len(failures)} runs failed; the first: {failures[0]}")


def _finish(table: Table, where: Path, content: dict[str, Any], console: Console) -> None:
    finished = output.finish(where, content, console)
    page = f"# {table.title}\n\n{markdown.comparison(finished, '.')}\n"
    (where / PAGE).write_text(page, encoding="utf-8")
    files = (where / name for name in (output.RESULTS, output.PICTURE, PAGE))
    print(f"written: {', '.join(map(str, files))}")


if __name__ == "__main__":
    distributed.end(distributed.run(main, None))
