"""Question 2, the direction of the climb: transformations that change where it points.

Chained in front of (or behind) a radius of `_radius`. They return at least
float32, as those do.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, PyTree

from ..checks import _kinds, _leaves, _values
from ..checks._spread import whole_weights
from ..trees._lengths import all_finite, norm, rounding_of
from ..trees._numbers import wide_zeros
from ._bits import draw_coordinates
from ._counts import StepCount, advance, no_steps, step_key
from ._radius import widened


class EmaState(NamedTuple):
    """The moving average of past gradients, and how many of them entered it."""

    steps: Int[Array, ""]
    ema: PyTree


def subtract_ema(sigma: Any = 1.0, decay: Any = 0.9) -> optax.GradientTransformation:
    r"""Removes from the gradient what it shares with its own past.

    .. math::
      d_t = g_t - \sigma m_{t-1}, \qquad
      m_t = m_{t-1} + (1 - \lambda)(g_t - m_{t-1}), \qquad
      d_0 = g_0, \; m_0 = g_0

    A gradient that is not finite leaves the average untouched. A difference no larger
    than rounding becomes zero, since a radius would blow it up to a random direction.

    Args:
      sigma: how much of the average is removed.
      decay: lambda, the share of the average that stays from one step to the next.

    Returns:
      An `optax.GradientTransformation`; its state holds one average per parameter, in
      float32 or wider.

    Raises:
      ValueError: if `sigma` is not finite or `decay` is outside [0, 1).
      TypeError: if one of them is not a real number.

    Example:
      >>> import jax.numpy as jnp
      >>> import ksam_jax
      >>> friendly = ksam_jax.subtract_ema(sigma=1.0, decay=0.5)
      >>> state = friendly.init(jnp.zeros(2))
      >>> first, state = friendly.update(jnp.array([1.0, 1.0]), state)
      >>> second, state = friendly.update(jnp.array([1.0, 3.0]), state)
      >>> first.tolist(), second.tolist(), state.ema.tolist()
      ([1.0, 1.0], [0.0, 2.0], [1.0, 2.0])

    Reference:
      Li et al., Friendly Sharpness-Aware Minimization, CVPR 2024; the recurrence is that
      of the authors' code, which subtracts the average of the steps before this one.
    """
    _values.ema("subtract_ema", sigma, decay)

    def init_fn(params):
        params = _leaves.of_init("subtract_ema.init", params)
        return _empty(params)

    def update_fn(updates, state, params=None):
        call = "subtract_ema.update"
        given, updates = updates, widened(call, updates, state, EmaState)
        _leaves.alike(call, "updates", updates, state.ema, "the params of init")
        rounding = rounding_of(given, like=params)
        is_first = state.steps == 0
        rest = jax.tree.map(
            lambda g, m: jnp.where(is_first, g, g - jnp.asarray(sigma, g.dtype) * m),
            updates,
            state.ema,
        )
        length, left = norm(updates, like=params), norm(rest, like=params)
        is_noise = left <= rounding
        rest = jax.tree.map(lambda d: jnp.where(is_noise, jnp.zeros_like(d), d), rest)
        # No length is negative. But so the average waits until it isn't needed as it was,
        # and XLA needs no copy of it.
        is_finite = jnp.isfinite(length) & ~(left < 0)
        return rest, _averaged(updates, state, 1.0 - decay, is_finite)

    return optax.GradientTransformation(init_fn, update_fn)


def follow_ema(theta: Any = 0.9) -> optax.GradientTransformation:
    r"""Replaces the gradient by its moving average, which varies less.

    .. math::
      d_t = d_{t-1} + \theta (g_t - d_{t-1}), \qquad d_0 = g_0

    A gradient that is not finite leaves the average untouched, and is passed on as it is:
    a radius makes no climb of it.

    Args:
      theta: share of the new gradient in the average, in (0, 1]; 1 is the gradient itself.

    Returns:
      An `optax.GradientTransformation`; its state holds one average per parameter, in
      float32 or wider.

    Raises:
      ValueError: if `theta` is outside (0, 1].
      TypeError: if it is not a real number.

    Example:
      >>> import jax.numpy as jnp
      >>> import ksam_jax
      >>> steady = ksam_jax.follow_ema(theta=0.5)
      >>> state = steady.init(jnp.zeros(2))
      >>> first, state = steady.update(jnp.array([1.0, 1.0]), state)
      >>> second, state = steady.update(jnp.array([1.0, 3.0]), state)
      >>> first.tolist(), second.tolist()
      ([1.0, 1.0], [1.0, 2.0])

    Reference:
      Li and Giannakis, Enhancing Sharpness-Aware Optimization Through Variance
      Suppression, NeurIPS 2023; the average starts as in the authors' code.
    """
    _values.share("follow_ema", "theta", theta)

    def init_fn(params):
        params = _leaves.of_init("follow_ema.init", params)
        return _empty(params)

    def update_fn(updates, state, params=None):
        call = "follow_ema.update"
        updates = widened(call, updates, state, EmaState)
        _leaves.alike(call, "updates", updates, state.ema, "the params of init")
        is_finite = all_finite(updates, like=params)
        state = _averaged(updates, state, 1.0 * theta, is_finite)
        average = jax.tree.map(lambda g, m: jnp.where(is_finite, m, g), updates, state.ema)
        return average, state

    return optax.GradientTransformation(init_fn, update_fn)


def _empty(params: PyTree) -> EmaState:
    return EmaState(jnp.zeros((), jnp.int32), wide_zeros(params))


def _averaged(
    updates: PyTree, state: EmaState, share: Any, is_finite: Bool[Array, ""]
) -> EmaState:
    """The average with a new gradient in it, if that is finite; at first it is that."""

    def average(g, m):
        # In this form g = m gives exactly m: a constant gradient is a fixed point.
        step = jnp.where(state.steps == 0, 1.0, share).astype(g.dtype)
        return jnp.where(is_finite, m + step * (g - m), m)

    steps = jnp.where(is_finite, optax.safe_increment(state.steps), state.steps)
    return EmaState(steps, jax.tree.map(average, updates, state.ema))


def random_mask(
    beta: Any, seed: Any = 0, per: str = "coordinate"
) -> optax.GradientTransformation:
    r"""Keeps each coordinate with probability `beta`, divided by `beta`.

    .. math:: \epsilon_i = b_i g_i / \beta, \qquad b_i \sim \mathrm{Bernoulli}(\beta)

    which leaves the expectation as it was (to within the rounding of beta) and lengthens
    the vector by about 1/sqrt(beta).

    Args:
      beta: probability of keeping, in (0, 1]; drawn per coordinate to within 2**-17, and
        at least 2**-16.
      seed: integer, may be traced; the same seed draws the same masks, step by step.
      per: "coordinate" draws for every coordinate, "tensor" once for each leaf.

    Returns:
      An `optax.GradientTransformation`.

    Raises:
      ValueError: if `beta` is outside (0, 1] or `per` is another word.
      TypeError: if `beta` is not a real number or `seed` not an integer.

    Example:
      >>> import jax.numpy as jnp
      >>> import ksam_jax
      >>> drop = ksam_jax.random_mask(beta=0.5, seed=1)
      >>> masked, _ = drop.update(jnp.ones(1000), drop.init(jnp.ones(1000)))
      >>> sorted(set(masked.tolist()))
      [0.0, 2.0]

    Reference:
      Du et al., Efficient Sharpness-Aware Minimization, ICLR 2022, stochastic weight
      perturbation; one draw per tensor is what the authors' code does.
    """
    _values.share("random_mask", "beta", beta)
    _values.seed("random_mask", seed)
    _kinds.one_of("random_mask", "per", per, ("coordinate", "tensor"))

    def update_fn(updates, state, params=None):
        drawn = "each device would draw the mask of its part alone"
        other = ", or use a method without random_mask (esam has it)"
        whole_weights("random_mask", params, drawn, instead=other)
        updates = widened("random_mask.update", updates, state, StepCount)
        leaves, treedef = jax.tree.flatten(updates)
        kept = _drawn(step_key(seed, state), beta, per, [g.shape for g in leaves])
        masked = [_lengthened(g, keep, beta) for g, keep in zip(leaves, kept, strict=True)]
        return treedef.unflatten(masked), advance(state)

    return optax.GradientTransformation(no_steps, update_fn)


def _drawn(
    key: Any, beta: Any, per: str, shapes: list[tuple[int, ...]]
) -> list[Bool[Array, "..."]]:
    """Of each leaf what is kept: of all coordinates, or of the leaf."""
    # As a float, since bernoulli refuses the integer in `beta=1`.
    probability = jnp.asarray(beta, jnp.float32)
    if per == "coordinate":
        return draw_coordinates(key, probability, shapes)
    return list(jax.random.bernoulli(key, probability, (len(shapes),)))


def _lengthened(g: Array, kept: Bool[Array, "..."], beta: Any) -> Array:
    """What is kept, by beta, and zeros."""
    # As many bits as there are coordinates, and sharded as they are.
    kept = kept | jnp.zeros_like(g, bool)
    return jnp.where(kept, g / jnp.asarray(beta, g.dtype), jnp.zeros_like(g))
