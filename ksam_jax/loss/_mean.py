"""The mean loss over a batch, as a function of the parameters to search along."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..devices._axis import Axis
from ..trees._lengths import inner
from ..trees._numbers import widen
from ._forward import Loss, forward, weighted
from ._rows import equal_weights


def mean_loss(
    loss: Loss, batch: PyTree, axis: Axis, dtype: Any
) -> Callable[[PyTree], Float[Array, ""]]:
    """`params -> ` the mean over the examples of all devices, the same on each of them.

    So are its derivatives. JAX's own would be those of a device's examples alone, or their
    sum, by whether types tell what differs: so they are averaged here as the value is. In
    microbatches they are taken part by part.
    """

    def value(params: PyTree) -> Float[Array, ""]:
        losses, _ = forward(loss, params, batch)
        return axis.average(jnp.mean(widen(losses))).astype(dtype)

    if axis.size == 1 and loss.num_microbatches == 1:
        return value
    averaged = jax.custom_jvp(value)

    @averaged.defjvp
    def _(
        primals: tuple[PyTree], tangents: tuple[PyTree]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        (params,), (tangent,) = primals, tangents
        each = equal_weights(jax.tree.leaves(batch)[0].shape[0])
        losses, _, gradient = weighted(loss, axis.varying(params), batch, each)
        mine = jnp.mean(widen(losses))
        gradient, found = axis.mean(gradient, params, mine)
        # How fast the loss rises along the tangent; the gradient points uphill.
        rise = inner(gradient, tangent, like=params)
        return found.astype(dtype), rise.astype(dtype)

    return averaged
