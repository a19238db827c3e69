"""How much the loss rises one step up its own gradient: the measure of every method."""

from collections.abc import Callable
from typing import Any

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


def rise(
    loss: Callable[[Any], Any],
    gradient: Callable[[Any], PyTree],
    climb: Callable[[Any, PyTree], Any],
    at: Any,
) -> Any:
    r"""How much the loss rises `RADIUS` along its gradient.

    .. math:: L(w + r g / \|g\|) - L(w)

    Args:
      loss: weights, or what has them -> the mean loss, a number for each replica.
      gradient: likewise -> its gradient, of any length.
      climb: (weights, gradient) -> the weights `uphill`, compiled or over replicas.
      at: the weights.
    """
    return loss(climb(at, gradient(at))) - loss(at)
