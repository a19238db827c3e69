"""Question 1 answered without examples: a climb that runs no pass of its own."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Inexact, PyTree

from ..checks import _kinds, _leaves, _values
from ..trees._lengths import all_finite
from ..trees._numbers import wide_zeros


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Ascent:
    r"""A climb whose direction comes from a state instead of a pass over examples.

    .. math:: g_t = \mathrm{direction}(s_{t-1}, w_t), \qquad
      s_t = \mathrm{learn}(s_{t-1}, w_t, u_t)

    with u the descent gradient. What `past_descent` returns, and how to write one's own: a
    random direction, the way from an average of the weights, and so on. A climb that does
    run examples is a `Selection`.

    Trees are like params; where `mask` leaves a parameter out, they have an
    `optax.MaskedNode` in its place, and so must what is returned.

    Args:
      direction: `(state, params) -> tree`: what stands for the ascent gradient, pointing
        where the loss rises; the perturbation scales it. The same on all devices.
      init: `params -> state`, a pytree of arrays.
      learn: `(state, params, descent_gradient) -> state`, called once the step is done
        with the gradient averaged over devices; None: the state stays as it is.
      call: what messages call it; empty for the name of `direction`.

    Raises:
      TypeError: if a function isn't callable, or `call` isn't a string.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import ksam_jax
      >>> def noise(steps, params):
      ...     key = jax.random.fold_in(jax.random.key(0), steps)
      ...     return jax.random.normal(key, params.shape)
      >>> random_direction = ksam_jax.Ascent(
      ...     noise, lambda params: jnp.array(0), lambda steps, params, descent: steps + 1
      ... )
      >>> tx = ksam_jax.sharpness_aware(
      ...     ksam_jax.scale_to_radius(0.05), ascent=random_direction
      ... )

    Reference:
      None; ours.
    """

    direction: Callable[[Any, PyTree], PyTree]
    init: Callable[[PyTree], Any] = lambda params: optax.EmptyState()
    learn: Callable[[Any, PyTree, PyTree], Any] | None = None
    call: str = ""

    def __post_init__(self) -> None:
        for name in ("direction", "init", "learn"):
            value = getattr(self, name)
            if value is not None or name != "learn":
                _kinds.function("Ascent", name, value)
        object.__setattr__(self, "call", _kinds.name("Ascent", self.call, self.direction))

    def __repr__(self) -> str:
        return self.call


class PastDescentState(NamedTuple):
    """The moving average of the descent gradients of the steps before."""

    average: PyTree


def past_descent(decay: Any = 0.0) -> Ascent:
    r"""Climbs along the negative average of past descent gradients: no ascent pass.

    .. math::
      g_t = -m_{t-1}, \qquad m_t = \lambda m_{t-1} + (1 - \lambda) u_t, \qquad m_0 = 0

    with u the descent gradient: g points where the training has been going, past which
    the loss begins to rise. The first step has no past, and no perturbation. A descent
    gradient that is not finite leaves the average untouched.

    Args:
      decay: lambda in [0, 1), may be traced; 0 is the previous gradient alone.

    Returns:
      An `Ascent`, for the `ascent` of `sharpness_aware`.

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
    return along_past("past_descent", decay)


def along_past(call: str, decay: Any) -> Ascent:
    """`past_descent` for the method `call`."""
    _values.decay_rate(call, decay)

    def init(params: PyTree) -> PastDescentState:
        return PastDescentState(wide_zeros(params))

    def backwards(state: PastDescentState, params: PyTree) -> PyTree:
        known = "those that tx.init was given"
        _leaves.alike("tx.update", "params", params, state.average, known)
        return jax.tree.map(jnp.negative, state.average)

    def learn(state: PastDescentState, params: PyTree, descent: PyTree) -> PastDescentState:
        is_finite = all_finite(descent, like=params)

        def average(m: Inexact[Array, "..."], u: Inexact[Array, "..."]) -> Array:
            # In this form decay = 0 gives exactly u.
            kept = jnp.asarray(decay, m.dtype)
            return jnp.where(is_finite, kept * m + (1 - kept) * u.astype(m.dtype), m)

        return PastDescentState(jax.tree.map(average, state.average, descent))

    return Ascent(backwards, init, learn, f"{call}(decay={decay!r})")
