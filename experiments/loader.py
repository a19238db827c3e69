"""Batches of which each process loads its own rows only."""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from experiments import sharded
from experiments.data import Batch, Dataset
from experiments.training import batch_rows


class Loader:
    """This process's part of every batch, and a count of what it has loaded."""

    def __init__(
        self, dataset: Dataset, scale: float, mesh: Mesh, batch_size: int, seed: int
    ):
        self.dataset = dataset
        self._scale, self._mesh, self._size, self._seed = scale, mesh, batch_size, seed
        self._rows = sharded.local_rows(mesh, batch_size)
        self._loaded = self._batches = 0

    def batches(self) -> Iterator[Batch]:
        """Global batches without end, the same however many processes there are."""
        seeds = jnp.array([self._seed])
        for epoch in itertools.count():
            numbers = batch_rows(seeds, epoch, self.dataset.size, self._size)
            for batch in np.asarray(numbers)[0]:
                yield self._batch(batch[self._rows])

    def _batch(self, numbers: Int[np.ndarray, " n"]) -> Batch:
        examples = self.dataset.fetch(numbers)
        self._loaded += examples.number
        self._batches += 1
        images = (examples.images / self._scale).astype(np.float32)
        own = Batch(images, examples.labels, numbers)
        return sharded.global_batch(self._mesh, self._size, own)

    def report(self) -> str:
        """Which rows this process has loaded."""
        first, last = self._rows[0], self._rows[-1]
        return (
            f"process {jax.process_index()} of {jax.process_count()} loaded "
            f"{self._loaded} examples in {self._batches} batches of {self._size}: "
            f"{len(self._rows)} rows of each, from {first} to {last}"
        )
