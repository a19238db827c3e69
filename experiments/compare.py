"""Compares sharpness-aware methods with SGD: how accurate they are, and what they cost.

Trains every method with several seeds on real data and prints a table: test accuracy,
operations and time of a training step against SGD's, sharpness at the end; then the
paired differences between K-SAM and SGD, SAM, and K-SAM's examples without its climb.
Hyperparameters are those that `python -m experiments.search` chose on validation.

Writes OUT/DATASET/results.json, comparison.png, and slice.png: the loss around each
method's solutions on the first split. While it runs, finished parts are in
results.partial.json beside them; the results of an earlier run stay until it is done.

With its defaults it takes about a minute and a half on two cores, and needs no download.

Example: python -m experiments.compare --methods sgd sam k_sam --splits 10
"""

import datetime
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.console import Console
from tyro.conf import arg

from experiments.configs import choices
from experiments.configs.compare import PROTOCOLS, Protocol
from experiments.configs.options import (
    DataDir,
    DatasetName,
    LabelNoise,
    MethodNames,
    chosen_methods,
)
from experiments.costs import cost
from experiments.data import datasets
from experiments.flatness import slices
from experiments.methods import DEFAULT
from experiments.results import output, records
from experiments.results.output import PICTURE, RESULTS, SLICE
from experiments.shell import cli, files, progress
from experiments.training.splits import draw_test
from experiments.training.study import Study, one_batch, prepare, steps, train_all

PROG = "python -m experiments.compare"


@dataclass(frozen=True)
class Options:
    """What is trained, and where results go.

    Programs that train the compared methods have them in common.
    """

    dataset: DatasetName = "digits"
    data_dir: DataDir = None
    methods: MethodNames = DEFAULT
    seeds: Annotated[
        int,
        arg(
            help="Seeds for each method and split: initial weights and order of the "
            "batches, the same for all methods."
        ),
    ] = 5
    epochs: Annotated[
        int | None,
        arg(
            metavar="INT",
            help="Passes over the training examples.",
            help_behavior_hint="(default: the dataset's protocol)",
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        arg(
            metavar="INT",
            help="Examples per step.",
            help_behavior_hint="(default: the dataset's protocol)",
        ),
    ] = None
    label_noise: LabelNoise = 0.0
    out: Annotated[
        Path,
        arg(metavar="DIR", help="Results go into a folder in it, named after the dataset."),
    ] = Path("results")
    chosen: Annotated[
        Path,
        arg(
            metavar="DIR",
            help="Folder of the hyperparameters that the search chose.",
            help_behavior_hint="(default: experiments/configs/chosen)",
        ),
    ] = choices.FOLDER
    settings: Annotated[
        Literal["own", "sgd"],
        arg(
            help="own: each method's, as they were searched for it; sgd: SGD's learning "
            "rate and weight decay for all, with each method's default radius."
        ),
    ] = "own"


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


def checked(options: Options, splits: int = 1) -> tuple[list[str], Protocol]:
    """The methods in the table's order, and the protocol with the options put in.

    Raises:
      UsageError: if an option has a value that it can't have.
    """
    cli.one_of("dataset", options.dataset, PROTOCOLS)
    methods = chosen_methods(options.methods)
    changes = {"epochs": options.epochs, "batch_size": options.batch_size}
    given = {name: value for name, value in changes.items() if value is not None}
    for name, value in {"seeds": options.seeds, "splits": splits, **given}.items():
        cli.at_least(name.replace("_", "-"), value, 1)
    cli.fraction("label-noise", options.label_noise)
    protocol = replace(PROTOCOLS[options.dataset], **given)
    if protocol.batch_size > protocol.train:
        raise cli.UsageError(
            f"--batch-size {protocol.batch_size} is more than the {protocol.train} "
            f"training examples of {options.dataset}"
        )
    return methods, protocol


def prepared(
    options: Options, protocol: Protocol, required: Iterable[str]
) -> tuple[Study, Path]:
    """What is to be trained, and the folder of its results.

    Args:
      options: of the program.
      protocol: with the options put in.
      required: methods that must have hyperparameters.

    Raises:
      UsageError: if data or hyperparameters are missing, or the folder can't be written to.
    """
    dataset = datasets.load(protocol.dataset, options.data_dir)
    folder = cli.writable(options.out / options.dataset)
    noise = options.label_noise
    chosen = choices.best_available(options.dataset, noise, options.chosen)
    if options.settings == "sgd":
        chosen.require({"sgd"})
        chosen = choices.at_settings_of("sgd", chosen, required)
    chosen.require(required)
    return prepare(dataset, protocol, chosen, options.seeds, noise), folder


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


def described(
    study: Study, options: Options, methods: list[str], splits: int, prog: str
) -> dict[str, Any]:
    """What is run on what; no folders, since they say nothing about the result.

    Args:
      study: what is trained.
      options: of the program.
      methods: in the table's order.
      splits: how many.
      prog: the program.
    """
    dataset, protocol, noise = study.dataset, study.protocol, options.label_noise
    return {
        "command": cli.command(prog, options),
        "date": datetime.date.today().isoformat(),
        "config": {
            "methods": methods,
            "seeds": options.seeds,
            "splits": splits,
            "label_noise": noise,
        },
        "dataset": {
            "name": options.dataset,
            "title": dataset.title,
            "source": dataset.source,
            "train": protocol.train,
            "validation": protocol.validation,
            "test": draw_test(dataset, protocol, 0).number,
        },
        "protocol": protocol.summary(),
        "search": study.choices.settings.get("how", ""),
        "notes": choices.caveats(study.choices, protocol, noise, methods, splits),
        "machine": files.machine(),
        "versions": files.versions(),
    }


if __name__ == "__main__":
    sys.exit(cli.run(main, None))
