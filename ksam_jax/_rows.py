"""Rows of a batch: which are chosen, how they are gathered, what each weighs.

With groups, the batch is that many equal parts in order. Rows are then numbered within
their group and gathered within it, so that on a sharded batch no row changes its device.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree


class Chosen(NamedTuple):
    """Rows of the batch, or of each group of it.

    Attributes:
      indices: which rows.
      counts: False for those that only fill up the static size.
    """

    indices: Int[Array, "*groups k"]
    counts: Bool[Array, "*groups k"]


def take(tree: PyTree, indices: Int[Array, "*groups k"]) -> PyTree:
    """Gathers rows of every leaf, known to be in range: all groups' rows, one by one."""
    if indices.ndim == 1:
        return jax.tree.map(lambda leaf: _gather(leaf, indices), tree)
    parts = split_groups(tree, indices.shape[0])
    return join_groups(jax.tree.map(lambda x: jax.vmap(_gather)(x, indices), parts))


def mean_weights(counts: Bool[Array, "*groups k"]) -> Float[Array, " rows"]:
    """Equal weights for the rows that count, over all groups summing to one.

    Each group weighs the same, as each device does in a mean over devices. With no row
    that counts a group's weights are NaN, and so is the gradient, for
    `optax.apply_if_finite` to see.
    """
    # The sum of ones is exact in the widest float there is, not in bfloat16.
    ones = counts.astype(jnp.result_type(float))
    total = jnp.sum(ones, axis=-1, keepdims=True)
    # Said outright: of 0 / 0 XLA may make 0 where it knows that the ones are 0 or 1.
    weights = jnp.where(total > 0, ones / jnp.maximum(total, 1), jnp.nan)
    return weights if counts.ndim == 1 else join_groups(weights) / counts.shape[0]


def weighted_mean(values: Float[Array, " rows"], rows: Chosen) -> Float[Array, ""]:
    """The mean of one value per row, over the rows that count."""
    counts = rows.counts.reshape(-1)
    weights = mean_weights(rows.counts).astype(values.dtype)
    return jnp.sum(weights * jnp.where(counts, values, jnp.zeros_like(values)))


def cotangent(
    weights: Float[Array, " rows"], losses: Float[Array, " rows"]
) -> Float[Array, " rows"]:
    """The weights as what is pulled back through `losses`: dtype, sharding and all."""
    return weights.astype(losses.dtype) + jnp.zeros_like(losses)


def fill_up(chosen: Chosen, multiple: int) -> Chosen:
    """Adds rows that don't count until their number divides by `multiple`."""
    missing = -chosen.indices.shape[-1] % multiple
    if not missing:
        return chosen
    # The first row once more: if any row is fit to be computed on, it is.
    more = jnp.repeat(chosen.indices[..., :1], missing, axis=-1)
    no_more = jnp.zeros_like(more, bool)
    return Chosen(
        jnp.concatenate([chosen.indices, more], axis=-1),
        jnp.concatenate([chosen.counts, no_more], axis=-1),
    )


def split_groups(tree: PyTree, groups: int) -> PyTree:
    """`(N, ...)` to `(groups, N / groups, ...)`."""
    return jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), tree)


def join_groups(tree: PyTree) -> PyTree:
    """Undoes `split_groups`."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def _gather(leaf: Any, indices: Int[Array, " k"]) -> Array:
    return leaf.at[indices].get(mode="promise_in_bounds")
