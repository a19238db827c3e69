"""Random splits, each made from its number alone.

Training and validation on one side, test on the other: two functions, so that a search
for hyperparameters can be given the one and never hold the other.
"""

from typing import NamedTuple

import numpy as np

from experiments.configs.compare import Protocol
from experiments.data.drawn import shuffled
from experiments.data.examples import Dataset, Examples
from experiments.data.label_noise import mislabel


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
      protocol: sizes and pixel scaling.
      split: the split's number, which is also its seed.
      label_noise: fraction of training labels to replace by another class.
    """
    order = shuffled(dataset, split)
    train = _scaled(dataset.fetch(order[: protocol.train]), protocol)
    ends = protocol.train + protocol.validation
    validation = _scaled(dataset.fetch(order[protocol.train : ends]), protocol)
    noisy = mislabel(train.labels, label_noise, dataset.classes, split)
    return TrainingSplit(train._replace(labels=noisy), validation)


def draw_test(dataset: Dataset, protocol: Protocol, split: int) -> Examples:
    """The test examples of a split: the official ones, or all that the split left."""
    if dataset.official_test is not None:
        return _scaled(dataset.official_test(), protocol)
    rest = shuffled(dataset, split)[protocol.train + protocol.validation :]
    return _scaled(dataset.fetch(rest), protocol)


def _scaled(examples: Examples, protocol: Protocol) -> Examples:
    images = (examples.inputs - protocol.shift) / protocol.scale
    return examples._replace(inputs=images.astype(np.float32))
