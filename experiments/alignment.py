"""Asks, before any training, what k the gradients recommend for configs' own batches.

Of each config's model at its initial weights: the cosine between the gradient of the k
examples with the highest loss and that of their whole batch, beside k random examples, over
the first batches of the training examples; and the smallest k that `recommend_k` finds good
enough. At the end of a run `python -m experiments.landscape --parts alignment` draws the
same from its checkpoint.

Writes OUT/alignment/results.json.

Example: python -m experiments.alignment --configs digits_k_sam --batches 3
"""

import datetime
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import arg

from experiments.configs import rows
from experiments.configs.options import DataDir
from experiments.data import memory
from experiments.flatness.landscapes.solutions import WEIGHTS, Batches
from experiments.models.pure import Variables
from experiments.models.zoo import title
from experiments.results import terminal
from experiments.results.output import RESULTS
from experiments.shell import cli, files, progress
from experiments.training.harness import job
from ksam_jax import sharpness

PROG = "python -m experiments.alignment"
KS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)


def _share(k: float) -> str:
    # Not "1", which is one example.
    return "all" if k == 1 else str(Fraction(k))


HEADERS = (
    "model and data",
    "batches",
    "examples",
    *(f"k = {_share(k)}" for k in KS),
    "recommended",
)

Content = Mapping[str, Any]


@dataclass(frozen=True)
class Config:
    """Options."""

    configs: Annotated[
        tuple[str, ...],
        arg(metavar="NAME ...", help="Of experiments.train; its --list shows them."),
    ] = ("digits_k_sam",)
    data_dir: DataDir = None
    batches: Annotated[int, arg(help="Of each config's own size.")] = 8
    out: Annotated[
        Path, arg(metavar="DIR", help="The result goes into the folder alignment in it.")
    ] = Path("results")


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, and returns the exit status."""
    config = cli.parse(Config, argv, PROG, __doc__ or "")
    cli.at_least("batches", config.batches, 1)
    found = [rows.row(name) for name in config.configs]
    folder = cli.writable(config.out / "alignment")
    started, console = time.monotonic(), progress.console()
    entries = {}
    for row in found:
        console.print(f"measuring {row.name}", highlight=False)
        mine = job.prepare(row.name, row.experiment, config.data_dir, console)
        entries[row.name] = measured(mine, config.batches)
    content = {
        "command": cli.command(PROG, config, without=("out",)),
        "date": datetime.date.today().isoformat(),
        "seconds": round(time.monotonic() - started, 1),
        "ks": KS,
        "configs": entries,
        "machine": files.machine(),
        "versions": files.versions(),
    }
    files.write_json(folder / RESULTS, content)
    console.print(terminal.table(HEADERS, table_rows(content)))
    print(f"written: {folder / RESULTS}")
    return 0


def measured(mine: job.Job, most: int) -> dict[str, Any]:
    """Mean cosines at the initial weights, over at most so many batches."""
    experiment, train = mine.experiment, mine.inputs.train
    examples = np.arange(min(train.size, most * experiment.batch_size))
    batches = Batches(memory.part(train, examples), experiment.batch_size).whole()
    state = mine.start()
    found = sharpness.gradient_alignment(
        mine.programs.losses,
        Variables(state.params, state.rest),
        batches,
        ks=KS,
        mask=WEIGHTS,
    )
    return {
        "title": f"{title(experiment.model, experiment.norm)}, {train.title}",
        "batch_size": experiment.batch_size,
        "batches": len(batches),
        "highest": found.cosines.mean(axis=0),
        "random": found.random.mean(axis=0),
        "recommended": sharpness.recommend_k(found),
    }


def table_rows(content: Content) -> list[tuple[str, ...]]:
    """Two rows of cells for each config: the highest losses, and random examples."""
    return [
        row
        for entry in content["configs"].values()
        for row in (
            (
                entry["title"],
                f"{entry['batches']} of {entry['batch_size']}",
                "highest loss",
                *_cosines(entry["highest"]),
                _share(entry["recommended"]),
            ),
            ("", "", "random", *_cosines(entry["random"]), ""),
        )
    ]


def _cosines(values: Sequence[float]) -> list[str]:
    return [f"{value:.2f}" for value in values]


if __name__ == "__main__":
    sys.exit(cli.run(main, None))
