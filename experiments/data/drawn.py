"""Which examples are for what: drawn by a split's number alone."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from experiments.data.examples import Dataset
from experiments.shell.cli import UsageError

# The split that experiments are trained on, the same for all seeds; `experiments.search`
# chooses hyperparameters on validation examples of the same one.
SPLIT = 0


def shuffled(dataset: Dataset, split: int) -> Int[np.ndarray, " n"]:
    """The examples' numbers in the order in which the split takes them."""
    return np.random.default_rng([split, 0]).permutation(dataset.size)


class Numbers(NamedTuple):
    """Which of a dataset's examples are for what; none is in two of them."""

    train: Int[np.ndarray, " n"]
    validation: Int[np.ndarray, " m"]
    rest: Int[np.ndarray, " r"]


def drawn(dataset: Dataset, wanted: int | None, held: int, split: int = SPLIT) -> Numbers:
    """Draws the training examples, those held out of them, and what is left.

    Args:
      dataset: to draw from.
      wanted: how many to train on; None: all that aren't held out.
      held: how many to hold out.
      split: another one for each number.

    Raises:
      UsageError: if there aren't so many.
    """
    count = dataset.size - held if wanted is None else wanted
    if held < 0 or count < 1 or count + held > dataset.size:
        raise UsageError(
            f"--train-examples (at least 1) and --validation-examples (at least 0) must be "
            f"at most the {dataset.size} of {dataset.title} together; got {count} and "
            f"{held}"
        )
    # All of them: in the order that they are stored in, which is read fastest.
    is_whole = count == dataset.size
    order = np.arange(dataset.size) if is_whole else shuffled(dataset, split)
    return Numbers(order[:count], order[count : count + held], order[count + held :])
