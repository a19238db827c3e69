"""What programs have in common that train the compared methods side by side."""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

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
from experiments.data import catalogue
from experiments.methods import DEFAULT
from experiments.shell import cli, files
from experiments.training.splits import draw_test
from experiments.training.study import Study, prepare


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
    protocol = PROTOCOLS[options.dataset].changed(**given)
    size = protocol.experiment.batch_size
    if size > protocol.train:
        raise cli.UsageError(
            f"--batch-size {size} is more than the {protocol.train} "
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
    dataset = catalogue.load(protocol.experiment.dataset, options.data_dir)
    folder = cli.writable(options.out / options.dataset)
    noise = options.label_noise
    chosen = choices.best_available(options.dataset, noise, options.chosen)
    if options.settings == "sgd":
        chosen.require({"sgd"})
        chosen = choices.at_settings_of("sgd", chosen, required)
    chosen.require(required)
    return prepare(dataset, protocol, chosen, options.seeds, noise), folder


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
            "validation": protocol.experiment.validation_examples,
            "test": draw_test(dataset, protocol, 0).number,
        },
        "protocol": protocol.summary(),
        "search": study.choices.settings.get("how", ""),
        "notes": choices.caveats(study.choices, protocol.summary(), noise, methods, splits),
        "machine": files.machine(),
        "versions": files.versions(),
    }
