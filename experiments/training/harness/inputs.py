"""The examples of an experiment: to train on, and to look at."""

from pathlib import Path

from rich.console import Console

from experiments.configs.experiment import Experiment
from experiments.data import catalogue
from experiments.data.named import Inputs, Wanted


def load(experiment: Experiment, data_dir: Path | None, console: Console | None) -> Inputs:
    """Opens, draws and decodes; what several experiments share is done once.

    Raises:
      UsageError: if the dataset isn't prepared, or has too few examples.
    """
    wanted = Wanted(
        data_dir,
        experiment.train_examples,
        experiment.validation_examples,
        experiment.length,
        experiment.vocabulary,
        experiment.pretrained,
        console,
    )
    return catalogue.named(experiment.dataset).inputs(wanted)
