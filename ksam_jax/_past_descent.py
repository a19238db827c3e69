"""Question 1 answered with "none": a climb along the steps already taken."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, PyTree

from . import _checks
from ._tree import norm, wide_zeros


class PastDescent(NamedTuple):
    """A climb that needs no gradient of its own; made by `past_descent`."""

    call: str
    decay: Any


class PastDescentState(NamedTuple):
    """The moving average of the descent gradients of the steps before."""

    average: PyTree


def past_descent(decay: Any = 0.0) -> PastDescent:
    r"""Climbs along the negative average of past descent gradients: no ascent pass.

    .. math::
      g_t = -m_{t-1}, \qquad m_t = \lambda m_{t-1} + (1 - \lambda) u_t, \qquad m_0 = 0

    with u the descent gradient: g points where the training has been going, past which
    the loss begins to rise. The first step has no past, and no perturbation. A descent
    gradient that is not finite leaves the average untouched.

    Args:
      decay: lambda in [0, 1), may be traced; 0 is the previous gradient alone.

    Returns:
      For the `ascent` of `sharpness_aware`.

    Raises:
      ValueError: if `decay` is outside [0, 1).
      TypeError: if `decay` is not a real number.

    Example:
      >>> import ksam_jax
      >>> tx = ksam_jax.sharpness_aware(
      ...     ksam_jax.scale_to_radius(0.3),
      ...     ascent=ksam_jax.past_descent(decay=0.9),
      ...     descent=ksam_jax.highest_loss(0.25),
      ... )

    Reference:
      Becker et al., Momentum-SAM, 2024. With the momentum of the optimizer as `decay`
      the average points as its momentum buffer does.
    """
    _checks.decay_rate("past_descent", decay)
    return PastDescent(f"past_descent(decay={decay!r})", decay)


def no_past(params: PyTree) -> PastDescentState:
    """The state before the first step, in float32 or wider."""
    return PastDescentState(wide_zeros(params))


def backwards(state: PastDescentState) -> PyTree:
    """What stands for the ascent gradient: the average of past ones, turned around."""
    return jax.tree.map(jnp.negative, state.average)


def average_in(
    past: PastDescent, state: PastDescentState, descent: PyTree
) -> PastDescentState:
    """The state after a step whose descent gradient was `descent`."""
    is_finite = jnp.isfinite(norm(descent))

    def average(m: Inexact[Array, "..."], u: Inexact[Array, "..."]) -> Array:
        # In this form decay = 0 gives exactly u.
        decay = jnp.asarray(past.decay, m.dtype)
        return jnp.where(is_finite, decay * m + (1 - decay) * u.astype(m.dtype), m)

    return PastDescentState(jax.tree.map(average, state.average, descent))
