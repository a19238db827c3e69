"""GSAM: the step also closes the gap between the perturbed loss and the loss."""

from typing import Any, Unpack

import optax

from ..checks import _values
from ..parts._combine import subtract_orthogonal
from ..parts._examples import everything
from ..parts._radius import scale_to_radius
from ..step._method import Method
from ._common import COMPARES, Common, built, with_common


@with_common
def gsam(
    rho: Any = 0.05, alpha: Any = 0.4, **common: Unpack[Common]
) -> optax.GradientTransformationExtraArgs:
    r"""GSAM: SAM whose step also lowers the gap between the perturbed loss and the loss.

    .. math::
      \epsilon = \rho \, g / \|g\|_2, \qquad
      h = \nabla L(w + \epsilon), \qquad
      u = h - \alpha \left( g - \frac{\langle g, h \rangle}{\|h\|^2} h \right)

    with g the gradient at w. Twice the cost of SGD.

    Args:
      rho: radius in the parameters' units; a float, a traced scalar or an
        `optax.Schedule`. The paper lets it fall with the learning rate.
      alpha: weight of the gap; 0 is SAM.
      **common: mask, axis_name, groups and others that all methods take: see `Common`.

    Returns:
      An `optax.GradientTransformationExtraArgs`; `update` is described in
      `sharpness_aware`.

    Raises:
      ValueError: if `rho` or `alpha` is negative or not finite, or `sync_ascent` is False.
      TypeError: if an argument has the wrong type, or a size is traced.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> tx = optax.chain(ksam_jax.gsam(rho=0.05, alpha=0.4), optax.sgd(0.1))
      >>> w, batch = jnp.ones(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> updates, opt_state = tx.update(
      ...     None, tx.init(w), w, loss_fn=lambda w, b: (b @ w) ** 2, batch=batch
      ... )
      >>> [round(float(u), 2) for u in updates]
      [-2.49, -3.52]

    Reference:
      Zhuang et al., Surrogate Gap Minimization Improves Sharpness-Aware Training, ICLR
      2022.
    """
    _values.radius("gsam", rho)
    _values.weight("gsam", "alpha", alpha)
    everyone, combine = everything(), subtract_orthogonal(alpha)
    method = Method("gsam", everyone, scale_to_radius(rho), everything(), combine)
    return built(method, common, needs_sync=COMPARES)
