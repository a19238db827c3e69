"""Random keys, each of which draws by itself.

The implementations "rbg" and "unsafe_rbg" stand for the accelerator's own generator. Under
`jax.vmap` it fills the whole batch's numbers from the first key, so that what an example
draws depends on which others are beside it: chosen, cut into microbatches or grouped it
would draw anew. Here keys are Threefry's, whose draws depend on the key and nothing else.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

ALONE = "threefry2x32"
# Of those that JAX has, the ones that draw by the batch.
TOGETHER = ("rbg", "unsafe_rbg")


def key_of(seed: Any) -> Key[Array, ""]:
    """The key of a seed, whatever implementation is JAX's default."""
    return jax.random.key(seed, impl=ALONE)


def drawn_alone(batch: PyTree) -> PyTree:
    """The batch, with keys that draw together remade into ones that draw alone."""
    return jax.tree.map(_remade, batch)


def _remade(leaf: Array) -> Array:
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    if str(jax.random.key_impl(leaf)) not in TOGETHER:
        return leaf
    data, fold = jax.random.key_data(leaf), jax.random.fold_in
    for _ in range(leaf.ndim):
        fold = jax.vmap(fold)
    keys = jax.random.wrap_key_data(data[..., :2], impl=ALONE)
    return fold(fold(keys, data[..., 2]), data[..., 3])
