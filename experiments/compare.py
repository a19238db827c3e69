"""Compares sharpness-aware methods with SGD: how accurate they are, and what they cost.

Trains every method with several seeds on real data and prints a table: test accuracy,
operations and time of a training step against SGD's, sharpness at the end; then the
paired differences between K-SAM and SGD, SAM, and K-SAM's examples without its climb.
Hyperparameters are those that `python -m experiments.search` chose on validation.

Writes OUT/DATASET/results.json, comparison.png, and slice.png: the loss around each
method's solutions on the first split. While it runs, finished parts are in
results.partial.json beside them; the results of an earlier run stay until it is done.

With its defaults it takes two to three minutes on two cores, and needs no download.

Example: python -m experiments.compare --methods sgd sam k_sam --splits 10
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from tyro.conf import arg

from experiments.costs import cost
from experiments.flatness import slices
from experiments.results import output, records
from experiments.results.output import PICTURE, RESULTS, SLICE
from experiments.shell import cli, progress
from experiments.training.comparison import Options, checked, described, prepared
from experiments.training.one_step import one_batch, steps
from experiments.training.study import Study, train_all

PROG = "python -m experiments.compare"


@dataclass(frozen=True)
class Config(Options):
    """Options of the comparison."""

    splits: Annotated[
        int,
        arg(
            help="Random splits into training, validation and test examples. With two or "
            "more, intervals are over splits."
        ),
    ] = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the comparison and returns the exit status."""
    config = cli.parse(Config, argv, PROG, __doc__ or "")
    methods, protocol = checked(config, config.splits)
    # Costs are ratios to SGD's, whether it is trained or not.
    study, folder = prepared(config, protocol, {*methods, "sgd"})
    console = progress.console()
    content = compare(study, config, methods, folder, console)
    finished = output.finish(folder, content, console)
    slices.draw(finished, folder / SLICE)
    written = [folder / name for name in (RESULTS, PICTURE, SLICE)]
    print(f"written: {', '.join(str(path) for path in written if path.exists())}")
    return 0


def compare(
    study: Study, config: Config, methods: list[str], folder: Path, console: Console
) -> dict[str, Any]:
    """Trains and measures; returns the content of results.json."""
    started = time.monotonic()
    about = described(study, config, methods, config.splits, PROG)
    for note in about["notes"]:
        console.print(note, style="yellow")

    def content(runs: records.Runs, complete: bool) -> dict[str, Any]:
        seconds = {"seconds": round(time.monotonic() - started, 1)}
        return {"complete": complete} | about | seconds | records.summarised(runs)

    def save(runs: records.Runs) -> None:
        output.keep(folder, content(runs, complete=False))

    extra = slices.extra(study)
    runs = train_all(study, methods, config.splits, console, save, extra)
    console.print("measuring time and operations of a step")
    values = {name: study.choices.choice(name, 0).values for name in {"sgd", *methods}}
    compiled = steps(study.model, study.protocol, one_batch(study), values)
    costs = cost.measure(compiled)
    return records.with_costs(content(runs, complete=True), costs)


if __name__ == "__main__":
    sys.exit(cli.run(main, None))
