"""Random keys of examples and devices."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..devices._spread import spread_over


def keys_of_rows(key: Array, batch: PyTree) -> Array:
    """Keys of the batch's examples along the first axis; of stacked keys, stacked ones."""
    n = jax.tree.leaves(batch)[0].shape[0]

    def split(key: Array) -> Array:
        return jax.random.split(key, n)

    for _ in range(key.ndim):
        split = jax.vmap(split)
    return jnp.moveaxis(split(key), -1, 0)


def of_device(key: Array, batch: PyTree) -> Array:
    """A key that no other device has, where the batch is spread over some."""

    def folded(key: Array) -> Array:
        for name in _axes(batch):
            key = jax.random.fold_in(key, jax.lax.axis_index(name))
        return key

    for _ in range(key.ndim):
        folded = jax.vmap(folded)
    return folded(key)


def typed(key: Any) -> Array:
    """A random key as `jax.random.key` makes it, of what `PRNGKey` made, too."""
    is_typed = jnp.issubdtype(jnp.asarray(key).dtype, jax.dtypes.prng_key)
    return jnp.asarray(key) if is_typed else jax.random.wrap_key_data(key)


def is_spread(batch: PyTree) -> bool:
    """Whether the batch is spread over devices that the types of its arrays tell."""
    return bool(_axes(batch))


def _axes(batch: PyTree) -> list[Any]:
    axes = {name for leaf in jax.tree.leaves(batch) for name in spread_over(leaf)}
    return sorted(axes, key=str)
