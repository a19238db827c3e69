"""The batch in parts, one after the other, for memory: the joined batch's results.

A microbatch takes every n-th row rather than a stretch of them, so that on a batch
sharded over devices each device has its share of each.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..nodes._with_rows import renewed, with_rows
from ..trees._numbers import widen
from ._rows import cotangent

# (params, batch) -> (losses, aux).
BatchLoss = Callable[[PyTree, PyTree], tuple[Float[Array, " N"], Any]]


def losses_in_turn(
    loss: BatchLoss, params: PyTree, batch: PyTree, parts: int
) -> tuple[Float[Array, " N"], Any]:
    """The losses of all examples, and the microbatches' aux stacked."""
    split = _split(batch, parts)
    losses, aux = jax.lax.map(lambda part: loss(params, renewed(part)), split)
    return join_microbatches(losses), aux


def gradient_in_turn(
    loss: BatchLoss,
    params: PyTree,
    batch: PyTree,
    weights: Float[Array, " N"],
    parts: int,
) -> tuple[Float[Array, " N"], Any, PyTree]:
    """As `losses_in_turn`, with the gradient of the weighted sum of the losses."""

    def add(total: PyTree, part: tuple[PyTree, Array]) -> tuple[PyTree, Any]:
        rows, row_weights = renewed(part)
        losses, pull_back, aux = jax.vjp(lambda p: loss(p, rows), params, has_aux=True)
        (gradient,) = pull_back(cotangent(row_weights, losses))
        total = jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, gradient)
        return total, (losses, aux)

    start = jax.tree.map(lambda p: jnp.zeros_like(widen(p)), params)
    total, (losses, aux) = jax.lax.scan(add, start, _split((batch, weights), parts))
    gradient = jax.tree.map(lambda t, p: t.astype(p.dtype), total, params)
    return join_microbatches(losses), aux, gradient


def _split(tree: PyTree, parts: int) -> PyTree:
    """For a loop, which hands on the leaves' parts in nodes that don't know of it."""
    return jax.tree.map(
        lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1), tree
    )


def join_microbatches(tree: PyTree) -> PyTree:
    """Undoes the cut: `(parts, N / parts, ...)` to `(N, ...)`, rows in order again."""

    def joined(leaf: Any) -> Array:
        return jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:])

    return with_rows(joined, tree, unknown=1)
