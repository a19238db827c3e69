"""What the sharpness-aware methods are compared with, as transformations like them.

Both are called as ksam_jax's are, `update(None, state, params, loss_fn=..., batch=...)`,
but neither perturbs anything, and neither costs what perturbing costs.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree


def mean_gradient() -> optax.GradientTransformationExtraArgs:
    """Plain SGD's gradient: of the mean loss over the batch."""

    def update_fn(
        updates, state, params=None, *, loss_fn: Any = None, batch: Any = None, **extra_args
    ):
        del updates, extra_args
        return _gradient(loss_fn, params, batch), state

    return optax.GradientTransformationExtraArgs(_no_state, update_fn)


def highest_loss_gradient(k: float) -> optax.GradientTransformationExtraArgs:
    """The ablation: K-SAM's examples without K-SAM's climb.

    A forward pass over the batch ranks the examples; the gradient is of the mean loss
    over the fraction `k` with the highest. In units of a forward pass over the batch
    this costs 1 + 3k, against SGD's 3.
    """

    def update_fn(
        updates, state, params=None, *, loss_fn: Any = None, batch: Any = None, **extra_args
    ):
        del updates, extra_args
        losses = loss_fn(params, batch)
        count = max(1, round(k * losses.shape[0]))
        _, hardest = jax.lax.top_k(losses, count)
        chosen = jax.tree.map(lambda leaf: leaf[hardest], batch)
        return _gradient(loss_fn, params, chosen), state

    return optax.GradientTransformationExtraArgs(_no_state, update_fn)


def _no_state(params: PyTree) -> optax.EmptyState:
    del params
    return optax.EmptyState()


def _gradient(loss_fn: Any, params: PyTree, batch: PyTree) -> PyTree:
    return jax.grad(lambda p: jnp.mean(loss_fn(p, batch)))(params)
