"""F-SAM: the climb leaves out what the gradient shares with its past."""

from typing import Any, Unpack

import optax

from ..checks import _values
from ..parts._direction import subtract_ema
from ..parts._examples import everything
from ..parts._radius import scale_to_radius
from ..step._method import Method
from ._common import REMEMBERS, Common, built, with_common


@with_common
def f_sam(
    rho: Any = 0.2,
    sigma: Any = 1.0,
    decay: Any = 0.9,
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    r"""F-SAM: SAM whose climb leaves out what the gradient shares with its past.

    .. math::
      \epsilon = \rho \, d_t / \|d_t\|_2, \qquad d_t = g_t - \sigma m_{t-1}, \qquad
      m_t = \lambda m_{t-1} + (1 - \lambda) g_t, \qquad u = \nabla L(w + \epsilon)

    with g the gradient over the batch; m starts as the first gradient, whose step is
    SAM's. Twice the cost of SGD.

    Args:
      rho: radius in the parameters' units; a float, a traced scalar or an
        `optax.Schedule`.
      sigma: how much of the average is removed; 0 is SAM.
      decay: lambda, in [0, 1).
      **common: mask, perturbed_dtype, axis_name, sync_ascent, groups,
        num_microbatches and info, which all methods take: see `Common`.

    Returns:
      An `optax.GradientTransformationExtraArgs`; `update` is described in
      `sharpness_aware`.

    Raises:
      ValueError: if `rho`, `sigma` or `decay` is out of range, or `sync_ascent` is False.
      TypeError: if an argument has the wrong type, or a size is traced.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> tx = optax.chain(ksam_jax.f_sam(rho=0.2), optax.sgd(0.1))
      >>> w, batch = jnp.ones(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> updates, opt_state = tx.update(
      ...     None, tx.init(w), w, loss_fn=lambda w, b: (b @ w) ** 2, batch=batch
      ... )
      >>> [round(float(u), 2) for u in updates]
      [-2.74, -3.89]

    Reference:
      Li et al., Friendly Sharpness-Aware Minimization, CVPR 2024, with the recurrence of
      the authors' code.
    """
    _values.radius("f_sam", rho)
    _values.ema("f_sam", sigma, decay)
    climb = optax.chain(subtract_ema(sigma, decay), scale_to_radius(rho))
    method = Method("f_sam", everything(), climb, everything())
    return built(method, common, needs_sync=REMEMBERS)
