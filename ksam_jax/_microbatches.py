"""The batch in parts, one after the other, for memory: the joined batch's results.

A microbatch takes every n-th row rather than a stretch of them, so that on a batch
sharded over devices each device has its share of each.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._rows import cotangent
from ._tree import widen

# (params, batch) -> (losses, aux).
BatchLoss = Callable[[PyTree, PyTree], tuple[Float[Array, " N"], Any]]


def losses_in_turn(
    loss: BatchLoss, params: PyTree, batch: PyTree, parts: int
) -> tuple[Float[Array, " N"], Any]:
    """The losses of all examples, and the microbatches' aux stacked."""
    losses, aux = jax.lax.map(lambda part: loss(params, part), _split(batch, parts))
    return _join(losses), aux


def gradient_in_turn(
    loss: BatchLoss,
    params: PyTree,
    batch: PyTree,
    weights: Float[Array, " N"],
    parts: int,
) -> tuple[Float[Array, " N"], Any, PyTree]:
    """As `losses_in_turn`, with the gradient of the weighted sum of the losses."""

    def add(total: PyTree, part: tuple[PyTree, Array]) -> tuple[PyTree, Any]:
        rows, row_weights = part
        losses, pull_back, aux = jax.vjp(lambda p: loss(p, rows), params, has_aux=True)
        (gradient,) = pull_back(cotangent(row_weights, losses))
        total = jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, gradient)
        return total, (losses, aux)

    start = jax.tree.map(lambda p: jnp.zeros_like(widen(p)), params)
    total, (losses, aux) = jax.lax.scan(add, start, _split((batch, weights), parts))
    gradient = jax.tree.map(lambda t, p: t.astype(p.dtype), total, params)
    return _join(losses), aux, gradient


def join_aux(aux: PyTree, is_per_example: bool) -> PyTree:
    """What the microbatches' aux is for the batch: its rows in order, or their mean.

    What can't be averaged, such as an integer, is the first microbatch's.
    """
    if is_per_example:
        return jax.tree.map(_join, aux)
    return jax.tree.map(mean_or_first, aux)


def _split(tree: PyTree, parts: int) -> PyTree:
    return jax.tree.map(
        lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1), tree
    )


def _join(x: Array) -> Array:
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])


def mean_or_first(x: Array) -> Array:
    """The mean over the first axis if `x` can be averaged, else its first row."""
    return jnp.mean(x, axis=0) if can_average(x) else x[0]


def can_average(x: Any) -> bool:
    """Whether `x` is an array of floats; a number that isn't an array is a constant."""
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact)
