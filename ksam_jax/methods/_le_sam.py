"""LE-SAM: a fixed rise of the loss instead of a fixed radius."""

from typing import Any, Unpack

import optax

from ..checks import _values
from ..parts._examples import everything
from ..parts._radius import scale_to_budget
from ..step._method import Method
from ._common import Common, built, with_common


@with_common
def le_sam(
    sigma: Any = 0.35, max_rho: Any = 0.3, **common: Unpack[Common]
) -> optax.GradientTransformationExtraArgs:
    r"""LE-SAM: SAM at the radius where the linearized loss has risen by a budget.

    .. math::
      \epsilon = \rho \, g / \|g\|_2, \qquad
      \rho = \min(\sigma / \|g\|_2, \rho_{\max}), \qquad
      u = \nabla L(w + \epsilon)

    with g the gradient at w: where it is small the climb is long. Twice the cost of SGD.

    Args:
      sigma: budget, in units of the loss; a float, a traced scalar or an
        `optax.Schedule`. The authors let it rise from 0 in the first 10 of 200 epochs and
        fall to 0, as a cosine, in the last 40.
      max_rho: longest climb; None for none.
      **common: mask, perturbed_dtype, axis_name, sync_ascent, groups,
        num_microbatches and info, which all methods take: see `Common`.

    Returns:
      An `optax.GradientTransformationExtraArgs`; `update` is described in
      `sharpness_aware`.

    Raises:
      ValueError: if `sigma` or `max_rho` is negative or not finite; if `sync_ascent` is
        False without `axis_name` or `groups`.
      TypeError: if an argument has the wrong type, or a size is traced.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> tx = optax.chain(ksam_jax.le_sam(sigma=1.0), optax.sgd(0.1))
      >>> w, batch = jnp.ones(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> updates, opt_state = tx.update(
      ...     None, tx.init(w), w, loss_fn=lambda w, b: (b @ w) ** 2, batch=batch
      ... )
      >>> [round(float(u), 2) for u in updates]
      [-2.44, -3.46]

    Reference:
      Wang et al., Fix the Loss, Not the Radius: Rethinking the Adversarial Perturbation of
      Sharpness-Aware Minimization, ICML 2026, arXiv 2605.10183; the defaults are those of
      the authors' training script (their README's command sets max_rho to 999: none).
    """
    _values.radius("le_sam", sigma, name="sigma")
    if max_rho is not None:
        _values.weight("le_sam", "max_rho", max_rho)
    climb = scale_to_budget(sigma, max_rho)
    return built(Method("le_sam", everything(), climb, everything()), common)
