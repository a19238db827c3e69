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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from experiments.configs import rows
from experiments.configs.options import DataDir
from experiments.flatness import alignments
from experiments.flatness.contents import ALIGNMENTS
from experiments.results import terminal
from experiments.results.output import RESULTS
from experiments.shell import cli, files, progress
from experiments.training.harness import job

PROG = "python -m experiments.alignment"


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
        entries[row.name] = alignments.measured(mine, config.batches)
    content = {
        "command": cli.command(PROG, config, without=("out",)),
        "date": datetime.date.today().isoformat(),
        "seconds": round(time.monotonic() - started, 1),
        "ks": alignments.KS,
        "configs": entries,
        "machine": files.machine(),
        "versions": files.versions(),
    }
    content = ALIGNMENTS.write(folder / RESULTS, content)
    console.print(terminal.table(alignments.HEADERS, alignments.table_rows(content)))
    print(f"written: {folder / RESULTS}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, None))
