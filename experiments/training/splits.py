"""Random splits, each made from its number alone.

Training and validation on one side, test on the other: two functions, so that a search
for hyperparameters can be given the one and never hold the other.
"""

from typing import NamedTuple

import numpy as np

from experiments.configs.compare import Protocol
from experiments.data import memory
from experiments.data.drawn import Numbers, drawn
from experiments.data.examples import Dataset, Examples
from experiments.data.label_noise import mislabel
from experiments.data.normalization import Normalization, normalized


class TrainingSplit(NamedTuple):
    """What training and choosing hyperparameters may look at."""

    train: Examples
    validation: Examples


def training_split(
    dataset: Dataset, protocol: Protocol, split: int, label_noise: float = 0.0
) -> TrainingSplit:
    """Draws the training and validation examples of a split.

    Args:
      dataset: what to draw from.
      protocol: how many.
      split: the split's number, which is also its seed.
      label_noise: fraction of training labels to replace by another class.
    """
    numbers = _drawn(dataset, protocol, split)
    how = dataset.scaling(numbers.train)
    train = _scaled(dataset.fetch(numbers.train), how)
    validation = _scaled(dataset.fetch(numbers.validation), how)
    noisy = mislabel(train.labels, label_noise, dataset.classes, split)
    return TrainingSplit(train._replace(labels=noisy), validation)


def draw_test(dataset: Dataset, protocol: Protocol, split: int) -> Examples:
    """The test examples of a split: the official ones, or all that the split left."""
    numbers = _drawn(dataset, protocol, split)
    if dataset.official_test is not None:
        raw = dataset.official_test()
    else:
        raw = dataset.fetch(numbers.rest)
    return _scaled(raw, dataset.scaling(numbers.train))


def _drawn(dataset: Dataset, protocol: Protocol, split: int) -> Numbers:
    experiment = protocol.experiment
    return drawn(dataset, experiment.train_examples, experiment.validation_examples, split)


def _scaled(raw: Examples, how: Normalization) -> Examples:
    examples = memory.compact(raw)
    return examples._replace(inputs=np.asarray(normalized(how, examples.inputs)))
