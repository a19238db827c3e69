"""Batches of examples through Grain: by seed, by process, and from any batch on.

Which examples make a batch follows from the seed and the batch's place alone. So each
process takes its rows of the same global batches, and a run that was stopped goes on
with the very next example, be it with another number of processes.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self

import grain
import numpy as np
from jaxtyping import Int

from experiments.data.examples import Dataset
from experiments.data.rows import Rows, as_rows, loaded, own_rows
from experiments.shell.cli import UsageError


class _Numbered(NamedTuple):
    step: int
    rows: Rows


class Batches(Iterator[Rows]):
    """Training batches without end, in a new order every epoch.

    What doesn't fill a batch is left out, in every epoch something else.

    Args:
      dataset: any; `experiments.data.memory.resident` makes the fastest.
      batch_size: of the global batch, all processes together.
      seed: decides the order; the same for all processes.
      rows: which rows of a global batch this process loads, as
        `experiments.processes.sharded.local_rows` says; None: all.
      threads: how many load ahead. 0 loads when asked to, best for what is in memory.

    Raises:
      UsageError: if the dataset has too few examples for one batch, or a number is out of
        range.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        rows: Int[np.ndarray, " n"] | None = None,
        threads: int = 0,
    ):
        _fits(batch_size, dataset)
        _at_least("seed", seed, 0)
        _at_least("threads", threads, 0)
        self._options = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=2 * threads
        )
        self._same = {
            "dataset": dataset.title,
            "examples": dataset.size,
            "batch_size": batch_size,
            "seed": seed,
        }
        if dataset.vocabulary:
            # It names the vocabulary, without which tokens mean nothing.
            self._same["source"] = dataset.source
        self.steps_per_epoch = dataset.size // batch_size
        self._plan = _plan(dataset, batch_size, seed, own_rows(rows, batch_size))
        self._start(0)

    def _start(self, step: int) -> None:
        # A slice, not Grain's own state, which only its version of Grain may read.
        plan = self._plan.slice(slice(step, None))
        self._loaded = iter(plan.to_iter_dataset(self._options))
        self._step = step

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Rows:
        step, rows = next(self._loaded)
        # Not a count of our own: after an error in a thread Grain goes on behind it.
        self._step = step + 1
        return rows

    def get_state(self) -> dict[str, Any]:
        """How far it has come, for `json.dumps`; what is loaded ahead doesn't count."""
        return {"batches": self._step, **self._same}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes to where `get_state` was called, forwards or back.

        Raises:
          UsageError: if the state is of another order of batches, or isn't one.
        """
        step = state.get("batches")
        if type(step) is not int or step < 0:
            raise UsageError(
                f"the state's 'batches' must be an integer, at least 0; got {step!r}: "
                f"take a state that get_state returned"
            )
        for name, mine in self._same.items():
            if state.get(name) != mine:
                raise UsageError(
                    f"the state's {name!r} must be {mine!r}, as here; got "
                    f"{state.get(name)!r}: continue with the same, or start a new run"
                )
        self.close()
        self._start(step)

    def close(self) -> None:
        """Stops its threads."""
        self._loaded.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def evaluation(
    dataset: Dataset, batch_size: int, rows: Int[np.ndarray, " n"] | None = None
) -> Iterator[Rows]:
    """Every example once, in order; the last batch is filled up with index -1.

    Args:
      dataset: any.
      batch_size: of the global batch, all processes together.
      rows: which rows of a global batch this process loads; None: all.

    Raises:
      UsageError: if the batch size or a row is out of range.
    """
    _at_least("batch_size", batch_size, 1)
    return _in_order(dataset, batch_size, own_rows(rows, batch_size))


def _in_order(
    dataset: Dataset, batch_size: int, rows: Int[np.ndarray, " n"]
) -> Iterator[Rows]:
    for start in range(0, dataset.size, batch_size):
        numbers = start + rows
        # All batches have one shape, so that one compilation does for all.
        found = loaded(dataset, np.minimum(numbers, dataset.size - 1), 0)
        index = np.where(numbers < dataset.size, found.index, np.int32(-1))
        yield found._replace(index=index)


def _plan(
    dataset: Dataset, batch_size: int, seed: int, rows: Int[np.ndarray, " n"]
) -> grain.MapDataset[_Numbered]:
    """What batch each step has, for as many steps as anyone could want."""
    steps = dataset.size // batch_size

    def load(step: int, place: int) -> _Numbered:
        order = _order(dataset.size, seed, step // steps)
        numbers = order[place * batch_size + rows]
        return _Numbered(step, _drawn(dataset, numbers, step // steps, seed))

    # Batches, not examples, are Grain's elements: it takes 10 microseconds to shuffle an
    # example and a fraction of that to copy it.
    return grain.MapDataset.range(steps).repeat().map_with_index(load)


# Threads that load ahead are in two epochs at once.
@functools.lru_cache(maxsize=4)
def _order(examples: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    """The examples' order in an epoch."""
    # Not seed + epoch, with which seed 0 would have in epoch 1 what seed 1 has in epoch 0.
    sequence = np.random.SeedSequence(seed, spawn_key=(epoch,))
    return np.random.default_rng(sequence).permutation(examples)


def _drawn(dataset: Dataset, numbers: Int[np.ndarray, " n"], epoch: int, seed: int) -> Rows:
    """Examples to train on."""
    if dataset.random_fetch is None:
        return loaded(dataset, numbers, epoch)
    return as_rows(dataset, dataset.random_fetch(numbers, epoch, seed), numbers, epoch)


def _fits(batch_size: int, dataset: Dataset) -> None:
    if not 1 <= batch_size <= dataset.size:
        raise UsageError(
            f"batch_size must be at least 1 and at most the {dataset.size} examples of "
            f"{dataset.title}; got {batch_size}"
        )


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(f"{name} must be at least {least}; got {value}")
