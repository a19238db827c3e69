"""Trained replicas one by one, as the library's measures take them."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

from experiments.data import Examples
from experiments.models import PureModel
from experiments.objectives import cross_entropy

# So many examples at once: about as many as in a step of the training, and whole groups
# of 16 for m-sharpness. Larger batches are slower on a CPU, whose caches they do not fit.
BATCH = 128

Losses = Callable[[PyTree, Any], Any]


def losses_of(model: PureModel) -> Losses:
    """The loss of each example, to be made once: measures are compiled for its identity."""

    def losses(params: PyTree, batch: Examples) -> Any:
        logits = model.logits(params, batch.inputs, model.nothing)
        return cross_entropy(logits, batch.labels)

    return losses


def replica(params: PyTree, number: int) -> PyTree:
    """The parameters of one of several replicas, which are stacked."""
    return jax.tree.map(lambda leaf: leaf[number], params)


def in_batches(examples: Examples) -> list[Examples]:
    """All examples in order, the last batch smaller if they don't divide."""
    return [
        Examples(examples.inputs[i : i + BATCH], examples.labels[i : i + BATCH])
        for i in range(0, examples.number, BATCH)
    ]
