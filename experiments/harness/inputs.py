"""The examples of an experiment: to train on, and to look at; all in memory."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from rich.console import Console

from experiments import augment, cli, data, memory
from experiments.augment import Normalization
from experiments.configs.experiment import Experiment
from experiments.data import Dataset
from experiments.splits import shuffled

# The split that experiments are trained on, the same for all seeds; `experiments.search`
# chooses hyperparameters on validation examples of the same one.
SPLIT = 0
WORTH_A_LINE = 2000


class Inputs(NamedTuple):
    """An experiment's examples.

    Attributes:
      train: what it is trained on.
      judged: what it is looked at with: "train", as many training examples as there are
        test examples; "validation", if some are held out; and "test".
      normalization: the training examples' means and standard deviations.
    """

    train: Dataset
    judged: Mapping[str, Dataset]
    normalization: Normalization


def load(experiment: Experiment, data_dir: Path | None, console: Console | None) -> Inputs:
    """Opens, draws and decodes; what several experiments share is done once.

    Raises:
      UsageError: if the dataset isn't prepared, or has too few examples.
    """
    held, wanted = experiment.validation_examples, experiment.train_examples
    return _decoded(experiment.dataset, data_dir, wanted, held, console)


class Numbers(NamedTuple):
    """Which of a dataset's examples are for what; none is in two of them."""

    train: Int[np.ndarray, " n"]
    validation: Int[np.ndarray, " m"]
    rest: Int[np.ndarray, " r"]


def drawn(dataset: Dataset, wanted: int | None, held: int) -> Numbers:
    """Draws the training examples, those held out of them, and what is left.

    Args:
      dataset: to draw from.
      wanted: how many to train on; None: all that aren't held out.
      held: how many to hold out.

    Raises:
      UsageError: if there aren't so many.
    """
    count = dataset.size - held if wanted is None else wanted
    if held < 0 or count < 1 or count + held > dataset.size:
        raise cli.UsageError(
            f"--train-examples (at least 1) and --validation-examples (at least 0) must be "
            f"at most the {dataset.size} of {dataset.title} together; got {count} and "
            f"{held}"
        )
    # All of them: in the order that they are stored in, which is read fastest.
    is_whole = count == dataset.size
    order = np.arange(dataset.size) if is_whole else shuffled(dataset, SPLIT)
    return Numbers(order[:count], order[count : count + held], order[count + held :])


@functools.lru_cache(maxsize=4)
def _decoded(
    name: str, data_dir: Path | None, wanted: int | None, held: int, console: Console | None
) -> Inputs:
    whole = data.load(name, data_dir)
    numbers = drawn(whole, wanted, held)
    if whole.official_test is None:
        if not len(numbers.rest):
            raise cli.UsageError(
                f"{whole.title} has no test examples of its own: leave some of its "
                f"{whole.size} out of --train-examples and --validation-examples"
            )
        test = memory.part(whole, numbers.rest)
    else:
        test = data.load(name, data_dir, "test")
    parts = {
        "training": memory.part(whole, numbers.train),
        "validation": memory.part(whole, numbers.validation),
        "test": test,
    }
    train, validation, test = (
        _resident(part, purpose, console) for purpose, part in parts.items()
    )
    some = memory.part(train, np.arange(min(train.size, test.size)))
    judged = {"train": some, "validation": validation, "test": test}
    return Inputs(
        train,
        {purpose: dataset for purpose, dataset in judged.items() if dataset.size},
        augment.statistics(train.fetch(np.arange(train.size)).images),
    )


def _resident(part: Dataset, purpose: str, console: Console | None) -> Dataset:
    # A few examples take no time that is worth a line.
    console = console if part.size > WORTH_A_LINE else None
    return memory.resident(part, memory.decode(part, console, purpose=purpose))
