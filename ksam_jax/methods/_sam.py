"""SAM: the whole batch climbs, the whole batch descends."""

from typing import Any, Unpack

import optax

from ..checks import _values
from ..parts._examples import everything
from ..parts._radius import scale_to_radius
from ..step._method import Method
from ._common import Common, built, with_common


@with_common
def sam(
    rho: Any = 0.05,
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    r"""SAM: climbs along the gradient to radius rho, descends with the gradient there.

    .. math::
      \epsilon = \rho \, \nabla L(w) / \|\nabla L(w)\|_2, \qquad
      u = \nabla L(w + \epsilon)

    Twice the cost of SGD.

    Args:
      rho: radius in the parameters' units; a float, a traced scalar or an
        `optax.Schedule`.
      **common: mask, perturbed_dtype, axis_name, sync_ascent, groups,
        num_microbatches and info, which all methods take: see `Common`.

    Returns:
      An `optax.GradientTransformationExtraArgs`; `update` is described in
      `sharpness_aware`.

    Raises:
      ValueError: if `rho` is negative or not finite; if `sync_ascent` is False without
        `axis_name` or `groups`.
      TypeError: if an argument has the wrong type, or a size is traced.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> tx = optax.chain(ksam_jax.sam(rho=0.05), optax.sgd(0.1))
      >>> w, batch = jnp.ones(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> updates, opt_state = tx.update(
      ...     None, tx.init(w), w, loss_fn=lambda w, b: (b @ w) ** 2, batch=batch
      ... )
      >>> [round(float(u), 2) for u in updates]
      [-2.49, -3.52]

    Reference:
      Foret et al., Sharpness-Aware Minimization for Efficiently Improving
      Generalization, ICLR 2021.
    """
    _values.radius("sam", rho)
    return built(Method("sam", everything(), scale_to_radius(rho), everything()), common)
