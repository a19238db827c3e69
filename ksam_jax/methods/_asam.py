"""ASAM: SAM in a metric of the weights' own size."""

from typing import Any, Unpack

import optax

from ..checks import _values
from ..parts._examples import everything
from ..parts._radius import scale_to_adaptive_radius
from ..step._method import Method
from ..trees._mask import resolve_mask
from ._common import Common, built, with_common


@with_common(masks=("adaptive_mask",))
def asam(
    rho: Any = 0.5,
    eta: Any = 0.01,
    adaptive_mask: Any = None,
    **common: Unpack[Common],
) -> optax.GradientTransformationExtraArgs:
    r"""ASAM: SAM with the radius measured relative to the size of each weight.

    .. math::
      \epsilon = \rho \, T^2 \nabla L(w) / \|T \nabla L(w)\|_2, \qquad
      T = |w| + \eta, \qquad u = \nabla L(w + \epsilon)

    Twice the cost of SGD.

    Args:
      rho: radius in that metric, about ten times SAM's; a float, a traced scalar or an
        `optax.Schedule`.
      eta: added to the modulus of each weight, so that weights at zero move too.
      adaptive_mask: leaves for which T is used; a pytree of bools or a function of
        params (in which `optax.MaskedNode` stands for parameters that `mask` leaves out).
        None: leaves of two axes or more (T = 1 for biases and norm parameters).
      **common: mask, perturbed_dtype, axis_name, sync_ascent, groups,
        num_microbatches and info, which all methods take: see `Common`.

    Returns:
      An `optax.GradientTransformationExtraArgs`; `update` is described in
      `sharpness_aware`.

    Raises:
      ValueError: if `rho` or `eta` is negative or not finite; if `sync_ascent` is False
        without `axis_name` or `groups`.
      TypeError: if an argument has the wrong type, or a size is traced.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import ksam_jax
      >>> tx = optax.chain(ksam_jax.asam(rho=0.5), optax.sgd(0.1))
      >>> w, batch = jnp.ones(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> updates, opt_state = tx.update(
      ...     None, tx.init(w), w, loss_fn=lambda w, b: (b @ w) ** 2, batch=batch
      ... )
      >>> [round(float(u), 2) for u in updates]
      [-3.26, -4.62]

    Reference:
      Kwon et al., ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant
      Learning of Deep Neural Networks, ICML 2021.
    """
    _values.radius("asam", rho)
    _values.weight("asam", "eta", eta)

    def adaptive(params):
        return resolve_mask("asam", "adaptive_mask", adaptive_mask, params)

    chosen = None if adaptive_mask is None else adaptive
    climb = scale_to_adaptive_radius(rho, eta, chosen)
    return built(Method("asam", everything(), climb, everything()), common)
