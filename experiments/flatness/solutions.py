"""Trained replicas one by one, as the library's measures take them."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

from experiments.data.examples import Examples
from experiments.training.evaluation import chunks

# So many examples at once: about as many as in a step of the training, and whole groups
# of 16 for m-sharpness. Larger batches are slower on a CPU, whose caches they do not fit.
BATCH = 128

Losses = Callable[[PyTree, Any], Any]


def replica(params: PyTree, number: int) -> PyTree:
    """The parameters of one of several replicas, which are stacked."""
    return jax.tree.map(lambda leaf: leaf[number], params)


def in_batches(examples: Examples) -> list[Examples]:
    """All examples in order, as they are measured."""
    return chunks(examples, BATCH)
