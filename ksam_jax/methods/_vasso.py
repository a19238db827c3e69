"""VaSSO: the climb follows an average of the ascent gradients."""

from typing import Any, Unpack

import optax

from ..checks import _values
from ..parts._direction import follow_ema
from ..parts._examples import everything
from ..parts._radius import scale_to_radius
from ..step._method import Method
from ._common import REMEMBERS, Common, built, with_common


@with_common
def vasso(
    rho: Any = 0.05, theta: Any = 0.9, **common: Unpack[Common]
) -> optax.GradientTransformationExtraArgs:
    r"""VaSSO: SAM whose climb follows a moving average of the ascent gradients.

    .. math::
      \epsilon = \rho \, d_t / \|d_t\|_2, \qquad
      d_t = (1 - \theta) d_{t-1} + \theta g_t, \qquad d_0 = g_0, \qquad
      u = \nabla L(w + \epsilon)

    with g the gradient over the batch at w: a climb that varies less from batch to batch.
    Twice the cost of SGD.

    Args:
      rho: radius in the parameters' units; a float, a traced scalar or an
        `optax.Schedule`.
      theta: share of the new gradient in the average, in (0, 1]; 1 is SAM. The
        authors' code has 0.9 everywhere (and rho 0.2 for WRN-28-10 on CIFAR-100).
      **common: mask, perturbed_dtype, axis_name, sync_ascent, groups,
        num_microbatches and info, which all methods take: see `Common`.

    Returns:
      An `optax.GradientTransformationExtraArgs`; `update` is described in
      `sharpness_aware`.

    Raises:
      ValueError: if `rho` or `theta` is out of range, or `sync_ascent` is False.
      TypeError: if an argument has the wrong type, or a size is traced.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> tx = optax.chain(ksam_jax.vasso(rho=0.05), optax.sgd(0.1))
      >>> w, batch = jnp.ones(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> updates, opt_state = tx.update(
      ...     None, tx.init(w), w, loss_fn=lambda w, b: (b @ w) ** 2, batch=batch
      ... )
      >>> [round(float(u), 2) for u in updates]
      [-2.49, -3.52]

    Reference:
      Li and Giannakis, Enhancing Sharpness-Aware Optimization Through Variance
      Suppression, NeurIPS 2023, with the first average of the authors' code.
    """
    _values.radius("vasso", rho)
    _values.share("vasso", "theta", theta)
    climb = optax.chain(follow_ema(theta), scale_to_radius(rho))
    method = Method("vasso", everything(), climb, everything())
    return built(method, common, needs_sync=REMEMBERS)
