"""What happens to examples inside the compiled programs, before a model sees them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from experiments.data import augment
from experiments.data.augment import Augmentation
from experiments.data.examples import Batch
from experiments.data.normalization import Normalization, normalized
from experiments.data.rows import Rows

# Of the run's seed; weights and augmentation have others (`experiments.data.augment`).
DROPOUT = 3


class Preparation(NamedTuple):
    """Of rows as the pipeline loads them.

    Attributes:
      batch: (rows, seed) -> what is trained on: augmented, with keys where they are used.
      inputs: rows -> what is looked at, without anything random.
    """

    batch: Callable[[Rows, Any], Batch]
    inputs: Callable[[Rows], Any]


def of_images(augmentation: Augmentation, normalization: Normalization) -> Preparation:
    """Crops, flips and normalizes images; see `experiments.data.augment`."""

    def batch(rows: Rows, seed: Any) -> Batch:
        keys = augment.example_keys(seed, rows.epoch, rows.index)
        images = augment.augmented(augmentation, normalization, keys, rows.inputs)
        return Batch(images, rows.labels, rows.index)

    return Preparation(batch, lambda rows: normalized(normalization, rows.inputs))


def of_texts(dropout: float) -> Preparation:
    """Gives each text a key for dropout, if there is any."""

    def batch(rows: Rows, seed: Any) -> Batch:
        keys = None
        if dropout:
            keys = augment.example_keys(seed, rows.epoch, rows.index, DROPOUT)
        return Batch(rows.inputs, rows.labels, rows.index, keys)

    return Preparation(batch, lambda rows: rows.inputs)
