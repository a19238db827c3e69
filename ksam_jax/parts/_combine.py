"""Question 4, what is made of the two gradients: transformations of the descent gradient.

Each is given the descent gradient as `updates` and the gradient that was climbed along as
`ascent_gradient`, and returns at least float32. A gradient that isn't finite leaves the
other, and what is remembered, as they are.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from ..checks import _arguments, _leaves, _values
from ..trees._lengths import all_finite, inner, norm, rounding_of, unit
from ..trees._numbers import ratio, wide_zeros, widen


def subtract_orthogonal(alpha: Any) -> optax.GradientTransformationExtraArgs:
    r"""Subtracts what of the ascent gradient is orthogonal to the descent gradient.

    .. math:: u' = u - \alpha g_\perp, \qquad
      g_\perp = g - \frac{\langle g, u \rangle}{\|u\|^2} u

    with g the ascent gradient: to first order a step along u' lowers the perturbed loss as
    u does, and raises the loss at the weights themselves, so that the gap between the two
    falls, which is the sharpness.

    Args:
      alpha: weight of the gap; a finite number >= 0, may be traced. 0 changes nothing.

    Returns:
      An `optax.GradientTransformationExtraArgs`, for the `combine` of `sharpness_aware`.

    Raises:
      ValueError: if `alpha` is negative or not finite.
      TypeError: if it is not a real number.

    Example:
      >>> import jax.numpy as jnp
      >>> import ksam_jax
      >>> combine = ksam_jax.subtract_orthogonal(alpha=0.5)
      >>> descent, ascent = jnp.array([2.0, 0.0]), jnp.array([1.0, 1.0])
      >>> state = combine.init(descent)
      >>> combine.update(descent, state, ascent_gradient=ascent)[0].tolist()
      [2.0, -0.5]

    Reference:
      Zhuang et al., Surrogate Gap Minimization Improves Sharpness-Aware Training, ICLR
      2022.
    """
    _values.weight("subtract_orthogonal", "alpha", alpha)

    def update_fn(
        updates, state, params=None, *, ascent_gradient: Any = None, **extra_args
    ):
        del extra_args
        descent, ascent = _both("subtract_orthogonal", updates, ascent_gradient)
        rest = _orthogonal(ascent, to=descent, like=params)
        is_usable = all_finite(ascent, like=params)

        def subtract(u, r):
            return jnp.where(is_usable, u - jnp.asarray(alpha, u.dtype) * r, u)

        return jax.tree.map(subtract, descent, rest), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)


class OrthogonalState(NamedTuple):
    """The part of a past descent gradient that was orthogonal to the ascent gradient."""

    part: PyTree


def remember_orthogonal() -> optax.GradientTransformationExtraArgs:
    r"""Remembers what of the descent gradient is orthogonal to the ascent gradient.

    .. math:: u' = u, \qquad v = u - \frac{\langle u, g \rangle}{\|g\|^2} g

    with g the ascent gradient. For steps without a climb, in which `add_orthogonal` stands
    in the same place and shares the memory. A part no longer than the rounding of the two
    gradients becomes zero, since it would be scaled up to a random direction.

    Returns:
      An `optax.GradientTransformationExtraArgs`, for the `combine` of `sharpness_aware`;
      its state holds one number per parameter, in float32 or wider.

    Example:
      >>> import jax.numpy as jnp
      >>> import ksam_jax
      >>> combine = ksam_jax.remember_orthogonal()
      >>> descent, ascent = jnp.array([2.0, 1.0]), jnp.array([1.0, 0.0])
      >>> _, state = combine.update(
      ...     descent, combine.init(descent), ascent_gradient=ascent
      ... )
      >>> state.part.tolist()
      [0.0, 1.0]

    Reference:
      Liu et al., Towards Efficient and Scalable Sharpness-Aware Minimization, CVPR 2022.
    """
    call = "remember_orthogonal"

    def update_fn(
        updates, state, params=None, *, ascent_gradient: Any = None, **extra_args
    ):
        del extra_args
        _arguments.state_of(f"{call}.update", state, OrthogonalState)
        descent, ascent = _both(call, updates, ascent_gradient)
        part = _orthogonal(descent, to=ascent, like=params)
        length = norm(part, like=params)
        noise = jnp.maximum(
            rounding_of(updates, params), rounding_of(ascent_gradient, params)
        )

        is_finite = jnp.isfinite(length) & all_finite(ascent, like=params)

        def keep(new, old):
            new = jnp.where(length <= noise, jnp.zeros_like(new), new)
            return jnp.where(is_finite, new, old)

        return updates, OrthogonalState(jax.tree.map(keep, part, state.part))

    return optax.GradientTransformationExtraArgs(_nothing_yet(call), update_fn)


def add_orthogonal(alpha: Any) -> optax.GradientTransformationExtraArgs:
    r"""Adds what `remember_orthogonal` remembers, in proportion to the gradient's length.

    .. math:: u' = u + \alpha \frac{\|u\|}{\|v\|} v

    Args:
      alpha: length of what is added, as a share of the gradient's; a finite number >= 0,
        may be traced.

    Returns:
      An `optax.GradientTransformationExtraArgs`, for a step without a climb.

    Raises:
      ValueError: if `alpha` is negative or not finite.
      TypeError: if it is not a real number.

    Example:
      >>> import jax.numpy as jnp
      >>> import ksam_jax
      >>> combine = ksam_jax.add_orthogonal(alpha=0.5)
      >>> gradient = jnp.array([2.0, 0.0])
      >>> state = combine.init(gradient)._replace(part=jnp.array([0.0, 4.0]))
      >>> combine.update(gradient, state)[0].tolist()
      [2.0, 1.0]

    Reference:
      Liu et al., Towards Efficient and Scalable Sharpness-Aware Minimization, CVPR 2022.
    """
    call = "add_orthogonal"
    _values.weight(call, "alpha", alpha)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        _arguments.state_of(f"{call}.update", state, OrthogonalState)
        updates = _leaves.floating(call, "updates", updates)
        _leaves.alike(
            f"{call}.update", "updates", updates, state.part, "the params of init"
        )
        gradient = jax.tree.map(widen, updates)
        length = norm(gradient, like=params)
        share = ratio(length, norm(state.part, like=params))
        is_finite = jnp.isfinite(length)

        def add(u, v):
            more = jnp.asarray(alpha, u.dtype) * share.astype(u.dtype) * v
            # A gradient that isn't finite has no length to measure by.
            return jnp.where(is_finite, u + more, u)

        return jax.tree.map(add, gradient, state.part), state

    return optax.GradientTransformationExtraArgs(_nothing_yet(call), update_fn)


def _nothing_yet(call: str) -> Any:
    def init_fn(params):
        params = _leaves.of_init(f"{call}.init", params)
        return OrthogonalState(wide_zeros(params))

    return init_fn


def _both(call: str, updates: PyTree, ascent_gradient: PyTree) -> tuple[PyTree, PyTree]:
    """The two gradients in float32 or wider, if they are alike."""
    call = f"{call}.update"
    if ascent_gradient is None:
        raise ValueError(
            f"{call}(ascent_gradient=None): ascent_gradient is missing; sharpness_aware"
            f"(..., combine={call.removesuffix('.update')}(...)) hands it on, a chain "
            f"behind a method can't."
        )
    updates = _leaves.floating(call, "updates", updates)
    ascent = _leaves.floating(call, "ascent_gradient", ascent_gradient)
    _leaves.alike(call, "ascent_gradient", ascent, updates, "updates")
    descent = jax.tree.map(widen, updates)
    return descent, jax.tree.map(lambda a, d: a.astype(d.dtype), ascent, descent)


def _orthogonal(tree: PyTree, to: PyTree, like: PyTree) -> PyTree:
    """What is left of a tree without its component along another."""
    direction = unit(to, norm(to, like))
    along = inner(direction, tree, like)
    return jax.tree.map(lambda x, t: x - along.astype(x.dtype) * t, tree, direction)
