"""One process's rows of a batch, as a dataset's examples become them."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from experiments.data.examples import Dataset, Examples
from experiments.data.memory import compact
from experiments.shell.cli import UsageError


class Rows(NamedTuple):
    """One process's rows of a batch; every leaf has them along its leading axis.

    Attributes:
      inputs: images, uint8 (n, height, width, depth); or `experiments.data.tokens.Tokens`.
      labels: int32 (n,), or float32 where a number is predicted.
      index: the examples' numbers in the dataset, int32 (n,); -1 where evaluation has
        filled up a batch.
      epoch: in which they are seen, int32 (n,), the same for all: with the index and the
        run's seed it gives each example its random key.
    """

    inputs: Any
    labels: Any
    index: Any
    epoch: Any


def loaded(dataset: Dataset, numbers: Int[np.ndarray, " n"], epoch: int) -> Rows:
    """The examples of these numbers, as they are."""
    return as_rows(dataset, dataset.fetch(numbers), numbers, epoch)


def as_rows(
    dataset: Dataset, examples: Examples, numbers: Int[np.ndarray, " n"], epoch: int
) -> Rows:
    """Examples with their numbers and their epoch."""
    inputs, labels = examples if dataset.vocabulary else compact(examples)
    index = numbers.astype(np.int32)
    return Rows(inputs, labels, index, np.full_like(index, epoch))


def own_rows(rows: Int[np.ndarray, " n"] | None, batch_size: int) -> Int[np.ndarray, " n"]:
    """Which rows a process loads, checked; None: all."""
    if rows is None:
        return np.arange(batch_size)
    inside = (rows >= 0) & (rows < batch_size)
    if not inside.all() or len(np.unique(rows)) != len(rows):
        raise UsageError(
            f"rows must be different numbers from 0 to {batch_size - 1}, below batch_size; "
            f"got {rows.tolist()}: experiments.processes.sharded.local_rows "
            f"gives a process its own"
        )
    return rows
