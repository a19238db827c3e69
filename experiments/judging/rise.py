"""How much the loss rises one step up its own gradient: the measure of every method."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

# Whatever radius a method has trained with.
RADIUS = 0.05


def uphill(params: PyTree, gradient: PyTree) -> PyTree:
    """Goes `RADIUS` along the gradient; stays where the gradient is zero."""
    length = optax.tree.norm(gradient)
    step = jnp.where(length > 0, RADIUS / jnp.where(length > 0, length, 1), 0)
    return jax.tree.map(lambda p, g: p + step * g, params, gradient)
