"""Aux of a batch-level loss, such as BatchNorm's statistics, put together from parts."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._axis import Axis


def mean_of_parts(aux: PyTree) -> PyTree:
    """Of leaves with a leading axis of parts: the mean, or if there is none the first."""
    return jax.tree.map(_mean_or_first, aux)


def mean_with(axis: Axis, tree: PyTree, aux: PyTree) -> tuple[PyTree, PyTree]:
    """The means over devices of `tree` and of what can be averaged in `aux`, at once."""
    leaves, treedef = jax.tree.flatten(aux)
    means = {i: leaf for i, leaf in enumerate(leaves) if _can_average(leaf)}
    tree, means = axis.mean((tree, means))
    return tree, treedef.unflatten([means.get(i, leaf) for i, leaf in enumerate(leaves)])


def _mean_or_first(x: Array) -> Array:
    return jnp.mean(x, axis=0) if _can_average(x) else x[0]


def _can_average(x: Any) -> bool:
    # A number that isn't an array is a constant, the same everywhere.
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact)
