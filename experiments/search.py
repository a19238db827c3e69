"""Chooses every method's hyperparameters on validation examples.

Each method, SGD and the ablation included, gets the same number of trials. They spread
learning rate, weight decay and the method's own hyperparameters over the ranges of
configs/spaces.py, as a Latin hypercube: the trials cover the range of each evenly, and
methods share the positions of those they have in common. Each trial is trained with a
few seeds, all at once under vmap. The highest mean validation accuracy wins, then the
lowest validation loss. A run that diverges counts as accuracy 0.

The choice is made anew for each split, on that split's own validation examples. Test
examples are never loaded. The seeds differ from those whose results are reported.

Example: python -m experiments.search --dataset digits --splits 10
"""

import datetime
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from experiments.configs import choices
from experiments.configs.compare import PROTOCOLS, Protocol
from experiments.configs.options import (
    BEFORE_SGD,
    DataDir,
    DatasetName,
    LabelNoise,
    MethodNames,
    chosen_methods,
)
from experiments.configs.spaces import Interval, space
from experiments.data import catalogue
from experiments.methods import DEFAULT, METHODS
from experiments.models import pure
from experiments.shell import cli, progress
from experiments.training import trials
from experiments.training.evaluation import Evaluator, evaluator
from experiments.training.replicas import Trainer, trainer
from experiments.training.splits import TrainingSplit, training_split


@dataclass(frozen=True)
class Config:
    """Options of the search."""

    dataset: DatasetName = "digits"
    data_dir: DataDir = None
    methods: MethodNames = DEFAULT
    splits: Annotated[
        int, arg(help="How many splits, from 0 on; each is searched for itself.")
    ] = 1
    trials: Annotated[int, arg(help="Trials for each method and split.")] = 24
    seeds: Annotated[int, arg(help="Seeds that each trial is trained with.")] = 3
    label_noise: LabelNoise = 0.0
    chosen: Annotated[
        Path,
        arg(
            metavar="DIR",
            help="Folder of the file that the choices are written to, one by one; what is "
            "in it already is not searched again.",
            help_behavior_hint="(default: experiments/configs/chosen)",
        ),
    ] = choices.FOLDER
    restart: Annotated[
        bool, arg(help="Throw away what the file has, for example after changing ranges.")
    ] = False


def main(argv: Sequence[str] | None = None) -> int:
    """Searches, and returns the exit status."""
    config = cli.parse(Config, argv, "python -m experiments.search", __doc__ or "")
    protocol = _checked(config)
    path = choices.path_of(config.dataset, config.label_noise, config.chosen)
    settings = _settings(config, protocol)
    found = choices.read(path)
    if config.restart or not found.splits:
        found = choices.Choices(path, {}, {})
    elif not _same(found.settings, settings):
        raise cli.UsageError(
            f"{path} was searched with other settings or ranges; "
            f"--restart throws it away and searches anew"
        )
    search_missing(config, protocol, replace(found, settings=settings))
    print(f"choices in {path}")
    return 0


def _checked(config: Config) -> Protocol:
    cli.one_of("dataset", config.dataset, PROTOCOLS)
    chosen_methods(config.methods)
    for name in ("splits", "trials", "seeds"):
        cli.at_least(name, getattr(config, name), 1)
    cli.fraction("label-noise", config.label_noise)
    cli.writable(config.chosen)
    return PROTOCOLS[config.dataset]


def _settings(config: Config, protocol: Protocol) -> choices.Settings:
    """What the choices depend on."""
    return {
        "how": (
            f"on each split, {config.trials} trials for each method, each trained with "
            f"{config.seeds} seeds; highest mean validation accuracy, then lowest loss"
        ),
        "protocol": protocol.summary(),
        "trials": config.trials,
        "seeds": config.seeds,
        "label_noise": config.label_noise,
        "ranges": {
            method: {
                name: str(interval) for name, interval in _ranges(method, protocol).items()
            }
            for method in BEFORE_SGD
        },
    }


def _ranges(method: str, protocol: Protocol) -> dict[str, Interval]:
    return space(method, protocol.learning_rate)


def _same(old: choices.Settings, new: choices.Settings) -> bool:
    """Whether choices made with either can stand in one file; new methods may join."""
    ranges = old.get("ranges", {})
    known = {method: new.get("ranges", {}).get(method) for method in ranges}
    return old == {**new, "ranges": known}


def search_missing(config: Config, protocol: Protocol, found: choices.Choices) -> None:
    """Searches what isn't in the file yet, and adds it there one by one."""
    missing = [
        (split, name)
        for split in range(config.splits)
        for name in METHODS
        if name in config.methods and not found.has(name, split)
    ]
    dataset = catalogue.load(protocol.experiment.dataset, config.data_dir)
    build = protocol.experiment.build(dataset.shape, dataset.classes)
    model = pure(build, protocol.keep)
    measures = evaluator(model, protocol)
    trainers = {name: trainer(METHODS[name], model, protocol) for name in config.methods}
    with progress.Display(progress.console(), len(missing)) as display:
        for split, name in missing:
            examples = training_split(dataset, protocol, split, config.label_noise)
            entry = _timed_search(
                config,
                protocol,
                trainers[name],
                measures,
                name,
                split,
                examples,
                display,
            )
            found.add(name, split, entry)
            display.end(_described(entry))


def _timed_search(
    config: Config,
    protocol: Protocol,
    trainer: Trainer,
    measures: Evaluator,
    name: str,
    split: int,
    examples: TrainingSplit,
    display: progress.Display,
) -> choices.Entry:
    steps = config.trials * config.seeds * protocol.steps
    display.begin(f"split {split}, {METHODS[name].label}", steps)
    start = time.monotonic()
    entry = trials.best(
        trainer,
        measures,
        protocol,
        examples,
        trials.trials(_ranges(name, protocol), split, config.trials),
        config.seeds,
        lambda replicas, _: display.advance(replicas * protocol.steps_per_epoch),
    )
    seconds = round(time.monotonic() - start, 1)
    return {**entry, "seconds": seconds, "date": datetime.date.today().isoformat()}


def _described(entry: choices.Entry) -> str:
    values = ", ".join(f"{name} {v:g}" for name, v in entry["hyperparameters"].items())
    return f"validation {entry.get('validation_accuracy'):.1%} with {values}"


if __name__ == "__main__":
    sys.exit(cli.run(main, None))
