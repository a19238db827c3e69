"""Rows of a batch: which are chosen, how they are gathered, what each weighs.

With groups, the batch is that many equal parts in order. Rows are then numbered within
their group and gathered within it, so that on a sharded batch no row changes its device.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ..devices._axis import rows_along, undivided
from ..nodes._with_rows import with_rows


class Chosen(NamedTuple):
    r"""Examples that take part in a gradient, and the weight of each.

    .. math:: g = \sum_j \omega_j \nabla \ell_{i_j}

    What `choose` of a `Selection` returns. Weights of `1 / k` make the mean over the
    chosen, of `1 / N` the sum over the size of the batch; importance sampling has weights
    of its own. On several devices or in groups the gradients of these sums are averaged.

    Attributes:
      indices: i, shape `(k,)`, integers from 0 to N - 1: rows of the batch, of a device's
        part of it, or of a group's; k is static. Out of range they make the gradient NaN.
        Where `learn` is given those of several groups: shape `(groups, k)`.
      weights: the factors, shape as `indices`, floating-point. A row of weight zero only
        fills up the static size and is never computed on: a row with a weight stands in
        for it, or where there is none one whose loss is finite, if losses were read; the
        gradient is then zero. NaN makes the gradient NaN, for `optax.apply_if_finite` to
        see.

    Example:
      >>> import jax.numpy as jnp
      >>> import ksam_jax
      >>> first_two = ksam_jax.Chosen(jnp.arange(2), jnp.full((2,), 0.5))
      >>> first_two.take({"x": jnp.array([10, 20, 30])})["x"].tolist()
      [10, 20]
    """

    indices: Int[Array, "*groups k"]
    weights: Float[Array, "*groups k"]

    def take(self, tree: PyTree) -> PyTree:
        """These rows of every leaf, in order; of groups, one group's after the other's."""
        return take(tree, self.indices)

    @property
    def row_weights(self) -> Float[Array, " rows"]:
        """The weight of each row in the gradient; that of groups is their mean."""
        if self.weights.ndim == 1:
            return self.weights
        return join_groups(self.weights) / self.weights.shape[0]


def take(tree: PyTree, indices: Int[Array, "*groups k"]) -> PyTree:
    """Gathers rows of every leaf, known to be in range: all groups' rows, one by one."""
    return with_rows(functools.partial(_taken, indices=indices), tree)


def equal_weights(n: int) -> Float[Array, " n"]:
    """Those of a mean over n rows, in the widest float there is."""
    return jnp.full((n,), 1 / n, jnp.result_type(float))


def weighted_mean(values: Float[Array, " rows"], rows: Chosen) -> Float[Array, ""]:
    """The mean of one value per row by the rows' weights, over the rows that have one."""
    weights = rows.row_weights
    total = jnp.sum(weights)
    share = (weights / jnp.where(total == 0, jnp.ones_like(total), total)).astype(
        values.dtype
    )
    return jnp.sum(share * jnp.where(weights == 0, jnp.zeros_like(values), values))


def cotangent(
    weights: Float[Array, " rows"], losses: Float[Array, " rows"]
) -> Float[Array, " rows"]:
    """The weights as what is pulled back through `losses`: dtype, sharding and all."""
    return weights.astype(losses.dtype) + jnp.zeros_like(losses)


def fit_to_run(chosen: Chosen, n: int, losses: Float[Array, " N"] | None = None) -> Chosen:
    """Puts a row that has a weight where one has none, so that a bad one isn't run.

    0 * NaN is NaN, in the gradient as well. Where no row has a weight it is one whose loss
    is known to be finite, if any is. A row out of range gets the weight NaN.
    """
    indices = chosen.indices
    # The size of the batch needn't fit into a narrow dtype.
    indices = indices if indices.dtype.itemsize >= 4 else indices.astype(jnp.int32)
    is_row = (indices >= 0) & (indices < n)
    weights = chosen.weights.astype(jnp.result_type(float))
    weights = jnp.where(is_row, weights, jnp.nan)
    is_fit = is_row & (weights != 0)
    # Any of them, found without a gather, which Explicit axes would have to be told about.
    stand_in = jnp.max(jnp.where(is_fit, indices, -1), axis=-1, keepdims=True)
    stand_in = jnp.where(stand_in < 0, _sound_row(losses, indices), stand_in)
    return Chosen(jnp.where(is_fit, indices, stand_in), weights)


def _sound_row(losses: Float[Array, " N"] | None, like: Array) -> Array:
    if losses is None:
        return jnp.zeros_like(like, shape=())
    rows = jnp.arange(losses.shape[0], dtype=like.dtype)
    return jnp.max(jnp.where(jnp.isfinite(losses), rows, 0))


def fill_up(chosen: Chosen, multiple: int) -> Chosen:
    """Adds rows of weight zero until their number divides by `multiple`."""
    missing = -chosen.indices.shape[-1] % multiple
    if not missing:
        return chosen
    # The first row once more: if any row is fit to be computed on, it is.
    more = jnp.repeat(chosen.indices[..., :1], missing, axis=-1)
    nothing = jnp.zeros_like(more, chosen.weights.dtype)
    return Chosen(
        jnp.concatenate([chosen.indices, more], axis=-1),
        jnp.concatenate([chosen.weights, nothing], axis=-1),
    )


def split_groups(tree: PyTree, groups: int) -> PyTree:
    """`(N, ...)` to `(groups, N / groups, ...)`."""
    return with_rows(functools.partial(_split, groups=groups), tree, after=2)


def join_groups(tree: PyTree) -> PyTree:
    """Undoes `split_groups`."""
    return with_rows(_join, tree, before=2)


def _split(leaf: Any, groups: int) -> Array:
    return leaf.reshape(groups, -1, *leaf.shape[1:])


def _join(leaf: Any) -> Array:
    return leaf.reshape(-1, *leaf.shape[2:])


def _taken(leaf: Any, indices: Int[Array, "*groups k"]) -> Array:
    rows = undivided(leaf)
    if indices.ndim == 1:
        found = _gather(rows, indices)
    else:
        found = _join(jax.vmap(_gather)(_split(rows, indices.shape[0]), indices))
    return rows_along(found, leaf)


def _gather(leaf: Any, indices: Int[Array, " k"]) -> Array:
    return leaf.at[indices].get(mode="promise_in_bounds")
