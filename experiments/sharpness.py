"""Measures how flat the loss is where each method's training ends.

Trains every method with several seeds as `python -m experiments.compare` does, with the
same hyperparameters, and measures each trained replica on its training examples: the rise
of the loss at a small distance, along the gradient, after ten steps of ascent, relative to
the weights' sizes, and for groups of examples alone; the Hessian's top eigenvalue and
trace. Prints them beside the test accuracy, and the rank correlation of each with it.

Writes OUT/DATASET/results.json. While it runs, what is done is in results.partial.json
beside it; the same command again, after it was stopped, goes on from there.

With its defaults it takes about two minutes on two cores, and needs no download.

Example: python -m experiments.sharpness --methods sgd sam k_sam --seeds 3
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from tyro.conf import arg

from experiments.flatness import measures, report, tabulated
from experiments.flatness.contents import FLATNESS, Flatness
from experiments.results import terminal
from experiments.results.output import PARTIAL, RESULTS
from experiments.results.records import Runs
from experiments.results.report import title
from experiments.shell import cli, files, progress
from experiments.training.comparison import Options, checked, described, prepared
from experiments.training.study import Study, train_all

PROG = "python -m experiments.sharpness"


@dataclass(frozen=True)
class Config(Options):
    """Options of the measurement."""

    out: Annotated[
        Path,
        arg(metavar="DIR", help="Results go into a folder in it, named after the dataset."),
    ] = Path("results/sharpness")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs or resumes the measurement, and returns the exit status."""
    config = cli.parse(Config, argv, PROG, __doc__ or "")
    methods, protocol = checked(config)
    study, folder = prepared(config, protocol, methods)
    about = described(study, config, methods, 1, PROG) | {"measures": measures.described()}
    console = progress.console()
    for note in about["notes"]:
        console.print(note, style="yellow")
    found = measure(study, about, methods, folder, console)
    content = FLATNESS.write(folder / RESULTS, found)
    (folder / PARTIAL).unlink(missing_ok=True)
    show(content, console)
    print(f"written: {folder / RESULTS}")
    return 0


def measure(
    study: Study,
    about: Mapping[str, Any],
    methods: list[str],
    folder: Path,
    console: Console,
) -> dict[str, Any]:
    """Trains and measures what isn't known yet; returns the content of results.json.

    Args:
      study: what is trained.
      about: what is run on what.
      methods: in the table's order.
      folder: of the results.
      console: for progress.
    """
    done = dict(_kept(study, about, folder))
    if done:
        console.print(f"kept from before: {', '.join(done)}")

    def content(runs: Runs, complete: bool) -> dict[str, Any]:
        known = done | {name: entries for name, entries in runs.items() if entries}
        in_order = {name: known[name] for name in methods if name in known}
        seconds = sum(entry["seconds"] for (entry,) in in_order.values())
        timed = {"complete": complete} | dict(about) | {"seconds": round(seconds, 1)}
        return files.plain(timed | tabulated.content(in_order))

    def save(runs: Runs) -> None:
        FLATNESS.write(folder / PARTIAL, content(runs, complete=False))

    missing = [name for name in methods if name not in done]
    runs = train_all(study, missing, 1, console, save, measures.extra(study))
    return content(runs, complete=True)


def _kept(study: Study, about: Mapping[str, Any], folder: Path) -> Runs:
    """What a run that was stopped has measured of the very same; {} if there is nothing."""
    old = FLATNESS.kept(folder / PARTIAL)
    # A run over midnight goes on.
    new = {name: value for name, value in files.plain(about).items() if name != "date"}
    if old is None or not new.items() <= old.items():
        return {}
    return {
        name: list(entry["runs"])
        for name, entry in old["methods"].items()
        if entry["runs"][0]["hyperparameters"] == study.choices.choice(name, 0).values
    }


def show(content: Flatness, console: Console) -> None:
    """Prints both tables and their notes."""
    # Nine columns: a terminal has room for them if spreads are below their means.
    rows = [
        tuple(cell.replace(" ± ", "\n± ") for cell in row) for row in report.rows(content)
    ]
    console.print(terminal.table(report.headers(content), rows, title(content)))
    for note in report.notes(content):
        console.print(note, style="dim", highlight=False)
    console.print(terminal.table(report.RANKS, report.rank_rows(content)))


if __name__ == "__main__":
    sys.exit(cli.run(main, None))
