"""Question 2, the length of the climb: transformations that scale to a radius.

Each perturbation is an Optax transformation from the ascent gradient to epsilon, the
vector that is added to the weights; `optax.chain` combines them. They return at least
float32 whatever the gradient's dtype, so that rounding happens once, when epsilon is
added. A gradient that is zero or not finite becomes epsilon = 0: the step is then the
plain gradient's.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PyTree

from ..checks import _arguments, _kinds, _leaves, _values
from ..trees._lengths import norm
from ..trees._mask import resolve_mask
from ..trees._numbers import ratio, to_length, widen
from ._counts import StepCount, advance, no_steps


def scale_to_radius(rho: Any) -> optax.GradientTransformation:
    r"""Scales the gradient to Euclidean length `rho`, over all leaves together.

    .. math:: \epsilon = \rho \, g / \|g\|_2

    Args:
      rho: radius of the perturbation in the parameters' units; a float, a traced
        scalar or an `optax.Schedule` of the step.

    Returns:
      An `optax.GradientTransformation`.

    Raises:
      ValueError: if `rho` is negative or not finite.
      TypeError: if `rho` is neither a real number nor a schedule.

    Example:
      >>> import jax.numpy as jnp
      >>> import ksam_jax
      >>> climb = ksam_jax.scale_to_radius(0.5)
      >>> gradient = {"w": jnp.array([3.0, 4.0])}
      >>> epsilon, state = climb.update(gradient, climb.init(gradient))
      >>> [round(float(e), 4) for e in epsilon["w"]]
      [0.3, 0.4]

    Reference:
      Foret et al., Sharpness-Aware Minimization, ICLR 2021, equation 2.
    """
    _values.radius("scale_to_radius", rho)

    def update_fn(updates, state, params=None):
        updates = widened("scale_to_radius.update", updates, state, StepCount)
        length = norm(updates, like=params)
        return to_length(updates, length, _value(rho, state)), advance(state)

    return optax.GradientTransformation(no_steps, update_fn)


def scale_to_adaptive_radius(
    rho: Any, eta: Any = 0.01, mask: Any = None
) -> optax.GradientTransformation:
    r"""Scales the gradient to length `rho` in the metric of the weights' own size.

    .. math:: \epsilon = \rho \, T^2 g / \|T g\|_2, \qquad T = |w| + \eta

    so that rescaling a layer doesn't change which neighbours count as near.

    Args:
      rho: radius; a float, a traced scalar or an `optax.Schedule` of the step.
      eta: added to the modulus of each weight, so that weights at zero move too.
      mask: which leaves are measured by their size: a pytree of bools or a function
        of the parameters. `None`: leaves of two axes or more, so that T = 1 for biases
        and norm parameters.

    Returns:
      An `optax.GradientTransformation` whose `update` needs `params`.

    Raises:
      ValueError: if `rho` or `eta` is negative or not finite, if `params` is missing, or
        if `mask` doesn't fit them.
      TypeError: if an argument has the wrong type.

    Example:
      >>> import jax.numpy as jnp
      >>> import ksam_jax
      >>> climb = ksam_jax.scale_to_adaptive_radius(1.0, eta=0.0)
      >>> weights = {"w": jnp.array([[2.0, 0.0]])}
      >>> gradient = {"w": jnp.array([[1.0, 1.0]])}
      >>> epsilon, _ = climb.update(gradient, climb.init(weights), weights)
      >>> epsilon["w"].tolist()
      [[2.0, 0.0]]

    Reference:
      Kwon et al., ASAM, ICML 2021, equation 6, and the authors' code for `eta`.
    """
    _values.radius("scale_to_adaptive_radius", rho)
    _values.weight("scale_to_adaptive_radius", "eta", eta)

    def update_fn(updates, state, params=None):
        if params is None:
            raise ValueError(
                "scale_to_adaptive_radius.update(params=None): the radius is measured by "
                "the weights; call update(gradient, state, params)."
            )
        call = "scale_to_adaptive_radius.update"
        params = _leaves.floating(call, "params", params)
        updates = widened(call, updates, state, StepCount)
        _leaves.alike(call, "updates", updates, params, "params")
        flags = adaptive_leaves("scale_to_adaptive_radius", "mask", mask, params)
        sizes = adaptive_sizes(params, flags, eta)
        return uphill(updates, sizes, _value(rho, state), params), advance(state)

    return optax.GradientTransformation(no_steps, update_fn)


def scale_to_budget(sigma: Any, max_rho: Any = None) -> optax.GradientTransformation:
    r"""Scales the gradient to the length at which the loss rises by `sigma`, linearized.

    .. math:: \epsilon = \rho \, g / \|g\|_2, \qquad
      \rho = \min(\sigma / \|g\|_2, \rho_{\max})

    Args:
      sigma: rise of the loss, in its units; a float, a traced scalar or an
        `optax.Schedule` of the step.
      max_rho: longest perturbation, which holds where the gradient is small; a number >= 0,
        may be traced; None for none.

    Returns:
      An `optax.GradientTransformation`.

    Raises:
      ValueError: if `sigma` or `max_rho` is negative or not finite.
      TypeError: if one of them has the wrong type.

    Example:
      >>> import jax.numpy as jnp
      >>> import ksam_jax
      >>> climb = ksam_jax.scale_to_budget(sigma=1.0)
      >>> gradient = jnp.array([3.0, 4.0])
      >>> epsilon, _ = climb.update(gradient, climb.init(gradient))
      >>> [round(float(e), 3) for e in epsilon]
      [0.12, 0.16]

    Reference:
      Wang et al., Fix the Loss, Not the Radius: Rethinking the Adversarial Perturbation of
      Sharpness-Aware Minimization, ICML 2026.
    """
    call = "scale_to_budget"
    _values.radius(call, sigma, name="sigma")
    if max_rho is not None:
        _values.weight(call, "max_rho", max_rho)

    def update_fn(updates, state, params=None):
        updates = widened(f"{call}.update", updates, state, StepCount)
        length = norm(updates, like=params)
        budget = jnp.asarray(_value(sigma, state, "sigma"), length.dtype)
        rho = ratio(budget, length)
        if max_rho is not None:
            rho = jnp.minimum(rho, jnp.asarray(max_rho, length.dtype))
        return to_length(updates, length, rho), advance(state)

    return optax.GradientTransformation(no_steps, update_fn)


def _value(rho: Any, state: StepCount, name: str = "rho") -> Any:
    return radius_at(rho, state.steps, name) if callable(rho) else rho


def radius_at(rho: Any, step: Int[Array, ""], name: str = "rho") -> Any:
    """The radius that a schedule gives for a step."""
    value = _kinds.called("tx.update", name, rho, "the number of a step", step)
    dtype = _leaves.dtype_of(value)
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    is_real = any(jnp.issubdtype(dtype, kind) for kind in kinds)
    if np.shape(value) or not is_real:
        raise ValueError(
            f"tx.update({name}={rho!r}): {name} must be a schedule that returns one real "
            f"number for a step; got {value!r}."
        )
    return value


def widened(call: str, updates: PyTree, state: Any, kind: type) -> PyTree:
    """What a perturbation is given, in float32 or wider, if it and the state can serve."""
    _arguments.state_of(call, state, kind)
    return jax.tree.map(widen, _leaves.floating(call, "updates", updates))


def uphill(gradient: PyTree, sizes: PyTree, rho: Any, like: PyTree = None) -> PyTree:
    """The step of length `rho` in the metric of `sizes` T: `rho T^2 g / |T g|`."""
    sizes = jax.tree.map(lambda t, g: t.astype(g.dtype), sizes, gradient)
    once = jax.tree.map(jnp.multiply, sizes, gradient)
    # In this order: T^2 g may be too small a number where the step isn't.
    return jax.tree.map(jnp.multiply, sizes, to_length(once, norm(once, like), rho))


def adaptive_sizes(params: PyTree, flags: PyTree, eta: Any) -> PyTree:
    """T: `|w| + eta` for the leaves that are flagged, 1 for the others."""

    def size(weight: Array, is_adaptive: bool) -> Array:
        modulus = jnp.abs(widen(weight))
        if not is_adaptive:
            return jnp.ones((), modulus.dtype)
        return modulus + jnp.asarray(eta, modulus.dtype)

    return jax.tree.map(size, params, flags)


def adaptive_leaves(call: str, name: str, mask: Any, params: PyTree) -> PyTree:
    """Which leaves are measured by their size: those of two axes or more, or the mask."""
    if mask is None:
        return jax.tree.map(lambda p: p.ndim > 1, params)
    return resolve_mask(call, name, mask, params)
