"""Random splits, each made from its number alone.

Training and validation on one side, test on the other: two functions, so that a search
for hyperparameters can be given the one and never hold the other.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from experiments.configs.compare import Protocol
from experiments.data.datasets import Dataset, Examples


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


def mislabel(
    labels: Int[np.ndarray, " n"], fraction: float, classes: int, split: int
) -> Int[np.ndarray, " n"]:
    """Replaces that fraction of the labels by another class, each equally likely."""
    # A stream of its own: the split's examples don't depend on the noise.
    rng = np.random.default_rng([split, 1])
    chosen = rng.permutation(len(labels))[: round(fraction * len(labels))]
    noisy = labels.copy()
    shift = rng.integers(1, classes, size=len(chosen), dtype=labels.dtype)
    noisy[chosen] = (noisy[chosen] + shift) % classes
    return noisy


def shuffled(dataset: Dataset, split: int) -> Int[np.ndarray, " n"]:
    """The examples' numbers in the order in which the split takes them."""
    return np.random.default_rng([split, 0]).permutation(dataset.size)


def _scaled(examples: Examples, protocol: Protocol) -> Examples:
    images = (examples.inputs - protocol.shift) / protocol.scale
    return examples._replace(inputs=images.astype(np.float32))
