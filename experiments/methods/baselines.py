"""What the sharpness-aware methods are compared with, as transformations like them.

Both are called as ksam_jax's are, `update(None, state, params, loss_fn=..., batch=...)`,
but neither perturbs anything, and neither costs what perturbing costs.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree


class GradientState(NamedTuple):
    """What the last step told of itself.

    Attributes:
      loss: mean over the whole batch.
      aux: what the loss returned beside the losses, if it was told to; see `take_aux`.
    """

    loss: Float[Array, ""]
    aux: PyTree = None


def mean_gradient(axis_name: Any = None) -> optax.GradientTransformationExtraArgs:
    """Plain SGD's gradient: of the mean loss over the batch.

    Args:
      axis_name: of the devices, inside `jax.shard_map`; None: there is one.
    """

    def update_fn(
        updates,
        state,
        params=None,
        *,
        loss_fn: Any = None,
        batch: Any = None,
        has_aux: bool = False,
        loss_scale: Any = None,
        **extra_args,
    ):
        del updates, state, extra_args

        def mean_loss(params: PyTree) -> tuple[Array, PyTree]:
            losses, aux = _parts(loss_fn(params, batch), has_aux)
            return _mean_over(axis_name, (_mean(losses), aux))

        return _gradient(mean_loss, params, loss_scale)

    return optax.GradientTransformationExtraArgs(_blank, update_fn)


def highest_loss_gradient(
    k: float, axis_name: Any = None
) -> optax.GradientTransformationExtraArgs:
    """The ablation: K-SAM's examples without K-SAM's climb.

    A forward pass over the batch ranks the examples; the gradient is of the mean loss
    over the fraction `k` with the highest. In units of a forward pass over the batch
    this costs 1 + 3k, against SGD's 3.

    Args:
      k: fraction of the batch.
      axis_name: of the devices, inside `jax.shard_map`, of which each takes the highest of
        its own; None: there is one.
    """

    def update_fn(
        updates,
        state,
        params=None,
        *,
        loss_fn: Any = None,
        batch: Any = None,
        has_aux: bool = False,
        loss_scale: Any = None,
        **extra_args,
    ):
        del updates, state, extra_args
        losses, aux = _parts(loss_fn(params, batch), has_aux)
        count = max(1, round(k * losses.shape[0]))
        _, hardest = jax.lax.top_k(losses, count)
        chosen = jax.tree.map(lambda leaf: leaf[hardest], batch)

        def mean_loss(params: PyTree) -> tuple[Array, PyTree]:
            found, _ = _parts(loss_fn(params, chosen), has_aux)
            return _mean_over(axis_name, (_mean(found), None))

        gradient, _ = _gradient(mean_loss, params, loss_scale)
        loss, aux = _mean_over(axis_name, (_mean(losses), aux))
        return gradient, GradientState(loss.astype(jnp.float32), aux)

    return optax.GradientTransformationExtraArgs(_blank, update_fn)


def _blank(params: PyTree) -> GradientState:
    del params
    return GradientState(jnp.zeros(()))


def _parts(found: Any, has_aux: bool) -> tuple[Array, PyTree]:
    """The losses, and what was returned beside them."""
    return found if has_aux else (found, None)


def _mean(losses: Array) -> Array:
    # In float16 the scale alone may be too large a number to pull back through a mean.
    return jnp.mean(losses.astype(jnp.promote_types(losses.dtype, jnp.float32)))


def _mean_over(axis_name: Any, tree: Any) -> Any:
    # Inside the function that is differentiated: JAX then sums the gradient over the
    # devices, once, since the parameters are the same on all of them.
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def _gradient(mean_loss: Any, params: PyTree, scale: Any) -> tuple[PyTree, GradientState]:
    loss, pull_back, aux = jax.vjp(mean_loss, params, has_aux=True)
    one = jnp.ones_like(loss)
    if scale is None:
        (gradient,) = pull_back(one)
    else:
        # As in `ksam_jax.dynamic_loss_scale`: on the way back alone.
        (scaled,) = pull_back(one * jnp.asarray(scale, loss.dtype))
        gradient = jax.tree.map(lambda g: _divided(g, scale), scaled)
    return gradient, GradientState(loss.astype(jnp.float32), aux)


def _divided(gradient: Array, scale: Any) -> Array:
    wide = jnp.promote_types(gradient.dtype, jnp.float32)
    return (gradient.astype(wide) / jnp.asarray(scale, wide)).astype(gradient.dtype)
